// DeviceLayout: the work lists hold every tile of every head exactly once, and the tensors say what the
// layout says.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>

#include "attention/device_layout.h"
#include "tests/random_patterns.h"

namespace filigree {
namespace {

using Ints = std::span<const std::int32_t>;

TileLayout layout_of(const std::string& yaml, std::int64_t n, int tile, bool causal, int heads) {
  return build_layout(*test::parse_pattern(yaml, heads), {n, causal, tile}, heads);
}

Ints ints(const Tensor& t) {
  return t.values<std::int32_t>();
}
WorkItem item_of(const WorkList& work, std::int64_t i) {
  const Ints v = ints(work.items.slice(i, i + 1));
  return {v[0], v[1], v[2], v[3], v[4]};
}
SplitRow split_of(const WorkList& work, std::int64_t i) {
  const Ints v = ints(work.splits.slice(i, i + 1));
  return {v[0], v[1], v[2], v[3]};
}

// Items are in order, whole rows have one, and the segments of a cut row follow each other, so that
// segment by segment they give all of `rows`: by (head, tile), the range that its items must cover.
using Rows = std::map<std::pair<std::int32_t, std::int32_t>, std::pair<std::int32_t, std::int32_t>>;

void expect_covers(const WorkList& work, Rows rows, std::int64_t split_tiles) {
  ASSERT_EQ(work.items.shape(), (Shape{work.n_items, 5}));
  ASSERT_EQ(work.splits.shape(), (Shape{work.n_splits, 4}));
  std::map<std::int32_t, WorkItem> segments;
  for (std::int64_t i = 0; i < work.n_items; ++i) {
    const WorkItem item = item_of(work, i);
    const std::int64_t count = item.end - item.begin;
    ASSERT_LE(count, split_tiles);
    if (i > 0) {
      const WorkItem before = item_of(work, i - 1);
      ASSERT_GE(before.end - before.begin, count);
    }
    if (item.slot >= 0) {
      ASSERT_GT(count, 0);
      ASSERT_TRUE(segments.emplace(item.slot, item).second);
      continue;
    }
    const auto row = rows.find({item.head, item.tile});
    ASSERT_TRUE(row != rows.end()) << item.head << " " << item.tile;
    ASSERT_EQ(row->second, std::pair(item.begin, item.end));
    rows.erase(row);
  }
  ASSERT_EQ(static_cast<std::int64_t>(segments.size()), work.n_slots);
  std::int32_t slot = 0;
  for (std::int64_t s = 0; s < work.n_splits; ++s) {
    const SplitRow split = split_of(work, s);
    ASSERT_GE(split.slots, 2);
    ASSERT_EQ(split.first_slot, slot);
    const auto row = rows.find({split.head, split.tile});
    ASSERT_TRUE(row != rows.end());
    std::int32_t at = row->second.first;
    for (const std::int32_t end = slot + split.slots; slot < end; ++slot) {
      const WorkItem& item = segments.at(slot);
      ASSERT_EQ(std::pair(item.head, item.tile), std::pair(split.head, split.tile));
      ASSERT_EQ(item.begin, at);
      at = item.end;
    }
    ASSERT_EQ(at, row->second.second);
    rows.erase(row);
  }
  ASSERT_EQ(slot, work.n_slots);
  ASSERT_TRUE(rows.empty());
}

void expect_query_work(const TileLayout& layout, const DeviceLayout& made) {
  const std::int64_t QT = layout.query_tiles();
  const Ints offsets = ints(made.row_offsets), full = ints(made.full_begin);
  Rows rows;
  for (std::int32_t h = 0; h < layout.n_heads(); ++h) {
    const TilePattern& p = layout.of_head(h);
    const std::int64_t number = ints(made.head_pattern)[h];
    ASSERT_EQ(&p, &layout.patterns()[number]);
    for (std::int32_t q = 0; q < QT; ++q) {
      const std::int32_t begin = offsets[number * (QT + 1) + q], end = offsets[number * (QT + 1) + q + 1];
      rows[{h, q}] = {begin, end};
      ASSERT_EQ(end - begin, p.row_offsets[q + 1] - p.row_offsets[q]);
      ASSERT_EQ(full[number * QT + q] - begin, p.full_begin[q] - p.row_offsets[q]);
      for (std::int32_t t = begin; t < end; ++t) {
        const std::int32_t own = p.row_offsets[q] + t - begin;
        ASSERT_EQ(ints(made.columns)[t], p.columns[own]);
        ASSERT_EQ(ints(made.mask_id)[t], p.mask_id[own]);
        ASSERT_EQ(made.gate_base.values<std::int64_t>()[h] + t, layout.gate_offset(h) + own);
      }
    }
  }
  expect_covers(made.query_work, rows, split_tiles(layout.tile()));
}

void expect_key_work(const TileLayout& layout, const DeviceLayout& made, int n_kv_heads) {
  const std::int64_t KT = layout.key_tiles(), QT = layout.query_tiles();
  const Ints offsets = ints(made.col_offsets), row_offsets = ints(made.row_offsets);
  Rows columns;
  std::vector<int> listed(static_cast<std::size_t>(made.rows.numel()), 0);
  for (std::int32_t h = 0; h < layout.n_heads(); ++h) {
    const std::int64_t number = layout.head_pattern()[h];
    for (std::int32_t k = 0; k < KT; ++k) {
      const std::int32_t begin = offsets[number * (KT + 1) + k], end = offsets[number * (KT + 1) + k + 1];
      columns[{h / (layout.n_heads() / n_kv_heads), k}].second += end - begin;
      for (std::int32_t e = begin; e < end; ++e) {
        const std::int32_t t = ints(made.tile_of)[e], q = ints(made.rows)[e];
        ASSERT_EQ(ints(made.columns)[t], k);
        ASSERT_LE(row_offsets[number * (QT + 1) + q], t);
        ASSERT_LT(t, row_offsets[number * (QT + 1) + q + 1]);
        ++listed[static_cast<std::size_t>(t)];
      }
    }
  }
  std::map<std::int32_t, int> sharing;  // heads of each pattern
  for (const std::int32_t number : layout.head_pattern()) ++sharing[number];
  for (std::size_t p = 0; p < layout.patterns().size(); ++p)
    for (std::int32_t t = row_offsets[p * (QT + 1)]; t < row_offsets[p * (QT + 1) + QT]; ++t)
      ASSERT_EQ(listed[static_cast<std::size_t>(t)], sharing[static_cast<std::int32_t>(p)]);
  expect_covers(made.key_work, columns, split_tiles(layout.tile()));
}

void expect_masks(const TileLayout& layout, const DeviceLayout& made) {
  const MaskTable& masks = layout.masks();
  ASSERT_EQ(made.masks.shape(), (Shape{std::max(masks.size(), 1), masks.words_per_mask()}));
  for (std::int32_t id = 0; id < masks.size(); ++id)
    for (int w = 0; w < masks.words_per_mask(); ++w)
      ASSERT_EQ(std::bit_cast<std::uint64_t>(
                    made.masks.values<std::int64_t>()[std::int64_t{id} * masks.words_per_mask() + w]),
                masks.mask(id)[static_cast<std::size_t>(w)]);
}

// The visits of each head and group of blocks hold the tiles of each block once, and nothing else.
void expect_visits(const TileLayout& layout, int blocks) {
  const QueryVisits& made = layout.visits(Device::cpu(), blocks);
  const auto* const visits = reinterpret_cast<const Visit*>(ints(made.visits).data());
  const auto* const tiles = reinterpret_cast<const VisitTiles*>(ints(made.tiles).data());
  const int halves = 128 / layout.tile();  // visits of a tile of 128 name it twice
  ASSERT_EQ(ints(made.ticket)[0], 0);
  Rows rows;
  std::map<std::pair<std::int32_t, std::int32_t>, std::map<std::int32_t, int>> seen;  // (head, tile): tiles
  for (std::int64_t i = 0; i < made.work.n_items; ++i) {
    const WorkItem item = item_of(made.work, i);
    const auto [row, is_new] = rows.try_emplace({item.head, item.tile}, item.begin, item.end);
    row->second = {std::min(row->second.first, item.begin), std::max(row->second.second, item.end)};
    const TilePattern& p = layout.of_head(item.head);
    std::int64_t first_tile = 0;
    for (std::int32_t before = 0; before < layout.head_pattern()[item.head]; ++before)
      first_tile += layout.patterns()[before].tiles();
    for (std::int32_t v = item.begin; v < item.end; ++v)
      for (int b = 0; b < kMaxVisitBlocks; ++b)
        for (int half = 0; half < 2; ++half) {
          if (visits[v].mask[b][half] == kNotVisited) continue;
          ASSERT_LT(b, blocks);
          const std::int64_t q = (std::int64_t{item.tile} * blocks + b) * kVisitBlock / layout.tile();
          const std::int64_t t = tiles[v].tile[b][half] - first_tile;
          ASSERT_TRUE(p.row_offsets[q] <= t && t < p.row_offsets[q + 1]);
          ASSERT_EQ(visits[v].mask[b][half], p.mask_id[t]);
          ASSERT_EQ(visits[v].key[half], p.columns[t] * layout.tile() + (halves == 1 ? half * 64 : 0));
          ++seen[{item.head, item.tile * blocks + b}][static_cast<std::int32_t>(t)];
        }
  }
  const std::int64_t n_blocks = (layout.n_queries() + kVisitBlock - 1) / kVisitBlock;
  ASSERT_EQ(std::ssize(rows), layout.n_heads() * ((n_blocks + blocks - 1) / blocks));
  for (std::int32_t h = 0; h < layout.n_heads(); ++h)
    for (std::int32_t block = 0; block < n_blocks; ++block) {
      const std::int64_t q = std::int64_t{block} * kVisitBlock / layout.tile();
      const TilePattern& p = layout.of_head(h);
      auto& of_block = seen[{h, block}];
      ASSERT_EQ(std::ssize(of_block), p.row_offsets[q + 1] - p.row_offsets[q]);
      for (const auto& [t, times] : of_block) ASSERT_EQ(times, halves == 1 ? 2 : 1);
    }
  expect_covers(made.work, rows, std::max<std::int64_t>(64, made.visits.dim(0)));
}

void expect_says_the_same(const TileLayout& layout, int n_kv_heads) {
  const DeviceLayout& made = layout.on(Device::cpu(), n_kv_heads);
  expect_query_work(layout, made);
  expect_key_work(layout, made, n_kv_heads);
  expect_masks(layout, made);
  if (layout.tile() < 64) return;
  for (const int blocks : {2, 3}) expect_visits(layout, blocks);
}

TEST(DeviceLayout, SaysWhatRandomLayoutsSay) {
  const std::uint64_t seed = std::random_device{}();
  RandomStream random(seed);
  const int tiles[] = {16, 32, 64, 128};
  for (int c = 0; c < 200; ++c) {
    const int tile = tiles[c % 4], groups = static_cast<int>(random.range(1, 3));
    const int heads = groups * static_cast<int>(random.range(1, 2));
    const std::int64_t n = random.range(1, c % 3 == 0 ? 5 * tile : 90);
    const std::string text = test::random_pattern(random, n, heads, 3);
    const bool causal = random.range(0, 1) == 1;
    SCOPED_TRACE(fmt::format("seed {} case {}: {} n={} tile={} causal={} heads={} groups={}", seed, c, text,
                             n, tile, causal, heads, groups));
    expect_says_the_same(layout_of(text, n, tile, causal, heads), groups);
    if (HasFatalFailure()) return;
  }
}

// Global tokens: rows of 3 segments, columns of 3 or, over both heads, 5.
TEST(DeviceLayout, CutsLongRowsAndColumns) {
  for (const int tile : {16, 32, 64, 128}) {
    const std::int64_t n = 8192 * 2 + 5 * tile + 3;
    SCOPED_TRACE(tile);
    const auto layout =
        layout_of(fmt::format("{{global: {{positions: [0, {}]}}}}", n / 2), n, tile, false, 2);
    expect_says_the_same(layout, 1);
    expect_says_the_same(layout, 2);
    EXPECT_EQ(layout.on(Device::cpu(), 2).query_work.n_splits, 2 * 2);
    EXPECT_EQ(layout.on(Device::cpu(), 2).query_work.n_slots, 2 * 2 * 3);
    EXPECT_EQ(layout.on(Device::cpu(), 1).key_work.n_splits, 2);
    EXPECT_EQ(layout.on(Device::cpu(), 1).key_work.n_slots, 2 * 5);
  }
}

TEST(DeviceLayout, RowsWithoutTilesHaveAnItem) {
  const auto layout = layout_of("{block: {size: 16, pairs: [[0, 0]]}}", 64, 16, false, 1);
  const WorkList& work = layout.on(Device::cpu(), 1).query_work;
  EXPECT_EQ(work.n_items, 4);
  EXPECT_EQ(item_of(work, 0).tile, 0);
  EXPECT_EQ(item_of(work, 3).begin, item_of(work, 3).end);
  const auto nothing = layout_of("{minus: [{full: {}}, {full: {}}]}", 64, 16, false, 1);
  expect_says_the_same(nothing, 1);
}

TEST(DeviceLayout, IsMadeOnce) {
  auto layout = layout_of("{local: {window: 9}}", 100, 16, true, 2);
  std::vector<const DeviceLayout*> seen(8);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < seen.size(); ++i)
    threads.emplace_back([&, i] { seen[i] = &layout.on(Device::cpu(), 1 + static_cast<int>(i % 2)); });
  for (auto& thread : threads) thread.join();
  for (std::size_t i = 2; i < seen.size(); ++i) EXPECT_EQ(seen[i], seen[i - 2]);
  EXPECT_NE(seen[0], seen[1]);
}

TEST(DeviceLayout, CopiesOfALayoutMakeTheirOwn) {
  auto layout = layout_of("{local: {window: 9}}", 100, 16, true, 2);
  const DeviceLayout* made = &layout.on(Device::cpu(), 1);
  const TileLayout copy = layout;
  EXPECT_EQ(copy, layout);
  EXPECT_NE(&copy.on(Device::cpu(), 1), made);
  EXPECT_EQ(&layout.on(Device::cpu(), 1), made);
  layout = layout_of("{full: {}}", 50, 16, true, 2);
  expect_says_the_same(layout, 1);
  EXPECT_NE(copy, layout);
}

}  // namespace
}  // namespace filigree
