#include "data/bpe_tokenizer.h"

#include <algorithm>

#include "core/check.h"
#include "core/hash.h"
#include "core/parallel.h"
#include "data/byte_alphabet.h"

namespace filigree {
namespace {

constexpr std::size_t kPieceBytes = 128 << 10;  // of text that one task encodes

// The id of the first of these contents that the model has.
std::optional<std::uint32_t> find_token(const BpeModel& model,
                                        std::initializer_list<std::string_view> contents) {
  for (const std::string_view content : contents) {
    for (const AddedToken& token : model.added)
      if (token.content == content) return token.id;
    const auto found = std::find(model.vocab.begin(), model.vocab.end(), content);
    if (found != model.vocab.end()) return static_cast<std::uint32_t>(found - model.vocab.begin());
  }
  return std::nullopt;
}

}  // namespace

BpeTokenizer::BpeTokenizer(BpeModel model)
    : model_(std::move(model)),
      json_(write_tokenizer_json(model_)),
      name_("bpe:" + hex64(xxhash64(json_.data(), json_.size()))),
      encoder_(model_),
      segmenter_(model_.splitting, model_.added),
      texts_(model_.vocab_size()),
      separator_(find_token(model_, {"<|endoftext|>", "<|begin_of_text|>", "<|end_of_text|>"})),
      mask_(find_token(model_, {"<|mask|>", "[MASK]"})) {
  for (std::size_t id = 0; id < model_.vocab.size(); ++id)
    texts_[id] = from_byte_alphabet(model_.vocab[id]).value_or(model_.vocab[id]);
  for (const AddedToken& token : model_.added) texts_[token.id] = token.special ? "" : token.content;
  for (const auto& id : {separator_, mask_})
    if (id) texts_[*id].clear();
}

std::unique_ptr<WordCache> BpeTokenizer::take_cache() const {
  const std::lock_guard lock(caches_mutex_);
  if (caches_.empty()) return std::make_unique<WordCache>();
  auto cache = std::move(caches_.back());
  caches_.pop_back();
  return cache;
}

void BpeTokenizer::encode_piece(std::string_view text, std::vector<std::uint32_t>& ids) const {
  auto cache = take_cache();
  segmenter_.segment(
      text, [&](std::string_view word) { encoder_.encode(word, *cache, ids); },
      [&](std::uint32_t id) { ids.push_back(id); });
  const std::lock_guard lock(caches_mutex_);
  caches_.push_back(std::move(cache));
}

void BpeTokenizer::encode(std::string_view text, std::vector<std::uint32_t>& ids) const {
  std::vector<std::string_view> pieces;
  for (std::size_t bytes = kPieceBytes; !text.empty();) {
    const std::size_t border = bytes < text.size() ? last_border(text.substr(0, bytes)) : text.size();
    if (border == 0) {
      bytes *= 2;
      continue;
    }
    pieces.push_back(text.substr(0, border));
    text.remove_prefix(border);
    bytes = kPieceBytes;
  }
  if (pieces.size() == 1) return encode_piece(pieces[0], ids);
  std::vector<std::vector<std::uint32_t>> parts(pieces.size());
  parallel_tasks(std::ssize(pieces), [&](std::int64_t i) { encode_piece(pieces[i], parts[i]); });
  for (const auto& part : parts) ids.insert(ids.end(), part.begin(), part.end());
}

std::size_t BpeTokenizer::last_border(std::string_view text) const {
  return segmenter_.last_border(text);
}

std::string BpeTokenizer::decode(std::span<const std::uint32_t> ids) const {
  std::string text;
  for (const std::uint32_t id : ids)
    if (id < texts_.size()) text += texts_[id];
  return text;
}

std::int64_t BpeTokenizer::n_bytes(std::uint32_t id) const {
  return id < texts_.size() ? std::ssize(texts_[id]) : 0;
}

}  // namespace filigree
