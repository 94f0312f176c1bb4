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

ErrnoOr<uint64_t> IoUringSetup(Task& task, unsigned entries, UserPtr<io_uring_params> p) {
  io_uring_params params = TRY(task.CopyIn(p));
  RefPtr<IoUring> ring = TRY(IoUring::Create(task, entries, &params));
  TRY(task.CopyOut(p, params));
  return static_cast<uint64_t>(TRY(task.files().Allocate(std::move(ring), true, task.limit(RLIMIT_NOFILE))));
}

// When a wait ends, and its signal mask put in force.
ErrnoOr<int64_t> PrepareWait(Task& task, const IoUring& ring, unsigned flags, uint64_t argument, uint64_t size) {
  if ((flags & IORING_ENTER_EXT_ARG) == 0) {
    if (argument != 0) TRY(SwapMask(task, UserPtr<const SignalSet>(argument), size));
    return kNever;
  }
  io_uring_getevents_arg extended{};
  if (size != sizeof(extended)) return Errno(EINVAL);
  extended = TRY(task.CopyIn(UserPtr<const io_uring_getevents_arg>(argument)));
  if (extended.pad != 0) return Errno(EINVAL);
  int64_t time = TRY(CopyInTimeout(task, UserPtr<const timespec>(extended.ts)));
  if (extended.sigmask != 0) TRY(SwapMask(task, UserPtr<const SignalSet>(extended.sigmask), extended.sigmask_sz));
  if (time == kNever) return kNever;
  return (flags & kEnterAbsoluteTime) != 0 ? DeadlineAt(task, ring.clock(), time) : DeadlineAfter(task, time);
}

ErrnoOr<uint64_t> Wait(Task& task, IoUring& ring, unsigned wanted, unsigned flags, uint64_t argument, uint64_t size) {
  ring.FlushOverflow();
  wanted = std::min(wanted, ring.completions());
  if (ring.Ready() >= wanted) return 0;
  int64_t deadline = TRY(PrepareWait(task, ring, flags, argument, size));
  if (task.syscall().timed_out) return Errno(ETIME);
  return task.Block(*ring.wait_queue(), POLLIN, deadline, Errno(EINTR));
}

ErrnoOr<uint64_t> IoUringEnter(Task& task, int fd, unsigned count, unsigned wanted, unsigned flags, uint64_t argument, uint64_t size) {
  constexpr unsigned kKnown = IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT | IORING_ENTER_EXT_ARG | kEnterRegistered |
                              kEnterAbsoluteTime | kEnterNoIoWait;
  if ((flags & ~kKnown) != 0) return Errno(EINVAL);
  RefPtr<IoUring> ring = TRY(IoUring::Find(task, fd, (flags & kEnterRegistered) != 0));
  if (ring->disabled()) return Errno(EBADFD);
  SyscallState& call = task.syscall();
  if (!call.restarted && ring->polls()) {
    if ((flags & IORING_ENTER_SQ_WAKEUP) != 0) TRY(ring->WakePoller());
    call.done = count;
    if (task.exiting()) return call.done;
  } else if (!call.restarted && count > 0) {
    // What is taken counts, however the wait ends.
    call.done = TRY(ring->Submit(task, count));
    if (task.exiting() || call.done != count) return call.done;
  }
  TRY(ring->Serve(task));
  if ((flags & IORING_ENTER_GETEVENTS) == 0) return call.done;
  auto waited = Wait(task, *ring, wanted, flags, argument, size);
  if (waited.Is(kBlocked.number()) || call.done == 0) return waited;
  return call.done;
}

ErrnoOr<uint64_t> IoUringRegister(Task& task, int fd, unsigned what, uint64_t argument, unsigned count) {
  if (fd == -1 && what < kRegisterOnOwnRing) return IoUring::RegisterBlind(task, what, argument, count);
  RefPtr<IoUring> ring = TRY(IoUring::Find(task, fd, (what & kRegisterOnOwnRing) != 0));
  return ring->Register(task, what & ~kRegisterOnOwnRing, argument, count);
}

}  // namespace

void RegisterIoUringCalls(SyscallTable& table) {
  table.Set(
      kSetup,
      Partial<&IoUringSetup>(
          "no devices that are polled (IOPOLL), no rings in memory of the program (NO_MMAP); who polls for submissions (SQPOLL) sleeps until woken"));
  table.Set(kEnter, Partial<&IoUringEnter>("no futexes, zero copy receiving"));
  table.Set(kRegister, Partial<&IoUringRegister>("no NAPI, memory regions, new sizes of rings, zero copy receiving"));
}

}  // namespace amber
