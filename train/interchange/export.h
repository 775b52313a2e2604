// A checkpoint becomes a folder that transformers loads.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "core/dtype.h"
#include "train/interchange/hf_model.h"

namespace filigree {

struct ExportResult {
  Architecture architecture = Architecture::gpt2;
  std::int64_t parameters = 0;
  std::string warning;  // what the folder cannot say in transformers' terms; empty if nothing
};

// Reads `model` (a checkpoint file or a run folder) and makes `folder`, which must not exist or be empty, or,
// with `overwrite`, hold nothing but what an export writes:
//   model.safetensors, config.json                 weights in f32 or bf16
//   generation_config.json, tokenizer.json, tokenizer_config.json      where the tokenizer is known; with the
//       special tokens that an imported model came with
//   layout.h5 (layout_0.h5, .. where layers differ), README.md         for a pattern that transformers lacks:
//       config.json then has a key `filigree`, the README tells how to apply the layout, and an import takes
//       it up
// The folder gets its name when it is whole: Error(disk) leaves nothing behind. `progress` hears of the bytes
// done and of all.
ExportResult export_model(const std::filesystem::path& model, const std::filesystem::path& folder,
                          DType dtype, const std::function<void(std::int64_t, std::int64_t)>& progress = {},
                          bool overwrite = false);

}  // namespace filigree
