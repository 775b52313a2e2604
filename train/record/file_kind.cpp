#include "train/record/file_kind.h"

#include <cstdint>
#include <cstring>
#include <fstream>

#include "core/hdf5.h"
#include "core/utf8.h"

namespace filigree {
namespace {

constexpr std::int32_t kLlmcMagic[] = {20240520, 20240801};  // data/bin_file.h

// The names at the root tell; a file that cannot be read is damaged, which its own reader explains.
FileKind hdf5_kind(const std::filesystem::path& path) {
  try {
    const h5::Reader file(path);
    if (file.has("manifest")) return FileKind::checkpoint;
    if (file.has("head_pattern")) return FileKind::layout;
    if (file.has("logits") && file.has("targets")) return FileKind::logits;
    if (file.has("tokens")) return FileKind::tokens;
  } catch (const Error&) {
  }
  return FileKind::hdf5;
}

// Whole characters without control characters; the last one may be cut.
bool is_text(std::string bytes) {
  for (int cut = 0; cut < 3 && !is_utf8(bytes); ++cut) bytes.pop_back();
  for (const char c : bytes)
    if (static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f')
      return false;
  return !bytes.empty() && is_utf8(bytes);
}

}  // namespace

FileKind file_kind(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) return FileKind::unknown;
  std::ifstream in(path, std::ios::binary);
  std::string head(4096, '\0');
  in.read(head.data(), std::ssize(head));
  head.resize(in.gcount());
  if (head.starts_with("\x89HDF\r\n\x1a\n")) return hdf5_kind(path);
  if (head.size() > 8 && head[8] == '{' && head.substr(5, 3) == std::string(3, '\0'))
    return FileKind::safetensors;
  std::int32_t magic = 0;
  if (head.size() >= sizeof magic) std::memcpy(&magic, head.data(), sizeof magic);
  if (magic == kLlmcMagic[0] || magic == kLlmcMagic[1]) return FileKind::bin;
  if (is_text(head)) {
    const bool json = head.find_first_not_of(" \t\r\n") != std::string::npos && path.extension() == ".json";
    return json && head.find("\"added_tokens\"") != std::string::npos ? FileKind::tokenizer : FileKind::text;
  }
  return path.extension() == ".bin" ? FileKind::bin : FileKind::unknown;
}

std::string kind_text(FileKind kind) {
  switch (kind) {
    case FileKind::checkpoint:
      return "a checkpoint";
    case FileKind::tokens:
      return "a token file of filigree prepare";
    case FileKind::layout:
      return "a layout file of filigree explain --dump";
    case FileKind::logits:
      return "a logits file of filigree eval --logits";
    case FileKind::hdf5:
      return "an HDF5 file";
    case FileKind::safetensors:
      return "a safetensors file";
    case FileKind::bin:
      return "a token file of nanoGPT or llm.c";
    case FileKind::tokenizer:
      return "a tokenizer";
    case FileKind::text:
      return "a text file";
    case FileKind::unknown:
      break;
  }
  return "";
}

}  // namespace filigree
