// Each query tile computes the key tiles that a small router finds for it (MoBA: Lu et al. 2025;
// SeerAttention: Gao et al. 2024): per kv group, score(i, t) = <q_i Wq, mean(k of tile t) Wk> / sqrt(dim).
//
// Causality down to the token. Routers that pool the queries of a tile let a query's tiles depend on queries
// that come after it, which a language model learns to exploit and which no generation can repeat. Here the
// rows of a query tile choose one after another: row i proposes the best tile that is not chosen yet, which
// is taken if its score is above the group's threshold and one of the `topk` places is free; it is seen by
// the rows from i on. So a tile is computed once, with a mask of rows, and the budget is kept exactly. Only
// tiles that lie wholly before the query tile are candidates. The threshold follows the scores so that about
// `topk` tiles are wanted per query tile.
//
// The gate of a chosen tile is 2 sigmoid(score of the row that chose it), 1 at score 0, so that the router
// learns through the gate's gradient. The projections begin as the identity: then the score is that of
// attention itself.
#include <cmath>
#include <optional>

#include "attention/kernels.h"
#include "attention/learned/mechanism.h"
#include "attention/registry.h"
#include "core/ops.h"
#include "core/stream.h"

namespace filigree {
namespace {

struct RouterOptions {
  std::int64_t topk = 4, sinks = 1;
  std::int64_t dim = 0;  // 0: head_dim
};

constexpr double kNoThreshold = -1e30;
constexpr double kAdaptation = 0.1;  // of the scores' deviation, per step
constexpr float kForget = 0.99f;     // of the counts, per step

// Tiles that heads compute at most.
std::int64_t most_tiles_of(const LearnedHeads& heads, const RouterOptions& options, std::int64_t n) {
  const std::int64_t side = (n + heads.geometry.tile - 1) / heads.geometry.tile;
  std::int64_t tiles = 0;
  for (std::int64_t q = 0; q < side; ++q)
    tiles += std::min(options.sinks + options.topk + 1, heads.geometry.causal ? q + 1 : side);
  return tiles * heads.n_heads;
}

// Room on the host for results of the device that come at every step.
class OnHost {
 public:
  // Where t's bytes will be once the device is synchronized.
  const void* fetch(const Tensor& t) {
    if (!room_ || room_->bytes() < t.bytes()) room_.emplace(t.bytes(), t.device());
    copy_async(*room_, t);
    return room_->data<void>();
  }

 private:
  std::optional<HostBuffer> room_;
};

// Without a budget, a hardened layout has as many tiles as the router may choose.
TileBudget budget_or_most(const TileBudget& budget, const LearnedHeads& heads, const RouterOptions& options) {
  return budget.share || budget.tiles ? budget
                                      : TileBudget{0, most_tiles_of(heads, options, heads.geometry.n)};
}

class BlockTopk final : public RoutedMechanism {
 public:
  BlockTopk(const LearnedHeads& heads, const TileBudget& budget, const LearnSchedule& schedule,
            const RouterOptions& options, const ParameterFactory& make)
      : RoutedMechanism(heads, budget_or_most(budget, heads, options), schedule),
        options_(options),
        dim_(options.dim ? options.dim : heads.head_dim),
        group_(query_heads_each(heads)),
        query_(projection(make, heads.name + ".query", group_ * heads.head_dim,
                          1.0 / static_cast<double>(group_))),
        key_(projection(make, heads.name + ".key", heads.head_dim, 1)),
        thresholds_(static_cast<std::size_t>(heads.n_kv_heads), kNoThreshold),
        wants_(static_cast<std::size_t>(heads.n_kv_heads)) {
    for (Parameter* p : {&query_, &key_}) p->lr_factor = schedule.lr;
  }

  std::int64_t sinks() const override { return options_.sinks; }

  std::int64_t most_tiles(std::int64_t n) const override { return most_tiles_of(heads(), options_, n); }

