// wait4(2) and waitid(2).
#include <sys/syscall.h>
#include <sys/wait.h>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

struct WaitFor {
  enum class Who { kAny, kPid, kProcessGroup } who = Who::kAny;
  int id = 0;
  int options = 0;  // WEXITED ...
  const ProcessGroup* group = nullptr;  // kProcessGroup: the caller's own
};

// What was found: `group` is null if there is nothing to report yet.
struct Found {
  ThreadGroup* group = nullptr;
  int pid = 0;
  uint32_t uid = 0;
  int status = 0;  // as wait4 reports it
  int code = 0;    // CLD_*
  int value = 0;   // si_status
  rusage usage{};
};

bool Matches(const PidNamespace& ns, const WaitFor& w, const ThreadGroup& child) {
  // __WCLONE: children that do not send SIGCHLD; __WALL: all.
  if ((w.options & __WALL) == 0) {
    bool clone_child = child.leader()->exit_signal() != SIGCHLD;
    if (clone_child != ((w.options & __WCLONE) != 0)) return false;
  }
  switch (w.who) {
    case WaitFor::Who::kAny:
      return true;
    case WaitFor::Who::kPid:
      return ns.IdOf(child) == w.id;
    case WaitFor::Who::kProcessGroup:
      return w.group != nullptr ? &child.process_group() == w.group : ns.IdOf(child.process_group()) == w.id;
  }
  return false;
}

void Describe(ThreadGroup& child, Found* out) {
  out->group = &child;
  // In the parent's terms, which is who waits.
  out->pid = child.parent()->pids().IdOf(child);
  out->uid = ShownUid(child.parent()->leader()->creds().user_ns.get(), child.leader()->creds().uid);
}

bool Look(const WaitFor& w, ThreadGroup& child, Found* out) {
  if (child.zombie()) {
    if ((w.options & WEXITED) == 0) return false;
    Describe(child, out);
    out->status = child.exit_status();
    out->code = WIFSIGNALED(out->status) ? (WCOREDUMP(out->status) ? CLD_DUMPED : CLD_KILLED) : CLD_EXITED;
    out->value = WIFSIGNALED(out->status) ? WTERMSIG(out->status) : WEXITSTATUS(out->status);
    out->usage = child.usage();
    return true;
  }
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

// One round over the children (of all threads: __WNOTHREAD is accepted and means the same here).
ErrnoOr<Found> WaitOnce(Task& task, const WaitFor& w) {
  bool any = false;
  Found found;
  for (ThreadGroup* child : task.group().children()) {
    if (!Matches(task.group().pids(), w, *child)) continue;
    any = true;
    if (Look(w, *child, &found)) break;
  }
  if (!any) return Errno(ECHILD);
  return found;
}

void ReapIfZombie(Task& task, const WaitFor& w, const Found& found) {
  if (found.group->zombie() && (w.options & WNOWAIT) == 0) task.kernel().lifecycle().Reap(*found.group);
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
  if (found.group == nullptr) {
    if ((options & WNOHANG) != 0) return 0;
    return task.Block(task.group().child_queue(), POLLIN);
  }
  ReapIfZombie(task, w, found);
  if (status) TRY(task.CopyOut(status, found.status));
  if (usage) TRY(task.CopyOut(usage, found.usage));
  return found.pid;
}

ErrnoOr<WaitFor> DecodeWaitid(Task& task, int type, int id, int options) {
  WaitFor w;
  w.options = options;
  switch (type) {
    case P_ALL:
      return w;
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
      if (pidfd->nonblocking()) w.options |= WNOHANG;
      w.who = WaitFor::Who::kPid;
      w.id = task.group().pids().IdOf(pidfd->group());
      return w;
    }
    default:
      return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> Waitid(Task& task, int type, int id, UserPtr<siginfo_t> info, int options, UserPtr<rusage> usage) {
  if ((options & ~(WNOHANG | WNOWAIT | WEXITED | WSTOPPED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL)) != 0 ||
      (options & (WEXITED | WSTOPPED | WCONTINUED)) == 0) {
    return Errno(EINVAL);
  }
  WaitFor w = TRY(DecodeWaitid(task, type, id, options));
  Found found = TRY(WaitOnce(task, w));
  if (found.group == nullptr && (w.options & WNOHANG) == 0) {
    return task.Block(task.group().child_queue(), POLLIN);
  }
  if (found.group == nullptr && type == P_PIDFD && (options & WNOHANG) == 0) return Errno(EAGAIN);
  if (found.group != nullptr) ReapIfZombie(task, w, found);
  if (usage) TRY(task.CopyOut(usage, found.usage));
  if (info) {
    siginfo_t out{};
    if (found.group != nullptr) {
      out.si_signo = SIGCHLD;
      out.si_code = found.code;
      out.si_pid = found.pid;
      out.si_uid = found.uid;
      out.si_status = found.value;
    }
    TRY(task.CopyOut(info, out));
  }
  return 0;
}

}  // namespace

void RegisterWaitCalls(SyscallTable& table) {
  table.Set(SYS_wait4, Full<&Wait4>());
  table.Set(SYS_waitid, Full<&Waitid>());
}

}  // namespace amber
