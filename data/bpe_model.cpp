#include "data/bpe_model.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <unordered_map>

#include "core/check.h"
#include "data/byte_alphabet.h"
#include "data/json_tree.h"

namespace filigree {
namespace {

using Kind = JsonTree::Kind;
using IdByToken = std::unordered_map<std::string_view, std::uint32_t>;

// Reads one tokenizer.json; every refusal names the file and the part.
class Reader {
 public:
  Reader(const JsonTree& root, const std::string& origin) : root_(root), origin_(origin) {}

  BpeModel read() {
    only_keys(root_, "the file",
              {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
               "post_processor", "decoder", "model"});
    for (const char* part : {"truncation", "padding", "normalizer"})
      if (const JsonTree* node = root_.find(part); node && !node->is(Kind::null))
        unsupported(part, type_of(*node), "null");
    read_model(member(root_, "the file", "model"));
    read_pre_tokenizer(member(root_, "the file", "pre_tokenizer"));
    const JsonTree& decoder = member(root_, "the file", "decoder");
    if (type_of(decoder) != "ByteLevel") unsupported("decoder", type_of(decoder), "ByteLevel");
    if (const JsonTree* added = root_.find("added_tokens")) read_added(*added);
    if (const JsonTree* post = root_.find("post_processor"); post && !post->is(Kind::null)) {
      check_post_processor(*post, "post_processor");
      model_.post_processor = to_json(*post);
    }
    return std::move(model_);
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ErrorKind::data, "{}: {}", origin_, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void unsupported(const std::string& part, const std::string& found,
                                const std::string& read) const {
    throw Error(ErrorKind::data,
                fmt::format("{}: {}: {} is not supported; only {} is", origin_, part, found, read),
                "byte-level BPE as GPT-2 and Llama 3 use it is read; see data/bpe_model.h");
  }

  const JsonTree& object(const JsonTree& node, const std::string& what) const {
    if (!node.is(Kind::object)) bad("{} must be an object", what);
    return node;
  }
  void only_keys(const JsonTree& node, const std::string& what,
                 const std::vector<std::string_view>& known) const {
    for (const std::string& key : object(node, what).keys)
      if (std::find(known.begin(), known.end(), key) == known.end())
        bad("{} has the key {}, which is not known", what, json_quoted(key));
  }
  const JsonTree& member(const JsonTree& node, const std::string& what, std::string_view key) const {
    const JsonTree* found = object(node, what).find(key);
    if (!found) bad("{} has no '{}'", what, key);
    return *found;
  }
  const std::string& text(const JsonTree& node, const std::string& what) const {
    if (!node.is(Kind::string)) bad("{} must be a string", what);
    return node.text;
  }
  bool flag(const JsonTree& node, const std::string& what, std::string_view key, bool fallback) const {
    const JsonTree* found = object(node, what).find(key);
    if (!found) return fallback;
    if (!found->is(Kind::boolean)) bad("{}: '{}' must be true or false", what, key);
    return found->text == "true";
  }
  std::uint32_t id(const JsonTree& node, const std::string& token) const {
    std::uint32_t value = 0;
    const char* end = node.text.data() + node.text.size();
    const auto [stop, error] = std::from_chars(node.text.data(), end, value);
    if (!node.is(Kind::number) || error != std::errc{} || stop != end)
      bad("the id of token {} must be a whole number from 0 on", json_quoted(token));
    return value;
  }
  std::string type_of(const JsonTree& node) const {
    const JsonTree* type = node.is(Kind::object) ? node.find("type") : nullptr;
    if (type && type->is(Kind::string)) return type->text;
    return node.is(Kind::null) ? "null" : "something without a type";
  }

  void read_model(const JsonTree& node) {
    only_keys(node, "model",
              {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
               "byte_fallback", "ignore_merges", "vocab", "merges"});
    // Old files leave the type out.
    if (node.find("type") && type_of(node) != "BPE") unsupported("model", type_of(node), "BPE");
    if (const JsonTree* dropout = node.find("dropout");
        dropout && !dropout->is(Kind::null) && dropout->text != "0" && dropout->text != "0.0")
      unsupported("model.dropout", to_json(*dropout), "null");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const JsonTree* affix = node.find(key); affix && !affix->is(Kind::null) && !affix->text.empty())
        unsupported(fmt::format("model.{}", key), to_json(*affix), "null");
    model_.ignore_merges = flag(node, "model", "ignore_merges", false);
    read_vocab(member(node, "model", "vocab"));
    read_merges(member(node, "model", "merges"));
  }

