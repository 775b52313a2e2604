#include "attention/device_layout.h"

#include <array>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <numeric>

#include "core/parallel.h"

namespace filigree {
namespace {

constexpr std::int64_t kMaxTiles = std::numeric_limits<std::int32_t>::max();

// Arrays that go to the device in one copy, since each copy waits. Each begins at a multiple of 256 bytes.
template <class T>
class Upload {
 public:
  // `to` will have what `fill` writes, once send() has called it.
  void add(Tensor& to, const Shape& shape, std::function<void(T*)> fill) {
    parts_.push_back({&to, shape, size_, std::move(fill)});
    size_ += (shape.numel() + kStep - 1) / kStep * kStep;
  }
  void add(Tensor& to, const Shape& shape, std::vector<T> values) {
    add(to, shape, [values = std::move(values)](T* out) { std::ranges::copy(values, out); });
  }
  void send(Device device) const {
    Tensor all = Tensor::empty({size_}, dtype_of<T>(), device.is_meta() ? device : Device::cpu());
    if (!device.is_meta()) fill(all);
    all = all.to(device);
    for (const Part& part : parts_)
      *part.to = all.slice(part.begin, part.begin + part.shape.numel()).reshape(part.shape);
  }

 private:
  void fill(Tensor& all) const {
    parallel_tasks(std::ssize(parts_), [&](std::int64_t i) {
      const Part& part = parts_[i];
      part.fill(all.data<T>() + part.begin);
    });
  }

  static constexpr std::int64_t kStep = 256 / sizeof(T);
  struct Part {
    Tensor* to;
    Shape shape;
    std::int64_t begin;
    std::function<void(T*)> fill;
  };
  std::int64_t size_ = 0;
  std::vector<Part> parts_;
};
using Upload32 = Upload<std::int32_t>;
using Upload64 = Upload<std::int64_t>;

// Where each pattern's tiles begin among those of all patterns.
std::vector<std::int64_t> first_tiles(const TileLayout& layout) {
  std::vector<std::int64_t> first;
  std::int64_t tiles = 0;
  for (const TilePattern& p : layout.patterns()) {
    first.push_back(tiles);
    tiles += p.tiles();
  }
  if (tiles > kMaxTiles)
    throw Error(ErrorKind::usage,
                fmt::format("[sparse_attention] the layout has {} tiles, cuda takes less than 2^31", tiles),
                "use larger tiles, a sparser pattern or a shorter sequence");
  return first;
}

// Every pattern behind the one before.
void add_patterns(const TileLayout& layout, const std::vector<std::int64_t>& first, Upload32& upload,
                  DeviceLayout& to) {
  // `counts_tiles`: the array's values are tile numbers, which become absolute.
  const auto add = [&](Tensor& tensor, std::vector<std::int32_t> TilePattern::*array, bool counts_tiles) {
    std::int64_t size = 0;
    for (const TilePattern& p : layout.patterns()) size += std::ssize(p.*array);
    upload.add(tensor, {size}, [&layout, &first, array, counts_tiles](std::int32_t* out) {
      for (std::size_t i = 0; i < first.size(); ++i) {
        const auto added = static_cast<std::int32_t>(counts_tiles ? first[i] : 0);
        for (const std::int32_t value : layout.patterns()[i].*array) *out++ = value + added;
      }
    });
  };
  add(to.row_offsets, &TilePattern::row_offsets, true);
  add(to.full_begin, &TilePattern::full_begin, true);
  add(to.columns, &TilePattern::columns, false);
  add(to.mask_id, &TilePattern::mask_id, false);
  add(to.col_offsets, &TilePattern::col_offsets, true);
  add(to.rows, &TilePattern::rows, false);
  add(to.tile_of, &TilePattern::tile_of, true);
}

void add_masks(const MaskTable& masks, Upload64& upload, DeviceLayout& to) {
  const std::int64_t words = masks.words_per_mask();
  std::vector<std::int64_t> values;
  values.reserve(words * std::max(masks.size(), 1));
  for (std::int32_t id = 0; id < masks.size(); ++id)
    for (const std::uint64_t word : masks.mask(id)) values.push_back(std::bit_cast<std::int64_t>(word));
  if (values.empty()) values.resize(words);
  const std::int64_t n = std::ssize(values) / words;
  upload.add(to.masks, {n, words}, std::move(values));
}

// Collects the items of one list and cuts those longer than `greatest`.
class Work {
 public:
  void add(std::int64_t head, std::int64_t tile, std::int64_t begin, std::int64_t end,
           std::int64_t greatest) {
    const std::int64_t count = end - begin;
    longest_ = std::max(longest_, std::min(count, greatest));
    if (count <= greatest) return add_item(head, tile, begin, end, -1);
    const std::int64_t segments = (count + greatest - 1) / greatest;
    splits_.push_back({static_cast<std::int32_t>(head), static_cast<std::int32_t>(tile),
                       static_cast<std::int32_t>(slots_), static_cast<std::int32_t>(segments)});
    for (std::int64_t s = 0; s < segments; ++s)
      add_item(head, tile, begin + count * s / segments, begin + count * (s + 1) / segments, slots_++);
  }

