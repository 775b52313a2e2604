// Text to token ids and back.
//
// Documents: a tokenizer with a separator puts it *before* the text of each document. So every byte of text
// is predicted exactly once, the first one from the separator, and a document's end is predicted as the next
// separator. Without a separator a document's first token is not predicted, unless documents are read as one
// stream. Bits per byte = (sum of all losses in bits) / (bytes of the targets); the cost of separators is
// in the sum, while they count no byte.
#pragma once

#include <cstdint>
#include <functional>
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
  // "byte", or "bpe:" and the hex xxhash64 of to_json(): the same name is the same tokenizer, wherever its
  // file lies. Stored in files.
  virtual std::string name() const = 0;
  virtual std::int64_t vocab_size() const = 0;
  virtual std::optional<std::uint32_t> separator() const = 0;  // begins each document
  virtual std::optional<std::uint32_t> mask() const = 0;       // hides a token in masked language modelling
  // Appends the ids of `text` to `ids`. Long text may come in pieces that end at a border, see last_border.
  // Safe from several threads.
  virtual void encode(std::string_view text, std::vector<std::uint32_t>& ids) const = 0;
  // The greatest n such that text[0, n) and what follows it, whatever comes after `text`, give the same ids
  // apart as together; 0 if there is none.
  virtual std::size_t last_border(std::string_view text) const = 0;
  // The same as a function, which must not outlive the tokenizer.
  std::function<std::size_t(std::string_view)> border() const {
    return [this](std::string_view text) { return last_border(text); };
  }
  // Separators, masks, other special tokens and unknown ids give no text.
  virtual std::string decode(std::span<const std::uint32_t> ids) const = 0;
  // Bytes of text that one id stands for, as in decode().
  virtual std::int64_t n_bytes(std::uint32_t id) const = 0;
  // A tokenizer.json of the HF `tokenizers` library, which makes the same ids of it; tokenizer_from_json
  // makes the same tokenizer.
  virtual std::string to_json() const = 0;
};

// "byte": ids 0-255 are the bytes, 256 the separator, 257 the mask. "bpe:FILE": a tokenizer.json
// (data/bpe_model.h). Error(usage) for another word, Error(data) for the file.
std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name);

// From the text of a tokenizer.json; `origin` names it in errors. Error(data).
std::shared_ptr<const Tokenizer> tokenizer_from_json(std::string_view text, const std::string& origin);

// How a config writes the tokenizer of a vocabulary of this name: "byte" and "bpe:CHECKSUM" as they are, all
// else as "ids": of .bin files only the ids are known.
std::string tokenizer_word(const std::string& vocabulary_name);

}  // namespace filigree
