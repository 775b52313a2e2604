// libhdf5 appears only here. The library is not thread-safe in the usual builds, so one mutex guards all of
// it.
#include "core/hdf5.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "core/check.h"

namespace filigree::h5 {

namespace fs = std::filesystem;

static_assert(std::endian::native == std::endian::little, "files and memory share one byte order");

namespace {

constexpr int kMaxRank = 8;
constexpr std::int64_t kMaxAttributeBytes = 32 << 10;
constexpr std::int64_t kAppendChunkBytes = 256 << 10;
constexpr std::int64_t kMaxFilteredChunkBytes = 64 << 20;
constexpr std::int64_t kMaxDeflateRatio = 1032;  // the most that deflate can shrink (zlib's technical notes)

// Holds the library. The first one sets it up: no crash in an exit handler after a full disk, no plugins from
// the environment, and no error stacks on stderr.
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

// What libhdf5 recorded first, which is the innermost and so the telling line.
std::string library_error() {
  std::string text;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* error, void* out) -> herr_t {
        auto& first = *static_cast<std::string*>(out);
        if (first.empty() && error->desc) first = error->desc;
        return 0;
      },
      &text);
  // "file write failed: time = ..., error message = 'No space left on device', buf = 0x..": keep the reason.
  if (const auto begin = text.find("error message = '"); begin != std::string::npos) {
    const auto from = begin + std::strlen("error message = '");
    text = text.substr(from, text.find('\'', from) - from);
  }
  return text.empty() ? "unknown HDF5 error" : text;
}

// libhdf5 has no bfloat16, but can describe one: sign 1, exponent 8 (bias 127), mantissa 7.
Handle make_bf16() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  const bool ok = type.ok() && H5Tset_fields(type, 15, 7, 8, 0, 7) >= 0 && H5Tset_precision(type, 16) >= 0 &&
                  H5Tset_size(type, 2) >= 0;
  check(ok, "libhdf5 refuses the bf16 type");
  return type;
}

hid_t file_type(DType type) {
  static const Handle bf16_type = make_bf16();
  switch (type) {
    case DType::f32:
      return H5T_IEEE_F32LE;
    case DType::f64:
      return H5T_IEEE_F64LE;
    case DType::bf16:
      return bf16_type;
    case DType::i32:
      return H5T_STD_I32LE;
    case DType::i64:
      return H5T_STD_I64LE;
    case DType::u8:
      return H5T_STD_U8LE;
    case DType::u16:
      return H5T_STD_U16LE;
    case DType::u32:
      return H5T_STD_U32LE;
  }
  check(false, "unknown dtype");
  return H5I_INVALID_HID;
}

std::optional<DType> dtype_of_file_type(hid_t id) {
  for (const DType type :
       {DType::f32, DType::f64, DType::bf16, DType::i32, DType::i64, DType::u8, DType::u16, DType::u32})
    if (H5Tequal(id, file_type(type)) > 0) return type;
  return std::nullopt;
}

// "a/b/c" as {"a", "b", "c"}; "" and "/" are the root, so {}.
std::vector<std::string> components(const std::string& path) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin < path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    if (end > begin) parts.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string joined(const std::string& path) {
  std::string text;
  for (const auto& part : components(path)) text += "/" + part;
  return text.empty() ? "/" : text;
}

Handle fresh_properties(hid_t kind) {
  Handle list(H5Pcreate(kind), H5Pclose);
  check(list.ok(), "libhdf5 makes no property list");
  return list;
}

// Chunks bypass the cache: our data is unfiltered, so libhdf5 then moves just the bytes asked for.
Handle uncached_access() {
  Handle access = fresh_properties(H5P_DATASET_ACCESS);
  check(H5Pset_chunk_cache(access, 0, 0, 1.0) >= 0, "H5Pset_chunk_cache");
  return access;
}

