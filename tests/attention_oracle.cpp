// sparse_attention against dense masked attention in fp64 (tests/attention_reference.h) on random problems:
// output, lse and every gradient.
#include "tests/attention_cases.h"

namespace filigree {
namespace {

// The greatest difference allowed, in units of test::expect_close.
struct Tolerance {
  DType dtype;
  double error;
};
constexpr Tolerance kTolerances[] = {{DType::f64, 1e-10}, {DType::f32, 1e-5}};

void compare_cases(int cases, std::int64_t greatest_n, std::uint32_t site) {
  double worst[std::size(kTolerances)] = {};
  for (int i = 0; i < cases && !testing::Test::HasFailure(); ++i) {
    Random random(test_seed() + static_cast<std::uint64_t>(i), site);
    const test::Case c = test::random_case(random, {.greatest_n = greatest_n});
    SCOPED_TRACE(fmt::format("case {}: {}", i, c.text));
    const test::Outcome oracle = test::run_reference(c);
    for (std::size_t t = 0; t < std::size(kTolerances); ++t) {
      SCOPED_TRACE(dtype_name(kTolerances[t].dtype));
      test::expect_close(c, test::run_sparse(c, kTolerances[t].dtype), oracle, kTolerances[t].error,
                         &worst[t]);
    }
  }
  for (std::size_t t = 0; t < std::size(kTolerances); ++t)
    std::cout << dtype_name(kTolerances[t].dtype) << ": greatest error " << worst[t] << std::endl;
}

TEST(AttentionOracle, SmallCases) {
  compare_cases(1000, 50, 1);
}
TEST(AttentionOracle, CasesOfSeveralTiles) {
  compare_cases(60, 300, 2);
}

}  // namespace
}  // namespace filigree
