#include "attention/cpu/decode.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <vector>

namespace filigree::cpu {
namespace {

// S log2(e) of kPanels panels of keys, `stride` elements apart.
template <class T, int kPanels>
void score_panels(const T* q, std::int64_t head_dim, const T* keys, std::int64_t stride, T* scores) {
  constexpr int L = kLine<T>;
  Vector<T> sum[kPanels][kVectors] = {};
  for (std::int64_t d = 0; d < head_dim; ++d) {
    const Vector<T> qd = broadcast(q[d]);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[p][v] += qd * load(keys + p * stride + d * L + v * kLanes<T>);
  }
  for (int p = 0; p < kPanels; ++p)
    for (int v = 0; v < kVectors; ++v) store(scores + p * L + v * kLanes<T>, sum[p][v]);
}

// Adds ALiBi and the gate, and sets the keys that are not allowed to -inf; returns the greatest score.
template <class T>
Vector<T> finish_scores(const KeptTile<T>& tile, int width, T slope, T* scores) {
  const Vector<T> minus_infinity = broadcast(-std::numeric_limits<T>::infinity());
  const Vector<T> gate = broadcast(tile.log2_gate);
  Vector<T> greatest = minus_infinity;
  for (int c = 0; c < width; c += kLanes<T>) {
    const Vector<T> distance = broadcast(static_cast<T>(tile.distance - static_cast<T>(c))) - iota<T>();
    const Vector<T> s = load(scores + c) - slope * distance + gate;
    const Vector<T> kept = keep<T>(tile.allowed[c / 64] >> (c % 64), s, minus_infinity);
    store(scores + c, kept);
    greatest = max<T>(kept, greatest);
  }
  return greatest;
}

template <class T>
Vector<T> score_tile(const T* q, std::int64_t head_dim, int width, const KeptTile<T>& tile, T slope,
                     T* scores) {
  constexpr int L = kLine<T>;
  const std::int64_t stride = head_dim * L;
  int c = 0;
  for (; c + 4 * L <= width; c += 4 * L)
    score_panels<T, 4>(q, head_dim, tile.keys + c / L * stride, stride, scores + c);
  for (; c < width; c += L) score_panels<T, 1>(q, head_dim, tile.keys + c / L * stride, stride, scores + c);
  return finish_scores(tile, width, slope, scores);
}

// Scores to powers; returns their sum.
template <class T>
T exponentials(std::vector<T>& scores, T greatest) {
  Vector<T> sum{};
  for (std::size_t i = 0; i < scores.size(); i += kLanes<T>) {
    const Vector<T> power = exp2<T>(load(scores.data() + i) - greatest);
    store(scores.data() + i, power);
    sum += power;
  }
  return sum_lanes<T>(sum);
}

// kLines lines of p v, from this column of the values on.
template <class T, int kLines>
void add_values(std::span<const KeptTile<T>> tiles, int width, std::int64_t padded_dim, std::int64_t column,
                const T* powers, T* result) {
  constexpr int kCount = kLines * kVectors;
  Vector<T> sum[kCount] = {};
  for (const KeptTile<T>& tile : tiles) {
    for (int w = 0; w * 64 < width; ++w)
      for (std::uint64_t bits = tile.allowed[w]; bits != 0; bits &= bits - 1) {
        const int c = w * 64 + std::countr_zero(bits);
        const T* row = tile.values + c * padded_dim + column;
        const Vector<T> p = broadcast(powers[c]);
#pragma GCC unroll 16
        for (int v = 0; v < kCount; ++v) sum[v] += p * load(row + v * kLanes<T>);
      }
    powers += width;
  }
  for (int v = 0; v < kCount; ++v) store(result + v * kLanes<T>, sum[v]);
}

}  // namespace

template <class T>
void attend_row(const T* q, std::int64_t head_dim, int tile, std::span<const KeptTile<T>> tiles, T slope,
                T* o) {
  constexpr int L = kLine<T>;
  std::vector<T> scores(tiles.size() * static_cast<std::size_t>(tile));
  Vector<T> most = broadcast(-std::numeric_limits<T>::infinity());
  for (std::size_t i = 0; i < tiles.size(); ++i)
    most = max<T>(score_tile(q, head_dim, tile, tiles[i], slope, scores.data() + i * tile), most);
  const T greatest = max_lanes<T>(most);
  const T sum = exponentials(scores, greatest == -std::numeric_limits<T>::infinity() ? T(0) : greatest);
  if (sum == 0) return void(std::fill_n(o, head_dim, T(0)));  // a NaN must stay visible
  const std::int64_t padded_dim = (head_dim + L - 1) / L * L;
  T lines[4 * L];
  for (std::int64_t column = 0; column < head_dim;) {
    const bool four = column + 4 * L <= padded_dim;
    if (four)
      add_values<T, 4>(tiles, tile, padded_dim, column, scores.data(), lines);
    else
      add_values<T, 1>(tiles, tile, padded_dim, column, scores.data(), lines);
    const std::int64_t end = std::min<std::int64_t>(head_dim, column + (four ? 4 : 1) * L);
    for (std::int64_t d = column; d < end; ++d) o[d] = lines[d - column] / sum;
    column = end;
  }
}

template void attend_row(const float*, std::int64_t, int, std::span<const KeptTile<float>>, float, float*);
template void attend_row(const double*, std::int64_t, int, std::span<const KeptTile<double>>, double,
                         double*);

}  // namespace filigree::cpu
