// Backward in f32 and f64 (simt.cuh), in the split form: a pass over blocks of queries for dq and the gates'
// gradient, and one over blocks of keys for dk and dv. Each computes S and dP anew, and every CTA owns what
// it writes: no atomics. The segments of a long row or column leave their sums in a workspace, which is added
// up in order afterwards.
#include "attention/cuda/attention.h"
#include "attention/cuda/simt.cuh"

namespace filigree::cuda {
namespace simt {
namespace {

// e^(S - lse) of a gate near 0 may be anything; above 2^100 (f32) it is cut, so that m e^(S - lse) stays 0 at
// m = 0 and the gate's gradient finite.
template <class T>
constexpr T kGreatestExponent = sizeof(T) == 4 ? 100 : 900;

template <class T>
struct RowConstants {
  HeadRows<const T> o_grad;
  const T *lse, *delta;  // [B, H, N]

  // log2 of the row's sum. A row without keys has lse = -inf; +inf here makes all its probabilities 0.
  __device__ T log2_sum(std::int64_t row) const {
    const T x = lse[row];
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    return x == -kInfinity ? kInfinity : static_cast<T>(static_cast<double>(x) * kLog2E);
  }
};

// e^(S - lse), without the gate.
template <class T>
__device__ T probability(T score, T log2_sum) {
  const T exponent = score - log2_sum;  // NaN stays NaN below
  return exp2(exponent > kGreatestExponent<T> ? kGreatestExponent<T> : exponent);
}

template <class T>
__device__ T sum_of_warp(T x) {
#pragma unroll
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// delta [B, H, N] = rowsum(o_grad * o), a warp per row of o.
template <class T>
__global__ void __launch_bounds__(kThreads)
    delta_kernel(const T* o, const T* o_grad, std::int64_t n_rows, int N, int H, int D, T* delta) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarp) + static_cast<int>(threadIdx.x) / kWarp;
  if (row >= n_rows) return;
  T sum = 0;
  for (int d = static_cast<int>(threadIdx.x) % kWarp; d < D; d += kWarp)
    sum = fma(o[row * D + d], o_grad[row * D + d], sum);
  sum = sum_of_warp(sum);
  const std::int64_t b = row / H / N, n = row / H % N, h = row % H;
  if (threadIdx.x % kWarp == 0) delta[(b * H + h) * N + n] = sum;
}

// --- dq and the gates' gradient ---

template <class T>
struct QueryGradients {
  HeadRows<T> q;
  T* segments;    // [slots, sharing, tile, D]
  T* gate_parts;  // [sharing, gate size, query blocks, key blocks of a tile]; nullptr: not wanted
  std::int64_t gate_size;
};

// Raw products -> e^(S - lse), for rows of queries.
template <class T>
__device__ void query_probabilities(const Problem<T>& p, const Place& at, const Block<T> (&blocks)[2],
                                    const std::uint32_t* allowed, const T (&log2_sum)[4], Tile4x4<T>& s) {
  const T log2_slope = p.log2_slope(at.item.head);
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int key = column() + kColumns * (j % 2);
      const std::uint32_t bits = allowed[j / 2 * kBlock + row() + i];
      const T score = finish_score(p, s[i][j], bits >> key & 1u, at.first + row() + i,
                                   blocks[j / 2].first + key, log2_slope);
      s[i][j] = probability(score, log2_sum[i]);
    }
}

// dP -> dS, and the sum of dS / m over each of the two blocks: per warp, in `gate_sums`.
template <class T>
__device__ void query_score_gradients(const Block<T> (&blocks)[2], const T (&delta)[4], const Tile4x4<T>& p0,
                                      Tile4x4<T>& dp, T (*gate_sums)[kThreads / kWarp]) {
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    T sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 2 * b; j < 2 * b + 2; ++j) {
        const T difference = dp[i][j] - delta[i];
        sum += p0[i][j] * difference;
        dp[i][j] = blocks[b].gate * p0[i][j] * difference;
      }
    sum = sum_of_warp(sum);
    if (threadIdx.x % kWarp == 0) gate_sums[b][threadIdx.x / kWarp] = sum;
  }
}

template <class T>
__device__ void write_gate_parts(const Problem<T>& p, const Place& at, const Block<T> (&blocks)[2],
                                 const T (*gate_sums)[kThreads / kWarp], const QueryGradients<T>& to) {
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    if (static_cast<int>(threadIdx.x) != b || blocks[b].rows == 0) continue;
    const std::int64_t gate = at.b % p.sharing * to.gate_size +
                              p.gate_base[p.layout_head(at.b, at.item.head)] + blocks[b].tile_number;
    T sum = 0;
    for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += gate_sums[b][warp];
    to.gate_parts[(gate * p.parts() + at.part) * p.parts() + blocks[b].part] = sum;
  }
}

