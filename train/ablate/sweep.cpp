#include "train/ablate/sweep.h"

#include <algorithm>
#include <map>
#include <set>

#include "attention/tile_layout.h"
#include "train/ablate/fairness.h"
#include "train/config/tree.h"

namespace filigree {
namespace {

constexpr std::size_t kMaxCells = 10000;

// Letters, digits, dots and hyphens of a text, whatever else is between them as one hyphen.
std::string folder_word(std::string_view text) {
  std::string word;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == '-';
    if (plain && !(c == '.' && word.empty()))
      word += c;
    else if (!word.empty() && word.back() != '-')
      word += '-';
  }
  while (word.ends_with('-')) word.pop_back();
  return word;
}

std::string label_of(const std::string& key, const YamlNode& value) {
  const std::string words = plain_words(value);
  if (key == "pattern") return folder_word(words);
  return folder_word(key.substr(key.rfind('.') + 1) + "-" + words);
}

Axis read_axis(const YamlNode& key, const YamlNode& values) {
  Axis axis{key.scalar, key.mark, {}};
  const std::string what = fmt::format("axes.{}", key.scalar);
  for (const char* own : {"train.out", "threads"})
    if (key.scalar == own) fail_at(key.mark, fmt::format("{} cannot be an axis: the sweep sets it", own));
  if (values.is_sequence()) {
    for (const YamlNode& value : values.items) axis.values.push_back({label_of(key.scalar, value), value});
  } else if (values.is_map()) {
    for (const auto& [name, value] : values.entries) axis.values.push_back({folder_word(name.scalar), value});
  } else {
    fail_at(values.mark, fmt::format("{} must be a list of values, or a map that names them", what),
            "for example seed: [1, 2, 3]");
  }
  if (axis.values.empty()) fail_at(values.mark, fmt::format("{} has no values", what));
  for (const AxisValue& value : axis.values)
    if (value.label.empty())
      fail_at(value.value.mark, fmt::format("a value of {} has no name that a folder can have", what),
              "name the values: a map of name: value");
  return axis;
}

std::vector<Axis> read_axes(const YamlNode& node) {
  if (!node.is_map() || node.entries.empty())
    fail_at(node.mark, "axes is empty",
            "give at least one config key and its values: axes: {seed: [1, 2, 3]}");
  std::vector<Axis> axes;
  for (const auto& [key, values] : node.entries) axes.push_back(read_axis(key, values));
  return axes;
}

// Every axis alone, but those that `together` lists.
std::vector<std::vector<std::size_t>> read_groups(const YamlNode* together, const std::vector<Axis>& axes) {
  std::vector<std::string> keys;
  for (const Axis& axis : axes) keys.push_back(axis.key);
  std::map<std::size_t, std::vector<std::size_t>> by_first;
  std::set<std::size_t> joined;
  if (together && !together->is_sequence())
    fail_at(together->mark, "together must be a list of lists of axes", "for example [[data.seq_len, tile]]");
  for (const YamlNode& list : together ? together->items : std::vector<YamlNode>{}) {
    std::vector<std::size_t> group;
    for (const YamlNode& item : list.items) {
      const auto axis = std::ranges::find(keys, as_string(item, "together"));
      if (axis == keys.end())
        fail_at(item.mark, fmt::format("together names '{}', which is no axis", item.scalar),
                fmt::format("the axes are {}", fmt::join(keys, ", ")));
      group.push_back(static_cast<std::size_t>(axis - keys.begin()));
      if (!joined.insert(group.back()).second)
        fail_at(item.mark, fmt::format("together names {} twice", item.scalar));
      if (axes[group.back()].values.size() != axes[group.front()].values.size())
        fail_at(item.mark,
                fmt::format("axes that move together have as many values each: {} has {}, {} has {}",
                            keys[group.front()], axes[group.front()].values.size(), item.scalar,
                            axes[group.back()].values.size()));
    }
    if (group.size() < 2) fail_at(list.mark, "together lists at least two axes each");
    std::ranges::sort(group);
    by_first[group.front()] = group;
  }
  std::vector<std::vector<std::size_t>> groups;
  for (std::size_t a = 0; a < axes.size(); ++a)
    if (by_first.contains(a))
      groups.push_back(by_first[a]);
    else if (!joined.contains(a))
      groups.push_back({a});
  return groups;
}

std::size_t group_size(const Sweep& sweep, std::size_t group) {
  return sweep.axes[sweep.groups[group].front()].values.size();
}

// (group, index) of an axis value with this label.
std::optional<std::pair<std::size_t, std::size_t>> find_label(const Sweep& sweep, const std::string& label) {
  for (std::size_t g = 0; g < sweep.groups.size(); ++g)
    for (const std::size_t a : sweep.groups[g]) {
      const auto& values = sweep.axes[a].values;
      const auto value = std::ranges::find(values, label, &AxisValue::label);
      if (value != values.end()) return std::pair(g, static_cast<std::size_t>(value - values.begin()));
    }
  return std::nullopt;
}

std::string checked_label(const Sweep& sweep, const YamlNode& node, const std::string& what) {
  const std::string label = as_string(node, what);
  if (find_label(sweep, label)) return label;
  std::vector<std::string> labels;
  for (const Axis& axis : sweep.axes)
    for (const AxisValue& value : axis.values) labels.push_back(value.label);
  fail_at(node.mark, fmt::format("{} names '{}', which is no value of an axis", what, label),
          fmt::format("the values are {}", fmt::join(labels, ", ")));
}

void read_target(MapReader& map, const Sweep& sweep, Equal& equal) {
  std::vector<std::string> given;
  const auto asked = [&](const char* key) {
    const bool there = map.find(key) != nullptr;
    if (there) given.emplace_back(key);
    return there;
  };
  if (asked("like")) equal.like = checked_label(sweep, map.at("like"), map.name("like"));
  const bool tiles = equal.rule == Fairness::tiles;
  // `density` was a share of the whole grid: it must not be taken for a budget.
  if (const YamlNode* old = tiles ? map.find("density") : nullptr)
    fail_at(old->mark,
            "equal: tiles: density is not known any more: it was a share of the whole grid of tiles",
            "write budget: the share of full attention's tiles, for a causal model about twice the number");
  if (tiles && asked("budget")) equal.budget = map.number("budget", 1e-9, 1);
  if (tiles && asked("per_layer")) equal.per_layer = map.integer("per_layer", 1, std::int64_t{1} << 40);
  if (!tiles && asked("seconds")) equal.seconds = map.number("seconds", 1e-3, 1e9);
  if (given.size() != 1)
    fail_at(map.node().mark, fmt::format("equal: {} takes exactly one target", tiles ? "tiles" : "time"),
            tiles ? "like: the name of a value, budget: 0.1 (of full attention's tiles), or per_layer: 500 "
                    "(computed tiles of a layer)"
                  : "like: the name of a value, or seconds: 600 (of training)");
}

Equal read_equal(const YamlNode& node, const Sweep& sweep) {
  Equal equal;
  equal.mark = node.mark;
  if (node.is_scalar() && node.scalar == "none") return equal;
  if (!node.is_map() || node.entries.size() != 1)
    fail_at(node.mark, "equal must be none, {tiles: {..}} or {time: {..}}",
            "for example equal: {tiles: {like: NAME}}, with the name of an axis value");
  MapReader outer(node, "equal");
  const YamlNode* tiles = outer.find("tiles");
  const YamlNode* time = outer.find("time");
  outer.done();
  equal.rule = tiles ? Fairness::tiles : Fairness::time;
  MapReader map(tiles ? *tiles : *time, tiles ? "equal.tiles" : "equal.time");
  read_target(map, sweep, equal);
  if (tiles)
    equal.tolerance = map.number("tolerance", 0, 1, equal.tolerance);
  else
    equal.probe_steps = map.integer("probe_steps", 3, 1000, 12);
  if (const YamlNode* except = map.find("except")) {
    if (!except->is_sequence()) fail_at(except->mark, fmt::format("{} must be a list", map.name("except")));
    for (const YamlNode& item : except->items)
      equal.except.push_back(checked_label(sweep, item, map.name("except")));
  }
  map.done();
  return equal;
}

// The base config's tree; `path` is the sweep's file.
YamlNode read_base(const YamlNode& base, const std::filesystem::path& path) {
  if (base.is_map()) return load_config_tree(base, path);
  const std::filesystem::path file = path.parent_path() / as_path(base, "base");
  std::error_code missing;
  if (!std::filesystem::exists(file, missing))
    fail_at(base.mark, fmt::format("base: {} does not exist", file.string()),
            "the path is relative to the sweep's file; a config can also be written here");
  return load_config_tree(parse_yaml_file(file), file);
}

void refuse_useless_override(const Sweep& sweep, const std::string& text) {
  const std::string key = text.substr(0, text.find('='));
  if (key == "train.out")
    throw Error(ErrorKind::usage,
                fmt::format("the override '{}' would have no effect: cells have their folders "
                            "in the sweep's",
                            text),
                "--out names the sweep's folder");
  for (const Axis& axis : sweep.axes)
    require(key != axis.key, "the override '{}' would have no effect: {} is an axis of the sweep", text, key);
}

std::vector<std::string> read_compare(const YamlNode* node, const std::vector<Axis>& axes) {
  std::vector<std::string> keys, compare;
  for (const Axis& axis : axes)
    if (axis.key != "seed") keys.push_back(axis.key);
  if (!node) return std::ranges::count(keys, "pattern") > 0 ? std::vector<std::string>{"pattern"} : keys;
  if (!node->is_sequence()) fail_at(node->mark, "compare must be a list of axes", "for example [pattern]");
  for (const YamlNode& item : node->items) {
    compare.push_back(as_string(item, "compare"));
    if (std::ranges::count(keys, compare.back()) == 0)
      fail_at(item.mark, fmt::format("compare names '{}', which is no axis (or is seed)", item.scalar),
              fmt::format("the axes are {}", fmt::join(keys, ", ")));
  }
  return compare;
}

// Whether `equal: tiles` sets something in this cell.
bool is_fitted(const Sweep& sweep, const Cell& cell) {
  const auto is = [&](const std::string& label) { return std::ranges::count(cell.labels, label) > 0; };
  return sweep.equal.rule == Fairness::tiles && !is(sweep.equal.like) &&
         std::ranges::none_of(sweep.equal.except, is);
}

// With a pattern that still has a free parameter, the rest is checked with another one in its place.
Config parse_cell(const YamlNode& tree, const Sweep& sweep, const Cell& cell) {
  const YamlNode* pattern = tree.find("pattern");
  const bool searched = is_fitted(sweep, cell) && pattern && free_parameter(with_default_parameter(*pattern));
  if (!searched) {
    if (pattern && free_parameter(*pattern))
      fail_at(pattern->mark,
              "`fit` in a pattern is found by equal: tiles, but not for its `like` or `except`",
              "write a number here");
    return parse_config(tree, cell.name);
  }
  YamlNode checked = tree;
  *checked.find("pattern") = YamlNode::make("full");
  Config config = parse_config(checked, cell.name);
  config.pattern = {};
  config.pattern.written = *pattern;  // is read with each value that is tried
  return config;
}

Cell make_cell(const Sweep& sweep, const YamlNode& base, const std::vector<std::size_t>& position) {
  Cell cell;
  cell.position = position;
  cell.labels.resize(sweep.axes.size());
  YamlNode tree = base;
  for (std::size_t g = 0; g < sweep.groups.size(); ++g)
    for (const std::size_t a : sweep.groups[g]) {
      const AxisValue& value = sweep.axes[a].values[position[g]];
      cell.labels[a] = value.label;
      set_config_key(tree, sweep.axes[a].key, value.value, sweep.axes[a].mark);
    }
  cell.name = fmt::format("{}", fmt::join(cell.labels, "_"));
  set_config_key(tree, "train.out", YamlNode::make((sweep.out / cell.name).string()), {});
  try {
    cell.config = parse_cell(tree, sweep, cell);
  } catch (const Error& e) {
    throw Error(e.kind(), fmt::format("{} (cell {})", e.what(), cell.name), e.hint());
  }
  return cell;
}

void refuse_shared_folders(const Sweep& sweep) {
  std::map<std::string, const Cell*> by_name;
  for (const Cell& cell : sweep.cells) {
    const auto [other, is_new] = by_name.emplace(cell.name, &cell);
    if (is_new) continue;
    throw Error(ErrorKind::usage,
                fmt::format("two cells of the sweep have the folder {}", cell.config.train.out),
                "give the values of the axis names: a map of name: value, all different");
  }
}

double target_tiles(const Sweep& sweep, const Cell& cell) {
  if (sweep.equal.per_layer > 0) return static_cast<double>(sweep.equal.per_layer);
  if (sweep.equal.like.empty()) {
    const std::int64_t rows = (cell.config.data.seq_len + cell.config.tile - 1) / cell.config.tile;
    return sweep.equal.budget *
           static_cast<double>(cell.config.model.n_heads * full_cells(rows, rows, cell.config.causal));
  }
  return tiles_per_layer(sweep.like(cell, sweep.equal.like)->config);
}

// Cells that differ in their seed only are fitted once.
void fit_cells(Sweep& sweep) {
  std::map<std::string, std::pair<Fitted, PatternSpec>> known;
  std::map<std::string, double> targets;
  std::vector<double> target_of;
  const auto key_of = [&](const Cell& cell) {
    Config config = cell.config;
    config.seed = 0;
    config.train.out.clear();
    return to_yaml(config.to_yaml());
  };
  for (const Cell& cell : sweep.cells) {  // before any pattern changes
    std::string key = key_of(cell);
    if (!targets.contains(key)) targets[key] = target_tiles(sweep, cell);
    target_of.push_back(targets[key]);
  }
  for (std::size_t c = 0; c < sweep.cells.size(); ++c) {
    Cell& cell = sweep.cells[c];
    if (!is_fitted(sweep, cell)) continue;
    const std::string key = key_of(cell);
    if (!known.contains(key)) {
      const Fitted fitted = fit_pattern(cell.config, target_of[c], sweep.equal, cell.name);
      known[key] = {fitted, cell.config.pattern};
    }
    cell.fitted = known[key].first;
    cell.config.pattern = known[key].second;
  }
}

}  // namespace

