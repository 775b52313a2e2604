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
#include <mutex>

#include "attention/learned/mechanism.h"
#include "attention/registry.h"
#include "core/ops.h"
#include "core/parallel.h"

namespace filigree {
namespace {

struct RouterOptions {
  std::int64_t topk = 4, sinks = 1;
  std::int64_t dim = 0;  // 0: head_dim
};

constexpr double kNoThreshold = -1e30;
constexpr double kAdaptation = 0.1;  // of the scores' deviation, per step
constexpr float kForget = 0.99f;     // of the counts, per step

// What the last step's routing tells about a kv group.
struct Wants {
  double tiles = 0, query_tiles = 0;           // above the threshold, whether or not there was a place
  double sum = 0, squares = 0, proposals = 0;  // of the best scores of rows
};

// Tiles that heads compute at most.
std::int64_t most_tiles_of(const LearnedHeads& heads, const RouterOptions& options, std::int64_t n) {
  const std::int64_t side = (n + heads.geometry.tile - 1) / heads.geometry.tile;
  std::int64_t tiles = 0;
  for (std::int64_t q = 0; q < side; ++q)
    tiles += std::min(options.sinks + options.topk + 1, heads.geometry.causal ? q + 1 : side);
  return tiles * heads.n_heads;
}

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

  bool always(std::int64_t q, std::int64_t k) const override { return q == k || k < options_.sinks; }

  std::int64_t most_tiles(std::int64_t n) const override { return most_tiles_of(heads(), options_, n); }

  Routing route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const override {
    const std::int64_t B = q.dim(0), N = q.dim(1), tiles = N / heads().geometry.tile;  // whole ones
    Routing routing;
    routing.tiles.resize(static_cast<std::size_t>(B * heads().n_kv_heads));
    if (tiles == 0) return routing;
    const Var rows = project(q, query_, N), keys = project(pooled(k, tiles), key_, tiles);
    std::vector<std::int32_t> row_ids, key_ids;
    {
      const NoGrad no_tape;
      const Tensor scores = ops::scale(ops::matmul(rows, keys, false, true), scale()).value();
      if (scores.device().is_meta())
        fill(routing);
      else
        choose(scores.to(DType::f32).to(Device::cpu()),
               row_bounds.defined() ? row_bounds.to(Device::cpu()) : Tensor{}, training, routing);
    }
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
      const Wants w = std::exchange(wants_[g], Wants{});
      if (w.proposals == 0) continue;
      const double mean = w.sum / w.proposals;
      const double deviation = std::sqrt(std::max(0.0, w.squares / w.proposals - mean * mean));
      if (thresholds_[g] == kNoThreshold) {
        thresholds_[g] = mean;
        continue;
      }
      const double excess = w.tiles / w.query_tiles / static_cast<double>(options_.topk) - 1;
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
    for (const Wants& w : wants_)
      wants.insert(wants.end(), {w.tiles, w.query_tiles, w.sum, w.squares, w.proposals});
    all.emplace_back("wants", Tensor::of({std::ssize(wants_), 5}, wants));
    return all;
  }

