// Folders in the format of Hugging Face transformers, made from checkpoints with random weights, and
// imported.
#pragma once

#include <nlohmann/json.hpp>
#include <source_location>

#include "tests/layers_models.h"
#include "tests/run_fixture.h"
#include "train/config/layouts.h"
#include "train/interchange/export.h"
#include "train/interchange/import.h"
#include "train/interchange/safetensors.h"

namespace filigree {

using Json = nlohmann::ordered_json;

inline void expect_has(const std::string& text, const std::string& part,
                       std::source_location at = std::source_location::current()) {
  EXPECT_NE(text.find(part), std::string::npos) << "line " << at.line() << ": " << text;
}

inline const std::string kGpt2 = "preset: gpt2";
inline const std::string kLlama = "preset: llama";
inline const std::string kLayers =
    "{layers: [{layers: 0, pattern: {local: {window: 16}}},"
    " {layers: 1, pattern: {longformer: {window: 8, global: 2}}}]}";

class InterchangeTest : public testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_ / name; }

  // A checkpoint of a model with random weights, whose learned patterns are hardened.
  fs::path checkpoint(const std::string& model, const std::string& pattern = "{full: {}}",
                      const std::string& tokenizer = "byte") {
    const std::string text = fmt::format(
        "pattern: {}\ntile: 16\nmodel: {{dim: 32, n_layers: 2, n_heads: 4, ffn_dim: 40, vocab_size: {}, "
        "{}}}\n"
        "data: {{train: x, val_fraction: 0, seq_len: 48}}\ntrain: {{steps: 1, batch_size: 1, lr: 1}}\n",
        pattern, vocab_size_, model);
    const Config config = parse_config(parse_yaml(text, "test"));
    Transformer parameters(config.model, 1, Device::cpu(), DType::f32, DType::f32, layer_patterns(config));
    Random random(test_seed());
    randomize(parameters, random);
    if (hardened_) harden(parameters, config);
    CheckpointContents contents;
    parameters.visit([&](Parameter& p) { contents.weights.emplace_back(p.name, p.var.value()); });
    contents.patterns = pattern_state(parameters);
    contents.state_json = Json{{"tokenizer", tokenizer}, {"layout_files", layout_files_sum(config)}}.dump();
    contents.config_yaml = to_yaml(config.to_yaml());
    write_checkpoint(path("made.h5"), contents);
    return path("made.h5");
  }
  // Routers choose their tiles on a text first.
  static void harden(Transformer& model, const Config& config) {
    Tensor tokens = Tensor::zeros({1, config.data.seq_len}, DType::i32);
    for (std::int64_t i = 0; i < tokens.numel(); ++i)
      tokens.data<std::int32_t>()[i] = static_cast<std::int32_t>(37 * i % 256);
    const NoGrad no_tape;
    model.advance({config.train.steps, 0.5, 1});  // past the warm-up
    for (const ConnectivityPtr& layer : model.connectivities()) layer->count_choices();
    model.forward({tokens, {}, {}}, {});
    for (const ConnectivityPtr& layer : model.connectivities()) layer->harden();
  }
  fs::path exported(const std::string& model, const std::string& pattern = "{full: {}}") {
    fs::remove_all(path("out"));
    export_model(checkpoint(model, pattern), path("out"), DType::f32);
    return path("out");
  }
  ImportResult import_back(const fs::path& folder) { return import_model({folder, path("back.h5"), {}, 0}); }

  std::string export_error(const std::string& model, const std::string& pattern = "{full: {}}") {
    const fs::path made = checkpoint(model, pattern);
    const std::string text =
        error_text(ErrorKind::usage, [&] { export_model(made, path("refused"), DType::f32); });
    EXPECT_FALSE(fs::exists(path("refused")));
    return text;
  }
  // The error of importing the exported model after `change` of its config.json.
  std::string config_error(const fs::path& folder, const std::function<void(Json&)>& change) {
    const std::string before = slurp(folder / "config.json");
    Json json = Json::parse(before);
    change(json);
    spill(folder / "config.json", json.dump());
    const std::string text = error_text(ErrorKind::data, [&] { import_back(folder); });
    spill(folder / "config.json", before);
    EXPECT_FALSE(fs::exists(path("back.h5")));
    return text;
  }
  // Writes the folder's weights anew after `change` of the list.
  void change_weights(const fs::path& folder,
                      const std::function<void(std::vector<TensorToWrite>&)>& change) {
    std::vector<TensorToWrite> list;
    {
      const SafetensorsFile file(folder / "model.safetensors");
      for (const auto& entry : file.entries()) {
        Tensor tensor = Tensor::empty(Shape(std::span<const std::int64_t>(entry.shape)));
        file.read(entry, tensor.data<float>());
        list.push_back({entry.name, tensor.shape(), [tensor] { return tensor; }});
      }
    }
    change(list);
    write_safetensors(folder / "model.safetensors", list, DType::f32);
  }
  std::string weights_error(const std::function<void(std::vector<TensorToWrite>&)>& change) {
    const fs::path folder = exported(kLlama);
    change_weights(folder, change);
    return error_text(ErrorKind::data, [&] { import_back(folder); });
  }

  static void expect_same_files(const fs::path& a, const fs::path& b) {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(a)) names.push_back(entry.path().filename().string());
    EXPECT_EQ(names.size(), static_cast<std::size_t>(std::distance(fs::directory_iterator(b), {})));
    for (const std::string& name : names) EXPECT_EQ(slurp(a / name), slurp(b / name)) << name;
  }

  TemporaryFolder folder_;
  int vocab_size_ = 260;
  bool hardened_ = true;
};

}  // namespace filigree
