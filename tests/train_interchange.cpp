// Export and import: what comes back is what went out, and what cannot be expressed is refused by name. That
// transformers computes the same from these folders is for tests/peers/check_transformers.py.
#include <sys/resource.h>

#include <csignal>

#include "data/bpe_model.h"
#include "tests/bpe_helpers.h"
#include "tests/interchange_fixture.h"

namespace filigree {
namespace {

struct RoundTrip {
  std::string model, pattern;
  Architecture architecture;
  bool exact;
};

const RoundTrip kRoundTrips[] = {
    {kGpt2, "{full: {}}", Architecture::gpt2, true},
    {kGpt2 + ", tied_embeddings: false, activation: gelu", "{full: {}}", Architecture::gpt2, true},
    {kGpt2 + ", activation: silu, dropout: 0.125, norm_eps: 1e-3", "{full: {}}", Architecture::gpt2, true},
    {kGpt2 + ", max_seq_len: 64", "{local: {window: 64}}", Architecture::gpt2, true},
    {kGpt2, "{local: {window: 12}}", Architecture::gpt2, false},
    {kLlama, "{full: {}}", Architecture::llama, true},
    {kLlama + ", n_kv_heads: 2, rope_theta: 500", "{full: {}}", Architecture::llama, true},
    {kLlama + ", bias: true, tied_embeddings: true, head_dim: 6", "{full: {}}", Architecture::llama, true},
    {kLlama + ", n_kv_heads: 1", "{local: {window: 12}}", Architecture::mistral, true},
    {kLlama + ", bias: true", "{local: {window: 12}}", Architecture::llama, false},
    {kLlama, "{local: {window: 12, dilation: 2}}", Architecture::llama, false},
    {kLlama, kLayers, Architecture::llama, false},
};

TEST_F(InterchangeTest, ExportImportExportIsTheSameBytes) {
  for (const RoundTrip& c : kRoundTrips) {
    SCOPED_TRACE(c.model + " " + c.pattern);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const char* name : {"one", "two"}) fs::remove_all(path(name));
      const fs::path made = checkpoint(c.model, c.pattern);
      const ExportResult result = export_model(made, path("one"), dtype);
      EXPECT_EQ(result.architecture, c.architecture);
      EXPECT_EQ(result.warning.empty(), c.exact);
      EXPECT_EQ(fs::exists(path("one") / "README.md"), !c.exact);
      const ImportResult back = import_back(path("one"));
      EXPECT_EQ(back.tokenizer, "byte");
      EXPECT_EQ(back.notes, std::vector<std::string>());
      export_model(path("back.h5"), path("two"), dtype);
      expect_same_files(path("one"), path("two"));

      const CheckpointContents before = read_checkpoint(made), after = read_checkpoint(path("back.h5"));
      EXPECT_EQ(after.tokenizer_json, make_tokenizer("byte")->to_json());
      EXPECT_EQ(back.config.model, parse_config(parse_yaml(before.config_yaml, "c")).model);
      ASSERT_EQ(before.weights.size(), after.weights.size());
      for (std::size_t i = 0; i < before.weights.size(); ++i) {
        EXPECT_EQ(before.weights[i].first, after.weights[i].first);
        const Tensor rounded = before.weights[i].second.to(dtype).to(DType::f32);
        EXPECT_TRUE(same_bits(rounded, after.weights[i].second)) << before.weights[i].first;
      }
    }
  }
}

TEST_F(InterchangeTest, AnImportedModelSeesWhatItSawBefore) {
  for (const std::string pattern : {"{full: {}}", "{local: {window: 12}}", kLayers.c_str()}) {
    for (const std::string& model : {kGpt2, kLlama}) {
      const fs::path folder = exported(model, pattern);
      const ImportResult back = import_back(folder);
      EXPECT_EQ(back.config.data.seq_len, 48);
      EXPECT_EQ(to_yaml(back.config.pattern), to_yaml(parse_yaml(pattern, "p")));
    }
  }
}

// --- transformers' names and shapes ---

Tensor weight(const CheckpointContents& contents, const std::string& name) {
  for (const auto& [known, tensor] : contents.weights)
    if (known == name) return tensor;
  ADD_FAILURE() << "there is no " << name;
  return Tensor::zeros({1});
}

