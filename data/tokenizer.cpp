#include "data/tokenizer.h"

#include <algorithm>

#include "core/check.h"
#include "core/file.h"
#include "data/bpe_tokenizer.h"
#include "data/byte_alphabet.h"

namespace filigree {
namespace {

constexpr std::uintmax_t kMaxFileBytes = std::uintmax_t{256} << 20;

class ByteTokenizer : public Tokenizer {
 public:
  std::string name() const override { return "byte"; }
  std::int64_t vocab_size() const override { return 258; }
  std::optional<std::uint32_t> separator() const override { return 256; }
  std::optional<std::uint32_t> mask() const override { return 257; }
  void encode(std::string_view text, std::vector<std::uint32_t>& ids) const override {
    const std::size_t before = ids.size();
    ids.resize(before + text.size());
    std::transform(text.begin(), text.end(), ids.begin() + static_cast<std::ptrdiff_t>(before),
                   [](char c) { return static_cast<std::uint32_t>(static_cast<unsigned char>(c)); });
  }
  std::size_t last_border(std::string_view text) const override { return text.size(); }
  std::string decode(std::span<const std::uint32_t> ids) const override {
    std::string text;
    for (const std::uint32_t id : ids)
      if (id < 256) text.push_back(static_cast<char>(id));
    return text;
  }
  std::int64_t n_bytes(std::uint32_t id) const override { return id < 256 ? 1 : 0; }
  std::string to_json() const override {
    BpeModel model;
    model.is_byte_tokenizer = true;
    for (int byte = 0; byte < 256; ++byte)
      model.vocab.push_back(to_byte_alphabet(std::string(1, static_cast<char>(byte))));
    model.added = {{"<|endoftext|>", 256, true, false}, {"<|mask|>", 257, true, false}};
    return write_tokenizer_json(model);
  }
};

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  if (name == "byte") return std::make_shared<ByteTokenizer>();
  constexpr std::string_view kBpe = "bpe:";
  if (!name.starts_with(kBpe) || name == kBpe)
    throw Error(ErrorKind::usage, fmt::format("unknown tokenizer '{}'", name),
                "write byte, or bpe:FILE for a tokenizer.json");
  const std::filesystem::path file = expand_home(name.substr(kBpe.size()));
  std::error_code ignored;
  if (const auto bytes = std::filesystem::file_size(file, ignored); !ignored && bytes > kMaxFileBytes)
    fail(ErrorKind::data, "{}: {} bytes are too many for a tokenizer.json", file.string(), bytes);
  return tokenizer_from_json(read_file(file), file.string());
}

std::shared_ptr<const Tokenizer> tokenizer_from_json(std::string_view text, const std::string& origin) {
  BpeModel model = read_tokenizer_json(text, origin);
  if (!model.is_byte_tokenizer) return std::make_shared<BpeTokenizer>(std::move(model));
  auto bytes = std::make_shared<ByteTokenizer>();
  if (write_tokenizer_json(model) != bytes->to_json())
    throw Error(
        ErrorKind::data,
        fmt::format("{}: pre_tokenizer: ByteLevel with use_regex: false alone is not supported", origin),
        "that is how the byte tokenizer is written, but the vocabulary is not its");
  return bytes;
}

std::string tokenizer_word(const std::string& vocabulary_name) {
  return vocabulary_name == "byte" || vocabulary_name.starts_with("bpe:") ? vocabulary_name : "ids";
}

}  // namespace filigree