  void load_state(const LearnState& state) override {
    const Tensor& thresholds = find_state(state, "thresholds");
    const Tensor& wants = find_state(state, "wants");
    if (thresholds.dtype() != DType::f64 || thresholds.numel() != std::ssize(thresholds_) ||
        wants.dtype() != DType::f64 || wants.numel() != 5 * std::ssize(wants_))
      fail(ErrorKind::data, "the checkpoint's thresholds of {} are for other heads", heads().name);
    std::ranges::copy(thresholds.values<double>(), thresholds_.begin());
    for (std::size_t g = 0; g < wants_.size(); ++g) {
      const double* w = wants.data<double>() + 5 * g;
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
    const std::int64_t B = k.dim(0), N = k.dim(1), G = k.dim(2), D = k.dim(3), T = heads().geometry.tile;
    Tensor mean = Tensor::zeros({tiles, N}, DType::f32);
    for (std::int64_t t = 0; t < tiles; ++t)
      for (std::int64_t r = 0; r < T; ++r)
        mean.data<float>()[t * N + t * T + r] = 1.0f / static_cast<float>(T);
    constexpr int first[] = {1, 0, 2, 3}, back[] = {1, 0, 2, 3};
    const Var by_row = ops::reshape(ops::permute(k, first), {N, B * G * D});
    const Var means = ops::matmul(Var(mean.to(k.dtype()).to(k.device())), by_row);
    return ops::permute(ops::reshape(means, {tiles, B, G, D}), back);
  }

  Var gates_of(const Var& rows, const Var& keys, const std::vector<std::int32_t>& row_ids,
               const std::vector<std::int32_t>& key_ids) const {
    if (row_ids.empty()) return {};
    const auto pick = [&](const Var& from, const std::vector<std::int32_t>& ids) {
      const Tensor index = Tensor::of({std::ssize(ids)}, ids).to(from.device());
      const Var picked = ops::embedding(ops::reshape(from, {-1, dim_}), index);
      return ops::convert(picked, accumulation_dtype(from.dtype()));
    };
    const Var score = ops::sum_last(ops::mul(pick(rows, row_ids), pick(keys, key_ids)));
    return ops::scale(ops::sigmoid(ops::scale(score, scale())), 2);
  }

  // For plans of memory: as much as there may be.
  void fill(Routing& routing) const {
    for (auto& list : routing.tiles)
      for (std::int64_t q = 0; q < query_tiles(heads().geometry.n); ++q)
        for (std::int64_t k = std::max(options_.sinks, q - options_.topk); k < q; ++k)
          list.push_back({static_cast<std::int32_t>(q), static_cast<std::int32_t>(k), 0, 0});
  }

  // scores [G * B, N, tiles].
  void choose(const Tensor& scores, const Tensor& bounds, bool training, Routing& routing) const {
    const std::int64_t G = heads().n_kv_heads, B = scores.dim(0) / G;
    std::mutex mutex;
    std::vector<Wants> wants(static_cast<std::size_t>(G * B));
    parallel_tasks(G * B, [&](std::int64_t gb) {
      const std::int64_t g = gb / B, b = gb % B;
      auto& tiles = routing.tiles[static_cast<std::size_t>(b * G + g)];
      const std::int32_t* row_bounds =
          bounds.defined() ? bounds.data<std::int32_t>() + 2 * b * scores.dim(1) : nullptr;
      wants[static_cast<std::size_t>(gb)] =
          choose_sample(scores.data<float>() + gb * scores.dim(1) * scores.dim(2), scores.dim(1),
                        scores.dim(2), row_bounds, thresholds_[static_cast<std::size_t>(g)], tiles);
    });
    count(routing);
    if (!training) return;
    for (std::int64_t gb = 0; gb < G * B; ++gb) {  // in a fixed order
      Wants& to = wants_[static_cast<std::size_t>(gb / B)];
      const Wants& w = wants[static_cast<std::size_t>(gb)];
      to = {to.tiles + w.tiles, to.query_tiles + w.query_tiles, to.sum + w.sum, to.squares + w.squares,
            to.proposals + w.proposals};
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

  Wants choose_sample(const float* scores, std::int64_t N, std::int64_t tiles, const std::int32_t* row_bounds,
                      double threshold, std::vector<RoutedTile>& out) const {
    const std::int64_t T = heads().geometry.tile;
    Wants wants;
    std::vector<bool> chosen(static_cast<std::size_t>(tiles));
    for (std::int64_t q = 0; q * T < N; ++q) {
      const std::size_t first = out.size();
      std::fill(chosen.begin(), chosen.end(), false);
      const std::int64_t end = heads().geometry.causal ? std::min(q, tiles) : tiles;
      if (options_.sinks < end) ++wants.query_tiles;
      for (std::int64_t r = 0; r < T && q * T + r < N; ++r) {
        const std::int64_t i = q * T + r;
        std::int64_t low = options_.sinks, high = end;
        if (row_bounds) {  // tiles that the row's document touches
          low = std::max<std::int64_t>(low, row_bounds[2 * i] / T);
          high = std::min<std::int64_t>(high, (row_bounds[2 * i + 1] + T - 1) / T);
        }
        std::int64_t best = -1;
        for (std::int64_t t = low; t < high; ++t)
          if (!chosen[static_cast<std::size_t>(t)] && t != q &&
              (best < 0 || scores[i * tiles + t] > scores[i * tiles + best]))
            best = t;
        if (best < 0) continue;
        const double score = scores[i * tiles + best];
        wants.sum += score;
        wants.squares += score * score;
        ++wants.proposals;
        if (!(score > threshold)) continue;
        ++wants.tiles;
        if (std::ssize(out) - static_cast<std::ptrdiff_t>(first) >= options_.topk) continue;
        chosen[static_cast<std::size_t>(best)] = true;
        out.push_back(
            {static_cast<std::int32_t>(q), static_cast<std::int32_t>(best), static_cast<std::int32_t>(r), 0});
      }
      std::sort(out.begin() + static_cast<std::ptrdiff_t>(first), out.end(),
                [](const RoutedTile& a, const RoutedTile& b) { return a.k < b.k; });
    }
    return wants;
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

  // One step of choose_sample, for a row that comes alone.
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
  mutable std::vector<Wants> wants_;   // since the last adapt()
  mutable std::vector<float> counts_;  // [G, side, side]; empty: not counted
  std::vector<float> by_distance_;
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
