#include "data/tokenizer.h"

#include <algorithm>

#include "core/check.h"

namespace filigree {
namespace {

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
  std::string decode(std::span<const std::uint32_t> ids) const override {
    std::string text;
    for (const std::uint32_t id : ids)
      if (id < 256) text.push_back(static_cast<char>(id));
    return text;
  }
  std::int64_t n_bytes(std::uint32_t id) const override { return id < 256 ? 1 : 0; }
};

}  // namespace

std::shared_ptr<const Tokenizer> make_tokenizer(const std::string& name) {
  if (name == "byte") return std::make_shared<ByteTokenizer>();
  throw Error(ErrorKind::usage, fmt::format("unknown tokenizer '{}'", name), "known tokenizers: byte");
}

}  // namespace filigree
