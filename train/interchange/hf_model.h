// Models as Hugging Face transformers knows them: which architecture a model is, its config.json, and where
// each of its tensors lies in ours.
//
//   GPT2LMHeadModel      layer_norm, learned positions, gelu_tanh (gelu_new), gelu or silu, biases
//   LlamaForCausalLM     rms_norm, rope, swiglu; biases on all linear layers or on none
//   MistralForCausalLM   the same without biases, each token seeing itself and the sliding_window - 1 before
//
// GPT-2's linear layers are Conv1D, whose weights are [in, out]; ours and Llama's are [out, in]. Llama's rope
// pairs feature d with d + head_dim / 2, as ours does.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "layers/model_config.h"

namespace filigree {

enum class Architecture { gpt2, llama, mistral };

const char* architecture_class(Architecture architecture);  // "GPT2LMHeadModel"

// The part of config.json under `filigree`, about a pattern that transformers lacks; see layout_export.h.
struct ExportedPattern {
  std::string pattern;  // YAML
  int tile = 64;
  std::int64_t seq_len = 0;
  std::vector<std::string> layouts = {};  // a file of the folder for each layer
};

struct HfModel {
  Architecture architecture = Architecture::gpt2;
  ModelConfig config;                          // resolved; dropout as the architecture has it
  std::optional<std::int64_t> sliding_window;  // mistral, where it has one
  std::optional<ExportedPattern> exported = std::nullopt;
  std::vector<std::string> unknown_keys = {};  // of config.json, which the architecture does not have
};

// The architecture that computes what this model does with full attention. Error(usage) telling which keys of
// `model` would have to be different.
Architecture architecture_of(const ModelConfig& config);

// config.json without the ids of special tokens. dtype: f32 or bf16, that of the weights beside it.
nlohmann::ordered_json hf_config(const HfModel& model, DType dtype);

// Reads a config.json. Error(data) naming `origin`, the key and its value for every model that ours cannot
// express exactly; hf_keys.h says what each key is.
HfModel parse_hf_config(const nlohmann::ordered_json& json, const std::string& origin);

// One tensor of theirs: rows [row, row + rows) of one of ours.
struct HfTensor {
  std::string theirs;  // "model.layers.0.self_attn.k_proj.weight"
  std::string ours;    // "blocks.0.attention.qkv.weight"
  std::int64_t row = 0;
  Shape shape;              // of those rows, as ours stores them
  bool transposed = false;  // theirs is stored [in, out]

  Shape stored_shape() const { return transposed ? Shape{shape[1], shape[0]} : shape; }
};

// Every tensor of the model, in the order of the forward pass. Together they cover all of ours.
std::vector<HfTensor> hf_tensors(const HfModel& model);

}  // namespace filigree
