#include "train/interchange/json_file.h"

#include <set>

#include "core/check.h"
#include "core/file.h"
#include "train/interchange/safetensors_header.h"

namespace filigree {

nlohmann::ordered_json read_json_object(const std::filesystem::path& path) {
  using Json = nlohmann::ordered_json;
  constexpr std::uintmax_t kMaxBytes = 100'000'000;
  constexpr int kMaxDepth = 32;  // what walks a value recurses
  std::error_code ignored;
  const auto bytes = std::filesystem::file_size(path, ignored);
  if (!ignored && bytes > kMaxBytes)
    fail(ErrorKind::data, "{}: has {} bytes; at most {} are allowed", path.string(), bytes, kMaxBytes);
  std::vector<std::set<std::string>> names;
  const auto check_event = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) fail(ErrorKind::data, "{}: nests deeper than {}", path.string(), kMaxDepth);
    if (event == Json::parse_event_t::object_start) names.emplace_back();
    if (event == Json::parse_event_t::object_end) names.pop_back();
    if (event == Json::parse_event_t::key && !names.back().insert(value.get<std::string>()).second)
      fail(ErrorKind::data, "{}: the key {} appears twice", path.string(),
           shown_name(value.get<std::string>()));
    return true;
  };
  const std::string text = read_file(path);
  Json json;
  try {
    json = Json::parse(text, check_event);
  } catch (const Json::exception& e) {
    fail(ErrorKind::data, "{}: is not JSON: {}", path.string(), e.what());
  }
  if (!json.is_object()) fail(ErrorKind::data, "{}: is not a JSON object", path.string());
  return json;
}

std::string shown_json(const nlohmann::ordered_json& value) {
  if (value.is_string()) return shown_name(value.get<std::string>());
  const std::string text = value.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  return text.size() <= 100 ? text : text.substr(0, 97) + "...";
}

}  // namespace filigree
