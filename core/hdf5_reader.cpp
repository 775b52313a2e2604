#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/hdf5_library.h"

namespace filigree::h5 {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMaxFilteredChunkBytes = 64 << 20;
constexpr std::int64_t kMaxDeflateRatio = 1032;  // the most that deflate can shrink (zlib's technical notes)

}  // namespace

std::int64_t DatasetInfo::count() const {
  std::int64_t product = 1;
  for (const std::int64_t dim : dims) product *= dim;  // checked for overflow when the dataset was opened
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
  std::int64_t count = 1;
  bool overflow = false;
  for (const std::int64_t dim : info.dims) overflow |= dim < 0 || __builtin_mul_overflow(count, dim, &count);
  if (overflow || __builtin_mul_overflow(count, dtype_size(info.type), &bytes))
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
    double chunk_bytes = dtype_size(info.type);
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

Reader::Reader(std::string_view bytes, const fs::path& name) : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.file_path = name;
  impl.file_bytes = std::ssize(bytes);
  if (bytes.empty()) impl.bad("the file is empty");
  const Lock lock;
  const Handle access = file_access(false);
  constexpr std::size_t kGrowth = 1 << 16;  // of a file that is written, which this one is not
  const bool ready = H5Pset_fapl_core(access, kGrowth, false) >= 0 &&
                     H5Pset_file_image(access, const_cast<char*>(bytes.data()), bytes.size()) >= 0;
  if (!ready) impl.bad("cannot be read from memory ({})", library_error());
  // libhdf5 takes files of one name for one file, and refuses the name of a file on disk.
  static std::int64_t opened = 0;
  const std::string unused = fmt::format("{} in memory {}", name.string(), ++opened);
  impl.file = Handle(H5Fopen(unused.c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  if (!impl.file.ok()) impl.bad("not an HDF5 file, damaged or truncated ({})", library_error());
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
  // In native order: any other makes libhdf5 build a table that it frees wrongly when the file is damaged.
  const herr_t walked = H5Literate(
      opened, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr,
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
  std::string value(shape.count(), '\0');
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
