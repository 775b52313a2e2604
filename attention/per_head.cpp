// A layer whose heads attend with several connectivities: ranges of heads that are fixed or learn by a
// mechanism each. Their layouts are joined head by head, and their gates in the order of the joined layout's.
#include <algorithm>
#include <map>

#include "attention/connectivity.h"
#include "attention/mask_interner.h"
#include "core/ops.h"

namespace filigree {
namespace {

struct HeadRange {
  int first = 0, count = 0;
  int first_kv = 0, n_kv = 0;  // n_kv is 0 where the range is not all heads of some kv heads
  ConnectivityPtr connectivity;
};

class PerHead final : public Connectivity {
 public:
  PerHead(const Geometry& training, std::vector<HeadRange> ranges, int n_heads, std::int64_t head_dim)
      : Connectivity(training), ranges_(std::move(ranges)), n_heads_(n_heads), head_dim_(head_dim) {}

  Connected connect(const Sequences& s) const override {
    std::vector<Connected> parts;
    for (const HeadRange& range : ranges_) parts.push_back(range.connectivity->connect(part_of(s, range)));
    return join(parts, s.q.defined() ? s.q.dim(0) : 1, {s.n, s.training});
  }
  bool reads_text() const override { return any(&Connectivity::reads_text); }
  void visit(const Visitor& visitor) override {
    for (const HeadRange& range : ranges_) range.connectivity->visit(visitor);
  }

  bool learns() const override { return any(&Connectivity::learns); }
  void advance(const TrainingStage& stage) override {
    for (const HeadRange& range : ranges_) range.connectivity->advance(stage);
  }
  bool is_static() const override { return all(&Connectivity::is_static); }
  double warmup() const override {
    double share = 0;
    for (const HeadRange& range : ranges_) share = std::max(share, range.connectivity->warmup());
    return share;
  }
  bool has_warmed_up() const override { return all(&Connectivity::has_warmed_up); }
  std::optional<LearnTelemetry> telemetry() const override {
    std::optional<LearnTelemetry> sum;
    for (const HeadRange& range : ranges_)
      if (const auto told = range.connectivity->telemetry(); told && sum)
        *sum += *told;
      else if (told)
        sum = told;
    return sum;
  }
  LayoutPtr computed() const override {
    if (reads_text() && newest_) return heads_of(*newest_, newest_->n_heads() - n_heads_, n_heads_);
    return layouts([](const Connectivity& c) { return c.computed(); }, {training_geometry().n, true});
  }

  bool can_harden() const override { return all(&Connectivity::can_harden); }
  void count_choices() override {
    for (const HeadRange& range : ranges_) range.connectivity->count_choices();
  }
  void harden() override {
    for (const HeadRange& range : ranges_) range.connectivity->harden();
  }
  LayoutPtr hardened(std::int64_t n) const override {
    return layouts([n](const Connectivity& c) { return c.hardened(n); }, {n, false});
  }
  std::int64_t budget_tiles() const override {
    std::int64_t tiles = 0;
    for (const HeadRange& range : ranges_) tiles += range.connectivity->budget_tiles();
    return tiles;
  }

  ConnectivityState state() const override {
    ConnectivityState all;
    for (const HeadRange& range : ranges_)
      for (auto& entry : range.connectivity->state()) all.push_back(std::move(entry));
    return all;
  }
  void load_state(const ConnectivityState& state, std::uint64_t seed) override {
    for (const HeadRange& range : ranges_) range.connectivity->load_state(state, seed);
  }

  Connected growing(std::int64_t n) const override {
    std::vector<Connected> parts;
    for (const HeadRange& range : ranges_) parts.push_back(range.connectivity->growing(n));
    return join(parts, 1, {n, false});
  }
  std::unique_ptr<TextReader> reader(std::int64_t n) const override;

 private:
  using Key = std::pair<std::int64_t, bool>;  // length, training
  class Reader;

  template <class Ask>
  bool any(Ask ask) const {
    return std::ranges::any_of(ranges_, [&](const HeadRange& r) { return ((*r.connectivity).*ask)(); });
  }
  template <class Ask>
  bool all(Ask ask) const {
    return std::ranges::all_of(ranges_, [&](const HeadRange& r) { return ((*r.connectivity).*ask)(); });
  }

