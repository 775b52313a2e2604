#include "train/report/comparable.h"

#include <algorithm>
#include <map>
#include <set>

namespace filigree {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kTraining = "training data";
constexpr const char* kValidation = "validation data";
constexpr const char* kTokenizer = "tokenizer";
constexpr const char* kEvaluated = "evaluated tokens";

struct Fact {
  std::string identity;  // what has to agree
  std::string text;      // what a person is shown
};
using Facts = std::vector<std::pair<std::string, Fact>>;

// Keys of a config that the facts below stand for, and the pattern, which is what is compared.
bool has_own_fact(const std::string& key) {
  static const std::set<std::string> keys = {"pattern",           "data.train",  "data.val",
                                             "data.val_fraction", "data.format", "data.tokenizer",
                                             "train.eval_batches"};
  return keys.contains(key);
}

bool knows_data(const RunData* run) {
  return run->summary.contains("data");
}

std::string shortened(const std::string& text, std::size_t most) {
  return text.size() <= most ? text : text.substr(0, most - 2) + "..";
}

Fact data_fact(const RunData& run, const char* part, const std::string& paths, bool by_fingerprint) {
  const std::string shown = shortened(paths, 60);
  if (!by_fingerprint) return {paths, shown};
  const Json& sum = run.summary["data"].at(part);
  const std::string fingerprint = sum.is_string() ? sum.get<std::string>() : "none";
  return {fingerprint,
          fingerprint == "none" ? "none" : fmt::format("{} [{}]", shown, shortened(fingerprint, 10))};
}

std::string validation_paths(const Config& config) {
  const DataConfig& data = config.data;
  if (!data.has_validation()) return "none";
  if (!data.val.empty()) return fmt::format("{}", fmt::join(data.val, ", "));
  return fmt::format("{:g} of {}, split by seed {}", data.val_fraction, fmt::join(data.train, ", "),
                     config.seed);
}

// The number of tokens evaluated of the validation data, from its start: 0 if all of them.
std::int64_t evaluated_tokens(const Config& config) {
  return config.train.eval_batches * config.train.micro_batch_size * config.data.seq_len;
}

Facts facts_of(const RunData& run, bool by_fingerprint, bool by_tokenizer) {
  Facts facts;
  const DataConfig& data = run.config.data;
  if (data.task) {  // its samples follow from data.task, data.seq_len and the seed
    facts.emplace_back(kValidation, data_fact(run, "validation", data.task->task->name(), by_fingerprint));
  } else {
    const std::string train = fmt::format("{}", fmt::join(data.train, ", "));
    facts.emplace_back(kValidation,
                       data_fact(run, "validation", validation_paths(run.config), by_fingerprint));
    facts.emplace_back(kTraining, data_fact(run, "train", train, by_fingerprint));
    const std::string name =
        by_fingerprint ? run.summary["data"].at("tokenizer").get<std::string>() : data.tokenizer;
    facts.emplace_back(kTokenizer, Fact{name, name});
  }
  const std::int64_t evaluated = evaluated_tokens(run.config);
  std::string tokens = evaluated == 0 ? "all" : fmt::format("the first {}", evaluated);
  if (evaluated > 0 && by_tokenizer) tokens += " of " + data.tokenizer;  // other text for each
  facts.emplace_back(kEvaluated, Fact{tokens, tokens});
  for (const auto& [key, value] : settings_that_count(run.config))
    if (!has_own_fact(key)) facts.emplace_back(key, Fact{value, shortened(setting_text(value), 60)});
  return facts;
}

// All labels, or the first few and how many more.
std::string some_of(const std::vector<std::string>& labels) {
  constexpr std::size_t kShown = 4;
  if (labels.size() <= kShown + 1) return fmt::format("{}", fmt::join(labels, ", "));
  return fmt::format("{} and {} more", fmt::join(labels.begin(), labels.begin() + kShown, ", "),
                     labels.size() - kShown);
}

// The first part of a key: "model" of "model.dim".
std::string section(const std::string& key) {
  return key.substr(0, key.find('.'));
}

class Comparison {
 public:
  Comparison(const Collection& collection, const std::vector<const RunData*>& runs, const std::string& metric)
      : collection_(collection), runs_(runs), metric_(metric) {
    const bool by_fingerprint = std::ranges::all_of(runs, knows_data) && !sweeps_tokenizers();
    for (const RunData* run : runs) {
      facts_.emplace_back();
      for (auto& [key, fact] : facts_of(*run, by_fingerprint, sweeps_tokenizers())) {
        if (std::ranges::count(keys_, key) == 0) keys_.push_back(key);
        facts_.back().emplace(key, std::move(fact));
      }
    }
  }

  Circumstances result() const {
    Circumstances out;
    for (const std::string& key : keys_) {
      if (may_differ(key)) continue;
      KeyDifference difference = difference_in(key);
      if (difference.values.size() > 1)
        (forbids(key) ? out.unlike : out.beside).push_back(std::move(difference));
    }
    return out;
  }

