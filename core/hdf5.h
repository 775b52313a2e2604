// Safe HDF5: a crash-safe writer and a suspicious reader, for token files, checkpoints and layouts.
//
// Writer: everything goes to a temporary file in the same folder; commit() closes, fsyncs, renames and fsyncs
// the folder, so that a reader sees the old file or the whole new one, never half of one. Without commit()
// the temporary file is removed and the target is untouched. A full disk is Error(disk).
// Reader: opens read-only in the V18 format, refuses external links and storage, virtual and variable-length
// data and unknown filters, and caps rank, dimensions and bytes against the file size before it allocates.
// A missing, empty, truncated or malformed file is Error(data) that names the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"

namespace filigree::h5 {

using Dims = std::vector<std::int64_t>;

class Writer {
 public:
  explicit Writer(const std::filesystem::path& target);
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  // Paths are "/"-separated; missing groups are made. Each path may be written once.
  void attribute(const std::string& group, const std::string& name, std::int64_t value);
  void attribute(const std::string& group, const std::string& name, double value);
  void attribute(const std::string& group, const std::string& name, const std::string& value);
  void dataset(const std::string& path, DType type, const Dims& dims, const void* data);
  void text(const std::string& path, const std::string& value);  // any length, stored as u8

  // A dataset of unknown length, written piece by piece (chunked, rank 1).
  void begin_append(const std::string& path, DType type);
  void append(const std::string& path, const void* data, std::int64_t count);

  void commit();  // after this the writer is done

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct DatasetInfo {
  DType type;
  Dims dims;
  std::int64_t count() const;
};

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file);
  // A whole file in memory, which is copied. `name` stands for its path in messages.
  Reader(std::string_view bytes, const std::filesystem::path& name);
  ~Reader();
  Reader(Reader&&) noexcept;
  Reader& operator=(Reader&&) noexcept;

  const std::filesystem::path& path() const;
  bool has(const std::string& path) const;
  std::vector<std::string> children(const std::string& group) const;  // names, sorted
  bool has_attribute(const std::string& group, const std::string& name) const;
  std::int64_t integer(const std::string& group, const std::string& name) const;
  double number(const std::string& group, const std::string& name) const;
  std::string string(const std::string& group, const std::string& name) const;
  std::string text(const std::string& path) const;
  DatasetInfo info(const std::string& path) const;
  // Reads the whole dataset into `out`, whose dtype and element count must match exactly.
  void read(const std::string& path, DType type, std::int64_t count, void* out) const;
  // Reads elements [begin, begin + count) of a rank-1 dataset.
  void read_slice(const std::string& path, DType type, std::int64_t begin, std::int64_t count,
                  void* out) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace filigree::h5
