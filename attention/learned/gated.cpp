#include "attention/learned/gated.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "core/ops.h"

namespace filigree {
namespace {

constexpr double kGreatestShare = 0.99;  // aimed at: all tiles would take levels without bound
constexpr double kGreatestShift = 64, kLeastSlope = 1e-9;
constexpr int kMostSteps = 100;
constexpr double kClose = 1e-9;
constexpr double kSharpest = 8;

// Exploration's draw for a tile, uniform in [0, 1).
float draw(const RandomKey& key, int head, std::int64_t q, std::int64_t k) {
  const auto index = static_cast<std::uint64_t>(head) << 48 | static_cast<std::uint64_t>(q) << 24 |
                     static_cast<std::uint64_t>(k);
  return uniform01(key.block(index)[0]);
}

void count_gates(const Tensor& gates, LearnTelemetry& t) {
  const std::int64_t heads = gates.dim(0), units = gates.dim(1);
  t.units += units;
  for (std::int64_t u = 0; u < units; ++u) {
    bool dead = true;
    for (std::int64_t h = 0; h < heads; ++h) {
      const double gate = gates.item(h * units + u);
      dead = dead && gate == 0;
      ++t.histogram[std::min<std::size_t>(9, static_cast<std::size_t>(gate * 10))];
    }
    t.dead_units += dead;
  }
}

}  // namespace

void Gated::aim(double progress) {
  const NoGrad no_tape;
  sharpness_ = std::pow(kSharpest, annealed(progress));
  const Var raw = raw_levels();
  if (raw.device().is_meta()) return;
  const Tensor levels = raw.value().to(DType::f64).to(Device::cpu());
  const double target = std::min(target_share(progress), kGreatestShare);
  // Newton's method from the last shift, bisection where it leaves what is known to hold the root: the share
  // falls as the shift grows.
  double low = -kGreatestShift, high = kGreatestShift;
  for (int i = 0; i < kMostSteps; ++i) {
    const ShareAt now = share_at(levels, shift_);
    slope_ = now.slope;
    const double excess = now.share - target;
    (excess > 0 ? low : high) = shift_;
    if (slope_ > kLeastSlope) shift_ += excess / slope_;
    if (std::abs(excess) < kClose) break;  // the step just taken leaves about the square of it
    if (!(shift_ > low && shift_ < high)) shift_ = 0.5 * (low + high);
    if (high - low < kClose) break;  // a jump
  }
}

Var Gated::levels() const {
  const Var raw = raw_levels();
  const std::int64_t units = raw.dim(1);
  const auto filled = [&](Shape shape, double value) {
    return Var(Tensor::full(shape, value, raw.dtype(), raw.device()));
  };
  const Var at = ops::add(raw, filled({units}, -shift_));
  if (slope_ < kLeastSlope) return at;
  const Var now = share(at);
  const Var excess = ops::scale(ops::sub(now, Var(now.value())), -1 / slope_);  // 0, but for its gradient
  const Var each = ops::matmul(ops::reshape(excess, {1, 1}), filled({1, units}, 1));
  return ops::add(at, ops::reshape(each, {units}));
}

Gated::View Gated::view(std::int64_t n, Device device, const TileChooser& chooser) const {
  View view{filigree::choose(*everything(n), chooser), {}};
  const std::vector<std::int32_t>& entries = view.chosen.entries;
  if (std::ranges::any_of(entries, [](std::int32_t e) { return e != 0; }))
    view.index = Tensor::of({std::ssize(entries)}, entries, device);
  return view;
}

Gated::View Gated::by_gates(std::int64_t n, bool training) const {
  const NoGrad no_tape;
  const Tensor on_device = gates(training).value();
  const Tensor table = on_device.to(DType::f32).to(Device::cpu());
  const bool planned = on_device.device().is_meta();  // as much as there may be
  const double explored = training ? schedule().explore : 0;
  const RandomKey key{stage().seed, random_site(heads().layer + ".explore"),
                      static_cast<std::uint32_t>(stage().step)};
  return view(n, on_device.device(),
              [&](int head, std::int64_t q, std::int64_t k) -> std::optional<std::int32_t> {
                if (q == k) return 0;
                const std::int32_t at = entry(head, q, k);
                if (at == kOff) return {};
                const bool on = planned || table.data<float>()[at] > 0 ||
                                (explored > 0 && draw(key, heads().first + head, q, k) < explored);
                if (!on) return {};
                return 1 + at;
              });
}

Connected Gated::connect_learning(const Sequences& s) const {
  if (s.training)
    check(training_.chosen.layout && s.n == heads().geometry.n,
          "a learned layer trains before advance(), or at another length");
  else if (!evaluation_[s.n].chosen.layout)
    evaluation_[s.n] = by_gates(s.n, false);
  const View& v = s.training ? training_ : evaluation_[s.n];
  const LayoutPtr& layout = v.chosen.layout;
  if (!v.index.defined()) return {layout, {}};
  const Var of_entries = gates(s.training);
  const Var parts[] = {Var(Tensor::full({1}, 1, of_entries.dtype(), of_entries.device())), of_entries};
  const Var gate = pick_gates(ops::concat_last(parts), v.index);
  // A tile's rows are 1 / query tiles of all.
  return {layout, ops::limit_gradient(gate, kMostGain / static_cast<double>(layout->query_tiles()))};
}

double Gated::learning_target() const {
  return target_share(stage().progress) * static_cast<double>(full_tiles(heads().geometry.n));
}

bool Gated::choice_is_due() const {
  return stage().step >= chosen_at() + schedule().refresh;
}

void Gated::choose() {
  aim(stage().progress);
  draw_noise(stage());
  training_ = by_gates(heads().geometry.n, true);
}

LayoutPtr Gated::computed() const {
  const bool chosen = phase() == LearnPhase::learning && training_.chosen.layout;
  return chosen ? training_.chosen.layout : Learned::computed();
}

void Gated::forget_evaluation() {
  Learned::forget_evaluation();
  evaluation_.clear();
}

std::optional<LearnTelemetry> Gated::telemetry() const {
  const NoGrad no_tape;
  LearnTelemetry t = *Learned::telemetry();
  if (phase() == LearnPhase::learning)
    t.expected_tiles = expected_share().value().item() * static_cast<double>(full_tiles(heads().geometry.n));
  count_gates(unit_gates(), t);
  return t;
}

bool Gated::keeps_choice() const {
  return chosen_at() >= 0 && phase() == LearnPhase::learning && schedule().refresh > 1;
}

ConnectivityState Gated::own_state() const {
  ConnectivityState state{{"shift", Tensor::of({3}, std::vector{shift_, slope_, sharpness_})}};
  if (keeps_choice()) state.emplace_back("chosen", tile_list(tiles_of(*training_.chosen.layout)));
  return state;
}

void Gated::load_own_state(const ConnectivityState& state) {
  const Tensor& shift = find_state(state, "shift");
  if (shift.dtype() != DType::f64 || shift.shape() != Shape{3})
    fail(ErrorKind::data, "the checkpoint's {}.shift is not a shift, its slope and a sharpness",
         heads().name);
  shift_ = shift.item(0);
  slope_ = shift.item(1);
  sharpness_ = shift.item(2);
  if (phase() != LearnPhase::learning) return;
  draw_noise(stage());
  const std::int64_t n = heads().geometry.n;
  if (!keeps_choice()) {  // where gates choose, the next step does so anew
    if (chosen_at() >= 0) training_ = by_gates(n, true);
    return;
  }
  const std::vector<HeadTile> chosen =
      read_tile_list(find_state(state, "chosen"), heads().name + ".chosen", heads().n_heads, query_tiles(n),
                     heads().geometry.causal);
  const std::set<HeadTile> on(chosen.begin(), chosen.end());
  const NoGrad no_tape;
  training_ = view(n, gates(false).device(),
                   [&](int head, std::int64_t q, std::int64_t k) -> std::optional<std::int32_t> {
                     const HeadTile tile{head, static_cast<std::int32_t>(q), static_cast<std::int32_t>(k)};
                     if (!on.contains(tile)) return {};
                     return q == k ? 0 : 1 + entry(head, q, k);
                   });
}

}  // namespace filigree
