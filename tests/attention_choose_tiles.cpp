// What routers choose by (tile_shares, candidate_mask, choose_tiles): on the CPU against the rules written
// down once more, on a GPU against the CPU; choices have the same bits.
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>

#include "attention/kernels.h"
#include "core/ops.h"
#include "tests/attention_cases.h"
#include "tests/cuda_device.h"
#include "tests/test_ops.h"

namespace filigree {
namespace {

using std::int64_t;

struct Choice {
  Tensor chosen, sums;
};

void to(Device device, TileChoice& in) {
  for (Tensor* t : {&in.shares, &in.row_bounds, &in.tried_rows})
    if (t->defined()) *t = t->to(device);
}

Choice choose(TileChoice in, Device device) {
  to(device, in);
  Choice c{Tensor::empty({in.shares.dim(0), in.query_tiles(), in.places() + 1, 2}, DType::i32, device),
           Tensor::empty({in.shares.dim(0), kChoiceFields}, DType::f64, device)};
  on_device(device, [&](auto context) { choose_tiles(context, in, c.chosen, c.sums); });
  return {c.chosen.to(Device::cpu()), c.sums.to(Device::cpu())};
}

struct Problem {
  std::vector<double> thresholds;
  TileChoice in;
  std::string text;
};

// Shares of few values, so that many are equal, or of any; they are numbers like others here.
void make(Random& random, Problem& p) {
  constexpr int64_t kTiles[] = {16, 32, 64, 128};
  p.in.tile = kTiles[random.range(0, 3)];
  const int64_t G = random.range(1, 3), B = random.range(1, 3), N = random.size(p.in.tile, 400);
  const int64_t tiles = N / p.in.tile;
  p.in.topk = random.range(1, random.coin() ? 3 : 200);
  p.in.sinks = random.range(0, 2);
  p.in.causal = random.range(0, 3) > 0;
  p.in.shares = random.coin() ? random.integers({G * B, N, tiles}, -3, 3) : Tensor{};
  if (p.in.shares.defined()) {
    Tensor scores = Tensor::empty(p.in.shares.shape());
    std::ranges::copy(p.in.shares.values<std::int32_t>(), scores.data<float>());
    p.in.shares = scores;
  } else {
    p.in.shares = random.normal({G * B, N, tiles}, DType::f32);
  }
  for (int64_t g = 0; g < G; ++g)
    p.thresholds.push_back(random.range(0, 3) ? 2 * random.stream().normal() : -1e30);
  p.in.thresholds = p.thresholds;
  if (random.coin()) p.in.row_bounds = test::random_bounds(random, B, N, N);
  if (random.coin()) {
    p.in.tried_rows = random.integers({G * B, p.in.query_tiles()}, -1, 15);
    for (int64_t i = 0; i < p.in.tried_rows.numel(); ++i) {
      std::int32_t& r = p.in.tried_rows.data<std::int32_t>()[i];
      r = std::min(r, static_cast<std::int32_t>((N - 1) % p.in.tile));
    }
  }
  p.in.parts = int64_t{1} << random.range(0, 3);
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

double share_of(const TileChoice& in, int64_t gb, int64_t i, int64_t t) {
  return in.shares.item((gb * in.rows() + i) * in.key_tiles() + t);
}

// The best of the candidates, of equals the first; -1: there is none.
int64_t proposal(const TileChoice& in, int64_t gb, int64_t i, const std::set<int64_t>& taken) {
  const auto open = candidates(in, gb, i, taken);
  if (open.empty()) return -1;
  return *std::ranges::max_element(open, {}, [&](int64_t t) { return share_of(in, gb, i, t); });
}

void expect_rule(const TileChoice& in, const Choice& made) {
  for (int64_t gb = 0; gb < in.shares.dim(0); ++gb) {
    ChoiceSums sums;
    const double threshold = in.thresholds[static_cast<std::size_t>(gb / in.batch())];
    for (int64_t q = 0; q < in.query_tiles(); ++q) {
      std::set<int64_t> taken;
      std::vector<std::int32_t> expected;
      sums.query_tiles += in.sinks < (in.causal ? std::min(q, in.key_tiles()) : in.key_tiles());
      for (int64_t r = 0; r < in.tile && q * in.tile + r < in.rows(); ++r) {
        const int64_t best = proposal(in, gb, q * in.tile + r, taken);
        if (best < 0 || share_of(in, gb, q * in.tile + r, best) <= threshold) continue;
        sums.wanted += 1;
        if (std::ssize(taken) == in.places()) continue;
        taken.insert(best);
        expected.insert(expected.end(), {static_cast<std::int32_t>(best), static_cast<std::int32_t>(r)});
      }
      expected.resize(static_cast<std::size_t>(2 * in.places() + 2), -1);
      const int64_t place = gb * in.query_tiles() + q;
      if (const auto r = in.tried_rows.defined() ? static_cast<int64_t>(in.tried_rows.item(place)) : -1;
          r >= 0) {
        if (const int64_t best = proposal(in, gb, q * in.tile + r, taken); best >= 0) {
          *(expected.end() - 2) = static_cast<std::int32_t>(best);
          *(expected.end() - 1) = static_cast<std::int32_t>(r);
        }
      }
      const auto* from = made.chosen.data<std::int32_t>() + place * 2 * (in.places() + 1);
      ASSERT_TRUE(std::equal(expected.begin(), expected.end(), from)) << "gb " << gb << " q " << q;
    }
    const auto& got = static_cast<const ChoiceSums*>(made.sums.raw_data())[gb];
    EXPECT_EQ(got.query_tiles, sums.query_tiles);
    EXPECT_EQ(got.wanted, sums.wanted);
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

// Logarithms of shares, of scores drawn anew; the masks of all rows.
struct Shares {
  Tensor shares, mask;
};
Shares share(TileChoice in, const Tensor& scores, Device device) {
  to(device, in);
  in.shares = Tensor::empty(in.shares.shape(), DType::f32, device);
  std::vector<std::int32_t> rows(static_cast<std::size_t>(in.shares.dim(0) * in.rows()));
  std::iota(rows.begin(), rows.end(), 0);
  Tensor mask = Tensor::empty({std::ssize(rows), in.key_tiles() * in.parts}, DType::f64, device);
  on_device(device, [&](auto context) {
    tile_shares(context, scores.to(device), in);
    candidate_mask(context, in, Tensor::of({std::ssize(rows)}, rows, device), mask);
  });
  return {in.shares.to(Device::cpu()), mask.to(Device::cpu())};
}
Tensor random_scores(Random& random, const TileChoice& in) {
  Tensor scores = random.normal({in.shares.dim(0), in.rows(), in.key_tiles() * in.parts}, DType::f32);
  ops::scale_in_place(scores, random.coin() ? 1 : 40);
  return scores;
}

TEST(TileShares, AreThoseOfTheSums) {
  Random random(test_seed(), 43);
  for (int round = 0; round < 30 && !testing::Test::HasFailure(); ++round) {
    Problem p;
    make(random, p);
    SCOPED_TRACE(p.text);
    const Tensor scores = random_scores(random, p.in);
    const Shares made = share(p.in, scores, Device::cpu());
    const int64_t tiles = p.in.key_tiles(), parts = p.in.parts, N = p.in.rows();
    for (int64_t row = 0; row < p.in.shares.dim(0) * N; ++row) {
      const auto open = candidates(p.in, row / N, row % N, {});
      const auto sum = [&](int64_t t) {
        double total = 0;
        for (int64_t j = 0; j < parts; ++j) total += std::exp(scores.item((row * tiles + t) * parts + j));
        return total;
      };
      double all = 0;
      for (const int64_t t : open) all += sum(t);
      for (int64_t t = 0; t < tiles; ++t) {
        const bool candidate = std::ranges::find(open, t) != open.end();
        const double got = made.shares.item(row * tiles + t);
        if (candidate && sum(t) / all > 1e-30) {
          EXPECT_NEAR(got, std::log(sum(t) / all), 1e-4);
        } else if (!candidate) {
          EXPECT_EQ(got, std::numeric_limits<float>::lowest());
        }
        for (int64_t j = 0; j < parts; ++j)
          EXPECT_EQ(made.mask.item((row * tiles + t) * parts + j), candidate ? 0 : -1e30);
      }
    }
  }
}

class ChooseTilesCuda : public CudaTest {};

TEST_F(ChooseTilesCuda, SharesAreThoseOfTheCpu) {
  Random random(test_seed(), 44);
  for (int round = 0; round < 60 && !HasFailure(); ++round) {
    Problem p;
    make(random, p);
    SCOPED_TRACE(p.text);
    const Tensor scores = random_scores(random, p.in);
    const Shares a = share(p.in, scores, Device::cpu());
    poison_free_memory(device);
    const Shares b = share(p.in, scores, device);
    for (int64_t i = 0; i < a.shares.numel(); ++i) {
      if (a.shares.item(i) < -70) continue;  // about to be no number
      ASSERT_NEAR(a.shares.item(i), b.shares.item(i), 1e-4);
    }
    EXPECT_EQ(std::memcmp(a.mask.raw_data(), b.mask.raw_data(), static_cast<std::size_t>(a.mask.bytes())), 0);
  }
}

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
