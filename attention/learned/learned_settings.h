// What the YAML of a learned pattern says, and the pattern that is made of it.
#pragma once

#include "attention/learned/learned.h"
#include "attention/patterns.h"

namespace filigree {

// What the YAML of all learned patterns says. Mechanisms add `options` and fields(f) for all of it.
struct LearnedSettings {
  TileBudget budget;
  LearnSchedule schedule;

  void budget_fields(Fields& f);
  void schedule_fields(Fields& f);
  // Error(usage) unless a budget is given in one of its two ways, or where the schedule is out of order.
  void check_budget(const MapReader& map) const;
  void check(const MapReader& map) const;
};

// The pattern of a mechanism M(heads, budget, schedule, options, factory).
template <class M, class Settings>
class LearnedPatternOf final : public LearnedPattern {
 public:
  explicit LearnedPatternOf(Settings settings) : settings_(std::move(settings)) {}
  ConnectivityPtr make(const LearnedHeads& heads, const ParameterFactory& factory) const override {
    return std::make_shared<M>(heads, settings_.budget, settings_.schedule, settings_.options, factory);
  }

 private:
  Settings settings_;
};

}  // namespace filigree
