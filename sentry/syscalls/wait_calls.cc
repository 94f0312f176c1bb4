// wait4(2) and waitid(2).
#include <sys/syscall.h>
#include <sys/wait.h>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/late_usage.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

struct WaitFor {
  enum class Who { kAny, kPid, kProcessGroup } who = Who::kAny;
  int id = 0;
  int options = 0;                      // WEXITED ...
  const ProcessGroup* group = nullptr;  // kProcessGroup: the caller's own
};

// What was found, if anything.
struct Found {
  bool any = false;
  ThreadGroup* group = nullptr;  // of a child
  int pid = 0;
  uint32_t uid = 0;
  int status = 0;  // as wait4 reports it
  int code = 0;    // CLD_*
  int value = 0;   // si_status
  rusage usage{};
};

// __WNOTHREAD: those that the caller itself made. Of a thread that is gone they are its process's first thread's (find_alive_thread()).
bool MadeBy(const Task& task, const ThreadGroup& child) {
  Task* creator = task.FindTask(child.extras().creator_tid);
  if (creator != nullptr && !creator->exiting() && &creator->group() == &task.group()) return creator == &task;
  for (const RefPtr<Task>& t : task.group().tasks()) {
    if (!t->exiting()) return t.get() == &task;
  }
  return false;
}

bool Matches(const PidNamespace& ns, const WaitFor& w, const ThreadGroup& child) {
  // __WCLONE: children that do not send SIGCHLD; __WALL: all.
  if ((w.options & __WALL) == 0) {
    bool clone_child = child.leader()->exit_signal() != SIGCHLD;
    if (clone_child != ((w.options & __WCLONE) != 0)) return false;
  }
  switch (w.who) {
    case WaitFor::Who::kAny: return true;
    case WaitFor::Who::kPid: return ns.IdOf(child) == w.id;
    case WaitFor::Who::kProcessGroup: return w.group != nullptr ? &child.process_group() == w.group : ns.IdOf(child.process_group()) == w.id;
  }
  return false;
}

void Describe(ThreadGroup& child, Found* out) {
  out->any = true;
  out->group = &child;
  // In the parent's terms, which is who waits.
  out->pid = child.parent()->pids().IdOf(child);
  out->uid = ShownUid(child.parent()->leader()->creds().user_ns.get(), child.leader()->creds().uid);
}

bool Look(const WaitFor& w, ThreadGroup& child, Found* out) {
  if (child.zombie()) {
    if ((w.options & WEXITED) == 0 || TaskLifecycle::IsLeaving(child)) return false;
    Describe(child, out);
    out->status = child.exit_status();
    out->code = WIFSIGNALED(out->status) ? (WCOREDUMP(out->status) ? CLD_DUMPED : CLD_KILLED) : CLD_EXITED;
    out->value = WIFSIGNALED(out->status) ? WTERMSIG(out->status) : WEXITSTATUS(out->status);
    // getrusage(RUSAGE_BOTH): its own, and that of those that it has waited for.
    out->usage = child.usage();
    AddUsage(&out->usage, child.child_usage());
    return true;
  }
  // Its stops are its tracer's to see.
  if (child.leader()->extras().tracee != nullptr && child.leader()->extras().tracee->tracer == child.parent()) return false;
  bool peek = (w.options & WNOWAIT) != 0;
  if ((w.options & WSTOPPED) != 0 && child.TakeStopReport(peek)) {
    Describe(child, out);
    out->status = child.stop_signal() << 8 | 0x7f;
    out->code = CLD_STOPPED;
    out->value = child.stop_signal();
    return true;
  }
  if ((w.options & WCONTINUED) != 0 && child.TakeContinueReport(peek)) {
    Describe(child, out);
    out->status = 0xffff;
    out->code = CLD_CONTINUED;
    out->value = SIGCONT;
    return true;
  }
  return false;
}

bool MatchesTracee(const PidNamespace& ns, const WaitFor& w, int tid, const Task* task) {
  switch (w.who) {
    case WaitFor::Who::kAny: return true;
    case WaitFor::Who::kPid: return tid == w.id;
    case WaitFor::Who::kProcessGroup:
      if (task == nullptr) return false;
      return w.group != nullptr ? &task->group().process_group() == w.group : ns.IdOf(task->group().process_group()) == w.id;
  }
  return false;
}

// Stops of threads that the caller traces, and ends of those that are not its children; __WALL is implied. True if there are any to wait for.
bool LookAtTracees(Task& caller, const WaitFor& w, Found* out) {
  GroupExtras& extras = caller.group().extras();
  const PidNamespace& ns = caller.group().pids();
  bool any = false;
  bool peek = (w.options & WNOWAIT) != 0;
  for (Task* task : extras.tracees) {
    if (!MatchesTracee(ns, w, ns.IdOf(*task), task)) continue;
    any = true;
    Tracee& t = *task->extras().tracee;
    if (task->exiting() || t.stop == Tracee::Stop::kNone || t.reported) continue;
    if (!peek) t.reported = true;
    *out = {.any = true, .pid = ns.IdOf(*task), .uid = task->creds().uid, .status = t.code << 8 | 0x7f, .code = CLD_TRAPPED, .value = t.code};
    return true;
  }
  for (auto it = extras.dead_tracees.begin(); it != extras.dead_tracees.end(); ++it) {
    if (!MatchesTracee(ns, w, it->tid, nullptr)) continue;
    any = true;
    if ((w.options & WEXITED) == 0) continue;
    bool killed = WIFSIGNALED(it->status);
    *out = {.any = true,
            .pid = it->tid,
            .uid = it->uid,
            .status = it->status,
            .code = killed ? CLD_KILLED : CLD_EXITED,
            .value = killed ? WTERMSIG(it->status) : WEXITSTATUS(it->status)};
    if (!peek) extras.dead_tracees.erase(it);
    return true;
  }
  return any;
}

