#include "attention/decode_cache.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention/cpu/decode.h"
#include "attention/cpu/problem.h"
#include "core/parallel.h"

namespace filigree {
namespace {

std::int64_t padded(std::int64_t head_dim, DType dtype) {
  const std::int64_t line = cpu::kLineBytes / dtype_size(dtype);
  return (head_dim + line - 1) / line * line;
}

// By kv head and key tile: the last row of tiles in which one of its query heads computes it.
std::vector<std::vector<std::int32_t>> last_uses(const TileLayout& layout, std::int64_t n_kv_heads) {
  std::vector<std::vector<std::int32_t>> result;
  const std::int64_t group = layout.n_heads() / n_kv_heads;
  for (std::int64_t g = 0; g < n_kv_heads; ++g) {
    std::vector<std::int32_t> last(layout.key_tiles(), -1);
    for (std::int64_t h = g * group; h < (g + 1) * group; ++h) {
      const TilePattern& pattern = layout.of_head(static_cast<int>(h));
      for (std::size_t c = 0; c < last.size(); ++c)
        if (pattern.col_offsets[c] < pattern.col_offsets[c + 1])
          last[c] = std::max(last[c], pattern.rows[static_cast<std::size_t>(pattern.col_offsets[c + 1]) - 1]);
    }
    result.push_back(std::move(last));
  }
  return result;
}

// The bits of row r of a tile, all of them where it is full, for the tile's first `keys` keys at most.
void allowed_bits(const TileLayout& layout, std::int32_t mask_id, std::int64_t r, std::int64_t keys,
                  std::uint64_t* bits) {
  const int words = layout.masks().words_per_row();
  keys = std::min<std::int64_t>(keys, layout.tile());
  for (int w = 0; w < words; ++w) {
    const std::int64_t there = std::clamp<std::int64_t>(keys - 64 * w, 0, 64);
    bits[w] = there == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << there) - 1;
    if (mask_id != kFullTile) bits[w] &= layout.masks().mask(mask_id)[r * words + w];
  }
}

}  // namespace

DecodeCache::DecodeCache(LayoutPtr layout, std::int64_t n_sequences, std::int64_t n_kv_heads,
                         std::int64_t head_dim, DType dtype)
    : layout_(std::move(layout)),
      n_kv_heads_(n_kv_heads),
      head_dim_(head_dim),
      padded_dim_(padded(head_dim, dtype)),
      dtype_(dtype) {
  require(layout_->causal(), "[decode] needs a causal layout");
  require(n_kv_heads >= 1 && layout_->n_heads() % n_kv_heads == 0,
          "[decode] a layout of {} heads for {} kv heads", layout_->n_heads(), n_kv_heads);
  last_use_ = last_uses(*layout_, n_kv_heads);
  sequences_.resize(n_sequences);
  for (Sequence& sequence : sequences_) sequence.heads.resize(n_kv_heads);
}

template <class T>
void DecodeCache::store(Sequence& sequence, std::int64_t g, std::int64_t row, const T* k, const T* v) const {
  constexpr int L = cpu::kLine<T>;
  const auto tile = static_cast<std::int32_t>(row / layout_->tile());
  const std::int64_t c = row % layout_->tile();
  Tensor& block = sequence.heads[g][tile];
  if (!block.defined()) block = Tensor::zeros({layout_->tile() * (head_dim_ + padded_dim_)}, dtype_);
  T* keys = block.data<T>() + c / L * head_dim_ * L + c % L;
  for (std::int64_t d = 0; d < head_dim_; ++d) keys[d * L] = k[d];
  std::copy_n(v, head_dim_, block.data<T>() + layout_->tile() * head_dim_ + c * padded_dim_);
}

