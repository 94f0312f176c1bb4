// Requests that choose a buffer when there is something to put there, that complete more than once, and whose files are in slots of the ring.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/others_turn.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr int kShotsInARow = 32;

}  // namespace

bool Request::several() const {
  switch (sqe_.opcode) {
    case IORING_OP_POLL_ADD: return (sqe_.len & IORING_POLL_ADD_MULTI) != 0;
    case IORING_OP_ACCEPT: return (sqe_.ioprio & IORING_ACCEPT_MULTISHOT) != 0;
    case IORING_OP_RECV: return (sqe_.ioprio & IORING_RECV_MULTISHOT) != 0;
    case kOpReadMultishot: return true;
    default: return false;
  }
}

// Ends when nothing came (the end of a stream), by an error, or because the ring is full. The ring's ends lie in the guest's memory, so it bounds
// nothing: after some shots it is others' turn (MULTISHOT_MAX_RETRY in io_uring/net.c).
ErrnoOr<uint64_t> Request::Shots(Task& helper) {
  if (sqe_.opcode == kOpReadMultishot && !file_->pollable()) return Errno(EBADFD);
  if (helper.syscall().timed_out) {  // others had their turn; a file's own time limit does not count here, as on Linux
    helper.syscall().timed_out = false;
    helper.syscall().deadline = kNever;
  }
  for (int shots = 1;; ++shots) {
    auto result = Once(helper);
    if (!result.ok() || ring_ == nullptr || (*result == 0 && sqe_.opcode != IORING_OP_ACCEPT)) return result;
    if (!ring_->PostMore(*this, static_cast<int32_t>(*result))) return result;
    // The next is a call of its own.
    SyscallState& call = helper.syscall();
    call.done = 0;
    call.restarted = call.timed_out = false;
    call.deadline = kNever;
    // A buffer is chosen when there is something for it.
    WaitQueue* queue = file_->wait_queue();
    if ((file_->Poll(helper) & (POLLIN | POLLRDHUP | POLLHUP | POLLERR)) == 0 && queue != nullptr)
      return helper.Block(*queue, POLLIN | POLLRDHUP | POLLHUP | POLLERR);
    if (shots >= kShotsInARow) return helper.Block({}, helper.kernel().clocks().Monotonic() + kOthersTurn);
  }
}

ErrnoOr<uint64_t> Request::Once(Task& helper) { return (sqe_.flags & IOSQE_BUFFER_SELECT) != 0 ? WithBuffer(helper) : Attempt(helper, sqe_); }

ErrnoOr<uint64_t> Request::WithBuffer(Task& helper) {
  ProvidedBuffers::Buffer buffer = held_ ? *std::exchange(held_, std::nullopt) : TRY(ring_->buffers().Take(helper, sqe_.buf_group));
  io_uring_sqe sqe = sqe_;
  if (sqe.opcode == kOpReadMultishot) {
    sqe.opcode = IORING_OP_READ;
    sqe.ioprio = 0;
  }
  sqe.addr = buffer.address;
  if (sqe.len == 0 || sqe.len > buffer.size) sqe.len = buffer.size;
  expected_ = sqe.len;
  auto result = Attempt(helper, sqe);
  if (ring_ == nullptr) return result;
  // What reads files says of which buffer it is even if there was nothing more to read.
  if (result.ok() && (*result > 0 || sqe.opcode == IORING_OP_READ)) {
    cqe_flags_ = IORING_CQE_F_BUFFER | uint32_t{buffer.id} << IORING_CQE_BUFFER_SHIFT;
  } else if (!result.ok() && helper.syscall().done > 0) {
    held_ = buffer;
  } else {
    ring_->buffers().PutBack(sqe_.buf_group, buffer);
  }
  return result;
}

ErrnoOr<uint64_t> Request::Provide() {
  if (sqe_.fd <= 0 || static_cast<uint32_t>(sqe_.fd) > ProvidedBuffers::kMaxIds) return Errno(E2BIG);
  uint32_t count = static_cast<uint32_t>(sqe_.fd);
  if (sqe_.len == 0) return Errno(EINVAL);
  uint64_t end;
  if (__builtin_add_overflow(sqe_.addr, uint64_t{sqe_.len} * count, &end)) return Errno(EOVERFLOW);
  constexpr uint64_t kTop = 0x7ffffffff000;  // TASK_SIZE_MAX
  if (end > kTop) return Errno(EFAULT);
  if (sqe_.off > UINT16_MAX) return Errno(E2BIG);
  if (sqe_.off + count > ProvidedBuffers::kMaxIds) return Errno(EINVAL);
  TRY(ring_->buffers().Provide(sqe_.buf_group, sqe_.addr, sqe_.len, count, static_cast<uint16_t>(sqe_.off)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Request::RemovePoll() {
  if ((sqe_.len & (IORING_POLL_UPDATE_EVENTS | IORING_POLL_UPDATE_USER_DATA)) == 0) {
    int32_t result = ring_->Cancel(this, sqe_.addr, nullptr, 0, IORING_OP_POLL_ADD);
    return result < 0 ? ErrnoOr<uint64_t>(Errno(-result)) : ErrnoOr<uint64_t>(static_cast<uint64_t>(result));
  }
  Request* found = ring_->FindPending(sqe_.addr, IORING_OP_POLL_ADD);
  if (found == nullptr) return Errno(ENOENT);
  found->ChangePoll(sqe_);
  return uint64_t{0};
}

void Request::ChangePoll(const io_uring_sqe& by) {
  if ((by.len & IORING_POLL_UPDATE_EVENTS) != 0) sqe_.poll32_events = by.poll32_events;
  if ((by.len & IORING_POLL_UPDATE_USER_DATA) != 0) sqe_.user_data = by.off;
  Run();
}

// What a call has just opened goes from the table of descriptors into a slot.
ErrnoOr<uint64_t> Request::IntoSlot(Task& helper, uint64_t number) {
  RefPtr<File> file = TRY(helper.files().Remove(static_cast<int>(number)));
  if (ring_ == nullptr) return Errno(ECANCELED);
  return ring_->Install(std::move(file), sqe_.file_index);
}

ErrnoOr<uint64_t> Request::OutOfSlot() {
  TRY(ring_->Uninstall(sqe_.file_index));
  return uint64_t{0};
}

}  // namespace amber
