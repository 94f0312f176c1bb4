// What the platform calls back later, on a thread of its own: it runs with the kernel lock, and what it captured goes with that held, too. A capture
// may be the last that holds a process's memory, and with it open files, mounts and file systems, which the lock guards.
//
// The platform also drops callbacks without a call, when a process dies, and holds no lock then: their captures are kept until whoever has the
// kernel lock next lets go of it.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "sentry/kernel/kernel.h"

namespace amber {

// Destroys `holder` later, with the kernel lock held. From any thread, with or without the lock.
void Discard(std::function<void()> holder);
// Destroys what was discarded. The kernel lock is held.
void ClearDiscarded();

template <typename F>
class UnderLock {
 public:
  UnderLock(Kernel& kernel, F work) : kernel_(&kernel), work_(std::move(work)) {}
  UnderLock(const UnderLock&) = default;  // std::function wants it
  UnderLock(UnderLock&& other) noexcept : kernel_(other.kernel_), work_(std::move(other.work_)) { other.work_.reset(); }
  UnderLock& operator=(const UnderLock&) = delete;
  ~UnderLock() {
    if (work_) Discard([work = *std::move(work_)] {});
  }

  // Once.
  template <typename... Args>
  void operator()(Args&&... args) {
    KernelLock lock(*kernel_);
    std::optional<F> work(std::move(work_));  // gone before the lock is
    work_.reset();
    if (work) (*work)(std::forward<Args>(args)...);
  }

 private:
  Kernel* kernel_;
  std::optional<F> work_;
};

}  // namespace amber