  void read_vocab(const JsonTree& node) {
    object(node, "model.vocab");
    const std::size_t n = node.items.size();
    model_.vocab.resize(n);
    std::vector<bool> taken(n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint32_t value = id(node.items[i], node.keys[i]);
      if (value >= n)
        bad("model.vocab has {} tokens, but {} has the id {}: the ids must be 0 to {} without holes", n,
            json_quoted(node.keys[i]), value, n - 1);
      if (taken[value])
        bad("the tokens {} and {} have the same id {}", json_quoted(model_.vocab[value]),
            json_quoted(node.keys[i]), value);
      taken[value] = true;
      model_.vocab[value] = node.keys[i];
    }
    for (std::uint32_t i = 0; i < n; ++i) ids_.emplace(model_.vocab[i], i);
    for (int byte = 0; byte < 256; ++byte) {
      const std::string token = to_byte_alphabet(std::string(1, static_cast<char>(byte)));
      if (!ids_.contains(token))
        throw Error(
            ErrorKind::data,
            fmt::format("{}: model.vocab has no token {} for byte {:#04x}, so not every text could be "
                        "encoded",
                        origin_, json_quoted(token), byte),
            "train it with an initial alphabet of all 256 bytes (HF: ByteLevel.alphabet())");
    }
  }

  std::uint32_t known(std::string_view token, std::size_t merge) const {
    const auto found = ids_.find(token);
    if (found == ids_.end())
      bad("model.merges: merge {} names the token {}, which model.vocab does not have", merge,
          json_quoted(token));
    if (!from_byte_alphabet(token))
      bad("model.merges: merge {} names the token {}, which is not written in the byte alphabet", merge,
          json_quoted(token));
    return found->second;
  }
  // Both forms, "a b" and ["a", "b"].
  std::pair<std::string_view, std::string_view> parts(const JsonTree& node, std::size_t merge) const {
    if (node.is(Kind::array) && node.items.size() == 2 && node.items[0].is(Kind::string) &&
        node.items[1].is(Kind::string))
      return {node.items[0].text, node.items[1].text};
    const std::string_view line = node.is(Kind::string) ? std::string_view(node.text) : "";
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
      bad("model.merges: merge {} must be two tokens, \"a b\" or [\"a\", \"b\"], not {}", merge,
          to_json(node));
    return {line.substr(0, space), line.substr(space + 1)};
  }
  void read_merges(const JsonTree& node) {
    if (!node.is(Kind::array)) bad("model.merges must be a list");
    PairMap<bool> seen(node.items.size());
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const auto [left, right] = parts(node.items[i], i);
      const TokenPair pair{known(left, i), known(right, i)};
      known(std::string(left) + std::string(right), i);
      if (std::exchange(seen[pair], true))
        bad("model.merges: merge {} ({} {}) comes twice", i, json_quoted(left), json_quoted(right));
      model_.merges.push_back(pair);
    }
  }