  // The sequences as the heads of a range see them.
  static Sequences part_of(const Sequences& s, const HeadRange& range) {
    Sequences part{s.n, s.training};
    if (!range.connectivity->reads_text()) return part;
    part.q = slice_heads(s.q, range.first, range.count);
    part.k = slice_heads(s.k, range.first_kv, range.n_kv);
    part.row_bounds = s.row_bounds;
    return part;
  }
  // Heads [first, first + count) of x.
  static Var slice_heads(const Var& x, std::int64_t first, std::int64_t count) {
    const std::int64_t B = x.dim(0), n = x.dim(1), D = x.dim(3);
    std::vector<std::int64_t> sizes;
    const std::size_t place = first > 0;
    for (const std::int64_t heads : {first, count, x.dim(2) - first - count})
      if (heads > 0) sizes.push_back(heads * D);
    const auto parts = ops::split_last(ops::reshape(x, {B, n, x.dim(2) * D}), sizes);
    return ops::reshape(parts[place], {B, n, count, D});
  }

  template <class Ask>
  LayoutPtr layouts(const Ask& ask, const Key& key) const {
    std::vector<Connected> parts;
    for (const HeadRange& range : ranges_) parts.push_back({ask(*range.connectivity), {}});
    return join(parts, 1, key).layout;
  }

  Connected join(const std::vector<Connected>& parts, std::int64_t batch, const Key& key) const {
    std::vector<LayoutPtr> from;
    bool gated = false, each = false;  // each: sequences have layouts of their own
    for (std::size_t i = 0; i < parts.size(); ++i) {
      from.push_back(parts[i].layout);
      gated = gated || parts[i].gate.defined();
      each = each || parts[i].layout->n_heads() != ranges_[i].count;
    }
    if (!each) batch = 1;
    Joined& kept = joined_[key];
    if (kept.from != from) kept = {from, join_layouts(from, batch), {}};
    if (each && key.first == training_geometry().n) newest_ = kept.layout;
    return {kept.layout, gated ? join_gates(parts, batch, kept.index) : Var{}};
  }

  LayoutPtr join_layouts(const std::vector<LayoutPtr>& from, std::int64_t batch) const {
    const TileLayout& like = *from[0];
    MaskInterner masks(like.tile());
    std::vector<TilePattern> patterns;
    std::vector<std::int32_t> head_pattern(batch * n_heads_);
    for (std::size_t i = 0; i < from.size(); ++i) {
      const HeadRange& range = ranges_[i];
      std::vector<std::int32_t> mask_ids, ids;
      for (std::int32_t id = 0; id < from[i]->masks().size(); ++id)
        mask_ids.push_back(masks.id_of(from[i]->masks().mask(id)));
      for (TilePattern pattern : from[i]->patterns()) {
        for (std::int32_t& id : pattern.mask_id)
          if (id != kFullTile) id = mask_ids[id];
        const auto equal = batch > 1 ? patterns.end() : std::ranges::find(patterns, pattern);
        ids.push_back(static_cast<std::int32_t>(equal - patterns.begin()));
        if (equal == patterns.end()) patterns.push_back(std::move(pattern));
      }
      for (std::int64_t b = 0; b < batch; ++b)
        for (int h = 0; h < range.count; ++h)
          head_pattern[b * n_heads_ + range.first + h] =
              ids[from[i]->head_pattern()[head_in(*from[i], range, b, h)]];
    }
    return std::make_shared<const TileLayout>(like.n_queries(), like.n_keys(), like.tile(), like.causal(),
                                              std::move(patterns), std::move(head_pattern), masks.take());
  }

  // A range's head h of sequence b in the range's own layout, which all sequences may share.
  static int head_in(const TileLayout& layout, const HeadRange& range, std::int64_t b, int h) {
    return layout.n_heads() == range.count ? h : static_cast<int>(b) * range.count + h;
  }

  // From a table whose entry 0 is 1. `index`: the entries of the joined layout's tiles, made where undefined.
  Var join_gates(const std::vector<Connected>& parts, std::int64_t batch, Tensor& index) const {
    std::vector<Var> gates{{}};
    std::vector<std::int64_t> first_entries;
    std::int64_t entries = 1;
    for (const Connected& c : parts) {
      first_entries.push_back(entries);
      if (!c.gate.defined()) continue;
      gates.push_back(c.gate);
      entries += c.gate.numel();
    }
    const DType dtype = gates.back().dtype();
    const Device device = gates.back().device();
    gates[0] = Var(Tensor::full({1}, 1, dtype, device));
    if (!index.defined()) {
      std::vector<std::int32_t> all;
      for (std::int64_t b = 0; b < batch; ++b)
        for (std::size_t i = 0; i < parts.size(); ++i)
          for (int h = 0; h < ranges_[i].count; ++h) {
            const TileLayout& layout = *parts[i].layout;
            const int head = head_in(layout, ranges_[i], b, h);
            for (std::int64_t g = layout.gate_offset(head); g < layout.gate_offset(head + 1); ++g)
              all.push_back(parts[i].gate.defined() ? static_cast<std::int32_t>(first_entries[i] + g) : 0);
          }
      index = Tensor::of({std::ssize(all)}, all, device);
    }
    return pick_gates(ops::concat_last(gates), index);
  }

