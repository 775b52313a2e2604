// filigree inspect: what a file of ours holds, verified as a whole.
#include <filesystem>

#include "attention/tile_layout.h"
#include "core/hdf5.h"
#include "data/token_file.h"
#include "train/checkpoint.h"
#include "train/commands/commands.h"
#include "train/run_folder.h"

namespace filigree {
namespace {

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
  fmt::print("  {} tiles computed ({:.2f} %), {} exact pairs, {} distinct masks\n", s.computed_tiles,
             100 * s.density, s.exact_pairs, layout.masks().size());
}

void inspect(const std::filesystem::path& named) {
  const std::filesystem::path path = std::filesystem::is_directory(named) ? find_checkpoint(named) : named;
  // Each kind of file is known by what stands at its root.
  bool layout = false, tokens = false;
  {
    const h5::Reader file(path);
    layout = file.has("head_pattern");
    tokens = file.has("tokens");
  }
  if (layout) return inspect_layout_file(path);
  if (tokens) return inspect_token_file(path);
  inspect_checkpoint_file(path);
}

}  // namespace

void add_inspect(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("inspect", "Verify a checkpoint, token file or layout file and show it");
  const auto path = std::make_shared<std::string>();
  command->add_option("file", *path, "File or run folder")->required();
  command->footer("Example:\n  filigree inspect runs/quickstart");
  command->callback([path] { inspect(*path); });
}

}  // namespace filigree
