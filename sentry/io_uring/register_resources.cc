// io_uring_register(2): buffers, tags, personalities, restrictions, and what little there is to set.
#include <sys/resource.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "sentry/io_uring/abi.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint64_t kMaxBufferSize = uint64_t{1} << 30;
constexpr uint32_t kMaxPersonalities = UINT16_MAX;  // their numbers
constexpr size_t kMostPersonalities = 1024;         // at once: images hold each one's groups

struct Registration {  // struct io_uring_rsrc_register
  uint32_t count, flags;
  uint64_t reserved, data, tags;
};

struct Update {  // struct io_uring_rsrc_update2
  uint32_t offset, reserved;
  uint64_t data, tags;
  uint32_t count, reserved2;
};

struct SyncCancel {  // struct io_uring_sync_cancel_reg
  uint64_t user_data;
  int32_t fd;
  uint32_t flags;
  timespec timeout;
  uint8_t opcode, pad[7];
  uint64_t pad2[3];
};

struct Clone {  // struct io_uring_clone_buffers
  uint32_t source, flags, source_offset, offset, count, pad[3];
};

// io_buffer_validate(), and that its ends are there: Linux pins it.
ErrnoOr<void> CheckBuffer(Task& task, const iovec& b, uint64_t tag) {
  if (b.iov_base == nullptr) {
    if (b.iov_len != 0) return Errno(EFAULT);
    return tag != 0 ? Errno(EINVAL) : ErrnoOr<void>();
  }
  uint64_t start = reinterpret_cast<uint64_t>(b.iov_base), last;
  if (b.iov_len == 0 || b.iov_len > kMaxBufferSize) return Errno(EFAULT);
  if (__builtin_add_overflow(start, b.iov_len - 1, &last)) return Errno(EOVERFLOW);
  char byte;
  TRY(task.CopyInBytes(start, &byte, 1));
  return task.CopyInBytes(last, &byte, 1);
}

}  // namespace

ErrnoOr<uint64_t> IoUring::RegisterBuffers(Task& task, uint64_t argument, uint32_t count, uint64_t tags) {
  if (buffers_registered_) return Errno(EBUSY);
  if (count == 0 || count > kMaxBuffers) return Errno(EINVAL);
  std::vector<FixedBufferSlot> slots(count);
  if (argument != 0) {
    std::vector<iovec> buffers = TRY(task.CopyInArray(UserPtr<const iovec>(argument), count));
    std::vector<uint64_t> numbers(count);
    if (tags != 0) numbers = TRY(task.CopyInArray(UserPtr<const uint64_t>(tags), count));
    for (uint32_t i = 0; i < count; ++i) {
      TRY(CheckBuffer(task, buffers[i], numbers[i]));
      slots[i] = {buffers[i], numbers[i]};
    }
  } else if (tags != 0) {
    return Errno(EINVAL);
  }
  buffers_ = std::move(slots);
  buffers_registered_ = true;
  return 0;
}

ErrnoOr<uint64_t> IoUring::UnregisterBuffers() {
  if (!buffers_registered_) return Errno(ENXIO);
  std::vector<FixedBufferSlot> old = std::exchange(buffers_, {});
  buffers_registered_ = false;
  for (const FixedBufferSlot& slot : old) Release(slot.tag);
  return 0;
}

ErrnoOr<uint64_t> IoUring::RegisterWithTags(Task& task, bool files, uint64_t argument, uint32_t size) {
  if (size != sizeof(Registration)) return Errno(EINVAL);
  auto r = TRY(task.CopyIn(UserPtr<const Registration>(argument)));
  bool sparse = r.flags == IORING_RSRC_REGISTER_SPARSE;
  if (r.count == 0 || r.reserved != 0 || (r.flags != 0 && !sparse) || (sparse && r.data != 0)) return Errno(EINVAL);
  if (files) return RegisterFiles(task, r.data, r.count, sparse ? 0 : r.tags, sparse);
  if (!sparse && r.data == 0) return Errno(EFAULT);
  return RegisterBuffers(task, r.data, r.count, sparse ? 0 : r.tags);
}

ErrnoOr<uint64_t> IoUring::UpdateWithTags(Task& task, bool files, uint64_t argument, uint32_t size) {
  if (size != sizeof(Update)) return Errno(EINVAL);
  auto u = TRY(task.CopyIn(UserPtr<const Update>(argument)));
  if (u.count == 0 || u.reserved != 0 || u.reserved2 != 0) return Errno(EINVAL);
  if (files) return u.offset == IORING_FILE_INDEX_ALLOC ? Errno(EINVAL) : UpdateFiles(task, u.data, u.count, u.offset, u.tags);
  return UpdateBuffers(task, u.data, u.count, u.offset, u.tags);
}