Handle file_access(bool lock_file) {
  Handle access = fresh_properties(H5P_FILE_ACCESS);
  const bool ok = H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_LATEST) >= 0 &&
                  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0 &&
                  H5Pset_file_locking(access, lock_file, true) >= 0;
  check(ok, "libhdf5 refuses the file access properties");
  return access;
}

bool fsync_path(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), flags | O_CLOEXEC);
  if (fd < 0) return false;
  const bool ok = ::fsync(fd) == 0;
  const int why = errno;
  const bool closed = ::close(fd) == 0;
  if (!ok) errno = why;
  return ok && closed;
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

constexpr const char* kTemporaryMark = ".tmp-";

// ".name.tmp-pid-n" beside the target: hidden, unique, and on the same file system, so that rename is atomic.
fs::path temporary_of(const fs::path& target) {
  static std::atomic<int> counter{0};
  return folder_of(target) /
         fmt::format(".{}{}{}-{}", target.filename().string(), kTemporaryMark, ::getpid(), counter++);
}

}  // namespace

void remove_stale_temporaries(const fs::path& folder, const std::string& file_name) {
  std::error_code ignored;
  const std::string prefix = "." + file_name;
  for (fs::directory_iterator it(folder, ignored), end; it != end; it.increment(ignored)) {
    const std::string name = it->path().filename().string();
    const auto mark = name.rfind(kTemporaryMark);
    const bool ours = name.front() == '.' && mark != std::string::npos && mark > 0 &&
                      (file_name.empty() || name.substr(0, mark) == prefix);
    if (!ours) continue;
    const int fd = ::open(it->path().c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) continue;
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) ::unlink(it->path().c_str());  // a live writer holds this lock
    ::close(fd);
  }
}

// ---------------------------------------------------------------------------------------------- Writer

struct Writer::Impl {
  struct Appended {
    DType type = DType::u8;
    std::int64_t written = 0;        // elements in the file
    std::vector<std::byte> pending;  // less than one chunk
    Handle dataset;                  // made by the first flush
  };

  fs::path target, temporary;
  Handle file;
  std::map<std::string, Appended> appended;
  bool failed = false;

  void need(bool ok, const std::string& what) {
    if (ok) return;
    failed = true;
    throw Error(ErrorKind::disk,
                fmt::format("cannot write {}: {}: {}", target.string(), what, library_error()),
                "check the free space and the permissions of the folder; the file is as it was before");
  }
  void need_system(bool ok, const std::string& what) {
    if (ok) return;
    failed = true;
    throw Error(ErrorKind::disk,
                fmt::format("cannot write {}: {}: {}", target.string(), what, std::strerror(errno)),
                "check the free space and the permissions of the folder; the file is as it was before");
  }
  void usable() const {
    check(file.ok(), "this h5::Writer is done");
    if (failed) fail(ErrorKind::disk, "cannot write {}: an earlier write failed", target.string());
  }
  // libhdf5 handles a full disk badly, so look before writing.
  void need_space(std::int64_t bytes) {
    struct statvfs info {};
    if (::statvfs(folder_of(target).c_str(), &info) != 0) return;
    const double free = static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize);
    if (static_cast<double>(bytes) <= free) return;
    failed = true;
    throw Error(ErrorKind::disk,
                fmt::format("cannot write {}: the disk is full ({:.1f} MB free, {:.1f} MB needed)",
                            target.string(), free / 1e6, static_cast<double>(bytes) / 1e6),
                "free some space; the file is as it was before");
  }

  void make_groups(const std::vector<std::string>& parts);
  void attribute(const std::string& group, const std::string& name, hid_t type, const void* value);
  Handle create(const std::string& path, DType type, const Dims& dims, std::int64_t chunk);
  void write(const std::string& path, DType type, const Dims& dims, const void* data);
  void flush(const std::string& path, Appended& stream, const std::byte* data, std::int64_t count);
  void discard();
};

