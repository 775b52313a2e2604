#include "train/run/train_log.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/progress.h"

namespace filigree {
namespace {

// "-" where a mean has nothing to be taken over.
std::string loss_text(double loss, std::int64_t targets) {
  return targets > 0 ? fmt::format("{:.4f}", loss) : "-";
}

}  // namespace

TrainLog::TrainLog(const RunOutline& run, std::int64_t interval, MatrixRate& matrix_rate)
    : steps_(run.steps), interval_(interval), matrix_rate_(matrix_rate), time_left_(run) {}

void TrainLog::step(const StepResult& result, const StepCost& cost) {
  const std::int64_t step = result.step + 1;  // people count from 1
  window_tokens_ += result.tokens;
  if (result.targets > 0) {
    window_loss_ += result.loss;
    ++window_losses_;
  }
  window_seconds_ += cost.seconds;
  window_flops_ += static_cast<double>(result.tokens) * cost.flops_per_token;
  window_wait_ += cost.data_wait;
  time_left_.step(cost.seconds);
  tokens_per_second_ = static_cast<double>(window_tokens_) / window_seconds_;
  if (step % interval_ == 0 || step == steps_ || first_) {
    print_line(step, result, cost.peak_bytes);
    first_ = false;
    window_losses_ = window_tokens_ = 0;
    window_loss_ = window_seconds_ = window_wait_ = window_flops_ = 0;
  }
  draw_bar(step, loss_text(result.loss, result.targets));
}

std::string TrainLog::time_left(std::int64_t step, double evaluated) const {
  const auto seconds = time_left_.after(step, evaluated);
  return fmt::format("ETA {}", seconds ? human_duration(*seconds) : "-");
}

void TrainLog::print_line(std::int64_t step, const StepResult& result, std::int64_t peak_bytes) {
  note(fmt::format(
      "step {:>{}}/{} | loss {} | grad norm {:.3f} | lr {:.2e} | {} tok/s | {:.1f} % of matrix rate | "
      "peak {:.0f} MiB | data wait {:.1f} % | {}",
      step, fmt::formatted_size("{}", steps_), steps_,
      loss_text(window_loss_ / static_cast<double>(window_losses_), window_losses_), result.grad_norm,
      result.lr, human_count(tokens_per_second_),
      100 * matrix_rate_.share(window_flops_ / window_seconds_, window_seconds_),
      static_cast<double>(peak_bytes) / 1048576.0, 100 * window_wait_ / window_seconds_, time_left(step)));
}

void TrainLog::draw_bar(std::int64_t step, const std::string& loss) {
  if (step == steps_ || !line_.due()) return;
  line_.draw({static_cast<double>(step) / static_cast<double>(steps_),
              {fmt::format("{}/{}", step, steps_), time_left(step),
               fmt::format("{} tok/s", human_count(tokens_per_second_)), "loss " + loss}});
}

void TrainLog::evaluating(std::int64_t step, std::int64_t done, std::int64_t total) {
  if (!line_.due()) return;
  const double share = static_cast<double>(done) / static_cast<double>(std::max<std::int64_t>(1, total));
  line_.draw({static_cast<double>(step) / static_cast<double>(steps_),
              {fmt::format("{}/{}", step, steps_), fmt::format("evaluating {}/{}", done, total),
               time_left(step, share), fmt::format("{} tok/s", human_count(tokens_per_second_))}});
}

void TrainLog::evaluation(std::int64_t step, const Evaluation& evaluation, bool best, double seconds) {
  time_left_.evaluation(seconds);
  note(fmt::format("step {:>{}}/{} | validation {}{}", step, fmt::formatted_size("{}", steps_), steps_,
                   describe(evaluation), best ? " (best so far)" : ""));
}

std::string describe(const Evaluation& evaluation) {
  std::string text = fmt::format("loss {:.4f}", evaluation.loss);
  if (evaluation.bits_per_byte) text += fmt::format(", {:.3f} bits per byte", *evaluation.bits_per_byte);
  if (evaluation.accuracy) text += fmt::format(", accuracy {:.1f} %", 100 * *evaluation.accuracy);
  return text;
}

}  // namespace filigree
