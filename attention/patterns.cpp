// The fixed patterns: the rule of each, and the table.
#include "attention/patterns.h"

#include <set>

#include "attention/sampling.h"

namespace filigree {
namespace {

using std::int64_t;

struct Full {
  void fields(Fields&) {}
  void row(PatternRow& row) const { row.add(0, row.g.n); }
};

struct Local {
  int64_t window = 0, dilation = 1;
  void fields(Fields& f) {
    f.integer("window", required(window), counts_from(1),
              "w, keys that a causal query sees, itself included");
    f.integer("dilation", dilation, counts_from(1), "d, distance between two keys");
  }
  void row(PatternRow& row) const {
    const Geometry& g = row.g;
    const int64_t behind = g.causal ? window - 1 : window / 2, ahead = g.causal ? 0 : window / 2;
    const int64_t first = row.i - std::min(behind, row.i / dilation) * dilation;
    const int64_t last = row.i + std::min(ahead, (g.n - 1 - row.i) / dilation) * dilation;
    if (dilation == 1) return row.add(first, last + 1);
    for (int64_t j = first; j <= last; j += dilation) row.add(j, j + 1);
  }
};

struct Global {
  int64_t tokens = 0;
  std::set<int64_t> positions;
  Mark mark;  // of the positions
  void fields(Fields& f) {
    f.integer("tokens", tokens, counts_from(1), "so many tokens at the start are global",
              {.default_text = "by positions", .print = false});
    f.custom(
        "positions", Field::Type::integers, "instead: the list of global tokens",
        [this](const YamlNode& node, MapReader& map) { read_positions(node, map.name("positions")); },
        [] { return YamlNode(); }, {.default_text = "by tokens"});
  }
  void read_positions(const YamlNode& node, const std::string& name) {
    if (!node.is_sequence() || node.items.empty())
      fail_at(node.mark, fmt::format("{} must be a list of tokens, such as [0, 512]", name));
    for (const YamlNode& item : node.items)
      if (const auto token = as_integer(item, name, 0, kMaxLength - 1); !positions.insert(token).second)
        fail_at(item.mark, fmt::format("{} names token {} twice", name, token));
    mark = node.mark;
  }
  void check(const MapReader& map) const {
    if (map.has("tokens") == map.has("positions"))
      fail_at(map.node().mark, "global needs either 'tokens' or 'positions'",
              "for example {global: {tokens: 4}}");
  }
  void validate(const Geometry& g) const {
    if (!positions.empty() && *positions.rbegin() >= g.n)
      fail_at(mark, fmt::format("global.positions names token {}, but the sequence has {}",
                                *positions.rbegin(), g.n));
  }
  void row(PatternRow& row) const {
    if (row.i < tokens || positions.contains(row.i)) return row.add(0, row.g.n);
    row.add(0, tokens);
    for (const int64_t j : positions) row.add(j, j + 1);
  }
};

// Sparse Transformer (Child et al. 2019, arXiv:1904.10509, section 4).
struct Strided {
  int64_t stride = 0;
  void fields(Fields& f) {
    f.integer("stride", required(stride), counts_from(1), "s, distance between two keys");
  }
  void row(PatternRow& row) const {
    for (int64_t j = row.i % stride; j < row.end(); j += stride) row.add(j, j + 1);
  }
};

struct Fixed {
  int64_t stride = kMaxLength, summary = 0;
  void fields(Fields& f) {
    f.integer("stride", required(stride), counts_from(1), "s, tokens of a block");
    f.integer("summary", required(summary), between(1, static_cast<double>(stride)),
              "c, at most s: tokens at the end of each block that all see");
  }
  void row(PatternRow& row) const {
    const int64_t own = row.i / stride * stride;
    for (int64_t block = 0; block < row.end(); block += stride)
      row.add(block == own ? own : block + stride - summary, std::min(block + stride, row.end()));
  }
};

// Draws honour causality, so an early query gets all the keys there are.
struct Draws {
  int64_t seed = 0;
  bool per_head = false;
  void fields(Fields& f) {
    f.integer("seed", seed, at_least(0), "seed of the draws");
    f.boolean("per_head", per_head, "every head draws its own");
  }
  // `count` of `population` blocks, for a query block.
  std::vector<int64_t> draw(const PatternRow& row, int64_t qb, int64_t population, int64_t count) const {
    std::vector<int64_t> drawn;
    sample({static_cast<std::uint64_t>(seed), static_cast<std::uint32_t>(row.head),
            static_cast<std::uint32_t>(qb)},
           population, count, drawn);
    return drawn;
  }
};

// The own block is a candidate like any other.
struct RandomBlocks : Draws {
  int64_t block = 1, blocks = 0;
  void fields(Fields& f) {
    f.integer("block", required(block), counts_from(1), "tokens of a block");
    f.integer("blocks", required(blocks), counts_from(1), "key blocks of a query block");
    Draws::fields(f);
  }
  void row(PatternRow& row) const {
    const int64_t qb = row.i / block, n_blocks = (row.g.n + block - 1) / block;
    for (const int64_t kb : draw(row, qb, row.g.causal ? qb + 1 : n_blocks, blocks))
      row.add(kb * block, (kb + 1) * block);
  }
};

struct Random : RandomBlocks {  // blocks of one token
  void fields(Fields& f) {
    f.integer("keys", required(blocks), counts_from(1), "r, keys of a query");
    Draws::fields(f);
  }
};

// Zaheer et al. 2020, arXiv:2007.14062. Random blocks are drawn among those that window and globals leave out
// and causality allows; the first rows just have fewer of them.
struct BigBird : Draws {
  int64_t block = 64, window = 3, global = 2, random = 3;
  void fields(Fields& f) {
    f.integer("block", block, counts_from(1), "tokens of a block");
    f.integer("window", window, counts_from(1), "blocks of the window, the own one included");
    f.integer("global", global, counts_from(0), "blocks at the start that are global");
    f.integer("random", random, counts_from(0), "drawn blocks of a query block");
    Draws::fields(f);
  }
  void row(PatternRow& row) const {
    const int64_t qb = row.i / block, n_blocks = (row.g.n + block - 1) / block;
    if (qb < global) return row.add(0, row.g.n);
    // Candidates of the draw are the blocks between globals and window, then those beyond the window.
    const int64_t begin = std::max(global, qb - window / 2), end = qb + window / 2 + 1;
    const int64_t before = begin - global, beyond = row.g.causal ? 0 : std::max<int64_t>(0, n_blocks - end);
    const auto drawn = draw(row, qb, before + beyond, random);
    auto next = drawn.begin();
    const auto add = [&](int64_t first, int64_t last) { row.add(first * block, last * block); };
    add(0, global);
    for (; next != drawn.end() && *next < before; ++next) add(global + *next, global + *next + 1);
    add(begin, end);
    for (; next != drawn.end(); ++next) add(end + *next - before, end + *next - before + 1);
  }
};

// Beltagy et al. 2020, arXiv:2004.05150.
struct Longformer {
  Local local;
  int64_t global = 0;
  void fields(Fields& f) {
    f.integer("window", required(local.window), counts_from(1), "as of local");
    f.integer("global", required(global), counts_from(0), "so many tokens at the start are global");
  }
  void row(PatternRow& row) const {
    row.add(0, row.i < global ? row.g.n : global);
    local.row(row);
  }
};

}  // namespace

std::vector<PatternKind> fixed_kinds() {
  return {
      fixed_kind<Full>({"full", "every key"}),
      fixed_kind<Local>(
          {"local",
           "causal: i-j in {0, d, .., (w-1)d}, itself included; else |i-j| in {0, d, .., floor(w/2)d}",
           "window"}),
      fixed_kind<Global>({"global", "i or j is a global token", "tokens", "positions"}),
      fixed_kind<Strided>({"strided", "(i-j) mod s = 0", "stride"}),
      fixed_kind<Fixed>({"fixed", "same s-block, or (j mod s) >= s-c", "stride"}),
      fixed_kind<Random>({"random", "r keys per query, drawn among those causality allows", "keys"}),
      fixed_kind<RandomBlocks>({"random_blocks", "the same, in whole blocks", "blocks"}),
      block_kind(),
      fixed_kind<BigBird>(
          {"bigbird", "blocks: |qb-kb| <= window/2, or either is global, or drawn among the rest", "random"}),
      fixed_kind<Longformer>({"longformer", "local or global", "window"}),
  };
}

}  // namespace filigree