template <class T>
__device__ void write_query_gradient(const Problem<T>& p, const Place& at,
                                     const Tile4x4<T> (&sums)[kPanelChunks<T>], const QueryGradients<T>& to) {
  const bool whole = at.item.slot < 0;
  const T scale = whole ? p.scale : T(1);
  const Destination<T> rows = whole ? Destination<T>{to.q.row(at.b, at.first, at.item.head), to.q.row_stride,
                                                     min(kBlock, p.N - at.first)}
                                    : segment_room(p, at, to.segments);
  write_panel(rows, at.panel, p.D, scale, sums);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    query_gradients_kernel(const __grid_constant__ Problem<T> p, const WorkItem* items,
                           const __grid_constant__ RowConstants<T> constants,
                           const __grid_constant__ QueryGradients<T> to) {
  extern __shared__ Vector<double> room[];
  __shared__ std::uint32_t allowed[kStrip];
  __shared__ T gate_sums[2][kThreads / kWarp];
  T* const q = reinterpret_cast<T*>(room);
  T* const o_grad = q + kBlock * own_stride<T>(p.D);
  T* const strip = o_grad + kBlock * own_stride<T>(p.D);
  T* const ds = strip + kStrip * kStripStride<T>;
  const Place at = place_of_cta(p, items, p.H);
  if (at.first >= p.N) return;

  load_own(p.q, at.b, at.item.head, at.first, p.N, q);
  load_own(constants.o_grad, at.b, at.item.head, at.first, p.N, o_grad);
  T log2_sum[4], delta[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int n = min(at.first + row() + i, p.N - 1);  // rows beyond N are allowed no keys
    const std::int64_t place = (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N + n;
    log2_sum[i] = constants.log2_sum(place);
    delta[i] = constants.delta[place];
  }
  Tile4x4<T> dq[kPanelChunks<T>] = {};
  KeyBlocks<T> keys(p, at, to.gate_parts != nullptr);
  Block<T> blocks[2];
  while (const int n_blocks = next_strip(keys, p, at, blocks, allowed)) {
    Tile4x4<T> p0 = {}, dp = {};
    for (int chunk = 0; chunk < p.chunks(); ++chunk) {
      load_strip(p.k, at.b, blocks, chunk, strip);
      scores(q, strip, p.D, chunk, p0);
    }
    query_probabilities(p, at, blocks, allowed, log2_sum, p0);
    for (int chunk = 0; chunk < p.chunks(); ++chunk) {
      load_strip(p.v, at.b, blocks, chunk, strip);
      scores(o_grad, strip, p.D, chunk, dp);
    }
    query_score_gradients(blocks, delta, p0, dp, gate_sums);
    store_probabilities(dp, ds);
#pragma unroll
    for (int c = 0; c < kPanelChunks<T>; ++c) {
      const int chunk = at.panel * kPanelChunks<T> + c;
      if (chunk >= p.chunks()) break;
      load_strip(p.k, at.b, blocks, chunk, strip);  // its barrier shows dS and the gates' sums to all
      accumulate(ds, strip, n_blocks * kBlock, p.D, chunk, dq[c]);
    }
    if (to.gate_parts && at.panel == 0) write_gate_parts(p, at, blocks, gate_sums, to);
  }
  write_query_gradient(p, at, dq, to);
}

// gate_grad [sharing, S] = the sums of the tiles' blocks.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_gate_parts_kernel(const T* parts, int parts_per_tile, std::int64_t n, T* gate_grad) {
  const std::int64_t gate = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (gate >= n) return;
  T sum = 0;
  for (int i = 0; i < parts_per_tile; ++i) sum += parts[gate * parts_per_tile + i];
  gate_grad[gate] = sum;
}

// --- dk and dv ---

template <class T>
struct KeyGradients {
  HeadRows<T> k, v;
  T *k_segments, *v_segments;  // [slots, sharing, tile, D]
};

// The strip's queries' constants; rows that a block lacks get those of a row without keys.
template <class T>
__device__ void load_constants(const Problem<T>& p, int b, const Block<T> (&blocks)[2],
                               const RowConstants<T>& constants, T* log2_sum, T* delta) {
  const int lane = static_cast<int>(threadIdx.x);
  if (lane >= kWarp) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const bool present = lane < blocks[i].rows;
    const std::int64_t place =
        (static_cast<std::int64_t>(b) * p.H + blocks[i].head) * p.N + blocks[i].first + lane;
    log2_sum[i * kBlock + lane] = present ? constants.log2_sum(place) : std::numeric_limits<T>::infinity();
    delta[i * kBlock + lane] = present ? constants.delta[place] : T(0);
  }
}

