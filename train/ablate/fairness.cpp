#include "train/ablate/fairness.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "layers/transformer.h"
#include "train/config/layouts.h"

namespace filigree {
namespace {

constexpr std::int64_t kMaxExhaustive = 2048;  // values that are all tried where nothing else helps

// Values to try: dense at first, then a few per doubling, so that every order of magnitude is seen.
std::vector<std::int64_t> coarse_values(std::int64_t max) {
  std::vector<std::int64_t> values;
  for (std::int64_t v = 0; v < max; v = std::max(v + 1, v + v / 4)) values.push_back(v);
  values.push_back(max);
  return values;
}

class Search {
 public:
  Search(const std::function<std::optional<double>(std::int64_t)>& tiles, double target, double tolerance)
      : tiles_(tiles), target_(target), tolerance_(tolerance) {}

  std::optional<double> at(std::int64_t value) {
    const auto known = seen_.find(value);
    if (known != seen_.end()) return known->second;
    const auto tiles = tiles_(value);
    seen_[value] = tiles;
    if (!tiles) return tiles;
    keep_nearer(found_.best, value);
    if (*tiles <= target_) keep_nearer(found_.below, value);
    if (*tiles >= target_) keep_nearer(found_.above, value);
    return tiles;
  }

  // Halves an interval whose ends lie on either side of the target.
  void bisect(std::int64_t a, std::int64_t b) {
    while (b - a > 1) {
      const std::int64_t middle = a + (b - a) / 2;
      const auto tiles = at(middle), left = at(a);
      if (!tiles || !left) return;
      ((*tiles < target_) == (*left < target_) ? a : b) = middle;
    }
  }

  bool done() const {
    return found_.best && std::abs(*seen_.at(*found_.best) - target_) <= tolerance_ * target_;
  }
  const FitSearch& found() const { return found_; }

 private:
  void keep_nearer(std::optional<std::int64_t>& kept, std::int64_t value) {
    if (!kept || std::abs(*seen_[value] - target_) < std::abs(*seen_[*kept] - target_)) kept = value;
  }

  const std::function<std::optional<double>(std::int64_t)>& tiles_;
  double target_, tolerance_;
  std::map<std::int64_t, std::optional<double>> seen_;
  FitSearch found_;
};

double percent_off(double tiles, double target) {
  return 100 * (tiles / target - 1);
}

[[noreturn]] void fail_unfitted(const Equal& equal, double target, const std::string& cell,
                                const std::string& numbers, const std::string& hint) {
  fail_at(equal.mark,
          fmt::format("equal: tiles: {} cannot be fitted to {:.6g} tiles per layer within {:.3g} %: {}", cell,
                      target, 100 * equal.tolerance, numbers),
          hint);
}

}  // namespace

LayerWork work_per_layer(const Config& config) {
  const LayerPatternsPtr patterns = layer_patterns(config);
  const std::vector<LayoutPtr> layouts = patterns->layouts(config.data.seq_len);
  // On no device: only what the patterns will cost is asked, for which the data's vocabulary does not matter.
  ModelConfig shape = config.model;
  shape.vocab_size = std::max<std::int64_t>(1, shape.vocab_size);
  shape.n_classes = std::max<std::int64_t>(1, shape.n_classes);
  const Transformer model(shape, 0, Device::meta(), DType::f32, DType::f32, patterns);
  const auto n = static_cast<double>(layouts.size());
  LayerWork work;
  for (std::size_t i = 0; i < layouts.size(); ++i) {
    const LayoutStatistics s = layouts[i]->statistics();
    // As many of all its pairs as of its tiles, where a layer learns.
    const auto tiles = static_cast<double>(model.connectivities()[i]->budget_tiles());
    work.tiles += tiles / n;
    work.pairs += static_cast<double>(s.exact_pairs) * (tiles / static_cast<double>(s.computed_tiles)) / n;
  }
  return work;
}

FitSearch fit_parameter(const std::function<std::optional<double>(std::int64_t)>& tiles, std::int64_t max,
                        std::int64_t tile, double target, double tolerance) {
  Search search(tiles, target, tolerance);
  std::optional<std::int64_t> last;
  for (const std::int64_t value : coarse_values(max)) {
    const auto here = search.at(value);
    if (!here) continue;
    if (last && (*here < target) != (*search.at(*last) < target)) {
      search.bisect(*last, value);
      if (search.done()) return search.found();
    }
    last = value;
  }
  // Strides: their tiles jump, above all at multiples of the tile's edge.
  const std::int64_t step = max <= kMaxExhaustive ? 1 : tile;
  for (std::int64_t value = step; value <= max && !search.done(); value += step) search.at(value);
  return search.found();
}

std::pair<std::int64_t, std::int64_t> plateau(const std::function<std::optional<double>(std::int64_t)>& tiles,
                                              std::int64_t value, std::int64_t max) {
  const auto here = tiles(value);
  const auto end = [&](std::int64_t direction) {  // doubling steps out, then halving ones back
    std::int64_t inside = value, step = 1;
    const auto same = [&](std::int64_t v) { return v >= 0 && v <= max && tiles(v) == here; };
    for (; same(inside + direction * step); step *= 2) inside += direction * step;
    for (; step > 0; step /= 2)
      if (same(inside + direction * step)) inside += direction * step;
    return inside;
  };
  return {end(-1), end(1)};
}

Fitted fit_pattern(Config& config, double target, const Equal& equal, const std::string& cell) {
  const YamlNode pattern = with_default_parameter(config.pattern.written);
  const auto name = free_parameter(pattern);
  if (!name) {
    const double tiles = tiles_per_layer(config);
    if (std::abs(tiles - target) > equal.tolerance * target)
      fail_unfitted(equal, target, cell,
                    fmt::format("it has no free parameter and computes {:.6g} ({:+.1f} %)", tiles,
                                percent_off(tiles, target)),
                    "write the word `fit` in place of one of its numbers, or list it under except");
    return {"", 0, tiles, target};
  }
  std::string refused;
  const auto evaluate = [&](std::int64_t value) -> std::optional<double> {
    try {
      config.pattern = read_pattern(with_parameter(pattern, value));
      validate_pattern(config);
      return tiles_per_layer(config);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::usage) throw;
      refused = e.what();
      return std::nullopt;
    }
  };
  // Most parameters count tokens, or less.
  const std::int64_t most = *name == "tiles" ? std::llround(2 * target) : config.data.seq_len;
  const FitSearch found = fit_parameter(evaluate, most, config.tile, target, equal.tolerance);
  if (!found.best)
    fail_unfitted(equal, target, cell, fmt::format("no {} is possible ({})", *name, refused), "");
  const double tiles = *evaluate(*found.best);
  if (std::abs(tiles - target) > equal.tolerance * target) {
    std::string numbers;
    for (const auto& side : {found.below, found.above})
      if (side && (numbers.empty() || side != found.below)) {
        const double t = *evaluate(*side);
        numbers += fmt::format("{}{} {} gives {:.6g} ({:+.1f} %)", numbers.empty() ? "" : ", ", *name, *side,
                               t, percent_off(t, target));
      }
    fail_unfitted(equal, target, cell, numbers,
                  "choose another target, a larger tolerance or another parameter, or list it under except");
  }
  const auto [first, last] = plateau(evaluate, *found.best, most);
  const auto pairs_at = [&](std::int64_t value) {
    evaluate(value);
    return work_per_layer(config).pairs;
  };
  const std::int64_t best = pairs_at(last) >= pairs_at(first) ? last : first;
  evaluate(best);
  return {*name, best, tiles, target};
}

}  // namespace filigree
