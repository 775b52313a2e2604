#include "core/tensor.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/kernels.h"

namespace filigree {

Shape::Shape(std::span<const std::int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  require(dims.size() <= kMaxRank, "[shape] {} dimensions; at most {} are supported", dims.size(), kMaxRank);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (const auto d : dims()) n *= d;
  return n;
}

Shape Shape::with(int i, std::int64_t dim) const {
  Shape s = *this;
  s.dims_[i < 0 ? i + rank_ : i] = dim;
  return s;
}

Shape Shape::append(std::int64_t dim) const {
  require(rank_ < kMaxRank, "[shape] more than {} dimensions", kMaxRank);
  Shape s = *this;
  s.dims_[s.rank_++] = dim;
  return s;
}

Shape Shape::drop_last() const {
  check(rank_ > 0, "a scalar has no last dimension");
  return Shape(dims().first(rank_ - 1));
}

std::string Shape::str() const {
  return fmt::format("[{}]", fmt::join(dims(), ", "));
}

struct Tensor::Storage {
  Storage(std::int64_t bytes, Device where) : device(where), data(allocator(where).allocate(bytes)) {}
  ~Storage() { allocator(device).deallocate(data); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  Device device;
  void* data;
};

Tensor Tensor::empty(const Shape& shape, DType type, Device device) {
  for (const auto d : shape.dims()) require(d >= 0, "[tensor] negative dimension in {}", shape.str());
  Tensor t;
  t.shape_ = shape;
  t.type_ = type;
  try {
    t.storage_ = std::make_shared<Storage>(t.bytes(), device);
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::out_of_memory) throw;
    throw Error(e.kind(),
                fmt::format("{}, wanted for a tensor {} {}", e.what(), dtype_name(type), shape.str()),
                e.hint());
  }
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType type, Device device) {
  Tensor t = empty(shape, type, device);
  t.fill_zero();
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType type, Device device) {
  Tensor t = empty(shape, type, device);
  on_device(device, [&](auto context) { fill(context, value, t); });
  return t;
}

Device Tensor::device() const {
  check(defined(), "an undefined tensor has no device");
  return storage_->device;
}

void* Tensor::raw_data() const {
  check(defined(), "an undefined tensor has no data");
  return storage_->device.is_meta() ? nullptr : static_cast<char*>(storage_->data) + offset_;
}

void* Tensor::raw(DType type) const {
  check(type == type_, "tensor read as another dtype than it has");
  check(!device().is_meta(), "a meta tensor has no data");
  return raw_data();
}

double Tensor::item(std::int64_t i) const {
  if (device().is_meta()) return 0;
  check(i >= 0 && i < numel(), "item out of range");
  if (!device().is_cpu()) return reshape({-1}).slice(i, i + 1).to(Device::cpu()).item();
  return with_dtype(type_, [&]<class T>(T) {
    if constexpr (std::is_same_v<T, bf16>)
      return static_cast<double>(static_cast<float>(data<T>()[i]));
    else
      return static_cast<double>(data<T>()[i]);
  });
}

Tensor Tensor::reshape(const Shape& shape) const {
  Shape target = shape;
  for (int i = 0; i < shape.rank(); ++i)
    if (shape[i] == -1) {
      const std::int64_t rest = shape.with(i, 1).numel();
      require(rest > 0 && numel() % rest == 0, "[reshape] {} does not fit {}", shape_.str(), shape.str());
      target = shape.with(i, numel() / rest);
    }
  require(target.numel() == numel(), "[reshape] {} does not fit {}", shape_.str(), shape.str());
  Tensor t = *this;
  t.shape_ = target;
  return t;
}

Tensor Tensor::slice(std::int64_t begin, std::int64_t end) const {
  require(rank() > 0 && 0 <= begin && begin <= end && end <= dim(0), "[slice] [{}, {}) of {}", begin, end,
          shape_.str());
  Tensor t = *this;
  t.shape_ = shape_.with(0, end - begin);
  if (dim(0) > 0) t.offset_ += begin * (bytes() / dim(0));
  return t;
}

Tensor Tensor::clone() const {
  Tensor t = empty(shape_, type_, device());
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& source) {
  require(shape_ == source.shape_ && type_ == source.type_, "[copy] {} {} from {} {}", dtype_name(type_),
          shape_.str(), dtype_name(source.type_), source.shape_.str());
  if (device().is_meta() || numel() == 0) return;
  if (source.device().is_meta()) return fill_zero();  // as item() reads it
  const bool from_cpu = source.device().is_cpu(), to_cpu = device().is_cpu();
  check(from_cpu || to_cpu || device() == source.device(), "a copy between two GPUs");
  Backend& there = backend(to_cpu ? source.device() : device());
  there.copy(raw_data(), source.raw_data(), bytes(),
             from_cpu == to_cpu ? CopyKind::within
             : from_cpu         ? CopyKind::from_host
                                : CopyKind::to_host);
  if (from_cpu != to_cpu) there.synchronize();
}

void Tensor::fill_zero() {
  backend(device()).zero(raw_data(), bytes());
}

Tensor Tensor::to(DType type) const {
  if (type == type_) return *this;
  for (const DType t : {type_, type})
    require(t == DType::f32 || t == DType::f64 || t == DType::bf16,
            "[to] conversions are between f32, f64 and bf16, not {}", dtype_name(t));
  Tensor t = empty(shape_, type, device());
  on_device(device(), [&](auto context) { convert(context, *this, t); });
  return t;
}

Tensor Tensor::to(Device target) const {
  if (target == device()) return *this;
  Tensor t = empty(shape_, type_, target);
  t.copy_from(*this);
  return t;
}

}  // namespace filigree
