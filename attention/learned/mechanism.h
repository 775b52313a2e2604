// What every learned mechanism has in common: parameters that decide which tiles some heads of a layer
// compute, and with which gate.
//
// A mechanism is chosen in YAML like a pattern, {learned_layout: {budget: 0.1}}, for all heads of a layer or,
// inside `heads:`, for some of them. LearnedLayer (learned_layer.h) puts the mechanisms and the fixed heads
// of a layer together.
//
// A run passes three phases, by the share of its steps that is done: a warm-up, where everything is computed
// and no gate acts; learning, where the expected number of tiles is led from all down to the budget; and
// hardened: a static layout of exactly the budget, which costs what any fixed layout of these tiles costs.
//
// The expected number of tiles is kept at what it should be by shifting all levels (logits, spans) of a
// mechanism's heads alike, so that they compete for the budget and for nothing else. A penalty with
// multipliers that are ascended (PruLong: Bhaskar et al. 2025) came first, and overshot: an adaptive
// optimizer moves every level by the same step whatever its worth, and a language model's heads were left
// with their diagonals before the multipliers turned (tests/bench/LEARNED.md).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "attention/connectivity.h"

namespace filigree {

enum class LearnPhase { warm_up, learning, hardened };

struct LearnSchedule {
  // Shares of the run's steps: the end of the warm-up, of the way down to the budget, and of learning.
  double warmup = 0.1, anneal = 0.6, harden = 0.8;
  double explore = 0.03;     // share of the switched-off tiles that are computed all the same, at gate 0
  std::int64_t refresh = 1;  // steps between two choices of the tiles to compute
  double lr = 30;            // learning rate of the mechanism's parameters, times the run's
};

// How many tiles a hardened layout has, of all heads of the mechanism.
struct TileBudget {
  double share = 0;        // of the tiles that full attention computes; 0 if `tiles` is given
  std::int64_t tiles = 0;  // at the length of training
};

// The heads of one layer that share a mechanism.
struct LearnedHeads {
  std::string name;  // begins the names of its parameters
  int n_heads = 0, n_kv_heads = 0;
  std::int64_t head_dim = 0;
  Geometry geometry;  // of training
};

// A tile of a head; heads count within the mechanism.
struct HeadTile {
  std::int32_t head, q, k;
  bool operator==(const HeadTile&) const = default;
};

// Tiles of n_heads heads with `side` tiles a side.
class TileSet {
 public:
  TileSet(std::int64_t n_heads, std::int64_t side) : side_(side), on_(n_heads * side * side) {}
  void add(const HeadTile& t) { on_[place(t.head, t.q, t.k)] = true; }
  bool has(std::int64_t head, std::int64_t q, std::int64_t k) const { return on_[place(head, q, k)]; }

 private:
  std::size_t place(std::int64_t head, std::int64_t q, std::int64_t k) const {
    return static_cast<std::size_t>((head * side_ + q) * side_ + k);
  }
  std::int64_t side_;
  std::vector<bool> on_;
};

class Mechanism : public Module {
 public:
  // Error(usage) if the budget cannot hold the diagonal of every head.
  Mechanism(LearnedHeads heads, const TileBudget& budget, const LearnSchedule& schedule);

  const LearnedHeads& heads() const { return heads_; }
  const LearnSchedule& schedule() const { return schedule_; }
  std::int64_t query_tiles(std::int64_t n) const {
    return (n + heads_.geometry.tile - 1) / heads_.geometry.tile;
  }
  // Of all heads, for n tokens.
  std::int64_t full_tiles(std::int64_t n) const;
  std::int64_t budget_tiles(std::int64_t n) const;
  double budget_share() const;
  // What learning aims at: from 1 at the end of the warm-up geometrically down to the budget.
  double target_share(double progress) const;
  double way(double progress) const;  // of it, in [0, 1]

  // The layout of exactly budget_tiles(n): the diagonal, then the tiles of the highest score; among equals
  // the nearest, then the later query tile, then the lower head. Sorted by head, q, k.
  std::vector<HeadTile> hardened_tiles(std::int64_t n);

  virtual bool can_harden() const { return true; }
  // What the checkpoint must hold beside the parameters, by names of its own.
  virtual ConnectivityState state() const { return {}; }
  // Error(data) if it is not this mechanism's. The names are those of state().
  virtual void load_state(const ConnectivityState&) {}

 protected:
  // The higher, the longer a tile stays when the layout is cut to the budget. prepare_scores() comes first
  // and copies what it needs from the device.
  virtual void prepare_scores() = 0;
  virtual float score(int head, std::int64_t q, std::int64_t k) const = 0;

 private:
  LearnedHeads heads_;
  TileBudget budget_;
  LearnSchedule schedule_;
};

// Gates by tile that do not depend on the input: learned_layout, learned_span. The gates of a head are
// entries of a table, one per class of tiles.
class GatedMechanism : public Mechanism {
 public:
  using Mechanism::Mechanism;

  static constexpr std::int32_t kOff = -1;
  // The table's entry of a tile off the diagonal; kOff where the mechanism never computes it (at a length
  // beyond training's).
  virtual std::int32_t entry(int head, std::int64_t q, std::int64_t k) const = 0;
  virtual std::int64_t entries() const = 0;
  // Chooses the noise of the training gates from now on: a function of (seed, step).
  virtual void draw_noise(const TrainingStage&) {}
  // [entries], gates in [0, 1]; with noise if `training`.
  virtual Var gates(bool training) const = 0;
  // The gates of what can be on or off in each head, [n_heads, units] on the CPU, without noise.
  virtual Tensor unit_gates() const = 0;

