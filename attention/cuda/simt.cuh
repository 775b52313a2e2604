// What the f32 and f64 attention kernels share. They compute with plain multiply-adds ("SIMT"), not on tensor
// cores: for comparison in true fp32, and for gradient checks in fp64.
//
// A block is 32 consecutive queries or keys of a tile. A CTA owns one block for the whole length of a work
// item and streams the blocks it meets through shared memory, two at a time (a strip) and 64 head dims at a
// time (a chunk). All three passes (forward, dq, dk with dv) are made of the same two products: of the own
// rows with the strip's (scores), and of 32 x 64 probabilities with the strip (accumulate). Each of the 128
// threads computes 4 x 4 elements of a product in registers. A wide result is made by several CTAs, a panel
// each, which all repeat the scores: else the registers would not do for D = 256.
//
// S is computed by the same operations in the same order in all passes, so P is the same bit for bit.
#pragma once

#include <limits>

#include "attention/device_layout.h"
#include "attention/kernels.h"
#include "core/cuda/cuda.h"

namespace filigree::cuda::simt {

constexpr int kThreads = 128;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kBlock = 32;
constexpr int kStrip = 2 * kBlock;
constexpr int kChunk = 64;
constexpr int kColumns = 16;  // threads along a product's columns; 4 x 4 elements each
constexpr int kRowThreads = kThreads / kColumns;
static_assert(4 * kRowThreads == kBlock && 4 * kColumns == kStrip && kChunk == kStrip);

constexpr double kLog2E = 1.44269504088896340736;
constexpr double kLn2 = 0.693147180559945309417;

// Chunks of a CTA's result.
template <class T>
inline constexpr int kPanelChunks = sizeof(T) == 4 ? 2 : 1;

// CTAs that a multiprocessor must have the registers for: while one loads, others compute.
template <class T>
inline constexpr int kResident = sizeof(T) == 4 ? 3 : 2;

// What one load or store moves.
template <class T>
inline constexpr int kWidth = 16 / static_cast<int>(sizeof(T));
template <class T>
struct alignas(16) Vector {
  T x[kWidth<T>];
};

// Rows of the strip and of the probabilities in shared memory. The extra vector keeps the rows that a warp
// reads at once in different banks.
template <class T>
inline constexpr int kStripStride = kChunk + kWidth<T>;

template <class T>
__host__ __device__ int own_stride(int dim) {
  return (dim + kWidth<T> - 1) / kWidth<T> * kWidth<T> + kWidth<T>;
}

// Shared memory of a CTA that keeps `owned` blocks of its own: those, a chunk of the strip, the
// probabilities.
template <class T>
int shared_bytes(int owned, int dim) {
  return static_cast<int>(sizeof(T)) *
         (owned * kBlock * own_stride<T>(dim) + (kStrip + kBlock) * kStripStride<T>);
}

// The heads' rows of q, k, v, o or of a gradient.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t batch_stride, row_stride;  // in elements
  int dim;
  bool aligned;  // every row begins and ends at a multiple of 16 bytes

  __device__ T* row(int b, int n, int head) const {
    return data + b * batch_stride + n * row_stride + static_cast<std::int64_t>(head) * dim;
  }
};

template <class T>
HeadRows<T> head_rows(const Heads& heads) {
  T* data = heads.data<T>();
  const std::int64_t stride = heads.row_stride();
  const bool aligned = heads.dim() % kWidth<T> == 0 && stride % kWidth<T> == 0 &&
                       reinterpret_cast<std::uintptr_t>(data) % sizeof(Vector<T>) == 0;
  return {data, heads.rows() * stride, stride, static_cast<int>(heads.dim()), aligned};
}

// The sizes and pointers of one call. Scores are in units of log 2, so that exponentials are powers of two.
template <class T>
struct Problem {
  HeadRows<const T> q, k, v;
  int B, N, M, H, G, D;
  int sharing, layout_heads;  // as in AttentionInput
  int tile, key_tiles;
  const std::int32_t *head_pattern, *columns, *mask_id, *col_offsets, *rows, *tile_of;
  const std::int64_t* gate_base;
  const std::uint32_t* masks;
  int mask_words;                  // 32-bit words per row of a mask
  const T* gate;                   // nullptr: 1
  std::int64_t gate_batch_stride;  // elements
  const std::int32_t* row_bounds;  // nullptr: every key
  const T* slopes;                 // nullptr: no ALiBi
  T scale, log2_scale;             // log2_scale = scale log2(e)

