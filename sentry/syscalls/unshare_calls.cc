// unshare(2) and setns(2).
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr uint64_t kAlone = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
constexpr uint64_t kSupported = CLONE_FILES | CLONE_FS | CLONE_SYSVSEM | kAlone | kNamespaceFlags;

ErrnoOr<uint64_t> Unshare(Task& task, uint64_t flags) {
  if ((flags & ~kSupported) != 0) return Errno(EINVAL);
  // What one asks for implies (ksys_unshare).
  if ((flags & CLONE_NEWUSER) != 0) flags |= CLONE_THREAD | CLONE_FS;
  if ((flags & CLONE_NEWNS) != 0) flags |= CLONE_FS;
  if ((flags & CLONE_NEWIPC) != 0) flags |= CLONE_SYSVSEM;
  // What threads share cannot be taken apart.
  if ((flags & kAlone) != 0 && task.group().live_tasks() > 1) return Errno(EINVAL);
  RefPtr<FsContext> fs;
  if ((flags & CLONE_FS) != 0 && task.fs().ref_count() > 1) fs = task.fs().Clone();
  NamespaceSet set = TRY(MakeNamespaces(task, flags, fs ? fs.get() : &task.fs()));
  if ((flags & CLONE_FILES) != 0 && task.files().ref_count() > 1) task.UnshareFiles();
  if (fs) task.set_fs(std::move(fs));
  if ((flags & CLONE_SYSVSEM) != 0) task.extras().LeaveSemUndo(task);
  set.Enter(task);
  return 0;
}

// Where a task that enters a mount namespace stands: at its topmost root (mntns_install).
void GoToRoot(Task& task, MountNamespace& mounts) {
  VfsPath root = mounts.root();
  mounts.CrossDown(&root);
  task.fs().set_root(root);
  task.fs().set_cwd(root);
}

// The result of the call.
ErrnoOr<uint64_t> Install(Task& task, NamespaceSet& set) {
  MemoryManager& mm = task.mm();
  bool enters_time = (set.time || set.to_initial_time) && set.time != task.extras().time;
  if (enters_time && !mm.TryLock(task)) return task.Block(mm.lock_queue(), POLLIN, kNever, kErestartnointr);
  set.Enter(task);
  if (set.mounts) GoToRoot(task, *set.mounts);
  if (!enters_time) return 0;
  // Its vDSO shows the time there.
  task.StopForOps(VdsoParamsOps(mm, task.extras().time.get(), task.kernel().clocks()), [self = RefPtr<Task>(&task)](std::span<const int64_t>) {
    self->mm().Unlock(*self);
    self->FinishSyscall(0);
  });
  return kNoAnswer;
}

ErrnoOr<uint64_t> JoinProcess(Task& task, PidFd& pidfd, uint64_t flags) {
  if (flags == 0 || (flags & ~kNamespaceFlags) != 0) return Errno(EINVAL);
  Task* target = pidfd.task() != nullptr ? pidfd.task() : pidfd.group().leader();
  if (!pidfd.alive() || target == nullptr || target->exiting()) return Errno(ESRCH);
  if (!MayInspect(task, *target)) return Errno(EPERM);
  NamespaceSet set;
  // The user namespace first: the others are entered with its credentials.
  for (uint64_t type : {uint64_t{CLONE_NEWUSER}, uint64_t{CLONE_NEWNS}, uint64_t{CLONE_NEWUTS}, uint64_t{CLONE_NEWIPC}, uint64_t{CLONE_NEWPID},
                        uint64_t{CLONE_NEWCGROUP}, uint64_t{CLONE_NEWNET}, uint64_t{0x80}}) {
    if ((flags & type) == 0) continue;
    int kind = static_cast<int>(type);
    TRY(JoinNamespace(task, kind, TRY(NamespaceOf(*target, kind, false)), &set));
  }
  return Install(task, set);
}

ErrnoOr<uint64_t> Setns(Task& task, int fd, int flags) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (PidFd* pidfd = PidFd::From(*file)) return JoinProcess(task, *pidfd, static_cast<uint32_t>(flags));
  NsFile* ns = NsFile::From(*file);
  if (ns == nullptr || (flags != 0 && flags != ns->ref().type)) return Errno(EINVAL);
  NamespaceSet set;
  TRY(JoinNamespace(task, ns->ref().type, ns->ref().ns, &set));
  return Install(task, set);
}

}  // namespace

void RegisterUnshareCalls(SyscallTable& table) {
  table.Set(SYS_unshare, Full<&Unshare>());
  table.Set(SYS_setns, Full<&Setns>());
}

}  // namespace amber
