// filigree eval: the loss of a checkpoint on its validation data or on other data.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/progress.h"
#include "train/commands/commands.h"
#include "train/config/tree.h"
#include "train/evaluate/evaluate.h"
#include "train/evaluate/length_scores.h"
#include "train/evaluate/logits_file.h"
#include "train/evaluate/loss_by_position.h"
#include "train/evaluate/planted_recovery.h"
#include "train/record/loaded_model.h"
#include "train/record/token_ids.h"
#include "train/run/train_log.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

struct EvalArguments {
  std::string model, logits;
  std::vector<std::string> overrides;
  DeviceChoice device = DeviceChoice::automatic;
  std::vector<std::string> data;
  std::int64_t batches = 0;
  bool json = false, overwrite = false;
};

// The run's config with other data or another length of it, and micro batches of about as many tokens. The
// model stays what it is; other lengths are looked at only if they are among the overrides.
Config evaluation_config(const LoadedModel& loaded, const std::vector<std::string>& overrides) {
  if (overrides.empty()) return loaded.config;
  YamlNode tree = parse_yaml(to_yaml(loaded.config.to_yaml()), loaded.checkpoint.string() + ": config");
  if (tree.find("train")->find("eval_lengths")) set_config_key(tree, "train.eval_lengths", YamlNode{}, {});
  for (const std::string& text : overrides) {
    const std::string key = text.substr(0, text.find('='));
    if (key == "data.tokenizer" && loaded.tokenizer)
      throw Error(
          ErrorKind::usage,
          fmt::format("eval cannot override '{}': the model was trained with {}", key, loaded.tokenizer_name),
          "remove it: a checkpoint holds its tokenizer");
    if (!key.starts_with("data.") && key != "train.eval_lengths")
      throw Error(ErrorKind::usage, fmt::format("eval cannot override '{}': the model is trained", key),
                  "data.seq_len, data.task, other data.* and train.eval_lengths can be");
    apply_override(tree, text);
  }
  // It bounds learned positions only.
  if (loaded.config.model.positions != Positions::learned)
    set_config_key(tree, "model.max_seq_len", YamlNode{}, {});
  Config config = parse_config(tree);
  const std::int64_t tokens = config.train.micro_batch_size * loaded.config.data.seq_len;
  config.train.micro_batch_size = std::max<std::int64_t>(1, tokens / config.data.seq_len);
  return config;
}

Dataset evaluation_data(const LoadedModel& loaded, const Config& config,
                        const std::vector<std::string>& named) {
  if (!named.empty()) return open_other_data(loaded, config, named);
  require(config.data.has_validation(), "{}: this model has no validation data; name some with --data",
          loaded.checkpoint.string());
  return open_trained_data(loaded, config).validation.value();
}

void check_meanings(const LoadedModel& loaded, const Dataset& data) {
  const std::string note = require_fitting_tokens(
      data.vocabulary(), {loaded.tokenizer_name, loaded.config.model.vocab_size, loaded.checkpoint.string()});
  if (!note.empty()) fmt::print(stderr, "filigree: note: {}\n", note);
  const auto &classes = data.class_names(), &known = loaded.trained_on.classes;
  if (!known.empty() && classes != known)  // of a task; folders are matched by their names
    fail(ErrorKind::data, "the data has the classes {}, the model was trained on {}",
         fmt::join(classes, ", "), fmt::join(known, ", "));
}

void check_output(const EvalArguments& arguments, const LoadedModel& loaded, const Config& config) {
  OutputCheck outputs(arguments.overwrite);
  outputs.reads(loaded.checkpoint);
  reads_config(outputs, loaded.config);
  reads_config(outputs, config);
  reads_data(outputs, arguments.data);
  outputs.writes(arguments.logits, "--logits", true);
}

LogitsFile logits_file(const EvalArguments& arguments, const Config& config, const Dataset& data) {
  LoaderOptions options = loader_options(config);
  options.prefetch = false;
  std::int64_t sequences = Loader(data, options).samples_per_epoch();
  if (arguments.batches > 0)  // divided, for the product may overflow
    if (sequences / options.batch_size >= arguments.batches)
      sequences = arguments.batches * options.batch_size;
  const ModelConfig& model = config.model;
  const bool classifier = model.type == ModelType::encoder_classifier;
  return {arguments.logits, sequences, config.data.seq_len,
          classifier ? Shape{model.n_classes} : Shape{config.data.seq_len, model.vocab_size}};
}

// "0.924"; "-" of nothing.
std::string share(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? fmt::format("{:.3f}", static_cast<double>(part) / static_cast<double>(whole)) : "-";
}

