#include "train/run/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "data/entropy.h"
#include "layers/flops.h"
#include "train/config/device_choice.h"
#include "train/config/layouts.h"
#include "train/evaluate/evaluate.h"
#include "train/evaluate/length_scores.h"
#include "train/evaluate/loss_by_position.h"
#include "train/record/event_file.h"
#include "train/record/metrics_file.h"
#include "train/record/run_folder.h"
#include "train/record/summary.h"
#include "train/run/continuation.h"
#include "train/run/initial_weights.h"
#include "train/run/metrics_lines.h"
#include "train/run/resume.h"
#include "train/run/run_setup.h"
#include "train/run/schedule.h"
#include "train/run/signals.h"
#include "train/run/train_log.h"
#include "train/run/trained_data.h"

namespace filigree {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

class Trainer {
 public:
  Trainer(RunSetup setup, const TrainRequest& request)
      : setup_(std::move(setup)),
        config_(setup_.config),
        folder_(config_.train.out, run_mode(request), config_.train.steps),
        model_(config_.model, static_cast<std::uint64_t>(config_.seed), device_of(config_), DType::f32,
               compute_dtype(config_), setup_.patterns),
        optimizer_(config_.train, model_.parameters()),
        stepper_(model_, optimizer_, step_options()),
        loader_(setup_.data.train, train_loader_options()) {
    at_.on = trained_on(setup_.data);
    at_.tokenizer = setup_.data.train.vocabulary().tokenizer;
    at_.layout_files = layout_files_sum(config_);
    at_.position = loader_.position();
    resumed_ = find_resumed(folder_, request, config_, at_);
    if (const auto& found = resumed_.checkpoint)
      load(found->contents, found->path.string());
    else
      take_initial_weights();
    resumed_.checkpoint.reset();  // its tensors are in the model
    require_room_for_checkpoints(folder_, config_, at_.step, checkpoint_bytes(contents()),
                                 setup_.data.validation.has_value());
    folder_.begin(config_, request.command_line, at_.step,
                  {at_.tokenizer.empty() ? "ids" : at_.tokenizer, resumed_.forked_from});
    metrics_ = std::make_unique<MetricsFile>(folder_.metrics_path(), at_.step);
    if (config_.log.tensorboard) events_ = std::make_unique<EventFile>(folder_.events_path(), at_.step);
  }

  int run() {
    try {
      return run_to_end();
    } catch (const std::exception& e) {
      leave_error(e.what());
      throw;
    }
  }

 private:
  int run_to_end() {
    const StopSignals signals;
    last_result_ = Clock::now();
    TrainLog log(outline(), config_.train.log_interval, setup_.matrix_rate);
    if (at_.evaluation_due && !evaluate_now(log)) return stopped(log);
    while (at_.step < config_.train.steps) {
      submit_step();
      at_.evaluation_due = setup_.data.validation && due(config_.train.eval_interval);
      const bool save = due(config_.checkpoint.interval);
      const bool stop = StopSignals::requested() && at_.step < config_.train.steps;
      report_steps(log, at_.evaluation_due || save || stop);
      if (at_.evaluation_due && !evaluate_now(log)) return stopped(log);
      if (save) folder_.save(at_.step, contents(), config_.checkpoint.keep);
      if (stop) return stopped(log);
    }
    write_summary(folder_.path(), model_.computed_layouts(), data_identity());
    folder_.finish();
    log.note(summary());
    return 0;
  }

  // For those who look at the run later. The error itself counts more than that it cannot be written.
  void leave_error(const std::string& message) {
    try {
      folder_.stop(message);
    } catch (const Error&) {
    }
  }

  Json data_identity() const {
    const auto& validation = setup_.data.validation;
    return {{"train", at_.on.data},
            {"validation", validation ? Json(validation->fingerprint()) : Json(nullptr)},
            {"tokenizer", at_.tokenizer}};
  }

  LoaderOptions train_loader_options() const { return loader_options(config_); }

  bool due(std::int64_t interval) const {
    return at_.step == config_.train.steps || (interval > 0 && at_.step % interval == 0);
  }

