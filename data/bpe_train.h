// Trains byte-level BPE on text: counts words on all threads, then merges the most frequent pair of
// neighbouring tokens again and again, looking only at the words that hold it.
//
// The vocabulary is that of the HF `tokenizers` library's BpeTrainer (initial_alphabet ByteLevel.alphabet(),
// max_token_length none) for the same text, token for token: ids are the special tokens in the order given,
// the 256 bytes in the order of their characters in the byte alphabet, then one token per merge. Ties go to
// the pair whose left id is smaller, then to the smaller right id. Two differences are meant: text that
// spells a special token is cut out before words are counted, as it is when text is encoded, and a word of
// more than 4096 bytes is counted as several, each of at most that size, so that no file can make training
// quadratic. The result does not depend on the number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "data/bpe_model.h"
#include "data/sources.h"
#include "data/word_counts.h"

namespace filigree {

struct BpeTrainOptions {
  std::int64_t vocab_size = 32000;  // special tokens and bytes included
  std::int64_t min_count = 2;       // a pair that occurs less often is not merged
  Splitting splitting = Splitting::gpt2;
  std::vector<std::string> special = {};  // see default_special_tokens
};

// Those that BpeTokenizer takes for its separator: <|endoftext|>; <|begin_of_text|> and <|end_of_text|>.
std::vector<std::string> default_special_tokens(Splitting splitting);

struct BpeTrainResult {
  BpeModel model;  // ignore_merges for llama3, as Llama 3 has it
  std::int64_t n_words = 0, n_distinct_words = 0;
};

// `phase` names what is going on ("count", "merge"); done and total are bytes, then merges.
using BpeTrainProgress = std::function<void(const std::string& phase, std::int64_t done, std::int64_t total)>;

// Error(usage) for a vocabulary too small for its bytes and special tokens or an impossible special token.
// The vocabulary ends early where no pair is frequent enough.
BpeTrainResult train_bpe(const Sources& sources, const BpeTrainOptions& options,
                         const BpeTrainProgress& progress = {});

}  // namespace filigree
