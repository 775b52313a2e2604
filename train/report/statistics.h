// The statistics of the report: intervals over seeds and tests of differences, by Student's t.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace filigree {

double mean_of(std::span<const double> values);
// The standard deviation of a sample: divided by n - 1. 0 for fewer than two values.
double deviation_of(std::span<const double> values);

// P(T <= t) and its inverse for Student's t with `df` > 0 degrees of freedom.
double student_cdf(double t, double df);
double student_quantile(double p, double df);  // 0 < p < 1

struct MeanInterval {
  double mean = 0;
  double half_width = 0;  // of the 95 % confidence interval: t(0.975, n - 1) s / sqrt(n); 0 if n < 2
  std::int64_t n = 0;
};
MeanInterval mean_interval(std::span<const double> values);

enum class TestKind {
  none,    // too few seeds
  paired,  // t test of the differences of runs with the same seed
  welch,   // t test of independent samples with unequal variances (Welch 1947)
};

// The two-sided test of H0, that both have the same mean.
struct Difference {
  TestKind kind = TestKind::none;
  double mean = 0;        // of b - a
  double half_width = 0;  // of its 95 % confidence interval
  double p = 1;
  std::int64_t n = 0;  // pairs, or values of the smaller sample
};

// Values by seed. Paired over the seeds that both have, if these are at least two; else Welch if both have at
// least two; else none.
using BySeed = std::map<std::int64_t, double>;
Difference compare(const BySeed& a, const BySeed& b);

// Holm's step-down adjustment of p values for their number, in their order.
std::vector<double> holm(const std::vector<double>& p);

}  // namespace filigree
