// A config.json of transformers becomes a ModelConfig. A key that is absent has the value that the
// architecture's class in transformers gives it; one that asks for what ours does not compute is refused.
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/interchange/hf_model.h"
#include "train/interchange/safetensors_header.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 30;

class ConfigReader {
 public:
  ConfigReader(const Json& json, const std::string& origin) : json_(json), origin_(origin) {}

  [[noreturn]] void refuse(const std::string& key, const std::string& why,
                           const std::string& hint = "") const {
    throw Error(ErrorKind::data,
                fmt::format("{}{}{} {}", origin_, origin_.ends_with('.') ? "" : ": ", key, why), hint);
  }
  // The value; nullptr where it is absent or null.
  const Json* find(const char* key) const {
    const auto found = json_.find(key);
    return found == json_.end() || found->is_null() ? nullptr : &*found;
  }
  std::int64_t integer(const char* key) const {
    const Json* value = find(key);
    if (!value) refuse(key, "is missing");
    if (!value->is_number_integer() || *value < 1 || *value > kMaxCount)
      refuse(key, fmt::format("is {}; it must be an integer from 1 to {}", shown(*value), kMaxCount));
    return value->get<std::int64_t>();
  }
  std::int64_t integer(const char* key, std::int64_t fallback) const {
    return find(key) ? integer(key) : fallback;
  }
  double positive(const char* key, double fallback) const {
    const Json* value = find(key);
    if (!value) return fallback;
    if (!value->is_number() || !(value->get<double>() > 0) || !std::isfinite(value->get<double>()))
      refuse(key, fmt::format("is {}; it must be a positive number", shown(*value)));
    return value->get<double>();
  }
  bool boolean(const char* key, bool fallback) const {
    const Json* value = find(key);
    if (value && !value->is_boolean())
      refuse(key, fmt::format("is {}; it must be true or false", shown(*value)));
    return value ? value->get<bool>() : fallback;
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* value = find(key);
    if (value && !value->is_string()) refuse(key, fmt::format("is {}; it must be a text", shown(*value)));
    return value ? value->get<std::string>() : fallback;
  }
  // Refuses anything but this value.
  template <class T>
  void only(const char* key, const T& value) const {
    const Json* given = find(key);
    if (given && *given != Json(value))
      refuse(key, fmt::format("is {}; only {} can be imported", shown(*given), Json(value).dump()));
  }
  static std::string shown(const Json& value) {
    return value.is_string() ? shown_name(value.get<std::string>())
                             : shown_value(value.dump(-1, ' ', true, Json::error_handler_t::replace));
  }

 private:
  static std::string shown_value(std::string text) {
    return text.size() <= 100 ? text : text.substr(0, 97) + "...";
  }

  const Json& json_;
  std::string origin_;
};

Activation gpt2_activation(const ConfigReader& reader) {
  const std::string name = reader.text("activation_function", "gelu_new");
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu" || name == "swish") return Activation::silu;
  reader.refuse("activation_function",
                fmt::format("is {}; it must be gelu_new, gelu_pytorch_tanh, gelu or silu", shown_name(name)));
}

// Ours is one rate, after the embedding and on both branches: theirs of the branches.
double gpt2_dropout(const ConfigReader& reader) {
  const Json* rate = reader.find("resid_pdrop");
  if (!rate) return 0.1;
  if (!rate->is_number() || !(*rate >= 0.0) || !(*rate < 1.0))
    reader.refuse("resid_pdrop", fmt::format("is {}; it must be a number in [0, 1)", reader.shown(*rate)));
  return rate->get<double>();
}

HfModel read_gpt2(const ConfigReader& reader) {
  reader.only("scale_attn_weights", true);
  reader.only("scale_attn_by_inverse_layer_idx", false);
  reader.only("add_cross_attention", false);
  HfModel model;
  ModelConfig& c = model.config;
  c.dim = reader.integer("n_embd");
  c.n_layers = static_cast<int>(reader.integer("n_layer"));
  c.n_heads = static_cast<int>(reader.integer("n_head"));
  c.ffn_dim = reader.integer("n_inner", 4 * c.dim);
  c.vocab_size = reader.integer("vocab_size");
  c.max_seq_len = reader.integer("n_positions", 1024);
  c.norm_eps = reader.positive("layer_norm_epsilon", 1e-5);
  c.activation = gpt2_activation(reader);
  c.tied_embeddings = reader.boolean("tie_word_embeddings", true);
  c.dropout = gpt2_dropout(reader);
  if (c.dim % c.n_heads != 0) reader.refuse("n_head", "must divide n_embd");
  return model;
}