  Routing route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const override {
    const std::int64_t B = q.dim(0), N = q.dim(1), tiles = N / heads().geometry.tile;  // whole ones
    Routing routing;
    routing.tiles.resize(static_cast<std::size_t>(B * heads().n_kv_heads));
    if (tiles == 0) return routing;
    const Var rows = project(q, query_, N), keys = project(pooled(k, tiles), key_, tiles);
    {
      const NoGrad no_tape;
      const Var scores = ops::matmul(rows, ops::scale(keys, scale()), false, true);
      choose(scores.value().to(DType::f32), row_bounds, training, routing);
    }
    std::vector<std::int32_t> row_ids, key_ids;
    for (std::int64_t g = 0; g < heads().n_kv_heads; ++g)
      for (std::int64_t b = 0; b < B; ++b)
        for (RoutedTile& t : routing.tiles[static_cast<std::size_t>(b * heads().n_kv_heads + g)]) {
          t.gate = static_cast<std::int32_t>(row_ids.size());
          row_ids.push_back(static_cast<std::int32_t>(
              (g * B + b) * N + std::int64_t{t.q} * heads().geometry.tile + t.first_row));
          key_ids.push_back(static_cast<std::int32_t>((g * B + b) * tiles + t.k));
        }
    routing.gates = gates_of(rows, keys, row_ids, key_ids);
    if (!heads().geometry.causal)  // then all rows of the tile see it
      for (auto& list : routing.tiles)
        for (RoutedTile& t : list) t.first_row = 0;
    return routing;
  }

  void read_row(const double* q, const double* k, bool choose, RouterMemory& m) const override {
    const std::int64_t G = heads().n_kv_heads, D = heads().head_dim, T = heads().geometry.tile;
    if (m.length == 0) {
      m.query_weights = query_.var.value().to(DType::f64).to(Device::cpu());
      m.key_weights = key_.var.value().to(DType::f64).to(Device::cpu());
      m.keys.assign(static_cast<std::size_t>(G), {});
      m.sums.assign(static_cast<std::size_t>(G), std::vector<double>(static_cast<std::size_t>(D)));
      m.chosen.assign(static_cast<std::size_t>(G), {});
    }
    const std::int64_t row = m.length % T;
    for (std::int64_t g = 0; g < G; ++g) {
      auto& sums = m.sums[static_cast<std::size_t>(g)];
      auto& chosen = m.chosen[static_cast<std::size_t>(g)];
      if (row == 0) chosen.clear();
      if (choose) choose_row(q + g * group_ * D, g, m, chosen);
      for (std::int64_t d = 0; d < D; ++d)
        sums[static_cast<std::size_t>(d)] += k[g * D + d] / static_cast<double>(T);
      if (row + 1 < T) continue;
      const std::vector<double> key = times(sums.data(), m.key_weights, g);
      auto& keys = m.keys[static_cast<std::size_t>(g)];
      keys.insert(keys.end(), key.begin(), key.end());
      std::ranges::fill(sums, 0.0);
    }
    ++m.length;
  }

  void adapt() override {
    for (std::size_t g = 0; g < wants_.size(); ++g) {
      const ChoiceSums w = std::exchange(wants_[g], ChoiceSums{});
      if (w.proposals == 0) continue;
      const double mean = w.scores / w.proposals;
      const double deviation = std::sqrt(std::max(0.0, w.squares / w.proposals - mean * mean));
      if (thresholds_[g] == kNoThreshold) {
        thresholds_[g] = mean;
        continue;
      }
      const double excess = w.wanted / w.query_tiles / static_cast<double>(options_.topk) - 1;
      thresholds_[g] += kAdaptation * (deviation + 1e-6) * std::clamp(excess, -1.0, 1.0);
    }
    for (float& c : counts_) c *= kForget;
  }

  bool can_harden() const override { return !counts_.empty(); }

  void start_counting() override {
    const std::int64_t side = query_tiles(heads().geometry.n);
    counts_.assign(static_cast<std::size_t>(heads().n_kv_heads * side * side), 0.0f);
  }

  LearnState state() const override {
    LearnState all{{"thresholds", Tensor::of({std::ssize(thresholds_)}, thresholds_)}};
    if (!counts_.empty()) all.emplace_back("counts", Tensor::of({std::ssize(counts_)}, counts_));
    std::vector<double> wants;
    for (const ChoiceSums& w : wants_)
      wants.insert(wants.end(), {w.wanted, w.query_tiles, w.scores, w.squares, w.proposals});
    all.emplace_back("wants", Tensor::of({std::ssize(wants_), kChoiceFields}, wants));
    return all;
  }

