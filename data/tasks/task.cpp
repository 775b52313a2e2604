#include "data/tasks/task.h"

#include <algorithm>

#include "core/check.h"
#include "core/hash.h"
#include "core/ops.h"

namespace filigree {
namespace {

constexpr std::uint32_t kSite = 0x7461736b;  // "task"
constexpr std::uint32_t kAttempts = 1000;    // a fair task needs more than 1000 once in 10^124 samples

// The stream of one attempt at one sample: its key is itself drawn.
RandomStream stream_of(std::uint64_t seed, Split split, std::int64_t index, std::uint32_t attempt) {
  const RandomKey key{seed, kSite + (split == Split::validation ? 1u : 0u), attempt};
  const PhiloxCounter drawn = key.block(static_cast<std::uint64_t>(index));
  return RandomStream(RandomKey{std::uint64_t{drawn[1]} << 32 | drawn[0], drawn[2], drawn[3]});
}

Split split_of(std::span<const std::int32_t> inputs) {
  return xxhash64(inputs.data(), inputs.size_bytes()) % 4 == 0 ? Split::validation : Split::train;
}

}  // namespace

DrawnSample generate_sample(const GeneratedTask& task, std::uint64_t seed, Split split, std::int64_t index,
                            std::span<std::int32_t> inputs, std::span<std::int32_t> targets) {
  for (std::uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
    std::ranges::fill(inputs, 0);
    std::ranges::fill(targets, ops::kIgnoreIndex);
    RandomStream random = stream_of(seed, split, index, attempt);
    const DrawnSample drawn = task.draw(random, inputs, targets);
    if (split_of(inputs) == split) return drawn;
  }
  throw Error(ErrorKind::usage,
              fmt::format("data.task.{}: too few different samples to keep training and validation apart",
                          task.name()),
              "raise its parameters or data.seq_len");
}

}  // namespace filigree
