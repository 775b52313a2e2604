// Each head chooses its connectivity from a dictionary of units (unit_dictionary.h).
//
// Unit u of head h has a hard-concrete gate (Louizos et al. 2018): s = sigmoid((log u - log(1 - u) +
// log_alpha) / T), z = clip(1.2 s - 0.1, 0, 1), T = 2/3, u uniform; without noise s = sigmoid(log_alpha). A
// tile's gate is m = 1 - prod over its units of (1 - z). The clip lets gradients through, so that a unit that
// is off learns from the tiles that are explored at gate 0.
#include <cmath>

#include "attention/learned/gated.h"
#include "attention/learned/learned_settings.h"
#include "attention/learned/unit_dictionary.h"
#include "core/ops.h"
#include "core/parallel.h"

namespace filigree {
namespace {

constexpr double kTemperature = 2.0 / 3, kStretch = 1.2, kShift = 0.1;
constexpr double kLeastOff = 1e-6;      // of 1 - z, so that its logarithm is finite
constexpr double kInitial = 2.5;        // of log_alpha: the gate begins at 1
constexpr double kInitialSpread = 0.1;  // heads begin a little different

class LearnedLayout final : public Gated {
 public:
  LearnedLayout(const LearnedHeads& heads, const TileBudget& budget, const LearnSchedule& schedule,
                const UnitOptions& units, const ParameterFactory& make)
      : Gated(heads, budget, schedule),
        dictionary_(units, heads.geometry),
        site_(random_site(heads.name + ".noise")),
        log_alpha_(
            make.normal(heads.name + ".log_alpha", {heads.n_heads, dictionary_.n_units()}, kInitialSpread)),
        cover_(cover(make)),
        share_(share_of_classes(make)),
        initial_(Tensor::full({dictionary_.n_units()}, kInitial, make.dtype, make.device)) {
    log_alpha_.decay = false;
    log_alpha_.lr_factor = schedule.lr;
    log_alpha_.in_norm = false;
  }

  std::int64_t entries() const override { return std::int64_t{heads().n_heads} * dictionary_.n_classes(); }

  std::int32_t entry(int head, std::int64_t q, std::int64_t k) const override {
    if (q >= dictionary_.tiles() || k >= dictionary_.tiles()) return kOff;
    return head * dictionary_.n_classes() + dictionary_.class_of(q, k);
  }

  void draw_noise(const TrainingStage& stage) override {
    const Tensor& like = log_alpha_.var.value();
    if (like.device().is_meta()) return;
    RandomStream random(RandomKey{stage.seed, site_, static_cast<std::uint32_t>(stage.step)});
    Tensor noise = Tensor::empty(like.shape(), DType::f64);
    for (std::int64_t i = 0; i < noise.numel(); ++i) {
      const double u = random.uniform();
      noise.data<double>()[i] = std::log(u) - std::log1p(-u);
    }
    noise_ = noise.to(like.dtype()).to(like.device());
  }

  // The same for any number of classes: log(1 - m) = sum over units of log(1 - z).
  Var gates(bool training) const override {
    const Var alpha = levels();
    const Var s = training && noise_.defined()
                      ? ops::sigmoid(ops::scale(ops::add(alpha, Var(noise_)), 1 / kTemperature))
                      : ops::sigmoid(alpha);
    const Var off = ops::clamp(plus(ops::scale(s, -kStretch), 1 + kShift), kLeastOff, 1, ops::Cut::through);
    return ops::reshape(one_minus_product(off), {entries()});
  }

  Tensor unit_gates() const override {
    const NoGrad no_tape;
    const Var s = ops::sigmoid(levels());
    return ops::clamp(plus(ops::scale(s, kStretch), -kShift), 0, 1).value().to(Device::cpu());
  }

  void visit(const Visitor& visitor) override { visitor(log_alpha_); }

 protected:
  // Sharper as the budget closes in, so that units that hardly differ do not share it by chance, each on now
  // and then and none of them without noise.
  Var raw_levels() const override { return ops::scale(ops::add(log_alpha_.var, Var(initial_)), sharpness()); }

  // A unit is not off with probability sigmoid(log_alpha - T log(0.1 / 1.1)) (Louizos et al. 2018, equation
  // 12).
  Var share(const Var& alpha) const override {
    const Var off = ops::sigmoid(ops::scale(plus(alpha, on_shift()), -1));
    const Var on = ops::mul(one_minus_product(off), Var(share_));
    return plus(ops::sum(on), share_of_diagonal());
  }

  ShareAt share_at(const Tensor& alpha, double shift) const override {
    std::vector<ShareAt> of_heads(heads().n_heads);
    parallel_tasks(heads().n_heads, [&](std::int64_t head) {
      const std::int64_t units = dictionary_.n_units();
      const double* row = alpha.data<double>() + head * units;
      std::vector<double> off(units);
      for (std::int64_t u = 0; u < units; ++u) off[u] = 1 / (1 + std::exp(row[u] - shift + on_shift()));
      ShareAt& at = of_heads[head];
      for (int c = 0; c < dictionary_.n_classes(); ++c) {
        double all_off = 1, growth = 0;  // of its logarithm with the shift
        for (const std::int32_t u : dictionary_.units_of_class(c)) {
          all_off *= off[u];
          growth += 1 - off[u];
        }
        const auto tiles = static_cast<double>(dictionary_.tiles_of_class(c));
        at.share += (1 - all_off) * tiles;
        at.slope += all_off * growth * tiles;
      }
    });
    const auto full = static_cast<double>(full_tiles(heads().geometry.n));
    ShareAt at{share_of_diagonal(), 0};
    for (const ShareAt& of_head : of_heads) {  // in a fixed order
      at.share += of_head.share / full;
      at.slope += of_head.slope / full;
    }
    return at;
  }

