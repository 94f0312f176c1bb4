// pipe, eventfd, timerfd, signalfd: calls that make small objects behind descriptors.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/signalfd/signalfd.h"
#include "sentry/fs/timerfd/timerfd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr int kCapWakeAlarm = 35;

ErrnoOr<uint64_t> Install(Task& task, RefPtr<File> file, bool close_on_exec) {
  int fd = TRY(task.files().Allocate(std::move(file), close_on_exec, task.limit(RLIMIT_NOFILE)));
  return static_cast<uint64_t>(fd);
}

struct Fds {
  int fd[2];
};

ErrnoOr<uint64_t> Pipe2(Task& task, UserPtr<Fds> out, int flags) {
  if ((flags & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) != 0) return Errno(EINVAL);
  bool cloexec = (flags & O_CLOEXEC) != 0;
  PipePair ends = NewPipe(task, flags & (O_NONBLOCK | O_DIRECT));
  Fds fds{};
  fds.fd[0] = static_cast<int>(TRY(Install(task, ends.reader, cloexec)));
  auto second = Install(task, ends.writer, cloexec);
  if (!second.ok()) {
    (void)task.files().Remove(fds.fd[0]);
    return second;
  }
  fds.fd[1] = static_cast<int>(*second);
  auto copied = task.CopyOut(out, fds);
  if (!copied.ok()) {
    (void)task.files().Remove(fds.fd[0]);
    (void)task.files().Remove(fds.fd[1]);
    return copied.error();
  }
  return uint64_t{0};
}

ErrnoOr<uint64_t> PipeCall(Task& task, UserPtr<Fds> out) { return Pipe2(task, out, 0); }

ErrnoOr<uint64_t> EventFd2(Task& task, uint32_t count, int flags) {
  if ((flags & ~(EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE)) != 0) return Errno(EINVAL);
  auto file = MakeRef<EventFd>(count, (flags & EFD_SEMAPHORE) != 0, flags & EFD_NONBLOCK);
  return Install(task, file, (flags & EFD_CLOEXEC) != 0);
}

ErrnoOr<uint64_t> EventFdCall(Task& task, uint32_t count) { return EventFd2(task, count, 0); }

ErrnoOr<uint64_t> TimerFdCreate(Task& task, int clock, int flags) {
  if ((flags & ~(TFD_CLOEXEC | TFD_NONBLOCK)) != 0) return Errno(EINVAL);
  switch (clock) {
    case CLOCK_MONOTONIC:
    case CLOCK_REALTIME:
    case CLOCK_BOOTTIME: break;
    case CLOCK_REALTIME_ALARM:
    case CLOCK_BOOTTIME_ALARM:
      if (!task.Has(kCapWakeAlarm)) return Errno(EPERM);
      break;
    default: return Errno(EINVAL);
  }
  return Install(task, MakeRef<TimerFd>(task.kernel(), clock, flags & TFD_NONBLOCK), (flags & TFD_CLOEXEC) != 0);
}

ErrnoOr<RefPtr<TimerFd>> GetTimerFd(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* timer = dynamic_cast<TimerFd*>(file.get());
  if (timer == nullptr) return Errno(EINVAL);
  return RefPtr<TimerFd>(timer);
}

ErrnoOr<int64_t> ToNs(const timespec& t) {
  if (t.tv_sec < 0 || t.tv_nsec < 0 || t.tv_nsec >= kNsPerSecond) return Errno(EINVAL);
  if (t.tv_sec >= INT64_MAX / kNsPerSecond) return INT64_MAX;
  return t.tv_sec * kNsPerSecond + t.tv_nsec;
}

timespec FromNs(int64_t ns) { return {ns / kNsPerSecond, ns % kNsPerSecond}; }

itimerspec ToSpec(const TimerFd::Setting& s) { return {FromNs(s.interval), FromNs(s.remaining)}; }

ErrnoOr<uint64_t> TimerFdSettime(Task& task, int fd, int flags, UserPtr<const itimerspec> in, UserPtr<itimerspec> old) {
  itimerspec spec = TRY(task.CopyIn(in));
  if ((flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0) return Errno(EINVAL);
  int64_t value = TRY(ToNs(spec.it_value));
  int64_t interval = TRY(ToNs(spec.it_interval));
  RefPtr<TimerFd> timer = TRY(GetTimerFd(task, fd));
  if ((flags & TFD_TIMER_ABSTIME) != 0 && value != 0) value = std::max<int64_t>(ToKernelTime(task, timer->clock(), value), 1);
  TimerFd::Setting before = timer->Get();
  timer->Set(flags, value, interval);
  if (old) TRY(task.CopyOut(old, ToSpec(before)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> TimerFdGettime(Task& task, int fd, UserPtr<itimerspec> out) {
  RefPtr<TimerFd> timer = TRY(GetTimerFd(task, fd));
  TRY(task.CopyOut(out, ToSpec(timer->Get())));
  return uint64_t{0};
}

ErrnoOr<uint64_t> SignalFd4(Task& task, int fd, UserPtr<const SignalSet> mask, uint64_t size, int flags) {
  if (size != sizeof(SignalSet)) return Errno(EINVAL);
  SignalSet set = TRY(task.CopyIn(mask));
  if ((flags & ~(SFD_CLOEXEC | SFD_NONBLOCK)) != 0) return Errno(EINVAL);
  if (fd == -1) {
    return Install(task, MakeRef<SignalFd>(task, set, flags & SFD_NONBLOCK), (flags & SFD_CLOEXEC) != 0);
  }
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* existing = dynamic_cast<SignalFd*>(file.get());
  if (existing == nullptr) return Errno(EINVAL);
  existing->set_mask(set);
  return static_cast<uint64_t>(fd);
}

ErrnoOr<uint64_t> SignalFdCall(Task& task, int fd, UserPtr<const SignalSet> mask, uint64_t size) { return SignalFd4(task, fd, mask, size, 0); }

}  // namespace

void RegisterEventCalls(SyscallTable& table) {
  table.Set(SYS_pipe, Full<&PipeCall>());
  table.Set(SYS_pipe2, Full<&Pipe2>());
  table.Set(SYS_eventfd, Full<&EventFdCall>());
  table.Set(SYS_eventfd2, Full<&EventFd2>());
  table.Set(SYS_timerfd_create, Full<&TimerFdCreate>());
  table.Set(SYS_timerfd_settime, Full<&TimerFdSettime>());
  table.Set(SYS_timerfd_gettime, Full<&TimerFdGettime>());
  table.Set(SYS_signalfd, Full<&SignalFdCall>());
  table.Set(SYS_signalfd4, Full<&SignalFd4>());
}

}  // namespace amber
