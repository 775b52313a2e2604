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

class LearnedLayer : public Connectivity {
 public:
  // `name` begins the names of parameters: "<name>.<first head>" where not all heads share one mechanism.
  // Error(usage) for a budget or dictionary that does not fit.
  LearnedLayer(const ParameterFactory& make, const std::string& name, PatternPtr pattern,
               const Geometry& geometry, int n_heads, int n_kv_heads, std::int64_t head_dim);

  Connected connect(const Sequences& sequences) const override;
  bool reads_text() const override;
  void visit(const Visitor& visitor) override;

  bool learns() const override { return true; }
  // Chooses the tiles that the next steps compute where that is due, and hardens. Waits for the device where
  // it does either. Evaluation chooses its tiles anew, for the parameters have changed.
  void advance(const TrainingStage& stage) override;
  bool is_static() const override;
  double warmup() const override;  // the greatest of the mechanisms' schedules
  bool has_warmed_up() const override;
  std::optional<LearnTelemetry> telemetry() const override;
  // What advance() chose, or of the newest routing the last sequence's.
  LayoutPtr computed() const override;

  bool can_harden() const override;
  void count_choices() override;
  void harden() override;
  LayoutPtr hardened(std::int64_t n) const override;
  std::int64_t budget_tiles() const override;

  ConnectivityState state() const override;
  void load_state(const ConnectivityState& state, std::uint64_t seed) override;

  Connected growing(std::int64_t n) const override;
  std::unique_ptr<TextReader> reader(std::int64_t n) const override;

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

  Connected connect(std::int64_t n, bool training) const;
  // For each sequence of the batch, in one layout of B H heads. Waits for the device.
  Connected connect_each(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const;
  // Of each router of the layer, what it remembers of one text.
  using Memory = std::vector<RouterMemory>;
  class Reader;
  Tensor read_rows(const Tensor& qkv, std::int64_t n, Memory& memory) const;
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
  TrainingStage stage_;
  std::int64_t chosen_at_ = -1;  // the step of the view that training uses; -1: none yet
  View training_;
  mutable LayoutPtr routed_;                         // of the newest routing, at the length of training
  mutable LayoutPtr routed_last_;                    // of its last sequence; nullptr: not made yet
  mutable std::map<std::int64_t, View> evaluation_;  // by length
  mutable std::map<std::int64_t, std::unique_ptr<Everything>> everything_;  // by length
};

}  // namespace filigree
