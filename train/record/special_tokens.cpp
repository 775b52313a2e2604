#include "train/record/special_tokens.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/check.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

std::uint32_t id_of(const Json& value, const std::string& name) {
  const bool fits =
      value.is_number_integer() && value >= 0 && value <= std::numeric_limits<std::uint32_t>::max();
  if (!fits)
    fail(ErrorKind::data, "{}: is {}; it must be a token's id or a list of ids", name,
         value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 100));
  return value.get<std::uint32_t>();
}

}  // namespace

Json parse_special_tokens(const std::string& text, const std::string& origin) {
  if (text.empty()) return Json::object();
  Json json = Json::parse(text, nullptr, false);
  if (!json.is_object()) fail(ErrorKind::data, "{}: its special tokens are no JSON object", origin);
  return json;
}

std::vector<std::uint32_t> end_tokens(const Json& special_tokens, const std::string& origin) {
  std::vector<std::uint32_t> ids;
  for (const char* part : {"generation_config", "config"}) {
    const auto found = special_tokens.find(part);
    if (found == special_tokens.end() || !found->is_object()) continue;
    const auto given = found->find("eos_token_id");
    if (given == found->end() || given->is_null()) continue;
    const std::string name = fmt::format("{}: {}.eos_token_id", origin, part);
    for (const Json& value : given->is_array() ? *given : Json::array({*given}))
      if (const std::uint32_t id = id_of(value, name); std::ranges::find(ids, id) == ids.end())
        ids.push_back(id);
  }
  return ids;
}

}  // namespace filigree