  NamedTensors weights() {
    NamedTensors tensors;
    model_.visit([&](Parameter& p) { tensors.emplace_back(p.name, p.var.value()); });
    return tensors;
  }

  CheckpointContents contents() {
    const Tokenizer* tokenizer = setup_.data.train.tokenizer();
    return {weights(),
            optimizer_.state(),
            at_.to_json(),
            to_yaml(config_.to_yaml()),
            "",
            tokenizer ? tokenizer->to_json() : "",
            pattern_state(model_),
            {},
            special_tokens_json_};
  }

  void take_initial_weights() {
    if (config_.train.init_from.empty()) return;
    // The parameters that patterns are learned by begin anew.
    const auto is_pattern = [](const auto& entry) { return is_pattern_parameter(entry.first); };
    InitialWeights from = read_initial_weights(config_, setup_.data);
    NamedTensors to = weights();
    std::erase_if(to, is_pattern);
    std::erase_if(from.weights, is_pattern);
    load_tensors_into(to, from.weights, config_.train.init_from);
    special_tokens_json_ = from.special_tokens_json;
    fmt::print("start     from the weights of {}\n", config_.train.init_from);
    if (!from.note.empty()) fmt::print("note      {}\n", from.note);
  }

  void load(const CheckpointContents& checkpoint, const std::string& origin) {
    const Progression saved = Progression::from_json(checkpoint.state_json, origin);
    const auto kind = resumed_.forked_from.empty() ? Continuation::same_run : Continuation::fork;
    const ContinuedSchedule schedule =
        continue_schedule(config_, checkpoint.config_yaml, saved.step, kind, origin);
    if (schedule.changed && kind == Continuation::same_run && resumed_.newest > saved.step)
      throw Error(
          ErrorKind::usage,
          fmt::format("{} is not the newest checkpoint of its run, and with another schedule the newer ones "
                      "would be lost",
                      origin),
          "choose another train.out: there the run goes on from it, and this one stays");
    require_same_data(saved, at_, origin);
    load_tensors_into(weights(), checkpoint.weights, origin);
    load_tensors_into(optimizer_.state(), checkpoint.optimizer, origin);
    load_patterns(model_, config_, checkpoint.patterns, origin);
    special_tokens_json_ = checkpoint.special_tokens_json;
    if (model_.learns()) require_same_phases(schedule, model_.patterns_are_static(), kind, origin);
    optimizer_.set_steps(saved.step);
    loader_.seek(saved.position);
    const TrainedOn on = at_.on;  // older checkpoints tell less of it
    at_ = saved;
    at_.on = on;
    fmt::print("resume    {} at step {}\n", origin, at_.step);
    // The best checkpoint so far lies in the other folder.
    if (kind == Continuation::fork) at_.best_loss = std::numeric_limits<double>::infinity();
    setup_.config.train = schedule.train;
    if (!schedule.changed) return;
    const TrainConfig& train = config_.train;
    // A run that turns out to be at its end has not been evaluated as at its end.
    if (at_.step == train.steps && setup_.data.validation) at_.evaluation_due = true;
    fmt::print("schedule  {}, {} steps instead of {}, warmup_steps {}{}\n", word(train.schedule), train.steps,
               schedule.steps_before, *train.warmup_steps,
               train.decay_steps ? fmt::format(", decay_steps {}", *train.decay_steps) : "");
  }

  StepOptions step_options() const {
    StepOptions options;
    options.seed = static_cast<std::uint64_t>(config_.seed);
    options.clip = config_.train.clip;
    options.micro_batches = config_.train.accumulation();
    options.steps = config_.train.steps;
    options.graph = config_.cuda_graph && device_of(config_).is_cuda();
    return options;
  }

  RunOutline outline() const {
    RunOutline run;
    run.steps = config_.train.steps;
    run.warm_up = step_options().graph ? 2 : 1;
    run.evaluates = setup_.data.validation.has_value();
    run.eval_interval = config_.train.eval_interval;
    if (!run.evaluates) return run;
    constexpr double kOfAStep = 1.0 / 3;  // a micro batch forward, of one forward and backward
    run.eval_steps = kOfAStep * static_cast<double>(evaluated_micro_batches()) /
                     static_cast<double>(config_.train.accumulation());
    return run;
  }