// Raw products -> P = m e^(S - lse), for rows of keys.
template <class T>
__device__ void key_probabilities(const Problem<T>& p, const Place& at, const Block<T> (&blocks)[2],
                                  const std::uint32_t* allowed, const T* log2_sum, Tile4x4<T>& s) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const Block<T>& block = blocks[j / 2];
    const T log2_slope = p.log2_slope(block.head);
    const int query = column() + kColumns * (j % 2), of_strip = j / 2 * kBlock + query;
    const std::uint32_t bits = allowed[of_strip];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int key = row() + i;
      const T score =
          finish_score(p, s[i][j], bits >> key & 1u, block.first + query, at.first + key, log2_slope);
      s[i][j] = block.gate * probability(score, log2_sum[of_strip]);
    }
  }
}

// dP -> dS, written over P.
template <class T>
__device__ void key_score_gradients(const Tile4x4<T>& dp, const T* delta, T* probabilities) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int of_strip = column() + kColumns * j;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      probabilities[(row() + i) * kStripStride<T> + of_strip] *= dp[i][j] - delta[of_strip];
  }
}

template <class T>
__device__ void write_key_gradients(const Problem<T>& p, const Place& at,
                                    const Tile4x4<T> (&dk)[kPanelChunks<T>],
                                    const Tile4x4<T> (&dv)[kPanelChunks<T>], const KeyGradients<T>& to) {
  const bool whole = at.item.slot < 0;
  const T scale = whole ? p.scale : T(1);
  const int rows = min(kBlock, p.M - at.first);
  const Destination<T> k_rows =
      whole ? Destination<T>{to.k.row(at.b, at.first, at.item.head), to.k.row_stride, rows}
            : segment_room(p, at, to.k_segments);
  const Destination<T> v_rows =
      whole ? Destination<T>{to.v.row(at.b, at.first, at.item.head), to.v.row_stride, rows}
            : segment_room(p, at, to.v_segments);
  write_panel(k_rows, at.panel, p.D, scale, dk);
  write_panel(v_rows, at.panel, p.D, T(1), dv);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    key_gradients_kernel(const __grid_constant__ Problem<T> p, const WorkItem* items,
                         const __grid_constant__ RowConstants<T> constants,
                         const __grid_constant__ KeyGradients<T> to) {
  extern __shared__ Vector<double> room[];
  __shared__ std::uint32_t allowed[kStrip];
  __shared__ T log2_sum[kStrip], delta[kStrip];
  T* const k = reinterpret_cast<T*>(room);
  T* const v = k + kBlock * own_stride<T>(p.D);
  T* const strip = v + kBlock * own_stride<T>(p.D);
  T* const probabilities = strip + kStrip * kStripStride<T>;
  const Place at = place_of_cta(p, items, p.G);
  if (at.first >= p.M) return;

  load_own(p.k, at.b, at.item.head, at.first, p.M, k);
  load_own(p.v, at.b, at.item.head, at.first, p.M, v);
  Tile4x4<T> dk[kPanelChunks<T>] = {}, dv[kPanelChunks<T>] = {};
  QueryBlocks<T> queries(p, at);
  Block<T> blocks[2];
  while (const int n_blocks = next_strip(queries, p, at, blocks, allowed)) {
    load_constants(p, at.b, blocks, constants, log2_sum, delta);
    Tile4x4<T> s = {};
    for (int chunk = 0; chunk < p.chunks(); ++chunk) {
      load_strip(p.q, at.b, blocks, chunk, strip);
      scores(k, strip, p.D, chunk, s);
    }
    key_probabilities(p, at, blocks, allowed, log2_sum, s);
    store_probabilities(s, probabilities);
    Tile4x4<T> dp = {};
    for (int chunk = 0; chunk < p.chunks(); ++chunk) {
      load_strip(constants.o_grad, at.b, blocks, chunk, strip);  // its barrier shows P to all
      scores(v, strip, p.D, chunk, dp);
#pragma unroll
      for (int c = 0; c < kPanelChunks<T>; ++c)
        if (chunk == at.panel * kPanelChunks<T> + c)
          accumulate(probabilities, strip, n_blocks * kBlock, p.D, chunk, dv[c]);
    }
    __syncthreads();  // all are done with P
    key_score_gradients(dp, delta, probabilities);
#pragma unroll
    for (int c = 0; c < kPanelChunks<T>; ++c) {
      const int chunk = at.panel * kPanelChunks<T> + c;
      if (chunk >= p.chunks()) break;
      load_strip(p.q, at.b, blocks, chunk, strip);
      accumulate(probabilities, strip, n_blocks * kBlock, p.D, chunk, dk[c]);
    }
  }
  write_key_gradients(p, at, dk, dv, to);
}

// A cut row's or column's gradient = factor * the sum of its segments, in order; one CTA per row of the tile.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sum_segments_kernel(const SplitRow* splits, const __grid_constant__ Problem<T> p, int heads, int n_rows,
                        const T* segments, T factor, const __grid_constant__ HeadRows<T> to) {
  const int row = static_cast<int>(blockIdx.x) % p.tile;
  const SplitRow split = splits[static_cast<int>(blockIdx.x) / p.tile / p.sharing];
  const auto [b, head] = sequence_head(static_cast<int>(blockIdx.x) / p.tile % p.sharing, split.head, heads);
  const int n = split.tile * p.tile + row;
  if (n >= n_rows) return;
  for (int d = static_cast<int>(threadIdx.x); d < to.dim; d += kThreads) {
    T sum = 0;
    for (int s = 0; s < split.slots; ++s)
      sum += segments[segment_row(p, b, split.first_slot + s, row) * to.dim + d];
    to.row(b, n, head)[d] = factor * sum;
  }
}

