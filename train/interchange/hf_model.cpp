#include "train/interchange/hf_model.h"

#include <nlohmann/json.hpp>

#include "train/config/config.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// "model.norm: rms_norm (not layer_norm)" for every key that keeps a model from being one of an architecture.
class Obstacles {
 public:
  template <class T, class U>
  Obstacles& want(bool ok, const char* key, const T& wanted, const U& is) {
    if (!ok) list_.push_back(fmt::format("model.{}: {} (not {})", key, wanted, is));
    return *this;
  }
  const std::vector<std::string>& list() const { return list_; }

 private:
  std::vector<std::string> list_;
};

std::vector<std::string> gpt2_obstacles(const ModelConfig& c) {
  return Obstacles()
      .want(c.norm == NormKind::layer_norm, "norm", "layer_norm", word(c.norm))
      .want(c.positions == Positions::learned, "positions", "learned", word(c.positions))
      .want(c.activation != Activation::swiglu, "activation", "gelu_tanh", word(c.activation))
      .want(c.bias, "bias", true, c.bias)
      .want(c.n_kv_heads == c.n_heads, "n_kv_heads", c.n_heads, c.n_kv_heads)
      .want(c.n_heads * c.head_dim == c.dim, "head_dim", "dim / n_heads", c.head_dim)
      .list();
}

std::vector<std::string> llama_obstacles(const ModelConfig& c) {
  return Obstacles()
      .want(c.norm == NormKind::rms_norm, "norm", "rms_norm", word(c.norm))
      .want(c.positions == Positions::rope, "positions", "rope", word(c.positions))
      .want(c.activation == Activation::swiglu, "activation", "swiglu", word(c.activation))
      .list();
}

const char* gpt2_activation(Activation activation) {
  switch (activation) {
    case Activation::gelu:
      return "gelu";
    case Activation::gelu_tanh:
      return "gelu_new";
    case Activation::silu:
      return "silu";
    case Activation::swiglu:
      break;
  }
  check(false, "GPT-2 has no gated activation");
  return "";
}

Json gpt2_config(const ModelConfig& c) {
  return {{"architectures", {architecture_class(Architecture::gpt2)}},
          {"model_type", "gpt2"},
          {"activation_function", gpt2_activation(c.activation)},
          {"attn_pdrop", 0.0},
          {"embd_pdrop", c.dropout},
          {"resid_pdrop", c.dropout},
          {"initializer_range", 0.02},
          {"layer_norm_epsilon", c.norm_eps},
          {"n_embd", c.dim},
          {"n_head", c.n_heads},
          {"n_inner", c.ffn_dim},
          {"n_layer", c.n_layers},
          {"n_positions", c.max_seq_len},
          {"scale_attn_weights", true},
          {"scale_attn_by_inverse_layer_idx", false},
          {"tie_word_embeddings", c.tied_embeddings},
          {"use_cache", true},
          {"vocab_size", c.vocab_size}};
}

Json llama_config(const HfModel& model) {
  const ModelConfig& c = model.config;
  const bool mistral = model.architecture == Architecture::mistral;
  Json json{{"architectures", {architecture_class(model.architecture)}},
            {"model_type", mistral ? "mistral" : "llama"},
            {"attention_dropout", 0.0},
            {"head_dim", c.head_dim},
            {"hidden_act", "silu"},
            {"hidden_size", c.dim},
            {"initializer_range", 0.02},
            {"intermediate_size", c.ffn_dim},
            {"max_position_embeddings", c.max_seq_len},
            {"num_attention_heads", c.n_heads},
            {"num_hidden_layers", c.n_layers},
            {"num_key_value_heads", c.n_kv_heads},
            {"rms_norm_eps", c.norm_eps},
            {"rope_theta", c.rope_theta},
            {"tie_word_embeddings", c.tied_embeddings},
            {"use_cache", true},
            {"vocab_size", c.vocab_size}};
  if (mistral) {
    json["sliding_window"] = model.sliding_window ? Json(*model.sliding_window) : Json(nullptr);
  } else {
    json["attention_bias"] = c.bias;
    json["mlp_bias"] = c.bias;
  }
  return json;
}

}  // namespace

const char* architecture_class(Architecture architecture) {
  switch (architecture) {
    case Architecture::gpt2:
      return "GPT2LMHeadModel";
    case Architecture::llama:
      return "LlamaForCausalLM";
    case Architecture::mistral:
      break;
  }
  return "MistralForCausalLM";
}

Architecture architecture_of(const ModelConfig& config) {
  require(config.type == ModelType::decoder,
          "a model of type {} cannot be exported: decoders can, as GPT-2, Llama or Mistral",
          word(config.type));
  const auto gpt2 = gpt2_obstacles(config), llama = llama_obstacles(config);
  if (gpt2.empty()) return Architecture::gpt2;
  if (llama.empty()) return Architecture::llama;
  throw Error(
      ErrorKind::usage,
      fmt::format("transformers has no architecture of this shape; as GPT-2 it would need {}; as Llama {}",
                  fmt::join(gpt2, ", "), fmt::join(llama, ", ")),
      "train with model.preset: gpt2 or llama and leave those keys alone to be able to export");
}

Json hf_config(const HfModel& model, DType dtype) {
  Json json = model.architecture == Architecture::gpt2 ? gpt2_config(model.config) : llama_config(model);
  json["torch_dtype"] = dtype == DType::bf16 ? "bfloat16" : "float32";
  return json;
}

}  // namespace filigree
