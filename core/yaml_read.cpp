// Strict readers of scalars and maps.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "core/file.h"
#include "core/yaml.h"
#include "core/yaml_scalar.h"

namespace filigree {
namespace {

std::string_view without_plus(std::string_view text) {
  return text.starts_with('+') ? text.substr(1) : text;
}

std::size_t count_digits(std::string_view text) {
  const std::size_t end = text.find_first_not_of("0123456789");
  return end == std::string_view::npos ? text.size() : end;
}

std::optional<double> to_double(std::string_view text) {
  if (!is_decimal(text)) return std::nullopt;
  text = without_plus(text);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string describe(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::null:
      return "nothing";
    case YamlNode::Kind::sequence:
      return "a list";
    case YamlNode::Kind::map:
      return "a map";
    case YamlNode::Kind::scalar:
      break;
  }
  const std::string text = node.scalar.size() <= 60 ? node.scalar : node.scalar.substr(0, 57) + "...";
  return node.quoted ? fmt::format("the text \"{}\"", text) : fmt::format("'{}'", text);
}

[[noreturn]] void wrong_type(const YamlNode& node, std::string_view what, std::string_view expected,
                             const std::string& hint = "") {
  fail_at(node.mark, fmt::format("{} must be {}, not {}", what, expected, describe(node)), hint);
}

std::string integer_hint(const YamlNode& node) {
  if (!node.is_scalar()) return "";
  if (node.quoted) return "remove the quotes";
  const std::string_view text = node.scalar;
  if (const auto value = to_double(text); value && *value == std::floor(*value) && std::abs(*value) < 1e15)
    return fmt::format("write {:.0f}", *value);
  const std::string_view digits = text.substr(text.starts_with('-') || text.starts_with('+') ? 1 : 0);
  if (digits.size() > 1 && digits[0] == '0' && count_digits(digits) == digits.size())
    return "remove the leading zeros: numbers are decimal";
  if (text.find('_') != std::string_view::npos || text.find(',') != std::string_view::npos)
    return "write the digits without separators";
  return "";
}

template <class T>
std::string range_text(T min, T max, T lowest, T highest) {
  if (min == lowest) return fmt::format("at most {}", max);
  if (max == highest) return fmt::format("at least {}", min);
  return min == max ? fmt::format("{}", min) : fmt::format("between {} and {}", min, max);
}

// Edit distance with swaps of neighbours (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> d(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        d[i][j] = i + j;
        continue;
      }
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  }
  return d[a.size()][b.size()];
}

// Case and the kind of dash are slips, not differences.
std::string normalised(std::string_view word) {
  std::string out(word);
  for (char& c : out)
    c = c == '-' || c == ' ' ? '_' : c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

// The names that other programs give to our keys and values.
struct Synonym {
  std::string_view theirs, ours;
};
constexpr Synonym kSynonyms[] = {
    {"gpu", "cuda"},
    {"nvidia", "cuda"},
    {"cuda:0", "cuda"},
    {"float32", "fp32"},
    {"f32", "fp32"},
    {"bfloat16", "bf16"},
    {"adam", "adamw"},
    {"learning_rate", "lr"},
    {"max_lr", "lr"},
    {"max_steps", "steps"},
    {"max_iters", "steps"},
    {"iterations", "steps"},
    {"num_epochs", "epochs"},
    {"hidden_size", "dim"},
    {"n_embd", "dim"},
    {"d_model", "dim"},
    {"depth", "n_layers"},
    {"context", "seq_len"},
    {"context_length", "seq_len"},
    {"grad_clip", "clip"},
    {"output_dir", "out"},
    {"out_dir", "out"},
    {"attention", "pattern"},
    {"sliding_window", "local"},
    {"dense", "full"},
    {"validation", "val"},
};

std::string suggestion(std::string_view word, const std::vector<std::string>& known, std::string_view kind) {
  if (const std::string near = nearest(word, known); !near.empty())
    return fmt::format("did you mean '{}'?", near);
  if (known.empty()) return fmt::format("no {} are known here", kind);
  return fmt::format("known {}: {}", kind, fmt::join(known, ", "));
}

}  // namespace

bool is_decimal(std::string_view text) {
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  const std::size_t whole = count_digits(text);
  if (whole > 1 && text[0] == '0') return false;
  text.remove_prefix(whole);
  std::size_t fraction = 0;
  if (text.starts_with('.')) {
    fraction = count_digits(text.substr(1));
    text.remove_prefix(1 + fraction);
  }
  if (whole + fraction == 0) return false;
  if (text.empty()) return true;
  if (text[0] != 'e' && text[0] != 'E') return false;
  text.remove_prefix(1);
  if (text.starts_with('-') || text.starts_with('+')) text.remove_prefix(1);
  return !text.empty() && count_digits(text) == text.size();
}

