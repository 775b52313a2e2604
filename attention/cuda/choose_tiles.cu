// What routers choose by: see kernels.inc. The choice has a CTA per query tile. Its rows propose at once, as
// if nothing were taken yet; then the first row above the threshold takes its tile, and of the rows after it
// those that had proposed the same tile propose anew, until the places are full.
#include <algorithm>
#include <limits>

#include "attention/kernels.h"
#include "core/cuda/cuda.h"

namespace filigree::cuda {
namespace {

constexpr int kThreads = 128, kWarp = 32;
constexpr int kGreatestTile = kThreads;  // a thread for each row
constexpr int kNone = std::numeric_limits<int>::max();
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kLaunchGroups = 64;

// Where rows find candidates, and what shares of them.
struct Rows {
  const float* shares;  // [G B, N, key_tiles]
  const std::int32_t* row_bounds;
  std::int64_t N;
  int B, key_tiles, tile, sinks, parts;
  bool causal;

  __device__ int candidates_end(int q) const { return causal ? min(q, key_tiles) : key_tiles; }
};

struct Problem {
  Rows rows;
  int query_tiles, places;
  const std::int32_t* tried_rows;  // [G B, query_tiles]; nullptr: none
  std::int32_t* chosen;            // [G B, query_tiles, places + 1, 2]
  ChoiceSums* tile_sums;           // [G B, query_tiles]
  int first_group;                 // of this launch
  double thresholds[kLaunchGroups];
};

// The candidates of a row: [low, high), but not `but`.
struct Candidates {
  int low, high, but;
  __device__ bool has(int t) const { return low <= t && t < high && t != but; }
};

// Of row i of kv head g and sequence b, gb = g B + b.
__device__ Candidates candidates_of(const Rows& p, int gb, std::int64_t i) {
  const int q = static_cast<int>(i / p.tile);
  Candidates c{p.sinks, p.candidates_end(q), q};
  if (!p.row_bounds) return c;
  const std::int32_t* bounds = p.row_bounds + 2 * (gb % p.B * p.N + i);
  c.low = max(c.low, bounds[0] / p.tile);
  c.high = min(c.high, (bounds[1] + p.tile - 1) / p.tile);
  return c;
}

// A warp per row.
__global__ void __launch_bounds__(kThreads)
    shares_kernel(const __grid_constant__ Rows p, const float* scores, float* shares, std::int64_t n) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= n) return;
  const Candidates c = candidates_of(p, static_cast<int>(row / p.N), row % p.N);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  scores += row * p.key_tiles * p.parts;
  shares += row * p.key_tiles;
  float greatest = kLowest;
  for (int j = max(c.low, 0) * p.parts + lane; j < c.high * p.parts; j += kWarp)
    if (j / p.parts != c.but) greatest = fmaxf(greatest, scores[j]);
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    greatest = fmaxf(greatest, __shfl_xor_sync(kAllLanes, greatest, lanes));
  float total = 0;
  for (int t = lane; t < p.key_tiles; t += kWarp) {
    float sum = 0;
    if (c.has(t))
      for (int j = 0; j < p.parts; ++j) sum += expf(scores[t * p.parts + j] - greatest);
    shares[t] = sum;
    total += sum;
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) total += __shfl_xor_sync(kAllLanes, total, lanes);
  for (int t = lane; t < p.key_tiles; t += kWarp)  // which the lane has written itself
    shares[t] = shares[t] > 0 ? logf(shares[t] / total) : kLowest;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    mask_kernel(const __grid_constant__ Rows p, const std::int32_t* rows, T* mask, std::int64_t n) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n) return;
  const int width = p.key_tiles * p.parts;
  const std::int32_t row = rows[i / width];
  const Candidates c = candidates_of(p, static_cast<int>(row / p.N), row % p.N);
  mask[i] = c.has(static_cast<int>(i % width) / p.parts) ? T(0) : T(-1e30);
}

