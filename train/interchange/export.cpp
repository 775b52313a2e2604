#include "train/interchange/export.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <map>
#include <nlohmann/json.hpp>
#include <ranges>
#include <set>

#include "core/file.h"
#include "train/config/layouts.h"
#include "train/interchange/layout_export.h"
#include "train/interchange/safetensors.h"
#include "train/interchange/tokenizer_files.h"
#include "train/record/loaded_model.h"
#include "train/record/special_tokens.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// A folder made under another name beside its place; without commit() it goes away.
class NewFolder {
 public:
  NewFolder(const fs::path& target, bool overwrite)
      : target_((fs::absolute(target) / "").lexically_normal().parent_path()),
        made_(target_.string() + fmt::format(".partial-{}", ::getpid())) {
    std::error_code error;
    const bool folder = fs::is_directory(target_, error);
    if (fs::exists(target_, error) && !(folder && fs::is_empty(target_, error))) {
      const std::string foreign = folder ? foreign_file(target_) : target_.filename().string();
      if (!foreign.empty())
        throw Error(ErrorKind::usage,
                    folder ? fmt::format("{} is there already and holds {}, which no export writes",
                                         target.string(), foreign)
                           : fmt::format("{} is there already and no folder", target.string()),
                    "choose another folder");
      if (!overwrite)
        throw Error(ErrorKind::usage, fmt::format("{} is there already and not empty", target.string()),
                    "--overwrite replaces this export; or choose another folder");
    }
    fs::create_directories(path(), error);
    if (error) fail(ErrorKind::disk, "cannot make the folder {}: {}", path().string(), error.message());
  }
  ~NewFolder() {
    std::error_code ignored;
    fs::remove_all(path(), ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  const fs::path& path() const { return made_.path(); }
  // The old folder and the new one change places at once, where the file system can.
  void commit() {
    std::error_code ignored;
    const bool old = fs::exists(target_, ignored) && !fs::is_empty(target_, ignored);
    if (!old) return rename_durably(path(), target_);
    if (::renameat2(AT_FDCWD, path().c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) return;
    const Unfinished aside(path().string() + "-old");
    rename_durably(target_, aside.path());
    rename_durably(path(), target_);
    fs::remove_all(aside.path(), ignored);
  }

 private:
  // The first entry that no export has; empty if there is none.
  static std::string foreign_file(const fs::path& folder) {
    static const std::set<std::string> kOurs = {"config.json",           "generation_config.json",
                                                "model.safetensors",     "tokenizer.json",
                                                "tokenizer_config.json", "README.md"};
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      const std::string name = entry.path().filename().string();
      const bool layout = name.starts_with("layout") && name.ends_with(".h5");
      if (!entry.is_regular_file(error) || (!layout && !kOurs.contains(name))) return name;
    }
    return fs::exists(folder / "model.safetensors", error) ? "" : "no model.safetensors";
  }

  fs::path target_;
  Unfinished made_;
};

Tensor transpose(const Tensor& x) {
  const std::int64_t rows = x.dim(0), columns = x.dim(1);
  Tensor y = Tensor::empty({columns, rows});
  const float* from = x.data<float>();
  float* to = y.data<float>();
  constexpr std::int64_t kEdge = 32;  // blocks stay in the cache
  for (std::int64_t r0 = 0; r0 < rows; r0 += kEdge)
    for (std::int64_t c0 = 0; c0 < columns; c0 += kEdge)
      for (std::int64_t r = r0; r < std::min(rows, r0 + kEdge); ++r)
        for (std::int64_t c = c0; c < std::min(columns, c0 + kEdge); ++c)
          to[c * rows + r] = from[r * columns + c];
  return y;
}

// Rows of ours that are one tensor of theirs.
Tensor rows_of(const std::map<std::string, Tensor>& ours, const HfTensor& t, const fs::path& origin) {
  const auto found = ours.find(t.ours);
  const bool fits = found != ours.end() && found->second.rank() == t.shape.rank() &&
                    found->second.dtype() == DType::f32 && t.row + t.shape[0] <= found->second.dim(0) &&
                    found->second.shape().with(0, t.shape[0]) == t.shape;
  if (!fits)
    fail(ErrorKind::data, "{}: {} is not there in the shape that its config says", origin.string(), t.ours);
  return found->second.slice(t.row, t.row + t.shape[0]);
}

// The model's parameters under transformers' names.
std::vector<TensorToWrite> tensors_to_write(const HfModel& model, const StoredModel& stored) {
  const std::map<std::string, Tensor> ours(stored.weights.begin(), stored.weights.end());
  std::set<std::string> left;
  for (const auto& [name, tensor] : ours)
    if (!is_pattern_parameter(name)) left.insert(name);  // what was learned goes into the layout
  std::vector<TensorToWrite> list;
  for (const HfTensor& t : hf_tensors(model)) {
    const Tensor rows = rows_of(ours, t, stored.checkpoint);
    list.push_back({t.theirs, t.stored_shape(), [rows, t] { return t.transposed ? transpose(rows) : rows; }});
    left.erase(t.ours);
  }
  require(left.empty(), "the model has parameters that {} has no place for: {}",
          architecture_class(model.architecture), fmt::join(left, ", "));
  return list;
}

// As the model attends; learned patterns must be static.
std::vector<LayoutPtr> layouts_of(const StoredModel& stored) {
  const LayerPatternsPtr patterns = layer_patterns(stored.config);
  const std::int64_t n = stored.config.data.seq_len;
  if (!patterns->learns()) return patterns->layouts(n);
  const LoadedModel loaded = load_model(stored.checkpoint, DeviceChoice::cpu);
  if (!loaded.model->patterns_are_static())
    throw Error(
        ErrorKind::usage,
        fmt::format("{}: its learned patterns are not static yet", stored.checkpoint.string()),
        fmt::format("make them so first: filigree harden {} -o hardened.h5", stored.checkpoint.string()));
  std::vector<PatternPtr> attended;
  for (const ConnectivityPtr& layer : loaded.model->connectivities())
    attended.push_back(pattern_of_layout(layer->connect({n}).layout, stored.checkpoint.string()));
  return build_layer_layouts(attended, patterns->training(), stored.config.model.n_heads);
}

}  // namespace

ExportResult export_model(const fs::path& path, const fs::path& folder, DType dtype,
                          const std::function<void(std::int64_t, std::int64_t)>& progress, bool overwrite) {
  const StoredModel stored = read_stored_model(path);
  const Config& config = stored.config;
  const AttentionThere fit = attention_there(config);
  const HfModel model{fit.architecture, config.model, fit.sliding_window};
  const std::vector<TensorToWrite> tensors = tensors_to_write(model, stored);
  ExportResult result{fit.architecture, 0, ""};
  for (const TensorToWrite& t : tensors) result.parameters += t.shape.numel();

  NewFolder made(folder, overwrite);
  const std::int64_t bytes = result.parameters * dtype_size(dtype);
  require_room(made.path(), "the export", bytes + (1 << 20), bytes,
               "free some space, or halve the size with --dtype bf16");
  Json json = hf_config(model, dtype);
  const Json special_tokens = parse_special_tokens(stored.special_tokens_json, stored.checkpoint.string());
  add_special_ids(json, stored.tokenizer.get(), special_tokens);
  if (!fit.exact) {
    const LayoutExport layouts = write_layouts(made.path(), config, layouts_of(stored), fit.architecture);
    json["filigree"] = layout_entry(config, layouts);
    result.warning = layouts.note;
  }
  write_file_atomically(made.path() / "config.json", json.dump(2) + "\n");
  write_tokenizer_files(made.path(), stored.tokenizer.get(), config.model.max_seq_len, special_tokens);
  write_safetensors(made.path() / "model.safetensors", tensors, dtype, [&](std::int64_t done) {
    if (progress) progress(done, bytes);
  });
  made.commit();
  return result;
}

}  // namespace filigree
