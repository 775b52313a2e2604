// Parsing: yaml-cpp's event stream becomes a tree of YamlNodes. Events come before anything is expanded, so
// aliases, tags and deep nesting are refused when they are met, not after they cost time or memory.
#include "core/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <sstream>
#include <type_traits>
#include <unordered_map>

#include "core/utf8.h"

namespace filigree {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;
constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxKeyBytes = 256;  // YAML itself stops at 1024 characters

// Events tell of block or flow style by `EmitterStyle::value` in yaml-cpp 0.7, an `enum class
// EmitterStyle` in the newest.
template <class T, bool is_enum = std::is_enum_v<T>>
struct StyleOf {
  using type = T;
};
template <class T>
struct StyleOf<T, false> {
  using type = typename T::value;
};
using Style = StyleOf<YAML::EmitterStyle>::type;

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string_view text, const std::string& name) : text_(text), name_(name) {
    root_.mark = {name, 1, 1};
  }

  YamlNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++ > 0)
      fail_at(convert(mark), "text after the end of the document", "one document per file");
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    YamlNode node;
    node.mark = convert(mark);
    refuse_properties(node.mark, "", anchor);
    // yaml-cpp places an empty value at the token after it; the key is what the reader looks for.
    if (!open_.empty() && open_.back().key && node.mark.line > open_.back().key->mark.line)
      node.mark = open_.back().key->mark;
    place(std::move(node));
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    fail_at(convert(mark), "aliases (*name) are not allowed",
            "write the value out; quote a text that starts with *");
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    YamlNode node;
    node.kind = YamlNode::Kind::scalar;
    node.mark = convert(mark);
    refuse_properties(node.mark, tag, anchor);
    node.quoted = tag == "!";  // yaml-cpp's tag of quoted and block scalars
    if (node.quoted) check_quotes(node.mark, static_cast<std::size_t>(mark.pos));
    // The file is UTF-8, but yaml-cpp turns the escapes \N and \_ into single bytes.
    if (!is_utf8(value))
      fail_at(node.mark, "the escapes \\N and \\_ are not supported", "write \\u0085 or \\u00a0");
    node.scalar = value;
    place(std::move(node));
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       Style) override {
    open(YamlNode::Kind::sequence, mark, tag, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Style) override {
    open(YamlNode::Kind::map, mark, tag, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Frame {
    YamlNode node;
    std::optional<YamlNode> key;                 // of a map: read, its value not yet
    std::unordered_map<std::string, Mark> seen;  // of a map: a linear look-up would be quadratic
  };

  Mark convert(const YAML::Mark& mark) const { return {name_, mark.line + 1, mark.column + 1}; }

  // yaml-cpp lets two faults pass: an explicit `! "text"`, which it reports like a quoted scalar, and a quote
  // that is closed by the end of the file only.
  void check_quotes(const Mark& mark, std::size_t begin) const {
    const char quote = begin < text_.size() ? text_[begin] : '\0';
    if (quote == '!') refuse_properties(mark, "!", YAML::NullAnchor, true);
    if (quote != '"' && quote != '\'') return;  // a block scalar
    for (std::size_t i = begin + 1; i < text_.size(); ++i) {
      if (text_[i] == '\\' && quote == '"')
        ++i;
      else if (text_[i] == quote && quote == '\'' && i + 1 < text_.size() && text_[i + 1] == quote)
        ++i;
      else if (text_[i] == quote)
        return;
    }
    fail_at(mark, fmt::format("not valid YAML: the quote {} is never closed", quote));
  }

  static void refuse_properties(const Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                                bool explicit_tag = false) {
    if (anchor != YAML::NullAnchor) fail_at(mark, "anchors (&name) are not allowed", "write the value out");
    if (explicit_tag || !(tag.empty() || tag == "?" || tag == "!"))
      fail_at(mark, fmt::format("tags ({}) are not allowed", tag),
              "write the plain value, in quotes if it is a text");
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor) {
    Frame frame;
    frame.node.kind = kind;
    frame.node.mark = convert(mark);
    refuse_properties(frame.node.mark, tag, anchor, tag == "!");
    if (open_.size() >= kMaxDepth)
      fail_at(frame.node.mark, fmt::format("nested deeper than {} levels", kMaxDepth));
    if (expects_key()) fail_at(frame.node.mark, "a key must be a single word, not a list or a map");
    open_.push_back(std::move(frame));
  }

  void close() {
    YamlNode node = std::move(open_.back().node);
    open_.pop_back();
    place(std::move(node));
  }

  bool expects_key() const {
    return !open_.empty() && open_.back().node.is_map() && !open_.back().key.has_value();
  }

  void place(YamlNode node) {
    if (open_.empty()) {
      root_ = std::move(node);
    } else if (open_.back().node.is_sequence()) {
      open_.back().node.items.push_back(std::move(node));
    } else if (expects_key()) {
      accept_key(open_.back(), std::move(node));
    } else {
      Frame& frame = open_.back();
      frame.node.entries.emplace_back(std::move(*frame.key), std::move(node));
      frame.key.reset();
    }
  }

  static void accept_key(Frame& frame, YamlNode key) {
    if (!key.is_scalar()) fail_at(key.mark, "a key is missing before ':'");
    if (key.scalar.size() > kMaxKeyBytes)
      fail_at(key.mark,
              fmt::format("a key of {} bytes; at most {} are allowed", key.scalar.size(), kMaxKeyBytes));
    if (key.scalar == "<<" && !key.quoted)
      fail_at(key.mark, "merges (<<) are not allowed", "write the keys out, or use 'extends: base.yaml'");
    const auto [earlier, is_new] = frame.seen.emplace(key.scalar, key.mark);
    if (!is_new)
      fail_at(key.mark, fmt::format("duplicate key '{}'", key.scalar),
              fmt::format("it is already set at {}", earlier->second.str()));
    frame.key = std::move(key);
  }

  std::string_view text_;
  const std::string& name_;
  int documents_ = 0;
  YamlNode root_;
  std::vector<Frame> open_;
};

// yaml-cpp takes byte 4 for the end of the file, guesses UTF-16 from NUL bytes and counts lines by '\n' only.
void refuse_odd_bytes(std::string_view text, const std::string& name) {
  Mark mark{name, 1, 1};
  for (std::size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const auto [code_point, length] = decode_utf8(text, i);
    if (code_point == kInvalid)
      fail_at(mark, fmt::format("byte 0x{:02x} is not valid UTF-8", c), "save the file as UTF-8");
    const bool lone_return = c == '\r' && (i + 1 == text.size() || text[i + 1] != '\n');
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F || lone_return)
      fail_at(mark, fmt::format("control character 0x{:02x}", c),
              "remove it, or write \"\\x..\" in double quotes");
    i += length;
    mark.column += static_cast<int>(length);
    if (c == '\n') mark = {name, mark.line + 1, 1};
  }
}

// Brackets of flow style as far as they are open. Plain texts of block style may hold any of them.
class BracketScan {
 public:
  // Throws where a bracket is never closed, closes nothing, or closes another one.
  static void check(std::string_view text, const std::string& name) {
    BracketScan scan(name);
    for (const char c : text) scan.next(c);
    if (!scan.open_.empty())
      fail_at(scan.open_.back().second,
              fmt::format("not valid YAML: the {} here is never closed", scan.open_.back().first),
              fmt::format("add the missing {}", closing(scan.open_.back().first)));
  }

 private:
  explicit BracketScan(const std::string& name) : at_{name, 1, 1} {}

  static char closing(char bracket) { return bracket == '{' ? '}' : ']'; }

  void next(char c) {
    const bool starts = before_ == '\n' || std::string_view(":-,{[").find(before_) != std::string_view::npos;
    if (quote_ != '\0') {
      const bool escaped = quote_ == '"' && last_ == '\\' && !escaped_;
      if (c == quote_ && !escaped) quote_ = '\0';
      escaped_ = escaped;
    } else if (comment_) {
      comment_ = c != '\n';
    } else if (c == '#' && (last_ == ' ' || last_ == '\n')) {
      comment_ = true;
    } else if ((c == '"' || c == '\'') && starts) {
      quote_ = c;
    } else if ((c == '{' || c == '[') && (starts || !open_.empty())) {
      open_.emplace_back(c, at_);
    } else if ((c == '}' || c == ']') && (starts || !open_.empty() || closed_)) {
      close(c);
    }
    if (c != ' ' && c != '\t') before_ = c;
    last_ = c;
    ++at_.column;
    if (c == '\n') {
      at_ = {at_.file, at_.line + 1, 1};
      closed_ = false;
    }
  }

  void close(char c) {
    if (open_.empty())
      fail_at(at_, fmt::format("not valid YAML: the {} here closes nothing", c), "remove it");
    if (closing(open_.back().first) != c)
      fail_at(at_, fmt::format("not valid YAML: the {} here stands where a {} has to close the {} of {}", c,
                               closing(open_.back().first), open_.back().first, open_.back().second.str()));
    open_.pop_back();
    closed_ = open_.empty();
  }

  Mark at_;
  std::vector<std::pair<char, Mark>> open_;
  char before_ = '\n', last_ = '\n';  // the last one that is no space; the last one
  char quote_ = '\0';
  bool escaped_ = false, comment_ = false, closed_ = false;  // the last: after a whole {..} in this line
};

// Why a text is not valid YAML, where that can be said better than yaml-cpp does.
void fail_better(std::string_view text, const std::string& name, int line) {
  BracketScan::check(text, name);
  // A tab before the first word of a line, at the place of the error or above it.
  std::istringstream lines{std::string(text)};
  int number = 0;
  for (std::string row; ++number <= line && std::getline(lines, row);) {
    const std::size_t tab = row.find('\t');
    if (tab < row.find_first_not_of(" \t\r"))
      fail_at({name, number, static_cast<int>(tab) + 1},
              "not valid YAML: a tab before the first word of a line", "indent with spaces");
  }
}

}  // namespace

