// Forward in bf16 on tensor cores, after FlashAttention-2 (Dao 2023): a CTA owns the T queries of a work item
// and walks its row of the layout in steps of 64 keys, which lie in shared memory while the next ones arrive;
// after a short row it goes on with another, which has begun to arrive by then.
// A warp has 32 queries, so that each fragment of keys and values that it loads serves two products. T is a
// run-time size.
//
// A warp knows of each step which keys each of its queries may see: it masks nothing where all may be seen
// (full tiles are not even looked at), and computes nothing where none may, be it a step or a half of one.
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
constexpr float kSlack = 8;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLn2 = 0.693147180559945309417f;

// --- a warp's arithmetic. Of its 32 queries a lane has rows row_of(r), r = 2 m + e: m is the product, e the
// half of it ---

__device__ int row_of(int r) {
  return 8 * r + lane_id() / 4;
}
// The lane's first column of a product, of two.
__device__ int first_column() {
  return lane_id() % 4 * 2;
}

// Of a step's keys, or those of a half of it: [m][key / 8][2 e + key % 2].
template <int keys>
using Scores = float[2][keys / 8][4];

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
template <int D, int n_keys>
__device__ void multiply_keys(const Queries<D>& q, std::uint32_t keys, Scores<n_keys>& s) {
  const std::uint32_t address = keys + 2 * block_offset_down(kRowStride<D>);
#pragma unroll
  for (int d = 0; d < D / 16; ++d) {
    std::uint32_t loaded[2][4];
    if constexpr (!Queries<D>::kKept) q.load(d, loaded);
    const auto& a = Queries<D>::kKept ? q.kept[Queries<D>::kKept ? d : 0] : loaded;
#pragma unroll
    for (int n = 0; n < n_keys / 16; ++n) {
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

// Brings raw products to S + log2 m in units of log 2, if more than the scale is to be applied. Returns the
// factor, greater than 0, that is left to apply.
template <int D, int n_keys>
__device__ float add_bias(const Problem& p, const Shared<D>& shared, const ChainedItem& item, int slot,
                          Scores<n_keys>& s) {
  const bool scale_only = !p.slopes && p.log2_scale > 0;
  if (scale_only && !p.gate) return p.log2_scale;
  const Half halves[2] = {half_at(p, shared.tiles(), slot),
                          half_at(p, shared.tiles(), slot + n_keys - kHalf)};
  if (scale_only && halves[0].log2_gate == 0 && halves[1].log2_gate == 0) return p.log2_scale;
  const float log2_slope = item.log2_slope;
  const int first_row = item.item.tile * p.tile + warp_id() * kWarpRows - first_column();
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int n = 0; n < n_keys / 8; ++n) {
      const Half& half = halves[n / 4];
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

template <int n_keys>
__device__ void apply_mask(const Allowed& allowed, Scores<n_keys>& s) {
#pragma unroll
  for (int r = 0; r < 4; ++r)
#pragma unroll
    for (int h = 0; h < n_keys / kHalf; ++h) {
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
template <int D, int n_keys>
__device__ void raise_shifts(const Scores<n_keys>& s, float factor, Sums<D>& sums) {
  float greatest[4];
  bool behind = false;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float x = kMinusInfinity;
#pragma unroll
    for (int n = 0; n < n_keys / 8; ++n)
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
template <int D, int n_keys>
__device__ void add_values(const Scores<n_keys>& s, float factor, std::uint32_t values, Sums<D>& sums) {
  const std::uint32_t address = values + 2 * block_offset_across(kRowStride<D>);
#pragma unroll
  for (int k = 0; k < n_keys / 16; ++k) {
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

// Whether a warp skips the half of a step of which it may see nothing: for 112 it would spill registers.
template <int D>
inline constexpr bool kSkipsHalves = D != 112;

// Adds the only half of a step of which the warp may see anything.
template <int D>
__device__ void add_half(const Problem& p, const Shared<D>& shared, const ChainedItem& item, Turn turn,
                         Allowed allowed, const Queries<D>& q, Sums<D>& sums) {
  const auto below = static_cast<std::uint32_t>(row_bytes<D>(kHalf) * allowed.only);
  Scores<kHalf> s;
  multiply_keys<D, kHalf>(q, shared.keys(turn.buffer) + below, s);
  const float factor = add_bias<D, kHalf>(p, shared, item, turn.step * kStep + kHalf * allowed.only, s);
  allowed.bits[0] |= allowed.bits[1];  // those of the other half are 0
  apply_mask<kHalf>(allowed, s);
  raise_shifts<D, kHalf>(s, factor, sums);
  add_values<D, kHalf>(s, factor, shared.values(turn.buffer) + below, sums);
}

// --- results ---

// Lanes side by side trade halves of two blocks of columns: then four lanes store the 32 bytes of a sector.
template <int D>
__device__ void write_rows(const Problem& p, const Place& at, const Sums<D>& sums) {
  const bool odd = lane_id() % 2 != 0;
  const int column = lane_id() % 4 / 2 * 4 + (odd ? 8 : 0);
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const int row = at.first_row + row_of(r);
    bfloat16* const to =
        p.o + ((static_cast<std::int64_t>(at.b) * p.N + row) * p.H + at.item.head) * D + column;
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      const auto block = [&](int i) {
        const float* const pair = &sums.o[r / 2][2 * d + i][r % 2 * 2];
        return pack_bf16(pair[0], pair[1]);
      };
      const std::uint32_t low = block(0), high = block(1);
      const std::uint32_t other = __shfl_xor_sync(kWholeWarp, odd ? low : high, 1);
      if (row < p.N) *reinterpret_cast<uint2*>(to + 16 * d) = odd ? uint2{other, high} : uint2{low, other};
    }
  }
}

template <int D>
__device__ void write_segment(const Problem& p, const Place& at, const Sums<D>& sums, const float (&lse)[4]) {
  const std::int64_t first =
      (static_cast<std::int64_t>(at.item.slot) * p.B + at.b) * p.tile + warp_id() * kWarpRows;
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
__device__ void write_result(const Problem& p, const Place& at, Sums<D>& sums) {
  float lse[4];  // in units of log 2
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    float sum = sums.sum[r];
    sum += __shfl_xor_sync(kWholeWarp, sum, 1);
    sum += __shfl_xor_sync(kWholeWarp, sum, 2);
    sums.scale_row(r, sum == 0 ? 0.0f : __fdividef(1.0f, sum));
    lse[r] = sum == 0 ? kMinusInfinity : sums.shift[r] + log2f(sum);
  }
  if (at.item.slot >= 0) return write_segment(p, at, sums, lse);
  write_rows(p, at, sums);
  float* const to = p.lse + (static_cast<std::int64_t>(at.b) * p.H + at.item.head) * p.N;
#pragma unroll
  for (int r = 0; r < 4; ++r)
    if (lane_id() % 4 == 0 && at.first_row + row_of(r) < p.N) to[at.first_row + row_of(r)] = kLn2 * lse[r];
}

// --- kernels ---

// Turns to an item: its queries, if those of the item before are in registers, and its keys and values.
template <int D>
__device__ Copies<D> next_item(const Problem& p, const Shared<D>& shared, int number) {
  const Place at = shared.place(number);
  if constexpr (Queries<D>::kKept) copy_queries(p, shared, at);
  return Copies<D>(p, at);
}

// Copies of keys and values. With room for two steps, both of the next step arrive during a step; with room
// for one, the values arrive during the products with the keys, and the next keys during the rest.
template <int D>
__global__ void __launch_bounds__(kMaxThreads, kResidentWarps* kWarpSize / kMaxThreads)
    forward_kernel(const __grid_constant__ Problem p) {
  extern __shared__ uint4 room[];
  const Shared<D> shared(p, room);
  copy_queries(p, shared, chained_place(p, 0));
  list_items(p, shared);
  __syncthreads();
  Copies<D> copies(p, shared.place(0));
  Turn turn{0, 0};
  copy_masks(p, shared, turn);
  copy_step<D, true, false>(p, shared, copies, turn);
  if (p.deep) copy_step<D, false, true>(p, shared, copies, turn);

#pragma unroll 1
  for (int i = 0;; ++i) {
    if (p.row_bounds) {
      const Place at = shared.place(i);
      shared.range() = key_range(p, at.b, at.first_row + lane_id());
    }
    wait_for_all_copies();
    __syncwarp();
    const Queries<D> q(shared.queries());
    Sums<D> sums;
    bool last = false;  // step of the item
#pragma unroll 1
    do {
      const Turn now = turn;
      last = now.step + 1 == i * kListSteps + shared.item(i).steps;
      turn = {last ? (i + 1) * kListSteps : now.step + 1, now.buffer ^ 1};
      const bool more = !last || shared.item(i).followed;
      wait_for_all_copies();
      __syncthreads();  // the step before is done with, and this one's keys are there
      if (!p.deep) {
        copy_step<D, false, true>(p, shared, copies, now);
      } else if (more) {
        if (last) copies = next_item(p, shared, i + 1);
        copy_masks(p, shared, turn);
        copy_step<D, true, true>(p, shared, copies, turn);
      }
      const Allowed allowed = allowed_keys(p, shared, now);
      if (p.deep && !allowed.any) continue;
      if constexpr (kSkipsHalves<D>) {
        if (p.deep && allowed.only >= 0) {
          add_half(p, shared, shared.item(i), now, allowed, q, sums);
          continue;
        }
      }
      Scores<kStep> s;
      multiply_keys<D, kStep>(q, shared.keys(now.buffer), s);
      if (!p.deep) {
        wait_for_all_copies();
        __syncthreads();  // the keys are done with, and the values are there
        if (more) {
          if (last) copies = next_item(p, shared, i + 1);
          copy_masks(p, shared, turn);
          copy_step<D, true, false>(p, shared, copies, turn);
        }
        if (!allowed.any) continue;
      }
      const float factor = add_bias<D, kStep>(p, shared, shared.item(i), now.step * kStep, s);
      if (!allowed.all) apply_mask<kStep>(allowed, s);
      raise_shifts<D, kStep>(s, factor, sums);
      add_values<D, kStep>(s, factor, shared.values(now.buffer), sums);
    } while (!last);
    if (!Queries<D>::kKept && shared.item(i).followed) {
      __syncwarp();
      copy_queries(p, shared, shared.place(i + 1));
    }
    write_result(p, shared.place(i), sums);
    if (!shared.item(i).followed) break;
  }
}

// A warp per query of a cut tile: its segments' results, weighted by their share of the sum, in order.
__global__ void __launch_bounds__(kCombineWarps* kWarpSize)
    combine_kernel(const __grid_constant__ Problem p, const SplitRow* splits, int D) {
  const int ctas = p.tile / kCombineWarps;  // of a tile
  const int row = static_cast<int>(blockIdx.x) % ctas * kCombineWarps + warp_id();
  const int b = static_cast<int>(blockIdx.x) / ctas % p.B;
  const SplitRow split = splits[static_cast<int>(blockIdx.x) / ctas / p.B];
  const int n = split.tile * p.tile + row;
  if (n >= p.N) return;
  const auto segment_row = [&](int s) {
    return (static_cast<std::int64_t>(split.first_slot + s) * p.B + b) * p.tile + row;
  };

  float greatest = std::numeric_limits<float>::lowest();
  for (int s = 0; s < split.slots; ++s) greatest = fmaxf(greatest, p.segment_lse[segment_row(s)]);
  float sum = 0;
  for (int s = 0; s < split.slots; ++s) sum += exp2f(p.segment_lse[segment_row(s)] - greatest);
  const float factor = sum == 0 ? 0.0f : 1.0f / sum;

  bfloat16* const o = p.o + ((static_cast<std::int64_t>(b) * p.N + n) * p.H + split.head) * D;
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
    p.lse[(static_cast<std::int64_t>(b) * p.H + split.head) * p.N + n] =
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
  p.items = static_cast<const WorkItem*>(layout.query_work.items.raw_data());
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

// Rows that are short enough to be chained, each of one item; their tiles; and how many items the others
// have.
struct ItemCounts {
  std::int64_t items = 0, tiles = 0, alone = 0;
};
ItemCounts count_items(const TileLayout& layout) {
  ItemCounts counts;
  for (int h = 0; h < layout.n_heads(); ++h) {
    const std::vector<std::int32_t>& offsets = layout.of_head(h).row_offsets;
    for (std::size_t row = 0; row + 1 < offsets.size(); ++row) {
      const std::int64_t tiles = offsets[row + 1] - offsets[row];
      if (tiles > chained_tiles(layout.tile())) {
        counts.alone += (tiles - 1) / split_tiles(layout.tile()) + 1;
      } else {
        ++counts.items;
        counts.tiles += tiles;
      }
    }
  }
  return counts;
}

// As many items in a chain as take the least time, where all multiprocessors are busy: a longer chain waits
// less often for its first step, but the last chains may leave more of them idle.
void plan_chains(Context context, Problem& p, const TileLayout& layout, std::int64_t n_items) {
  constexpr double kStart = 2;  // what a CTA's start costs, in steps
  const ItemCounts counts = count_items(layout);
  p.n_items = static_cast<int>(grid_size(n_items * p.B));
  p.n_alone = static_cast<int>(counts.alone) * p.B;
  const int items = p.n_items - p.n_alone;
  if (items == 0) return;
  const double steps = static_cast<double>(counts.tiles * p.tile) / static_cast<double>(counts.items * kStep);
  const int places =
      attribute(context, cudaDevAttrMultiProcessorCount) * (kResidentWarps * kWarpRows / p.tile);
  double least = std::numeric_limits<double>::infinity();
  for (int chain = 1; chain <= kChain; ++chain) {
    const int ctas = (items - 1) / chain + 1;
    const double time = ((ctas - 1) / places + 1) * (chain * steps + kStart);
    if (time >= least) continue;
    least = time;
    p.n_chains = ctas;
  }
}

template <int D>
void launch_forward(Context context, Problem p) {
  p.deep = fits(context, shared_layout<D>(p.tile, true).bytes, p.tile);
  p.shared = shared_layout<D>(p.tile, p.deep);
  plan_copies<D>(p);
  check_cuda(
      cudaFuncSetAttribute(forward_kernel<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, p.shared.bytes));
  forward_kernel<D>
      <<<grid_size(p.n_alone + p.n_chains), static_cast<unsigned>(p.tile / kWarpRows * kWarpSize),
         static_cast<std::size_t>(p.shared.bytes), stream(context)>>>(p);
  check_launch();
}

void launch_forward(Context context, const Problem& p, int D) {
  switch (D) {
    case 32:
      return launch_forward<32>(context, p);
    case 48:
      return launch_forward<48>(context, p);
    case 64:
      return launch_forward<64>(context, p);
    case 80:
      return launch_forward<80>(context, p);
    case 96:
      return launch_forward<96>(context, p);
    case 112:
      return launch_forward<112>(context, p);
    case 128:
      return launch_forward<128>(context, p);
  }
  check(false, "attention: a head dim that the dispatcher should have refused");
}

}  // namespace
}  // namespace forward16

void forward_bf16(Context context, const AttentionInput& in, Tensor& o, Tensor& lse) {
  using namespace forward16;
  const DeviceLayout& layout = in.layout->on(in.q.tensor.device(), static_cast<int>(in.k.count));
  const WorkList& work = layout.query_work;
  const int D = static_cast<int>(in.q.dim());
  Problem p = make_problem(in, layout);
  if (p.B == 0) return;
  const std::int64_t segment_rows = work.n_slots * p.B * p.tile;
  Tensor segment_o = workspace<float>(context, segment_rows * D);
  Tensor segment_lse = workspace<float>(context, segment_rows);
  p.segment_o = data<float>(segment_o);
  p.segment_lse = data<float>(segment_lse);
  p.o = data<bfloat16>(o);
  p.lse = data<float>(lse);
  plan_chains(context, p, *in.layout, work.n_items);
  launch_forward(context, p, D);
  if (work.n_splits == 0) return;
  combine_kernel<<<grid_size(work.n_splits * p.B * (p.tile / kCombineWarps)), kCombineWarps * kWarpSize, 0,
                   stream(context)>>>(p, static_cast<const SplitRow*>(work.splits.raw_data()), D);
  check_launch();
}

}  // namespace filigree::cuda
