#include "core/fields.h"

#include <algorithm>
#include <cmath>

namespace filigree {
namespace {

// The integers of a range; int64_t's own limits where it is open, which messages then leave out.
std::pair<std::int64_t, std::int64_t> integer_bounds(const Range& range) {
  using Limits = std::numeric_limits<std::int64_t>;
  return {std::isinf(range.min) ? Limits::min() : static_cast<std::int64_t>(range.min),
          std::isinf(range.max) ? Limits::max() : static_cast<std::int64_t>(range.max)};
}

std::int64_t read_integer(const YamlNode& node, const std::string& name, const Range& range) {
  const auto [min, max] = integer_bounds(range);
  const std::int64_t value = as_integer(node, name, min, max);
  if (!range.among.empty() && !std::ranges::count(range.among, value))
    fail_at(node.mark,
            fmt::format("{} must be one of {}, not {}", name, fmt::join(range.among, ", "), value));
  return value;
}

double read_number(const YamlNode& node, const std::string& name, const Range& range) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const double value = as_number(node, name, range.min, range.above_min ? infinity : range.max);
  if (range.above_min && value == range.min)
    fail_at(node.mark, fmt::format("{} must be above {}", name, range.min));
  if (value > range.max) fail_at(node.mark, fmt::format("{} must be at most {}", name, range.max));
  if (range.below_max && value == range.max)
    fail_at(node.mark, fmt::format("{} must be below {}", name, range.max));
  return value;
}

template <class T>
YamlNode print_value(const T& value) {
  return YamlNode::make(value);
}
YamlNode print_value(const std::optional<std::int64_t>& value) {
  return value ? YamlNode::make(*value) : YamlNode();
}

}  // namespace

std::vector<std::string> word_list(Words words) {
  std::vector<std::string> list;
  for (const Word& word : words) list.emplace_back(word.word);
  return list;
}

Range one_of(std::vector<std::int64_t> values) {
  Range range = between(static_cast<double>(values.front()), static_cast<double>(values.back()));
  range.among = std::move(values);
  return range;
}

std::string range_text(const Range& range) {
  if (!range.among.empty()) return fmt::format("{}", fmt::join(range.among, ", "));
  const bool low = !std::isinf(range.min), high = !std::isinf(range.max);
  if (low && high && !range.above_min && !range.below_max)
    return fmt::format("{} to {}", range.min, range.max);
  std::string text;
  if (low) text = fmt::format("{} {}", range.above_min ? "above" : "at least", range.min);
  if (high) text += fmt::format("{}{} {}", low ? ", " : "", range.below_max ? "below" : "at most", range.max);
  return text;
}

Use operator&&(const Use& a, const Use& b) {
  Use out = a.applies ? b : a;
  out.where =
      a.where.empty() || b.where.empty() ? a.where + b.where : fmt::format("{}; {}", a.where, b.where);
  return out;
}

// --- one setting ---

Field Fields::make(std::string_view key, Field::Type type, std::string_view meaning, Notes notes) {
  Field field;
  field.key = key;
  field.type = type;
  field.meaning = meaning;
  field.notes = std::move(notes);
  return field;
}

template <class T, class Reader>
void Fields::scalar(Field field, Member<T> member, Reader read) {
  field.required = member.required;
  field.read = [&value = member.value, read, name = field.key, range = field.range](const YamlNode& node,
                                                                                    const MapReader& map) {
    value = static_cast<T>(read(node, map.name(name), range));
  };
  field.print = [&value = member.value] { return print_value(value); };
  if (member.otherwise)
    field.take_default = [&value = member.value, otherwise = *member.otherwise] { value = otherwise; };
  visit(field);
}

template <class T>
void Fields::integer_of(std::string_view key, Member<T> member, Range range, std::string_view meaning,
                        Notes notes) {
  Field field = make(key, Field::Type::integer, meaning, std::move(notes));
  field.range = std::move(range);
  scalar(std::move(field), std::move(member), read_integer);
}

void Fields::integer(std::string_view key, Member<int> member, Range range, std::string_view meaning,
                     Notes notes) {
  integer_of(key, std::move(member), std::move(range), meaning, std::move(notes));
}

void Fields::integer(std::string_view key, Member<std::int64_t> member, Range range, std::string_view meaning,
                     Notes notes) {
  integer_of(key, std::move(member), std::move(range), meaning, std::move(notes));
}

void Fields::integer(std::string_view key, Member<std::optional<std::int64_t>> member, Range range,
                     std::string_view meaning, Notes notes) {
  integer_of(key, std::move(member), std::move(range), meaning, std::move(notes));
}