// Of a CTA: what each row proposes (-1: nothing), and which tiles are taken by which rows.
struct Shared {
  int best[kGreatestTile];
  float score[kGreatestTile];
  int taken[kGreatestTile], by_row[kGreatestTile];
  int first;  // row above the threshold
};

struct Place {
  int gb, q;
  int rows;
};

// The best candidate of a row that is not among the n taken ones; of equals the first. For a whole warp.
__device__ void propose(const Problem& p, const Place& at, int row, int n, Shared& shared) {
  const std::int64_t i = std::int64_t{at.q} * p.rows.tile + row;
  const Candidates c = candidates_of(p.rows, at.gb, i);
  const float* shares = p.rows.shares + (at.gb * p.rows.N + i) * p.rows.key_tiles;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int best = -1;
  float best_score = 0;
  for (int t = c.low + lane; t < c.high; t += kWarp) {
    bool free = t != c.but;
    for (int k = 0; k < n; ++k) free = free && t != shared.taken[k];
    const float score = shares[t];
    if (!free || (best >= 0 && !(score > best_score))) continue;
    best = t;
    best_score = score;
  }
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const int other = __shfl_xor_sync(kAllLanes, best, lanes);
    const float score = __shfl_xor_sync(kAllLanes, best_score, lanes);
    const bool better = best < 0 || score > best_score || (score == best_score && other < best);
    if (other < 0 || !better) continue;
    best = other;
    best_score = score;
  }
  __syncwarp();  // all lanes have read what is replaced
  if (lane > 0) return;
  shared.best[row] = best;
  shared.score[row] = best_score;
}

// Rows take tiles one after another. Returns how many are taken.
__device__ int take_tiles(const Problem& p, const Place& at, double threshold, Shared& shared) {
  const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp;
  for (int row = warp; row < at.rows; row += kThreads / kWarp) propose(p, at, row, 0, shared);
  int n = 0;
  for (int from = 0; n < p.places;) {
    if (thread == 0) shared.first = kNone;
    __syncthreads();
    const bool above =
        thread >= from && thread < at.rows && shared.best[thread] >= 0 && shared.score[thread] > threshold;
    if (above) atomicMin(&shared.first, thread);
    __syncthreads();
    const int first = shared.first;
    if (first == kNone) break;
    const int tile = shared.best[first];
    if (thread == 0) {
      shared.taken[n] = tile;
      shared.by_row[n] = first;
    }
    __syncthreads();
    from = first + 1;
    ++n;
    for (int row = from + warp; row < at.rows; row += kThreads / kWarp)
      if (shared.best[row] == tile) propose(p, at, row, n, shared);
  }
  __syncthreads();
  return n;
}

__global__ void __launch_bounds__(kThreads) choose_kernel(const __grid_constant__ Problem p) {
  __shared__ Shared shared;
  Place at;
  const int i = static_cast<int>(blockIdx.x) + p.first_group * p.rows.B * p.query_tiles;
  at.gb = i / p.query_tiles;
  at.q = i % p.query_tiles;
  at.rows = static_cast<int>(min(std::int64_t{p.rows.tile}, p.rows.N - std::int64_t{at.q} * p.rows.tile));
  const double threshold = p.thresholds[at.gb / p.rows.B - p.first_group];
  const int n = take_tiles(p, at, threshold, shared);

  const int wanted =
      __syncthreads_count(static_cast<int>(threadIdx.x) < at.rows && shared.best[threadIdx.x] >= 0 &&
                          shared.score[threadIdx.x] > threshold);
  const int tried = p.tried_rows ? p.tried_rows[i] : -1;
  if (tried >= 0 && threadIdx.x < kWarp) propose(p, at, tried, n, shared);
  __syncthreads();
  std::int32_t* const chosen = p.chosen + std::int64_t{i} * (p.places + 1) * 2;
  for (int place = static_cast<int>(threadIdx.x); place <= p.places; place += kThreads) {
    const bool of_tried = place == p.places && tried >= 0 && shared.best[tried] >= 0;
    chosen[2 * place] = of_tried ? shared.best[tried] : place < n ? shared.taken[place] : -1;
    chosen[2 * place + 1] = of_tried ? tried : place < n ? shared.by_row[place] : -1;
  }
  if (threadIdx.x != 0) return;
  ChoiceSums sums;
  sums.query_tiles = p.rows.sinks < p.rows.candidates_end(at.q);
  sums.wanted = wanted;
  p.tile_sums[i] = sums;
}

