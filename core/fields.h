// How a struct describes its settings: each one once, in one function. Reading a YAML map, printing it again,
// comparing, hashing, the reference of all keys and the JSON schema for editors are small visitors over it,
// so a new setting is its member and one line here.
//
//   enum class Shape { flat, round };
//   template <>
//   inline constexpr Word kWords<Shape>[] = {{"flat", "without a rim"}, {"round", "with one"}};
//
//   struct Plate {
//     double width = 0;
//     Shape shape = Shape::flat;
//     std::int64_t rim = 0;
//     int shelf = 1;
//   };
//
//   void fields(Fields& f, Plate& p) {
//     f.number("width", required(p.width), above(0), "from side to side", {.unit = "cm"});
//     f.word("shape", p.shape, "what its edge is like");
//     const Use round = with("shape", p.shape, Shape::round);
//     f.integer("rim", {p.rim, std::llround(p.width / 10)}, at_least(0), "height of the rim",
//               {.unit = "cm", .default_text = "width / 10", .use = round});
//     f.integer("shelf", p.shelf, between(1, 9), "where it lies", {.counts_as = YamlNode::make(1)});
//   }
//
//   MapReader map(node, "plate");          // Reading: what the map does not have keeps its value, or takes
//   FieldReader reader(map);               // the default beside the member. `rim: 3` on a flat plate is
//   fields(reader, plate);                 // "plate.rim is not used by shape: flat", with the hint "remove
//   reader.done();                         // it, or set shape: round".
//
//   FieldPrinter printer;                  // Printing: all settings that are used, in this order. With
//   fields(printer, plate);                // FieldPrinter::Values::counted, what does not count, such as
//   const YamlNode tree = printer.take();  // `shelf`, is printed as its counts_as.
//
//   FieldList list;                        // Describing: every setting, used or not, with its default.
//   fields(list, plate);
//
// The function is run anew for each of these, from top to bottom: a line may use what the lines above it
// read.
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/yaml.h"

namespace filigree {

// --- words of enumerations ---

struct Word {
  std::string_view word, meaning;
};
using Words = std::span<const Word>;
// The words of an enumeration, in the order of its enumerators; specialised beside each.
template <class Enum>
inline constexpr std::nullptr_t kWords = nullptr;
template <class Enum>
concept HasWords = requires {
  Words(kWords<Enum>);
};

// The word that a config writes for an enumerator, e.g. "rms_norm".
template <HasWords Enum>
std::string word(Enum value) {
  return std::string(kWords<Enum>[static_cast<std::size_t>(value)].word);
}

std::vector<std::string> word_list(Words words);

// --- what a line of fields() is made of ---

struct Range {
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool above_min = false, below_max = false;  // the bound itself is outside
  std::vector<std::int64_t> among = {};       // if not empty: only these integers, in ascending order
};
inline Range at_least(double min) {
  return {.min = min};
}
inline Range between(double min, double max) {
  return {.min = min, .max = max};
}
inline Range above(double min, double max = std::numeric_limits<double>::infinity()) {
  return {.min = min, .max = max, .above_min = true};
}
inline Range fraction() {  // [0, 1)
  return {.min = 0, .max = 1, .below_max = true};
}
Range one_of(std::vector<std::int64_t> values);
std::string range_text(const Range& range);  // "above 0, at most 1"; empty if everything is inside

// A member, and its default where that is not the value it has: t.lr, or {t.min_lr, t.lr / 10}.
struct Member {
  using Value = std::variant<bool*, int*, std::int64_t*, std::optional<std::int64_t>*, double*, std::string*>;
  template <class T>
  requires std::constructible_from<Value, T*> Member(T& member) : value(&member) {}
  template <class T>
  Member(T& member, std::type_identity_t<T> fallback)
      : value(&member), take_default([&member, fallback] { member = fallback; }) {}
  Value value;
  std::function<void()> take_default;
  bool required = false;
};
// A member that a config has to give.
inline Member required(Member member) {
  member.required = true;
  return member;
}

// Where a setting is used. A key that is not used is refused: "KEY is not used REASON", "remove it, or HINT".
struct Use {
  bool applies = true;
  std::string where = {};              // for the reference: "with schedule: wsd"
  std::string reason = {}, hint = {};  // "by schedule: cosine", "set schedule: wsd"; the hint may be empty
};
// Used where another setting, named in full if it stands in another map, has a value.
template <HasWords Enum>
Use with(std::string_view key, Enum value, Enum wanted) {
  const std::string_view name = key.substr(key.rfind('.') + 1);  // npos + 1 is 0
  return {value == wanted, fmt::format("with {}: {}", key, word(wanted)),
          fmt::format("by {}: {}", name, word(value)), fmt::format("set {}: {}", key, word(wanted))};
}
Use operator&&(const Use& a, const Use& b);  // the reason is that of the first one that does not apply

// Settings that do not fit together.
struct Conflict {
  std::string key, message, hint = {};  // the key is the one to change
};

struct Notes {
  std::string_view unit = {};          // "steps"
  std::string_view default_text = {};  // for the reference, where the default is not a plain value
  Use use = {};
  bool print = true;        // false: left out, as a value that says that nothing is set
  YamlNode counts_as = {};  // what stands for the value where it does not count; null: it counts
};

class Fields;

struct Field {
  enum class Type {
    boolean,
    integer,
    number,
    word,
    text,
    integers,
    integer_lists,
    numbers,
    texts,
    map,
    maps
  };
  using Read = std::function<void(const YamlNode& value, MapReader& map)>;
  using Print = std::function<YamlNode()>;  // null: nothing is set
  std::string_view key = {};                // texts are literals: they outlive the description
  Type type = Type::text;
  std::string_view meaning = {};
  Range range = {};
  Words words = {};
  bool required = false;
  Notes notes = {};
  Read read = {};  // sets the member
  Print print = {};
  std::function<void()> take_default = {};  // empty: the default is the value that the member has
  std::function<void(Fields&)> item = {};   // of a list of maps: describes a new one
};
std::ptrdiff_t read_word(const YamlNode& node, std::string_view what, Words words);  // its index

// --- visitors ---

class Fields {
 public:
  virtual ~Fields() = default;

