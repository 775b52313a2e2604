#include "train/report/statistics.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <numeric>

#include "core/check.h"

namespace filigree {
namespace {

// A loss that is not a number has a p that is none either, in place of an exception.
namespace policies = boost::math::policies;
using StudentsT =
    boost::math::students_t_distribution<double,
                                         policies::policy<policies::domain_error<policies::ignore_error>,
                                                          policies::overflow_error<policies::ignore_error>>>;

// Two-sided p of t = difference / error. Runs are deterministic: seeds may well agree to the last bit.
double two_sided(double difference, double error, double df) {
  if (error == 0) return difference == 0 ? 1 : 0;
  return 2 * student_cdf(-std::abs(difference / error), df);
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
  return boost::math::cdf(StudentsT(df), t);
}

double student_quantile(double p, double df) {
  check(p > 0 && p < 1 && df > 0, "a quantile of Student's t");
  return boost::math::quantile(StudentsT(df), p);
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
