#include "data/bin_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "data/foreign_file.h"

namespace filigree {
namespace {

constexpr std::int32_t kMagicGpt2 = 20240520, kMagicLlama3 = 20240801;
constexpr std::int32_t kVersionLlama3 = 7;
constexpr std::int64_t kHeaderBytes = 256 * 4;
constexpr std::int64_t kBlockTokens = 1 << 20;

}  // namespace

BinFile::BinFile(const std::filesystem::path& path)
    : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) fail(ErrorKind::data, "{}: {}", path.string(), std::strerror(errno));
  try {
    struct stat info {};
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode))
      fail(ErrorKind::data, "{}: not a regular file", path.string());
    if (info.st_size == 0) fail(ErrorKind::data, "{}: the file is empty", path.string());
    read_header(info.st_size);
    scan();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

BinFile::~BinFile() {
  ::close(fd_);
}

void BinFile::read_header(std::int64_t file_bytes) {
  std::array<std::int32_t, 3> header{};
  if (file_bytes >= std::ssize(header) * 4) read_bytes(header.data(), sizeof header, 0);
  const auto [magic, version, count] = header;
  if (magic != kMagicGpt2 && magic != kMagicLlama3) {
    if (const auto foreign = foreign_file(path_))
      throw Error(ErrorKind::data, fmt::format("{}: {}, no file of tokens", path_.string(), foreign->what),
                  foreign->hint);
    if (file_bytes % 2 != 0)
      throw Error(
          ErrorKind::data,
          fmt::format("{}: {} bytes are not a whole number of u16 tokens", path_.string(), file_bytes),
          "a .bin file is either nanoGPT's (raw u16) or llm.c's (with its header); this one may be "
          "truncated");
    n_tokens_ = file_bytes / 2;
    return;
  }
  const bool is_known = magic == kMagicGpt2 ? version == 1 : version == 1 || version == kVersionLlama3;
  if (!is_known)
    fail(ErrorKind::data, "{}: llm.c data of version {}; version {} is read", path_.string(), version,
         magic == kMagicGpt2 ? 1 : kVersionLlama3);
  type_ = magic == kMagicGpt2 ? DType::u16 : DType::u32;
  vocabulary_ =
      magic == kMagicGpt2 ? Vocabulary{"gpt2", 50257, 50256, {}} : Vocabulary{"llama3", 128256, 128000, {}};
  data_begin_ = kHeaderBytes;
  n_tokens_ = count;
  const std::int64_t expected = kHeaderBytes + n_tokens_ * dtype_size(type_);
  if (n_tokens_ < 1 || expected != file_bytes)
    throw Error(ErrorKind::data,
                fmt::format("{}: the header promises {} tokens, which make {} bytes, but the file has {}",
                            path_.string(), count, expected, file_bytes),
                "the file is truncated or damaged");
}

void BinFile::read_bytes(void* out, std::int64_t count, std::int64_t offset) const {
  for (std::int64_t done = 0; done < count;) {
    const ssize_t got =
        ::pread(fd_, static_cast<char*>(out) + done, static_cast<std::size_t>(count - done), offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      fail(ErrorKind::data, "{}: {}", path_.string(),
           got < 0 ? std::strerror(errno) : "the file became shorter");
    done += got;
  }
}

void BinFile::read(std::int64_t begin, std::int64_t count, std::int32_t* out) const {
  check(begin >= 0 && count >= 0 && count <= n_tokens_ - begin, "slice outside a token file");
  if (type_ == DType::u32) {
    read_bytes(out, count * 4, data_begin_ + begin * 4);
    return;
  }
  std::vector<std::uint16_t> stored(count);
  read_bytes(stored.data(), count * 2, data_begin_ + begin * 2);
  std::copy(stored.begin(), stored.end(), out);
}

void BinFile::scan() {
  Xxhash64 sum;
  std::int32_t largest = 0;
  std::vector<std::int32_t> ids;
  for (std::int64_t begin = 0; begin < n_tokens_; begin += kBlockTokens) {
    const std::int64_t count = std::min(kBlockTokens, n_tokens_ - begin);
    ids.resize(count);
    read(begin, count, ids.data());
    sum.update(ids.data(), ids.size() * sizeof ids[0]);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t id = ids[i];
      if (id < 0 || (vocabulary_.size > 0 && id >= vocabulary_.size))
        fail(ErrorKind::data, "{}: token {} at {} is outside the vocabulary of {}", path_.string(),
             static_cast<std::uint32_t>(id), begin + i, vocabulary_.size);
      largest = std::max(largest, id);
      const bool begins = vocabulary_.separator && static_cast<std::uint32_t>(id) == *vocabulary_.separator;
      if (begins || begin + i == 0) offsets_.push_back(begin + i);
    }
  }
  offsets_.push_back(n_tokens_);
  if (vocabulary_.size == 0) vocabulary_.size = std::int64_t{largest} + 1;
  checksum_ = sum.digest();
}

}  // namespace filigree
