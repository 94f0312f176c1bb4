// A descriptor table (Linux: struct files_struct), shared by tasks that cloned with CLONE_FILES. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"

namespace amber {

class Task;

class FdTable final : public RefCounted<FdTable>, public state::Saveable {
 public:
  // The hard ceiling, as fs.nr_open. The task's RLIMIT_NOFILE is passed in by callers.
  static constexpr uint32_t kMaxFds = 1 << 20;

  FdTable() = default;
  ~FdTable() override = default;

  // The file behind `fd`; EBADF if there is none. Files opened with O_PATH are only returned by GetAny().
  ErrnoOr<RefPtr<File>> Get(int fd) const;
  ErrnoOr<RefPtr<File>> GetAny(int fd) const;
  // Puts `file` at the lowest free number >= `min`; EMFILE from `limit` on.
  ErrnoOr<int> Allocate(RefPtr<File> file, bool close_on_exec, uint64_t limit, int min = 0);
  // Puts `file` at `fd` and returns what was there (dup2); EBADF from `limit` on.
  ErrnoOr<RefPtr<File>> Replace(int fd, RefPtr<File> file, bool close_on_exec, uint64_t limit);
  // Removes and returns the file at `fd`; EBADF if there is none. The caller calls OnClose.
  ErrnoOr<RefPtr<File>> Remove(int fd);
  ErrnoOr<bool> close_on_exec(int fd) const;
  ErrnoOr<void> set_close_on_exec(int fd, bool on);
  // Removes everything for which `which(fd, close_on_exec)` is true, calling OnClose with `task`.
  void RemoveIf(Task& task, const std::function<bool(int, bool)>& which);
  // A copy for fork or unshare.
  RefPtr<FdTable> Clone() const;
  void ForEach(const std::function<void(int fd, const RefPtr<File>&, bool close_on_exec)>& visit) const;
  // One past the highest descriptor in use.
  int size() const { return static_cast<int>(entries_.size()); }
  // How many numbers Linux's table would have room for by now (fdtable.max_fds): select() looks at no number beyond, FDSize tells it.
  int capacity() const { return capacity_; }

  state::Kind kind() const override { return state::Kind::kFdTable; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  struct Entry {
    RefPtr<File> file;
    bool close_on_exec = false;
  };
  // Makes room for `fd`.
  void Reach(size_t fd);

  std::vector<Entry> entries_;
  int capacity_ = 64;   // NR_OPEN_DEFAULT; never shrinks
  int first_free_ = 0;  // no free number is below this
};

}  // namespace amber
