#include "data/bpe_encoder.h"

#include <algorithm>
#include <cstring>
#include <queue>

#include "core/check.h"
#include "data/byte_alphabet.h"

namespace filigree {
namespace {

constexpr std::size_t kShortWord = 32;  // bytes, up to which looking for the lowest rank beats a heap
constexpr std::uint32_t kNone = ~std::uint32_t{0};

}  // namespace

BpeEncoder::BpeEncoder(const BpeModel& model) : merges_(model.merges.size()) {
  std::unordered_map<std::string_view, std::uint32_t> ids;
  for (std::uint32_t i = 0; i < model.vocab.size(); ++i) ids.emplace(model.vocab[i], i);
  for (std::size_t byte = 0; byte < 256; ++byte)
    byte_ids_[byte] = ids.at(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
  for (std::uint32_t rank = 0; rank < model.merges.size(); ++rank) {
    const auto& [left, right] = model.merges[rank];
    merges_[model.merges[rank]] = {rank, ids.at(model.vocab[left] + model.vocab[right])};
  }
  if (!model.ignore_merges) return;
  for (std::uint32_t i = 0; i < model.vocab.size(); ++i)
    if (auto bytes = from_byte_alphabet(model.vocab[i])) words_.emplace(*std::move(bytes), i);
}

void BpeEncoder::encode(std::string_view word, WordCache& cache, std::vector<std::uint32_t>& ids) const {
  if (word.size() > WordCache::kMaxBytes) return encode_uncached(word, ids);
  WordCache::Entry key;
  key.n_bytes = static_cast<std::uint8_t>(word.size());
  std::memcpy(key.word.data(), word.data(), word.size());
  WordCache::Entry& entry = cache.place(key);
  if (entry.word == key.word && entry.n_bytes == key.n_bytes) {
    ids.insert(ids.end(), entry.ids.begin(), entry.ids.begin() + entry.n_ids);
    return;
  }
  const std::size_t before = ids.size();
  encode_uncached(word, ids);
  const std::size_t made = ids.size() - before;
  if (made > WordCache::kMaxIds) return;
  entry.word = key.word;
  entry.n_bytes = key.n_bytes;
  entry.n_ids = static_cast<std::uint8_t>(made);
  std::copy(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end(), entry.ids.begin());
}

void BpeEncoder::encode_uncached(std::string_view word, std::vector<std::uint32_t>& ids) const {
  if (!words_.empty())
    if (const auto whole = words_.find(std::string(word)); whole != words_.end()) {
      ids.push_back(whole->second);
      return;
    }
  if (word.size() <= kShortWord)
    merge_short(word, ids);
  else
    merge_long(word, ids);
}

void BpeEncoder::merge_short(std::string_view word, std::vector<std::uint32_t>& ids) const {
  std::uint32_t symbols[kShortWord];
  Merge merges[kShortWord];  // of each symbol with the one after it
  merges[0] = {kNone, 0};    // a word is not empty, which the compiler cannot know
  std::size_t n = word.size();
  const auto look_up = [&](std::size_t i) {
    const Merge* found = i + 1 < n ? merges_.find({symbols[i], symbols[i + 1]}) : nullptr;
    merges[i] = found ? *found : Merge{kNone, 0};
  };
  for (std::size_t i = 0; i < n; ++i) symbols[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  for (std::size_t i = 0; i < n; ++i) look_up(i);
  for (;;) {
    std::size_t best = 0;
    for (std::size_t i = 1; i < n; ++i)
      if (merges[i].rank < merges[best].rank) best = i;
    if (merges[best].rank == kNone) break;
    symbols[best] = merges[best].id;
    --n;
    std::copy(symbols + best + 2, symbols + n + 1, symbols + best + 1);
    std::copy(merges + best + 2, merges + n + 1, merges + best + 1);
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), symbols, symbols + n);
}

void BpeEncoder::merge_long(std::string_view word, std::vector<std::uint32_t>& ids) const {
  require(word.size() < kNone, "a single word of {} bytes is too long to encode", word.size());
  const auto n = static_cast<std::uint32_t>(word.size());
  struct Symbol {
    std::uint32_t id, previous, next;  // kNone: no neighbour; id kNone: merged into the one before
  };
  const auto candidate = [](std::uint32_t rank, std::uint32_t at) { return std::uint64_t{rank} << 32 | at; };
  std::vector<Symbol> symbols(n);
  for (std::uint32_t i = 0; i < n; ++i)
    symbols[i] = {byte_ids_[static_cast<unsigned char>(word[i])], i - 1,
                  i + 1 < n ? i + 1 : kNone};  // -1 is kNone
  const auto merge_at = [&](std::uint32_t at) -> const Merge* {
    const Symbol& s = symbols[at];
    return s.id == kNone || s.next == kNone ? nullptr : merges_.find({s.id, symbols[s.next].id});
  };
  std::vector<std::uint64_t> first;
  for (std::uint32_t i = 0; i < n; ++i)
    if (const Merge* merge = merge_at(i)) first.push_back(candidate(merge->rank, i));
  std::priority_queue<std::uint64_t, std::vector<std::uint64_t>, std::greater<>> queue({}, std::move(first));
  while (!queue.empty()) {
    const auto rank = static_cast<std::uint32_t>(queue.top() >> 32),
               at = static_cast<std::uint32_t>(queue.top());
    queue.pop();
    const Merge* merge = merge_at(at);
    if (!merge || merge->rank != rank) continue;  // one of the two has changed since
    Symbol& left = symbols[at];
    Symbol& right = symbols[left.next];
    left.id = merge->id;
    left.next = right.next;
    right.id = kNone;
    if (left.next != kNone) symbols[left.next].previous = at;
    if (const Merge* after = merge_at(at)) queue.push(candidate(after->rank, at));
    if (left.previous != kNone)
      if (const Merge* before = merge_at(left.previous)) queue.push(candidate(before->rank, left.previous));
  }
  for (std::uint32_t i = 0; i != kNone; i = symbols[i].next) ids.push_back(symbols[i].id);
}

}  // namespace filigree
