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
      a.where.empty() || b.where.empty() ? a.where + b.where : fmt::format("{}, {}", a.where, b.where);
  return out;
}

// --- one setting ---

std::ptrdiff_t read_word(const YamlNode& node, std::string_view what, Words words) {
  const std::vector<std::string> list = word_list(words);
  return std::ranges::find(list, as_choice(node, what, list)) - list.begin();
}

void Fields::scalar(std::string_view key, Field::Type type, const Member& member, Range range,
                    std::string_view meaning, Notes notes) {
  Field field{key, type, meaning, range, {}, member.required, std::move(notes)};
  field.take_default = member.take_default;
  field.read = [value = member.value, key, range = std::move(range)](const YamlNode& node,
                                                                     const MapReader& map) {
    const auto read = [&, name = map.name(key)]<class T>(T* to) {
      if constexpr (std::is_same_v<T, bool>)
        *to = as_bool(node, name);
      else if constexpr (std::is_same_v<T, std::string>)
        *to = as_string(node, name);
      else if constexpr (std::is_same_v<T, double>)
        *to = read_number(node, name, range);
      else
        *to = static_cast<T>(read_integer(node, name, range));
    };
    std::visit(read, value);
  };
  field.print = [value = member.value] {
    const auto print = []<class T>(const T* from) {
      if constexpr (std::is_same_v<T, std::optional<std::int64_t>>)
        return *from ? YamlNode::make(**from) : YamlNode();
      else
        return YamlNode::make(*from);
    };
    return std::visit(print, value);
  };
  add(field);
}

void Fields::boolean(std::string_view key, Member member, std::string_view meaning, Notes notes) {
  scalar(key, Field::Type::boolean, member, {}, meaning, std::move(notes));
}

void Fields::integer(std::string_view key, Member member, Range range, std::string_view meaning,
                     Notes notes) {
  scalar(key, Field::Type::integer, member, std::move(range), meaning, std::move(notes));
}

void Fields::number(std::string_view key, Member member, Range range, std::string_view meaning, Notes notes) {
  scalar(key, Field::Type::number, member, std::move(range), meaning, std::move(notes));
}

void Fields::text(std::string_view key, Member member, std::string_view meaning, Notes notes) {
  scalar(key, Field::Type::text, member, {}, meaning, std::move(notes));
}

void Fields::path(std::string_view key, std::string& value, std::string_view meaning, Notes notes) {
  custom(
      key, Field::Type::text, meaning,
      [&value, key](const YamlNode& node, const MapReader& map) { value = as_path(node, map.name(key)); },
      [&value] { return YamlNode::make(value); }, std::move(notes));
}

void Fields::custom(std::string_view key, Field::Type type, std::string_view meaning, Field::Read read,
                    Field::Print print, Notes notes, bool required) {
  Field field{.key = key, .type = type, .meaning = meaning, .required = required};
  field.notes = std::move(notes);
  field.read = std::move(read);
  field.print = std::move(print);
  add(field);
}

// --- reading ---

void FieldReader::add(const Field& field) {
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

void FieldPrinter::add(const Field& field) {
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

void FieldList::add(const Field& field) {
  // The described struct may be gone when the list is used: the default is asked for now.
  Field kept = field;
  kept.print = [value = field.print()] { return value; };
  kept.read = nullptr;
  kept.take_default = nullptr;
  kept.item = nullptr;
  sections_[open_].fields.push_back(std::move(kept));
  if (field.item) section(fmt::format("{}[]", field.key), field.meaning, false, [&] { field.item(*this); });
}

void FieldList::section(std::string_view key, std::string_view meaning, bool required,
                        const std::function<void()>& inner) {
  const std::string prefix = sections_[open_].key.empty() ? "" : sections_[open_].key + ".";
  const std::size_t outer = std::exchange(open_, sections_.size());
  sections_.push_back({fmt::format("{}{}", prefix, key), meaning, required, {}});
  inner();
  open_ = outer;
}

std::string full_name(const FieldList::Section& section, const Field& field) {
  return fmt::format("{}{}{}", section.key, section.key.empty() ? "" : ".", field.key);
}

std::vector<std::string> FieldList::keys() const {
  std::vector<std::string> keys;
  for (const Section& section : sections_)
    for (const Field& field : section.fields) keys.push_back(full_name(section, field));
  return keys;
}

}  // namespace filigree
