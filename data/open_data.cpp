#include "data/open_data.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <map>

#include "core/check.h"
#include "data/bin_file.h"
#include "data/progress.h"

namespace filigree {

namespace fs = std::filesystem;

namespace {

class Hdf5Tokens : public TokenSource {
 public:
  explicit Hdf5Tokens(std::shared_ptr<const TokenFile> file) : file_(std::move(file)) {}
  std::int64_t size() const override { return file_->counts().n_tokens; }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    file_->read(begin, count, out);
  }
  std::string checksum() const override { return file_->tokens_sum(); }

 private:
  std::shared_ptr<const TokenFile> file_;
};

// A verified token file, held in memory.
class LoadedTokens : public TokenSource {
 public:
  explicit LoadedTokens(const TokenFile& file) : checksum_(file.tokens_sum()) {
    const auto n = static_cast<std::size_t>(file.counts().n_tokens);
    file.dtype() == DType::u16 ? narrow_.reserve(n) : wide_.reserve(n);
    file.verify([&](std::int64_t, const std::int32_t* ids, std::int64_t count) {
      if (file.dtype() == DType::u16)
        std::transform(ids, ids + count, std::back_inserter(narrow_),
                       [](std::int32_t id) { return static_cast<std::uint16_t>(id); });
      else
        wide_.insert(wide_.end(), ids, ids + count);
    });
  }
  std::int64_t size() const override { return std::ssize(narrow_) + std::ssize(wide_); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    if (wide_.empty())
      std::copy_n(narrow_.begin() + begin, count, out);
    else
      std::copy_n(wide_.begin() + begin, count, out);
  }
  std::string checksum() const override { return checksum_; }

 private:
  std::string checksum_;
  std::vector<std::uint16_t> narrow_;
  std::vector<std::int32_t> wide_;
};

class BinTokens : public TokenSource {
 public:
  explicit BinTokens(std::shared_ptr<const BinFile> file) : file_(std::move(file)) {}
  std::int64_t size() const override { return file_->n_tokens(); }
  void read(std::int64_t begin, std::int64_t count, std::int32_t* out) const override {
    file_->read(begin, count, out);
  }
  std::string checksum() const override { return hex64(file_->checksum()); }

