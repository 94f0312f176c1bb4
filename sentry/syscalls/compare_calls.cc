// kcmp(2): whether two tasks share something.
#include <linux/kcmp.h>
#include <sys/syscall.h>

#include "sentry/fs/epoll/epoll.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// 0: the same, 1: less, 2: greater. The order tells nothing about addresses: it is that of a mixed value, as in kcmp_ptr().
uint64_t Order(const void* a, const void* b) {
  static const uint64_t key = 0x9e3779b97f4a7c15ULL ^ reinterpret_cast<uint64_t>(&key) << 7;
  auto mix = [](const void* p) { return (reinterpret_cast<uint64_t>(p) ^ key) * 0xff51afd7ed558ccdULL; };
  if (a == b) return 0;
  return mix(a) < mix(b) ? 1 : 2;
}

ErrnoOr<const File*> FileOf(Task& task, uint64_t fd) {
  if (task.exiting() || fd > INT32_MAX) return Errno(EBADF);
  return TRY(task.files().GetAny(static_cast<int>(fd))).get();
}

// KCMP_EPOLL_TFD: the file that an epoll watches under a number, although that number may be closed by now.
ErrnoOr<uint64_t> CompareEpollTarget(Task& caller, Task& a, uint64_t fd, Task& b, uint64_t slot_address) {
  kcmp_epoll_slot slot = TRY(caller.CopyIn(UserPtr<kcmp_epoll_slot>(slot_address)));
  const File* file = TRY(FileOf(a, fd));
  const File* poller = TRY(FileOf(b, slot.efd));
  auto* epoll = dynamic_cast<const Epoll*>(poller);
  if (epoll == nullptr) return Errno(EINVAL);
  const File* target = epoll->Target(static_cast<int>(slot.tfd), slot.toff);
  if (target == nullptr) return Errno(ENOENT);
  return Order(file, target);
}

ErrnoOr<uint64_t> Kcmp(Task& task, int pid1, int pid2, int type, uint64_t index1, uint64_t index2) {
  Task* a = task.FindTask(pid1);
  Task* b = task.FindTask(pid2);
  if (a == nullptr || b == nullptr) return Errno(ESRCH);
  if (!MayInspect(task, *a) || !MayInspect(task, *b)) return Errno(EPERM);
  bool gone = a->exiting() || b->exiting();
  switch (type) {
    case KCMP_FILE: return Order(TRY(FileOf(*a, index1)), TRY(FileOf(*b, index2)));
    case KCMP_VM: return Order(a->has_mm() ? &a->mm() : nullptr, b->has_mm() ? &b->mm() : nullptr);
    case KCMP_FILES: return gone ? uint64_t{0} : Order(&a->files(), &b->files());
    case KCMP_FS: return gone ? uint64_t{0} : Order(&a->fs(), &b->fs());
    case KCMP_SIGHAND: return Order(&a->group().handlers(), &b->group().handlers());
    case KCMP_IO:
      // Contexts are made by setting a priority and are each task's own.
      return Order(a->extras().ioprio != 0 ? a : nullptr, b->extras().ioprio != 0 ? b : nullptr);
    case KCMP_SYSVSEM: return Order(a->extras().sem_undo.get(), b->extras().sem_undo.get());
    case KCMP_EPOLL_TFD: return CompareEpollTarget(task, *a, index1, *b, index2);
    default: return Errno(EINVAL);
  }
}

}  // namespace

void RegisterCompareCalls(SyscallTable& table) { table.Set(SYS_kcmp, Full<&Kcmp>()); }

}  // namespace amber
