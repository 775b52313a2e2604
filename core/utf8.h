// Characters of UTF-8 text (RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF), by utfcpp.
#pragma once

#include <cstdint>
#include <string_view>

namespace filigree {

// The character that starts at a byte of text. A byte that is no valid UTF-8 where it stands is a character
// of one byte, whose code point is kInvalid.
struct Utf8Char {
  char32_t code_point;
  std::uint32_t n_bytes;
};
constexpr char32_t kInvalid = 0xffffffff;
Utf8Char decode_utf8(std::string_view text, std::size_t begin);

bool is_utf8(std::string_view text);

// True where bytes could come after this text that would make one character of all of it.
bool is_cut_character(std::string_view text);

}  // namespace filigree
