// Every key of config.json in transformers 4.40 to 5.24: what an import does with it.
#include <map>

#include "tests/interchange_fixture.h"
#include "train/interchange/hf_keys.h"

namespace filigree {
namespace {

// The keys of the classes GPT2Config, LlamaConfig, MistralConfig and PretrainedConfig, read off the sources
// of transformers 4.40.2, 4.41.2, .. 4.57.6 and 5.0.0, 5.2.0, .. 5.24.0, with the value of an absent key,
// which no version has changed.
struct ClassKeys {
  Architecture architecture;
  std::map<std::string, Json> keys;
};

const ClassKeys kClasses[] = {
    {Architecture::gpt2,
     {{"vocab_size", 50257},
      {"n_positions", 1024},
      {"n_embd", 768},
      {"n_layer", 12},
      {"n_head", 12},
      {"n_inner", nullptr},
      {"activation_function", "gelu_new"},
      {"resid_pdrop", 0.1},
      {"embd_pdrop", 0.1},
      {"attn_pdrop", 0.1},
      {"layer_norm_epsilon", 1e-5},
      {"initializer_range", 0.02},
      {"summary_type", "cls_index"},
      {"summary_use_proj", true},
      {"summary_activation", nullptr},
      {"summary_proj_to_labels", true},
      {"summary_first_dropout", 0.1},
      {"scale_attn_weights", true},
      {"use_cache", true},
      {"bos_token_id", 50256},
      {"eos_token_id", 50256},
      {"pad_token_id", nullptr},
      {"scale_attn_by_inverse_layer_idx", false},
      {"reorder_and_upcast_attn", false},
      {"add_cross_attention", false},
      {"tie_word_embeddings", true}}},
    {Architecture::llama, {{"vocab_size", 32000},        {"hidden_size", 4096},
                           {"intermediate_size", 11008}, {"num_hidden_layers", 32},
                           {"num_attention_heads", 32},  {"num_key_value_heads", nullptr},
                           {"hidden_act", "silu"},       {"max_position_embeddings", 2048},
                           {"initializer_range", 0.02},  {"rms_norm_eps", 1e-6},
                           {"use_cache", true},          {"pad_token_id", nullptr},
                           {"bos_token_id", 1},          {"eos_token_id", 2},
                           {"pretraining_tp", 1},        {"tie_word_embeddings", false},
                           {"rope_theta", 10000.0},      {"rope_scaling", nullptr},
                           {"rope_parameters", nullptr}, {"attention_bias", false},
                           {"attention_dropout", 0.0},   {"mlp_bias", false},
                           {"head_dim", nullptr}}},
    {Architecture::mistral,
     {{"vocab_size", 32000},          {"hidden_size", 4096},       {"intermediate_size", 14336},
      {"num_hidden_layers", 32},      {"num_attention_heads", 32}, {"num_key_value_heads", 8},
      {"head_dim", nullptr},          {"hidden_act", "silu"},      {"max_position_embeddings", 131072},
      {"initializer_range", 0.02},    {"rms_norm_eps", 1e-6},      {"use_cache", true},
      {"pad_token_id", nullptr},      {"bos_token_id", 1},         {"eos_token_id", 2},
      {"tie_word_embeddings", false}, {"rope_theta", 10000.0},     {"rope_scaling", nullptr},
      {"rope_parameters", nullptr},   {"sliding_window", 4096},    {"attention_dropout", 0.0}}},
};

const char* kCommonKeys[] = {
    "_commit_hash",
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "experts_implementation",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "per_layer_config",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tie_word_embeddings",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "xla_device",
};

constexpr Architecture kArchitectures[] = {Architecture::gpt2, Architecture::llama, Architecture::mistral};

TEST(HfConfig, EveryKeyOfEveryClassIsKnownWithItsValue) {
  for (const Architecture architecture : kArchitectures)
    for (const char* name : kCommonKeys)
      EXPECT_NE(find_hf_key(architecture, name), nullptr) << architecture_class(architecture) << " " << name;
  for (const auto& [architecture, keys] : kClasses) {
    const Json complete = complete_hf_config(Json::object(), architecture, "test").json;
    for (const auto& [name, value] : keys) {
      SCOPED_TRACE(fmt::format("{} {}", architecture_class(architecture), name));
      const HfKey* key = find_hf_key(architecture, name);
      ASSERT_NE(key, nullptr);
      // rope_theta: in one of three places, else 10000.
      const bool told = key->use != HfKeyUse::ignored && name != "rope_theta" && name != "pad_token_id";
      if (key->use == HfKeyUse::plain) {
        EXPECT_EQ(Json::parse(key->value).at(0), value);
      } else if (told) {
        EXPECT_EQ(complete.at(name), value);
      }
    }
  }
}

TEST(HfConfig, NoKeyIsTwiceInTheTable) {
  for (const Architecture architecture : kArchitectures)
    for (const HfKey& key : hf_keys())
      EXPECT_TRUE(!key.is_of(architecture) || find_hf_key(architecture, key.name) == &key) << key.name;
}

class HfConfigTest : public InterchangeTest {
 protected:
  HfConfigTest() {
    for (const auto& [architecture, model, pattern] :
         {std::tuple(Architecture::gpt2, kGpt2, "{full: {}}"),
          std::tuple(Architecture::llama, kLlama, "{full: {}}"),
          std::tuple(Architecture::mistral, kLlama, "{local: {window: 12}}")})
      configs_[architecture] = Json::parse(slurp(exported(model, pattern) / "config.json"));
  }
  HfModel parsed(const Json& json) const { return parse_hf_config(json, "config.json"); }
  std::string refusal(const Json& json) const {
    return error_text(ErrorKind::data, [&] { parsed(json); });
  }
  Json with(Architecture architecture, const std::string& key, const Json& value) const {
    Json json = configs_.at(architecture);
    json[key] = value;
    return json;
  }
  Json without(Architecture architecture, const std::string& key) const {
    Json json = configs_.at(architecture);
    json.erase(key);
    return json;
  }

