// The keys and values of one layer that rows still to come can see, and attention of the newest row over
// them: what a decoder needs to make text token by token.
//
// The layout says beforehand which row of tiles computes a key tile for the last time. A tile's memory is
// taken when its first key comes and given back once that row of tiles is over; a tile that no later row
// computes is never stored. So a window of w keeps less than w + 2 T keys, global tokens stay, and a listed
// layout keeps its columns, whatever the length of the text. Each kv head keeps what its query heads need.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "attention/kernels.h"
#include "attention/sparse_attention.h"

namespace filigree {

class DecodeCache {
 public:
  // `layout`: causal, for the whole text with the tokens to come. `dtype`: f32 or f64, on the CPU.
  DecodeCache(LayoutPtr layout, std::int64_t n_sequences, std::int64_t n_kv_heads, std::int64_t head_dim,
              DType dtype);

  // Sequence s begins anew with the first `rows` keys and values of these, [1, N >= rows, G heads, D],
  // rotated by their positions.
  void begin(std::int64_t s, const Heads& k, const Heads& v, std::int64_t rows);

  // One more row of each of these sequences, all different: qkv [R, 1, H + 2 G, D] as a projection leaves it,
  // row r that of sequences[r]; q and k are rotated by their positions first if rope_theta is not 0. Keeps k
  // and v and returns o [R, 1, H, D]. The gate is [gate_size] or [R, gate_size]; options hold no row bounds
  // and ask for no lse.
  // Instead of a gate: `row_gates` [R, H, key tiles], those of the new rows' tiles.
  Tensor attend(const Tensor& qkv, std::span<const std::int64_t> sequences, double rope_theta,
                const AttentionOptions& options, const Tensor& row_gates = {});

  const TileLayout& layout() const { return *layout_; }
  std::int64_t length(std::int64_t s) const { return sequences_[s].length; }
  std::int64_t kept_keys(std::int64_t s, std::int64_t kv_head) const;
  std::int64_t bytes() const;  // of all keys and values kept

 private:
  // By key tile. A block is a tile of keys, transposed in panels (attention/cpu/decode.h), then one of
  // values.
  using Blocks = std::unordered_map<std::int32_t, Tensor>;
  struct Sequence {
    std::int64_t length = 0;
    std::vector<Blocks> heads;  // [G]
  };

  void check_rows(const Tensor& qkv, std::span<const std::int64_t> sequences,
                  const AttentionOptions& options) const;
  void drop_passed(Sequence& sequence) const;
  template <class T>
  void store(Sequence& sequence, std::int64_t g, std::int64_t row, const T* k, const T* v) const;
  template <class T>
  void attend_head(const Sequence& sequence, std::int64_t r, std::int64_t h, const T* q,
                   const AttentionOptions& options, const Tensor& row_gates, T* o) const;

  LayoutPtr layout_;
  std::int64_t n_kv_heads_, head_dim_, padded_dim_;
  DType dtype_;
  std::vector<std::vector<std::int32_t>> last_use_;  // [G][key tiles]: row of tiles, -1 where none
  std::vector<Sequence> sequences_;
};

}  // namespace filigree