 private:
  std::shared_ptr<const BinFile> file_;
};

InputFormat format_of(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return InputFormat::text;
  constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
  std::array<char, 8> head{};
  std::ifstream(path, std::ios::binary).read(head.data(), head.size());
  if (std::memcmp(head.data(), kSignature, head.size()) == 0 || path.extension() == ".h5")
    return InputFormat::hdf5;
  return path.extension() == ".bin" ? InputFormat::bin : InputFormat::text;
}

InputFormat common_format(const std::vector<std::string>& inputs) {
  std::optional<InputFormat> common;
  for (const fs::path& path : expand_paths(inputs)) {
    const InputFormat format = format_of(path);
    if (common && *common != format)
      throw Error(ErrorKind::data,
                  fmt::format("{}: of another kind than the inputs before it", path.string()),
                  "text, HDF5 token files and .bin files cannot be mixed");
    common = format;
  }
  return common.value_or(InputFormat::text);
}

std::string count_text(std::int64_t n) {
  return human_count(static_cast<double>(n));
}

struct OpenedFile {
  Vocabulary vocabulary;
  Dataset::Part part;
  std::shared_ptr<const Tokenizer> tokenizer;  // null: unknown
};

// Token files of one vocabulary as one dataset.
Dataset join_files(const std::vector<std::string>& inputs, std::vector<std::string>& notes,
                   const std::function<OpenedFile(const fs::path&)>& open) {
  std::optional<Vocabulary> common;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Dataset::Part> parts;
  for (const fs::path& path : expand_paths(inputs)) {
    auto [vocabulary, part, own] = open(path);
    // An unknown vocabulary is known only by its largest id, so files of one kind differ in it.
    if (common && common->tokenizer.empty() && vocabulary.tokenizer.empty())
      vocabulary.size = common->size = std::max(common->size, vocabulary.size);
    if (common && *common != vocabulary)
      fail(ErrorKind::data,
           "{}: made with another tokenizer ('{}', {} ids) than the files before it ('{}', {} ids)",
           path.string(), vocabulary.tokenizer, vocabulary.size, common->tokenizer, common->size);
    notes.push_back(fmt::format("{}: {} tokens in {} documents", path.string(),
                                count_text(part.tokens->size()), part.offsets.size() - 1));
    common = vocabulary;
    if (own) tokenizer = std::move(own);
    parts.push_back(std::move(part));
  }
  return Dataset(*common, std::move(tokenizer), std::move(parts));
}

OpenedFile open_hdf5(const fs::path& path, const OpenLimits& limits) {
  auto file = std::make_shared<const TokenFile>(path);
  const std::int64_t bytes = file->counts().n_tokens * dtype_size(file->dtype());
  std::shared_ptr<const TokenSource> source;
  if (bytes <= limits.in_memory) {
    source = std::make_shared<LoadedTokens>(*file);
  } else {
    if (bytes <= limits.verified) file->verify();
    source = std::make_shared<Hdf5Tokens>(file);
  }
  return {file->vocabulary(), {std::move(source), file->document_offsets()}, file->tokenizer()};
}

OpenedFile open_bin(const fs::path& path) {
  auto file = std::make_shared<const BinFile>(path);
  return {file->vocabulary(), {std::make_shared<BinTokens>(file), file->document_offsets()}, nullptr};
}

// Makes the tokenizer of text; not called for files that know theirs.
using MakeTokenizer = std::function<std::shared_ptr<const Tokenizer>()>;

// The tokenizer that a request names; a checksum is no file.
std::shared_ptr<const Tokenizer> named_tokenizer(const std::string& name) {
  try {
    return make_tokenizer(name);
  } catch (const Error& e) {
    const bool checksum = name.size() == 20 && name.find_first_not_of("0123456789abcdef", 4) == name.npos;
    if (!name.starts_with("bpe:") || !checksum) throw;
    throw Error(e.kind(), e.what(), "that is a tokenizer's checksum; name its tokenizer.json");
  }
}

MakeTokenizer tokenizer_of(const DataRequest& request) {
  return [&request]() -> std::shared_ptr<const Tokenizer> {
    if (request.trained_with) return request.trained_with;
    if (request.tokenizer == "ids")
      throw Error(ErrorKind::usage,
                  fmt::format("{}: is text, but data.tokenizer is ids: only files of tokens can be read",
                              request.train.front()),
                  "name the tokenizer that the model was trained with: data.tokenizer=bpe:FILE");
    return named_tokenizer(request.tokenizer == "auto" ? "byte" : request.tokenizer);
  };
}

// A tokenizer that is named beside files of tokens makes no ids: it must be the one that made them.
void require_own_tokenizer(const DataRequest& request, const std::string& own) {
  const std::string& name = request.tokenizer;
  if (request.trained_with || name == "auto" || name == own) return;
  const std::string& file = request.train.front();
  if (own == "ids")
    throw Error(
        ErrorKind::usage,
        fmt::format("data.tokenizer is {}, but {} holds ids only, which no tokenizer changes", name, file),
        "remove data.tokenizer");
  const std::string named = name == "ids" ? name : named_tokenizer(name)->name();
  if (named == own) return;
  throw Error(
      ErrorKind::usage,
      fmt::format("data.tokenizer is {}{}, but {} was made with {}", name,
                  named == name ? "" : fmt::format(" ({})", named), file, own),
      "remove data.tokenizer, or set it to auto: token files hold theirs; filigree prepare makes others with "
      "--tokenizer");
}

Dataset open_with(const std::vector<std::string>& inputs, InputFormat format, const MakeTokenizer& tokenizer,
                  std::vector<std::string>& notes, const OpenLimits& limits = {}) {
  if (inputs.empty()) fail(ErrorKind::data, "no input was given");
  if (format == InputFormat::automatic) format = common_format(inputs);
  if (format == InputFormat::hdf5)
    return join_files(inputs, notes, [&](const fs::path& path) { return open_hdf5(path, limits); });
  if (format == InputFormat::bin) return join_files(inputs, notes, open_bin);
  const Sources sources = find_sources(inputs);
  notes.push_back("text: " + sources.describe());
  return read_text(sources, tokenizer());
}

using ClassNames = std::vector<std::string>;

bool is_among(const ClassNames& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// The folder's own name, also of "." or "beta/".
std::string class_name(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

// The class folders that the inputs mean: one folder holds them, unless it is itself a known class.
std::vector<fs::path> class_folders(const std::vector<std::string>& inputs, const ClassNames& known) {
  const std::vector<fs::path> named = expand_paths(inputs);
  if (named.size() != 1) return named;
  std::vector<fs::path> inside;
  std::error_code error;
  for (fs::directory_iterator it(named.front(), error), end; !error && it != end; it.increment(error))
    if (it->is_directory() && !it->path().filename().string().starts_with('.')) inside.push_back(it->path());
  if (error) fail(ErrorKind::data, "{}: {}", named.front().string(), error.message());
  const bool is_class =
      is_among(known, class_name(named.front())) && std::ranges::none_of(inside, [&](const fs::path& folder) {
        return is_among(known, class_name(folder));
      });
  return is_class ? named : inside;
}

// The sources of each class by its name. `known`, if any, are all that there may be.
std::map<std::string, Sources> class_sources(const std::vector<std::string>& inputs,
                                             const ClassNames& known) {
  std::map<std::string, Sources> classes;
  for (const fs::path& folder : class_folders(inputs, known)) {
    const std::string name = class_name(folder);
    if (!fs::is_directory(folder))
      fail(ErrorKind::data, "{}: a class must be a folder of files", folder.string());
    if (!known.empty() && !is_among(known, name))
      throw Error(ErrorKind::data,
                  fmt::format("{}: there is no class '{}'; the classes are {}", folder.string(), name,
                              fmt::join(known, ", ")),
                  "classes are known by the names of their folders");
    if (!classes.try_emplace(name, find_sources({folder.string()})).second)
      fail(ErrorKind::data, "{}: two class folders have the same name", folder.string());
  }
  const std::size_t least = known.empty() ? 2 : 1;
  if (classes.size() < least)
    throw Error(ErrorKind::data,
                fmt::format("{}: found {} class folder{}, at least {} {} needed", inputs.front(),
                            classes.size(), classes.size() == 1 ? "" : "s", least, least == 1 ? "is" : "are"),
                "name a folder that holds one folder of files per class, or the class folders themselves");
  return classes;
}

// Labels count `names`.
Dataset read_classes(const std::map<std::string, Sources>& classes, const ClassNames& names,
                     const std::shared_ptr<const Tokenizer>& tokenizer) {
  Sources all;
  std::vector<std::int32_t> labels;
  for (const auto& [name, sources] : classes) {
    const auto label = std::ranges::find(names, name) - names.begin();
    labels.insert(labels.end(), sources.files.size(), static_cast<std::int32_t>(label));
    all.files.insert(all.files.end(), sources.files.begin(), sources.files.end());
    all.bytes += sources.bytes;
  }
  Dataset dataset = read_text(all, tokenizer);
  dataset.set_labels(std::move(labels), names);
  return dataset;
}

OpenedData open_classes(const DataRequest& request) {
  if (request.format != InputFormat::automatic && request.format != InputFormat::text)
    fail(ErrorKind::usage, "classification reads folders of text files, not token files");
  const auto tokenizer = tokenizer_of(request)();
  std::map<std::string, Sources> train = class_sources(request.train, request.known_classes), validation;
  ClassNames names = request.known_classes;
  if (names.empty())
    for (const auto& [name, sources] : train) names.push_back(name);
  std::vector<std::string> notes;
  for (const auto& [name, sources] : train)
    notes.push_back(fmt::format("class '{}': {}", name, sources.describe()));
  if (!request.validation.empty()) {
    validation = class_sources(request.validation, names);
  } else if (request.val_fraction > 0) {
    for (auto& [name, sources] : train) {
      if (sources.files.size() < 2)
        fail(ErrorKind::data, "class '{}' has one file only; validation needs a second one", name);
      std::tie(sources, validation[name]) = split_sources(sources, request.val_fraction, request.seed);
    }
  }
  OpenedData opened{read_classes(train, names, tokenizer), std::nullopt, std::move(notes)};
  if (!validation.empty()) opened.validation = read_classes(validation, names, tokenizer);
  return opened;
}

OpenedData open_task(const DataRequest& request) {
  GeneratedSamples training(*request.task, request.seq_len, Split::train, request.seed);
  std::vector<std::string> notes = {training.describe()};
  OpenedData opened{Dataset(std::move(training)), std::nullopt, {}};
  if (request.task->val_samples > 0) {
    GeneratedSamples validation(*request.task, request.seq_len, Split::validation, request.seed);
    notes.push_back(validation.describe());
    opened.validation.emplace(std::move(validation));
  }
  opened.notes = std::move(notes);
  return opened;
}

OpenedData open_and_split(const DataRequest& request, InputFormat format) {
  std::vector<std::string> notes;
  if (format == InputFormat::text) {
    const auto tokenizer = tokenizer_of(request)();
    const Sources sources = find_sources(request.train);
    auto [train, validation] = split_sources(sources, request.val_fraction, request.seed);
    notes.push_back("text: " + sources.describe());
    notes.push_back(sources.files.size() > 1 ? fmt::format("split by file: training {}, validation {}",
                                                           train.describe(), validation.describe())
                                             : "one file only: its tail is the validation text");
    return {read_text(train, tokenizer), read_text(validation, tokenizer), std::move(notes)};
  }
  auto [train, validation] =
      open_with(request.train, format, tokenizer_of(request), notes).split_tail(request.val_fraction);
  notes.push_back(
      fmt::format("the last {} tokens are the validation data", count_text(validation.n_tokens())));
  return {std::move(train), std::move(validation), std::move(notes)};
}

// The format of the training data, never automatic.
InputFormat format_of(const DataRequest& request) {
  if (request.train.empty()) fail(ErrorKind::data, "no training data was given");
  if (request.classes) return InputFormat::text;  // open_classes refuses all else
  return request.format == InputFormat::automatic ? common_format(request.train) : request.format;
}

OpenedData open_files(const DataRequest& request) {
  const InputFormat format = format_of(request);
  if (request.validation.empty() && request.val_fraction > 0) return open_and_split(request, format);
  std::vector<std::string> notes;
  const MakeTokenizer tokenizer = tokenizer_of(request);
  OpenedData opened{open_with(request.train, format, tokenizer, notes), std::nullopt, {}};
  if (!request.validation.empty()) {
    opened.validation = open_with(request.validation, request.format, tokenizer, notes);
    if (opened.train.vocabulary().tokenizer.empty() && opened.validation->vocabulary().tokenizer.empty()) {
      opened.train.widen_vocabulary(opened.validation->vocabulary().size);
      opened.validation->widen_vocabulary(opened.train.vocabulary().size);
    }
    const Vocabulary &ours = opened.train.vocabulary(), &theirs = opened.validation->vocabulary();
    if (ours != theirs)
      fail(ErrorKind::data,
           "training and validation data were made with different tokenizers ('{}', {} ids; '{}', {} ids)",
           ours.tokenizer, ours.size, theirs.tokenizer, theirs.size);
  }
  opened.notes = std::move(notes);
  return opened;
}

}  // namespace

Dataset open_dataset(const std::vector<std::string>& inputs, InputFormat format, const std::string& tokenizer,
                     std::vector<std::string>* notes, const OpenLimits& limits) {
  std::vector<std::string> unread;
  return open_with(
      inputs, format, [&] { return make_tokenizer(tokenizer); }, notes ? *notes : unread, limits);
}

std::string find_tokenizer(const DataRequest& request) {
  if (request.task) return "";
  const InputFormat format = format_of(request);
  if (format == InputFormat::text) return tokenizer_of(request)()->name();
  std::string own = "ids";
  if (format == InputFormat::hdf5)
    own = tokenizer_word(TokenFile(expand_paths(request.train).front()).vocabulary().tokenizer);
  require_own_tokenizer(request, own);
  return own;
}

OpenedData open_data(const DataRequest& request) {
  if (request.task) return open_task(request);
  const bool text = format_of(request) == InputFormat::text;
  std::string tokenizer = request.tokenizer == "auto" ? "byte" : request.tokenizer;
  if (!text) tokenizer = find_tokenizer(request);
  OpenedData opened = request.classes ? open_classes(request) : open_files(request);
  opened.tokenizer = std::move(tokenizer);
  return opened;
}

}  // namespace filigree
