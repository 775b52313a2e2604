#include "train/interchange/tokenizer_files.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/file.h"
#include "train/interchange/hf_keys.h"
#include "train/interchange/json_file.h"
#include "train/record/special_tokens.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// These keys of tokenizer_config.json are kept, beside every key "<role>_token".
constexpr const char* kKeptKeys[] = {"additional_special_tokens", "extra_special_tokens", "chat_template",
                                     "padding_side", "truncation_side"};

// The text of a token, which tokenizer.json has among those added to its vocabulary or in it.
std::string token_text(const Json& tokenizer, std::uint32_t id) {
  for (const Json& token : tokenizer.at("added_tokens"))
    if (token.at("id") == id) return token.at("content");
  for (const auto& [text, number] : tokenizer.at("model").at("vocab").items())
    if (number == id) return text;
  check(false, "a tokenizer's special tokens are in its vocabulary");
  return "";
}

Json read_if_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored) ? read_json_object(path) : Json();
}

Json kept_of_tokenizer_config(const Json& config) {
  Json kept = Json::object();
  for (const auto& [key, value] : config.items())
    if ((key.ends_with("_token") && !value.is_boolean()) ||
        std::ranges::find(kKeptKeys, key, [](const char* k) { return std::string(k); }) !=
            std::end(kKeptKeys))
      kept[key] = value;
  return kept;
}

// The separator and the mask in their roles; an imported tokenizer_config.json has given its own.
Json roles(const Tokenizer& tokenizer, const Json& special_tokens) {
  if (const auto kept = special_tokens.find("tokenizer_config"); kept != special_tokens.end()) return *kept;
  const Json described = Json::parse(tokenizer.to_json());
  Json json = Json::object();
  if (const auto id = tokenizer.separator())
    for (const char* key : {"bos_token", "eos_token"}) json[key] = token_text(described, *id);
  if (const auto id = tokenizer.mask()) json["mask_token"] = token_text(described, *id);
  return json;
}

// Without model_input_names transformers 4 would make token_type_ids, too, which no decoder takes.
Json tokenizer_config(const Tokenizer& tokenizer, std::int64_t max_length, const Json& special_tokens) {
  Json json{{"tokenizer_class", "PreTrainedTokenizerFast"},
            {"model_input_names", {"input_ids", "attention_mask"}},
            {"clean_up_tokenization_spaces", false},
            {"model_max_length", max_length}};
  json.update(roles(tokenizer, special_tokens));
  return json;
}

// The part of an id or a list of ids that is in the vocabulary; null where nothing is.
Json in_vocabulary(const Json& value, std::int64_t vocab_size) {
  if (value.is_array()) {
    Json ids = Json::array();
    for (const Json& id : value)
      if (const Json known = in_vocabulary(id, vocab_size); !known.is_null()) ids.push_back(known);
    return ids.empty() ? Json() : ids;
  }
  const bool outside = value.is_number_integer() && (value < 0 || value >= vocab_size);
  return outside ? Json() : value;
}

void write_json(const fs::path& path, const Json& json) {
  write_file_atomically(path, json.dump(2) + "\n");
}

}  // namespace

Json read_special_tokens(const fs::path& folder, const Json& config, const HfModel& model) {
  Json all{{"config", Json::object()}};
  const Json generation = read_if_there(folder / "generation_config.json");
  for (const HfKey& key : hf_keys()) {
    if (key.use != HfKeyUse::special || !key.is_of(model.architecture)) continue;
    const std::string name(key.name);
    const bool given = config.contains(name);
    if (!given && (key.value.empty() || !generation.is_null())) continue;
    const Json value = given ? config[name] : Json::parse(key.value);
    const Json known = in_vocabulary(value, model.config.vocab_size);
    if (value.is_null() || !known.is_null()) all["config"][name] = known;
  }
  if (!generation.is_null()) all["generation_config"] = generation;
  if (const Json tokenizer = read_if_there(folder / "tokenizer_config.json"); !tokenizer.is_null())
    all["tokenizer_config"] = kept_of_tokenizer_config(tokenizer);
  if (const Json map = read_if_there(folder / "special_tokens_map.json"); !map.is_null())
    all["special_tokens_map"] = map;
  end_tokens(all, folder.string());  // refuses what is no id
  return all;
}

void add_special_ids(Json& config, const Tokenizer* tokenizer, const Json& special_tokens) {
  const auto separator = tokenizer ? tokenizer->separator() : std::nullopt;
  for (const char* key : {"bos_token_id", "eos_token_id"})
    config[key] = separator ? Json(*separator) : Json(nullptr);
  if (const auto kept = special_tokens.find("config"); kept != special_tokens.end()) config.update(*kept);
}

void write_tokenizer_files(const fs::path& folder, const Tokenizer* tokenizer, std::int64_t max_length,
                           const Json& special_tokens) {
  const auto imported = [&](const char* part) { return special_tokens.contains(part); };
  if (imported("generation_config")) {
    write_json(folder / "generation_config.json", special_tokens["generation_config"]);
  } else if (tokenizer) {
    Json generation = Json::object();
    add_special_ids(generation, tokenizer, special_tokens);
    write_json(folder / "generation_config.json", generation);
  }
  if (!tokenizer) return;
  write_file_atomically(folder / "tokenizer.json", tokenizer->to_json());
  write_json(folder / "tokenizer_config.json", tokenizer_config(*tokenizer, max_length, special_tokens));
  if (imported("special_tokens_map"))
    write_json(folder / "special_tokens_map.json", special_tokens["special_tokens_map"]);
}

}  // namespace filigree
