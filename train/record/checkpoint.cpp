#include "train/record/checkpoint.h"

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/build_info.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/hdf5.h"
#include "core/parallel.h"
#include "train/config/tree.h"
#include "train/record/file_kind.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "filigree checkpoint 1";

[[noreturn]] void fail_damaged(const fs::path& path, const std::string& what) {
  throw Error(ErrorKind::data, fmt::format("{}: {}", path.string(), what),
              "the file is damaged or no checkpoint; use an older checkpoint of the run or another copy");
}

DType dtype_from_name(const std::string& name) {
  for (const DType type : kDTypes)
    if (name == dtype_name(type)) return type;
  fail(ErrorKind::data, "unknown element type '{}'", name);
}

std::string environment() {
  Json libraries = Json::object();
  for (const auto& [name, number] : library_versions()) libraries[name] = number;
  return Json{{"filigree", version()}, {"libraries", libraries}, {"threads", n_threads()}}.dump(1);
}

// --- writing ---

// Puts datasets into the file and their sums into the manifest.
class SummedWriter {
 public:
  explicit SummedWriter(const fs::path& path) : writer_(path) {}

  void add(const std::string& path, DType type, const h5::Dims& dims, const void* data, std::int64_t bytes) {
    writer_.dataset(path, type, dims, data);
    manifest_.push_back({{"path", path},
                         {"dtype", dtype_name(type)},
                         {"dims", dims},
                         {"xxh64", hex64(xxhash64(data, static_cast<std::size_t>(bytes)))}});
  }
  void add(const std::string& path, const std::string& text) {
    add(path, DType::u8, {std::ssize(text)}, text.data(), std::ssize(text));
  }
  void add(const std::string& group, const NamedTensors& tensors) {
    for (const auto& [name, tensor] : tensors) {
      check(!name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos,
            "a tensor of a checkpoint needs a name without '/'");
      const Tensor host = tensor.to(Device::cpu());
      const auto dims = host.shape().dims();
      add(group + "/" + name, host.dtype(), h5::Dims(dims.begin(), dims.end()), host.raw_data(),
          host.bytes());
    }
  }
  void commit() {
    const std::string text = manifest_.dump();
    writer_.text("manifest", text);
    writer_.attribute("/", "format", std::string(kFormat));
    writer_.attribute("/", "manifest_sum", hex64(xxhash64(text.data(), text.size())));
    writer_.commit();
  }

 private:
  h5::Writer writer_;
  Json manifest_ = Json::array();
};

constexpr std::array kTensorGroups = {std::pair("weights", &CheckpointContents::weights),
                                      std::pair("optimizer", &CheckpointContents::optimizer),
                                      std::pair("patterns", &CheckpointContents::patterns),
                                      std::pair("layouts", &CheckpointContents::layouts)};

// --- reading ---

h5::Reader open_checkpoint(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path, ignored))
    throw Error(ErrorKind::data, fmt::format("{}: there is no such checkpoint file", path.string()),
                "name a checkpoint such as runs/NAME/checkpoints/best.h5, or the run's folder");
  const FileKind kind = file_kind(path);
  if (kind != FileKind::checkpoint && kind != FileKind::hdf5 && kind != FileKind::unknown)
    throw Error(ErrorKind::data,
                fmt::format("{}: is not a checkpoint but {}", path.string(), kind_text(kind)),
                kind == FileKind::safetensors
                    ? "filigree import makes a checkpoint of a model's folder"
                    : "name a checkpoint such as runs/NAME/checkpoints/best.h5, or the run's folder");
  return h5::Reader(path);
}

std::vector<CheckpointEntry> read_manifest(const h5::Reader& reader, const fs::path& path) {
  if (!reader.has_attribute("/", "format") || reader.string("/", "format") != kFormat)
    fail_damaged(path, fmt::format("is not a checkpoint of this version ('{}')", kFormat));
  const std::string text = reader.text("manifest");
  if (reader.string("/", "manifest_sum") != hex64(xxhash64(text.data(), text.size())))
    fail_damaged(path, "the manifest does not match its checksum");
  std::vector<CheckpointEntry> entries;
  try {
    for (const Json& item : Json::parse(text))
      entries.push_back(
          {item.at("path"), dtype_from_name(item.at("dtype")), item.at("dims"), item.at("xxh64")});
  } catch (const Json::exception& e) {
    fail_damaged(path, fmt::format("the manifest is malformed: {}", e.what()));
  }
  return entries;
}

