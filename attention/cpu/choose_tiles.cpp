// The routers' choice of tiles; kernels.inc says its rule.
#include <cmath>
#include <limits>
#include <vector>

#include "attention/kernels.h"
#include "core/parallel.h"

namespace filigree::cpu {
namespace {

// The candidates of a row: [low, high), but not `but`.
struct Candidates {
  std::int64_t low, high, but;
  bool has(std::int64_t t) const { return low <= t && t < high && t != but; }
};

// The candidates of row i of kv head g and sequence b, gb = g B + b.
Candidates candidates_of(const TileChoice& in, std::int64_t gb, std::int64_t i) {
  const std::int64_t q = i / in.tile;
  Candidates c{in.sinks, in.candidates_end(q), q};
  if (!in.row_bounds.defined()) return c;
  const std::int32_t* bounds = in.row_bounds.data<std::int32_t>() + 2 * (gb % in.batch() * in.rows() + i);
  c.low = std::max(c.low, bounds[0] / in.tile);
  c.high = std::min(c.high, (bounds[1] + in.tile - 1) / in.tile);
  return c;
}

// Scores of a row's parts to the logarithms of the tiles' shares.
void row_shares(const Candidates& c, std::int64_t tiles, std::int64_t parts, const float* scores,
                float* shares) {
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  float greatest = kLowest;
  for (std::int64_t t = c.low; t < c.high; ++t)
    if (c.has(t))
      for (std::int64_t j = 0; j < parts; ++j) greatest = std::max(greatest, scores[t * parts + j]);
  float total = 0;
  for (std::int64_t t = 0; t < tiles; ++t) {
    shares[t] = 0;
    if (!c.has(t)) continue;
    for (std::int64_t j = 0; j < parts; ++j) shares[t] += std::exp(scores[t * parts + j] - greatest);
    total += shares[t];
  }
  for (std::int64_t t = 0; t < tiles; ++t) shares[t] = shares[t] > 0 ? std::log(shares[t] / total) : kLowest;
}

class Choice {
 public:
  Choice(const TileChoice& in, Tensor& chosen)
      : in_(in), shares_(in.shares.data<float>()), chosen_(chosen.data<std::int32_t>()) {}

  // Query tile q of kv head g and sequence b, gb = g B + b.
  ChoiceSums choose(std::int64_t gb, std::int64_t q) const {
    const std::int64_t place = gb * in_.query_tiles() + q, places = in_.places();
    std::int32_t* const to = chosen_ + place * (places + 1) * 2;
    std::fill_n(to, 2 * (places + 1), -1);
    const double threshold = in_.thresholds[gb / in_.batch()];
    std::vector<bool> taken(in_.key_tiles());
    std::int64_t n_taken = 0;
    ChoiceSums sums;
    sums.query_tiles = in_.sinks < in_.candidates_end(q);
    for (std::int64_t r = 0; r < in_.tile && q * in_.tile + r < in_.rows(); ++r) {
      const std::int64_t best = proposal(gb, q, r, taken);
      if (best < 0 || !(row(gb, q, r)[best] > threshold)) continue;
      ++sums.wanted;
      if (n_taken == places) continue;
      taken[best] = true;
      to[2 * n_taken] = static_cast<std::int32_t>(best);
      to[2 * n_taken++ + 1] = static_cast<std::int32_t>(r);
    }
    if (const std::int32_t r = in_.tried_rows.defined() ? in_.tried_rows.data<std::int32_t>()[place] : -1;
        r >= 0) {
      to[2 * places] = static_cast<std::int32_t>(proposal(gb, q, r, taken));
      to[2 * places + 1] = to[2 * places] < 0 ? -1 : r;
    }
    return sums;
  }

 private:
  const float* row(std::int64_t gb, std::int64_t q, std::int64_t r) const {
    return shares_ + (gb * in_.rows() + q * in_.tile + r) * in_.key_tiles();
  }

  // -1: none.
  std::int64_t proposal(std::int64_t gb, std::int64_t q, std::int64_t r,
                        const std::vector<bool>& taken) const {
    const Candidates c = candidates_of(in_, gb, q * in_.tile + r);
    const float* shares = row(gb, q, r);
    std::int64_t best = -1;
    for (std::int64_t t = c.low; t < c.high; ++t)
      if (c.has(t) && !taken[t] && (best < 0 || shares[t] > shares[best])) best = t;
    return best;
  }

  const TileChoice& in_;
  const float* shares_;
  std::int32_t* chosen_;
};

}  // namespace

void tile_shares(Context, const Tensor& scores, TileChoice& in) {
  const std::int64_t N = in.rows(), tiles = in.key_tiles();
  const float* from = scores.data<float>();
  float* to = in.shares.data<float>();
  parallel_for(in.shares.dim(0) * N, 1 + 4096 / (1 + tiles * in.parts),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i)
                   row_shares(candidates_of(in, i / N, i % N), tiles, in.parts, from + i * tiles * in.parts,
                              to + i * tiles);
               });
}

void candidate_mask(Context, const TileChoice& in, const Tensor& rows, Tensor& mask) {
  const std::int64_t width = in.key_tiles() * in.parts;
  const std::int32_t* row = rows.data<std::int32_t>();
  with_float(mask.dtype(), [&]<class T>(T) {
    for (std::int64_t r = 0; r < rows.numel(); ++r) {
      const Candidates c = candidates_of(in, row[r] / in.rows(), row[r] % in.rows());
      T* const to = mask.data<T>() + r * width;
      for (std::int64_t j = 0; j < width; ++j) to[j] = c.has(j / in.parts) ? T(0) : T(-1e30);
    }
  });
}

void choose_tiles(Context, const TileChoice& in, Tensor& chosen, Tensor& sums) {
  const Choice choice(in, chosen);
  const std::int64_t n = in.shares.dim(0), query_tiles = in.query_tiles();
  std::vector<ChoiceSums> of_tiles(n * query_tiles);
  parallel_tasks(n * query_tiles,
                 [&](std::int64_t i) { of_tiles[i] = choice.choose(i / query_tiles, i % query_tiles); });
  for (std::int64_t gb = 0; gb < n; ++gb) {  // in a fixed order
    ChoiceSums total;
    for (std::int64_t q = 0; q < query_tiles; ++q) total += of_tiles[gb * query_tiles + q];
    static_cast<ChoiceSums*>(sums.raw_data())[gb] = total;
  }
}

}  // namespace filigree::cpu
