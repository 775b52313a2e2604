#include "train/evaluate/logits_file.h"

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/hdf5.h"
#include "train/config/device_choice.h"

namespace filigree {
namespace {

double gib(std::int64_t bytes) {
  return static_cast<double>(bytes) / 1073741824.0;
}

// rows [done, done + t's) of `into` become t.
void place(Tensor& into, std::int64_t done, const Tensor& t) {
  into.slice(done, done + t.dim(0)).copy_from(t);
}

}  // namespace

LogitsFile::LogitsFile(const std::filesystem::path& path, std::int64_t sequences, std::int64_t seq_len,
                       const Shape& logits_shape)
    : path_(path) {
  const auto folder = path.parent_path().empty() ? std::filesystem::path(".") : path.parent_path();
  require(std::filesystem::is_directory(folder), "--logits {}: there is no folder {}", path.string(),
          folder.string());
  const bool per_token = logits_shape.rank() == 2;
  Shape logits = {sequences};
  for (const std::int64_t dim : logits_shape.dims()) logits = logits.append(dim);
  const double exact = 4.0 * static_cast<double>(sequences) *
                       (static_cast<double>(logits_shape.numel()) +
                        static_cast<double>(per_token ? 2 : 1) * static_cast<double>(seq_len));
  const auto bytes = static_cast<std::int64_t>(std::min(exact, 9e18));
  const auto refuse = [&](ErrorKind kind, const char* where, std::int64_t free) {
    throw Error(kind,
                fmt::format("the logits {} are {:.1f} GiB, but {} {:.1f} GiB are free", logits.str(),
                            gib(bytes), where, gib(free)),
                "read fewer sequences: --batches");
  };
  if (const std::int64_t free = free_memory(Device::cpu()); bytes > free / 2)
    refuse(ErrorKind::out_of_memory, "they are held in memory, of which", free);
  if (const std::int64_t free = free_bytes(folder); bytes > free - (1 << 20))
    refuse(ErrorKind::disk, "on the disk", free);
  tokens_ = Tensor::zeros({sequences, seq_len}, DType::i32);
  targets_ =
      per_token ? Tensor::zeros({sequences, seq_len}, DType::i32) : Tensor::zeros({sequences}, DType::i32);
  logits_ = Tensor::zeros(logits);
}

void LogitsFile::add(const Batch& batch, const Tensor& logits) {
  place(tokens_, done_, batch.inputs);
  place(targets_, done_, batch.targets);
  place(logits_, done_, logits);
  done_ += batch.inputs.dim(0);
}

void LogitsFile::commit(const std::vector<std::string>& classes) {
  h5::Writer writer(path_);
  for (const auto& [name, tensor] :
       {std::pair("tokens", &tokens_), {"targets", &targets_}, {"logits", &logits_}}) {
    const Tensor written = tensor->slice(0, done_);
    const auto dims = written.shape().dims();
    writer.dataset(name, written.dtype(), {dims.begin(), dims.end()}, written.raw_data());
  }
  if (!classes.empty()) writer.text("classes", nlohmann::json(classes).dump());
  writer.commit();
}

std::string LogitsFile::describe() const {
  return fmt::format("{}: logits {}", path_.string(), logits_.shape().with(0, done_).str());
}

}  // namespace filigree
