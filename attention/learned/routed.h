// Tiles that depend on the text: block_topk. A router chooses them for each sequence by its queries and keys;
// the diagonal and the first `sinks` key tiles are always computed and have no gate. It hardens to the tiles
// that it chose most often.
#pragma once

#include <memory>

#include "attention/learned/learned.h"

namespace filigree {

// A tile that a router has chosen for some heads: the rows of query tile q from `first_row` on see key tile
// k.
struct RoutedTile {
  std::int32_t q, k, first_row;
  std::int32_t gate;   // index in Routing::gates
  bool tried = false;  // only to learn from: with gate 0, and seen by `first_row` alone
};
struct Routing {
  std::vector<std::vector<RoutedTile>> tiles;  // [B * n_kv_heads], each sorted by q, then k
  Var gates;                                   // [n], acc of q's dtype
};

class Routed : public Learned {
 public:
  using Learned::Learned;

  // q [B, N, n_heads, D], k [B, N, n_kv_heads, D], before positions are applied; row_bounds as in
  // AttentionOptions.
  virtual Routing route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const = 0;
  // Reads a text of at most n tokens while it routes.
  virtual std::unique_ptr<TextReader> text_router(std::int64_t n) const = 0;
  virtual std::int64_t sinks() const = 0;
  // Tiles of all heads that a sequence of n tokens computes at most.
  virtual std::int64_t most_tiles(std::int64_t n) const = 0;

  bool reads_text() const override { return phase() == LearnPhase::learning; }
  LayoutPtr computed() const override;
  bool can_harden() const override { return is_static() || !counts_.empty(); }
  void count_choices() override;
  std::int64_t budget_tiles() const override;
  Connected growing(std::int64_t n) const override;
  std::unique_ptr<TextReader> reader(std::int64_t n) const override {
    return reads_text() ? text_router(n) : nullptr;
  }

 protected:
  Connected connect_learning(const Sequences& sequences) const override;
  double learning_target() const override;
  void adapt(const TrainingStage& stage) override;
  void begin_learning() override;
  TileScore scores() const override;
  ConnectivityState own_state() const override;
  void load_own_state(const ConnectivityState& state) override;
  // With masks for routed tiles beyond its own.
  LayoutPtr everything(std::int64_t n) const override;

 private:
  // The layout of all tiles of a length, and where the masks of routed tiles are: those of the rows from r
  // on, r >= 1, and of row r alone.
  struct Length {
    LayoutPtr everything;
    std::int32_t rows_from = 0,
                 last_rows_from = 0;  // the mask of r = 0 would be here; in the last query tile
    std::int32_t single_rows = 0;
    std::vector<std::int32_t> diagonal;  // of each query tile: the mask of its diagonal tile
  };
  const Length& length(std::int64_t n) const;
  void count(const Routing& routing) const;
  TilePattern pattern_of(const Length& length, const std::vector<RoutedTile>& tiles,
                         std::vector<std::int32_t>& entries) const;

  mutable std::map<std::int64_t, Length> lengths_;
  mutable LayoutPtr routed_;           // of the newest batch at the length of training
  mutable std::vector<float> counts_;  // how often tiles were chosen, [G, side, side]; empty: not counted
};

}  // namespace filigree
