// An explanation as text for people and as JSON for machines.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "attention/explain/picture.h"
#include "attention/patterns.h"

namespace filigree {
namespace {

std::string counted(std::int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string scaled(double value, double base, std::initializer_list<const char*> units) {
  auto unit = units.begin();
  while (value >= base && unit + 1 != units.end()) {
    value /= base;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", value, value < 10 ? 2 : value < 100 ? 1 : 0, *unit);
}
std::string flops_text(double flops) {
  return scaled(flops, 1000, {"FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP"});
}
std::string bytes_text(double bytes) {
  return scaled(bytes, 1024, {"B", "KiB", "MiB", "GiB", "TiB"});
}

// "27 of 36, 75.0 % of full attention's tiles"
std::string share(std::int64_t part, std::int64_t full, std::string_view what) {
  return fmt::format("{} of {}, {}", grouped(part), grouped(full),
                     of_full_text(static_cast<double>(part), static_cast<double>(full), what));
}

void line(std::string& text, const char* name, const std::string& value) {
  text += fmt::format("  {:<20}{}\n", name, value);
}

std::string group_text(const LayerGroup& group) {
  const AttentionCost& cost = group.cost;
  std::string text =
      fmt::format("{}: {}, {}\n", numbered("layer", group.layers), counted(group.layout->n_heads(), "head"),
                  counted(static_cast<std::int64_t>(group.layout->patterns().size()), "distinct pattern"));
  line(text, "exact pairs", share(group.statistics.exact_pairs, group.statistics.full_pairs, "pairs"));
  line(text, "computed tiles", share(group.statistics.computed_tiles, group.statistics.full_tiles, "tiles"));
  line(text, "tiles per row",
       fmt::format("mean {:.2f}, max {}", group.statistics.mean_tiles_per_row,
                   group.statistics.max_tiles_per_row));
  line(text, "FLOPs forward",
       fmt::format("useful {}, computed {}", flops_text(cost.useful_forward),
                   flops_text(cost.computed_forward)));
  line(text, "FLOPs backward",
       fmt::format("useful {}, computed {}", flops_text(cost.useful_backward),
                   flops_text(cost.computed_backward)));
  line(text, "bytes forward",
       fmt::format("{} each tensor once, {} tile by tile", bytes_text(cost.least_bytes_forward),
                   bytes_text(cost.tile_bytes_forward)));
  line(text, "bytes backward",
       fmt::format("{} each tensor once, {} tile by tile", bytes_text(cost.least_bytes_backward),
                   bytes_text(cost.tile_bytes_backward)));
  line(text, "layout memory",
       fmt::format("{}, {}", bytes_text(static_cast<double>(group.layout->bytes())),
                   counted(group.layout->masks().size(), "distinct mask")));
  return text + "\n";
}

struct Totals {
  std::int64_t exact_pairs = 0, full_pairs = 0, computed_tiles = 0, full_tiles = 0;
  AttentionCost cost;
};

Totals totals_of(const Explanation& e) {
  Totals totals;
  for (const LayerGroup& group : e.groups) {
    const auto layers = std::ssize(group.layers);
    const auto times = static_cast<double>(layers);
    totals.exact_pairs += layers * group.statistics.exact_pairs;
    totals.full_pairs += layers * group.statistics.full_pairs;
    totals.computed_tiles += layers * group.statistics.computed_tiles;
    totals.full_tiles += layers * group.statistics.full_tiles;
    for (auto field : {&AttentionCost::useful_forward, &AttentionCost::computed_forward,
                       &AttentionCost::useful_backward, &AttentionCost::computed_backward,
                       &AttentionCost::least_bytes_forward, &AttentionCost::least_bytes_backward,
                       &AttentionCost::tile_bytes_forward, &AttentionCost::tile_bytes_backward})
      totals.cost.*field += times * group.cost.*field;
  }
  return totals;
}

std::string totals_text(const Explanation& e) {
  const Totals totals = totals_of(e);
  const auto layers = std::ssize(e.request.layers);
  std::string text = fmt::format("all {}, one sequence\n", counted(layers, "layer"));
  line(text, "exact pairs", share(totals.exact_pairs, totals.full_pairs, "pairs"));
  line(text, "computed tiles", share(totals.computed_tiles, totals.full_tiles, "tiles"));
  const AttentionCost& cost = totals.cost;
  line(text, "FLOPs",
       fmt::format("forward and backward: useful {}, computed {}",
                   flops_text(cost.useful_forward + cost.useful_backward),
                   flops_text(cost.computed_forward + cost.computed_backward)));
  return text + "\n";
}

std::string reach_text(const Explanation& e) {
  const ReceptiveField& reach = e.reach;
  const auto& g = e.request.geometry;
  std::string text = "receptive field of the last query, over all heads and the residual connection";
  text += reach.cell == 1 ? " (exact)\n"
                          : fmt::format(
                                " (by blocks of {} tokens: back and seen\nare upper bounds, unconnected is a "
                                "lower bound)\n",
                                reach.cell);
  text += fmt::format("  {:>6}  {:>13}  {:>13}  {:>26}\n", "layers", "tokens back", "tokens seen",
                      g.causal ? "unconnected pairs (j <= i)" : "unconnected pairs");
  std::size_t l = 0;
  for (; l < reach.after.size() && (l == 0 || reach.after[l - 1].unconnected > 0); ++l) {
    const FieldAfter& after = reach.after[l];
    text += fmt::format("  {:>6}  {:>13}  {:>13}  {:>26}\n", l + 1, grouped(after.farthest),
                        grouped(after.tokens), grouped(after.unconnected));
  }
  if (l < reach.after.size()) text += "  every pair is connected from here on\n";
  if (reach.example)
    text += fmt::format("  for example, nothing carries key {} to query {}\n", grouped(reach.example->second),
                        grouped(reach.example->first));
  return text;
}

}  // namespace

std::string savings_text() {
  const auto rows = seed_table();
  std::string text = "reference: n = 4096; tiles are causal, with the factor below causal full\n";
  text += fmt::format("  {:<26}{:<13}{:>11}  {:>11}  {:>18}  {:>14}  {:>14}\n", "pattern", "formula", "pairs",
                      "exact", "exact causal", "tiles T=64", "tiles T=128");
  const auto fewer = [](std::int64_t value, std::int64_t full) {
    return fmt::format("{} ({:.1f}x)", grouped(value),
                       static_cast<double>(full) / static_cast<double>(value));
  };
  for (const SeedRow& row : rows) {
    text += fmt::format("  {:<26}{:<13}{:>11}  {:>11}  {:>18}  {:>14}  {:>14}\n", row.name, row.formula,
                        grouped(row.formula_pairs), grouped(row.bidirectional_pairs),
                        fewer(row.causal_pairs, rows[0].causal_pairs), fewer(row.tiles_64, rows[0].tiles_64),
                        fewer(row.tiles_128, rows[0].tiles_128));
  }
  return text;
}

std::string pattern_rules_text() {
  std::string text = "what query i may see of key j (causal: and j <= i)\n";
  for (const PatternKind& kind : pattern_kinds()) line(text, kind.name.data(), std::string(kind.meaning));
  return text;
}

namespace {

nlohmann::ordered_json cost_json(const AttentionCost& cost) {
  return {{"flops_forward_useful", cost.useful_forward},
          {"flops_forward_computed", cost.computed_forward},
          {"flops_backward_useful", cost.useful_backward},
          {"flops_backward_computed", cost.computed_backward},
          {"bytes_forward_least", cost.least_bytes_forward},
          {"bytes_forward_tiled", cost.tile_bytes_forward},
          {"bytes_backward_least", cost.least_bytes_backward},
          {"bytes_backward_tiled", cost.tile_bytes_backward}};
}

nlohmann::ordered_json group_json(const LayerGroup& group) {
  const LayoutStatistics& s = group.statistics;
  auto json = cost_json(group.cost);
  json["layers"] = group.layers;
  json["head_pattern"] = group.layout->head_pattern();
  json["exact_pairs"] = s.exact_pairs;
  json["computed_tiles"] = s.computed_tiles;
  json["tiles_of_full"] = static_cast<double>(s.computed_tiles) / static_cast<double>(s.full_tiles);
  json["mean_tiles_per_row"] = s.mean_tiles_per_row;
  json["max_tiles_per_row"] = s.max_tiles_per_row;
  json["layout_bytes"] = group.layout->bytes();
  json["masks"] = group.layout->masks().size();
  return json;
}

nlohmann::ordered_json reach_json(const ReceptiveField& reach) {
  nlohmann::ordered_json json = {{"cell_tokens", reach.cell}, {"exact", reach.cell == 1}};
  for (std::size_t l = 0; l < reach.after.size(); ++l)
    json["after"].push_back({{"layers", l + 1},
                             {"tokens_back", reach.after[l].farthest},
                             {"tokens_seen", reach.after[l].tokens},
                             {"unconnected_pairs", reach.after[l].unconnected}});
  if (reach.example) json["unconnected_example"] = {reach.example->first, reach.example->second};
  return json;
}

}  // namespace

std::string explanation_text(const Explanation& e) {
  const auto& r = e.request;
  std::string text = fmt::format(
      "{} {}, {}, tile {}, {} of {} of dimension {}\n\n", grouped(r.geometry.n),
      r.geometry.n == 1 ? "token" : "tokens", r.geometry.causal ? "causal" : "bidirectional", r.geometry.tile,
      counted(std::ssize(r.layers), "layer"), counted(r.n_heads, "head"), r.head_dim);
  text += terminal_pictures(e);
  for (const LayerGroup& group : e.groups) text += group_text(group);
  return text + (e.request.layers.size() > 1 ? totals_text(e) : "") + reach_text(e);
}

std::string explanation_json(const Explanation& e) {
  const auto& r = e.request;
  nlohmann::ordered_json json = {{"n", r.geometry.n},       {"causal", r.geometry.causal},
                                 {"tile", r.geometry.tile}, {"n_layers", r.layers.size()},
                                 {"n_heads", r.n_heads},    {"n_kv_heads", r.n_kv_heads},
                                 {"head_dim", r.head_dim}};
  json["dense_pairs"] = e.groups.front().statistics.full_pairs;  // of one layer
  json["dense_tiles"] = e.groups.front().statistics.full_tiles;
  for (const LayerGroup& group : e.groups) json["groups"].push_back(group_json(group));
  const Totals totals = totals_of(e);
  json["total"] = cost_json(totals.cost);
  json["total"]["exact_pairs"] = totals.exact_pairs;
  json["total"]["computed_tiles"] = totals.computed_tiles;
  json["reach"] = reach_json(e.reach);
  for (const SeedRow& row : seed_table())
    json["seed_table"].push_back({{"pattern", row.name},
                                  {"formula", row.formula},
                                  {"formula_pairs", row.formula_pairs},
                                  {"exact_pairs_bidirectional", row.bidirectional_pairs},
                                  {"exact_pairs_causal", row.causal_pairs},
                                  {"computed_tiles_64", row.tiles_64},
                                  {"computed_tiles_128", row.tiles_128}});
  return json.dump(2);
}

}  // namespace filigree