using Take = std::function<void*(const CheckpointEntry&)>;  // where an entry's bytes are to go

// Reads and verifies every dataset of the manifest into the memory that `take` gives.
void read_verified(const h5::Reader& reader, const fs::path& path,
                   const std::vector<CheckpointEntry>& entries, const Take& take) {
  for (const CheckpointEntry& entry : entries) {
    const h5::DatasetInfo info = reader.info(entry.path);
    if (info.type != entry.dtype || info.dims != entry.dims)
      fail_damaged(path, fmt::format("{} is not of the type and shape that the manifest says", entry.path));
    void* target = take(entry);
    reader.read(entry.path, entry.dtype, info.count(), target);
    const auto bytes = static_cast<std::size_t>(info.count() * dtype_size(entry.dtype));
    if (hex64(xxhash64(target, bytes)) != entry.sum)
      fail_damaged(path, fmt::format("{} does not match its checksum", entry.path));
  }
}

std::int64_t count(const CheckpointEntry& entry) {
  return h5::DatasetInfo{entry.dtype, entry.dims}.count();
}

// The texts of a checkpoint by their dataset path. resize() makes room for an entry that is one of them.
class Texts {
 public:
  void* resize(const CheckpointEntry& entry) {
    std::string& text = texts_[entry.path];
    text.resize(count(entry));
    return text.data();
  }
  std::string take_if_there(const std::string& name) {
    const auto found = texts_.find(name);
    return found == texts_.end() ? "" : std::move(found->second);
  }
  std::string take(const fs::path& path, const std::string& name) {
    const auto found = texts_.find(name);
    if (found == texts_.end()) fail_damaged(path, fmt::format("{} is missing", name));
    return std::move(found->second);
  }

 private:
  std::map<std::string, std::string> texts_;
};

bool is_tensor(const CheckpointEntry& entry, std::string_view group) {
  return entry.path.starts_with(group) && entry.path.size() > group.size() && entry.path[group.size()] == '/';
}

void hold_layouts(const CheckpointContents& contents, const fs::path& path) {
  for (const auto& [sum, bytes] : contents.layouts) {
    const std::string name = fmt::format("{}: layouts/{}", path.string(), sum);
    if (bytes.dtype() != DType::u8) fail_damaged(path, fmt::format("layouts/{} is no file", sum));
    const std::string_view file(static_cast<const char*>(bytes.raw_data()),
                                static_cast<std::size_t>(bytes.bytes()));
    if (hold_layout(file, name) != sum) fail_damaged(path, fmt::format("layouts/{} is another one", sum));
  }
}

// --- comparing ---

std::string first_lines(const std::vector<std::string>& lines) {
  constexpr std::size_t shown = 8;
  const std::vector<std::string> head(
      lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(std::min(shown, lines.size())));
  const std::string more = lines.size() > shown ? fmt::format("; and {} more", lines.size() - shown) : "";
  return fmt::format("{}{}", fmt::join(head, "; "), more);
}

YamlNode model_part(const Config& config) {
  const YamlNode root = config.counted();
  YamlNode part = YamlNode::make_map(), data = YamlNode::make_map();
  for (const char* key : {"pattern", "causal", "model"}) part.add(key, *root.find(key));
  part.find("model")
      ->set("dropout", YamlNode::make(0))
      .set("activation_checkpointing", YamlNode::make(false));
  if (const YamlNode* tokenizer = root.find("data")->find("tokenizer")) data.add("tokenizer", *tokenizer);
  return part.add("data", std::move(data));
}

YamlNode weights_part(const Config& config) {
  YamlNode model = *model_part(config).find("model");
  if (config.model.positions != Positions::learned) model.set("max_seq_len", YamlNode::make(0));
  return YamlNode::make_map().add("model", std::move(model));
}

void require_equal(const YamlNode& config, const YamlNode& saved, const std::string& what,
                   const std::string& origin, const std::string& hint) {
  const std::vector<std::string> lines = differences(config, saved);
  if (!lines.empty())
    throw Error(ErrorKind::usage,
                fmt::format("the config is for another {} than {} (config / checkpoint): {}", what, origin,
                            first_lines(lines)),
                hint);
}

}  // namespace

std::int64_t checkpoint_bytes(const CheckpointContents& contents) {
  std::int64_t bytes = std::ssize(contents.state_json) + std::ssize(contents.config_yaml) +
                       std::ssize(contents.tokenizer_json) + std::ssize(contents.special_tokens_json);
  for (const auto& [group, tensors] : kTensorGroups)
    for (const auto& [name, tensor] : contents.*tensors) bytes += tensor.bytes();
  return bytes;
}

