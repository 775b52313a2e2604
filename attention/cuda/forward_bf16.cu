// Forward in bf16 on tensor cores, after FlashAttention-2 (Dao 2023): a CTA owns the T queries of a work item
// and walks its row of the layout in steps of 64 keys, which lie in shared memory while the next ones arrive.
// A warp has 32 queries, so that each fragment of keys and values that it loads serves two products. T is a
// run-time size.
//
// A warp knows of each step which keys each of its queries may see: it masks nothing where all may be seen
// (full tiles are not even looked at), and computes nothing where none may.
//
// Scores are kept in units of log 2. What is subtracted from a row of them before the powers are taken
// (`shift`) follows the row's maximum only when it falls behind by more than a factor of 2^8: f32 has room
// for that, and most steps need not rescale the sums.
#include <limits>

#include "attention/cuda/attention.h"
#include "attention/cuda/forward_bf16.cuh"

namespace filigree::cuda {
namespace forward16 {
namespace {

constexpr int kResidentWarps = 8;  // of a multiprocessor: 255 registers a thread
constexpr int kMaxThreads = 128;   // a warp for every 32 queries of a tile of 128
constexpr int kCombineWarps = 4;

// --- a warp's arithmetic. Of its 32 queries a lane has rows row_of(r), r = 2 m + e: m is the product, e the
// half of it ---

__device__ int row_of(int r) {
  return 8 * r + lane_id() / 4;
}
// The lane's first column of a product, of two.
__device__ int first_column() {
  return lane_id() % 4 * 2;
}

using Scores = float[2][kStep / 8][4];  // [m][key / 8][2 e + key % 2]

// Queries as operands, in registers where there are enough.
template <int D>
struct Queries {
  static constexpr bool kKept = D <= 64;
  std::uint32_t kept[kKept ? D / 16 : 1][2][4];
  std::uint32_t address;

  __device__ explicit Queries(const char* own_queries)
      : address(shared_address(own_queries) + 2 * block_offset_across(kRowStride<D>)) {
    if constexpr (kKept) {
#pragma unroll
      for (int d = 0; d < D / 16; ++d) load(d, kept[d]);
    }
  }
  __device__ void load(int d, std::uint32_t (&a)[2][4]) const {
    load_matrices(a[0], address + 32 * d);
    load_matrices(a[1], address + row_bytes<D>(16) + 32 * d);
  }
};

// s = q k^T
template <int D>
__device__ void multiply_keys(const Queries<D>& q, std::uint32_t keys, Scores& s) {
  const std::uint32_t address = keys + 2 * block_offset_down(kRowStride<D>);
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    std::uint32_t loaded[2][4];
    if constexpr (!Queries<D>::kKept) q.load(d, loaded);
    const auto& a = Queries<D>::kKept ? q.kept[Queries<D>::kKept ? d : 0] : loaded;
#pragma unroll
    for (int n = 0; n < kStep / 16; ++n) {
      std::uint32_t k[4];
      load_matrices(k, address + row_bytes<D>(16 * n) + 32 * d);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        if (d == 0) {
          multiply(s[m][2 * n], a[m], k[0], k[1]);
          multiply(s[m][2 * n + 1], a[m], k[2], k[3]);
        } else {
          multiply_add(s[m][2 * n], a[m], k[0], k[1]);
          multiply_add(s[m][2 * n + 1], a[m], k[2], k[3]);
        }
      }
    }
  }
}

// Of the CTA.
struct Bias {
  float log2_slope;  // of ALiBi, in units of log 2
  int first_row;     // its first query
};

// Brings raw products to S + log2 m in units of log 2, if more than the scale is to be applied. Returns the
// factor, greater than 0, that is left to apply.
template <int D>
__device__ float add_bias(const Problem& p, const Shared<D>& shared, const Bias& bias, int number,
                          Scores& s) {
  const bool scale_only = !p.slopes && p.log2_scale > 0;
  if (scale_only && !p.gate) return p.log2_scale;
  const Step step = step_at(p, shared.tiles(), number);
  if (scale_only && step.halves[0].log2_gate == 0 && step.halves[1].log2_gate == 0) return p.log2_scale;
  const float log2_slope = bias.log2_slope;
  const int first_row = bias.first_row + warp_id() * kWarpRows - first_column();
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n) {
      const Half& half = step.halves[n / 4];
      const auto distance = static_cast<float>(first_row + row_of(r) - half.key);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& x = s[r / 2][n][r % 2 * 2 + c];
        x = fmaf(x, p.log2_scale,
                 half.log2_gate - log2_slope * fabsf(distance - static_cast<float>(n % 4 * 8 + c)));
      }
    }
  return 1;
}

