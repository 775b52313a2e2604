// Text to token ids and back.
//
// Documents: a tokenizer with a separator puts it *before* the text of each document. So every byte of text
// is predicted exactly once, the first one from the separator, and a document's end is predicted as the next
// separator. Bits per byte = (sum of all losses in bits) / (bytes of the targets); the cost of separators is
// in the sum, while they count no byte.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace filigree {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::string name() const = 0;  // what make_tokenizer makes it from; stored in files
  virtual std::int64_t vocab_size() const = 0;
  virtual std::optional<std::uint32_t> separator() const = 0;  // begins each document
  virtual std::optional<std::uint32_t> mask() const = 0;       // hides a token in masked language modelling
  // Appends the ids of `text` to `ids`. Long text may come in pieces that end after a newline.
  virtual void encode(std::string_view text, std::vector<std::uint32_t>& ids) const = 0;
  // Separators, masks and unknown ids give no text.
  virtual std::string decode(std::span<const std::uint32_t> ids) const = 0;
  // Bytes of text that one id stands for; 0 for separator and mask.
  virtual std::int64_t n_bytes(std::uint32_t id) const = 0;
};

// "byte": ids 0-255 are the bytes, 256 the separator, 257 the mask. Error(usage) for an unknown name.
std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name);

}  // namespace filigree
