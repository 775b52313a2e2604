// choose_tiles, the choice of routers: on the CPU against the rule written down once more, on a GPU the same
// bits as on the CPU.
#include <cstring>
#include <set>

#include "attention/kernels.h"
#include "tests/attention_cases.h"
#include "tests/cuda_device.h"

namespace filigree {
namespace {

using std::int64_t;

struct Choice {
  Tensor chosen, sums;
};

Choice choose(TileChoice in, Device device) {
  in.scores = in.scores.to(device);
  if (in.row_bounds.defined()) in.row_bounds = in.row_bounds.to(device);
  Choice c{Tensor::empty({in.scores.dim(0), in.query_tiles(), in.places(), 2}, DType::i32, device),
           Tensor::empty({in.scores.dim(0), kChoiceFields}, DType::f64, device)};
  on_device(device, [&](auto context) { choose_tiles(context, in, c.chosen, c.sums); });
  return {c.chosen.to(Device::cpu()), c.sums.to(Device::cpu())};
}

struct Problem {
  std::vector<double> thresholds;
  TileChoice in;
  std::string text;
};

// Scores of few values, so that many are equal, or of any.
void make(Random& random, Problem& p) {
  constexpr int64_t kTiles[] = {16, 32, 64, 128};
  p.in.tile = kTiles[random.range(0, 3)];
  const int64_t G = random.range(1, 3), B = random.range(1, 3), N = random.size(p.in.tile, 400);
  const int64_t tiles = N / p.in.tile;
  p.in.topk = random.range(1, random.coin() ? 3 : 200);
  p.in.sinks = random.range(0, 2);
  p.in.causal = random.range(0, 3) > 0;
  p.in.scores = random.coin() ? random.integers({G * B, N, tiles}, -3, 3) : Tensor{};
  if (p.in.scores.defined()) {
    Tensor scores = Tensor::empty(p.in.scores.shape());
    std::ranges::copy(p.in.scores.values<std::int32_t>(), scores.data<float>());
    p.in.scores = scores;
  } else {
    p.in.scores = random.normal({G * B, N, tiles}, DType::f32);
  }
  for (int64_t g = 0; g < G; ++g)
    p.thresholds.push_back(random.range(0, 3) ? 2 * random.stream().normal() : -1e30);
  p.in.thresholds = p.thresholds;
  if (random.coin()) p.in.row_bounds = test::random_bounds(random, B, N, N);
  p.text = fmt::format("G={} B={} N={} T={} topk={} sinks={} causal={} bounds={}", G, B, N, p.in.tile,
                       p.in.topk, p.in.sinks, p.in.causal, p.in.row_bounds.defined());
}

// The tiles that row i of kv head and sequence gb may propose.
std::vector<int64_t> candidates(const TileChoice& in, int64_t gb, int64_t i, const std::set<int64_t>& taken) {
  std::vector<int64_t> all;
  const int64_t q = i / in.tile;
  for (int64_t t = in.sinks; t < in.key_tiles(); ++t) {
    bool touched = true;
    if (in.row_bounds.defined()) {
      const int64_t row = 2 * (gb % in.batch() * in.rows() + i);
      const double first = in.row_bounds.item(row) / static_cast<double>(in.tile);
      const double end = in.row_bounds.item(row + 1) / static_cast<double>(in.tile);
      touched = std::floor(first) <= static_cast<double>(t) && static_cast<double>(t) < end;
    }
    if (t != q && !(in.causal && t > q) && touched && !taken.contains(t)) all.push_back(t);
  }
  return all;
}

void expect_rule(const TileChoice& in, const Choice& made) {
  for (int64_t gb = 0; gb < in.scores.dim(0); ++gb) {
    ChoiceSums sums;
    const double threshold = in.thresholds[static_cast<std::size_t>(gb / in.batch())];
    for (int64_t q = 0; q < in.query_tiles(); ++q) {
      std::set<int64_t> taken;
      std::vector<std::int32_t> expected;
      sums.query_tiles += in.sinks < (in.causal ? std::min(q, in.key_tiles()) : in.key_tiles());
      for (int64_t r = 0; r < in.tile && q * in.tile + r < in.rows(); ++r) {
        const int64_t i = q * in.tile + r;
        const auto score = [&](int64_t t) {
          return in.scores.item((gb * in.rows() + i) * in.key_tiles() + t);
        };
        const auto open = candidates(in, gb, i, taken);
        if (open.empty()) continue;
        const int64_t best = *std::ranges::max_element(open, {}, score);  // the first of equals
        sums.proposals += 1;
        sums.scores += score(best);
        if (score(best) <= threshold) continue;
        sums.wanted += 1;
        if (std::ssize(taken) == in.places()) continue;
        taken.insert(best);
        expected.insert(expected.end(), {static_cast<std::int32_t>(best), static_cast<std::int32_t>(r)});
      }
      expected.resize(static_cast<std::size_t>(2 * in.places()), -1);
      const auto* from = made.chosen.data<std::int32_t>() + (gb * in.query_tiles() + q) * 2 * in.places();
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), from)) << "gb " << gb << " q " << q;
    }
    const auto& got = static_cast<const ChoiceSums*>(made.sums.raw_data())[gb];
    EXPECT_EQ(got.query_tiles, sums.query_tiles);
    EXPECT_EQ(got.wanted, sums.wanted);
    EXPECT_EQ(got.proposals, sums.proposals);
    EXPECT_NEAR(got.scores, sums.scores, 1e-9 * (1 + sums.proposals));
  }
}

TEST(ChooseTiles, FollowsTheRule) {
  Random random(test_seed(), 41);
  for (int round = 0; round < 60 && !testing::Test::HasFailure(); ++round) {
    Problem p;
    make(random, p);
    SCOPED_TRACE(p.text);
    expect_rule(p.in, choose(p.in, Device::cpu()));
  }
}

class ChooseTilesCuda : public CudaTest {};

TEST_F(ChooseTilesCuda, ChoosesAsTheCpuBitForBit) {
  Random random(test_seed(), 42);
  for (int round = 0; round < 200 && !HasFailure(); ++round) {
    Problem p;
    make(random, p);
    SCOPED_TRACE(p.text);
    const Choice a = choose(p.in, Device::cpu());
    poison_free_memory(device);
    const Choice b = choose(p.in, device);
    const auto same = [](const Tensor& x, const Tensor& y) {
      return std::memcmp(x.raw_data(), y.raw_data(), static_cast<std::size_t>(x.bytes())) == 0;
    };
    EXPECT_TRUE(same(a.chosen, b.chosen));
    EXPECT_TRUE(same(a.sums, b.sums));
  }
}

}  // namespace
}  // namespace filigree
