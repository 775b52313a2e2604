// Forward in f32 and f64 (simt.cuh): a CTA owns 32 queries and streams the keys that they meet, with a
// running maximum and sum per row (Milakov & Gimelshein 2018; Dao et al. 2022). The segments of a long row
// leave their unnormalised sums in a workspace, and a second kernel combines them.
#include "attention/cuda/attention.h"
#include "attention/cuda/simt.cuh"

namespace filigree::cuda {
namespace simt {
namespace {

template <class T>
struct ForwardResult {
  HeadRows<T> o;
  T* lse;                                        // [B, H, N]
  T *segment_o, *segment_maximum, *segment_sum;  // [slots, sharing, tile] and D
};

// Of the thread's four rows: the greatest S + log2 m so far, and this thread's share of the sum of powers.
template <class T>
struct Running {
  T maximum[4], sum[4];
};

template <class T>
__device__ T maximum_of_row(T x) {
#pragma unroll
  for (int lanes = kColumns / 2; lanes > 0; lanes /= 2) x = fmax(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}
template <class T>
__device__ T sum_of_row(T x) {
#pragma unroll
  for (int lanes = kColumns / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}

// The raw products of a strip -> S + log2 m.
template <class T>
__device__ void add_gate_and_mask(const Problem<T>& p, const Place& at, const Block<T> (&blocks)[2],
                                  const std::uint32_t* allowed, Tile4x4<T>& s) {
  const T log2_slope = p.log2_slope(at.item.head);
#pragma unroll
  for (int b = 0; b < 2; ++b) {
    const T log2_gate = blocks[b].gate == 1 ? T(0) : log2(blocks[b].gate);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bits = allowed[b * kBlock + row() + i];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int key = column() + kColumns * half;
        T& score = s[i][2 * b + half];
        score = log2_gate + finish_score(p, score, bits >> key & 1u, at.first + row() + i,
                                         blocks[b].first + key, log2_slope);
      }
    }
  }
}

// S + log2 m -> powers of two of it less the row's maximum. A new maximum shrinks what was summed before.
template <class T>
__device__ void softmax(Tile4x4<T>& s, Running<T>& running, Tile4x4<T> (&o)[kPanelChunks<T>]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T greatest = fmax(fmax(s[i][0], s[i][1]), fmax(s[i][2], s[i][3]));
    const T maximum = fmax(running.maximum[i], maximum_of_row(greatest));
    const T shift =
        maximum == -std::numeric_limits<T>::infinity() ? T(0) : maximum;  // no key yet: powers are 0
    const T shrink = exp2(running.maximum[i] - shift);
    running.maximum[i] = maximum;
    running.sum[i] *= shrink;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[i][j] = exp2(s[i][j] - shift);
      running.sum[i] += s[i][j];
    }
#pragma unroll
    for (int c = 0; c < kPanelChunks<T>; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[c][i][j] *= shrink;
  }
}

// Log of a row's sum; -inf for a row without keys. A NaN sum must stay visible, hence no comparison with > 0.
template <class T>
__device__ T log_sum(T maximum, T sum) {
  return sum == 0 ? -std::numeric_limits<T>::infinity() : static_cast<T>(kLn2) * (maximum + log2(sum));
}

template <class T>
__device__ void write_result(const Problem<T>& p, const Place& at, const Running<T>& running,
                             Tile4x4<T> (&o)[kPanelChunks<T>], const ForwardResult<T>& to) {
  const bool whole = at.item.slot < 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const T sum = sum_of_row(running.sum[i]);
    const T factor = !whole ? T(1) : sum == 0 ? T(0) : 1 / sum;
#pragma unroll
    for (int c = 0; c < kPanelChunks<T>; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[c][i][j] *= factor;
    const int n = at.first + row() + i;
    if (column() != 0 || at.panel != 0 || n >= p.N) continue;
    if (whole) {
      to.lse[(static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N + n] =
          log_sum(running.maximum[i], sum);
    } else {
      const std::int64_t place = segment_row(p, at.b, at.item.slot, at.part * kBlock + row() + i);
      to.segment_maximum[place] = running.maximum[i];
      to.segment_sum[place] = sum;
    }
  }
  const Destination<T> rows = whole ? Destination<T>{to.o.row(at.b, at.first, at.item.head), to.o.row_stride,
                                                     min(kBlock, p.N - at.first)}
                                    : segment_room(p, at, to.segment_o);
  write_panel(rows, at.panel, p.D, T(1), o);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kResident<T>)
    forward_kernel(const __grid_constant__ Problem<T> p, const WorkItem* items,
                   const __grid_constant__ ForwardResult<T> to) {
  extern __shared__ Vector<double> room[];
  __shared__ std::uint32_t allowed[kStrip];
  T* const q = reinterpret_cast<T*>(room);
  T* const strip = q + kBlock * own_stride<T>(p.D);
  T* const powers = strip + kStrip * kStripStride<T>;
  const Place at = place_of_cta(p, items, p.H);
  if (at.first >= p.N) return;

  load_own(p.q, at.b, at.item.head, at.first, p.N, q);
  Tile4x4<T> o[kPanelChunks<T>] = {};
  Running<T> running;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    running.maximum[i] = -std::numeric_limits<T>::infinity();
    running.sum[i] = 0;
  }
  KeyBlocks<T> keys(p, at, false);
  Block<T> blocks[2];
  while (const int n_blocks = next_strip(keys, p, at, blocks, allowed)) {
    Tile4x4<T> s = {};
    for (int chunk = 0; chunk < p.chunks(); ++chunk) {
      load_strip(p.k, at.b, blocks, chunk, strip);
      scores(q, strip, p.D, chunk, s);
    }
    add_gate_and_mask(p, at, blocks, allowed, s);
    softmax(s, running, o);
    store_probabilities(s, powers);
#pragma unroll
    for (int c = 0; c < kPanelChunks<T>; ++c) {
      const int chunk = at.panel * kPanelChunks<T> + c;
      if (chunk >= p.chunks()) break;
      load_strip(p.v, at.b, blocks, chunk, strip);  // its barrier shows the powers to all
      accumulate(powers, strip, n_blocks * kBlock, p.D, chunk, o[c]);
    }
  }
  write_result(p, at, running, o, to);
}

// One CTA per row of a cut tile: its segments' sums brought to a common maximum, in order.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_kernel(const __grid_constant__ Problem<T> p, const SplitRow* splits,
                   const __grid_constant__ ForwardResult<T> to) {
  const int row = static_cast<int>(blockIdx.x) % p.tile;
  const SplitRow split = splits[static_cast<int>(blockIdx.x) / p.tile / p.sharing];
  const auto [b, head] = sequence_head(static_cast<int>(blockIdx.x) / p.tile % p.sharing, split.head, p.H);
  const int n = split.tile * p.tile + row;
  if (n >= p.N) return;
  const auto place = [&, b = b](int slot) { return segment_row(p, b, split.first_slot + slot, row); };

  T maximum = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int s = 0; s < split.slots; ++s) maximum = fmax(maximum, to.segment_maximum[place(s)]);
  const T shift = maximum == -std::numeric_limits<T>::infinity() ? T(0) : maximum;
  for (int s = 0; s < split.slots; ++s)
    sum += to.segment_sum[place(s)] * exp2(to.segment_maximum[place(s)] - shift);
  const T factor = sum == 0 ? T(0) : 1 / sum;

