#include "attention/registry.h"

namespace filigree {
namespace {

class Full : public Pattern {
 public:
  bool allows(const Geometry&, int, std::int64_t, std::int64_t) const override { return true; }
  void row(const Geometry& g, int, std::int64_t, Intervals& out) const override { out.assign(1, {0, g.n}); }
};

}  // namespace

PatternPtr make_full(const YamlNode& body, const PatternContext&) {
  MapReader(body, "full").done();
  return std::make_shared<Full>();
}

}  // namespace filigree
