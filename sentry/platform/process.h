// A host process of a stub, and the memory image that it shares with others (vfork) or has alone.
//
// Process: owned by the monitor until its death is handled, and by its threads. SpaceCore: owned by
// its Processes and by the client's SpaceImpl; it gives its window back when both are gone.
//
// Locks, all leaves but for SpaceCore::pid_mu, which is held (shared) while a process number is in
// use: a process is reaped only after taking it exclusively, since process_vm_* takes numbers and a
// number that came back is another guest's memory.
#pragma once

#include <sys/resource.h>
#include <sys/types.h>
#include <sys/uio.h>

#include <atomic>
#include <bitset>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/windows.h"

namespace amber::platform {

class FastSites;
class Listener;
class PlatformImpl;
class Process;
class SpaceImpl;
class ThreadImpl;

class SpaceCore {
 public:
  SpaceCore(PlatformImpl& platform, Windows::Lease lease);
  ~SpaceCore();

  PlatformImpl& platform() { return platform_; }
  const Windows::Lease& lease() const { return lease_; }
  Mailbox* mailbox(uint32_t slot) { return &lease_.window->mailboxes[slot]; }
  FastMemory* fast_memory(uint32_t slot) { return &lease_.window->memory[slot]; }
  SignalActions* signal_actions(uint32_t slot) { return &lease_.window->actions[slot]; }

  // Slots number the threads' mailboxes and alternate stacks. -1: none is left.
  int AllocateSlot();
  void TakeSlot(uint32_t slot);
  void FreeSlot(uint32_t slot);

  // Threads whose number may be used to reach the memory.
  void AddTid(pid_t tid);
  void RemoveTid(pid_t tid);
  pid_t any_tid() const;

  void AddProcess(const std::shared_ptr<Process>& process);
  void RemoveProcess(const Process* process);
  size_t process_count();
  void KillAll();

  // The client's handle, with a reference for the caller; null if the client has dropped it.
  RefPtr<SpaceImpl> handle();
  void set_handle(SpaceImpl* handle);

  ErrnoOr<size_t> Copy(std::span<const iovec> guest, std::span<const iovec> local, bool write);
  // Null if no call of this space takes the fast path. Set before the first thread runs.
  FastSites* fast_sites() const { return fast_sites_.get(); }
  void set_fast_sites(std::unique_ptr<FastSites> sites);

  // One range anywhere, the stub region too: for frames. True if all of it was copied.
  bool CopyRaw(uint64_t address, void* buffer, size_t size, bool write);

 private:
  ssize_t CopyOnce(const iovec* guest, size_t guest_count, const iovec* local, size_t local_count, bool write);

  PlatformImpl& platform_;
  const Windows::Lease lease_;
  std::unique_ptr<FastSites> fast_sites_;
  mutable absl::Mutex pid_mu_;
  std::vector<pid_t> tids_ ABSL_GUARDED_BY(pid_mu_);
  absl::Mutex mu_;
  std::bitset<kMaxThreads> slots_ ABSL_GUARDED_BY(mu_);
  uint32_t slot_hint_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::shared_ptr<Process>> processes_ ABSL_GUARDED_BY(mu_);
  SpaceImpl* handle_ ABSL_GUARDED_BY(mu_) = nullptr;
};

class SpaceImpl final : public AddressSpace {
 public:
  explicit SpaceImpl(std::shared_ptr<SpaceCore> core);
  ~SpaceImpl() override;
  ErrnoOr<size_t> Read(uint64_t address, void* buffer, size_t size) override;
  ErrnoOr<size_t> Write(uint64_t address, const void* buffer, size_t size) override;
  ErrnoOr<size_t> ReadV(std::span<const iovec> guest, std::span<const iovec> local) override;
  ErrnoOr<size_t> WriteV(std::span<const iovec> guest, std::span<const iovec> local) override;
  int host_pid() const override;
  void Kill() override;
  void KillProcess(Thread& thread) override;
  SpaceCore& core() { return *core_; }
  const std::shared_ptr<SpaceCore>& shared_core() { return core_; }

 private:
  const std::shared_ptr<SpaceCore> core_;
};

class Process {
 public:
  Process(std::shared_ptr<SpaceCore> space, std::shared_ptr<Listener> listener, pid_t pid, UniqueFd pidfd);
  ~Process();

  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  SpaceCore& space() { return *space_; }
  const std::shared_ptr<SpaceCore>& shared_space() { return space_; }
  Listener& listener() { return *listener_; }
  const std::shared_ptr<Listener>& shared_listener() { return listener_; }

  void Kill();

  // Makes the thread known: here, to the listener, and as a way to the memory. False, and nothing of that, if the process is dead: the monitor takes
  // apart once what it finds here, so what became known elsewhere later would stay for ever. From then on the client may be told of the thread's
  // death, and release it.
  bool AddThread(RefPtr<ThreadImpl> thread);
  std::vector<RefPtr<ThreadImpl>> threads(size_t at_most = ~size_t{0});
  void RemoveThread(const ThreadImpl* thread);
  size_t thread_count();
  // It has one thread, and shares its memory with no other process.
  bool IsAlone();
  // For the monitor: no thread will be added afterwards.
  std::vector<RefPtr<ThreadImpl>> TakeThreads();

  // How often calls that could have been posted came close together, with the one at `now`. Threads that make each other count as one.
  int NoteCall(int64_t now);
  // A call that could not be posted.
  void NoteOtherCall();

  // The descriptor table is copied by fork: while a descriptor is in it no fork may happen, and the
  // other way round. Runs `work` at once or when that has become possible, never if the process is dead; each is followed by Done
  // of its kind.
  void WhenNoFork(std::function<void()> work);
  void WhenNoDescriptor(std::function<void()> work);
  void DescriptorDone();
  // Numbers in the stub's descriptor table, which nobody else uses. -1: none is free.
  int AllocateFd();
  void FreeFds(uint64_t mask);
  void ForkDone();

  // See reaped.h.
  bool WhenReaped(std::function<void(const rusage&)> done);
  std::vector<std::function<void(const rusage&)>> TakeWhenReaped();

 private:
  void RunWaiting() ABSL_UNLOCK_FUNCTION(mu_);

  const std::shared_ptr<SpaceCore> space_;
  const std::shared_ptr<Listener> listener_;
  const pid_t pid_;
  const UniqueFd pidfd_;
  std::atomic<bool> killed_{false};
  std::atomic<int64_t> last_call_{0};
  std::atomic<int> streak_{0};
  absl::Mutex mu_;
  bool dead_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<RefPtr<ThreadImpl>> threads_ ABSL_GUARDED_BY(mu_);
  uint64_t fds_ ABSL_GUARDED_BY(mu_) = 0;
  int descriptor_users_ ABSL_GUARDED_BY(mu_) = 0;
  int forks_ ABSL_GUARDED_BY(mu_) = 0;
  struct Waiting {
    bool fork;
    std::function<void()> work;
  };
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  bool reaped_ ABSL_GUARDED_BY(mu_) = false;
  std::vector<std::function<void(const rusage&)>> when_reaped_ ABSL_GUARDED_BY(mu_);
};

}  // namespace amber::platform
