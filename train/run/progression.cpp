#include "train/run/progression.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

// Labels are numbers: the same number must mean the same class. What a checkpoint of an older version does
// not tell cannot be compared; its training data's fingerprint covers the names of its classes.
void require_same_data(const TrainedOn& saved, const TrainedOn& now, const std::string& origin) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::data, fmt::format("{}: {} since this checkpoint", origin, what),
                "restore the data, or start a new run with another train.out");
  };
  if (!saved.classes.empty() && saved.classes != now.classes)
    refuse(fmt::format("the classes have changed from {} to {}", fmt::join(saved.classes, ", "),
                       fmt::join(now.classes, ", ")));
  if (saved.data != now.data) refuse("the training data has changed");
  if (!saved.validation.empty() && saved.validation != now.validation)
    refuse("the validation data has changed");
}

}  // namespace

std::string Progression::to_json() const {
  const bool has_best = std::isfinite(best_loss);
  Json json{{"step", step},
            {"epoch", position.epoch},
            {"next_sample", position.next_sample},
            {"best_loss", has_best ? Json(best_loss) : Json(nullptr)},
            {"evaluation_due", evaluation_due},
            {"data", on.data},
            {"validation", on.validation},
            {"tokenizer", tokenizer},
            {"layout_files", layout_files}};
  if (!on.classes.empty()) json["classes"] = on.classes;
  return json.dump();
}

Progression Progression::from_json(const std::string& text, const std::string& origin) {
  try {
    const Json j = Json::parse(text);
    Progression p;
    p.step = j.at("step");
    p.position = {j.at("epoch"), j.at("next_sample")};
    if (!j.at("best_loss").is_null()) p.best_loss = j.at("best_loss");
    p.evaluation_due = j.at("evaluation_due");
    p.on = trained_on(text, origin);
    p.tokenizer = j.at("tokenizer");
    p.layout_files = j.at("layout_files");
    return p;
  } catch (const Json::exception& e) {
    fail(ErrorKind::data, "{}: its state is not one of a training run ({})", origin, e.what());
  }
}

void require_same_data(const Progression& saved, const Progression& now, const std::string& origin) {
  if (saved.tokenizer != now.tokenizer)
    throw Error(ErrorKind::data,
                fmt::format("{}: the tokenizer has changed since this checkpoint: '{}' then, '{}' now",
                            origin, saved.tokenizer, now.tokenizer),
                "restore its file, or start a new run with another train.out");
  require_same_data(saved.on, now.on, origin);
  if (saved.layout_files != now.layout_files)
    throw Error(ErrorKind::data,
                fmt::format("{}: a layout file of the pattern has changed since this checkpoint", origin),
                "restore the file, or start a new run with another train.out");
}

}  // namespace filigree
