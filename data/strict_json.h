// JSON that others wrote, read strictly: a key that comes twice is an error, size and depth are bounded, and
// objects keep the order of their keys, at any number of them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace filigree {

// Error(data), beginning with `origin`, for text that is no JSON (saying where), larger than 256 MiB, nested
// deeper than `most_levels`, or with a key twice in one object.
nlohmann::ordered_json parse_strict_json(std::string_view text, const std::string& origin,
                                         int most_levels = 64);

std::string json_quoted(std::string_view text);              // valid UTF-8 as a JSON string, quotes included
std::string json_line(const nlohmann::ordered_json& value);  // {"a": [1, 2]}

}  // namespace filigree