void DecodeCache::begin(std::int64_t s, const Heads& k, const Heads& v, std::int64_t rows) {
  require(rows >= 1 && rows <= layout_->n_queries() && k.rows() >= rows && v.rows() >= rows,
          "[decode] {} rows of {} for a layout of {}", rows, k.rows(), layout_->n_queries());
  require(k.batch() == 1 && k.count == n_kv_heads_ && k.dim() == head_dim_ && k.tensor.dtype() == dtype_,
          "[decode] keys {} {} do not fit the cache", dtype_name(k.tensor.dtype()), k.tensor.shape().str());
  Sequence& sequence = sequences_[s];
  for (Blocks& blocks : sequence.heads) blocks.clear();
  sequence.length = rows;
  const std::int64_t tile = layout_->tile(), next = rows / tile;  // row of tiles
  with_float(dtype_, [&]<class T>(T) {
    for (std::int64_t g = 0; g < n_kv_heads_; ++g)
      for (std::int64_t row = 0; row < rows; ++row) {
        const std::int32_t last = last_use_[g][row / tile];
        if (last >= next)
          store(sequence, g, row, k.data<T>() + row * k.row_stride() + g * head_dim_,
                v.data<T>() + row * v.row_stride() + g * head_dim_);
      }
  });
}

// The row of tiles before this one is over: what it computed last goes.
void DecodeCache::drop_passed(Sequence& sequence) const {
  if (sequence.length % layout_->tile() != 0) return;
  const auto passed = static_cast<std::int32_t>(sequence.length / layout_->tile()) - 1;
  for (std::size_t g = 0; g < sequence.heads.size(); ++g)
    std::erase_if(sequence.heads[g], [&](const auto& block) { return last_use_[g][block.first] <= passed; });
}

template <class T>
void DecodeCache::attend_head(const Sequence& sequence, std::int64_t r, std::int64_t h, const T* q,
                              const AttentionOptions& options, const Tensor& row_gates, T* o) const {
  const std::int64_t tile = layout_->tile(), row = sequence.length - 1;
  const TilePattern& pattern = layout_->of_head(static_cast<int>(h));
  const Blocks& blocks = sequence.heads[h / (layout_->n_heads() / n_kv_heads_)];
  const T* gate = nullptr;
  if (options.gate.defined())
    gate = options.gate.value().data<T>() + (options.gate.rank() == 2 ? r * layout_->gate_size() : 0) +
           layout_->gate_offset(static_cast<int>(h));
  const T* of_row = row_gates.defined()
                        ? row_gates.data<T>() + (r * layout_->n_heads() + h) * layout_->key_tiles()
                        : nullptr;
  const auto gate_of = [&](std::int32_t t) {
    return of_row ? of_row[pattern.columns[t]] : gate ? gate[t] : T(1);
  };
  std::vector<cpu::KeptTile<T>> tiles;
  const auto q_tile = static_cast<std::size_t>(row / tile);
  for (auto t = pattern.row_offsets[q_tile]; t < pattern.row_offsets[q_tile + 1]; ++t) {
    const std::int64_t first = pattern.columns[t] * tile;
    const T weight = gate_of(t);
    if (weight == 0) continue;
    cpu::KeptTile<T> kept{};
    allowed_bits(*layout_, pattern.mask_id[t], row % tile, row + 1 - first, kept.allowed);
    if ((kept.allowed[0] | kept.allowed[1]) == 0) continue;
    const T* block = blocks.at(pattern.columns[t]).template data<T>();
    kept.keys = block;
    kept.values = block + tile * head_dim_;
    kept.log2_gate = weight == 1 ? T(0) : std::log2(weight);
    kept.distance = static_cast<T>(row - first);
    tiles.push_back(kept);
  }
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(head_dim_));
  std::vector<T> scaled(q, q + head_dim_);
  for (T& x : scaled) x *= static_cast<T>(scale * cpu::kLog2E);
  const T slope =
      options.alibi_slopes.defined() ? static_cast<T>(options.alibi_slopes.data<T>()[h] * cpu::kLog2E) : T(0);
  cpu::attend_row<T>(scaled.data(), head_dim_, static_cast<int>(tile), tiles, slope, o);
}

