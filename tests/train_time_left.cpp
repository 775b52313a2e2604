// How long a run will still take: the first figure is near the truth.
#include <gtest/gtest.h>

#include <cmath>

#include "train/run/time_left.h"

namespace filigree {
namespace {

RunOutline outline() {
  RunOutline run;
  run.steps = 400;
  run.evaluates = true;
  run.eval_interval = 50;
  run.eval_steps = 7;  // 20 micro batches forward, of steps of one
  return run;
}

// Steps of 0.1 s, the first ones longer; evaluations of `evaluation` seconds.
struct Truth {
  RunOutline run;
  double first = 2, evaluation = 0.6;

  double seconds(std::int64_t step) const {
    return step <= run.warm_up ? first : 0.1 + 0.01 * std::sin(step);
  }
  bool evaluated(std::int64_t step) const {
    return run.evaluates && (step == run.steps || (run.eval_interval > 0 && step % run.eval_interval == 0));
  }
  double after(std::int64_t step) const {
    double left = evaluated(step) ? evaluation : 0;
    for (std::int64_t s = step + 1; s <= run.steps; ++s) left += seconds(s) + (evaluated(s) ? evaluation : 0);
    return left;
  }
};

TEST(TimeLeft, TheFirstFigureIsWithin30PercentOfTheTruth) {
  for (const std::int64_t warm_up : {1, 2})
    for (const std::int64_t interval : {0, 50, 150})
      for (const double evaluation : {0.3, 0.7, 1.2}) {
        Truth truth{outline(), 5, evaluation};
        truth.run.warm_up = warm_up;
        truth.run.eval_interval = interval;
        TimeLeft left(truth.run);
        std::int64_t step = 0;
        while (!left.after(step)) left.step(truth.seconds(++step));
        EXPECT_LE(step, 5);
        EXPECT_NEAR(*left.after(step) / truth.after(step), 1, 0.3)
            << warm_up << ' ' << interval << ' ' << evaluation;
      }
}

TEST(TimeLeft, EvaluationsCountAsMeasured) {
  const Truth truth{outline(), 2, 30};  // of a thousand times as much text
  TimeLeft left(truth.run);
  for (std::int64_t step = 1; step <= 50; ++step) left.step(truth.seconds(step));
  left.evaluation(30);
  EXPECT_NEAR(*left.after(50) / truth.after(50), 1, 0.02);
  EXPECT_NEAR(*left.after(50) - *left.after(50, 0.5), 15, 1e-9) << "half of this one is done";
  EXPECT_NEAR(*left.after(400), 30, 1e-9) << "the last one is to come";
}

TEST(TimeLeft, OneStepThatWaitedCountsForLittle) {
  const Truth truth{outline()};
  TimeLeft left(truth.run);
  for (std::int64_t step = 1; step <= 20; ++step) left.step(step == 15 ? 20 : truth.seconds(step));
  EXPECT_NEAR(*left.after(20) / truth.after(20), 1, 0.3);
}

TEST(TimeLeft, IsUnknownBeforeAnOrdinaryStepAndZeroAtTheEnd) {
  TimeLeft left(outline());
  EXPECT_FALSE(left.after(0));
  left.step(2);
  EXPECT_FALSE(left.after(1)) << "the first step warms up";
  left.step(3);
  EXPECT_TRUE(left.after(2)) << "long steps: one is enough";
  EXPECT_EQ(*left.after(400, 1), 0);
  const TimeLeft of_three_steps(RunOutline{.steps = 3});
  EXPECT_FALSE(of_three_steps.after(2));
  EXPECT_EQ(of_three_steps.after(3), 0) << "too short to know a step's time";
}

}  // namespace
}  // namespace filigree
