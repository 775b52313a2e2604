// A JSON event handler that knows the header's grammar: whatever does not belong is refused where it stands,
// before memory is spent on it.
#include "train/interchange/safetensors_header.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

namespace filigree {
namespace {

constexpr std::int64_t kMaxInteger = std::numeric_limits<std::int64_t>::max();

std::int64_t element_bytes(const std::string& dtype) {
  static const std::map<std::string, std::int64_t> known = {
      {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
      {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},     {"I64", 8},     {"U64", 8}, {"F64", 8}};
  const auto found = known.find(dtype);
  return found == known.end() ? 0 : found->second;
}

class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(const std::string& origin) : origin_(origin) {}
  SafetensorsHeader take() {
    if (!done_) refuse("the header ends too early");
    return std::move(header_);
  }

  bool key(string_t& name) override {
    switch (state_) {
      case State::names:
        if (!names_.insert(name).second) refuse(fmt::format("the name {} appears twice", shown_name(name)));
        name_ = name;
        break;
      case State::metadata:
        if (header_.metadata.contains(name))
          refuse(fmt::format("__metadata__ has {} twice", shown_name(name)));
        metadata_key_ = name;
        break;
      case State::fields:
        begin_field(name);
        break;
      default:
        refuse("a list holds a name");
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (state_ == State::start) {
      state_ = State::names;
    } else if (state_ == State::names && name_ == "__metadata__") {
      state_ = State::metadata;
    } else if (state_ == State::names) {
      state_ = State::fields;
      entry_ = {name_, "", {}, 0, 0};
      seen_.clear();
    } else {
      refuse_value("an object");
    }
    return true;
  }

  bool end_object() override {
    if (state_ == State::metadata) {
      state_ = State::names;
    } else if (state_ == State::fields) {
      finish_entry();
      state_ = State::names;
    } else {
      done_ = true;
      state_ = State::end;
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::fields || field_ == "dtype") refuse_value("a list");
    state_ = field_ == "shape" ? State::shape : State::offsets;
    return true;
  }

  bool end_array() override {
    if (state_ == State::offsets && offsets_.size() != 2) refuse_entry("data_offsets are not two numbers");
    state_ = State::fields;
    return true;
  }

  bool string(string_t& text) override {
    if (state_ == State::metadata)
      header_.metadata[metadata_key_] = text;
    else if (state_ == State::fields && field_ == "dtype")
      entry_.dtype = text;
    else
      refuse_value("a text");
    return true;
  }

  bool number_unsigned(number_unsigned_t number) override {
    if (state_ != State::shape && state_ != State::offsets) refuse_value("a number");
    if (number > static_cast<std::uint64_t>(kMaxInteger)) refuse_entry("a number is too large");
    auto& list = state_ == State::shape ? entry_.shape : offsets_;
    if (list.size() >= (state_ == State::shape ? Shape::kMaxRank : 2))
      refuse_entry(state_ == State::shape ? fmt::format("has more than {} dimensions", Shape::kMaxRank)
                                          : "data_offsets are not two numbers");
    list.push_back(static_cast<std::int64_t>(number));
    return true;
  }

  bool number_integer(number_integer_t) override { refuse_value("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse_value("a number that is no integer"); }
  bool null() override { refuse_value("null"); }
  bool boolean(bool) override { refuse_value("true or false"); }
  bool binary(binary_t&) override { refuse_value("binary data"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    refuse(fmt::format("the header is not JSON in UTF-8 (byte {})", position));
  }

 private:
  enum class State { start, names, metadata, fields, shape, offsets, end };

  [[noreturn]] void refuse(const std::string& what) const {
    throw Error(ErrorKind::data, fmt::format("{}: {}", origin_, what),
                "the file is damaged or no safetensors file");
  }
  [[noreturn]] void refuse_entry(const std::string& what) const {
    refuse(fmt::format("tensor {}: {}", shown_name(name_), what));
  }
  [[noreturn]] void refuse_value(const char* what) const {
    if (state_ == State::start) refuse(fmt::format("the header is {}, not an object", what));
    if (state_ == State::metadata) refuse(fmt::format("__metadata__ holds {}, not only texts", what));
    refuse_entry(fmt::format("{} where none belongs", what));
  }

  void begin_field(const std::string& name) {
    if (name != "dtype" && name != "shape" && name != "data_offsets")
      refuse_entry(fmt::format("has an unknown field {}", shown_name(name)));
    if (!seen_.insert(name).second) refuse_entry(fmt::format("has {} twice", name));
    field_ = name;
    if (name == "data_offsets") offsets_.clear();
  }

  void finish_entry() {
    for (const char* field : {"dtype", "shape", "data_offsets"})
      if (!seen_.contains(field)) refuse_entry(fmt::format("lacks {}", field));
    std::int64_t bytes = element_bytes(entry_.dtype);
    if (bytes == 0) refuse_entry(fmt::format("has the unknown dtype {}", shown_name(entry_.dtype)));
    for (const std::int64_t dim : entry_.shape)
      if (__builtin_mul_overflow(bytes, dim, &bytes)) refuse_entry("its shape overflows");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.end < entry_.begin || entry_.end - entry_.begin != bytes)
      refuse_entry(fmt::format("data_offsets [{}, {}] do not hold the {} bytes of its shape", entry_.begin,
                               entry_.end, bytes));
    header_.entries.push_back(std::move(entry_));
  }

  std::string origin_;
  SafetensorsHeader header_;
  State state_ = State::start;
  bool done_ = false;
  std::set<std::string> names_, seen_;
  std::string name_, field_, metadata_key_;
  SafetensorsFile::Entry entry_;
  std::vector<std::int64_t> offsets_;
};

}  // namespace

std::string shown_name(const std::string& name) {
  const std::string text = nlohmann::json(name).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() <= 100 ? text : text.substr(0, 97) + "...";
}

SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& origin) {
  HeaderHandler handler(origin);
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
  return handler.take();
}

}  // namespace filigree
