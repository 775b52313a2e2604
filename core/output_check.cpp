#include "core/output_check.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "core/check.h"
#include "core/file.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;

// The file of `input`, or of all those below it, that `file` is too; empty if there is none.
fs::path same_file(const fs::path& input, const fs::path& file) {
  std::error_code error;
  if (fs::equivalent(input, file, error)) return input;
  if (!fs::is_directory(input, error)) return {};
  constexpr auto options = fs::directory_options::skip_permission_denied;
  for (fs::recursive_directory_iterator it(input, options, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code ignored;  // of a link to nowhere
    if (fs::equivalent(it->path(), file, ignored)) return it->path();
  }
  return {};
}

// Absolute, with links of its folder followed, so that two names of one file that is not there yet are equal.
fs::path full_name(const fs::path& file) {
  std::error_code error;
  const fs::path whole = fs::absolute(file, error), name = fs::weakly_canonical(whole, error);
  return error ? file : name;
}

}  // namespace

void OutputCheck::writes(const fs::path& file, const std::string& option, bool hdf5) {
  const std::string what = fmt::format("{} {}", option, file.string());
  if (is_stream(file)) {
    require(!hdf5, "{}: is not a regular file, and HDF5 cannot be written to another", what);
    return;
  }
  std::error_code error;
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  require(file.has_filename() && !fs::is_directory(file, error), "{}: is a folder, not the name of a file",
          what);
  if (!fs::is_directory(folder, error))
    throw Error(ErrorKind::disk, fmt::format("{}: there is no folder {}", what, folder.string()),
                "make it first, or choose another file");
  const bool exists = fs::exists(fs::symlink_status(file, error));
  for (std::size_t i = 0; exists && i < inputs_.size(); ++i)
    if (const fs::path same = same_file(inputs_[i], file); !same.empty())
      throw Error(ErrorKind::usage,
                  same == file
                      ? fmt::format("{}: is itself an input and would be overwritten", what)
                      : fmt::format("{}: is the input {} and would overwrite it", what, same.string()),
                  "choose another file");
  if (const fs::path run = run_of_file(file); !run.empty())
    throw Error(ErrorKind::usage, fmt::format("{}: belongs to the run {}", what, run.string()),
                "choose another file; a run's own files are written by that run alone");
  const fs::path name = full_name(file);
  require(std::ranges::count(outputs_, name) == 0, "{}: is an output already; choose another file", what);
  outputs_.push_back(name);
  if (!overwrite_ && exists)
    throw Error(ErrorKind::usage, fmt::format("{}: is there already", what),
                "--overwrite replaces it; or choose another file");
  if (::access(follow_links(file).parent_path().empty() ? "." : follow_links(file).parent_path().c_str(),
               W_OK) != 0)
    throw Error(ErrorKind::disk, fmt::format("{}: cannot be written: {}", what, std::strerror(errno)),
                "check the permissions of the folder");
}

fs::path run_of_file(const fs::path& file) {
  constexpr std::array<std::string_view, 8> kOwn = {"run.json",       "config.yaml", "metrics.jsonl",
                                                    "summary.json",   "lock",        "cell.yaml",
                                                    "cell.next.yaml", "output.log"};
  const fs::path name = full_name(file), folder = name.parent_path();
  std::error_code error;
  if (fs::exists(folder / "run.json", error) && std::ranges::count(kOwn, name.filename().string()) > 0)
    return folder;
  const bool below = folder.filename() == "checkpoints" || folder.filename() == "tensorboard";
  return below && fs::exists(folder.parent_path() / "run.json", error) ? folder.parent_path() : fs::path();
}

}  // namespace filigree