  void byte_level(const JsonTree& node, const std::string& what) const {
    if (type_of(node) != "ByteLevel") unsupported(what, type_of(node), "ByteLevel");
    only_keys(node, what, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (flag(node, what, "add_prefix_space", true))
      unsupported(what, "add_prefix_space: true", "add_prefix_space: false");
  }
  void read_pre_tokenizer(const JsonTree& node) {
    const std::string what = "pre_tokenizer";
    if (type_of(node) == "ByteLevel") {
      byte_level(node, what);
      if (flag(node, what, "use_regex", true)) return;
      // The one tokenizer that does not split at all has nothing to merge.
      if (!model_.merges.empty())
        unsupported(what, "ByteLevel with use_regex: false alone", "use_regex: true");
      model_.is_byte_tokenizer = true;
      return;
    }
    if (type_of(node) != "Sequence") unsupported(what, type_of(node), "ByteLevel, or Split and ByteLevel");
    const JsonTree& list = member(node, what, "pretokenizers");
    if (!list.is(Kind::array) || list.items.size() != 2 || type_of(list.items[0]) != "Split")
      unsupported(what, "this Sequence", "Split followed by ByteLevel");
    const JsonTree& split = list.items[0];
    only_keys(split, what + "[0]", {"type", "pattern", "behavior", "invert"});
    const JsonTree& pattern = member(split, what + "[0]", "pattern");
    const JsonTree* regex = object(pattern, what + "[0].pattern").find("Regex");
    if (!regex || text(*regex, what + "[0].pattern") != llama3_pattern())
      unsupported(what + "[0].pattern", to_json(pattern), "Llama 3's pattern");
    if (text(member(split, what + "[0]", "behavior"), what + "[0].behavior") != "Isolated" ||
        flag(split, what + "[0]", "invert", false))
      unsupported(what + "[0]", "this behavior", "Isolated, not inverted");
    byte_level(list.items[1], what + "[1]");
    if (flag(list.items[1], what + "[1]", "use_regex", true))
      unsupported(what + "[1]", "use_regex: true after a Split", "use_regex: false");
    model_.splitting = Splitting::llama3;
  }

  void read_added(const JsonTree& node) {
    if (!node.is(Kind::array)) bad("added_tokens must be a list");
    std::set<std::string_view> contents;
    std::size_t next = model_.vocab.size();
    for (const JsonTree& item : node.items) {
      only_keys(item, "an added token",
                {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
      AddedToken token;
      token.content = text(member(item, "an added token", "content"), "an added token's content");
      const std::string what = "added token " + json_quoted(token.content);
      token.id = id(member(item, what, "id"), token.content);
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        if (flag(item, what, key, false)) unsupported(what, fmt::format("{}: true", key), "false");
      token.normalized = flag(item, what, "normalized", false);
      token.special = flag(item, what, "special", false);
      if (token.content.empty()) bad("an added token is empty");
      if (!contents.insert(member(item, what, "content").text).second) bad("{} comes twice", what);
      const auto in_vocab = ids_.find(token.content);
      const std::size_t expected = in_vocab != ids_.end() ? in_vocab->second : next++;
      if (token.id != expected) bad("{} has the id {}, where {} is expected", what, token.id, expected);
      model_.added.push_back(std::move(token));
    }
  }

  void check_post_processor(const JsonTree& node, const std::string& what) const {
    const std::string type = type_of(node);
    if (type == "ByteLevel") return;
    if (type == "Sequence") {
      const JsonTree& list = member(node, what, "processors");
      if (!list.is(Kind::array)) bad("{}: 'processors' must be a list", what);
      for (const JsonTree& item : list.items) check_post_processor(item, what + ".processors");
      return;
    }
    if (type != "TemplateProcessing")
      unsupported(what, type, "ByteLevel, TemplateProcessing or a Sequence of them");
    const JsonTree& single = member(node, what, "single");
    const auto is = [&](std::size_t i, std::string_view kind) {
      return single.items[i].is(Kind::object) && single.items[i].find(kind) != nullptr;
    };
    if (!single.is(Kind::array) || single.items.size() != 2 || !is(0, "SpecialToken") || !is(1, "Sequence"))
      unsupported(what, "this template", "one special token before the text");
  }

  const JsonTree& root_;
  const std::string& origin_;
  BpeModel model_;
  IdByToken ids_;  // views into model_.vocab
};

std::string byte_level_json(bool use_regex) {
  return fmt::format(
      R"({{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": {}}})",
      use_regex);
}

std::string pre_tokenizer_json(const BpeModel& model) {
  if (model.is_byte_tokenizer) return byte_level_json(false);
  if (model.splitting == Splitting::gpt2) return byte_level_json(true);
  return fmt::format(R"({{"type": "Sequence", "pretokenizers": [
    {{"type": "Split", "pattern": {{"Regex": {}}}, "behavior": "Isolated", "invert": false}},
    {}]}})",
                     json_quoted(llama3_pattern()), byte_level_json(false));
}

}  // namespace

std::int64_t BpeModel::vocab_size() const {
  return std::ssize(vocab) +
         std::count_if(added.begin(), added.end(), [&](const AddedToken& t) { return t.id >= vocab.size(); });
}

BpeModel read_tokenizer_json(std::string_view text, const std::string& origin) {
  const JsonTree root = parse_json(text, origin);
  return Reader(root, origin).read();
}

std::string write_tokenizer_json(const BpeModel& model) {
  std::string out =
      "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [";
  const char* separator = "\n";
  for (const AddedToken& token : model.added) {
    out += fmt::format(
        R"({}    {{"id": {}, "content": {}, "single_word": false, "lstrip": false, "rstrip": false, "normalized": {}, )"
        R"("special": {}}})",
        std::exchange(separator, ",\n"), token.id, json_quoted(token.content), token.normalized,
        token.special);
  }
  out += fmt::format("],\n  \"normalizer\": null,\n  \"pre_tokenizer\": {},\n  \"post_processor\": {},\n",
                     pre_tokenizer_json(model), model.post_processor.empty() ? "null" : model.post_processor);
  out += fmt::format("  \"decoder\": {},\n", byte_level_json(true));
  out +=
      "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": null,\n"
      "    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": "
      "false,\n";
  out += fmt::format("    \"byte_fallback\": false,\n    \"ignore_merges\": {},\n    \"vocab\": {{",
                     model.ignore_merges);
  for (std::size_t i = 0; i < model.vocab.size(); ++i)
    out += fmt::format("{}      {}: {}", i == 0 ? "\n" : ",\n", json_quoted(model.vocab[i]), i);
  out += "},\n    \"merges\": [";
  for (std::size_t i = 0; i < model.merges.size(); ++i) {
    const auto [left, right] = model.merges[i];
    out += fmt::format("{}      {}", i == 0 ? "\n" : ",\n",
                       json_quoted(model.vocab[left] + " " + model.vocab[right]));
  }
  return out + "]\n  }\n}\n";
}

}  // namespace filigree
