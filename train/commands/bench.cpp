// filigree bench: measurements that answer a question.
#include <algorithm>
#include <cstdio>

#include "core/file.h"
#include "core/parallel.h"
#include "train/ablate/sweep.h"
#include "train/bench/crossover.h"
#include "train/commands/commands.h"
#include "train/config/device_choice.h"
#include "train/config/tree.h"

namespace filigree {
namespace {

struct CrossoverArguments {
  std::string config;
  std::vector<std::string> patterns, overrides;
  std::vector<std::int64_t> lengths = {256, 512, 1024, 2048, 4096};
  std::int64_t tokens = 0;
  int repeats = 5;
  DeviceChoice device = DeviceChoice::automatic;
  std::string json = "crossover.json", svg = "crossover.svg";
  bool overwrite = false;
};

// Without a config: two layers of four heads of 64.
constexpr const char* kDefaultModel =
    "model: {preset: llama, dim: 256, n_layers: 2, n_heads: 4}\n"
    "data: {train: [none], seq_len: 64}\ntrain: {steps: 1, batch_size: 1, lr: 1e-3}\n";

// Of a sweep, every pattern that its cells have; of a config, its own.
void read_config(const CrossoverArguments& arguments, CrossoverRequest& request) {
  if (arguments.config.empty()) {
    request.config = parse_config(parse_yaml(kDefaultModel, "default model"));
    return;
  }
  if (parse_yaml_file(arguments.config).find("axes") == nullptr) {
    request.config = load_config(arguments.config);
    request.patterns.emplace_back("config", request.config.pattern);
    return;
  }
  const Sweep sweep = load_sweep(arguments.config);
  request.config = sweep.cells.front().config;
  for (const Cell& cell : sweep.cells) {
    const auto same = [&](const auto& known) { return known.second == cell.config.pattern; };
    if (std::ranges::none_of(request.patterns, same))
      request.patterns.emplace_back(sweep.variant(cell), cell.config.pattern);
  }
}

CrossoverRequest make_request(const CrossoverArguments& arguments) {
  CrossoverRequest request;
  read_config(arguments, request);
  request.config.device = arguments.device;
  if (arguments.device != DeviceChoice::automatic) request.config.precision = Precision::automatic;
  request.config = with_device(request.config);
  set_n_threads(request.config.threads);
  if (!arguments.patterns.empty()) request.patterns.clear();
  for (const std::string& text : arguments.patterns) {
    const YamlNode written = parse_yaml(text, "--pattern");
    request.patterns.emplace_back(plain_words(written), read_pattern(written));
  }
  std::erase_if(request.patterns, [](const auto& p) { return p.second.name() == "full"; });
  if (request.patterns.empty())
    throw Error(ErrorKind::usage, "there is no pattern to compare with full attention",
                "give --pattern '{local: {window: 64}}', a config or a sweep");
  request.lengths = arguments.lengths;
  std::ranges::sort(request.lengths);
  request.tokens = arguments.tokens;
  request.repeats = arguments.repeats;
  return request;
}

void print_point(const Crossover& result, const CrossoverPoint& point) {
  const auto part = [](const std::optional<Timing>& t) {
    return t ? fmt::format("{:>9.2f} {:>9.2f} {:>7.2f} {:>11}", t->full_ms, t->sparse_ms, t->speedup,
                           fmt::format("{:.2f}-{:.2f}", t->low, t->high))
             : fmt::format("{:>39}", "out of memory");
  };
  fmt::print("{:<28} {:>7} {:>5} {:>6.1f} % |{} |{}\n", result.name.substr(0, 28), point.length, point.batch,
             100 * point.tiles_of_full, part(point.attention), part(point.step));
  std::fflush(stdout);
}

void run_crossover(const CrossoverArguments& arguments) {
  const CrossoverRequest request = make_request(arguments);
  OutputCheck outputs(arguments.overwrite);
  if (!arguments.config.empty()) reads_config_file(outputs, arguments.config);
  for (const auto& [name, pattern] : request.patterns) reads_pattern(outputs, pattern);
  outputs.writes(arguments.json, "--json");
  outputs.writes(arguments.svg, "--svg");
  fmt::print("{:<28} {:>7} {:>5} {:>8} |{:>39} |{:>39}\n", "", "", "", "tiles of", "attention, ms",
             "step, ms");
  fmt::print("{:<28} {:>7} {:>5} {:>8} |{:>9} {:>9} {:>7} {:>11} |{:>9} {:>9} {:>7} {:>11}\n", "pattern", "N",
             "batch", "full", "full", "sparse", "speedup", "quartiles", "full", "sparse", "speedup",
             "quartiles");
  const auto results = measure_crossover(request, print_point);
  fmt::print("\n");
  for (const Crossover& result : results)
    fmt::print("{} beats full attention: alone {}; in a training step {}\n", result.name,
               break_text(result, &CrossoverPoint::attention), break_text(result, &CrossoverPoint::step));
  write_file_atomically(arguments.json, crossover_json(request, results));
  write_file_atomically(arguments.svg, crossover_svg(results));
  fmt::print("{}\n{}\n", arguments.json, arguments.svg);
}

}  // namespace

void add_bench(CLI::App& app, Invocation&) {
  auto* bench = app.add_subcommand("bench", "Measure this machine");
  bench->require_subcommand(1);
  auto* command = bench->add_subcommand(
      "crossover", "From which length on is a sparse pattern faster than full attention?");
  const auto arguments = std::make_shared<CrossoverArguments>();
  command
      ->add_option("config", arguments->config,
                   "A config or a sweep: its model and patterns (default: two layers of four heads of 64)")
      ->transform(as_path_argument());
  command->add_option("--pattern", arguments->patterns, "Patterns in place of the config's")
      ->type_name("PATTERN...");
  command->add_option("--lengths", arguments->lengths, "Tokens of a sequence")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 28))
      ->capture_default_str();
  command
      ->add_option("--tokens", arguments->tokens,
                   "Tokens of a batch (default: those of the longest sequence)")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 32));
  command->add_option("--repeats", arguments->repeats, "Turns, of which the medians count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_device_option(*command, arguments->device);
  command->add_option("--json", arguments->json, "Where the figures go")
      ->transform(as_path_argument())
      ->capture_default_str();
  command->add_option("--svg", arguments->svg, "Where the plot goes")
      ->transform(as_path_argument())
      ->capture_default_str();
  add_overwrite_flag(*command, arguments->overwrite);
  command->footer(
      "Example:\n  filigree bench crossover --pattern '{local: {window: 256}}' --lengths 512,1024,2048,4096");
  command->callback([arguments] { run_crossover(*arguments); });
}

}  // namespace filigree
