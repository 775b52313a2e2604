#include "data/token_file.h"

#include <algorithm>

#include "core/check.h"

namespace filigree {
namespace {

constexpr const char* kFormat = "filigree-tokens";
constexpr std::int64_t kVersion = 1;
constexpr std::int64_t kBlockTokens = 1 << 20;
constexpr std::int64_t kMaxVocab = std::int64_t{1} << 31;  // ids become i32

[[noreturn]] void damaged(const std::filesystem::path& path, const std::string& what) {
  throw Error(ErrorKind::data, fmt::format("{}: damaged token file: {}", path.string(), what),
              "make it again with `filigree prepare`, or take another copy");
}

std::int64_t id_or_none(const std::optional<std::uint32_t>& id) {
  return id ? std::int64_t{*id} : -1;
}

}  // namespace

TokenFileWriter::TokenFileWriter(const std::filesystem::path& target,
                                 std::shared_ptr<const Tokenizer> tokenizer)
    : tokenizer_(std::move(tokenizer)),
      file_(target),
      type_(tokenizer_->vocab_size() <= 65536 ? DType::u16 : DType::u32) {
  file_.begin_append("tokens", type_);
  file_.begin_append("document_offsets", DType::i64);
}

void TokenFileWriter::write_ids() {
  const void* data = ids_.data();
  if (type_ == DType::u16) {
    narrow_.resize(ids_.size());
    std::transform(ids_.begin(), ids_.end(), narrow_.begin(),
                   [](std::uint32_t id) { return static_cast<std::uint16_t>(id); });
    data = narrow_.data();
  }
  tokens_sum_.update(data, ids_.size() * static_cast<std::size_t>(dtype_size(type_)));
  file_.append("tokens", data, std::ssize(ids_));
  counts_.n_tokens += std::ssize(ids_);
  ids_.clear();
}

void TokenFileWriter::begin_document() {
  offsets_sum_.update(&counts_.n_tokens, sizeof counts_.n_tokens);
  file_.append("document_offsets", &counts_.n_tokens, 1);
  ++counts_.n_documents;
  if (const auto separator = tokenizer_->separator()) ids_.push_back(*separator);
  write_ids();
}

void TokenFileWriter::append(std::string_view text) {
  check(counts_.n_documents > 0, "text before the first document");
  tokenizer_->encode(text, ids_);
  counts_.n_bytes += std::ssize(text);
  write_ids();
}

TokenCounts TokenFileWriter::commit() {
  offsets_sum_.update(&counts_.n_tokens, sizeof counts_.n_tokens);
  file_.append("document_offsets", &counts_.n_tokens, 1);
  file_.text("tokenizer_json", tokenizer_->to_json());
  file_.attribute("/", "format", std::string(kFormat));
  file_.attribute("/", "version", kVersion);
  file_.attribute("/", "tokenizer", tokenizer_->name());
  file_.attribute("/", "vocab_size", tokenizer_->vocab_size());
  file_.attribute("/", "separator", id_or_none(tokenizer_->separator()));
  file_.attribute("/", "mask", id_or_none(tokenizer_->mask()));
  file_.attribute("/", "n_tokens", counts_.n_tokens);
  file_.attribute("/", "n_documents", counts_.n_documents);
  file_.attribute("/", "n_bytes", counts_.n_bytes);
  file_.attribute("/", "tokens_xxhash64", hex64(tokens_sum_.digest()));
  file_.attribute("/", "offsets_xxhash64", hex64(offsets_sum_.digest()));
  file_.commit();
  return counts_;
}

void TokenFile::read_tokenizer() {
  if (file_.has("tokenizer_json"))
    tokenizer_ = tokenizer_from_json(file_.text("tokenizer_json"), path().string() + ": tokenizer_json");
  else if (vocabulary_.tokenizer == "byte")
    tokenizer_ = make_tokenizer("byte");
  // The name is a sum of the tokenizer.
  if (tokenizer_ && vocabulary_of(*tokenizer_) != vocabulary_)
    damaged(path(), "its tokenizer is not the one it names");
}

Vocabulary vocabulary_of(const Tokenizer& tokenizer) {
  return {tokenizer.name(), tokenizer.vocab_size(), tokenizer.separator(), tokenizer.mask()};
}

TokenFile::TokenFile(const std::filesystem::path& path) : file_(path) {
  if (!file_.has_attribute("/", "format") || file_.string("/", "format") != kFormat)
    throw Error(ErrorKind::data, fmt::format("{}: an HDF5 file, but not a token file", path.string()),
                "token files are made by `filigree prepare`");
  if (const std::int64_t version = file_.integer("/", "version"); version != kVersion)
    fail(ErrorKind::data, "{}: token file of version {}; this filigree reads version {}", path.string(),
         version, kVersion);
  vocabulary_.tokenizer = file_.string("/", "tokenizer");
  vocabulary_.size = file_.integer("/", "vocab_size");
  if (vocabulary_.size < 1 || vocabulary_.size > kMaxVocab) damaged(path, "impossible vocab_size");
  const auto special = [&](const char* name) -> std::optional<std::uint32_t> {
    const std::int64_t id = file_.integer("/", name);
    if (id < -1 || id >= vocabulary_.size) damaged(path, fmt::format("impossible {} id", name));
    return id < 0 ? std::nullopt : std::optional(static_cast<std::uint32_t>(id));
  };
  vocabulary_.separator = special("separator");
  vocabulary_.mask = special("mask");
  read_tokenizer();
  counts_ = {file_.integer("/", "n_tokens"), file_.integer("/", "n_documents"),
             file_.integer("/", "n_bytes")};
  tokens_sum_ = file_.string("/", "tokens_xxhash64");

  const h5::DatasetInfo tokens = file_.info("tokens");
  type_ = tokens.type;
  if ((type_ != DType::u16 && type_ != DType::u32) || tokens.dims != h5::Dims{counts_.n_tokens})
    damaged(path, "`tokens` does not hold what the header says");
  offsets_.resize(file_.info("document_offsets").count());
  file_.read("document_offsets", DType::i64, std::ssize(offsets_), offsets_.data());
  if (hex64(xxhash64(offsets_.data(), offsets_.size() * sizeof(std::int64_t))) !=
      file_.string("/", "offsets_xxhash64"))
    damaged(path, "the checksum of the document offsets is wrong");
  if (std::ssize(offsets_) != counts_.n_documents + 1 || offsets_.front() != 0 ||
      offsets_.back() != counts_.n_tokens || !std::is_sorted(offsets_.begin(), offsets_.end()))
    damaged(path, "the document offsets do not fit the tokens");
}

template <class T>
void TokenFile::read_as(std::int64_t begin, std::int64_t count, std::int32_t* out, Xxhash64* sum) const {
  std::vector<T> stored(count);
  file_.read_slice("tokens", type_, begin, count, stored.data());
  if (sum) sum->update(stored.data(), stored.size() * sizeof(T));
  const T largest = stored.empty() ? T{0} : *std::max_element(stored.begin(), stored.end());
  if (static_cast<std::int64_t>(largest) >= vocabulary_.size)
    damaged(path(), fmt::format("token {} is outside the vocabulary of {}", largest, vocabulary_.size));
  std::transform(stored.begin(), stored.end(), out, [](T id) { return static_cast<std::int32_t>(id); });
}

void TokenFile::read(std::int64_t begin, std::int64_t count, std::int32_t* out) const {
  type_ == DType::u16 ? read_as<std::uint16_t>(begin, count, out, nullptr)
                      : read_as<std::uint32_t>(begin, count, out, nullptr);
}

void TokenFile::verify(const UseBlock& use) const {
  Xxhash64 sum;
  std::vector<std::int32_t> ids;
  for (std::int64_t begin = 0; begin < counts_.n_tokens; begin += kBlockTokens) {
    const std::int64_t count = std::min(kBlockTokens, counts_.n_tokens - begin);
    ids.resize(count);
    type_ == DType::u16 ? read_as<std::uint16_t>(begin, count, ids.data(), &sum)
                        : read_as<std::uint32_t>(begin, count, ids.data(), &sum);
    if (use) use(begin, ids.data(), count);
  }
  if (hex64(sum.digest()) != tokens_sum_) damaged(path(), "the checksum of the tokens is wrong");
}

}  // namespace filigree