std::string to_json(const std::string& checkpoint, const Evaluation& result, const LossByPosition& positions,
                    const std::vector<LengthScore>& lengths) {
  nlohmann::ordered_json json = {
      {"checkpoint", checkpoint}, {"loss", result.loss}, {"targets", result.targets}};
  if (result.bits_per_byte) json["bits_per_byte"] = *result.bits_per_byte;
  if (result.accuracy) json["accuracy"] = *result.accuracy;
  for (const GroupScore& group : result.groups)
    if (group.targets > 0) json["accuracy_of"][group.name] = group.accuracy();
  if (!lengths.empty()) json["by_length"] = filigree::to_json(lengths);
  if (const auto buckets = filigree::to_json(positions); !buckets.empty()) json["loss_by_position"] = buckets;
  return json.dump(2);
}

// --data takes all words up to the next option, and so overrides that follow it.
void refuse_overrides_among_files(const std::vector<std::string>& files) {
  for (const std::string& file : files)
    if (const auto equals = file.find('=');
        equals != std::string::npos && file.find_first_of("/*?[") > equals && !std::filesystem::exists(file))
      throw Error(ErrorKind::usage,
                  fmt::format("'{}' stands after --data, which takes it for a file, and there is none", file),
                  "overrides stand before --data: filigree eval RUN KEY=VALUE --data FILES");
}

void run(const EvalArguments& arguments) {
  refuse_overrides_among_files(arguments.data);
  const LoadedModel loaded = load_model(arguments.model, arguments.device);
  const Config config = evaluation_config(loaded, arguments.overrides);
  if (!arguments.logits.empty()) check_output(arguments, loaded, config);
  const Dataset data = evaluation_data(loaded, config, arguments.data);
  check_meanings(loaded, data);
  require_targets(config, data, arguments.batches);
  if (arguments.data.empty()) require_length_targets(config, arguments.batches);
  std::optional<LogitsFile> logits;
  if (!arguments.logits.empty()) logits.emplace(logits_file(arguments, config, data));
  LossByPosition positions;
  const auto watch = [&](const EvaluatedBatch& evaluated) {
    if (config.model.type != ModelType::encoder_classifier)
      positions.add(evaluated.batch, evaluated.row_losses);
    if (logits)
      logits->add(evaluated.batch,
                  loaded.model->logits(evaluated.input, {}).value().to(DType::f32).to(Device::cpu()));
  };
  Progress bar("evaluating", evaluated_batches(config, data, arguments.batches), " batches");
  const auto stop = [&bar, done = std::int64_t{0}]() mutable {
    bar.update(done++);
    return false;
  };
  const auto result = evaluate(*loaded.model, config, data, arguments.batches, stop, watch);
  bar.finish();
  std::vector<LengthScore> lengths;
  if (arguments.data.empty()) lengths = *evaluate_lengths(*loaded.model, config, arguments.batches);
  if (logits) logits->commit(loaded.trained_on.classes);
  if (arguments.json) {
    fmt::print("{}\n", to_json(loaded.checkpoint.string(), *result, positions, lengths));
    return;
  }
  fmt::print("{}: {} over {} targets\n", loaded.checkpoint.string(), describe(*result), result->targets);
  for (const GroupScore& group : result->groups)
    if (group.targets > 0)
      fmt::print("  {:<28} accuracy {:.1f} % of {}\n", group.name, 100 * group.accuracy(), group.targets);
  if (const auto score = planted_recovery(*loaded.model, data, config.data.seq_len))
    fmt::print("planted tiles: precision {} ({} of {} chosen), recall {} ({} of {})\n",
               share(score->chosen_planted, score->chosen), score->chosen_planted, score->chosen,
               share(score->planted_found, score->planted), score->planted_found, score->planted);
  if (!positions.buckets().empty()) fmt::print("{}", positions.table());
  if (!lengths.empty()) fmt::print("{}\n", accuracy_table(lengths));
  if (logits) fmt::print("{}\n", logits->describe());
}

}  // namespace

void add_eval(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("eval", "Evaluate a checkpoint");
  const auto arguments = std::make_shared<EvalArguments>();
  command->add_option("model", arguments->model, "Checkpoint file or run folder")
      ->required()
      ->transform(as_path_argument());
  command->add_option("overrides", arguments->overrides,
                      "key=value of other data, e.g. data.seq_len=4096 or 'train.eval_lengths=[512, 4096]'");
  command->add_option("--data", arguments->data,
                      "Files, folders or globs; default: the run's validation data");
  command->add_option("--batches", arguments->batches, "At most this many micro batches; 0: all")
      ->check(CLI::NonNegativeNumber);
  command
      ->add_option("--logits", arguments->logits,
                   "Also write tokens, targets and logits of the sequences read to this HDF5 file")
      ->transform(as_path_argument());
  add_overwrite_flag(*command, arguments->overwrite);
  command->add_flag("--json", arguments->json, "Print JSON");
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree eval runs/quickstart --data README.md");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
