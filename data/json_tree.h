// JSON as written: objects keep the order of their keys, and a key that comes twice is an error. For files
// that others wrote: size and depth are bounded.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace filigree {

struct JsonTree {
  enum class Kind { null, boolean, number, string, array, object };
  Kind kind = Kind::null;
  std::string text;               // a string's value; a number as written; "true" or "false"
  std::vector<std::string> keys;  // of an object
  std::vector<JsonTree> items;    // an array's elements; an object's values, in the order of `keys`

  const JsonTree* find(std::string_view key) const;  // of an object; null if it has no such key
  bool is(Kind k) const { return kind == k; }
};

// Error(data), beginning with `origin`, for text that is no JSON (saying where), larger than 256 MiB, nested
// deeper than 64, or with a key twice in one object.
JsonTree parse_json(std::string_view text, const std::string& origin);

std::string json_quoted(std::string_view text);  // valid UTF-8 as a JSON string, quotes included
std::string to_json(const JsonTree& tree);       // on one line

}  // namespace filigree
