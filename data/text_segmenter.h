// Text to what byte-level BPE encodes one by one: added tokens, and the words between them.
#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe_model.h"

namespace filigree {

class AddedTokenFinder {
 public:
  struct Match {
    std::size_t begin, end;  // begin is the text's size if there is none
    std::uint32_t id;
  };

  void add(std::string content, std::uint32_t id);
  // The first occurrence from `from` on of any of them; of those that begin there, the longest.
  Match find(std::string_view text, std::size_t from) const;
  // True if one of them could reach over a border between these two bytes.
  bool spans(char before, char after) const;

 private:
  struct Token {
    std::string content;
    std::uint32_t id;
  };
  std::vector<Token> tokens_;  // the longest first
  std::bitset<65536> starts_;  // by the first two bytes of text at which a token may begin
  std::bitset<65536> inside_;  // by two neighbouring bytes of a token
};

class TextSegmenter {
 public:
  TextSegmenter(Splitting splitting, const std::vector<AddedToken>& added);

  using UseWord = std::function<void(std::string_view)>;
  using UseToken = std::function<void(std::uint32_t id)>;
  // In the order of the text; words are not empty.
  void segment(std::string_view text, const UseWord& word, const UseToken& token) const;
  // See Tokenizer::last_border.
  std::size_t last_border(std::string_view text) const;

 private:
  void split(std::string_view text, const UseWord& word) const;

  Splitting splitting_;
  AddedTokenFinder first_, second_;  // the second looks at what the first leaves
};

}  // namespace filigree
