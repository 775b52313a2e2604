#include "data/foreign_file.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string_view>

namespace filigree {
namespace {

namespace fs = std::filesystem;
using namespace std::string_view_literals;

constexpr std::string_view kModel =
    "that is a model, not its data; filigree import reads models as folders of safetensors";
constexpr std::string_view kPacked = "unpack it first; text, HDF5 token files and .bin files are read";
constexpr std::string_view kTable =
    "write what it holds as text files, or as raw u16 ids to a .bin file; filigree prepare makes token files";
constexpr std::string_view kTokenFile =
    "token files are read as they are, with data.format: hdf5 or auto, "
    "and need no filigree prepare";
constexpr std::string_view kQuestions =
    "it holds questions with answers to choose from; training and evaluation read llm.c's token shards";

struct Mark {
  std::size_t at;
  std::string_view begin, end;  // `end` may be empty
  std::string_view what, hint;
};

// llm.c's numbers are dates, little-endian: 20240326 is 0x0134d7c6.
constexpr std::array kMarks = {
    Mark{0, "\xc6\xd7\x34\x01"sv, ""sv, "GPT-2 weights of llm.c"sv, kModel},
    Mark{0, "\xc7\xd7\x34\x01"sv, ""sv, "a debug state of llm.c"sv, kModel},
    Mark{0, "\xc8\xd7\x34\x01"sv, ""sv, "a tokenizer of llm.c"sv,
         "name a tokenizer.json with data.tokenizer=bpe:FILE"sv},
    Mark{0, "\x8a\xd8\x34\x01"sv, ""sv, "an evaluation file of llm.c (HellaSwag, MMLU)"sv, kQuestions},
    Mark{0, "\x8f\xd8\x34\x01"sv, ""sv, "an optimizer state of llm.c"sv, kModel},
    Mark{0, "\xa3\xd9\x34\x01"sv, ""sv, "Llama 3 weights of llm.c"sv, kModel},
    Mark{0, "24ka"sv, ""sv, "a model of llama2.c"sv, kModel},
    Mark{0, "GGUF"sv, ""sv, "a GGUF model"sv, kModel},
    Mark{0, "tjgg"sv, ""sv, "a GGML model"sv, kModel},
    Mark{0, "fmgg"sv, ""sv, "a GGML model"sv, kModel},
    Mark{0, "lmgg"sv, ""sv, "a GGML model"sv, kModel},
    Mark{0, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46"sv, ""sv, "a checkpoint of PyTorch"sv, kModel},
    Mark{0, "\x80\x02}"sv, "."sv, "a pickle of Python"sv, kTable},
    Mark{0, "\x80\x04\x95"sv, "."sv, "a pickle of Python"sv, kTable},
    Mark{0, "\x80\x05\x95"sv, "."sv, "a pickle of Python"sv, kTable},
    Mark{0, "\x93NUMPY"sv, ""sv, "a numpy array"sv,
         "write the bare ids: array.astype('uint16').tofile('tokens.bin')"sv},
    Mark{0, "PK\x03\x04"sv, ""sv, "a zip archive (a checkpoint of PyTorch is one, and an .npz file)"sv,
         kPacked},
    Mark{0, "\x89HDF\r\n\x1a\n"sv, ""sv, "an HDF5 file"sv, kTokenFile},
    Mark{0, "PAR1"sv, "PAR1"sv, "a Parquet file"sv, kTable},
    Mark{0, "ARROW1\0\0"sv, ""sv, "an Arrow file"sv, kTable},
    Mark{0, "MMIDIDX\0\0"sv, ""sv, "an index of Megatron"sv, kTable},
    Mark{0,
         "\xfd"
         "7zXZ\0"sv,
         ""sv, "packed by xz"sv, kPacked},
    Mark{0, "7z\xbc\xaf\x27\x1c"sv, ""sv, "a 7z archive"sv, kPacked},
    Mark{0, "\x28\xb5\x2f\xfd"sv, ""sv, "packed by zstd"sv, kPacked},
    Mark{4, "1AY&SY"sv, ""sv, "packed by bzip2"sv, kPacked},
    Mark{257, "ustar"sv, ""sv, "a tar archive"sv, kPacked},
    Mark{0, "SQLite format 3\0"sv, ""sv, "an SQLite database"sv, kTable},
};

template <class T>
T number_at(std::string_view bytes, std::size_t at) {
  T value{};
  if (bytes.size() >= at + sizeof value) std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// gzip's mark alone is one likely id: its flags, which use 5 bits, and its systems must fit, too.
bool is_gzip(std::string_view head) {
  return head.starts_with("\x1f\x8b\x08"sv) && head.size() > 10 &&
         static_cast<unsigned char>(head[3]) < 0x20 &&
         (static_cast<unsigned char>(head[9]) <= 13 || head[9] == '\xff');
}

// A length, then a JSON object of that length.
bool is_safetensors(std::string_view head, std::uint64_t size) {
  const auto length = number_at<std::uint64_t>(head, 0);
  return head.size() > 9 && head.substr(8, 2) == "{\"" && length >= 2 && length <= size - 8;
}

// The first models of llama2.c begin with seven numbers and no mark; their size follows from these.
bool is_first_llama2c(std::string_view head, std::uint64_t size) {
  std::array<std::int64_t, 7> header{};
  for (std::size_t i = 0; i < header.size(); ++i) header[i] = number_at<std::int32_t>(head, 4 * i);
  const auto [dim, hidden, layers, heads, kv_heads, signed_vocab, length] = header;
  constexpr std::int64_t kMost = 1 << 17;
  const std::int64_t vocab = signed_vocab < 0 ? -signed_vocab : signed_vocab;  // negative: not tied
  for (const std::int64_t n : {dim, hidden, layers, heads, kv_heads, length})
    if (n < 1 || n > kMost) return false;
  if (vocab < 1 || vocab > (1 << 24) || layers > 4096 || dim % heads != 0) return false;
  const std::int64_t head_dim = dim / heads;
  const std::int64_t block = 2 * dim + 2 * dim * dim + 2 * dim * kv_heads * head_dim + 3 * dim * hidden;
  const std::int64_t values =
      vocab * dim * (signed_vocab < 0 ? 2 : 1) + layers * block + dim + length * head_dim;
  return static_cast<std::uint64_t>(28 + 4 * values) == size;
}

std::string bytes_of(const fs::path& path, std::uint64_t at, std::size_t count) {
  std::ifstream file(path, std::ios::binary);
  std::string bytes(count, '\0');
  file.seekg(static_cast<std::streamoff>(at));
  file.read(bytes.data(), static_cast<std::streamsize>(count));
  bytes.resize(file.gcount());
  return bytes;
}

bool has_megatron_index(const fs::path& path) {
  fs::path index = path;
  index.replace_extension(".idx");
  return index != path && bytes_of(index, 0, 7) == "MMIDIDX";
}

}  // namespace

std::optional<ForeignFile> foreign_file(const fs::path& path) {
  std::error_code error;
  const std::uint64_t size = fs::file_size(path, error);
  if (error || size < 4) return std::nullopt;
  const std::string head = bytes_of(path, 0, 512), tail = bytes_of(path, size - 4, 4);
  const auto found = [](std::string_view what, std::string_view hint) {
    return ForeignFile{std::string(what), std::string(hint)};
  };
  for (const Mark& mark : kMarks)
    if (head.size() >= mark.at && std::string_view(head).substr(mark.at).starts_with(mark.begin) &&
        tail.ends_with(mark.end))
      return found(mark.what, mark.hint);
  if (is_gzip(head)) return found("packed by gzip", kPacked);
  if (is_safetensors(head, size))
    return found("a safetensors file", "that is a model, not its data; filigree import reads its folder");
  if (is_first_llama2c(head, size)) return found("a model of llama2.c", kModel);
  if (has_megatron_index(path))
    return found(
        "one half of a data set of Megatron, with the .idx beside it",
        "its ids may be of any width and its documents are in the .idx; make a token file of the text "
        "with filigree prepare");
  return std::nullopt;
}

}  // namespace filigree
