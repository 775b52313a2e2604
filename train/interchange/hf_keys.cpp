#include "train/interchange/hf_keys.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "train/interchange/json_file.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;
using enum HfKeyUse;

constexpr auto kKeys = std::to_array<HfKey>({
    // GPT2Config
    {"vocab_size", "g", nullable, "50257"},
    {"n_positions", "g", used, "1024"},
    {"n_embd", "g", nullable, "768"},
    {"n_layer", "g", nullable, "12"},
    {"n_head", "g", nullable, "12"},
    {"n_inner", "g", nullable, "null"},  // null: 4 n_embd
    {"activation_function", "g", used, "\"gelu_new\""},
    {"resid_pdrop", "g", used, "0.1"},
    {"layer_norm_epsilon", "g", used, "1e-5"},
    {"scale_attn_weights", "g", plain, "[true]"},
    {"scale_attn_by_inverse_layer_idx", "g", plain, "[false, null]"},
    {"hidden_size", "g", alias, "n_embd"},
    {"max_position_embeddings", "g", alias, "n_positions"},
    {"num_attention_heads", "g", alias, "n_head"},
    {"num_hidden_layers", "g", alias, "n_layer"},
    {"n_ctx", "g", ignored},                    // once the size of the causal mask
    {"embd_pdrop", "g", ignored},               // ours has one rate, that of resid_pdrop
    {"attn_pdrop", "g", ignored},               // dropout of attention weights, in training only
    {"reorder_and_upcast_attn", "g", ignored},  // where half precision rounds
    {"summary_type", "g", ignored},             // summary_..: GPT2DoubleHeadsModel
    {"summary_use_proj", "g", ignored},
    {"summary_activation", "g", ignored},
    {"summary_proj_to_labels", "g", ignored},
    {"summary_first_dropout", "g", ignored},

    // LlamaConfig, MistralConfig
    {"vocab_size", "lm", nullable, "32000"},
    {"hidden_size", "lm", nullable, "4096"},
    {"intermediate_size", "l", nullable, "11008"},
    {"intermediate_size", "m", nullable, "14336"},
    {"num_hidden_layers", "lm", nullable, "32"},
    {"num_attention_heads", "lm", nullable, "32"},
    {"num_key_value_heads", "l", nullable, "null"},  // null: num_attention_heads
    {"num_key_value_heads", "m", nullable, "8"},
    {"head_dim", "lm", nullable, "null"},  // null: hidden_size / num_attention_heads
    {"hidden_act", "lm", plain, "[\"silu\"]"},
    {"max_position_embeddings", "l", used, "2048"},
    {"max_position_embeddings", "m", used, "131072"},
    {"rms_norm_eps", "lm", used, "1e-6"},
    {"rope_theta", "lm", nullable, "null"},  // null: 10000, or that of rope_parameters
    {"rope_scaling", "lm", nullable, "null"},
    {"rope_parameters", "lm", nullable, "null"},
    {"partial_rotary_factor", "lm", plain, "[1.0, null]"},
    {"attention_bias", "l", used, "false"},
    {"mlp_bias", "l", used, "false"},
    {"attention_bias", "m", plain, "[false, null]"},
    {"mlp_bias", "m", plain, "[false, null]"},
    {"pretraining_tp", "l", used, "1"},
    {"sliding_window", "l", plain, "[null]"},
    {"sliding_window", "m", nullable, "4096"},  // null: full attention
    {"layer_types", "lm", nullable, "null"},
    {"attention_dropout", "lm", ignored},

    // all of them, from PretrainedConfig
    {"tie_word_embeddings", "g", nullable, "true"},
    {"tie_word_embeddings", "lm", nullable, "false"},
    {"model_type", "glm", used},
    {"architectures", "glm", nullable, "null"},
    {"bos_token_id", "g", special, "50256"},
    {"eos_token_id", "g", special, "50256"},
    {"bos_token_id", "lm", special, "1"},
    {"eos_token_id", "lm", special, "2"},
    {"pad_token_id", "glm", special},
    {"sep_token_id", "glm", special},
    {"decoder_start_token_id", "glm", special},
    {"is_causal", "glm", plain, "[true]"},
    {"is_encoder_decoder", "glm", plain, "[false, null]"},
    {"add_cross_attention", "glm", plain, "[false, null]"},
    {"pruned_heads", "glm", plain, "[{}, null]"},
    {"per_layer_config", "glm", plain, "[null, {}]"},
    {"quantization_config", "glm", plain, "[null]"},
    {"compression_config", "glm", plain, "[null]"},
    {"auto_map", "glm", plain, "[null, {}]"},          // code of the model's own
    {"transformers_weights", "glm", plain, "[null]"},  // weights in another file
    {"filigree", "glm", nullable, "null"},             // ours: the layouts of a sparse pattern
    {"transformers_version", "glm", ignored},
    {"torch_dtype", "glm", ignored},  // the weights have a type of their own
    {"dtype", "glm", ignored},
    {"initializer_range", "glm", ignored},
    {"use_cache", "glm", ignored},
    {"is_decoder", "glm", ignored},
    {"cross_attention_hidden_size", "glm", ignored},
    {"tie_encoder_decoder", "glm", ignored},
    {"chunk_size_feed_forward", "glm", ignored},
    {"return_dict", "glm", ignored},
    {"use_return_dict", "glm", ignored},
    {"output_hidden_states", "glm", ignored},
    {"output_attentions", "glm", ignored},
    {"_output_attentions", "glm", ignored},
    {"torchscript", "glm", ignored},
    {"use_bfloat16", "glm", ignored},
    {"tf_legacy_loss", "glm", ignored},
    {"xla_device", "glm", ignored},
    {"gradient_checkpointing", "glm", ignored},
    {"name_or_path", "glm", ignored},
    {"_name_or_path", "glm", ignored},
    {"_commit_hash", "glm", ignored},
    {"attn_implementation", "glm", ignored},
    {"_attn_implementation", "glm", ignored},
    {"_attn_implementation_internal", "glm", ignored},
    {"_attn_implementation_autoset", "glm", ignored},
    {"experts_implementation", "glm", ignored},
    {"_experts_implementation", "glm", ignored},
    {"_experts_implementation_internal", "glm", ignored},
    {"base_model_tp_plan", "glm", ignored},
    {"base_model_pp_plan", "glm", ignored},
    {"base_model_ep_plan", "glm", ignored},
    {"base_model_fsdp_plan", "glm", ignored},
    {"tokenizer_class", "glm", ignored},
    {"prefix", "glm", ignored},
    {"finetuning_task", "glm", ignored},
    {"task_specific_params", "glm", ignored},
    {"problem_type", "glm", ignored},
    {"id2label", "glm", ignored},
    {"label2id", "glm", ignored},
    {"num_labels", "glm", ignored},
    {"_num_labels", "glm", ignored},
    // how transformers generates, which generation_config.json says now
    {"max_length", "glm", ignored},
    {"min_length", "glm", ignored},
    {"do_sample", "glm", ignored},
    {"early_stopping", "glm", ignored},
    {"num_beams", "glm", ignored},
    {"num_beam_groups", "glm", ignored},
    {"diversity_penalty", "glm", ignored},
    {"temperature", "glm", ignored},
    {"top_k", "glm", ignored},
    {"top_p", "glm", ignored},
    {"typical_p", "glm", ignored},
    {"repetition_penalty", "glm", ignored},
    {"length_penalty", "glm", ignored},
    {"no_repeat_ngram_size", "glm", ignored},
    {"encoder_no_repeat_ngram_size", "glm", ignored},
    {"bad_words_ids", "glm", ignored},
    {"num_return_sequences", "glm", ignored},
    {"output_scores", "glm", ignored},
    {"return_dict_in_generate", "glm", ignored},
    {"forced_bos_token_id", "glm", ignored},
    {"forced_eos_token_id", "glm", ignored},
    {"remove_invalid_values", "glm", ignored},
    {"exponential_decay_length_penalty", "glm", ignored},
    {"suppress_tokens", "glm", ignored},
    {"begin_suppress_tokens", "glm", ignored},
});