void DecodeCache::check_rows(const Tensor& qkv, std::span<const std::int64_t> sequences,
                             const AttentionOptions& options) const {
  const std::int64_t n_rows = std::ssize(sequences), H = layout_->n_heads();
  const Shape shape = {n_rows, 1, H + 2 * n_kv_heads_, head_dim_};
  require(qkv.shape() == shape && qkv.dtype() == dtype_ && qkv.device().is_cpu(),
          "[decode] qkv is {} {} on {}, expected {} {} on the cpu", dtype_name(qkv.dtype()),
          qkv.shape().str(), qkv.device().str(), dtype_name(dtype_), shape.str());
  require(!options.row_bounds.defined() && !options.lse, "[decode] knows no row bounds and gives no lse");
  if (options.gate.defined())
    require((options.gate.shape() == Shape{layout_->gate_size()} ||
             options.gate.shape() == Shape{n_rows, layout_->gate_size()}) &&
                options.gate.dtype() == dtype_,
            "[decode] gate {} for {} rows of a layout with {} gates", options.gate.shape().str(), n_rows,
            layout_->gate_size());
  for (const std::int64_t s : sequences) check(s >= 0 && s < std::ssize(sequences_), "no such sequence");
  for (const std::int64_t s : sequences)
    require(length(s) < layout_->n_queries(), "[decode] the text is full: the layout is for {} tokens",
            layout_->n_queries());
}

Tensor DecodeCache::attend(const Tensor& qkv, std::span<const std::int64_t> sequences, double rope_theta,
                           const AttentionOptions& options, const Tensor& row_gates) {
  check_rows(qkv, sequences, options);
  if (row_gates.defined())
    check(row_gates.shape() == Shape{qkv.dim(0), layout_->n_heads(), layout_->key_tiles()} &&
              row_gates.dtype() == dtype_ && !options.gate.defined(),
          "row gates that do not fit");
  const std::int64_t H = layout_->n_heads(), G = n_kv_heads_, D = head_dim_;
  Tensor rotated = qkv.clone();
  Tensor o = Tensor::empty({qkv.dim(0), 1, H, D}, dtype_);
  with_float(dtype_, [&]<class T>(T) {
    for (std::size_t r = 0; r < sequences.size(); ++r) {
      Sequence& sequence = sequences_[sequences[r]];
      Tensor qkv_row = rotated.slice(static_cast<std::int64_t>(r), static_cast<std::int64_t>(r) + 1);
      if (rope_theta != 0) rope(cpu::Context{}, qkv_row, H + G, rope_theta, sequence.length, false, qkv_row);
      const T* row = qkv_row.data<T>();
      drop_passed(sequence);
      for (std::int64_t g = 0; g < G; ++g)
        if (last_use_[g][sequence.length / layout_->tile()] >= 0)
          store(sequence, g, sequence.length, row + (H + g) * D, row + (H + G + g) * D);
      ++sequence.length;
    }
    parallel_tasks(std::ssize(sequences) * H, [&](std::int64_t i) {
      const std::int64_t r = i / H, h = i % H;
      attend_head(sequences_[sequences[r]], r, h, rotated.data<T>() + (r * (H + 2 * G) + h) * D, options,
                  row_gates, o.data<T>() + i * D);
    });
  });
  return o;
}

std::int64_t DecodeCache::kept_keys(std::int64_t s, std::int64_t kv_head) const {
  const Sequence& sequence = sequences_[s];
  std::int64_t keys = 0;
  for (const auto& [tile, block] : sequence.heads[kv_head])
    keys += std::min<std::int64_t>(layout_->tile(), sequence.length - std::int64_t{tile} * layout_->tile());
  return keys;
}

std::int64_t DecodeCache::bytes() const {
  std::int64_t total = 0;
  for (const Sequence& sequence : sequences_)
    for (const Blocks& blocks : sequence.heads)
      for (const auto& [tile, block] : blocks) total += block.bytes();
  return total;
}

}  // namespace filigree
