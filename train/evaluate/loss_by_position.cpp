#include "train/evaluate/loss_by_position.h"

#include <fmt/format.h>

#include <bit>
#include <nlohmann/json.hpp>

#include "core/ops.h"

namespace filigree {

void LossByPosition::add(const Batch& batch, const Tensor& row_losses) {
  const auto targets = batch.targets.values<std::int32_t>();
  const std::int32_t* bounds = batch.row_bounds.data<std::int32_t>();
  const std::int64_t n = batch.inputs.dim(1);
  for (std::int64_t i = 0; i < std::ssize(targets); ++i) {
    if (targets[i] == ops::kIgnoreIndex) continue;
    const std::int64_t position = i % n - bounds[2 * i];
    const auto bucket = static_cast<std::size_t>(std::bit_width(static_cast<std::uint64_t>(position)));
    for (std::size_t b = sums_.size(); b <= bucket; ++b)
      sums_.push_back({std::int64_t{1} << b >> 1, (std::int64_t{1} << b) - 1});
    ++sums_[bucket].targets;
    sums_[bucket].loss += row_losses.item(i);
  }
}

std::vector<LossByPosition::Bucket> LossByPosition::buckets() const {
  std::vector<Bucket> means;
  for (Bucket bucket : sums_) {
    if (bucket.targets == 0) continue;
    bucket.loss /= static_cast<double>(bucket.targets);
    means.push_back(bucket);
  }
  return means;
}

std::string LossByPosition::table() const {
  std::string text = fmt::format("{:>15}  {:>10}  {:>8}\n", "position", "targets", "loss");
  for (const Bucket& bucket : buckets()) {
    const std::string range = bucket.first == bucket.last ? fmt::format("{}", bucket.first)
                                                          : fmt::format("{}-{}", bucket.first, bucket.last);
    text += fmt::format("{:>15}  {:>10}  {:>8.4f}\n", range, bucket.targets, bucket.loss);
  }
  return text;
}

nlohmann::ordered_json to_json(const LossByPosition& positions) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const auto& [first, last, targets, loss] : positions.buckets())
    list.push_back({{"first", first}, {"last", last}, {"targets", targets}, {"loss", loss}});
  return list;
}

}  // namespace filigree