  // Evaluated a second time as they would be hardened, where patterns still learn.
  bool evaluates_twice() const { return !model_.patterns_are_static() && model_.patterns_can_harden(); }
  std::int64_t evaluated_micro_batches() const {
    return (evaluates_twice() ? 2 : 1) *
           evaluated_batches(config_, *setup_.data.validation, config_.train.eval_batches);
  }

  void submit_step() {
    const auto begin = Clock::now();
    std::vector<Batch> batches;
    for (std::int64_t i = 0; i < config_.train.accumulation(); ++i) batches.push_back(*loader_.next());
    const double waited = seconds_since(begin);
    const bool was_static = model_.patterns_are_static();
    stepper_.submit(std::move(batches), at_.step, learning_rate(config_.train, at_.step));
    under_way_.push_back({waited, flops_per_token()});
    // The best checkpoint is one that is used at its budget.
    if (!was_static && model_.patterns_are_static()) at_.best_loss = std::numeric_limits<double>::infinity();
    ++at_.step;
    at_.position = loader_.position();
  }

  // The work of the layouts that the step just submitted computes.
  double flops_per_token() {
    auto layouts = model_.computed_layouts();
    if (layouts != layouts_) {
      layouts_ = std::move(layouts);
      flops_per_token_ = model_flops_per_token(config_.model, layouts_);
    }
    return flops_per_token_;
  }

  // Logs the steps whose results are there; `all` waits for those under way.
  void report_steps(TrainLog& log, bool all) {
    while (const auto result = stepper_.next(all)) {
      const UnderWay& of_step = under_way_.front();
      const StepCost cost{seconds_since(last_result_), of_step.data_wait, of_step.flops_per_token,
                          peak_memory(device_of(config_))};
      last_result_ = Clock::now();
      under_way_.pop_front();
      const bool has_loss = result->targets > 0;
      metrics_->append(
          step_line(*result),
          {{"seconds", cost.seconds}, {"data_wait", cost.data_wait}, {"peak_bytes", cost.peak_bytes}});
      if (events_) {
        if (has_loss) events_->append(result->step + 1, {{"loss", result->loss}});
        events_->append(result->step + 1,
                        {{"grad_norm", result->grad_norm},
                         {"lr", result->lr},
                         {"tokens_per_second", static_cast<double>(result->tokens) / cost.seconds}});
      }
      log.step(*result, cost);
      if (!has_loss && !std::exchange(told_of_no_targets_, true))
        log.note(
            fmt::format("step {}/{} | none of its {} tokens is a target: it has no loss and a gradient of "
                        "zero (said once; metrics.jsonl tells all such steps)",
                        result->step + 1, config_.train.steps, result->tokens));
    }
  }

  // False if a signal came first; the evaluation stays due.
  bool evaluate_now(TrainLog& log) {
    const auto begin = Clock::now();
    const bool last = at_.step == config_.train.steps;
    const bool by_position = last && config_.model.type != ModelType::encoder_classifier;
    std::int64_t begun = 0;
    const auto stop = [&, total = evaluated_micro_batches()] {
      log.evaluating(at_.step, std::min(begun++, total), total);
      return StopSignals::requested();
    };
    LossByPosition positions;
    const auto watch = [&](const EvaluatedBatch& evaluated) {
      positions.add(evaluated.batch, evaluated.row_losses);
    };
    const auto result = evaluate(model_, config_, *setup_.data.validation, config_.train.eval_batches, stop,
                                 by_position ? watch : std::function<void(const EvaluatedBatch&)>{});
    if (!result) return false;
    std::optional<Evaluation> hard;
    if (evaluates_twice()) {
      hard =
          evaluate(model_.as_hardened(), config_, *setup_.data.validation, config_.train.eval_batches, stop);
      if (!hard) return false;
    }
    std::vector<LengthScore> lengths;
    if (last) {
      auto scores = evaluate_lengths(model_, config_, config_.train.eval_batches, stop);
      if (!scores) return false;
      lengths = *std::move(scores);
    }
    at_.evaluation_due = false;
    const bool best = result->loss < at_.best_loss;
    if (best) at_.best_loss = result->loss;
    if (hard)
      log.note(fmt::format("step {}/{} | hardened now, validation {}", at_.step, config_.train.steps,
                           describe(*hard)));
    metrics_->append(evaluation_line(at_.step, *result, positions, lengths, hard),
                     {{"seconds", seconds_since(begin)}});
    if (const auto told = tell_patterns(model_)) {
      metrics_->append({{"step", at_.step}, {"patterns", told->layers}}, {});
      log.note(fmt::format("step {}/{} | patterns: {}", at_.step, config_.train.steps, told->text));
    }
    if (events_) append_evaluation(*result);
    log.evaluation(at_.step, *result, best, seconds_since(begin));
    if (!lengths.empty()) log.note(accuracy_table(lengths));
    if (best && config_.checkpoint.best) folder_.save_best(contents());
    last_evaluation_ = *result;
    last_result_ = Clock::now();  // an evaluation is no part of the next step
    return true;
  }

