// POSIX timers of a process: timer_create(2). Guarded by the kernel lock; lost at exec, not inherited by fork.
#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "sentry/base/errno_or.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/signal.h"

namespace amber {

class Task;
class ThreadGroup;

struct PosixTimer {
  int id = 0;
  clockid_t clock = 0;
  int notify = 0;  // SIGEV_*
  int signo = 0;
  uint64_t value = 0;
  int thread_id = 0;  // SIGEV_THREAD_ID
  // A clock of processor time: of the process of task `cpu_tid`, or of that thread alone. `deadline` is on it then.
  bool cpu = false, cpu_thread = false;
  int cpu_tid = 0;
  CpuPoll poll;
  BusiestThread busiest;
  int64_t deadline = kNever;  // guest monotonic, or processor time
  int64_t interval = 0;
  int overrun = 0;      // of the signal delivered last
  int overrun_now = 0;  // since then
  bool queued = false;  // its signal waits to be delivered,
  bool stale = false;   // and is of a setting that is no more
  std::unique_ptr<Timer> timer;
};

class PosixTimers {
 public:
  explicit PosixTimers(ThreadGroup& group) : group_(group) {}
  PosixTimer& Create();
  // A timer with this id, not armed yet; null if it is taken, or none. For images, and for who chose ids (below).
  PosixTimer* Restore(int id);
  // PR_TIMER_CREATE_RESTORE_IDS: timer_create(2) is told the id by its caller.
  bool ids_are_chosen = false;
  void ArmAll();
  PosixTimer* Find(int id);
  void Delete(int id) { timers_.erase(id); }
  void CancelAll();
  // What it has sent by its old setting is not delivered any more.
  void Arm(PosixTimer& timer, int64_t deadline, int64_t interval);
  // Now, on the timer's clock; kNever once what it counts is gone.
  int64_t Now(const PosixTimer& timer) const;
  const std::map<int, std::unique_ptr<PosixTimer>>& all() const { return timers_; }
  // A signal of a timer was taken by a thread: its overruns become what timer_getoverrun tells. False if it is not to be seen: its timer is gone, or was
  // set anew since (posixtimer_deliver_signal()). What a program sent itself as if it came from a timer stays as it is.
  bool Deliver(SigInfo* info);
  // Of a signal that a program made: it is none of a timer's, whatever it says.
  static void Unmark(SigInfo* info);

 private:
  void Expire(PosixTimer& timer);
  // Has Expire() called when the deadline comes, or may have come.
  void Program(PosixTimer& timer);
  PosixTimer& Add(int id);

  ThreadGroup& group_;
  std::map<int, std::unique_ptr<PosixTimer>> timers_;
  int next_id_ = 0;
};

}  // namespace amber
