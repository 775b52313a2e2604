// The parts that the HDF5 writer and reader share: the lock, ids that close themselves, types and paths.
// libhdf5 is included here and in hdf5_*.cpp only.
#pragma once

#include <hdf5.h>

#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/hdf5.h"

namespace filigree::h5 {

constexpr int kMaxRank = 8;
constexpr std::int64_t kMaxAttributeBytes = 32 << 10;

// Holds the library, which is not thread-safe in the usual builds. The first one sets it up: no crash in an
// exit handler after a full disk, no plugins from the environment, and no error stacks on stderr.
class Lock {
 public:
  Lock() : guard_(mutex()) {
    static const bool ready = [] {
      H5dont_atexit();
      return H5open() >= 0 && H5PLset_loading_state(0) >= 0;
    }();
    check(ready, "libhdf5 does not start");
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // per thread in a thread-safe build
  }

 private:
  static std::mutex& mutex() {
    static std::mutex instance;
    return instance;
  }
  std::lock_guard<std::mutex> guard_;
};

// An id and the function that closes it.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close closer) : id_(id), closer_(closer) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, H5I_INVALID_HID)), closer_(other.closer_) {}
  Handle& operator=(Handle&& other) noexcept {
    close();
    id_ = std::exchange(other.id_, H5I_INVALID_HID);
    closer_ = other.closer_;
    return *this;
  }
  ~Handle() { close(); }

  bool ok() const { return id_ >= 0; }
  operator hid_t() const { return id_; }
  bool close() {
    const hid_t id = std::exchange(id_, H5I_INVALID_HID);
    return id < 0 || closer_(id) >= 0;
  }

 private:
  hid_t id_ = H5I_INVALID_HID;
  Close closer_ = nullptr;
};

// The message that libhdf5 recorded first, which is the innermost and so the telling one.
std::string library_error();

hid_t file_type(DType type);
std::optional<DType> dtype_of_file_type(hid_t id);

// "a/b/c" as {"a", "b", "c"}; "" and "/" are the root, so {}.
std::vector<std::string> components(const std::string& path);
std::string joined(const std::string& path);  // "/a/b/c", "/"

Handle fresh_properties(hid_t kind);
// Chunks bypass the cache: our data is unfiltered, so libhdf5 then moves just the bytes asked for.
Handle uncached_access();
Handle file_access(bool lock_file);

}  // namespace filigree::h5