// --- on the host ---

template <class T>
void sum_segments(Context context, const Problem<T>& p, const WorkList& work, int heads, int n_rows,
                  const Tensor& segments, T factor, const HeadRows<T>& to) {
  launch(context, sum_segments_kernel<T>, work.n_splits * p.sharing * p.tile, 1, 0,
         static_cast<const SplitRow*>(work.splits.raw_data()), p, heads, n_rows, data<T>(segments), factor,
         to);
}

template <class T>
void query_gradients(Context context, const Problem<T>& p, const WorkList& work,
                     const RowConstants<T>& constants, const Heads& q_grad, Tensor& gate_grad) {
  const std::int64_t parts_per_tile = p.parts() * p.parts();
  const std::int64_t n_gates = gate_grad.defined() ? gate_grad.numel() : 0;
  Tensor segments = workspace<T>(context, work.n_slots * p.sharing * p.tile * p.D);
  Tensor gate_parts = workspace<T>(context, n_gates * parts_per_tile);
  gate_parts.fill_zero();  // of blocks that are left out
  const QueryGradients<T> to{head_rows<T>(q_grad), data<T>(segments),
                             gate_grad.defined() ? data<T>(gate_parts) : nullptr,
                             gate_grad.defined() ? gate_grad.dim(1) : 0};
  launch(context, query_gradients_kernel<T>, work.n_items * p.sharing * p.parts(), p.panels(),
         shared_bytes<T>(2, p.D), p, static_cast<const WorkItem*>(work.items.raw_data()), constants, to);
  sum_segments(context, p, work, p.H, p.N, segments, p.scale, to.q);
  launch(context, sum_gate_parts_kernel<T>, divide_up(n_gates, kThreads), 1, 0, data<T>(gate_parts),
         static_cast<int>(parts_per_tile), n_gates, data_or_null<T>(gate_grad));
}

template <class T>
void key_gradients(Context context, const Problem<T>& p, const WorkList& work,
                   const RowConstants<T>& constants, const Heads& k_grad, const Heads& v_grad) {
  const std::int64_t elements = work.n_slots * p.sharing * p.tile * p.D;
  Tensor k_segments = workspace<T>(context, elements), v_segments = workspace<T>(context, elements);
  const KeyGradients<T> to{head_rows<T>(k_grad), head_rows<T>(v_grad), data<T>(k_segments),
                           data<T>(v_segments)};
  launch(context, key_gradients_kernel<T>, work.n_items * p.sharing * p.parts(), p.panels(),
         shared_bytes<T>(2, p.D), p, static_cast<const WorkItem*>(work.items.raw_data()), constants, to);
  sum_segments(context, p, work, p.G, p.M, k_segments, p.scale, to.k);
  sum_segments(context, p, work, p.G, p.M, v_segments, T(1), to.v);
}

template <class T>
void backward(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
              const Tensor& o_grad, Tensor& delta, const Heads& q_grad, const Heads& k_grad,
              const Heads& v_grad, Tensor& gate_grad) {
  const DeviceLayout& layout = in.layout->on(in.q.tensor.device(), in.layout_kv_heads());
  const Problem<T> p = make_problem<T>(in, layout);
  const std::int64_t n_rows = lse.numel();
  launch(context, delta_kernel<T>, divide_up(n_rows, kThreads / kWarp), 1, 0, data<T>(o), data<T>(o_grad),
         n_rows, p.N, p.H, p.D, data<T>(delta));
  const RowConstants<T> constants{head_rows<const T>(Heads::all(o_grad)), data<T>(lse), data<T>(delta)};
  query_gradients(context, p, layout.query_work, constants, q_grad, gate_grad);
  key_gradients(context, p, layout.key_work, constants, k_grad, v_grad);
}

}  // namespace
}  // namespace simt

void backward_simt(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                   const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad, Heads& v_grad,
                   Tensor& gate_grad) {
  with_float(in.dtype(), [&]<class T>(T) {
    simt::backward<T>(context, in, o, lse, o_grad, delta, q_grad, k_grad, v_grad, gate_grad);
  });
}

}  // namespace filigree::cuda
