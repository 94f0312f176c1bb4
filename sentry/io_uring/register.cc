// io_uring_register(2).
#include <sys/resource.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

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
  return index < buffers_.size() && buffers_[index].range.iov_base != nullptr ? &buffers_[index].range : nullptr;
}

ErrnoOr<void> IoUring::CheckNewTable(Task& task, uint32_t count) const {
  if (files_registered_) return Errno(EBUSY);
  if (count == 0) return Errno(EINVAL);
  return count > kMaxFiles || count > task.limit(RLIMIT_NOFILE) ? Errno(EMFILE) : ErrnoOr<void>();
}

ErrnoOr<uint64_t> IoUring::RegisterFiles(Task& task, uint64_t argument, uint32_t count, uint64_t tags, bool sparse) {
  TRY(CheckNewTable(task, count));
  std::vector<RefPtr<File>> files(count);
  std::vector<uint64_t> numbers(count);
  if (!sparse) {
    std::vector<int> fds = TRY(task.CopyInArray(UserPtr<const int>(argument), count));
    if (tags != 0) numbers = TRY(task.CopyInArray(UserPtr<const uint64_t>(tags), count));
    for (uint32_t i = 0; i < count; ++i) {
      if (fds[i] == -1 && numbers[i] != 0) return Errno(EINVAL);
      files[i] = TRY(FileForSlot(task, fds[i]));
    }
  }
  files_ = std::move(files);
  file_tags_ = std::move(numbers);
  files_registered_ = true;
  slot_hint_ = alloc_from_ = 0;
  alloc_to_ = count;
  return 0;
}

ErrnoOr<uint64_t> IoUring::UnregisterFiles() {
  if (!files_registered_) return Errno(ENXIO);
  std::vector<RefPtr<File>> files = std::exchange(files_, {});
  std::vector<uint64_t> tags = std::exchange(file_tags_, {});
  files_registered_ = false;
  for (uint64_t tag : tags) Release(tag);
  return 0;
}

ErrnoOr<uint64_t> IoUring::UpdateFiles(Task& task, uint64_t argument, uint32_t count) {
  auto update = TRY(task.CopyIn(UserPtr<const FilesUpdate>(argument)));
  if (update.resv != 0) return Errno(EINVAL);
  if (update.offset == IORING_FILE_INDEX_ALLOC) return Errno(EINVAL);
  return UpdateFiles(task, update.fds, count, update.offset);
}

