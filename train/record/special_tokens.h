// The special tokens of a model that was made elsewhere, as its checkpoint keeps them. JSON, each part absent
// where the model's folder did not say it:
//   config               bos_token_id, eos_token_id, pad_token_id .. as config.json has them
//   generation_config    generation_config.json
//   tokenizer_config     what tokenizer_config.json says of tokens, and its chat template
//   special_tokens_map   special_tokens_map.json
// Models made here have none: the tokenizer's separator begins and ends their texts.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace filigree {

// The text of a checkpoint as JSON; an empty text as an empty object. Error(data), naming `origin`, if it is
// none.
nlohmann::ordered_json parse_special_tokens(const std::string& text, const std::string& origin);

// The tokens at which a text of the model ends: eos_token_id, one or several, of generation_config and of
// config. Error(data), naming `origin` and the part, for what is no id.
std::vector<std::uint32_t> end_tokens(const nlohmann::ordered_json& special_tokens,
                                      const std::string& origin);

}  // namespace filigree
