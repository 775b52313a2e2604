// Each query tile computes the key tiles that a small router finds for it (MoBA: Lu et al. 2025;
// SeerAttention: Gao et al. 2024). Per kv group, row i expects in key tile t the share
//   sum over the parts s of t of e^score(i, s) / the same over all candidates,
//   score(i, s) = <q_i Wq, mean(k of part s) Wk> / sqrt(dim)
// of what it seeks: the share that attention would find there if all keys of a part (a tile is cut into
// `parts`) were as their mean. The projections begin as the identity: then the scores are attention's own.
//
// Causality down to the token. Routers that pool the queries of a tile let a query's tiles depend on queries
// that come after it, which a language model learns to exploit and which no generation can repeat. Here the
// rows of a query tile choose one after another: row i proposes the best tile that is not chosen yet, which
// is taken if its share is above the group's threshold and one of the `topk` places is free; it is seen by
// the rows from i on. So a tile is computed once, with a mask of rows, and the budget is kept exactly. Only
// tiles that lie wholly before the query tile are candidates. The threshold follows the shares so that a
// certain part of the places is `wanted`: rows that seek nothing in particular have low shares everywhere,
// and must not take the places before one comes that does.
//
// The router learns through gates. That of a chosen tile is 2 sigmoid(log share - threshold), 1 where it is
// just taken. But where attention has found what it seeks no gate matters, and a tile that is not chosen says
// nothing: so in training a share `explore` of the query tiles tries one more, the best that a random row was
// not given, for that row alone and with gate 0. Its gate's gradient is what the row would gain, and goes to
// the logarithm of its share (without it recall is not learned: tests/bench/LEARNED.md).
#include "attention/learned/block_topk.h"

#include <cmath>
#include <optional>

#include "attention/kernels.h"
#include "attention/learned/learned_settings.h"
#include "core/ops.h"
#include "core/stream.h"

namespace filigree {
namespace {

constexpr double kFirstShare = 0.5;  // the threshold begins there
constexpr double kAdaptation = 0.1;  // of the threshold, nats per step at most
constexpr double kTriedSlope = 0.5;  // of a tried gate by its log share: that of a gate just taken

// Tiles that heads compute at most.
std::int64_t most_tiles_of(const LearnedHeads& heads, const TopkOptions& options, std::int64_t n) {
  const std::int64_t side = (n + heads.geometry.tile - 1) / heads.geometry.tile;
  std::int64_t tiles = 0;
  for (std::int64_t q = 0; q < side; ++q)
    tiles += std::min(options.sinks + options.topk + 1, heads.geometry.causal ? q + 1 : side);
  return tiles * heads.n_heads;
}

// A workspace on the host for results of the device that come at every step.
class OnHost {
 public:
  // Where t's bytes will be once the device is synchronized.
  const void* fetch(const Tensor& t) {
    if (!workspace_ || workspace_->bytes() < t.bytes()) workspace_.emplace(t.bytes(), t.device());
    copy_async(*workspace_, t);
    return workspace_->data<void>();
  }

 private:
  std::optional<HostBuffer> workspace_;
};

// Without a budget, a hardened layout has as many tiles as the router may choose.
TileBudget budget_or_most(const TileBudget& budget, const LearnedHeads& heads, const TopkOptions& options) {
  return budget.share || budget.tiles ? budget
                                      : TileBudget{0, most_tiles_of(heads, options, heads.geometry.n)};
}

class BlockTopk final : public Routed {
 public:
  BlockTopk(const LearnedHeads& heads, const TileBudget& budget, const LearnSchedule& schedule,
            const TopkOptions& options, const ParameterFactory& make)
      : Routed(heads, budget_or_most(budget, heads, options), schedule),
        options_(options),
        dim_(options.dim ? options.dim : heads.head_dim),
        group_(query_heads_each(heads)),
        query_(projection(make, heads.name + ".query", group_ * heads.head_dim,
                          1.0 / static_cast<double>(group_))),
        key_(projection(make, heads.name + ".key", heads.head_dim, 1)),
        site_(random_site(heads.name + ".tried")),
        thresholds_(heads.n_kv_heads, std::log(kFirstShare)),
        wants_(heads.n_kv_heads) {
    require(heads.geometry.tile % options.parts == 0, "{}: block_topk cannot cut a tile of {} into {} parts",
            heads.name, heads.geometry.tile, options.parts);
    for (Parameter* p : {&query_, &key_}) p->lr_factor = schedule.lr;
  }

  std::int64_t sinks() const override { return options_.sinks; }

  std::int64_t most_tiles(std::int64_t n) const override { return most_tiles_of(heads(), options_, n); }

