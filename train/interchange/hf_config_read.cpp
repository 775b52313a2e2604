// A config.json of transformers becomes a ModelConfig. hf_keys.h says what each key is: absent ones have the
// value of the architecture's class, and one that asks for what ours does not compute is refused.
#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/interchange/hf_keys.h"
#include "train/interchange/hf_model.h"
#include "train/interchange/json_file.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::int64_t kMaxCount = std::int64_t{1} << 30;

// Reads the values of an object; those of a config.json are complete (complete_hf_config).
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
      refuse(key, fmt::format("is {}; it must be an integer from 1 to {}", shown_json(*value), kMaxCount));
    return value->get<std::int64_t>();
  }
  std::int64_t integer(const char* key, std::int64_t fallback) const {
    return find(key) ? integer(key) : fallback;
  }
  double positive(const char* key) const {
    const Json* value = find(key);
    if (!value) refuse(key, "is missing");
    if (!value->is_number() || !(value->get<double>() > 0) || !std::isfinite(value->get<double>()))
      refuse(key, fmt::format("is {}; it must be a positive number", shown_json(*value)));
    return value->get<double>();
  }
  bool boolean(const char* key) const {
    const auto value = json_.find(key);
    if (value == json_.end() || !value->is_boolean())
      refuse(key, fmt::format("is {}; it must be true or false",
                              value == json_.end() ? "missing" : shown_json(*value)));
    return value->get<bool>();
  }
  std::string text(const char* key, const std::string& fallback) const {
    const Json* value = find(key);
    if (value && !value->is_string())
      refuse(key, fmt::format("is {}; it must be a text", shown_json(*value)));
    return value ? value->get<std::string>() : fallback;
  }
  std::vector<std::string> texts(const char* key) const {
    const Json* value = find(key);
    if (!value) return {};
    const bool fits = value->is_array() && std::ranges::all_of(*value, &Json::is_string);
    if (!fits) refuse(key, fmt::format("is {}; it must be a list of texts", shown_json(*value)));
    return value->get<std::vector<std::string>>();
  }
  const Json& json() const { return json_; }

 private:
  const Json& json_;
  std::string origin_;
};

Activation gpt2_activation(const ConfigReader& reader) {
  const std::string name = reader.text("activation_function", "");
  if (name == "gelu_new" || name == "gelu_pytorch_tanh") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  if (name == "silu" || name == "swish") return Activation::silu;
  reader.refuse("activation_function",
                fmt::format("is {}; it must be gelu_new, gelu_pytorch_tanh, gelu or silu", shown_json(name)));
}

// Ours is one rate, after the embedding and on both branches: theirs of the branches.
double gpt2_dropout(const ConfigReader& reader) {
  const Json& rate = reader.json().at("resid_pdrop");
  if (!rate.is_number() || !(rate >= 0.0) || !(rate < 1.0))
    reader.refuse("resid_pdrop", fmt::format("is {}; it must be a number in [0, 1)", shown_json(rate)));
  return rate.get<double>();
}

HfModel read_gpt2(const ConfigReader& reader) {
  HfModel model;
  ModelConfig& c = model.config;
  c.dim = reader.integer("n_embd");
  c.n_layers = static_cast<int>(reader.integer("n_layer"));
  c.n_heads = static_cast<int>(reader.integer("n_head"));
  c.ffn_dim = reader.integer("n_inner", 4 * c.dim);
  c.vocab_size = reader.integer("vocab_size");
  c.max_seq_len = reader.integer("n_positions");
  c.norm_eps = reader.positive("layer_norm_epsilon");
  c.activation = gpt2_activation(reader);
  c.tied_embeddings = reader.boolean("tie_word_embeddings");
  c.dropout = gpt2_dropout(reader);
  if (c.dim % c.n_heads != 0) reader.refuse("n_head", "must divide n_embd");
  return model;
}

// Plain rope under any of its names: transformers 5 writes rope_parameters, before it there were rope_theta
// and rope_scaling, which still count. Versions do not agree on which one wins where two differ.
class Rope {
 public:
  Rope(const ConfigReader& reader, const std::string& origin) {
    take(reader, "rope_theta");
    for (const char* name : {"rope_parameters", "rope_scaling"}) {
      const Json* parameters = reader.find(name);
      if (!parameters) continue;
      if (!parameters->is_object()) reader.refuse(name, "is not an object");
      read(name, *parameters, origin);
    }
  }
  double theta() const { return theta_.value_or(10000); }

 private:
  void take(const ConfigReader& reader, const std::string& name) {
    if (!reader.find("rope_theta")) return;
    const double theta = reader.positive("rope_theta");
    if (theta_ && *theta_ != theta)
      reader.refuse("rope_theta", fmt::format("is {}, but {} {}", theta, name_, *theta_),
                    "versions of transformers differ in which one they take; leave one of them");
    theta_ = theta;
    name_ = name;
  }
  void read(const std::string& name, const Json& parameters, const std::string& origin) {
    const ConfigReader inner(parameters, fmt::format("{}: {}.", origin, name));
    for (const auto& [key, value] : parameters.items()) {
      if (key == "rope_theta" || value.is_null()) continue;
      const bool type = key == "rope_type" || key == "type";
      const bool plain = type ? value == "default" : key == "partial_rotary_factor" && value == 1.0;
      if (!plain)
        inner.refuse(key,
                     fmt::format("is {}; only models with plain rope can be imported", shown_json(value)));
    }
    take(inner, name + ".rope_theta");
  }

