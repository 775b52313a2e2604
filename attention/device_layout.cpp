#include "attention/device_layout.h"

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

// Collects the items of one list and cuts the long ones.
class Work {
 public:
  explicit Work(int tile) : split_tiles_(split_tiles(tile)) {}

  void add(std::int64_t head, std::int64_t tile, std::int64_t begin, std::int64_t end) {
    const std::int64_t count = end - begin;
    if (count <= split_tiles_) return add_item(head, tile, begin, end, -1);
    const std::int64_t segments = (count + split_tiles_ - 1) / split_tiles_;
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
  // By descending number of tiles, which is at most split_tiles_; equals stay in order.
  std::vector<WorkItem> longest_first() const {
    std::vector<std::int64_t> place(static_cast<std::size_t>(split_tiles_) + 2);
    const auto rank = [&](const WorkItem& item) {
      return static_cast<std::size_t>(split_tiles_ - (item.end - item.begin));
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

  std::int64_t split_tiles_;
  std::vector<WorkItem> items_;
  std::vector<SplitRow> splits_;
  std::int64_t slots_ = 0;
};

void add_query_work(const TileLayout& layout, const std::vector<std::int64_t>& first, Upload32& upload,
                    WorkList& to) {
  Work work(layout.tile());
  for (int h = 0; h < layout.n_heads(); ++h) {
    const TilePattern& p = layout.of_head(h);
    const std::int64_t base = first[layout.head_pattern()[h]];
    for (std::int64_t q = 0; q < layout.query_tiles(); ++q)
      work.add(h, q, base + p.row_offsets[q], base + p.row_offsets[q + 1]);
  }
  work.finish(upload, to);
}

void add_key_work(const TileLayout& layout, int n_kv_heads, Upload32& upload, WorkList& to) {
  Work work(layout.tile());
  const int heads_each = layout.n_heads() / n_kv_heads;
  for (int g = 0; g < n_kv_heads; ++g) {
    for (std::int64_t k = 0; k < layout.key_tiles(); ++k) {
      std::int64_t entries = 0;
      for (int h = g * heads_each; h < (g + 1) * heads_each; ++h) {
        const TilePattern& p = layout.of_head(h);
        entries += p.col_offsets[k + 1] - p.col_offsets[k];
      }
      require(entries <= kMaxTiles, "[sparse_attention] {} tiles of one kv head use key tile {}", entries, k);
      work.add(g, k, 0, entries);
    }
  }
  work.finish(upload, to);
}

}  // namespace

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
};

DeviceLayouts::DeviceLayouts() : made_(std::make_shared<Made>()) {}

DeviceLayouts& DeviceLayouts::operator=(const DeviceLayouts&) {
  made_ = std::make_shared<Made>();
  return *this;
}

const DeviceLayout& DeviceLayouts::get(const TileLayout& of, Device device, int n_kv_heads) const {
  const std::lock_guard lock(made_->mutex);
  const Made::Key key(device.type, device.index, n_kv_heads);
  const auto found = made_->layouts.find(key);
  if (found != made_->layouts.end()) return found->second;
  return made_->layouts.emplace(key, make_device_layout(of, n_kv_heads, device)).first->second;
}

}  // namespace filigree
