#include "data/byte_alphabet.h"

#include <cstdint>

namespace filigree {
namespace {

constexpr std::size_t kEnd = 256 + 68;  // all characters lie below

constexpr bool stands_for_itself(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
}

constexpr std::array<char32_t, 256> make_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) alphabet[byte] = stands_for_itself(byte) ? byte : next++;
  return alphabet;
}

// By character: its byte, or -1.
constexpr std::array<std::int16_t, kEnd> make_reverse() {
  std::array<std::int16_t, kEnd> reverse{};
  reverse.fill(-1);
  const auto alphabet = make_alphabet();
  for (std::size_t byte = 0; byte < 256; ++byte) reverse[alphabet[byte]] = static_cast<std::int16_t>(byte);
  return reverse;
}

constexpr auto kAlphabet = make_alphabet();
constexpr auto kReverse = make_reverse();

}  // namespace

std::array<char32_t, 256> byte_alphabet() {
  return kAlphabet;
}

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const char32_t character = kAlphabet[static_cast<unsigned char>(c)];
    if (character < 0x80) {
      text.push_back(static_cast<char>(character));
    } else {  // two bytes of UTF-8 reach up to U+07FF
      text.push_back(static_cast<char>(0xc0 | character >> 6));
      text.push_back(static_cast<char>(0x80 | (character & 0x3f)));
    }
  }
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::size_t character = static_cast<unsigned char>(text[i]);
    if (character >= 0x80) {
      if (character < 0xc2 || character > 0xdf || i + 1 == text.size()) return std::nullopt;
      character = (character & 0x1f) << 6 | (static_cast<unsigned char>(text[++i]) & 0x3f);
    }
    if (character >= kEnd || kReverse[character] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kReverse[character]));
  }
  return bytes;
}

}  // namespace filigree
