// Backward in bf16: what the two passes (backward_bf16.cuh) need beforehand, and the sums of segments after
// them.
#include "attention/cuda/attention.h"
#include "attention/cuda/backward_bf16.cuh"

namespace filigree::cuda {
namespace backward16 {
namespace {

constexpr int kThreads = 256;

// delta = rowsum(o_grad * o), and the log2 of the rows' sums, both [B, H, rows]; rows from N on have no keys.
// `lanes` threads to a row of o. Tickets begin at 0.
__global__ void __launch_bounds__(kThreads)
    row_constants_kernel(const bfloat16* o, const bfloat16* o_grad, const float* lse, std::int64_t n_rows,
                         int N, int rows, int H, int D, int lanes, float* delta, float* log2_sum,
                         int* tickets) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t place = thread / lanes;  // (b, n, head)
  const std::int64_t b = place / H / rows;
  const int unit = static_cast<int>(thread % lanes), n = static_cast<int>(place / H % rows);
  const int head = static_cast<int>(place % H);
  const bool given = place < n_rows && n < N;
  const std::int64_t row = (b * N + n) * H + head;
  if (thread < 2) tickets[thread] = 0;
  float sum = 0;
  if (given && unit < D / 8) {
    const uint4 x = *reinterpret_cast<const uint4*>(o + row * D + unit * 8);
    const uint4 y = *reinterpret_cast<const uint4*>(o_grad + row * D + unit * 8);
    const std::uint32_t a[4] = {x.x, x.y, x.z, x.w}, c[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = fmaf(__uint_as_float(a[i] << 16), __uint_as_float(c[i] << 16), sum);
      sum = fmaf(__uint_as_float(a[i] & 0xffff0000u), __uint_as_float(c[i] & 0xffff0000u), sum);
    }
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  if (place >= n_rows || unit != 0) return;
  const std::int64_t to = (b * H + head) * rows + n;
  const float log_sum = given ? lse[(b * H + head) * N + n] : -kInfinity;
  delta[to] = sum;
  // +inf makes all the probabilities of a row without keys 0.
  log2_sum[to] = log_sum == -kInfinity ? kInfinity : log_sum * kLog2E;
}

// A warp per mask.
__global__ void __launch_bounds__(kThreads)
    mask_parts_kernel(const std::uint32_t* masks, int n_masks, int tile, MaskParts* parts) {
  const int mask = static_cast<int>(blockIdx.x) * (kThreads / kWarpSize) + warp_id();
  if (mask >= n_masks) return;
  const int words = max(2, tile / 32);  // of 32 bits, in a row
  MaskParts found{0, 0};
  for (int row = lane_id(); row < tile; row += kWarpSize)
    for (int w = 0; w < words; ++w) {
      const std::uint32_t bits = masks[(static_cast<std::int64_t>(mask) * tile + row) * words + w];
      if (bits) found.of_keys |= 1u << (row / kBlock * 4 + w);
      if (bits & 0xffffu) found.of_queries |= 1u << (2 * w * 4 + row / kGroup);
      if (bits >> 16) found.of_queries |= 1u << ((2 * w + 1) * 4 + row / kGroup);
    }
  found.of_keys = __reduce_or_sync(kWholeWarp, found.of_keys);
  found.of_queries = __reduce_or_sync(kWholeWarp, found.of_queries);
  if (lane_id() == 0) parts[mask] = found;
}

// A warp per tile of queries.
__global__ void __launch_bounds__(kThreads)
    tile_bounds_kernel(const std::int32_t* row_bounds, std::int64_t n_tiles, int tiles_per_batch, int tile,
                       int N, int M, TileBounds* to) {
  const std::int64_t place = static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarpSize) + warp_id();
  if (place >= n_tiles) return;
  const std::int64_t b = place / tiles_per_batch;
  const int first = static_cast<int>(place % tiles_per_batch) * tile;
  TileBounds all{M, 0, 0, M};
  for (int n = first + lane_id(); n < min(N, first + tile); n += kWarpSize) {
    const std::int32_t* bounds = row_bounds + 2 * (b * N + n);
    const int low = max(bounds[0], 0), high = max(0, min(bounds[1], M));
    all.greatest_low = max(all.greatest_low, low);
    all.least_high = min(all.least_high, high);
    if (low >= high) continue;
    all.least_low = min(all.least_low, low);
    all.greatest_high = max(all.greatest_high, high);
  }
  all.greatest_low = __reduce_max_sync(kWholeWarp, all.greatest_low);
  all.least_high = __reduce_min_sync(kWholeWarp, all.least_high);
  all.least_low = __reduce_min_sync(kWholeWarp, all.least_low);
  all.greatest_high = __reduce_max_sync(kWholeWarp, all.greatest_high);
  if (lane_id() == 0) to[place] = all;
}

// Four neighbouring elements of a split row to each thread.
__global__ void __launch_bounds__(kThreads)
    add_segments_kernel(const SplitRow* splits, Segments segments, int kind, int sharing, int tile, int D,
                        HeadRows<bfloat16> gradient, int heads, int end) {
  const SplitRow split = splits[static_cast<int>(blockIdx.x) / sharing];
  const int shared = static_cast<int>(blockIdx.x) % sharing;
  const int b = shared + split.head / heads;
  const int element = 4 * (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x));
  const int row = split.tile * tile + element / D;
  if (element >= tile * D || row >= end) return;
  float4 sum{0, 0, 0, 0};
  for (int slot = split.first_slot; slot < split.first_slot + split.slots; ++slot) {
    const std::int64_t room = (static_cast<std::int64_t>(slot) * sharing + shared) * segments.kinds + kind;
    const float4 x = *reinterpret_cast<const float4*>(segments.data + room * tile * D + element);
    sum = {sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
  }
  *reinterpret_cast<uint2*>(gradient.at(b * end + row, split.head % heads * D + element % D)) = {
      pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w)};
}

void row_constants(Context context, const Problem& p, const Tensor& o, const Tensor& o_grad,
                   const Tensor& lse, float* delta, float* log2_sum, int* tickets) {
  const int D = static_cast<int>(o.dim(3)), lanes = D <= 64 ? 8 : 16;
  const std::int64_t n_rows = static_cast<std::int64_t>(p.B) * p.H * p.constant_rows;
  if (n_rows == 0) return;
  row_constants_kernel<<<static_cast<unsigned>(divide_up(n_rows * lanes, kThreads)), kThreads, 0,
                         stream(context)>>>(data<bfloat16>(o), data<bfloat16>(o_grad), data<float>(lse),
                                            n_rows, p.N, p.constant_rows, p.H, D, lanes, delta, log2_sum,
                                            tickets);
  check_launch();
}

void mask_parts(Context context, const Tensor& masks, int tile, MaskParts* parts) {
  const std::int64_t n = masks.dim(0);
  if (n == 0) return;
  mask_parts_kernel<<<static_cast<unsigned>(divide_up(n, kThreads / kWarpSize)), kThreads, 0,
                      stream(context)>>>(static_cast<const std::uint32_t*>(masks.raw_data()),
                                         static_cast<int>(n), tile, parts);
  check_launch();
}

void tile_bounds(Context context, const Problem& p, TileBounds* to) {
  const std::int64_t n = static_cast<std::int64_t>(p.B) * p.query_tiles;
  if (n == 0) return;
  tile_bounds_kernel<<<static_cast<unsigned>(divide_up(n, kThreads / kWarpSize)), kThreads, 0,
                       stream(context)>>>(p.row_bounds, n, p.query_tiles, p.tile, p.N, p.M, to);
  check_launch();
}

Problem make_problem(Context context, const AttentionInput& in, const DeviceLayout& layout) {
  Problem p{};
  p.q = head_rows<const bfloat16>(in.q);
  p.k = head_rows<const bfloat16>(in.k);
  p.v = head_rows<const bfloat16>(in.v);
  p.B = static_cast<int>(in.q.batch());
  p.N = static_cast<int>(in.q.rows());
  p.M = static_cast<int>(in.k.rows());
  p.H = static_cast<int>(in.q.count);
  p.G = static_cast<int>(in.k.count);
  p.sharing = static_cast<int>(in.sharing());
  p.layout_heads = static_cast<int>(in.layout_heads());
  p.tile = in.layout->tile();
  check(p.tile >= kLeastTile && p.tile <= kGreatestTile,
        "attention: the bf16 kernels were given another tile");
  p.query_tiles = static_cast<int>(in.layout->query_tiles());
  p.key_tiles = static_cast<int>(in.layout->key_tiles());
  p.multiprocessors = multiprocessors(context);
  p.head_pattern = data<std::int32_t>(layout.head_pattern);
  p.row_offsets = data<std::int32_t>(layout.row_offsets);
  p.columns = data<std::int32_t>(layout.columns);
  p.mask_id = data<std::int32_t>(layout.mask_id);
  p.col_offsets = data<std::int32_t>(layout.col_offsets);
  p.rows = data<std::int32_t>(layout.rows);
  p.tile_of = data<std::int32_t>(layout.tile_of);
  p.gate_base = data<std::int64_t>(layout.gate_base);
  p.masks = data<std::uint64_t>(layout.masks);
  p.gate = data_or_null<float>(in.gate);
  p.gate_batch_stride = in.gate.defined() && in.gate.rank() == 2 ? in.gate.dim(1) : 0;
  p.gate_size = p.layout_heads == 0 ? in.layout->gate_size() : 0;
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.slopes = data_or_null<float>(in.alibi_slopes);
  p.scale = static_cast<float>(in.scale);
  p.log2_scale = static_cast<float>(in.scale) * kLog2E;
  return p;
}

}  // namespace

