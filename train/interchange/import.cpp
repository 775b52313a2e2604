#include "train/interchange/import.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/file.h"
#include "data/tokenizer.h"
#include "layers/transformer.h"
#include "train/config/layouts.h"
#include "train/interchange/json_file.h"
#include "train/interchange/safetensors.h"
#include "train/interchange/safetensors_header.h"
#include "train/interchange/tokenizer_files.h"
#include "train/record/checkpoint.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kLongestDefault = 4096;

// --- the config ---

// The pattern that names layouts by their sums, one for each layer.
YamlNode pattern_of_layouts(const std::vector<std::string>& sums) {
  const auto block = [](const std::string& sum) {
    YamlNode body = YamlNode::make_map().add("layout", YamlNode::make(sum));
    return YamlNode::make_map().add("block", std::move(body));
  };
  if (std::ranges::adjacent_find(sums, std::ranges::not_equal_to()) == sums.end()) return block(sums[0]);
  YamlNode layers = YamlNode::make_sequence();
  for (std::size_t i = 0; i < sums.size(); ++i)
    layers.items.push_back(YamlNode::make_map()
                               .add("layers", YamlNode::make(static_cast<std::int64_t>(i)))
                               .add("pattern", block(sums[i])));
  return YamlNode::make_map().add("layers", std::move(layers));
}

// The layouts of the folder go into the checkpoint.
YamlNode take_layouts(const fs::path& folder, const HfModel& model, const std::string& origin,
                      NamedTensors& layouts) {
  const std::vector<std::string>& names = model.exported->layouts;
  if (std::ssize(names) != model.config.n_layers)
    throw Error(ErrorKind::data,
                fmt::format("{}: filigree.layouts names {} files for {} layers", origin, names.size(),
                            model.config.n_layers),
                "its pattern cannot be made without them; name another one with --pattern");
  std::vector<std::string> sums;
  for (const std::string& name : names) {
    if (name.empty() || name != fs::path(name).filename())
      fail(ErrorKind::data, "{}: filigree.layouts has {}, which is no file of the folder", origin,
           shown_name(name));
    const std::string file = read_file(folder / name);
    sums.push_back(hold_layout(file, (folder / name).string()));
    if (std::ranges::find(layouts, sums.back(), &NamedTensors::value_type::first) != layouts.end()) continue;
    Tensor bytes = Tensor::empty({std::ssize(file)}, DType::u8);
    std::memcpy(bytes.raw_data(), file.data(), file.size());
    layouts.emplace_back(sums.back(), bytes);
  }
  return pattern_of_layouts(sums);
}

// What the folder itself says of the pattern.
PatternFile pattern_of(const fs::path& folder, const HfModel& model, const std::string& origin,
                       NamedTensors& layouts) {
  PatternFile file;
  if (model.exported) {
    file.pattern = read_pattern(parse_yaml(model.exported->pattern, origin + ": filigree.pattern"));
    file.tile = model.exported->tile;
    if (learns(file.pattern) || !named_layouts(file.pattern).empty())
      file.pattern = read_pattern(take_layouts(folder, model, origin, layouts));
    return file;
  }
  YamlNode body = YamlNode::make_map();
  if (model.sliding_window) body.add("window", YamlNode::make(*model.sliding_window));
  file.pattern =
      read_pattern(YamlNode::make_map().add(model.sliding_window ? "local" : "full", std::move(body)));
  return file;
}

// A whole config: a checkpoint has one. Its data and train sections say only that nothing was trained here.
YamlNode whole_config(ModelConfig model, const PatternFile& pattern, std::int64_t seq_len) {
  FieldPrinter shape;
  fields(shape, model);
  YamlNode data = YamlNode::make_map(), train = YamlNode::make_map(), root = YamlNode::make_map();
  data.add("train", YamlNode::make("imported"))
      .add("val_fraction", YamlNode::make(0))
      .add("seq_len", YamlNode::make(seq_len));
  train.add("steps", YamlNode::make(1))
      .add("batch_size", YamlNode::make(1))
      .add("lr", YamlNode::make(1e-4))
      .add("schedule", YamlNode::make("constant"))
      .add("out", YamlNode::make("runs/imported"));
  return root.add("pattern", pattern.pattern.written)
      .add("causal", YamlNode::make(pattern.causal))
      .add("tile", YamlNode::make(pattern.tile))
      .add("model", shape.take())
      .add("data", std::move(data))
      .add("train", std::move(train));
}