  Routing route(const Var& q, const Var& k, const Tensor& row_bounds, bool training) const override {
    const std::int64_t B = q.dim(0), N = q.dim(1), tiles = N / heads().geometry.tile;  // whole ones
    Routing routing;
    routing.tiles.resize(B * heads().n_kv_heads);
    if (tiles == 0) return routing;
    const std::int64_t parts = tiles * options_.parts;
    const Var rows = project(q, query_, N),
              keys = ops::scale(project(pooled(k, parts), key_, parts), topk_scale(dim_));
    TileChoice in{Tensor::empty({B * heads().n_kv_heads, N, tiles}, DType::f32, q.device()),
                  row_bounds,
                  {},
                  thresholds_,
                  heads().geometry.tile,
                  options_.topk,
                  options_.sinks,
                  options_.parts,
                  heads().geometry.causal};
    if (training) in.tried_rows = draw_tried_rows(in);
    {
      const NoGrad no_tape;
      choose_by(ops::matmul(rows, keys, false, true).value().to(DType::f32), in, training, routing);
    }
    routing.gates = gates_of(rows, keys, in, routing);
    if (!heads().geometry.causal)  // then all rows of the tile see it
      for (auto& list : routing.tiles)
        for (RoutedTile& t : list)
          if (!t.tried) t.first_row = 0;
    return routing;
  }

  std::unique_ptr<TextReader> text_router(std::int64_t n) const override {
    return make_topk_reader(heads(), options_, {query_.var.value(), key_.var.value(), thresholds_}, n);
  }

  void visit(const Visitor& visitor) override {
    visitor(query_);
    visitor(key_);
  }

 protected:
  void adapt(const TrainingStage& stage) override {
    Routed::adapt(stage);
    for (std::size_t g = 0; g < wants_.size(); ++g) {
      const ChoiceSums w = std::exchange(wants_[g], ChoiceSums{});
      if (w.query_tiles == 0) continue;
      const double wanted = w.wanted / w.query_tiles / (options_.wanted * static_cast<double>(options_.topk));
      thresholds_[g] += kAdaptation * std::clamp(wanted - 1, -1.0, 1.0);
    }
  }

  ConnectivityState own_state() const override {
    std::vector<double> wants;
    for (const ChoiceSums& w : wants_) wants.insert(wants.end(), {w.wanted, w.query_tiles});
    ConnectivityState all = Routed::own_state();
    all.emplace_back("thresholds", Tensor::of({std::ssize(thresholds_)}, thresholds_));
    all.emplace_back("wants", Tensor::of({std::ssize(wants_), kChoiceFields}, wants));
    return all;
  }

  void load_own_state(const ConnectivityState& state) override {
    const Tensor& thresholds = find_state(state, "thresholds");
    const Tensor& wants = find_state(state, "wants");
    if (thresholds.dtype() != DType::f64 || thresholds.numel() != std::ssize(thresholds_) ||
        wants.dtype() != DType::f64 || wants.numel() != kChoiceFields * std::ssize(wants_))
      fail(ErrorKind::data, "the checkpoint's thresholds of {} are for other heads", heads().name);
    std::ranges::copy(thresholds.values<double>(), thresholds_.begin());
    for (std::size_t g = 0; g < wants_.size(); ++g) {
      const double* w = wants.data<double>() + kChoiceFields * g;
      wants_[g] = {w[0], w[1]};
    }
    Routed::load_own_state(state);
  }

 private:
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

  // Means of the keys of parts of whole tiles: [B, N, G, D] -> [B, parts, G, D].
  Var pooled(const Var& k, std::int64_t parts) const {
    const std::int64_t B = k.dim(0), N = k.dim(1), C = k.dim(2) * k.dim(3),
                       rows = heads().geometry.tile / options_.parts;
    Var whole = k;
    if (parts * rows < N) {
      const std::int64_t sizes[] = {parts * rows * C, (N - parts * rows) * C};
      whole = ops::split_last(ops::reshape(k, {B, N * C}), sizes)[0];
    }
    if (!part_rows_.defined() || part_rows_.dim(0) != B * parts || part_rows_.device() != k.device()) {
      std::vector<std::int32_t> bounds;
      for (std::int64_t i = 0; i < B * parts; ++i)
        bounds.insert(bounds.end(), {0, static_cast<std::int32_t>(rows)});
      part_rows_ = Tensor::of({B * parts, 2}, bounds, k.device());
    }
    const Var means = ops::mean_rows(ops::reshape(whole, {B * parts, rows, C}), part_rows_);
    return ops::reshape(means, {B, parts, k.dim(2), k.dim(3)});
  }

