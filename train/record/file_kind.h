// Which kind of file a file is, by its first bytes and by what stands at its root: for messages that say what
// was named in the place of a checkpoint, and for filigree inspect.
#pragma once

#include <filesystem>
#include <string>

namespace filigree {

enum class FileKind {
  checkpoint,
  tokens,  // HDF5, of filigree prepare
  layout,  // HDF5, of filigree explain --dump
  logits,  // HDF5, of filigree eval --logits
  hdf5,    // of something else, or damaged
  safetensors,
  bin,        // token ids of nanoGPT or llm.c
  tokenizer,  // tokenizer.json
  text,
  unknown,  // other bytes, none at all, or no file that can be read
};

FileKind file_kind(const std::filesystem::path& path);

// "a token file of filigree prepare"; "" for unknown.
std::string kind_text(FileKind kind);

}  // namespace filigree