__device__ void apply_mask(const Allowed& allowed, Scores& s) {
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t bits = __shfl_sync(kWholeWarp, allowed.bits[h], row_of(r)) >> first_column();
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (!(bits & (1u << (8 * n + c)))) s[r / 2][4 * h + n][r % 2 * 2 + c] = kMinusInfinity;
    }
}

// The lane's rows of the result: sums of 2^(S - shift), of its own columns only, and of those times v.
template <int D>
struct Sums {
  float shift[4], sum[4];
  float o[2][D / 8][4];  // [m][d / 8][2 e + d % 2]

  __device__ Sums() {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      shift[r] = std::numeric_limits<float>::lowest();  // not -inf, of which differences are NaN
      sum[r] = 0;
#pragma unroll
      for (int d = 0; d < D / 8; ++d) o[r / 2][d][r % 2 * 2] = o[r / 2][d][r % 2 * 2 + 1] = 0;
    }
  }

  __device__ void scale_row(int r, float factor) {
#pragma unroll
    for (int d = 0; d < D / 8; ++d) {
      o[r / 2][d][r % 2 * 2] *= factor;
      o[r / 2][d][r % 2 * 2 + 1] *= factor;
    }
  }
};

// Lets the shifts follow the maxima of S = factor s. A NaN is no maximum, and its power is NaN.
template <int D>
__device__ void raise_shifts(const Scores& s, float factor, Sums<D>& sums) {
  float greatest[4];
  bool behind = false;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float x = kMinusInfinity;
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
      x = fmaxf(x, fmaxf(s[r / 2][n][r % 2 * 2], s[r / 2][n][r % 2 * 2 + 1]));
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
    x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
    greatest[r] = factor * x;
    behind |= greatest[r] > sums.shift[r] + kSlack;
  }
  if (!__any_sync(kWholeWarp, behind)) return;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const float shift = fmaxf(sums.shift[r], greatest[r]);
    const float shrink = fast_exp2(sums.shift[r] - shift);
    sums.shift[r] = shift;
    sums.sum[r] *= shrink;
    sums.scale_row(r, shrink);
  }
}

// sums += 2^(S - shift), and that times v. The powers of a block of keys are taken while the tensor cores are
// busy with the block before.
template <int D>
__device__ void add_values(const Scores& s, float factor, std::uint32_t values, Sums<D>& sums) {
  const std::uint32_t address = values + 2 * block_offset_across(kRowStride<D>);
#pragma unroll
  for (int k = 0; k < kStep / 16; ++k) {
    std::uint32_t powers[2][4];
#pragma unroll
    for (int r = 0; r < 4; ++r)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float* const pair = &s[r / 2][2 * k + n][r % 2 * 2];
        const float x = fast_exp2(fmaf(pair[0], factor, -sums.shift[r]));
        const float y = fast_exp2(fmaf(pair[1], factor, -sums.shift[r]));
        sums.sum[r] += x + y;
        powers[r / 2][2 * n + r % 2] = pack_bf16(x, y);
      }
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t v[4];
      load_matrices_transposed(v, address + row_bytes<D>(16 * k) + 32 * d);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply_add(sums.o[m][2 * d], powers[m], v[0], v[1]);
        multiply_add(sums.o[m][2 * d + 1], powers[m], v[2], v[3]);
      }
    }
  }
}

// --- results ---

// The warp's rows of o go through shared memory, in place of its queries, into whole lines.
template <int D>
__device__ void write_rows(const Problem& p, const Place& at, const Sums<D>& sums, char* room) {
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    char* const row = room + row_bytes<D>(row_of(r)) + 2 * first_column();
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<std::uint32_t*>(row + 16 * d) =
          pack_bf16(sums.o[r / 2][d][r % 2 * 2], sums.o[r / 2][d][r % 2 * 2 + 1]);
  }
  __syncwarp();
  const int rows = min(kWarpRows, p.N - at.first_row), first_unit = lane_id() % kRowLanes<D> * 16;
#pragma unroll 1
  for (int row = lane_id() / kRowLanes<D>; row < rows; row += kRowsAtOnce<D>) {
    const std::int64_t n = static_cast<std::int64_t>(at.b) * p.N + at.first_row + row;
    const char* const from = room + row_bytes<D>(row) + first_unit;
    char* const to = reinterpret_cast<char*>(p.o + (n * p.H + at.item.head) * D) + first_unit;
    for_each_unit<D>([&](int unit) {
      *reinterpret_cast<uint4*>(to + unit) = *reinterpret_cast<const uint4*>(from + unit);
    });
  }
}

