#include "attention/learned/learned_settings.h"

namespace filigree {

void LearnedSettings::budget_fields(Fields& f) {
  f.number("budget", budget.share, between(1e-6, 1), "share of full attention's tiles to keep",
           {.default_text = "by tiles", .print = false});
  f.integer("tiles", budget.tiles, between(1, std::int64_t{1} << 40), "instead: their number per layer",
            {.default_text = "by budget", .print = false});
}

void LearnedSettings::schedule_fields(Fields& f) {
  LearnSchedule& s = schedule;
  f.number("warmup", s.warmup, between(0, 1), "share of the run's steps before tiles begin to go");
  f.number("anneal", s.anneal, between(0, 1), "share of the steps at which the budget is reached");
  f.number("harden", s.harden, between(0, 1), "share of the steps from which the layout is fixed");
  f.integer("refresh", s.refresh, between(1, 1 << 20), "steps between two choices of the tiles");
  f.number("lr", s.lr, between(0, 1e6), "learning rate of the mechanism's parameters, times train.lr");
}

void LearnedSettings::check_budget(const MapReader& map) const {
  const bool share = map.has("budget"), tiles = map.has("tiles");
  if (share == tiles)
    fail_at(
        map.node().mark,
        share ? fmt::format("{} and {} exclude each other", map.name("budget"), map.name("tiles"))
              : fmt::format("{} is missing", map.name("budget")),
        "budget: the share of full attention's tiles to keep, such as 0.1; tiles: their number per layer");
}

void LearnedSettings::check(const MapReader& map) const {
  check_budget(map);
  const LearnSchedule& s = schedule;
  if (!(s.warmup < s.anneal && s.anneal <= s.harden))
    fail_at(map.node().mark,
            fmt::format("{} {} < {} {} <= {} {} does not hold", map.name("warmup"), s.warmup,
                        map.name("anneal"), s.anneal, map.name("harden"), s.harden),
            "they are shares of the run's steps, in this order");
}

}  // namespace filigree
