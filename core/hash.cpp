#include "core/hash.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace filigree {

struct Xxhash64::State {
  XXH64_state_t value;
};

std::uint64_t xxhash64(const void* data, std::size_t bytes) {
  return XXH64(data, bytes, 0);
}

Xxhash64::Xxhash64() : state_(std::make_unique<State>()) {
  XXH64_reset(&state_->value, 0);
}
Xxhash64::~Xxhash64() = default;

void Xxhash64::update(const void* data, std::size_t bytes) {
  XXH64_update(&state_->value, data, bytes);
}

std::uint64_t Xxhash64::digest() const {
  return XXH64_digest(&state_->value);
}

std::string hex64(std::uint64_t value) {
  return fmt::format("{:016x}", value);
}

}  // namespace filigree
