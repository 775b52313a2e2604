#include "data/entropy.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace filigree {
namespace {

constexpr std::int64_t kBlockTokens = 1 << 20;
constexpr std::size_t kStart = 256;  // what precedes a document's first byte

// sum over i of -n_i log2(n_i / total): the bits to code what was counted.
double code_length(const std::int64_t* counts, std::size_t n) {
  std::int64_t total = 0;
  for (std::size_t i = 0; i < n; ++i) total += counts[i];
  double bits = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (counts[i] > 0)
      bits -= static_cast<double>(counts[i]) *
              std::log2(static_cast<double>(counts[i]) / static_cast<double>(total));
  return bits;
}

}  // namespace

std::optional<TextEntropy> text_entropy(const Dataset& dataset) {
  const Tokenizer* tokenizer = dataset.tokenizer();
  if (!tokenizer) return std::nullopt;
  std::vector<std::int64_t> pairs((kStart + 1) * 256), singles(256);
  std::vector<std::int32_t> stored;
  std::vector<std::uint32_t> ids;
  for (std::int64_t d = 0; d < dataset.n_documents(); ++d) {
    std::size_t previous = kStart;
    for (std::int64_t at = dataset.document_begin(d); at < dataset.document_end(d); at += kBlockTokens) {
      stored.resize(std::min(kBlockTokens, dataset.document_end(d) - at));
      dataset.read(at, std::ssize(stored), stored.data());
      ids.assign(stored.begin(), stored.end());
      for (const char c : tokenizer->decode(ids)) {
        const auto byte = static_cast<unsigned char>(c);
        ++pairs[previous * 256 + byte];
        ++singles[byte];
        previous = byte;
      }
    }
  }
  TextEntropy entropy;
  for (const std::int64_t count : singles) entropy.n_bytes += count;
  if (entropy.n_bytes == 0) return std::nullopt;
  const auto n = static_cast<double>(entropy.n_bytes);
  entropy.unigram = code_length(singles.data(), 256) / n;
  for (std::size_t a = 0; a <= kStart; ++a) entropy.bigram += code_length(&pairs[a * 256], 256) / n;
  return entropy;
}

}  // namespace filigree
