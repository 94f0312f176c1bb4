// pidfd_open, pidfd_send_signal, pidfd_getfd.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/may_signal.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// Numbers and flags that the C library's headers here do not know yet.
constexpr uint64_t kPidfdSendSignal = 424, kPidfdOpen = 434, kPidfdGetfd = 438;
constexpr uint32_t kPidfdThread = O_EXCL;
constexpr uint32_t kSignalThread = 1, kSignalThreadGroup = 2, kSignalProcessGroup = 4;

ErrnoOr<uint64_t> PidfdOpen(Task& task, int pid, uint32_t flags) {
  if ((flags & ~(static_cast<uint32_t>(O_NONBLOCK) | kPidfdThread)) != 0 || pid <= 0) return Errno(EINVAL);
  Task* target = task.group().pids().FindTask(pid);
  if (target == nullptr) return Errno(ESRCH);
  bool thread = (flags & kPidfdThread) != 0;
  if (!thread && !target->is_leader()) return Errno(EINVAL);
  auto file = MakeRef<PidFd>(RefPtr<ThreadGroup>(&target->group()), thread ? RefPtr<Task>(target) : nullptr, static_cast<int>(flags & O_NONBLOCK));
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<RefPtr<File>> GetPidFd(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (PidFd::From(*file) == nullptr) return Errno(EBADF);
  return file;
}

// Whom a signal by descriptor is for: a pidfd stands for a process or a thread, an open directory /proc/PID for its process
// (pidfd_send_signal(2), tgid_pidfd_to_pid of Linux).
struct Receiver {
  RefPtr<Task> task;
  bool is_thread;
};

constexpr int kSelfThread = -10000, kSelfThreadGroup = -10001;  // PIDFD_SELF_THREAD, PIDFD_SELF_THREAD_GROUP

ErrnoOr<Receiver> ReceiverOf(Task& task, int fd) {
  if (fd == kSelfThread) return Receiver{RefPtr<Task>(&task), true};
  if (fd == kSelfThreadGroup) return Receiver{RefPtr<Task>(task.group().leader()), false};
  RefPtr<File> held = TRY(task.files().Get(fd));
  File& file = *held;
  if (PidFd* pidfd = PidFd::From(file)) {
    if (!pidfd->alive()) return Errno(ESRCH);
    Task* meant = pidfd->task() != nullptr ? pidfd->task() : pidfd->group().leader();
    if (meant == nullptr) return Errno(ESRCH);
    return Receiver{RefPtr<Task>(meant), pidfd->task() != nullptr};
  }
  auto* proc = file.dentry() != nullptr ? dynamic_cast<ProcInode*>(file.dentry()->inode()) : nullptr;
  if (proc == nullptr || proc->process() == nullptr) return Errno(EBADF);
  if (!proc->Alive()) return Errno(ESRCH);
  return Receiver{RefPtr<Task>(proc->process()), false};
}

ErrnoOr<uint64_t> PidfdSendSignal(Task& task, int fd, int signo, UserPtr<const siginfo_t> p, uint32_t flags) {
  if ((flags & ~(kSignalThread | kSignalThreadGroup | kSignalProcessGroup)) != 0 || (flags & (flags - 1)) != 0) {
    return Errno(EINVAL);
  }
  auto [target, is_thread] = TRY(ReceiverOf(task, fd));
  if (signo < 0 || signo > kNumSignals) return Errno(EINVAL);
  ThreadGroup& group = target->group();
  bool thread = flags == kSignalThread || (flags == 0 && is_thread);
  // Only processes of the own pid namespace or below (pidfd_send_signal).
  if (!group.pids().IsWithin(task.group().pids())) return Errno(EINVAL);
  SigInfo info = SignalFrom(task, group, signo, thread ? SI_TKILL : SI_USER);
  if (p) {
    info.raw = TRY(task.CopyIn(p));
    PosixTimers::Unmark(&info);
    if (info.raw.si_signo != signo) return Errno(EINVAL);
    // Nobody may pretend to be the kernel or kill(2).
    if ((info.raw.si_code >= 0 || info.raw.si_code == SI_TKILL) && &group != &task.group()) return Errno(EPERM);
  }
  // The number is the group's then, and only of its leader is there one (kill_pgrp_info()).
  ProcessGroup& all_of = group.process_group();
  if (flags == kSignalProcessGroup && task.group().pids().IdOf(all_of) != task.group().pids().IdOf(group)) return Errno(ESRCH);
  if (!MaySignal(task, *target, signo)) return Errno(EPERM);
  if (signo == 0) return uint64_t{0};
  if (signo >= kFirstRealtime && info.raw.si_code != SI_USER && !group.MayQueueSignal()) return Errno(EAGAIN);
  if (flags == kSignalProcessGroup) {
    RefPtr<ProcessGroup> all(&group.process_group());
    all->SendSignal(info);
  } else if (ImmuneTo(task, group, signo)) {
  } else if (thread) {
    target->SendSignal(info);
  } else {
    group.SendSignal(info);
  }
  return uint64_t{0};
}

ErrnoOr<uint64_t> PidfdGetfd(Task& task, int fd, int target_fd, uint32_t flags) {
  if (flags != 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(GetPidFd(task, fd));
  PidFd& pidfd = *PidFd::From(*file);
  Task* target = pidfd.task() != nullptr ? pidfd.task() : pidfd.group().leader();
  if (!pidfd.alive() || target == nullptr || target->exiting()) return Errno(ESRCH);
  if (!MayInspect(task, *target)) return Errno(EPERM);
  RefPtr<File> other = TRY(target->files().GetAny(target_fd));
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(other), true, task.limit(RLIMIT_NOFILE))));
}

}  // namespace

void RegisterPidfdCalls(SyscallTable& table) {
  table.Set(kPidfdOpen, Full<&PidfdOpen>());
  table.Set(kPidfdSendSignal, Full<&PidfdSendSignal>());
  table.Set(kPidfdGetfd, Full<&PidfdGetfd>());
}

}  // namespace amber
