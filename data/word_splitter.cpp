#include "data/word_splitter.h"

#include <algorithm>
#include <array>

#include "core/utf8.h"
#include "data/unicode_classes.h"

namespace filigree {
namespace {

constexpr std::array<CharClass, 128> make_ascii() {
  std::array<CharClass, 128> table{};
  for (char c = 'a'; c <= 'z'; ++c) table[c] = CharClass::letter;
  for (char c = 'A'; c <= 'Z'; ++c) table[c] = CharClass::letter;
  for (char c = '0'; c <= '9'; ++c) table[c] = CharClass::number;
  for (const char c : {' ', '\t', '\n', '\v', '\f', '\r'}) table[c] = CharClass::space;
  return table;
}
constexpr std::array<CharClass, 128> kAscii = make_ascii();

bool is_newline(char c) {
  return c == '\n' || c == '\r';
}

// One character of the text: its class and where the next one begins.
struct Char {
  CharClass kind;
  std::size_t end;
};

Char char_at(std::string_view text, std::size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80) return {kAscii[byte], at + 1};
  const Utf8Char c = decode_utf8(text, at);
  return {char_class(c.code_point), at + c.n_bytes};
}

// The end of the longest run of characters of one class from `at`, at most `most` of them.
std::size_t run_end(std::string_view text, std::size_t at, CharClass kind,
                    std::size_t most = ~std::size_t{0}) {
  for (; at < text.size() && most > 0; --most) {
    const Char c = char_at(text, at);
    if (c.kind != kind) break;
    at = c.end;
  }
  return at;
}

// The end of an English contraction's tail ('s, 'll ...) that begins at the apostrophe `at`; `at` if none
// does.
std::size_t contraction_end(std::string_view text, std::size_t at, bool any_case) {
  const auto letter = [&](std::size_t i) {
    if (i >= text.size()) return '\0';
    const char c = text[i];
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = letter(at + 1), second = letter(at + 2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  if ((first == 'r' || first == 'v') && second == 'e') return at + 3;
  if (first == 'l' && second == 'l') return at + 3;
  // U+017F, the long s, is an s whose case does not matter.
  if (any_case && text.substr(at + 1).starts_with("\xc5\xbf")) return at + 3;
  return at;
}

// \s+(?!\S)|\s+ : all white space, but for the last character of several where something else follows.
std::size_t space_end(std::string_view text, std::size_t begin) {
  std::size_t at = begin, last = begin;
  while (at < text.size()) {
    const Char c = char_at(text, at);
    if (c.kind != CharClass::space) break;
    last = at;
    at = c.end;
  }
  return at == text.size() || last == begin ? at : last;
}

std::size_t gpt2_end(std::string_view text, std::size_t begin) {
  if (text[begin] == '\'')
    if (const std::size_t end = contraction_end(text, begin, false); end != begin) return end;
  const Char first = char_at(text, begin);
  if (first.kind != CharClass::space) return run_end(text, first.end, first.kind);
  if (text[begin] == ' ' && first.end < text.size()) {
    const Char second = char_at(text, first.end);
    if (second.kind != CharClass::space) return run_end(text, second.end, second.kind);
  }
  return space_end(text, begin);
}

std::size_t llama3_end(std::string_view text, std::size_t begin) {
  if (text[begin] == '\'')
    if (const std::size_t end = contraction_end(text, begin, true); end != begin) return end;
  const Char first = char_at(text, begin);
  if (first.kind == CharClass::letter) return run_end(text, first.end, CharClass::letter);
  if (first.kind == CharClass::number) return run_end(text, first.end, CharClass::number, 2);
  std::size_t symbols = begin;  // where [^\s\p{L}\p{N}]+ would begin
  if (first.end < text.size() && !is_newline(text[begin])) {
    const Char second = char_at(text, first.end);
    if (second.kind == CharClass::letter) return run_end(text, second.end, CharClass::letter);
    if (text[begin] == ' ' && second.kind == CharClass::other) symbols = first.end;
  }
  if (first.kind == CharClass::other || symbols != begin) {
    std::size_t end = run_end(text, symbols, CharClass::other);
    while (end < text.size() && is_newline(text[end])) ++end;
    return end;
  }
  // \s*[\r\n]+ : white space up to the last line end in it.
  const std::size_t spaces = run_end(text, begin, CharClass::space);
  for (std::size_t at = spaces; at > begin; --at)
    if (is_newline(text[at - 1])) return at;
  return space_end(text, begin);
}

// The class of the character that ends before `at`.
CharClass class_before(std::string_view text, std::size_t at) {
  for (std::size_t n = 1; n <= std::min<std::size_t>(4, at); ++n)
    if (const Char c = char_at(text, at - n);
        c.end == at && (n > 1 || decode_utf8(text, at - n).code_point != kInvalid))
      return c.kind;
  return CharClass::other;
}

}  // namespace

std::string_view llama3_pattern() {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
         R"(|\s+(?!\S)|\s+)";
}

std::size_t word_end(Splitting rule, std::string_view text, std::size_t begin) {
  return rule == Splitting::gpt2 ? gpt2_end(text, begin) : llama3_end(text, begin);
}

bool is_certain_border(std::string_view text, std::size_t at) {
  const char next = text[at];
  if (next != ' ' && next != '\t' && !is_newline(next)) return false;
  const CharClass before = class_before(text, at);
  // White space never joins the word before it, except that line ends join symbols (llama3).
  return before == CharClass::letter || before == CharClass::number ||
         (before == CharClass::other && !is_newline(next));
}

}  // namespace filigree
