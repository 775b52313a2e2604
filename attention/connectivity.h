// A Connectivity says what the heads of a layer attend with. A model has one per layer, and whoever runs,
// trains, stores, hardens or decodes it asks nothing else: for sequences of n tokens it gives a layout and,
// where it learns, the gates of the layout's tiles.
//
//   Fixed       the layouts of a pattern, by length
//   Gated       parameters decide by gates that do not depend on the text (attention/learned)
//   Routed      a router decides for each text (attention/learned)
//   per head    several of these for the heads of a layer (per_head.cpp)
//
// Another kind is a class of its own and a pattern (LearnedPattern) that makes it; the defaults below are
// those of a connectivity that never changes.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attention/pattern.h"
#include "core/module.h"

namespace filigree {

struct Connected {
  LayoutPtr layout;  // of the layer's H heads, or of B H heads where each sequence has its own
  Var gate;          // of the layout's tiles (see AttentionOptions); undefined: 1
};

// The sequences of a batch, as a connectivity sees them.
struct Sequences {
  std::int64_t n = 0;  // tokens of each
  bool training = false;
  // Only where the connectivity reads_text(): q [B, N, H, D] and k [B, N, G, D] before positions are applied,
  // row bounds as in AttentionOptions.
  Var q = {}, k = {};
  Tensor row_bounds = {};
};

// Where a training run stands.
struct TrainingStage {
  std::int64_t step = 0;  // steps done
  double progress = 0;    // step / steps of the run
  std::uint64_t seed = 0;
};

// Values that a checkpoint holds beside the parameters.
using ConnectivityState = std::vector<std::pair<std::string, Tensor>>;
// The value of that name; Error(data) if there is none.
const Tensor& find_state(const ConnectivityState& state, std::string_view name);

// The state that the learned heads of a layer have come to, for metrics.jsonl.
struct LearnTelemetry {
  double target_tiles = 0;                   // what learning aims at now
  double expected_tiles = 0;                 // by the probabilities
  std::int64_t actual_tiles = 0;             // whose gate is not 0, without noise
  std::array<std::int64_t, 10> histogram{};  // of the gates of units, ten equal ranges of [0, 1]
  std::int64_t units = 0, dead_units = 0;    // dead: at gate 0 in every head
  std::int64_t heads = 0, most_tiles = 0;    // most_tiles: of a head

  // Tiles of the head with most, over the mean.
  double head_imbalance() const {
    if (actual_tiles == 0) return 1;
    return static_cast<double>(most_tiles * heads) / static_cast<double>(actual_tiles);
  }
  LearnTelemetry& operator+=(const LearnTelemetry& other);
};

// Reads one text that grows, for a connectivity whose tiles depend on it.
class TextReader {
 public:
  virtual ~TextReader() = default;
  // The next row of the text, q [H, D] and k [G, D] before positions are applied. `choose`: gates() may be
  // asked for before this row's tile is over.
  virtual void read(const double* q, const double* k, bool choose) = 0;
  // The gates of the newest row's tiles, [H, key tiles], which are 0 before; 0: not computed.
  virtual void gates(double* of_tiles) const = 0;
};

class Connectivity : public Module {
 public:
  explicit Connectivity(const Geometry& training) : training_(training) {}
  const Geometry& training_geometry() const { return training_; }

  virtual Connected connect(const Sequences& sequences) const = 0;
  // True while tiles depend on the text.
  virtual bool reads_text() const { return false; }
  void visit(const Visitor&) override {}

  // Training. `advance` comes before each step.
  virtual bool learns() const { return false; }  // some heads learn, or have learned
  virtual void advance(const TrainingStage&) {}
  virtual bool is_static() const { return true; }  // no layout changes any more
  virtual double warmup() const { return 0; }      // the share of a run's steps after which it learns
  virtual bool has_warmed_up() const { return true; }
  virtual std::optional<LearnTelemetry> telemetry() const { return {}; }
  // The layout that a step of training computes now; where tiles depend on the text, the newest sequence's.
  virtual LayoutPtr computed() const { return connect({training_.n, true}).layout; }

  // Hardening: a static layout of what was learned. Where tiles depend on the text, count_choices() comes
  // first, and then some forward passes.
  virtual bool can_harden() const { return true; }
  virtual void count_choices() {}
  virtual void harden() {}
  virtual LayoutPtr hardened(std::int64_t n) const { return connect({n, false}).layout; }  // as it would be
  // Tiles of all heads once everything is hardened, at the length of training; at most, where they go on to
  // depend on the text.
  virtual std::int64_t budget_tiles() const { return hardened(training_.n)->gate_size(); }