template <int D>
__device__ void write_segment(const Problem& p, const Place& at, const Sums<D>& sums, const float (&lse)[4]) {
  const std::int64_t first =
      (static_cast<std::int64_t>(at.item.slot) * p.sharing + at.b % p.sharing) * p.tile +
      warp_id() * kWarpRows;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const std::int64_t row = first + row_of(r);
    float* const o = p.segment_o + row * D + first_column();
#pragma unroll
    for (int d = 0; d < D / 8; ++d)
      *reinterpret_cast<float2*>(o + 8 * d) = {sums.o[r / 2][d][r % 2 * 2], sums.o[r / 2][d][r % 2 * 2 + 1]};
    if (lane_id() % 4 == 0) p.segment_lse[row] = lse[r];
  }
}

// A row without keys has o = 0 and lse = -inf. A NaN sum must stay visible, hence no comparison with > 0.
template <int D>
__device__ void write_result(const Problem& p, const Shared<D>& shared, Sums<D>& sums) {
  const Place at = place_of_cta(p);  // once more: in the loop registers are short
  float lse[4];                      // in units of log 2
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float sum = sums.sum[r];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    sums.scale_row(r, sum == 0 ? 0.0f : __fdividef(1.0f, sum));
    lse[r] = sum == 0 ? kMinusInfinity : sums.shift[r] + log2f(sum);
  }
  if (at.item.slot >= 0) return write_segment(p, at, sums, lse);
  __syncthreads();  // the queries, whose place is taken now, have been read
  write_rows(p, at, sums, shared.queries());
  float* const to = p.lse + (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N;
#pragma unroll
  for (int r = 0; r < 4; ++r)
    if (lane_id() % 4 == 0 && at.first_row + row_of(r) < p.N) to[at.first_row + row_of(r)] = kLn2 * lse[r];
}

// --- kernels ---

// Copies of keys and values. With room for two steps, both of the next step arrive during a step; with room
// for one, the values arrive during the products with the keys, and the next keys during the rest.
template <int D>
__global__ void __launch_bounds__(kMaxThreads, kResidentWarps* kWarpSize / kMaxThreads)
    forward_kernel(const __grid_constant__ Problem p) {
  extern __shared__ uint4 room[];
  __shared__ int n_tiles;
  __shared__ Bias bias;  // not in registers, which are short
  const Shared<D> shared(p, room);
  const Place at = place_of_cta(p);
  copy_rows<D>(p.q.row<D>(at.b, at.first_row, at.item.head), p.q.stride, kWarpRows, p.N - at.first_row,
               shared_address(shared.queries()), 0, 1);
  commit_copies();
  if (p.row_bounds) shared.range() = key_range(p, at.b, at.first_row + lane_id());
  if (warp_id() == 0) {
    const int n = list_tiles(p, at, shared.tiles());
    if (lane_id() == 0) {
      n_tiles = n;
      bias = {p.slopes ? static_cast<float>(p.slopes[at.item.head] * kLog2E) : 0.0f, at.item.tile * p.tile};
    }
  }
  __syncthreads();
  const int steps = (n_tiles * p.tile + kStep - 1) / kStep;
  const Copies<D> copies(p, at);
  if (steps > 0) {
    copy_masks(p, shared, 0);
    copy_step<D, true, false>(p, shared, copies, 0);
    if (p.deep) copy_step<D, false, true>(p, shared, copies, 0);
  }
  commit_copies();
  if (steps > 0)
    wait_for_copies<1>();  // but not for those
  else
    wait_for_all_copies();
  __syncwarp();
  const Queries<D> q(shared.queries());

  Sums<D> sums;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    wait_for_all_copies();
    __syncthreads();  // the step before is done with, and this one's keys are there
    if (!p.deep) {
      copy_step<D, false, true>(p, shared, copies, step);
    } else if (step + 1 < steps) {
      copy_masks(p, shared, step + 1);
      copy_step<D, true, true>(p, shared, copies, step + 1);
    }
    const Allowed allowed = allowed_keys(p, shared, step);
    if (p.deep && !allowed.any) continue;
    Scores s;
    multiply_keys(q, shared.keys(step), s);
    if (!p.deep) {
      wait_for_all_copies();
      __syncthreads();  // the keys are done with, and the values are there
      if (step + 1 < steps) {
        copy_masks(p, shared, step + 1);
        copy_step<D, true, false>(p, shared, copies, step + 1);
      }
      if (!allowed.any) continue;
    }
    const float factor = add_bias(p, shared, bias, step, s);
    if (!allowed.all) apply_mask(allowed, s);
    raise_shifts(s, factor, sums);
    add_values(s, factor, shared.values(step), sums);
  }
  write_result(p, shared, sums);
}

