// A folder of Hugging Face transformers becomes a checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/config/config.h"
#include "train/interchange/hf_model.h"

namespace filigree {

struct ImportRequest {
  std::filesystem::path folder;        // config.json, model.safetensors or shards, perhaps tokenizer.json
  std::filesystem::path output;        // the checkpoint
  std::optional<PatternFile> pattern;  // else what the folder says: full, its sliding window, its layout's
  std::int64_t seq_len = 0;            // data.seq_len of the checkpoint; 0: the model's, at most 4096
};

struct ImportResult {
  Architecture architecture = Architecture::gpt2;
  Config config;  // of the checkpoint
  std::int64_t parameters = 0;
  std::string tokenizer;           // empty: unknown
  std::vector<std::string> notes;  // what of the folder was left behind
};

// The checkpoint can be evaluated, sampled from, exported, and be the `train.init_from` of a run; as it has
// no optimizer state and no data, no run resumes from it. Error(data) for a folder that ours cannot express
// exactly, for weights that do not fit its config.json, and for damaged files. What the folder says of
// special tokens is kept, and so are the layouts of a pattern that needs them. `progress` hears of the
// parameters done and of all.
ImportResult import_model(const ImportRequest& request,
                          const std::function<void(std::int64_t, std::int64_t)>& progress = {});

}  // namespace filigree
