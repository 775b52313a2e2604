#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>

#include "core/file.h"
#include "core/hdf5_library.h"

namespace filigree::h5 {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kAppendChunkBytes = 256 << 10;

}  // namespace

struct Writer::Impl {
  struct Appended {
    DType type = DType::u8;
    std::int64_t written = 0;        // elements in the file
    std::vector<std::byte> pending;  // less than one chunk
    Handle dataset;                  // made by the first flush
  };

  fs::path target;
  std::optional<Unfinished> unfinished;
  fs::path temporary;
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
    const std::int64_t free = free_bytes(folder_of(target));
    if (bytes <= free) return;
    failed = true;
    throw Error(
        ErrorKind::disk,
        fmt::format("cannot write {}: the disk is full ({:.1f} MB free, {:.1f} MB needed)", target.string(),
                    static_cast<double>(free) / 1e6, static_cast<double>(bytes) / 1e6),
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

Writer::Writer(const fs::path& named) : impl_(std::make_unique<Impl>()) {
  const fs::path target = is_stream(named) ? named : follow_links(named);
  require(!target.filename().empty(), "'{}' names no file to write", target.string());
  require(!is_stream(target), "{} is not a regular file, but HDF5 files are written to one", named.string());
  impl_->target = target;
  impl_->temporary = temporary_beside(target);
  impl_->unfinished.emplace(impl_->temporary);
  errno = 0;
  std::error_code ignored;
  impl_->need_system(fs::is_directory(folder_of(target), ignored) || (errno = ENOENT, false),
                     "folder " + folder_of(target).string());
  impl_->need_system(!fs::is_directory(target, ignored) || (errno = EISDIR, false), "the target");
  require(!fs::exists(target, ignored) || fs::is_regular_file(target, ignored),
          "{} is not a regular file; it would be replaced", target.string());
  impl_->need_system(::access(folder_of(target).c_str(), W_OK) == 0, "folder " + folder_of(target).string());
  remove_stale_temporaries(folder_of(target), target.filename().string());
  const Lock lock;
  Handle creation = fresh_properties(H5P_FILE_CREATE);
  check(H5Pset_obj_track_times(creation, false) >= 0, "H5Pset_obj_track_times");
  impl_->file =
      Handle(H5Fcreate(impl_->temporary.c_str(), H5F_ACC_EXCL, creation, file_access(true)), H5Fclose);
  if (!impl_->file.ok()) ::unlink(impl_->temporary.c_str());
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
  if (!closed) ::unlink(impl.temporary.c_str());
  impl.need(closed, "closing");
  publish(impl.temporary, impl.target);
}

}  // namespace filigree::h5
