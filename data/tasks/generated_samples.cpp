#include "data/tasks/generated_samples.h"

#include "core/check.h"
#include "core/hash.h"
#include "data/progress.h"

namespace filigree {

GeneratedSamples::GeneratedSamples(GeneratedData data, std::int64_t seq_len, Split split, std::uint64_t seed)
    : data_(std::move(data)), seq_len_(seq_len), split_(split), seed_(split == Split::train ? seed : 0) {
  check(size() >= 1, "a split without samples");
}

DrawnSample GeneratedSamples::make(std::int64_t epoch, std::int64_t k, std::span<std::int32_t> inputs,
                                   std::span<std::int32_t> targets) const {
  check(std::ssize(inputs) == seq_len_, "a sample of another length");
  return generate_sample(*data_.task, seed_, split_, fresh() ? epoch * size() + k : k, inputs, targets);
}

std::string GeneratedSamples::fingerprint() const {
  const std::string text = fmt::format("{}\n{} {} {}", to_yaml(data_.to_yaml()), seq_len_,
                                       split_ == Split::train ? "train" : "validation", seed_);
  return hex64(xxhash64(text.data(), text.size()));
}

std::string GeneratedSamples::describe() const {
  return fmt::format(
      "{}: {} {} samples of {} tokens{}", task().name(), human_count(static_cast<double>(size())),
      split_ == Split::train ? "training" : "validation", seq_len_, fresh() ? ", new ones each epoch" : "");
}

}  // namespace filigree
