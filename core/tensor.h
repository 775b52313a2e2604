// Tensor: dtype, shape and shared storage. Always contiguous and row-major; the only views are reshape and a
// slice of the leading dimension. Copies of a Tensor share its storage; clone() copies the data.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/check.h"
#include "core/device.h"
#include "core/dtype.h"

namespace filigree {

class Shape {
 public:
  static constexpr int kMaxRank = 6;
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims);

  int rank() const { return rank_; }
  // Negative indices count from the end.
  std::int64_t operator[](int i) const { return dims_[i < 0 ? i + rank_ : i]; }
  std::int64_t numel() const;
  std::span<const std::int64_t> dims() const { return {dims_.data(), static_cast<std::size_t>(rank_)}; }
  Shape with(int i, std::int64_t dim) const;  // a copy with one dimension replaced
  Shape append(std::int64_t dim) const;       // a copy with one more dimension at the end
  Shape drop_last() const;                    // a copy without the last dimension
  bool operator==(const Shape& o) const { return rank_ == o.rank_ && dims_ == o.dims_; }  // unused dims are 0
  std::string str() const;                                                                // "[2, 3]"

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

class Tensor {
 public:
  Tensor() = default;
  static Tensor empty(const Shape& shape, DType type = DType::f32, Device device = Device::cpu());
  static Tensor zeros(const Shape& shape, DType type = DType::f32, Device device = Device::cpu());
  static Tensor full(const Shape& shape, double value, DType type = DType::f32,
                     Device device = Device::cpu());
  template <class T>
  static Tensor of(const Shape& shape, std::span<const T> values, Device device = Device::cpu());
  template <class T>
  static Tensor of(const Shape& shape, const std::vector<T>& values, Device device = Device::cpu()) {
    return of(shape, std::span<const T>(values), device);
  }
  static Tensor empty_like(const Tensor& t) { return empty(t.shape(), t.dtype(), t.device()); }
  static Tensor zeros_like(const Tensor& t) { return zeros(t.shape(), t.dtype(), t.device()); }

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::int64_t dim(int i) const { return shape_[i]; }
  int rank() const { return shape_.rank(); }
  std::int64_t numel() const { return shape_.numel(); }
  std::int64_t bytes() const { return numel() * dtype_size(type_); }
  DType dtype() const { return type_; }
  Device device() const;

  // The elements; T must be the dtype's type and the device must have memory.
  template <class T>
  T* data() {
    return static_cast<T*>(raw(dtype_of<T>()));
  }
  template <class T>
  const T* data() const {
    return static_cast<const T*>(raw(dtype_of<T>()));
  }
  void* raw_data() const;  // the first byte, whatever the dtype; nullptr on meta
  template <class T>
  std::span<const T> values() const {
    return {data<T>(), static_cast<std::size_t>(numel())};
  }
  double item(std::int64_t i = 0) const;  // element i as a double; 0 on meta

  Tensor reshape(const Shape& shape) const;                  // one dimension may be -1
  Tensor slice(std::int64_t begin, std::int64_t end) const;  // of the leading dimension
  Tensor clone() const;
  Tensor to(DType type) const;     // converts (rounds to nearest even for bf16); itself if nothing changes
  Tensor to(Device device) const;  // copies; itself if nothing changes. To and from the CPU it waits
  void copy_from(const Tensor& source);  // same shape and dtype
  void fill_zero();

  bool shares_storage(const Tensor& o) const { return storage_ == o.storage_; }
  // True if nobody else holds this storage, so that it may be written in place.
  bool unique() const { return storage_.use_count() == 1; }

 private:
  struct Storage;
  void* raw(DType type) const;
  std::shared_ptr<Storage> storage_;
  std::int64_t offset_ = 0;  // in bytes
  Shape shape_;
  DType type_ = DType::f32;
};

template <class T>
Tensor Tensor::of(const Shape& shape, std::span<const T> values, Device device) {
  require(shape.numel() == std::ssize(values), "[tensor] {} values for shape {}", values.size(), shape.str());
  Tensor t = empty(shape, dtype_of<T>());
  std::copy(values.begin(), values.end(), t.data<T>());
  return t.to(device);
}

}  // namespace filigree