Config make_config(const ImportRequest& request, const HfModel& model, const std::string& origin,
                   NamedTensors& layouts) {
  std::int64_t seq_len = std::min(model.config.max_seq_len, kLongestDefault);
  if (model.exported && !request.pattern) seq_len = model.exported->seq_len;
  if (request.seq_len > 0) seq_len = request.seq_len;
  try {
    const PatternFile pattern =
        request.pattern ? *request.pattern : pattern_of(request.folder, model, origin, layouts);
    return parse_config(whole_config(model.config, pattern, seq_len));
  } catch (const Error& e) {
    if (request.pattern || request.seq_len > 0) throw;
    throw Error(ErrorKind::data, fmt::format("{}: {}", origin, e.what()), e.hint());
  }
}

// --- the weights ---

using Shapes = std::vector<std::pair<std::string, Shape>>;

// Ours, in the order of visit(), without memory for them.
Shapes parameter_shapes(const ModelConfig& config) {
  Transformer model(config, 0, Device::meta());
  Shapes shapes;
  model.visit([&](Parameter& p) { shapes.emplace_back(p.name, p.var.shape()); });
  return shapes;
}

// Old files have the tensors of the bare model, without the prefix of the one with a head.
std::string stored_name(const SafetensorsFolder& folder, const std::string& name) {
  if (folder.has(name)) return name;
  for (const std::string prefix : {"transformer.", "model."})
    if (name.starts_with(prefix) && folder.has(name.substr(prefix.size()))) return name.substr(prefix.size());
  return name;
}

// What a file may hold beside the parameters: constants that old versions saved.
bool is_ignored(std::string_view name) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with(".rotary_emb.inv_freq");
}

// Everything that can be wrong is found before memory is taken for the weights.
void require_weights(const SafetensorsFolder& folder, const fs::path& path, const HfModel& model) {
  std::set<std::string> used;
  for (const HfTensor& t : hf_tensors(model)) {
    const std::string name = stored_name(folder, t.theirs);
    folder.require_tensor(name, t.stored_shape());
    used.insert(name);
  }
  for (const std::string& name : folder.names())
    if (name == "lm_head.weight" && model.config.tied_embeddings)
      folder.require_tensor(name, {model.config.vocab_size, model.config.dim});
    else if (!used.contains(name) && !is_ignored(name))
      throw Error(ErrorKind::data,
                  fmt::format("{}: tensor {} is not one of {}", path.string(), shown_name(name),
                              architecture_class(model.architecture)),
                  "the model has more to it than filigree computes");
}

// theirs [in, out] -> out [out, in]
void transpose(const std::vector<float>& theirs, const Shape& ours, float* out) {
  const std::int64_t rows = ours[0], columns = ours[1];
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out[r * columns + c] = theirs[c * rows + r];
}

// A tied head may be there once more, but not another one: some versions of transformers would take it.
void require_tied_head(const SafetensorsFolder& folder, const fs::path& path, const Tensor& embedding) {
  constexpr const char* kHead = "lm_head.weight";
  if (!folder.has(kHead)) return;
  Tensor head = Tensor::empty(embedding.shape());
  folder.read(kHead, head.shape(), head.data<float>());
  if (std::memcmp(head.raw_data(), embedding.raw_data(), static_cast<std::size_t>(head.bytes())) != 0)
    throw Error(ErrorKind::data,
                fmt::format("{}: tie_word_embeddings is true, but {} has other values than the embedding",
                            path.string(), kHead),
                "write tie_word_embeddings: false into config.json to use both, or remove the tensor");
}

