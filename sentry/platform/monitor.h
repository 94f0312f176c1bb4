// One thread that watches host processes and overdue kicks: takes processes apart when they end
// (reaping them only after the last use of their numbers), resends kicks, and kills processes that
// no kick reaches or that leave an order unfinished.
//
// Lock: mu_, a leaf.
#pragma once

#include <pthread.h>
#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"

namespace amber::platform {

class PlatformImpl;
class Process;
class ThreadImpl;

class Monitor {
 public:
  explicit Monitor(PlatformImpl& platform) : platform_(platform) {}
  ~Monitor();
  bool Start();
  // Kills all processes and waits until they are reaped.
  void KillAll();
  // Waits for the strays, and what was born late, and ends the thread.
  void Stop();

  // False if the host refuses (descriptors).
  bool Watch(const std::shared_ptr<Process>& process);
  // A child that belongs to nobody and was killed: to be reaped.
  void WatchStray(pid_t pid, UniqueFd pidfd);
  // A kick that is due while `thread` runs guest code.
  void WatchKick(ThreadImpl& thread, uint64_t kick);
  // An order was given; if it is still the same some seconds later, its process is killed.
  void NoteOrder();

 private:
  struct KickWatch {
    RefPtr<ThreadImpl> thread;
    uint64_t kick = 0;
    int64_t since = 0;
    int stage = 0;
    int64_t cpu_time = 0;
  };
  struct OrderWatch {
    RefPtr<ThreadImpl> thread;
    uint64_t order = 0;
    int64_t since = 0;
    int64_t cpu_time = 0;
  };
  void Loop();
  void OnExit(pid_t pid);
  void TakeApart(const std::shared_ptr<Process>& process);
  void OnTimer();
  bool Stuck(ThreadImpl& thread, int64_t cpu_before);
  void CheckKicks(int64_t now);
  void CheckOrders(int64_t now);
  void Arm(int64_t delay) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  PlatformImpl& platform_;
  pthread_t thread_{};
  bool started_ = false;
  UniqueFd epoll_, timer_, wake_;
  absl::Mutex mu_;
  absl::CondVar empty_;
  absl::flat_hash_map<pid_t, std::shared_ptr<Process>> processes_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<pid_t, UniqueFd> strays_ ABSL_GUARDED_BY(mu_);
  std::vector<KickWatch> kicks_ ABSL_GUARDED_BY(mu_);
  std::vector<OrderWatch> orders_;  // the monitor's thread only
  int64_t armed_until_ ABSL_GUARDED_BY(mu_) = 0;
  std::atomic<bool> orders_noted_{false};
  std::atomic<bool> order_timer_{false};
  std::atomic<bool> stop_{false};
};

}  // namespace amber::platform
