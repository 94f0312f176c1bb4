// Requests that choose a buffer when there is something to put there, that complete more than once, and whose files are in slots of the ring.
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
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
    case IORING_OP_RECVMSG:
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
    if (!result.ok() || ring_ == nullptr || finished_ || (*result == 0 && sqe_.opcode != IORING_OP_ACCEPT)) return result;
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

ErrnoOr<std::vector<ProvidedBuffers::Buffer>> Request::Choose(Task& helper, uint64_t limit) {
  constexpr size_t kMost = 256;  // PEEK_MAX_IMPORT
  if (!held_.empty()) return std::exchange(held_, {});
  bool bundle = IsMessage(sqe_.opcode) && (sqe_.ioprio & kBundle) != 0 && ring_->buffers().IsRing(sqe_.buf_group);
  std::vector<ProvidedBuffers::Buffer> chosen{TRY(ring_->buffers().Take(helper, sqe_.buf_group))};
  uint64_t total = chosen.front().size;
  while (bundle && chosen.size() < kMost && total < std::min<uint64_t>(limit, INT32_MAX)) {
    auto another = ring_->buffers().Take(helper, sqe_.buf_group);
    if (!another.ok()) break;
    chosen.push_back(*another);
    total += another->size;
  }
  return chosen;
}

void Request::GiveBack() {
  while (!held_.empty()) {
    ring_->buffers().PutBack(sqe_.buf_group, held_.back());
    held_.pop_back();
  }
}

ErrnoOr<uint64_t> Request::WithBuffer(Task& helper) {
  uint64_t limit = TRY(LimitOf(helper));
  held_ = TRY(Choose(helper, limit));
  std::vector<iovec> ranges;
  uint64_t total = 0;
  for (const ProvidedBuffers::Buffer& b : held_) {
    ranges.push_back({reinterpret_cast<void*>(b.address), std::min<uint64_t>(b.size, limit - total)});
    total += ranges.back().iov_len;
  }
  expected_ = static_cast<uint32_t>(total);
  auto attempt = [&]() -> ErrnoOr<uint64_t> {
    if (IsMessage(sqe_.opcode)) return Messages(helper, std::move(ranges));
    io_uring_sqe sqe = sqe_;
    sqe.opcode = IORING_OP_READ;
    if (sqe_.opcode == kOpReadMultishot) sqe.ioprio = 0;
    sqe.addr = held_.front().address;
    sqe.len = expected_;
    return Attempt(helper, sqe);
  };
  auto result = attempt();
  if (ring_ == nullptr) return result;
  // What reads files says of which buffer it is even if there was nothing more to read.
  if (result.ok() && (*result > 0 || !IsMessage(sqe_.opcode))) {
    uint64_t left = *result;
    size_t used = 0;
    bool more = false;
    cqe_flags_ = IORING_CQE_F_BUFFER | uint32_t{held_.front().id} << IORING_CQE_BUFFER_SHIFT;
    std::vector<ProvidedBuffers::Buffer> rest(held_.begin(), held_.end());
    while (used == 0 || (used < rest.size() && left > 0)) left -= std::min<uint64_t>(left, rest[used++].size);
    // Those behind it first: they go back to where they were.
    held_.erase(held_.begin(), held_.begin() + static_cast<ptrdiff_t>(used));
    GiveBack();
    uint64_t bytes = *result;
    for (size_t i = 0; i + 1 < used; ++i) bytes -= std::min<uint64_t>(bytes, rest[i].size);
    more = ring_->buffers().Use(helper, sqe_.buf_group, rest[used - 1], bytes);
    if (more) cqe_flags_ |= kCompletionBufferMore;
  } else if (result.ok() || helper.syscall().done == 0) {
    GiveBack();
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
