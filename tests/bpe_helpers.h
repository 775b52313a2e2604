// What the tests of byte-level BPE share: nasty text and small tokenizers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/random.h"
#include "data/bpe_model.h"
#include "data/byte_alphabet.h"
#include "tests/gradcheck.h"

namespace filigree {

inline std::string utf8(char32_t c) {
  const auto byte = [](char32_t value) { return static_cast<char>(value); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xc0 | c >> 6), byte(0x80 | (c & 0x3f))};
  if (c < 0x10000) return {byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))};
  return {byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 0x3f)), byte(0x80 | (c >> 6 & 0x3f)),
          byte(0x80 | (c & 0x3f))};
}

// Random text of pieces that the splitting rules care about, valid UTF-8 or not.
class TortureText {
 public:
  explicit TortureText(std::uint64_t seed, bool valid = false) : stream_(seed), valid_(valid) {}

  std::uint64_t below(std::uint32_t n) { return stream_.below(n); }
  std::string piece() {
    static const std::vector<std::string> pieces = {"a",
                                                    "b",
                                                    "ab",
                                                    "abc",
                                                    " ",
                                                    " ",
                                                    " ",
                                                    "\n",
                                                    "\n",
                                                    "\r",
                                                    "\t",
                                                    "'s",
                                                    "'LL",
                                                    "'",
                                                    "'re",
                                                    "1",
                                                    "234",
                                                    "!",
                                                    ".\n",
                                                    "-",
                                                    "<|endoftext|>",
                                                    "<|",
                                                    "\xc5\xbf",
                                                    "\xc3\xa9",
                                                    "e\xcc\x81",
                                                    "\xe3\x80\x80",
                                                    "\xc2\xa0",
                                                    "\xe4\xbd\xa0",
                                                    "\xd7\xa9",
                                                    "\xd9\x85",
                                                    "\xf0\x9f\x91\xa9\xe2\x80\x8d",
                                                    "\xe2\x85\xa7",
                                                    "\xc2\x85",
                                                    "\xcd\xb8"};
    const auto kind = below(12);
    if (kind == 0) return random_code_point();
    if (kind == 1 && !valid_) return {static_cast<char>(below(256))};
    return pieces[below(static_cast<std::uint32_t>(pieces.size()))];
  }
  std::string text(std::size_t n_pieces) {
    std::string text;
    for (std::size_t i = 0; i < n_pieces; ++i) text += piece();
    return text;
  }
  std::string random_code_point() {
    auto c = static_cast<char32_t>(below(0x110000));
    if (c >= 0xd800 && c < 0xe000) c = U'x';
    return utf8(c);
  }

 private:
  RandomStream stream_;
  bool valid_;
};

// All 256 bytes as ids 0 to 255, then the results of the merges given as "left right" in the byte alphabet.
inline BpeModel make_model(const std::vector<std::string>& merges, Splitting splitting = Splitting::gpt2,
                           const std::vector<AddedToken>& added = {}) {
  BpeModel model;
  model.splitting = splitting;
  for (int b = 0; b < 256; ++b) model.vocab.push_back(to_byte_alphabet(std::string(1, static_cast<char>(b))));
  const auto id_of = [&](const std::string& token) {
    return static_cast<std::uint32_t>(std::find(model.vocab.begin(), model.vocab.end(), token) -
                                      model.vocab.begin());
  };
  for (const std::string& merge : merges) {
    const std::size_t space = merge.find(' ');
    const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
    model.merges.push_back({id_of(left), id_of(right)});
    if (id_of(left + right) == model.vocab.size()) model.vocab.push_back(left + right);
  }
  for (AddedToken token : added) {
    token.id = static_cast<std::uint32_t>(model.vocab_size());
    model.added.push_back(token);
  }
  return model;
}

// A model with about n random merges over a few letters and spaces.
inline BpeModel random_model(TortureText& random, int n, Splitting splitting) {
  std::vector<std::string> tokens = {"a", "b", "c",        "1",
                                     "!", "'", "\xc4\xa0", "\xc4\x8a"};  // the last: ' ', '\n'
  std::vector<std::string> merges;
  for (int i = 0; i < n; ++i) {
    const auto pick = [&] { return tokens[random.below(static_cast<std::uint32_t>(tokens.size()))]; };
    const std::string left = pick(), right = pick(), merge = left + " " + right;
    if (std::find(merges.begin(), merges.end(), merge) != merges.end() || merge.size() > 40) continue;
    merges.push_back(merge);
    if (std::find(tokens.begin(), tokens.end(), left + right) == tokens.end()) tokens.push_back(left + right);
  }
  return make_model(merges, splitting);
}

}  // namespace filigree