// A thread per kv head, sequence and field; the query tiles in order.
__global__ void __launch_bounds__(kThreads)
    add_sums_kernel(const double* tile_sums, std::int64_t n, int query_tiles, double* sums) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n * kChoiceFields) return;
  const double* from = tile_sums + i / kChoiceFields * query_tiles * kChoiceFields + i % kChoiceFields;
  double total = 0;
  for (int q = 0; q < query_tiles; ++q) total += from[q * kChoiceFields];
  sums[i] = total;
}

Rows rows_of(const TileChoice& in) {
  Rows p{};
  p.shares = data<float>(in.shares);
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.N = in.rows();
  p.B = static_cast<int>(in.batch());
  p.key_tiles = static_cast<int>(in.key_tiles());
  p.tile = static_cast<int>(in.tile);
  p.sinks = static_cast<int>(in.sinks);
  p.parts = static_cast<int>(in.parts);
  p.causal = in.causal;
  return p;
}

}  // namespace

void tile_shares(Context context, const Tensor& scores, TileChoice& in) {
  const std::int64_t n = in.shares.dim(0) * in.rows();
  if (n == 0) return;
  shares_kernel<<<static_cast<unsigned>(divide_up(n, kThreads / kWarp)), kThreads, 0, stream(context)>>>(
      rows_of(in), data<float>(scores), data<float>(in.shares), n);
  check_launch();
}

void candidate_mask(Context context, const TileChoice& in, const Tensor& rows, Tensor& mask) {
  const std::int64_t n = mask.numel();
  if (n == 0) return;
  with_float(mask.dtype(), [&]<class T>(T) {
    mask_kernel<T><<<static_cast<unsigned>(divide_up(n, kThreads)), kThreads, 0, stream(context)>>>(
        rows_of(in), data<std::int32_t>(rows), data<T>(mask), n);
  });
  check_launch();
}

void choose_tiles(Context context, const TileChoice& in, Tensor& chosen, Tensor& sums) {
  const std::int64_t n = in.shares.dim(0), query_tiles = in.query_tiles();
  if (n == 0) return;
  check(in.tile <= kGreatestTile && n * query_tiles <= std::numeric_limits<std::int32_t>::max(),
        "choose_tiles: larger tiles or more of them than there are");
  Tensor tile_sums = workspace<ChoiceSums>(context, n * query_tiles);
  Problem p{};
  p.rows = rows_of(in);
  p.query_tiles = static_cast<int>(query_tiles);
  p.places = static_cast<int>(in.places());
  p.tried_rows = data_or_null<std::int32_t>(in.tried_rows);
  p.chosen = data<std::int32_t>(chosen);
  p.tile_sums = data<ChoiceSums>(tile_sums);
  for (std::size_t first = 0; first < in.thresholds.size(); first += kLaunchGroups) {
    const auto group =
        in.thresholds.subspan(first, std::min<std::size_t>(kLaunchGroups, in.thresholds.size() - first));
    p.first_group = static_cast<int>(first);
    std::ranges::copy(group, p.thresholds);
    const auto ctas = static_cast<std::int64_t>(group.size()) * p.rows.B * p.query_tiles;
    choose_kernel<<<static_cast<unsigned>(ctas), kThreads, 0, stream(context)>>>(p);
    check_launch();
  }
  add_sums_kernel<<<static_cast<unsigned>(divide_up(n * kChoiceFields, kThreads)), kThreads, 0,
                    stream(context)>>>(data<double>(tile_sums), n, p.query_tiles, data<double>(sums));
  check_launch();
}

}  // namespace filigree::cuda
