// Every key that a config.json of GPT-2, Llama or Mistral may have in transformers 4.40 to 5.24, and what an
// import does with it. A key that is not here is one that the architecture's class does not read: it is named
// in a warning and has no effect.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "train/interchange/hf_model.h"

namespace filigree {

enum class HfKeyUse {
  used,      // decides what is computed; null counts as absent
  nullable,  // the same, and null is a value of its own
  plain,     // changes what is computed at any value but those listed, and is refused there
  special,   // the id of a special token: kept in the checkpoint (train/record/special_tokens.h)
  alias,     // another name of the key `value`
  ignored,   // changes nothing that is computed: outputs, training, generation, heads for other tasks
};

struct HfKey {
  std::string_view name;
  std::string_view architectures;  // g: GPT-2, l: Llama, m: Mistral
  HfKeyUse use;
  // JSON. used, nullable, special: the value that the class gives an absent key; empty: none. plain: the list
  // of the values that may be imported, the class's first.
  std::string_view value = "";

  bool is_of(Architecture architecture) const;
};

std::span<const HfKey> hf_keys();

// nullptr if the architecture's class has no such key.
const HfKey* find_hf_key(Architecture architecture, std::string_view name);

// A config.json in which every key that decides what is computed is there: with the value of the
// architecture's class where it was absent, and under its own name where it had another one.
struct CompleteConfig {
  nlohmann::ordered_json json;
  std::vector<std::string> unknown;  // keys that the class does not have
};

// Error(data), naming `origin`, the key and its value, for a plain key at a value that is not listed, and for
// two names of one key that differ.
CompleteConfig complete_hf_config(const nlohmann::ordered_json& json, Architecture architecture,
                                  const std::string& origin);

}  // namespace filigree
