// The tasks share this: drawing without repetition, and errors about lengths.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/yaml.h"

namespace filigree {

inline constexpr std::int64_t kMaxVocab = 1 << 24;

// `count` different numbers of [0, n), in random order.
std::vector<std::int64_t> draw_distinct(RandomStream& random, std::int64_t n, std::int64_t count);

// A weight as an integer of at most 32 bits, at least 1: sums of integers do not depend on the compiler.
// `weight` lies in (0, 1].
std::uint64_t fixed_weight(double weight);

// `count` different numbers of [0, weights.size()), drawn one after the other, each with a probability
// proportional to its weight among those left.
std::vector<std::int64_t> draw_weighted(RandomStream& random, const std::vector<std::uint64_t>& weights,
                                        std::int64_t count);

// Error(usage) at the task unless seq_len >= needed: "data.task.mqar: 64 pairs (..) need 256 tokens, ...".
void require_seq_len(const MapReader& reader, std::int64_t seq_len, std::int64_t needed,
                     const std::string& what, const std::string& otherwise = "");

}  // namespace filigree
