#include "train/generate/text_stream.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace filigree {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Character {
  enum { whole, cut, wrong } state;
  std::size_t bytes;  // of a whole one
};

// The first character of a text that is not empty (Unicode standard, table 3-7: no surrogates, no overlong
// forms, nothing above U+10FFFF).
Character first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Character::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Character::wrong, 0};
  const std::size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < std::min(bytes, text.size()); ++i, low = 0x80, high = 0xBF)
    if (byte(i) < low || byte(i) > high) return {Character::wrong, 0};
  return text.size() < bytes ? Character{Character::cut, 0} : Character{Character::whole, bytes};
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_) require(!stop.empty(), "a stop string is empty");
}

bool StopStrings::push(std::string_view bytes, std::string& out) {
  if (stopped_) return true;
  held_ += bytes;
  std::size_t end = std::string::npos;  // of the text before the first stop string
  for (const std::string& stop : stops_) end = std::min(end, held_.find(stop));
  if (end != std::string::npos) {
    out.append(held_, 0, end);
    held_.clear();
    return stopped_ = true;
  }
  // The longest end of the text with which a stop string may begin stays.
  std::size_t keep = 0;
  for (const std::string& stop : stops_)
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > keep; --n)
      if (held_.ends_with(std::string_view(stop).substr(0, n))) keep = n;
  out.append(held_, 0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return false;
}

std::string StopStrings::finish() {
  return std::exchange(held_, "");
}

std::string WholeCharacters::push(std::string_view bytes) {
  held_ += bytes;
  std::string out;
  std::string_view rest = held_;
  while (!rest.empty()) {
    const Character first = first_character(rest);
    if (first.state == Character::cut) break;
    out += first.state == Character::whole ? rest.substr(0, first.bytes) : kReplacement;
    rest.remove_prefix(first.state == Character::whole ? first.bytes : 1);
  }
  held_ = std::string(rest);
  return out;
}

std::string WholeCharacters::finish() {
  if (held_.empty()) return "";
  held_.clear();
  return std::string(kReplacement);
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const Character first = first_character(text);
    if (first.state != Character::whole) return false;
    text.remove_prefix(first.bytes);
  }
  return true;
}

bool TextStream::push(std::string_view bytes) {
  std::string released;
  const bool stopped = stops_.push(bytes, released);
  const std::string text = characters_.push(released);
  if (!text.empty()) sink_(text);
  return !stopped;
}

void TextStream::finish() {
  std::string text = characters_.push(stops_.finish());
  text += characters_.finish();
  if (!text.empty()) sink_(text);
}

}  // namespace filigree
