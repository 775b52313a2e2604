#include "attention/learned/learned_layer.h"

#include <algorithm>

#include "core/ops.h"
#include "core/parallel.h"

namespace filigree {
namespace {

// Exploration's draw for a tile, uniform in [0, 1).
float draw(const RandomKey& key, int head, std::int64_t q, std::int64_t k) {
  const auto index = static_cast<std::uint64_t>(head) << 48 | static_cast<std::uint64_t>(q) << 24 |
                     static_cast<std::uint64_t>(k);
  return uniform01(key.block(index)[0]);
}

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
class RowOfTiles {
 public:
  void add(std::int32_t column, std::int32_t mask_id, std::int32_t entry) {
    tiles_.push_back({column, mask_id, entry});
  }
  // As a pattern's next row, in the order of TileLayout's, so that gates keep their tiles. Then it is empty.
  void append_to(TilePattern& pattern, std::vector<std::int32_t>& entries) {
    std::ranges::sort(tiles_, {}, [](const Tile& t) { return std::pair(t.mask_id == kFullTile, t.column); });
    for (const Tile& t : tiles_) {
      pattern.columns.push_back(t.column);
      pattern.mask_id.push_back(t.mask_id);
      entries.push_back(t.entry);
    }
    pattern.row_offsets.push_back(static_cast<std::int32_t>(pattern.columns.size()));
    tiles_.clear();
  }

