#include "data/text_segmenter.h"

#include <algorithm>

#include "core/check.h"

namespace filigree {
namespace {

std::size_t two(char a, char b) {
  return static_cast<std::size_t>(static_cast<unsigned char>(a)) << 8 | static_cast<unsigned char>(b);
}

}  // namespace

void AddedTokenFinder::add(std::string content, std::uint32_t id) {
  check(!content.empty(), "an added token is empty");
  for (int b = 0; b < 256; ++b) {
    const char second = content.size() > 1 ? content[1] : static_cast<char>(b);
    starts_.set(two(content[0], second));
  }
  for (std::size_t i = 1; i < content.size(); ++i) inside_.set(two(content[i - 1], content[i]));
  const auto at = std::find_if(tokens_.begin(), tokens_.end(),
                               [&](const Token& t) { return t.content.size() < content.size(); });
  tokens_.insert(at, {std::move(content), id});
}

AddedTokenFinder::Match AddedTokenFinder::find(std::string_view text, std::size_t from) const {
  if (tokens_.empty()) return {text.size(), text.size(), 0};
  for (std::size_t at = from; at < text.size(); ++at) {
    if (at + 1 < text.size() && !starts_[two(text[at], text[at + 1])]) continue;
    for (const Token& token : tokens_)
      if (text.substr(at).starts_with(token.content)) return {at, at + token.content.size(), token.id};
  }
  return {text.size(), text.size(), 0};
}

bool AddedTokenFinder::spans(char before, char after) const {
  return inside_[two(before, after)];
}

TextSegmenter::TextSegmenter(Splitting splitting, const std::vector<AddedToken>& added)
    : splitting_(splitting) {
  for (const AddedToken& token : added) (token.normalized ? second_ : first_).add(token.content, token.id);
}

void TextSegmenter::split(std::string_view text, const UseWord& word) const {
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = word_end(splitting_, text, begin);
    word(text.substr(begin, end - begin));
    begin = end;
  }
}

void TextSegmenter::segment(std::string_view text, const UseWord& word, const UseToken& token) const {
  const auto between = [&](const AddedTokenFinder& finder, std::string_view piece, const UseWord& use) {
    for (std::size_t begin = 0; begin < piece.size();) {
      const auto match = finder.find(piece, begin);
      use(piece.substr(begin, match.begin - begin));
      if (match.begin < piece.size()) token(match.id);
      begin = match.end;
    }
  };
  between(first_, text, [&](std::string_view left) {
    between(second_, left, [&](std::string_view plain) { split(plain, word); });
  });
}

std::size_t TextSegmenter::last_border(std::string_view text) const {
  for (std::size_t at = text.size(); at-- > 1;)
    if (is_certain_border(text, at) && !first_.spans(text[at - 1], text[at]) &&
        !second_.spans(text[at - 1], text[at]))
      return at;
  return 0;
}

}  // namespace filigree
