#include "data/loader.h"

#include <algorithm>

#include "core/check.h"
#include "core/ops.h"
#include "data/masking.h"
#include "data/permutation.h"

namespace filigree {
namespace {

// Sites of the random streams: "shuf", "mask".
constexpr std::uint32_t kShuffleSite = 0x73687566, kMaskSite = 0x6d61736b;

// Where one sample of a batch is written.
struct Row {
  std::span<std::int32_t> inputs, targets;  // N each; encoder_classifier: one target
  std::span<std::int32_t> bounds;           // 2 N
  std::span<std::int32_t> token_bounds;     // 2
};

std::int64_t count_samples(const Dataset& dataset, const LoaderOptions& options) {
  if (const auto* generated = dataset.generated()) return generated->size();
  const std::int64_t n = options.seq_len;
  switch (options.type) {
    case ModelType::decoder:
      return (dataset.n_tokens() - 1 + n - 1) / n;  // the last token is a target only
    case ModelType::encoder_mlm:
      return (dataset.n_tokens() + n - 1) / n;
    case ModelType::encoder_classifier:
      return dataset.n_documents();
  }
  return 0;
}

// [lo, hi) of each of the sample's rows, which stand at [begin, begin + n_rows) of the stream.
void fill_bounds(const Dataset& dataset, std::int64_t begin, std::int64_t n_rows, bool documents,
                 std::span<std::int32_t> bounds) {
  for (std::int64_t row = 0; row < n_rows;) {
    std::int64_t lo = 0, hi = n_rows;
    if (documents) {
      const std::int64_t d = dataset.document_at(begin + row);
      lo = std::max<std::int64_t>(0, dataset.document_begin(d) - begin);
      hi = std::min(n_rows, dataset.document_end(d) - begin);
    }
    for (; row < hi; ++row) {
      bounds[2 * row] = static_cast<std::int32_t>(lo);
      bounds[2 * row + 1] = static_cast<std::int32_t>(hi);
    }
  }
}

// Takes the targets out that are the first token of another document without being a separator. The inputs
// stand at [begin, begin + targets.size()) of the stream, the targets one token later.
void ignore_unmarked_borders(const Dataset& dataset, std::int64_t begin, std::span<std::int32_t> targets) {
  const auto separator = dataset.vocabulary().separator;
  const std::int64_t end = begin + std::ssize(targets);
  for (std::int64_t d = dataset.document_at(begin); dataset.document_end(d) <= end; ++d) {
    std::int32_t& target = targets[dataset.document_end(d) - 1 - begin];
    if (!separator || target != static_cast<std::int32_t>(*separator)) target = ops::kIgnoreIndex;
  }
}

// Fills one row with a sample; returns how many of its inputs are real.
std::int64_t fill_sample(const Dataset& dataset, const LoaderOptions& options, std::int64_t epoch,
                         std::int64_t sample, const Row& row) {
  const std::int64_t n = options.seq_len;
  std::int64_t begin = sample * n, end = dataset.n_tokens();
  if (options.type == ModelType::encoder_classifier) {
    begin = dataset.document_begin(sample);
    end = dataset.document_end(sample);
  }
  if (options.type == ModelType::decoder) --end;
  const std::int64_t n_real = std::min(n, end - begin);
  const auto real = static_cast<std::size_t>(n_real);
  std::fill(row.inputs.begin(), row.inputs.end(), 0);
  std::fill(row.targets.begin(), row.targets.end(), ops::kIgnoreIndex);
  std::fill(row.bounds.begin(), row.bounds.end(), 0);
  dataset.read(begin, n_real, row.inputs.data());
  switch (options.type) {
    case ModelType::decoder:
      std::copy(row.inputs.begin() + 1, row.inputs.begin() + n_real, row.targets.begin());
      dataset.read(begin + n_real, 1, &row.targets[real - 1]);
      if (options.documents) ignore_unmarked_borders(dataset, begin, row.targets.first(real));
      break;
    case ModelType::encoder_mlm:
      mask_tokens(row.inputs.first(real), row.targets.first(real), dataset.vocabulary(),
                  options.mask_probability,
                  RandomKey{options.seed, kMaskSite, static_cast<std::uint32_t>(epoch)},
                  static_cast<std::uint64_t>(begin));
      break;
    case ModelType::encoder_classifier:
      row.targets[0] = dataset.labels()[sample];
      break;
  }
  const bool documents = options.documents && options.type != ModelType::encoder_classifier;
  fill_bounds(dataset, begin, n_real, documents, row.bounds);
  row.token_bounds[0] = 0;
  row.token_bounds[1] = static_cast<std::int32_t>(n_real);
  return n_real;
}

// The same with a sample that a task makes.
DrawnSample make_sample(const GeneratedSamples& generated, std::int64_t epoch, std::int64_t sample,
                        const Row& row) {
  const DrawnSample drawn = generated.make(epoch, sample, row.inputs, row.targets);
  const auto length = static_cast<std::int32_t>(drawn.length);
  std::fill(row.bounds.begin(), row.bounds.end(), 0);
  for (std::int32_t i = 0; i < length; ++i) row.bounds[2 * static_cast<std::size_t>(i) + 1] = length;
  row.token_bounds[0] = 0;
  row.token_bounds[1] = length;
  return drawn;
}

// The generator makes what this type of model is trained on.
void require_fitting(const GeneratedSamples& generated, const LoaderOptions& options) {
  const bool classes = !generated.task().class_names().empty();
  require(options.type == (classes ? ModelType::encoder_classifier : ModelType::decoder),
          "the task '{}' is one for a {}", generated.task().name(), classes ? "classifier" : "decoder");
  require(options.seq_len == generated.seq_len(), "the task '{}' makes samples of {} tokens, not of {}",
          generated.task().name(), generated.seq_len(), options.seq_len);
}

}  // namespace

Loader::Loader(const Dataset& dataset, const LoaderOptions& options) : dataset_(dataset), options_(options) {
  require(options.batch_size >= 1, "the batch size must be at least 1, not {}", options.batch_size);
  require(options.seq_len >= 1 && options.seq_len < (std::int64_t{1} << 31),
          "seq_len must be at least 1, not {}", options.seq_len);
  require(options.mask_probability > 0 && options.mask_probability <= 1,
          "mask_probability must lie in (0, 1], not {}", options.mask_probability);
  if (dataset.generated()) require_fitting(*dataset.generated(), options);
  if (options.type == ModelType::encoder_mlm && !dataset.vocabulary().mask)
    fail(ErrorKind::data, "masked language modelling needs a mask token, which tokenizer '{}' does not have",
         dataset.vocabulary().tokenizer);
  if (options.type == ModelType::encoder_classifier && dataset.labels().empty() && !dataset.generated())
    fail(ErrorKind::data, "classification needs labelled data: a folder of files per class");
  n_samples_ = count_samples(dataset, options);
  if (n_samples_ == 0) fail(ErrorKind::data, "the data holds a single token, too little to predict anything");
  if (options.type == ModelType::decoder && options.documents && !dataset.generated() &&
      !dataset.vocabulary().separator && dataset.n_documents() == dataset.n_tokens())
    throw Error(ErrorKind::data,
                fmt::format("each of the {} documents is a single token, which nothing predicts: there is no "
                            "separator token before it",
                            dataset.n_documents()),
                "data.documents=false reads them as one text");
}

Loader::~Loader() {
  drop_ahead();
}

void Loader::drop_ahead() {
  if (ahead_.valid()) ahead_.wait();
  ahead_ = {};
}

void Loader::seek(const LoaderPosition& position) {
  if (position.epoch < 0 || position.next_sample < 0 || position.next_sample >= n_samples_)
    throw Error(
        ErrorKind::data,
        fmt::format("position (epoch {}, sample {}) lies outside the data, which has {} samples an epoch",
                    position.epoch, position.next_sample, n_samples_),
        "the checkpoint was made with other data or another seq_len");
  drop_ahead();
  position_ = position;
}

std::int64_t Loader::batch_size_at(const LoaderPosition& at) const {
  return options_.single_pass ? std::min(options_.batch_size, n_samples_ - at.next_sample)
                              : options_.batch_size;
}

Batch Loader::make(LoaderPosition at) const {
  const std::int64_t b = batch_size_at(at), n = options_.seq_len;
  const bool classify = options_.type == ModelType::encoder_classifier;
  const GeneratedSamples* generated = dataset_.generated();
  const bool shuffle = options_.shuffle && !(generated && generated->fresh());
  Batch batch;
  batch.inputs = Tensor::empty({b, n}, DType::i32);
  batch.targets = Tensor::empty(classify ? Shape{b} : Shape{b, n}, DType::i32);
  batch.row_bounds = Tensor::empty({b, n, 2}, DType::i32);
  batch.token_bounds = Tensor::empty({b, 2}, DType::i32);
  batch.begin = at;
  const auto piece = [](Tensor& t, std::int64_t i, std::int64_t size) {
    return std::span(t.data<std::int32_t>() + i * size, static_cast<std::size_t>(size));
  };
  for (std::int64_t i = 0; i < b; ++i) {
    const RandomKey key{options_.seed, kShuffleSite, static_cast<std::uint32_t>(at.epoch)};
    const std::int64_t sample = shuffle ? Permutation(n_samples_, key)(at.next_sample) : at.next_sample;
    const Row row{piece(batch.inputs, i, n), piece(batch.targets, i, classify ? 1 : n),
                  piece(batch.row_bounds, i, 2 * n), piece(batch.token_bounds, i, 2)};
    if (generated) {
      const DrawnSample drawn = make_sample(*generated, at.epoch, sample, row);
      batch.n_tokens += drawn.length;
      batch.groups.push_back(drawn.group);
    } else {
      batch.n_tokens += fill_sample(dataset_, options_, at.epoch, sample, row);
    }
    for (const std::int32_t target : row.targets) {
      if (target == ops::kIgnoreIndex) continue;
      ++batch.n_targets;
      if (!classify && !generated && dataset_.tokenizer())
        batch.n_bytes += dataset_.tokenizer()->n_bytes(static_cast<std::uint32_t>(target));
    }
    if (++at.next_sample == n_samples_) at = {at.epoch + 1, 0};
  }
  batch.end = at;
  return batch;
}

void Loader::start_ahead() {
  if (options_.prefetch && !over(position_))
    ahead_ = std::async(std::launch::async, [this, at = position_] { return make(at); });
}

std::optional<Batch> Loader::next() {
  if (over(position_)) return std::nullopt;
  Batch batch = ahead_.valid() ? ahead_.get() : make(position_);
  position_ = batch.end;
  start_ahead();
  return batch;
}

}  // namespace filigree
