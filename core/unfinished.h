// Files and folders that are being made must not stay behind when a signal ends the process.
#pragma once

#include <filesystem>

namespace filigree {

// Names a file or folder while it is unfinished. Making and removing it is its owner's business; if a signal
// ends the process before this object goes, it is removed: a file, or a folder with the files and folders in
// it.
class Unfinished {
 public:
  explicit Unfinished(std::filesystem::path path);
  ~Unfinished();
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int slot_;
};

// From now on SIGINT, SIGTERM, SIGHUP and SIGPIPE end the process as before, but what is unfinished goes
// first; one that is ignored stays so, as under nohup. SIGXFSZ is ignored: a file beyond `ulimit -f` is a
// failed write.
void clean_up_on_signals();

// Removes what is unfinished. Safe in signal handlers; the process must end after it.
void remove_unfinished() noexcept;

}  // namespace filigree
