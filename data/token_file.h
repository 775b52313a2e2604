// The HDF5 token file: `tokens` u16 or u32 [n], `document_offsets` i64 [documents + 1] (0 first, n last),
// `tokenizer_json` (Tokenizer::to_json(); files of older versions have none), and attributes on the root:
// format "filigree-tokens", version, tokenizer, vocab_size, separator and mask (-1: none), n_tokens,
// n_documents, n_bytes of text, tokens_xxhash64 and offsets_xxhash64 (hex, over the stored little-endian
// numbers). Written crash-safe (core/hdf5.h).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.h"
#include "core/hdf5.h"
#include "data/tokenizer.h"

namespace filigree {

struct TokenCounts {
  std::int64_t n_tokens = 0;
  std::int64_t n_documents = 0;
  std::int64_t n_bytes = 0;  // of text
  bool operator==(const TokenCounts&) const = default;
};

// Streams documents into a new file; holds one block in memory.
class TokenFileWriter {
 public:
  TokenFileWriter(const std::filesystem::path& target, std::shared_ptr<const Tokenizer> tokenizer);
  void begin_document();               // writes the separator
  void append(std::string_view text);  // of the current document; pieces as in Tokenizer::encode
  TokenCounts commit();

 private:
  void write_ids();

  std::shared_ptr<const Tokenizer> tokenizer_;
  h5::Writer file_;
  DType type_;
  TokenCounts counts_;
  Xxhash64 tokens_sum_, offsets_sum_;
  std::vector<std::uint32_t> ids_;
  std::vector<std::uint16_t> narrow_;
};

// Who made the ids, as far as a file tells.
struct Vocabulary {
  std::string tokenizer;  // empty: unknown
  std::int64_t size = 0;
  std::optional<std::uint32_t> separator, mask;
  bool operator==(const Vocabulary&) const = default;
};

Vocabulary vocabulary_of(const Tokenizer& tokenizer);

class TokenFile {
 public:
  // Checks the header and the offsets, their checksum included; the tokens are checked by verify().
  // Error(data).
  explicit TokenFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const Vocabulary& vocabulary() const { return vocabulary_; }
  const std::shared_ptr<const Tokenizer>& tokenizer() const {
    return tokenizer_;
  }  // null if it is not stored
  const TokenCounts& counts() const { return counts_; }
  DType dtype() const { return type_; }
  const std::vector<std::int64_t>& document_offsets() const { return offsets_; }
  const std::string& tokens_sum() const { return tokens_sum_; }

  // Tokens [begin, begin + count); Error(data) if one is not below vocab_size. Safe from several threads.
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const;
  // Reads all tokens in blocks and compares the checksum; each block is handed to `use` (may be empty) before
  // the sum is known. Memory stays bounded. Error(data).
  using UseBlock = std::function<void(std::int64_t begin, const std::int32_t* ids, std::int64_t count)>;
  void verify(const UseBlock& use = {}) const;

 private:
  template <class T>
  void read_as(std::int64_t begin, std::int64_t count, std::int32_t* out, Xxhash64* sum) const;

  void read_tokenizer();

  h5::Reader file_;
  Vocabulary vocabulary_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  TokenCounts counts_;
  DType type_ = DType::u16;
  std::vector<std::int64_t> offsets_;
  std::string tokens_sum_;
};

}  // namespace filigree
