// Forward: one task per (batch, head, query tile), longest rows first. A task walks its row of the layout in
// strips of several key tiles: S = q k^T for the strip, then the softmax of its rows, then o += P v, with a
// running maximum and sum per row (Milakov & Gimelshein 2018; Dao et al. 2022).
//
// k^T and v are packed once per call rather than once per visit of a tile, which would cost a tenth of the
// time.
#include <cmath>
#include <numeric>

#include "attention/cpu/problem.h"
#include "core/parallel.h"

namespace filigree::cpu {
namespace {

constexpr std::int64_t kStripKeys = 256;

template <class T>
class Forward {
 public:
  Forward(const AttentionInput& in, Tensor& packed, Tensor& o, Tensor& lse)
      : p_(in),
        tile_elements_(p_.tile * p_.padded_dim),
        strip_tiles_(std::max<std::int64_t>(1, kStripKeys / p_.tile)),
        score_stride_((p_.tile + 1) * L),  // one line more than needed: else a row's lines share a cache set
        packed_keys_(packed.data<T>()),
        packed_values_(packed_keys_ + p_.B * p_.G * p_.layout.key_tiles() * tile_elements_),
        o_(o.data<T>()),
        lse_(lse.data<T>()),
        scratch_(2 * tile_elements_ + strip_tiles_ * p_.tile / L * score_stride_ + 4 * p_.tile) {}

  void run() {
    const std::int64_t key_tiles = p_.layout.key_tiles();
    parallel_tasks(p_.B * p_.G * key_tiles,
                   [&](std::int64_t i) { pack(i / key_tiles / p_.G, i / key_tiles % p_.G, i % key_tiles); });
    const std::vector<std::int64_t> rows = longest_first();
    parallel_tasks(std::ssize(rows) * p_.sharing, [&](std::int64_t i) {
      const std::int64_t row = rows[i / p_.sharing];
      const std::int64_t head = row / p_.layout.query_tiles();  // of the layout
      query_tile(i % p_.sharing + head / p_.H, head % p_.H, row % p_.layout.query_tiles());
    });
  }

 private:
  static constexpr int L = kLine<T>;
  static constexpr T kMinusInfinity = -std::numeric_limits<T>::infinity();

  struct Tile {
    std::int64_t number, key_tile;
    T log2_gate;
  };

  struct Row {  // of the task: buffers
    T *q, *o, *s, *max, *sum, *strip_sum, *shrink;
  };

  std::int64_t packed_offset(std::int64_t b, std::int64_t g, std::int64_t key_tile) const {
    return ((b * p_.G + g) * p_.layout.key_tiles() + key_tile) * tile_elements_;
  }

  void pack(std::int64_t b, std::int64_t g, std::int64_t key_tile) {
    const std::int64_t first = key_tile * p_.tile, rows = p_.key_rows(key_tile);
    const std::int64_t to = packed_offset(b, g, key_tile);
    pack_transposed(p_.k + p_.k_offset(b, first, g), p_.k_stride, rows, p_.tile, p_.D, p_.padded_dim,
                    packed_keys_ + to);
    pack_rows(p_.v + p_.v_offset(b, first, g), p_.v_stride, rows, p_.tile, p_.D, T(1), packed_values_ + to,
              p_.tile * L);
  }

  // The layout's (head, query tile) pairs by descending number of tiles.
  std::vector<std::int64_t> longest_first() const {
    const std::int64_t query_tiles = p_.layout.query_tiles();
    std::vector<std::int64_t> rows(p_.layout.n_heads() * query_tiles);
    std::iota(rows.begin(), rows.end(), 0);
    const auto tiles = [&](std::int64_t row) {
      const auto& offsets = p_.layout.of_head(static_cast<int>(row / query_tiles)).row_offsets;
      return offsets[row % query_tiles + 1] - offsets[row % query_tiles];
    };
    std::stable_sort(rows.begin(), rows.end(), [&](auto a, auto b) { return tiles(a) > tiles(b); });
    return rows;
  }

  void query_tile(std::int64_t b, std::int64_t h, std::int64_t query_tile) {
    typename ScratchPool<T>::Loan scratch(scratch_);
    Row row;
    row.q = scratch.take(tile_elements_);
    row.o = scratch.take(tile_elements_);
    row.s = scratch.take(strip_tiles_ * p_.tile / L * score_stride_);
    row.max = scratch.take(p_.tile);
    row.sum = scratch.take(p_.tile);
    row.strip_sum = scratch.take(p_.tile);
    row.shrink = scratch.take(p_.tile);
    std::fill_n(row.max, p_.tile, kMinusInfinity);
    std::fill_n(row.sum, p_.tile, T(0));
    pack_rows(p_.q + p_.q_offset(b, query_tile * p_.tile, h), p_.q_stride, p_.query_rows(query_tile), p_.tile,
              p_.D, static_cast<T>(p_.scale * kLog2E), row.q, p_.tile * L);
    RowBounds bounds;
    bounds.load(p_, b, query_tile);

    const TilePattern& pattern = p_.pattern(b, h);
    std::vector<Tile> strip;
    bool first = true;
    const auto flush = [&] {
      if (strip.empty()) return;
      scores(b, h, query_tile, bounds, strip, row);
      softmax(strip, row);
      add_values(b, h, strip, first, row);
      strip.clear();
      first = false;
    };
    for (std::int64_t t = pattern.row_offsets[query_tile]; t < pattern.row_offsets[query_tile + 1]; ++t) {
      const std::int64_t key_tile = pattern.columns[t];
      const T gate = p_.gate_of(b, h, t);
      if (gate == 0 || !bounds.touch(key_tile * p_.tile, (key_tile + 1) * p_.tile)) continue;
      strip.push_back({t, key_tile, gate == 1 ? T(0) : std::log2(gate)});
      if (std::ssize(strip) == strip_tiles_) flush();
    }
    flush();
    if (first) std::fill_n(row.o, tile_elements_, T(0));
    write(b, h, query_tile, row);
  }