  TileScore scores() const override {
    const Tensor scores = log_alpha_.var.value().to(DType::f32).to(Device::cpu());
    return [this, scores, units = std::vector<std::int32_t>{}](int head, std::int64_t q,
                                                               std::int64_t k) mutable {
      dictionary_.units_of(q, k, units);
      float best = -std::numeric_limits<float>::infinity();
      for (const std::int32_t u : units)
        best = std::max(best, scores.data<float>()[head * dictionary_.n_units() + u]);
      return best;
    };
  }

 private:
  static Var plus(const Var& x, double constant) {
    return ops::add(x, Var(Tensor::full({x.dim(x.rank() - 1)}, constant, x.dtype(), x.device())));
  }
  static double on_shift() { return -kTemperature * std::log(kShift / (kStretch - kShift)); }
  double share_of_diagonal() const {
    return static_cast<double>(query_tiles(heads().geometry.n) * heads().n_heads) /
           static_cast<double>(full_tiles(heads().geometry.n));
  }

  // 1 - the product, over the units of each class, of off [H, U]: [H, C].
  Var one_minus_product(const Var& off) const {
    const Var product = ops::exp(ops::matmul(ops::log(off), Var(cover_)));
    return plus(ops::scale(product, -1), 1);
  }

  // [U, C]: whether a unit covers a class.
  Tensor cover(const ParameterFactory& make) const {
    Tensor cover = Tensor::zeros({dictionary_.n_units(), dictionary_.n_classes()}, DType::f64);
    for (int c = 0; c < dictionary_.n_classes(); ++c)
      for (const std::int32_t u : dictionary_.units_of_class(c))
        cover.data<double>()[u * dictionary_.n_classes() + c] = 1;
    return cover.to(make.dtype).to(make.device);
  }

  // [C]: the share of full_tiles that one head's tiles of a class are.
  Tensor share_of_classes(const ParameterFactory& make) const {
    Tensor share = Tensor::empty({dictionary_.n_classes()}, DType::f64);
    for (int c = 0; c < dictionary_.n_classes(); ++c)
      share.data<double>()[c] = static_cast<double>(dictionary_.tiles_of_class(c)) /
                                static_cast<double>(full_tiles(heads().geometry.n));
    return share.to(make.dtype).to(make.device);
  }

  UnitDictionary dictionary_;
  std::uint32_t site_;
  Parameter log_alpha_;  // [H, U], minus kInitial
  Tensor cover_, share_, initial_;
  Tensor noise_;
};

void moduli(Fields& f, std::string_view key, std::vector<std::int64_t>& list, std::string_view meaning) {
  const auto read = [&list, key](const YamlNode& node, MapReader& map) {
    if (!node.is_sequence())
      fail_at(node.mark, fmt::format("{} must be a list of numbers of tiles", map.name(key)));
    list.clear();
    for (const YamlNode& item : node.items) {
      const std::int64_t s = as_integer(item, map.name(key), 2, 1024);
      if (std::ranges::find(list, s) != list.end())
        fail_at(item.mark, fmt::format("{} names {} twice", map.name(key), s));
      list.push_back(s);
    }
  };
  const auto print = [&list] {
    YamlNode node = YamlNode::make_sequence();
    for (const std::int64_t s : list) node.items.push_back(YamlNode::make(s));
    return node;
  };
  f.custom(key, Field::Type::integers, meaning, read, print);
}

struct LayoutSettings : LearnedSettings {
  UnitOptions options;

  void fields(Fields& f) {
    budget_fields(f);
    schedule_fields(f);
    f.number("explore", schedule.explore, between(0, 1),
             "share of the tiles that are off and computed all the same");
    f.integer("distances", options.distances, between(0, 4096), "tile distances that are units of their own");
    f.integer("bands", options.bands, between(0, 64),
              "log-spaced ranges of the distances beyond, per octave");
    f.integer("sinks", options.sinks, between(0, 1024), "key tiles at the start that are units");
    moduli(f, "strides", options.strides, "numbers s of tiles: distances equal mod s are a unit");
    moduli(f, "columns", options.columns, "numbers s of tiles: key tiles equal mod s are a unit");
    f.integer("random_sets", options.random_sets, between(0, 1024), "disjoint random sets, each a unit");
    f.integer("seed", options.random_seed, between(0, std::int64_t{1} << 53), "seed of the random sets");
    f.boolean("free_blocks", options.free_blocks, "every tile is a unit; for the length of training only");
  }
};

}  // namespace

PatternKind learned_layout_kind() {
  return kind_of<LayoutSettings, LearnedPatternOf<LearnedLayout, LayoutSettings>>(
      {"learned_layout", "what the head has learned, from a dictionary of distances, sinks, strides ..",
       "tiles", "budget"});
}

}  // namespace filigree