  __host__ __device__ int parts() const { return tile / kBlock; }  // blocks per tile
  __host__ __device__ int chunks() const { return (D + kChunk - 1) / kChunk; }
  __host__ __device__ int panels() const { return (chunks() + kPanelChunks<T> - 1) / kPanelChunks<T>; }
  __device__ int kv_head(int head) const { return head / (H / G); }
  __device__ int layout_head(int b, int head) const { return b * layout_heads + head; }
  __device__ T gate_of(int b, int head, int tile_number) const {
    return gate ? gate[b * gate_batch_stride + gate_base[layout_head(b, head)] + tile_number] : T(1);
  }
  __device__ T log2_slope(int head) const {
    return slopes ? static_cast<T>(static_cast<double>(slopes[head]) * kLog2E) : T(0);
  }
};

template <class T>
Problem<T> make_problem(const AttentionInput& in, const DeviceLayout& layout) {
  const TileLayout& host = *in.layout;
  Problem<T> p{};
  p.q = head_rows<const T>(in.q);
  p.k = head_rows<const T>(in.k);
  p.v = head_rows<const T>(in.v);
  p.B = static_cast<int>(in.q.batch());
  p.N = static_cast<int>(in.q.rows());
  p.M = static_cast<int>(in.k.rows());
  p.H = static_cast<int>(in.q.count);
  p.G = static_cast<int>(in.k.count);
  p.D = static_cast<int>(in.q.dim());
  p.sharing = static_cast<int>(in.sharing());
  p.layout_heads = static_cast<int>(in.layout_heads());
  p.tile = host.tile();
  p.key_tiles = static_cast<int>(host.key_tiles());
  p.head_pattern = data<std::int32_t>(layout.head_pattern);
  p.columns = data<std::int32_t>(layout.columns);
  p.mask_id = data<std::int32_t>(layout.mask_id);
  p.col_offsets = data<std::int32_t>(layout.col_offsets);
  p.rows = data<std::int32_t>(layout.rows);
  p.tile_of = data<std::int32_t>(layout.tile_of);
  p.gate_base = data<std::int64_t>(layout.gate_base);
  p.masks = data<std::uint32_t>(layout.masks);
  p.mask_words = 2 * host.masks().words_per_row();
  p.gate = data_or_null<T>(in.gate);
  p.gate_batch_stride = in.gate.defined() && in.gate.rank() == 2 ? in.gate.dim(1) : 0;
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.slopes = data_or_null<T>(in.alibi_slopes);
  p.scale = static_cast<T>(in.scale);
  p.log2_scale = static_cast<T>(in.scale * kLog2E);
  return p;
}

// Of a sequence: a head of q, or a kv head.
struct SequenceHead {
  int b, head;
};
// `shared`: which of the sequences that share the layout; `head`: of the layout, which has `heads` for each.
__device__ inline SequenceHead sequence_head(int shared, int head, int heads) {
  return {shared + head / heads, head % heads};
}

// One CTA per (work item, sequence that shares it, block of the item's tile) and panel, the longest items
// first.
struct Place {
  WorkItem item;  // its head is the sequence's
  int b, part;    // part: which block of the tile
  int first;      // query or key: that block's first
  int panel;      // which dims of the result this CTA writes
};

// `heads`: of a sequence, query heads or kv heads as the items have them.
template <class T>
__device__ Place place_of_cta(const Problem<T>& p, const WorkItem* items, int heads) {
  const int parts = p.parts();
  Place at;
  at.part = static_cast<int>(blockIdx.x) % parts;
  at.item = items[static_cast<int>(blockIdx.x) / parts / p.sharing];
  const SequenceHead of =
      sequence_head(static_cast<int>(blockIdx.x) / parts % p.sharing, at.item.head, heads);
  at.b = of.b;
  at.item.head = of.head;
  at.first = at.item.tile * p.tile + at.part * kBlock;
  at.panel = static_cast<int>(blockIdx.y);
  return at;
}

template <class... Parameters, class... Arguments>
void launch(Context context, void (*kernel)(Parameters...), std::int64_t blocks, int panels, int shared,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  check(blocks <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
  kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(panels)), kThreads,
           static_cast<std::size_t>(shared), stream(context)>>>(arguments...);
  check_launch();
}

