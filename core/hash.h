// xxhash64 (https://xxhash.com): fast sums that detect damage. Not a defence against forgery.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace filigree {

std::uint64_t xxhash64(const void* data, std::size_t bytes);

// The same sum over data that comes in pieces.
class Xxhash64 {
 public:
  Xxhash64();
  ~Xxhash64();
  Xxhash64(const Xxhash64&) = delete;
  Xxhash64& operator=(const Xxhash64&) = delete;
  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string hex64(std::uint64_t value);  // 16 lower-case digits

}  // namespace filigree