ErrnoOr<uint64_t> IoUring::UpdateBuffers(Task& task, uint64_t data, uint32_t count, uint32_t offset, uint64_t tags) {
  if (!buffers_registered_) return Errno(ENXIO);
  if (count > buffers_.size() || offset > buffers_.size() - count) return Errno(EINVAL);
  for (uint32_t i = 0; i < count; ++i) {
    auto one = [&]() -> ErrnoOr<void> {
      auto buffer = TRY(task.CopyIn(UserPtr<const iovec>(data + uint64_t{i} * sizeof(iovec))));
      uint64_t tag = tags != 0 ? TRY(task.CopyIn(UserPtr<const uint64_t>(tags + uint64_t{i} * sizeof(uint64_t)))) : 0;
      TRY(CheckBuffer(task, buffer, tag));
      Release(std::exchange(buffers_[offset + i], {buffer, tag}).tag);
      return Ok();
    };
    if (auto done = one(); !done.ok()) return i > 0 ? ErrnoOr<uint64_t>(uint64_t{i}) : done.error();
  }
  return count;
}

// io_register_clone_buffers(). Those of another process would mean that one's memory.
ErrnoOr<uint64_t> IoUring::CloneBuffers(Task& task, uint64_t argument) {
  auto c = TRY(task.CopyIn(UserPtr<const Clone>(argument)));
  if ((c.flags & ~(kCloneFromRegistered | kCloneReplace)) != 0 || std::ranges::any_of(c.pad, [](uint32_t w) { return w != 0; })) return Errno(EINVAL);
  if ((c.flags & kCloneReplace) == 0 && buffers_registered_) return Errno(EBUSY);
  RefPtr<IoUring> source = TRY(Find(task, static_cast<int>(c.source), (c.flags & kCloneFromRegistered) != 0));
  if (c.count == 0 && (c.offset != 0 || c.source_offset != 0)) return Errno(EINVAL);
  size_t have = source->buffers_.size();
  if (have == 0) return Errno(ENXIO);
  uint32_t count = c.count != 0 ? c.count : static_cast<uint32_t>(have);
  if (count > have) return Errno(EINVAL);
  if (uint64_t{count} + c.source_offset > have || uint64_t{count} + c.offset > UINT32_MAX) return Errno(EOVERFLOW);
  size_t size = std::max<size_t>(size_t{c.offset} + count, buffers_.size());
  if (size > kMaxBuffers) return Errno(EINVAL);
  std::vector<FixedBufferSlot> taken(source->buffers_.begin() + c.source_offset, source->buffers_.begin() + c.source_offset + count);
  buffers_.resize(size);
  buffers_registered_ = true;
  for (uint32_t i = 0; i < count; ++i) Release(std::exchange(buffers_[c.offset + i], {taken[i].range, 0}).tag);
  return 0;
}

// --- tags ---

void IoUring::Release(uint64_t tag) {
  if (tag == 0) return;
  auto it = tag_uses_.find(tag);
  if (it == tag_uses_.end()) return PostAside(tag, 0, 0);
  it->second.waiting = std::min<uint32_t>(it->second.waiting + 1, kMaxRequests);
}

void IoUring::UseTag(uint64_t tag) {
  if (tag != 0) ++tag_uses_[tag].users;
}

void IoUring::DropTag(uint64_t tag) {
  auto it = tag_uses_.find(tag);
  if (it == tag_uses_.end() || --it->second.users > 0) return;
  const uint32_t waiting = it->second.waiting;
  tag_uses_.erase(it);
  for (uint32_t i = 0; i < waiting; ++i) PostAside(tag, 0, 0);
}

// --- personalities ---

ErrnoOr<uint64_t> IoUring::RegisterPersonality(Task& task) {
  if (personalities_.size() >= kMostPersonalities) return Errno(EBUSY);
  do {
    last_personality_ = last_personality_ == kMaxPersonalities ? 1 : last_personality_ + 1;
  } while (personalities_.contains(static_cast<uint16_t>(last_personality_)));
  personalities_[static_cast<uint16_t>(last_personality_)] = task.creds_ref();
  return last_personality_;
}

ErrnoOr<uint64_t> IoUring::UnregisterPersonality(uint32_t id) {
  if (id > UINT16_MAX || personalities_.erase(static_cast<uint16_t>(id)) == 0) return Errno(EINVAL);
  return 0;
}

RefPtr<const Credentials> IoUring::Personality(uint16_t id) const {
  auto it = personalities_.find(id);
  return it != personalities_.end() ? it->second : nullptr;
}

// --- restrictions ---

