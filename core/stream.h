// Work that runs ahead of the host: copies that do not wait, events, and steps captured as graphs. On the CPU
// everything happens at once, and the same code serves both devices.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "core/tensor.h"

namespace filigree {

class Backend;

void synchronize(Device device);

// Host memory that a device copies from and to without waiting: pinned for a GPU.
class HostBuffer {
 public:
  HostBuffer(std::int64_t bytes, Device device);
  template <class T>
  T* data() const {
    return static_cast<T*>(data_.get());
  }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<void> data_;
  std::int64_t bytes_;
};

// Enqueue copies of the tensor's bytes, from `offset` of the buffer or to its begin; the buffer must not
// change (or be read) before an Event after it.
void copy_async(Tensor& to, const HostBuffer& from, std::int64_t offset);
void copy_async(const HostBuffer& to, const Tensor& from);

// A point in the device's work.
class Event {
 public:
  explicit Event(Device device);
  void record();
  void wait() const;  // until everything enqueued before record() is done; at once if never recorded

 private:
  Backend* backend_;
  std::shared_ptr<void> event_;
  bool recorded_ = false;
};

// A piece of work that is captured once and launched many times, with the memory that it works in. It must
// not wait for the device, and what differs between launches must lie in tensors. On the CPU, f is called
// each time.
class Graph {
 public:
  Graph(Device device, std::function<void()> f);
  void launch();

 private:
  Backend* backend_;
  std::function<void()> f_;
  std::shared_ptr<void> pool_, graph_;
};

}  // namespace filigree
