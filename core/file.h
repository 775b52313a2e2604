// Small files written so that a crash leaves the old one or the new one, never half of one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace filigree {

// Temporary file in the same folder, fsync, rename, fsync of the folder. Error(disk) on failure, with the
// target untouched.
void write_file_atomically(const std::filesystem::path& target, std::string_view text);

// rename(2), then fsync of the folder. Error(disk) on failure.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

// The whole file; Error(data) naming it if it cannot be read.
std::string read_file(const std::filesystem::path& path);

// What an ordinary user may still write to the file system that holds `folder`.
std::int64_t free_bytes(const std::filesystem::path& folder);

}  // namespace filigree
