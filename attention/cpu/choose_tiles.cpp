#include <vector>

#include "attention/kernels.h"
#include "core/parallel.h"

namespace filigree::cpu {
namespace {

class Choice {
 public:
  Choice(const TileChoice& in, Tensor& chosen)
      : in_(in),
        N_(in.rows()),
        tiles_(in.key_tiles()),
        batch_(in.batch()),
        scores_(in.scores.data<float>()),
        row_bounds_(in.row_bounds.defined() ? in.row_bounds.data<std::int32_t>() : nullptr),
        chosen_(chosen.data<std::int32_t>()) {}

  // Query tile q of kv head g and sequence b, gb = g B + b.
  ChoiceSums choose(std::int64_t gb, std::int64_t q) const {
    std::int32_t* const to = chosen_ + (gb * in_.query_tiles() + q) * in_.places() * 2;
    std::fill_n(to, 2 * in_.places(), -1);
    const double threshold = in_.thresholds[static_cast<std::size_t>(gb / batch_)];
    const std::int64_t end = in_.causal ? std::min(q, tiles_) : tiles_;
    std::vector<bool> taken(static_cast<std::size_t>(tiles_));
    std::int64_t n_taken = 0;
    ChoiceSums sums;
    sums.query_tiles = in_.sinks < end;
    for (std::int64_t r = 0; r < in_.tile && q * in_.tile + r < N_; ++r) {
      const std::int64_t best = proposal(gb, q, r, end, taken);
      if (best < 0) continue;
      const double score = row(gb, q, r)[best];
      sums.scores += score;
      sums.squares += score * score;
      ++sums.proposals;
      if (!(score > threshold)) continue;
      ++sums.wanted;
      if (n_taken == in_.places()) continue;
      taken[static_cast<std::size_t>(best)] = true;
      to[2 * n_taken] = static_cast<std::int32_t>(best);
      to[2 * n_taken++ + 1] = static_cast<std::int32_t>(r);
    }
    return sums;
  }

 private:
  const float* row(std::int64_t gb, std::int64_t q, std::int64_t r) const {
    return scores_ + (gb * N_ + q * in_.tile + r) * tiles_;
  }

  // The best of the tiles below `end`; -1: none.
  std::int64_t proposal(std::int64_t gb, std::int64_t q, std::int64_t r, std::int64_t end,
                        const std::vector<bool>& taken) const {
    std::int64_t low = in_.sinks, high = end;
    if (row_bounds_) {  // tiles that the row's document touches
      const std::int32_t* bounds = row_bounds_ + 2 * (gb % batch_ * N_ + q * in_.tile + r);
      low = std::max(low, bounds[0] / in_.tile);
      high = std::min(high, (bounds[1] + in_.tile - 1) / in_.tile);
    }
    const float* scores = row(gb, q, r);
    std::int64_t best = -1;
    for (std::int64_t t = low; t < high; ++t)
      if (t != q && !taken[static_cast<std::size_t>(t)] && (best < 0 || scores[t] > scores[best])) best = t;
    return best;
  }

  const TileChoice& in_;
  std::int64_t N_, tiles_, batch_;
  const float* scores_;
  const std::int32_t* row_bounds_;
  std::int32_t* chosen_;
};

}  // namespace

void choose_tiles(Context, const TileChoice& in, Tensor& chosen, Tensor& sums) {
  const Choice choice(in, chosen);
  const std::int64_t n = in.scores.dim(0), query_tiles = in.query_tiles();
  std::vector<ChoiceSums> of_tiles(static_cast<std::size_t>(n * query_tiles));
  parallel_tasks(n * query_tiles, [&](std::int64_t i) {
    of_tiles[static_cast<std::size_t>(i)] = choice.choose(i / query_tiles, i % query_tiles);
  });
  for (std::int64_t gb = 0; gb < n; ++gb) {  // in a fixed order
    ChoiceSums total;
    for (std::int64_t q = 0; q < query_tiles; ++q)
      total += of_tiles[static_cast<std::size_t>(gb * query_tiles + q)];
    static_cast<ChoiceSums*>(sums.raw_data())[gb] = total;
  }
}

}  // namespace filigree::cpu
