#include "attention/learned/learned.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "core/ops.h"

namespace filigree {

Learned::Learned(LearnedHeads heads, const TileBudget& budget, const LearnSchedule& schedule)
    : Connectivity(heads.geometry), heads_(std::move(heads)), budget_(budget), schedule_(schedule) {
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

std::int64_t Learned::full_tiles(std::int64_t n) const {
  return heads_.n_heads * full_cells(query_tiles(n), query_tiles(n), heads_.geometry.causal);
}

double Learned::budget_share() const {
  return budget_.tiles
             ? static_cast<double>(budget_.tiles) / static_cast<double>(full_tiles(heads_.geometry.n))
             : budget_.share;
}

std::int64_t Learned::budget_tiles(std::int64_t n) const {
  if (budget_.tiles && n == heads_.geometry.n) return budget_.tiles;
  const std::int64_t asked = std::llround(budget_share() * static_cast<double>(full_tiles(n)));
  return std::clamp<std::int64_t>(asked, heads_.n_heads * query_tiles(n), full_tiles(n));
}

double Learned::target_share(double progress) const {
  return std::pow(budget_share(), annealed(progress));
}

double Learned::annealed(double progress) const {
  return std::clamp((progress - schedule_.warmup) / (schedule_.anneal - schedule_.warmup), 0.0, 1.0);
}

std::vector<HeadTile> Learned::hardened_tiles(std::int64_t n) const {
  const TileScore score = scores();
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

LayoutPtr Learned::everything(std::int64_t n) const {
  LayoutPtr& made = everything_[n];
  if (!made) made = full_layout({n, heads_.geometry.causal, heads_.geometry.tile}, heads_.n_heads);
  return made;
}

LayoutPtr Learned::hardened(std::int64_t n) const {
  // A shorter sequence has the beginning of training's layout.
  const std::int64_t training = heads_.geometry.n;
  const bool known = is_static() && n <= training;
  return with_tiles(*everything(n), known ? hardened_ : hardened_tiles(std::max(n, training)));
}

Connected Learned::connect(const Sequences& sequences) const {
  if (phase_ == LearnPhase::warm_up) return {everything(sequences.n), {}};
  if (phase_ == LearnPhase::learning) return connect_learning(sequences);
  LayoutPtr& kept = static_[sequences.n];
  if (!kept) kept = hardened(sequences.n);
  return {kept, {}};
}

void Learned::advance(const TrainingStage& stage) {
  forget_evaluation();
  if (is_static()) return;
  stage_ = stage;
  adapt(stage);
  const LearnPhase before = phase_;
  phase_ = stage.progress >= schedule_.harden   ? LearnPhase::hardened
           : stage.progress >= schedule_.warmup ? LearnPhase::learning
                                                : LearnPhase::warm_up;
  const bool begins = phase_ != before, learning = phase_ == LearnPhase::learning;
  if (begins && learning) begin_learning();
  if (is_static()) hardened_ = hardened_tiles(heads_.geometry.n);
  if (chosen_at_ >= 0 && !begins && !(learning && choice_is_due())) return;
  chosen_at_ = stage.step;
  if (learning) choose();
}

// Up to the length of training nothing depends on the parameters any more.
void Learned::forget_evaluation() {
  std::erase_if(static_, [&](const auto& entry) { return entry.first > heads_.geometry.n; });
}

void Learned::harden() {
  if (!is_static()) hardened_ = hardened_tiles(heads_.geometry.n);
  phase_ = LearnPhase::hardened;
  forget_evaluation();
}

std::optional<LearnTelemetry> Learned::telemetry() const {
  const NoGrad no_tape;
  const std::int64_t n = heads_.geometry.n;
  const LayoutPtr layout = reads_text() ? computed() : connect({n}).layout;
  LearnTelemetry t;
  t.heads = heads_.n_heads;
  for (int head = 0; head < heads_.n_heads; ++head) {
    t.actual_tiles += layout->of_head(head).tiles();
    t.most_tiles = std::max(t.most_tiles, layout->of_head(head).tiles());
  }
  t.target_tiles = phase_ == LearnPhase::warm_up    ? static_cast<double>(full_tiles(n))
                   : phase_ == LearnPhase::hardened ? static_cast<double>(budget_tiles(n))
                                                    : learning_target();
  t.expected_tiles = static_cast<double>(t.actual_tiles);
  return t;
}

ConnectivityState Learned::state() const {
  ConnectivityState all;
  all.emplace_back(
      heads_.name + ".phase",
      Tensor::of({2}, std::vector{static_cast<std::int32_t>(phase_), static_cast<std::int32_t>(chosen_at_)}));
  if (is_static()) all.emplace_back(heads_.name + ".tiles", tile_list(hardened_));
  for (auto& [key, value] : own_state()) all.emplace_back(heads_.name + "." + key, value);
  return all;
}

void Learned::load_state(const ConnectivityState& state, std::uint64_t seed) {
  const std::string& name = heads_.name;
  const Tensor& phase = find_state(state, name + ".phase");
  if (phase.shape() != Shape{2} || phase.dtype() != DType::i32 || phase.data<std::int32_t>()[0] < 0 ||
      phase.data<std::int32_t>()[0] > 2)
    fail(ErrorKind::data, "the checkpoint's {}.phase is not a phase", name);
  phase_ = static_cast<LearnPhase>(phase.data<std::int32_t>()[0]);
  chosen_at_ = phase.data<std::int32_t>()[1];
  const Geometry& g = heads_.geometry;
  if (is_static())
    hardened_ = read_tile_list(find_state(state, name + ".tiles"), name + ".tiles", heads_.n_heads,
                               query_tiles(g.n), g.causal);
  stage_ = {std::max<std::int64_t>(0, chosen_at_), 0, seed};
  ConnectivityState own;
  for (const auto& [key, value] : state)
    if (key.starts_with(name + ".")) own.emplace_back(key.substr(name.size() + 1), value);
  load_own_state(own);
  static_.clear();
  forget_evaluation();
}

Tensor tile_list(const std::vector<HeadTile>& tiles) {
  std::vector<std::int32_t> values;
  for (const HeadTile& t : tiles) values.insert(values.end(), {t.head, t.q, t.k});
  return Tensor::of({std::ssize(tiles), 3}, values);
}

std::vector<HeadTile> read_tile_list(const Tensor& values, const std::string& name, int n_heads,
                                     std::int64_t side, bool causal) {
  if (values.rank() != 2 || values.dim(1) != 3 || values.dtype() != DType::i32)
    fail(ErrorKind::data, "the checkpoint's {} is {} of shape {}, not a list of tiles", name,
         dtype_name(values.dtype()), values.shape().str());
  std::vector<HeadTile> tiles;
  std::set<std::tuple<int, int, int>> seen;
  for (std::int64_t i = 0; i < values.dim(0); ++i) {
    const std::int32_t* t = values.data<std::int32_t>() + 3 * i;
    const bool fits = t[0] >= 0 && t[0] < n_heads && t[1] >= 0 && t[1] < side && t[2] >= 0 &&
                      t[2] < (causal ? t[1] + 1 : side);
    if (!fits || !seen.emplace(t[0], t[1], t[2]).second)
      fail(ErrorKind::data, "the checkpoint's {} has the tile ({}, {}, {}) for {} heads and {} tiles a side",
           name, t[0], t[1], t[2], n_heads, side);
    tiles.push_back({t[0], t[1], t[2]});
  }
  return tiles;
}

}  // namespace filigree
