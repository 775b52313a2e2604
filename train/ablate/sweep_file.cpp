#include "train/ablate/sweep_file.h"

#include <algorithm>

#include "core/file.h"
#include "train/report/report.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

fs::path path_of(const Sweep& sweep) {
  return sweep.out / "sweep.json";
}

std::string rule_text(const Equal& equal) {
  switch (equal.rule) {
    case Fairness::tiles:
      return fmt::format("computed tiles per layer, within {:.3g} %", 100 * equal.tolerance);
    case Fairness::time:
      return equal.like.empty() ? fmt::format("training time, {:.6g} s", equal.seconds)
                                : fmt::format("training time, that of {}", equal.like);
    case Fairness::none:
      break;
  }
  return "";
}

}  // namespace

SweepFile SweepFile::read(const Sweep& sweep) {
  SweepFile out;
  const fs::path path = path_of(sweep);
  if (!fs::exists(path)) {
    for (const char* name : kReportFiles)
      if (fs::exists(sweep.out / name))
        throw Error(ErrorKind::usage,
                    fmt::format("{} is no sweep's folder, but a sweep would replace its {}",
                                sweep.out.string(), name),
                    "choose another --out");
    return out;
  }
  const Json json = Json::parse(read_file(path), nullptr, false);
  if (!json.is_object())
    throw Error(ErrorKind::data, fmt::format("{} is damaged: no JSON object", path.string()),
                "remove it: it is made anew, and finished cells are kept");
  out.probes = json.value("step_seconds", Json::object());
  out.alone = json.value("alone", Json::object());
  out.beside = json.value("beside_others", std::set<std::string>{});
  return out;
}

void SweepFile::write(const Sweep& sweep, const Failures& failures) const {
  Json cells = Json::array();
  for (const Cell& cell : sweep.cells) {
    Json labels = Json::object();
    for (std::size_t a = 0; a < sweep.axes.size(); ++a) labels[sweep.axes[a].key] = cell.labels[a];
    Json entry{{"name", cell.name}, {"labels", labels}};
    const auto failure = std::ranges::find(failures, &cell, &Failures::value_type::first);
    if (failure != failures.end()) entry["failure"] = failure->second;
    if (cell.fitted)
      entry["fitted"] = {{"parameter", cell.fitted->parameter},
                         {"value", cell.fitted->value},
                         {"tiles_per_layer", cell.fitted->tiles},
                         {"target", cell.fitted->target}};
    cells.push_back(std::move(entry));
  }
  const Json json{{"name", sweep.name},     {"equal", rule_text(sweep.equal)}, {"compare", sweep.compare},
                  {"step_seconds", probes}, {"beside_others", beside},         {"alone", alone},
                  {"cells", cells}};
  write_file_atomically(path_of(sweep), json.dump(2, ' ', false, Json::error_handler_t::replace) + '\n');
}

}  // namespace filigree
