// safetensors, the exchange format for weights, and for files that nobody vouches for
// (https://huggingface.co/docs/safetensors): u64 length of the header, a JSON header {name: {dtype, shape,
// data_offsets}, "__metadata__": {text: text}}, then the tensors' bytes, little endian.
//
// The reader trusts nothing: header of at most 100 MB, UTF-8, every name once, shapes multiplied with
// overflow checks, data that fills the rest of the file without holes, overlap or bytes left over. Every
// defect is an Error(data) that names the file and the tensor. Tensors are read in small blocks, so that a
// model takes its own memory and no more.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace filigree {

class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    std::string dtype;  // as written: "F32", "BF16", ...
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, end = 0;  // bytes of the data part
  };

  // Reads and checks the header.
  explicit SafetensorsFile(const std::filesystem::path& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::vector<Entry>& entries() const { return entries_; }  // in the order of their data
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // Error(data) unless read() can convert the tensor.
  void require_readable(const Entry& entry) const;
  // The tensor as f32 in `out`, which holds as many elements. F32, F64, F16 and BF16 are converted, anything
  // else is an error.
  void read(const Entry& entry, float* out) const;

 private:
  void read_header();
  void check_layout(std::int64_t data_bytes);
  void read_bytes(void* out, std::size_t bytes, std::int64_t offset) const;

  std::filesystem::path path_;
  int fd_ = -1;
  std::int64_t data_begin_ = 0;
  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a folder: model.safetensors, or the shards that model.safetensors.index.json names.
class SafetensorsFolder {
 public:
  // Error(data) if there is neither, if a shard's name leaves the folder, or if the index and the shards do
  // not tell the same.
  explicit SafetensorsFolder(const std::filesystem::path& folder);

  bool has(const std::string& name) const { return places_.contains(name); }
  std::vector<std::string> names() const;  // sorted
  // Error(data) unless the tensor is there, in this shape and with a dtype that can be read.
  void require_tensor(const std::string& name, const Shape& shape) const;
  // Its values as f32 in `out`, after the same checks.
  void read(const std::string& name, const Shape& shape, float* out) const;

 private:
  struct Place {
    std::size_t file;
    const SafetensorsFile::Entry* entry;
  };
  void add_file(const std::filesystem::path& path);
  void open_shards(const std::filesystem::path& index);

  std::filesystem::path folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Place> places_;
};

struct TensorToWrite {
  std::string name;
  Shape shape;
  std::function<Tensor()> make;  // f32 on the CPU, in this shape; asked for when its turn comes
};

// Writes the tensors in this order as f32 or bf16 (rounded to nearest even), with the metadata {"format":
// "pt"} that loaders ask for. Crash-safe; Error(disk) on failure. `progress` hears of the bytes done.
void write_safetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors,
                       DType dtype, const std::function<void(std::int64_t)>& progress = {});

}  // namespace filigree