void Writer::Impl::make_groups(const std::vector<std::string>& parts) {
  Handle properties = fresh_properties(H5P_GROUP_CREATE);
  check(H5Pset_obj_track_times(properties, false) >= 0, "H5Pset_obj_track_times");
  std::string path;
  for (const auto& part : parts) {
    path += "/" + part;
    const htri_t exists = H5Lexists(file, path.c_str(), H5P_DEFAULT);
    need(exists >= 0, "looking for group " + path);
    if (exists) continue;
    Handle group(H5Gcreate2(file, path.c_str(), H5P_DEFAULT, properties, H5P_DEFAULT), H5Gclose);
    need(group.ok(), "group " + path);
    need(group.close(), "group " + path);
  }
}

void Writer::Impl::attribute(const std::string& group, const std::string& name, hid_t type,
                             const void* value) {
  usable();
  const std::string path = joined(group);
  make_groups(components(group));
  Handle object(H5Oopen(file, path.c_str(), H5P_DEFAULT), H5Oclose);
  need(object.ok(), "opening " + path);
  check(H5Aexists(object, name.c_str()) == 0, "attribute " + path + "@" + name + " is written twice");
  Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  Handle created(H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  need(created.ok(), "attribute " + name);
  need(H5Awrite(created, type, value) >= 0, "attribute " + name);
  need(created.close() && object.close(), "attribute " + name);
}

// `chunk` in elements; 0 stores contiguously, which needs a known length.
Handle Writer::Impl::create(const std::string& path, DType type, const Dims& dims, std::int64_t chunk) {
  const std::string full = joined(path);
  auto parents = components(path);
  check(!parents.empty(), "a dataset needs a name");
  parents.pop_back();
  make_groups(parents);
  check(H5Lexists(file, full.c_str(), H5P_DEFAULT) == 0, "dataset " + full + " is written twice");
  Handle properties = fresh_properties(H5P_DATASET_CREATE);
  bool ok = H5Pset_obj_track_times(properties, false) >= 0 &&
            H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER) >= 0;
  const auto chunk_size = static_cast<hsize_t>(chunk);
  if (chunk > 0) ok = ok && H5Pset_chunk(properties, 1, &chunk_size) >= 0;
  check(ok, "libhdf5 refuses the dataset properties");
  const std::vector<hsize_t> sizes(dims.begin(), dims.end());
  const hsize_t unlimited = H5S_UNLIMITED;
  Handle space(sizes.empty() ? H5Screate(H5S_SCALAR)
                             : H5Screate_simple(static_cast<int>(sizes.size()), sizes.data(),
                                                chunk > 0 ? &unlimited : nullptr),
               H5Sclose);
  need(space.ok(), "dataset " + full);
  Handle created(
      H5Dcreate2(file, full.c_str(), file_type(type), space, H5P_DEFAULT, properties, uncached_access()),
      H5Dclose);
  need(created.ok(), "dataset " + full);
  return created;
}

