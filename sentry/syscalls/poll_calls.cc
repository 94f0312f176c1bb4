// poll, ppoll, select, pselect6 (poll(2), select(2), fs/select.c).
//
// A call looks at its files, and if none is ready waits on all their queues; what wakes it makes it look again. The deadline is
// that of the first round.
#include <limits.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {

ErrnoOr<int64_t> CopyInTimeout(Task& task, UserPtr<const timespec> p) {
  if (p.is_null()) return kNever;
  timespec t = TRY(task.CopyIn(p));
  if (t.tv_sec < 0 || t.tv_nsec < 0 || t.tv_nsec >= kNsPerSecond) return Errno(EINVAL);
  if (t.tv_sec >= INT64_MAX / kNsPerSecond - 1) return kNever;
  return t.tv_sec * kNsPerSecond + t.tv_nsec;
}

int64_t RemainingTime(Task& task) {
  int64_t deadline = task.syscall().deadline;
  if (deadline == kNever) return kNever;
  return std::max<int64_t>(deadline - task.kernel().clocks().Monotonic(), 0);
}

ErrnoOr<void> SwapMask(Task& task, UserPtr<const SignalSet> p, uint64_t size) {
  if (p.is_null()) return Ok();
  if (size != sizeof(SignalSet)) return Errno(EINVAL);
  // Once per call: the guest may change the bytes while the call waits.
  if (!task.syscall().restarted) task.SetSavedMask(TRY(task.CopyIn(p)) & ~kUnblockable);
  return Ok();
}

namespace {

// The files of one round: keeps them alive and collects where to wait.
class Round {
 public:
  explicit Round(Task& task) : task_(task) {}

  // The events of `wanted` that hold, with POLLERR and POLLHUP; POLLNVAL for a bad descriptor. Registers nothing once
  // something is ready.
  uint32_t Look(int fd, uint32_t wanted) {
    auto file = task_.files().Get(fd);
    if (!file.ok()) return POLLNVAL;
    uint32_t events = (*file)->Poll(task_) & (wanted | POLLERR | POLLHUP);
    if (events == 0) {
      if (WaitQueue* queue = (*file)->wait_queue(); queue != nullptr) waits_.push_back({queue, wanted, false});
    }
    return events;
  }

  // Waits on everything that Look() saw. Waiters leave queues that go, so no file has to be kept.
  Errno Wait(int64_t deadline, Errno on_signal) { return task_.Block(waits_, deadline, on_signal); }

 private:
  Task& task_;
  std::vector<WaitOn> waits_;
};

// What poll() has to tell. Only revents is the kernel's to write: a thread may be changing the rest. Those that hold their value already
// are left alone, which is most of them in a loop that polls the same array.
class Results {
 public:
  explicit Results(uint64_t array) : array_(array) {}
  void Add(uint32_t index, short revents) {
    places_.push_back(array_ + uint64_t{index} * sizeof(pollfd) + offsetof(pollfd, revents));
    values_.push_back(revents);
  }
  ErrnoOr<void> CopyOut(Task& task) {
    for (size_t done = 0; done < places_.size();) {
      size_t n = std::min<size_t>(places_.size() - done, IOV_MAX);
      std::vector<iovec> guest(n);
      for (size_t i = 0; i < n; ++i) guest[i] = {reinterpret_cast<void*>(places_[done + i]), sizeof(short)};
      iovec local = {&values_[done], n * sizeof(short)};
      auto copied = task.mm().space().WriteV(guest, {&local, 1});
      if (!copied.ok() || *copied != local.iov_len) return Errno(EFAULT);
      done += n;
    }
    return Ok();
  }

