// The class of a character, which the splitting rules of tokenizers ask for: letter (general category L),
// number (N), white space, or something else. Unicode 16.0, which is what the HF `tokenizers` library 0.23
// knows. (Its version 0.20 knows 14.0 and takes the 9,392 letters and numbers that came later for symbols.)
#pragma once

#include <cstdint>

namespace filigree {

enum class CharClass : std::uint8_t { other, letter, number, space };

CharClass char_class(char32_t code_point);

}  // namespace filigree
