// Units: sets of tiles from which a head composes its connectivity (learned_layout). All but free blocks are
// given by relative distance or by a key tile's place, so that a choice of units means something at any
// length.
//
// With q the query tile, k the key tile and d = q - k (negative ahead of the query, without causality):
//   distance  d, one tile distance, up to `distances` tiles
//   band      the distances beyond, in `bands` log-spaced ranges per octave
//   sink      key tile k < `sinks`
//   stride    d mod s = r, for each s of `strides` and each residue r
//   column    k mod s = r, for each s of `columns` and each residue r
//   random    a seeded set that holds each tile with probability 1 / `random_sets`; the sets are disjoint
//   block     one tile (q, k); only for the length that it was learned at
// The diagonal belongs to no unit: it is always computed.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "attention/pattern.h"

namespace filigree {

struct UnitOptions {
  std::int64_t distances = 64;
  std::int64_t bands = 8;
  std::int64_t sinks = 4;
  std::vector<std::int64_t> strides, columns = {4, 8};
  std::int64_t random_sets = 0;
  std::int64_t random_seed = 0;
  bool free_blocks = false;
};

class UnitDictionary {
 public:
  // For the length in `geometry`. Error(usage) if a tile below the diagonal (any, without causality) is in no
  // unit, or if there are too many units.
  UnitDictionary(const UnitOptions& options, const Geometry& geometry);

  std::int64_t tiles() const { return tiles_; }  // of a side
  bool causal() const { return causal_; }
  int n_units() const { return static_cast<int>(names_.size()); }
  const std::string& name(int unit) const { return names_[unit]; }

  // Tiles in the same units form a class; class_of is -1 on the diagonal and where causality forbids.
  int n_classes() const { return static_cast<int>(units_of_class_.size()); }
  std::int32_t class_of(std::int64_t q, std::int64_t k) const { return class_of_[q * tiles_ + k]; }
  std::span<const std::int32_t> units_of_class(int c) const { return units_of_class_[c]; }
  std::int64_t tiles_of_class(int c) const { return tiles_of_class_[c]; }

  // The units of any tile, also beyond this length: bands that were never seen there are left out, and free
  // blocks of other lengths. Ascending; replaces `out`.
  void units_of(std::int64_t q, std::int64_t k, std::vector<std::int32_t>& out) const;

 private:
  int add(std::string name);
  void name_units(const Geometry& geometry);
  void classify();
  int band_of(std::int64_t distance) const;  // -1: beyond the bands

  UnitOptions options_;
  std::int64_t tiles_;
  bool causal_;
  std::vector<std::string> names_;
  std::vector<std::int64_t> band_begins_;  // of each band, and the end of the last
  int first_distance_ = 0, first_band_ = 0, first_sink_ = 0, first_stride_ = 0, first_column_ = 0,
      first_random_ = 0, first_block_ = 0;
  int sides_ = 1;  // 2 without causality: behind and ahead
  std::vector<std::int32_t> class_of_;
  std::vector<std::vector<std::int32_t>> units_of_class_;
  std::vector<std::int64_t> tiles_of_class_;
};

}  // namespace filigree
