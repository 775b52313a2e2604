// Attention of one query over the key tiles that a decoder has kept.
//
// Keys lie transposed, in panels of L = kLine<T> keys: [T / L][D][L], so that the scores of a panel need no
// sums across lanes. Values lie as rows: [T][padded_dim], padded_dim being D in whole lines.
#pragma once

#include <cstdint>
#include <span>

#include "attention/cpu/simd.h"

namespace filigree::cpu {

template <class T>
struct KeptTile {
  const T *keys, *values;
  std::uint64_t allowed[2];  // bit c: whether the query sees key c
  T log2_gate;
  T distance;  // from the tile's first key to the query
};

// o [D] = sum of p v, p the softmax of S; 0 if no key is allowed. `q` [D] is scaled by the scale and log2(e),
// `slope` by log2(e). tile: 16, 32, 64 or 128.
template <class T>
void attend_row(const T* q, std::int64_t head_dim, int tile, std::span<const KeptTile<T>> tiles, T slope,
                T* o);

}  // namespace filigree::cpu
