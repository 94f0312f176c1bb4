// userfaultfd(2). What the descriptor can do is in sentry/fs/userfaultfd.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/userfaultfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "sentry/fs/userfaultfd/userfaultfd.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

// The stub has made one: takes it out of there, closes it there, and gives it to the guest.
void Install(Task& task, int64_t number, int flags) {
  ErrnoOr<UniqueFd> fd = UserfaultFd::Fetch(task, static_cast<int>(number));
  auto made = std::make_shared<ErrnoOr<UniqueFd>>(std::move(fd));
  Task* self = &task;
  task.StopForOps({MemoryManager::Op(SYS_close, static_cast<uint64_t>(number))}, [self, made, flags](std::span<const int64_t>) {
    if (!made->ok()) return self->FinishSyscall(-ENOMEM);
    ErrnoOr<RefPtr<UserfaultFd>> file = UserfaultFd::Make(*self, std::move(**made), flags & O_NONBLOCK);
    if (!file.ok()) return self->FinishSyscall(-file.error().number());
    ErrnoOr<int> installed = self->files().Allocate(*std::move(file), (flags & O_CLOEXEC) != 0, self->limit(RLIMIT_NOFILE));
    self->FinishSyscall(installed.ok() ? *installed : -installed.error().number());
  });
}

ErrnoOr<uint64_t> Userfaultfd(Task& task, int flags) {
  // userfaultfd_syscall_allowed() of fs/userfaultfd.c, with vm.unprivileged_userfaultfd = 0.
  if ((flags & UFFD_USER_MODE_ONLY) == 0 && !task.Has(CAP_SYS_PTRACE)) return Errno(EPERM);
  if ((flags & ~(UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK)) != 0) return Errno(EINVAL);
  Task* self = &task;
  task.StopForOps({UserfaultFd::MakeOp()}, [self, flags](std::span<const int64_t> results) {
    int64_t result = results.empty() ? -EFAULT : results.back();
    // A host without it, or that refuses it: ENOSYS, EPERM.
    if (result < 0) return self->FinishSyscall(result);
    Install(*self, result, flags);
  });
  return kNoAnswer;
}

}  // namespace

void RegisterUserfaultCalls(SyscallTable& table) {
  table.Set(SYS_userfaultfd,
            Partial<&Userfaultfd>("no events of fork, mremap, munmap; calls with missing pages get EFAULT, as with UFFD_USER_MODE_ONLY"));
}

}  // namespace amber