  void append_evaluation(const Evaluation& result) {
    events_->append(at_.step, {{"val_loss", result.loss}});
    if (result.bits_per_byte) events_->append(at_.step, {{"val_bits_per_byte", *result.bits_per_byte}});
    if (result.accuracy) events_->append(at_.step, {{"val_accuracy", *result.accuracy}});
  }

  int stopped(TrainLog& log) {
    log.interrupted();
    report_steps(log, true);
    folder_.save(at_.step, contents(), config_.checkpoint.keep);
    folder_.stop();
    log.note(fmt::format("stopped by a signal after step {}; {} goes on from {}", at_.step,
                         resumed_.same_command, folder_.checkpoint_path(at_.step).string()));
    return kExitResumable;
  }

  std::string summary() const {
    std::string text = fmt::format("finished  {} steps; checkpoint {}", at_.step,
                                   folder_.checkpoint_path(at_.step).string());
    text += fmt::format("\nmemory    peak {:.1f} MiB, expected {:.1f} MiB",
                        static_cast<double>(peak_memory(device_of(config_))) / 1048576.0,
                        static_cast<double>(setup_.memory.process) / 1048576.0);
    if (!last_evaluation_ || !last_evaluation_->bits_per_byte) return text;
    text +=
        fmt::format("\nbits per byte of the validation text: model {:.3f}", *last_evaluation_->bits_per_byte);
    if (const auto entropy = text_entropy(*setup_.data.validation))
      text +=
          fmt::format(", bigram entropy {:.3f}, unigram entropy {:.3f}", entropy->bigram, entropy->unigram);
    return text;
  }

  RunSetup setup_;
  const Config& config_;  // of setup_
  RunFolder folder_;
  Transformer model_;
  Optimizer optimizer_;
  Stepper stepper_;
  Loader loader_;
  Progression at_;
  std::string special_tokens_json_;  // of the model that the weights began as
  std::unique_ptr<MetricsFile> metrics_;
  std::unique_ptr<EventFile> events_;  // if wanted
  std::optional<Evaluation> last_evaluation_;
  Resumed resumed_;

  struct UnderWay {  // of a step whose results have not come
    double data_wait, flops_per_token;
  };
  std::deque<UnderWay> under_way_;
  bool told_of_no_targets_ = false;
  std::vector<LayoutPtr> layouts_;  // what the newest step computes
  double flops_per_token_ = 0;
  Clock::time_point last_result_{};
};

}  // namespace

int train(const TrainRequest& request) {
  refuse_own_checkpoints(request);
  RunSetup setup = set_up_run(request.config, resumed_tokenizer(request), known_classes(request));
  fmt::print("{}", describe(setup, request.dry_run));
  std::fflush(stdout);
  if (request.dry_run) {
    if (!setup.config.train.init_from.empty()) read_initial_weights(setup.config, setup.data);
    return 0;
  }
  if (setup.memory.process > free_memory(device_of(setup.config)))
    throw Error(ErrorKind::out_of_memory, "the expected peak is more memory than there is",
                "lower train.micro_batch_size or data.seq_len, or set model.activation_checkpointing: true");
  refuse_own_folder(setup.config);
  return Trainer(std::move(setup), request).run();
}

}  // namespace filigree