// transformers 5 writes rope_parameters; before it there were rope_theta and rope_scaling.
double rope_theta(const ConfigReader& reader, const std::string& origin) {
  if (const Json* scaling = reader.find("rope_scaling"))
    reader.refuse("rope_scaling", fmt::format("is {}; only models with plain rope can be imported",
                                              ConfigReader::shown(*scaling)));
  reader.only("partial_rotary_factor", 1.0);
  const Json* parameters = reader.find("rope_parameters");
  if (!parameters) return reader.positive("rope_theta", 10000);
  if (!parameters->is_object()) reader.refuse("rope_parameters", "is not an object");
  const ConfigReader inner(*parameters, origin + ": rope_parameters.");
  inner.only("rope_type", "default");
  inner.only("partial_rotary_factor", 1.0);
  return inner.positive("rope_theta", 10000);
}

bool llama_bias(const ConfigReader& reader) {
  const bool attention = reader.boolean("attention_bias", false), mlp = reader.boolean("mlp_bias", false);
  if (attention != mlp)
    reader.refuse("attention_bias",
                  fmt::format("is {} and mlp_bias {}; biases must be everywhere or nowhere", attention, mlp));
  return attention;
}

HfModel read_llama(const ConfigReader& reader, const std::string& origin, bool mistral) {
  reader.only("hidden_act", "silu");
  HfModel model;
  model.architecture = mistral ? Architecture::mistral : Architecture::llama;
  ModelConfig& c = model.config;
  c.norm = NormKind::rms_norm;
  c.activation = Activation::swiglu;
  c.positions = Positions::rope;
  c.dim = reader.integer("hidden_size");
  c.n_layers = static_cast<int>(reader.integer("num_hidden_layers"));
  c.n_heads = static_cast<int>(reader.integer("num_attention_heads"));
  c.n_kv_heads = static_cast<int>(reader.integer("num_key_value_heads", mistral ? 8 : c.n_heads));
  if (!reader.find("head_dim") && c.dim % c.n_heads != 0)
    reader.refuse("num_attention_heads", "must divide hidden_size where head_dim is not given");
  c.head_dim = reader.integer("head_dim", c.dim / c.n_heads);
  c.ffn_dim = reader.integer("intermediate_size");
  c.vocab_size = reader.integer("vocab_size");
  c.max_seq_len = reader.integer("max_position_embeddings", mistral ? 131072 : 2048);
  c.norm_eps = reader.positive("rms_norm_eps", 1e-6);
  c.rope_theta = rope_theta(reader, origin);
  c.bias = mistral ? false : llama_bias(reader);
  c.tied_embeddings = reader.boolean("tie_word_embeddings", false);
  if (mistral && reader.find("sliding_window")) model.sliding_window = reader.integer("sliding_window");
  return model;
}

std::optional<ExportedPattern> read_exported(const ConfigReader& reader, const std::string& origin) {
  const Json* entry = reader.find("filigree");
  if (!entry) return std::nullopt;
  if (!entry->is_object()) reader.refuse("filigree", "is not an object");
  const ConfigReader inner(*entry, origin + ": filigree.");
  ExportedPattern exported;
  exported.pattern = inner.text("pattern", "{full: {}}");
  exported.tile = static_cast<int>(inner.integer("tile", exported.tile));
  exported.seq_len = inner.integer("seq_len");
  return exported;
}

}  // namespace

HfModel parse_hf_config(const Json& json, const std::string& origin) {
  const ConfigReader reader(json, origin);
  if (reader.find("quantization_config"))
    reader.refuse("quantization_config", "is given; quantised weights cannot be imported");
  const std::string type = reader.text("model_type", "");
  const bool gpt2 = type == "gpt2", llama = type == "llama", mistral = type == "mistral";
  if (!gpt2 && !llama && !mistral)
    reader.refuse("model_type",
                  fmt::format("is {}; gpt2, llama and mistral can be imported", shown_name(type)));
  HfModel model = gpt2 ? read_gpt2(reader) : read_llama(reader, origin, mistral);
  model.exported = read_exported(reader, origin);
  try {
    model.config = resolved(model.config);
  } catch (const Error& e) {
    throw Error(ErrorKind::data, fmt::format("{}: {}", origin, e.what()), e.hint());
  }
  return model;
}

}  // namespace filigree
