#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/check.h"
#include "train/run/schedule.h"

namespace filigree {
namespace {

TrainConfig config(ScheduleType type, std::int64_t steps, std::int64_t warmup, std::int64_t decay = 0) {
  TrainConfig c;
  c.schedule = type;
  c.steps = steps;
  c.lr = 0.8;
  c.min_lr = type == ScheduleType::constant ? 0.8 : 0.2;
  c.warmup_steps = warmup;
  c.decay_steps = decay;
  return c;
}

constexpr ScheduleType kAll[] = {ScheduleType::cosine, ScheduleType::linear, ScheduleType::wsd,
                                 ScheduleType::constant};

TEST(Schedule, WarmsUpLinearlyAndMeetsThePeak) {
  for (const ScheduleType type : kAll) {
    const TrainConfig c = config(type, 20, 3, 4);
    EXPECT_DOUBLE_EQ(learning_rate(c, 0), 0.2);
    EXPECT_DOUBLE_EQ(learning_rate(c, 1), 0.4);
    EXPECT_DOUBLE_EQ(learning_rate(c, 2), 0.6);
    EXPECT_DOUBLE_EQ(learning_rate(c, 3), 0.8);
  }
}

TEST(Schedule, StartsAtThePeakWithoutWarmUp) {
  for (const ScheduleType type : kAll) EXPECT_DOUBLE_EQ(learning_rate(config(type, 20, 0, 4), 0), 0.8);
}

TEST(Schedule, EndsAtTheMinimumExactlyAtTheLastStep) {
  for (const ScheduleType type : {ScheduleType::cosine, ScheduleType::linear, ScheduleType::wsd}) {
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 20, 3, 4), 19), 0.2);
    EXPECT_GT(learning_rate(config(type, 20, 3, 4), 18), 0.2);
  }
  EXPECT_DOUBLE_EQ(learning_rate(config(ScheduleType::constant, 20, 3), 19), 0.8);
}

TEST(Schedule, FollowsTheFormulas) {
  const auto at = [](ScheduleType type, std::int64_t step) {
    return learning_rate(config(type, 14, 3, 4), step);
  };
  EXPECT_DOUBLE_EQ(at(ScheduleType::cosine, 8), 0.5);  // half way from step 3 to 13
  EXPECT_DOUBLE_EQ(at(ScheduleType::cosine, 5), 0.2 + 0.3 * (1 + std::cos(0.2 * std::numbers::pi)));
  EXPECT_DOUBLE_EQ(at(ScheduleType::linear, 5), 0.68);
  EXPECT_DOUBLE_EQ(at(ScheduleType::wsd, 9), 0.8);  // still stable
  EXPECT_DOUBLE_EQ(at(ScheduleType::wsd, 10), 0.65);
  EXPECT_DOUBLE_EQ(at(ScheduleType::wsd, 11), 0.5);
}

TEST(Schedule, NeverRisesAfterWarmUp) {
  for (const ScheduleType type : kAll)
    for (std::int64_t step = 4; step < 50; ++step)
      EXPECT_LE(learning_rate(config(type, 50, 3, 10), step),
                learning_rate(config(type, 50, 3, 10), step - 1));
}

TEST(Schedule, HoldsAtDegenerateLengths) {
  for (const ScheduleType type : kAll) {
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 1, 0, 0), 0), 0.8);
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 1, 0, 1), 0), 0.8);
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 1, 1, 0), 0), 0.4);
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 5, 5, 0), 4), 0.8 * 5 / 6);  // warm-up only
    EXPECT_DOUBLE_EQ(learning_rate(config(type, 5, 4, 1), 4), 0.8);          // the last step is the peak
    EXPECT_THROW(learning_rate(config(type, 5, 0), 5), Error);
    EXPECT_THROW(learning_rate(config(type, 5, 0), -1), Error);
  }
}

}  // namespace
}  // namespace filigree