// A warp per query of a cut tile: its segments' results, weighted by their share of the sum, in order.
__global__ void __launch_bounds__(kCombineWarps* kWarpSize)
    combine_kernel(const __grid_constant__ Problem p, const SplitRow* splits, int D) {
  const int ctas = p.slot_rows / kCombineWarps;  // of a slot
  const int row = static_cast<int>(blockIdx.x) % ctas * kCombineWarps + warp_id();
  const int shared = static_cast<int>(blockIdx.x) / ctas % p.sharing;
  const SplitRow split = splits[static_cast<int>(blockIdx.x) / ctas / p.sharing];
  const int b = shared + split.head / p.H, head = split.head % p.H;
  const int n = split.tile * p.slot_rows + row;
  if (n >= p.N) return;
  const auto segment_row = [&](int s) {
    return (static_cast<std::int64_t>(split.first_slot + s) * p.sharing + shared) * p.slot_rows + row;
  };

  float greatest = std::numeric_limits<float>::lowest();
  for (int s = 0; s < split.slots; ++s) greatest = fmaxf(greatest, p.segment_lse[segment_row(s)]);
  float sum = 0;
  for (int s = 0; s < split.slots; ++s) sum += exp2f(p.segment_lse[segment_row(s)] - greatest);
  const float factor = sum == 0 ? 0.0f : 1.0f / sum;

  bfloat16* const o = p.o + ((static_cast<std::int64_t>(b) * p.N + n) * p.H + head) * D;
  for (int d = 2 * lane_id(); d < D; d += 2 * kWarpSize) {
    float x = 0, y = 0;
    for (int s = 0; s < split.slots; ++s) {
      const float weight = factor * exp2f(p.segment_lse[segment_row(s)] - greatest);
      const float2 pair = *reinterpret_cast<const float2*>(p.segment_o + segment_row(s) * D + d);
      x = fmaf(weight, pair.x, x);
      y = fmaf(weight, pair.y, y);
    }
    *reinterpret_cast<std::uint32_t*>(o + d) = pack_bf16(x, y);
  }
  if (lane_id() == 0)
    p.lse[(static_cast<std::int64_t>(b) * p.H + head) * p.N + n] =
        sum == 0 ? kMinusInfinity : kLn2 * (greatest + log2f(sum));
}

// --- host ---

Rows rows_of(const Heads& heads) {
  const std::int64_t stride = heads.row_stride() * 2;
  const auto* data = reinterpret_cast<const char*>(heads.data<bfloat16>());
  check(reinterpret_cast<std::uintptr_t>(data) % 16 == 0, "attention: rows are not aligned");
  check(stride <= std::numeric_limits<std::int32_t>::max(), "attention: rows are too far apart");
  return {data, heads.rows() * stride, static_cast<int>(stride)};
}

Problem make_problem(const AttentionInput& in, const DeviceLayout& layout) {
  const TileLayout& host = *in.layout;
  Problem p{};
  p.q = rows_of(in.q);
  p.k = rows_of(in.k);
  const Rows v = rows_of(in.v);
  check(v.batch_stride == p.k.batch_stride && v.stride == p.k.stride,
        "attention: k and v are laid out apart");
  p.values_at = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(v.data) -
                                          reinterpret_cast<std::uintptr_t>(p.k.data));
  p.columns = data<std::int32_t>(layout.columns);
  p.mask_id = data<std::int32_t>(layout.mask_id);
  p.gate_base = data<std::int64_t>(layout.gate_base);
  p.masks = data<std::uint32_t>(layout.masks);
  p.mask_words = 2 * host.masks().words_per_row();
  p.mask_size = 2 * host.masks().words_per_mask();
  p.gate = data_or_null<float>(in.gate);
  p.gate_batch_stride = in.gate.defined() && in.gate.rank() == 2 ? in.gate.dim(1) : 0;
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.slopes = data_or_null<float>(in.alibi_slopes);
  p.B = static_cast<int>(in.q.batch());
  p.N = static_cast<int>(in.q.rows());
  p.M = static_cast<int>(in.k.rows());
  p.H = static_cast<int>(in.q.count);
  p.sharing = static_cast<int>(in.sharing());
  p.layout_heads = static_cast<int>(in.layout_heads());
  p.heads_per_kv = static_cast<int>(in.q.count / in.k.count);
  p.tile = host.tile();
  p.tile_shift = std::countr_zero(static_cast<unsigned>(p.tile));
  p.log2_scale = static_cast<float>(in.scale * kLog2E);
  return p;
}