void Writer::Impl::write(const std::string& path, DType type, const Dims& dims, const void* data) {
  usable();
  check(std::ssize(dims) <= kMaxRank, "dataset " + path + " has too many dimensions");
  const std::int64_t count = DatasetInfo{type, dims}.count();
  need_space(count * dtype_size(type));
  Handle created = create(path, type, dims, 0);
  if (count > 0)
    need(H5Dwrite(created, file_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0, "dataset " + path);
  need(created.close(), "dataset " + path);
}

void Writer::Impl::flush(const std::string& path, Appended& stream, const std::byte* data,
                         std::int64_t count) {
  const std::int64_t chunk = kAppendChunkBytes / dtype_size(stream.type);
  need_space(count * dtype_size(stream.type));
  if (!stream.dataset.ok())
    stream.dataset = create(path, stream.type, {0}, std::clamp<std::int64_t>(count, 1, chunk));
  if (count == 0) return;
  const auto begin = static_cast<hsize_t>(stream.written), length = static_cast<hsize_t>(count);
  const hsize_t extent = begin + length;
  need(H5Dset_extent(stream.dataset, &extent) >= 0, "growing " + path);
  Handle space(H5Dget_space(stream.dataset), H5Sclose);
  Handle memory(H5Screate_simple(1, &length, nullptr), H5Sclose);
  need(space.ok() && memory.ok() &&
           H5Sselect_hyperslab(space, H5S_SELECT_SET, &begin, nullptr, &length, nullptr) >= 0,
       "growing " + path);
  need(H5Dwrite(stream.dataset, file_type(stream.type), memory, space, H5P_DEFAULT, data) >= 0,
       "dataset " + path);
  stream.written += count;
}

// Gives the space back before closing: the close then has room for what libhdf5 still wants to write.
void Writer::Impl::discard() {
  if (!file.ok()) return;
  [[maybe_unused]] const int best_effort = ::truncate(temporary.c_str(), 0);
  for (auto& [path, stream] : appended) stream.dataset.close();
  file.close();
  ::unlink(temporary.c_str());
}

Writer::Writer(const fs::path& target) : impl_(std::make_unique<Impl>()) {
  require(!target.filename().empty(), "'{}' names no file to write", target.string());
  impl_->target = target;
  impl_->temporary = temporary_of(target);
  errno = 0;
  std::error_code ignored;
  impl_->need_system(fs::is_directory(folder_of(target), ignored) || (errno = ENOENT, false),
                     "folder " + folder_of(target).string());
  impl_->need_system(!fs::is_directory(target, ignored) || (errno = EISDIR, false), "the target");
  remove_stale_temporaries(folder_of(target), target.filename().string());
  const Lock lock;
  Handle creation = fresh_properties(H5P_FILE_CREATE);
  check(H5Pset_obj_track_times(creation, false) >= 0, "H5Pset_obj_track_times");
  impl_->file =
      Handle(H5Fcreate(impl_->temporary.c_str(), H5F_ACC_EXCL, creation, file_access(true)), H5Fclose);
  impl_->need(impl_->file.ok(), "creating a temporary file beside it");
}

Writer::~Writer() {
  const Lock lock;
  impl_->discard();
  impl_.reset();
}

void Writer::attribute(const std::string& group, const std::string& name, std::int64_t value) {
  const Lock lock;
  impl_->attribute(group, name, H5T_STD_I64LE, &value);
}

void Writer::attribute(const std::string& group, const std::string& name, double value) {
  const Lock lock;
  impl_->attribute(group, name, H5T_IEEE_F64LE, &value);
}

void Writer::attribute(const std::string& group, const std::string& name, const std::string& value) {
  check(std::ssize(value) < kMaxAttributeBytes && value.find('\0') == std::string::npos,
        "attribute " + name + " is too long or holds a NUL; use text()");
  const Lock lock;
  Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
  check(type.ok() && H5Tset_size(type, value.size() + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0,
        "libhdf5 refuses a string type");
  impl_->attribute(group, name, type, value.c_str());
}

void Writer::dataset(const std::string& path, DType type, const Dims& dims, const void* data) {
  const Lock lock;
  impl_->write(path, type, dims, data);
}

void Writer::text(const std::string& path, const std::string& value) {
  dataset(path, DType::u8, {std::ssize(value)}, value.data());
}

void Writer::begin_append(const std::string& path, DType type) {
  const Lock lock;
  impl_->usable();
  const auto [it, fresh] = impl_->appended.try_emplace(joined(path));
  check(fresh, "dataset " + path + " is begun twice");
  it->second.type = type;
}

void Writer::append(const std::string& path, const void* data, std::int64_t count) {
  const Lock lock;
  impl_->usable();
  const auto found = impl_->appended.find(joined(path));
  check(found != impl_->appended.end() && count >= 0, "append to " + path + " without begin_append");
  Impl::Appended& stream = found->second;
  const std::int64_t size = dtype_size(stream.type), chunk = kAppendChunkBytes / size;
  const auto* bytes = static_cast<const std::byte*>(data);
  while (count > 0) {
    const std::int64_t held = std::ssize(stream.pending) / size;
    if (held == 0 && count >= chunk) {  // whole chunks go out without a copy
      const std::int64_t whole = count / chunk * chunk;
      impl_->flush(found->first, stream, bytes, whole);
      bytes += whole * size;
      count -= whole;
      continue;
    }
    const std::int64_t taken = std::min(count, chunk - held);
    stream.pending.insert(stream.pending.end(), bytes, bytes + taken * size);
    bytes += taken * size;
    count -= taken;
    if (held + taken == chunk) {
      impl_->flush(found->first, stream, stream.pending.data(), chunk);
      stream.pending.clear();
    }
  }
}

void Writer::commit() {
  const Lock lock;
  Impl& impl = *impl_;
  impl.usable();
  for (auto& [path, stream] : impl.appended) {
    impl.flush(path, stream, stream.pending.data(), std::ssize(stream.pending) / dtype_size(stream.type));
    impl.need(stream.dataset.close(), "closing " + path);
  }
  impl.need(H5Fflush(impl.file, H5F_SCOPE_GLOBAL) >= 0, "flushing");
  const bool closed = impl.file.close();
  const auto undo_unless = [&](bool ok, const char* what) {
    const int why = errno;
    if (!ok) ::unlink(impl.temporary.c_str());
    errno = why;
    impl.need_system(ok, what);
  };
  if (!closed) ::unlink(impl.temporary.c_str());
  impl.need(closed, "closing");
  undo_unless(fsync_path(impl.temporary, O_RDWR), "fsync");
  undo_unless(::rename(impl.temporary.c_str(), impl.target.c_str()) == 0, "rename");
  impl.need_system(fsync_path(folder_of(impl.target), O_RDONLY | O_DIRECTORY), "fsync of the folder");
}

// ---------------------------------------------------------------------------------------------- Reader

std::int64_t DatasetInfo::count() const {
  std::int64_t product = 1;
  for (const std::int64_t dim : dims)
    if (dim < 0 || __builtin_mul_overflow(product, dim, &product))
      fail(ErrorKind::data, "a dataset's dimensions overflow");
  return product;
}

struct Reader::Impl {
  struct Opened {
    std::string path;
    Handle dataset;
    DatasetInfo info;
  };

  fs::path file_path;
  std::int64_t file_bytes = 0;
  Handle file;
  Opened last;  // loaders read many slices of one dataset

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorKind::data,
                fmt::format("{}: {}", file_path.string(), fmt::format(format, std::forward<Args>(args)...)),
                "the file is damaged or of another kind; make it again or take another copy");
  }

  bool exists(const std::string& path) const;
  Handle object(const std::string& path) const;
  Handle attribute(const std::string& group, const std::string& name) const;
  template <class T>
  T scalar(const std::string& group, const std::string& name, hid_t type) const;
  void check_storage(const std::string& path, hid_t dataset, const DatasetInfo& info) const;
  const Opened& open(const std::string& path);
};

