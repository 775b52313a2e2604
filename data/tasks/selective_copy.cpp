// Selective copying (Gu and Dao, "Mamba", 2023, 4.1.1; after Arjovsky et al. 2016): `tokens` symbols stand at
// random places among noise; at the end come as many markers, and at the j-th the answer is the j-th symbol.
//
// Token 0 is the noise, vocab - 1 the marker, the symbols lie between. The symbols stand among the first
// seq_len - tokens positions; the published task is vocab 16, 16 tokens, 4,096 positions before the markers.
#include <algorithm>

#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

class SelectiveCopyTask : public GeneratedTask {
 public:
  void fields(Fields& f) override {
    f.integer("vocab", vocab_, between(4, kMaxVocab), "tokens, noise and marker included");
    f.integer("tokens", tokens_, between(1, kMaxVocab), "symbols to copy");
  }
  void fit(MapReader& map, std::int64_t seq_len) override {
    require_seq_len(map, seq_len, 2 * tokens_, fmt::format("{} tokens and their copies", tokens_));
  }

  std::string name() const override { return "selective_copy"; }
  std::int64_t vocab_size() const override { return vocab_; }

  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override {
    const std::int64_t noise = std::ssize(inputs) - tokens_;
    auto places = draw_distinct(random, noise, tokens_);
    std::ranges::sort(places);
    for (std::size_t j = 0; j < places.size(); ++j) {
      const auto symbol = static_cast<std::int32_t>(random.range(1, vocab_ - 2));
      const std::size_t marker = static_cast<std::size_t>(noise) + j;
      inputs[places[j]] = targets[marker] = symbol;
      inputs[marker] = static_cast<std::int32_t>(vocab_ - 1);
    }
    return {std::ssize(inputs)};
  }

 private:
  std::int64_t vocab_ = 16, tokens_ = 16;
};

}  // namespace

std::shared_ptr<GeneratedTask> make_selective_copy_task() {
  return std::make_shared<SelectiveCopyTask>();
}

}  // namespace filigree
