// io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
#include <linux/io_uring.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/io_uring/io_uring.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint64_t kSetup = 425, kEnter = 426, kRegister = 427;

ErrnoOr<RefPtr<IoUring>> RingOf(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  IoUring* ring = IoUring::From(*file);
  if (ring == nullptr) return Errno(EOPNOTSUPP);
  return RefPtr<IoUring>(ring);
}

ErrnoOr<uint64_t> IoUringSetup(Task& task, unsigned entries, UserPtr<io_uring_params> p) {
  io_uring_params params = TRY(task.CopyIn(p));
  RefPtr<IoUring> ring = TRY(IoUring::Create(task, entries, &params));
  TRY(task.CopyOut(p, params));
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(ring), true, task.limit(RLIMIT_NOFILE))));
}

// The time-out of a wait, ns, and its signal mask put in force.
ErrnoOr<int64_t> PrepareWait(Task& task, unsigned flags, uint64_t argument, uint64_t size) {
  if ((flags & IORING_ENTER_EXT_ARG) == 0) {
    if (argument != 0) TRY(SwapMask(task, UserPtr<const SignalSet>(argument), size));
    return kNever;
  }
  io_uring_getevents_arg extended{};
  if (size != sizeof(extended)) return Errno(EINVAL);
  extended = TRY(task.CopyIn(UserPtr<const io_uring_getevents_arg>(argument)));
  if (extended.pad != 0) return Errno(EINVAL);
  int64_t timeout = TRY(CopyInTimeout(task, UserPtr<const timespec>(extended.ts)));
  if (extended.sigmask != 0) TRY(SwapMask(task, UserPtr<const SignalSet>(extended.sigmask), extended.sigmask_sz));
  return timeout;
}

ErrnoOr<uint64_t> Wait(Task& task, IoUring& ring, unsigned wanted, unsigned flags, uint64_t argument, uint64_t size) {
  ring.FlushOverflow();
  wanted = std::min(wanted, ring.completions());
  if (ring.Ready() >= wanted) return 0;
  int64_t timeout = TRY(PrepareWait(task, flags, argument, size));
  if (task.syscall().timed_out) return Errno(ETIME);
  return task.Block(*ring.wait_queue(), POLLIN, DeadlineAfter(task, timeout), Errno(EINTR));
}

ErrnoOr<uint64_t> IoUringEnter(Task& task, int fd, unsigned count, unsigned wanted, unsigned flags, uint64_t argument, uint64_t size) {
  // A registered ring's number is never one: none can be registered.
  if ((flags & ~(IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT | IORING_ENTER_EXT_ARG)) != 0) return Errno(EINVAL);
  RefPtr<IoUring> ring = TRY(RingOf(task, fd));
  if (ring->disabled()) return Errno(EBADFD);
  SyscallState& call = task.syscall();
  if (!call.restarted && count > 0) {
    // What is taken counts, however the wait ends.
    call.done = TRY(ring->Submit(task, count));
    if (task.exiting() || call.done != count) return call.done;
  }
  if ((flags & IORING_ENTER_GETEVENTS) == 0) return call.done;
  auto waited = Wait(task, *ring, wanted, flags, argument, size);
  if (waited.Is(kBlocked.number()) || call.done == 0) return waited;
  return call.done;
}

ErrnoOr<uint64_t> IoUringRegister(Task& task, int fd, unsigned what, uint64_t argument, unsigned count) {
  RefPtr<IoUring> ring = TRY(RingOf(task, fd));
  return ring->Register(task, what, argument, count);
}

}  // namespace

void RegisterIoUringCalls(SyscallTable& table) {
  table.Set(kSetup, Partial<&IoUringSetup>("no polling threads or devices (SQPOLL, IOPOLL), no large entries"));
  table.Set(kEnter, Partial<&IoUringEnter>("no messages to rings, futexes, MADVISE, several shots of recvmsg, bundles"));
  table.Set(kRegister, Partial<&IoUringRegister>("buffers, files, rings of buffers, eventfd, probe, enable"));
}

}  // namespace amber
