// ptrace(2): what tracer and tracee know of each other, and how a tracee stops and goes on (kernel/ptrace.c; ptrace(2), "Stopped states").
//
// A Tracee is made by PTRACE_TRACEME, ATTACH or SEIZE and owned by the TaskExtras of the task that is traced. The tracer is a process: any
// of its threads may give orders, and its end, not a thread's, sets its tracees free. In a stop the tracee's frame is in our hands and
// Task::MustHold() keeps it. A stop that is due is `pending` until then; Tracing::OnReturn() makes it real on the way back to the guest.
//
// Tracing is a name for the functions that may look into tasks. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/debug_registers.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/task_lifecycle.h"

namespace amber {

class MemoryManager;
class Task;
class ThreadGroup;

struct Tracee {
  enum class Run : int { kCont, kSyscall, kStep, kSysemu };  // how it was resumed last
  enum class Stop : int { kNone, kSignal, kEntry, kExit, kEvent, kGroup };
  struct Pending {
    Stop stop;
    int code;  // a signal number, with PTRACE_EVENT_* << 8
    uint64_t message;
  };

  ThreadGroup* tracer = nullptr;
  uint32_t options = 0;  // PTRACE_O_*
  bool seized = false;
  Run run = Run::kCont;

  // The stop that it is in.
  Stop stop = Stop::kNone;
  int code = 0;
  bool reported = true;  // wait4(2) has told of it
  uint64_t message = 0;  // PTRACE_GETEVENTMSG
  SigInfo info;
  int64_t orig_rax = -1;
  std::deque<Pending> pending;

  bool interrupt = false;        // PTRACE_INTERRUPT is to be obeyed
  bool listening = false;        // PTRACE_LISTEN: stays as it is, but is in no stop
  bool group_stop_seen = false;  // the group's stop was reported, and ended for this task
  bool injecting = false;        // `info` is to be delivered, or (signal 0) dropped, without another stop
  bool in_call = false;          // the stop at a call's entry was reported and not yet that at its exit
  bool goes_on = false;          // stopped inside a call, which goes on before signals are looked at
  bool call_is_new = false;      // ... at its very beginning
  bool filter_told = false;      // ... for a filter's SECCOMP_RET_TRACE
  bool exit_told = false;        // PTRACE_EVENT_EXIT was reported
  bool stepping = false;         // the trap flag in its registers is ours
  // Null until it gets one.
  std::unique_ptr<DebugRegisters> debug;
  int death = 0;  // the signal that it dies of once PTRACE_EVENT_EXIT is over
};

// A traced thread that ended, until the tracer waits for it.
struct DeadTracee {
  int tid;
  uint32_t uid;
  int status;  // as wait4(2) reports it
};

class TaskLifecycle::Tracing {
 public:
  static Tracee& Of(Task& task);
  // __ptrace_may_access() with PTRACE_MODE_ATTACH_REALCREDS.
  static bool MayAccess(const Task& task, const Task& target);
  // ptrace(2) but for TRACEME, ATTACH and SEIZE: the tracee with this id, stopped unless `running` is allowed. ESRCH.
  static ErrnoOr<Task*> Find(Task& tracer, int tid, bool running);
  static ErrnoOr<void> TraceMe(Task& task);
  static ErrnoOr<void> Attach(Task& tracer, Task& target, bool seize, uint32_t options);
  // Out of a stop: with a signal to deliver, or 0.
  static void Resume(Task& tracee, Tracee::Run run, int signo);
  static ErrnoOr<void> Interrupt(Task& tracee);
  static ErrnoOr<void> Listen(Task& tracee);
  // The tracee is nobody's any more and goes on.
  static void Detach(Task& tracee, int signo);

  // --- hooks of a task's life; those with a Task& are for tracees only ---
  // It may not run guest code.
  static bool Holds(const Task& task);
  // Its frame is ours, on its way back to the guest: makes pending stops real.
  static void OnReturn(Task& task);
  // True if it was stopped inside a call, which is to be gone on with before signals are looked at; GoesOn() does so.
  static bool WillGoOn(Task& task) { return Of(task).goes_on; }
  static bool GoesOn(Task& task);
  // An interrupted call is about to go on: true if for the tracer it begins again.
  static bool BeginsAgain(Task& task);
  // It is about to run guest code.
  static void BeforeGuest(Task& task);
  // A SIGTRAP from the host, about to be sent as `info`: false if it was a step of ours and nobody is to hear of it.
  static bool OnTrap(Task& task, SigInfo* info);
  // A call begins: true if the tracer is to see that first.
  static bool AtEntry(Task& task);
  // A filter says SECCOMP_RET_TRACE with `data`: true if the tracer is to see the call first.
  static bool AtFilter(Task& task, uint32_t data);
  // A call is over.
  static void AtExit(Task& task);
  // A signal is about to be delivered: true if the task stops instead.
  static bool StopsForSignal(Task& task, const SigInfo& info);
  // True if the tracer has decided on a signal, which then is in `*info` (number 0: none).
  static bool TakeDecided(Task& task, SigInfo* info);
  // An exit with this wait status: true if the tracer is to see it first; then the call is executed again.
  static bool BeforeExit(Task& task, int status, int death);
  // fork, vfork or clone made `child`: true if the parent stops, inside its call.
  static bool OnClone(Task& parent, Task& child, uint64_t flags, int exit_signal);
  static void OnVforkDone(Task& parent, int child);
  static void OnExec(Task& task, int old_tid);
  // SIGCONT ended the group's stop.
  static void OnContinue(ThreadGroup& group);
  // A stop signal takes effect by this task.
  static void OnNewGroupStop(Task& task);
  // Nobody hears of the task's end: exec by another thread takes over its id.
  static void Forget(Task& task) { Unlink(task); }
  // The task is gone: its tracer hears of it.
  static void OnExit(Task& task, int status);
  // The process is gone: its tracees are free, or killed.
  static void OnTracerExit(ThreadGroup& group);

  static std::string Save(state::Saver& saver, const Tracee& tracee);
  static bool Load(state::Loader& loader, const std::string& bytes, Task& task);

 private:
  static void Link(Task& tracee, ThreadGroup& tracer, uint32_t options, bool seized);
  static void Unlink(Task& tracee);
  // A call that the tracer saw begin is interrupted now.
  static bool InterruptsCall(const Task& task);
  static void Enter(Task& task, const Tracee::Pending& stop);
  // The signal may be the tracer's end, and so make the task nobody's tracee, before this returns.
  static void Notify(ThreadGroup& tracer, Task& task, int code, int status);
};

using Tracing = TaskLifecycle::Tracing;

// __ptrace_may_access() for another process, with these ids and capabilities of `task`.
bool CredentialsMayAccess(const Task& task, const Task& target, uid_t uid, gid_t gid, uint64_t capabilities);

// Copies from or to memory of a tracee as a debugger may: pages that the program itself cannot read or write, too (FOLL_FORCE). Writing
// gives private pages a copy of their own; shared ones that are not writable are refused. Bytes copied, EIO if none were.
ErrnoOr<size_t> DebugCopy(MemoryManager& mm, uint64_t address, void* buffer, size_t size, bool write);

}  // namespace amber
