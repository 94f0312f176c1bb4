// splice, tee, vmsplice: moving bytes into and out of pipes without the guest's memory (splice(2), fs/splice.c).
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "sentry/fs/pipe/pipe.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/splice.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/notify.h"

namespace amber {
namespace {

constexpr uint32_t kFlags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;
constexpr size_t kChunk = 65536;
constexpr size_t kLongest = (1 << 20) + kChunk;

Pipe* PipeOf(File& file) {
  auto* end = dynamic_cast<PipeEnd*>(&file);
  return end != nullptr ? &end->pipe() : nullptr;
}

// One end of a call: a file, and where in it if it has positions.
struct End {
  RefPtr<File> file;
  std::optional<uint64_t> offset;
  UserPtr<uint64_t> offset_at;  // is told how far it came
  Pipe* pipe = nullptr;

  ErrnoOr<size_t> Read(Task& task, Sink& sink) { return offset ? file->PRead(task, sink, *offset) : file->Read(task, sink); }
  ErrnoOr<size_t> Write(Task& task, Source& source) { return offset ? file->PWrite(task, source, *offset) : file->Write(task, source); }
  ErrnoOr<void> Advance(Task& task, size_t bytes) { return offset_at ? task.CopyOut(offset_at, *offset + bytes) : ErrnoOr<void>(); }
};

ErrnoOr<End> EndOf(RefPtr<File> file, std::optional<uint64_t> offset, bool write) {
  End end{std::move(file), offset, {}, nullptr};
  if (write ? !end.file->writable() : !end.file->readable()) return Errno(EBADF);
  end.pipe = PipeOf(*end.file);
  if (offset && end.pipe != nullptr) return Errno(ESPIPE);
  return end;
}

ErrnoOr<End> GetEnd(Task& task, int fd, UserPtr<uint64_t> offset_at, bool write) {
  End end = TRY(EndOf(TRY(task.files().Get(fd)), {}, write));
  if (!offset_at.is_null()) {
    if (end.pipe != nullptr) return Errno(ESPIPE);
    end.offset = TRY(task.CopyIn(offset_at));
    end.offset_at = offset_at;
  }
  return end;
}

// EAGAIN, or waits for `events` of the file.
Errno WaitFor(Task& task, File& file, uint32_t events, uint32_t flags, bool nonblocking) {
  if (nonblocking || (flags & SPLICE_F_NONBLOCK) != 0) return Errno(EAGAIN);
  return task.BlockOn(file, events);
}

Errno Broken(Task& task) {
  task.SendSignal(SigInfo::Kernel(SIGPIPE));
  return Errno(EPIPE);
}

// From a pipe: bytes are taken out of it only once the other side has them. `consume` is false for tee.
ErrnoOr<uint64_t> FromPipe(Task& task, End& in, End& out, size_t size, uint32_t flags, bool consume) {
  if (in.pipe->size() == 0) {
    if (!in.pipe->has_writers()) return uint64_t{0};
    return WaitFor(task, *in.file, POLLIN, flags, in.file->nonblocking());
  }
  if (out.pipe != nullptr) {
    if (!out.pipe->has_readers()) return Broken(task);
    size = std::min(size, out.pipe->room());
    if (size == 0) return WaitFor(task, *out.file, POLLOUT, flags, out.file->nonblocking());
  }
  size = std::min<size_t>(size, in.pipe->size());
  auto buffer = std::make_unique_for_overwrite<uint8_t[]>(size);
  size = in.pipe->Peek(buffer.get(), size);
  BufferSource source(buffer.get(), size);
  auto written = out.Write(task, source);
  if (written.Is(ESPIPE)) return Errno(EINVAL);  // An offset, and a file without positions: no FMODE_PWRITE.
  if (written.Is(EAGAIN)) return WaitFor(task, *out.file, POLLOUT, flags, out.file->nonblocking());
  size_t done = std::min(size, size_t{TRY(std::move(written))});
  if (consume) {
    BufferSink taken(buffer.get(), done);
    (void)in.pipe->Read(taken);
  }
  TRY(out.Advance(task, done));
  return uint64_t{done};
}

ErrnoOr<uint64_t> IntoPipe(Task& task, End& in, End& out, size_t size, uint32_t flags) {
  if (!out.pipe->has_readers()) return Broken(task);
  size = std::min(size, out.pipe->room());
  if (size == 0) return WaitFor(task, *out.file, POLLOUT, flags, out.file->nonblocking());
  auto buffer = std::make_unique_for_overwrite<uint8_t[]>(size);
  BufferSink sink(buffer.get(), size);
  auto got = in.Read(task, sink);
  // Directories have no splice_read, which is EINVAL and not what read(2) says.
  if (got.Is(ESPIPE) || got.Is(EISDIR)) return Errno(EINVAL);
  if (got.Is(EAGAIN)) return WaitFor(task, *in.file, POLLIN, 0, in.file->nonblocking());
  size = TRY(std::move(got));
  if (size == 0) return uint64_t{0};
  BufferSource source(buffer.get(), size);
  size_t done = TRY(out.pipe->Write(source, false));
  TRY(in.Advance(task, done));
  return uint64_t{done};
}

ErrnoOr<uint64_t> Between(Task& task, End& in, End& out, uint64_t size, uint32_t flags) {
  // Requests and answers of /dev/fuse, which go whole or not at all, may be as long as a pipe.
  size_t chunk = std::min<uint64_t>(size, in.pipe == nullptr || out.pipe == nullptr ? kLongest : kChunk);
  if (in.pipe == nullptr && out.pipe == nullptr) return Errno(EINVAL);
  if (in.pipe == out.pipe) return Errno(EINVAL);
  if (in.pipe == nullptr) {
    TRY(AskToRead(*in.file));
    return IntoPipe(task, in, out, chunk, flags);
  }
  if ((out.file->flags() & O_APPEND) != 0) return Errno(EINVAL);
  return FromPipe(task, in, out, chunk, flags, true);
}

ErrnoOr<uint64_t> TeeBetween(Task& task, End& in, End& out, uint64_t size, uint32_t flags) {
  if (in.pipe == nullptr || out.pipe == nullptr || in.pipe == out.pipe) return Errno(EINVAL);
  return FromPipe(task, in, out, std::min<uint64_t>(size, kChunk), flags, false);
}

ErrnoOr<uint64_t> Splice(Task& task, int in_fd, UserPtr<uint64_t> in_offset, int out_fd, UserPtr<uint64_t> out_offset, uint64_t size,
                         uint32_t flags) {
  if ((flags & ~kFlags) != 0) return Errno(EINVAL);
  if (size == 0) return uint64_t{0};
  End in = TRY(GetEnd(task, in_fd, in_offset, false));
  End out = TRY(GetEnd(task, out_fd, out_offset, true));
  return Between(task, in, out, size, flags);
}

ErrnoOr<uint64_t> Tee(Task& task, int in_fd, int out_fd, uint64_t size, uint32_t flags) {
  if ((flags & ~kFlags) != 0) return Errno(EINVAL);
  if (size == 0) return uint64_t{0};
  End in = TRY(GetEnd(task, in_fd, {}, false));
  End out = TRY(GetEnd(task, out_fd, {}, true));
  return TeeBetween(task, in, out, size, flags);
}

ErrnoOr<uint64_t> VmSplice(Task& task, int fd, UserPtr<const iovec> ranges, uint64_t count, uint32_t flags) {
  if ((flags & ~kFlags) != 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(fd));
  std::vector<iovec> iovecs = TRY(task.CopyInIovecs(ranges, count));
  if (std::ranges::all_of(iovecs, [](const iovec& range) { return range.iov_len == 0; })) return uint64_t{0};
  Pipe* pipe = PipeOf(*file);
  if (pipe == nullptr) return Errno(EBADF);
  if (file->writable()) {
    if (!pipe->has_readers()) return Broken(task);
    UserSource source(task, std::move(iovecs));
    // vmsplice_to_pipe() waits for room once, and takes what there is room for then.
    auto done = pipe->Write(source, false);
    if (done.Is(EAGAIN)) return WaitFor(task, *file, POLLOUT, flags, false);
    return uint64_t{TRY(std::move(done))};
  }
  UserSink sink(task, std::move(iovecs));
  auto done = pipe->Read(sink);
  if (done.Is(EAGAIN)) return WaitFor(task, *file, POLLIN, flags, false);
  return uint64_t{TRY(std::move(done))};
}

}  // namespace

ErrnoOr<uint64_t> SpliceFiles(Task& task, RefPtr<File> in, std::optional<uint64_t> in_offset, RefPtr<File> out, std::optional<uint64_t> out_offset,
                              uint64_t size, uint32_t flags) {
  if (size == 0) return uint64_t{0};
  End from = TRY(EndOf(std::move(in), in_offset, false));
  End to = TRY(EndOf(std::move(out), out_offset, true));
  return Between(task, from, to, size, flags);
}

ErrnoOr<uint64_t> TeeFiles(Task& task, RefPtr<File> in, RefPtr<File> out, uint64_t size, uint32_t flags) {
  if (size == 0) return uint64_t{0};
  End from = TRY(EndOf(std::move(in), {}, false));
  End to = TRY(EndOf(std::move(out), {}, true));
  return TeeBetween(task, from, to, size, flags);
}

void RegisterSpliceCalls(SyscallTable& table) {
  table.Set(SYS_splice, Full<&Splice>());
  table.Set(SYS_tee, Full<&Tee>());
  table.Set(SYS_vmsplice, Full<&VmSplice>());
}

}  // namespace amber
