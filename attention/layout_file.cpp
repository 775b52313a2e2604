// Layout files: TileLayout <-> HDF5. The format stands in tile_layout.h; the layout's constructor validates
// what is read.
#include <algorithm>
#include <limits>
#include <map>
#include <mutex>

#include "attention/tile_layout.h"
#include "core/hash.h"
#include "core/hdf5.h"

namespace filigree {
namespace {

std::int64_t mask_bytes(int tile) {
  return std::int64_t{tile} * tile / 8;
}

// Masks as in the file: row-major, tile/8 bytes a row, lowest bit first.
std::vector<std::uint8_t> pack_masks(const MaskTable& masks) {
  std::vector<std::uint8_t> bytes;
  bytes.reserve(masks.size() * mask_bytes(masks.tile()));
  for (std::int32_t id = 0; id < masks.size(); ++id) {
    const auto words = masks.mask(id);
    for (int r = 0; r < masks.tile(); ++r)
      for (int b = 0; b < masks.tile() / 8; ++b)
        bytes.push_back(static_cast<std::uint8_t>(words[r * masks.words_per_row() + b / 8] >> (b % 8 * 8)));
  }
  return bytes;
}

MaskTable unpack_masks(const std::vector<std::uint8_t>& bytes, std::int64_t count, int tile) {
  MaskTable masks(tile);
  std::vector<std::uint64_t> words(masks.words_per_mask());
  const std::uint8_t* next = bytes.data();
  for (std::int64_t id = 0; id < count; ++id) {
    std::fill(words.begin(), words.end(), 0);
    for (int r = 0; r < tile; ++r)
      for (int b = 0; b < tile / 8; ++b)
        words[r * masks.words_per_row() + b / 8] |= std::uint64_t{*next++} << (b % 8 * 8);
    masks.append(words);
  }
  return masks;
}

// One head's part of the exact mask, [N, M].
void fill_exact_mask(const TileLayout& layout, int head, std::uint8_t* out) {
  const TilePattern& p = layout.of_head(head);
  const std::int64_t edge = layout.tile(), n = layout.n_queries(), m = layout.n_keys();
  for (std::int64_t i = 0; i < n; ++i) {
    for (auto t = p.row_offsets[i / edge]; t < p.row_offsets[i / edge + 1]; ++t) {
      const std::int64_t first = p.columns[t] * edge, count = std::min(edge, m - first);
      const int row = static_cast<int>(i % edge);
      for (int c = 0; c < count; ++c)
        out[i * m + first + c] = p.mask_id[t] == kFullTile || layout.masks().bit(p.mask_id[t], row, c);
    }
  }
}

std::vector<std::uint8_t> exact_mask(const TileLayout& layout) {
  const std::int64_t pairs = layout.n_queries() * layout.n_keys();
  std::vector<std::uint8_t> out(layout.n_heads() * pairs);
  for (int h = 0; h < layout.n_heads(); ++h) fill_exact_mask(layout, h, out.data() + h * pairs);
  return out;
}

class LayoutReader {
 public:
  LayoutReader(h5::Reader file, const std::string& path) : file_(std::move(file)), path_(path) {}

  TileLayout read() {
    const std::int64_t n_queries = attribute("n_queries", 1, kMaxLength);
    const std::int64_t n_keys = attribute("n_keys", 1, kMaxLength);
    // Also keeps memory within a small multiple of the file: row_offsets bears out n_queries.
    expect(n_keys == n_queries, "{} queries but {} keys; layouts of self-attention have as many", n_queries,
           n_keys);
    const auto tile = static_cast<int>(attribute("tile", 16, 128));
    expect(is_tile_edge(tile), "tile edge {} is not 16, 32, 64 or 128", tile);
    const bool causal = attribute("causal", 0, 1) == 1;
    const std::int64_t n_heads = attribute("n_heads", 1, std::numeric_limits<std::int32_t>::max());
    auto head_pattern = integers("head_pattern", n_heads);

    std::int32_t n_patterns = 0;
    while (file_.has(group(n_patterns))) ++n_patterns;
    const std::int64_t query_tiles = (n_queries + tile - 1) / tile;
    std::vector<TilePattern> patterns;
    for (std::int32_t p = 0; p < n_patterns; ++p) {
      TilePattern pattern;
      pattern.row_offsets = integers(group(p) + "/row_offsets", query_tiles + 1);
      const auto tiles = pattern.row_offsets.back();
      expect(tiles >= 0, "pattern {} ends at row offset {}", p, tiles);
      pattern.columns = integers(group(p) + "/columns", tiles);
      pattern.mask_id = integers(group(p) + "/mask_id", tiles);
      patterns.push_back(std::move(pattern));
    }
    return TileLayout(n_queries, n_keys, tile, causal, std::move(patterns), std::move(head_pattern),
                      read_masks(tile));
  }

