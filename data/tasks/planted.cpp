// Tokens: ids 0 .. values-1 are plain values, and the answers; then come the questions, one of each offset
// and sink, one for each key of a strided rule; then the tokens planted for strides and sinks, of kinds of
// their own, values of each, so that a model finds them by content. A strided place has a key, drawn without
// repetition, and a question names it. An offset is found by position alone; it is asked for only where it
// leads to a plain value, for a model that has to read values from questions too learns to look away from
// some. One layer whose heads each look at one rule's places solves the task.
#include "data/tasks/planted.h"

#include <algorithm>
#include <set>

#include "data/tasks/draws.h"
#include "data/tasks/registry.h"

namespace filigree {
namespace {

using Kind = PlantedRule::Kind;

constexpr std::int64_t kMaxPosition = std::int64_t{1} << 28;
constexpr int kMaxRules = 64;

// Places of a strided rule below position i.
std::int64_t strides_below(const PlantedRule& rule, std::int64_t i) {
  return i <= rule.phase ? 0 : (i - 1 - rule.phase) / rule.at + 1;
}

PlantedRule read_rule(const YamlNode& node, const std::string& name) {
  MapReader reader(node, name);
  PlantedRule rule;
  const int kinds = reader.has("offset") + reader.has("stride") + reader.has("sink");
  if (reader.find("offset")) {
    rule.at = reader.integer("offset", 1, kMaxPosition);
  } else if (reader.find("stride")) {
    rule.kind = Kind::stride;
    rule.at = reader.integer("stride", 2, kMaxPosition);
    rule.phase = reader.integer("phase", 0, rule.at - 1, 0);
  } else if (reader.find("sink")) {
    rule.kind = Kind::sink;
    rule.at = reader.integer("sink", 0, kMaxPosition);
  }
  reader.done();
  if (kinds != 1)
    fail_at(node.mark, fmt::format("{} has no offset, stride or sink", name), "for example {offset: 300}");
  return rule;
}

YamlNode rule_node(const PlantedRule& rule) {
  YamlNode node = YamlNode::make_map();
  const char* const names[] = {"offset", "stride", "sink"};
  node.add(names[static_cast<int>(rule.kind)], YamlNode::make(rule.at));
  if (rule.kind == Kind::stride) node.add("phase", YamlNode::make(rule.phase));
  return node;
}

class PlantedTask : public GeneratedTask {
 public:
  void fields(Fields& f) override;
  void fit(MapReader& map, std::int64_t seq_len) override;
  std::string name() const override { return "planted"; }
  std::int64_t vocab_size() const override { return vocab_; }
  std::vector<std::string> group_names() const override;
  std::int32_t target_group(std::int32_t sample, std::int32_t input) const override;
  DrawnSample draw(RandomStream& random, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const override;
  const std::vector<PlantedRule>& rules() const { return rules_; }

 private:
  struct Place {  // a position that is planted
    int rule = -1;
    std::int64_t key = 0;  // number of the place in its rule
  };
  void read_rules(const YamlNode& node, const std::string& name);
  void plant(const YamlNode& node, std::int64_t seq_len);
  bool can_ask(const PlantedRule& rule, std::span<const std::int32_t> inputs, std::int64_t i) const;

  std::vector<PlantedRule> rules_;
  std::int64_t values_ = 16;
  double ask_ = 0.5;                  // share of the tokens that ask where there is something to ask for
  std::vector<std::int64_t> n_keys_;  // of each rule
  std::vector<std::int64_t> first_question_;  // of each rule
  std::vector<std::int64_t> first_planted_;   // token of each rule
  std::vector<Place> places_;                 // of each position
  std::int64_t vocab_ = 0;
};

void PlantedTask::fields(Fields& f) {
  f.integer("values", values_, between(2, 4096), "kinds of plain values, which are also the answers");
  f.custom(
      "rules", Field::Type::map,
      "where answers stand: [{offset: 300}, {stride: 64, phase: 3}, {sink: 5}, ..]",
      [this](const YamlNode& node, const MapReader& map) { read_rules(node, map.name("rules")); },
      [this] {
        YamlNode list = YamlNode::make_sequence();
        for (const PlantedRule& rule : rules_) list.items.push_back(rule_node(rule));
        return list;
      },
      {}, true);
  f.number("ask", ask_, between(0, 1),
           "share of the tokens that ask, above 0, where there is something to ask for");
}

void PlantedTask::read_rules(const YamlNode& node, const std::string& name) {
  if (!node.is_sequence() || node.items.empty() || node.items.size() > kMaxRules)
    fail_at(node.mark, fmt::format("{} must be a list of 1 to {} rules", name, kMaxRules),
            "for example [{offset: 300}, {stride: 64, phase: 3}, {sink: 5}]");
  for (const YamlNode& item : node.items)
    rules_.push_back(read_rule(item, fmt::format("{}[{}]", name, rules_.size())));
}

void PlantedTask::fit(MapReader& map, std::int64_t seq_len) {
  if (ask_ == 0) fail_at(map.mark_of("ask"), fmt::format("{} must be above 0", map.name("ask")));
  const YamlNode& node = map.at("rules");
  for (std::size_t r = 0; r < rules_.size(); ++r) {
    const PlantedRule& rule = rules_[r];
    const std::int64_t first = rule.kind == Kind::stride ? rule.phase : rule.at;
    if (first > seq_len - 2)
      fail_at(node.items[r].mark,
              fmt::format("{}[{}]: nothing asks for it, data.seq_len is {}", map.name("rules"), r, seq_len),
              fmt::format("set data.seq_len to at least {}", first + 2));
  }
  plant(node, seq_len);
}

// Gives every rule its questions and places.
void PlantedTask::plant(const YamlNode& node, std::int64_t seq_len) {
  places_.resize(seq_len);
  std::int64_t next = values_;
  for (std::size_t r = 0; r < rules_.size(); ++r) {
    const PlantedRule& rule = rules_[r];
    n_keys_.push_back(rule.kind == Kind::stride ? strides_below(rule, seq_len - 1) : 1);
    first_question_.push_back(next);
    next += n_keys_.back();
    if (rule.kind == Kind::offset) continue;
    for (std::int64_t key = 0; key < n_keys_.back(); ++key) {
      const std::int64_t at = rule.kind == Kind::sink ? rule.at : rule.phase + key * rule.at;
      Place& place = places_[at];
      if (place.rule >= 0)
        fail_at(node.items[r].mark,
                fmt::format("rules {} and {} both plant a token at position {}", place.rule, r, at),
                "change a sink or a phase");
      place = {static_cast<int>(r), key};
    }
  }
  for (std::size_t r = 0; r < rules_.size(); ++r) {
    first_planted_.push_back(next);
    if (rules_[r].kind != Kind::offset) next += n_keys_[r] * values_;
  }
  vocab_ = next;
  if (vocab_ > kMaxVocab)
    fail_at(node.mark, fmt::format("the rules need {} kinds of tokens, more than {}", vocab_, kMaxVocab),
            "take longer strides or fewer values");
}

// The rules, as a config writes them.
std::vector<std::string> PlantedTask::group_names() const {
  std::vector<std::string> names;
  for (const PlantedRule& rule : rules_) names.push_back(one_line(rule_node(rule)));
  return names;
}

std::int32_t PlantedTask::target_group(std::int32_t, std::int32_t input) const {
  const auto after = std::ranges::upper_bound(first_question_, std::int64_t{input});
  return static_cast<std::int32_t>(after - first_question_.begin() - 1);
}

bool PlantedTask::can_ask(const PlantedRule& rule, std::span<const std::int32_t> inputs,
                          std::int64_t i) const {
  switch (rule.kind) {
    case Kind::offset:
      return i >= rule.at && inputs[i - rule.at] < values_;
    case Kind::stride:
      return i > rule.phase;
    case Kind::sink:
      return i > rule.at;
  }
  return false;
}

DrawnSample PlantedTask::draw(RandomStream& random, std::span<std::int32_t> inputs,
                              std::span<std::int32_t> targets) const {
  const std::int64_t n = std::ssize(inputs);
  const auto ask = static_cast<std::uint32_t>(std::min(ask_ * 0x1p32, 0x1p32 - 1));
  std::vector<std::vector<std::int64_t>> keys;  // of each rule's places, in their order
  for (const std::int64_t count : n_keys_) keys.push_back(draw_distinct(random, count, count));
  std::vector<std::int64_t> values(inputs.size());
  for (std::int64_t& value : values) value = random.below(static_cast<std::uint32_t>(values_));
  std::vector<std::size_t> possible;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const auto value = static_cast<std::int32_t>(values[at]);
    if (const Place& place = places_[at]; place.rule >= 0) {
      const auto r = static_cast<std::size_t>(place.rule);
      const std::int64_t key = keys[r][place.key];
      inputs[at] = static_cast<std::int32_t>(first_planted_[r] + key * values_) + value;
      continue;
    }
    possible.clear();
    if (random.next() <= ask)
      for (std::size_t r = 0; r < rules_.size(); ++r)
        if (can_ask(rules_[r], inputs, i)) possible.push_back(r);
    if (possible.empty()) {
      inputs[at] = value;
      continue;
    }
    const std::size_t r = possible[random.below(static_cast<std::uint32_t>(possible.size()))];
    const PlantedRule& rule = rules_[r];
    std::int64_t source = rule.kind == Kind::offset ? i - rule.at : rule.at, key = 0;
    if (rule.kind == Kind::stride) {
      const std::int64_t number = random.range(0, strides_below(rule, i) - 1);
      source = rule.phase + number * rule.at;
      key = keys[r][number];
    }
    inputs[at] = static_cast<std::int32_t>(first_question_[r] + key);
    targets[at] = static_cast<std::int32_t>(values[source]);
  }
  return {n};
}

}  // namespace

const std::vector<PlantedRule>& planted_rules(const GeneratedTask& task) {
  const auto* planted = dynamic_cast<const PlantedTask*>(&task);
  require(planted != nullptr, "the task '{}' plants nothing; its tiles are unknown", task.name());
  return planted->rules();
}

std::vector<TilePairs> planted_tiles(const GeneratedTask& task, std::int64_t n, int tile) {
  std::vector<TilePairs> tiles;
  for (const PlantedRule& rule : planted_rules(task)) {
    std::set<std::pair<int, int>> pairs;
    const auto add = [&](std::int64_t query, std::int64_t key) {
      pairs.emplace(static_cast<int>(query / tile), static_cast<int>(key / tile));
    };
    for (std::int64_t i = 0; i < n; ++i) {
      if (rule.kind == Kind::offset && i >= rule.at) add(i, i - rule.at);
      if (rule.kind == Kind::sink && i > rule.at) add(i, rule.at);
      if (rule.kind == Kind::stride)
        for (std::int64_t m = 0; m < strides_below(rule, i); ++m) add(i, rule.phase + m * rule.at);
    }
    tiles.emplace_back(pairs.begin(), pairs.end());
  }
  return tiles;
}

std::shared_ptr<GeneratedTask> make_planted_task() {
  return std::make_shared<PlantedTask>();
}

}  // namespace filigree
