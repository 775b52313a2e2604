// The choice of routers: a CTA per query tile. Its rows propose at once, as if nothing were taken yet; then
// the first row above the threshold takes its tile, and of the rows after it those that had proposed the same
// tile propose anew, until the places are full.
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

struct Problem {
  const float* scores;  // [G B, N, key_tiles]
  const std::int32_t* row_bounds;
  std::int64_t N;
  int B, key_tiles, query_tiles;
  int tile, places, sinks;
  bool causal;
  std::int32_t* chosen;   // [G B, query_tiles, places, 2]
  ChoiceSums* tile_sums;  // [G B, query_tiles]
  int first_group;        // of this launch
  double thresholds[kLaunchGroups];
};

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
  int end;  // candidates lie below
};

// The best tile of a row that is not among the n taken ones; of equals the first. For a whole warp.
__device__ void propose(const Problem& p, const Place& at, int row, int n, Shared& shared) {
  const std::int64_t i = std::int64_t{at.q} * p.tile + row;
  int low = p.sinks, high = at.end;
  if (p.row_bounds) {
    const std::int32_t* bounds = p.row_bounds + 2 * (at.gb % p.B * p.N + i);
    low = max(low, bounds[0] / p.tile);
    high = min(high, (bounds[1] + p.tile - 1) / p.tile);
  }
  const float* scores = p.scores + (at.gb * p.N + i) * p.key_tiles;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  int best = -1;
  float best_score = 0;
  for (int t = low + lane; t < high; t += kWarp) {
    bool free = t != at.q;
    for (int k = 0; k < n; ++k) free = free && t != shared.taken[k];
    const float score = scores[t];
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
  const int i = static_cast<int>(blockIdx.x) + p.first_group * p.B * p.query_tiles;
  at.gb = i / p.query_tiles;
  at.q = i % p.query_tiles;
  at.rows = static_cast<int>(min(std::int64_t{p.tile}, p.N - std::int64_t{at.q} * p.tile));
  at.end = p.causal ? min(at.q, p.key_tiles) : p.key_tiles;
  const double threshold = p.thresholds[at.gb / p.B - p.first_group];
  const int n = take_tiles(p, at, threshold, shared);

  std::int32_t* const chosen = p.chosen + std::int64_t{i} * p.places * 2;
  for (int place = static_cast<int>(threadIdx.x); place < p.places; place += kThreads) {
    chosen[2 * place] = place < n ? shared.taken[place] : -1;
    chosen[2 * place + 1] = place < n ? shared.by_row[place] : -1;
  }
  if (threadIdx.x != 0) return;
  ChoiceSums sums;
  sums.query_tiles = p.sinks < at.end;
  for (int row = 0; row < at.rows; ++row) {
    if (shared.best[row] < 0) continue;
    const double score = shared.score[row];
    sums.scores += score;
    sums.squares += score * score;
    sums.proposals += 1;
    if (score > threshold) sums.wanted += 1;
  }
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

}  // namespace

void choose_tiles(Context context, const TileChoice& in, Tensor& chosen, Tensor& sums) {
  const std::int64_t n = in.scores.dim(0), query_tiles = in.query_tiles();
  if (n == 0) return;
  check(in.tile <= kGreatestTile && n * query_tiles <= std::numeric_limits<std::int32_t>::max(),
        "choose_tiles: larger tiles or more of them than there are");
  Tensor tile_sums = workspace<ChoiceSums>(context, n * query_tiles);
  Problem p{};
  p.scores = data<float>(in.scores);
  p.row_bounds = data_or_null<std::int32_t>(in.row_bounds);
  p.N = in.rows();
  p.B = static_cast<int>(in.batch());
  p.key_tiles = static_cast<int>(in.key_tiles());
  p.query_tiles = static_cast<int>(query_tiles);
  p.tile = static_cast<int>(in.tile);
  p.places = static_cast<int>(in.places());
  p.sinks = static_cast<int>(in.sinks);
  p.causal = in.causal;
  p.chosen = data<std::int32_t>(chosen);
  p.tile_sums = data<ChoiceSums>(tile_sums);
  for (std::size_t first = 0; first < in.thresholds.size(); first += kLaunchGroups) {
    const auto group =
        in.thresholds.subspan(first, std::min<std::size_t>(kLaunchGroups, in.thresholds.size() - first));
    p.first_group = static_cast<int>(first);
    std::ranges::copy(group, p.thresholds);
    const auto ctas = static_cast<std::int64_t>(group.size()) * p.B * p.query_tiles;
    choose_kernel<<<static_cast<unsigned>(ctas), kThreads, 0, stream(context)>>>(p);
    check_launch();
  }
  add_sums_kernel<<<static_cast<unsigned>(divide_up(n * kChoiceFields, kThreads)), kThreads, 0,
                    stream(context)>>>(data<double>(tile_sums), n, p.query_tiles, data<double>(sums));
  check_launch();
}

}  // namespace filigree::cuda
