#include "train/generate/text_stream.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/utf8.h"

namespace filigree {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

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
    if (is_cut_character(rest)) break;
    const auto [code_point, n_bytes] = decode_utf8(rest, 0);
    out += code_point == kInvalid ? kReplacement : rest.substr(0, n_bytes);
    rest.remove_prefix(n_bytes);
  }
  held_ = std::string(rest);
  return out;
}

std::string WholeCharacters::finish() {
  if (held_.empty()) return "";
  held_.clear();
  return std::string(kReplacement);
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
