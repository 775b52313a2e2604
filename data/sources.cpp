#include "data/sources.h"

#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <memory>
#include <set>

#include "core/check.h"
#include "core/file.h"
#include "core/hash.h"
#include "data/foreign_file.h"
#include "data/progress.h"

namespace filigree {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kBlockBytes = 4 << 20;
constexpr std::size_t kSniffBytes = 8 << 10;
constexpr std::int64_t kLineSearchBytes = 64 << 10;

[[noreturn]] void fail_on(const fs::path& path, int why) {
  fail(ErrorKind::data, "{}: {}", path.string(), std::strerror(why));
}

class OpenFile {
 public:
  explicit OpenFile(const fs::path& path) : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) fail_on(path, errno);
  }
  ~OpenFile() { ::close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  // Up to `count` bytes from `offset`; fewer only at the end of the file.
  std::size_t read(void* out, std::size_t count, std::int64_t offset) const {
    std::size_t done = 0;
    while (done < count) {
      const ssize_t got = ::pread(fd_, static_cast<char*>(out) + done, count - done,
                                  offset + static_cast<std::int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail_on(path_, errno);
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

 private:
  fs::path path_;
  int fd_;
};

std::vector<fs::path> matches(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), 0, nullptr, &found);
  std::vector<fs::path> paths;
  for (std::size_t i = 0; status == 0 && i < found.gl_pathc; ++i) paths.emplace_back(found.gl_pathv[i]);
  ::globfree(&found);
  std::sort(paths.begin(), paths.end());  // glob sorts by locale
  return paths;
}

// Walks the inputs and collects files; remembers by (device, inode) where it has been.
class Finder {
 public:
  // `named`: by the user, not by a glob.
  void add(const fs::path& path, bool named) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) fail_on(path, errno);
    if (S_ISDIR(info.st_mode))
      walk(path, "", info);
    else if (S_ISREG(info.st_mode))
      add_file(path, path.filename().string(), info, named);
    else
      fail(ErrorKind::data, "{}: neither a file nor a folder", path.string());
  }
  Sources take() { return std::move(sources_); }

 private:
  bool first_visit(const struct stat& info) { return seen_.emplace(info.st_dev, info.st_ino).second; }

  void walk(const fs::path& folder, const std::string& relative, const struct stat& folder_info) {
    if (!first_visit(folder_info)) return;
    std::error_code error;
    std::vector<std::string> names;
    for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
      names.push_back(it->path().filename().string());
    if (error) fail_on(folder, error.value());
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) {
      if (name.starts_with('.')) continue;
      const fs::path path = folder / name;
      const std::string below = relative.empty() ? name : relative + "/" + name;
      struct stat info {};
      if (::stat(path.c_str(), &info) != 0) {
        if (errno != ENOENT && errno != ELOOP) fail_on(path, errno);
        ++sources_.n_other;  // a link to nowhere
      } else if (S_ISDIR(info.st_mode)) {
        // A run of filigree below its own data: reading it would change the data while it trains.
        if (fs::exists(path / "run.json", error) && fs::exists(path / "checkpoints", error)) {
          ++sources_.n_runs;
          continue;
        }
        walk(path, below, info);
      } else if (S_ISREG(info.st_mode)) {
        add_file(path, below, info, false);
      } else {
        ++sources_.n_other;
      }
    }
  }

  void add_file(const fs::path& path, const std::string& relative, const struct stat& info, bool named) {
    if (!first_visit(info)) return;
    if (info.st_size == 0) {
      if (named) fail(ErrorKind::data, "{}: the file is empty", path.string());
      ++sources_.n_empty;
      return;
    }
    char head[kSniffBytes];
    const std::size_t got = OpenFile(path).read(head, sizeof head, 0);
    if (std::memchr(head, 0, got) != nullptr) {
      if (named) {
        const auto foreign = foreign_file(path);
        throw Error(
            ErrorKind::data,
            fmt::format("{}: {}not text (it holds a NUL byte)", path.string(),
                        foreign ? foreign->what + ", " : ""),
            foreign
                ? foreign->hint
                : "token files end in .h5 or .bin and need no preparing; other binary files cannot be read");
      }
      ++sources_.n_binary;
      return;
    }
    sources_.files.push_back({path, relative, 0, info.st_size});
    sources_.bytes += info.st_size;
  }

  std::set<std::pair<dev_t, ino_t>> seen_;
  Sources sources_;
};

void append(Sources& to, const SourceFile& file) {
  to.files.push_back(file);
  to.bytes += file.bytes;
}

// The start of a line near `cut`, looking forward; `cut` itself if there is none.
std::int64_t line_start(const SourceFile& file, std::int64_t cut) {
  std::string text(std::min(kLineSearchBytes, file.bytes - cut), '\0');
  text.resize(OpenFile(file.path).read(text.data(), text.size(), file.begin + cut - 1));
  const auto newline = text.find('\n');
  const auto moved = cut + static_cast<std::int64_t>(newline);
  return newline == std::string::npos || moved >= file.bytes ? cut : moved;
}

