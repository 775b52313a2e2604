// A byte-level BPE tokenizer: the ids that the HF `tokenizers` library makes of the same tokenizer.json,
// without the special tokens that its post-processor adds.
//
// Text that is no valid UTF-8, which that library cannot take, is encoded all the same and decodes exactly:
// the splitting rules see each invalid byte as a symbol. An added token that stands in the text becomes that
// token, special or not, as there. Special tokens give no text when decoded, so decode(encode(text)) == text
// for every text that holds no special token.
//
// Separator: <|endoftext|> (GPT-2), else <|begin_of_text|>, else <|end_of_text|> (Llama 3), else none.
// Mask: <|mask|>, else [MASK], else none.
#pragma once

#include <memory>
#include <mutex>

#include "data/bpe_encoder.h"
#include "data/bpe_model.h"
#include "data/text_segmenter.h"
#include "data/tokenizer.h"

namespace filigree {

class BpeTokenizer : public Tokenizer {
 public:
  explicit BpeTokenizer(BpeModel model);

  std::string name() const override { return name_; }
  std::int64_t vocab_size() const override { return std::ssize(texts_); }
  std::optional<std::uint32_t> separator() const override { return separator_; }
  std::optional<std::uint32_t> mask() const override { return mask_; }
  // Long text is encoded by all threads.
  void encode(std::string_view text, std::vector<std::uint32_t>& ids) const override;
  std::size_t last_border(std::string_view text) const override;
  std::string decode(std::span<const std::uint32_t> ids) const override;
  std::int64_t n_bytes(std::uint32_t id) const override;
  std::string to_json() const override { return json_; }

  const BpeModel& model() const { return model_; }

 private:
  void encode_piece(std::string_view text, std::vector<std::uint32_t>& ids) const;
  std::unique_ptr<WordCache> take_cache() const;

  BpeModel model_;
  std::string json_, name_;
  BpeEncoder encoder_;
  TextSegmenter segmenter_;
  std::vector<std::string> texts_;  // what each id decodes to
  std::optional<std::uint32_t> separator_, mask_;
  mutable std::mutex caches_mutex_;
  mutable std::vector<std::unique_ptr<WordCache>> caches_;  // those not in use
};

}  // namespace filigree