[[noreturn]] void refuse(const std::string& origin, const std::string& what, const std::string& hint = "") {
  throw Error(ErrorKind::data, fmt::format("{}: {}", origin, what), hint);
}

void require_plain(const HfKey& key, const Json& value, const std::string& origin) {
  if (key.name == "quantization_config" && !value.is_null())
    refuse(origin, "quantization_config is given; quantised weights cannot be imported");
  std::vector<std::string> allowed;
  for (const Json& plain : Json::parse(key.value)) {
    if (value == plain) return;
    allowed.push_back(plain.dump());
  }
  refuse(origin, fmt::format("{} is {}; only {} can be imported", key.name, shown_json(value),
                             fmt::join(allowed, " or ")));
}

void rename(const HfKey& key, const Json& value, Json& config, const std::string& origin) {
  const std::string target(key.value);
  if (const auto other = config.find(target); other != config.end() && *other != value)
    refuse(origin, fmt::format("{} is {} and {} {}, which are two names of one value", key.name,
                               shown_json(value), target, shown_json(*other)));
  config[target] = value;
}

}  // namespace

bool HfKey::is_of(Architecture architecture) const {
  const char letter = architecture == Architecture::gpt2    ? 'g'
                      : architecture == Architecture::llama ? 'l'
                                                            : 'm';
  return architectures.find(letter) != architectures.npos;
}

std::span<const HfKey> hf_keys() {
  return kKeys;
}

const HfKey* find_hf_key(Architecture architecture, std::string_view name) {
  const auto found = std::ranges::find_if(
      kKeys, [&](const HfKey& key) { return key.name == name && key.is_of(architecture); });
  return found == kKeys.end() ? nullptr : &*found;
}

CompleteConfig complete_hf_config(const Json& json, Architecture architecture, const std::string& origin) {
  CompleteConfig complete{json, {}};
  for (const auto& [name, value] : json.items()) {
    const HfKey* key = find_hf_key(architecture, name);
    if (!key)
      complete.unknown.push_back(name);
    else if (key->use == plain)
      require_plain(*key, value, origin);
    else if (key->use == alias)
      rename(*key, value, complete.json, origin);
  }
  for (const HfKey& key : kKeys) {
    if (!key.is_of(architecture) || key.value.empty()) continue;
    const std::string name(key.name);
    const auto given = complete.json.find(name);
    const bool absent = given == complete.json.end() || (key.use == used && given->is_null());
    if (absent && (key.use == used || key.use == nullable || key.use == special))
      complete.json[name] = Json::parse(key.value);
  }
  return complete;
}

}  // namespace filigree