 private:
  struct Tile {
    std::int32_t column, mask_id, entry;
  };
  std::vector<Tile> tiles_;
};

// Undefined where all entries are 0, whose gate is 1.
Tensor index_of(const std::vector<std::int32_t>& entries, Device device) {
  if (std::ranges::all_of(entries, [](std::int32_t e) { return e == 0; })) return {};
  return Tensor::of({std::ssize(entries)}, entries, device);
}

// The layout of the last n heads.
LayoutPtr last_heads(const TileLayout& layout, int n) {
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (int head = layout.n_heads() - n; head < layout.n_heads(); ++head) {
    head_pattern.push_back(static_cast<std::int32_t>(patterns.size()));
    patterns.push_back(layout.of_head(head));
  }
  return std::make_shared<const TileLayout>(layout.n_queries(), layout.n_keys(), layout.tile(),
                                            layout.causal(), std::move(patterns), std::move(head_pattern),
                                            layout.masks());
}

// The gates of a layout: entries of the table.
Var pick(const Var& table, const Tensor& index) {
  const Var picked = ops::embedding(ops::reshape(table, {table.numel(), 1}), index);
  return ops::reshape(picked, {index.numel()});
}

}  // namespace

LearnedLayer::LearnedLayer(const ParameterFactory& make, const std::string& name, PatternPtr pattern,
                           const Geometry& geometry, int n_heads, int n_kv_heads, std::int64_t head_dim)
    : Connectivity(geometry),
      pattern_(std::move(pattern)),
      geometry_(geometry),
      n_heads_(n_heads),
      n_kv_heads_(n_kv_heads),
      device_(make.device),
      dtype_(make.dtype),
      name_(name) {
  const int each = n_heads / n_kv_heads;  // query heads of a kv head
  for (int first = 0, end = 0; first < n_heads; first = end) {
    const LearnedPattern* learned = pattern_->learned(first);
    for (end = first + 1; end < n_heads && pattern_->learned(end) == learned;) ++end;
    if (!learned) continue;
    const bool whole_groups = first % each == 0 && end % each == 0;
    const LearnedHeads heads{first == 0 && end == n_heads ? name : fmt::format("{}.{}", name, first),
                             end - first, whole_groups ? (end - first) / each : 0, head_dim, geometry};
    Group group;
    group.first_head = first;
    group.mechanism = learned->make(heads, make);
    group.gated = dynamic_cast<GatedMechanism*>(group.mechanism.get());
    group.routed = dynamic_cast<RoutedMechanism*>(group.mechanism.get());
    group.first_entry = entries_;
    if (group.gated) entries_ += group.gated->entries();
    groups_.push_back(std::move(group));
  }
  check(!groups_.empty(), "a learned layer without learned heads");
}

bool LearnedLayer::is_static() const {
  return std::ranges::all_of(groups_, [](const Group& g) { return g.phase == LearnPhase::hardened; });
}

bool LearnedLayer::has_warmed_up() const {
  return std::ranges::none_of(groups_, [](const Group& g) { return g.phase == LearnPhase::warm_up; });
}

bool LearnedLayer::reads_text() const {
  return std::ranges::any_of(groups_, &Group::routes);
}

const LearnedLayer::Everything& LearnedLayer::everything(std::int64_t n) const {
  auto& made = everything_[n];
  if (made) return *made;
  Geometry geometry = geometry_;
  geometry.n = n;
  TileLayout layout = build_layout(*pattern_, geometry, n_heads_);
  MaskTable masks = layout.masks();
  made = std::make_unique<Everything>(Everything{std::move(layout), std::move(masks), 0, 0, 0, {}});
  const auto router = std::ranges::find_if(groups_, [](const Group& g) { return g.routed != nullptr; });
  if (router == groups_.end()) return *made;
  const int last = static_cast<int>(n - (made->layout.query_tiles() - 1) * geometry_.tile);
  made->rows_from = append_row_masks(geometry_.tile, made->masks);
  made->last_rows_from = append_row_masks(last, made->masks);
  made->single_rows = append_single_row_masks(made->masks);
  const TilePattern& pattern = made->layout.of_head(router->first_head);  // which has all tiles
  for (std::int64_t q = 0; q < made->layout.query_tiles(); ++q) {
    const auto row = pattern.columns.begin() + pattern.row_offsets[q];
    const auto t = std::find(row, pattern.columns.begin() + pattern.row_offsets[q + 1], q);
    made->diagonal.push_back(pattern.mask_id[t - pattern.columns.begin()]);
  }
  return *made;
}

const LearnedLayer::Group* LearnedLayer::group_of(int head) const {
  const auto found = std::ranges::find_if(
      groups_, [&](const Group& g) { return g.first_head <= head && head < g.first_head + g.n_heads(); });
  return found == groups_.end() ? nullptr : &*found;
}

LearnedLayer::HeadView LearnedLayer::assemble_head(int head, const Everything& all,
                                                   const Chooser& chooser) const {
  const TilePattern& from = all.layout.of_head(head);
  const Group* group = group_of(head);
  HeadView made;
  RowOfTiles row;
  made.pattern.row_offsets.push_back(0);
  for (std::int64_t q = 0; q < all.layout.query_tiles(); ++q) {
    for (std::int64_t t = from.row_offsets[q]; t < from.row_offsets[q + 1]; ++t) {
      const std::int32_t k = from.columns[t];
      const auto choice = group ? chooser(*group, head - group->first_head, q, k, from.mask_id[t])
                                : std::optional(Choice{from.mask_id[t], 0});
      if (choice) row.add(k, choice->mask_id, choice->entry);
    }
    row.append_to(made.pattern, made.entries);
  }
  return made;
}

LearnedLayer::View LearnedLayer::assemble(std::int64_t n, Chooser chooser) const {
  const Everything& all = everything(n);
  std::vector<HeadView> heads(n_heads_);
  parallel_tasks(n_heads_, [&](std::int64_t head) {
    heads[head] = assemble_head(static_cast<int>(head), all, chooser);
  });
  View view;
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern;
  for (HeadView& head : heads) {
    view.entries.insert(view.entries.end(), head.entries.begin(), head.entries.end());
    const auto equal = std::ranges::find_if(patterns, [&](const TilePattern& p) {
      return p.row_offsets == head.pattern.row_offsets && p.columns == head.pattern.columns &&
             p.mask_id == head.pattern.mask_id;
    });
    head_pattern.push_back(static_cast<std::int32_t>(equal - patterns.begin()));
    if (equal == patterns.end()) patterns.push_back(std::move(head.pattern));
  }
  view.layout = std::make_shared<const TileLayout>(n, n, geometry_.tile, geometry_.causal,
                                                   std::move(patterns), std::move(head_pattern), all.masks);
  view.index = index_of(view.entries, device_);
  view.chooser = std::move(chooser);
  return view;
}

// Hardened groups as they are; with `all`, every group as if it were hardened now.
LearnedLayer::Chooser LearnedLayer::by_hardened(std::int64_t n, bool all) const {
  const std::int64_t side = (n + geometry_.tile - 1) / geometry_.tile;
  auto on = std::make_shared<std::map<const Group*, TileSet>>();
  for (const Group& group : groups_) {
    if (!all && group.phase != LearnPhase::hardened) continue;
    TileSet& tiles = on->try_emplace(&group, group.n_heads(), side).first->second;
    // A shorter sequence has the beginning of training's layout.
    const bool known = group.phase == LearnPhase::hardened && n <= geometry_.n;
    for (const HeadTile& t :
         known ? group.hardened : group.mechanism->hardened_tiles(std::max(n, geometry_.n)))
      if (t.q < side && t.k < side) tiles.add(t);
  }
  return [on](const Group& group, int head, std::int64_t q, std::int64_t k,
              std::int32_t mask_id) -> std::optional<Choice> {
    if (!on->at(&group).has(head, q, k)) return {};
    return Choice{mask_id, 0};
  };
}

// What each group computes by its phase. Routers, which are asked at every pass, have nothing but the
// diagonal here.
LearnedLayer::Chooser LearnedLayer::by_gates(std::int64_t n, bool training) const {
  auto gates = std::make_shared<std::map<const Group*, Tensor>>();
  for (const Group& group : groups_)
    if (group.gated && group.phase == LearnPhase::learning) {
      const NoGrad no_tape;
      (*gates)[&group] = group.gated->gates(training).value().to(DType::f32).to(Device::cpu());
    }
  const RandomKey key{stage_.seed, random_site(name_ + ".explore"), static_cast<std::uint32_t>(stage_.step)};
  return [this, gates, key, training, hardened = by_hardened(n, false)](
             const Group& group, int head, std::int64_t q, std::int64_t k,
             std::int32_t mask_id) -> std::optional<Choice> {
    if (q == k || group.phase == LearnPhase::warm_up) return Choice{mask_id, 0};
    if (group.phase == LearnPhase::hardened) return hardened(group, head, q, k, mask_id);
    if (group.routed) return {};
    const std::int32_t entry = group.gated->entry(head, q, k);
    if (entry == GatedMechanism::kOff) return {};
    const double share = training ? group.mechanism->schedule().explore : 0;
    const bool on = device_.is_meta() || gates->at(&group).data<float>()[entry] > 0 ||
                    (share > 0 && draw(key, group.first_head + head, q, k) < share);
    if (!on) return {};
    return Choice{mask_id, static_cast<std::int32_t>(group.first_entry + entry)};
  };
}

void LearnedLayer::advance(const TrainingStage& stage) {
  evaluation_.clear();
  if (is_static()) return;
  bool due = chosen_at_ < 0;
  stage_ = stage;
  for (Group& group : groups_) {
    const LearnSchedule& schedule = group.mechanism->schedule();
    if (group.phase == LearnPhase::hardened) continue;
    if (group.routed) group.routed->adapt(stage);
    const LearnPhase phase = stage.progress >= schedule.harden   ? LearnPhase::hardened
                             : stage.progress >= schedule.warmup ? LearnPhase::learning
                                                                 : LearnPhase::warm_up;
    due = due || phase != group.phase ||
          (group.gated && phase == LearnPhase::learning && stage.step >= chosen_at_ + schedule.refresh);
    if (phase == LearnPhase::learning && phase != group.phase && group.routed && schedule.harden < 1)
      group.routed->start_counting();
    group.phase = phase;
    if (phase == LearnPhase::hardened) group.hardened = group.mechanism->hardened_tiles(geometry_.n);
  }
  if (!due) return;
  chosen_at_ = stage.step;
  for (Group& group : groups_)
    if (group.gated && group.phase == LearnPhase::learning) {
      group.gated->aim(stage.progress);
      group.gated->draw_noise(stage);
    }
  training_ = assemble(geometry_.n, by_gates(geometry_.n, true));
  // Now, while the device is idle, and not in the middle of the forward pass.
  if (device_.like_cuda() && !reads_text()) training_.layout->on(device_, n_kv_heads_);
}

void LearnedLayer::harden() {
  for (Group& group : groups_) {
    if (group.phase != LearnPhase::hardened) group.hardened = group.mechanism->hardened_tiles(geometry_.n);
    group.phase = LearnPhase::hardened;
  }
  training_ = assemble(geometry_.n, by_hardened(geometry_.n, false));
  evaluation_.clear();
}

std::int64_t LearnedLayer::budget_tiles() const {
  std::int64_t tiles = 0;
  for (int head = 0; head < n_heads_; ++head)
    if (!group_of(head)) tiles += everything(geometry_.n).layout.of_head(head).tiles();
  for (const Group& group : groups_) {
    const bool stays = group.routed && group.mechanism->schedule().harden >= 1;
    tiles += stays ? group.routed->most_tiles(geometry_.n) : group.mechanism->budget_tiles(geometry_.n);
  }
  return tiles;
}

double LearnedLayer::warmup() const {
  double share = 0;
  for (const Group& group : groups_) share = std::max(share, group.mechanism->schedule().warmup);
  return share;
}

bool LearnedLayer::can_harden() const {
  return std::ranges::all_of(
      groups_, [](const Group& g) { return g.phase == LearnPhase::hardened || g.mechanism->can_harden(); });
}

void LearnedLayer::count_choices() {
  if (!reads_text()) return;
  for (Group& group : groups_)
    if (group.routed) group.routed->start_counting();
}

LayoutPtr LearnedLayer::hardened(std::int64_t n) const {
  return assemble(n, by_hardened(n, true)).layout;
}

Var LearnedLayer::table(bool training) const {
  std::vector<Var> parts{Var(Tensor::full({1}, 1, dtype_, device_))};
  for (const Group& group : groups_)
    if (group.gated)
      parts.push_back(group.phase == LearnPhase::learning
                          ? group.gated->gates(training)
                          : Var(Tensor::full({group.gated->entries()}, 1, dtype_, device_)));
  return ops::concat_last(parts);
}

const LearnedLayer::View& LearnedLayer::view(std::int64_t n, bool training) const {
  if (training) {
    check(training_.layout && n == geometry_.n,
          "a learned layer trains before advance(), or at another length");
    return training_;
  }
  View& kept = evaluation_[n];
  if (!kept.layout) kept = assemble(n, by_gates(n, false));
  return kept;
}

Connected LearnedLayer::connect(std::int64_t n, bool training) const {
  const View& v = view(n, training);
  if (!v.index.defined()) return {v.layout, {}};
  // A tile's rows are 1 / query tiles of all.
  const double most = kMostGain / static_cast<double>(v.layout->query_tiles());
  return {v.layout, ops::limit_gradient(pick(table(training), v.index), most)};
}

LearnedLayer::Routings LearnedLayer::route(const Var& q, const Var& k, const Tensor& row_bounds,
                                           bool training) const {
  const std::int64_t B = q.dim(0), n = q.dim(1), D = q.dim(3);
  // Heads [first, first + count) of x.
  const auto heads_of = [&](const Var& x, std::int64_t first, std::int64_t count) {
    if (count == x.dim(2)) return x;
    std::vector<std::int64_t> sizes;
    const std::size_t place = first > 0;
    for (const std::int64_t heads : {first, count, x.dim(2) - first - count})
      if (heads > 0) sizes.push_back(heads * D);
    const auto parts = ops::split_last(ops::reshape(x, {B, n, x.dim(2) * D}), sizes);
    return ops::reshape(parts[place], {B, n, count, D});
  };
  Routings all;
  std::int64_t entries = entries_;
  for (const Group& group : groups_) {
    if (!group.routes()) continue;
    const LearnedHeads& heads = group.mechanism->heads();
    Routing routing = group.routed->route(
        heads_of(q, group.first_head, heads.n_heads),
        heads_of(k, std::int64_t{group.first_head} * n_kv_heads_ / n_heads_, heads.n_kv_heads), row_bounds,
        training);
    all.first_entries[&group] = entries;
    if (routing.gates.defined()) {
      entries += routing.gates.numel();
      all.gates.push_back(routing.gates);
    }
    all.of[&group] = std::move(routing);
  }
  return all;
}

// What the heads of one of a router's kv heads compute of one sequence.
LearnedLayer::HeadView LearnedLayer::routed_head(const Group& group, const Everything& all,
                                                 const std::vector<RoutedTile>& tiles,
                                                 std::int64_t first_entry) const {
  const std::int64_t side = all.layout.query_tiles(), sinks = group.routed->sinks();
  HeadView made;
  RowOfTiles row;
  const auto mask_of = [&](const RoutedTile& t, std::int32_t rows_from) {
    if (t.tried) return all.single_rows + t.first_row;
    return t.first_row == 0 ? kFullTile : rows_from + t.first_row;
  };
  made.pattern.row_offsets.push_back(0);
  auto tile = tiles.begin();
  for (std::int64_t q = 0; q < side; ++q) {
    const std::int32_t rows = q == side - 1 ? all.last_rows_from : all.rows_from;
    const auto diagonal = static_cast<std::int32_t>(q);
    for (std::int32_t k = 0; k < std::min(sinks, geometry_.causal ? q : side); ++k)
      if (k != diagonal) row.add(k, kFullTile, 0);
    row.add(diagonal, all.diagonal[q], 0);
    for (; tile != tiles.end() && tile->q == q; ++tile)
      row.add(tile->k, mask_of(*tile, rows), static_cast<std::int32_t>(first_entry + tile->gate));
    row.append_to(made.pattern, made.entries);
  }
  return made;
}

// The tiles of routers sequence by sequence, the other heads' as `others` has them.
LearnedLayer::View LearnedLayer::assemble_each(std::int64_t batch, std::int64_t n, const View& others,
                                               const Routings& routings) const {
  const Everything& all = everything(n);
  View view;
  std::vector<TilePattern> patterns = others.layout->patterns();  // then those of routers
  std::vector<std::int32_t> head_pattern(batch * n_heads_);
  std::vector<std::vector<std::int32_t>> entries(head_pattern.size());
  for (int head = 0; head < n_heads_; ++head)
    for (std::int64_t b = 0; b < batch; ++b) {
      const auto place = static_cast<std::size_t>(b * n_heads_ + head);
      head_pattern[place] = others.layout->head_pattern()[head];
      const auto first = others.entries.begin() + others.layout->gate_offset(head);
      entries[place].assign(first, first + others.layout->of_head(head).tiles());
    }
  for (const auto& [group, routing] : routings.of) {
    const std::int64_t kv_heads = group->mechanism->heads().n_kv_heads, each = group->n_heads() / kv_heads;
    const auto first_pattern = std::ssize(patterns);
    patterns.resize(patterns.size() + routing.tiles.size());
    parallel_tasks(std::ssize(routing.tiles), [&, group = group, &routing = routing](std::int64_t i) {
      HeadView made = routed_head(*group, all, routing.tiles[i], routings.first_entries.at(group));
      for (std::int64_t h = 0; h < each; ++h) {
        const auto place =
            static_cast<std::size_t>(i / kv_heads * n_heads_ + group->first_head + i % kv_heads * each + h);
        head_pattern[place] = static_cast<std::int32_t>(first_pattern + i);
        entries[place] = made.entries;
      }
      patterns[first_pattern + i] = std::move(made.pattern);
    });
  }
  view.layout = std::make_shared<const TileLayout>(n, n, geometry_.tile, geometry_.causal,
                                                   std::move(patterns), std::move(head_pattern), all.masks);
  for (const auto& e : entries) view.entries.insert(view.entries.end(), e.begin(), e.end());
  view.index = index_of(view.entries, device_);
  return view;
}

Connected LearnedLayer::connect_each(const Var& q, const Var& k, const Tensor& row_bounds,
                                     bool training) const {
  const std::int64_t B = q.dim(0), n = q.dim(1);
  const Routings routings = route(q, k, row_bounds, training);
  const View v = assemble_each(B, n, view(n, training), routings);
  if (n == geometry_.n) {
    routed_ = v.layout;
    routed_last_ = nullptr;
  }
  if (!v.index.defined()) return {v.layout, {}};
  std::vector<Var> gates{table(training)};
  gates.insert(gates.end(), routings.gates.begin(), routings.gates.end());
  return {v.layout, pick(ops::concat_last(gates), v.index)};
}

LayoutPtr LearnedLayer::computed() const {
  if (!training_.layout) return std::make_shared<const TileLayout>(everything(geometry_.n).layout);
  if (!reads_text() || !routed_) return training_.layout;
  if (!routed_last_) routed_last_ = last_heads(*routed_, n_heads_);
  return routed_last_;
}

Connected LearnedLayer::connect(const Sequences& s) const {
  return reads_text() ? connect_each(s.q, s.k, s.row_bounds, s.training) : connect(s.n, s.training);
}

Connected LearnedLayer::growing(std::int64_t n) const {
  if (!reads_text()) return connect(n, false);
  return {std::make_shared<const TileLayout>(everything(n).layout), {}};
}

class LearnedLayer::Reader final : public TextReader {
 public:
  Reader(const LearnedLayer& layer, std::int64_t n) : layer_(layer), n_(n) {}
  Tensor read(const Tensor& qkv) override { return layer_.read_rows(qkv, n_, memory_); }

