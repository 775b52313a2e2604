#include "attention/learned/unit_dictionary.h"

#include <cmath>
#include <map>

#include "core/random.h"

namespace filigree {
namespace {

constexpr std::int64_t kMaxUnits = 4096, kMaxTiles = 4096;
constexpr std::uint32_t kRandomSite = 0x756e6974;  // "unit"

}  // namespace

UnitDictionary::UnitDictionary(const UnitOptions& options, const Geometry& geometry)
    : options_(options),
      tiles_((geometry.n + geometry.tile - 1) / geometry.tile),
      causal_(geometry.causal),
      sides_(geometry.causal ? 1 : 2) {
  require(tiles_ <= kMaxTiles,
          "learned_layout: {} tokens are {} tiles of {}, at most {} can be learned; use larger tiles",
          geometry.n, tiles_, geometry.tile, kMaxTiles);
  name_units(geometry);
  require(n_units() <= kMaxUnits,
          "learned_layout: the dictionary has {} units a head, at most {} are allowed; take fewer distances, "
          "strides or random sets, or leave free_blocks out",
          n_units(), kMaxUnits);
  classify();
}

int UnitDictionary::add(std::string name) {
  names_.push_back(std::move(name));
  return n_units() - 1;
}

void UnitDictionary::name_units(const Geometry& geometry) {
  const std::int64_t exact = std::min(options_.distances, tiles_ - 1);  // distances 1 .. exact
  const auto side = [](int s) { return s == 0 ? "" : "ahead "; };
  first_distance_ = n_units();
  for (int s = 0; s < sides_; ++s)
    for (std::int64_t d = 1; d <= exact; ++d) add(fmt::format("{}distance {}", side(s), d));

  if (options_.bands > 0) {
    std::int64_t begin = options_.distances + 1;
    for (; begin < tiles_;) {
      band_begins_.push_back(begin);
      const double factor = std::exp2(1.0 / static_cast<double>(options_.bands));
      begin =
          std::max(begin + 1, static_cast<std::int64_t>(std::llround(static_cast<double>(begin) * factor)));
    }
    if (!band_begins_.empty()) band_begins_.push_back(begin);
  }
  first_band_ = n_units();
  for (int s = 0; s < sides_; ++s)
    for (std::size_t b = 0; b + 1 < band_begins_.size(); ++b)
      add(fmt::format("{}distances {}-{}", side(s), band_begins_[b], band_begins_[b + 1] - 1));

  first_sink_ = n_units();
  for (std::int64_t k = 0; k < options_.sinks; ++k) add(fmt::format("sink {}", k));
  first_stride_ = n_units();
  for (const std::int64_t s : options_.strides)
    for (std::int64_t r = 0; r < s; ++r) add(fmt::format("stride {} residue {}", s, r));
  first_column_ = n_units();
  for (const std::int64_t s : options_.columns)
    for (std::int64_t r = 0; r < s; ++r) add(fmt::format("column {} residue {}", s, r));
  first_random_ = n_units();
  for (std::int64_t r = 0; r < options_.random_sets; ++r) add(fmt::format("random {}", r));

  first_block_ = n_units();
  if (!options_.free_blocks) return;
  require(
      tiles_ * tiles_ <= kMaxUnits,
      "learned_layout: free_blocks are one unit per tile, and {} tokens in tiles of {} are {} x {} of them; "
      "at most {} are allowed",
      geometry.n, geometry.tile, tiles_, tiles_, kMaxUnits);
  for (std::int64_t q = 0; q < tiles_; ++q)
    for (std::int64_t k = 0; k < tiles_; ++k) add(fmt::format("block {},{}", q, k));
}

int UnitDictionary::band_of(std::int64_t distance) const {
  if (band_begins_.empty() || distance < band_begins_.front() || distance >= band_begins_.back()) return -1;
  const auto after = std::upper_bound(band_begins_.begin(), band_begins_.end(), distance);
  return static_cast<int>(after - band_begins_.begin()) - 1;
}

void UnitDictionary::units_of(std::int64_t q, std::int64_t k, std::vector<std::int32_t>& out) const {
  out.clear();
  const auto take = [&](std::int64_t unit) { out.push_back(static_cast<std::int32_t>(unit)); };
  const std::int64_t distance = std::abs(q - k);
  const int side = k > q;
  const std::int64_t exact = std::min(options_.distances, tiles_ - 1);
  if (distance >= 1 && distance <= exact) take(first_distance_ + side * exact + distance - 1);
  if (const int band = band_of(distance); band >= 0)
    take(first_band_ + side * (std::ssize(band_begins_) - 1) + band);
  if (k < options_.sinks) take(first_sink_ + k);
  std::int64_t first = first_stride_;
  for (const std::int64_t s : options_.strides) {
    take(first + ((q - k) % s + s) % s);
    first += s;
  }
  first = first_column_;
  for (const std::int64_t s : options_.columns) {
    take(first + k % s);
    first += s;
  }
  if (options_.random_sets > 0) {
    const RandomKey key{static_cast<std::uint64_t>(options_.random_seed), kRandomSite,
                        static_cast<std::uint32_t>(q)};
    const std::uint64_t draw = key.block(static_cast<std::uint64_t>(k))[0];
    take(first_random_ +
         static_cast<std::int64_t>(draw * static_cast<std::uint64_t>(options_.random_sets) >> 32));
  }
  if (options_.free_blocks && q < tiles_ && k < tiles_) take(first_block_ + q * tiles_ + k);
}

void UnitDictionary::classify() {
  class_of_.assign(tiles_ * tiles_, -1);
  std::map<std::vector<std::int32_t>, std::int32_t> classes;
  std::vector<std::int32_t> units;
  for (std::int64_t q = 0; q < tiles_; ++q)
    for (std::int64_t k = 0; k < (causal_ ? q : tiles_); ++k) {
      if (k == q) continue;
      units_of(q, k, units);
      if (units.empty())
        throw Error(ErrorKind::usage,
                    fmt::format("learned_layout: no unit covers the tiles at distance {} (query tile {}, key "
                                "tile {})",
                                q - k, q, k),
                    "give more distances, bands, or a stride");
      const auto [found, is_new] = classes.try_emplace(units, n_classes());
      if (is_new) {
        units_of_class_.push_back(units);
        tiles_of_class_.push_back(0);
      }
      class_of_[q * tiles_ + k] = found->second;
      ++tiles_of_class_[found->second];
    }
}

}  // namespace filigree