 private:
  bool sweeps_tokenizers() const { return std::ranges::count(collection_.swept, "data.tokenizer") > 0; }

  // By the sweep. What follows from an axis stands beside it: model.head_dim follows from model.dim.
  bool is_swept(const std::string& key) const {
    return std::ranges::any_of(collection_.swept, [&](const std::string& axis) {
      return section(axis) == section(key) || (axis == "data.tokenizer" && key == "model.vocab_size") ||
             (axis == "data.seq_len" && key == "model.max_seq_len");
    });
  }

  bool may_differ(const std::string& key) const {
    if (key == kValidation || key == "model.type" || key == "data.task") return false;
    if (key == "data.mask_probability") return false;  // other tokens are asked for, more of them seen
    if (key == kTraining) return is_swept("data.train");
    // A loss per token says nothing where the tokens differ.
    if (key == kTokenizer) return sweeps_tokenizers() && !metric_.ends_with("_loss");
    if (key == kEvaluated) return have_the_same_targets();
    if (key == "data.documents" && !targets_agree_seed_by_seed()) return false;
    return is_swept(key) || (collection_.equal_time && section(key) == "train");
  }

  static bool forbids(const std::string& key) {
    for (const char* one : {kValidation, kTraining, kTokenizer, kEvaluated, "train.steps", "causal"})
      if (key == one) return true;
    return section(key) == "model" || (section(key) == "data" && key != "data.shuffle");
  }

  // Where there is less validation data than would be read.
  bool have_the_same_targets() const {
    std::set<std::string> counts;
    for (const RunData* run : runs_) counts.insert(run->summary.value("val_targets", Json()).dump());
    return counts.size() == 1 && !counts.contains("null") && !sweeps_tokenizers();
  }

  // Where documents have no separator between them, their first tokens are targets of a stream only.
  bool targets_agree_seed_by_seed() const {
    std::map<std::int64_t, std::set<std::string>> counts;
    for (const RunData* run : runs_)
      counts[splits_by_seed(run->config) ? run->config.seed : 0].insert(
          run->summary.value("val_targets", Json()).dump());
    return std::ranges::all_of(counts, [](const auto& of_seed) { return of_seed.second.size() == 1; });
  }

  const Fact& fact(std::size_t run, const std::string& key) const {
    static const Fact absent{"-", "-"};
    const auto found = facts_[run].find(key);
    return found == facts_[run].end() ? absent : found->second;
  }

  KeyDifference difference_in(const std::string& key) const {
    KeyDifference out{key, {}};
    if ((key == kValidation || key == kTraining) && agrees_seed_by_seed(key)) return out;
    std::vector<std::string> identities;
    std::map<std::string, std::set<std::string>> of_label;
    for (std::size_t i = 0; i < runs_.size(); ++i) of_label[runs_[i]->label].insert(fact(i, key).identity);
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      const Fact& here = fact(i, key);
      const auto at =
          static_cast<std::size_t>(std::ranges::find(identities, here.identity) - identities.begin());
      if (at == identities.size()) {
        identities.push_back(here.identity);
        out.values.push_back({here.text, {}});
      }
      std::string name = runs_[i]->label;
      if (of_label[name].size() > 1) name += fmt::format(" seed {}", runs_[i]->config.seed);
      auto& labels = out.values[at].labels;
      if (std::ranges::count(labels, name) == 0) labels.push_back(name);
    }
    return out;
  }

  // Where the seed splits the data: for each seed all variants have the same.
  bool agrees_seed_by_seed(const std::string& key) const {
    std::map<std::int64_t, std::pair<std::set<std::string>, std::size_t>>
        seeds;  // what there is, in how many runs
    std::set<std::string> variants;
    for (std::size_t i = 0; i < runs_.size(); ++i) {
      if (!splits_by_seed(runs_[i]->config)) return false;
      auto& [identities, count] = seeds[runs_[i]->config.seed];
      identities.insert(fact(i, key).identity);
      ++count;
      variants.insert(runs_[i]->label);
    }
    return std::ranges::all_of(seeds, [&](const auto& seed) {
      return seed.second.first.size() == 1 && seed.second.second == variants.size();
    });
  }

  const Collection& collection_;
  const std::vector<const RunData*>& runs_;
  std::string metric_;
  std::vector<std::map<std::string, Fact>> facts_;  // of each run
  std::vector<std::string> keys_;
};

}  // namespace

std::string KeyDifference::text() const {
  std::string out;
  for (const Value& value : values)
    out += fmt::format("{}{} ({})", out.empty() ? "" : ", ", value.text, some_of(value.labels));
  return fmt::format("{}: {}", key, out);
}

Circumstances circumstances_of(const Collection& collection, const std::vector<const RunData*>& runs,
                               const std::string& metric) {
  return Comparison(collection, runs, metric).result();
}

bool splits_by_seed(const Config& config) {
  return !config.data.task && config.data.val.empty() && config.data.val_fraction > 0;
}

}  // namespace filigree
