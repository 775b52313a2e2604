// An analysis of runs: quality per pattern with its interval over seeds, whether differences to the best are
// more than chance, cost, and which patterns nothing else beats in both.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "train/report/comparable.h"
#include "train/report/statistics.h"

namespace filigree {

// The measure of quality: the first of these that every run has.
struct Metric {
  std::string key;   // in a summary: val_accuracy, val_bits_per_byte, val_loss or train_loss
  std::string name;  // "bits per byte"
  bool higher_is_better = false;
  std::string text(double value) const;        // "2.345"; accuracy as "97.1 %"
  std::string difference(double value) const;  // of two values, without sign: "0.012", "1.2 points"
};

struct Cost {
  double tokens_per_second = 0;     // median over runs of their median, of those timed alone then
  double slowest = 0, fastest = 0;  // of the runs
  bool timed_alone = true;          // all runs: else their speeds cannot be compared
  double step_seconds = 0, train_seconds = 0;
  double peak_bytes = 0;                       // of the run that took most
  double computed_tiles = 0, dense_tiles = 0;  // of a layer, over its heads; mean over layers
  double computed_pairs = 0, exact_pairs = 0,
         dense_pairs = 0;  // likewise; the first: those in computed tiles
  double tiles_of_full() const { return computed_tiles / std::max(1.0, dense_tiles); }
};

// The speed that a run is taken to have: that of a cell that ran beside others is its speed alone, if it was
// timed.
struct RunSpeed {
  double tokens_per_second = 0, step_seconds = 0;
  bool timed_alone = true;
};
RunSpeed speed_of(const RunData& run);

// "13.1 k (12.9 k to 13.4 k)": the range over several runs.
std::string rate_text(const Cost& cost);

struct Variant {
  std::string label;
  std::size_t style = 0;  // of its lines: the same label has the same one everywhere
  std::vector<const RunData*> runs;
  BySeed quality;
  MeanInterval interval;
  Difference to_best;     // this less the best; kind none for the best itself
  double p_adjusted = 1;  // Holm, over the comparisons within the setting
  Cost cost;
  bool on_front = false;  // no other has at most its tiles and better quality, or its quality and fewer tiles
  bool significant() const { return to_best.kind != TestKind::none && p_adjusted < 0.05; }
};

// How the first of the variants stands to the others.
enum class Verdict {
  single,    // there are no others
  unlike,    // the runs cannot be compared
  untested,  // too few seeds for a test of any of them
  even,      // significantly ahead of none
  partly,    // of some
  best,      // of all
};
std::string word(Verdict verdict);

// Variants under the same circumstances.
struct Setting {
  std::string label;
  std::vector<Variant> variants;  // the best mean first; of unlike runs in the order they were named
  Circumstances circumstances = {};
  Verdict verdict = Verdict::single;
  bool ranked() const { return verdict != Verdict::single && verdict != Verdict::unlike; }
  const Variant* winner() const { return verdict == Verdict::best ? &variants.front() : nullptr; }
};

struct LeftOut {
  const RunData* run;
  std::string why;
};

struct Analysis {
  Metric metric;
  std::vector<Setting> settings;
  std::vector<LeftOut> left_out;
  std::string noun;  // see Collection
};

// Error(data) if no run counts.
Analysis analyse(const Collection& collection);

// "2.830 ± 0.165"; without the interval where there is one seed.
std::string with_interval(const MeanInterval& interval, const Metric& metric);

}  // namespace filigree
