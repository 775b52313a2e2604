#include "train/config/layouts.h"

#include <fmt/format.h>

#include "core/file.h"
#include "core/hash.h"

namespace filigree {

std::string layout_files_sum(const Config& config) {
  Xxhash64 sum;
  std::int64_t count = 0;
  for (const auto& layout : named_layouts(config.pattern)) {
    if (!layout.in_file) continue;
    const std::string bytes = read_file(layout.name);
    sum.update(bytes.data(), bytes.size());
    ++count;
  }
  return count ? hex64(sum.digest()) : "";
}

bool pattern_fits(const Config& config, std::int64_t seq_len) {
  const ModelConfig& model = config.model;
  const Geometry geometry{seq_len, config.causal, config.tile};
  try {
    for (const PatternPtr& pattern : make_layer_patterns(config.pattern, model.n_layers, model.n_heads))
      pattern->validate(geometry, model.n_heads);
    return true;
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::usage) throw;
    return false;
  }
}

void validate_pattern(const Config& config) {
  const Geometry geometry{config.data.seq_len, config.causal, config.tile};
  const ModelConfig& model = config.model;
  for (const PatternPtr& pattern : make_layer_patterns(config.pattern, model.n_layers, model.n_heads)) {
    pattern->validate(geometry, model.n_heads);
    require_pairs(*pattern, geometry, model.n_heads, config.pattern.written.mark);
  }
}

LayerPatternsPtr layer_patterns(const Config& config) {
  const ModelConfig& model = config.model;
  return std::make_shared<const LayerPatterns>(
      make_layer_patterns(config.pattern, model.n_layers, model.n_heads),
      Geometry{config.data.seq_len, config.causal, config.tile}, model.n_heads);
}

std::vector<LayoutPtr> build_layouts(const Config& config, std::int64_t seq_len) {
  return layer_patterns(config)->layouts(seq_len);
}

std::string describe_layouts(const Config& config, const std::vector<LayoutPtr>& layouts) {
  const std::string yaml = to_yaml(config.pattern);
  std::string text = fmt::format("pattern   {}", yaml.find('\n') + 1 < yaml.size() ? "\n" + yaml : yaml);
  if (!text.ends_with('\n')) text += '\n';
  for (std::size_t first = 0, last = 0; first < layouts.size(); first = last + 1) {
    for (last = first; last + 1 < layouts.size() && layouts[last + 1] == layouts[first];) ++last;
    const TileLayout& layout = *layouts[first];
    const LayoutStatistics s = layout.statistics();
    text += fmt::format(
        "layer{}   {} tiles, {} ({} x {}, {:.1f} a row, at most {}); {}\n",
        first == last ? fmt::format(" {}", first) : fmt::format("s {}-{}", first, last), s.computed_tiles,
        of_full_text(static_cast<double>(s.computed_tiles), static_cast<double>(s.full_tiles)), layout.tile(),
        layout.tile(), s.mean_tiles_per_row, s.max_tiles_per_row,
        of_full_text(static_cast<double>(s.exact_pairs), static_cast<double>(s.full_pairs), "pairs"));
  }
  return text;
}

}  // namespace filigree