  void load_state(const LearnState& state) override {
    const Tensor& thresholds = find_state(state, "thresholds");
    const Tensor& wants = find_state(state, "wants");
    if (thresholds.dtype() != DType::f64 || thresholds.numel() != std::ssize(thresholds_) ||
        wants.dtype() != DType::f64 || wants.numel() != kChoiceFields * std::ssize(wants_))
      fail(ErrorKind::data, "the checkpoint's thresholds of {} are for other heads", heads().name);
    std::ranges::copy(thresholds.values<double>(), thresholds_.begin());
    for (std::size_t g = 0; g < wants_.size(); ++g) {
      const double* w = wants.data<double>() + kChoiceFields * g;
      wants_[g] = {w[0], w[1], w[2], w[3], w[4]};
    }
    const auto counts = std::ranges::find(state, "counts", &LearnState::value_type::first);
    if (counts == state.end()) return;
    start_counting();
    if (counts->second.dtype() != DType::f32 || counts->second.numel() != std::ssize(counts_))
      fail(ErrorKind::data, "the checkpoint's counts of {} are for another length", heads().name);
    std::ranges::copy(counts->second.values<float>(), counts_.begin());
  }

  void visit(const Visitor& visitor) override {
    visitor(query_);
    visitor(key_);
  }

 protected:
  void prepare_scores() override {
    require(!counts_.empty(),
            "{}: block_topk hardens by how often tiles were chosen, and nothing was counted", heads().name);
    const std::int64_t side = query_tiles(heads().geometry.n);
    by_distance_.assign(static_cast<std::size_t>(heads().n_kv_heads * side), 0.0f);
    for (std::int64_t g = 0; g < heads().n_kv_heads; ++g)
      for (std::int64_t q = 0; q < side; ++q)
        for (std::int64_t k = 0; k < side; ++k)
          by_distance_[static_cast<std::size_t>(g * side + std::abs(q - k))] +=
              counts_[static_cast<std::size_t>((g * side + q) * side + k)] /
              static_cast<float>(side - std::abs(q - k));
  }
  // How often it was chosen; at other lengths, how often tiles at its distance were.
  float score(int head, std::int64_t q, std::int64_t k) const override {
    const std::int64_t side = query_tiles(heads().geometry.n), g = head / group_;
    if (k < options_.sinks) return std::numeric_limits<float>::max();
    if (q < side && k < side) return counts_[static_cast<std::size_t>((g * side + q) * side + k)];
    const std::int64_t d = std::abs(q - k);
    return d < side ? by_distance_[static_cast<std::size_t>(g * side + d)] : 0.0f;
  }

 private:
  double scale() const { return 1 / std::sqrt(static_cast<double>(dim_)); }

  // [G, in, dim]: for each kv group `share` times the identity, block by block, and a little noise.
  Parameter projection(const ParameterFactory& make, const std::string& name, std::int64_t in,
                       double share) const {
    const std::int64_t G = heads().n_kv_heads, D = heads().head_dim;
    Parameter p = make.normal(name, {G, in, dim_}, 0.01);
    if (make.device.is_meta()) return p;
    Tensor value = p.var.value().to(DType::f64).to(Device::cpu());
    if (value.shares_storage(p.var.value())) value = value.clone();
    for (std::int64_t g = 0; g < G; ++g)
      for (std::int64_t i = 0; i < in; ++i)
        if (i % D < dim_) value.data<double>()[(g * in + i) * dim_ + i % D] += share;
    p.var = Var(value.to(make.dtype).to(make.device), true);
    return p;
  }

  // x [B, n, G * in] -> [G * B, n, dim].
  Var project(const Var& x, const Parameter& p, std::int64_t n) const {
    const std::int64_t B = x.dim(0), G = heads().n_kv_heads, in = p.var.dim(1);
    constexpr int order[] = {2, 0, 1, 3};
    const Var split = ops::permute(ops::reshape(x, {B, n, G, in}), order);
    const Var y = ops::matmul(ops::reshape(split, {G, B * n, in}), ops::convert(p.var, x.dtype()));
    return ops::reshape(y, {G * B, n, dim_});
  }

