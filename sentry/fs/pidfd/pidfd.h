// A process behind a descriptor (pidfd_open(2)). Guarded by the kernel lock.
#pragma once

#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/file.h"

namespace amber {

class PidFd final : public File {
 public:
  PidFd() = default;  // for Load()
  // `task`: the thread for PIDFD_THREAD, else null. `flags`: O_NONBLOCK or 0.
  PidFd(RefPtr<ThreadGroup> group, RefPtr<Task> task, int flags);

  // The process; it may be dead and reaped (see alive()).
  ThreadGroup& group() const { return *group_; }
  // The thread that this descriptor stands for, or null if it stands for the process.
  Task* task() const { return task_.get(); }
  // False once the process has been reaped: ESRCH.
  bool alive() const;
  // `file` as a PidFd, or null.
  static PidFd* From(File& file) { return dynamic_cast<PidFd*>(&file); }

  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &group_->exit_queue(); }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[pidfd]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kPidFd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  // PIDFD_GET_INFO into `size` bytes.
  ErrnoOr<uint64_t> GetInfo(Task& task, uint64_t argument, size_t size);

  RefPtr<ThreadGroup> group_;
  RefPtr<Task> task_;
};

}  // namespace amber
