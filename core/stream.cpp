#include "core/stream.h"

#include <cstdlib>
#include <cstring>
#include <new>

#ifdef FILIGREE_CUDA
#include "core/cuda/runtime.h"
#endif

namespace filigree {

void synchronize([[maybe_unused]] Device device) {
#ifdef FILIGREE_CUDA
  if (device.is_cuda()) cuda::synchronize(device.index);
#endif
}

HostBuffer::HostBuffer(std::int64_t bytes, [[maybe_unused]] Device device) : bytes_(bytes) {
#ifdef FILIGREE_CUDA
  if (device.is_cuda()) {
    data_ = std::shared_ptr<void>(cuda::allocate_pinned(bytes), cuda::release_pinned);
    return;
  }
#endif
  data_ = std::shared_ptr<void>(std::calloc(static_cast<std::size_t>(bytes), 1), std::free);
  if (!data_) throw std::bad_alloc();
}

void copy_async(Tensor& to, const HostBuffer& from, std::int64_t offset) {
  check(offset + to.bytes() <= from.bytes(), "a host buffer is too small");
  if (to.device().is_meta()) return;
#ifdef FILIGREE_CUDA
  if (to.device().is_cuda())
    return cuda::copy_to_device_async(to.device().index, to.raw_data(), from.data<char>() + offset,
                                      to.bytes());
#endif
  std::memcpy(to.raw_data(), from.data<char>() + offset, to.bytes());
}

void copy_async(const HostBuffer& to, const Tensor& from) {
  check(from.bytes() <= to.bytes(), "a host buffer is too small");
  if (from.device().is_meta()) return;
#ifdef FILIGREE_CUDA
  if (from.device().is_cuda())
    return cuda::copy_to_host_async(from.device().index, to.data<void>(), from.raw_data(), from.bytes());
#endif
  std::memcpy(to.data<void>(), from.raw_data(), from.bytes());
}

Event::Event(Device device) : device_(device) {
#ifdef FILIGREE_CUDA
  if (device_.is_cuda()) event_ = std::shared_ptr<void>(cuda::make_event(), cuda::free_event);
#endif
}

void Event::record() {
  recorded_ = true;
#ifdef FILIGREE_CUDA
  if (device_.is_cuda()) cuda::record_event(device_.index, event_.get());
#endif
}

void Event::wait() const {
#ifdef FILIGREE_CUDA
  if (device_.is_cuda() && recorded_) cuda::wait_event(event_.get());
#endif
}

// In a GPU's place the meta device counts the memory that the graph works in, and keeps it.
Graph::Graph(Device device, std::function<void()> f) : device_(device), f_(std::move(f)) {
  if (!device_.like_cuda()) return;
  synchronize(device_);
  GraphPool pool(device_);
#ifdef FILIGREE_CUDA
  if (device_.is_cuda())
    graph_ = std::shared_ptr<void>(cuda::capture_graph(device_.index, f_), cuda::free_graph);
#endif
  if (device_.is_meta()) f_();
  pool_ = pool.close();
}

void Graph::launch() {
#ifdef FILIGREE_CUDA
  if (graph_) return cuda::launch_graph(device_.index, graph_.get());
#endif
  if (!pool_) f_();
}

}  // namespace filigree