  void finish(Upload32& upload, WorkList& list) {
    list.n_items = std::ssize(items_);
    list.n_splits = std::ssize(splits_);
    list.n_slots = slots_;
    add(longest_first(), upload, list.items);
    add(splits_, upload, list.splits);
  }

 private:
  // By descending length, which is at most longest_; equals stay in order.
  std::vector<WorkItem> longest_first() const {
    std::vector<std::int64_t> place(static_cast<std::size_t>(longest_) + 2);
    const auto rank = [&](const WorkItem& item) {
      return static_cast<std::size_t>(longest_ - (item.end - item.begin));
    };
    for (const WorkItem& item : items_) ++place[rank(item) + 1];
    std::partial_sum(place.begin(), place.end(), place.begin());
    std::vector<WorkItem> sorted(items_.size());
    for (const WorkItem& item : items_) sorted[place[rank(item)]++] = item;
    return sorted;
  }

  void add_item(std::int64_t head, std::int64_t tile, std::int64_t begin, std::int64_t end,
                std::int64_t slot) {
    items_.push_back({static_cast<std::int32_t>(head), static_cast<std::int32_t>(tile),
                      static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end),
                      static_cast<std::int32_t>(slot)});
  }

  template <class T>
  static void add(const std::vector<T>& structs, Upload32& upload, Tensor& to) {
    constexpr std::size_t kFields = sizeof(T) / sizeof(std::int32_t);
    std::vector<std::int32_t> fields(structs.size() * kFields);
    std::copy_n(reinterpret_cast<const std::int32_t*>(structs.data()), fields.size(), fields.data());
    upload.add(to, {std::ssize(structs), kFields}, std::move(fields));
  }

  std::int64_t longest_ = 0;
  std::vector<WorkItem> items_;
  std::vector<SplitRow> splits_;
  std::int64_t slots_ = 0;
};

void add_query_work(const TileLayout& layout, const std::vector<std::int64_t>& first, Upload32& upload,
                    WorkList& to) {
  Work work;
  for (int h = 0; h < layout.n_heads(); ++h) {
    const TilePattern& p = layout.of_head(h);
    const std::int64_t base = first[layout.head_pattern()[h]];
    for (std::int64_t q = 0; q < layout.query_tiles(); ++q)
      work.add(h, q, base + p.row_offsets[q], base + p.row_offsets[q + 1], split_tiles(layout.tile()));
  }
  work.finish(upload, to);
}

void add_key_work(const TileLayout& layout, int n_kv_heads, Upload32& upload, WorkList& to) {
  Work work;
  const int heads_each = layout.n_heads() / n_kv_heads;
  for (int g = 0; g < n_kv_heads; ++g) {
    for (std::int64_t k = 0; k < layout.key_tiles(); ++k) {
      std::int64_t entries = 0;
      for (int h = g * heads_each; h < (g + 1) * heads_each; ++h) {
        const TilePattern& p = layout.of_head(h);
        entries += p.col_offsets[k + 1] - p.col_offsets[k];
      }
      require(entries <= kMaxTiles, "[sparse_attention] {} tiles of one kv head use key tile {}", entries, k);
      work.add(g, k, 0, entries, split_tiles(layout.tile()));
    }
  }
  work.finish(upload, to);
}

// --- visits ---

// A tile that some of a group's blocks want.
struct Wanted {
  std::int32_t key_tile;
  std::array<std::int32_t, kMaxVisitBlocks> mask = {kNotVisited, kNotVisited, kNotVisited}, tile = {};

