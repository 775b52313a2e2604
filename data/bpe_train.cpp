#include "data/bpe_train.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <optional>
#include <queue>
#include <set>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/parallel.h"
#include "core/utf8.h"
#include "data/byte_alphabet.h"
#include "data/strict_json.h"
#include "data/text_segmenter.h"

namespace filigree {
namespace {

constexpr std::size_t kMaxWordBytes = 4096;

// --- counting ---

// Hands the blocks of all sources to whoever asks, one at a time.
class BlockQueue {
 public:
  BlockQueue(const Sources& sources, const TextSegmenter& segmenter, const BpeTrainProgress& progress)
      : sources_(sources), segmenter_(segmenter), progress_(progress) {}

  std::optional<std::string> next() {
    const std::lock_guard lock(mutex_);
    for (;;) {
      if (!reader_) {
        if (file_ == sources_.files.size()) return std::nullopt;
        reader_.emplace(sources_.files[file_++],
                        [this](std::string_view text) { return segmenter_.last_border(text); });
      }
      if (auto block = reader_->next()) {
        done_ += std::ssize(*block);
        if (progress_) progress_("count", done_, sources_.bytes);
        return block;
      }
      reader_.reset();
    }
  }

 private:
  const Sources& sources_;
  const TextSegmenter& segmenter_;
  const BpeTrainProgress& progress_;
  std::mutex mutex_;
  std::optional<BlockReader> reader_;
  std::size_t file_ = 0;
  std::int64_t done_ = 0;
};

void count_block(std::string_view block, const TextSegmenter& segmenter, WordCounts& counts) {
  const auto add = [&](std::string_view word) {
    for (; word.size() > kMaxWordBytes; word.remove_prefix(kMaxWordBytes))
      counts.add(word.substr(0, kMaxWordBytes));
    counts.add(word);
  };
  segmenter.segment(block, add, [](std::uint32_t) {});
}

// Each thread counts into a table of its own; sums do not depend on who counted what.
WordCounts count_words(const Sources& sources, const TextSegmenter& segmenter,
                       const BpeTrainProgress& progress) {
  BlockQueue queue(sources, segmenter, progress);
  std::vector<WordCounts> tables(n_threads());
  parallel_tasks(std::ssize(tables), [&](std::int64_t i) {
    while (const auto block = queue.next()) count_block(*block, segmenter, tables[i]);
  });
  for (std::size_t stride = 1; stride < tables.size(); stride *= 2) {
    parallel_tasks(static_cast<std::int64_t>((tables.size() + stride - 1) / (2 * stride)),
                   [&](std::int64_t i) {
                     const std::size_t to = 2 * stride * static_cast<std::size_t>(i), from = to + stride;
                     if (from >= tables.size()) return;
                     for (const auto& [text, count] : tables[from].words()) tables[to].add(text, count);
                     tables[from] = WordCounts();
                   });
  }
  return std::move(tables.front());
}

// --- merging ---

class Merger {
 public:
  Merger(const WordCounts& counts, const BpeTrainOptions& options) : options_(options) {
    for (const std::string& special : options.special) add_token(special);
    std::array<std::uint32_t, 256> order{}, byte_ids{};
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [a = byte_alphabet()](std::uint32_t x, std::uint32_t y) { return a[x] < a[y]; });
    for (const std::uint32_t byte : order)
      byte_ids[byte] = add_token(std::string(1, static_cast<char>(byte)));
    for (const auto& [text, count] : counts.words()) {
      if (text.size() < 2) continue;
      words_.push_back({symbols_.size(), static_cast<std::uint32_t>(text.size()), count});
      for (const char c : text) symbols_.push_back(byte_ids[static_cast<unsigned char>(c)]);
    }
    count_pairs();
  }

