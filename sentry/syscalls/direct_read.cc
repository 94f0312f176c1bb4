#include "sentry/syscalls/direct_read.h"

#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/userfault.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/vfs/notify.h"

namespace amber {
namespace {

// One operation: a thread that makes it can neither be stopped nor frozen.
constexpr uint64_t kMostAtOnce = 32 << 20;

struct DirectRead {
  RefPtr<File> file;
  uint64_t address, left, offset;
  std::optional<uint64_t> expected_end;  // where the file's position was put; none: it stays
  uint64_t done = 0;
};

// The position went ahead by all that there seemed to be when the call came, so that another reader of the same open file gets what follows. If it was
// more or less after all that is put right, unless somebody moved it since.
void SettlePosition(Task& task, const DirectRead& read) {
  if (!read.expected_end || read.offset == *read.expected_end || read.file->position() != *read.expected_end) return;
  (void)read.file->Seek(task, static_cast<int64_t>(read.offset), SEEK_SET);
}

void Finish(Task& task, const DirectRead& read, int64_t error) {
  SettlePosition(task, read);
  if (read.done > 0) {
    read.file->DidReadDirectly();
    NotifyFile(*read.file, IN_ACCESS);
  }
  task.FinishSyscall(read.done > 0 ? static_cast<int64_t>(read.done) : error);
}

// Some processors (AMD's Zen 3, for one) move strings five times as slowly if the destination is a few bytes behind the source, modulo the page size. That is
// what reading into a block of malloc() comes to, 16 bytes into a page; the sentry's own buffers lie where it does not happen (base/copy_buffer.h).
bool CopiesSlowly(uint64_t address, uint64_t offset) {
  uint64_t behind = (address - offset) % 4096;
  return behind > 0 && behind < 32;
}

void Order(Task& task, DirectRead read, int fd) {
  uint64_t size = std::min(read.left, kMostAtOnce);
  platform::StubOp op = {.number = SYS_pread64, .args = {0, read.address, size, read.offset}, .fd = fd, .fd_arg = 0};
  Task* self = &task;  // StopForOps() keeps it alive
  task.StopForOps({op}, [self, read = std::move(read), size, fd](std::span<const int64_t> results) mutable {
    int64_t n = results.empty() ? -EFAULT : results.back();
    // It is the guest's word, though about nothing but its own memory and its own position. (-512 and below would mean something to FinishSyscall().)
    if (n > static_cast<int64_t>(size) || n <= -512) n = -EFAULT;
    if (n <= 0) return Finish(*self, read, n);
    uint64_t got = static_cast<uint64_t>(n);
    read.done += got;
    read.address += got;
    read.offset += got;
    read.left -= got;
    if (got < size || read.left == 0) return Finish(*self, read, 0);
    Order(*self, std::move(read), fd);
  });
}

}  // namespace

std::optional<ErrnoOr<uint64_t>> ReadDirectly(Task& task, RefPtr<File> file, uint64_t address, uint64_t size, std::optional<uint64_t> offset) {
  if (size < kLongRead || address >= platform::kGuestTop || size > platform::kGuestTop - address) return std::nullopt;
  // Helpers have no thread. A page that a userfaultfd of the guest's is to fill would be waited for inside the operation.
  if (task.thread() == nullptr || !Userfaults::Of(task.mm()).empty()) return std::nullopt;
  uint64_t at = offset ? *offset : file->position();
  if (CopiesSlowly(address, at)) return std::nullopt;
  File::DirectSource source = file->SourceOfDirectReads();
  if (source.fd < 0 || at >= source.size || source.size - at < kLongRead) return std::nullopt;
  if (auto asked = AskToRead(*file); !asked.ok()) return asked.error();
  size = std::min(size, kMaxRwCount);
  DirectRead read{.file = file, .address = address, .left = size, .offset = at, .expected_end = std::nullopt};
  if (!offset) {
    read.expected_end = at + std::min(size, source.size - at);
    auto moved = file->Seek(task, static_cast<int64_t>(*read.expected_end), SEEK_SET);
    if (!moved.ok()) return std::nullopt;
  }
  Order(task, std::move(read), source.fd);
  return ErrnoOr<uint64_t>(kNoAnswer);
}

}  // namespace amber