 private:
  uint64_t array_;
  std::vector<uint64_t> places_;
  std::vector<short> values_;
};

ErrnoOr<uint64_t> DoPoll(Task& task, UserPtr<pollfd> p, uint32_t count, int64_t timeout_ns, Errno on_signal) {
  if (count > task.limit(RLIMIT_NOFILE)) return Errno(EINVAL);
  std::vector<pollfd> fds = TRY(task.CopyInArray(p, count));
  Round round(task);
  Results results(p.address());
  uint64_t ready = 0;
  for (uint32_t i = 0; i < count; ++i) {
    pollfd& f = fds[i];
    short found = f.fd < 0 ? short{0} : static_cast<short>(round.Look(f.fd, static_cast<uint16_t>(f.events)));
    if (found != 0) ++ready;
    if (found != f.revents) results.Add(i, found);
  }
  bool over = timeout_ns == 0 || task.syscall().timed_out;
  if (ready == 0 && !over) return round.Wait(DeadlineAfter(task, timeout_ns), on_signal);
  TRY(results.CopyOut(task));
  return ready;
}

ErrnoOr<uint64_t> Poll(Task& task, UserPtr<pollfd> p, uint32_t count, int timeout) {
  int64_t ns = timeout < 0 ? kNever : int64_t{timeout} * 1'000'000;
  return DoPoll(task, p, count, ns, kErestartRestartblock);
}

// The time that is left goes back to the guest, as Linux does for ppoll and select. Errors are ignored: the call has happened.
void CopyOutRemaining(Task& task, UserPtr<timespec> p, int64_t timeout_ns) {
  if (p.is_null() || timeout_ns == kNever) return;
  int64_t left = task.syscall().deadline == kNever ? timeout_ns : RemainingTime(task);
  if (task.syscall().timed_out) left = 0;
  (void)task.CopyOut(p, timespec{left / kNsPerSecond, left % kNsPerSecond});
}

// A restarted call must not read its time-out again: it may have been changed, and the deadline stands already (none, for more seconds than there are).
ErrnoOr<int64_t> FirstTimeout(Task& task, UserPtr<const timespec> p) {
  if (task.syscall().restarted) return task.syscall().deadline == kNever ? kNever : int64_t{1};
  return CopyInTimeout(task, p);
}

ErrnoOr<uint64_t> Ppoll(Task& task, UserPtr<pollfd> p, uint32_t count, UserPtr<timespec> timeout, UserPtr<const SignalSet> mask, uint64_t size) {
  int64_t ns = TRY(FirstTimeout(task, timeout.Cast<const timespec>()));
  task.syscall().scratch[2] = timeout.address();  // for Task::CopyOutPollRemaining()
  TRY(SwapMask(task, mask, size));
  auto r = DoPoll(task, p, count, ns, kErestartnohand);
  if (r.ok()) CopyOutRemaining(task, timeout, ns);
  return r;
}

constexpr uint32_t kSelectIn = POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR;
constexpr uint32_t kSelectOut = POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR;
constexpr uint32_t kSelectEx = POLLPRI;

// The bit maps of select, as long as the descriptor table at most.
struct Sets {
  static constexpr uint32_t kEvents[3] = {kSelectIn, kSelectOut, kSelectEx};
  std::vector<uint64_t> in[3], out[3];

