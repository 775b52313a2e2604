// Listed blocks: pairs of (query block, key block), or a layout whose heads are used as given: of a file, or
// one that a checkpoint holds.
#include <set>

#include "attention/patterns.h"

namespace filigree {
namespace {

using std::int64_t;

struct Block {
  int64_t size = 64;
  std::set<std::pair<int64_t, int64_t>> pairs;  // (query block, key block)
  Mark mark;                                    // of the pairs
  std::string file, layout;
  // The first pair beyond causality, and where it is written.
  int64_t query_before = 0, key_ahead = 0;
  Mark ahead;

  void fields(Fields& f) {
    f.integer("size", size, counts_from(1), "tokens of a block", {.default_text = "by file", .print = false});
    f.custom(
        "pairs", Field::Type::integer_lists, "with `size`: a list of [query block, key block]",
        [this](const YamlNode& node, MapReader&) { read_pairs(node); }, [] { return YamlNode(); },
        {.default_text = "by file"});
    f.path("file", file, "instead: a layout file, as filigree explain --dump writes it",
           {.default_text = "by size and pairs", .print = false});
    f.text("layout", layout, "the same inside a checkpoint, by its sum",
           {.default_text = "by size and pairs", .print = false});
  }
  void read_pairs(const YamlNode& node) {
    mark = node.mark;
    if (!node.is_sequence() || node.items.empty())
      fail_at(node.mark, "block.pairs must be a list of [query block, key block]");
    for (const YamlNode& pair : node.items) {
      if (!pair.is_sequence() || pair.items.size() != 2)
        fail_at(pair.mark, "each of block.pairs is [query block, key block]");
      const auto qb = as_integer(pair.items[0], "block.pairs", 0, kMaxLength - 1);
      const auto kb = as_integer(pair.items[1], "block.pairs", 0, kMaxLength - 1);
      if (!pairs.emplace(qb, kb).second)
        fail_at(pair.mark, fmt::format("block.pairs lists [{}, {}] twice", qb, kb));
      if (kb > qb && key_ahead == 0) {
        query_before = qb;
        key_ahead = kb;
        ahead = pair.mark;
      }
    }
  }
  void check(const MapReader& map) const {
    const bool listed = map.has("size") && map.has("pairs") && !map.has("file") && !map.has("layout");
    const bool named = !map.has("size") && !map.has("pairs") && map.has("file") != map.has("layout");
    if (!listed && !named)
      fail_at(map.node().mark, "block needs either 'size' and 'pairs' or 'file' alone",
              "for example {block: {size: 64, pairs: [[1, 0]]}}");
  }
  void validate(const Geometry& g) const {
    const int64_t blocks = (g.n + size - 1) / size;
    int64_t last = 0;
    for (const auto& [qb, kb] : pairs) last = std::max({last, qb, kb});
    if (last >= blocks)
      fail_at(mark, fmt::format("block.pairs names block {}, but {} tokens in blocks of {} are {} blocks",
                                last, g.n, size, blocks));
    if (g.causal && key_ahead > 0)
      fail_at(ahead,
              fmt::format("block.pairs names [{}, {}], whose keys all come after its queries: a causal model "
                          "computes none of it",
                          query_before, key_ahead),
              "a pair is [query block, key block]; remove it");
  }
  void row(PatternRow& row) const {
    const int64_t qb = row.i / size;
    for (auto pair = pairs.lower_bound({qb, 0}); pair != pairs.end() && pair->first == qb; ++pair)
      row.add(pair->second * size, (pair->second + 1) * size);
  }
};

// A layout, head by head.
class LayoutPattern final : public Pattern {
 public:
  LayoutPattern(LayoutPtr layout, std::string origin, Mark mark)
      : layout_(std::move(layout)), origin_(std::move(origin)), mark_(std::move(mark)) {}

  void row(const Geometry& g, int head, int64_t i, Intervals& out) const override {
    const TilePattern& p = layout_->of_head(head);
    const int64_t tile = layout_->tile(), q = i / tile;
    Intervals partial, full;
    for (auto t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
      const int64_t first = p.columns[t] * tile, last = std::min(first + tile, g.n);
      if (p.mask_id[t] == kFullTile) {
        append_interval(full, first, last);
        continue;
      }
      for (int64_t j = first; j < last; ++j)
        if (layout_->masks().bit(p.mask_id[t], static_cast<int>(i % tile), static_cast<int>(j - first)))
          append_interval(partial, j, j + 1);
    }
    unite(partial, full, out);
  }

  int head_class(int head) const override {
    // Heads that the file lacks are an error of validate(); until then they form a class of their own.
    return head < layout_->n_heads() ? layout_->head_pattern()[head] : -1;
  }

  void validate(const Geometry& g, int n_heads) const override {
    const auto same = [&](int64_t file, int64_t wanted, const char* what) {
      if (file != wanted)
        fail_at(mark_,
                fmt::format("{} was made for {} {}, but the model has {}", origin_, what, file, wanted));
    };
    same(layout_->n_queries(), g.n, "sequence length");
    same(layout_->tile(), g.tile, "tile edge");
    same(layout_->n_heads(), n_heads, "head count");
  }

 private:
  LayoutPtr layout_;
  std::string origin_;
  Mark mark_;
};

void read_block(const YamlNode& body, const PatternNesting&, PatternSpec& spec) {
  Block block = read_settings<Block>(body, spec);
  const YamlNode *file = body.find("file"), *held = body.find("layout");
  if (file)
    spec.layout = {.in_file = true, .name = block.file, .mark = file->mark};
  else if (held)
    spec.layout = {.in_file = false, .name = block.layout, .mark = held->mark};
  else
    spec.made = std::make_shared<FixedPattern<Block>>(std::move(block));
}

// A layout is loaded only now: files and checkpoints come and go while a config is known.
PatternPtr make_block(const PatternSpec& spec, const PatternPlace&) {
  const auto& [in_file, name, mark] = *spec.layout;
  if (in_file)
    return std::make_shared<LayoutPattern>(std::make_shared<const TileLayout>(load_layout(name)), name, mark);
  LayoutPtr layout = held_layout(name);
  if (!layout)
    fail_at(mark, fmt::format("block.layout: {} is a layout inside a checkpoint", name),
            "a config names a layout file: {block: {file: LAYOUT.h5}}");
  return std::make_shared<LayoutPattern>(std::move(layout), "layout " + name, mark);
}

}  // namespace

PatternPtr pattern_of_layout(LayoutPtr layout, const std::string& origin) {
  return std::make_shared<LayoutPattern>(std::move(layout), origin, Mark{});
}

PatternKind block_kind() {
  return {.name = "block",
          .meaning = "the block pair is listed",
          .example = "{block: {size: 64, pairs: [[0, 0], [1, 0], [1, 1]]}}",
          .fields = [](Fields& f) { Block().fields(f); },
          .read = read_block,
          .make = make_block};
}

}  // namespace filigree