  void scores(std::int64_t b, std::int64_t h, std::int64_t query_tile, const RowBounds& bounds,
              const std::vector<Tile>& strip, const Row& row) {
    const TilePattern& pattern = p_.pattern(b, h);
    const auto chunks = static_cast<int>(p_.padded_dim / L);
    T* s = row.s;
    for (const Tile& tile : strip) {
      const T* keys = packed_keys_ + packed_offset(b, h / (p_.H / p_.G), tile.key_tile);
      tile_product<false, T>(p_.tile, p_.tile, {row.q, p_.tile * L}, {&keys, p_.padded_dim * L, 1, chunks},
                             {s, score_stride_}, Update::assign);
      finish_scores(p_, h, query_tile, tile.key_tile, pattern.mask_id[tile.number], bounds, s, score_stride_);
      s += p_.tile / L * score_stride_;
    }
  }

  // S -> 2^(S + log2 m - max), and the rows' new maximum and sum; `shrink` is what the old o must be scaled
  // by.
  void softmax(const std::vector<Tile>& strip, const Row& row) {
    const std::int64_t panels = p_.tile / L;
    for (std::int64_t r = 0; r < p_.tile; ++r) {
      T* s = row.s + r * L;
      Vector<T> greatest = broadcast(row.max[r]);
      for (std::size_t i = 0; i < strip.size(); ++i) {
        const Vector<T> log2_gate = broadcast(strip[i].log2_gate);
        for (std::int64_t c = 0; c < panels; ++c, s += score_stride_)
          for (int v = 0; v < L; v += kLanes<T>) greatest = max<T>(load(s + v) + log2_gate, greatest);
      }
      const T row_max = max_lanes<T>(greatest);
      const T shift = row_max == kMinusInfinity ? T(0) : row_max;  // no key yet: all powers are 0
      s = row.s + r * L;
      Vector<T> sum[kVectors] = {};
      for (std::size_t i = 0; i < strip.size(); ++i) {
        const Vector<T> offset = broadcast(strip[i].log2_gate - shift);
        for (std::int64_t c = 0; c < panels; ++c, s += score_stride_)
          for (int v = 0; v < kVectors; ++v) {
            const Vector<T> power = exp2<T>(load(s + v * kLanes<T>) + offset);
            store(s + v * kLanes<T>, power);
            sum[v] += power;
          }
      }
      for (int v = 1; v < kVectors; ++v) sum[0] += sum[v];
      row.shrink[r] = row.max[r] - shift;
      row.strip_sum[r] = sum_lanes<T>(sum[0]);
      row.max[r] = row_max;
    }
    for (std::int64_t r = 0; r < p_.tile; r += kLanes<T>) {
      const Vector<T> shrink = exp2<T>(load(row.shrink + r));
      store(row.shrink + r, shrink);
      store(row.sum + r, load(row.sum + r) * shrink + load(row.strip_sum + r));
    }
  }

  void add_values(std::int64_t b, std::int64_t h, const std::vector<Tile>& strip, bool first,
                  const Row& row) {
    const T* values[kStripKeys / 16];
    for (std::size_t i = 0; i < strip.size(); ++i)
      values[i] = packed_values_ + packed_offset(b, h / (p_.H / p_.G), strip[i].key_tile);
    tile_product<false, T>(
        p_.tile, p_.padded_dim, {row.s, score_stride_},
        {values, p_.tile * L, static_cast<int>(strip.size()), static_cast<int>(p_.tile / L)},
        {row.o, p_.tile * L}, first ? Update::assign : Update::scale_add, row.shrink);
  }

  void write(std::int64_t b, std::int64_t h, std::int64_t query_tile, const Row& row) {
    for (std::int64_t r = 0; r < p_.query_rows(query_tile); ++r) {
      const std::int64_t n = query_tile * p_.tile + r;
      // A NaN sum must stay visible, hence no comparison with > 0.
      const bool empty = row.sum[r] == 0;
      const T inverse = empty ? T(0) : 1 / row.sum[r];
      T* to = o_ + p_.o_offset(b, n, h);
      for (std::int64_t d = 0; d < p_.D; d += L) {
        const T* from = row.o + d * p_.tile + r * L;
        if (d + L <= p_.D) {
          for (int c = 0; c < L; c += kLanes<T>) store(to + d + c, load(from + c) * inverse);
        } else {
          for (std::int64_t c = 0; d + c < p_.D; ++c) to[d + c] = from[c] * inverse;
        }
      }
      lse_[(b * p_.H + h) * p_.N + n] =
          empty ? kMinusInfinity : static_cast<T>(kLn2 * (row.max[r] + std::log2(row.sum[r])));
    }
  }

  Problem<T> p_;
  std::int64_t tile_elements_, strip_tiles_, score_stride_;
  T *packed_keys_, *packed_values_, *o_, *lse_;
  ScratchPool<T> scratch_;
};

}  // namespace

void sparse_attention_forward(Context, const AttentionInput& in, Tensor& packed, Tensor& o, Tensor& lse) {
  with_float(in.dtype(), [&]<class T>(T) { Forward<T>(in, packed, o, lse).run(); });
}

}  // namespace filigree::cpu