const Cell* Sweep::like(const Cell& cell, const std::string& label) const {
  const auto found = find_label(*this, label);
  if (!found) return nullptr;
  std::vector<std::size_t> position = cell.position;
  position[found->first] = found->second;
  return &*std::ranges::find(cells, position, &Cell::position);
}

std::string Sweep::variant(const Cell& cell) const {
  std::vector<std::string> labels;
  for (std::size_t a = 0; a < axes.size(); ++a)
    if (axes[a].key != "seed") labels.push_back(cell.labels[a]);
  return labels.empty() ? "base" : fmt::format("{}", fmt::join(labels, ", "));
}

Sweep load_sweep(const std::filesystem::path& path, const std::vector<std::string>& overrides,
                 const std::filesystem::path& out) {
  const YamlNode root = parse_yaml_file(path);
  for (const char* key : {"model", "data", "train", "extends"})
    if (root.find(key) && !root.find("axes"))
      throw Error(ErrorKind::usage,
                  fmt::format("{}: is the config of one run, not a sweep of many", path.string()),
                  fmt::format("filigree train {} trains it; a sweep has base: and axes:", path.string()));
  MapReader reader(root, "");
  Sweep sweep;
  sweep.name = path.stem().string();
  YamlNode base = read_base(reader.at("base"), path);
  sweep.axes = read_axes(reader.at("axes"));
  sweep.groups = read_groups(reader.find("together"), sweep.axes);
  if (const YamlNode* equal = reader.find("equal")) sweep.equal = read_equal(*equal, sweep);
  sweep.compare = read_compare(reader.find("compare"), sweep.axes);
  const std::string folder = reader.path("out", "runs/ablations/" + sweep.name);
  reader.done();
  sweep.out = out.empty() ? std::filesystem::path(folder) : out;
  for (const std::string& text : overrides) refuse_useless_override(sweep, text);
  apply_overrides(base, overrides);

  std::size_t count = 1;
  for (std::size_t g = 0; g < sweep.groups.size(); ++g) count *= group_size(sweep, g);
  require(count <= kMaxCells, "the sweep has {} cells, more than {}", count, kMaxCells);
  std::vector<std::size_t> position(sweep.groups.size(), 0);
  for (std::size_t c = 0; c < count; ++c) {
    sweep.cells.push_back(make_cell(sweep, base, position));
    for (std::size_t g = position.size(); g-- > 0;) {  // the last group moves fastest
      if (++position[g] < group_size(sweep, g)) break;
      position[g] = 0;
    }
  }
  refuse_shared_folders(sweep);
  if (sweep.equal.rule == Fairness::tiles) fit_cells(sweep);
  return sweep;
}

}  // namespace filigree
