// Reading and writing: read(2), write(2), pread(2), readv(2), preadv2(2), lseek(2).
#include <poll.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/fs/userfaultfd/userfaultfd.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/direct_read.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/notify.h"

namespace amber {

ErrnoOr<RefPtr<File>> ReadableFile(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  // Access mode 3 is for ioctl alone (open(2)).
  if (!file->readable() || (file->flags() & O_ACCMODE) == O_ACCMODE) return Errno(EBADF);
  return file;
}

ErrnoOr<RefPtr<File>> WritableFile(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (!file->writable() || (file->flags() & O_ACCMODE) == O_ACCMODE) return Errno(EBADF);
  return file;
}

Errno BlockForIo(Task& task, File& file, uint32_t events) {
  if (task.syscall().timed_out) return Errno(EAGAIN);
  auto* socket = dynamic_cast<Socket*>(&file);
  if (socket == nullptr) return task.BlockOn(file, events);
  int64_t timeout = (events & POLLIN) != 0 ? socket->receive_timeout() : socket->send_timeout();
  if (timeout == kNever) return task.BlockOn(file, events);
  return task.BlockOn(file, events, DeadlineAfter(task, timeout), Errno(EINTR));
}

namespace {

constexpr int64_t kLongestRound = 20'000'000;  // ns

// What `r`, the result of a later round, means for the call: what was moved before counts more than an error.
template <typename T>
bool EndsCall(const ErrnoOr<T>& r, uint64_t done) {
  return done > 0 && !r.ok() && r.error() != kBlocked && r.error() != kNoAnswer;
}

// The ranges without what earlier rounds have moved.
std::vector<iovec> Behind(std::vector<iovec> ranges, uint64_t done) {
  for (iovec& v : ranges) {
    uint64_t n = std::min<uint64_t>(v.iov_len, done);
    v.iov_base = static_cast<char*>(v.iov_base) + n;
    v.iov_len -= n;
    done -= n;
  }
  return ranges;
}

// A round of a read by `read(sink)`.
template <typename F>
ErrnoOr<uint64_t> ReadRound(Task& task, File& file, Sink& sink, F read) {
  BeginRound(task);
  uint64_t done = task.syscall().done, most = PieceOf(file);
  if (done == 0) TRY(AskToRead(file));
  bool divided = sink.remaining() > most;
  PieceSink piece(sink, most);
  ErrnoOr<size_t> r = read(divided ? static_cast<Sink&>(piece) : sink);
  if (EndsCall(r, done)) return done;
  if (!r.ok()) return r.error();
  if (*r > 0) NotifyFile(file, IN_ACCESS);
  done += *r;
  if (!divided || *r < most) return done;
  task.syscall().done = done;
  return GoOnWith(task, file);
}

// Where a file may not be written on (RLIMIT_FSIZE). A call that got there ends there; who begins there is told by a signal.
bool AtLimit(const Task& task, uint64_t position) { return position >= task.limit(RLIMIT_FSIZE); }

}  // namespace

ErrnoOr<uint64_t> ReadFile(Task& task, File& file, Sink& sink, bool nowait) {
  // sock_read_iter(): no receiving without room.
  if (sink.remaining() == 0 && dynamic_cast<Socket*>(&file) != nullptr) {
    TRY(AskToRead(file));
    return uint64_t{0};
  }
  auto r = ReadRound(task, file, sink, [&](Sink& part) { return file.Read(task, part); });
  if (r.Is(EAGAIN) && !file.nonblocking() && !nowait) return BlockForIo(task, file, POLLIN | POLLRDNORM);
  return r;
}

ErrnoOr<uint64_t> WriteFile(Task& task, File& file, Source& source, bool nowait) {
  BeginRound(task);
  uint64_t done = task.syscall().done, most = PieceOf(file);
  if (done > 0) TRY(source.Skip(done));
  // A terminal takes without end what it forgets at once.
  int64_t end = task.kernel().clocks().Monotonic() + kLongestRound;
  while (true) {
    bool divided = source.remaining() > most;
    PieceSource piece(source, most);
    auto r = file.Write(task, divided ? static_cast<Source&>(piece) : source);
    if (r.ok()) {
      done += *r;
      if (*r > 0) NotifyFile(file, IN_MODIFY);
      bool more = file.writes_whole() && *r > 0 && source.remaining() > 0 && task.kernel().clocks().Monotonic() > end;
      if (more || (divided && *r == most && !AtLimit(task, file.position()))) {
        task.syscall().done = done;
        return GoOnWith(task, file);
      }
      if (source.remaining() == 0 || *r == 0 || !file.writes_whole()) return done;
      continue;
    }
    if (!r.Is(EAGAIN)) return EndsCall(r, done) ? ErrnoOr<uint64_t>(done) : r.error();
    if (file.nonblocking() || nowait || task.syscall().timed_out) return done > 0 ? ErrnoOr<uint64_t>(done) : r.error();
    task.syscall().done = done;
    return BlockForIo(task, file, POLLOUT | POLLWRNORM);
  }
}

namespace {

// access_ok(): a range that leaves the address space is refused as a whole, whatever part of it is there.
ErrnoOr<void> CheckRange(uint64_t address, uint64_t size) {
  constexpr uint64_t kTop = 0x7ffffffff000;  // TASK_SIZE_MAX
  return size <= kTop && address <= kTop - size ? Ok() : Errno(EFAULT);
}

// rw_verify_area(): positions have a sign, but in the memory of processes.
ErrnoOr<void> CheckEnd(const File& file, uint64_t offset, uint64_t size) {
  int64_t end;
  if (file.kind() == state::Kind::kProcMemFile) return Ok();
  return __builtin_add_overflow(static_cast<int64_t>(offset), static_cast<int64_t>(size), &end) ? Errno(EINVAL) : ErrnoOr<void>();
}

ErrnoOr<uint64_t> Read(Task& task, int fd, UserPtr<void> p, uint64_t size) {
  RefPtr<File> file = TRY(ReadableFile(task, fd));
  TRY(CheckRange(p.address(), size));
  uint64_t done = task.syscall().done;
  if (done == 0) {
    if (auto r = ReadDirectly(task, file, p.address(), size, std::nullopt)) return *r;
  }
  UserSink sink(task, UserPtr<void>(p.address() + done), std::min(size, kMaxRwCount) - done);
  return ReadFile(task, *file, sink);
}

ErrnoOr<uint64_t> Write(Task& task, int fd, UserPtr<const void> p, uint64_t size) {
  RefPtr<File> file = TRY(WritableFile(task, fd));
  TRY(CheckRange(p.address(), size));
  UserSource source(task, p, std::min(size, kMaxRwCount));
  return WriteFile(task, *file, source);
}

ErrnoOr<uint64_t> ReadFileAt(Task& task, File& file, Sink& sink, uint64_t offset) {
  offset += task.syscall().done;
  return ReadRound(task, file, sink, [&](Sink& part) { return file.PRead(task, part, offset); });
}

ErrnoOr<uint64_t> WriteFileAt(Task& task, File& file, Source& source, uint64_t offset) {
  BeginRound(task);
  uint64_t done = task.syscall().done, most = PieceOf(file);
  if (done > 0) TRY(source.Skip(done));
  bool divided = source.remaining() > most;
  PieceSource piece(source, most);
  auto r = file.PWrite(task, divided ? static_cast<Source&>(piece) : source, offset + done);
  if (EndsCall(r, done)) return done;
  if (!r.ok()) return r.error();
  if (*r > 0) NotifyFile(file, IN_MODIFY);
  done += *r;
  if (!divided || *r < most || AtLimit(task, offset + done)) return done;
  task.syscall().done = done;
  return GoOnWith(task, file);
}

// FMODE_PREAD and FMODE_PWRITE are asked for before anything else (ksys_pread64(), do_preadv()). Files that are neither read nor sought in have them.
ErrnoOr<void> CheckHasPositions(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->kind() == state::Kind::kPidFd || file->kind() == state::Kind::kNamespaceFile) return Errno(EINVAL);
  auto r = file->Seek(task, 0, SEEK_CUR);
  return r.Is(ESPIPE) ? Errno(ESPIPE) : ErrnoOr<void>();
}

ErrnoOr<uint64_t> PRead64(Task& task, int fd, UserPtr<void> p, uint64_t size, int64_t offset) {
  if (offset < 0) return Errno(EINVAL);
  TRY(CheckHasPositions(task, fd));
  RefPtr<File> file = TRY(ReadableFile(task, fd));
  TRY(CheckRange(p.address(), size));
  TRY(CheckEnd(*file, static_cast<uint64_t>(offset), size));
  uint64_t done = task.syscall().done;
  if (done == 0) {
    if (auto r = ReadDirectly(task, file, p.address(), size, static_cast<uint64_t>(offset))) return *r;
  }
  UserSink sink(task, UserPtr<void>(p.address() + done), std::min(size, kMaxRwCount) - done);
  return ReadFileAt(task, *file, sink, static_cast<uint64_t>(offset));
}

ErrnoOr<uint64_t> PWrite64(Task& task, int fd, UserPtr<const void> p, uint64_t size, int64_t offset) {
  if (offset < 0) return Errno(EINVAL);
  TRY(CheckHasPositions(task, fd));
  RefPtr<File> file = TRY(WritableFile(task, fd));
  TRY(CheckRange(p.address(), size));
  TRY(CheckEnd(*file, static_cast<uint64_t>(offset), size));
  UserSource source(task, p, std::min(size, kMaxRwCount));
  return WriteFileAt(task, *file, source, static_cast<uint64_t>(offset));
}

ErrnoOr<uint64_t> ReadV(Task& task, int fd, UserPtr<const iovec> p, uint64_t count) {
  RefPtr<File> file = TRY(ReadableFile(task, fd));
  UserSink sink(task, Behind(TRY(task.CopyInIovecs(p, count)), task.syscall().done));
  return ReadFile(task, *file, sink);
}

ErrnoOr<uint64_t> WriteV(Task& task, int fd, UserPtr<const iovec> p, uint64_t count) {
  RefPtr<File> file = TRY(WritableFile(task, fd));
  UserSource source(task, TRY(task.CopyInIovecs(p, count)));
  return WriteFile(task, *file, source);
}

// RWF_DSYNC and RWF_SYNC.
ErrnoOr<void> SyncAfter(Task& task, File& file, int flags) {
  if ((flags & (RWF_DSYNC | RWF_SYNC)) == 0) return Ok();
  return file.Fsync(task, (flags & RWF_SYNC) == 0);
}

constexpr int kNoAppend = 0x20;  // RWF_NOAPPEND
// kiocb_set_rw_flags() makes no difference between reading and writing.
constexpr int kRwFlags = RWF_HIPRI | RWF_NOWAIT | RWF_DSYNC | RWF_SYNC | RWF_APPEND | kNoAppend;
ErrnoOr<void> CheckRwFlags(int flags) {
  if ((flags & ~kRwFlags) != 0) return Errno(EOPNOTSUPP);
  return (flags & RWF_APPEND) != 0 && (flags & kNoAppend) != 0 ? Errno(EINVAL) : ErrnoOr<void>(Ok());
}

// The offset comes in two registers, of which x86-64 only uses the first.
ErrnoOr<uint64_t> PReadV2(Task& task, int fd, UserPtr<const iovec> p, uint64_t count, int64_t offset, uint64_t, int flags) {
  if (offset < -1) return Errno(EINVAL);
  if (offset >= 0) TRY(CheckHasPositions(task, fd));
  RefPtr<File> file = TRY(ReadableFile(task, fd));
  TRY(CheckRwFlags(flags));
  UserSink sink(task, Behind(TRY(task.CopyInIovecs(p, count)), task.syscall().done));
  if (offset >= 0) TRY(CheckEnd(*file, static_cast<uint64_t>(offset), sink.remaining()));
  if (offset == -1) return ReadFile(task, *file, sink, (flags & RWF_NOWAIT) != 0);
  return ReadFileAt(task, *file, sink, static_cast<uint64_t>(offset));
}

ErrnoOr<uint64_t> PWriteV2(Task& task, int fd, UserPtr<const iovec> p, uint64_t count, int64_t offset, uint64_t, int flags) {
  if (offset < -1) return Errno(EINVAL);
  if (offset >= 0) TRY(CheckHasPositions(task, fd));
  RefPtr<File> file = TRY(WritableFile(task, fd));
  TRY(CheckRwFlags(flags));
  UserSource source(task, TRY(task.CopyInIovecs(p, count)));
  if (offset >= 0) TRY(CheckEnd(*file, static_cast<uint64_t>(offset), source.remaining()));
  int old_flags = file->flags();
  if ((flags & RWF_APPEND) != 0) file->set_flags(old_flags | O_APPEND);
  if ((flags & kNoAppend) != 0) file->set_flags(old_flags & ~O_APPEND);
  auto r = offset == -1 ? WriteFile(task, *file, source, (flags & RWF_NOWAIT) != 0) : WriteFileAt(task, *file, source, static_cast<uint64_t>(offset));
  file->set_flags(old_flags);
  if (r.ok()) TRY(SyncAfter(task, *file, flags));
  return r;
}

ErrnoOr<uint64_t> PReadV(Task& task, int fd, UserPtr<const iovec> p, uint64_t count, int64_t offset) {
  if (offset < 0) return Errno(EINVAL);
  return PReadV2(task, fd, p, count, offset, 0, 0);
}

ErrnoOr<uint64_t> PWriteV(Task& task, int fd, UserPtr<const iovec> p, uint64_t count, int64_t offset) {
  if (offset < 0) return Errno(EINVAL);
  return PWriteV2(task, fd, p, count, offset, 0, 0);
}

// Files whose position is always 0, and can be asked for and set all the same (noop_llseek). They have none for pread(2).
bool SeeksToNowhere(const File& file) {
  using enum state::Kind;
  switch (file.kind()) {
    case kEventFd:
    case kSignalFd:
    case kTimerFd:
    case kEpoll:
    case kInotify:
    case kFanotify:
    case kUserfaultFdKind: return true;
    default: return false;
  }
}

ErrnoOr<uint64_t> LSeek(Task& task, int fd, int64_t offset, int whence) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (whence < 0 || whence > SEEK_HOLE) return Errno(EINVAL);
  if (SeeksToNowhere(*file)) return uint64_t{0};
  return file->Seek(task, offset, whence);
}

}  // namespace

void RegisterReadWriteCalls(SyscallTable& table) {
  table.Set(SYS_read, Full<&Read>());
  table.Set(SYS_write, Full<&Write>());
  table.Set(SYS_pread64, Full<&PRead64>());
  table.Set(SYS_pwrite64, Full<&PWrite64>());
  table.Set(SYS_readv, Full<&ReadV>());
  table.Set(SYS_writev, Full<&WriteV>());
  table.Set(SYS_preadv, Full<&PReadV>());
  table.Set(SYS_pwritev, Full<&PWriteV>());
  table.Set(SYS_preadv2, Full<&PReadV2>());
  table.Set(SYS_pwritev2, Full<&PWriteV2>());
  table.Set(SYS_lseek, Full<&LSeek>());
}

}  // namespace amber