  // Checkpoints. `load_state` gets the values of all layers, and the run's seed; Error(data) if its own are
  // not there or do not fit.
  virtual ConnectivityState state() const { return {}; }
  virtual void load_state(const ConnectivityState&, std::uint64_t /*seed*/) {}

  // Texts that grow token by token up to n tokens: all that their rows may compute, and, where tiles depend
  // on the text, who reads one of them.
  virtual Connected growing(std::int64_t n) const { return connect({n, false}); }
  virtual std::unique_ptr<TextReader> reader(std::int64_t /*n*/) const { return nullptr; }

 private:
  Geometry training_;
};
using ConnectivityPtr = std::shared_ptr<Connectivity>;

// The same for every sequence of a length: made at first use, and kept for some lengths.
class Fixed final : public Connectivity {
 public:
  using Make = std::function<Connected(std::int64_t n)>;
  Fixed(const Geometry& training, Make make) : Connectivity(training), make_(std::move(make)) {}
  Connected connect(const Sequences& sequences) const override;

 private:
  Make make_;
  mutable std::map<std::int64_t, Connected> made_;
};

// The patterns of a model's layers, and the layouts of what they allow: everything, where a head learns.
// Layouts are made once for each length; layers that allow the same pairs share one.
class LayerPatterns {
 public:
  LayerPatterns(std::vector<PatternPtr> layers, const Geometry& training, int n_heads)
      : layers_(std::move(layers)), training_(training), n_heads_(n_heads) {}

  const std::vector<PatternPtr>& layers() const { return layers_; }
  const Geometry& training() const { return training_; }
  int n_heads() const { return n_heads_; }
  bool learns(std::size_t layer) const;
  bool learns() const;
  std::vector<LayoutPtr> layouts(std::int64_t n) const;

 private:
  std::vector<PatternPtr> layers_;
  Geometry training_;
  int n_heads_;
  mutable std::mutex mutex_;
  mutable std::map<std::int64_t, std::vector<LayoutPtr>> layouts_;
};
using LayerPatternsPtr = std::shared_ptr<const LayerPatterns>;

// The heads of a layer that learn together.
struct LearnedHeads {
  std::string name;  // begins the names of its parameters
  int n_heads = 0;
  int n_kv_heads = 0;  // 0: not all heads of some kv heads
  std::int64_t head_dim = 0;
  Geometry geometry = {};  // of training
  std::string layer = {};  // name of the whole layer's
  int first = 0;           // of the layer's heads
};

// A pattern that is learned. It allows everything: what a model has learned is in the model.
class LearnedPattern : public Pattern {
 public:
  void row(const Geometry& g, int, std::int64_t, Intervals& out) const override { out.assign(1, {0, g.n}); }
  const LearnedPattern* learned(int) const override { return this; }
  virtual ConnectivityPtr make(const LearnedHeads& heads, const ParameterFactory& make) const = 0;
};

// Makes the connectivity of a layer. `name` begins the names of parameters: "<name>.<first head>" where not
// all heads learn together. Error(usage) for a budget or dictionary that does not fit.
ConnectivityPtr make_connectivity(const ParameterFactory& make, const std::string& name,
                                  const LayerPatternsPtr& patterns, std::size_t layer, int n_kv_heads,
                                  std::int64_t head_dim);

// The layouts of a layer, or of all of them, whatever their heads learn.
ConnectivityPtr fixed_connectivity(const LayerPatternsPtr& patterns, std::size_t layer);
std::vector<ConnectivityPtr> fixed_connectivities(const LayerPatternsPtr& patterns);

// The gates of tiles: entries of a table, index i32 [tiles] on its device.
Var pick_gates(const Var& table, const Tensor& index);

// Heads [first, first + count) of a layout, with all its masks.
LayoutPtr heads_of(const TileLayout& layout, int first, int count);

// A connectivity as it would be if it were hardened now.
ConnectivityPtr as_hardened(const ConnectivityPtr& connectivity);

// The layout of the first n tokens; n is a multiple of the tile or the whole length. Causal layouts only.
LayoutPtr leading_layout(const LayoutPtr& layout, std::int64_t n);

// A connectivity of texts that are the beginning of one of `longest` tokens: they attend as the first rows of
// that one do, for what is drawn, listed or hardened for a length is not that of a shorter one. One that
// reads the text stays as it is.
ConnectivityPtr as_beginning(const ConnectivityPtr& connectivity, std::int64_t longest);

}  // namespace filigree
