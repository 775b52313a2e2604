#include "train/interchange/pattern_fit.h"

#include <algorithm>
#include <limits>

#include "attention/pattern.h"

namespace filigree {
namespace {

constexpr std::int64_t kNoWindow = std::numeric_limits<std::int64_t>::max();

// The keys that every token of every head and layer sees, itself included: kNoWindow for full attention,
// nullopt for anything but these two.
std::optional<std::int64_t> plain_window(const Config& config) {
  if (config.pattern.find("full") || config.pattern.scalar == "full") return kNoWindow;
  const YamlNode* local = config.pattern.find("local");
  if (!local) return std::nullopt;
  const YamlNode* dilation = local->find("dilation");
  if (dilation && dilation->scalar != "1") return std::nullopt;
  const std::int64_t window = as_integer(local->find("window")[0], "local.window", 1, kNoWindow);
  return window >= config.model.max_seq_len ? kNoWindow : window;
}

bool names_layout(const YamlNode& node) {
  const YamlNode* block = node.find("block");
  return (block && (block->find("file") || block->find("layout"))) ||
         std::ranges::any_of(node.items, names_layout) ||
         std::ranges::any_of(node.entries, [](const auto& entry) { return names_layout(entry.second); });
}

}  // namespace

PatternFit fit_pattern(const Config& config) {
  const Architecture shape = architecture_of(config.model);
  const auto window = plain_window(config);
  if (window == kNoWindow) return {shape, std::nullopt, true};
  if (window && shape == Architecture::llama && !config.model.bias)
    return {Architecture::mistral, window, true};
  return {shape, std::nullopt, false};
}

bool stands_alone(const YamlNode& pattern, int n_layers, int n_heads) {
  if (names_layout(pattern)) return false;
  for (const PatternPtr& layer : make_layer_patterns(pattern, n_layers, n_heads))
    for (int head = 0; head < n_heads; ++head)
      if (layer->learned(head)) return false;
  return true;
}

std::string pattern_text(const YamlNode& pattern) {
  std::string text = to_yaml(pattern);
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

}  // namespace filigree
