#include "attention/learned/routed.h"

#include <algorithm>
#include <limits>

#include "core/ops.h"
#include "core/parallel.h"

namespace filigree {
namespace {

constexpr float kForget = 0.99f;  // of the counts, per step

// Appends the mask of rows [from, end), every key.
void append_row_mask(int from, int end, MaskTable& masks) {
  const int words = masks.words_per_row(), tile = masks.tile();
  const std::uint64_t ones = tile < 64 ? (std::uint64_t{1} << tile) - 1 : ~std::uint64_t{0};
  std::vector<std::uint64_t> mask(masks.words_per_mask());
  for (int row = from; row < end; ++row) std::fill_n(mask.begin() + row * words, words, ones);
  masks.append(mask);
}

// Appends the masks of the rows from r on, 1 <= r < T, of a tile with `height` rows; returns where that of r
// = 0 would be.
std::int32_t append_row_masks(int height, MaskTable& masks) {
  const std::int32_t first = masks.size();
  for (int from = 1; from < masks.tile(); ++from) append_row_mask(from, height, masks);
  return first - 1;
}

// Appends the mask of each row alone; returns where they begin.
std::int32_t append_single_row_masks(MaskTable& masks) {
  const std::int32_t first = masks.size();
  for (int row = 0; row < masks.tile(); ++row) append_row_mask(row, row + 1, masks);
  return first;
}

// The computed tiles of one query tile.
struct RowTile {
  std::int32_t column, mask_id, entry;
};

// As a pattern's next row, in the order of TileLayout's, so that gates keep their tiles. Then it is empty.
void append_row(std::vector<RowTile>& row, TilePattern& pattern, std::vector<std::int32_t>& entries) {
  std::ranges::sort(row, {}, [](const RowTile& t) { return std::pair(t.mask_id == kFullTile, t.column); });
  for (const RowTile& t : row) {
    pattern.columns.push_back(t.column);
    pattern.mask_id.push_back(t.mask_id);
    entries.push_back(t.entry);
  }
  pattern.row_offsets.push_back(static_cast<std::int32_t>(pattern.columns.size()));
  row.clear();
}

}  // namespace

const Routed::Length& Routed::length(std::int64_t n) const {
  Length& made = lengths_[n];
  if (made.everything) return made;
  const LayoutPtr full = Learned::everything(n);
  const TilePattern& pattern = full->of_head(0);
  for (std::int64_t q = 0; q < full->query_tiles(); ++q) {
    const auto row = pattern.columns.begin() + pattern.row_offsets[q];
    const auto t = std::find(row, pattern.columns.begin() + pattern.row_offsets[q + 1], q);
    made.diagonal.push_back(pattern.mask_id[t - pattern.columns.begin()]);
  }
  MaskTable masks = full->masks();
  const int last = static_cast<int>(n - (full->query_tiles() - 1) * full->tile());
  made.rows_from = append_row_masks(full->tile(), masks);
  made.last_rows_from = append_row_masks(last, masks);
  made.single_rows = append_single_row_masks(masks);
  made.everything = std::make_shared<const TileLayout>(n, n, full->tile(), full->causal(), full->patterns(),
                                                       full->head_pattern(), std::move(masks));
  return made;
}

LayoutPtr Routed::everything(std::int64_t n) const {
  return length(n).everything;
}

// The tiles that the heads of one kv head compute of one sequence.
TilePattern Routed::pattern_of(const Length& length, const std::vector<RoutedTile>& tiles,
                               std::vector<std::int32_t>& entries) const {
  const std::int64_t side = length.everything->query_tiles();
  TilePattern pattern;
  std::vector<RowTile> row;
  const auto mask_of = [&](const RoutedTile& t, std::int32_t rows_from) {
    if (t.tried) return length.single_rows + t.first_row;
    return t.first_row == 0 ? kFullTile : rows_from + t.first_row;
  };
  pattern.row_offsets.push_back(0);
  auto tile = tiles.begin();
  for (std::int64_t q = 0; q < side; ++q) {
    const std::int32_t rows = q == side - 1 ? length.last_rows_from : length.rows_from;
    const auto diagonal = static_cast<std::int32_t>(q);
    for (std::int32_t k = 0; k < std::min(sinks(), heads().geometry.causal ? q : side); ++k)
      if (k != diagonal) row.push_back({k, kFullTile, 0});
    row.push_back({diagonal, length.diagonal[q], 0});
    for (; tile != tiles.end() && tile->q == q; ++tile)
      row.push_back({tile->k, mask_of(*tile, rows), 1 + tile->gate});
    append_row(row, pattern, entries);
  }
  return pattern;
}

// In one layout of B H heads. Waits for the device.
Connected Routed::connect_learning(const Sequences& s) const {
  const Routing routing = route(s.q, s.k, s.row_bounds, s.training);
  count(routing);
  const Length& here = length(s.n);
  const std::int64_t n_patterns = std::ssize(routing.tiles), each = heads().n_heads / heads().n_kv_heads;
  std::vector<TilePattern> patterns(n_patterns);
  std::vector<std::vector<std::int32_t>> entries(n_patterns);
  parallel_tasks(n_patterns,
                 [&](std::int64_t i) { patterns[i] = pattern_of(here, routing.tiles[i], entries[i]); });
  std::vector<std::int32_t> head_pattern, index;
  for (std::int64_t i = 0; i < n_patterns; ++i)
    for (std::int64_t h = 0; h < each; ++h) {
      head_pattern.push_back(static_cast<std::int32_t>(i));
      index.insert(index.end(), entries[i].begin(), entries[i].end());
    }
  const LayoutPtr& all = here.everything;
  Connected made{std::make_shared<const TileLayout>(s.n, s.n, all->tile(), all->causal(), std::move(patterns),
                                                    std::move(head_pattern), all->masks()),
                 {}};
  if (s.n == heads().geometry.n) routed_ = made.layout;
  if (!routing.gates.defined()) return made;
  const Var& gates = routing.gates;
  const Var parts[] = {Var(Tensor::full({1}, 1, gates.dtype(), gates.device())), gates};
  made.gate = pick_gates(ops::concat_last(parts), Tensor::of({std::ssize(index)}, index, gates.device()));
  return made;
}

double Routed::learning_target() const {
  return static_cast<double>(most_tiles(heads().geometry.n));
}

LayoutPtr Routed::computed() const {
  if (!reads_text()) return Learned::computed();
  if (!routed_) return everything(heads().geometry.n);
  return heads_of(*routed_, routed_->n_heads() - heads().n_heads, heads().n_heads);
}

// As many as the router may choose, where it stays one.
std::int64_t Routed::budget_tiles() const {
  return schedule().harden >= 1 ? most_tiles(heads().geometry.n) : Learned::budget_tiles();
}

void Routed::adapt(const TrainingStage&) {
  for (float& c : counts_) c *= kForget;
}

void Routed::begin_learning() {
  if (schedule().harden < 1) count_choices();
}

void Routed::count_choices() {
  if (!reads_text()) return;
  const std::int64_t side = query_tiles(heads().geometry.n);
  counts_.assign(heads().n_kv_heads * side * side, 0.0f);
}

void Routed::count(const Routing& routing) const {
  if (counts_.empty()) return;
  const std::int64_t side = query_tiles(heads().geometry.n), G = heads().n_kv_heads;
  for (std::int64_t bg = 0; bg < std::ssize(routing.tiles); ++bg)
    for (const RoutedTile& t : routing.tiles[bg])
      if (!t.tried && t.q < side && t.k < side) counts_[(bg % G * side + t.q) * side + t.k] += 1;
}

// How often a tile was chosen; at other lengths, how often tiles at its distance were.
Learned::TileScore Routed::scores() const {
  require(!counts_.empty(), "{}: block_topk hardens by how often tiles were chosen, and nothing was counted",
          heads().name);
  const std::int64_t side = query_tiles(heads().geometry.n), G = heads().n_kv_heads;
  std::vector<float> by_distance(G * side);
  for (std::int64_t g = 0; g < G; ++g)
    for (std::int64_t q = 0; q < side; ++q)
      for (std::int64_t k = 0; k < side; ++k)
        by_distance[g * side + std::abs(q - k)] +=
            counts_[(g * side + q) * side + k] / static_cast<float>(side - std::abs(q - k));
  return [this, side, each = heads().n_heads / G, by_distance = std::move(by_distance)](
             int head, std::int64_t q, std::int64_t k) {
    const std::int64_t g = head / each, d = std::abs(q - k);
    if (k < sinks()) return std::numeric_limits<float>::max();
    if (q < side && k < side) return counts_[(g * side + q) * side + k];
    return d < side ? by_distance[g * side + d] : 0.0f;
  };
}

ConnectivityState Routed::own_state() const {
  if (counts_.empty()) return {};
  return {{"counts", Tensor::of({std::ssize(counts_)}, counts_)}};
}

void Routed::load_own_state(const ConnectivityState& state) {
  const auto counts = std::ranges::find(state, "counts", &ConnectivityState::value_type::first);
  if (counts == state.end()) return;
  const std::int64_t side = query_tiles(heads().geometry.n);
  const Tensor& values = counts->second;
  if (values.dtype() != DType::f32 || values.numel() != heads().n_kv_heads * side * side)
    fail(ErrorKind::data, "the checkpoint's counts of {} are for another length", heads().name);
  counts_.assign(values.values<float>().begin(), values.values<float>().end());
}

Connected Routed::growing(std::int64_t n) const {
  return reads_text() ? Connected{everything(n), {}} : Learned::growing(n);
}

}  // namespace filigree
