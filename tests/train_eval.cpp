// filigree eval: loss by position, JSON and the logits file.
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/hdf5.h"
#include "core/ops.h"
#include "tests/run_fixture.h"
#include "train/evaluate/logits_file.h"
#include "train/evaluate/loss_by_position.h"

namespace filigree {
namespace {

TEST(LossByPosition, CountsFromTheDocumentsFirstToken) {
  // Two sequences of 6: documents [0, 4) and [4, 6); one of 5 tokens, then padding.
  Batch batch;
  batch.inputs = Tensor::zeros({2, 6}, DType::i32);
  batch.targets = Tensor::of({2, 6}, std::vector<std::int32_t>{1, 1, 1, 1, 1, 1, 1, -100, 1, 1, 1, -100});
  std::vector<std::int32_t> bounds;
  for (const int low : {0, 0, 0, 0, 4, 4, 0, 0, 0, 0, 0, 0}) bounds.insert(bounds.end(), {low, 6});
  batch.row_bounds = Tensor::of({2, 6, 2}, bounds);
  LossByPosition positions;
  positions.add(batch, Tensor::of({12}, std::vector<float>{1, 2, 3, 4, 5, 6, 7, 0, 9, 10, 11, 0}));
  const auto buckets = positions.buckets();
  ASSERT_EQ(buckets.size(), 4u);
  const auto expect = [&](std::size_t b, std::int64_t first, std::int64_t last, std::int64_t targets,
                          double loss) {
    EXPECT_EQ(buckets[b].first, first);
    EXPECT_EQ(buckets[b].last, last);
    EXPECT_EQ(buckets[b].targets, targets);
    EXPECT_DOUBLE_EQ(buckets[b].loss, loss);
  };
  expect(0, 0, 0, 3, (1 + 5 + 7) / 3.0);
  expect(1, 1, 1, 2, (2 + 6) / 2.0);
  expect(2, 2, 3, 4, (3 + 4 + 9 + 10) / 4.0);
  expect(3, 4, 7, 1, 11);
  EXPECT_NE(positions.table().find("2-3           4    6.5000"), std::string::npos) << positions.table();
}

TEST(LogitsFile, RefusesWhatHasNoRoom) {
  const TemporaryFolder folder;
  const std::string text = error_text(ErrorKind::out_of_memory, [&] {
    LogitsFile(folder / "l.h5", 1000000, 1024, Shape{1024, 50257});
  });
  EXPECT_NE(text.find("191722.9 GiB"), std::string::npos) << text;
  EXPECT_NE(text.find("--batches"), std::string::npos) << text;
  EXPECT_NE(error_text(ErrorKind::usage,
                       [&] {
                         LogitsFile(folder / "no/l.h5", 1, 4, Shape{4, 3});
                       })
                .find("no folder"),
            std::string::npos);
}

class EvalTest : public RunTest {
 protected:
  nlohmann::json evaluate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"eval", "full", "--json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
    return nlohmann::json::parse(outcome.output, nullptr, false);
  }
};

TEST_F(EvalTest, PositionsAndLogitsAddUpToTheLoss) {
  ASSERT_EQ(run({"train", "config.yaml", "train.steps=8"}).exit_code, 0);
  const auto json = evaluate({"--logits", "l.h5"});
  const double loss = json.at("loss");
  const std::int64_t targets = json.at("targets");
  double sum = 0;
  std::int64_t counted = 0;
  for (const auto& bucket : json.at("loss_by_position")) {
    sum += bucket.at("loss").get<double>() * bucket.at("targets").get<double>();
    counted += bucket.at("targets").get<std::int64_t>();
  }
  EXPECT_EQ(counted, targets);
  EXPECT_NEAR(sum / static_cast<double>(targets), loss, 1e-5);
  EXPECT_TRUE(json.contains("bits_per_byte"));

  const h5::Reader reader(path("l.h5"));
  const auto dims = reader.info("logits").dims;
  ASSERT_EQ(dims.size(), 3u);
  const std::int64_t S = dims[0], N = dims[1], V = dims[2];
  EXPECT_EQ(N, 48);
  EXPECT_EQ(V, 258);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(S * N)), asked(tokens.size());
  std::vector<float> logits(static_cast<std::size_t>(S * N * V));
  reader.read("tokens", DType::i32, S * N, tokens.data());
  reader.read("targets", DType::i32, S * N, asked.data());
  reader.read("logits", DType::f32, S * N * V, logits.data());
  sum = 0;
  counted = 0;
  for (std::int64_t i = 0; i < S * N; ++i) {
    EXPECT_TRUE(i % N == N - 1 || asked[i + 1] == ops::kIgnoreIndex || asked[i] == tokens[i + 1]) << i;
    if (asked[i] == ops::kIgnoreIndex) continue;
    double total = 0;
    for (std::int64_t v = 0; v < V; ++v) total += std::exp(static_cast<double>(logits[i * V + v]));
    sum += std::log(total) - logits[i * V + asked[i]];
    ++counted;
  }
  EXPECT_EQ(counted, targets);
  EXPECT_NEAR(sum / static_cast<double>(targets), loss, 1e-5);

  const Outcome text = run({"eval", "full", "--logits", "two.h5", "--batches", "2"});
  EXPECT_EQ(text.exit_code, 0) << text.output;
  EXPECT_NE(text.output.find("position     targets      loss"), std::string::npos) << text.output;
  EXPECT_NE(text.output.find("two.h5: logits [4, 48, 258]"), std::string::npos) << text.output;
  EXPECT_EQ(h5::Reader(path("two.h5")).info("tokens").dims, (h5::Dims{4, 48}));
  EXPECT_EQ(run({"eval", "full", "--logits", "no/l.h5"}).exit_code, 5);
}

TEST_F(EvalTest, ClassifiersHaveLogitsPerSample) {
  for (const char* name : {"a", "b"}) {
    fs::create_directories(path("classes") / name);
    for (int i = 0; i < 8; ++i)
      std::ofstream(path("classes") / name / std::to_string(i)) << std::string(20 + i, name[0]) << "\n";
  }
  ASSERT_EQ(run({"train", "config.yaml", "model.type=encoder_classifier", "causal=false",
                 "data.train=classes", "data.val_fraction=0.25", "train.steps=8"})
                .exit_code,
            0);
  const auto json = evaluate({"--logits", "l.h5"});
  EXPECT_TRUE(json.contains("accuracy"));
  EXPECT_FALSE(json.contains("loss_by_position"));
  const h5::Reader reader(path("l.h5"));
  const std::int64_t samples = json.at("targets");
  EXPECT_EQ(reader.info("logits").dims, (h5::Dims{samples, 2}));
  EXPECT_EQ(reader.info("targets").dims, (h5::Dims{samples}));
  EXPECT_EQ(reader.info("tokens").dims, (h5::Dims{samples, 48}));
}

}  // namespace
}  // namespace filigree