  T* const o = to.o.row(b, n, head);
#pragma unroll 1
  for (int d = static_cast<int>(threadIdx.x); d < p.D; d += kThreads) {
    T total = 0;
    for (int s = 0; s < split.slots; ++s)
      total += to.segment_o[place(s) * p.D + d] * exp2(to.segment_maximum[place(s)] - shift);
    o[d] = total * factor;
  }
  if (threadIdx.x == 0) to.lse[(static_cast<std::int64_t>(b) * p.H + head) * p.N + n] = log_sum(maximum, sum);
}

template <class T>
void forward(Context context, const AttentionInput& in, Tensor& o, Tensor& lse) {
  const DeviceLayout& layout = in.layout->on(in.q.tensor.device(), in.layout_kv_heads());
  const WorkList& work = layout.query_work;
  const Problem<T> p = make_problem<T>(in, layout);
  const std::int64_t segment_rows = work.n_slots * p.sharing * p.tile;
  Tensor segment_o = workspace<T>(context, segment_rows * p.D);
  Tensor segment_maximum = workspace<T>(context, segment_rows),
         segment_sum = workspace<T>(context, segment_rows);
  const ForwardResult<T> to{head_rows<T>(Heads::all(o)), data<T>(lse), data<T>(segment_o),
                            data<T>(segment_maximum), data<T>(segment_sum)};
  launch(context, forward_kernel<T>, work.n_items * p.sharing * p.parts(), p.panels(),
         shared_bytes<T>(1, p.D), p, static_cast<const WorkItem*>(work.items.raw_data()), to);
  launch(context, combine_kernel<T>, work.n_splits * p.sharing * p.tile, 1, 0, p,
         static_cast<const SplitRow*>(work.splits.raw_data()), to);
}

}  // namespace
}  // namespace simt

void forward_simt(Context context, const AttentionInput& in, Tensor& o, Tensor& lse) {
  with_float(in.dtype(), [&]<class T>(T) { simt::forward<T>(context, in, o, lse); });
}

}  // namespace filigree::cuda
