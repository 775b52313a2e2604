// Text to token files, streaming: memory does not grow with the input.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/sources.h"
#include "data/token_file.h"

namespace filigree {

struct PrepareOptions {
  std::string tokenizer = "byte";
  double val_fraction = 0;  // 0: no validation file
  std::uint64_t seed = 1;   // of the split
  bool overwrite = true;    // false: files that are there are refused
};

struct PrepareResult {
  Sources sources;
  TokenCounts train;
  std::optional<TokenCounts> validation;
  std::filesystem::path validation_path;  // empty without one
};

// "tokens.h5" -> "tokens.val.h5".
std::filesystem::path validation_path(const std::filesystem::path& output);

// Called with bytes of text done and in all, once a block.
using PrepareProgress = std::function<void(std::int64_t done, std::int64_t total)>;

// Encodes the inputs (find_sources) into `output`, split by file (split_sources) if asked for. Each file
// appears whole or not at all. Error(data) for the inputs, Error(disk) for the output, of which there must be
// room before the work begins, Error(usage) if an output is itself an input (OutputCheck) or a fraction is
// impossible.
PrepareResult prepare(const std::vector<std::string>& inputs, const std::filesystem::path& output,
                      const PrepareOptions& options, const PrepareProgress& progress = {});

}  // namespace filigree
