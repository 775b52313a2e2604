// JSON files of others: config.json, the index of shards.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace filigree {

// The object in a file of at most 100 MB. Error(data) naming the file if it is no JSON object in UTF-8, names
// a key twice or nests deeper than 32.
nlohmann::ordered_json read_json_object(const std::filesystem::path& path);

// A value as a message shows it: short, without control characters.
std::string shown_json(const nlohmann::ordered_json& value);

}  // namespace filigree
