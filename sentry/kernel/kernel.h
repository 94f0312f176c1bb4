// The kernel of one sandbox: what exists once, and the entry points of the platform.
//
// Lock. One lock, Kernel::mu(), guards every kernel object (docs/decisions says why, with figures); work that may take
// long without touching kernel objects (bulk copies to files, gofer calls) may release it by KernelUnlock while it holds references. It is
// taken through KernelLock, whose destructor runs the tasks that became runnable meanwhile. Lock order: kernel, platform.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "checkpoint/state.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/task.h"
#include "sentry/platform/platform.h"

namespace amber {

class PidNamespace;
class ProcessGroup;
class Session;

// What `sandbox debug --stats` shows of the kernel; the platform keeps its own.
struct KernelStats {
  std::atomic<uint64_t> syscalls{0}, blocks{0}, restarts{0}, signals{0}, forks{0}, execs{0};
  std::array<std::atomic<uint64_t>, 512> unknown{};  // ENOSYS by number; the last counts larger ones
};

class Kernel final : public platform::Client, public state::Saveable {
 public:
  Kernel();
  ~Kernel() override;

  absl::Mutex& mu() { return mu_; }
  Clocks& clocks() { return clocks_; }
  TimerQueue& timers() { return *timers_; }
  platform::Platform& platform() { return *platform_; }
  KernelStats& stats() { return stats_; }
  PidNamespace& root_pids() { return *root_pids_; }

  // Starts the platform and the timers. "" or what went wrong.
  std::string Start(const platform::Options& options);

  // The task with this id in the root pid namespace, or null.
  Task* FindTask(int tid) const;
  ThreadGroup* FindGroup(int pid) const;
  // All groups, by pid.
  const std::map<int, ThreadGroup*>& groups() const { return groups_; }

  // Makes `task`'s call be executed again soon (by whoever holds the lock, when it lets go).
  void MakeRunnable(Task& task);
  // Runs what MakeRunnable() collected. Called by KernelLock.
  void Drain();

  // Random bytes for the guest (getrandom, AT_RANDOM, /dev/urandom): the host's.
  void Random(void* out, size_t size);

  // platform::Client
  void OnSyscall(platform::Thread& thread, const platform::Syscall& call) override;
  void OnFrame(platform::Thread& thread, platform::Stop stop, const platform::Fault* fault) override;
  void OnProcessDeath(platform::AddressSpace& space, std::span<platform::Thread* const> threads,
                      int wait_status) override;

  state::Kind kind() const override { return state::Kind::kKernel; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class Task;
  friend class ThreadGroup;
  friend class TaskLifecycle;

  absl::Mutex mu_;
  Clocks clocks_;
  KernelStats stats_;
  std::unique_ptr<TimerQueue> timers_;
  std::unique_ptr<platform::Platform> platform_;
  std::map<int, ThreadGroup*> groups_;
  std::unordered_map<int, Task*> tasks_;
  RefPtr<PidNamespace> root_pids_;
  std::deque<RefPtr<Task>> runnable_;
  bool draining_ = false;
};

// Holds the kernel lock; on release runs the tasks that became runnable.
class ABSL_SCOPED_LOCKABLE KernelLock {
 public:
  explicit KernelLock(Kernel& kernel) ABSL_EXCLUSIVE_LOCK_FUNCTION(kernel.mu()) : kernel_(kernel) {
    kernel_.mu().Lock();
  }
  ~KernelLock() ABSL_UNLOCK_FUNCTION() {
    kernel_.Drain();
    kernel_.mu().Unlock();
  }
  KernelLock(const KernelLock&) = delete;
  KernelLock& operator=(const KernelLock&) = delete;

 private:
  Kernel& kernel_;
};

// Releases the kernel lock for a while. Kernel objects used afterwards must be held by references, and anything may have changed.
class KernelUnlock {
 public:
  explicit KernelUnlock(Kernel& kernel) ABSL_NO_THREAD_SAFETY_ANALYSIS : kernel_(kernel) { kernel_.mu().Unlock(); }
  ~KernelUnlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { kernel_.mu().Lock(); }
  KernelUnlock(const KernelUnlock&) = delete;
  KernelUnlock& operator=(const KernelUnlock&) = delete;

 private:
  Kernel& kernel_;
};

}  // namespace amber