// One round over the children and whom the caller traces.
ErrnoOr<Found> WaitOnce(Task& task, const WaitFor& w) {
  bool any = false;
  Found found;
  for (ThreadGroup* child : task.group().children()) {
    if (!Matches(task.group().pids(), w, *child)) continue;
    if ((w.options & __WNOTHREAD) != 0 && !MadeBy(task, *child)) continue;
    // The dead do not stop and go on any more: whoever asks for that alone has no such child (wait_consider_task()).
    if (child->zombie() && (w.options & WEXITED) == 0) continue;
    any = true;
    if (Look(w, *child, &found)) break;
  }
  if (!found.any && LookAtTracees(task, w, &found)) any = true;
  if (!any) return Errno(ECHILD);
  return found;
}

void ReapIfZombie(Task& task, const WaitFor& w, const Found& found) {
  if (found.group != nullptr && found.group->zombie() && (w.options & WNOWAIT) == 0) task.kernel().lifecycle().Reap(*found.group);
}

ErrnoOr<uint64_t> Wait4(Task& task, int pid, UserPtr<int> status, int options, UserPtr<rusage> usage) {
  if ((options & ~(WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0) return Errno(EINVAL);
  if (pid == INT32_MIN) return Errno(ESRCH);
  WaitFor w;
  w.options = options | WEXITED;
  if (pid > 0) {
    w = {WaitFor::Who::kPid, pid, w.options};
  } else if (pid < -1) {
    w = {WaitFor::Who::kProcessGroup, -pid, w.options};
  } else if (pid == 0) {
    w = {WaitFor::Who::kProcessGroup, 0, w.options, &task.group().process_group()};
  }
  Found found = TRY(WaitOnce(task, w));
  if (!found.any) {
    if ((options & WNOHANG) != 0) return 0;
    return task.Block(task.group().child_queue(), POLLIN);
  }
  if (usage && found.group != nullptr && found.group->zombie()) TRY(AwaitUsage(task, *found.group));
  ReapIfZombie(task, w, found);
  if (status) TRY(task.CopyOut(status, found.status));
  if (usage) TRY(task.CopyOut(usage, found.usage));
  return found.pid;
}

ErrnoOr<WaitFor> DecodeWaitid(Task& task, int type, int id, int options) {
  WaitFor w;
  w.options = options;
  switch (type) {
    case P_ALL: return w;
    case P_PID:
      if (id <= 0) return Errno(EINVAL);
      w.who = WaitFor::Who::kPid;
      w.id = id;
      return w;
    case P_PGID:
      if (id < 0) return Errno(EINVAL);
      w.who = WaitFor::Who::kProcessGroup;
      w.id = id;
      if (id == 0) w.group = &task.group().process_group();
      return w;
    case P_PIDFD: {
      if (id < 0) return Errno(EINVAL);
      RefPtr<File> file = TRY(task.files().Get(id));
      auto* pidfd = dynamic_cast<PidFd*>(file.get());
      if (pidfd == nullptr) return Errno(EBADF);
      // Its number may be another's by now.
      if (pidfd->group().tasks().empty()) return Errno(ECHILD);
      if (pidfd->nonblocking()) w.options |= WNOHANG;
      w.who = WaitFor::Who::kPid;
      w.id = task.group().pids().IdOf(pidfd->group());
      return w;
    }
    default: return Errno(EINVAL);
  }
}

ErrnoOr<Found> WaitById(Task& task, int type, int id, int options, UserPtr<rusage> usage) {
  if ((options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0 ||
      (options & (WEXITED | WSTOPPED | WCONTINUED)) == 0) {
    return Errno(EINVAL);
  }
  WaitFor w = TRY(DecodeWaitid(task, type, id, options));
  Found found = TRY(WaitOnce(task, w));
  if (!found.any && (w.options & WNOHANG) == 0) return task.Block(task.group().child_queue(), POLLIN);
  if (!found.any && type == P_PIDFD && (options & WNOHANG) == 0) return Errno(EAGAIN);
  if (usage && found.group != nullptr && found.group->zombie()) TRY(AwaitUsage(task, *found.group));
  if (found.any) ReapIfZombie(task, w, found);
  if (usage && found.any) TRY(task.CopyOut(usage, found.usage));
  return found;
}

ErrnoOr<uint64_t> Waitid(Task& task, int type, int id, UserPtr<siginfo_t> info, int options, UserPtr<rusage> usage) {
  auto found = WaitById(task, type, id, options, usage);
  if (found.Is(EFAULT) || (!found.ok() && found.error() == kBlocked) || info.is_null()) return found.ok() ? ErrnoOr<uint64_t>(0) : found.error();
  // Nothing but these fields is written, and they are whatever the answer is.
  struct {
    int signo = 0, error = 0, code = 0;
  } head;
  struct {
    int pid = 0;
    uint32_t uid = 0;
    int status = 0;
  } child;
  if (found.ok() && found->any) {
    head.signo = SIGCHLD;
    head.code = found->code;
    child = {.pid = found->pid, .uid = found->uid, .status = found->value};
  }
  TRY(task.CopyOutBytes(info.address(), &head, sizeof(head)));
  TRY(task.CopyOutBytes(info.address() + offsetof(siginfo_t, si_pid), &child, sizeof(child)));
  if (!found.ok()) return found.error();
  return 0;
}

}  // namespace

void RegisterWaitCalls(SyscallTable& table) {
  table.Set(SYS_wait4, Full<&Wait4>());
  table.Set(SYS_waitid, Full<&Waitid>());
}

}  // namespace amber
