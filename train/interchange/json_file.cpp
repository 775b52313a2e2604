#include "train/interchange/json_file.h"

#include "core/check.h"
#include "core/file.h"
#include "data/strict_json.h"
#include "train/interchange/safetensors_header.h"

namespace filigree {

nlohmann::ordered_json read_json_object(const std::filesystem::path& path) {
  constexpr std::uintmax_t kMaxBytes = 100'000'000;
  constexpr int kMostLevels = 32;  // what walks a value recurses
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > kMaxBytes)
    fail(ErrorKind::data, "{}: has {} bytes; at most {} are allowed", path.string(), bytes, kMaxBytes);
  auto json = parse_strict_json(read_file(path), path.string(), kMostLevels);
  if (!json.is_object()) fail(ErrorKind::data, "{}: is not a JSON object", path.string());
  return json;
}

std::string shown_json(const nlohmann::ordered_json& value) {
  if (value.is_string()) return shown_name(value.get<std::string>());
  const std::string text = value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  return text.size() <= 100 ? text : text.substr(0, 97) + "...";
}

}  // namespace filigree
