// The connectivity of one layer some or all of whose heads are learned: puts fixed heads and mechanisms
// together into what sparse_attention takes, a layout and its gate.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
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

class LearnedLayer : public Module {
 public:
  // `name` begins the names of parameters: "<name>.<first head>" where not all heads share one mechanism.
  // Error(usage) for a budget or dictionary that does not fit.
  LearnedLayer(const ParameterFactory& make, const std::string& name, PatternPtr pattern,
               const Geometry& geometry, int n_heads, int n_kv_heads, std::int64_t head_dim);

  // Whether the layout changes no more.
  bool is_static() const;
  bool has_learned() const;  // no mechanism is in its warm-up
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
  // Whether the tiles depend on the input now: then connect_each() takes the place of connect().
  bool routes() const;
  // For each sequence of the batch, in one layout of B H heads; q [B, N, H, D] and k [B, N, G, D] before
  // positions are applied, row_bounds as in AttentionOptions. Waits for the device.
  Connection connect_each(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const;
  // The same for texts that grow token by token: of each router of the layer, what it remembers of one text.
  using Memory = std::vector<RouterMemory>;
  // Reads rows of a text, qkv [rows, H + 2 G, D] before positions are applied; for a text of at most n
  // tokens. Returns the gates of the last row's tiles, [H, key tiles of n], f64; 0: not computed.
  Tensor read_rows(const Tensor& qkv, std::int64_t n, Memory& memory) const;
  // What may be computed of a text of n tokens.
  LayoutPtr everything_layout(std::int64_t n) const;
  // The parameters have changed: evaluation chooses its tiles anew.
  void forget_evaluation() const { evaluation_.clear(); }
  // What advance() chose, or of the newest routing the last sequence's; at the length of training.
  LayoutPtr training_layout() const;
  // The layout of n tokens as harden() would make it now.
  LayoutPtr hardened_layout(std::int64_t n) const;
  // Tiles of all heads once everything is hardened, at the length of training; of a router that stays one, at
  // most.
  std::int64_t budget_tiles() const;
  double warmup() const;    // the greatest of the mechanisms' schedules
  bool can_harden() const;  // a router first has to count what it chooses
  void start_counting();

  LearnTelemetry telemetry() const;
  void visit(const Visitor& visitor) override;
  LearnState state() const;
  // Error(data) if the state is not this layer's. `seed` is the run's.
  void load_state(const LearnState& state, std::uint64_t seed);

 private:
  struct Group {
    int first_head = 0;
    std::unique_ptr<Mechanism> mechanism;
    GatedMechanism* gated = nullptr;  // what the mechanism is, one of the two
    RoutedMechanism* routed = nullptr;
    LearnPhase phase = LearnPhase::warm_up;
    std::vector<HeadTile> hardened;  // at the length of training
    std::int64_t first_entry = 0;    // in the table of the layer's gates
    int n_heads() const { return mechanism->heads().n_heads; }
    bool routes() const { return routed && phase == LearnPhase::learning; }
  };
  // A computed tile: its mask, and the entry of its gate in the table.
  struct Choice {
    std::int32_t mask_id, entry;
  };
  // Says of a tile of a group's head, whose mask in the layout of everything is given, whether it is
  // computed.
  using Chooser = std::function<std::optional<Choice>(const Group&, int head, std::int64_t q, std::int64_t k,
                                                      std::int32_t mask_id)>;
  // A layout, and for each of its tiles the entry of the table of gates.
  struct View {
    LayoutPtr layout;
    std::vector<std::int32_t> entries;
    Tensor index;     // the entries on the device; undefined: no gates
    Chooser chooser;  // what the layout was made with
  };
  // A head's pattern, and of each of its tiles the entry of the table of gates.
  struct HeadView {
    TilePattern pattern;
    std::vector<std::int32_t> entries;
  };
  // What the routers of a layer chose for a batch, and where the gates of each begin in the table.
  struct Routings {
    std::map<const Group*, Routing> of;
    std::map<const Group*, std::int64_t> first_entries;
    std::vector<Var> gates;
  };
  // All that may be computed, and masks for routed tiles: of the rows from r on, r >= 1, and of row r alone.
  struct Everything {
    TileLayout layout;
    MaskTable masks;
    std::int32_t rows_from = 0,
                 last_rows_from = 0;  // the mask of r = 0 would be here; in the last query tile
    std::int32_t single_rows = 0;
    std::vector<std::int32_t> diagonal;  // of each query tile: the mask of its diagonal tile
  };

  const Everything& everything(std::int64_t n) const;
  const Group* group_of(int head) const;
  HeadView assemble_head(int head, const Everything& all, const Chooser& chooser) const;
  View assemble(std::int64_t n, Chooser chooser) const;
  Chooser by_gates(std::int64_t n, bool training) const;
  Chooser by_hardened(std::int64_t n, bool all) const;
  const View& view(std::int64_t n, bool training) const;
  Routings route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const;
  HeadView routed_head(const Group& group, const Everything& all, const std::vector<RoutedTile>& tiles,
                       std::int64_t first_entry) const;
  View assemble_each(std::int64_t batch, std::int64_t n, const View& others, const Routings& routings) const;
  Var table(bool training) const;
  bool keeps_choice() const;

  PatternPtr pattern_;
  Geometry geometry_;
  int n_heads_, n_kv_heads_;
  Device device_;
  DType dtype_;
  std::string name_;
  std::vector<Group> groups_;
  std::int64_t entries_ = 1;  // of the table; entry 0 is always 1
  LearnStage stage_;
  std::int64_t chosen_at_ = -1;  // the step of the view that training uses; -1: none yet
  View training_;
  mutable LayoutPtr routed_;                         // of the newest routing, at the length of training
  mutable LayoutPtr routed_last_;                    // of its last sequence; nullptr: not made yet
  mutable std::map<std::int64_t, View> evaluation_;  // by length
  mutable std::map<std::int64_t, std::unique_ptr<Everything>> everything_;  // by length
};

}  // namespace filigree