TEST_F(InterchangeTest, Gpt2WeightsAreTransposed) {
  const fs::path folder = exported(kGpt2);
  const CheckpointContents made = read_checkpoint(path("made.h5"));
  const SafetensorsFolder weights(folder);
  EXPECT_EQ(weights.names().size(), 2 + 2 * 12 + 2u);
  EXPECT_FALSE(weights.has("lm_head.weight"));
  std::vector<float> theirs(32 * 96);
  weights.read("transformer.h.1.attn.c_attn.weight", {32, 96}, theirs.data());
  const Tensor ours = weight(made, "blocks.1.attention.qkv.weight");
  for (std::int64_t in = 0; in < 32; ++in)
    for (std::int64_t out = 0; out < 96; ++out)
      ASSERT_EQ(theirs[static_cast<std::size_t>(in * 96 + out)], ours.data<float>()[out * 32 + in]);
}

TEST_F(InterchangeTest, LlamaQueriesKeysAndValuesAreRowsOfOurs) {
  const fs::path folder = exported(kLlama + ", n_kv_heads: 2");
  const CheckpointContents made = read_checkpoint(path("made.h5"));
  const SafetensorsFolder weights(folder);
  EXPECT_EQ(weights.names().size(), 1 + 2 * 9 + 2u);
  std::vector<float> rows;
  for (const auto& [letter, out] : {std::pair('q', 32), {'k', 16}, {'v', 16}}) {
    std::vector<float> part(static_cast<std::size_t>(out) * 32);
    weights.read(fmt::format("model.layers.0.self_attn.{}_proj.weight", letter), {out, 32}, part.data());
    rows.insert(rows.end(), part.begin(), part.end());
  }
  EXPECT_TRUE(std::ranges::equal(rows, weight(made, "blocks.0.attention.qkv.weight").values<float>()));
}

TEST_F(InterchangeTest, ConfigsSayWhatTransformersNeeds) {
  const Json gpt2 =
      Json::parse(slurp(exported(kGpt2 + ", activation: gelu, max_seq_len: 99") / "config.json"));
  EXPECT_EQ(gpt2["architectures"], Json({"GPT2LMHeadModel"}));
  EXPECT_EQ(gpt2["activation_function"], "gelu");
  EXPECT_EQ(gpt2["n_positions"], 99);
  EXPECT_EQ(gpt2["eos_token_id"], 256);
  EXPECT_FALSE(gpt2.contains("filigree"));
  const Json mistral = Json::parse(slurp(exported(kLlama, "{local: {window: 12}}") / "config.json"));
  EXPECT_EQ(mistral["architectures"], Json({"MistralForCausalLM"}));
  EXPECT_EQ(mistral["sliding_window"], 12);
  EXPECT_EQ(mistral["torch_dtype"], "float32");
  const Json sparse = Json::parse(slurp(exported(kLlama, kLayers) / "config.json"));
  EXPECT_EQ(sparse["architectures"], Json({"LlamaForCausalLM"}));
  EXPECT_EQ(sparse["filigree"]["layouts"], Json({"layout_0.h5", "layout_1.h5"}));
  expect_has(sparse["filigree"]["note"], "no architecture with this pattern");
}

TEST_F(InterchangeTest, ASharedLayoutIsWrittenOnce) {
  const fs::path folder = exported(kGpt2, "{local: {window: 12}}");
  const Json json = Json::parse(slurp(folder / "config.json"));
  EXPECT_EQ(json["filigree"]["layouts"], Json({"layout.h5", "layout.h5"}));
  const TileLayout layout = load_layout((folder / "layout.h5").string());
  EXPECT_EQ(layout.n_queries(), 48);
  EXPECT_TRUE(layout.allows(0, 20, 9));
  EXPECT_FALSE(layout.allows(0, 20, 8));
}

TEST_F(InterchangeTest, WithoutATokenizerIdsAreNull) {
  export_model(checkpoint(kLlama, "{full: {}}", ""), path("out"), DType::f32);
  EXPECT_FALSE(fs::exists(path("out") / "tokenizer.json"));
  EXPECT_FALSE(fs::exists(path("out") / "generation_config.json"));
  EXPECT_TRUE(Json::parse(slurp(path("out") / "config.json"))["bos_token_id"].is_null());
  const ImportResult back = import_back(path("out"));
  EXPECT_EQ(back.tokenizer, "");
  expect_has(back.notes.at(0), "tokenizer.json is not there: the model knows ids only");
}

// --- what cannot be exported ---

