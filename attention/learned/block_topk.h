// The settings and constants of block_topk, for whole texts (block_topk.cpp) and for texts that come row by
// row (block_topk_rows.cpp).
#pragma once

#include <cmath>

#include "attention/learned/routed.h"

namespace filigree {

struct TopkOptions {
  std::int64_t topk = 4, sinks = 1;
  std::int64_t dim = 0;  // 0: head_dim
  std::int64_t parts = 1;
  double explore = 1;
  double wanted = 0.5;  // what the threshold aims at: proposals above it, over places
};

inline constexpr double kLeastShare = 1e-20;  // has a logarithm

inline double topk_scale(std::int64_t dim) {
  return 1 / std::sqrt(static_cast<double>(dim));
}

struct TopkWeights {
  Tensor query, key;               // [G, group D, dim], [G, D, dim]
  std::vector<double> thresholds;  // [G], of the logarithms of shares
};
// For a text of at most n tokens.
std::unique_ptr<TextReader> make_topk_reader(const LearnedHeads& heads, const TopkOptions& options,
                                             const TopkWeights& weights, std::int64_t n);

}  // namespace filigree
