// Token files of other trainers. nanoGPT: raw u16 ids. llm.c: 256 i32 of header {magic, version, number of
// tokens, 0..}, then ids; magic 20240520 of version 1 is GPT-2 (u16), 20240801 of version 7 Llama 3 (u32).
// Both hold ids only: the vocabulary's tokenizer is empty, or of llm.c's files the name "gpt2" or "llama3",
// which no tokenizer of ours has.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "data/token_file.h"

namespace filigree {

class BinFile {
 public:
  // Checks sizes against the file and reads every id once: its checksum, and whether all lie in the
  // vocabulary. A nanoGPT file names no vocabulary: it is taken to end at the largest id. Error(data), also
  // for a file of another program that holds no tokens (data/foreign_file.h).
  explicit BinFile(const std::filesystem::path& path);
  ~BinFile();
  BinFile(const BinFile&) = delete;
  BinFile& operator=(const BinFile&) = delete;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  std::int64_t n_tokens() const { return n_tokens_; }
  DType dtype() const { return type_; }
  std::uint64_t checksum() const { return checksum_; }
  // Where documents begin (each begins with the vocabulary's separator), then n_tokens.
  const std::vector<std::int64_t>& document_offsets() const { return offsets_; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const;

 private:
  void read_header(std::int64_t file_bytes);
  void read_bytes(void* out, std::int64_t count, std::int64_t offset) const;
  void scan();

  std::filesystem::path path_;
  int fd_;
  Vocabulary vocabulary_;
  DType type_ = DType::u16;
  std::int64_t data_begin_ = 0, n_tokens_ = 0;
  std::uint64_t checksum_ = 0;
  std::vector<std::int64_t> offsets_;
};

}  // namespace filigree