TEST_F(InterchangeTest, ModelsThatTransformersLacksAreRefusedByKey) {
  const std::string alibi = export_error(kGpt2 + ", positions: alibi");
  expect_has(alibi, "as GPT-2 it would need model.positions: learned (not alibi)");
  expect_has(alibi,
             "as Llama model.norm: rms_norm (not layer_norm), model.positions: rope (not alibi), "
             "model.activation: swiglu (not gelu_tanh)");
  expect_has(export_error(kGpt2 + ", positions: none"), "model.positions: learned (not none)");
  expect_has(export_error(kGpt2 + ", bias: false"), "model.bias: true (not false)");
  expect_has(export_error(kGpt2 + ", n_kv_heads: 2"), "model.n_kv_heads: 4 (not 2)");
  expect_has(export_error(kGpt2 + ", head_dim: 16"), "model.head_dim: dim / n_heads (not 16)");
  expect_has(export_error(kGpt2 + ", activation: swiglu"), "model.activation: gelu_tanh (not swiglu)");
  expect_has(export_error(kLlama + ", activation: gelu"), "as Llama model.activation: swiglu (not gelu)");
  expect_has(export_error("type: encoder_mlm"), "a model of type encoder_mlm cannot be exported");
}

TEST_F(InterchangeTest, AFolderWithSomethingInItIsLeftAlone) {
  const fs::path made = checkpoint(kGpt2);
  spill(path("file"), "x");
  expect_has(error_text(ErrorKind::usage, [&] { export_model(made, path("file"), DType::f32); }),
             "is there already");
  fs::create_directories(path("full") / "sub");
  expect_has(error_text(ErrorKind::usage, [&] { export_model(made, path("full"), DType::f32); }),
             "is there already");
  fs::create_directories(path("empty"));
  export_model(made, path("empty/"), DType::f32);
  EXPECT_TRUE(fs::exists(path("empty") / "model.safetensors"));
  export_model(made, path("new/deep"), DType::f32);
  EXPECT_TRUE(fs::exists(path("new/deep") / "model.safetensors"));
}

TEST_F(InterchangeTest, AFullDiskLeavesNothingBehind) {
  const fs::path made = checkpoint(kGpt2);
  const int status = wait_status(start_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{50'000, 50'000};  // enough for all but the weights
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      export_model(made, path("out"), DType::f32);
    } catch (const Error& e) {
      return e.exit_code();
    }
    return 0;
  }));
  EXPECT_EQ(WEXITSTATUS(status), static_cast<int>(ErrorKind::disk));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_.path()), {}), 1)
      << "something is left beside made.h5";
}

// --- what cannot be imported ---

