#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "train/record/run_folder.h"

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// The step of a line, or -1 if the line is not one of ours.
std::int64_t step_of(std::string_view line) {
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return -1;
  const auto step = json.find("step");
  return step != json.end() && step->is_number_integer() ? step->get<std::int64_t>() : -1;
}

// Bytes of the leading lines whose steps are at most `last_step`.
std::size_t kept_bytes(const std::filesystem::path& path, const std::string& text, std::int64_t last_step) {
  std::size_t begin = 0;
  for (int number = 1;; ++number) {
    const std::size_t end = text.find('\n', begin);
    if (end == std::string::npos) return begin;  // no line, or one whose writing was cut short
    const std::int64_t step = step_of(std::string_view(text).substr(begin, end - begin));
    if (step < 0)
      throw Error(ErrorKind::data,
                  fmt::format("{}:{}: is not a JSON object with a \"step\"", path.string(), number),
                  "repair or remove the line");
    if (step > last_step) return begin;
    begin = end + 1;
  }
}

}  // namespace

MetricsFile::MetricsFile(std::filesystem::path path, std::int64_t resumed_step) : path_(std::move(path)) {
  const std::string text = std::filesystem::exists(path_) ? read_file(path_) : "";
  const std::size_t kept = kept_bytes(path_, text, resumed_step);
  file_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0 || ::ftruncate(file_, static_cast<off_t>(kept)) != 0) {
    const int error = errno;
    if (file_ >= 0) ::close(file_);
    fail(ErrorKind::disk, "cannot write {}: {}", path_.string(), std::strerror(error));
  }
}

MetricsFile::~MetricsFile() {
  ::close(file_);
}

void MetricsFile::append(const Json& values, const Json& timing) {
  check(values.is_object() && values.contains("step"), "a line of metrics needs its step");
  Json line = values;
  if (!timing.empty()) line["timing"] = timing;
  const std::string text = line.dump() + '\n';
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(file_, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0)
      throw Error(ErrorKind::disk, fmt::format("cannot write {}: {}", path_.string(), std::strerror(errno)),
                  "free some space, then resume: an unfinished line is cut off");
    rest.remove_prefix(written);
  }
}

std::string without_timing(const std::string& line) {
  Json json = Json::parse(line);
  json.erase("timing");
  return json.dump();
}

}  // namespace filigree
