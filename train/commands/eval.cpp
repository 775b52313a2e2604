// filigree eval: the loss of a checkpoint on its validation data or on other data.
#include <nlohmann/json.hpp>

#include "train/commands/commands.h"
#include "train/evaluate.h"
#include "train/layouts.h"
#include "train/loaded_model.h"
#include "train/logits_file.h"
#include "train/loss_by_position.h"
#include "train/planted_score.h"
#include "train/run_setup.h"
#include "train/train_log.h"

namespace filigree {
namespace {

struct EvalArguments {
  std::string model, logits;
  DeviceChoice device = DeviceChoice::automatic;
  std::vector<std::string> data;
  std::int64_t batches = 0;
  bool json = false;
};

Dataset evaluation_data(const LoadedModel& loaded, const std::vector<std::string>& named) {
  DataRequest request = data_request(loaded.config);
  request.trained_with = loaded.tokenizer;
  if (!named.empty()) {
    request.task.reset();
    request.train = named;
    request.validation.clear();
    request.val_fraction = 0;
    return open_data(request).train;
  }
  auto opened = open_data(request);
  require(opened.validation.has_value(), "this run has no validation data; name some with --data");
  return *std::move(opened.validation);
}

void check_vocabulary(const LoadedModel& loaded, const Dataset& data) {
  const std::string& trained_with = loaded.tokenizer_name;
  if (data.vocabulary().tokenizer != trained_with)
    throw Error(ErrorKind::data,
                fmt::format("the data has the tokenizer '{}', the model was trained with '{}'",
                            data.vocabulary().tokenizer, trained_with),
                "'' is that of .bin files, of which only the ids are known");
  require(data.vocabulary().size <= loaded.config.model.vocab_size,
          "the data has {} kinds of tokens, the model knows {}", data.vocabulary().size,
          loaded.config.model.vocab_size);
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

std::string to_json(const std::string& checkpoint, const Evaluation& result,
                    const LossByPosition& positions) {
  nlohmann::ordered_json json = {
      {"checkpoint", checkpoint}, {"loss", result.loss}, {"targets", result.targets}};
  if (result.bits_per_byte) json["bits_per_byte"] = *result.bits_per_byte;
  if (result.accuracy) json["accuracy"] = *result.accuracy;
  for (const LossByPosition::Bucket& bucket : positions.buckets())
    json["loss_by_position"].push_back(
        {{"first", bucket.first}, {"last", bucket.last}, {"targets", bucket.targets}, {"loss", bucket.loss}});
  return json.dump(2);
}

void run(const EvalArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.model, arguments.device);
  const Dataset data = evaluation_data(loaded, arguments.data);
  check_vocabulary(loaded, data);
  const auto layouts = build_layouts(loaded.config, loaded.config.data.seq_len);
  std::optional<LogitsFile> logits;
  if (!arguments.logits.empty()) logits.emplace(logits_file(arguments, loaded.config, data));
  LossByPosition positions;
  const auto watch = [&](const EvaluatedBatch& evaluated) {
    if (loaded.config.model.type != ModelType::encoder_classifier)
      positions.add(evaluated.batch, evaluated.row_losses);
    if (logits)
      logits->add(evaluated.batch,
                  loaded.model->logits(evaluated.input, {}).value().to(DType::f32).to(Device::cpu()));
  };
  const auto result = evaluate(*loaded.model, loaded.config, layouts, data, arguments.batches, {}, watch);
  if (logits) logits->commit();
  if (arguments.json) {
    fmt::print("{}\n", to_json(loaded.checkpoint.string(), *result, positions));
    return;
  }
  fmt::print("{}: {} over {} targets\n", loaded.checkpoint.string(), describe(*result), result->targets);
  for (const GroupScore& group : result->groups)
    if (group.targets > 0)
      fmt::print("  {:<28} accuracy {:.1f} % of {}\n", group.name,
                 100 * static_cast<double>(group.right) / static_cast<double>(group.targets), group.targets);
  if (const auto score = score_planted(*loaded.model, data, loaded.config.data.seq_len))
    fmt::print("planted tiles: precision {:.3f} ({} of {} chosen), recall {:.3f} ({} of {})\n",
               score->precision(), score->chosen_planted, score->chosen, score->recall(),
               score->planted_found, score->planted);
  if (!positions.buckets().empty()) fmt::print("{}", positions.table());
  if (logits) fmt::print("{}\n", logits->describe());
}

}  // namespace

void add_eval(CLI::App& app, Invocation&) {
  auto* command = app.add_subcommand("eval", "Evaluate a checkpoint");
  const auto arguments = std::make_shared<EvalArguments>();
  command->add_option("model", arguments->model, "Checkpoint file or run folder")->required();
  command->add_option("--data", arguments->data,
                      "Files, folders or globs; default: the run's validation data");
  command->add_option("--batches", arguments->batches, "At most this many micro batches; 0: all")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--logits", arguments->logits,
                      "Also write tokens, targets and logits of the sequences read to this HDF5 file");
  command->add_flag("--json", arguments->json, "Print JSON");
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree eval runs/quickstart --data README.md");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
