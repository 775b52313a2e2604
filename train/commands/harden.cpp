// filigree harden: static layouts from what a model has learned, routes or attends to.
//
// Layers of gated mechanisms are cut to their budget. Layers that route (block_topk) are first watched on the
// validation data: the tiles that they chose most often stay. Layers with fixed heads can be calibrated in
// one shot: with --budget, the tiles with the most attention stay.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "attention/learned/tile_choice.h"
#include "core/file.h"
#include "core/ops.h"
#include "data/loader.h"
#include "train/commands/commands.h"
#include "train/evaluate/evaluate.h"
#include "train/record/checkpoint.h"
#include "train/record/loaded_model.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

struct HardenArguments {
  std::string model, output, layouts;
  std::vector<std::string> data;
  DeviceChoice device = DeviceChoice::automatic;
  double budget = 0;
  std::int64_t batches = 20;
  std::int64_t shuffle_seed = -1;
  bool overwrite = false;
};

Dataset calibration_data(const LoadedModel& loaded, const std::vector<std::string>& named) {
  if (!named.empty()) return open_other_data(loaded, loaded.config, named);
  auto opened = open_trained_data(loaded, loaded.config);
  return opened.validation ? *std::move(opened.validation) : std::move(opened.train);
}

// Runs some validation batches through the model, for routers to count and for the mass of attention, which
// comes back layer by layer, undefined where it is not wanted.
std::vector<Tensor> watch(LoadedModel& loaded, const HardenArguments& arguments, bool want_mass) {
  const Dataset data = calibration_data(loaded, arguments.data);
  LoaderOptions options = loader_options(loaded.config);
  options.shuffle = false;
  options.single_pass = true;
  Loader loader(data, options);
  std::vector<Tensor> mass(loaded.model->connectivities().size());
  for (std::int64_t i = 0; i < arguments.batches; ++i) {
    const auto batch = loader.next();
    if (!batch) break;
    const ModelInput input = model_input(*batch, loaded.model->device());
    if (!want_mass) {
      const NoGrad no_tape;
      loaded.model->forward(input, {});
      continue;
    }
    const std::vector<Tensor> of_batch = loaded.model->attention_mass(input);
    for (std::size_t l = 0; l < mass.size(); ++l) {
      if (!of_batch[l].defined()) continue;
      if (!mass[l].defined())
        mass[l] = of_batch[l];
      else
        ops::add_in_place(mass[l], of_batch[l]);
    }
  }
  return mass;
}

// The hardened layout of every layer.
std::vector<LayoutPtr> harden(LoadedModel& loaded, const HardenArguments& arguments) {
  const Config& config = loaded.config;
  const std::vector<ConnectivityPtr>& layers = loaded.model->connectivities();
  for (std::size_t l = 0; l < layers.size(); ++l)
    require(layers[l]->has_warmed_up(), "{}: layer {} is still in its warm-up and has learned nothing yet",
            loaded.checkpoint.string(), l);
  const bool calibrate = arguments.budget > 0;
  const auto learns = [](const ConnectivityPtr& layer) { return layer->learns(); };
  require(!calibrate || !std::ranges::all_of(layers, learns),
          "--budget calibrates layers with fixed heads, and {} has none", arguments.model);
  require(calibrate || std::ranges::any_of(layers, learns),
          "{} has no learned pattern; --budget calibrates a layout from where it attends", arguments.model);
  for (const ConnectivityPtr& layer : layers) layer->count_choices();
  std::vector<Tensor> mass(layers.size());
  if (loaded.model->reads_text() || calibrate) mass = watch(loaded, arguments, calibrate);
  const Geometry geometry{config.data.seq_len, config.causal, config.tile};
  std::vector<LayoutPtr> layouts;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    layers[l]->harden();
    layouts.push_back(layers[l]->connect({geometry.n}).layout);
    if (calibrate && !layers[l]->learns()) {
      const std::int64_t full = layouts[l]->statistics().full_tiles;
      layouts[l] =
          heaviest_tiles(geometry, mass[l], std::llround(arguments.budget * static_cast<double>(full)));
    }
    if (arguments.shuffle_seed >= 0)
      layouts[l] = with_shuffled_heads(*layouts[l], static_cast<std::uint64_t>(arguments.shuffle_seed) + l);
  }
  return layouts;
}

constexpr const char* kPatternFile = "pattern.yaml";

fs::path layout_file(const fs::path& folder, std::size_t layer) {
  return folder / fmt::format("layer_{}.h5", layer);
}

