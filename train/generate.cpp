#include "train/generate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "train/layouts.h"

namespace filigree {

std::int32_t sample(std::span<const float> logits, double temperature, int top_k, double uniform) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto larger = [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const std::size_t keep = temperature <= 0 ? 1
                           : top_k > 0      ? std::min<std::size_t>(top_k, order.size())
                                            : order.size();
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(keep), order.end(), larger);
  order.resize(keep);
  if (keep == 1) return order[0];

  std::vector<double> weights(keep);
  for (std::size_t i = 0; i < keep; ++i)
    weights[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / temperature);
  double left = uniform * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < keep; ++i) {
    left -= weights[i];
    if (left <= 0) return order[i];
  }
  return order.back();
}

void generate(const LoadedModel& loaded, std::vector<std::int32_t> text, const GenerateOptions& options,
              const std::function<bool(std::int32_t)>& use) {
  const Config& config = loaded.config;
  require(config.model.type == ModelType::decoder,
          "[generate] only a decoder generates text; this model is {}", word(config.model.type));
  require(!text.empty(), "[generate] the prompt has no tokens");
  const std::int64_t longest = config.data.seq_len, tile = config.tile;
  std::map<std::int64_t, std::vector<LayoutPtr>> layouts;  // by padded length
  RandomStream random(RandomKey{options.seed, random_site("generate"), 0});
  const NoGrad no_tape;
  const bool any_length = pattern_fits(config, 1);
  for (std::int64_t made = 0; made < options.tokens; ++made) {
    if (std::ssize(text) > longest)
      text.erase(text.begin(), text.end() - std::max<std::int64_t>(1, longest / 2));
    const auto length = std::ssize(text);
    // Padding to whole tiles keeps the number of layouts small; causality hides it from the text.
    const std::int64_t padded = any_length ? std::min(longest, (length + tile - 1) / tile * tile) : longest;
    auto& layout = layouts[padded];
    if (layout.empty()) layout = build_layouts(config, padded);
    std::vector<std::int32_t> ids = text;
    ids.resize(static_cast<std::size_t>(padded), 0);
    const ModelInput input{Tensor::of({1, padded}, ids, loaded.model->device()), {}, {}, layout};
    const Tensor logits =
        loaded.model->logits_at(input, length - 1, {}).value().to(DType::f32).to(Device::cpu());
    const std::int32_t next =
        sample(logits.values<float>(), options.temperature, options.top_k, random.uniform());
    if (!use(next)) return;
    text.push_back(next);
  }
}

}  // namespace filigree