void write_checkpoint(const fs::path& named, const CheckpointContents& contents) {
  const fs::path path = follow_links(named);
  const std::int64_t bytes = checkpoint_bytes(contents);
  require_room(path.parent_path(), fmt::format("the checkpoint {}", path.string()),
               bytes + kCheckpointOverhead, bytes, "free some space; earlier checkpoints are untouched");
  const Unfinished unfinished(path.string() + ".unproven");
  const fs::path& unproven = unfinished.path();
  SummedWriter writer(unproven);
  for (const auto& [group, tensors] : kTensorGroups) writer.add(group, contents.*tensors);
  writer.add("state", contents.state_json);
  writer.add("config", contents.config_yaml);
  if (!contents.tokenizer_json.empty()) writer.add("tokenizer", contents.tokenizer_json);
  if (!contents.special_tokens_json.empty()) writer.add("special_tokens", contents.special_tokens_json);
  writer.add("environment", environment());
  writer.commit();
  try {
    inspect_checkpoint(unproven);
  } catch (const Error& e) {
    std::error_code ignored;
    fs::remove(unproven, ignored);
    throw Error(
        ErrorKind::disk,
        fmt::format("the checkpoint {} does not read back as it was written: {}", path.string(), e.what()),
        "check the disk; earlier checkpoints are untouched");
  }
  rename_durably(unproven, path);
}

CheckpointContents read_checkpoint(const fs::path& path) {
  const h5::Reader reader = open_checkpoint(path);
  const std::vector<CheckpointEntry> entries = read_manifest(reader, path);
  CheckpointContents contents;
  Texts texts;
  read_verified(reader, path, entries, [&](const CheckpointEntry& entry) -> void* {
    for (const auto& [group, tensors] : kTensorGroups) {
      if (!is_tensor(entry, group)) continue;
      if (std::ssize(entry.dims) > Shape::kMaxRank)
        fail_damaged(path, fmt::format("{} has too many dimensions", entry.path));
      NamedTensors& to = contents.*tensors;
      to.emplace_back(entry.path.substr(std::string_view(group).size() + 1),
                      Tensor::empty(Shape(std::span<const std::int64_t>(entry.dims)), entry.dtype));
      return to.back().second.raw_data();
    }
    return texts.resize(entry);
  });
  contents.state_json = texts.take(path, "state");
  contents.config_yaml = texts.take(path, "config");
  contents.environment_json = texts.take(path, "environment");
  contents.tokenizer_json = texts.take_if_there("tokenizer");
  contents.special_tokens_json = texts.take_if_there("special_tokens");
  hold_layouts(contents, path);
  return contents;
}

std::shared_ptr<const Tokenizer> read_tokenizer(const CheckpointContents& contents,
                                                const std::string& origin) {
  const auto state = Json::parse(contents.state_json, nullptr, false);
  if (!state.is_object() || !state.contains("tokenizer") || !state["tokenizer"].is_string())
    fail(ErrorKind::data, "{}: its state is not one of a training run", origin);
  const auto name = state["tokenizer"].get<std::string>();
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!contents.tokenizer_json.empty())
    tokenizer = tokenizer_from_json(contents.tokenizer_json, origin + ": tokenizer");
  else if (name == "byte")
    tokenizer = make_tokenizer(name);  // a checkpoint from before they held their tokenizer
  if (tokenizer && tokenizer->name() != name)
    fail_damaged(origin, fmt::format("it holds the tokenizer {} instead of {}", tokenizer->name(), name));
  return tokenizer;
}

TrainedOn trained_on(const std::string& state_json, const std::string& origin) {
  try {
    const Json state = Json::parse(state_json);
    return {state.value("data", ""), state.value("validation", ""),
            state.value("classes", std::vector<std::string>{})};
  } catch (const Json::exception& e) {
    fail(ErrorKind::data, "{}: its state is not one of a training run ({})", origin, e.what());
  }
}

const std::vector<std::string>& class_names(const TrainedOn& trained_on, const std::string& origin) {
  if (trained_on.classes.empty())
    throw Error(
        ErrorKind::data,
        fmt::format("{} does not tell the names of its classes, by which folders are matched: an older "
                    "version of filigree made it",
                    origin),
        "without other data it can be evaluated and resumed; a new run keeps the names");
  return trained_on.classes;
}

