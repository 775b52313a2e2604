// filigree explain: what a pattern sees and what it costs.
#include "attention/explain/explain.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "train/commands/commands.h"
#include "train/config/config.h"
#include "train/record/loaded_model.h"

namespace filigree {
namespace {

struct ExplainOptions {
  std::string target;  // a config, a pattern file, or a pattern written out
  std::int64_t n = 0;  // 0: the config's seq_len, else 4096
  int layers = 1, heads = 1, layer = -1;
  std::int64_t head_dim = 64;
  bool json = false, rules = false, savings = false, overwrite = false;
  std::string png, svg, dump;
};

ExplainRequest request_of(const PatternSpec& pattern, const Geometry& geometry, int n_layers, int n_heads,
                          int n_kv_heads, std::int64_t head_dim) {
  ExplainRequest request;
  request.layers = make_layer_patterns(pattern, n_layers, n_heads);
  for (const PatternPtr& layer : request.layers) {
    layer->validate(geometry, n_heads);
    require_pairs(*layer, geometry, n_heads, pattern.written.mark);
  }
  request.geometry = geometry;
  request.n_heads = n_heads;
  request.n_kv_heads = n_kv_heads;
  request.head_dim = head_dim;
  return request;
}

ExplainRequest request_of_pattern(const PatternFile& file, const ExplainOptions& options,
                                  OutputCheck& outputs) {
  reads_pattern(outputs, file.pattern);
  const Geometry geometry{options.n > 0 ? options.n : 4096, file.causal, file.tile};
  return request_of(file.pattern, geometry, options.layers, options.heads, 0, options.head_dim);
}

// A trained model: what its heads have learned, in the place of learned patterns.
ExplainRequest request_of_model(const ExplainOptions& options, OutputCheck& outputs) {
  const LoadedModel loaded = load_model(options.target, DeviceChoice::cpu);
  outputs.reads(loaded.checkpoint);
  reads_config(outputs, loaded.config);
  const ModelConfig& model = loaded.config.model;
  const std::int64_t n = options.n > 0 ? options.n : loaded.config.data.seq_len;
  ExplainRequest request = request_of(loaded.config.pattern, {n, loaded.config.causal, loaded.config.tile},
                                      model.n_layers, model.n_heads, model.n_kv_heads, model.head_dim);
  for (std::size_t i = 0; i < request.layers.size(); ++i) {
    const Connectivity& layer = *loaded.model->connectivities()[i];
    if (!layer.learns()) continue;
    require(!layer.reads_text(),
            "{}: layer {} routes by its input (block_topk); filigree harden makes a layout of it",
            loaded.checkpoint.string(), i);
    request.layers[i] = pattern_of_layout(layer.connect({n}).layout, loaded.checkpoint.string());
  }
  return request;
}

bool is_model(const std::filesystem::path& path) {
  return std::filesystem::is_directory(path) || path.extension() == ".h5";
}

// As after `pattern:` in a config: a name, '{local: {window: 64}}', or the same without the outer braces.
bool is_pattern(const std::string& target) {
  const auto names = pattern_names();
  if (target.starts_with('{') || std::ranges::count(names, target.substr(0, target.find(':'))) > 0)
    return true;
  return target.find(": ") != std::string::npos && !std::filesystem::exists(target);
}

// Tells `outputs` what was read.
ExplainRequest request_of_target(const CLI::App& command, const ExplainOptions& options,
                                 OutputCheck& outputs) {
  if (is_pattern(options.target)) {
    PatternFile written;
    written.pattern = read_pattern(parse_yaml(options.target, "PATTERN"));
    return request_of_pattern(written, options, outputs);
  }
  if (!std::filesystem::exists(options.target)) {
    const auto names = pattern_names();
    const std::string near = nearest(options.target, names);
    throw Error(ErrorKind::usage, fmt::format("{}: no such file, and no pattern's name", options.target),
                near.empty() ? fmt::format("patterns: {}", fmt::join(names, ", "))
                             : fmt::format("did you mean '{}'?", near));
  }
  if (is_model(options.target)) {
    for (const char* name : {"--layers", "--heads", "--head-dim"})
      require(command.count(name) == 0, "{} is for patterns; {} is a trained model", name, options.target);
    return request_of_model(options, outputs);
  }
  if (const auto file = load_pattern_file(options.target)) {
    reads_config_file(outputs, options.target);
    return request_of_pattern(*file, options, outputs);
  }
  for (const char* name : {"--layers", "--heads", "--head-dim"})
    require(command.count(name) == 0, "{} is for patterns; {} is a config and says it itself", name,
            options.target);
  const Config config = load_config(options.target);
  reads_config_file(outputs, options.target);
  reads_config(outputs, config);
  const ModelConfig& model = config.model;  // derived values are filled in
  const Geometry geometry{options.n > 0 ? options.n : config.data.seq_len, config.causal, config.tile};
  return request_of(config.pattern, geometry, model.n_layers, model.n_heads, model.n_kv_heads,
                    model.head_dim);
}

void dump_layout(const Explanation& explanation, const ExplainOptions& options) {
  const auto n_layers = static_cast<int>(explanation.request.layers.size());
  require(options.layer >= 0 || explanation.groups.size() == 1,
          "the layers differ; say with --layer which one --dump should write, 0 to {}", n_layers - 1);
  require(options.layer < n_layers, "there is no layer {}: layers are 0 to {}", options.layer, n_layers - 1);
  const int layer = std::max(options.layer, 0);
  for (const LayerGroup& group : explanation.groups) {
    if (std::find(group.layers.begin(), group.layers.end(), layer) == group.layers.end()) continue;
    const bool with_exact_mask = group.layout->n_queries() <= kMaxExactMask;
    save_layout(*group.layout, options.dump, with_exact_mask);
    if (!with_exact_mask)
      fmt::print(stderr, "{}: written without the exact mask, which ends at {} tokens\n", options.dump,
                 kMaxExactMask);
  }
}

void check_outputs(OutputCheck& outputs, const ExplainOptions& options) {
  if (!options.png.empty()) outputs.writes(options.png, "--png");
  if (!options.svg.empty()) outputs.writes(options.svg, "--svg");
  if (!options.dump.empty()) outputs.writes(options.dump, "--dump", true);
}

void explain_target(const CLI::App& command, const ExplainOptions& options) {
  OutputCheck outputs(options.overwrite);
  const ExplainRequest request = request_of_target(command, options, outputs);
  check_outputs(outputs, options);
  const Explanation explanation = explain(request);
  // Files first: whoever sees the report can count on them.
  if (!options.png.empty()) write_explanation_png(explanation, options.png);
  if (!options.svg.empty()) write_explanation_svg(explanation, options.svg);
  if (!options.dump.empty()) dump_layout(explanation, options);
  fmt::print("{}", options.json ? explanation_json(explanation) + "\n" : explanation_text(explanation));
  std::fflush(stdout);
  FILE* out = options.json ? stderr : stdout;  // JSON stands alone
  for (const auto& [what, path] :
       {std::pair("picture", &options.png), {"picture", &options.svg}, {"layout", &options.dump}})
    if (!path->empty()) fmt::print(out, "{:<10}{}\n", what, *path);
}

void run(const CLI::App& command, const ExplainOptions& options) {
  require(!options.json || (!options.rules && !options.savings),
          "--rules and --savings are for people, not JSON");
  if (options.target.empty() && !options.rules && !options.savings)
    throw Error(ErrorKind::usage, "explain needs a config, a pattern or a trained model",
                "for example filigree explain '{local: {window: 64}}'; --rules lists all patterns");
  if (!options.target.empty()) explain_target(command, options);
  if (options.rules) fmt::print("{}{}", options.target.empty() ? "" : "\n", pattern_rules_text());
  if (options.savings)
    fmt::print("{}{}", options.target.empty() && !options.rules ? "" : "\n", savings_text());
}

}  // namespace

void add_explain(CLI::App& app, Invocation&) {
  auto options = std::make_shared<ExplainOptions>();
  auto* command = app.add_subcommand("explain", "Show what a pattern sees and what it costs");
  command
      ->add_option("config", options->target,
                   "a config, a file with just `pattern:`, a pattern such as full or '{local: {window: "
                   "64}}', or a checkpoint "
                   "or run folder, whose learned patterns are shown as they are")
      ->transform(as_path_argument());
  command->add_option("--n", options->n, "sequence length (default: the config's, or 4096)")
      ->check(CLI::Range(std::int64_t{1}, kMaxLength));
  command->add_option("--layers", options->layers, "layers, for a pattern without a config (default 1)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--heads", options->heads, "heads, for a pattern without a config (default 1)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--head-dim", options->head_dim, "head dimension, likewise (default 64)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{65536}));
  command->add_flag("--json", options->json, "print JSON instead of text");
  command->add_flag("--rules", options->rules, "also print what each of all patterns allows");
  command->add_flag("--savings", options->savings,
                    "also print what full, local and BigBird attention cost at 4096 tokens");
  command
      ->add_option("--png", options->png,
                   "draw all layers and heads, computed tiles against needed pairs, as PNG")
      ->transform(as_path_argument())
      ->type_name("FILE.png");
  command->add_option("--svg", options->svg, "the same as SVG")
      ->transform(as_path_argument())
      ->type_name("FILE.svg");
  command
      ->add_option("--dump", options->dump,
                   "write a layer's layout (HDF5), which `block: {file: ..}` reads; up to 4096 tokens with "
                   "the exact mask")
      ->transform(as_path_argument());
  add_overwrite_flag(*command, options->overwrite);
  command->add_option("--layer", options->layer, "the layer that --dump writes, where layers differ")
      ->check(CLI::Range(0, 1023));
  command->footer(
      "Example:\n  filigree explain configs/quickstart.yaml\n"
      "  filigree explain '{bigbird: {block: 64}}' --n 8192 --png bigbird.png");
  command->callback([options, command] { run(*command, *options); });
}

}  // namespace filigree
