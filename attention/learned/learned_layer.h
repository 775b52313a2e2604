// The connectivity of one layer some or all of whose heads are learned: puts fixed heads and mechanisms
// together into what sparse_attention takes, a layout and its gate.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "attention/learned/mechanism.h"

namespace filigree {

// What a layer's mechanisms have come to, for metrics.jsonl.
struct LearnTelemetry {
  double target_tiles = 0;                   // what learning aims at now
  double expected_tiles = 0;                 // by the probabilities
  std::int64_t actual_tiles = 0;             // whose gate is not 0, without noise
  std::array<std::int64_t, 10> histogram{};  // of the gates of units, ten equal ranges of [0, 1]
  std::int64_t units = 0, dead_units = 0;    // dead: at gate 0 in every head
  double head_imbalance = 1;                 // tiles of the head with most, over the mean
};

// Values that a checkpoint holds beside the parameters.
using LearnState = std::vector<std::pair<std::string, Tensor>>;

class LearnedLayer : public Module {
 public:
  // `name` begins the names of parameters: "<name>.<first head>" where not all heads share one mechanism.
  // Error(usage) for a budget or dictionary that does not fit.
  LearnedLayer(const ParameterFactory& make, const std::string& name, PatternPtr pattern,
               const Geometry& geometry, int n_heads, int n_kv_heads, std::int64_t head_dim);

  // Whether the layout changes no more.
  bool is_static() const;
  // Where the run stands: before each step. Chooses the tiles that the next steps compute where that is due,
  // and hardens. Waits for the device where it does either.
  void advance(const LearnStage& stage);
  // Fixes the layout to the budget, now.
  void harden();

  struct Connection {
    LayoutPtr layout;
    Var gate;  // undefined: 1
  };
  // For n tokens. In training, what advance() chose, for the length of training; otherwise the gates without
  // noise and only the tiles that have one.
  Connection connect(std::int64_t n, bool training) const;
  // The parameters have changed: evaluation chooses its tiles anew.
  void forget_evaluation() const { evaluation_.clear(); }
  // What advance() chose.
  const LayoutPtr& training_layout() const { return training_.layout; }
  // The layout of n tokens as harden() would make it now.
  LayoutPtr hardened_layout(std::int64_t n) const;

  // Added to the loss while something is learning, [1]; undefined otherwise.
  Var penalty() const;
  LearnTelemetry telemetry() const;
  void visit(const Visitor& visitor) override;
  LearnState state() const;
  // Error(data) if the state is not this layer's. `seed` is the run's.
  void load_state(const LearnState& state, std::uint64_t seed);

 private:
  struct Group {
    int first_head = 0;
    std::unique_ptr<GatedMechanism> mechanism;
    LearnPhase phase = LearnPhase::warm_up;
    std::vector<HeadTile> hardened;  // at the length of training
    std::int64_t first_entry = 0;    // in the table of the layer's gates
  };
  // A layout, and for each of its tiles the entry of the table of gates; undefined: no gates.
  struct View {
    LayoutPtr layout;
    Tensor index;
  };
  // Says of a tile of a group whether it is computed.
  using Chooser = std::function<bool(const Group&, int head, std::int64_t q, std::int64_t k)>;

  const TileLayout& everything(std::int64_t n) const;
  View assemble(std::int64_t n, const Chooser& on) const;
  View choose(std::int64_t n, bool training) const;
  Chooser hardened_chooser(std::int64_t n, bool all) const;
  Var table(bool training) const;
  bool keeps_choice() const;

  PatternPtr pattern_;
  Geometry geometry_;
  int n_heads_;
  Device device_;
  DType dtype_;
  std::string name_;
  std::vector<Group> groups_;
  LearnStage stage_;
  std::int64_t chosen_at_ = -1;  // the step of the view that training uses; -1: none yet
  View training_;
  mutable std::map<std::int64_t, View> evaluation_;                         // by length
  mutable std::map<std::int64_t, std::unique_ptr<TileLayout>> everything_;  // by length
};

}  // namespace filigree