  std::optional<double> theta_;
  std::string name_;  // of the key that theta_ is from
};

bool llama_bias(const ConfigReader& reader) {
  const bool attention = reader.boolean("attention_bias"), mlp = reader.boolean("mlp_bias");
  if (attention != mlp)
    reader.refuse("attention_bias",
                  fmt::format("is {} and mlp_bias {}; biases must be everywhere or nowhere", attention, mlp));
  // Products in slices, whose biases old versions leave out.
  if (const std::int64_t slices = reader.integer("pretraining_tp"); attention && slices != 1)
    reader.refuse("pretraining_tp", fmt::format("is {}; with biases only 1 can be imported", slices));
  return attention;
}

// Another attention in each layer is for other architectures.
void require_equal_layers(const ConfigReader& reader, const HfModel& model) {
  const char* type = model.sliding_window ? "sliding_attention" : "full_attention";
  for (const std::string& given : reader.texts("layer_types"))
    if (given != type)
      reader.refuse("layer_types", fmt::format("has {}, but {} has {} in every layer", shown_json(given),
                                               architecture_class(model.architecture), type));
}

HfModel read_llama(const ConfigReader& reader, const std::string& origin, Architecture architecture) {
  const bool mistral = architecture == Architecture::mistral;
  HfModel model;
  model.architecture = architecture;
  ModelConfig& c = model.config;
  c.norm = NormKind::rms_norm;
  c.activation = Activation::swiglu;
  c.positions = Positions::rope;
  c.dim = reader.integer("hidden_size");
  c.n_layers = static_cast<int>(reader.integer("num_hidden_layers"));
  c.n_heads = static_cast<int>(reader.integer("num_attention_heads"));
  c.n_kv_heads = static_cast<int>(reader.integer("num_key_value_heads", c.n_heads));
  if (!reader.find("head_dim") && c.dim % c.n_heads != 0)
    reader.refuse("num_attention_heads", "must divide hidden_size where head_dim is not given");
  c.head_dim = reader.integer("head_dim", c.dim / c.n_heads);
  c.ffn_dim = reader.integer("intermediate_size");
  c.vocab_size = reader.integer("vocab_size");
  c.max_seq_len = reader.integer("max_position_embeddings");
  c.norm_eps = reader.positive("rms_norm_eps");
  c.rope_theta = Rope(reader, origin).theta();
  c.bias = mistral ? false : llama_bias(reader);
  c.tied_embeddings = reader.boolean("tie_word_embeddings");
  if (mistral && reader.find("sliding_window")) model.sliding_window = reader.integer("sliding_window");
  require_equal_layers(reader, model);
  return model;
}

// The model with its head, or its body alone.
void require_class(const ConfigReader& reader, Architecture architecture) {
  const std::string head = architecture_class(architecture);
  const std::string body = architecture == Architecture::gpt2    ? "GPT2Model"
                           : architecture == Architecture::llama ? "LlamaModel"
                                                                 : "MistralModel";
  for (const std::string& name : reader.texts("architectures"))
    if (name != head && name != body)
      reader.refuse("architectures", fmt::format("has {}; only {} can be imported", shown_json(name), head));
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
  exported.layouts = inner.texts("layouts");
  return exported;
}

}  // namespace

HfModel parse_hf_config(const Json& json, const std::string& origin) {
  const std::string type = ConfigReader(json, origin).text("model_type", "");
  const std::array known = {std::pair("gpt2", Architecture::gpt2), std::pair("llama", Architecture::llama),
                            std::pair("mistral", Architecture::mistral)};
  const auto found = std::ranges::find(known, type, [](const auto& pair) { return std::string(pair.first); });
  if (found == known.end())
    ConfigReader(json, origin)
        .refuse("model_type",
                fmt::format("is {}; gpt2, llama and mistral can be imported", shown_json(type)));
  const Architecture architecture = found->second;
  const CompleteConfig complete = complete_hf_config(json, architecture, origin);
  const ConfigReader reader(complete.json, origin);
  require_class(reader, architecture);
  HfModel model =
      architecture == Architecture::gpt2 ? read_gpt2(reader) : read_llama(reader, origin, architecture);
  model.unknown_keys = complete.unknown;
  model.exported = read_exported(reader, origin);
  try {
    model.config = resolved(model.config);
  } catch (const Error& e) {
    throw Error(ErrorKind::data, fmt::format("{}: {}", origin, e.what()), e.hint());
  }
  return model;
}

}  // namespace filigree