bool has_implicit_type(std::string_view text) {
  if (text.empty() || text == "~" || is_decimal(text)) return true;
  const std::string word = normalised(text);
  for (const char* other : {"null", "true", "false", ".nan", ".inf", "_.inf", "+.inf"})
    if (word == other) return true;
  const std::string_view digits = word[0] == '_' || word[0] == '+' ? std::string_view(word).substr(1) : word;
  if (digits.starts_with("0x"))
    return digits.size() > 2 && digits.find_first_not_of("0123456789abcdef", 2) == std::string_view::npos;
  return !digits.empty() && digits[0] >= '0' && digits[0] <= '9' &&
         digits.find_first_not_of("0123456789_.,e+o") == std::string_view::npos;
}

std::string Mark::str() const {
  return line == 0 ? file : fmt::format("{}:{}:{}", file, line, column);
}

std::int64_t as_integer(const YamlNode& node, std::string_view what, std::int64_t min, std::int64_t max) {
  if (!node.is_scalar() || node.quoted || !is_decimal(node.scalar))
    wrong_type(node, what, "an integer", integer_hint(node));
  const std::string text = whole_number(node.scalar);
  if (text.empty()) wrong_type(node, what, "an integer", integer_hint(node));
  std::int64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc())
    fail_at(node.mark,
            text.starts_with('-') ? fmt::format("{} must be at least {}, not {}", what, min, describe(node))
                                  : fmt::format("{} must be at most {}, not {}", what, max, describe(node)),
            text.starts_with('-') ? "the number is too small" : "the number is too large");
  if (value < min || value > max) {
    using Limits = std::numeric_limits<std::int64_t>;
    fail_at(node.mark, fmt::format("{} must be {}, not {}", what,
                                   range_text(min, max, Limits::min(), Limits::max()), describe(node)));
  }
  return value;
}

double as_number(const YamlNode& node, std::string_view what, double min, double max) {
  if (!node.is_scalar() || node.quoted || !is_decimal(node.scalar))
    wrong_type(node, what, "a number", integer_hint(node));
  const std::optional<double> value = to_double(node.scalar);
  if (!value) fail_at(node.mark, fmt::format("{}: {} does not fit a double", what, describe(node)));
  if (!(*value >= min && *value <= max)) {
    constexpr double infinity = std::numeric_limits<double>::infinity();
    fail_at(node.mark, fmt::format("{} must be {}, not {}", what, range_text(min, max, -infinity, infinity),
                                   describe(node)));
  }
  return *value;
}

bool as_bool(const YamlNode& node, std::string_view what) {
  if (node.is_scalar() && !node.quoted) {
    if (node.scalar == "true") return true;
    if (node.scalar == "false") return false;
  }
  wrong_type(node, what, "true or false");
}

std::string as_string(const YamlNode& node, std::string_view what) {
  if (!node.is_scalar()) wrong_type(node, what, "a text");
  if (!node.quoted && has_implicit_type(node.scalar))
    wrong_type(node, what, "a text", fmt::format("write it in quotes: \"{}\"", node.scalar));
  return node.scalar;
}

std::string whole_number(std::string_view text) {
  constexpr std::size_t longest = 40;  // digits: more than any integer type holds
  text = without_plus(text);
  const std::size_t e = text.find_first_of("eE");
  std::string digits(text.substr(0, e));
  if (!is_decimal(text) || (e == std::string_view::npos && digits.find('.') != std::string::npos)) return "";
  if (e != std::string_view::npos) {
    std::int64_t exponent = 0;
    const std::string_view power = without_plus(text.substr(e + 1));
    if (std::from_chars(power.data(), power.data() + power.size(), exponent).ec != std::errc()) return "";
    const std::size_t point = digits.find('.');
    if (point != std::string::npos) {
      exponent -= std::ssize(digits) - 1 - static_cast<std::ptrdiff_t>(point);
      digits.erase(point, 1);
    }
    for (; exponent < 0 && digits.size() > 1 && digits.back() == '0'; ++exponent) digits.pop_back();
    if (exponent < 0) return "";
    digits.append(std::min(static_cast<std::size_t>(exponent), longest), '0');
  }
  const std::size_t sign = digits.starts_with('-') ? 1 : 0;
  const std::size_t zeros = digits.find_first_not_of('0', sign);
  if (zeros == std::string::npos) return "0";
  return digits.erase(sign, zeros - sign);
}

std::string as_path(const YamlNode& node, std::string_view what) {
  const std::string path = as_string(node, what);
  try {
    return expand_home(path);
  } catch (const Error& e) {
    fail_at(node.mark, fmt::format("{}: {}", what, e.what()), e.hint());
  }
}

std::string as_choice(const YamlNode& node, std::string_view what, const std::vector<std::string>& choices) {
  const std::string expected = fmt::format("one of {}", fmt::join(choices, ", "));
  if (!node.is_scalar()) wrong_type(node, what, expected);
  if (std::find(choices.begin(), choices.end(), node.scalar) == choices.end())
    wrong_type(node, what, expected, suggestion(node.scalar, choices, "values"));
  return node.scalar;
}

