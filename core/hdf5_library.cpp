#include "core/hdf5_library.h"

#include <bit>
#include <cstring>

namespace filigree::h5 {

static_assert(std::endian::native == std::endian::little, "files and memory share one byte order");

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
static Handle make_bf16() {
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

}  // namespace filigree::h5
