#include "core/utf8.h"

#include <utf8cpp/utf8.h>

#include <string>

namespace filigree {
namespace {

// The bytes of a character that begins with this one, which is not ASCII.
std::size_t length_after(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, std::size_t begin) {
  const auto lead = static_cast<unsigned char>(text[begin]);
  if (lead < 0x80) return {lead, 1};
  const std::string_view bytes = text.substr(begin, length_after(text[begin]));
  if (!is_utf8(bytes)) return {kInvalid, 1};
  auto at = bytes.begin();
  return {utf8::unchecked::next(at), static_cast<std::uint32_t>(bytes.size())};
}

bool is_utf8(std::string_view text) {
  return utf8::is_valid(text.begin(), text.end());
}

bool is_cut_character(std::string_view text) {
  if (text.empty() || static_cast<unsigned char>(text[0]) < 0x80 || text.size() >= length_after(text[0]))
    return false;
  // The least and the greatest bytes that may follow: where neither makes a character, none do.
  const std::size_t missing = length_after(text[0]) - text.size();
  for (const char byte : {'\x80', '\xbf'})
    if (is_utf8(std::string(text) + std::string(missing, byte))) return true;
  return false;
}

}  // namespace filigree
