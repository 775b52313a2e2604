#include "train/interchange/tokenizer_files.h"

#include <nlohmann/json.hpp>

#include "core/check.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// The text of a token, which tokenizer.json has among those added to its vocabulary or in it.
std::string token_text(const Json& tokenizer, std::uint32_t id) {
  for (const Json& token : tokenizer.at("added_tokens"))
    if (token.at("id") == id) return token.at("content");
  for (const auto& [text, number] : tokenizer.at("model").at("vocab").items())
    if (number == id) return text;
  check(false, "a tokenizer's special tokens are in its vocabulary");
  return "";
}

}  // namespace

std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_length) {
  const Json described = Json::parse(tokenizer.to_json());
  Json json{{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"clean_up_tokenization_spaces", false},
            {"model_max_length", max_length}};
  if (const auto id = tokenizer.separator())
    json["bos_token"] = json["eos_token"] = token_text(described, *id);
  if (const auto id = tokenizer.mask()) json["mask_token"] = token_text(described, *id);
  return json.dump(2) + "\n";
}

void add_special_ids(Json& config, const Tokenizer* tokenizer) {
  const auto separator = tokenizer ? tokenizer->separator() : std::nullopt;
  const Json id = separator ? Json(*separator) : Json(nullptr);
  config["bos_token_id"] = id;
  config["eos_token_id"] = id;
}

}  // namespace filigree
