// io_uring_register(2).
#include <sys/resource.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kPbufStatus = 26;  // IORING_REGISTER_PBUF_STATUS
constexpr uint64_t kMaxBufferSize = uint64_t{1} << 30;

struct FilesUpdate {
  uint32_t offset, resv;
  uint64_t fds;
};

// A descriptor for a slot; -1 leaves it empty. A ring cannot be registered with itself or another.
ErrnoOr<RefPtr<File>> FileForSlot(Task& task, int fd) {
  if (fd == -1) return RefPtr<File>();
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (IoUring::From(*file) != nullptr) return Errno(EBADF);
  return file;
}

}  // namespace

RefPtr<File> IoUring::FixedFile(uint32_t index) const { return index < files_.size() ? files_[index] : RefPtr<File>(); }
const iovec* IoUring::FixedBuffer(uint32_t index) const {
  return index < buffers_.size() && buffers_[index].iov_base != nullptr ? &buffers_[index] : nullptr;
}

ErrnoOr<void> IoUring::CheckNewTable(Task& task, uint32_t count) const {
  if (files_registered_) return Errno(EBUSY);
  if (count == 0) return Errno(EINVAL);
  return count > kMaxFiles || count > task.limit(RLIMIT_NOFILE) ? Errno(EMFILE) : ErrnoOr<void>();
}

void IoUring::SetTable(std::vector<RefPtr<File>> files) {
  files_ = std::move(files);
  files_registered_ = true;
  slot_hint_ = 0;
}

ErrnoOr<uint64_t> IoUring::RegisterFiles(Task& task, uint64_t argument, uint32_t count) {
  TRY(CheckNewTable(task, count));
  std::vector<int> fds = TRY(task.CopyInArray(UserPtr<const int>(argument), count));
  std::vector<RefPtr<File>> files;
  for (int fd : fds) files.push_back(TRY(FileForSlot(task, fd)));
  SetTable(std::move(files));
  return 0;
}

ErrnoOr<uint64_t> IoUring::RegisterFilesWithTags(Task& task, uint64_t argument, uint32_t size) {
  struct Registration {  // struct io_uring_rsrc_register
    uint32_t count, flags;
    uint64_t reserved, data, tags;
  };
  if (size != sizeof(Registration)) return Errno(EINVAL);
  auto r = TRY(task.CopyIn(UserPtr<const Registration>(argument)));
  bool sparse = r.flags == IORING_RSRC_REGISTER_SPARSE;
  // No completions that tell when a file is not used any more (tags).
  if (r.count == 0 || r.reserved != 0 || (r.flags != 0 && !sparse) || (sparse && r.data != 0) || r.tags != 0) return Errno(EINVAL);
  if (!sparse) return RegisterFiles(task, r.data, r.count);
  TRY(CheckNewTable(task, r.count));
  SetTable(std::vector<RefPtr<File>>(r.count));
  return 0;
}

ErrnoOr<uint64_t> IoUring::UpdateFiles(Task& task, uint64_t argument, uint32_t count) {
  auto update = TRY(task.CopyIn(UserPtr<const FilesUpdate>(argument)));
  if (update.resv != 0) return Errno(EINVAL);
  if (update.offset == IORING_FILE_INDEX_ALLOC) return Errno(EINVAL);
  return UpdateFiles(task, update.fds, count, update.offset);
}

ErrnoOr<uint64_t> IoUring::UpdateFiles(Task& task, uint64_t fds, uint32_t count, uint32_t offset) {
  if (!files_registered_) return Errno(ENXIO);
  const bool anywhere = offset == IORING_FILE_INDEX_ALLOC;
  if (!anywhere && (count > files_.size() || offset > files_.size() - count)) return Errno(EINVAL);
  for (uint32_t i = 0; i < count; ++i) {
    UserPtr<int> at(fds + uint64_t{i} * sizeof(int));
    auto one = [&]() -> ErrnoOr<void> {
      int fd = TRY(task.CopyIn(UserPtr<const int>(at.address())));
      if (!anywhere && fd == IORING_REGISTER_FILES_SKIP) return Ok();
      RefPtr<File> file = TRY(FileForSlot(task, fd));
      if (!anywhere) {
        SetSlot(offset + i, std::move(file));
        return Ok();
      }
      if (!file) return Errno(EBADF);
      uint64_t slot = TRY(Install(std::move(file), IORING_FILE_INDEX_ALLOC));
      auto told = task.CopyOut(at, static_cast<int>(slot));
      if (!told.ok()) SetSlot(static_cast<uint32_t>(slot), nullptr);
      return told;
    };
    if (auto done = one(); !done.ok()) return i > 0 ? ErrnoOr<uint64_t>(uint64_t{i}) : done.error();
  }
  return count;
}

void IoUring::SetSlot(uint32_t index, RefPtr<File> file) {
  if (file) {
    slot_hint_ = index + 1;
  } else if (files_[index]) {
    slot_hint_ = index;
  }
  files_[index] = std::move(file);
}

ErrnoOr<uint64_t> IoUring::Install(RefPtr<File> file, uint32_t number) {
  if (!files_registered_) return Errno(ENXIO);
  if (IoUring::From(*file) != nullptr) return Errno(EBADF);
  if (number == IORING_FILE_INDEX_ALLOC) {
    // Behind the one that was filled last, or the one that was emptied last, and round.
    auto free = std::find(files_.begin() + slot_hint_, files_.end(), nullptr);
    if (free == files_.end()) free = std::ranges::find(files_, nullptr);
    if (free == files_.end()) return Errno(ENFILE);
    uint64_t slot = static_cast<uint64_t>(free - files_.begin());
    SetSlot(static_cast<uint32_t>(slot), std::move(file));
    return slot;
  }
  if (number > files_.size()) return Errno(EINVAL);
  SetSlot(number - 1, std::move(file));
  return uint64_t{0};
}

