#include "core/stream.h"

#include <utility>

#include "core/backend.h"

namespace filigree {

void synchronize(Device device) {
  backend(device).synchronize();
}

HostBuffer::HostBuffer(std::int64_t bytes, Device device)
    : data_(backend(device).host_memory(bytes)), bytes_(bytes) {}

void copy_async(Tensor& to, const HostBuffer& from, std::int64_t offset) {
  check(offset + to.bytes() <= from.bytes(), "a host buffer is too small");
  backend(to.device()).copy(to.raw_data(), from.data<char>() + offset, to.bytes(), CopyKind::from_host);
}

void copy_async(const HostBuffer& to, const Tensor& from) {
  check(from.bytes() <= to.bytes(), "a host buffer is too small");
  backend(from.device()).copy(to.data<void>(), from.raw_data(), from.bytes(), CopyKind::to_host);
}

Event::Event(Device device) : backend_(&backend(device)), event_(backend_->make_event()) {}

void Event::record() {
  recorded_ = true;
  backend_->record(event_.get());
}

void Event::wait() const {
  if (recorded_) backend_->wait(event_.get());
}

Graph::Graph(Device device, std::function<void()> f) : backend_(&backend(device)), f_(std::move(f)) {
  if (!device.like_cuda()) return;
  backend_->synchronize();
  GraphPool pool(device);
  graph_ = backend_->capture(f_);
  pool_ = pool.close();
}

void Graph::launch() {
  if (graph_)
    backend_->launch(graph_.get());
  else if (!pool_)
    f_();
}

}  // namespace filigree
