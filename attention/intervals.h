// Rows of keys as intervals, and set operations on them in time linear in the number of intervals. Results
// replace `out`, which must not be one of the inputs; intervals that touch are joined.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace filigree {

// Half-open key range.
struct Interval {
  std::int64_t begin, end;
};
using Intervals = std::vector<Interval>;  // ascending, disjoint, non-empty

// Appends [begin, end), which must not begin before the last interval does; empty ranges are left out.
inline void append_interval(Intervals& out, std::int64_t begin, std::int64_t end) {
  if (begin >= end) return;
  if (!out.empty() && begin <= out.back().end) {
    out.back().end = std::max(out.back().end, end);
  } else {
    out.push_back({begin, end});
  }
}

void unite(const Intervals& a, const Intervals& b, Intervals& out);
void intersect(const Intervals& a, const Intervals& b, Intervals& out);
void subtract(const Intervals& a, const Intervals& b, Intervals& out);
// Drops the keys from `limit` on.
void clip(Intervals& row, std::int64_t limit);

}  // namespace filigree
