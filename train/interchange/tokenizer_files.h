// Tokenizer files as Hugging Face tokenizers and transformers read them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "data/tokenizer.h"

namespace filigree {

// tokenizer.json: the byte tokenizer as byte-level BPE without merges, its separator and mask as special
// tokens.
std::string tokenizer_json(const Tokenizer& tokenizer);

// tokenizer_config.json; the separator is the token that begins and ends a text.
std::string tokenizer_config_json(const Tokenizer& tokenizer, std::int64_t max_length);

// Adds bos_token_id and eos_token_id, null without a tokenizer or a separator.
void add_special_ids(nlohmann::ordered_json& config, const Tokenizer* tokenizer);

}  // namespace filigree
