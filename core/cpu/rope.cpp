// Rotary positions. Angles are f64. A task computes the rotations of its few positions once, by complex
// products from those at powers of two, and applies them to all its batch elements and heads: sines and
// cosines cost next to nothing, and no table of length N is held.
#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <vector>

#include "core/cpu/partition.h"
#include "core/kernels.h"
#include "core/tensor.h"

namespace filigree::cpu {
namespace {

constexpr std::int64_t kPositions = 64;  // per task

// Unit vectors, real and imaginary parts apart so that loops over them vectorise.
struct Rotations {
  std::vector<double> cosine, sine;
  explicit Rotations(std::int64_t n) : cosine(n), sine(n) {}
  void set(std::int64_t i, double angle) {
    cosine[i] = std::cos(angle);
    sine[i] = std::sin(angle);
  }
};

// frequencies[i] = theta^(-2i / D), half = D / 2 of them.
class RotationTable {
 public:
  // For at() of up to `most` positions.
  RotationTable(std::int64_t half, double theta, std::int64_t most)
      : half_(half), levels_(std::bit_width(static_cast<std::uint64_t>(most - 1))), powers_(levels_ * half) {
    for (std::int64_t i = 0; i < half; ++i)
      frequency_.push_back(std::pow(theta, -static_cast<double>(i) / static_cast<double>(half)));
    for (int level = 0; level < levels_; ++level)
      for (std::int64_t i = 0; i < half; ++i)
        powers_.set(level * half + i, static_cast<double>(1 << level) * frequency_[i]);
  }

  // Those of positions n, n + 1, ..., n + count - 1, [count, half].
  Rotations at(std::int64_t n, std::int64_t count) const {
    Rotations r(count * half_);
    for (std::int64_t i = 0; i < half_; ++i) r.set(i, static_cast<double>(n) * frequency_[i]);
    for (int level = 0; level < levels_; ++level) {
      const std::int64_t step = std::int64_t{1} << level;
      for (std::int64_t row = step; row < std::min(2 * step, count); ++row)
        multiply(r, row, row - step, level);
    }
    return r;
  }

 private:
  // Row `to` = row `from` times the rotation by 2^level positions.
  void multiply(Rotations& r, std::int64_t to, std::int64_t from, int level) const {
    const double *c = r.cosine.data() + from * half_, *s = r.sine.data() + from * half_;
    const double *pc = powers_.cosine.data() + level * half_, *ps = powers_.sine.data() + level * half_;
    double *to_c = r.cosine.data() + to * half_, *to_s = r.sine.data() + to * half_;
#pragma omp simd
    for (std::int64_t i = 0; i < half_; ++i) {
      to_c[i] = c[i] * pc[i] - s[i] * ps[i];
      to_s[i] = s[i] * pc[i] + c[i] * ps[i];
    }
  }

  std::int64_t half_;
  int levels_;
  std::vector<double> frequency_;
  Rotations powers_;
};

// One position: the first `heads` heads.
template <class T>
void rotate(std::int64_t heads, std::int64_t half, const T* cosine, const T* sine, const T* x, T* y) {
  for (std::int64_t h = 0; h < heads; ++h, x += 2 * half, y += 2 * half) {
#pragma omp simd
    for (std::int64_t i = 0; i < half; ++i) {
      const T a = x[i], b = x[i + half];
      y[i] = a * cosine[i] - b * sine[i];
      y[i + half] = b * cosine[i] + a * sine[i];
    }
  }
}

}  // namespace

void rope(Context, const Tensor& x, std::int64_t n_heads, double theta, std::int64_t n0, bool inverse,
          Tensor& y) {
  const std::int64_t batch = x.dim(0), positions = x.dim(1), half = x.dim(3) / 2;
  const std::int64_t row = x.dim(2) * x.dim(3);
  if (x.numel() == 0 || n_heads == 0) return;
  const RotationTable table(half, theta, std::min(positions, kPositions));
  const std::int64_t blocks = (positions + kPositions - 1) / kPositions;
  // Enough batch elements per task to pay for the rotations.
  const std::int64_t per_element = std::min(positions, kPositions) * n_heads * 2 * half;
  const std::int64_t group = std::clamp<std::int64_t>(4 * kTaskElements / per_element, 1, batch);
  const std::int64_t groups = (batch + group - 1) / group;
  with_float(x.dtype(), [&]<class T>(T) {
    const T* px = x.data<T>();
    T* py = y.data<T>();
    parallel_tasks(blocks * groups, [&](std::int64_t task) {
      const std::int64_t first = task % blocks * kPositions, count = std::min(kPositions, positions - first);
      const Rotations r = table.at(n0 + first, count);
      const std::vector<T> cosine(r.cosine.begin(), r.cosine.end());
      std::vector<T> sine(r.sine.begin(), r.sine.end());
      if (inverse)
        for (T& s : sine) s = -s;
      const std::int64_t first_b = task / blocks * group, last_b = std::min(batch, first_b + group);
      for (std::int64_t b = first_b; b < last_b; ++b)
        for (std::int64_t n = 0; n < count; ++n) {
          const std::int64_t offset = (b * positions + first + n) * row;
          rotate(n_heads, half, cosine.data() + n * half, sine.data() + n * half, px + offset, py + offset);
        }
    });
  });
}

}  // namespace filigree::cpu
