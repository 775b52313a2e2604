// The forward and the backward kernel share this: where things lie, which keys a row may see, and how tiles
// get into panels (tile_product.h) and back.
#pragma once

#include <algorithm>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "attention/cpu/tile_product.h"
#include "attention/kernels.h"

namespace filigree::cpu {

inline constexpr double kLog2E = 1.44269504088896340736;
inline constexpr double kLn2 = 0.693147180559945309417;

constexpr std::int64_t round_up(std::int64_t x, std::int64_t to) {
  return (x + to - 1) / to * to;
}

// The sizes and pointers of one call. Kernels work on S log2(e), so that exponentials are powers of two.
template <class T>
struct Problem {
  const TileLayout& layout;
  std::int64_t B, N, M, H, G, D;
  std::int64_t sharing, layout_heads;  // as in AttentionInput
  std::int64_t padded_dim;             // D, in whole lines
  std::int64_t tile;
  const T *q, *k, *v;
  std::int64_t q_stride, k_stride, v_stride;  // elements from row to row
  const T* gate;                              // nullptr: 1
  std::int64_t gate_batch_stride;
  const std::int32_t* row_bounds;  // nullptr: every key
  const T* slopes;                 // nullptr: no ALiBi
  double scale;

  explicit Problem(const AttentionInput& in)
      : layout(*in.layout),
        B(in.q.batch()),
        N(in.q.rows()),
        M(in.k.rows()),
        H(in.q.count),
        G(in.k.count),
        D(in.q.dim()),
        sharing(in.sharing()),
        layout_heads(in.layout_heads()),
        padded_dim(round_up(D, kLine<T>)),
        tile(layout.tile()),
        q(in.q.data<T>()),
        k(in.k.data<T>()),
        v(in.v.data<T>()),
        q_stride(in.q.row_stride()),
        k_stride(in.k.row_stride()),
        v_stride(in.v.row_stride()),
        gate(in.gate.defined() ? in.gate.data<T>() : nullptr),
        gate_batch_stride(in.gate.defined() && in.gate.rank() == 2 ? in.gate.dim(1) : 0),
        row_bounds(in.row_bounds.defined() ? in.row_bounds.data<std::int32_t>() : nullptr),
        slopes(in.alibi_slopes.defined() ? in.alibi_slopes.data<T>() : nullptr),
        scale(in.scale) {}

  // Where a head's row begins in q, k or v and their gradients, and in o and its gradient.
  std::int64_t q_offset(std::int64_t b, std::int64_t n, std::int64_t h) const {
    return (b * N + n) * q_stride + h * D;
  }
  std::int64_t k_offset(std::int64_t b, std::int64_t m, std::int64_t g) const {
    return (b * M + m) * k_stride + g * D;
  }
  std::int64_t v_offset(std::int64_t b, std::int64_t m, std::int64_t g) const {
    return (b * M + m) * v_stride + g * D;
  }
  std::int64_t o_offset(std::int64_t b, std::int64_t n, std::int64_t h) const {
    return ((b * N + n) * H + h) * D;
  }
  int layout_head(std::int64_t b, std::int64_t h) const { return static_cast<int>(b * layout_heads + h); }
  const TilePattern& pattern(std::int64_t b, std::int64_t h) const {
    return layout.of_head(layout_head(b, h));
  }
  T gate_of(std::int64_t b, std::int64_t h, std::int64_t t) const {
    return gate ? gate[b * gate_batch_stride + layout.gate_offset(layout_head(b, h)) + t] : T(1);
  }
  std::int64_t query_rows(std::int64_t query_tile) const { return std::min(tile, N - query_tile * tile); }
  std::int64_t key_rows(std::int64_t key_tile) const { return std::min(tile, M - key_tile * tile); }
};

// The keys [low, high) that each row of a query tile may see: the row bounds, within M.
class RowBounds {
 public:
  template <class T>
  void load(const Problem<T>& p, std::int64_t b, std::int64_t query_tile) {
    rows_ = static_cast<int>(p.query_rows(query_tile));
    const auto keys = static_cast<std::int32_t>(p.M);
    least_low_ = keys;
    greatest_high_ = 0;
    least_high_ = keys;
    greatest_low_ = 0;
    for (int r = 0; r < rows_; ++r) {
      low_[r] = 0;
      high_[r] = keys;
      if (p.row_bounds) {
        const std::int32_t* bounds = p.row_bounds + 2 * (b * p.N + query_tile * p.tile + r);
        low_[r] = std::max(bounds[0], 0);
        high_[r] = std::min(bounds[1], keys);
      }
      least_high_ = std::min(least_high_, high_[r]);
      greatest_low_ = std::max(greatest_low_, low_[r]);
      if (low_[r] >= high_[r]) continue;
      least_low_ = std::min(least_low_, low_[r]);
      greatest_high_ = std::max(greatest_high_, high_[r]);
    }
  }
  // True if some row may see a key of [begin, end).
  bool touch(std::int64_t begin, std::int64_t end) const {
    if (greatest_high_ <= begin || end <= least_low_) return false;
    for (int r = 0; r < rows_; ++r)
      if (std::max<std::int64_t>(low_[r], begin) < std::min<std::int64_t>(high_[r], end)) return true;
    return false;
  }
  // True if every row may see all of [begin, end).
  bool cover(std::int64_t begin, std::int64_t end) const {
    return greatest_low_ <= begin && end <= least_high_;
  }
  // Bit c: whether row r may see key `first` + c.
  std::uint64_t bits(int r, std::int64_t first) const {
    return r < rows_ ? ones(high_[r] - first) & ~ones(low_[r] - first) : 0;
  }

