// process_vm_readv and process_vm_writev.
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/memory_map.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/vfs/data_io.h"

namespace amber {

namespace {

// A thread of the process or thread `pid` that still has memory.
ErrnoOr<RefPtr<MemoryManager>> FindMemory(Task& task, int pid) {
  Task* target = task.FindTask(pid);
  if (target == nullptr) return Errno(ESRCH);
  if (target->thread() == nullptr) {
    // The leader may be gone while others run.
    for (const RefPtr<Task>& other : target->group().tasks()) {
      if (other->thread() != nullptr) target = other.get();
    }
  }
  if (target->thread() == nullptr) return Errno(ESRCH);
  if (!Tracing::MayAccess(task, *target)) return Errno(EPERM);
  return RefPtr<MemoryManager>(&target->mm());
}

// A position in a list of ranges.
class Cursor {
 public:
  explicit Cursor(std::vector<iovec> ranges) : ranges_(std::move(ranges)) { Skip(); }
  bool done() const { return index_ == ranges_.size(); }
  uint64_t address() const { return reinterpret_cast<uint64_t>(ranges_[index_].iov_base); }
  size_t left() const { return ranges_[index_].iov_len; }
  // Beyond the end if it must be.
  void SkipBytes(uint64_t n) {
    while (n > 0 && !done()) {
      size_t part = std::min<uint64_t>(n, left());
      Advance(part);
      n -= part;
    }
  }
  void Advance(size_t n) {
    ranges_[index_].iov_base = static_cast<char*>(ranges_[index_].iov_base) + n;
    ranges_[index_].iov_len -= n;
    Skip();
  }

 private:
  void Skip() {
    while (index_ < ranges_.size() && ranges_[index_].iov_len == 0) ++index_;
  }
  std::vector<iovec> ranges_;
  size_t index_ = 0;
};

// Copies until one side ends or fails, a piece at most; what was copied counts, EFAULT only if that is nothing.
ErrnoOr<uint64_t> CopyAcross(platform::AddressSpace& from, Cursor source, platform::AddressSpace& to, Cursor sink) {
  uint8_t* buffer = BounceBuffer::Get();
  uint64_t total = 0;
  while (!source.done() && !sink.done() && total < kPiece) {
    size_t want = std::min<uint64_t>({source.left(), sink.left(), BounceBuffer::kSize, kPiece - total});
    auto got = from.Read(source.address(), buffer, want);
    size_t have = got.ok() ? *got : 0;
    size_t put = 0;
    if (have > 0) {
      auto written = to.Write(sink.address(), buffer, have);
      put = written.ok() ? *written : 0;
    }
    total += put;
    if (put < want) break;
    source.Advance(put);
    sink.Advance(put);
  }
  if (total == 0 && !source.done() && !sink.done()) return Errno(EFAULT);
  return total;
}

ErrnoOr<uint64_t> ProcessVm(Task& task, int pid, UserPtr<const iovec> local, uint64_t local_count, UserPtr<const iovec> remote, uint64_t remote_count,
                            uint64_t flags, bool write) {
  if (flags != 0) return Errno(EINVAL);
  Cursor mine(TRY(task.CopyInIovecs(local, local_count)));
  Cursor theirs(TRY(task.CopyInIovecs(remote, remote_count)));
  BeginRound(task);
  uint64_t& done = task.syscall().done;
  mine.SkipBytes(done);
  theirs.SkipBytes(done);
  if (mine.done() || theirs.done()) return done;
  auto memory = FindMemory(task, pid);
  if (!memory.ok()) return done > 0 ? ErrnoOr<uint64_t>(done) : memory.error();
  auto n = write ? CopyAcross(task.mm().space(), std::move(mine), (*memory)->space(), std::move(theirs))
                 : CopyAcross((*memory)->space(), std::move(theirs), task.mm().space(), std::move(mine));
  if (!n.ok()) return done > 0 ? ErrnoOr<uint64_t>(done) : n.error();
  done += *n;
  return *n < kPiece ? ErrnoOr<uint64_t>(done) : GoOn(task);
}

}  // namespace

ErrnoOr<uint64_t> ProcessVmReadv(Task& task, int pid, UserPtr<const iovec> local, uint64_t local_count, UserPtr<const iovec> remote,
                                 uint64_t remote_count, uint64_t flags) {
  return ProcessVm(task, pid, local, local_count, remote, remote_count, flags, false);
}

ErrnoOr<uint64_t> ProcessVmWritev(Task& task, int pid, UserPtr<const iovec> local, uint64_t local_count, UserPtr<const iovec> remote,
                                  uint64_t remote_count, uint64_t flags) {
  return ProcessVm(task, pid, local, local_count, remote, remote_count, flags, true);
}

}  // namespace amber
