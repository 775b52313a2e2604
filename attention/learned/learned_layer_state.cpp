// What a learned layer tells about itself: telemetry, and its part of a checkpoint.
#include <algorithm>
#include <set>

#include "attention/learned/learned_layer.h"
#include "core/ops.h"

namespace filigree {
namespace {

std::vector<HeadTile> tiles_of(const TileLayout& layout) {
  std::vector<HeadTile> tiles;
  for (std::int32_t head = 0; head < layout.n_heads(); ++head) {
    const TilePattern& p = layout.of_head(head);
    for (std::int32_t q = 0; q < layout.query_tiles(); ++q)
      for (std::int32_t t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t)
        tiles.push_back({head, q, p.columns[t]});
  }
  return tiles;
}

Tensor tile_list(const std::vector<HeadTile>& tiles) {
  std::vector<std::int32_t> values;
  for (const HeadTile& t : tiles) values.insert(values.end(), {t.head, t.q, t.k});
  return Tensor::of({std::ssize(tiles), 3}, values);
}

// The list of tiles `name`, checked.
std::vector<HeadTile> read_tiles(const ConnectivityState& state, const std::string& name, int n_heads,
                                 std::int64_t side, bool causal) {
  const Tensor& values = find_state(state, name);
  if (values.rank() != 2 || values.dim(1) != 3 || values.dtype() != DType::i32)
    fail(ErrorKind::data, "the checkpoint's {} is {} of shape {}, not a list of tiles", name,
         dtype_name(values.dtype()), values.shape().str());
  std::vector<HeadTile> tiles;
  std::set<std::tuple<int, int, int>> seen;
  for (std::int64_t i = 0; i < values.dim(0); ++i) {
    const std::int32_t* t = values.data<std::int32_t>() + 3 * i;
    const bool fits = t[0] >= 0 && t[0] < n_heads && t[1] >= 0 && t[1] < side && t[2] >= 0 &&
                      t[2] < (causal ? t[1] + 1 : side);
    if (!fits || !seen.emplace(t[0], t[1], t[2]).second)
      fail(ErrorKind::data, "the checkpoint's {} has the tile ({}, {}, {}) for {} heads and {} tiles a side",
           name, t[0], t[1], t[2], n_heads, side);
    tiles.push_back({t[0], t[1], t[2]});
  }
  return tiles;
}

void count_gates(const Tensor& gates, LearnTelemetry& t) {
  const std::int64_t heads = gates.dim(0), units = gates.dim(1);
  t.units += units;
  for (std::int64_t u = 0; u < units; ++u) {
    bool dead = true;
    for (std::int64_t h = 0; h < heads; ++h) {
      const double gate = gates.item(h * units + u);
      dead = dead && gate == 0;
      ++t.histogram[std::min<std::size_t>(9, static_cast<std::size_t>(gate * 10))];
    }
    t.dead_units += dead;
  }
}

}  // namespace

std::optional<LearnTelemetry> LearnedLayer::telemetry() const {
  LearnTelemetry t;
  const NoGrad no_tape;
  const LayoutPtr layout = reads_text() ? computed() : connect(geometry_.n, false).layout;
  std::int64_t heads = 0, most = 0;
  for (const Group& group : groups_) {
    const auto full = static_cast<double>(group.mechanism->full_tiles(geometry_.n));
    std::int64_t actual = 0;
    for (int head = group.first_head; head < group.first_head + group.n_heads(); ++head) {
      actual += layout->of_head(head).tiles();
      most = std::max(most, layout->of_head(head).tiles());
    }
    t.actual_tiles += actual;
    heads += group.n_heads();
    const bool learning = group.phase == LearnPhase::learning;
    if (group.phase == LearnPhase::warm_up)
      t.target_tiles += full;
    else if (group.phase == LearnPhase::hardened)
      t.target_tiles += static_cast<double>(group.mechanism->budget_tiles(geometry_.n));
    else
      t.target_tiles += group.gated ? group.mechanism->target_share(stage_.progress) * full
                                    : static_cast<double>(group.routed->most_tiles(geometry_.n));
    t.expected_tiles += group.gated && learning ? group.gated->expected_share().value().item() * full
                                                : static_cast<double>(actual);
    if (group.gated) count_gates(group.gated->unit_gates(), t);
  }
  if (t.actual_tiles > 0)
    t.head_imbalance = static_cast<double>(most * heads) / static_cast<double>(t.actual_tiles);
  return t;
}

bool LearnedLayer::keeps_choice() const {
  return chosen_at_ >= 0 && !is_static() && std::ranges::any_of(groups_, [](const Group& g) {
           return g.gated && g.phase == LearnPhase::learning && g.mechanism->schedule().refresh > 1;
         });
}

// <name>.phase i32 [2]: the phase, and the step at which training's tiles were chosen; <name>.tiles i32
// [tiles, 3]: head of the mechanism, query tile and key tile of the hardened layout; <name>.<..>: the
// mechanism's own. <layer>.chosen, where tiles stay chosen for several steps, i32 [tiles, 3]: head of the
// layer, query and key tile.
ConnectivityState LearnedLayer::state() const {
  ConnectivityState all;
  for (const Group& group : groups_) {
    const std::string& name = group.mechanism->heads().name;
    all.emplace_back(name + ".phase", Tensor::of({2}, std::vector{static_cast<std::int32_t>(group.phase),
                                                                  static_cast<std::int32_t>(chosen_at_)}));
    if (group.phase == LearnPhase::hardened) all.emplace_back(name + ".tiles", tile_list(group.hardened));
    for (auto& [key, value] : group.mechanism->state()) all.emplace_back(name + "." + key, value);
  }
  if (keeps_choice()) all.emplace_back(name_ + ".chosen", tile_list(tiles_of(*training_.layout)));
  return all;
}

void LearnedLayer::load_state(const ConnectivityState& state, std::uint64_t seed) {
  for (Group& group : groups_) {
    const Mechanism& m = *group.mechanism;
    const std::string& name = m.heads().name;
    const Tensor& phase = find_state(state, name + ".phase");
    if (phase.shape() != Shape{2} || phase.dtype() != DType::i32 || phase.data<std::int32_t>()[0] < 0 ||
        phase.data<std::int32_t>()[0] > 2)
      fail(ErrorKind::data, "the checkpoint's {}.phase is not a phase", name);
    group.phase = static_cast<LearnPhase>(phase.data<std::int32_t>()[0]);
    chosen_at_ = phase.data<std::int32_t>()[1];
    if (group.phase == LearnPhase::hardened)
      group.hardened =
          read_tiles(state, name + ".tiles", m.heads().n_heads, m.query_tiles(geometry_.n), geometry_.causal);
    ConnectivityState own;
    for (const auto& [key, value] : state)
      if (key.starts_with(name + ".")) own.emplace_back(key.substr(name.size() + 1), value);
    group.mechanism->load_state(own);
  }
  stage_ = {std::max<std::int64_t>(0, chosen_at_), 0, seed};
  for (Group& group : groups_)
    if (group.gated && group.phase == LearnPhase::learning) group.gated->draw_noise(stage_);
  if (is_static()) {
    training_ = assemble(geometry_.n, by_hardened(geometry_.n, false));
  } else if (keeps_choice()) {
    const std::int64_t side = everything(geometry_.n).layout.query_tiles();
    const auto on = std::make_shared<TileSet>(n_heads_, side);
    for (const HeadTile& t : read_tiles(state, name_ + ".chosen", n_heads_, side, geometry_.causal))
      on->add(t);
    training_ = assemble(
        geometry_.n,
        [on](const Group& group, int head, std::int64_t q, std::int64_t k,
             std::int32_t mask_id) -> std::optional<Choice> {
          if (!on->has(group.first_head + head, q, k)) return {};
          const bool gate = group.gated && group.phase == LearnPhase::learning && q != k;
          return Choice{
              mask_id,
              gate ? static_cast<std::int32_t>(group.first_entry + group.gated->entry(head, q, k)) : 0};
        });
  } else if (chosen_at_ >= 0) {  // where gates choose, the next step does so anew
    training_ = assemble(geometry_.n, by_gates(geometry_.n, true));
  }
  evaluation_.clear();
}

}  // namespace filigree
