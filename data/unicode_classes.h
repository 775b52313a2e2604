// What the splitting rules of tokenizers ask of a character: letter (general category L), number (N), white
// space, or something else. Unicode 16.0, which is what the HF `tokenizers` library 0.23 knows. (Its version
// 0.20 knows 14.0 and takes the 9,392 letters and numbers that came later for symbols.)
#pragma once

#include <cstdint>
#include <string_view>

namespace filigree {

enum class CharClass : std::uint8_t { other, letter, number, space };

CharClass char_class(char32_t code_point);

// The character that starts at a byte of text. A byte that is no valid UTF-8 where it stands (RFC 3629) is a
// character of one byte and class other, whose code point is kInvalid.
struct Utf8Char {
  char32_t code_point;
  std::uint32_t n_bytes;
};
constexpr char32_t kInvalid = 0xffffffff;
Utf8Char decode_utf8(std::string_view text, std::size_t begin);
bool is_valid_utf8(std::string_view text);

}  // namespace filigree