  // For each query tile that tries a tile more, a row of it; -1 for the others. Undefined: none does.
  Tensor draw_tried_rows(const TileChoice& in) const {
    const std::int64_t GB = in.shares.dim(0), Q = in.query_tiles();
    if (options_.explore == 0) return {};
    if (in.shares.device().is_meta()) return Tensor::empty({GB, Q}, DType::i32, in.shares.device());
    RandomStream random(RandomKey{stage().seed, site_, static_cast<std::uint32_t>(stage().step)});
    std::vector<std::int32_t> rows(GB * Q, -1);
    for (std::int64_t i = 0; i < GB * Q; ++i) {
      const std::int64_t height = std::min(in.tile, in.rows() - i % Q * in.tile);
      const auto row = static_cast<std::int32_t>(random.below(static_cast<std::uint32_t>(height)));
      if (random.uniform() < options_.explore) rows[i] = row;
    }
    return Tensor::of({GB, Q}, rows, in.shares.device());
  }

  // The routed tiles of kv head g and sequence b, gb = g B + b.
  static std::vector<RoutedTile>& tiles_of(Routing& routing, std::int64_t gb, std::int64_t G) {
    const std::int64_t B = std::ssize(routing.tiles) / G;
    return routing.tiles[gb % B * G + gb / B];
  }

  // Gives the tiles their slots among the gates, and makes these.
  Var gates_of(const Var& rows, const Var& keys, const TileChoice& in, Routing& routing) const {
    const std::int64_t G = heads().n_kv_heads, GB = rows.dim(0), N = rows.dim(1), tiles = in.key_tiles();
    std::size_t most = 0;
    for (const auto& list : routing.tiles) most = std::max(most, list.size());
    if (most == 0) return {};
    // Rows for each kv head and sequence, the last ones for nothing.
    const auto M = static_cast<std::int64_t>(most);
    std::vector<std::int32_t> row_ids, places;
    std::vector<double> thresholds, chosen, tried;
    for (std::int64_t gb = 0; gb < GB; ++gb) {
      row_ids.resize((gb + 1) * M, static_cast<std::int32_t>(gb * N));
      std::int64_t at = gb * M;
      for (RoutedTile& t : tiles_of(routing, gb, G)) {
        t.gate = static_cast<std::int32_t>(places.size());
        row_ids[at] += static_cast<std::int32_t>(t.q * in.tile) + t.first_row;
        places.push_back(static_cast<std::int32_t>(at++ * tiles + t.k));
        thresholds.push_back(in.thresholds[gb / in.batch()]);
        chosen.push_back(t.tried ? 0 : 1);
        tried.push_back(t.tried ? 1 : 0);
      }
    }
    const Var log_share = log_shares_of(rows, keys, in, row_ids, places);
    const auto constant = [&](const std::vector<double>& x) {
      return Var(Tensor::of({std::ssize(x)}, x).to(log_share.dtype()).to(rows.device()));
    };
    const Var gates = ops::scale(ops::sigmoid(ops::sub(log_share, constant(thresholds))), 2);
    if (std::ranges::find(tried, 1.0) == tried.end()) return gates;
    const Var zero = ops::sub(log_share, Var(log_share.value()));              // but for its gradient
    const double most_gain = kMostGain / static_cast<double>(in.batch() * N);  // a row's part of the loss
    const Var gains = ops::scale(ops::limit_gradient(zero, kTriedSlope * most_gain), kTriedSlope);
    return ops::add(ops::mul(gates, constant(chosen)), ops::mul(gains, constant(tried)));
  }

  // The logarithms of the shares of tiles in rows: GB M rows, and where a tile is in [GB M, tiles].
  Var log_shares_of(const Var& rows, const Var& keys, const TileChoice& in,
                    const std::vector<std::int32_t>& row_ids, const std::vector<std::int32_t>& places) const {
    const std::int64_t n = std::ssize(row_ids), GB = rows.dim(0), parts = keys.dim(1);
    const DType acc = accumulation_dtype(rows.dtype());
    const Tensor row_index = Tensor::of({n}, row_ids, rows.device());
    const Var picked =
        ops::reshape(ops::embedding(ops::reshape(rows, {-1, dim_}), row_index), {GB, n / GB, dim_});
    Tensor mask = Tensor::empty({GB, n / GB, parts}, acc, rows.device());
    if (!mask.device().is_meta())
      on_device(mask.device(), [&](auto context) { candidate_mask(context, in, row_index, mask); });
    const Var scores = ops::convert(ops::matmul(picked, keys, false, true), acc);
    const Var of_parts = ops::softmax(ops::add(scores, Var(mask)));
    const Var of_tiles = ops::sum_last(ops::reshape(of_parts, {n * in.key_tiles(), options_.parts}));
    const Tensor index = Tensor::of({std::ssize(places)}, places, rows.device());
    const Var share = ops::embedding(ops::reshape(of_tiles, {-1, 1}), index);
    const Var least(Tensor::full({1}, kLeastShare, acc, rows.device()));
    return ops::reshape(ops::log(ops::add(share, least)), {-1});
  }

