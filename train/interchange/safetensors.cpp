#include "train/interchange/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "core/file.h"
#include "train/interchange/json_file.h"
#include "train/interchange/safetensors_header.h"

namespace filigree {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

static_assert(std::endian::native == std::endian::little, "safetensors stores numbers in little endian");

constexpr std::int64_t kMaxHeaderBytes = 100'000'000;
constexpr std::int64_t kBlock = 1 << 18;  // elements converted at a time

[[noreturn]] void refuse(const fs::path& path, const std::string& what) {
  throw Error(ErrorKind::data, fmt::format("{}: {}", path.string(), what),
              "the file is damaged or no safetensors file");
}

// IEEE half precision: sign, 5 bits of exponent (bias 15), 10 of fraction.
float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h >> 15) << 31;
  const std::uint32_t exponent = h >> 10 & 31u, fraction = h & 1023u;
  if (exponent == 0) {  // zero and subnormal: fraction / 2^24
    const float size = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -size : size;
  }
  const std::uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

float convert(float x) {
  return x;
}
float convert(double x) {
  return static_cast<float>(x);
}
float convert(bf16 x) {
  return static_cast<float>(x);
}
float convert(std::uint16_t half) {
  return half_to_float(half);
}

std::string index_name() {
  return "model.safetensors.index.json";
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) fail(ErrorKind::data, "{}: cannot be read: {}", path.string(), std::strerror(errno));
  try {
    read_header();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      data_begin_(other.data_begin_),
      entries_(std::move(other.entries_)),
      metadata_(std::move(other.metadata_)) {}

void SafetensorsFile::read_header() {
  struct stat info {};
  if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode)) refuse(path_, "is not a regular file");
  const auto file_bytes = static_cast<std::int64_t>(info.st_size);
  if (file_bytes < 8) refuse(path_, fmt::format("has {} bytes, too few for a header", file_bytes));
  std::uint64_t length = 0;
  read_bytes(&length, 8, 0);
  if (length > kMaxHeaderBytes)
    refuse(path_, fmt::format("its header has {} bytes; at most {} are allowed", length, kMaxHeaderBytes));
  const auto header_bytes = static_cast<std::int64_t>(length);
  if (header_bytes > file_bytes - 8)
    refuse(path_, fmt::format("is cut: its header has {} bytes, the file {}", header_bytes, file_bytes));
  std::string text(header_bytes, '\0');
  read_bytes(text.data(), text.size(), 8);
  if (!text.starts_with('{')) refuse(path_, "the header does not begin with '{'");
  SafetensorsHeader header = parse_safetensors_header(text, path_.string());
  entries_ = std::move(header.entries);
  metadata_ = std::move(header.metadata);
  data_begin_ = 8 + header_bytes;
  check_layout(file_bytes - data_begin_);
}

// The tensors' bytes must follow each other from the first to the last byte of the file.
void SafetensorsFile::check_layout(std::int64_t data_bytes) {
  std::ranges::sort(entries_, {}, [](const Entry& e) { return std::tie(e.begin, e.end, e.name); });
  std::int64_t at = 0;
  for (const Entry& e : entries_) {
    if (e.begin < at) refuse(path_, fmt::format("tensor {} overlaps the one before it", shown_name(e.name)));
    if (e.begin > at)
      refuse(path_,
             fmt::format("there is a hole of {} bytes before tensor {}", e.begin - at, shown_name(e.name)));
    if (e.end > data_bytes)
      refuse(path_,
             fmt::format("is cut: tensor {} ends at byte {} of {}", shown_name(e.name), e.end, data_bytes));
    at = e.end;
  }
  if (at < data_bytes) refuse(path_, fmt::format("{} bytes follow the last tensor", data_bytes - at));
}

