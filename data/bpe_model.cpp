#include "data/bpe_model.h"

#include <algorithm>
#include <limits>
#include <set>
#include <unordered_map>

#include "core/check.h"
#include "data/byte_alphabet.h"
#include "data/strict_json.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;
using IdByToken = std::unordered_map<std::string_view, std::uint32_t>;

// Reads one tokenizer.json; every refusal names the file and the part.
class Reader {
 public:
  Reader(const Json& root, const std::string& origin) : root_(root), origin_(origin) {}

  BpeModel read() {
    only_keys(root_, "the file",
              {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
               "post_processor", "decoder", "model"});
    for (const char* part : {"truncation", "padding", "normalizer"})
      if (const Json* node = find(root_, part); node && !node->is_null())
        unsupported(part, type_of(*node), "null");
    read_model(member(root_, "the file", "model"));
    read_pre_tokenizer(member(root_, "the file", "pre_tokenizer"));
    const Json& decoder = member(root_, "the file", "decoder");
    if (type_of(decoder) != "ByteLevel") unsupported("decoder", type_of(decoder), "ByteLevel");
    if (const Json* added = find(root_, "added_tokens")) read_added(*added);
    if (const Json* post = find(root_, "post_processor"); post && !post->is_null()) {
      check_post_processor(*post, "post_processor");
      model_.post_processor = json_line(*post);
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

  // null if there is no such key
  static const Json* find(const Json& object, std::string_view key) {
    const auto found = object.find(key);
    return found == object.end() ? nullptr : &*found;
  }
  const Json& object(const Json& node, const std::string& what) const {
    if (!node.is_object()) bad("{} must be an object", what);
    return node;
  }
  void only_keys(const Json& node, const std::string& what,
                 const std::vector<std::string_view>& known) const {
    for (const auto& [key, value] : object(node, what).items())
      if (std::find(known.begin(), known.end(), key) == known.end())
        bad("{} has the key {}, which is not known", what, json_quoted(key));
  }
  const Json& member(const Json& node, const std::string& what, std::string_view key) const {
    const Json* found = find(object(node, what), key);
    if (!found) bad("{} has no '{}'", what, key);
    return *found;
  }
  const std::string& text(const Json& node, const std::string& what) const {
    if (!node.is_string()) bad("{} must be a string", what);
    return node.get_ref<const std::string&>();
  }
  bool flag(const Json& node, const std::string& what, std::string_view key, bool fallback) const {
    const Json* found = find(object(node, what), key);
    if (!found) return fallback;
    if (!found->is_boolean()) bad("{}: '{}' must be true or false", what, key);
    return found->get<bool>();
  }
  std::uint32_t id(const Json& node, const std::string& token) const {
    if (!node.is_number_integer() || node < 0 || node > std::numeric_limits<std::uint32_t>::max())
      bad("the id of token {} must be a whole number from 0 on", json_quoted(token));
    return node.get<std::uint32_t>();
  }
  std::string type_of(const Json& node) const {
    const Json* type = node.is_object() ? find(node, "type") : nullptr;
    if (type && type->is_string()) return type->get<std::string>();
    return node.is_null() ? "null" : "something without a type";
  }

  void read_model(const Json& node) {
    only_keys(node, "model",
              {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
               "byte_fallback", "ignore_merges", "vocab", "merges"});
    // Old files leave the type out.
    if (find(node, "type") && type_of(node) != "BPE") unsupported("model", type_of(node), "BPE");
    if (const Json* dropout = find(node, "dropout");
        dropout && !dropout->is_null() && !(dropout->is_number() && *dropout == 0))
      unsupported("model.dropout", json_line(*dropout), "null");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (const Json* affix = find(node, key); affix && !affix->is_null() && *affix != "")
        unsupported(fmt::format("model.{}", key), json_line(*affix), "null");
    model_.ignore_merges = flag(node, "model", "ignore_merges", false);
    read_vocab(member(node, "model", "vocab"));
    read_merges(member(node, "model", "merges"));
  }

  void read_vocab(const Json& node) {
    const std::size_t n = object(node, "model.vocab").size();
    model_.vocab.resize(n);
    std::vector<bool> taken(n);
    for (const auto& [token, number] : node.get_ref<const Json::object_t&>()) {
      const std::uint32_t value = id(number, token);
      if (value >= n)
        bad("model.vocab has {} tokens, but {} has the id {}: the ids must be 0 to {} without holes", n,
            json_quoted(token), value, n - 1);
      if (taken[value])
        bad("the tokens {} and {} have the same id {}", json_quoted(model_.vocab[value]), json_quoted(token),
            value);
      taken[value] = true;
      model_.vocab[value] = token;
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
  std::pair<std::string_view, std::string_view> parts(const Json& node, std::size_t merge) const {
    if (node.is_array() && node.size() == 2 && node[0].is_string() && node[1].is_string())
      return {node[0].get_ref<const std::string&>(), node[1].get_ref<const std::string&>()};
    const std::string_view line =
        node.is_string() ? std::string_view(node.get_ref<const std::string&>()) : "";
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos)
      bad("model.merges: merge {} must be two tokens, \"a b\" or [\"a\", \"b\"], not {}", merge,
          json_line(node));
    return {line.substr(0, space), line.substr(space + 1)};
  }
  void read_merges(const Json& node) {
    if (!node.is_array()) bad("model.merges must be a list");
    PairMap<bool> seen(node.size());
    for (std::size_t i = 0; i < node.size(); ++i) {
      const auto [left, right] = parts(node[i], i);
      const TokenPair pair{known(left, i), known(right, i)};
      known(std::string(left) + std::string(right), i);
      if (std::exchange(seen[pair], true))
        bad("model.merges: merge {} ({} {}) comes twice", i, json_quoted(left), json_quoted(right));
      model_.merges.push_back(pair);
    }
  }

  void byte_level(const Json& node, const std::string& what) const {
    if (type_of(node) != "ByteLevel") unsupported(what, type_of(node), "ByteLevel");
    only_keys(node, what, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (flag(node, what, "add_prefix_space", true))
      unsupported(what, "add_prefix_space: true", "add_prefix_space: false");
  }
  void read_pre_tokenizer(const Json& node) {
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
    const Json& list = member(node, what, "pretokenizers");
    if (!list.is_array() || list.size() != 2 || type_of(list[0]) != "Split")
      unsupported(what, "this Sequence", "Split followed by ByteLevel");
    const Json& split = list[0];
    only_keys(split, what + "[0]", {"type", "pattern", "behavior", "invert"});
    const Json& pattern = member(split, what + "[0]", "pattern");
    const Json* regex = find(object(pattern, what + "[0].pattern"), "Regex");
    if (!regex || text(*regex, what + "[0].pattern") != llama3_pattern())
      unsupported(what + "[0].pattern", json_line(pattern), "Llama 3's pattern");
    if (text(member(split, what + "[0]", "behavior"), what + "[0].behavior") != "Isolated" ||
        flag(split, what + "[0]", "invert", false))
      unsupported(what + "[0]", "this behavior", "Isolated, not inverted");
    byte_level(list[1], what + "[1]");
    if (flag(list[1], what + "[1]", "use_regex", true))
      unsupported(what + "[1]", "use_regex: true after a Split", "use_regex: false");
    model_.splitting = Splitting::llama3;
  }

  void read_added(const Json& node) {
    if (!node.is_array()) bad("added_tokens must be a list");
    std::set<std::string_view> contents;
    std::size_t next = model_.vocab.size();
    for (const Json& item : node) {
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
      if (!contents.insert(text(member(item, what, "content"), what)).second) bad("{} comes twice", what);
      const auto in_vocab = ids_.find(token.content);
      const std::size_t expected = in_vocab != ids_.end() ? in_vocab->second : next++;
      if (token.id != expected) bad("{} has the id {}, where {} is expected", what, token.id, expected);
      model_.added.push_back(std::move(token));
    }
  }

  void check_post_processor(const Json& node, const std::string& what) const {
    const std::string type = type_of(node);
    if (type == "ByteLevel") return;
    if (type == "Sequence") {
      const Json& list = member(node, what, "processors");
      if (!list.is_array()) bad("{}: 'processors' must be a list", what);
      for (const Json& item : list) check_post_processor(item, what + ".processors");
      return;
    }
    if (type != "TemplateProcessing")
      unsupported(what, type, "ByteLevel, TemplateProcessing or a Sequence of them");
    const Json& single = member(node, what, "single");
    const auto is = [&](std::size_t i, std::string_view kind) {
      return single[i].is_object() && find(single[i], kind);
    };
    if (!single.is_array() || single.size() != 2 || !is(0, "SpecialToken") || !is(1, "Sequence"))
      unsupported(what, "this template", "one special token before the text");
  }

  const Json& root_;
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
  const Json root = parse_strict_json(text, origin);
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
