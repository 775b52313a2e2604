#include "attention/intervals.h"

namespace filigree {

void unite(const Intervals& a, const Intervals& b, Intervals& out) {
  out.clear();
  auto p = a.begin();
  auto q = b.begin();
  while (p != a.end() || q != b.end()) {
    const bool take_a = q == b.end() || (p != a.end() && p->begin <= q->begin);
    const Interval next = take_a ? *p++ : *q++;
    append_interval(out, next.begin, next.end);
  }
}

void intersect(const Intervals& a, const Intervals& b, Intervals& out) {
  out.clear();
  auto p = a.begin();
  auto q = b.begin();
  while (p != a.end() && q != b.end()) {
    append_interval(out, std::max(p->begin, q->begin), std::min(p->end, q->end));
    if (p->end < q->end) {
      ++p;
    } else {
      ++q;
    }
  }
}

void subtract(const Intervals& a, const Intervals& b, Intervals& out) {
  out.clear();
  auto q = b.begin();
  for (const Interval& from : a) {
    std::int64_t begin = from.begin;
    while (q != b.end() && q->end <= begin) ++q;
    // The last hole may reach into the next interval of `a`, so it is looked at again there.
    for (auto hole = q; hole != b.end() && hole->begin < from.end; ++hole) {
      append_interval(out, begin, hole->begin);
      begin = std::max(begin, hole->end);
      if (hole->end <= from.end) q = hole;
    }
    append_interval(out, begin, from.end);
  }
}

void clip(Intervals& row, std::int64_t limit) {
  while (!row.empty() && row.back().begin >= limit) row.pop_back();
  if (!row.empty()) row.back().end = std::min(row.back().end, limit);
}

}  // namespace filigree
