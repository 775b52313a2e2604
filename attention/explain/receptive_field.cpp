// Boolean matrix products: R_l = A_l R_(l-1), with A_l the adjacency of layer l and R_0 the identity.
#include "attention/explain/receptive_field.h"

#include <algorithm>
#include <bit>

namespace filigree {
namespace {

constexpr std::int64_t kMaxNodes = 16384;  // 32 MiB a matrix

class BitMatrix {
 public:
  explicit BitMatrix(std::int64_t n) : n_(n), words_((n + 63) / 64), bits_(n * words_) {
    for (std::int64_t i = 0; i < n; ++i) set(i, i);
  }
  std::int64_t size() const { return n_; }
  void set(std::int64_t i, std::int64_t j) { row(i)[j / 64] |= std::uint64_t{1} << (j % 64); }
  bool get(std::int64_t i, std::int64_t j) const { return row(i)[j / 64] >> (j % 64) & 1; }
  std::uint64_t* row(std::int64_t i) { return bits_.data() + i * words_; }
  const std::uint64_t* row(std::int64_t i) const { return bits_.data() + i * words_; }
  std::int64_t words() const { return words_; }
  std::int64_t count(std::int64_t i) const {
    std::int64_t total = 0;
    for (std::int64_t w = 0; w < words_; ++w) total += std::popcount(row(i)[w]);
    return total;
  }

 private:
  std::int64_t n_, words_;
  std::vector<std::uint64_t> bits_;
};

class FieldFinder {
 public:
  explicit FieldFinder(const TileLayout& geometry) : n_(geometry.n_queries()), causal_(geometry.causal()) {
    if (n_ > kMaxExactField) cell_ = geometry.tile() * ((geometry.query_tiles() + kMaxNodes - 1) / kMaxNodes);
    nodes_ = (n_ + cell_ - 1) / cell_;
  }

  ReceptiveField find(const std::vector<LayoutPtr>& layers) const {
    ReceptiveField field;
    field.cell = cell_;
    BitMatrix reached(nodes_), next(nodes_), edges(nodes_);
    for (std::size_t l = 0; l < layers.size(); ++l) {
      if (l == 0 || layers[l] != layers[l - 1]) edges = edges_of(*layers[l]);
      multiply(edges, reached, next);
      std::swap(reached, next);
      field.after.push_back(summary(reached, l + 1 == layers.size() ? &field.example : nullptr));
    }
    return field;
  }

 private:
  BitMatrix edges_of(const TileLayout& layout) const {
    BitMatrix edges(nodes_);
    for (const TilePattern& p : layout.patterns()) {
      for (std::int64_t q = 0; q < layout.query_tiles(); ++q) {
        for (auto t = p.row_offsets[q]; t < p.row_offsets[q + 1]; ++t) {
          if (cell_ > 1) {
            edges.set(q * layout.tile() / cell_, p.columns[t] * std::int64_t{layout.tile()} / cell_);
          } else {
            add_tile(layout, q, p.columns[t], p.mask_id[t], edges);
          }
        }
      }
    }
    return edges;
  }

  void add_tile(const TileLayout& layout, std::int64_t q, std::int64_t k, std::int32_t mask,
                BitMatrix& edges) const {
    const std::int64_t first_i = q * layout.tile(), first_j = k * layout.tile();
    const auto rows = static_cast<int>(std::min<std::int64_t>(layout.tile(), n_ - first_i));
    const auto columns = static_cast<int>(std::min<std::int64_t>(layout.tile(), n_ - first_j));
    for (int r = 0; r < rows; ++r)
      for (int c = 0; c < columns; ++c)
        if (mask == kFullTile || layout.masks().bit(mask, r, c)) edges.set(first_i + r, first_j + c);
  }

  // Nodes that causality lets node i see.
  std::int64_t limit(std::int64_t i) const { return causal_ ? i + 1 : nodes_; }

  void multiply(const BitMatrix& edges, const BitMatrix& from, BitMatrix& to) const {
    for (std::int64_t i = 0; i < nodes_; ++i) {
      std::fill_n(to.row(i), to.words(), 0);
      // From the nearest key down: late keys have seen most, and a row that has seen all is done.
      std::int64_t joined = 0;  // since the last look
      for (std::int64_t w = edges.words() - 1; w >= 0; --w) {
        for (std::uint64_t bits = edges.row(i)[w]; bits != 0;) {
          const int top = 63 - std::countl_zero(bits);
          bits &= ~(std::uint64_t{1} << top);
          const std::uint64_t* seen = from.row(w * 64 + top);
          for (std::int64_t x = 0; x < to.words(); ++x) to.row(i)[x] |= seen[x];
          ++joined;
        }
        if (joined < 32) continue;
        if (to.count(i) == limit(i)) break;
        joined = 0;
      }
    }
  }

  std::int64_t tokens_in(std::int64_t node) const { return std::min(cell_, n_ - node * cell_); }

  FieldAfter summary(const BitMatrix& reached,
                     std::optional<std::pair<std::int64_t, std::int64_t>>* example) const {
    FieldAfter out;
    for (std::int64_t i = 0; i < nodes_; ++i) {
      const std::int64_t missing = tokens_below(limit(i)) - tokens_seen(reached, i);
      out.unconnected += tokens_in(i) * missing;
      if (missing == 0 || !example || example->has_value()) continue;
      std::int64_t j = 0;
      while (reached.get(i, j)) ++j;
      *example = {i * cell_, j * cell_};
    }
    const std::int64_t last = nodes_ - 1;
    std::int64_t first_seen = 0;
    while (!reached.get(last, first_seen)) ++first_seen;
    out.tokens = tokens_seen(reached, last);
    out.farthest = n_ - 1 - first_seen * cell_;
    return out;
  }

  // All nodes but the last have `cell_` tokens.
  std::int64_t tokens_below(std::int64_t node) const { return std::min(node * cell_, n_); }
  std::int64_t tokens_seen(const BitMatrix& reached, std::int64_t i) const {
    const std::int64_t last = nodes_ - 1, tokens = reached.count(i) * cell_;
    return reached.get(i, last) ? tokens - cell_ + tokens_in(last) : tokens;
  }

  std::int64_t n_;
  bool causal_;
  std::int64_t cell_ = 1, nodes_ = 0;
};

}  // namespace

ReceptiveField find_receptive_field(const std::vector<LayoutPtr>& layers) {
  check(!layers.empty(), "find_receptive_field needs a layer");
  return FieldFinder(*layers.front()).find(layers);
}

}  // namespace filigree
