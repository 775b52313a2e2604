// How often each word of a text occurs: what BPE training works on.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

namespace filigree {

// Words and their counts, in a hash table whose words lie one after another in memory.
class WordCounts {
 public:
  WordCounts();
  void add(std::string_view word, std::int64_t count = 1);
  std::size_t size() const { return words_.size(); }

  struct Word {
    std::string_view text;  // lives as long as the table
    std::int64_t count;
  };
  // In the order in which they came.
  const std::vector<Word>& words() const { return words_; }

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::uint32_t index = kFree;
  };
  static constexpr std::uint32_t kFree = ~std::uint32_t{0};

  std::size_t locate(std::string_view word, std::uint32_t hash) const;
  std::string_view store(std::string_view word);
  void grow();

  std::vector<Slot> slots_;
  std::vector<Word> words_;
  std::vector<std::unique_ptr<char[]>> blocks_;  // of the words' text
  std::size_t block_left_ = 0;
  char* block_at_ = nullptr;
};

}  // namespace filigree
