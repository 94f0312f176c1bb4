// fork, clone, execve, exit, and ids of processes: clone(2), execve(2), exit(2), setpgid(2), setsid(2).
#include <asm/prctl.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/vma.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/exec_open.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr size_t kMaxArgStrings = 0x7fffffff;
constexpr size_t kMaxArgLength = 32 * 4096;  // MAX_ARG_STRLEN
constexpr size_t kMaxArgTotal = 6 << 20;     // _STK_LIM / 4 * 3: the ceiling whatever the stack limit is

ErrnoOr<uint64_t> Fork(Task& task) { return task.kernel().lifecycle().Clone(task, {.exit_signal = SIGCHLD}); }

ErrnoOr<uint64_t> Vfork(Task& task) { return task.kernel().lifecycle().Clone(task, {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD}); }

// copy_process() puts the new descriptor's number before there is a child: where it cannot, there is none. (Here the number itself comes with the child.)
ErrnoOr<void> CheckPidFdPlace(Task& task, const CloneArgs& args) {
  if ((args.flags & CLONE_PIDFD) == 0 || (args.flags & (CLONE_THREAD | CLONE_DETACHED)) != 0 || task.syscall().scratch[0] != 0) return Ok();
  return task.CopyOut(UserPtr<int>(args.pidfd), -1);
}

// The x86-64 order of clone's arguments: flags, stack, parent_tid, child_tid, tls.
ErrnoOr<uint64_t> Clone(Task& task, uint64_t flags, uint64_t stack, UserPtr<int> parent_tid, UserPtr<int> child_tid, uint64_t tls) {
  CloneArgs args;
  args.flags = flags & 0xffffff00 & ~uint64_t{CLONE_DETACHED};
  args.exit_signal = static_cast<int>(flags & CSIGNAL);
  args.stack = stack;
  args.parent_tid = parent_tid.address();
  args.child_tid = child_tid.address();
  args.tls = tls;
  args.pidfd = parent_tid.address();  // clone(2): CLONE_PIDFD shares the argument
  if ((flags & CLONE_PIDFD) != 0 && (flags & CLONE_PARENT_SETTID) != 0) return Errno(EINVAL);
  TRY(CheckPidFdPlace(task, args));
  return task.kernel().lifecycle().Clone(task, args);
}

// A structure that the caller may have in an older or newer size (copy_struct_from_user).
// clone3(2), set_tid: ids for the child, from its namespace upwards. EPERM without CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN in each.
ErrnoOr<std::vector<int>> CopyInTids(Task& task, const clone_args& in) {
  std::vector<int> ids = TRY(task.CopyInArray(UserPtr<const int>(in.set_tid), in.set_tid_size));
  const RefPtr<PidNamespace>& next = task.extras().pids_for_children;
  PidNamespace* ns = next ? next.get() : &task.group().pids();
  bool made = (in.flags & CLONE_NEWPID) != 0;
  if (ids.size() > static_cast<size_t>(ns->level()) + 1 + (made ? 1 : 0)) return Errno(EINVAL);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 1 || ids[i] >= PidNamespace::kPidMax) return Errno(EINVAL);
    // A namespace's first process must be 1.
    bool fresh = (i == 0 && made) || (i == 0 && ns->init() == nullptr);
    if (fresh && ids[i] != 1) return Errno(EINVAL);
    const UserNamespace* owner = i == 0 && made ? task.creds().user_ns.get() : ns->owner();
    if (!task.creds().HasIn(owner, CAP_SYS_ADMIN) && !task.creds().HasIn(owner, 40 /* CAP_CHECKPOINT_RESTORE */)) return Errno(EPERM);
    if (!(i == 0 && made)) ns = ns->parent();
  }
  return ids;
}

