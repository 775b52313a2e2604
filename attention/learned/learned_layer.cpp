#include "attention/learned/learned_layer.h"

#include <algorithm>
#include <set>

#include "core/ops.h"

namespace filigree {
namespace {

// Exploration's draw for a tile, uniform in [0, 1).
float draw(const RandomKey& key, int head, std::int64_t q, std::int64_t k) {
  const auto index = static_cast<std::uint64_t>(head) << 48 | static_cast<std::uint64_t>(q) << 24 |
                     static_cast<std::uint64_t>(k);
  return uniform01(key.block(index)[0]);
}

Tensor tensor_of(const std::vector<std::int32_t>& values, const Shape& shape) {
  return Tensor::of(shape, values);
}

}  // namespace

LearnedLayer::LearnedLayer(const ParameterFactory& make, const std::string& name, PatternPtr pattern,
                           const Geometry& geometry, int n_heads, int n_kv_heads, std::int64_t head_dim)
    : pattern_(std::move(pattern)),
      geometry_(geometry),
      n_heads_(n_heads),
      device_(make.device),
      dtype_(make.dtype),
      name_(name) {
  std::int64_t entries = 1;  // entry 0: always 1
  for (int first = 0, end = 0; first < n_heads; first = end) {
    const LearnedPattern* learned = pattern_->learned(first);
    for (end = first + 1; end < n_heads && pattern_->learned(end) == learned;) ++end;
    if (!learned) continue;
    const bool whole = first == 0 && end == n_heads;
    const LearnedHeads heads{whole ? name : fmt::format("{}.{}", name, first), end - first,
                             std::max(1, n_kv_heads * (end - first) / n_heads), head_dim, geometry};
    Group group;
    group.first_head = first;
    group.mechanism = learned->make(heads, make);
    group.first_entry = entries;
    entries += group.mechanism->entries();
    groups_.push_back(std::move(group));
  }
  check(!groups_.empty(), "a learned layer without learned heads");
}

bool LearnedLayer::is_static() const {
  return std::ranges::all_of(groups_, [](const Group& g) { return g.phase == LearnPhase::hardened; });
}

// All that may be computed: learned heads allow everything.
const TileLayout& LearnedLayer::everything(std::int64_t n) const {
  auto& layout = everything_[n];
  if (!layout) {
    Geometry geometry = geometry_;
    geometry.n = n;
    layout = std::make_unique<TileLayout>(build_layout(*pattern_, geometry, n_heads_));
  }
  return *layout;
}

LearnedLayer::View LearnedLayer::assemble(std::int64_t n, const Chooser& on) const {
  const TileLayout& all = everything(n);
  std::vector<TilePattern> patterns;
  std::vector<std::int32_t> head_pattern, index;
  bool gated = false;
  const auto group_of = [&](int head) {
    const auto found = std::ranges::find_if(groups_, [&](const Group& g) {
      return g.first_head <= head && head < g.first_head + g.mechanism->heads().n_heads;
    });
    return found == groups_.end() ? nullptr : &*found;
  };
  for (int head = 0; head < n_heads_; ++head) {
    const TilePattern& from = all.of_head(head);
    const Group* group = group_of(head);
    TilePattern made;
    made.row_offsets.push_back(0);
    for (std::int64_t q = 0; q < all.query_tiles(); ++q) {
      for (std::int64_t t = from.row_offsets[q]; t < from.row_offsets[q + 1]; ++t) {
        const std::int32_t k = from.columns[t];
        if (group && !on(*group, head - group->first_head, q, k)) continue;
        made.columns.push_back(k);
        made.mask_id.push_back(from.mask_id[t]);
        const bool has_gate = group && group->phase == LearnPhase::learning && q != k;
        index.push_back(
            has_gate ? static_cast<std::int32_t>(group->first_entry +
                                                 group->mechanism->entry(head - group->first_head, q, k))
                     : 0);
        gated = gated || has_gate;
      }
      made.row_offsets.push_back(static_cast<std::int32_t>(made.columns.size()));
    }
    const auto equal = std::ranges::find_if(patterns, [&](const TilePattern& p) {
      return p.row_offsets == made.row_offsets && p.columns == made.columns && p.mask_id == made.mask_id;
    });
    head_pattern.push_back(static_cast<std::int32_t>(equal - patterns.begin()));
    if (equal == patterns.end()) patterns.push_back(std::move(made));
  }
  View view;
  view.layout = std::make_shared<const TileLayout>(n, n, geometry_.tile, geometry_.causal,
                                                   std::move(patterns), std::move(head_pattern), all.masks());
  if (gated) view.index = tensor_of(index, {std::ssize(index)}).to(device_);
  return view;
}

// Hardened groups as they are; with `all`, every group as if it were hardened now.
LearnedLayer::Chooser LearnedLayer::hardened_chooser(std::int64_t n, bool all) const {
  const std::int64_t side = (n + geometry_.tile - 1) / geometry_.tile;
  auto on = std::make_shared<std::map<const Group*, std::vector<bool>>>();
  for (const Group& group : groups_) {
    if (!all && group.phase != LearnPhase::hardened) continue;
    const bool known = group.phase == LearnPhase::hardened && n == geometry_.n;
    std::vector<bool>& tiles = (*on)[&group];
    tiles.resize(static_cast<std::size_t>(group.mechanism->heads().n_heads * side * side));
    for (const HeadTile& t : known ? group.hardened : group.mechanism->hardened_tiles(n))
      tiles[static_cast<std::size_t>((t.head * side + t.q) * side + t.k)] = true;
  }
  return [on, side](const Group& group, int head, std::int64_t q, std::int64_t k) {
    return on->at(&group)[static_cast<std::size_t>((head * side + q) * side + k)];
  };
}

LearnedLayer::View LearnedLayer::choose(std::int64_t n, bool training) const {
  std::map<const Group*, Tensor> gates;
  for (const Group& group : groups_)
    if (group.phase == LearnPhase::learning) {
      const NoGrad no_tape;
      gates[&group] = group.mechanism->gates(training).value().to(DType::f32).to(Device::cpu());
    }
  const Chooser hardened = hardened_chooser(n, false);
  const RandomKey key{stage_.seed, random_site(name_ + ".explore"), static_cast<std::uint32_t>(stage_.step)};
  return assemble(n, [&](const Group& group, int head, std::int64_t q, std::int64_t k) {
    if (q == k || group.phase == LearnPhase::warm_up) return true;
    if (group.phase == LearnPhase::hardened) return hardened(group, head, q, k);
    const std::int32_t entry = group.mechanism->entry(head, q, k);
    if (entry == GatedMechanism::kOff) return false;
    if (device_.is_meta() || gates.at(&group).data<float>()[entry] > 0) return true;
    const double share = group.mechanism->schedule().explore;
    return training && share > 0 && draw(key, group.first_head + head, q, k) < share;
  });
}

void LearnedLayer::advance(const LearnStage& stage) {
  if (is_static()) return;
  const bool first = chosen_at_ < 0;
  stage_ = stage;
  bool due = first;
  for (Group& group : groups_) {
    const LearnSchedule& schedule = group.mechanism->schedule();
    if (group.phase == LearnPhase::hardened) continue;
    const LearnPhase phase = stage.progress >= schedule.harden   ? LearnPhase::hardened
                             : stage.progress >= schedule.warmup ? LearnPhase::learning
                                                                 : LearnPhase::warm_up;
    due = due || phase != group.phase ||
          (phase == LearnPhase::learning && stage.step >= chosen_at_ + schedule.refresh);
    group.phase = phase;
    if (phase == LearnPhase::hardened) group.hardened = group.mechanism->hardened_tiles(geometry_.n);
  }
  if (!due) return;
  chosen_at_ = stage.step;
  for (Group& group : groups_)
    if (group.phase == LearnPhase::learning) group.mechanism->draw_noise(stage);
  training_ = choose(geometry_.n, true);
  forget_evaluation();
}

void LearnedLayer::harden() {
  for (Group& group : groups_) {
    if (group.phase != LearnPhase::hardened) group.hardened = group.mechanism->hardened_tiles(geometry_.n);
    group.phase = LearnPhase::hardened;
  }
  training_ = choose(geometry_.n, true);
  forget_evaluation();
}

Var LearnedLayer::table(bool training) const {
  std::vector<Var> parts{Var(Tensor::full({1}, 1, dtype_, device_))};
  for (const Group& group : groups_)
    parts.push_back(group.phase == LearnPhase::learning
                        ? group.mechanism->gates(training)
                        : Var(Tensor::full({group.mechanism->entries()}, 1, dtype_, device_)));
  return ops::concat_last(parts);
}

LearnedLayer::Connection LearnedLayer::connect(std::int64_t n, bool training) const {
  const View* view = &training_;
  if (training) {
    check(view->layout && n == geometry_.n, "a learned layer trains before advance(), or at another length");
  } else {
    auto& kept = evaluation_[n];
    if (!kept.layout) kept = choose(n, false);
    view = &kept;
  }
  if (!view->index.defined()) return {view->layout, {}};
  const Var gates = table(training);
  const Var picked = ops::embedding(ops::reshape(gates, {gates.numel(), 1}), view->index);
  return {view->layout, ops::reshape(picked, {view->layout->gate_size()})};
}

LayoutPtr LearnedLayer::hardened_layout(std::int64_t n) const {
  return assemble(n, hardened_chooser(n, true)).layout;
}

Var LearnedLayer::penalty() const {
  Var total;
  for (const Group& group : groups_) {
    if (group.phase != LearnPhase::learning) continue;
    const Var p = group.mechanism->penalty(stage_.progress);
    total = total.defined() ? ops::add(total, p) : p;
  }
  return total;
}

LearnTelemetry LearnedLayer::telemetry() const {
  LearnTelemetry t;
  const NoGrad no_tape;
  const LayoutPtr layout = connect(geometry_.n, false).layout;
  std::int64_t heads = 0, most = 0;
  for (const Group& group : groups_) {
    const GatedMechanism& m = *group.mechanism;
    const auto full = static_cast<double>(m.full_tiles(geometry_.n));
    const bool learning = group.phase == LearnPhase::learning;
    t.target_tiles += (group.phase == LearnPhase::warm_up ? 1 : m.target_share(stage_.progress)) * full;
    t.expected_tiles += learning ? m.expected_share().value().item() * full : 0;
    const std::int64_t before = t.actual_tiles;
    for (int head = group.first_head; head < group.first_head + m.heads().n_heads; ++head) {
      t.actual_tiles += layout->of_head(head).tiles();
      most = std::max(most, layout->of_head(head).tiles());
    }
    if (!learning) t.expected_tiles += static_cast<double>(t.actual_tiles - before);
    heads += m.heads().n_heads;
    const Tensor gates = m.unit_gates();
    const std::int64_t units = gates.dim(1);
    t.units += units;
    for (std::int64_t u = 0; u < units; ++u) {
      bool dead = true;
      for (std::int64_t h = 0; h < gates.dim(0); ++h) {
        const double gate = gates.item(h * units + u);
        dead = dead && gate == 0;
        ++t.histogram[std::min<std::size_t>(9, static_cast<std::size_t>(gate * 10))];
      }
      t.dead_units += dead;
    }
  }
  if (t.actual_tiles > 0)
    t.head_imbalance = static_cast<double>(most * heads) / static_cast<double>(t.actual_tiles);
  return t;
}

void LearnedLayer::visit(const Visitor& visitor) {
  for (Group& group : groups_) group.mechanism->visit(visitor);
}

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

const Tensor& find_state(const LearnState& state, const std::string& name) {
  for (const auto& [key, value] : state)
    if (key == name) return value;
  fail(ErrorKind::data, "the checkpoint lacks {}", name);
}

Tensor tile_list(const std::vector<HeadTile>& tiles) {
  std::vector<std::int32_t> values;
  for (const HeadTile& t : tiles) values.insert(values.end(), {t.head, t.q, t.k});
  return tensor_of(values, {std::ssize(tiles), 3});
}

// The list of tiles `name`, checked.
std::vector<HeadTile> read_tiles(const LearnState& state, const std::string& name, int n_heads,
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

}  // namespace

// While tiles stay chosen for several steps: <layer>.chosen i32 [tiles, 3], head of the layer, query and key
// tile.
//
// <name>.phase i32 [2]: the phase, and the step at which training's tiles were chosen; <name>.tiles i32
// [tiles, 3]: head, query tile and key tile of the hardened layout.
LearnState LearnedLayer::state() const {
  LearnState all;
  for (const Group& group : groups_) {
    const std::string& name = group.mechanism->heads().name;
    all.emplace_back(
        name + ".phase",
        tensor_of({static_cast<std::int32_t>(group.phase), static_cast<std::int32_t>(chosen_at_)}, {2}));
    if (group.phase == LearnPhase::hardened) all.emplace_back(name + ".tiles", tile_list(group.hardened));
    for (auto& [key, value] : group.mechanism->state()) all.emplace_back(name + "." + key, value);
  }
  if (keeps_choice()) all.emplace_back(name_ + ".chosen", tile_list(tiles_of(*training_.layout)));
  return all;
}

bool LearnedLayer::keeps_choice() const {
  return chosen_at_ >= 0 && !is_static() && std::ranges::any_of(groups_, [](const Group& g) {
           return g.phase == LearnPhase::learning && g.mechanism->schedule().refresh > 1;
         });
}

void LearnedLayer::load_state(const LearnState& state, std::uint64_t seed) {
  for (Group& group : groups_) {
    const GatedMechanism& m = *group.mechanism;
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
  }
  stage_ = {chosen_at_, 0, seed};
  if (is_static()) {
    training_ = choose(geometry_.n, true);
  } else if (keeps_choice()) {
    for (Group& group : groups_)
      if (group.phase == LearnPhase::learning) group.mechanism->draw_noise(stage_);
    const TileLayout& all = everything(geometry_.n);
    const std::int64_t side = all.query_tiles();
    std::vector<bool> on(static_cast<std::size_t>(n_heads_ * side * side));
    for (const HeadTile& t : read_tiles(state, name_ + ".chosen", n_heads_, side, geometry_.causal))
      on[static_cast<std::size_t>((t.head * side + t.q) * side + t.k)] = true;
    training_ = assemble(geometry_.n, [&](const Group& group, int head, std::int64_t q, std::int64_t k) {
      return on[static_cast<std::size_t>(((group.first_head + head) * side + q) * side + k)];
    });
  } else {
    chosen_at_ = -1;  // the next step chooses
  }
  forget_evaluation();
}

}  // namespace filigree
