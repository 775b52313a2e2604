// Data of one tokenizer for a model of another: what fits, and what only ids can tell.
#pragma once

#include <cstdint>
#include <string>

#include "data/token_file.h"

namespace filigree {

struct ModelTokens {
  std::string tokenizer;  // as Vocabulary::tokenizer
  std::int64_t vocab_size = 0;
  std::string origin;  // names the model in messages
};

// Error(data) if both tokenizers are known and differ, or if the data has ids that the model does not. Where
// one of them is not known, as that of .bin files, only ids are held against each other: then a note that
// says so, else "".
std::string require_fitting_tokens(const Vocabulary& data, const ModelTokens& model);

}  // namespace filigree
