// filigree inspect: what a file holds. Files of ours are verified as a whole.
#include <filesystem>

#include "attention/tile_layout.h"
#include "core/file.h"
#include "core/hdf5.h"
#include "data/bin_file.h"
#include "data/token_file.h"
#include "data/tokenizer.h"
#include "train/commands/commands.h"
#include "train/interchange/safetensors.h"
#include "train/record/checkpoint.h"
#include "train/record/file_kind.h"
#include "train/record/run_folder.h"

namespace filigree {
namespace {

constexpr const char* kShown =
    "inspect shows checkpoints, token files, layout files, logits, safetensors and tokenizers";

std::string dims_text(const std::vector<std::int64_t>& dims) {
  std::string text;
  for (const std::int64_t d : dims) text += fmt::format("{}{}", text.empty() ? "" : " x ", d);
  return text.empty() ? "scalar" : text;
}

void inspect_checkpoint_file(const std::filesystem::path& path) {
  const CheckpointInfo info = inspect_checkpoint(path);
  fmt::print("{}: checkpoint, {} bytes, every sum verified\n", path.string(), info.file_bytes);
  for (const CheckpointEntry& e : info.entries)
    fmt::print("  {:<52} {:<5} {:<16} {}\n", e.path, dtype_name(e.dtype), dims_text(e.dims), e.sum);
  fmt::print("state: {}\nmade by: {}\nconfig:\n{}", info.state_json, info.environment_json, info.config_yaml);
}

void inspect_token_file(const std::filesystem::path& path) {
  const TokenFile file(path);
  file.verify();
  fmt::print("{}: token file, checksums verified\n", path.string());
  fmt::print("  tokenizer {}, {} kinds of tokens, stored as {}\n", file.vocabulary().tokenizer,
             file.vocabulary().size, dtype_name(file.dtype()));
  fmt::print("  {} tokens in {} documents, {} bytes of text\n", file.counts().n_tokens,
             file.counts().n_documents, file.counts().n_bytes);
}

void inspect_layout_file(const std::filesystem::path& path) {
  const TileLayout layout = load_layout(path.string());
  const LayoutStatistics s = layout.statistics();
  fmt::print("{}: layout file, validated\n", path.string());
  fmt::print("  {} queries, {} keys, tiles of {}, {} heads with {} distinct patterns, {}\n",
             layout.n_queries(), layout.n_keys(), layout.tile(), layout.n_heads(), layout.patterns().size(),
             layout.causal() ? "causal" : "bidirectional");
  fmt::print("  {} tiles, {}, {} exact pairs, {} distinct masks\n", s.computed_tiles,
             of_full_text(static_cast<double>(s.computed_tiles), static_cast<double>(s.full_tiles)),
             s.exact_pairs, layout.masks().size());
}

void inspect_hdf5_file(const std::filesystem::path& path, FileKind kind) {
  const h5::Reader file(path);
  fmt::print("{}: {}\n", path.string(), kind_text(kind));
  for (const std::string& name : file.children("/")) {
    try {
      const h5::DatasetInfo info = file.info(name);
      fmt::print("  {:<52} {:<5} {}\n", name, dtype_name(info.type), dims_text(info.dims));
    } catch (const Error&) {  // a group, or of a type that is none of ours
      fmt::print("  {}\n", name);
    }
  }
}

void inspect_safetensors(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  fmt::print("{}: {}, {} tensors\n", path.string(), kind_text(FileKind::safetensors), file.entries().size());
  for (const SafetensorsFile::Entry& e : file.entries())
    fmt::print("  {:<52} {:<5} {}\n", e.name, e.dtype, dims_text(e.shape));
}

void inspect_bin_file(const std::filesystem::path& path) {
  const BinFile file(path);
  const std::string& tokenizer = file.vocabulary().tokenizer;
  fmt::print("{}: {}\n  {} tokens of {} kinds, stored as {}, tokenizer {}\n", path.string(),
             kind_text(FileKind::bin), file.n_tokens(), file.vocabulary().size, dtype_name(file.dtype()),
             tokenizer.empty() ? "unknown" : tokenizer);
}

void inspect_tokenizer(const std::filesystem::path& path) {
  const auto tokenizer = tokenizer_from_json(read_file(path), path.string());
  fmt::print("{}: {} of {} tokens, {}\n", path.string(), kind_text(FileKind::tokenizer),
             tokenizer->vocab_size(), tokenizer->name());
}

void inspect(const std::filesystem::path& named) {
  const std::filesystem::path path = std::filesystem::is_directory(named) ? find_checkpoint(named) : named;
  switch (const FileKind kind = file_kind(path)) {
    case FileKind::layout:
      return inspect_layout_file(path);
    case FileKind::tokens:
      return inspect_token_file(path);
    case FileKind::logits:
    case FileKind::hdf5:
      return inspect_hdf5_file(path, kind);
    case FileKind::safetensors:
      return inspect_safetensors(path);
    case FileKind::bin:
      return inspect_bin_file(path);
    case FileKind::tokenizer:
      return inspect_tokenizer(path);
    case FileKind::text:
      throw Error(
          ErrorKind::data,
          fmt::format("{}: is {}, in which there is nothing to verify", path.string(), kind_text(kind)),
          kShown);
    case FileKind::unknown:
      if (path.extension() != ".h5" && std::filesystem::is_regular_file(path) &&
          std::filesystem::file_size(path) > 0)
        throw Error(ErrorKind::data,
                    fmt::format("{}: is of a kind that filigree neither writes nor reads", path.string()),
                    kShown);
      [[fallthrough]];
    case FileKind::checkpoint:
      return inspect_checkpoint_file(path);  // which says what is wrong with it
  }
}

}  // namespace

void add_inspect(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand(
      "inspect", "Verify a checkpoint or another file of ours and show it; say what a foreign one is");
  const auto path = std::make_shared<std::string>();
  command->add_option("file", *path, "File or run folder")->required()->transform(as_path_argument());
  command->footer("Example:\n  filigree inspect runs/quickstart");
  command->callback([path] { inspect(*path); });
}

}  // namespace filigree