void check_outputs(const LoadedModel& loaded, const HardenArguments& arguments) {
  OutputCheck outputs(arguments.overwrite);
  outputs.reads(loaded.checkpoint);
  reads_config(outputs, loaded.config);
  reads_data(outputs, arguments.data);
  if (!arguments.output.empty()) {
    outputs.writes(arguments.output, "-o", true);
    std::error_code ignored;
    require_room(fs::path(arguments.output).parent_path(), arguments.output,
                 static_cast<std::int64_t>(fs::file_size(loaded.checkpoint, ignored)), 0, "free some space");
  }
  std::error_code ignored;
  if (arguments.layouts.empty() || !fs::exists(arguments.layouts, ignored)) return;
  for (std::size_t l = 0; l < static_cast<std::size_t>(loaded.config.model.n_layers); ++l)
    outputs.writes(layout_file(arguments.layouts, l), "--layouts");
  outputs.writes(fs::path(arguments.layouts) / kPatternFile, "--layouts");
}

void write_layouts(const std::vector<LayoutPtr>& layouts, const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error)
    throw Error(ErrorKind::disk, fmt::format("cannot make {}: {}", folder.string(), error.message()));
  YamlNode entries = YamlNode::make_sequence();
  for (std::size_t l = 0; l < layouts.size(); ++l) {
    const fs::path file = layout_file(folder, l);
    save_layout(*layouts[l], file.string(), false);
    YamlNode block = YamlNode::make_map(), pattern = YamlNode::make_map(), entry = YamlNode::make_map();
    block.add("file", YamlNode::make(file.string()));
    pattern.add("block", std::move(block));
    entry.add("layers", YamlNode::make(static_cast<std::int64_t>(l)));
    entry.add("pattern", std::move(pattern));
    entries.items.push_back(std::move(entry));
  }
  YamlNode pattern = YamlNode::make_map(), file = YamlNode::make_map();
  pattern.add("layers", std::move(entries));
  file.add("pattern", std::move(pattern));
  file.add("causal", YamlNode::make(layouts[0]->causal()));
  file.add("tile", YamlNode::make(static_cast<std::int64_t>(layouts[0]->tile())));
  const fs::path yaml = folder / kPatternFile;
  write_file_atomically(yaml, to_yaml(file));
  fmt::print("layouts   {} (its pattern: is what a config needs)\n", yaml.string());
}

void write_hardened(const LoadedModel& loaded, const HardenArguments& arguments) {
  CheckpointContents contents = read_checkpoint(loaded.checkpoint);
  contents.patterns = pattern_state(*loaded.model);
  write_checkpoint(arguments.output, contents);
  fmt::print("checkpoint {}\n", arguments.output);
}

void run(const HardenArguments& arguments) {
  require(!arguments.output.empty() || !arguments.layouts.empty(),
          "harden writes a checkpoint (-o FILE.h5), layouts (--layouts DIR) or both; name one");
  require(arguments.output.empty() || (arguments.budget == 0 && arguments.shuffle_seed < 0),
          "calibrated and shuffled layouts are not the model's; write them with --layouts");
  LoadedModel loaded = load_model(arguments.model, arguments.device);
  check_outputs(loaded, arguments);
  const std::vector<LayoutPtr> layouts = harden(loaded, arguments);
  for (std::size_t l = 0; l < layouts.size(); ++l) {
    const LayoutStatistics s = layouts[l]->statistics();
    fmt::print("layer {:>3} {} tiles, {}, {:.1f} a row\n", l, s.computed_tiles,
               of_full_text(static_cast<double>(s.computed_tiles), static_cast<double>(s.full_tiles)),
               s.mean_tiles_per_row);
  }
  if (!arguments.layouts.empty()) write_layouts(layouts, arguments.layouts);
  if (!arguments.output.empty()) write_hardened(loaded, arguments);
}

}  // namespace

void add_harden(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("harden", "Make static layouts of what a model has learned");
  const auto arguments = std::make_shared<HardenArguments>();
  command->add_option("model", arguments->model, "Checkpoint file or run folder")
      ->required()
      ->transform(as_path_argument());
  command->add_option("-o,--output", arguments->output, "Checkpoint to write, with its patterns hardened")
      ->transform(as_path_argument())
      ->type_name("FILE.h5");
  command
      ->add_option("--layouts", arguments->layouts,
                   "Folder for a layout file per layer, and the pattern that reads them")
      ->transform(as_path_argument());
  add_overwrite_flag(*command, arguments->overwrite);
  command
      ->add_option("--budget", arguments->budget,
                   "Calibrate layers with fixed heads: the share of full attention's tiles to keep")
      ->check(CLI::Range(1e-6, 1.0));
  command->add_option("--data", arguments->data,
                      "Files, folders or globs to watch routers and attention on; default: the run's "
                      "validation data");
  command->add_option("--batches", arguments->batches, "Micro batches to watch routers and attention on")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command
      ->add_option("--shuffle-heads", arguments->shuffle_seed,
                   "Give each head another head's tiles, by this seed: the control for learned patterns")
      ->check(CLI::NonNegativeNumber);
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree harden runs/quickstart --budget 0.2 --layouts layouts");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
