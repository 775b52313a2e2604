#include "train/train_log.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "data/progress.h"

namespace filigree {

TrainLog::TrainLog(std::int64_t first_step, std::int64_t steps, std::int64_t interval, double peak_flops)
    : first_step_(first_step),
      steps_(steps),
      interval_(interval),
      peak_flops_(peak_flops),
      terminal_(isatty(fileno(stdout)) != 0) {}

TrainLog::~TrainLog() {
  clear_bar();
}

void TrainLog::step(const StepResult& result, const StepCost& cost) {
  const std::int64_t step = result.step + 1;  // people count from 1
  ++window_steps_;
  ++all_steps_;
  window_tokens_ += result.tokens;
  window_loss_ += result.loss;
  window_seconds_ += cost.seconds;
  window_flops_ += static_cast<double>(result.tokens) * cost.flops_per_token;
  window_wait_ += cost.data_wait;
  all_seconds_ += cost.seconds;
  if (step % interval_ == 0 || step == steps_ || all_steps_ == 1) {
    print_line(step, result, cost.peak_bytes);
    window_steps_ = window_tokens_ = 0;
    window_loss_ = window_seconds_ = window_wait_ = window_flops_ = 0;
  } else if (terminal_) {
    draw_bar(step, result.loss);
  }
}

void TrainLog::print_line(std::int64_t step, const StepResult& result, std::int64_t peak_bytes) {
  clear_bar();
  const double rate = static_cast<double>(window_tokens_) / window_seconds_;
  const double left = all_seconds_ / static_cast<double>(all_steps_) * static_cast<double>(steps_ - step);
  fmt::print(
      "step {:>{}}/{} | loss {:.4f} | grad norm {:.3f} | lr {:.2e} | {} tok/s | MFU {:.1f} % | peak {:.0f} "
      "MiB | "
      "data wait {:.1f} % | ETA {}\n",
      step, fmt::formatted_size("{}", steps_), steps_, window_loss_ / static_cast<double>(window_steps_),
      result.grad_norm, result.lr, human_count(rate), 100 * window_flops_ / window_seconds_ / peak_flops_,
      static_cast<double>(peak_bytes) / 1048576.0, 100 * window_wait_ / window_seconds_,
      human_duration(left));
  std::fflush(stdout);
}

void TrainLog::draw_bar(std::int64_t step, double loss) {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_bar_ < std::chrono::milliseconds(100)) return;
  last_bar_ = now;
  constexpr std::int64_t width = 30;
  const std::int64_t filled = width * step / steps_;
  std::string bar;
  for (std::int64_t i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
  fmt::print("\r{} {}/{} | loss {:.4f}\033[K", bar, step, steps_, loss);
  std::fflush(stdout);
  bar_drawn_ = true;
}

void TrainLog::clear_bar() {
  if (bar_drawn_) fmt::print("\r\033[K");
  bar_drawn_ = false;
}

void TrainLog::evaluation(std::int64_t step, const Evaluation& evaluation, bool best) {
  note(fmt::format("step {:>{}}/{} | validation {}{}", step, fmt::formatted_size("{}", steps_), steps_,
                   describe(evaluation), best ? " (best so far)" : ""));
}

void TrainLog::note(const std::string& text) {
  clear_bar();
  fmt::print("{}\n", text);
  std::fflush(stdout);
}

std::string describe(const Evaluation& evaluation) {
  std::string text = fmt::format("loss {:.4f}", evaluation.loss);
  if (evaluation.bits_per_byte) text += fmt::format(", {:.3f} bits per byte", *evaluation.bits_per_byte);
  if (evaluation.accuracy) text += fmt::format(", accuracy {:.1f} %", 100 * *evaluation.accuracy);
  return text;
}

}  // namespace filigree
