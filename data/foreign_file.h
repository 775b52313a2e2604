// Files of other programs that hold no tokens, known by how they begin: read as raw u16 ids they would train
// without a word.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace filigree {

struct ForeignFile {
  std::string what;  // "a numpy array"
  std::string hint;  // what to do about it
};

// nullopt if the file is none that we know, or cannot be read. A few bytes that may as well be ids of tokens
// are not enough: the longer marks are compared whole, the shorter ones with the file's end or its size.
std::optional<ForeignFile> foreign_file(const std::filesystem::path& path);

}  // namespace filigree
