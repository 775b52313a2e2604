// Each head learns how far back it sees (Sukhbaatar et al. 2019): with span z in [0, 1] of the S tiles there
// are, a tile at distance d has the gate clip((R + z S - d) / R, 0, 1); R, `ramp`, is a number of tiles.
// Trimming is per head: a head pays for its own span, not for its layer's longest.
#include <algorithm>
#include <cmath>

#include "attention/learned/gated.h"
#include "attention/learned/learned_settings.h"
#include "core/ops.h"

namespace filigree {
namespace {

struct SpanOptions {
  double ramp = 2;     // R
  double initial = 1;  // z
};

class LearnedSpan final : public Gated {
 public:
  LearnedSpan(const LearnedHeads& heads, const TileBudget& budget, const LearnSchedule& schedule,
              const SpanOptions& options, const ParameterFactory& make)
      : Gated(heads, budget, schedule),
        ramp_(options.ramp),
        side_(query_tiles(heads.geometry.n)),
        span_(make.constant(heads.name + ".span", {heads.n_heads, 1}, options.initial)) {
    span_.decay = false;
    span_.lr_factor = schedule.lr / kMaxLogit;
    span_.in_norm = false;
    Tensor spans = Tensor::full({1, side_}, static_cast<double>(side_ - 1) / ramp_, DType::f64);
    Tensor rest = Tensor::empty({side_}, DType::f64), share = Tensor::empty({side_}, DType::f64);
    for (std::int64_t d = 0; d < side_; ++d) {
      rest.data<double>()[d] = (ramp_ - static_cast<double>(d)) / ramp_;
      const std::int64_t tiles = (side_ - d) * (heads.geometry.causal || d == 0 ? 1 : 2);
      share.data<double>()[d] =
          static_cast<double>(tiles) / static_cast<double>(full_tiles(heads.geometry.n));
    }
    spans_ = spans.to(make.dtype).to(make.device);
    rest_ = rest.to(make.dtype).to(make.device);
    share_ = share.to(make.dtype).to(make.device);
  }

  std::int64_t entries() const override { return heads().n_heads * side_; }
  std::int32_t entry(int head, std::int64_t q, std::int64_t k) const override {
    const std::int64_t d = std::abs(q - k);
    return d < side_ ? static_cast<std::int32_t>(head * side_ + d) : kOff;
  }
  Var gates(bool) const override { return ops::reshape(by_distance(levels()), {entries()}); }
  Tensor unit_gates() const override {
    const NoGrad no_tape;
    return by_distance(levels()).value().to(Device::cpu());
  }
  void visit(const Visitor& visitor) override { visitor(span_); }

 protected:
  Var raw_levels() const override { return span_.var; }
  Var share(const Var& span) const override { return ops::sum(ops::mul(by_distance(span), Var(share_))); }
  ShareAt share_at(const Tensor& span, double shift) const override {
    const auto full = static_cast<double>(full_tiles(heads().geometry.n)),
               furthest = static_cast<double>(side_ - 1);
    ShareAt at{};
    for (std::int64_t head = 0; head < heads().n_heads; ++head) {
      const double z = span.item(head) - shift;
      for (std::int64_t d = 0; d < side_; ++d) {
        const double gate = (ramp_ + std::clamp(z, 0.0, 1.0) * furthest - static_cast<double>(d)) / ramp_;
        const double share =
            static_cast<double>((side_ - d) * (heads().geometry.causal || d == 0 ? 1 : 2)) / full;
        at.share += share * std::clamp(gate, 0.0, 1.0);
        if (z > 0 && z < 1 && gate > 0 && gate < 1) at.slope += share * furthest / ramp_;
      }
    }
    return at;
  }
  TileScore scores() const override {
    const Tensor spans = span_.var.value().to(DType::f32).to(Device::cpu());
    return [spans, furthest = static_cast<float>(side_ - 1)](int head, std::int64_t q, std::int64_t k) {
      return spans.data<float>()[head] * furthest - static_cast<float>(std::abs(q - k));
    };
  }

 private:
  // [H, S + 1]. A span outside [0, 1] is cut, but may come back.
  Var by_distance(const Var& level) const {
    const Var span = ops::clamp(level, 0, 1, ops::Cut::through);
    return ops::clamp(ops::add(ops::matmul(span, Var(spans_)), Var(rest_)), 0, 1);
  }

  static constexpr double kMaxLogit =
      10;  // learned_layout's parameters run over about [-5, 5], a span over [0, 1]
  double ramp_;
  std::int64_t side_;
  Parameter span_;  // z, [H, 1]
  Tensor spans_, rest_, share_;
};

struct SpanSettings : LearnedSettings {
  SpanOptions options;

  SpanSettings() { schedule.explore = 0; }  // a span grows at its edge, which its ramp computes
  void fields(Fields& f) {
    budget_fields(f);
    schedule_fields(f);
    f.number("ramp", options.ramp, between(1, 1024), "tiles over which a gate falls from 1 to 0");
    f.number("initial", options.initial, between(0.01, 1), "share of the tiles that a span begins with");
  }
};

}  // namespace

PatternKind learned_span_kind() {
  return kind_of<SpanSettings, LearnedPatternOf<LearnedSpan, SpanSettings>>(
      {"learned_span", "the distances up to the span that the head has learned", "tiles", "budget"});
}

}  // namespace filigree