void add_segments(Context context, const Problem& p, int D, const WorkList& work, const Segments& segments,
                  int kind, const HeadRows<bfloat16>& gradient, int heads, int end) {
  if (work.n_splits * p.sharing == 0) return;
  const dim3 grid(static_cast<unsigned>(work.n_splits * p.sharing),
                  static_cast<unsigned>(divide_up(p.tile * D, 4 * kThreads)));
  add_segments_kernel<<<grid, kThreads, 0, stream(context)>>>(
      static_cast<const SplitRow*>(work.splits.raw_data()), segments, kind, p.sharing, p.tile, D, gradient,
      heads, end);
  check_launch();
}

}  // namespace backward16

void backward_bf16(Context context, const AttentionInput& in, const Tensor& o, const Tensor& lse,
                   const Tensor& o_grad, Tensor& delta, Heads& q_grad, Heads& k_grad, Heads& v_grad,
                   Tensor& gate_grad) {
  using namespace backward16;
  const DeviceLayout& layout = in.layout->on(in.q.tensor.device(), in.layout_kv_heads());
  Problem p = make_problem(context, in, layout);
  if (p.B == 0) return;
  p.o_grad = head_rows<const bfloat16>(Heads::all(o_grad));
  p.q_grad = head_rows<bfloat16>(q_grad);
  p.k_grad = head_rows<bfloat16>(k_grad);
  p.v_grad = head_rows<bfloat16>(v_grad);
  p.gate_grad = data_or_null<float>(gate_grad);

  const int D = static_cast<int>(in.q.dim());
  const bool on_hopper = takes_hopper_kernels(context, D, p.tile), on_ring = on_hopper && p.tile == 128;
  p.constant_rows = on_ring ? p.query_tiles * p.tile : p.N;
  const std::int64_t n_constants = static_cast<std::int64_t>(p.B) * p.H * p.constant_rows;
  Tensor log2_sums = workspace<float>(context, n_constants), tickets = workspace<std::int32_t>(context, 2);
  Tensor deltas = p.constant_rows == p.N ? delta : workspace<float>(context, n_constants);
  row_constants(context, p, o, o_grad, lse, data<float>(deltas), data<float>(log2_sums),
                data<std::int32_t>(tickets));
  p.log2_sum = data<float>(log2_sums);
  p.delta = data<float>(deltas);
  Tensor parts = workspace<MaskParts>(context, layout.masks.dim(0));
  mask_parts(context, layout.masks, p.tile, data<MaskParts>(parts));
  p.mask_parts = data<MaskParts>(parts);
  Tensor bounds;
  if (p.row_bounds) {
    bounds = workspace<TileBounds>(context, static_cast<std::int64_t>(p.B) * p.query_tiles);
    tile_bounds(context, p, data<TileBounds>(bounds));
    p.tile_bounds = data<TileBounds>(bounds);
  }
  if (on_hopper) {
    const int rows = on_ring ? 64 : p.tile;
    const hopper::Maps maps{tensor_map(in.q, rows), tensor_map(in.k, rows), tensor_map(in.v, rows),
                            tensor_map(Heads::all(o_grad), rows)};
    if (on_ring)
      return hopper::ring_gradients(context, p, maps, D, layout, in.has_long_rows(),
                                    data<std::int32_t>(tickets));
    hopper::key_gradients(context, p, maps, D, layout.key_work);
    hopper::query_gradients(context, p, maps, D, layout.query_work);
  } else {
    key_gradients(context, p, D, layout.key_work);
    query_gradients(context, p, D, layout.query_work);
  }
}

}  // namespace filigree::cuda
