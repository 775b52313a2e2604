// One word to token ids by byte-level BPE: begin with its bytes, and while two neighbours make a merge, make
// the one of the lowest rank, the leftmost of equals.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/bpe_model.h"

namespace filigree {

// The ids of words that came before. Fixed in size: a word that falls on another's place replaces it. Text
// repeats its words so much that merging is done for a few per cent of them only.
class WordCache {
 public:
  static constexpr std::size_t kMaxBytes = 24, kMaxIds = 9;
  struct Entry {
    std::array<std::uint64_t, kMaxBytes / 8> word{};  // padded with zeros
    std::uint8_t n_bytes = 0, n_ids = 0;              // n_bytes 0: free
    std::array<std::uint32_t, kMaxIds> ids{};
  };

  WordCache() : entries_(std::size_t{1} << kBits) {}
  // Where a word of 1 to kMaxBytes bytes lies or would lie, with `word` and `n_bytes` of what lies there.
  Entry& place(const Entry& key) {
    std::uint64_t hash = key.n_bytes;
    for (const std::uint64_t part : key.word) hash = (hash ^ part ^ hash >> 31) * 0x9E3779B97F4A7C15u;
    return entries_[hash >> (64 - kBits)];
  }

 private:
  static constexpr int kBits = 16;
  std::vector<Entry> entries_;
};

class BpeEncoder {
 public:
  explicit BpeEncoder(const BpeModel& model);
  // Appends the ids of a word that is not empty. A word of n bytes takes O(n log n).
  void encode(std::string_view word, WordCache& cache, std::vector<std::uint32_t>& ids) const;

 private:
  struct Merge {
    std::uint32_t rank, id;
  };
  void encode_uncached(std::string_view word, std::vector<std::uint32_t>& ids) const;
  void merge_short(std::string_view word, std::vector<std::uint32_t>& ids) const;
  void merge_long(std::string_view word, std::vector<std::uint32_t>& ids) const;

  std::array<std::uint32_t, 256> byte_ids_{};
  PairMap<Merge> merges_;
  std::unordered_map<std::string, std::uint32_t> words_;  // by their bytes; only for ignore_merges
};

}  // namespace filigree
