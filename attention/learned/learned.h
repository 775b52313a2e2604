// Learned is what all learned connectivities have in common: parameters decide which tiles some heads of a
// layer compute, within a budget, and a run passes three phases by the share of its steps that is done: a
// warm-up, where everything is computed and no gate acts; learning; and hardened, a static layout of exactly
// the budget, which costs what any fixed layout of these tiles costs.
//
// A mechanism is chosen in YAML like a pattern, {learned_layout: {budget: 0.1}}, for all heads of a layer or,
// inside `heads:`, for some of them. It is a class in a file of its own beneath Gated (gated.h), where gates
// do not depend on the text, or Routed (routed.h), where they do.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attention/connectivity.h"
#include "attention/learned/tile_choice.h"

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

// The gradient of a gate at 0 knows no bound: where a tile that is off holds what a row seeks, it is the
// ratio of their exponentials. This gain of a row, in nats, is the most that is believed: else one such
// moment rules an adaptive optimizer's steps for long. It is the logarithm of 22,000 classes.
inline constexpr double kMostGain = 10;

class Learned : public Connectivity {
 public:
  // Error(usage) if the budget cannot hold the diagonal of every head.
  Learned(LearnedHeads heads, const TileBudget& budget, const LearnSchedule& schedule);

  const LearnedHeads& heads() const { return heads_; }
  const LearnSchedule& schedule() const { return schedule_; }
  LearnPhase phase() const { return phase_; }
  const TrainingStage& stage() const { return stage_; }
  std::int64_t query_tiles(std::int64_t n) const {
    return (n + heads_.geometry.tile - 1) / heads_.geometry.tile;
  }
  // Tiles of all heads, for n tokens.
  std::int64_t full_tiles(std::int64_t n) const;
  std::int64_t budget_tiles(std::int64_t n) const;
  double budget_share() const;
  // The share that learning aims at: from 1 at the end of the warm-up geometrically down to the budget.
  double target_share(double progress) const;
  double annealed(double progress) const;  // the part of that way that is done, in [0, 1]

  // The layout of exactly budget_tiles(n): the diagonal, then the tiles of the highest score; among equals
  // the nearest, then the later query tile, then the lower head. Sorted by head, q, k.
  std::vector<HeadTile> hardened_tiles(std::int64_t n) const;

  Connected connect(const Sequences& sequences) const override;
  bool learns() const override { return true; }
  // Chooses the tiles that the next steps compute where that is due, and hardens. Waits for the device where
  // it does either. Evaluation chooses its tiles anew, for the parameters have changed.
  void advance(const TrainingStage& stage) override;
  bool is_static() const override { return phase_ == LearnPhase::hardened; }
  double warmup() const override { return schedule_.warmup; }
  bool has_warmed_up() const override { return phase_ != LearnPhase::warm_up; }
  std::optional<LearnTelemetry> telemetry() const override;
  void harden() override;
  LayoutPtr hardened(std::int64_t n) const override;
  std::int64_t budget_tiles() const override { return budget_tiles(heads_.geometry.n); }
  // <name>.phase i32 [2]: the phase, and the step at which training's tiles were chosen; <name>.tiles i32
  // [tiles, 3]: head of the mechanism, query tile and key tile of the hardened layout; <name>.<..>: the
  // mechanism's own.
  ConnectivityState state() const override;
  void load_state(const ConnectivityState& state, std::uint64_t seed) override;

 protected:
  // While it learns: what sequences attend with, and what telemetry tells.
  virtual Connected connect_learning(const Sequences& sequences) const = 0;
  virtual double learning_target() const = 0;  // tiles
  // Learns from the step before, as long as it is not hardened.
  virtual void adapt(const TrainingStage&) {}
  virtual void begin_learning() {}
  // Chooses training's tiles: when learning begins, and whenever that is due again.
  virtual bool choice_is_due() const { return false; }
  virtual void choose() {}
  // The state beside phase and tiles, by names of the mechanism's own. `load_own_state` comes last; phase()
  // and stage() are known then.
  virtual ConnectivityState own_state() const { return {}; }
  virtual void load_own_state(const ConnectivityState&) {}
  // The parameters have changed: what evaluation made of them goes.
  virtual void forget_evaluation();

  // The higher, the longer a tile stays when the layout is cut to the budget.
  using TileScore = std::function<float(int head, std::int64_t q, std::int64_t k)>;
  virtual TileScore scores() const = 0;

  // All tiles that may be computed; chosen layouts have its masks.
  virtual LayoutPtr everything(std::int64_t n) const;
  std::int64_t chosen_at() const { return chosen_at_; }  // -1: never yet

 private:
  LearnedHeads heads_;
  TileBudget budget_;
  LearnSchedule schedule_;
  LearnPhase phase_ = LearnPhase::warm_up;
  TrainingStage stage_;
  std::int64_t chosen_at_ = -1;
  std::vector<HeadTile> hardened_;                        // at the length of training
  mutable std::map<std::int64_t, LayoutPtr> everything_;  // by length
  mutable std::map<std::int64_t, LayoutPtr> static_;      // once hardened, by length
};

// A list of tiles as a checkpoint holds it, i32 [tiles, 3], and back, checked: of n_heads heads and `side`
// tiles a side. `name` names it in messages.
Tensor tile_list(const std::vector<HeadTile>& tiles);
std::vector<HeadTile> read_tile_list(const Tensor& values, const std::string& name, int n_heads,
                                     std::int64_t side, bool causal);

}  // namespace filigree