ErrnoOr<uint64_t> Clone3(Task& task, UserPtr<clone_args> p, uint64_t size) {
  if (size < CLONE_ARGS_SIZE_VER0) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  std::vector<uint8_t> bytes(std::max<size_t>(size, sizeof(clone_args)));
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  for (size_t i = sizeof(clone_args); i < size; ++i) {
    if (bytes[i] != 0) return Errno(E2BIG);
  }
  clone_args in;
  memcpy(&in, bytes.data(), sizeof(in));
  if (in.set_tid_size > PidNamespace::kMaxLevel || (in.set_tid != 0) != (in.set_tid_size != 0)) return Errno(EINVAL);
  if ((in.flags & (CLONE_DETACHED | (CSIGNAL & ~0x80 /* CLONE_NEWTIME */))) != 0 || in.exit_signal > kNumSignals) return Errno(EINVAL);
  if ((in.stack == 0) != (in.stack_size == 0)) return Errno(EINVAL);
  // clone3_stack_valid(): access_ok()
  if (in.stack_size > platform::kGuestTop || in.stack > platform::kGuestTop - in.stack_size) return Errno(EINVAL);
  if ((in.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && in.exit_signal != 0) return Errno(EINVAL);
  if ((in.flags & CLONE_INTO_CGROUP) != 0 && (in.cgroup > INT_MAX || size < CLONE_ARGS_SIZE_VER2)) return Errno(EINVAL);
  CloneArgs args;
  args.flags = in.flags;
  args.exit_signal = static_cast<int>(in.exit_signal);
  args.stack = in.stack == 0 ? 0 : in.stack + in.stack_size;
  args.parent_tid = in.parent_tid;
  args.child_tid = in.child_tid;
  args.pidfd = in.pidfd;
  args.tls = in.tls;
  if (in.set_tid_size != 0) args.set_tid = TRY(CopyInTids(task, in));
  // Executed again, by a vfork's parent: it is the child that counts now.
  bool first = task.syscall().scratch[0] == 0;
  if ((in.flags & CLONE_INTO_CGROUP) != 0 && first)
    args.cgroup = TRY(CgroupForClone(task, static_cast<int>(in.cgroup), (in.flags & CLONE_THREAD) != 0));
  TRY(CheckPidFdPlace(task, args));
  return task.kernel().lifecycle().Clone(task, args);
}

// Guest memory by pages, for what lies close together and is read piece by piece: argv and envp.
class PageReader {
 public:
  explicit PageReader(Task& task) : task_(task) {}

  // What is in the page of `address` from there on: one byte at least.
  ErrnoOr<std::string_view> From(uint64_t address) {
    if (address - start_ >= size_) {
      size_ = 0;
      size_t size = kPageSize - address % kPageSize;
      TRY(task_.CopyInBytes(address, page_.data(), size));
      start_ = address;
      size_ = size;
    }
    return std::string_view(page_.data() + (address - start_), size_ - (address - start_));
  }

  ErrnoOr<std::string> String(uint64_t address, size_t max) {
    std::string out;
    while (out.size() < max) {
      std::string_view part = TRY(From(address));
      size_t end = part.find('\0');
      out += part.substr(0, std::min(end, max - out.size()));
      if (end != std::string_view::npos && out.size() < max) return out;
      address += part.size();
    }
    return Errno(E2BIG);
  }

  ErrnoOr<uint64_t> Word(uint64_t address) {
    std::string_view part = TRY(From(address));
    uint64_t word;
    if (part.size() < sizeof(word)) return task_.CopyIn(UserPtr<uint64_t>(address));
    memcpy(&word, part.data(), sizeof(word));
    return word;
  }

 private:
  Task& task_;
  std::array<char, kPageSize> page_;
  uint64_t start_ = 0;
  size_t size_ = 0;
};

// argv or envp: a null-terminated array of strings. A null array is an empty one, as on Linux.
ErrnoOr<std::vector<std::string>> CopyInStrings(Task& task, UserPtr<uint64_t> p, size_t* total) {
  std::vector<std::string> out;
  if (p.is_null()) return out;
  PageReader array(task), strings(task);
  for (size_t i = 0; i < kMaxArgStrings; ++i) {
    uint64_t address = TRY(array.Word((p + i).address()));
    if (address == 0) return out;
    out.push_back(TRY(strings.String(address, kMaxArgLength)));
    *total += out.back().size() + 1 + sizeof(uint64_t);
    if (*total > kMaxArgTotal) return Errno(E2BIG);
  }
  return Errno(E2BIG);
}

ErrnoOr<uint64_t> DoExec(Task& task, int dirfd, UserPtr<const char> path, UserPtr<uint64_t> argv, UserPtr<uint64_t> envp, int flags) {
  if ((flags & ~(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) != 0) return Errno(EINVAL);
  ExecArgs args;
  std::string name = TRY(task.CopyInString(path, PATH_MAX));
  args.file = TRY(OpenForExec(task, dirfd, name, flags));
  // fs/exec.c: what a script's interpreter is told when the file has no path of its own.
  if (name.empty()) {
    args.path = "/dev/fd/" + std::to_string(dirfd);
  } else if (name[0] == '/' || dirfd == AT_FDCWD) {
    args.path = name;
  } else {
    args.path = "/dev/fd/" + std::to_string(dirfd) + "/" + name;
  }
  if (args.path != name) {
    auto cloexec = task.files().close_on_exec(dirfd);
    args.path_vanishes = cloexec.ok() && *cloexec;
  }
  size_t total = 0;
  args.argv = TRY(CopyInStrings(task, argv, &total));
  args.envp = TRY(CopyInStrings(task, envp, &total));
  if (args.argv.empty()) args.argv.emplace_back();  // Linux 5.18: argc is never 0
  return task.kernel().lifecycle().Exec(task, args);
}

ErrnoOr<uint64_t> Execve(Task& task, UserPtr<const char> path, UserPtr<uint64_t> argv, UserPtr<uint64_t> envp) {
  return DoExec(task, AT_FDCWD, path, argv, envp, 0);
}

ErrnoOr<uint64_t> Execveat(Task& task, int dirfd, UserPtr<const char> path, UserPtr<uint64_t> argv, UserPtr<uint64_t> envp, int flags) {
  return DoExec(task, dirfd, path, argv, envp, flags);
}

ErrnoOr<uint64_t> Exit(Task& task, int status) {
  if (task.extras().tracee != nullptr && Tracing::BeforeExit(task, (status & 0xff) << 8, 0)) return kBlocked;
  task.kernel().lifecycle().ExitThread(task, status);
  return kNoAnswer;
}

ErrnoOr<uint64_t> ExitGroup(Task& task, int status) {
  if (task.extras().tracee != nullptr && Tracing::BeforeExit(task, (status & 0xff) << 8, 0)) return kBlocked;
  task.kernel().lifecycle().ExitGroup(task.group(), (status & 0xff) << 8);
  return kNoAnswer;
}

ErrnoOr<uint64_t> Getpid(Task& task) { return task.pid(); }
ErrnoOr<uint64_t> Gettid(Task& task) { return task.tid(); }
ErrnoOr<uint64_t> Getppid(Task& task) { return task.group().parent_pid(); }

ErrnoOr<uint64_t> SetTidAddress(Task& task, uint64_t address) {
  // The host clears and wakes the word when this thread ends; its own answer is a host id.
  task.StopForOps({{SYS_set_tid_address, {address, 0, 0, 0, 0, 0}}}, [&task, address](std::span<const int64_t>) {
    task.set_clear_child_tid(address, /*native=*/true);
    task.FinishSyscall(task.tid());
  });
  return kNoAnswer;
}

// arch_prctl(2). Comes with its frame, where the bases are.
ErrnoOr<uint64_t> ArchPrctl(Task& task, int code, uint64_t address) {
  if (!task.framed()) return Errno(EINVAL);
  platform::Frame& frame = task.frame();
  switch (code) {
    case ARCH_SET_FS:
    case ARCH_SET_GS:
      if (address >= platform::kGuestTop) return Errno(EPERM);
      (code == ARCH_SET_FS ? frame.fs_base : frame.gs_base) = address;
      return 0;
    case ARCH_GET_FS: TRY(task.CopyOut(UserPtr<uint64_t>(address), frame.fs_base)); return 0;
    case ARCH_GET_GS: TRY(task.CopyOut(UserPtr<uint64_t>(address), frame.gs_base)); return 0;
    case ARCH_GET_CPUID: return 1;
    case ARCH_SET_CPUID: return Errno(ENODEV);  // as on a processor that cannot fault CPUID, whichever way is asked for
    default: return Errno(EINVAL);
  }
}

ErrnoOr<ThreadGroup*> GroupOrSelf(Task& task, int pid) {
  if (pid == 0) return &task.group();
  ThreadGroup* group = task.FindGroup(pid);
  if (group == nullptr) return Errno(ESRCH);
  return group;
}

ErrnoOr<uint64_t> Setpgid(Task& task, int pid, int pgid) {
  if (pgid < 0 || (pgid == 0 && pid < 0)) return Errno(EINVAL);  // 0 means the number of the process.
  ThreadGroup* target = TRY(GroupOrSelf(task, pid));
  if (pgid == 0) pgid = task.group().pids().IdOf(*target);
  bool child = target->parent() == &task.group();
  if (target != &task.group() && !child) return Errno(ESRCH);
  if (child) {
    if (&target->session() != &task.group().session()) return Errno(EPERM);
    if (target->did_exec()) return Errno(EACCES);
  }
  if (target->IsSessionLeader()) return Errno(EPERM);
  TRY(target->SetProcessGroup(task.group().pids(), pgid));
  return 0;
}

ErrnoOr<uint64_t> Getpgid(Task& task, int pid) {
  ThreadGroup* group = TRY(GroupOrSelf(task, pid));
  return task.group().pids().IdOf(group->process_group());
}

ErrnoOr<uint64_t> Getpgrp(Task& task) { return task.group().pids().IdOf(task.group().process_group()); }

ErrnoOr<uint64_t> Getsid(Task& task, int pid) {
  ThreadGroup* group = TRY(GroupOrSelf(task, pid));
  return task.group().pids().IdOf(group->session());
}

ErrnoOr<uint64_t> Setsid(Task& task) {
  ThreadGroup& group = task.group();
  // setsid(2): not for a process group leader.
  if (group.pids().FindProcessGroup(group.pid()) != nullptr) return Errno(EPERM);
  group.NewSession();
  return group.pid();
}

}  // namespace

void RegisterProcessCalls(SyscallTable& table) {
  table.Set(SYS_fork, Full<&Fork>());
  table.Set(SYS_vfork, Full<&Vfork>());
  table.Set(SYS_clone, Full<&Clone>());
  table.Set(SYS_clone3, Full<&Clone3>());
  table.Set(SYS_execve, Full<&Execve>());
  table.Set(SYS_execveat, Full<&Execveat>());
  table.Set(SYS_exit, Full<&Exit>());
  table.Set(SYS_exit_group, Full<&ExitGroup>());
  table.Set(SYS_getpid, Full<&Getpid>());
  table.Set(SYS_gettid, Full<&Gettid>());
  table.Set(SYS_getppid, Full<&Getppid>());
  table.Set(SYS_set_tid_address, Full<&SetTidAddress>());
  table.Set(SYS_arch_prctl, Partial<&ArchPrctl>("bases of fs and gs; no CPUID faulting, no shadow stacks"));
  table.Set(SYS_setpgid, Full<&Setpgid>());
  table.Set(SYS_getpgid, Full<&Getpgid>());
  table.Set(SYS_getpgrp, Full<&Getpgrp>());
  table.Set(SYS_getsid, Full<&Getsid>());
  table.Set(SYS_setsid, Full<&Setsid>());
}

}  // namespace amber
