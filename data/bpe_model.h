// Byte-level BPE as a tokenizer.json of the HF `tokenizers` library describes it (Sennrich et al. 2016;
// Radford et al. 2019). Read and written are the two shapes that matter for language models:
//   gpt2    pre_tokenizer ByteLevel with use_regex;
//   llama3  pre_tokenizer Sequence of Split with Llama 3's pattern and ByteLevel without use_regex;
// both without add_prefix_space, with model BPE and decoder ByteLevel. Post-processors are kept as written:
// ByteLevel, TemplateProcessing with one special token before the text (Llama 3's), or a Sequence of these.
// A file with anything else (normalizers, other models and pre-tokenizers, truncation, padding, dropout,
// added tokens that strip spaces or match whole words only, a vocabulary without all 256 bytes) is refused,
// never ignored.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/pair_map.h"
#include "data/word_splitter.h"

namespace filigree {

// A token that is found in text before it is split, the longest first.
struct AddedToken {
  std::string content;
  std::uint32_t id = 0;
  bool special = false;
  bool normalized = false;  // found only in what the tokens without it leave
};

struct BpeModel {
  Splitting splitting = Splitting::gpt2;
  bool is_byte_tokenizer = false;  // no splitting at all: to_json() of the byte tokenizer
  bool ignore_merges = false;      // a word that is a token is that token, whatever the merges say
  std::vector<std::string> vocab;  // by id, as written: in the byte alphabet (data/byte_alphabet.h)
  std::vector<TokenPair> merges;   // by rank
  std::vector<AddedToken> added;   // those outside `vocab` have the ids after it, in this order
  std::string post_processor;      // JSON; empty: none

  std::int64_t vocab_size() const;  // added tokens included
};

// Error(data), beginning with `origin`, that names the part.
BpeModel read_tokenizer_json(std::string_view text, const std::string& origin);

// The same model always gives the same text: reading it and writing it again changes nothing.
std::string write_tokenizer_json(const BpeModel& model);

}  // namespace filigree