// --- which pairs are allowed ---

struct KeyRange {  // the keys [low, high) that a query's bounds let it see, within M
  int low, high;
};

template <class T>
__device__ KeyRange key_range(const Problem<T>& p, int b, int query) {
  if (query >= p.N) return {0, 0};
  if (!p.row_bounds) return {0, p.M};
  const std::int32_t* bounds = p.row_bounds + 2 * (static_cast<std::int64_t>(b) * p.N + query);
  return {max(bounds[0], 0), max(0, min(bounds[1], p.M))};
}

__device__ inline std::uint32_t low_bits(int n) {
  return n <= 0 ? 0u : n >= 32 ? ~0u : (1u << n) - 1u;
}

// Bit c: whether the query in row `row` of the tile may see key first_key + c, which is column `column` + c.
template <class T>
__device__ std::uint32_t allowed_keys(const Problem<T>& p, int tile_number, int row, int column,
                                      KeyRange range, int first_key) {
  const std::uint32_t bits = low_bits(range.high - first_key) & ~low_bits(range.low - first_key);
  const std::int32_t id = p.mask_id[tile_number];
  if (id == kFullTile) return bits;
  const std::int64_t mask_row = static_cast<std::int64_t>(id) * p.tile + row;
  return bits & p.masks[mask_row * p.mask_words + column / 32];
}

// A block of a strip: keys (forward, dq) or queries (dk, dv). rows == 0: there is none.
template <class T>
struct Block {
  int first = 0, rows = 0;
  int head = 0;         // that its rows belong to
  int tile_number = 0;  // absolute
  int part = 0;         // of that tile
  T gate = 0;
};

// The blocks of keys that a block of queries meets, in order; those where no pair is allowed are left out,
// and those of gate 0 unless they are wanted. All warps run through them alike; lane r looks after query r.
template <class T>
class KeyBlocks {
 public:
  __device__ KeyBlocks(const Problem<T>& p, const Place& at, bool with_closed_gates)
      : tile_(at.item.begin),
        end_(at.item.end),
        row_(at.part * kBlock + static_cast<int>(threadIdx.x) % kWarp),
        with_closed_gates_(with_closed_gates),
        range_(key_range(p, at.b, at.item.tile * p.tile + row_)) {}

  // `allowed`: bit c says whether the lane's query may see the block's key c.
  __device__ bool next(const Problem<T>& p, const Place& at, Block<T>& block, std::uint32_t& allowed) {
    while (tile_ < end_) {
      const int tile = tile_, part = part_;
      if (++part_ == p.parts()) {
        part_ = 0;
        ++tile_;
      }
      const T gate = p.gate_of(at.b, at.item.head, tile);
      if (gate == 0 && !with_closed_gates_) continue;
      const int first = p.columns[tile] * p.tile + part * kBlock;
      allowed = allowed_keys(p, tile, row_, part * kBlock, range_, first);
      if (!__any_sync(kAllLanes, allowed != 0)) continue;
      block = {first, min(kBlock, p.M - first), p.kv_head(at.item.head), tile, part, gate};
      return true;
    }
    return false;
  }

 private:
  int tile_, end_;
  int part_ = 0;
  int row_;  // of the tile
  bool with_closed_gates_;
  KeyRange range_;
};

// The blocks of queries, over all query heads of the kv head, that a block of keys meets. Lane r looks after
// query r of each.
template <class T>
class QueryBlocks {
 public:
  __device__ QueryBlocks(const Problem<T>& p, const Place& at)
      : head_(at.item.head * (p.H / p.G)), left_(at.item.end - at.item.begin) {
    int skipped = at.item.begin;
    enter_column(p, at);
    while (skipped > column_end_ - entry_) {
      skipped -= column_end_ - entry_;
      ++head_;
      enter_column(p, at);
    }
    entry_ += skipped;
  }