  void run(const BpeTrainProgress& progress) {
    const std::int64_t first = std::ssize(tokens_), total = options_.vocab_size - first;
    while (std::ssize(tokens_) < options_.vocab_size && !queue_.empty()) {
      Entry top = queue_.top();
      queue_.pop();
      if (const std::int64_t now = pair_counts_[top.pair]; top.count != now) {
        top.count = now;
        queue_.push(top);
        continue;
      }
      if (top.count < std::max<std::int64_t>(1, options_.min_count)) break;
      merge(top);
      if (progress) progress("merge", std::ssize(tokens_) - first, total);
    }
  }

  BpeModel model() const {
    BpeModel model;
    model.splitting = options_.splitting;
    model.ignore_merges = options_.splitting == Splitting::llama3;
    for (std::uint32_t id = 0; id < tokens_.size(); ++id)
      model.vocab.push_back(id < options_.special.size() ? tokens_[id] : to_byte_alphabet(tokens_[id]));
    for (std::uint32_t id = 0; id < options_.special.size(); ++id)
      model.added.push_back({tokens_[id], id, true, false});
    // The last time counts for a pair that was merged more than once.
    PairMap<bool> seen(merges_.size());
    for (auto pair = merges_.rbegin(); pair != merges_.rend(); ++pair)
      if (!std::exchange(seen[*pair], true)) model.merges.push_back(*pair);
    std::reverse(model.merges.begin(), model.merges.end());
    return model;
  }

 private:
  struct Word {
    std::size_t begin;  // in symbols_
    std::uint32_t size;
    std::int64_t count;
  };
  // A pair, and the words in which it came up at one time. A pair comes up again where a token is made in two
  // ways (ab+c, a+bc); each time it gets an entry of its own, as in the HF trainer, whose order this follows.
  struct Entry {
    std::int64_t count;  // when it was last looked at; the true one may be another by now
    TokenPair pair;
    std::uint32_t words;  // index into lists_
    bool operator<(const Entry& o) const {
      if (count != o.count) return count < o.count;
      return pair != o.pair ? pair > o.pair : words > o.words;
    }
  };
  using WordList = std::vector<std::uint32_t>;  // indices into words_

  std::uint32_t add_token(const std::string& bytes) {
    const auto id = static_cast<std::uint32_t>(tokens_.size());
    if (const auto [at, is_new] = ids_.emplace(bytes, id); !is_new) return at->second;
    tokens_.push_back(bytes);
    return id;
  }

  void push(TokenPair pair, WordList words) {
    const std::int64_t count = pair_counts_[pair];
    if (count <= 0) return;
    queue_.push({count, pair, static_cast<std::uint32_t>(lists_.size())});
    lists_.push_back(std::move(words));
  }

  static void add_word(WordList& list, std::uint32_t word) {
    if (list.empty() || list.back() != word) list.push_back(word);
  }

  // Pairs of bytes only, so a plain table will do.
  void count_pairs() {
    const auto first = static_cast<std::uint32_t>(options_.special.size());  // the first byte's id
    std::vector<WordList> lists(256 * 256);
    for (std::uint32_t w = 0; w < words_.size(); ++w) {
      const std::uint32_t* symbols = &symbols_[words_[w].begin];
      for (std::uint32_t i = 1; i < words_[w].size; ++i) {
        add_word(lists[(symbols[i - 1] - first) * 256 + symbols[i] - first], w);
        pair_counts_[{symbols[i - 1], symbols[i]}] += words_[w].count;
      }
    }
    for (std::uint32_t i = 0; i < lists.size(); ++i)
      if (!lists[i].empty()) push({first + i / 256, first + i % 256}, std::move(lists[i]));
  }

