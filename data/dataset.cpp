#include "data/dataset.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace filigree {
namespace {

constexpr std::int64_t kMaxTextBytes = std::int64_t{4} << 30;

// Tokens in memory, u16 where the vocabulary allows.
template <class T>
class MemoryTokens : public TokenSource {
 public:
  explicit MemoryTokens(std::vector<T> ids) : ids_(std::move(ids)) {}
  std::int64_t size() const override { return std::ssize(ids_); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    std::transform(ids_.begin() + begin, ids_.begin() + begin + count, out,
                   [](T id) { return static_cast<std::int32_t>(id); });
  }
  std::string checksum() const override { return hex64(xxhash64(ids_.data(), ids_.size() * sizeof(T))); }

 private:
  std::vector<T> ids_;
};

template <class T>
Dataset::Part encode_text(const Sources& sources, const Tokenizer& tokenizer) {
  std::vector<T> all;
  all.reserve(static_cast<std::size_t>(sources.bytes) + sources.files.size());  // exact for bytes
  std::vector<std::int64_t> offsets;
  std::vector<std::uint32_t> ids;
  const auto take = [&] {
    all.insert(all.end(), ids.begin(), ids.end());
    ids.clear();
  };
  for (const SourceFile& file : sources.files) {
    offsets.push_back(std::ssize(all));
    if (const auto separator = tokenizer.separator()) ids.push_back(*separator);
    take();
    read_blocks(file, tokenizer.border(), [&](std::string_view text) {
      tokenizer.encode(text, ids);
      take();
    });
  }
  offsets.push_back(std::ssize(all));
  return {std::make_shared<MemoryTokens<T>>(std::move(all)), std::move(offsets)};
}

}  // namespace

Dataset::Dataset(Vocabulary vocabulary, std::shared_ptr<const Tokenizer> tokenizer, std::vector<Part> parts)
    : vocabulary_(std::move(vocabulary)), tokenizer_(std::move(tokenizer)), offsets_{0} {
  for (Part& part : parts) {
    const std::int64_t base = offsets_.back();
    part_begins_.push_back(base);
    check(part.offsets.front() == 0 && part.offsets.back() == part.tokens->size(),
          "offsets do not fit the tokens");
    for (std::size_t i = 1; i < part.offsets.size(); ++i) offsets_.push_back(base + part.offsets[i]);
    parts_.push_back(std::move(part.tokens));
  }
  if (n_tokens() == 0) fail(ErrorKind::data, "the data holds no tokens");
}

Dataset::Dataset(GeneratedSamples samples) : offsets_{0}, generated_(std::move(samples)) {
  const GeneratedTask& task = generated_->task();
  const bool bytes = task.tokenizer() == "byte";
  if (bytes) tokenizer_ = make_tokenizer("byte");
  vocabulary_ = {bytes ? "byte" : "task " + task.name(), task.vocab_size(), {}, {}};
  class_names_ = task.class_names();
}

std::int64_t Dataset::document_at(std::int64_t position) const {
  const auto after = std::upper_bound(offsets_.begin(), offsets_.end(), position + offsets_.front());
  check(after != offsets_.begin() && after != offsets_.end(), "position outside the dataset");
  return after - offsets_.begin() - 1;
}

void Dataset::read(std::int64_t begin, std::int64_t count, std::int32_t* out) const {
  check(begin >= 0 && count >= 0 && count <= n_tokens() - begin, "slice outside the dataset");
  std::int64_t at = begin + offsets_.front();
  auto part = static_cast<std::size_t>(std::upper_bound(part_begins_.begin(), part_begins_.end(), at) -
                                       part_begins_.begin()) -
              1;
  while (count > 0) {
    const std::int64_t within = at - part_begins_[part], n = std::min(count, parts_[part]->size() - within);
    parts_[part]->read(within, n, out);
    at += n;
    out += n;
    count -= n;
    ++part;
  }
}

void Dataset::set_labels(std::vector<std::int32_t> labels, std::vector<std::string> class_names) {
  check(std::ssize(labels) == n_documents(), "one label per document");
  labels_ = std::move(labels);
  class_names_ = std::move(class_names);
}

std::pair<Dataset, Dataset> Dataset::split_tail(double fraction) const {
  require(fraction > 0 && fraction < 1, "the validation fraction must lie between 0 and 1, not {}", fraction);
  check(labels_.empty(), "labelled data is split by file");
  if (n_tokens() < 4)
    throw Error(ErrorKind::data,
                fmt::format("{} tokens are too few to split off validation data", n_tokens()),
                "give validation data of its own, or none (data.val_fraction=0)");
  const auto tail = static_cast<std::int64_t>(std::llround(fraction * static_cast<double>(n_tokens())));
  const std::int64_t cut = offsets_.back() - std::clamp<std::int64_t>(tail, 2, n_tokens() - 2);
  Dataset head = *this, rest = *this;
  auto at = std::lower_bound(offsets_.begin(), offsets_.end(), cut);
  // The nearer of the two document borders around the cut, if it leaves something on both sides.
  if (at != offsets_.begin() && cut - *(at - 1) < *at - cut) --at;
  const bool inside = *at <= offsets_.front() + 1 || *at >= offsets_.back() - 1;
  if (inside) at = std::lower_bound(offsets_.begin(), offsets_.end(), cut);
  const std::int64_t border = inside ? cut : *at;
  head.offsets_.assign(offsets_.begin(), at);
  head.offsets_.push_back(border);
  rest.offsets_.assign(inside ? at : at + 1, offsets_.end());
  rest.offsets_.insert(rest.offsets_.begin(), border);
  return {std::move(head), std::move(rest)};
}

std::string Dataset::fingerprint() const {
  if (generated_) return generated_->fingerprint();
  Xxhash64 sum;
  const auto add = [&](const std::string& text) { sum.update(text.c_str(), text.size() + 1); };
  add(fmt::format("{} {}", vocabulary_.tokenizer, vocabulary_.size));
  for (const auto& part : parts_) add(part->checksum());
  sum.update(offsets_.data(), offsets_.size() * sizeof(std::int64_t));
  sum.update(labels_.data(), labels_.size() * sizeof(std::int32_t));
  for (const std::string& name : class_names_) add(name);
  return hex64(sum.digest());
}

Dataset read_text(const Sources& sources, std::shared_ptr<const Tokenizer> tokenizer) {
  if (sources.bytes > kMaxTextBytes)
    throw Error(ErrorKind::data,
                fmt::format("{:.1f} GB of text are too much to encode in memory",
                            static_cast<double>(sources.bytes) / 1e9),
                "make a token file first: filigree prepare INPUT... -o tokens.h5");
  const Tokenizer& t = *tokenizer;
  Dataset::Part part = t.vocab_size() <= 65536 ? encode_text<std::uint16_t>(sources, t)
                                               : encode_text<std::uint32_t>(sources, t);
  Vocabulary vocabulary = vocabulary_of(t);
  std::vector<Dataset::Part> parts;
  parts.push_back(std::move(part));
  return Dataset(std::move(vocabulary), std::move(tokenizer), std::move(parts));
}

}  // namespace filigree
