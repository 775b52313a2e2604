#include "attention/device_layout.h"

#include <limits>
#include <map>
#include <mutex>

namespace filigree {
namespace {

constexpr std::int64_t kMaxTiles = std::numeric_limits<std::int32_t>::max();

Tensor tensor_of(const std::vector<std::int32_t>& values, Device device) {
  return Tensor::of({static_cast<std::int64_t>(values.size())}, values, device);
}

void append(std::vector<std::int32_t>& to, std::span<const std::int32_t> values, std::int64_t added) {
  for (const std::int32_t value : values) to.push_back(static_cast<std::int32_t>(value + added));
}

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
void set_patterns(const TileLayout& layout, const std::vector<std::int64_t>& first, Device device,
                  DeviceLayout& to) {
  std::vector<std::int32_t> row_offsets, full_begin, columns, mask_id, col_offsets, rows, tile_of;
  for (std::size_t i = 0; i < first.size(); ++i) {
    const TilePattern& p = layout.patterns()[i];
    append(row_offsets, p.row_offsets, first[i]);
    append(full_begin, p.full_begin, first[i]);
    append(columns, p.columns, 0);
    append(mask_id, p.mask_id, 0);
    append(col_offsets, p.col_offsets, first[i]);
    append(rows, p.rows, 0);
    append(tile_of, p.tile_of, first[i]);
  }
  to.row_offsets = tensor_of(row_offsets, device);
  to.full_begin = tensor_of(full_begin, device);
  to.columns = tensor_of(columns, device);
  to.mask_id = tensor_of(mask_id, device);
  to.col_offsets = tensor_of(col_offsets, device);
  to.rows = tensor_of(rows, device);
  to.tile_of = tensor_of(tile_of, device);
}

Tensor mask_words(const MaskTable& masks, Device device) {
  const std::int64_t words = masks.words_per_mask();
  std::vector<std::int64_t> values;
  values.reserve(static_cast<std::size_t>(words * std::max(masks.size(), 1)));
  for (std::int32_t id = 0; id < masks.size(); ++id)
    for (const std::uint64_t word : masks.mask(id)) values.push_back(std::bit_cast<std::int64_t>(word));
  if (values.empty()) values.resize(static_cast<std::size_t>(words));
  return Tensor::of({static_cast<std::int64_t>(values.size()) / words, words}, values, device);
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

  WorkList finish(Device device) {
    std::stable_sort(items_.begin(), items_.end(),
                     [](const WorkItem& a, const WorkItem& b) { return a.end - a.begin > b.end - b.begin; });
    WorkList list;
    list.n_items = static_cast<std::int64_t>(items_.size());
    list.n_splits = static_cast<std::int64_t>(splits_.size());
    list.n_slots = slots_;
    list.items = as_tensor(items_, device);
    list.splits = as_tensor(splits_, device);
    return list;
  }

 private:
  void add_item(std::int64_t head, std::int64_t tile, std::int64_t begin, std::int64_t end,
                std::int64_t slot) {
    items_.push_back({static_cast<std::int32_t>(head), static_cast<std::int32_t>(tile),
                      static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end),
                      static_cast<std::int32_t>(slot)});
  }

  template <class T>
  static Tensor as_tensor(const std::vector<T>& structs, Device device) {
    constexpr std::size_t kFields = sizeof(T) / sizeof(std::int32_t);
    std::vector<std::int32_t> fields(structs.size() * kFields);
    std::copy_n(reinterpret_cast<const std::int32_t*>(structs.data()), fields.size(), fields.data());
    return Tensor::of({static_cast<std::int64_t>(structs.size()), kFields}, fields, device);
  }

  std::int64_t split_tiles_;
  std::vector<WorkItem> items_;
  std::vector<SplitRow> splits_;
  std::int64_t slots_ = 0;
};

WorkList query_work(const TileLayout& layout, const std::vector<std::int64_t>& first, Device device) {
  Work work(layout.tile());
  for (int h = 0; h < layout.n_heads(); ++h) {
    const TilePattern& p = layout.of_head(h);
    const std::int64_t base = first[static_cast<std::size_t>(layout.head_pattern()[h])];
    for (std::int64_t q = 0; q < layout.query_tiles(); ++q)
      work.add(h, q, base + p.row_offsets[q], base + p.row_offsets[q + 1]);
  }
  return work.finish(device);
}

WorkList key_work(const TileLayout& layout, int n_kv_heads, Device device) {
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
  return work.finish(device);
}

}  // namespace

DeviceLayout make_device_layout(const TileLayout& layout, int n_kv_heads, Device device) {
  check(n_kv_heads >= 1 && layout.n_heads() % n_kv_heads == 0, "query heads are no multiple of the kv heads");
  const std::vector<std::int64_t> first = first_tiles(layout);
  std::vector<std::int64_t> gate_base;
  for (int h = 0; h < layout.n_heads(); ++h)
    gate_base.push_back(layout.gate_offset(h) - first[static_cast<std::size_t>(layout.head_pattern()[h])]);
  DeviceLayout made;
  set_patterns(layout, first, device, made);
  made.head_pattern = tensor_of(layout.head_pattern(), device);
  made.gate_base = Tensor::of({layout.n_heads()}, gate_base, device);
  made.masks = mask_words(layout.masks(), device);
  made.query_work = query_work(layout, first, device);
  made.key_work = key_work(layout, n_kv_heads, device);
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
