#include "sentry/kernel/task.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstdlib>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/userfault.h"
#include "sentry/platform/fast_memory.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

UniqueFd OpenSchedstat(int pid, int tid) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
  return UniqueFd(open(path, O_RDONLY | O_CLOEXEC));
}

// Its first number: time on a CPU, in ns; its second: time ready to run without one. False if there is no such thread any more.
bool ReadSchedstat(int fd, int64_t* time, int64_t* waited = nullptr) {
  char text[64];
  ssize_t n = fd >= 0 ? pread(fd, text, sizeof(text) - 1, 0) : -1;
  if (n <= 0) return false;
  text[n] = 0;
  char* end = nullptr;
  *time = strtoll(text, &end, 10);
  if (waited != nullptr) *waited = strtoll(end, nullptr, 10);
  return true;
}

size_t ReadHostFile(int pid, int tid, const char* name, char* out, size_t size) {
  char path[64];
  snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
  UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  ssize_t n = fd.valid() ? read(fd.get(), out, size - 1) : -1;
  out[n > 0 ? n : 0] = 0;
  return n > 0 ? static_cast<size_t>(n) : 0;
}

// True if the host's thread sleeps in a futex call on a word of the guest's. Other sleep is not the guest's: on the way to us, with the
// same call before us to be looked at, or in the stub, whose words lie above the guest's memory.
bool WaitsForWord(int pid, int tid) {
  char text[256], where[64];
  if (ReadHostFile(pid, tid, "syscall", text, sizeof(text)) == 0) return false;
  // "NUMBER ARG1 ... ARG6 SP PC", or "running".
  char* rest;
  long number = strtol(text, &rest, 10);
  constexpr long kFutexWaitv = 449, kFutexWait = 455;
  if ((number != SYS_futex && number != kFutexWaitv && number != kFutexWait) || rest == text) return false;
  if (strtoull(rest, nullptr, 16) >= platform::kGuestTop) return false;
  // futex_wait_queue(), futex_do_wait() and the like, against seccomp_do_user_notification(). A host without symbols says "0".
  size_t n = ReadHostFile(pid, tid, "wchan", where, sizeof(where));
  return n == 0 || strcmp(where, "0") == 0 || strncmp(where, "futex", 5) == 0;
}

constexpr uint64_t kPage = 4096;
constexpr uint64_t kMaxRwCount = 0x7ffff000;  // MAX_RW_COUNT
constexpr uint64_t kMaxIovecs = 1024;         // UIO_MAXIOV

}  // namespace

Task::Task() : extras_(std::make_unique<TaskExtras>()) {}
Task::~Task() { AMBER_CHECK(thread_ == nullptr); }

bool Task::is_leader() const { return group_->leader() == this; }
int Task::pid() const { return group_->pid(); }
uint64_t Task::limit(int resource) const { return group_->rlim(resource).rlim_cur; }

char Task::state_letter() const {
  if (exiting_) return 'Z';
  if (extras_->tracee != nullptr && extras_->tracee->stop != Tracee::Stop::kNone) return 't';
  if (group_->stopped()) return 'T';
  if (call_ == Call::kBlocked && !native_wait_) return 'S';
  // In guest code, as far as the kernel knows, or in an operation: it may sleep in a lock of its own, which the host executes.
  bool may_wait = where_ == Where::kGuest || native_wait_ || call_ == Call::kContinuation;
  return may_wait && thread_ != nullptr && WaitsForWord(thread_->host_pid(), thread_->host_tid()) ? 'S' : 'R';
}

bool Task::HasSettled() const {
  if (exiting_ || thread_ == nullptr) return true;
  bool prepares = where_ == Where::kStopped && call_ == Call::kNone && !held_;
  if (prepares) return false;
  if (where_ != Where::kGuest && !native_wait_ && call_ != Call::kContinuation) return true;
  return WaitsForWord(thread_->host_pid(), thread_->host_tid());
}

int64_t Task::CpuTime() const {
  if (thread_ == nullptr) return 0;
  // Another process's thread has no clock id for us; a process that always had one thread has its process's.
  if (!group_->extras().had_threads) return group_->CpuTime();
  TaskExtras& e = *extras_;
  int64_t time = 0;
  if (e.schedstat_tid != thread_->host_tid() || !ReadSchedstat(e.schedstat.get(), &time)) {
    e.schedstat = OpenSchedstat(thread_->host_pid(), thread_->host_tid());
    e.schedstat_tid = thread_->host_tid();
    (void)ReadSchedstat(e.schedstat.get(), &time);
  }
  return e.cpu_base + time;
}

