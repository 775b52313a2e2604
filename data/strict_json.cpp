#include "data/strict_json.h"

#include <algorithm>

#include "core/check.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxBytes = std::size_t{256} << 20;

// Builds the tree from what nlohmann's parser calls for each piece of the text. Its own builder looks for
// every key among all before it.
class TreeBuilder {
 public:
  TreeBuilder(const std::string& origin, int most_levels) : origin_(origin), most_levels_(most_levels) {}

  Json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t&) { return false; }  // not in text
  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool key(std::string& name) {
    key_ = std::move(name);
    return true;
  }
  bool end_object() {
    refuse_duplicates(open_.back()->get_ref<const Json::object_t&>());
    open_.pop_back();
    return true;
  }
  bool end_array() {
    open_.pop_back();
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) {
    std::string what = error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    if (const auto end = what.find("] "); end != std::string::npos) what.erase(0, end + 2);
    fail(ErrorKind::data, "{}: not valid JSON: {}", origin_, what);
  }

 private:
  Json& place(Json value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_array())
      return open_.back()->get_ref<Json::array_t&>().emplace_back(std::move(value));
    return open_.back()->get_ref<Json::object_t&>().emplace_back(std::move(key_), std::move(value)).second;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (std::ssize(open_) == most_levels_)
      fail(ErrorKind::data, "{}: nested deeper than {} levels", origin_, most_levels_);
    Json& node = place(std::move(value));
    // An object that grows copies what it holds.
    constexpr std::size_t kUsualKeys = 16;
    if (node.is_object()) node.get_ref<Json::object_t&>().reserve(kUsualKeys);
    open_.push_back(&node);  // stays where it is: its parent gets no other child before it is closed
    return true;
  }
  void refuse_duplicates(const Json::object_t& object) const {
    std::vector<std::string_view> keys;
    for (const auto& [key, value] : object) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end())
      fail(ErrorKind::data, "{}: the key {} comes twice", origin_, json_quoted(*twice));
  }

  const std::string& origin_;
  std::int64_t most_levels_;
  Json root_;
  std::string key_;
  std::vector<Json*> open_;
};

}  // namespace

Json parse_strict_json(std::string_view text, const std::string& origin, int most_levels) {
  if (text.size() > kMaxBytes)
    fail(ErrorKind::data, "{}: {} bytes of JSON; at most {} are read", origin, text.size(), kMaxBytes);
  TreeBuilder builder(origin, most_levels);
  Json::sax_parse(text, &builder);
  return builder.take();
}

std::string json_quoted(std::string_view text) {
  // Plain ASCII, which nearly all of a vocabulary is, needs no escapes.
  const bool plain = std::all_of(text.begin(), text.end(),
                                 [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
  if (plain) return fmt::format("\"{}\"", text);
  return Json(text).dump();
}

std::string json_line(const Json& value) {
  if (!value.is_structured()) return value.dump();
  std::string out;
  for (const auto& [key, item] : value.items()) {
    if (!out.empty()) out += ", ";
    out += (value.is_object() ? json_quoted(key) + ": " : "") + json_line(item);
  }
  return value.is_object() ? "{" + out + "}" : "[" + out + "]";
}

}  // namespace filigree
