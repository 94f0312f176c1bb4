// Signals as something to read (signalfd(2), fs/signalfd.c). Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <list>

#include "sentry/kernel/signal.h"
#include "sentry/vfs/file.h"

namespace amber {

class ThreadGroup;

class SignalFd final : public File {
 public:
  SignalFd();  // for Load()
  // `mask`: the signals that reading takes; SIGKILL and SIGSTOP are left out of it. `flags`: O_NONBLOCK or 0.
  SignalFd(Task& task, SignalSet mask, int flags);
  ~SignalFd() override;

  SignalSet mask() const { return mask_; }
  void set_mask(SignalSet mask);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[signalfd]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kSignalFd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  class Watch;
  // Passes events of `group` on to queue_ from now on.
  void WatchGroup(ThreadGroup& group);

  SignalSet mask_ = 0;
  WaitQueue queue_;
  std::list<Watch> watches_;
  std::vector<uint64_t> loading_;  // ids of groups, between Load() and AfterLoad()
};

}  // namespace amber