int attribute(Context context, cudaDeviceAttr which) {
  int value = 0;
  check_cuda(cudaDeviceGetAttribute(&value, which, context.device));
  return value;
}

// Whether a multiprocessor has the shared memory for two steps in each CTA that it has the registers for.
bool fits(Context context, int bytes, int tile) {
  bytes += 128;  // the few variables beside, and rounding
  const int ctas = kResidentWarps * kWarpRows / tile;
  return bytes <= attribute(context, cudaDevAttrMaxSharedMemoryPerBlockOptin) &&
         ctas * (bytes + attribute(context, cudaDevAttrReservedSharedMemoryPerBlock)) <=
             attribute(context, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
}

// How the CTA shares out the copies of a step.
template <int D>
void plan_copies(Problem& p) {
  p.copy_keys = std::min(p.tile, kStep);
  p.copy_rows = p.tile / kWarpRows * kRowsAtOnce<D>;
  p.copy_passes = p.copy_keys / p.copy_rows;
  check(p.copy_passes > 0 && p.copy_passes % 2 == 0, "attention: copies go by two passes");
  p.copy_advance = std::int64_t{p.copy_rows} * p.k.stride;
  p.copy_shared_advance = static_cast<std::uint32_t>(row_bytes<D>(p.copy_rows));
}

unsigned grid_size(std::int64_t ctas) {
  check(ctas <= std::numeric_limits<std::int32_t>::max(), "attention: too many work items for a launch");
  return static_cast<unsigned>(ctas);
}

template <int D>
void launch_forward(Context context, Problem p, std::int64_t n_items) {
  p.deep = fits(context, shared_layout<D>(p.tile, true).bytes, p.tile);
  p.shared = shared_layout<D>(p.tile, p.deep);
  plan_copies<D>(p);
  check_cuda(
      cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared.bytes));
  forward_kernel<D><<<grid_size(n_items * p.sharing), static_cast<unsigned>(p.tile / kWarpRows * kWarpSize),
                      static_cast<std::size_t>(p.shared.bytes), stream(context)>>>(p);
  check_launch();
}

void launch_forward(Context context, const Problem& p, std::int64_t n_items, int D) {
  switch (D) {
    case 32:
      return launch_forward<32>(context, p, n_items);
    case 48:
      return launch_forward<48>(context, p, n_items);
    case 64:
      return launch_forward<64>(context, p, n_items);
    case 80:
      return launch_forward<80>(context, p, n_items);
    case 96:
      return launch_forward<96>(context, p, n_items);
    case 112:
      return launch_forward<112>(context, p, n_items);
    case 128:
      return launch_forward<128>(context, p, n_items);
  }
  check(false, "attention: a head dim that the dispatcher should have refused");
}

}  // namespace
}  // namespace forward16

void forward_bf16(Context context, const AttentionInput& in, Tensor& o, Tensor& lse) {
  using namespace forward16;
  const Device device = in.q.tensor.device();
  const DeviceLayout& layout = in.layout->on(device, in.layout_kv_heads());
  const int D = static_cast<int>(in.q.dim());
  Problem p = make_problem(in, layout);
  if (p.B == 0) return;
  const QueryVisits* const visits =
      takes_hopper_kernels(context, D, p.tile) ? &in.layout->visits(device, visit_blocks(D)) : nullptr;
  const WorkList& work = visits ? visits->work : layout.query_work;
  p.items = static_cast<const WorkItem*>(work.items.raw_data());
  p.slot_rows = visits ? visit_blocks(D) * kVisitBlock : p.tile;
  const std::int64_t segment_rows = work.n_slots * p.sharing * p.slot_rows;
  Tensor segment_o = workspace<float>(context, segment_rows * D);
  Tensor segment_lse = workspace<float>(context, segment_rows);
  p.segment_o = data<float>(segment_o);
  p.segment_lse = data<float>(segment_lse);
  p.o = data<bfloat16>(o);
  p.lse = data<float>(lse);
  if (visits)
    launch_hopper(context, p, in, *visits);
  else
    launch_forward(context, p, work.n_items, D);
  if (work.n_splits == 0) return;
  combine_kernel<<<grid_size(work.n_splits * p.sharing * (p.slot_rows / kCombineWarps)),
                   kCombineWarps * kWarpSize, 0, stream(context)>>>(
      p, static_cast<const SplitRow*>(work.splits.raw_data()), D);
  check_launch();
}

}  // namespace filigree::cuda
