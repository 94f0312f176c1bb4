// Copies between files inside the kernel: sendfile(2), copy_file_range(2).
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/data_io.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/notify.h"

namespace amber {
namespace {

// A call moves at most this much, so that others get their turn; a short count is what callers must expect.
constexpr uint64_t kMaxCopy = 16 << 20;
constexpr size_t kChunk = 64 * 1024;
static_assert(kChunk <= BounceBuffer::kSize);

// An optional offset argument, or the file's position.
class Offset {
 public:
  static ErrnoOr<Offset> Of(Task& task, File& file, UserPtr<int64_t> p) {
    Offset o;
    o.pointer_ = p;
    if (p.is_null()) {
      o.value = TRY(file.Seek(task, 0, SEEK_CUR));
    } else {
      o.value = static_cast<uint64_t>(TRY(task.CopyIn(p)));
    }
    return o;
  }
  ErrnoOr<void> Store(Task& task, File& file) const {
    if (!pointer_.is_null()) return task.CopyOut(pointer_, static_cast<int64_t>(value));
    TRY(file.Seek(task, static_cast<int64_t>(value), SEEK_SET));
    return Ok();
  }
  // Positions below zero; checked after what else may be wrong.
  bool negative() const { return static_cast<int64_t>(value) < 0; }
  uint64_t value = 0;

 private:
  UserPtr<int64_t> pointer_;
};

// Up to `want` bytes of `in` from `offset` on into `buffer`.
ErrnoOr<size_t> Fill(Task& task, File& in, uint64_t offset, uint8_t* buffer, uint64_t want) {
  BufferSink sink(buffer, std::min<uint64_t>(kChunk, want));
  return in.PRead(task, sink, offset);
}

ErrnoOr<uint64_t> SendFile(Task& task, int out_fd, int in_fd, UserPtr<int64_t> p, uint64_t count) {
  RefPtr<File> in = TRY(ReadableFile(task, in_fd));
  RefPtr<File> out = TRY(WritableFile(task, out_fd));
  if ((out->flags() & O_APPEND) != 0 && out->path() != nullptr) return Errno(EINVAL);
  auto where = Offset::Of(task, *in, p);
  // Pipes and the like cannot be sent from: they have no position (do_sendfile: ESPIPE is for an offset that is given).
  if (where.Is(ESPIPE)) return Errno(EINVAL);
  Offset offset = TRY(std::move(where));
  if (offset.negative()) return Errno(EINVAL);
  TRY(AskToRead(*in));
  // The offset was stored at each stop: a repeated call goes on from there.
  uint64_t done = task.syscall().done;
  count = std::min(count, kMaxRwCount);
  count -= std::min(count, done);
  count = std::min(count, kMaxCopy);
  uint8_t* buffer = BounceBuffer::GetOuter();
  Errno problem(0);
  while (count > 0) {
    auto got = Fill(task, *in, offset.value, buffer, count);
    // Directories have no splice_read.
    bool unfit = got.Is(EISDIR) || (got.Is(ESPIPE) && p.is_null());
    if (!got.ok()) problem = unfit ? Errno(EINVAL) : got.error();
    if (!got.ok() || *got == 0) break;
    BufferSource source(buffer, *got);
    auto put = out->Write(task, source);
    if (!put.ok()) problem = put.error();
    if (!put.ok() || *put == 0) break;
    offset.value += *put;
    done += *put;
    count -= *put;
  }
  if (done > 0) TRY(offset.Store(task, *in));
  if (problem == Errno(EAGAIN) && !out->nonblocking() && out->wait_queue() != nullptr) {
    task.syscall().done = done;
    return task.BlockOn(*out, POLLOUT | POLLWRNORM);
  }
  if (done == 0 && problem.number() != 0) return problem;
  return done;
}

ErrnoOr<void> CheckCopy(Task& task, File& in, File& out) {
  struct stat a, b;
  TRY(in.Stat(task, &a));
  TRY(out.Stat(task, &b));
  if (S_ISDIR(a.st_mode) || S_ISDIR(b.st_mode)) return Errno(EISDIR);
  if (!S_ISREG(a.st_mode) || !S_ISREG(b.st_mode)) return Errno(EINVAL);
  constexpr int kForIoctl = 3;  // access mode 3 is for ioctl alone
  auto for_ioctl = [](const File& f) { return (f.flags() & O_ACCMODE) == kForIoctl; };
  if (!in.readable() || !out.writable() || for_ioctl(in) || for_ioctl(out) || (out.flags() & O_APPEND) != 0) return Errno(EBADF);
  return Ok();
}

ErrnoOr<uint64_t> CopyFileRange(Task& task, int in_fd, UserPtr<int64_t> in_p, int out_fd, UserPtr<int64_t> out_p, uint64_t count, uint32_t flags) {
  RefPtr<File> in = TRY(task.files().Get(in_fd));
  RefPtr<File> out = TRY(task.files().Get(out_fd));
  if (flags != 0) return Errno(EINVAL);
  TRY(CheckCopy(task, *in, *out));
  Offset from = TRY(Offset::Of(task, *in, in_p));
  Offset to = TRY(Offset::Of(task, *out, out_p));
  // generic_copy_file_checks(), in its order and with its unsigned sums.
  if (from.value + count < from.value || to.value + count < to.value) return Errno(EOVERFLOW);
  if (from.negative() || to.negative()) return Errno(EINVAL);
  count = std::min(count, kMaxCopy);
  if (in->dentry() == out->dentry() && from.value < to.value + count && to.value < from.value + count) return Errno(EINVAL);
  TRY(AskToRead(*in));
  uint8_t* buffer = BounceBuffer::GetOuter();
  uint64_t done = 0;
  Errno problem(0);
  while (done < count && problem.number() == 0) {
    auto got = Fill(task, *in, from.value, buffer, count - done);
    if (!got.ok()) problem = got.error();
    if (!got.ok() || *got == 0) break;
    BufferSource source(buffer, *got);
    auto put = out->PWrite(task, source, to.value);
    if (!put.ok()) problem = put.error();
    if (!put.ok() || *put == 0) break;
    from.value += *put;
    to.value += *put;
    done += *put;
    if (*put < *got) break;  // A limit, which the next call is told of.
  }
  if (done == 0 && problem.number() != 0) return problem;
  TRY(from.Store(task, *in));
  TRY(to.Store(task, *out));
  return done;
}

}  // namespace

void RegisterCopyCalls(SyscallTable& table) {
  table.Set(SYS_sendfile, Full<&SendFile>());
  table.Set(SYS_copy_file_range, Full<&CopyFileRange>());
}

}  // namespace amber