std::pair<Sources, Sources> cut_file(const SourceFile& file, double fraction) {
  if (file.bytes < 2)
    throw Error(ErrorKind::data,
                fmt::format("{}: too small to split off validation data", file.path.string()),
                "give validation files of their own, or none (data.val_fraction=0)");
  const auto tail =
      std::clamp<std::int64_t>(std::llround(fraction * static_cast<double>(file.bytes)), 1, file.bytes - 1);
  const std::int64_t cut = line_start(file, file.bytes - tail);
  SourceFile head = file, rest = file;
  head.bytes = cut;
  rest.begin += cut;
  rest.bytes -= cut;
  std::pair<Sources, Sources> split;
  append(split.first, head);
  append(split.second, rest);
  return split;
}

}  // namespace

std::string Sources::describe() const {
  std::string skipped;
  const auto add = [&](std::int64_t count, const char* what) {
    if (count > 0) skipped += fmt::format("{}{} {}", skipped.empty() ? "" : ", ", count, what);
  };
  add(n_binary, "binary");
  add(n_empty, "empty");
  add(n_other, "neither file nor folder");
  add(n_runs, n_runs == 1 ? "run folder" : "run folders");
  return fmt::format("{} file{}, {}B{}", files.size(), files.size() == 1 ? "" : "s",
                     human_count(static_cast<double>(bytes)),
                     skipped.empty() ? "" : " (skipped: " + skipped + ")");
}

std::vector<fs::path> expand_paths(const std::vector<std::string>& inputs) {
  std::vector<fs::path> paths;
  for (const std::string& written : inputs) {
    const std::string input = expand_home(written);
    std::error_code error;
    const fs::file_status status = fs::status(input, error);
    if (!input.empty() && status.type() != fs::file_type::not_found) {
      if (status.type() == fs::file_type::none) fail_on(input, error.value());
      paths.emplace_back(input);
      continue;
    }
    if (input.find_first_of("*?[") == std::string::npos)
      fail(ErrorKind::data, "{}: no such file or folder", input.empty() ? "''" : input);
    const auto found = matches(input);
    if (found.empty()) fail(ErrorKind::data, "{}: matches no file or folder", input);
    paths.insert(paths.end(), found.begin(), found.end());
  }
  return paths;
}

Sources find_sources(const std::vector<std::string>& inputs) {
  if (inputs.empty()) fail(ErrorKind::data, "no input was given");
  Finder finder;
  for (const std::string& input : inputs)
    for (const fs::path& path : expand_paths({input})) finder.add(path, path == expand_home(input));
  Sources sources = finder.take();
  if (sources.files.empty())
    fail(ErrorKind::data, "{}{}: no text to read: {}", inputs.front(), inputs.size() > 1 ? ", .." : "",
         sources.describe());
  return sources;
}

std::pair<Sources, Sources> split_sources(const Sources& all, double fraction, std::uint64_t seed) {
  require(fraction > 0 && fraction < 1, "the validation fraction must lie between 0 and 1, not {}", fraction);
  check(!all.files.empty(), "nothing to split");
  if (all.files.size() == 1) return cut_file(all.files.front(), fraction);

  const std::size_t n = all.files.size();
  std::vector<std::pair<std::uint64_t, std::size_t>> order(n);
  for (std::size_t i = 0; i < n; ++i) {
    const std::string key = fmt::format("{}:{}", seed, all.files[i].relative);
    order[i] = {xxhash64(key.data(), key.size()), i};
  }
  std::sort(order.begin(), order.end());
  const double target = fraction * static_cast<double>(all.bytes);
  std::vector<bool> chosen(n, false);
  double taken = 0;
  std::size_t n_chosen = 0;
  for (const auto& [hash, i] : order) {
    const auto bytes = static_cast<double>(all.files[i].bytes);
    if (taken + bytes / 2 > target || n_chosen + 1 == n) continue;
    chosen[i] = true;
    taken += bytes;
    ++n_chosen;
  }
  if (n_chosen == 0) {  // every file is too large: the smallest is the nearest
    const auto smaller = [&](const auto& a, const auto& b) {
      return all.files[a.second].bytes < all.files[b.second].bytes;
    };
    chosen[std::min_element(order.begin(), order.end(), smaller)->second] = true;
  }
  std::pair<Sources, Sources> split;
  for (std::size_t i = 0; i < n; ++i) append(chosen[i] ? split.second : split.first, all.files[i]);
  return split;
}

struct BlockReader::Impl {
  SourceFile file;
  Border border;
  OpenFile open;
  std::int64_t at = 0;  // what of the file was handed out

  std::string read(std::size_t bytes) const {
    std::string block(bytes, '\0');
    if (open.read(block.data(), bytes, file.begin + at) != bytes)
      fail(ErrorKind::data, "{}: the file became shorter while it was read", file.path.string());
    return block;
  }
};

BlockReader::BlockReader(const SourceFile& file, Border border)
    : impl_(new Impl{file, std::move(border), OpenFile(file.path)}) {}

BlockReader::~BlockReader() = default;

std::optional<std::string> BlockReader::next() {
  const std::int64_t left = impl_->file.bytes - impl_->at;
  if (left == 0) return std::nullopt;
  for (std::int64_t bytes = kBlockBytes;; bytes *= 2) {
    std::string block = impl_->read(static_cast<std::size_t>(std::min(bytes, left)));
    const std::size_t used = bytes < left ? impl_->border(block) : block.size();
    if (used == 0) continue;
    block.resize(used);
    impl_->at += std::ssize(block);
    return block;
  }
}

void read_blocks(const SourceFile& file, const BlockReader::Border& border,
                 const std::function<void(std::string_view)>& use) {
  BlockReader reader(file, border);
  while (const auto block = reader.next()) use(*block);
}

}  // namespace filigree