ErrnoOr<void> IoUring::Uninstall(uint32_t number) {
  if (!files_registered_) return Errno(ENXIO);
  if (number > files_.size()) return Errno(EINVAL);
  if (!files_[number - 1]) return Errno(EBADF);
  SetSlot(number - 1, nullptr);
  return Ok();
}

ErrnoOr<uint64_t> IoUring::RegisterBuffers(Task& task, uint64_t argument, uint32_t count) {
  if (buffers_registered_) return Errno(EBUSY);
  if (count == 0 || count > kMaxBuffers) return Errno(EINVAL);
  std::vector<iovec> buffers = TRY(task.CopyInArray(UserPtr<const iovec>(argument), count));
  for (const iovec& b : buffers) {
    if (b.iov_base == nullptr && b.iov_len == 0) continue;  // an empty slot
    if (b.iov_base == nullptr || b.iov_len == 0 || b.iov_len > kMaxBufferSize) return Errno(EFAULT);
    char byte;
    uint64_t start = reinterpret_cast<uint64_t>(b.iov_base);
    TRY(task.CopyInBytes(start, &byte, 1));
    TRY(task.CopyInBytes(start + b.iov_len - 1, &byte, 1));
  }
  buffers_ = std::move(buffers);
  buffers_registered_ = true;
  return 0;
}

ErrnoOr<uint64_t> IoUring::RegisterEventFd(Task& task, uint64_t argument, bool async) {
  if (event_fd_) return Errno(EBUSY);
  int fd = TRY(task.CopyIn(UserPtr<const int>(argument)));
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (dynamic_cast<EventFd*>(file.get()) == nullptr) return Errno(EINVAL);
  event_fd_ = std::move(file);
  event_async_ = async;
  return 0;
}

ErrnoOr<uint64_t> IoUring::Probe(Task& task, uint64_t argument, uint32_t count) {
  constexpr uint8_t kLast = kOpLast - 1;
  if (count > 256) return Errno(EINVAL);
  size_t size = sizeof(io_uring_probe) + count * sizeof(io_uring_probe_op);
  std::vector<char> bytes = TRY(task.CopyInArray(UserPtr<const char>(argument), size));
  if (std::ranges::any_of(bytes, [](char c) { return c != 0; })) return Errno(EINVAL);
  io_uring_probe head{};
  head.last_op = kLast;
  head.ops_len = static_cast<uint8_t>(std::min<uint32_t>(count, kOpLast));
  TRY(task.CopyOutBytes(argument, &head, sizeof(head)));
  for (uint32_t i = 0; i < head.ops_len; ++i) {
    io_uring_probe_op op{};
    op.op = static_cast<uint8_t>(i);
    op.flags = Supports(op.op) ? IO_URING_OP_SUPPORTED : 0;
    TRY(task.CopyOutBytes(argument + sizeof(head) + i * sizeof(op), &op, sizeof(op)));
  }
  return 0;
}

ErrnoOr<uint64_t> IoUring::Register(Task& task, uint32_t what, uint64_t argument, uint32_t count) {
  bool bare = argument == 0 && count == 0;
  switch (what) {
    case IORING_REGISTER_BUFFERS: return RegisterBuffers(task, argument, count);
    case IORING_UNREGISTER_BUFFERS:
      if (!bare) return Errno(EINVAL);
      if (!buffers_registered_) return Errno(ENXIO);
      buffers_.clear();
      buffers_registered_ = false;
      return 0;
    case IORING_REGISTER_FILES: return RegisterFiles(task, argument, count);
    case IORING_REGISTER_FILES2: return RegisterFilesWithTags(task, argument, count);
    case IORING_REGISTER_FILES_UPDATE: return UpdateFiles(task, argument, count);
    case IORING_UNREGISTER_FILES:
      if (!bare) return Errno(EINVAL);
      if (!files_registered_) return Errno(ENXIO);
      files_.clear();
      files_registered_ = false;
      return 0;
    case IORING_REGISTER_EVENTFD:
    case IORING_REGISTER_EVENTFD_ASYNC: return count != 1 ? Errno(EINVAL) : RegisterEventFd(task, argument, what == IORING_REGISTER_EVENTFD_ASYNC);
    case IORING_UNREGISTER_EVENTFD:
      if (!bare) return Errno(EINVAL);
      if (!event_fd_) return Errno(ENXIO);
      event_fd_.reset();
      return 0;
    case IORING_REGISTER_PBUF_RING:
    case IORING_UNREGISTER_PBUF_RING:
    case kPbufStatus:
      if (count != 1) return Errno(EINVAL);
      TRY(what == IORING_REGISTER_PBUF_RING     ? provided_.RegisterRing(task, argument)
          : what == IORING_UNREGISTER_PBUF_RING ? provided_.UnregisterRing(task, argument)
                                                : provided_.Status(task, argument));
      return 0;
    case IORING_REGISTER_PROBE: return argument == 0 ? Errno(EINVAL) : Probe(task, argument, count);
    case IORING_REGISTER_ENABLE_RINGS:
      if (!bare) return Errno(EINVAL);
      if (!disabled()) return Errno(EBADFD);
      setup_flags_ &= ~uint32_t{IORING_SETUP_R_DISABLED};
      return 0;
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