int64_t WaitedForProcessor(const Task& task) {
  if (task.thread() == nullptr) return 0;
  TaskExtras& e = task.extras();
  int64_t time = 0, waited = 0;
  if (e.schedstat_tid != task.thread()->host_tid() || !ReadSchedstat(e.schedstat.get(), &time, &waited)) {
    e.schedstat = OpenSchedstat(task.thread()->host_pid(), task.thread()->host_tid());
    e.schedstat_tid = task.thread()->host_tid();
    (void)ReadSchedstat(e.schedstat.get(), &time, &waited);
  }
  return waited;
}

Task* Task::FindTask(int tid) const { return group_->pids().FindTask(tid); }
ThreadGroup* Task::FindGroup(int pid) const { return group_->pids().FindGroup(pid); }

const char* Task::Describe() const {
  if (held_) return "stopped ";
  switch (call_) {
    case Call::kBlocked: return "blocked in ";
    case Call::kRunning:
    case Call::kContinuation: return "in ";
    case Call::kNone: return "runs, last call ";
  }
  return "";
}

namespace {

// True if what `task`'s call gives back may be written by the guest itself, a moment later: calls whose results nothing but their return tells of, to ordinary memory.
bool MayWriteLater(Task& task, uint64_t address, size_t size) {
  switch (task.syscall().number) {
    case SYS_read:
    case SYS_pread64:
    case SYS_readv:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_poll:
    case SYS_ppoll:
    case SYS_epoll_wait:
    case SYS_epoll_pwait:
    case SYS_sendfile:
    case SYS_getsockopt:
    case SYS_accept:
    case SYS_accept4:
    case SYS_stat:
    case SYS_lstat:
    case SYS_fstat:
    case SYS_newfstatat:
    case SYS_statx:
    case SYS_getdents64:
    case SYS_readlink:
    case SYS_readlinkat:
    case SYS_getcwd:
    case SYS_clock_gettime:
    case SYS_gettimeofday:
    case SYS_rt_sigaction:
    case SYS_rt_sigprocmask:
    case SYS_getrusage: break;
    default: return false;
  }
  if (task.kernel().strace() != nullptr || task.mm().locked()) return false;
  const Vma* vma = task.mm().vmas().Find(address);
  return vma != nullptr && vma->anonymous() && (vma->prot & PROT_WRITE) != 0 && (vma->flags & kUffdBits) == 0 && size <= vma->end - address;
}

ErrnoOr<size_t> ReadUser(Task& task, uint64_t address, void* data, size_t size) {
  if (platform::ReadPosted(task.thread(), address, data, size)) return size;
  platform::FlushPosted(task.thread());
  return task.mm().space().Read(address, data, size);
}

ErrnoOr<size_t> WriteUser(Task& task, uint64_t address, const void* data, size_t size) {
  constexpr size_t kMost = 2048;
  if (size <= kMost && platform::MayPost(task.thread()) && MayWriteLater(task, address, size) &&
      platform::WritePosted(task.thread(), address, data, size))
    return size;
  platform::FlushPosted(task.thread());
  return task.mm().space().Write(address, data, size);
}

}  // namespace

ErrnoOr<void> Task::CopyInBytes(uint64_t address, void* data, size_t size) {
  if (size == 0) return Ok();
  auto n = ReadUser(*this, address, data, size);
  if (!n.ok() || *n != size) return Errno(EFAULT);
  return Ok();
}

ErrnoOr<void> Task::CopyOutBytes(uint64_t address, const void* data, size_t size) {
  if (size == 0) return Ok();
  auto n = WriteUser(*this, address, data, size);
  if (!n.ok() || *n != size) return Errno(EFAULT);
  return Ok();
}

ErrnoOr<std::string> Task::CopyInString(UserPtr<const char> p, size_t max) {
  std::string out;
  uint64_t address = p.address();
  char buffer[kPage];
  while (out.size() < max) {
    // Up to the end of the page (at most 256 bytes at first): what follows the string may not be mapped.
    size_t chunk = std::min<size_t>(kPage - address % kPage, max - out.size());
    if (out.empty()) chunk = std::min<size_t>(chunk, 256);
    size_t posted = platform::ReadPostedString(thread_, address, buffer, chunk);
    ErrnoOr<size_t> n = posted > 0 ? ErrnoOr<size_t>(posted) : mm_->space().Read(address, buffer, chunk);
    if (!n.ok()) return Errno(EFAULT);
    const void* end = memchr(buffer, 0, *n);
    if (end != nullptr) {
      out.append(buffer, static_cast<const char*>(end) - buffer);
      return out;
    }
    if (*n != chunk) return Errno(EFAULT);
    out.append(buffer, chunk);
    address += chunk;
  }
  return Errno(ENAMETOOLONG);
}

