// Finding text: files, folders (recursive), globs and `~` become a list of files in a fixed order, each file
// one document.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/fields.h"

namespace filigree {

enum class InputFormat { automatic, text, hdf5, bin };
template <>
inline constexpr Word kWords<InputFormat>[] = {{"auto", "by each file's content and name"},
                                               {"text", "UTF-8, source code, anything without NUL bytes"},
                                               {"hdf5", "tokens, as filigree prepare writes them"},
                                               {"bin", "tokens, as nanoGPT and llm.c write them"}};

struct SourceFile {
  std::filesystem::path path;
  std::string relative;    // to the folder that was named; the file's own name if the file was named
  std::int64_t begin = 0;  // the part of the file that is meant, in bytes
  std::int64_t bytes = 0;
};

struct Sources {
  std::vector<SourceFile> files;  // by input, then sorted by path; no file twice, whatever links lead to it
  std::int64_t bytes = 0;
  std::int64_t n_binary = 0;     // skipped: a NUL in the first 8 KiB
  std::int64_t n_empty = 0;      // skipped
  std::int64_t n_other = 0;      // skipped: dangling links, sockets, devices
  std::int64_t n_runs = 0;       // skipped: run folders of filigree
  std::string describe() const;  // "783 files, 12.3 MB (skipped: 2 binary, 1 empty)"
};

// `~` and globs resolved, sorted per input. What exists under its literal name is not a pattern. Error(data)
// if an input does not exist or matches nothing.
std::vector<std::filesystem::path> expand_paths(const std::vector<std::string>& inputs);

// The text files below the inputs. In folders, hidden entries and the run folders of filigree are left out
// and links are followed, each folder once. A binary or empty file that was named itself, and whatever cannot
// be read, is Error(data); so is nothing to read at all.
Sources find_sources(const std::vector<std::string>& inputs);

// Splits by file: the files in the order of the hash of (seed, relative path) go to validation as long as
// that brings its bytes closer to `fraction` of all; at least one file on each side. A single file is cut:
// its tail, from a line's start where there is one nearby, is the validation. 0 < fraction < 1.
std::pair<Sources, Sources> split_sources(const Sources& all, double fraction, std::uint64_t seed);

// Reads a file in blocks of at most 4 MiB that end where `border` (Tokenizer::last_border) says; a block
// without a border grows until it has one.
class BlockReader {
 public:
  using Border = std::function<std::size_t(std::string_view)>;
  BlockReader(const SourceFile& file, Border border);
  ~BlockReader();
  BlockReader(const BlockReader&) = delete;
  BlockReader& operator=(const BlockReader&) = delete;
  // The next block, never empty; nullopt at the end. Error(data) if the file became shorter meanwhile.
  std::optional<std::string> next();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Calls `use` with all blocks.
void read_blocks(const SourceFile& file, const BlockReader::Border& border,
                 const std::function<void(std::string_view)>& use);

}  // namespace filigree