// Follows hard links only, so that nothing leads to another file.
bool Reader::Impl::exists(const std::string& path) const {
  std::string walked;
  for (const auto& part : components(path)) {
    walked += "/" + part;
    const htri_t found = H5Lexists(file, walked.c_str(), H5P_DEFAULT);
    if (found == 0) return false;
    H5L_info_t info{};
    if (found < 0 || H5Lget_info(file, walked.c_str(), &info, H5P_DEFAULT) < 0)
      bad("cannot look up {} ({})", walked, library_error());
    if (info.type != H5L_TYPE_HARD) bad("{} is a soft or external link, which is refused", walked);
  }
  return true;
}

Handle Reader::Impl::object(const std::string& path) const {
  const std::string full = joined(path);
  if (!exists(full)) bad("there is no {}", full);
  Handle opened(H5Oopen(file, full.c_str(), H5P_DEFAULT), H5Oclose);
  if (!opened.ok()) bad("cannot open {} ({})", full, library_error());
  return opened;
}

Handle Reader::Impl::attribute(const std::string& group, const std::string& name) const {
  const Handle owner = object(group);
  const htri_t found = H5Aexists(owner, name.c_str());
  if (found <= 0) bad("{} has no attribute '{}'", joined(group), name);
  Handle opened(H5Aopen(owner, name.c_str(), H5P_DEFAULT), H5Aclose);
  if (!opened.ok()) bad("cannot open attribute '{}' ({})", name, library_error());
  const Handle space(H5Aget_space(opened), H5Sclose);
  if (!space.ok() || H5Sget_simple_extent_npoints(space) != 1) bad("attribute '{}' is not one value", name);
  return opened;
}