  std::size_t blocks() const {  // as a set of bits
    std::size_t set = 0;
    for (int b = 0; b < kMaxVisitBlocks; ++b) set |= std::size_t{mask[b] != kNotVisited} << b;
    return set;
  }
  bool is_cut() const {
    return std::ranges::any_of(mask, [](std::int32_t m) { return m >= 0; });
  }
};

std::vector<Wanted> wanted_tiles(const TileLayout& layout, const TilePattern& p, std::int64_t first_tile,
                                 std::int64_t first_block, int blocks) {
  struct Entry {
    std::int32_t key_tile, block;
    std::int64_t tile;
  };
  std::vector<Entry> entries;
  for (int b = 0; b < blocks; ++b) {
    const std::int64_t q = (first_block + b) * kVisitBlock / layout.tile();
    if (q >= layout.query_tiles()) break;
    for (std::int64_t t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t)
      entries.push_back({p.columns[t], b, t});
  }
  std::ranges::sort(entries, {}, [](const Entry& e) { return std::pair(e.key_tile, e.block); });
  std::vector<Wanted> wanted;
  for (const Entry& e : entries) {
    if (wanted.empty() || wanted.back().key_tile != e.key_tile) wanted.push_back({e.key_tile});
    wanted.back().mask[e.block] = p.mask_id[e.tile];
    wanted.back().tile[e.block] = static_cast<std::int32_t>(first_tile + e.tile);
  }
  return wanted;
}

// The tiles of each visit, as numbers in `wanted`; the second is -1 beside an odd one.
std::vector<std::pair<int, int>> pair_tiles(const std::vector<Wanted>& wanted, int tile) {
  std::vector<std::pair<int, int>> pairs;
  const auto n = static_cast<int>(wanted.size());
  if (tile == 128) {
    for (int i = 0; i < n; ++i) pairs.emplace_back(i, i);
  } else {
    std::array<int, 1 << kMaxVisitBlocks> open;  // for each set of blocks
    open.fill(-1);
    for (int i = 0; i < n; ++i) {
      int& other = open[wanted[i].blocks()];
      if (other >= 0) pairs.emplace_back(other, i);
      other = other >= 0 ? -1 : i;
    }
    std::ranges::sort(open);
    int odd = -1;
    for (const int i : open) {
      if (i < 0) continue;
      if (odd >= 0) pairs.emplace_back(odd, i);
      odd = odd >= 0 ? -1 : i;
    }
    if (odd >= 0) pairs.emplace_back(odd, -1);
  }
  const auto is_cut = [&](const std::pair<int, int>& x) {
    return wanted[x.first].is_cut() || (x.second >= 0 && wanted[x.second].is_cut());
  };
  std::ranges::sort(pairs, {}, [&](const auto& x) { return std::tuple(is_cut(x), x.first); });
  return pairs;
}

struct PatternVisits {
  std::vector<Visit> visits;
  std::vector<VisitTiles> tiles;
  std::vector<std::int64_t> offsets = {0};  // of the groups
};

PatternVisits pattern_visits(const TileLayout& layout, const TilePattern& p, std::int64_t first_tile,
                             int blocks) {
  PatternVisits made;
  const int tile = layout.tile();
  for (std::int64_t block = 0; block * kVisitBlock < layout.n_queries(); block += blocks) {
    const std::vector<Wanted> wanted = wanted_tiles(layout, p, first_tile, block, blocks);
    for (const auto& [first, second] : pair_tiles(wanted, tile)) {
      Visit visit{};
      VisitTiles tiles{};
      for (int half = 0; half < 2; ++half) {
        const bool nothing = half == 1 && second < 0;
        const Wanted& w = wanted[half == 0 || nothing ? first : second];
        visit.key[half] = w.key_tile * tile + (tile == 128 ? half * 64 : 0);
        for (int b = 0; b < kMaxVisitBlocks; ++b) {
          visit.mask[b][half] = nothing ? kNotVisited : w.mask[b];
          tiles.tile[b][half] = w.tile[b];
        }
      }
      made.visits.push_back(visit);
      made.tiles.push_back(tiles);
    }
    made.offsets.push_back(std::ssize(made.visits));
  }
  return made;
}

}  // namespace

