// The pairs that a pattern's YAML allows, by the formulas of its documentation and pair by pair: it shares
// nothing with the rows of the product but the draws.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "attention/pattern.h"
#include "attention/sampling.h"

namespace filigree::test {

// Whether query i of `head` may see key j, before causality.
using Meaning = std::function<bool(const Geometry& g, int head, std::int64_t i, std::int64_t j)>;

// The row of a pattern, key by key. Of keys beyond i it says nothing where g.causal.
inline bool allows(const Pattern& pattern, const Geometry& g, int head, std::int64_t i, std::int64_t j) {
  Intervals row;
  pattern.row(g, head, i, row);
  return std::ranges::any_of(row, [&](const Interval& keys) { return keys.begin <= j && j < keys.end; });
}

class PatternReader {
 public:
  explicit PatternReader(const YamlNode& body) : body_(body) {}
  std::int64_t number(const char* key, std::int64_t otherwise = 0) const {
    const YamlNode* value = body_.find(key);
    return value ? std::stoll(value->scalar) : otherwise;
  }
  std::vector<std::int64_t> draw(int head, std::int64_t row, std::int64_t population,
                                 std::int64_t count) const {
    const YamlNode* per_head = body_.find("per_head");
    if (!per_head || per_head->scalar != "true") head = 0;
    std::vector<std::int64_t> drawn;
    sample({static_cast<std::uint64_t>(number("seed")), static_cast<std::uint32_t>(head),
            static_cast<std::uint32_t>(row)},
           population, count, drawn);
    return drawn;
  }

 private:
  YamlNode body_;
};

inline Meaning meaning_of_window(std::int64_t window, std::int64_t dilation) {
  return [=](const Geometry& g, int, auto i, auto j) {
    const std::int64_t behind = g.causal ? window - 1 : window / 2, ahead = g.causal ? 0 : window / 2;
    const std::int64_t steps = (i - j) / dilation;
    return (i - j) % dilation == 0 && -ahead <= steps && steps <= behind;
  };
}

inline Meaning meaning_of_leaf(const std::string& name, const YamlNode& body) {
  const PatternReader p(body);
  const auto has = [](const std::vector<std::int64_t>& drawn, std::int64_t j) {
    return std::ranges::binary_search(drawn, j);
  };
  if (name == "full") return [](auto&&...) { return true; };
  if (name == "local") return meaning_of_window(p.number("window"), p.number("dilation", 1));
  if (name == "longformer")
    return
        [local = meaning_of_window(p.number("window"), 1), global = p.number("global")](
            auto& g, int head, auto i, auto j) { return local(g, head, i, j) || i < global || j < global; };
  if (name == "strided")
    return [s = p.number("stride")](auto&, int, auto i, auto j) { return (i - j) % s == 0; };
  if (name == "fixed")
    return [s = p.number("stride"), c = p.number("summary")](auto&, int, auto i, auto j) {
      return i / s == j / s || j % s >= s - c;
    };
  if (name == "random")
    return [=](const Geometry& g, int head, auto i, auto j) {
      return has(p.draw(head, i, g.causal ? i + 1 : g.n, p.number("keys")), j);
    };
  if (name == "random_blocks")
    return [=, block = p.number("block")](const Geometry& g, int head, auto i, auto j) {
      const std::int64_t qb = i / block, blocks = (g.n + block - 1) / block;
      return has(p.draw(head, qb, g.causal ? qb + 1 : blocks, p.number("blocks")), j / block);
    };
  if (name == "global") {
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(p.number("tokens")));
    for (std::size_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<std::int64_t>(t);
    if (const YamlNode* positions = body.find("positions"))
      for (const YamlNode& item : positions->items) tokens.push_back(std::stoll(item.scalar));
    return [tokens](auto&, int, auto i, auto j) {
      return std::ranges::count(tokens, i) > 0 || std::ranges::count(tokens, j) > 0;
    };
  }
  if (name == "block")
    return [body, size = p.number("size")](auto&, int, auto i, auto j) {
      return std::ranges::any_of(body.find("pairs")->items, [&](const YamlNode& pair) {
        return std::stoll(pair.items[0].scalar) == i / size && std::stoll(pair.items[1].scalar) == j / size;
      });
    };
  if (name == "bigbird")
    return [=, block = p.number("block", 64), window = p.number("window", 3), global = p.number("global", 2)](
               const Geometry& g, int head, auto i, auto j) {
      const std::int64_t qb = i / block, kb = j / block;
      if (std::abs(qb - kb) <= window / 2 || qb < global || kb < global) return true;
      std::vector<std::int64_t> candidates;
      for (std::int64_t b = global; b < (g.n + block - 1) / block; ++b)
        if (std::abs(qb - b) > window / 2 && (b < qb || !g.causal)) candidates.push_back(b);
      for (const auto drawn : p.draw(head, qb, std::ssize(candidates), p.number("random", 3)))
        if (candidates[static_cast<std::size_t>(drawn)] == kb) return true;
      return false;
    };
  throw Error(ErrorKind::usage, "no meaning of " + name);
}

inline Meaning meaning_of(const YamlNode& node) {
  if (node.is_scalar()) return meaning_of_leaf(node.scalar, YamlNode::make_map());
  const std::string& name = node.entries.front().first.scalar;
  const YamlNode& body = node.entries.front().second;
  if (!body.is_sequence()) return meaning_of_leaf(name, body);
  std::vector<Meaning> parts;
  std::vector<std::int64_t> heads;
  for (const YamlNode& item : body.items) {
    parts.push_back(meaning_of(name == "heads" ? *item.find("pattern") : item));
    if (name == "heads")
      heads.insert(heads.end(), std::stoul(item.find("count")->scalar), std::ssize(parts) - 1);
  }
  return [=](const Geometry& g, int head, std::int64_t i, std::int64_t j) {
    const auto holds = [&](const Meaning& part) { return part(g, head, i, j); };
    if (name == "heads") return holds(parts[static_cast<std::size_t>(heads[static_cast<std::size_t>(head)])]);
    if (name == "union") return std::ranges::any_of(parts, holds);
    if (name == "intersect") return std::ranges::all_of(parts, holds);
    return holds(parts[0]) && !holds(parts[1]);
  };
}

}  // namespace filigree::test
