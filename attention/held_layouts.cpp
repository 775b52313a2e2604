#include "attention/held_layouts.h"

#include <map>
#include <mutex>

#include "core/hash.h"

namespace filigree {
namespace {

struct Held {
  std::mutex mutex;
  std::map<std::string, LayoutPtr> by_sum;
};

Held& held() {
  static Held instance;
  return instance;
}

}  // namespace

std::string hold_layout(std::string_view file, const std::string& name) {
  const std::string sum = hex64(xxhash64(file.data(), file.size()));
  if (held_layout(sum)) return sum;
  auto layout = std::make_shared<const TileLayout>(parse_layout(file, name));
  const std::lock_guard lock(held().mutex);
  held().by_sum.emplace(sum, std::move(layout));
  return sum;
}

LayoutPtr held_layout(const std::string& sum) {
  const std::lock_guard lock(held().mutex);
  const auto found = held().by_sum.find(sum);
  return found == held().by_sum.end() ? nullptr : found->second;
}

}  // namespace filigree