QueryVisits make_query_visits(const TileLayout& layout, int blocks, Device device) {
  check(layout.tile() == 64 || layout.tile() == 128, "visits of tiles of another edge than 64 and 128");
  const std::vector<std::int64_t> first = first_tiles(layout);
  std::vector<PatternVisits> patterns(layout.patterns().size());
  parallel_tasks(std::ssize(patterns), [&](std::int64_t i) {
    patterns[i] = pattern_visits(layout, layout.patterns()[i], first[i], blocks);
  });
  QueryVisits made;
  Upload32 upload;
  std::vector<std::int64_t> begin;
  std::int64_t n = 0;
  for (const PatternVisits& p : patterns) {
    begin.push_back(n);
    n += std::ssize(p.visits);
  }
  static constexpr std::int64_t kFields = sizeof(Visit) / sizeof(std::int32_t);
  const auto add = [&](Tensor& to, auto member) {
    upload.add(to, {n, kFields}, [&patterns, member](std::int32_t* out) {
      for (const PatternVisits& p : patterns) {
        const auto& values = p.*member;
        std::memcpy(out, values.data(), values.size() * sizeof(values[0]));
        out += std::ssize(values) * kFields;
      }
    });
  };
  add(made.visits, &PatternVisits::visits);
  add(made.tiles, &PatternVisits::tiles);
  upload.add(made.ticket, {1}, std::vector<std::int32_t>{0});
  // A row is cut if it is much of its head's work: a global token's, but none of full attention.
  Work work;
  for (int h = 0; h < layout.n_heads(); ++h) {
    const std::int64_t pattern = layout.head_pattern()[h];
    const std::vector<std::int64_t>& offsets = patterns[pattern].offsets;
    const std::int64_t greatest = std::max(split_tiles(128), offsets.back() / 40);
    for (std::int64_t g = 0; g + 1 < std::ssize(offsets); ++g)
      work.add(h, g, begin[pattern] + offsets[g], begin[pattern] + offsets[g + 1], greatest);
  }
  work.finish(upload, made.work);
  upload.send(device);
  return made;
}

DeviceLayout make_device_layout(const TileLayout& layout, int n_kv_heads, Device device) {
  check(n_kv_heads >= 1 && layout.n_heads() % n_kv_heads == 0, "query heads are no multiple of the kv heads");
  const std::vector<std::int64_t> first = first_tiles(layout);
  std::vector<std::int64_t> gate_base;
  for (int h = 0; h < layout.n_heads(); ++h)
    gate_base.push_back(layout.gate_offset(h) - first[layout.head_pattern()[h]]);
  DeviceLayout made;
  Upload32 indices;
  add_patterns(layout, first, indices, made);
  indices.add(made.head_pattern, {layout.n_heads()}, layout.head_pattern());
  add_query_work(layout, first, indices, made.query_work);
  add_key_work(layout, n_kv_heads, indices, made.key_work);
  indices.send(device);
  Upload64 words;
  add_masks(layout.masks(), words, made);
  words.add(made.gate_base, {layout.n_heads()}, std::move(gate_base));
  words.send(device);
  return made;
}

struct DeviceLayouts::Made {
  using Key = std::tuple<Device::Type, int, int>;
  std::mutex mutex;
  std::map<Key, DeviceLayout> layouts;
  std::map<Key, QueryVisits> visits;

  // The value of the device and the number, made if there is none.
  template <class T, class Make>
  const T& get(std::map<Key, T>& values, Device device, int number, Make&& make) {
    const std::lock_guard lock(mutex);
    const Key key(device.type, device.index, number);
    const auto found = values.find(key);
    return found != values.end() ? found->second : values.emplace(key, make()).first->second;
  }
};

DeviceLayouts::DeviceLayouts() : made_(std::make_shared<Made>()) {}

DeviceLayouts& DeviceLayouts::operator=(const DeviceLayouts&) {
  made_ = std::make_shared<Made>();
  return *this;
}

const DeviceLayout& DeviceLayouts::get(const TileLayout& of, Device device, int n_kv_heads) const {
  return made_->get(made_->layouts, device, n_kv_heads,
                    [&] { return make_device_layout(of, n_kv_heads, device); });
}

const QueryVisits& DeviceLayouts::visits(const TileLayout& of, Device device, int blocks) const {
  return made_->get(made_->visits, device, blocks, [&] { return make_query_visits(of, blocks, device); });
}

}  // namespace filigree
