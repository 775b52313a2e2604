// Rotary positions.
#include <cmath>

#include "core/ops_common.h"

namespace filigree::ops {

Var rope(const Var& x, double theta, std::int64_t n0) {
  require(x.rank() == 4 && x.dim(3) % 2 == 0, "[rope] x {} is not [B, N, H, D] with an even D",
          x.shape().str());
  require_computing("rope", x.value());
  require(theta > 0 && std::isfinite(theta), "[rope] theta {} is not a positive number", theta);
  const auto rotated = [theta, n0](const Tensor& t, bool inverse) {
    Tensor y = Tensor::empty_like(t);
    on_device(t.device(), [&](auto context) { rope(context, t, t.dim(2), theta, n0, inverse, y); });
    return y;
  };
  // A rotation is orthogonal: the gradient is turned back.
  return make_result("rope", rotated(x.value(), false), {x},
                     [rotated](const Tensor& dy) { return std::vector<Tensor>{rotated(dy, true)}; });
}

}  // namespace filigree::ops
