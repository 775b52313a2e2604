// A trained model with what is needed to use it, from a checkpoint file or a run folder.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "layers/transformer.h"
#include "train/config/config.h"
#include "train/record/checkpoint.h"

namespace filigree {

struct LoadedModel {
  std::filesystem::path checkpoint;            // the file that was read
  Config config;                               // resolved, as stored
  std::shared_ptr<const Tokenizer> tokenizer;  // of the data that it was trained on; null: only ids are known
  std::string tokenizer_name;                  // as Vocabulary::tokenizer, also of a task; empty: unknown
  TrainedOn trained_on;
  std::unique_ptr<Transformer> model;
  std::vector<std::uint32_t> end_tokens = {};  // beside the separator: what ends a text of an imported model
};

// The same without a Transformer made of it.
struct StoredModel {
  std::filesystem::path checkpoint;
  Config config;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string tokenizer_name;
  TrainedOn trained_on;
  NamedTensors weights;
  NamedTensors patterns;            // see CheckpointContents
  std::string special_tokens_json;  // see special_tokens.h
};

// `path`: a checkpoint file, or a run folder, of which best.h5 is read, or else the newest that is intact.
// Error(data) if there is none, or if a layout file of its pattern is not the one that it was trained with.
StoredModel read_stored_model(const std::filesystem::path& path);

// `device`: where to use it; automatic: where it was trained.
LoadedModel load_model(const std::filesystem::path& path, DeviceChoice device = DeviceChoice::automatic);

}  // namespace filigree
