#include "data/word_counts.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "core/hash.h"

namespace filigree {
namespace {

constexpr std::size_t kBlockBytes = 1 << 20;

}  // namespace

WordCounts::WordCounts() : slots_(1 << 10) {}

std::size_t WordCounts::locate(std::string_view word, std::uint32_t hash) const {
  std::size_t at = hash & (slots_.size() - 1);
  while (slots_[at].index != kFree && (slots_[at].hash != hash || words_[slots_[at].index].text != word))
    at = (at + 1) & (slots_.size() - 1);
  return at;
}

void WordCounts::add(std::string_view word, std::int64_t count) {
  const auto hash = static_cast<std::uint32_t>(xxhash64(word.data(), word.size()) >> 32);
  const std::size_t at = locate(word, hash);
  if (slots_[at].index != kFree) {
    words_[slots_[at].index].count += count;
    return;
  }
  if (words_.size() >= kFree) fail(ErrorKind::data, "the text has more than {} different words", kFree - 1);
  slots_[at] = {hash, static_cast<std::uint32_t>(words_.size())};
  words_.push_back({store(word), count});
  if (2 * words_.size() > slots_.size()) grow();
}

std::string_view WordCounts::store(std::string_view word) {
  if (word.size() > block_left_) {
    block_left_ = std::max(kBlockBytes, word.size());
    blocks_.push_back(std::make_unique_for_overwrite<char[]>(block_left_));
    block_at_ = blocks_.back().get();
  }
  std::memcpy(block_at_, word.data(), word.size());
  const std::string_view stored(block_at_, word.size());
  block_at_ += word.size();
  block_left_ -= word.size();
  return stored;
}

void WordCounts::grow() {
  const std::vector<Slot> old = std::exchange(slots_, std::vector<Slot>(2 * slots_.size()));
  for (const Slot& slot : old) {
    if (slot.index == kFree) continue;
    std::size_t at = slot.hash & (slots_.size() - 1);
    while (slots_[at].index != kFree) at = (at + 1) & (slots_.size() - 1);
    slots_[at] = slot;
  }
}

}  // namespace filigree
