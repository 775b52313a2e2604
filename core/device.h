// The name of a device; what it does is in core/backend.h, its memory in core/allocator.h.
//
// `meta` is a device without memory or kernels: tensors have shapes and count bytes, kernels do nothing.
// Running a training step on it gives the exact peak memory in milliseconds (`--dry-run`). There is one in
// the place of the CPU and one in the place of a GPU, since their kernels want different workspaces.
#pragma once

#include <cstdint>
#include <string>

namespace filigree {

struct Device {
  enum class Type : std::uint8_t { cpu, cuda, meta };
  Type type = Type::cpu;
  int index = 0;

  static Device cpu() { return {Type::cpu, 0}; }
  static Device cuda(int index = 0) { return {Type::cuda, index}; }
  static Device meta() { return {Type::meta, 0}; }
  static Device meta_cuda() { return {Type::meta, 1}; }
  bool is_cpu() const { return type == Type::cpu; }
  bool is_cuda() const { return type == Type::cuda; }
  bool is_meta() const { return type == Type::meta; }
  bool like_cuda() const { return is_cuda() || *this == meta_cuda(); }
  std::string str() const {  // "cpu", "cuda:0", "meta"
    return is_cpu() ? "cpu" : is_meta() ? "meta" : "cuda:" + std::to_string(index);
  }
  bool operator==(const Device&) const = default;
};

}  // namespace filigree
