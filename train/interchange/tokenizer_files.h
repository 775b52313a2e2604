// The files that Hugging Face transformers reads beside tokenizer.json: which tokens have a role.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "data/tokenizer.h"
#include "train/interchange/hf_model.h"

namespace filigree {

// The special tokens that the folder of a model tells of (train/record/special_tokens.h). `config` is its
// config.json; where neither that nor generation_config.json has an id, it is that of the architecture's
// class. Ids outside the vocabulary are left out. Error(data) for an eos_token_id that is no id, and for
// damaged files.
nlohmann::ordered_json read_special_tokens(const std::filesystem::path& folder,
                                           const nlohmann::ordered_json& config, const HfModel& model);

// Adds bos_token_id, eos_token_id .. to a config.json: those of an imported model. Where it has none, both
// are the separator of `tokenizer`, which begins each document and so ends the one before; null without one.
void add_special_ids(nlohmann::ordered_json& config, const Tokenizer* tokenizer,
                     const nlohmann::ordered_json& special_tokens);

// Writes generation_config.json and, where there is a tokenizer, tokenizer.json, tokenizer_config.json and,
// where an imported model had one, special_tokens_map.json.
void write_tokenizer_files(const std::filesystem::path& folder, const Tokenizer* tokenizer,
                           std::int64_t max_length, const nlohmann::ordered_json& special_tokens);

}  // namespace filigree