  // For plans of memory: as much as there may be.
  void fill(Routing& routing) const {
    for (auto& list : routing.tiles)
      for (std::int64_t q = 0; q < query_tiles(heads().geometry.n); ++q)
        for (std::int64_t k = std::max(options_.sinks, q - options_.topk - (options_.explore > 0)); k < q;
             ++k)
          list.push_back({static_cast<std::int32_t>(q), static_cast<std::int32_t>(k), 0, 0});
  }

  // scores [G * B, N, tiles * parts]. Waits for the device.
  void choose_by(const Tensor& scores, TileChoice& in, bool training, Routing& routing) const {
    const Device device = scores.device();
    Tensor chosen = Tensor::empty({scores.dim(0), in.query_tiles(), in.places() + 1, 2}, DType::i32, device);
    Tensor sums = Tensor::empty({scores.dim(0), kChoiceFields}, DType::f64, device);
    if (device.is_meta()) return fill(routing);
    on_device(device, [&](auto context) {
      tile_shares(context, scores, in);
      choose_tiles(context, in, chosen, sums);
    });
    const auto* pairs = static_cast<const std::int32_t*>(chosen_.fetch(chosen));
    const auto* of_samples = static_cast<const ChoiceSums*>(sums_.fetch(sums));
    synchronize(device);
    const std::int64_t G = heads().n_kv_heads, B = in.batch(), per_sample = chosen.numel() / (G * B);
    for (std::int64_t gb = 0; gb < G * B; ++gb)
      read_choice(in, pairs + gb * per_sample, tiles_of(routing, gb, G));
    if (!training) return;
    for (std::int64_t gb = 0; gb < G * B; ++gb)  // in a fixed order
      wants_[gb / B] += of_samples[gb];
  }

  // The tiles of one sequence and kv head, of each query tile in the order of keys.
  static void read_choice(const TileChoice& in, const std::int32_t* pairs, std::vector<RoutedTile>& out) {
    for (std::int32_t q = 0; q < in.query_tiles(); ++q, pairs += 2 * (in.places() + 1)) {
      const auto first = std::ssize(out);
      for (std::int64_t place = 0; place <= in.places(); ++place)
        if (pairs[2 * place] >= 0)
          out.push_back({q, pairs[2 * place], pairs[2 * place + 1], 0, place == in.places()});
      std::sort(out.begin() + first, out.end(),
                [](const RoutedTile& a, const RoutedTile& b) { return a.k < b.k; });
    }
  }

  static int query_heads_each(const LearnedHeads& heads) {
    require(heads.n_kv_heads > 0,
            "{}: block_topk routes whole kv groups, its heads must be all those of some kv heads",
            heads.name);
    return heads.n_heads / heads.n_kv_heads;
  }

  TopkOptions options_;
  std::int64_t dim_;
  int group_;              // query heads of a kv head
  Parameter query_, key_;  // [G, group D, dim], [G, D, dim]
  std::uint32_t site_;
  std::vector<double> thresholds_;         // of the logarithms of shares
  mutable std::vector<ChoiceSums> wants_;  // since the last adapt()
  mutable Tensor part_rows_;               // i32 [B parts, 2]: all rows of a part
  mutable OnHost chosen_, sums_;
};

struct TopkSettings : LearnedSettings {
  TopkOptions options;

  TopkSettings() {  // without a budget nothing is hardened
    schedule.warmup = 0;
    schedule.harden = schedule.lr = 1;
  }
  void fields(Fields& f) {
    f.integer("topk", options.topk, between(1, 4096), "key tiles that a query tile finds at most");
    f.integer("sinks", options.sinks, between(0, 1024), "key tiles at the start that all see");
    f.integer("dim", options.dim, between(0, 1024), "of the router; 0: head_dim");
    f.integer("parts", options.parts, between(1, 128), "parts of a tile that are scored apart");
    f.number("explore", options.explore, between(0, 1), "share of the query tiles that try one more tile");
    f.number("wanted", options.wanted, between(0.01, 10), "proposals above the threshold, over slots");
    f.number("warmup", schedule.warmup, between(0, 1), "share of the run's steps before it learns");
    f.number("harden", schedule.harden, between(0, 1),
             "share of the steps from which the layout is fixed; below 1 it takes a budget");
    f.number("lr", schedule.lr, between(0, 1e6), "learning rate of the router, times train.lr");
    budget_fields(f);
  }
  void check(const MapReader& map) const {
    if (schedule.harden < 1 || map.has("budget") || map.has("tiles")) check_budget(map);
  }
};

}  // namespace

PatternKind block_topk_kind() {
  return kind_of<TopkSettings, LearnedPatternOf<BlockTopk, TopkSettings>>(
      {"block_topk", "the key tiles that a learned router finds for the query, the diagonal and sinks",
       "topk"});
}

}  // namespace filigree