ErrnoOr<std::vector<iovec>> Task::CopyInIovecs(UserPtr<const iovec> p, uint64_t count) {
  if (count > kMaxIovecs) return Errno(EINVAL);
  auto iovecs = TRY(CopyInArray(p, count));
  uint64_t total = 0;
  for (iovec& v : iovecs) {
    if (static_cast<int64_t>(v.iov_len) < 0) return Errno(EINVAL);
    if (v.iov_len != 0 && reinterpret_cast<uint64_t>(v.iov_base) >= platform::kGuestTop) return Errno(EFAULT);
    v.iov_len = std::min<uint64_t>(v.iov_len, kMaxRwCount - total);
    total += v.iov_len;
  }
  return iovecs;
}

namespace {

std::vector<iovec> OneRange(uint64_t address, size_t size) { return {{reinterpret_cast<void*>(address), std::min<size_t>(size, kMaxRwCount)}}; }

size_t Total(const std::vector<iovec>& ranges) {
  size_t total = 0;
  for (const iovec& v : ranges) total += v.iov_len;
  return total;
}

// Moves `size` bytes between the front of `ranges` (from `index` on) and a buffer by `copy(address, offset, length)`,
// which returns how many bytes it moved; cuts what was moved off the ranges.
template <typename Copy>
ErrnoOr<size_t> MoveRanges(std::vector<iovec>& ranges, size_t& index, size_t& left, size_t size, Copy copy) {
  size = std::min(size, left);
  size_t moved = 0;
  while (moved < size) {
    iovec& v = ranges[index];
    if (v.iov_len == 0) {
      ++index;
      continue;
    }
    size_t length = std::min(v.iov_len, size - moved);
    ErrnoOr<size_t> n = copy(reinterpret_cast<uint64_t>(v.iov_base), moved, length);
    if (!n.ok()) break;
    v.iov_base = static_cast<char*>(v.iov_base) + *n;
    v.iov_len -= *n;
    left -= *n;
    moved += *n;
    if (*n != length) break;
  }
  if (moved == 0 && size != 0) return Errno(EFAULT);
  return moved;
}

}  // namespace

UserSink::UserSink(Task& task, UserPtr<void> p, size_t size) : UserSink(task, OneRange(p.address(), size)) {}
UserSink::UserSink(Task& task, std::vector<iovec> ranges) : task_(task), ranges_(std::move(ranges)), left_(Total(ranges_)) {}

ErrnoOr<size_t> UserSink::Put(const void* data, size_t size) {
  return MoveRanges(ranges_, index_, left_, size, [&](uint64_t address, size_t offset, size_t length) {
    return WriteUser(task_, address, static_cast<const char*>(data) + offset, length);
  });
}

UserSource::UserSource(Task& task, UserPtr<const void> p, size_t size) : UserSource(task, OneRange(p.address(), size)) {}
UserSource::UserSource(Task& task, std::vector<iovec> ranges) : task_(task), ranges_(std::move(ranges)), left_(Total(ranges_)) {}

void UserSource::PutBack(const void* data, size_t size) { back_.insert(0, static_cast<const char*>(data), size); }

ErrnoOr<size_t> UserSource::Take(void* data, size_t size) {
  if (size_t again = std::min(size, back_.size()); again > 0) {
    memcpy(data, back_.data(), again);
    back_.erase(0, again);
    return again;
  }
  return MoveRanges(ranges_, index_, left_, size, [&](uint64_t address, size_t offset, size_t length) {
    return ReadUser(task_, address, static_cast<char*>(data) + offset, length);
  });
}

ErrnoOr<void> UserSource::Skip(size_t size) {
  size_t again = std::min(size, back_.size());
  back_.erase(0, again);
  size -= again;
  if (size == 0) return Ok();
  auto r = MoveRanges(ranges_, index_, left_, size, [](uint64_t, size_t, size_t length) { return ErrnoOr<size_t>(length); });
  return r.ok() ? Ok() : r.error();
}

void Task::UnshareFiles() { files_ = files_->Clone(); }
void Task::set_fs(RefPtr<FsContext> fs) { fs_ = std::move(fs); }
void Task::set_uts(RefPtr<UtsNamespace> uts) { uts_ = std::move(uts); }
void Task::set_mounts(RefPtr<MountNamespace> mounts) { mounts_ = std::move(mounts); }

}  // namespace amber
