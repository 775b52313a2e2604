// The JSON header of a safetensors file, parsed strictly; see safetensors.h.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "train/interchange/safetensors.h"

namespace filigree {

struct SafetensorsHeader {
  std::vector<SafetensorsFile::Entry> entries;  // in the header's order
  std::map<std::string, std::string> metadata;
};

// A name from a file as a message shows it: quoted, short, without control characters.
std::string shown_name(const std::string& name);

// Checks everything that the header alone tells: its grammar, names, types, shapes and the bytes that they
// need. Error(data); `origin` names the file.
SafetensorsHeader parse_safetensors_header(std::string_view text, const std::string& origin);

}  // namespace filigree