  std::map<Architecture, Json> configs_;
};

TEST_F(HfConfigTest, KeysThatAreIgnoredChangeNothing) {
  for (const auto& [architecture, config] : configs_)
    for (const HfKey& key : hf_keys()) {
      if (!key.is_of(architecture) || key.use != HfKeyUse::ignored) continue;
      for (const Json& odd : {Json(17), Json("odd"), Json{{"a", 1}}, Json(nullptr)}) {
        const HfModel model = parsed(with(architecture, std::string(key.name), odd));
        EXPECT_EQ(model.config, parsed(config).config) << key.name;
        EXPECT_EQ(model.unknown_keys, std::vector<std::string>()) << key.name;
      }
    }
}

TEST_F(HfConfigTest, KeysThatMustBePlainAreRefusedWithTheirValue) {
  for (const auto& [architecture, config] : configs_)
    for (const HfKey& key : hf_keys()) {
      if (!key.is_of(architecture) || key.use != HfKeyUse::plain) continue;
      const std::string name(key.name);
      for (const Json& plain : Json::parse(key.value))
        EXPECT_EQ(parsed(with(architecture, name, plain)).config, parsed(config).config) << name;
      const bool quantised = name == "quantization_config";
      expect_has(refusal(with(architecture, name, "odd")),
                 "config.json: " + name + (quantised ? " is given; quantised" : " is \"odd\"; only "));
    }
}

TEST_F(HfConfigTest, AnUnknownKeyIsNamedAndNotUsed) {
  Json json = with(Architecture::llama, "rope_interleaved", true);
  json["nonsense"] = {1, 2};
  EXPECT_EQ(parsed(json).unknown_keys, (std::vector<std::string>{"rope_interleaved", "nonsense"}));
  const fs::path folder = exported(kLlama);
  spill(folder / "config.json", json.dump());
  EXPECT_EQ(import_back(folder).notes,
            std::vector{(folder / "config.json").string() +
                        ": LlamaForCausalLM does not have these keys, and they are not used: "
                        "\"rope_interleaved\", \"nonsense\""});
}

TEST_F(HfConfigTest, AnAbsentKeyHasTheValueOfItsClass) {
  EXPECT_EQ(parsed(without(Architecture::mistral, "sliding_window")).sliding_window, 4096);
  EXPECT_EQ(parsed(with(Architecture::mistral, "sliding_window", nullptr)).sliding_window, std::nullopt);
  Json json = without(Architecture::mistral, "num_key_value_heads");
  json["num_attention_heads"] = 16;
  json["head_dim"] = 4;
  EXPECT_EQ(parsed(json).config.n_kv_heads, 8);
  json["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parsed(json).config.n_kv_heads, 16);
  EXPECT_EQ(parsed(without(Architecture::mistral, "max_position_embeddings")).config.max_seq_len, 131072);
  EXPECT_EQ(parsed(without(Architecture::llama, "intermediate_size")).config.ffn_dim, 11008);
  EXPECT_EQ(parsed(without(Architecture::llama, "vocab_size")).config.vocab_size, 32000);
  EXPECT_EQ(parsed(without(Architecture::llama, "rms_norm_eps")).config.norm_eps, 1e-6);
  EXPECT_EQ(parsed(without(Architecture::llama, "rope_theta")).config.rope_theta, 10000);
  EXPECT_FALSE(parsed(without(Architecture::llama, "tie_word_embeddings")).config.tied_embeddings);
  EXPECT_TRUE(parsed(without(Architecture::gpt2, "tie_word_embeddings")).config.tied_embeddings);
  EXPECT_EQ(parsed(without(Architecture::gpt2, "n_inner")).config.ffn_dim, 4 * 32);
  EXPECT_EQ(parsed(without(Architecture::gpt2, "n_layer")).config.n_layers, 12);
  EXPECT_EQ(parsed(without(Architecture::gpt2, "activation_function")).config.activation,
            Activation::gelu_tanh);
  EXPECT_EQ(parsed(without(Architecture::gpt2, "layer_norm_epsilon")).config.norm_eps, 1e-5);
  expect_has(refusal(with(Architecture::gpt2, "tie_word_embeddings", nullptr)),
             "tie_word_embeddings is null; it must be true or false");
}

TEST_F(HfConfigTest, Gpt2HasOtherNamesForItsSizes) {
  Json json = without(Architecture::gpt2, "n_layer");
  json["num_hidden_layers"] = 3;
  json["hidden_size"] = 32;
  EXPECT_EQ(parsed(json).config.n_layers, 3);
  json["hidden_size"] = 64;
  expect_has(refusal(json), "hidden_size is 64 and n_embd 32, which are two names of one value");
}

TEST_F(HfConfigTest, PlainRopeUnderAnyName) {
  const auto theta = [&](const Json& rope) {
    Json json = without(Architecture::llama, "rope_theta");
    json.update(rope);
    return parsed(json).config.rope_theta;
  };
  EXPECT_EQ(theta({{"rope_theta", 500000}, {"rope_parameters", {{"rope_type", "default"}}}}), 500000);
  EXPECT_EQ(theta({{"rope_theta", 500000}, {"rope_parameters", nullptr}}), 500000);
  EXPECT_EQ(theta({{"rope_theta", 500000}, {"rope_scaling", {{"rope_type", "default"}}}}), 500000);
  EXPECT_EQ(theta({{"rope_theta", 500000}, {"rope_scaling", {{"type", "default"}}}}), 500000);
  EXPECT_EQ(theta({{"rope_theta", 500000}, {"rope_scaling", Json::object()}}), 500000);
  EXPECT_EQ(theta({{"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 700.0}}}}), 700);
  EXPECT_EQ(theta({{"rope_scaling", {{"rope_type", "default"}, {"rope_theta", 700.0}}}}), 700);
  EXPECT_EQ(theta({{"rope_theta", 700}, {"rope_parameters", {{"rope_theta", 700.0}}}}), 700);
  EXPECT_EQ(theta({{"rope_parameters", {{"rope_type", "default"}, {"partial_rotary_factor", 1.0}}}}), 10000);
}

TEST_F(HfConfigTest, AnyOtherRopeIsRefused) {
  const auto refused = [&](const Json& rope) {
    Json json = configs_.at(Architecture::mistral);  // rope_theta 10000
    json.update(rope);
    return refusal(json);
  };
  const Json linear = {{"type", "linear"}, {"factor", 2.0}};
  expect_has(refused({{"rope_parameters", linear}}),
             "config.json: rope_parameters.type is \"linear\"; only models with plain rope can be imported");
  expect_has(refused({{"rope_scaling", linear}}), "rope_scaling.type is \"linear\"");
  expect_has(refused({{"rope_parameters", {{"rope_type", "default"}, {"factor", 2.0}}}}),
             "rope_parameters.factor is 2.0; only");
  expect_has(refused({{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}}),
             "rope_parameters.full_attention is {\"rope_type\":\"default\"}; only");
  expect_has(refused({{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}),
             "rope_parameters.partial_rotary_factor is 0.5; only");
  expect_has(refused({{"rope_parameters", {{"rope_theta", 700.0}}}}),
             "rope_theta is 700, but rope_theta 10000");
  expect_has(refused({{"rope_parameters", {{"rope_theta", -1}}}}),
             "rope_parameters.rope_theta is -1; it must");
}

TEST_F(HfConfigTest, LayersAreAllAlike) {
  const Json full = {"full_attention", "full_attention"},
             sliding = {"sliding_attention", "sliding_attention"};
  EXPECT_EQ(parsed(with(Architecture::llama, "layer_types", full)).config.n_layers, 2);
  EXPECT_EQ(parsed(with(Architecture::mistral, "layer_types", sliding)).sliding_window, 12);
  expect_has(refusal(with(Architecture::llama, "layer_types", sliding)),
             "layer_types has \"sliding_attention\", but LlamaForCausalLM has full_attention in every layer");
  expect_has(
      refusal(with(Architecture::mistral, "layer_types", {"sliding_attention", "full_attention"})),
      "layer_types has \"full_attention\", but MistralForCausalLM has sliding_attention in every layer");
}

TEST_F(HfConfigTest, AnotherClassOfTheArchitectureIsRefused) {
  expect_has(refusal(with(Architecture::llama, "architectures", {"LlamaForSequenceClassification"})),
             "architectures has \"LlamaForSequenceClassification\"; only LlamaForCausalLM can be imported");
  EXPECT_EQ(parsed(with(Architecture::llama, "architectures", {"LlamaModel"})).config.n_layers, 2);
  EXPECT_EQ(parsed(without(Architecture::gpt2, "architectures")).config.n_layers, 2);
  Json biased = with(Architecture::llama, "attention_bias", true);
  biased["mlp_bias"] = true;
  biased["pretraining_tp"] = 2;
  expect_has(refusal(biased), "pretraining_tp is 2; with biases only 1 can be imported");
  EXPECT_FALSE(parsed(with(Architecture::llama, "pretraining_tp", 2)).config.bias);
}

TEST_F(HfConfigTest, ATiedHeadMayNotBeAnotherOne) {
  const fs::path folder = exported(kLlama + ", tied_embeddings: true");
  Tensor head;
  change_weights(folder, [&](std::vector<TensorToWrite>& list) {
    head = list[0].make().clone();
    list.push_back({"lm_head.weight", head.shape(), [&] { return head; }});
  });
  import_back(folder);
  fs::remove(path("back.h5"));
  head.data<float>()[5] += 1;
  change_weights(folder, [&](std::vector<TensorToWrite>& list) { list.back().make = [&] { return head; }; });
  expect_has(error_text(ErrorKind::data, [&] { import_back(folder); }),
             "tie_word_embeddings is true, but lm_head.weight has other values than the embedding");
  EXPECT_FALSE(fs::exists(path("back.h5")));
}

}  // namespace
}  // namespace filigree