  void merge(const Entry& top) {
    const std::string made = tokens_[top.pair.first] + tokens_[top.pair.second];
    const WordList words = std::exchange(lists_[top.words], {});
    const auto known = ids_.find(made);
    if (known != ids_.end() && known->second < options_.special.size())
      return;  // it would vanish when decoded
    const std::uint32_t id = add_token(made);
    merges_.push_back(top.pair);

    PairMap<std::uint32_t> where;  // 1 + index into `fresh`
    std::vector<std::pair<TokenPair, WordList>> fresh;
    for (const std::uint32_t w : words)
      merge_in_word(w, top.pair, id, [&](TokenPair pair) {
        std::uint32_t& index = where[pair];
        if (index == 0) {
          fresh.push_back({pair, {}});
          index = static_cast<std::uint32_t>(fresh.size());
        }
        add_word(fresh[index - 1].second, w);
      });
    for (auto& [pair, list] : fresh) push(pair, std::move(list));
  }

  // Merges from left to right and keeps the counts of its neighbours' pairs; `came_up` gets those with the
  // new token. The merged pair's own count stays, in which the order of the HF trainer shows where that pair
  // comes up again.
  template <class CameUp>
  void merge_in_word(std::uint32_t w, TokenPair pair, std::uint32_t id, const CameUp& came_up) {
    Word& word = words_[w];
    std::uint32_t* symbols = &symbols_[word.begin];
    std::uint32_t n = 0;
    const auto replace = [&](TokenPair old, TokenPair now) {
      pair_counts_[old] -= word.count;
      pair_counts_[now] += word.count;
      came_up(now);
    };
    for (std::uint32_t i = 0; i < word.size;) {
      if (i + 1 == word.size || symbols[i] != pair.first || symbols[i + 1] != pair.second) {
        symbols[n++] = symbols[i++];
        continue;
      }
      if (n > 0) replace({symbols[n - 1], pair.first}, {symbols[n - 1], id});
      symbols[n++] = id;
      i += 2;
      if (i < word.size) replace({pair.second, symbols[i]}, {id, symbols[i]});
    }
    word.size = n;
  }

  const BpeTrainOptions& options_;
  std::vector<std::string> tokens_;  // bytes by id; special tokens first
  std::unordered_map<std::string, std::uint32_t> ids_;
  std::vector<std::uint32_t> symbols_;
  std::vector<Word> words_;
  PairMap<std::int64_t> pair_counts_;
  std::vector<WordList> lists_;
  std::priority_queue<Entry> queue_;
  std::vector<TokenPair> merges_;
};

void check_options(const BpeTrainOptions& options) {
  std::set<std::string> seen;
  for (const std::string& special : options.special) {
    require(!special.empty(), "a special token is empty");
    require(is_utf8(special), "a special token is not valid UTF-8");
    const auto bytes = from_byte_alphabet(special);
    require(!bytes || bytes->size() > 1, "the special token {} is how the vocabulary writes a byte",
            json_quoted(special));
    require(seen.insert(special).second, "the special token {} comes twice", json_quoted(special));
  }
  const std::int64_t least = 256 + std::ssize(options.special);
  require(options.vocab_size >= least && options.vocab_size <= (1 << 24),
          "a vocabulary of {} tokens: it must have {} (the bytes and special tokens) to {}",
          options.vocab_size, least, 1 << 24);
  require(options.min_count >= 1, "the least count must be at least 1, not {}", options.min_count);
}

}  // namespace

std::vector<std::string> default_special_tokens(Splitting splitting) {
  if (splitting == Splitting::gpt2) return {"<|endoftext|>"};
  return {"<|begin_of_text|>", "<|end_of_text|>"};
}

BpeTrainResult train_bpe(const Sources& sources, const BpeTrainOptions& options,
                         const BpeTrainProgress& progress) {
  check_options(options);
  std::vector<AddedToken> special;
  for (const std::string& content : options.special) special.push_back({content, 0, true, false});
  const TextSegmenter segmenter(options.splitting, special);
  BpeTrainResult result;
  const WordCounts counts = count_words(sources, segmenter, progress);
  for (const auto& [text, count] : counts.words()) result.n_words += count;
  result.n_distinct_words = std::ssize(counts);
  Merger merger(counts, options);
  merger.run(progress);
  result.model = merger.model();
  return result;
}

}  // namespace filigree
