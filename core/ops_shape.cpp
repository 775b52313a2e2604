// Ops that move elements.
#include <fmt/ranges.h>

#include <numeric>

#include "core/ops_common.h"

namespace filigree::ops {
namespace {

void copy_part(const Tensor& x, std::int64_t from, std::int64_t n, std::int64_t to, Tensor& y) {
  on_device(x.device(), [&](auto context) { copy_columns(context, x, from, n, to, y); });
}

// Columns [from, from + n) of x.
Tensor columns(const Tensor& x, std::int64_t from, std::int64_t n) {
  Tensor y = Tensor::empty(x.shape().with(-1, n), x.dtype(), x.device());
  copy_part(x, from, n, 0, y);
  return y;
}

Tensor permuted(const Tensor& x, std::span<const int> order) {
  Shape shape = x.shape();
  for (int i = 0; i < x.rank(); ++i) shape = shape.with(i, x.dim(order[i]));
  return computed(shape, x, [&](auto context, Tensor& y) { permute(context, x, order, y); });
}

}  // namespace

Var reshape(const Var& x, const Shape& shape) {
  return make_result("reshape", x.value().reshape(shape), {x}, [before = x.shape()](const Tensor& dy) {
    return std::vector<Tensor>{dy.reshape(before)};
  });
}

Var slice(const Var& x, std::int64_t begin, std::int64_t end) {
  const Tensor y = x.value().slice(begin, end);
  if (begin == 0 && end == x.dim(0)) return x;
  return make_result("slice", y, {x}, [begin, end, shape = x.shape()](const Tensor& dy) {
    Tensor dx = Tensor::zeros(shape, dy.dtype(), dy.device());
    dx.slice(begin, end).copy_from(dy);
    return std::vector<Tensor>{dx};
  });
}

std::vector<Var> split_last(const Var& x, std::span<const std::int64_t> sizes) {
  require_computing("split_last", x.value());
  bool fits = x.rank() >= 1 && !sizes.empty();
  for (const auto size : sizes) fits = fits && size >= 0;
  require(fits && std::reduce(sizes.begin(), sizes.end()) == x.dim(-1), "[split_last] sizes {} for {}",
          fmt::join(sizes, " + "), x.shape().str());
  std::vector<Tensor> values;
  std::int64_t from = 0;
  for (const auto size : sizes) {
    values.push_back(columns(x.value(), from, size));
    from += size;
  }
  return make_results(
      "split_last", std::move(values), {x},
      [shape = x.shape(), type = x.dtype(), device = x.device(),
       kept = std::vector(sizes.begin(), sizes.end())](std::span<const Tensor> grads) {
        const bool all = std::ranges::all_of(grads, [](const Tensor& g) { return g.defined(); });
        Tensor dx = all ? Tensor::empty(shape, type, device) : Tensor::zeros(shape, type, device);
        std::int64_t to = 0;
        for (std::size_t i = 0; i < grads.size(); ++i) {
          if (grads[i].defined()) copy_part(grads[i], 0, kept[i], to, dx);
          to += kept[i];
        }
        return std::vector<Tensor>{dx};
      });
}

Var concat_last(std::span<const Var> parts) {
  require(!parts.empty() && parts[0].rank() >= 1, "[concat_last] of nothing");
  std::vector<std::int64_t> sizes;
  std::vector<bool> wanted;
  std::int64_t width = 0;
  for (const auto& part : parts) {
    require_same_kind("concat_last", parts[0].value(), part.value());
    require(part.rank() >= 1 && part.shape().drop_last() == parts[0].shape().drop_last(),
            "[concat_last] {} with {}", parts[0].shape().str(), part.shape().str());
    sizes.push_back(part.dim(-1));
    wanted.push_back(part.requires_grad());
    width += part.dim(-1);
  }
  Tensor y = Tensor::empty(parts[0].shape().with(-1, width), parts[0].dtype(), parts[0].device());
  std::int64_t to = 0;
  for (const auto& part : parts) {
    copy_part(part.value(), 0, part.dim(-1), to, y);
    to += part.dim(-1);
  }
  return make_result("concat_last", y, {parts.begin(), parts.end()}, [sizes, wanted](const Tensor& dy) {
    std::vector<Tensor> grads(sizes.size());
    std::int64_t from = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      if (wanted[i]) grads[i] = columns(dy, from, sizes[i]);
      from += sizes[i];
    }
    return grads;
  });
}

Var permute(const Var& x, std::span<const int> order) {
  require_computing("permute", x.value());
  const int rank = x.rank();
  std::vector<int> inverse(rank, -1);
  bool fits = rank >= 1 && static_cast<int>(order.size()) == rank;
  for (int i = 0; fits && i < rank; ++i) {
    fits = order[i] >= 0 && order[i] < rank && inverse[order[i]] == -1;
    if (fits) inverse[order[i]] = i;
  }
  require(fits, "[permute] {} needs each of its {} dimensions once", x.shape().str(), rank);
  return make_result("permute", permuted(x.value(), order), {x},
                     [inverse](const Tensor& dy) { return std::vector<Tensor>{permuted(dy, inverse)}; });
}

}  // namespace filigree::ops
