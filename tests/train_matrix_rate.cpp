// The machine's matrix rate is kept from one process to the next.
#include <gtest/gtest.h>
#include <stdlib.h>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "tests/temporary_folder.h"
#include "train/run/matrix_rate.h"

namespace filigree {
namespace {

class MatrixRateTest : public testing::Test {
 protected:
  MatrixRateTest() { ::setenv("XDG_CACHE_HOME", folder_.path().c_str(), 1); }
  ~MatrixRateTest() override { ::unsetenv("XDG_CACHE_HOME"); }
  static MatrixRate rate() { return MatrixRate::of(Device::cpu(), DType::f32); }
  static nlohmann::json kept() { return nlohmann::json::parse(read_file(matrix_rate_file())).front(); }
  TemporaryFolder folder_;
};

TEST_F(MatrixRateTest, IsMeasuredOnce) {
  EXPECT_EQ(matrix_rate_file(), folder_.path() / "filigree" / "matrix_rates.json");
  const double first = rate().flops();
  EXPECT_GT(first, 1e8);
  EXPECT_EQ(rate().flops(), first) << "not measured again";
  EXPECT_EQ(kept().at("flops"), first);
}

TEST_F(MatrixRateTest, WhatIsExceededWasTooLittle) {
  MatrixRate slow = rate();
  const double measured = slow.flops(), seen = 1.58 * measured;
  EXPECT_EQ(slow.share(0.5 * measured, 1), 0.5);
  EXPECT_EQ(slow.share(seen, 0.01), 1) << "158 % of a rate is none";
  EXPECT_EQ(slow.flops(), measured) << "nor is a moment";
  EXPECT_EQ(slow.share(seen, 1), 1);
  EXPECT_EQ(slow.flops(), seen);
  EXPECT_EQ(kept().at("exceeded"), true);
  EXPECT_NE(rate().flops(), seen) << "measured again";
  EXPECT_EQ(kept().at("exceeded"), false);
}

TEST_F(MatrixRateTest, ADamagedOrMissingFileIsMadeAnew) {
  std::filesystem::create_directories(matrix_rate_file().parent_path());
  for (const char* text : {"[1", "{\"x\": 3}"}) {
    write_file_atomically(matrix_rate_file(), text);
    EXPECT_GT(rate().flops(), 1e8) << text;
  }
  ::setenv("XDG_CACHE_HOME", "/proc/nowhere", 1);
  EXPECT_GT(rate().flops(), 1e8) << "where nothing can be kept";
}

}  // namespace
}  // namespace filigree