  // The layout that was joined last: it holds as long as the layouts that it is made of stay.
  struct Joined {
    std::vector<LayoutPtr> from;
    LayoutPtr layout;
    Tensor index;  // of its gates, see join_gates; undefined: not made yet
  };

  std::vector<HeadRange> ranges_;
  int n_heads_;
  std::int64_t head_dim_;
  mutable std::map<Key, Joined> joined_;
  mutable LayoutPtr newest_;  // of the newest batch whose tiles depend on the text, at the length of training
};

// Ranges that read the text do so; the others' gates are known beforehand.
class PerHead::Reader final : public TextReader {
 public:
  Reader(const PerHead& of, std::int64_t n, std::int64_t head_dim) : of_(of), head_dim_(head_dim) {
    for (const HeadRange& range : of.ranges_) {
      known_.push_back(range.connectivity->growing(n));
      readers_.push_back(range.connectivity->reader(n));
    }
  }

  void read(const double* q, const double* k, bool choose) override {
    ++length_;
    for (std::size_t i = 0; i < readers_.size(); ++i)
      if (readers_[i])
        readers_[i]->read(q + of_.ranges_[i].first * head_dim_, k + of_.ranges_[i].first_kv * head_dim_,
                          choose);
  }

  void gates(double* of_tiles) const override {
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      const TileLayout& layout = *known_[i].layout;
      double* to = of_tiles + of_.ranges_[i].first * layout.key_tiles();
      if (readers_[i]) {
        readers_[i]->gates(to);
        continue;
      }
      const std::int64_t q = (length_ - 1) / layout.tile();
      for (int head = 0; head < layout.n_heads(); ++head, to += layout.key_tiles()) {
        const TilePattern& p = layout.of_head(head);
        for (std::int64_t t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t)
          to[p.columns[t]] =
              known_[i].gate.defined() ? known_[i].gate.value().item(layout.gate_offset(head) + t) : 1;
      }
    }
  }

 private:
  const PerHead& of_;
  std::int64_t head_dim_;
  std::vector<Connected> known_;
  std::vector<std::unique_ptr<TextReader>> readers_;
  std::int64_t length_ = 0;  // tokens read
};

std::unique_ptr<TextReader> PerHead::reader(std::int64_t n) const {
  if (!reads_text()) return nullptr;
  return std::make_unique<Reader>(*this, n, head_dim_);
}

}  // namespace

ConnectivityPtr make_connectivity(const ParameterFactory& make, const std::string& name,
                                  const LayerPatternsPtr& patterns, std::size_t layer, int n_kv_heads,
                                  std::int64_t head_dim) {
  if (!patterns->learns(layer)) return fixed_connectivity(patterns, layer);
  const Pattern& pattern = *patterns->layers()[layer];
  const int n_heads = patterns->n_heads(), each = n_heads / n_kv_heads;  // query heads of a kv head
  std::vector<HeadRange> ranges;
  for (int first = 0, end = 0; first < n_heads; first = end) {
    const LearnedPattern* learned = pattern.learned(first);
    for (end = first + 1; end < n_heads && pattern.learned(end) == learned;) ++end;
    const bool whole_groups = first % each == 0 && end % each == 0;
    HeadRange range{first, end - first, first / each, whole_groups ? (end - first) / each : 0, nullptr};
    const bool all = range.count == n_heads;
    if (learned)
      range.connectivity = learned->make({all ? name : fmt::format("{}.{}", name, first), range.count,
                                          range.n_kv, head_dim, patterns->training(), name, first},
                                         make);
    else
      range.connectivity = std::make_shared<Fixed>(
          patterns->training(), [patterns, layer, first, count = range.count](std::int64_t n) {
            return Connected{heads_of(*patterns->layouts(n)[layer], first, count), {}};
          });
    if (all) return range.connectivity;
    ranges.push_back(std::move(range));
  }
  return std::make_shared<PerHead>(patterns->training(), std::move(ranges), n_heads, head_dim);
}

}  // namespace filigree
