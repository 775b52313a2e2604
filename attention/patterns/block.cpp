// Listed blocks: pairs of (query block, key block), or a layout whose heads are used as given: of a file, or
// one that a checkpoint holds.
#include <map>
#include <optional>

#include "attention/held_layouts.h"
#include "attention/intervals.h"
#include "attention/registry.h"

namespace filigree {
namespace {

class BlockPairs : public Pattern {
 public:
  BlockPairs(std::int64_t size, const YamlNode& pairs) : size_(size), mark_(pairs.mark) {
    if (!pairs.is_sequence() || pairs.items.empty())
      fail_at(pairs.mark, "block.pairs must be a list of [query block, key block]");
    for (const auto& pair : pairs.items) {
      if (!pair.is_sequence() || pair.items.size() != 2)
        fail_at(pair.mark, "each of block.pairs is [query block, key block]");
      const auto qb = as_integer(pair.items[0], "block.pairs", 0, kMaxLength - 1);
      const auto kb = as_integer(pair.items[1], "block.pairs", 0, kMaxLength - 1);
      auto& listed = listed_[qb];
      const auto place = std::lower_bound(listed.begin(), listed.end(), kb);
      if (place != listed.end() && *place == kb)
        fail_at(pair.mark, fmt::format("block.pairs lists [{}, {}] twice", qb, kb));
      listed.insert(place, kb);
      last_ = std::max({last_, qb, kb});
      if (kb > qb && !ahead_) ahead_ = Ahead{qb, kb, pair.mark};
    }
  }

  bool allows(const Geometry&, int, std::int64_t i, std::int64_t j) const override {
    const auto listed = listed_.find(i / size_);
    return listed != listed_.end() &&
           std::binary_search(listed->second.begin(), listed->second.end(), j / size_);
  }
  void row(const Geometry& g, int, std::int64_t i, Intervals& out) const override {
    out.clear();
    const auto listed = listed_.find(i / size_);
    if (listed == listed_.end()) return;
    for (auto kb : listed->second) append_interval(out, kb * size_, (kb + 1) * size_);
    clip(out, g.n);
  }
  void validate(const Geometry& g, int) const override {
    const std::int64_t blocks = (g.n + size_ - 1) / size_;
    if (last_ >= blocks)
      fail_at(mark_, fmt::format("block.pairs names block {}, but {} tokens in blocks of {} are {} blocks",
                                 last_, g.n, size_, blocks));
    if (g.causal && ahead_)
      fail_at(ahead_->mark,
              fmt::format("block.pairs names [{}, {}], whose keys all come after its queries: a causal model "
                          "computes none of it",
                          ahead_->query, ahead_->key),
              "a pair is [query block, key block]; remove it");
  }

 private:
  struct Ahead {  // the first pair beyond causality
    std::int64_t query, key;
    Mark mark;
  };
  std::int64_t size_, last_ = 0;
  std::map<std::int64_t, std::vector<std::int64_t>> listed_;  // key blocks of each query block, ascending
  std::optional<Ahead> ahead_;
  Mark mark_;
};

// A layout, head by head.
class LayoutPattern : public Pattern {
 public:
  LayoutPattern(LayoutPtr layout, std::string origin, Mark mark)
      : layout_ptr_(std::move(layout)),
        layout_(*layout_ptr_),
        origin_(std::move(origin)),
        mark_(std::move(mark)) {}

  bool allows(const Geometry&, int head, std::int64_t i, std::int64_t j) const override {
    return layout_.allows(head, i, j);
  }

  void row(const Geometry& g, int head, std::int64_t i, Intervals& out) const override {
    out.clear();
    const TilePattern& p = layout_.of_head(head);
    const std::int64_t q = i / layout_.tile();
    // Partial and full tiles are each ascending; walk both at once.
    auto partial = p.row_offsets[q], full = p.full_begin[q];
    const auto partial_end = full, full_end = p.row_offsets[q + 1];
    while (partial < partial_end || full < full_end) {
      if (full == full_end || (partial < partial_end && p.columns[partial] < p.columns[full])) {
        add_partial(p, partial++, static_cast<int>(i % layout_.tile()), out);
      } else {
        const std::int64_t first = std::int64_t{p.columns[full++]} * layout_.tile();
        append_interval(out, first, std::min(first + layout_.tile(), g.n));
      }
    }
  }

  int head_class(int head) const override {
    // Heads that the file lacks are an error of validate(); until then they form a class of their own.
    return head < layout_.n_heads() ? layout_.head_pattern()[head] : -1;
  }

  void validate(const Geometry& g, int n_heads) const override {
    const auto same = [&](std::int64_t file, std::int64_t wanted, const char* what) {
      if (file != wanted)
        fail_at(mark_,
                fmt::format("{} was made for {} {}, but the model has {}", origin_, what, file, wanted));
    };
    same(layout_.n_queries(), g.n, "sequence length");
    same(layout_.tile(), g.tile, "tile edge");
    same(layout_.n_heads(), n_heads, "head count");
  }

 private:
  void add_partial(const TilePattern& p, std::int32_t t, int row, Intervals& out) const {
    const std::int64_t first = std::int64_t{p.columns[t]} * layout_.tile();
    for (int c = 0; c < layout_.tile(); ++c)
      if (layout_.masks().bit(p.mask_id[t], row, c)) append_interval(out, first + c, first + c + 1);
  }

  LayoutPtr layout_ptr_;
  const TileLayout& layout_;
  std::string origin_;
  Mark mark_;
};

}  // namespace

PatternPtr pattern_of_layout(LayoutPtr layout, const std::string& origin) {
  return std::make_shared<LayoutPattern>(std::move(layout), origin, Mark{});
}

PatternPtr make_block(const YamlNode& body, const PatternContext&) {
  MapReader map(body, "block");
  const YamlNode* size = map.find("size");
  const YamlNode* pairs = map.find("pairs");
  const YamlNode* file = map.find("file");
  const YamlNode* held = map.find("layout");
  map.done();
  const bool listed = size && pairs && !file && !held, from_file = file && !size && !pairs && !held,
             from_checkpoint = held && !size && !pairs && !file;
  if (!listed && !from_file && !from_checkpoint)
    fail_at(body.mark, "block needs either 'size' and 'pairs' or 'file' alone",
            "for example {block: {size: 64, pairs: [[1, 0]]}}");
  if (from_file) {
    const std::string path = as_path(*file, "block.file");
    return std::make_shared<LayoutPattern>(std::make_shared<const TileLayout>(load_layout(path)), path,
                                           file->mark);
  }
  if (from_checkpoint) {
    const std::string sum = as_string(*held, "block.layout");
    LayoutPtr layout = held_layout(sum);
    if (!layout)
      fail_at(held->mark, fmt::format("block.layout: {} is a layout inside a checkpoint", sum),
              "a config names a layout file: {block: {file: LAYOUT.h5}}");
    return std::make_shared<LayoutPattern>(std::move(layout), "layout " + sum, held->mark);
  }
  return std::make_shared<BlockPairs>(as_integer(*size, "block.size", 1, kMaxLength), *pairs);
}

}  // namespace filigree
