// BERT's masked language modelling (Devlin et al. 2019, 3.1).
#pragma once

#include <cstdint>
#include <span>

#include "core/random.h"
#include "data/token_file.h"

namespace filigree {

// Each token is chosen with `probability` (separators and masks never are). A chosen token becomes a target;
// in `inputs` it turns into the mask (80 %), a random ordinary token (10 %) or stays (10 %). `targets` gets
// the original where chosen and ops::kIgnoreIndex elsewhere. A pure function of the tokens, `key` and
// `first`, the number of the first token's draw in the key's stream.
void mask_tokens(std::span<std::int32_t> inputs, std::span<std::int32_t> targets,
                 const Vocabulary& vocabulary, double probability, const RandomKey& key, std::uint64_t first);

}  // namespace filigree