void Fields::number(std::string_view key, Member<double> member, Range range, std::string_view meaning,
                    Notes notes) {
  Field field = make(key, Field::Type::number, meaning, std::move(notes));
  field.range = std::move(range);
  scalar(std::move(field), std::move(member), read_number);
}

void Fields::boolean(std::string_view key, Member<bool> member, std::string_view meaning, Notes notes) {
  scalar(make(key, Field::Type::boolean, meaning, std::move(notes)), std::move(member),
         [](const YamlNode& node, const std::string& name, const Range&) { return as_bool(node, name); });
}

void Fields::text(std::string_view key, Member<std::string> member, std::string_view meaning, Notes notes) {
  scalar(make(key, Field::Type::text, meaning, std::move(notes)), std::move(member),
         [](const YamlNode& node, const std::string& name, const Range&) { return as_string(node, name); });
}

void Fields::path(std::string_view key, Member<std::string> member, std::string_view meaning, Notes notes) {
  scalar(make(key, Field::Type::text, meaning, std::move(notes)), std::move(member),
         [](const YamlNode& node, const std::string& name, const Range&) { return as_path(node, name); });
}

std::int64_t Fields::read_word(const YamlNode& node, const std::string& name, Words words) {
  const std::vector<std::string> list = word_list(words);
  return std::ranges::find(list, as_choice(node, name, list)) - list.begin();
}

void Fields::custom(std::string_view key, Field::Type type, std::string_view meaning, Field::Read read,
                    Field::Print print, Notes notes, bool required) {
  Field field = make(key, type, meaning, std::move(notes));
  field.read = std::move(read);
  field.print = std::move(print);
  field.required = required;
  visit(field);
}

// --- reading ---

void FieldReader::visit(const Field& field) {
  const YamlNode* value = map_->find(field.key);
  const Use& use = field.notes.use;
  if (!use.applies) {
    // At null it is not there: `data.val_fraction=null` removes what a config may have.
    for (const auto& [key, node] : map_->node().entries)
      if (key.scalar == field.key && !node.is_null())
        fail_at(key.mark, fmt::format("{} is not used {}", map_->name(field.key), use.reason),
                use.hint.empty() ? "remove it" : fmt::format("remove it, or {}", use.hint));
  } else if (value || field.required) {
    field.read(map_->at(field.key), *map_);
  } else if (field.take_default) {
    field.take_default();
  }
}

void FieldReader::section(std::string_view key, std::string_view, bool required,
                          const std::function<void()>& inner) {
  if (required) map_->at(key);
  map_->find(key);
  sections_.emplace_back(key, inner);
}

void FieldReader::done() {
  map_->done(elsewhere_);
  MapReader* const outer = map_;
  for (const auto& [key, inner] : std::exchange(sections_, {})) {
    YamlNode none;  // stands where the whole map does
    none.mark = outer->node().mark;
    const YamlNode* value = outer->node().find(key);
    MapReader map(value ? *value : none, outer->name(key));
    map_ = &map;
    inner();
    done();
  }
  map_ = outer;
}

// --- printing ---

void FieldPrinter::visit(const Field& field) {
  const Notes& notes = field.notes;
  if (!notes.use.applies) return;
  if (values_ == Values::counted && !notes.counts_as.is_null()) {
    node_.add(field.key, notes.counts_as);
  } else if (notes.print) {
    YamlNode value = field.print();
    if (!value.is_null()) node_.add(field.key, std::move(value));
  }
}

void FieldPrinter::section(std::string_view key, std::string_view, bool, const std::function<void()>& inner) {
  YamlNode outer = std::exchange(node_, YamlNode::make_map());
  inner();
  outer.add(key, std::exchange(node_, {}));
  node_ = std::move(outer);
}

// --- describing ---

void FieldList::visit(const Field& field) {
  sections_[open_].fields.push_back(field);
}

void FieldList::section(std::string_view key, std::string_view meaning, bool required,
                        const std::function<void()>& inner) {
  const std::string prefix = sections_[open_].key.empty() ? "" : sections_[open_].key + ".";
  const std::size_t outer = std::exchange(open_, sections_.size());
  sections_.push_back({fmt::format("{}{}", prefix, key), std::string(meaning), required, {}});
  inner();
  open_ = outer;
}

std::vector<std::string> FieldList::keys() const {
  std::vector<std::string> keys;
  for (const Section& section : sections_)
    for (const Field& field : section.fields)
      keys.push_back(section.key.empty() ? field.key : fmt::format("{}.{}", section.key, field.key));
  return keys;
}

}  // namespace filigree
