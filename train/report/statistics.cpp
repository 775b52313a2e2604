#include "train/report/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/check.h"

namespace filigree {
namespace {

// The continued fraction of the incomplete beta function (DLMF 8.17.22) by Lentz's method, for x < (a + 1) /
// (a
// + b + 2), where it converges fast.
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto guarded = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1, d = 1 / guarded(1 - (a + b) * x / (a + 1)), value = d;
  for (int m = 1; m <= 1000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / guarded(1 + even * d);
    c = guarded(1 + even / c);
    value *= c * d;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / guarded(1 + odd * d);
    c = guarded(1 + odd / c);
    const double step = c * d;
    value *= step;
    if (std::abs(step - 1) < 1e-15) break;
  }
  return value;
}

// I_x(a, b)
double incomplete_beta(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

// Two-sided p of t = difference / error. Runs are deterministic: seeds may well agree to the last bit.
double two_sided(double difference, double error, double df) {
  if (error == 0) return difference == 0 ? 1 : 0;
  const double t = difference / error;
  return incomplete_beta(df / 2, 0.5, df / (df + t * t));
}

Difference paired(const std::vector<double>& differences) {
  const auto n = static_cast<double>(differences.size());
  const double mean = mean_of(differences), error = deviation_of(differences) / std::sqrt(n);
  return {TestKind::paired, mean, student_quantile(0.975, n - 1) * error, two_sided(mean, error, n - 1),
          std::ssize(differences)};
}

Difference welch(const std::vector<double>& a, const std::vector<double>& b) {
  const auto n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  const double u = std::pow(deviation_of(a), 2) / n, v = std::pow(deviation_of(b), 2) / m;
  const double mean = mean_of(b) - mean_of(a), error = std::sqrt(u + v);
  // Welch-Satterthwaite
  const double df = error == 0 ? n + m - 2 : (u + v) * (u + v) / (u * u / (n - 1) + v * v / (m - 1));
  return {TestKind::welch, mean, student_quantile(0.975, df) * error, two_sided(mean, error, df),
          std::min(std::ssize(a), std::ssize(b))};
}

std::vector<double> values_of(const BySeed& by_seed) {
  std::vector<double> values;
  for (const auto& [seed, value] : by_seed) values.push_back(value);
  return values;
}

}  // namespace

double mean_of(std::span<const double> values) {
  check(!values.empty(), "the mean of no values");
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation_of(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double mean = mean_of(values);
  double sum = 0;
  for (const double v : values) sum += (v - mean) * (v - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double student_cdf(double t, double df) {
  const double tail = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2;
  return t >= 0 ? 1 - tail : tail;
}

double student_quantile(double p, double df) {
  check(p > 0 && p < 1 && df > 0, "a quantile of Student's t");
  if (p < 0.5) return -student_quantile(1 - p, df);
  double low = 0, high = 1;
  while (student_cdf(high, df) < p && high < 1e12) high *= 2;
  for (int i = 0; i < 200 && high - low > 1e-14 * high; ++i) {
    const double middle = (low + high) / 2;
    (student_cdf(middle, df) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

MeanInterval mean_interval(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  const double half =
      values.size() < 2 ? 0 : student_quantile(0.975, n - 1) * deviation_of(values) / std::sqrt(n);
  return {mean_of(values), half, std::ssize(values)};
}

Difference compare(const BySeed& a, const BySeed& b) {
  std::vector<double> differences;
  for (const auto& [seed, value] : a)
    if (const auto other = b.find(seed); other != b.end()) differences.push_back(other->second - value);
  if (differences.size() >= 2) return paired(differences);
  if (a.size() >= 2 && b.size() >= 2) return welch(values_of(a), values_of(b));
  Difference none;
  if (!a.empty() && !b.empty()) none.mean = mean_of(values_of(b)) - mean_of(values_of(a));
  return none;
}

std::vector<double> holm(const std::vector<double>& p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](std::size_t i) { return p[i]; });
  std::vector<double> adjusted(p.size());
  double largest = 0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    largest = std::max(largest, std::min(1.0, static_cast<double>(p.size() - rank) * p[order[rank]]));
    adjusted[order[rank]] = largest;
  }
  return adjusted;
}

}  // namespace filigree