template <class T>
T Reader::Impl::scalar(const std::string& group, const std::string& name, hid_t type) const {
  const Handle opened = attribute(group, name);
  const Handle stored(H5Aget_type(opened), H5Tclose);
  if (!stored.ok() || H5Tequal(stored, type) <= 0) bad("attribute '{}' has another type than expected", name);
  T value{};
  if (H5Aread(opened, type, &value) < 0) bad("cannot read attribute '{}' ({})", name, library_error());
  return value;
}

// Bounds what a read can allocate or touch by what the file really holds.
void Reader::Impl::check_storage(const std::string& path, hid_t dataset, const DatasetInfo& info) const {
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(info.count(), dtype_size(info.type), &bytes))
    bad("{} claims an impossible size", path);
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  const H5D_layout_t layout = properties.ok() ? H5Pget_layout(properties) : H5D_LAYOUT_ERROR;
  const int n_filters = properties.ok() ? H5Pget_nfilters(properties) : -1;
  if (layout == H5D_LAYOUT_ERROR || n_filters < 0)
    bad("cannot read the layout of {} ({})", path, library_error());
  for (unsigned i = 0; i < static_cast<unsigned>(n_filters); ++i) {
    unsigned flags = 0;
    size_t n_values = 0;
    const H5Z_filter_t id = H5Pget_filter2(properties, i, &flags, &n_values, nullptr, 0, nullptr, nullptr);
    if (id != H5Z_FILTER_DEFLATE && id != H5Z_FILTER_SHUFFLE && id != H5Z_FILTER_FLETCHER32)
      bad("{} uses filter {}; only deflate, shuffle and fletcher32 are read", path, static_cast<int>(id));
  }
  if (layout == H5D_CHUNKED) {
    std::array<hsize_t, kMaxRank> chunk{};
    if (H5Pget_chunk(properties, kMaxRank, chunk.data()) < 0) bad("cannot read the chunks of {}", path);
    double chunk_bytes = static_cast<double>(dtype_size(info.type));
    for (std::size_t i = 0; i < info.dims.size(); ++i) chunk_bytes *= static_cast<double>(chunk[i]);
    if (n_filters > 0 && chunk_bytes > kMaxFilteredChunkBytes) bad("the chunks of {} are too large", path);
  }
  const auto stored = static_cast<double>(H5Dget_storage_size(dataset));
  const double expansion = n_filters > 0 ? kMaxDeflateRatio : 1;
  if (stored > static_cast<double>(file_bytes) || static_cast<double>(bytes) > stored * expansion)
    bad("{} claims {} bytes, more than the file holds", path, bytes);
  if (layout == H5D_CONTIGUOUS && bytes > 0) {
    const haddr_t offset = H5Dget_offset(dataset);
    if (offset == HADDR_UNDEF || offset > static_cast<haddr_t>(file_bytes - bytes))
      bad("{} lies outside the file", path);
  }
}