 private:
  static std::string group(std::int32_t p) { return "pattern_" + std::to_string(p); }

  template <class... Args>
  void expect(bool ok, fmt::format_string<Args...> format, Args&&... args) const {
    if (!ok) fail(ErrorKind::data, "{}: {}", path_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::int64_t attribute(const std::string& name, std::int64_t min, std::int64_t max) const {
    expect(file_.has_attribute("/", name), "not a layout file: it has no attribute '{}'", name);
    const std::int64_t value = file_.integer("/", name);
    expect(value >= min && value <= max, "{} is {}, expected {} to {}", name, value, min, max);
    return value;
  }

  std::vector<std::int32_t> integers(const std::string& name, std::int64_t count) const {
    expect(file_.has(name), "not a layout file: it has no dataset '{}'", name);
    const auto info = file_.info(name);
    expect(info.type == DType::i32 && info.dims == h5::Dims{count}, "'{}' must be int32 [{}]", name, count);
    std::vector<std::int32_t> out(count);
    file_.read(name, DType::i32, count, out.data());
    return out;
  }

  MaskTable read_masks(int tile) const {
    expect(file_.has("masks"), "not a layout file: it has no dataset 'masks'");
    const auto info = file_.info("masks");
    expect(info.type == DType::u8 && info.dims.size() == 2 && info.dims[1] == mask_bytes(tile),
           "'masks' must be uint8 [masks, {}]", mask_bytes(tile));
    std::vector<std::uint8_t> bytes(info.count());
    file_.read("masks", DType::u8, info.count(), bytes.data());
    return unpack_masks(bytes, info.dims[0], tile);
  }

  h5::Reader file_;
  std::string path_;
};

// Every error names the file.
template <class Open>
TileLayout read_named(const std::string& name, const Open& open) {
  try {
    return LayoutReader(open(), name).read();
  } catch (const Error& e) {
    if (std::string_view(e.what()).find(name) != std::string_view::npos) throw;
    throw Error(e.kind(), name + ": " + e.what(), e.hint());
  }
}

struct HeldLayouts {
  std::mutex mutex;
  std::map<std::string, LayoutPtr> by_sum;
};
HeldLayouts& held() {
  static HeldLayouts instance;
  return instance;
}

}  // namespace

void save_layout(const TileLayout& layout, const std::string& path, bool with_exact_mask) {
  require(!with_exact_mask || std::max(layout.n_queries(), layout.n_keys()) <= kMaxExactMask,
          "[save_layout] the exact mask is written for at most {} tokens, not {}", kMaxExactMask,
          std::max(layout.n_queries(), layout.n_keys()));
  require(layout.n_queries() == layout.n_keys(), "[save_layout] {} queries but {} keys, expected as many",
          layout.n_queries(), layout.n_keys());
  h5::Writer file(path);
  file.attribute("/", "n_queries", layout.n_queries());
  file.attribute("/", "n_keys", layout.n_keys());
  file.attribute("/", "tile", std::int64_t{layout.tile()});
  file.attribute("/", "n_heads", std::int64_t{layout.n_heads()});
  file.attribute("/", "causal", std::int64_t{layout.causal()});
  const auto integers = [&](const std::string& name, const std::vector<std::int32_t>& v) {
    file.dataset(name, DType::i32, {std::ssize(v)}, v.data());
  };
  integers("head_pattern", layout.head_pattern());
  for (std::size_t p = 0; p < layout.patterns().size(); ++p) {
    const std::string group = "pattern_" + std::to_string(p);
    integers(group + "/row_offsets", layout.patterns()[p].row_offsets);
    integers(group + "/columns", layout.patterns()[p].columns);
    integers(group + "/mask_id", layout.patterns()[p].mask_id);
  }
  const auto masks = pack_masks(layout.masks());
  file.dataset("masks", DType::u8, {layout.masks().size(), mask_bytes(layout.tile())}, masks.data());
  if (with_exact_mask) {
    const auto mask = exact_mask(layout);
    file.dataset("mask", DType::u8, {layout.n_heads(), layout.n_queries(), layout.n_keys()}, mask.data());
  }
  file.commit();
}

TileLayout load_layout(const std::string& path) {
  return read_named(path, [&] { return h5::Reader(path); });
}

std::string hold_layout(std::string_view file, const std::string& name) {
  std::string sum = hex64(xxhash64(file.data(), file.size()));
  if (held_layout(sum)) return sum;
  auto layout = std::make_shared<const TileLayout>(read_named(name, [&] { return h5::Reader(file, name); }));
  const std::lock_guard lock(held().mutex);
  held().by_sum.emplace(sum, std::move(layout));
  return sum;
}

LayoutPtr held_layout(const std::string& sum) {
  const std::lock_guard lock(held().mutex);
  const auto found = held().by_sum.find(sum);
  return found == held().by_sum.end() ? nullptr : found->second;
}

}  // namespace filigree
