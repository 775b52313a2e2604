#include "core/unfinished.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/check.h"

namespace filigree {
namespace {

// A handler may interrupt anything, malloc too, so names lie in memory that is always there and folders are
// read by system calls alone.
struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<bool> named{false};
  std::array<char, 4096> name{};  // PATH_MAX
};
std::array<Slot, 64> slots;

constexpr int kMaxDepth = 4;

void remove_folder(int parent, const char* name, int depth) {
  const int folder = ::openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return;
  alignas(dirent64) std::array<char, 4096> buffer;
  for (long got; (got = ::syscall(SYS_getdents64, folder, buffer.data(), buffer.size())) > 0;)
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
      at += entry->d_reclen;
      if (std::strcmp(entry->d_name, ".") == 0 || std::strcmp(entry->d_name, "..") == 0) continue;
      if (::unlinkat(folder, entry->d_name, 0) != 0 && depth < kMaxDepth)
        remove_folder(folder, entry->d_name, depth + 1);
    }
  ::close(folder);
  ::unlinkat(parent, name, AT_REMOVEDIR);
}

void on_signal(int signal) {
  remove_unfinished();
  ::signal(signal, SIG_DFL);
  ::raise(signal);  // comes when this handler returns
}

}  // namespace

Unfinished::Unfinished(std::filesystem::path path) : path_(std::move(path)), slot_(-1) {
  const std::string name = std::filesystem::absolute(path_).string();
  if (name.size() >= slots[0].name.size()) return;  // no system call takes it either
  for (std::size_t i = 0; i < slots.size() && slot_ < 0; ++i)
    if (!slots[i].taken.exchange(true)) slot_ = static_cast<int>(i);
  if (slot_ < 0) return;  // then a later writer of the same file removes it
  Slot& slot = slots[slot_];
  std::memcpy(slot.name.data(), name.c_str(), name.size() + 1);
  slot.named = true;
}

Unfinished::~Unfinished() {
  if (slot_ < 0) return;
  Slot& slot = slots[slot_];
  slot.named = false;
  slot.taken = false;
}

void clean_up_on_signals() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) {
    struct sigaction action {};
    if (::sigaction(signal, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) continue;
    action.sa_handler = on_signal;
    sigemptyset(&action.sa_mask);
    action.sa_flags = 0;
    ::sigaction(signal, &action, nullptr);
  }
  ::signal(SIGXFSZ, SIG_IGN);
}

void remove_unfinished() noexcept {
  for (Slot& slot : slots) {
    if (!slot.named) continue;
    if (::unlink(slot.name.data()) != 0) remove_folder(AT_FDCWD, slot.name.data(), 0);
  }
}

}  // namespace filigree