const Reader::Impl::Opened& Reader::Impl::open(const std::string& path) {
  const std::string full = joined(path);
  if (last.dataset.ok() && last.path == full) return last;
  last = {};
  if (!exists(full)) bad("there is no dataset {}", full);
  H5O_info_t object_info{};
  if (H5Oget_info_by_name(file, full.c_str(), &object_info, H5P_DEFAULT) < 0 ||
      object_info.type != H5O_TYPE_DATASET)
    bad("{} is not a dataset", full);
  Handle dataset(H5Dopen2(file, full.c_str(), uncached_access()), H5Dclose);
  if (!dataset.ok()) bad("cannot open {} ({})", full, library_error());
  // First of all the two layouts that would make libhdf5 open other files.
  const Handle properties(H5Dget_create_plist(dataset), H5Pclose);
  if (!properties.ok() || H5Pget_layout(properties) == H5D_VIRTUAL || H5Pget_external_count(properties) != 0)
    bad("{} keeps its data elsewhere (virtual or external), which is refused", full);
  const Handle stored(H5Dget_type(dataset), H5Tclose);
  const auto type = stored.ok() ? dtype_of_file_type(stored) : std::nullopt;
  if (!type) bad("{} has an element type that filigree does not use", full);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  const int rank = space.ok() ? H5Sget_simple_extent_ndims(space) : -1;
  if (rank < 0 || rank > kMaxRank || H5Sget_simple_extent_type(space) == H5S_NULL)
    bad("{} has rank {}; at most {} is read", full, rank, kMaxRank);
  std::array<hsize_t, kMaxRank> sizes{};
  if (H5Sget_simple_extent_dims(space, sizes.data(), nullptr) < 0) bad("cannot read the shape of {}", full);
  DatasetInfo info{*type, {}};
  for (int i = 0; i < rank; ++i)
    info.dims.push_back(static_cast<std::int64_t>(sizes[static_cast<size_t>(i)]));
  check_storage(full, dataset, info);
  last = {full, std::move(dataset), std::move(info)};
  return last;
}

Reader::Reader(const fs::path& file) : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.file_path = file;
  std::error_code error;
  const fs::file_status status = fs::status(file, error);
  if (status.type() == fs::file_type::not_found) fail(ErrorKind::data, "{}: no such file", file.string());
  if (status.type() != fs::file_type::regular) fail(ErrorKind::data, "{}: not a regular file", file.string());
  if (::access(file.c_str(), R_OK) != 0) fail(ErrorKind::data, "{}: {}", file.string(), std::strerror(errno));
  impl.file_bytes = static_cast<std::int64_t>(fs::file_size(file, error));
  if (error || impl.file_bytes <= 0) impl.bad("the file is empty");
  const Lock lock;
  if (H5Fis_hdf5(file.c_str()) <= 0) impl.bad("not an HDF5 file");
  // No lock file-wise: writers replace files whole, and read-only file systems may not lock at all.
  impl.file = Handle(H5Fopen(file.c_str(), H5F_ACC_RDONLY, file_access(false)), H5Fclose);
  if (!impl.file.ok()) impl.bad("damaged or truncated ({})", library_error());
}

Reader::~Reader() {
  const Lock lock;
  impl_.reset();
}
Reader::Reader(Reader&&) noexcept = default;
Reader& Reader::operator=(Reader&& other) noexcept {
  const Lock lock;
  impl_ = std::move(other.impl_);
  return *this;
}

const fs::path& Reader::path() const {
  return impl_->file_path;
}

bool Reader::has(const std::string& path) const {
  const Lock lock;
  return impl_->exists(path);
}

