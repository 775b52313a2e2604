#include "attention/learned/mechanism.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/ops.h"

namespace filigree {
namespace {

constexpr double kGreatestShare = 0.99;  // aimed at: all tiles would take levels without bound
constexpr double kGreatestShift = 64, kLeastSlope = 1e-9;
constexpr int kMostSteps = 100;
constexpr double kClose = 1e-9;
constexpr double kSharpest = 8;

}  // namespace

Mechanism::Mechanism(LearnedHeads heads, const TileBudget& budget, const LearnSchedule& schedule)
    : heads_(std::move(heads)), budget_(budget), schedule_(schedule) {
  const Geometry& g = heads_.geometry;
  const std::int64_t full = full_tiles(g.n), diagonal = heads_.n_heads * query_tiles(g.n);
  const std::int64_t asked =
      budget_.tiles ? budget_.tiles : std::llround(budget_.share * static_cast<double>(full));
  if (asked < diagonal)
    throw Error(
        ErrorKind::usage,
        fmt::format("{}: a budget of {} tiles cannot hold the diagonal, {} tiles ({} heads of {} tokens in "
                    "tiles of {})",
                    heads_.name, asked, diagonal, heads_.n_heads, g.n, g.tile),
        fmt::format("take a budget of at least {:.4g}, or smaller tiles",
                    static_cast<double>(diagonal) / static_cast<double>(full)));
  require(asked <= full, "{}: a budget of {} tiles is more than full attention computes, {}", heads_.name,
          asked, full);
}

std::int64_t Mechanism::full_tiles(std::int64_t n) const {
  return heads_.n_heads * full_cells(query_tiles(n), query_tiles(n), heads_.geometry.causal);
}

double Mechanism::budget_share() const {
  return budget_.tiles
             ? static_cast<double>(budget_.tiles) / static_cast<double>(full_tiles(heads_.geometry.n))
             : budget_.share;
}

std::int64_t Mechanism::budget_tiles(std::int64_t n) const {
  if (budget_.tiles && n == heads_.geometry.n) return budget_.tiles;
  const auto asked = std::llround(budget_share() * static_cast<double>(full_tiles(n)));
  return std::clamp<std::int64_t>(asked, heads_.n_heads * query_tiles(n), full_tiles(n));
}

double Mechanism::target_share(double progress) const {
  return std::pow(budget_share(), way(progress));
}

double Mechanism::way(double progress) const {
  return std::clamp((progress - schedule_.warmup) / (schedule_.anneal - schedule_.warmup), 0.0, 1.0);
}

std::vector<HeadTile> Mechanism::hardened_tiles(std::int64_t n) {
  prepare_scores();
  struct Candidate {
    float score;
    HeadTile tile;
  };
  std::vector<HeadTile> chosen;
  std::vector<Candidate> candidates;
  const auto side = static_cast<std::int32_t>(query_tiles(n));
  for (std::int32_t head = 0; head < heads_.n_heads; ++head)
    for (std::int32_t q = 0; q < side; ++q)
      for (std::int32_t k = 0; k < (heads_.geometry.causal ? q + 1 : side); ++k) {
        if (k == q)
          chosen.push_back({head, q, k});
        else
          candidates.push_back({score(head, q, k), {head, q, k}});
      }
  const auto before = [](const Candidate& a, const Candidate& b) {
    const auto rank = [](const Candidate& c) {
      return std::make_tuple(-c.score, std::abs(c.tile.q - c.tile.k), -c.tile.q, c.tile.head, c.tile.k);
    };
    return rank(a) < rank(b);
  };
  const auto wanted = static_cast<std::ptrdiff_t>(budget_tiles(n) - std::ssize(chosen));
  std::nth_element(candidates.begin(), candidates.begin() + wanted, candidates.end(), before);
  for (std::ptrdiff_t i = 0; i < wanted; ++i) chosen.push_back(candidates[i].tile);
  std::ranges::sort(chosen, {}, [](const HeadTile& t) { return std::make_tuple(t.head, t.q, t.k); });
  return chosen;
}

void GatedMechanism::aim(double progress) {
  const NoGrad no_tape;
  sharpness_ = std::pow(kSharpest, way(progress));
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

Var GatedMechanism::levels() const {
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

ConnectivityState GatedMechanism::state() const {
  return {{"shift", Tensor::of({3}, std::vector{shift_, slope_, sharpness_})}};
}

void GatedMechanism::load_state(const ConnectivityState& state) {
  const Tensor& shift = find_state(state, "shift");
  if (shift.dtype() != DType::f64 || shift.shape() != Shape{3})
    fail(ErrorKind::data, "the checkpoint's {}.shift is not a shift, its slope and a sharpness",
         heads().name);
  shift_ = shift.item(0);
  slope_ = shift.item(1);
  sharpness_ = shift.item(2);
}

TileBudget read_budget(MapReader& map) {
  TileBudget budget;
  const bool share = map.has("budget"), tiles = map.has("tiles");
  if (!share && !tiles) map.refuse_misspelt({"budget", "tiles"});
  if (share == tiles)
    fail_at(
        map.node().mark,
        share ? fmt::format("{} and {} exclude each other", map.name("budget"), map.name("tiles"))
              : fmt::format("{} is missing", map.name("budget")),
        "budget: the share of full attention's tiles to keep, such as 0.1; tiles: their number per layer");
  if (share) budget.share = map.number("budget", 1e-6, 1);
  if (tiles) budget.tiles = map.integer("tiles", 1, std::int64_t{1} << 40);
  return budget;
}

LearnSchedule read_schedule(MapReader& map) {
  LearnSchedule s;
  s.warmup = map.number("warmup", 0, 1, s.warmup);
  s.anneal = map.number("anneal", 0, 1, s.anneal);
  s.harden = map.number("harden", 0, 1, s.harden);
  if (!(s.warmup < s.anneal && s.anneal <= s.harden))
    fail_at(map.node().mark,
            fmt::format("{} {} < {} {} <= {} {} does not hold", map.name("warmup"), s.warmup,
                        map.name("anneal"), s.anneal, map.name("harden"), s.harden),
            "they are shares of the run's steps, in this order");
  s.refresh = map.integer("refresh", 1, 1 << 20, s.refresh);
  s.lr = map.number("lr", 0, 1e6, s.lr);
  return s;
}

}  // namespace filigree
