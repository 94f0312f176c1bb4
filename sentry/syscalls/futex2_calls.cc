// futex_wake, futex_requeue, futex_wait and futex_waitv: executed by the host on the guest's own words, as the untimed operations of futex(2)
// are. All that they point to is memory of the caller's own.
#include <sys/syscall.h>

#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

// Debian 12's headers are older than these.
constexpr uint64_t kFutexWaitv = 449, kFutexWake = 454, kFutexWait = 455, kFutexRequeue = 456;

ErrnoOr<uint64_t> FutexWake(Task& task, uint64_t, uint64_t, int, unsigned) { return RunUnlocked(task); }
ErrnoOr<uint64_t> FutexRequeue(Task& task, UserPtr<void>, unsigned, int, int) { return RunUnlocked(task); }
ErrnoOr<uint64_t> FutexWait(Task& task, uint64_t, uint64_t, uint64_t, unsigned, UserPtr<void>, int) { return RunUnlocked(task); }
ErrnoOr<uint64_t> FutexWaitv(Task& task, UserPtr<void>, unsigned, unsigned, UserPtr<void>, int) { return RunUnlocked(task); }

}  // namespace

void RegisterFutex2Calls(SyscallTable& table) {
  constexpr const char* kNative = "a handler without SA_RESTART restarts it; a deadline is in the host's time, which differs after a restore";
  table.Set(kFutexWake, Full<&FutexWake>());
  table.Set(kFutexRequeue, Full<&FutexRequeue>());
  table.Set(kFutexWait, Partial<&FutexWait>(kNative));
  table.Set(kFutexWaitv, Partial<&FutexWaitv>(kNative));
}

}  // namespace amber