  static bool Test(const std::vector<uint64_t>& set, int fd) { return !set.empty() && (set[static_cast<size_t>(fd) / 64] >> (fd % 64) & 1) != 0; }
};

ErrnoOr<uint64_t> LookAtSets(Round& round, Sets& sets, int count) {
  uint64_t ready = 0;
  for (int fd = 0; fd < count; ++fd) {
    uint32_t wanted = 0;
    for (int i = 0; i < 3; ++i) {
      if (Sets::Test(sets.in[i], fd)) wanted |= Sets::kEvents[i];
    }
    if (wanted == 0) continue;
    uint32_t events = round.Look(fd, wanted);
    if ((events & POLLNVAL) != 0) return Errno(EBADF);
    for (int i = 0; i < 3; ++i) {
      if (!Sets::Test(sets.in[i], fd) || (events & Sets::kEvents[i]) == 0) continue;
      sets.out[i][static_cast<size_t>(fd) / 64] |= uint64_t{1} << (fd % 64);
      ++ready;
    }
  }
  return ready;
}

ErrnoOr<uint64_t> DoSelect(Task& task, int count, const UserPtr<uint64_t> (&maps)[3], int64_t timeout_ns) {
  if (count < 0) return Errno(EINVAL);
  count = std::min(count, task.files().capacity());
  size_t words = (static_cast<size_t>(count) + 63) / 64;
  Sets sets;
  for (int i = 0; i < 3; ++i) {
    if (maps[i].is_null()) continue;
    sets.in[i] = TRY(task.CopyInArray(maps[i], words));
    sets.out[i].resize(words);
  }
  Round round(task);
  uint64_t ready = TRY(LookAtSets(round, sets, count));
  bool over = timeout_ns == 0 || task.syscall().timed_out;
  if (ready == 0 && !over) return round.Wait(DeadlineAfter(task, timeout_ns), kErestartnohand);
  for (int i = 0; i < 3; ++i) {
    if (maps[i].is_null()) continue;
    TRY(task.CopyOutArray(maps[i], std::span<const uint64_t>(sets.out[i])));
  }
  return ready;
}

ErrnoOr<uint64_t> Select(Task& task, int count, UserPtr<uint64_t> in, UserPtr<uint64_t> out, UserPtr<uint64_t> ex, UserPtr<timeval> timeout) {
  int64_t ns = kNever;
  if (timeout && task.syscall().restarted) {
    ns = 1;
  } else if (timeout) {
    timeval t = TRY(task.CopyIn(timeout));
    if (t.tv_sec < 0 || t.tv_usec < 0) return Errno(EINVAL);
    // Microseconds beyond a second are added, as Linux does.
    int64_t seconds = std::min<int64_t>(t.tv_sec, INT64_MAX / 4 / kNsPerSecond) + t.tv_usec / 1'000'000;
    seconds = std::min<int64_t>(seconds, INT64_MAX / 2 / kNsPerSecond);
    ns = seconds * kNsPerSecond + t.tv_usec % 1'000'000 * 1000;
  }
  task.syscall().scratch[2] = timeout.address();
  auto r = DoSelect(task, count, {in, out, ex}, ns);
  if (r.ok() && timeout) {
    int64_t left = task.syscall().timed_out ? 0 : task.syscall().deadline == kNever ? ns : RemainingTime(task);
    (void)task.CopyOut(timeout, timeval{left / kNsPerSecond, left % kNsPerSecond / 1000});
  }
  return r;
}

struct MaskArgument {
  uint64_t address;
  uint64_t size;
};

ErrnoOr<uint64_t> Pselect6(Task& task, int count, UserPtr<uint64_t> in, UserPtr<uint64_t> out, UserPtr<uint64_t> ex, UserPtr<timespec> timeout,
                           UserPtr<const MaskArgument> mask) {
  int64_t ns = TRY(FirstTimeout(task, timeout.Cast<const timespec>()));
  task.syscall().scratch[2] = timeout.address();  // for Task::CopyOutPollRemaining()
  if (mask) {
    MaskArgument m = TRY(task.CopyIn(mask));
    TRY(SwapMask(task, UserPtr<const SignalSet>(m.address), m.size));
  }
  auto r = DoSelect(task, count, {in, out, ex}, ns);
  if (r.ok()) CopyOutRemaining(task, timeout, ns);
  return r;
}

}  // namespace

void RegisterPollCalls(SyscallTable& table) {
  table.Set(SYS_poll, Full<&Poll>());
  table.Set(SYS_ppoll, Full<&Ppoll>());
  table.Set(SYS_select, Full<&Select>());
  table.Set(SYS_pselect6, Full<&Pselect6>());
}

}  // namespace amber
