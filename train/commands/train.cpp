// filigree train: a run from one YAML file.
#include <cstdio>

#include "train/commands/commands.h"
#include "train/run/trainer.h"

namespace filigree {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> overrides;
  bool print_config = false;
  TrainRequest request;
};

}  // namespace

void add_train(CLI::App& app, Invocation& invocation) {
  auto* command = app.add_subcommand("train", "Train a model from a YAML config");
  const auto arguments = std::make_shared<TrainArguments>();
  command->add_option("config", arguments->config, "YAML file")->required()->transform(as_path_argument());
  command->add_option("overrides", arguments->overrides, "key=value, e.g. train.steps=200");
  command
      ->add_option(
          "--resume", arguments->request.resume,
          "auto: go on where this run is; never: start anew; or a checkpoint file or run folder, from which "
          "another train.out goes on as a run of its own")
      ->transform(as_path_argument())
      ->capture_default_str();
  command->add_flag(
      "--overwrite", arguments->request.overwrite,
      "Replace the run that is in train.out; one that --overwrite began and a signal stopped goes on");
  command->add_flag("--dry-run", arguments->request.dry_run,
                    "Check the config and the data, print the plan with every parameter, write nothing");
  command->add_flag("--print-config", arguments->print_config, "Print the fully resolved config and stop");
  command->footer(
      "A larger train.steps lengthens a run where every step that is done had the learning rate that it has "
      "under the\n"
      "new schedule: constant at any time, wsd before it decays. Else fork it: --resume CHECKPOINT with "
      "another\n"
      "train.out keeps weights, optimizer moments, step count and position in the data, and may change "
      "train.steps,\n"
      "schedule, lr, min_lr, warmup_steps, decay_steps, weight_decay, clip, eval_*, model.dropout and "
      "device.\n\n"
      "Example:\n  filigree train configs/quickstart.yaml train.steps=200 'data.train=[core, layers]' "
      "train.out=runs/mine");
  command->callback([arguments, &invocation] {
    arguments->request.config = load_config(arguments->config, arguments->overrides);
    if (arguments->print_config) {
      fmt::print("{}", to_yaml(arguments->request.config.to_yaml()));
      return;
    }
    arguments->request.command_line = invocation.command_line;
    invocation.exit_code = train(arguments->request);
  });
}

}  // namespace filigree