 private:
  static std::uint64_t ones(std::int64_t n) {
    return n <= 0 ? 0 : n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1;
  }
  int rows_ = 0;
  std::int32_t least_low_ = 0, greatest_high_ = 0, least_high_ = 0, greatest_low_ = 0;
  std::int32_t low_[128], high_[128];
};

// Turns the raw products of one tile into S log2(e): adds ALiBi and sets the pairs that are not allowed to
// -inf. `s`: T rows in panels, `stride` elements apart. mask_id: kFullTile or an entry of the mask table.
template <class T>
void finish_scores(const Problem<T>& p, std::int64_t h, std::int64_t query_tile, std::int64_t key_tile,
                   std::int32_t mask_id, const RowBounds& bounds, T* s, std::int64_t stride) {
  constexpr int L = kLine<T>;
  const std::int64_t first_key = key_tile * p.tile;
  if (p.slopes) {
    const Vector<T> slope = broadcast(static_cast<T>(p.slopes[h] * kLog2E));
    for (std::int64_t r = 0; r < p.tile; ++r) {
      const Vector<T> row = broadcast(static_cast<T>(query_tile * p.tile + r - first_key)) - iota<T>();
      for (std::int64_t c = 0; c < p.tile; c += kLanes<T>) {
        T* place = s + c / L * stride + r * L + c % L;
        const Vector<T> distance = row - static_cast<T>(c);
        store(place, load(place) - slope * max<T>(distance, -distance));
      }
    }
  }
  if (mask_id == kFullTile && bounds.cover(first_key, first_key + p.tile)) return;
  const Vector<T> minus_infinity = broadcast(-std::numeric_limits<T>::infinity());
  const int words = p.layout.masks().words_per_row();
  const std::uint64_t* mask = mask_id == kFullTile ? nullptr : p.layout.masks().mask(mask_id).data();
  const std::int64_t columns = std::min<std::int64_t>(p.tile, 64);  // in a word
  for (int r = 0; r < p.tile; ++r)
    for (int w = 0; w < words; ++w) {
      std::uint64_t bits = bounds.bits(r, first_key + 64 * w);
      if (mask) bits &= mask[r * words + w];
      if (bits == ~std::uint64_t{0}) continue;
      for (std::int64_t c = 0; c < columns; c += kLanes<T>) {
        T* place = s + (64 * w + c) / L * stride + r * L + c % L;
        store(place, keep<T>(bits >> c, load(place), minus_infinity));
      }
    }
}

// `rows` rows of D elements, `ld` apart, times `factor`, into rows [0, padded_rows) of panels.
template <class T>
void pack_rows(const T* from, std::int64_t ld, std::int64_t rows, std::int64_t padded_rows, std::int64_t D,
               T factor, T* to, std::int64_t stride) {
  constexpr int L = kLine<T>;
  const std::int64_t panels = D / L, rest = D % L;
  for (std::int64_t r = 0; r < rows; ++r, from += ld) {
    for (std::int64_t p = 0; p < panels; ++p)
      for (int c = 0; c < L; c += kLanes<T>)
        store(to + p * stride + r * L + c, load(from + p * L + c) * factor);
    if (rest == 0) continue;
    T* last = to + panels * stride + r * L;
    for (std::int64_t c = 0; c < L; ++c) last[c] = c < rest ? from[panels * L + c] * factor : T(0);
  }
  if (rows < padded_rows)
    for (std::int64_t p = 0; p < panels + (rest != 0); ++p)
      std::fill(to + p * stride + rows * L, to + p * stride + padded_rows * L, T(0));
}

// The transpose, D x T, of one tile of `rows` rows of D elements: panels of L rows each, padded_dim lines
// long.
template <class T>
void pack_transposed(const T* from, std::int64_t ld, std::int64_t rows, std::int64_t tile, std::int64_t D,
                     std::int64_t padded_dim, T* to) {
  constexpr int L = kLine<T>, n = kLanes<T>;
  for (std::int64_t first = 0; first < tile; first += n) {
    T* lanes = to + first / L * padded_dim * L + first % L;  // column `first` of the transpose
    const T* source = from + first * ld;
    std::int64_t d = 0;
    for (; first + n <= rows && d + n <= D; d += n) {
      Vector<T> square[n];
      for (int i = 0; i < n; ++i) square[i] = load(source + i * ld + d);
      transpose<T>(square);
      for (int i = 0; i < n; ++i) store(lanes + (d + i) * L, square[i]);
    }
    for (; d < padded_dim; ++d)
      for (int i = 0; i < n; ++i) lanes[d * L + i] = first + i < rows && d < D ? source[i * ld + d] : T(0);
  }
}

// to[r * ld + d] += factor * panels(r, d).
template <class T>
void add_rows(const T* panels, std::int64_t stride, std::int64_t rows, std::int64_t D, T factor, T* to,
              std::int64_t ld) {
  constexpr int L = kLine<T>;
  const std::int64_t whole = D / L;
  for (std::int64_t r = 0; r < rows; ++r, panels += L, to += ld) {
    for (std::int64_t p = 0; p < whole; ++p)
      for (int c = 0; c < L; c += kLanes<T>) {
        T* place = to + p * L + c;
        store(place, load(place) + load(panels + p * stride + c) * factor);
      }
    for (std::int64_t d = whole * L; d < D; ++d) to[d] += panels[whole * stride + d % L] * factor;
  }
}

// Buffers of a task, one set per running thread: a task borrows one, so that nothing is allocated per tile.
template <class T>
class ScratchPool {
 public:
  explicit ScratchPool(std::int64_t elements) : elements_(elements) {}