std::string read_state(const fs::path& path) {
  const h5::Reader reader = open_checkpoint(path);
  std::vector<CheckpointEntry> entries = read_manifest(reader, path);
  std::erase_if(entries, [](const CheckpointEntry& entry) { return entry.path != "state"; });
  Texts texts;
  read_verified(reader, path, entries, [&](const CheckpointEntry& entry) { return texts.resize(entry); });
  return texts.take(path, "state");
}

CheckpointInfo inspect_checkpoint(const fs::path& path) {
  const h5::Reader reader = open_checkpoint(path);
  CheckpointInfo info;
  info.entries = read_manifest(reader, path);
  std::error_code ignored;
  info.file_bytes = static_cast<std::int64_t>(fs::file_size(path, ignored));
  Texts texts;
  std::vector<std::byte> scratch;
  read_verified(reader, path, info.entries, [&](const CheckpointEntry& entry) -> void* {
    const bool tensor =
        std::ranges::any_of(kTensorGroups, [&](auto& g) { return is_tensor(entry, g.first); });
    if (!tensor) return texts.resize(entry);
    scratch.resize(count(entry) * dtype_size(entry.dtype));
    return scratch.data();
  });
  info.state_json = texts.take(path, "state");
  info.config_yaml = texts.take(path, "config");
  info.environment_json = texts.take(path, "environment");
  return info;
}

void load_tensors_into(const NamedTensors& targets, const NamedTensors& source, const std::string& origin) {
  std::map<std::string, const Tensor*> offered;
  for (const auto& [name, tensor] : source) offered[name] = &tensor;
  std::vector<std::string> problems;
  std::set<std::string> wanted;
  for (const auto& [name, target] : targets) {
    wanted.insert(name);
    const auto found = offered.find(name);
    if (found == offered.end())
      problems.push_back(fmt::format("{} is missing", name));
    else if (found->second->shape() != target.shape() || found->second->dtype() != target.dtype())
      problems.push_back(fmt::format("{} is {} {}, the model has {} {}", name,
                                     dtype_name(found->second->dtype()), found->second->shape().str(),
                                     dtype_name(target.dtype()), target.shape().str()));
  }
  for (const auto& [name, tensor] : source)
    if (!wanted.contains(name)) problems.push_back(fmt::format("{} is not in the model", name));
  if (!problems.empty())
    throw Error(ErrorKind::data, fmt::format("{} does not fit the model: {}", origin, first_lines(problems)),
                "use the config that the checkpoint was made with; filigree inspect prints it");
  for (const auto& [name, target] : targets) {
    Tensor shared = target;  // a Tensor is a handle; this writes to the target's storage
    shared.copy_from(offered[name]->to(target.device()));
  }
}

NamedTensors pattern_state(const Transformer& model) {
  NamedTensors all;
  for (const ConnectivityPtr& layer : model.connectivities())
    for (auto& entry : layer->state()) all.push_back(std::move(entry));
  return all;
}

void load_patterns(Transformer& model, const Config& config, const NamedTensors& patterns,
                   const std::string& origin) {
  try {
    for (const ConnectivityPtr& layer : model.connectivities())
      layer->load_state(patterns, static_cast<std::uint64_t>(config.seed));
  } catch (const Error& e) {
    fail(ErrorKind::data, "{}: {}", origin, e.what());
  }
}

void require_same_model(const Config& config, const std::string& checkpoint_yaml, const std::string& origin) {
  const Config saved = parse_config(parse_yaml(checkpoint_yaml, origin));
  require_equal(model_part(config), model_part(saved), "model", origin,
                "take the values of the checkpoint, or start a new run with another train.out");
}

void require_same_weights(const Config& config, const std::string& checkpoint_yaml,
                          const std::string& origin) {
  const Config saved = parse_config(parse_yaml(checkpoint_yaml, origin));
  require_equal(weights_part(config), weights_part(saved), "model", origin,
                "take these values of the checkpoint; pattern, causal, tile and dropout may differ");
}

void require_same_run(const Config& config, const std::string& checkpoint_yaml, const std::string& origin) {
  const Config saved = parse_config(parse_yaml(checkpoint_yaml, origin));
  Config like = config;
  like.data.tokenizer = saved.data.tokenizer;  // the states name the tokenizers themselves
  require_equal(
      like.counted(), saved.counted(), "run", origin,
      "take the values of the checkpoint, or another train.out: of a new run, or with --resume CHECKPOINT of "
      "one that goes on from it, which may change train.lr, the schedule and more (filigree train --help)");
}

}  // namespace filigree