void SafetensorsFile::read_bytes(void* out, std::size_t bytes, std::int64_t offset) const {
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd_, to, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(ErrorKind::data, "{}: cannot be read: {}", path_.string(), std::strerror(errno));
    if (got == 0) refuse(path_, "was cut while it was read");
    to += got;
    offset += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

void SafetensorsFile::require_readable(const Entry& entry) const {
  for (const char* dtype : {"F32", "F64", "F16", "BF16"})
    if (entry.dtype == dtype) return;
  throw Error(
      ErrorKind::data,
      fmt::format("{}: tensor {} has the dtype {}", path_.string(), shown_name(entry.name), entry.dtype),
      "weights must be F32, F64, F16 or BF16; quantised models have to be converted first");
}

void SafetensorsFile::read(const Entry& entry, float* out) const {
  require_readable(entry);
  const auto read_as = [&]<class T>(T) {
    const std::int64_t count = (entry.end - entry.begin) / static_cast<std::int64_t>(sizeof(T));
    std::vector<T> block(std::min(count, kBlock));
    for (std::int64_t at = 0; at < count; at += kBlock) {
      const std::int64_t n = std::min(kBlock, count - at);
      read_bytes(block.data(), static_cast<std::size_t>(n) * sizeof(T),
                 data_begin_ + entry.begin + at * static_cast<std::int64_t>(sizeof(T)));
      std::transform(block.begin(), block.begin() + n, out + at, [](T x) { return convert(x); });
    }
  };
  if (entry.dtype == "F32")
    read_as(float{});
  else if (entry.dtype == "F64")
    read_as(double{});
  else if (entry.dtype == "BF16")
    read_as(bf16{});
  else
    read_as(std::uint16_t{});
}

SafetensorsFolder::SafetensorsFolder(const fs::path& folder) : folder_(folder) {
  std::error_code ignored;
  if (fs::exists(folder / "model.safetensors", ignored))
    add_file(folder / "model.safetensors");
  else if (fs::exists(folder / index_name(), ignored))
    open_shards(folder / index_name());
  else
    throw Error(ErrorKind::data,
                fmt::format("{}: there is no model.safetensors and no {}", folder.string(), index_name()),
                "name the folder of a model in the format of Hugging Face transformers, with safetensors");
}

void SafetensorsFolder::add_file(const fs::path& path) {
  files_.emplace_back(path);
  for (const auto& entry : files_.back().entries())
    if (!places_.emplace(entry.name, Place{files_.size() - 1, &entry}).second)
      refuse(path, fmt::format("tensor {} is in another shard as well", shown_name(entry.name)));
}

void SafetensorsFolder::open_shards(const fs::path& index) {
  const Json json = read_json_object(index);
  if (!json.contains("weight_map") || !json["weight_map"].is_object()) refuse(index, "has no weight_map");
  std::set<std::string> shards;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    const std::string file = shard.is_string() ? shard.get<std::string>() : "";
    if (file.empty() || file == "." || file == ".." ||
        file.find_first_of(std::string_view("/\0", 2)) != file.npos)
      refuse(index, fmt::format("weight_map: {} is said to be in {}, which is not a plain file name",
                                shown_name(name), shown_name(file)));
    shards.insert(file);
  }
  files_.reserve(shards.size());
  for (const std::string& shard : shards) add_file(folder_ / shard);
  for (const auto& [name, shard] : json["weight_map"].items()) {
    const auto found = places_.find(name);
    if (found == places_.end() || files_[found->second.file].path().filename() != shard.get<std::string>())
      refuse(index, fmt::format("weight_map: {} is not in {}", shown_name(name), shown_name(shard)));
  }
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, place] : places_) names.push_back(name);
  return names;
}

void SafetensorsFolder::require_tensor(const std::string& name, const Shape& shape) const {
  const auto found = places_.find(name);
  if (found == places_.end()) fail(ErrorKind::data, "{}: tensor {} is missing", folder_.string(), name);
  const Shape stored{std::span<const std::int64_t>(found->second.entry->shape)};
  if (stored != shape)
    fail(ErrorKind::data, "{}: tensor {} is {}, but config.json asks for {}", folder_.string(), name,
         stored.str(), shape.str());
  files_[found->second.file].require_readable(*found->second.entry);
}

void SafetensorsFolder::read(const std::string& name, const Shape& shape, float* out) const {
  require_tensor(name, shape);
  const Place& place = places_.at(name);
  files_[place.file].read(*place.entry, out);
}

void write_safetensors(const fs::path& path, const std::vector<TensorToWrite>& tensors, DType dtype,
                       const std::function<void(std::int64_t)>& progress) {
  check(dtype == DType::f32 || dtype == DType::bf16, "weights are written as f32 or bf16");
  Json header{{"__metadata__", {{"format", "pt"}}}};
  std::int64_t at = 0;
  for (const TensorToWrite& t : tensors) {
    const std::int64_t begin = at;
    at += t.shape.numel() * dtype_size(dtype);
    const auto dims = t.shape.dims();
    header[t.name] = {{"dtype", dtype == DType::f32 ? "F32" : "BF16"},
                      {"shape", std::vector<std::int64_t>(dims.begin(), dims.end())},
                      {"data_offsets", {begin, at}}};
  }
  check(header.size() == tensors.size() + 1, "tensors to write have different names");
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data is aligned for readers that map the file
  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(&length, 8);
  file.write(text.data(), text.size());
  std::int64_t done = 0;
  for (const TensorToWrite& t : tensors) {
    const Tensor tensor = t.make().to(dtype);
    check(tensor.shape() == t.shape, "a tensor to write has the shape that was announced");
    file.write(tensor.raw_data(), static_cast<std::size_t>(tensor.bytes()));
    done += tensor.bytes();
    if (progress) progress(done);
  }
  file.commit();
}

}  // namespace filigree