  __device__ bool next(const Problem<T>& p, const Place& at, Block<T>& block, std::uint32_t& allowed) {
    while (left_ > 0) {
      while (entry_ == column_end_) {
        ++head_;
        enter_column(p, at);
      }
      const int entry = entry_, part = part_;
      if (++part_ == p.parts()) {
        part_ = 0;
        ++entry_;
        --left_;
      }
      const int tile = p.tile_of[entry];
      const T gate = p.gate_of(at.b, head_, tile);
      if (gate == 0) continue;
      const int first = p.rows[entry] * p.tile + part * kBlock;
      const int lane = static_cast<int>(threadIdx.x) % kWarp;
      allowed = allowed_keys(p, tile, part * kBlock + lane, at.part * kBlock,
                             key_range(p, at.b, first + lane), at.first);
      if (!__any_sync(kAllLanes, allowed != 0)) continue;
      block = {first, min(kBlock, p.N - first), head_, tile, part, gate};
      return true;
    }
    return false;
  }

 private:
  __device__ void enter_column(const Problem<T>& p, const Place& at) {
    const std::int32_t* offsets =
        p.col_offsets +
        static_cast<std::int64_t>(p.head_pattern[p.layout_head(at.b, head_)]) * (p.key_tiles + 1) +
        at.item.tile;
    entry_ = offsets[0];
    column_end_ = offsets[1];
  }

  int head_;
  int entry_ = 0, column_end_ = 0;
  int left_;  // entries of the item
  int part_ = 0;
};

// The next one or two blocks; their allowed keys go to `allowed` [kStrip], one word per query of a block.
// Returns how many there are.
template <class T, class Blocks>
__device__ int next_strip(Blocks& from, const Problem<T>& p, const Place& at, Block<T> (&blocks)[2],
                          std::uint32_t* allowed) {
  int n = 0;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    std::uint32_t word = 0;
    blocks[i] = {};
    if (from.next(p, at, blocks[i], word))
      ++n;
    else
      word = 0;
    if (static_cast<int>(threadIdx.x) / kWarp == i) allowed[threadIdx.x] = word;
  }
  return n;
}

// --- shared memory and products ---

// `n` elements, at most a vector, and zeros.
template <class T>
__device__ Vector<T> load_vector(const T* from, int n, bool aligned) {
  if (aligned) return *reinterpret_cast<const Vector<T>*>(from);
  Vector<T> v;
#pragma unroll
  for (int w = 0; w < kWidth<T>; ++w) v.x[w] = w < n ? from[w] : T(0);
  return v;
}

// Chunk `chunk` of a block's rows, zeros in the rows that it lacks.
template <class T>
__device__ void load_block(const HeadRows<const T>& from, int b, const Block<T>& block, int chunk, T* to,
                           int to_stride) {
  constexpr int kPerRow = kChunk / kWidth<T>, kLoads = kBlock * kPerRow / kThreads;
  const T* source = from.row(b, block.first, block.head) + chunk * kChunk;
  const int dims = from.dim - chunk * kChunk;
  const int d = static_cast<int>(threadIdx.x) % kPerRow * kWidth<T>;
  const int first_row = static_cast<int>(threadIdx.x) / kPerRow;
  if (d >= dims) return;
  Vector<T> loaded[kLoads];
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int row = first_row + i * (kThreads / kPerRow);
    loaded[i] = row < block.rows ? load_vector(source + row * from.row_stride + d, dims - d, from.aligned)
                                 : Vector<T>{};
  }
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const int row = first_row + i * (kThreads / kPerRow);
    *reinterpret_cast<Vector<T>*>(to + row * to_stride + d) = loaded[i];
  }
}

// All chunks of the CTA's own block.
template <class T>
__device__ void load_own(const HeadRows<const T>& from, int b, int head, int first, int n_rows, T* to) {
  const Block<T> block{.first = first, .rows = min(kBlock, n_rows - first), .head = head};
  const int stride = own_stride<T>(from.dim);
  for (int chunk = 0; chunk * kChunk < from.dim; ++chunk)
    load_block(from, b, block, chunk, to + chunk * kChunk, stride);
}

// A chunk of the strip, in place of the one before, which all threads must be done with only when they get
// here.
template <class T>
__device__ void load_strip(const HeadRows<const T>& from, int b, const Block<T> (&blocks)[2], int chunk,
                           T* strip) {
  __syncthreads();
  load_block(from, b, blocks[0], chunk, strip, kStripStride<T>);
  load_block(from, b, blocks[1], chunk, strip + kBlock * kStripStride<T>, kStripStride<T>);
  __syncthreads();
}

