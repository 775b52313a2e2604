#include "train/record/metrics_file.h"

#include <nlohmann/json.hpp>

#include "core/check.h"
#include "core/file.h"

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
std::int64_t kept_bytes(const std::filesystem::path& path, std::int64_t last_step) {
  const std::string text = std::filesystem::exists(path) ? read_file(path) : "";
  std::int64_t begin = 0;
  for (int number = 1;; ++number) {
    const auto end = static_cast<std::int64_t>(text.find('\n', begin));
    if (end < 0) return begin;  // no line, or one whose writing was cut short
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

MetricsFile::MetricsFile(std::filesystem::path path, std::int64_t resumed_step)
    : file_(path, kept_bytes(path, resumed_step)) {}

void MetricsFile::append(const Json& values, const Json& timing) {
  check(values.is_object() && values.contains("step"), "a line of metrics needs its step");
  Json line = values;
  if (!timing.empty()) line["timing"] = timing;
  file_.append(line.dump() + '\n', "free some space, then resume: an unfinished line is cut off");
}

}  // namespace filigree
