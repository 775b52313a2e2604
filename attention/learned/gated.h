// Gates by tile that do not depend on the text: learned_layout, learned_span. The gates of a head are entries
// of a table, one per class of tiles.
//
// The expected number of tiles is led from all down to the budget, and kept at what it should be by shifting
// all levels (logits, spans) of a mechanism's heads alike, so that they compete for the budget and for
// nothing else. A penalty with multipliers that are ascended (PruLong: Bhaskar et al. 2025) came first, and
// overshot: an adaptive optimizer moves every level by the same step whatever its worth, and a language
// model's heads were left with their diagonals before the multipliers turned (tests/bench/LEARNED.md).
#pragma once

#include "attention/learned/learned.h"

namespace filigree {

class Gated : public Learned {
 public:
  using Learned::Learned;

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

  std::optional<LearnTelemetry> telemetry() const override;
  LayoutPtr computed() const override;

 protected:
  // The number that decides about each unit, [n_heads, units]: the higher, the more of its tiles are
  // expected.
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

  Connected connect_learning(const Sequences& sequences) const override;
  double learning_target() const override;
  bool choice_is_due() const override;
  void choose() override;
  void forget_evaluation() override;
  // Beside shift, slope and sharpness <name>.chosen, where tiles stay chosen for several steps, i32 [tiles,
  // 3]: head of the mechanism, query and key tile.
  ConnectivityState own_state() const override;
  void load_own_state(const ConnectivityState& state) override;

 private:
  struct View {
    ChosenTiles chosen;
    Tensor index;  // the entries on the device, in a table whose entry 0 is 1; undefined: no gates
  };
  View view(std::int64_t n, Device device, const TileChooser& chooser) const;
  View by_gates(std::int64_t n, bool training) const;
  bool keeps_choice() const;

  double shift_ = 0, slope_ = 0;  // -d share / d shift there; 0: not aimed yet
  double sharpness_ = 1;
  View training_;                                    // what choose() chose
  mutable std::map<std::int64_t, View> evaluation_;  // by length
};

}  // namespace filigree
