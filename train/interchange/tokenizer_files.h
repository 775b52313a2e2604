// What Hugging Face transformers reads beside tokenizer.json.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/tokenizer.h"

namespace filigree {

// tokenizer_config.json: which tokens of `tokenizer` have a role. The separator, which begins each document
// and so ends the one before, is the token that begins and ends a text.
std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_length);

// Adds bos_token_id and eos_token_id; null without a tokenizer or a separator.
void add_special_ids(nlohmann::ordered_json& config, const Tokenizer* tokenizer);

}  // namespace filigree
