// filigree eval: the loss of a checkpoint on its validation data or on other data.
#include "train/commands/commands.h"
#include "train/evaluate.h"
#include "train/layouts.h"
#include "train/loaded_model.h"
#include "train/run_setup.h"
#include "train/train_log.h"

namespace filigree {
namespace {

struct EvalArguments {
  std::string model;
  DeviceChoice device = DeviceChoice::automatic;
  std::vector<std::string> data;
  std::int64_t batches = 0;
};

Dataset evaluation_data(const Config& config, const std::vector<std::string>& named) {
  DataRequest request = data_request(config);
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

void run(const EvalArguments& arguments) {
  const LoadedModel loaded = load_model(arguments.model, arguments.device);
  const Dataset data = evaluation_data(loaded.config, arguments.data);
  if (data.vocabulary().tokenizer != loaded.tokenizer)
    throw Error(ErrorKind::data,
                fmt::format("the data has the tokenizer '{}', the model was trained with '{}'",
                            data.vocabulary().tokenizer, loaded.tokenizer),
                "'' is that of .bin files, of which only the ids are known");
  require(data.vocabulary().size <= loaded.config.model.vocab_size,
          "the data has {} kinds of tokens, the model knows {}", data.vocabulary().size,
          loaded.config.model.vocab_size);
  const auto layouts = build_layouts(loaded.config, loaded.config.data.seq_len);
  const auto result = evaluate(*loaded.model, loaded.config, layouts, data, arguments.batches);
  fmt::print("{}: {} over {} targets\n", loaded.checkpoint.string(), describe(*result), result->targets);
  for (const GroupScore& group : result->groups)
    if (group.targets > 0)
      fmt::print("  {:<28} accuracy {:.1f} % of {}\n", group.name,
                 100 * static_cast<double>(group.right) / static_cast<double>(group.targets), group.targets);
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
  add_device_option(*command, arguments->device);
  command->footer("Example:\n  filigree eval runs/quickstart --data README.md");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace filigree
