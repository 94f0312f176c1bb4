// unshare(2), as far as files and mounts are concerned.
#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr uint64_t kAlone = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
constexpr uint64_t kSupported = CLONE_FILES | CLONE_FS | CLONE_NEWNS | CLONE_SYSVSEM | kAlone;

ErrnoOr<uint64_t> Unshare(Task& task, uint64_t flags) {
  // Other namespaces: as a kernel without them answers.
  if ((flags & ~kSupported) != 0) return Errno(EINVAL);
  // What threads share cannot be taken apart.
  if ((flags & kAlone) != 0 && task.group().live_tasks() > 1) return Errno(EINVAL);
  if ((flags & CLONE_NEWNS) != 0 && !task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if ((flags & CLONE_FILES) != 0 && task.files().ref_count() > 1) task.UnshareFiles();
  if ((flags & (CLONE_FS | CLONE_NEWNS)) != 0 && task.fs().ref_count() > 1) task.set_fs(task.fs().Clone());
  if ((flags & CLONE_NEWNS) != 0) task.set_mounts(task.mounts().Clone(&task.fs()));
  return uint64_t{0};
}

}  // namespace

void RegisterUnshareCalls(SyscallTable& table) {
  table.Set(SYS_unshare, Partial<&Unshare>("of the namespaces only that of mounts"));
}

}  // namespace amber