  // Means of the keys of whole tiles: [B, N, G, D] -> [B, tiles, G, D].
  Var pooled(const Var& k, std::int64_t tiles) const {
    const std::int64_t B = k.dim(0), N = k.dim(1), C = k.dim(2) * k.dim(3), T = heads().geometry.tile;
    Var whole = k;
    if (tiles * T < N) {
      const std::int64_t sizes[] = {tiles * T * C, (N - tiles * T) * C};
      whole = ops::split_last(ops::reshape(k, {B, N * C}), sizes)[0];
    }
    if (!tile_rows_.defined() || tile_rows_.dim(0) != B * tiles || tile_rows_.device() != k.device()) {
      std::vector<std::int32_t> rows;
      for (std::int64_t i = 0; i < B * tiles; ++i) rows.insert(rows.end(), {0, static_cast<std::int32_t>(T)});
      tile_rows_ = Tensor::of({B * tiles, 2}, rows, k.device());
    }
    const Var means = ops::mean_rows(ops::reshape(whole, {B * tiles, T, C}), tile_rows_);
    return ops::reshape(means, {B, tiles, k.dim(2), k.dim(3)});
  }

  Var gates_of(const Var& rows, const Var& keys, const std::vector<std::int32_t>& row_ids,
               const std::vector<std::int32_t>& key_ids) const {
    if (row_ids.empty()) return {};
    std::vector<std::int32_t> ids = row_ids;
    ids.insert(ids.end(), key_ids.begin(), key_ids.end());
    const Tensor both = Tensor::of({std::ssize(ids)}, ids, rows.device());
    const auto pick = [&](const Var& from, const Tensor& index) {
      const Var picked = ops::embedding(ops::reshape(from, {-1, dim_}), index);
      return ops::convert(picked, accumulation_dtype(from.dtype()));
    };
    const Var score = ops::sum_last(ops::mul(pick(rows, both.slice(0, std::ssize(row_ids))),
                                             pick(keys, both.slice(std::ssize(row_ids), std::ssize(ids)))));
    return ops::scale(ops::sigmoid(ops::scale(score, scale())), 2);
  }

  // For plans of memory: as much as there may be.
  void fill(Routing& routing) const {
    for (auto& list : routing.tiles)
      for (std::int64_t q = 0; q < query_tiles(heads().geometry.n); ++q)
        for (std::int64_t k = std::max(options_.sinks, q - options_.topk); k < q; ++k)
          list.push_back({static_cast<std::int32_t>(q), static_cast<std::int32_t>(k), 0, 0});
  }

  // scores [G * B, N, tiles], row_bounds as in AttentionOptions. Waits for the device.
  void choose(const Tensor& scores, const Tensor& row_bounds, bool training, Routing& routing) const {
    const TileChoice in{scores,
                        row_bounds,
                        thresholds_,
                        heads().geometry.tile,
                        options_.topk,
                        options_.sinks,
                        heads().geometry.causal};
    const Device device = scores.device();
    Tensor chosen = Tensor::empty({scores.dim(0), in.query_tiles(), in.places(), 2}, DType::i32, device);
    Tensor sums = Tensor::empty({scores.dim(0), kChoiceFields}, DType::f64, device);
    if (device.is_meta()) return fill(routing);
    on_device(device, [&](auto context) { choose_tiles(context, in, chosen, sums); });
    const auto* pairs = static_cast<const std::int32_t*>(chosen_.fetch(chosen));
    const auto* of_samples = static_cast<const ChoiceSums*>(sums_.fetch(sums));
    synchronize(device);
    const std::int64_t G = heads().n_kv_heads, B = in.batch(), per_sample = chosen.numel() / (G * B);
    for (std::int64_t gb = 0; gb < G * B; ++gb)
      read_choice(in, pairs + gb * per_sample, routing.tiles[static_cast<std::size_t>(gb % B * G + gb / B)]);
    count(routing);
    if (!training) return;
    for (std::int64_t gb = 0; gb < G * B; ++gb)  // in a fixed order
      wants_[static_cast<std::size_t>(gb / B)] += of_samples[gb];
  }

  // The tiles of one sequence and kv head, of each query tile in the order of keys.
  static void read_choice(const TileChoice& in, const std::int32_t* pairs, std::vector<RoutedTile>& out) {
    for (std::int32_t q = 0; q < in.query_tiles(); ++q, pairs += 2 * in.places()) {
      const auto first = std::ssize(out);
      for (std::int64_t place = 0; place < in.places() && pairs[2 * place] >= 0; ++place)
        out.push_back({q, pairs[2 * place], pairs[2 * place + 1], 0});
      std::sort(out.begin() + first, out.end(),
                [](const RoutedTile& a, const RoutedTile& b) { return a.k < b.k; });
    }
  }

