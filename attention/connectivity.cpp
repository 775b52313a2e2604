#include "attention/connectivity.h"

#include <algorithm>

#include "core/ops.h"

namespace filigree {
namespace {

// The gates of a leading layout's tiles: the first ones of each head.
Var leading_gate(const Var& gate, const TileLayout& whole, const TileLayout& leading) {
  if (!gate.defined()) return {};
  const Tensor all = gate.value().to(Device::cpu());
  Tensor part = Tensor::empty({leading.gate_size()}, gate.dtype());
  for (int h = 0; h < whole.n_heads(); ++h) {
    const std::int64_t from = whole.gate_offset(h), to = leading.gate_offset(h);
    part.slice(to, leading.gate_offset(h + 1)).copy_from(all.slice(from, from + leading.of_head(h).tiles()));
  }
  return Var(part.to(gate.device()));
}

}  // namespace

const Tensor& find_state(const ConnectivityState& state, std::string_view name) {
  for (const auto& [key, value] : state)
    if (key == name) return value;
  fail(ErrorKind::data, "the checkpoint lacks {}", name);
}

LearnTelemetry& LearnTelemetry::operator+=(const LearnTelemetry& o) {
  target_tiles += o.target_tiles;
  expected_tiles += o.expected_tiles;
  actual_tiles += o.actual_tiles;
  for (std::size_t i = 0; i < histogram.size(); ++i) histogram[i] += o.histogram[i];
  units += o.units;
  dead_units += o.dead_units;
  heads += o.heads;
  most_tiles = std::max(most_tiles, o.most_tiles);
  return *this;
}

Connected Fixed::connect(const Sequences& sequences) const {
  constexpr std::size_t kMostLengths = 16;
  if (made_.size() > kMostLengths && !made_.contains(sequences.n))
    std::erase_if(made_, [&](const auto& entry) { return entry.first != training_geometry().n; });
  Connected& made = made_[sequences.n];
  if (!made.layout) made = make_(sequences.n);
  return made;
}

bool LayerPatterns::learns(std::size_t layer) const {
  for (int head = 0; head < n_heads_; ++head)
    if (layers_[layer]->learned(head)) return true;
  return false;
}

bool LayerPatterns::learns() const {
  for (std::size_t layer = 0; layer < layers_.size(); ++layer)
    if (learns(layer)) return true;
  return false;
}

std::vector<LayoutPtr> LayerPatterns::layouts(std::int64_t n) const {
  const std::lock_guard lock(mutex_);
  std::vector<LayoutPtr>& made = layouts_[n];
  if (made.empty()) made = build_layer_layouts(layers_, {n, training_.causal, training_.tile}, n_heads_);
  return made;
}

ConnectivityPtr fixed_connectivity(const LayerPatternsPtr& patterns, std::size_t layer) {
  return std::make_shared<Fixed>(patterns->training(), [patterns, layer](std::int64_t n) {
    return Connected{patterns->layouts(n)[layer], {}};
  });
}

std::vector<ConnectivityPtr> fixed_connectivities(const LayerPatternsPtr& patterns) {
  std::vector<ConnectivityPtr> all;
  for (std::size_t i = 0; i < patterns->layers().size(); ++i) all.push_back(fixed_connectivity(patterns, i));
  return all;
}

ConnectivityPtr as_hardened(const ConnectivityPtr& connectivity) {
  return std::make_shared<Fixed>(connectivity->training_geometry(), [connectivity](std::int64_t n) {
    return Connected{connectivity->hardened(n), {}};
  });
}

Var pick_gates(const Var& table, const Tensor& index) {
  const Var picked = ops::embedding(ops::reshape(table, {table.numel(), 1}), index);
  return ops::reshape(picked, {index.numel()});
}

LayoutPtr heads_of(const TileLayout& layout, int first, int count) {
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern, known(layout.patterns().size(), -1);
  for (int head = first; head < first + count; ++head) {
    std::int32_t& at = known[layout.head_pattern()[head]];
    if (at < 0) {
      at = static_cast<std::int32_t>(patterns.size());
      patterns.push_back(layout.of_head(head));
    }
    head_pattern.push_back(at);
  }
  return std::make_shared<const TileLayout>(layout.n_queries(), layout.n_keys(), layout.tile(),
                                            layout.causal(), std::move(patterns), std::move(head_pattern),
                                            layout.masks());
}

LayoutPtr leading_layout(const LayoutPtr& layout, std::int64_t n) {
  check(layout->causal() && n >= 1 && n <= layout->n_queries(), "no leading part of a layout");
  if (n == layout->n_queries()) return layout;
  check(n % layout->tile() == 0, "a leading part of a layout is made of whole tiles");
  const std::int64_t rows = n / layout->tile();
  std::vector<TilePattern> patterns;
  for (const TilePattern& whole : layout->patterns()) {
    const std::int32_t tiles = whole.row_offsets[rows];
    TilePattern part;
    part.row_offsets.assign(whole.row_offsets.begin(), whole.row_offsets.begin() + rows + 1);
    part.columns.assign(whole.columns.begin(), whole.columns.begin() + tiles);
    part.mask_id.assign(whole.mask_id.begin(), whole.mask_id.begin() + tiles);
    patterns.push_back(std::move(part));
  }
  return std::make_shared<TileLayout>(n, n, layout->tile(), true, std::move(patterns), layout->head_pattern(),
                                      layout->masks());
}

ConnectivityPtr as_beginning(const ConnectivityPtr& connectivity, std::int64_t longest) {
  if (connectivity->reads_text()) return connectivity;
  const NoGrad no_tape;
  const Connected whole = connectivity->growing(longest);
  return std::make_shared<Fixed>(connectivity->training_geometry(), [whole](std::int64_t n) {
    LayoutPtr layout = leading_layout(whole.layout, n);
    Var gate = leading_gate(whole.gate, *whole.layout, *layout);
    return Connected{std::move(layout), std::move(gate)};
  });
}

}  // namespace filigree
