// Induction heads (Olsson et al. 2022, in the form of Gu and Dao, "Mamba", 2023, 4.1.2): a special token
// stands once among random ones and once more at the end; the answer there is the token that followed it.
//
// The special token is vocab - 1; all others are drawn uniformly. Published: vocab 16, trained at 256 tokens,
// tested at up to 2^20.
#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

class InductionTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("vocab", vocab_, between(3, kMaxVocab), "tokens, the special one included");
  }
  void fit(MapReader& map, std::int64_t seq_len) override {
    require_seq_len(map, seq_len, 3, "the special token, its successor and the question");
  }

  std::string name() const override { return "induction"; }
  std::int64_t vocab_size() const override { return vocab_; }

  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override {
    const auto special = static_cast<std::int32_t>(vocab_ - 1);
    for (std::int32_t& token : inputs) token = static_cast<std::int32_t>(random.range(0, special - 1));
    const auto place = static_cast<std::size_t>(random.range(0, std::ssize(inputs) - 3));
    inputs[place] = inputs.back() = special;
    targets.back() = inputs[place + 1];
    return {std::ssize(inputs)};
  }

 private:
  std::int64_t vocab_ = 16;
};

}  // namespace

std::shared_ptr<GeneratedTask> make_induction_task() {
  return std::make_shared<InductionTask>();
}

}  // namespace filigree
