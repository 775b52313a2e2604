// Multi-query associative recall (Arora et al., "Zoology: Measuring and improving recall in efficient
// language models", 2023): key value key value .. and then, among other tokens, each key once more; where it
// comes back the model must answer with its value.
//
// Keys are drawn without repetition from [1, vocab / 2), values from [vocab / 2, vocab). A key comes back at
// an even distance 2 g from the end of the pairs, g in [0, (seq_len - 2 pairs) / 2) drawn without repetition
// with probability proportional to (g + 1)^(power_a - 1): small powers ask soon after, 1 asks anywhere,
// larger ones ask late.
#include <algorithm>
#include <cmath>

#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

class MqarTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("vocab", vocab_, between(4, kMaxVocab), "tokens; one half are keys, the other one values");
    f.integer("pairs", pairs_, between(1, kMaxVocab), "keys with their values, each asked for once");
    f.number("power_a", power_a_, between(0, 100),
             "small: a key is soon asked for; 1: anywhere; large: late");
    f.boolean("random_filler", random_filler_, "random tokens stand between the queries; false: token 0");
  }
  void fit(MapReader& map, std::int64_t seq_len) override {
    if (pairs_ > vocab_ / 2 - 1)
      fail_at(map.mark_of("pairs"),
              fmt::format("{} pairs need as many different keys, and a vocabulary of {} has {}", pairs_,
                          vocab_, vocab_ / 2 - 1),
              fmt::format("set vocab to at least {}", 2 * (pairs_ + 1)));
    require_seq_len(map, seq_len, 4 * pairs_,
                    fmt::format("{} pairs (2 tokens each, and 2 for each query)", pairs_));
    const std::int64_t gaps = (seq_len - 2 * pairs_) / 2;
    const double power = power_a_ - 1, likeliest = power > 0 ? static_cast<double>(gaps) : 1;
    for (std::int64_t g = 0; g < gaps; ++g)
      gap_weights_.push_back(fixed_weight(std::pow(static_cast<double>(g + 1) / likeliest, power)));
  }

  std::string name() const override { return "mqar"; }
  std::int64_t vocab_size() const override { return vocab_; }

  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override {
    const auto pairs = static_cast<std::size_t>(pairs_);
    const std::int64_t half = vocab_ / 2;
    const auto keys = draw_distinct(random, half - 1, pairs_),
               values = draw_distinct(random, vocab_ - half, pairs_);
    if (random_filler_)
      for (std::int32_t& token : inputs.subspan(2 * pairs))
        token = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(vocab_)));
    const auto gaps = draw_weighted(random, gap_weights_, pairs_);
    for (std::size_t i = 0; i < pairs; ++i) {
      const auto key = static_cast<std::int32_t>(1 + keys[i]),
                 value = static_cast<std::int32_t>(half + values[i]);
      const std::size_t query = 2 * pairs + 2 * static_cast<std::size_t>(gaps[i]);
      inputs[2 * i] = inputs[query] = key;
      inputs[2 * i + 1] = targets[query] = value;
    }
    return {std::ssize(inputs)};
  }

 private:
  std::int64_t vocab_ = 8192, pairs_ = 8;
  double power_a_ = 0.01;
  bool random_filler_ = true;
  std::vector<std::uint64_t> gap_weights_;
};

}  // namespace

std::shared_ptr<GeneratedTask> make_mqar_task() {
  return std::make_shared<MqarTask>();
}

}  // namespace filigree