ErrnoOr<uint64_t> IoUring::UpdateFiles(Task& task, uint64_t fds, uint32_t count, uint32_t offset, uint64_t tags) {
  if (!files_registered_) return Errno(ENXIO);
  const bool anywhere = offset == IORING_FILE_INDEX_ALLOC;
  if (!anywhere && (count > files_.size() || offset > files_.size() - count)) return Errno(EINVAL);
  for (uint32_t i = 0; i < count; ++i) {
    UserPtr<int> at(fds + uint64_t{i} * sizeof(int));
    auto one = [&]() -> ErrnoOr<void> {
      int fd = TRY(task.CopyIn(UserPtr<const int>(at.address())));
      uint64_t tag = tags != 0 ? TRY(task.CopyIn(UserPtr<const uint64_t>(tags + uint64_t{i} * sizeof(uint64_t)))) : 0;
      if (tag != 0 && (fd == IORING_REGISTER_FILES_SKIP || fd == -1)) return Errno(EINVAL);
      if (!anywhere && fd == IORING_REGISTER_FILES_SKIP) return Ok();
      RefPtr<File> file = TRY(FileForSlot(task, fd));
      if (!anywhere) {
        SetSlot(offset + i, std::move(file), tag);
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

void IoUring::SetSlot(uint32_t index, RefPtr<File> file, uint64_t tag) {
  if (file) {
    slot_hint_ = index + 1;
  } else if (files_[index]) {
    slot_hint_ = index;
  }
  files_[index] = std::move(file);
  Release(std::exchange(file_tags_[index], tag));
}

ErrnoOr<uint64_t> IoUring::Install(RefPtr<File> file, uint32_t number) {
  if (!files_registered_) return Errno(number == IORING_FILE_INDEX_ALLOC ? ENFILE : ENXIO);
  if (IoUring::From(*file) != nullptr) return Errno(EBADF);
  if (number == IORING_FILE_INDEX_ALLOC) {
    // Behind the one that was filled last, or the one that was emptied last, and round.
    const auto first = files_.begin() + alloc_from_, end = files_.begin() + alloc_to_;
    const auto hint = files_.begin() + std::clamp(slot_hint_, alloc_from_, alloc_to_);
    auto free = std::find(hint, end, nullptr);
    if (free == end) free = std::find(first, hint, nullptr);
    if (free == end || *free) return Errno(ENFILE);
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
  if (restrictions_.registered && !disabled() && (what >= kRegisterLast || !restrictions_.registers.test(what))) {
    return what >= kRegisterLast ? Errno(EINVAL) : Errno(EACCES);
  }
  switch (what) {
    case IORING_REGISTER_BUFFERS: return argument == 0 ? Errno(EFAULT) : RegisterBuffers(task, argument, count);
    case IORING_UNREGISTER_BUFFERS: return bare ? UnregisterBuffers() : Errno(EINVAL);
    case IORING_REGISTER_FILES: return argument == 0 ? Errno(EFAULT) : RegisterFiles(task, argument, count);
    case IORING_REGISTER_FILES_UPDATE: return UpdateFiles(task, argument, count);
    case IORING_UNREGISTER_FILES: return bare ? UnregisterFiles() : Errno(EINVAL);
    case IORING_REGISTER_EVENTFD:
    case IORING_REGISTER_EVENTFD_ASYNC: return count != 1 ? Errno(EINVAL) : RegisterEventFd(task, argument, what == IORING_REGISTER_EVENTFD_ASYNC);
    case IORING_UNREGISTER_EVENTFD:
      if (!bare) return Errno(EINVAL);
      if (!event_fd_) return Errno(ENXIO);
      event_fd_.reset();
      return 0;
    case IORING_REGISTER_PBUF_RING:
    case IORING_UNREGISTER_PBUF_RING:
    case kRegisterPbufStatus:
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
    default: return RegisterMore(task, what, argument, count);
  }
}

ErrnoOr<uint64_t> IoUring::RegisterMore(Task& task, uint32_t what, uint64_t argument, uint32_t count) {
  bool bare = argument == 0 && count == 0, one = argument != 0 && count == 1;
  switch (what) {
    case IORING_REGISTER_FILES2: return RegisterWithTags(task, true, argument, count);
    case IORING_REGISTER_BUFFERS2: return RegisterWithTags(task, false, argument, count);
    case IORING_REGISTER_FILES_UPDATE2: return UpdateWithTags(task, true, argument, count);
    case IORING_REGISTER_BUFFERS_UPDATE: return UpdateWithTags(task, false, argument, count);
    case IORING_REGISTER_PERSONALITY: return bare ? RegisterPersonality(task) : Errno(EINVAL);
    case IORING_UNREGISTER_PERSONALITY: return argument == 0 ? UnregisterPersonality(count) : Errno(EINVAL);
    case IORING_REGISTER_RESTRICTIONS: return RegisterRestrictions(task, argument, count);
    // There are no workers that could be kept to some processors.
    case IORING_REGISTER_IOWQ_AFF: return argument == 0 || count == 0 ? Errno(EINVAL) : ErrnoOr<uint64_t>(0);
    case IORING_UNREGISTER_IOWQ_AFF: return bare ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
    case IORING_REGISTER_IOWQ_MAX_WORKERS: return argument != 0 && count == 2 ? SetWorkers(task, argument) : Errno(EINVAL);
    case IORING_REGISTER_RING_FDS: return RegisterOwnRings(task, argument, count);
    case IORING_UNREGISTER_RING_FDS: return UnregisterOwnRings(task, argument, count);
    case IORING_REGISTER_SYNC_CANCEL: return one ? CancelNow(task, argument) : Errno(EINVAL);
    case IORING_REGISTER_FILE_ALLOC_RANGE: return argument != 0 && count == 0 ? SetAllocRange(task, argument) : Errno(EINVAL);
    case kRegisterClock: return argument != 0 && count == 0 ? SetClock(task, argument) : Errno(EINVAL);
    case kRegisterCloneBuffers: return one ? CloneBuffers(task, argument) : Errno(EINVAL);
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
