#include "data/tasks/draws.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <unordered_map>

#include "core/check.h"

namespace filigree {

std::vector<std::int64_t> draw_distinct(RandomStream& random, std::int64_t n, std::int64_t count) {
  check(count <= n, "more draws than there is to draw");
  // The first steps of a Fisher-Yates shuffle, of which only the moved numbers are kept.
  std::unordered_map<std::int64_t, std::int64_t> moved;
  const auto at = [&](std::int64_t i) {
    const auto found = moved.find(i);
    return found == moved.end() ? i : found->second;
  };
  std::vector<std::int64_t> drawn;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t j = random.range(i, n - 1);
    drawn.push_back(at(j));
    moved[j] = at(i);
  }
  return drawn;
}

std::uint64_t fixed_weight(double weight) {
  check(weight > 0 && weight <= 1, "a weight outside (0, 1]");
  return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(std::llround(weight * 0x1p31)));
}

std::vector<std::int64_t> draw_weighted(RandomStream& random, const std::vector<std::uint64_t>& weights,
                                        std::int64_t count) {
  check(count <= std::ssize(weights), "more draws than there is to draw");
  // A Fenwick tree of the weights left: node i sums the (i & -i) weights that end with weight i - 1.
  const std::size_t n = weights.size();
  std::vector<std::uint64_t> tree(n + 1);
  std::uint64_t total = 0;
  for (std::size_t i = 1; i <= n; ++i) {
    total += weights[i - 1];
    tree[i] += weights[i - 1];
    if (const std::size_t up = i + (i & -i); up <= n) tree[up] += tree[i];
  }
  std::vector<std::int64_t> drawn;
  for (std::int64_t draw = 0; draw < count; ++draw) {
    // Uniform in [0, total): 64 random bits scaled down; the bias is below 2^-20.
    const std::uint64_t bits = std::uint64_t{random.next()} << 32 | random.next();
    auto left = static_cast<std::uint64_t>(static_cast<unsigned __int128>(bits) * total >> 64);
    std::size_t i = 0;
    for (std::size_t step = std::bit_floor(n); step > 0; step /= 2)
      if (i + step <= n && tree[i + step] <= left) left -= tree[i += step];
    drawn.push_back(static_cast<std::int64_t>(i));
    total -= weights[i];
    for (std::size_t node = i + 1; node <= n; node += node & -node) tree[node] -= weights[i];
  }
  return drawn;
}

void require_seq_len(const MapReader& reader, std::int64_t seq_len, std::int64_t needed,
                     const std::string& what, const std::string& otherwise) {
  if (seq_len < needed)
    fail_at(
        reader.node().mark,
        fmt::format("{}: {} need {} tokens, data.seq_len is {}", reader.path(), what, needed, seq_len),
        fmt::format("set data.seq_len to at least {}{}{}", needed, otherwise.empty() ? "" : ", ", otherwise));
}

}  // namespace filigree