  virtual void add(const Field& field) = 0;
  // A map of settings of its own, which `inner` describes.
  virtual void section(std::string_view key, std::string_view meaning, bool required,
                       const std::function<void()>& inner) = 0;

  void boolean(std::string_view key, Member member, std::string_view meaning, Notes notes = {});
  void integer(std::string_view key, Member member, Range range, std::string_view meaning, Notes notes = {});
  void number(std::string_view key, Member member, Range range, std::string_view meaning, Notes notes = {});
  void text(std::string_view key, Member member, std::string_view meaning, Notes notes = {});
  void path(std::string_view key, std::string& value, std::string_view meaning, Notes notes = {});
  template <HasWords Enum>
  void word(std::string_view key, Enum& value, std::string_view meaning, Notes notes = {}) {
    Field field{.key = key, .type = Field::Type::word, .meaning = meaning, .words = kWords<Enum>};
    field.notes = std::move(notes);
    field.read = [&value, name = field.key](const YamlNode& node, const MapReader& map) {
      value = static_cast<Enum>(read_word(node, map.name(name), kWords<Enum>));
    };
    field.print = [&value] { return YamlNode::make(filigree::word(value)); };
    add(field);
  }
  // For a value that the others do not fit; `read` has the key's full name from MapReader::name.
  void custom(std::string_view key, Field::Type type, std::string_view meaning, Field::Read read,
              Field::Print print, Notes notes = {}, bool required = false);
  // A list of maps, each a copy of `fresh` with settings of its own, which `describe(Fields&, Item&)`
  // describes. An empty one is not printed.
  template <class Item, class Describe>
  void list(std::string_view key, std::vector<Item>& items, const Item& fresh, Describe describe,
            std::string_view meaning);

 private:
  void scalar(std::string_view key, Field::Type type, const Member& member, Range range,
              std::string_view meaning, Notes notes);
};

// Reads a map. Maps within it are read last, by done(), after whatever this one has beyond its settings was
// refused. `elsewhere`: full names that an unknown key may mean.
class FieldReader : public Fields {
 public:
  explicit FieldReader(MapReader& map, std::vector<std::string> elsewhere = {})
      : map_(&map), elsewhere_(std::move(elsewhere)) {}
  void section(std::string_view key, std::string_view meaning, bool required,
               const std::function<void()>& inner) override;
  void add(const Field& field) override;
  void done();

 private:
  MapReader* map_;
  std::vector<std::string> elsewhere_;
  std::vector<std::pair<std::string, std::function<void()>>> sections_;
};

class FieldPrinter : public Fields {
 public:
  enum class Values { all, counted };
  explicit FieldPrinter(Values values = Values::all) : values_(values) {}
  void section(std::string_view key, std::string_view meaning, bool required,
               const std::function<void()>& inner) override;
  void add(const Field& field) override;
  YamlNode take() { return std::move(node_); }

 private:
  Values values_;
  YamlNode node_ = YamlNode::make_map();
};

class FieldList : public Fields {
 public:
  struct Section {
    std::string key;  // in full; ends with [] for those of each item of a list; empty for those in no section
    std::string_view meaning;
    bool required = false;
    std::vector<Field> fields;  // with their short keys
  };
  void section(std::string_view key, std::string_view meaning, bool required,
               const std::function<void()>& inner) override;
  void add(const Field& field) override;
  // Fields outside every section come first.
  const std::vector<Section>& sections() const { return sections_; }
  std::vector<std::string> keys() const;  // in full, "train.lr"

 private:
  std::vector<Section> sections_ = {Section()};
  std::size_t open_ = 0;
};

template <class Item, class Describe>
void Fields::list(std::string_view key, std::vector<Item>& items, const Item& fresh, Describe describe,
                  std::string_view meaning) {
  Field field{.key = key, .type = Field::Type::maps, .meaning = meaning};
  field.read = [&items, fresh, describe, key](const YamlNode& node, const MapReader& outer) {
    const std::string name = outer.name(key);
    if (!node.is_sequence() || node.items.empty())
      fail_at(node.mark, fmt::format("{} must be a list of maps", name));
    for (const YamlNode& item : node.items) {
      MapReader map(item, name);
      FieldReader reader(map);
      describe(reader, items.emplace_back(fresh));
      reader.done();
    }
  };
  field.print = [&items, describe] {
    YamlNode list = YamlNode::make_sequence();
    for (Item item : items) {
      FieldPrinter printer;
      describe(printer, item);
      list.items.push_back(printer.take());
    }
    return items.empty() ? YamlNode() : list;
  };
  field.item = [fresh, describe](Fields& f) {
    Item item = fresh;
    describe(f, item);
  };
  add(field);
}

std::string full_name(const FieldList::Section& section, const Field& field);  // "train.lr"

}  // namespace filigree
