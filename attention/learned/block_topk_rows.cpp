// block_topk for a text that comes row by row, in f64 on the CPU.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention/learned/block_topk.h"

namespace filigree {
namespace {

class TopkReader final : public TextReader {
 public:
  TopkReader(const LearnedHeads& heads, const TopkOptions& options, const TopkWeights& weights,
             std::int64_t n)
      : options_(options),
        n_heads_(heads.n_heads),
        kv_heads_(heads.n_kv_heads),
        head_dim_(heads.head_dim),
        tile_(heads.geometry.tile),
        side_((n + tile_ - 1) / tile_),
        group_(heads.n_heads / heads.n_kv_heads),
        dim_(weights.key.dim(2)),
        query_weights_(weights.query.to(DType::f64).to(Device::cpu())),
        key_weights_(weights.key.to(DType::f64).to(Device::cpu())),
        thresholds_(weights.thresholds),
        keys_(kv_heads_),
        sums_(kv_heads_, std::vector<double>(head_dim_)),
        chosen_(kv_heads_) {}

  void read(const double* q, const double* k, bool choose) override {
    const std::int64_t row = length_ % tile_, part = tile_ / options_.parts;
    for (std::int64_t g = 0; g < kv_heads_; ++g) {
      if (row == 0) chosen_[g].clear();
      if (choose) choose_tile(q + g * group_ * head_dim_, g, length_ / tile_);
      auto& sums = sums_[g];
      for (std::int64_t d = 0; d < head_dim_; ++d)
        sums[d] += k[g * head_dim_ + d] / static_cast<double>(part);
      if ((row + 1) % part != 0) continue;
      const std::vector<double> key = times(sums.data(), key_weights_, g);
      keys_[g].insert(keys_[g].end(), key.begin(), key.end());
      std::ranges::fill(sums, 0.0);
    }
    ++length_;
  }

  void gates(double* of_tiles) const override {
    const std::int64_t q = (length_ - 1) / tile_;
    for (std::int64_t head = 0; head < n_heads_; ++head, of_tiles += side_) {
      std::fill_n(of_tiles, std::min(options_.sinks, q), 1.0);
      of_tiles[q] = 1;
      for (const Chosen& c : chosen_[head / group_]) of_tiles[c.tile] = c.gate;
    }
  }

 private:
  struct Chosen {
    std::int32_t tile;
    double gate;
  };

  // x [in] times the weights [G, in, dim] of one kv head.
  std::vector<double> times(const double* x, const Tensor& weights, std::int64_t g) const {
    const std::int64_t in = weights.dim(1);
    std::vector<double> y(dim_);
    for (std::int64_t i = 0; i < in; ++i)
      for (std::int64_t d = 0; d < dim_; ++d) y[d] += x[i] * weights.data<double>()[(g * in + i) * dim_ + d];
    return y;
  }

  // One step of choose_tiles (kernels.inc), for a row of query tile `query_tile` that comes alone.
  void choose_tile(const double* q, std::int64_t g, std::int64_t query_tile) {
    auto& chosen = chosen_[g];
    if (std::ssize(chosen) >= options_.topk) return;
    const std::vector<double> query = times(q, query_weights_, g);
    const double* key = keys_[g].data() + options_.sinks * options_.parts * dim_;
    std::vector<double> sums;  // of each candidate's e^score
    double total = 0;
    for (std::int64_t t = options_.sinks; t < query_tile; ++t) {
      double sum = 0;
      for (std::int64_t part = 0; part < options_.parts; ++part, key += dim_)
        sum += std::exp(topk_scale(dim_) * std::inner_product(query.begin(), query.end(), key, 0.0));
      sums.push_back(sum);
      total += sum;
    }
    for (const Chosen& c : chosen) sums[c.tile - options_.sinks] = -1;
    const auto best = std::ranges::max_element(sums);
    if (best == sums.end() || *best < 0) return;
    const double above = std::log(*best / total + kLeastShare) - thresholds_[g];
    if (above > 0)
      chosen.push_back(
          {static_cast<std::int32_t>(best - sums.begin() + options_.sinks), 2 / (1 + std::exp(-above))});
  }

  TopkOptions options_;
  std::int64_t n_heads_, kv_heads_, head_dim_, tile_, side_, group_, dim_;
  Tensor query_weights_, key_weights_;
  std::vector<double> thresholds_;
  std::int64_t length_ = 0;                  // tokens read
  std::vector<std::vector<double>> keys_;    // of each kv head: the projections of the tiles' parts
  std::vector<std::vector<double>> sums_;    // of each kv head: of the keys of the part under way
  std::vector<std::vector<Chosen>> chosen_;  // for each kv head
};

}  // namespace

std::unique_ptr<TextReader> make_topk_reader(const LearnedHeads& heads, const TopkOptions& options,
                                             const TopkWeights& weights, std::int64_t n) {
  return std::make_unique<TopkReader>(heads, options, weights, n);
}

}  // namespace filigree