void fail_at(const Mark& mark, const std::string& message, const std::string& hint) {
  throw Error(ErrorKind::usage, mark.file.empty() ? message : fmt::format("{}: {}", mark.str(), message),
              hint);
}

YamlNode parse_yaml(std::string_view text, const std::string& name) {
  if (text.size() > kMaxBytes)
    fail_at({name, 1, 1}, fmt::format("{} bytes; a config has at most {}", text.size(), kMaxBytes));
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // byte order mark
  refuse_odd_bytes(text, name);

  TreeBuilder builder(text, name);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& e) {
    const Mark mark = e.mark.is_null() ? Mark{name, 1, 1} : Mark{name, e.mark.line + 1, e.mark.column + 1};
    fail_better(text, name, mark.line);
    if (e.msg == YAML::ErrorMsg::UNKNOWN_ANCHOR) builder.OnAlias(e.mark, YAML::NullAnchor);
    fail_at(mark, fmt::format("not valid YAML: {}", e.msg));
  } catch (const Error&) {
    BracketScan::check(text, name);  // an open one makes keys of what follows
    throw;
  }
  return builder.take();
}

YamlNode parse_yaml_file(const std::filesystem::path& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored))
    fail(ErrorKind::usage, "{}: is a folder, not a YAML file", path.string());
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(ErrorKind::usage, "{}: cannot be opened: {}", path.string(), std::strerror(errno));
  std::string text(kMaxBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) fail(ErrorKind::usage, "{}: cannot be read: {}", path.string(), std::strerror(errno));
  text.resize(file.gcount());
  return parse_yaml(text, path.string());
}

}  // namespace filigree