  class Loan {
   public:
    explicit Loan(ScratchPool& pool) : pool_(pool), memory_(pool.take()), next_(memory_.get()) {}
    ~Loan() { pool_.give(std::move(memory_)); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    T* take(std::int64_t elements) {
      T* p = next_;
      next_ += round_up(elements, kLine<T>);
      check(next_ - memory_.get() <= pool_.elements_, "attention scratch is too small");
      return p;
    }

   private:
    ScratchPool& pool_;
    typename ScratchPool::Memory memory_;
    T* next_;
  };

 private:
  struct Free {
    void operator()(T* p) const { operator delete[](p, std::align_val_t{kLineBytes}); }
  };
  using Memory = std::unique_ptr<T[], Free>;

  Memory take() {
    {
      const std::lock_guard lock(mutex_);
      if (!free_.empty()) {
        Memory memory = std::move(free_.back());
        free_.pop_back();
        return memory;
      }
    }
    const auto bytes = static_cast<std::size_t>(elements_) * sizeof(T);
    return Memory(static_cast<T*>(operator new[](bytes, std::align_val_t{kLineBytes})));
  }
  void give(Memory memory) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(memory));
  }

  std::int64_t elements_;
  std::mutex mutex_;
  std::vector<Memory> free_;
};

}  // namespace filigree::cpu