ErrnoOr<uint64_t> IoUring::RegisterRestrictions(Task& task, uint64_t argument, uint32_t count) {
  if (!disabled()) return Errno(EBADFD);
  if (restrictions_.registered) return Errno(EBUSY);
  constexpr uint32_t kMost = kRegisterLast + kOpLast + 2;  // IORING_MAX_RESTRICTIONS
  if (argument == 0 || count > kMost) return Errno(EINVAL);
  Restrictions r;
  for (const io_uring_restriction& one : TRY(task.CopyInArray(UserPtr<const io_uring_restriction>(argument), count))) {
    switch (one.opcode) {
      case IORING_RESTRICTION_REGISTER_OP:
        if (one.register_op >= kRegisterLast) return Errno(EINVAL);
        r.registers.set(one.register_op);
        break;
      case IORING_RESTRICTION_SQE_OP:
        if (one.sqe_op >= kOpLast) return Errno(EINVAL);
        r.operations.set(one.sqe_op);
        break;
      case IORING_RESTRICTION_SQE_FLAGS_ALLOWED: r.allowed = one.sqe_flags; break;
      case IORING_RESTRICTION_SQE_FLAGS_REQUIRED: r.required = one.sqe_flags; break;
      default: return Errno(EINVAL);
    }
  }
  r.registered = true;
  restrictions_ = r;
  return 0;
}

bool IoUring::Allows(const io_uring_sqe& sqe) const {
  if (!restrictions_.registered) return true;
  const Restrictions& r = restrictions_;
  return r.operations.test(sqe.opcode) && (sqe.flags & r.required) == r.required && (sqe.flags & ~(r.allowed | r.required)) == 0;
}

// --- the rest ---

// There are no workers: the numbers are kept and told.
ErrnoOr<uint64_t> IoUring::SetWorkers(Task& task, uint64_t argument) {
  auto wanted = TRY(task.CopyInArray(UserPtr<const uint32_t>(argument), 2));
  if (wanted[0] > INT32_MAX || wanted[1] > INT32_MAX) return Errno(EINVAL);
  uint32_t before[2] = {workers_[0] != 0 ? workers_[0] : std::min(memory_.submissions(), 4u),
                        workers_[1] != 0 ? workers_[1] : static_cast<uint32_t>(std::min<uint64_t>(task.limit(RLIMIT_NPROC), INT32_MAX))};
  for (int i = 0; i < 2; ++i) {
    if (wanted[static_cast<size_t>(i)] != 0) workers_[i] = wanted[static_cast<size_t>(i)];
  }
  TRY(task.CopyOutBytes(argument, before, sizeof(before)));
  return 0;
}

// Nothing goes on in another thread that it would have to be waited for.
ErrnoOr<uint64_t> IoUring::CancelNow(Task& task, uint64_t argument) {
  auto c = TRY(task.CopyIn(UserPtr<const SyncCancel>(argument)));
  if ((c.flags & ~kCancelFlags) != 0) return Errno(EINVAL);
  auto set = [](auto w) { return w != 0; };
  if (std::ranges::any_of(c.pad, set) || std::ranges::any_of(c.pad2, set)) return Errno(EINVAL);
  if (c.timeout.tv_nsec != -1 && (c.timeout.tv_nsec < 0 || c.timeout.tv_nsec >= kNsPerSecond)) return Errno(EINVAL);
  RefPtr<File> file;
  if ((c.flags & IORING_ASYNC_CANCEL_FD) != 0) {
    file = (c.flags & kCancelFdFixed) != 0 ? FixedFile(static_cast<uint32_t>(c.fd)) : TRY(task.files().Get(c.fd));
    if (!file) return Errno(EBADF);
  }
  int32_t result = Cancel(nullptr, c.user_data, file, c.flags, (c.flags & kCancelOp) != 0 ? c.opcode : -1);
  return result < 0 ? ErrnoOr<uint64_t>(Errno(-result)) : ErrnoOr<uint64_t>(static_cast<uint64_t>(result));
}

ErrnoOr<uint64_t> IoUring::SetAllocRange(Task& task, uint64_t argument) {
  struct Range {  // struct io_uring_file_index_range
    uint32_t offset, count;
    uint64_t reserved;
  };
  auto r = TRY(task.CopyIn(UserPtr<const Range>(argument)));
  uint32_t end;
  if (__builtin_add_overflow(r.offset, r.count, &end)) return Errno(EOVERFLOW);
  if (r.reserved != 0 || end > files_.size()) return Errno(EINVAL);
  alloc_from_ = slot_hint_ = r.offset;
  alloc_to_ = end;
  return 0;
}

ErrnoOr<uint64_t> IoUring::SetClock(Task& task, uint64_t argument) {
  struct ClockChoice {  // struct io_uring_clock_register
    uint32_t clock, reserved[3];
  };
  auto c = TRY(task.CopyIn(UserPtr<const ClockChoice>(argument)));
  if (std::ranges::any_of(c.reserved, [](uint32_t w) { return w != 0; })) return Errno(EINVAL);
  if (c.clock != CLOCK_MONOTONIC && c.clock != CLOCK_BOOTTIME) return Errno(EINVAL);
  clock_ = static_cast<int>(c.clock);
  return 0;
}

}  // namespace amber
