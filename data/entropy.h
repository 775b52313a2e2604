// How predictable a text is by counting alone: the yardstick that a model has to beat.
#pragma once

#include <cstdint>
#include <optional>

#include "data/dataset.h"

namespace filigree {

// Empirical entropies in bits per byte of the text itself, without smoothing, over its n_bytes bytes:
//   unigram  H1 = -sum_b p(b) log2 p(b)
//   bigram   H2 = -sum_{a,b} p(a,b) log2 p(b|a), the byte after a given byte; a document's first byte follows
//   a
//            start symbol of its own.
// No unigram (bigram) model, however fitted, codes this text in fewer bits. Where documents end is not coded.
struct TextEntropy {
  double unigram = 0;
  double bigram = 0;
  std::int64_t n_bytes = 0;
};

// nullopt if the dataset's tokens cannot be turned into text. Reads the whole dataset in blocks.
std::optional<TextEntropy> text_entropy(const Dataset& dataset);

}  // namespace filigree