TEST_F(InterchangeTest, ConfigsThatAskForMoreAreRefusedByKey) {
  const fs::path gpt2 = exported(kGpt2);
  fs::rename(gpt2, path("gpt2"));
  const fs::path llama = exported(kLlama);
  struct Refusal {
    const char* folder;
    const char* key;
    Json value;
    const char* message;
  };
  const Refusal refusals[] = {
      {"gpt2", "model_type", "bert",
       "config.json: model_type is \"bert\"; gpt2, llama and mistral can be imported"},
      {"gpt2", "model_type", 5, "model_type is 5; it must be a text"},
      {"gpt2", "activation_function", "relu", "activation_function is \"relu\"; it must be gelu_new"},
      {"gpt2", "scale_attn_weights", false, "scale_attn_weights is false; only true"},
      {"gpt2", "scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx is true"},
      {"gpt2", "add_cross_attention", true, "add_cross_attention is true"},
      {"gpt2", "n_embd", nullptr, "n_embd is missing"},
      {"gpt2", "n_embd", -32, "n_embd is -32; it must be an integer from 1"},
      {"gpt2", "n_embd", 32.5, "n_embd is 32.5; it must be an integer"},
      {"gpt2", "n_layer", ~0ull, "n_layer is 18446744073709551615; it must be"},
      {"gpt2", "n_layer", 1 << 29, "model.n_layers must be between 1 and 10000"},
      {"gpt2", "n_head", 5, "n_head must divide n_embd"},
      {"gpt2", "n_positions", 9,
       "tensor transformer.wpe.weight is [48, 32], but config.json asks for [9, 32]"},
      {"gpt2", "vocab_size", 300, "transformer.wte.weight is [260, 32], but config.json asks for [300, 32]"},
      {"gpt2", "resid_pdrop", 1.5, "resid_pdrop is 1.5; it must be a number in [0, 1)"},
      {"gpt2", "layer_norm_epsilon", 0, "layer_norm_epsilon is 0; it must be a positive number"},
      {"gpt2", "quantization_config", Json::object(), "quantization_config is given"},
      {"out", "hidden_act", "gelu", "hidden_act is \"gelu\"; only \"silu\" can be imported"},
      {"out", "rope_scaling", {{"rope_type", "llama3"}}, "rope_scaling.rope_type is \"llama3\"; only models"},
      {"out", "rope_parameters", {{"rope_type", "yarn"}}, "rope_parameters.rope_type is \"yarn\""},
      {"out", "rope_parameters", 3, "rope_parameters is not an object"},
      {"out", "partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5; only 1.0"},
      {"out", "attention_bias", true, "attention_bias is true and mlp_bias false"},
      {"out", "num_key_value_heads", 3, "model.n_kv_heads must divide model.n_heads: 4 / 3 leaves 1"},
      {"out", "head_dim", 7, "head_dim 7 must be even"},
      {"out", "head_dim", 4096, "head dimension must be at most"},
      {"out", "tie_word_embeddings", "yes", "tie_word_embeddings is \"yes\"; it must be true or false"},
      {"out", "filigree", {{"pattern", "{locl: {window: 3}}"}, {"seq_len", 48}}, "did you mean 'local'"},
      {"out", "filigree", {{"pattern", "{full: {}}"}, {"tile", "x"}}, "filigree.tile is \"x\""},
      {"out", "filigree", {{"pattern", "{full: {}}"}, {"tile", 17}, {"seq_len", 48}}, "tile must be one of"},
      {"out", "filigree", {{"pattern", 5}}, "filigree.pattern is 5"},
      {"out", "filigree", {{"pattern", "{full: {}}"}, {"seq_len", 0}}, "filigree.seq_len is 0"},
  };
  for (const Refusal& r : refusals) {
    SCOPED_TRACE(fmt::format("{}: {}", r.folder, r.key));
    expect_has(config_error(path(r.folder), [&](Json& json) { json[r.key] = r.value; }), r.message);
  }
  spill(llama / "config.json", R"({"a": 1, "a": 2})");
  expect_has(error_text(ErrorKind::data, [&] { import_back(llama); }), "the key \"a\" comes twice");
  spill(llama / "config.json", "{\"rope_scaling\": " + std::string(1'000'000, '['));
  expect_has(error_text(ErrorKind::data, [&] { import_back(llama); }), "nested deeper than 32");
  spill(llama / "config.json", "[1]");
  expect_has(error_text(ErrorKind::data, [&] { import_back(llama); }), "is not a JSON object");
  fs::remove(llama / "config.json");
  expect_has(error_text(ErrorKind::data, [&] { import_back(llama); }), "config.json: cannot be read");
}

TEST_F(InterchangeTest, MutatedConfigsAreReadOrRefused) {
  const fs::path folder = exported(kLlama, kLayers);
  const std::string good = slurp(folder / "config.json");
  RandomStream random(test_seed());
  for (int i = 0; i < 100; ++i) {
    std::string bytes = good;
    const std::size_t at = random.below(static_cast<std::uint32_t>(bytes.size()));
    if (random.below(2))
      bytes[at] = "0123456789[]{}\",:-.e"[random.below(20)];
    else
      bytes.erase(at, 1 + random.below(30));
    spill(folder / "config.json", bytes);
    try {
      import_back(folder);
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::data) << e.what() << "\n" << bytes;
      expect_has(e.what(), "out");
    }
  }
}

TEST_F(InterchangeTest, WeightsThatDoNotFitTheConfigAreRefusedByName) {
  using List = std::vector<TensorToWrite>;
  const Tensor some = Tensor::zeros({3});
  expect_has(weights_error([](List& list) { list.erase(list.begin() + 4); }),
             "tensor model.layers.0.self_attn.v_proj.weight is missing");
  expect_has(weights_error([&](List& list) {
               list.push_back({"model.layers.2.extra", {3}, [some] { return some; }});
             }),
             "tensor \"model.layers.2.extra\" is not one of LlamaForCausalLM | the model has more to it");
  expect_has(weights_error([&](List& list) {
               list[1] = {list[1].name, {3}, [some] { return some; }};
             }),
             "tensor model.layers.0.input_layernorm.weight is [3], but config.json asks for [32]");
  fs::remove(path("out") / "model.safetensors");
  expect_has(error_text(ErrorKind::data, [&] { import_back(path("out")); }), "there is no model.safetensors");
}

