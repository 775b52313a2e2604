// A hash map from pairs of token ids: open addressing in one flat array, several times faster than
// std::unordered_map where a tokenizer spends its time. Pairs are never removed.
#pragma once

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

namespace filigree {

using TokenPair = std::pair<std::uint32_t, std::uint32_t>;

template <class Value>
class PairMap {
 public:
  explicit PairMap(std::size_t expected = 16) { resize(std::bit_ceil(2 * expected + 2)); }

  const Value* find(TokenPair pair) const {
    const Slot& slot = slots_[locate(key_of(pair))];
    return slot.key == kEmpty ? nullptr : &slot.value;
  }
  // Its value, made by Value() if the pair is new. The reference lasts until the next new pair.
  Value& operator[](TokenPair pair) {
    const std::uint64_t key = key_of(pair);
    std::size_t at = locate(key);
    if (slots_[at].key == kEmpty) {
      if (2 * ++size_ > slots_.size()) {
        grow();
        at = locate(key);
      }
      slots_[at].key = key;
    }
    return slots_[at].value;
  }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // no vocabulary has that pair
  struct Slot {
    std::uint64_t key = kEmpty;
    Value value{};
  };

  static std::uint64_t key_of(TokenPair pair) { return std::uint64_t{pair.first} << 32 | pair.second; }
  // The slot that holds the key, or the empty one where it belongs. Fibonacci hashing, linear probing.
  std::size_t locate(std::uint64_t key) const {
    std::size_t at = static_cast<std::size_t>((key ^ key >> 29) * 0x9E3779B97F4A7C15u >> shift_);
    while (slots_[at].key != key && slots_[at].key != kEmpty) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  void resize(std::size_t capacity) {
    slots_.assign(capacity, {});
    shift_ = 64 - std::countr_zero(capacity);
  }
  void grow() {
    std::vector<Slot> old = std::move(slots_);
    resize(2 * old.size());
    for (Slot& slot : old)
      if (slot.key != kEmpty) slots_[locate(slot.key)] = std::move(slot);
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
  int shift_ = 0;
};

}  // namespace filigree
