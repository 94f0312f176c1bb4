// An event counter (eventfd(2), fs/eventfd.c). Guarded by the kernel lock.
#pragma once

#include <cstdint>

#include "sentry/vfs/file.h"

namespace amber {

class EventFd final : public File {
 public:
  EventFd() = default;  // for Load()
  // `flags`: O_NONBLOCK or 0.
  EventFd(uint64_t count, bool semaphore, int flags) : count_(count), semaphore_(semaphore) { set_flags(O_RDWR | flags); }

  // Adds to the counter, as the kernel itself does for whoever gave it an eventfd; stops at the maximum.
  void Signal(uint64_t value);
  uint64_t count() const { return count_; }

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[eventfd]"; }
  std::string FdInfo() const override;

  state::Kind kind() const override { return state::Kind::kEventFd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  static constexpr uint64_t kMax = UINT64_MAX - 1;

  uint64_t count_ = 0;
  bool semaphore_ = false;
  WaitQueue queue_;
};

}  // namespace amber
