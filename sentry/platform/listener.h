// A seccomp listener: the notifications of one exec'd stub and of all processes forked from it.
// Shared by the Processes that it listens to; its receivers are worker threads that run Receive()
// until the last process is gone.
//
// Threads: all methods from any thread. Lock: mu_, a leaf.
#pragma once

#include <linux/seccomp.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/watcher.h"

namespace amber::platform {

class PlatformImpl;
class ThreadImpl;

class Listener : public std::enable_shared_from_this<Listener> {
 public:
  Listener(PlatformImpl& platform, UniqueFd fd);
  ~Listener();

  // Puts the first receiver to work. False if the host has no thread for it.
  bool Start();

  void Add(pid_t tid, RefPtr<ThreadImpl> thread);
  void Remove(pid_t tid);
  RefPtr<ThreadImpl> Find(pid_t tid);

  // Answer a notification. If it is the one that the calling receiver handles, the answer goes when the client is done with it: the guest
  // thread that is let go takes this CPU, and whoever is left without one should hold no lock. A notification that is no longer there (its process was killed) is no
  // error.
  void Answer(uint64_t id, int64_t value);
  // Lets the call run in the host kernel. Only for calls that were checked.
  void Continue(uint64_t id);
  // Puts `fd` into the stub's table as `number`, which must be free; with `answer` that is the
  // call's answer, too. 0, or -errno.
  int AddFd(uint64_t id, int fd, int number, bool answer);

  // Guest threads that are executing.
  void CountRunning(int change) { running_.fetch_add(change, std::memory_order_relaxed); }

  // On a receiver: `thread`'s stub is woken, or the pool of stubs filled, when the client is done and has let its lock go. False elsewhere.
  static bool WakeAfterwards(ThreadImpl& thread);
  static bool RefillAfterwards();

  // On a receiver, before half a millisecond's work: makes sure that another one receives meanwhile, if other guest threads run.
  static void BeforeLongWork();

  // Notifications that were received and not answered. The kernel walks a list of all of them at
  // every call: 3 us a call with none, 7.5 with 256, 23 with 1000.
  void CountOutstanding(int change) { outstanding_.fetch_add(change, std::memory_order_relaxed); }
  bool Crowded() const { return outstanding_.load(std::memory_order_relaxed) > 32; }

  // True if notifications wait for a receiver.
  bool Behind() const;

  // On a receiver, before the client is told of a call: when that is dealt with, a worker on another CPU begins to watch.
  void WatchAfterwards();
  WatchCredit& watch_credit() { return watch_credit_; }

  // Of the calling thread's listener; see platform.h.
  static void AboutToBlock();

 private:
  struct Receiver;
  void Send(const seccomp_notif_resp& response);
  void SendNow(seccomp_notif_resp response);
  static void TellOthers(Receiver& receiver);
  void SendDeferred(Receiver& receiver);
  void SetHandOver(bool on);
  void Receive();
  bool Handle(Receiver& receiver);
  bool AddReceiver(int at_most);
  bool Needed(Receiver& receiver);

  static thread_local Receiver* current_;

  PlatformImpl& platform_;
  const UniqueFd fd_;
  WatchCredit watch_credit_;
  std::atomic<int> running_{0};
  std::atomic<int> outstanding_{0};
  std::atomic<int> receivers_{0};  // without those that said they would block
  absl::Mutex mu_;
  absl::flat_hash_map<pid_t, RefPtr<ThreadImpl>> threads_ ABSL_GUARDED_BY(mu_);
};

}  // namespace amber::platform