  void count(const Routing& routing) const {
    if (counts_.empty()) return;
    const std::int64_t side = query_tiles(heads().geometry.n), G = heads().n_kv_heads;
    for (std::size_t bg = 0; bg < routing.tiles.size(); ++bg)
      for (const RoutedTile& t : routing.tiles[bg])
        if (t.q < side && t.k < side)
          counts_[static_cast<std::size_t>((static_cast<std::int64_t>(bg) % G * side + t.q) * side + t.k)] +=
              1;
  }

  // x [in] times the weights [G, in, dim] of one kv head.
  std::vector<double> times(const double* x, const Tensor& weights, std::int64_t g) const {
    const std::int64_t in = weights.dim(1);
    std::vector<double> y(static_cast<std::size_t>(dim_));
    for (std::int64_t i = 0; i < in; ++i)
      for (std::int64_t d = 0; d < dim_; ++d)
        y[static_cast<std::size_t>(d)] += x[i] * weights.data<double>()[(g * in + i) * dim_ + d];
    return y;
  }

  // One step of choose_tiles (kernels.inc), for a row that comes alone.
  void choose_row(const double* q, std::int64_t g, const RouterMemory& m,
                  std::vector<RouterMemory::Chosen>& chosen) const {
    const auto& keys = m.keys[static_cast<std::size_t>(g)];
    const std::int64_t tiles = std::ssize(keys) / dim_;
    if (std::ssize(chosen) >= options_.topk) return;
    const std::vector<double> query = times(q, m.query_weights, g);
    std::int64_t best = -1;
    double best_score = 0;
    for (std::int64_t t = options_.sinks; t < tiles; ++t) {
      if (std::ranges::any_of(chosen, [&](auto& c) { return c.tile == t; })) continue;
      double score = 0;
      for (std::int64_t d = 0; d < dim_; ++d)
        score += query[static_cast<std::size_t>(d)] * keys[static_cast<std::size_t>(t * dim_ + d)];
      score *= scale();
      if (best < 0 || score > best_score) {
        best = t;
        best_score = score;
      }
    }
    if (best >= 0 && best_score > thresholds_[static_cast<std::size_t>(g)])
      chosen.push_back({static_cast<std::int32_t>(best), 2 / (1 + std::exp(-best_score))});
  }

  static int query_heads_each(const LearnedHeads& heads) {
    require(heads.n_kv_heads > 0,
            "{}: block_topk routes whole kv groups, its heads must be all those of some kv heads",
            heads.name);
    return heads.n_heads / heads.n_kv_heads;
  }

  RouterOptions options_;
  std::int64_t dim_;
  int group_;              // query heads of a kv head
  Parameter query_, key_;  // [G, group D, dim], [G, D, dim]
  std::vector<double> thresholds_;
  mutable std::vector<ChoiceSums> wants_;  // since the last adapt()
  mutable std::vector<float> counts_;      // [G, side, side]; empty: not counted
  std::vector<float> by_distance_;
  mutable Tensor tile_rows_;  // i32 [B tiles, 2]: all rows of a tile
  mutable OnHost chosen_, sums_;
};

}  // namespace

PatternPtr make_block_topk(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "block_topk");
  RouterOptions options;
  options.topk = map.integer("topk", 1, 4096, options.topk);
  options.sinks = map.integer("sinks", 0, 1024, options.sinks);
  options.dim = map.integer("dim", 0, 1024, options.dim);
  LearnSchedule schedule;
  schedule.warmup = map.number("warmup", 0, 1, 0);
  schedule.harden = map.number("harden", 0, 1, 1);
  schedule.lr = map.number("lr", 0, 1e6, 1);
  TileBudget budget;
  if (schedule.harden < 1 || map.has("budget") || map.has("tiles")) budget = read_budget(map);
  map.done();
  return std::make_shared<LearnedPatternOf<BlockTopk, RouterOptions>>(budget, schedule, options);
}

}  // namespace filigree