  // Expected share of full_tiles, [1].
  Var expected_share() const { return share(levels()); }
  // Sets the sharpness, and the shift with which the expected share is what learning aims at now. Waits for
  // the device.
  void aim(double progress);

  ConnectivityState state() const override;
  void load_state(const ConnectivityState& state) override;

 protected:
  // What decides about each unit, [n_heads, units]: the higher, the more of its tiles are expected.
  virtual Var raw_levels() const = 0;
  // Expected share of full_tiles at these levels, [1].
  virtual Var share(const Var& levels) const = 0;
  // The same at levels[i] - shift, levels f64 on the CPU.
  struct ShareAt {
    double share, slope;  // how much the share falls with the shift
  };
  virtual ShareAt share_at(const Tensor& levels, double shift) const = 0;
  // The raw levels less the shift, which is a function of them: the gradient of a level is what raising it
  // brings, less what the other levels lose that make room for it.
  Var levels() const;
  // From 1 at the end of the warm-up to kSharpest at the end of the way down to the budget.
  double sharpness() const { return sharpness_; }

 private:
  double shift_ = 0, slope_ = 0;  // -d share / d shift there; 0: not aimed yet
  double sharpness_ = 1;
};

// The gradient of a gate at 0 knows no bound: where a tile that is off holds what a row seeks, it is the
// ratio of their exponentials. This gain of a row, in nats, is the most that is believed: else one such
// moment rules an adaptive optimizer's steps for long. It is the logarithm of 22,000 classes.
inline constexpr double kMostGain = 10;

// A tile that a router has chosen for some heads: the rows of query tile q from `first_row` on see key tile
// k.
struct RoutedTile {
  std::int32_t q, k, first_row;
  std::int32_t gate;   // place in Routing::gates
  bool tried = false;  // only to learn from: with gate 0, and seen by `first_row` alone
};
struct Routing {
  std::vector<std::vector<RoutedTile>> tiles;  // [B * n_kv_heads], each sorted by q, then k
  Var gates;                                   // [n], acc of q's dtype
};

// What a router remembers of a text that grows token by token. All in f64 on the CPU.
struct RouterMemory {
  struct Chosen {
    std::int32_t tile;
    double gate;
  };
  std::int64_t length = 0;                  // tokens read
  std::vector<std::vector<double>> keys;    // of each kv head: the projections of the tiles' parts
  std::vector<std::vector<double>> sums;    // of each kv head: of the keys of the part under way
  std::vector<std::vector<Chosen>> chosen;  // for each kv head: by the rows of the tile under way
  Tensor query_weights, key_weights;        // of the router
};

// Tiles that depend on the input: block_topk. The diagonal and the first `sinks` key tiles are always
// computed and have no gate.
class RoutedMechanism : public Mechanism {
 public:
  using Mechanism::Mechanism;

  // q [B, N, n_heads, D], k [B, N, n_kv_heads, D], before positions are applied; row_bounds as in
  // AttentionOptions.
  virtual Routing route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const = 0;
  // The same row by row: reads the next row of a text, q [n_heads, D] and k [n_kv_heads, D], and, if asked,
  // chooses for it. `memory` begins empty.
  virtual void read_row(const double* q, const double* k, bool choose, RouterMemory& memory) const = 0;
  virtual std::int64_t sinks() const = 0;
  bool always(std::int64_t q, std::int64_t k) const { return q == k || k < sinks(); }
  // Tiles of all heads that a sequence of n tokens computes at most.
  virtual std::int64_t most_tiles(std::int64_t n) const = 0;
  // Before each step of training: learns from what the last one routed, if it did.
  virtual void adapt(const TrainingStage& stage) = 0;
  // Forgets how often tiles were chosen; from then on route() counts, and hardening keeps the most frequent.
  virtual void start_counting() = 0;
};

// A pattern that is learned. It allows everything: what a model has learned is in the model.
class LearnedPattern : public Pattern {
 public:
  bool allows(const Geometry&, int, std::int64_t, std::int64_t) const override { return true; }
  void row(const Geometry& g, int, std::int64_t, Intervals& out) const override { out.assign(1, {0, g.n}); }
  const LearnedPattern* learned(int) const override { return this; }
  virtual std::unique_ptr<Mechanism> make(const LearnedHeads& heads, const ParameterFactory& make) const = 0;
};

// The pattern of a mechanism M(heads, budget, schedule, options, factory).
template <class M, class Options>
class LearnedPatternOf final : public LearnedPattern {
 public:
  LearnedPatternOf(const TileBudget& budget, const LearnSchedule& schedule, Options options)
      : budget_(budget), schedule_(schedule), options_(std::move(options)) {}
  std::unique_ptr<Mechanism> make(const LearnedHeads& heads, const ParameterFactory& factory) const override {
    return std::make_unique<M>(heads, budget_, schedule_, options_, factory);
  }

 private:
  TileBudget budget_;
  LearnSchedule schedule_;
  Options options_;
};

// The keys that all mechanisms share: `budget` (a share) or `tiles`; warmup, anneal, harden, refresh, lr.
TileBudget read_budget(MapReader& map);
LearnSchedule read_schedule(MapReader& map);

}  // namespace filigree