std::string nearest(std::string_view word, const std::vector<std::string>& known) {
  constexpr std::size_t longest = 64;
  if (word.size() > longest) return "";
  const std::string normal = normalised(word);
  for (const auto& [theirs, ours] : kSynonyms)
    if (normal == theirs && std::ranges::count(known, ours) > 0) return std::string(ours);
  std::string best;
  std::size_t best_distance = longest;
  for (const std::string& candidate : known) {
    const std::size_t distance = edit_distance(normal, normalised(candidate));
    const std::size_t allowed = std::max<std::size_t>(1, std::min(word.size(), candidate.size()) / 3);
    if (distance <= allowed && distance < best_distance && distance < candidate.size()) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

MapReader::MapReader(const YamlNode& node, std::string path) : node_(&node), path_(std::move(path)) {
  if (!node.is_map() && !node.is_null())
    wrong_type(node, path_.empty() ? "the document" : path_, "a map of 'key: value' lines");
}

std::string MapReader::name(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

bool MapReader::has(std::string_view key) const {
  return node_->find(key) != nullptr;
}

const YamlNode* MapReader::find(std::string_view key) {
  if (std::find(known_.begin(), known_.end(), key) == known_.end()) known_.emplace_back(key);
  return node_->find(key);
}

const YamlNode& MapReader::at(std::string_view key) {
  const YamlNode* value = find(key);
  if (value != nullptr) return *value;
  refuse_misspelt({std::string(key)});
  fail_at(node_->mark, fmt::format("{} is missing", name(key)), fmt::format("add '{}:'", key));
}

const Mark& MapReader::mark_of(std::string_view key) {
  const YamlNode* value = find(key);
  return value ? value->mark : node_->mark;
}

std::int64_t MapReader::integer(std::string_view key, std::int64_t min, std::int64_t max) {
  return as_integer(at(key), name(key), min, max);
}

std::int64_t MapReader::integer(std::string_view key, std::int64_t min, std::int64_t max,
                                std::int64_t fallback) {
  const YamlNode* value = find(key);
  return value ? as_integer(*value, name(key), min, max) : fallback;
}

double MapReader::number(std::string_view key, double min, double max) {
  return as_number(at(key), name(key), min, max);
}

double MapReader::number(std::string_view key, double min, double max, double fallback) {
  const YamlNode* value = find(key);
  return value ? as_number(*value, name(key), min, max) : fallback;
}

bool MapReader::boolean(std::string_view key, bool fallback) {
  const YamlNode* value = find(key);
  return value ? as_bool(*value, name(key)) : fallback;
}

std::string MapReader::string(std::string_view key) {
  return as_string(at(key), name(key));
}

std::string MapReader::string(std::string_view key, std::string_view fallback) {
  const YamlNode* value = find(key);
  return value ? as_string(*value, name(key)) : std::string(fallback);
}

std::string MapReader::path(std::string_view key, std::string_view fallback) {
  const YamlNode* value = find(key);
  return value ? as_path(*value, name(key)) : std::string(fallback);
}

std::string MapReader::choice(std::string_view key, const std::vector<std::string>& choices,
                              std::string_view fallback) {
  const YamlNode* value = find(key);
  return value ? as_choice(*value, name(key), choices) : std::string(fallback);
}

void MapReader::done(const std::vector<std::string>& elsewhere) const {
  for (const auto& [key, value] : node_->entries) {
    if (std::find(known_.begin(), known_.end(), key.scalar) != known_.end()) continue;
    // Keys of this name elsewhere; or, where nothing here is near, of a name that is.
    const auto name_of = [](const std::string& full) { return full.substr(full.rfind('.') + 1); };
    std::vector<std::string> names, same;
    for (const std::string& full : elsewhere) names.push_back(name_of(full));
    std::string meant = key.scalar;
    if (std::ranges::count(names, meant) == 0 && nearest(meant, known_).empty())
      meant = nearest(meant, names);
    for (const std::string& full : elsewhere)
      if (name_of(full) == meant) same.push_back(fmt::format("'{}'", full));
    fail_at(key.mark, fmt::format("unknown key '{}'", name(key.scalar)),
            same.empty() ? suggestion(key.scalar, known_, "keys")
                         : fmt::format("did you mean {}?", fmt::join(same, " or ")));
  }
}

void MapReader::refuse_misspelt(const std::vector<std::string>& keys) const {
  // A required key that is misspelled is better called unknown than missing.
  for (const auto& [entry, ignored] : node_->entries) {
    if (std::find(known_.begin(), known_.end(), entry.scalar) != known_.end()) continue;
    const std::string near = nearest(entry.scalar, keys);
    if (!near.empty())
      fail_at(entry.mark, fmt::format("unknown key '{}'", name(entry.scalar)),
              fmt::format("did you mean '{}'?", near));
  }
}

}  // namespace filigree
