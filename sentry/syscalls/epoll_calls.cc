// epoll(7).
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "sentry/fs/epoll/epoll.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

ErrnoOr<uint64_t> EpollCreate1(Task& task, int flags) {
  if ((flags & ~EPOLL_CLOEXEC) != 0) return Errno(EINVAL);
  int fd = TRY(task.files().Allocate(MakeRef<Epoll>(), (flags & EPOLL_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE)));
  return static_cast<uint64_t>(fd);
}

ErrnoOr<uint64_t> EpollCreate(Task& task, int size) {
  if (size <= 0) return Errno(EINVAL);
  return EpollCreate1(task, 0);
}

ErrnoOr<uint64_t> EpollCtl(Task& task, int epfd, int op, int fd, UserPtr<const epoll_event> p) {
  epoll_event event{};
  if (op != EPOLL_CTL_DEL) event = TRY(task.CopyIn(p));
  RefPtr<File> epoll_file = TRY(task.files().Get(epfd));
  RefPtr<File> target = TRY(task.files().Get(fd));
  if (!target->pollable()) return Errno(EPERM);
  auto* epoll = dynamic_cast<Epoll*>(epoll_file.get());
  if (epoll == nullptr || epoll_file == target) return Errno(EINVAL);
  switch (op) {
    case EPOLL_CTL_ADD: TRY(epoll->Add(task, fd, *target, event)); return uint64_t{0};
    case EPOLL_CTL_MOD: TRY(epoll->Modify(task, fd, *target, event)); return uint64_t{0};
    case EPOLL_CTL_DEL: TRY(epoll->Remove(fd, *target)); return uint64_t{0};
    default: return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> Wait(Task& task, int epfd, UserPtr<epoll_event> out, int max, int64_t timeout_ns) {
  RefPtr<File> file = TRY(task.files().Get(epfd));
  if (max <= 0 || max > static_cast<int>(INT32_MAX / sizeof(epoll_event))) return Errno(EINVAL);
  // access_ok() is asked whether anything is there to be told or not (ep_check_params).
  if (out.address() > platform::kGuestTop - static_cast<uint64_t>(max) * sizeof(epoll_event)) return Errno(EFAULT);
  auto* epoll = dynamic_cast<Epoll*>(file.get());
  if (epoll == nullptr) return Errno(EINVAL);
  std::vector<epoll_event> events = epoll->Harvest(task, static_cast<size_t>(max));
  if (!events.empty()) {
    if (task.CopyOutArray(out, std::span<const epoll_event>(events)).ok()) return events.size();
    // ep_send_events(): those that could be told are; the first that could not, and what comes after it, stay ready.
    size_t told = 0;
    while (told < events.size() && task.CopyOut(out + told, events[told]).ok()) ++told;
    epoll->PutBack(told);
    if (told == 0) return Errno(EFAULT);
    return told;
  }
  if (timeout_ns == 0 || task.syscall().timed_out) return uint64_t{0};
  WaitOn on[] = {{&epoll->wait_calls(), EPOLLIN, true}};
  // epoll_wait is never restarted after a handler, SA_RESTART or not (signal(7)).
  return task.Block(on, DeadlineAfter(task, timeout_ns), Errno(EINTR));
}

int64_t MillisecondsToNs(int timeout) { return timeout < 0 ? kNever : int64_t{timeout} * 1'000'000; }

ErrnoOr<uint64_t> EpollWait(Task& task, int epfd, UserPtr<epoll_event> out, int max, int timeout) {
  return Wait(task, epfd, out, max, MillisecondsToNs(timeout));
}

ErrnoOr<uint64_t> EpollPwait(Task& task, int epfd, UserPtr<epoll_event> out, int max, int timeout, UserPtr<const SignalSet> mask, uint64_t size) {
  TRY(SwapMask(task, mask, size));
  return Wait(task, epfd, out, max, MillisecondsToNs(timeout));
}

ErrnoOr<uint64_t> EpollPwait2(Task& task, int epfd, UserPtr<epoll_event> out, int max, UserPtr<const timespec> timeout, UserPtr<const SignalSet> mask,
                              uint64_t size) {
  int64_t ns = TRY(CopyInTimeout(task, timeout));
  TRY(SwapMask(task, mask, size));
  return Wait(task, epfd, out, max, ns);
}

}  // namespace

void RegisterEpollCalls(SyscallTable& table) {
  table.Set(SYS_epoll_create, Full<&EpollCreate>());
  table.Set(SYS_epoll_create1, Full<&EpollCreate1>());
  table.Set(SYS_epoll_ctl, Full<&EpollCtl>());
  table.Set(SYS_epoll_wait, Full<&EpollWait>());
  table.Set(SYS_epoll_pwait, Full<&EpollPwait>());
  table.Set(441 /* epoll_pwait2 */, Full<&EpollPwait2>());
}

}  // namespace amber
