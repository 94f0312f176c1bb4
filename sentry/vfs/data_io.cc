#include "sentry/vfs/data_io.h"

#include <unistd.h>

#include <algorithm>

#include "sentry/base/copy_buffer.h"

namespace amber {

uint8_t* BounceBuffer::Get() {
  static thread_local CopyBuffer buffer = NewCopyBuffer(kSize);
  return buffer.get();
}

uint8_t* BounceBuffer::GetOuter() {
  static thread_local CopyBuffer buffer = NewCopyBuffer(kSize);
  return buffer.get();
}

ErrnoOr<size_t> ReadData(Inode& data, Sink& sink, uint64_t offset, bool touch) {
  uint8_t* buffer = BounceBuffer::Get();
  size_t done = 0;
  Errno problem(0);
  while (sink.remaining() > 0 && offset + done <= INT64_MAX) {
    size_t want = std::min(sink.remaining(), BounceBuffer::kSize);
    auto got = data.ReadBytes(buffer, want, offset + done);
    if (!got.ok()) problem = got.error();
    if (!got.ok() || *got == 0) break;
    auto put = sink.Put(buffer, *got);
    if (!put.ok()) {
      problem = put.error();
      break;
    }
    done += *put;
    if (*put < *got || *got < want) break;
  }
  if (done > 0 && touch) data.DidRead();
  if (done == 0 && problem.number() != 0) return problem;
  return done;
}

ErrnoOr<size_t> WriteData(Inode& data, Source& source, uint64_t offset, uint64_t limit) {
  if (source.remaining() == 0 || limit == 0) return size_t{0};
  int fd = TRY(data.HostFd(true));
  uint64_t allowed = TRY(data.PrepareWrite(offset, std::min<uint64_t>(source.remaining(), limit)));
  uint8_t* buffer = BounceBuffer::Get();
  size_t done = 0;
  Errno problem(0);
  while (source.remaining() > 0 && done < allowed && problem.number() == 0) {
    size_t want = std::min<uint64_t>({source.remaining(), BounceBuffer::kSize, allowed - done});
    auto got = source.Take(buffer, want);
    if (!got.ok()) {
      problem = got.error();
      break;
    }
    size_t written = 0;
    while (written < *got) {
      ssize_t n = pwrite(fd, buffer + written, *got - written, static_cast<off_t>(offset + done));
      if (n <= 0) {
        problem = Errno(n < 0 ? errno : EIO);
        break;
      }
      written += static_cast<size_t>(n);
      done += static_cast<size_t>(n);
    }
    if (*got < want) break;
  }
  if (done > 0) data.DidWrite(offset + done);
  if (done == 0 && problem.number() != 0) return problem;
  return done;
}

ErrnoOr<void> WriteAll(int fd, const void* bytes, size_t size, uint64_t offset) {
  for (size_t done = 0; done < size;) {
    ssize_t n = pwrite(fd, static_cast<const char*>(bytes) + done, size - done, static_cast<off_t>(offset + done));
    if (n <= 0) return Errno(n < 0 ? errno : EIO);
    done += static_cast<size_t>(n);
  }
  return Ok();
}

ErrnoOr<void> CopyContents(Inode& from, int to, uint64_t size) {
  uint8_t* buffer = BounceBuffer::Get();
  uint64_t at = 0;
  while (at < size) {
    auto next = from.SeekContents(at, SEEK_DATA);
    if (next.Is(ENXIO)) break;  // only a hole is left
    if (next.ok()) at = *next;
    if (at >= size) break;
    size_t n = TRY(from.ReadBytes(buffer, std::min<uint64_t>(size - at, BounceBuffer::kSize), at));
    if (n == 0) break;
    TRY(WriteAll(to, buffer, n, at));
    at += n;
  }
  return Ok();
}

}  // namespace amber
