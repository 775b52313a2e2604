// GPT-2's alphabet, in which tokenizer.json files write bytes: one printable character for each. '!' to '~',
// U+00A1 to U+00AC and U+00AE to U+00FF stand for the bytes of the same number; the other 68 bytes, in
// ascending order, are U+0100, U+0101 and so on (a space is U+0120). Radford et al. 2019, in the code
// published with it.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace filigree {

// The characters of bytes 0 to 255 as code points, all below U+0144.
std::array<char32_t, 256> byte_alphabet();

// Bytes as their characters, in UTF-8.
std::string to_byte_alphabet(std::string_view bytes);
// The bytes that `text` writes; nullopt if one of its characters is not in the alphabet.
std::optional<std::string> from_byte_alphabet(std::string_view text);

}  // namespace filigree