// The thread's 4 x 4 elements: rows row() + i; columns of scores column() + 16 j, of results 4 column() + j.
__device__ inline int row() {
  return static_cast<int>(threadIdx.x) / kColumns * 4;
}
__device__ inline int column() {
  return static_cast<int>(threadIdx.x) % kColumns;
}

template <class T>
using Tile4x4 = T[4][4];

// sums += own rows x strip^T over one chunk. `own` is the block's chunk.
template <class T>
__device__ void scores(const T* own, const T* strip, int dim, int chunk, Tile4x4<T>& sums) {
  const int stride = own_stride<T>(dim), dims = min(kChunk, dim - chunk * kChunk);
  const T* a = own + row() * stride + chunk * kChunk;
  const T* b = strip + column() * kStripStride<T>;
#pragma unroll 1
  for (int d = 0; d < dims; d += kWidth<T>) {
    Vector<T> x[4], y[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[i] = *reinterpret_cast<const Vector<T>*>(a + i * stride + d);
      y[i] = *reinterpret_cast<const Vector<T>*>(b + i * kColumns * kStripStride<T> + d);
    }
#pragma unroll
    for (int w = 0; w < kWidth<T>; ++w)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fma(x[i].x[w], y[j].x[w], sums[i][j]);
  }
}

// sums += probabilities [32, n] x strip [n, chunk].
template <class T>
__device__ void accumulate(const T* probabilities, const T* strip, int n, int dim, int chunk,
                           Tile4x4<T>& sums) {
  if (4 * column() >= dim - chunk * kChunk) return;
  const T* a = probabilities + row() * kStripStride<T>;
  const T* b = strip + 4 * column();
#pragma unroll 1
  for (int k = 0; k < n; k += kWidth<T>) {
    Vector<T> x[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = *reinterpret_cast<const Vector<T>*>(a + i * kStripStride<T> + k);
#pragma unroll
    for (int w = 0; w < kWidth<T>; ++w) {
      Vector<T> y[4 / kWidth<T>];
#pragma unroll
      for (int v = 0; v < 4 / kWidth<T>; ++v)
        y[v] = *reinterpret_cast<const Vector<T>*>(b + (k + w) * kStripStride<T> + v * kWidth<T>);
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          sums[i][j] = fma(x[i].x[w], y[j / kWidth<T>].x[j % kWidth<T>], sums[i][j]);
    }
  }
}

// A raw product -> S in units of log 2: scaled, with ALiBi; -inf where the pair is not allowed.
template <class T>
__device__ T finish_score(const Problem<T>& p, T product, bool allowed, int query, int key, T log2_slope) {
  if (!allowed) return -std::numeric_limits<T>::infinity();
  return fma(-log2_slope, static_cast<T>(abs(query - key)), product * p.log2_scale);
}

// Puts the thread's elements of the probabilities (or of dS) where accumulate() reads them.
template <class T>
__device__ void store_probabilities(const Tile4x4<T>& x, T* to) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) to[(row() + i) * kStripStride<T> + column() + kColumns * j] = x[i][j];
}

// Where a CTA's result goes: a block's rows of a tensor, or of a segment's room.
template <class T>
struct Destination {
  T* first_row;
  std::int64_t row_stride;
  int rows;
};

// The room of the item's segment for its block: [slots, sharing, tile, D].
template <class T>
__device__ std::int64_t segment_row(const Problem<T>& p, int b, int slot, int row) {
  return (static_cast<std::int64_t>(slot) * p.sharing + b % p.sharing) * p.tile + row;
}
template <class T>
__device__ Destination<T> segment_room(const Problem<T>& p, const Place& at, T* segments) {
  const std::int64_t row = segment_row(p, at.b, at.item.slot, at.part * kBlock);
  return {segments + row * p.D, p.D, kBlock};
}

// The thread's elements of the panel.
template <class T>
__device__ void write_panel(const Destination<T>& to, int panel, int dim, T factor,
                            const Tile4x4<T> (&sums)[kPanelChunks<T>]) {
#pragma unroll
  for (int c = 0; c < kPanelChunks<T>; ++c)
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int d = (panel * kPanelChunks<T> + c) * kChunk + 4 * column() + j;
        if (row() + i < to.rows && d < dim)
          to.first_row[(row() + i) * to.row_stride + d] = factor * sums[c][i][j];
      }
}

}  // namespace filigree::cuda::simt