std::vector<std::string> Reader::children(const std::string& group) const {
  const Lock lock;
  const Handle opened = impl_->object(group);
  H5G_info_t info{};
  if (H5Gget_info(opened, &info) < 0) impl_->bad("{} is not a group", joined(group));
  if (info.nlinks > static_cast<hsize_t>(impl_->file_bytes))
    impl_->bad("{} claims too many entries", joined(group));
  std::vector<std::string> names;
  const herr_t walked = H5Literate(
      opened, H5_INDEX_NAME, H5_ITER_INC, nullptr,
      [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
        static_cast<std::vector<std::string>*>(out)->emplace_back(name);
        return 0;
      },
      &names);
  if (walked < 0) impl_->bad("cannot list {} ({})", joined(group), library_error());
  std::sort(names.begin(), names.end());
  return names;
}

bool Reader::has_attribute(const std::string& group, const std::string& name) const {
  const Lock lock;
  return impl_->exists(group) && H5Aexists(impl_->object(group), name.c_str()) > 0;
}

std::int64_t Reader::integer(const std::string& group, const std::string& name) const {
  const Lock lock;
  return impl_->scalar<std::int64_t>(group, name, H5T_STD_I64LE);
}

double Reader::number(const std::string& group, const std::string& name) const {
  const Lock lock;
  return impl_->scalar<double>(group, name, H5T_IEEE_F64LE);
}

std::string Reader::string(const std::string& group, const std::string& name) const {
  const Lock lock;
  const Handle opened = impl_->attribute(group, name);
  const Handle type(H5Aget_type(opened), H5Tclose);
  const bool fixed = type.ok() && H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
  const size_t size = fixed ? H5Tget_size(type) : 0;
  if (!fixed || size == 0 || size > static_cast<size_t>(kMaxAttributeBytes))
    impl_->bad("attribute '{}' is not a string of fixed length", name);
  std::string value(size, '\0');
  if (H5Aread(opened, type, value.data()) < 0)
    impl_->bad("cannot read attribute '{}' ({})", name, library_error());
  value.resize(std::min(value.find('\0'), value.size()));
  return value;
}

std::string Reader::text(const std::string& path) const {
  const DatasetInfo shape = info(path);
  std::string value(static_cast<std::size_t>(shape.count()), '\0');
  read(path, DType::u8, shape.count(), value.data());
  return value;
}

DatasetInfo Reader::info(const std::string& path) const {
  const Lock lock;
  return impl_->open(path).info;
}

void Reader::read(const std::string& path, DType type, std::int64_t count, void* out) const {
  const Lock lock;
  const Impl::Opened& opened = impl_->open(path);
  if (opened.info.type != type || opened.info.count() != count)
    impl_->bad("{} holds {} elements of {}, expected {} of {}", opened.path, opened.info.count(),
               dtype_name(opened.info.type), count, dtype_name(type));
  if (count == 0) return;
  if (H5Dread(opened.dataset, file_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0)
    impl_->bad("cannot read {} ({})", opened.path, library_error());
}

void Reader::read_slice(const std::string& path, DType type, std::int64_t begin, std::int64_t count,
                        void* out) const {
  const Lock lock;
  const Impl::Opened& opened = impl_->open(path);
  if (opened.info.type != type || opened.info.dims.size() != 1)
    impl_->bad("{} is {} of rank {}, expected {} of rank 1", opened.path, dtype_name(opened.info.type),
               opened.info.dims.size(), dtype_name(type));
  check(begin >= 0 && count >= 0 && count <= opened.info.dims[0] - begin, "slice outside " + opened.path);
  if (count == 0) return;
  const auto from = static_cast<hsize_t>(begin), length = static_cast<hsize_t>(count);
  const Handle space(H5Dget_space(opened.dataset), H5Sclose);
  const Handle memory(H5Screate_simple(1, &length, nullptr), H5Sclose);
  const bool ok = space.ok() && memory.ok() &&
                  H5Sselect_hyperslab(space, H5S_SELECT_SET, &from, nullptr, &length, nullptr) >= 0 &&
                  H5Dread(opened.dataset, file_type(type), memory, space, H5P_DEFAULT, out) >= 0;
  if (!ok) impl_->bad("cannot read {} ({})", opened.path, library_error());
}

}  // namespace filigree::h5