TEST_F(InterchangeTest, ConstantsOfOldFilesAndNamesWithoutAPrefixAreRead) {
  const fs::path folder = exported(kGpt2);
  change_weights(folder, [](std::vector<TensorToWrite>& list) {
    for (TensorToWrite& t : list) t.name = t.name.substr(std::string("transformer.").size());
    const Tensor mask = Tensor::zeros({1, 1, 8, 8});
    list.push_back({"h.0.attn.bias", {1, 1, 8, 8}, [mask] { return mask; }});
  });
  import_back(folder);
  const CheckpointContents before = read_checkpoint(path("made.h5")),
                           after = read_checkpoint(path("back.h5"));
  for (std::size_t i = 0; i < before.weights.size(); ++i)
    EXPECT_TRUE(same_bits(before.weights[i].second, after.weights[i].second)) << before.weights[i].first;
}

TEST_F(InterchangeTest, KeysThatAreAbsentHaveTheirClassesValues) {
  const fs::path folder = exported(kLlama);
  const Json json = Json::parse(slurp(folder / "config.json"));
  Json less = json;
  for (const char* key :
       {"head_dim", "num_key_value_heads", "tie_word_embeddings", "attention_bias", "mlp_bias"})
    less.erase(key);
  less.erase("rope_theta");
  less["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 777.0}};
  less["rms_norm_eps"] = nullptr;
  less["max_position_embeddings"] = nullptr;
  spill(folder / "config.json", less.dump());
  const ModelConfig model = import_back(folder).config.model;
  EXPECT_EQ(model.head_dim, 8);
  EXPECT_EQ(model.n_kv_heads, 4);
  EXPECT_EQ(model.rope_theta, 777.0);
  EXPECT_EQ(model.norm_eps, 1e-6);
  EXPECT_EQ(model.max_seq_len, 2048);
  EXPECT_FALSE(model.tied_embeddings);
}

TEST_F(InterchangeTest, ATokenizerThatOursDoesNotReadIsNamedAndLeft) {
  const fs::path folder = exported(kLlama);
  spill(folder / "tokenizer.json", R"({"version": "1.0", "model": {"type": "Unigram", "vocab": []}})");
  const ImportResult back = import_back(folder);
  EXPECT_EQ(back.tokenizer, "");
  expect_has(back.notes.at(0), "the tokenizer is left behind, the model knows ids only: ");
  expect_has(back.notes.at(0), "tokenizer.json");
}

TEST_F(InterchangeTest, ATrainedTokenizerIsTakenAlong) {
  vocab_size_ = 270;
  const fs::path folder = exported(kLlama);
  const std::string json =
      write_tokenizer_json(make_model({"t h", "th e"}, Splitting::gpt2, {{"<|endoftext|>", 0, true, false}}));
  spill(folder / "tokenizer.json", json);
  Json config = Json::parse(slurp(folder / "config.json"));
  config["bos_token_id"] = config["eos_token_id"] = 258;
  spill(folder / "config.json", config.dump());
  EXPECT_TRUE(import_back(folder).tokenizer.starts_with("bpe:"));
  export_model(path("back.h5"), path("two"), DType::f32);
  EXPECT_EQ(slurp(path("two") / "tokenizer.json"), json);
  EXPECT_EQ(Json::parse(slurp(path("two") / "config.json"))["eos_token_id"], 258);
  EXPECT_EQ(Json::parse(slurp(path("two") / "tokenizer_config.json"))["eos_token"], "<|endoftext|>");
}

TEST_F(InterchangeTest, ATokenizerLargerThanTheVocabularyIsRefused) {
  vocab_size_ = 257;
  const fs::path folder = exported(kLlama);
  expect_has(error_text(ErrorKind::data, [&] { import_back(folder); }),
             "tokenizer.json: has 258 tokens, but config.json a vocab_size of 257");
}

// --- the commands, and runs that begin with a model's weights ---

class InterchangeRunTest : public RunTest {
 protected:
  InterchangeRunTest() {
    write("dense.yaml", fmt::format("extends: config.yaml\npattern: {{full: {{}}}}\n"));
    const Outcome outcome = run({"train", "dense.yaml", "train.steps=4", "train.out=dense"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  }
  // Trains one step that changes nothing.
  Outcome start_from(const std::string& from, std::vector<std::string> more = {}) {
    std::vector<std::string> arguments = {"train",         "config.yaml",    "train.init_from=" + from,
                                          "train.steps=1", "train.lr=1e-30", "train.out=tuned"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
};

TEST_F(InterchangeRunTest, ADenseModelGoesOnAsASparseOne) {
  ASSERT_EQ(run({"export", "dense", "-o", "hf"}).output,
            "hf: GPT2LMHeadModel with 35264 parameters in fp32\n");
  const Outcome imported =
      run({"import", "hf", "-o", "hf.h5", "--pattern", "{local: {window: 8}}", "--seq-len", "32"});
  ASSERT_EQ(imported.output,
            "hf.h5: GPT2LMHeadModel with 35264 parameters, tokenizer byte\n"
            "pattern   local: {window: 8} on 32 tokens\n");
  const Outcome evaluated = run({"eval", "hf.h5", "--data", "text"});
  EXPECT_EQ(evaluated.exit_code, 0) << evaluated.output;
  EXPECT_EQ(run({"generate", "hf.h5", "--prompt", "tile", "--tokens", "5"}).exit_code, 0);

  const Outcome tuned = start_from("hf.h5");
  ASSERT_EQ(tuned.exit_code, 0) << tuned.output;
  expect_has(tuned.output, "start     from the weights of hf.h5");
  expect_has(slurp(path("tuned") / "config.yaml"), "init_from: hf.h5");
  const CheckpointContents dense = read_checkpoint(find_checkpoint(path("dense")));
  const CheckpointContents sparse = read_checkpoint(path("tuned/checkpoints/step_000001.h5"));
  ASSERT_EQ(dense.weights.size(), sparse.weights.size());
  for (std::size_t i = 0; i < dense.weights.size(); ++i)
    EXPECT_TRUE(same_bits(dense.weights[i].second, sparse.weights[i].second)) << dense.weights[i].first;
}

TEST_F(InterchangeRunTest, OnlyTheFirstStepNeedsTheFirstWeights) {
  ASSERT_EQ(start_from("dense", {"train.steps=3", "train.lr=1e-3", "checkpoint.interval=1"}).exit_code, 0);
  fs::remove_all(path("dense"));
  const Outcome resumed =
      start_from("dense", {"train.steps=3", "train.lr=1e-3", "checkpoint.interval=1", "train.out=again",
                           "--resume", "tuned/checkpoints/step_000002.h5"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.output;
  expect_same(path("tuned/checkpoints/step_000003.h5"), path("again/checkpoints/step_000003.h5"));
}

TEST_F(InterchangeRunTest, AnotherModelIsRefusedBeforeAnythingIsWritten) {
  const auto refused = [&](const std::vector<std::string>& more) {
    const Outcome outcome = start_from("dense", more);
    EXPECT_NE(outcome.exit_code, 0);
    EXPECT_FALSE(fs::exists(path("tuned") / "checkpoints"));
    return outcome.output;
  };
  expect_has(refused({"model.n_layers=3"}), "the config is for another model than ");
  expect_has(refused({"model.n_layers=3"}), "model.n_layers: 3 / 2");
  expect_has(refused({"model.n_layers=3", "--dry-run"}), "model.n_layers: 3 / 2");
  expect_has(refused({"model.max_seq_len=99"}), "model.max_seq_len: 99 / 48");
  const Outcome none = start_from("nowhere");
  EXPECT_EQ(none.exit_code, 3);
  expect_has(none.output, "nowhere");
}

TEST_F(InterchangeRunTest, MistakesOfTheCommandLine) {
  const Outcome outcome = run({"export", "dense", "-o", "x", "--dtype", "fp16"});
  EXPECT_EQ(outcome.exit_code, 2);
  expect_has(outcome.output, "fp16");
  EXPECT_EQ(run({"export", "nowhere", "-o", "x"}).exit_code, 3);
  EXPECT_EQ(run({"import", "nowhere", "-o", "x.h5"}).exit_code, 3);
  ASSERT_EQ(run({"export", "dense", "-o", "hf"}).exit_code, 0);
  const Outcome pattern = run({"import", "hf", "-o", "x.h5", "--pattern", "{locl: {window: 3}}"});
  EXPECT_EQ(pattern.exit_code, 2);
  expect_has(pattern.output, "did you mean 'local'");
  const Outcome whole = run({"import", "hf", "-o", "x.h5", "--pattern", "config.yaml"});
  EXPECT_EQ(whole.exit_code, 2);
  expect_has(whole.output, "config.yaml is a whole config");
  const Outcome longer = run({"import", "hf", "-o", "x.h5", "--seq-len", "49"});
  EXPECT_EQ(longer.exit_code, 2);
  expect_has(longer.output, "model.max_seq_len must be at least data.seq_len (49), not 48");
}

}  // namespace
}  // namespace filigree