 private:
  const LearnedLayer& layer_;
  std::int64_t n_;
  Memory memory_;
};

std::unique_ptr<TextReader> LearnedLayer::reader(std::int64_t n) const {
  if (!reads_text()) return nullptr;
  return std::make_unique<Reader>(*this, n);
}

Tensor LearnedLayer::read_rows(const Tensor& qkv, std::int64_t n, Memory& memory) const {
  const std::int64_t rows = qkv.dim(0), D = qkv.dim(2), width = qkv.dim(1) * D, T = geometry_.tile;
  if (memory.empty()) memory.resize(groups_.size());
  const Tensor values = qkv.to(DType::f64);
  std::int64_t length = 0;
  for (std::size_t i = 0; i < groups_.size(); ++i) {
    const Group& group = groups_[i];
    if (!group.routes()) continue;
    const std::int64_t kv_head = std::int64_t{group.first_head} * n_kv_heads_ / n_heads_;
    length = memory[i].length + rows;
    for (std::int64_t r = 0; r < rows; ++r) {
      const double* row = values.data<double>() + r * width;
      // Choices matter until the row of tiles is over.
      const bool choose = (memory[i].length / T) == (length - 1) / T;
      group.routed->read_row(row + group.first_head * D, row + (n_heads_ + kv_head) * D, choose, memory[i]);
    }
  }
  const NoGrad no_tape;
  const View& others = view(n, false);
  const Tensor gates = table(false).value().to(DType::f64).to(Device::cpu());
  const std::int64_t side = (n + T - 1) / T, q = (length - 1) / T;
  Tensor of_row = Tensor::zeros({n_heads_, side}, DType::f64);
  for (int head = 0; head < n_heads_; ++head) {
    const Group* group = group_of(head);
    double* to = of_row.data<double>() + head * side;
    for (std::int64_t k = 0; k <= q; ++k) {
      if (!group) {
        to[k] = 1;
      } else if (!group->routes()) {
        const auto choice = others.chooser(*group, head - group->first_head, q, k, kFullTile);
        to[k] = choice ? gates.data<double>()[choice->entry] : 0;
      } else if (group->routed->always(q, k)) {
        to[k] = 1;
      }
    }
    if (!group || !group->routes()) continue;
    const LearnedHeads& heads = group->mechanism->heads();
    const auto kv = static_cast<std::size_t>((head - group->first_head) * heads.n_kv_heads / heads.n_heads);
    for (const RouterMemory::Chosen& c : memory[group - groups_.data()].chosen[kv]) to[c.tile] = c.gate;
  }
  return of_row;
}

void LearnedLayer::visit(const Visitor& visitor) {
  for (Group& group : groups_) group.mechanism->visit(visitor);
}

}  // namespace filigree