NamedTensors read_weights(const SafetensorsFolder& folder, const fs::path& path, const HfModel& model,
                          const std::function<void(std::int64_t)>& progress) {
  NamedTensors weights;
  std::map<std::string, Tensor> by_name;
  for (const auto& [name, shape] : parameter_shapes(model.config)) {
    weights.emplace_back(name, Tensor::empty(shape));
    by_name.emplace(name, weights.back().second);
  }
  std::int64_t done = 0;
  for (const HfTensor& t : hf_tensors(model)) {
    Tensor rows = by_name.at(t.ours).slice(t.row, t.row + t.shape[0]);
    const std::string name = stored_name(folder, t.theirs);
    if (t.transposed) {
      std::vector<float> theirs(t.shape.numel());
      folder.read(name, t.stored_shape(), theirs.data());
      transpose(theirs, t.shape, rows.data<float>());
    } else {
      folder.read(name, t.shape, rows.data<float>());
    }
    progress(done += t.shape.numel());
  }
  if (model.config.tied_embeddings) require_tied_head(folder, path, by_name.at("token_embedding.weight"));
  return weights;
}

// --- the tokenizer ---

// Null, with a note of why, where there is none that ours reads: the model then works on ids.
std::shared_ptr<const Tokenizer> tokenizer_of(const fs::path& folder, const ModelConfig& model,
                                              std::vector<std::string>& notes) {
  const fs::path path = folder / "tokenizer.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) {
    notes.push_back(fmt::format("{} is not there: the model knows ids only", path.string()));
    return nullptr;
  }
  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = make_tokenizer("bpe:" + path.string());
  } catch (const Error& e) {
    notes.push_back(fmt::format("the tokenizer is left behind, the model knows ids only: {}", e.what()));
    return nullptr;
  }
  if (tokenizer->vocab_size() > model.vocab_size)
    fail(ErrorKind::data, "{}: has {} tokens, but config.json a vocab_size of {}", path.string(),
         tokenizer->vocab_size(), model.vocab_size);
  return tokenizer;
}

void note_unknown_keys(const HfModel& model, const std::string& origin, std::vector<std::string>& notes) {
  if (model.unknown_keys.empty()) return;
  std::vector<std::string> names;
  for (const std::string& key : model.unknown_keys) names.push_back(shown_name(key));
  notes.push_back(fmt::format("{}: {} does not have these keys, and they are not used: {}", origin,
                              architecture_class(model.architecture), fmt::join(names, ", ")));
}

}  // namespace

ImportResult import_model(const ImportRequest& request,
                          const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const fs::path path = request.folder / "config.json";
  const Json config_json = read_json_object(path);
  const HfModel model = parse_hf_config(config_json, path.string());
  CheckpointContents contents;
  ImportResult result{model.architecture, {}, 0, "", {}};
  result.config = make_config(request, model, path.string(), contents.layouts);
  const SafetensorsFolder folder(request.folder);
  require_weights(folder, request.folder, model);
  note_unknown_keys(model, path.string(), result.notes);
  const auto tokenizer = tokenizer_of(request.folder, model.config, result.notes);
  if (tokenizer) result.tokenizer = tokenizer->name();
  result.config.data.tokenizer = tokenizer_word(result.tokenizer);
  for (const auto& [name, shape] : parameter_shapes(model.config)) result.parameters += shape.numel();
  const std::int64_t bytes = result.parameters * dtype_size(DType::f32);
  require_room(request.output.parent_path(), fmt::format("the checkpoint {}", request.output.string()),
               bytes + kCheckpointOverhead, bytes, "free some space, or choose another disk");

  // Of a training run's state this is what users of a model read.
  const Json state{
      {"step", 0}, {"tokenizer", result.tokenizer}, {"layout_files", layout_files_sum(result.config)}};
  contents.special_tokens_json = read_special_tokens(request.folder, config_json, model).dump();
  contents.weights = read_weights(folder, request.folder, model, [&](std::int64_t done) {
    if (progress) progress(done, result.parameters);
  });
  contents.state_json = state.dump();
  contents.config_yaml = to_yaml(result.config.to_yaml());
  if (tokenizer) contents.tokenizer_json = tokenizer->to_json();
  write_checkpoint(request.output, contents);
  return result;
}

}  // namespace filigree
