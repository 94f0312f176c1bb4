// SEND, RECV and their kin: on the socket itself, into memory that the submission names or buffers that were chosen for it.
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/task.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/messages.h"

namespace amber {
namespace {

constexpr uint64_t kMostBytes = 0x7ffff000;  // MAX_RW_COUNT

struct HeaderOut {  // struct io_uring_recvmsg_out
  uint32_t name_size, control_size, payload_size, flags;
};

iovec Range(uint64_t address, uint64_t size) { return {reinterpret_cast<void*>(address), size}; }

ErrnoOr<MessageHeader> HeaderAt(Task& task, uint64_t address) {
  auto header = TRY(task.CopyIn(UserPtr<const MessageHeader>(address)));
  if (header.name_size < 0) return Errno(EINVAL);
  return header;
}

}  // namespace

// How much it wants of what is chosen for it: what it names says so, though not where (io_recvmsg_copy_hdr(), io_iov_buffer_select_prep()).
ErrnoOr<uint64_t> Request::LimitOf(Task& helper) const {
  if (sqe_.opcode == IORING_OP_READV) {
    if (sqe_.len != 1) return Errno(EINVAL);
    return TRY(helper.CopyIn(UserPtr<const uint64_t>(sqe_.addr + offsetof(iovec, iov_len))));
  }
  if (sqe_.opcode != IORING_OP_RECVMSG) return sqe_.len != 0 ? sqe_.len : kMostBytes;
  MessageHeader header = TRY(HeaderAt(helper, sqe_.addr));
  if (header.range_count > 1) return Errno(EINVAL);
  if (header.range_count == 0 || several()) return kMostBytes;
  uint64_t size = TRY(helper.CopyIn(UserPtr<const uint64_t>(header.ranges + offsetof(iovec, iov_len))));
  return size != 0 ? std::min(size, kMostBytes) : kMostBytes;
}

ErrnoOr<uint64_t> Request::Messages(Task& helper, std::vector<iovec> chosen) {
  auto* socket = dynamic_cast<Socket*>(file_.get());
  if (socket == nullptr) return Errno(ENOTSOCK);
  bool receives = sqe_.opcode == IORING_OP_RECV || sqe_.opcode == IORING_OP_RECVMSG;
  return receives ? Receive(helper, *socket, std::move(chosen)) : Send(helper, *socket, std::move(chosen));
}

ErrnoOr<uint64_t> Request::Send(Task& helper, Socket& socket, std::vector<iovec> chosen) {
  // A broken connection is told by the result alone.
  const int flags = static_cast<int>(sqe_.msg_flags | uint32_t{MSG_NOSIGNAL});
  if (IsZeroCopy(sqe_.opcode)) {
    if (socket.family() != AF_INET && socket.family() != AF_INET6) return Errno(EOPNOTSUPP);
  }
  MessageHeader header{};
  if (sqe_.opcode == IORING_OP_SENDMSG || sqe_.opcode == IORING_OP_SENDMSG_ZC) {
    header = TRY(HeaderAt(helper, sqe_.addr));
    chosen = TRY(MessageRanges(helper, header));
  } else {
    header.name = sqe_.addr2;
    header.name_size = sqe_.addr_len;
    if ((sqe_.flags & IOSQE_BUFFER_SELECT) == 0) {
      bool vector = (sqe_.ioprio & kVectorized) != 0;
      chosen = vector ? TRY(helper.CopyInIovecs(UserPtr<const iovec>(sqe_.addr), sqe_.len))
                      : std::vector<iovec>{Range(sqe_.addr, std::min<uint64_t>(sqe_.len, kMostBytes))};
    }
  }
  if (IsZeroCopy(sqe_.opcode) && (sqe_.ioprio & IORING_RECVSEND_FIXED_BUF) != 0) {
    for (const iovec& part : chosen) TRY(CheckFixed(reinterpret_cast<uint64_t>(part.iov_base), part.iov_len));
  }
  return SendMessageRanges(helper, socket, std::move(chosen), header, flags);
}

ErrnoOr<uint64_t> Request::Receive(Task& helper, Socket& socket, std::vector<iovec> chosen) {
  const int flags = static_cast<int>(sqe_.msg_flags);
  bool selects = (sqe_.flags & IOSQE_BUFFER_SELECT) != 0;
  MessageHeader header{};
  if (sqe_.opcode == IORING_OP_RECV) {
    if (!selects) chosen = {Range(sqe_.addr, std::min<uint64_t>(sqe_.len, kMostBytes))};
    return ReceiveMessageRanges(helper, socket, std::move(chosen), &header, flags);
  }
  header = TRY(HeaderAt(helper, sqe_.addr));
  if (several() && chosen.empty()) return Errno(EINVAL);
  if (several()) return ReceiveWithHeader(helper, socket, header, chosen.front());
  if (!selects) chosen = TRY(MessageRanges(helper, header));
  uint64_t received = TRY(ReceiveMessageRanges(helper, socket, std::move(chosen), &header, flags));
  if (header.name != 0) TRY(helper.CopyOut(UserPtr<int32_t>(sqe_.addr + offsetof(MessageHeader, name_size)), header.name_size));
  TRY(helper.CopyOut(UserPtr<int32_t>(sqe_.addr + offsetof(MessageHeader, flags)), header.flags));
  TRY(helper.CopyOut(UserPtr<uint64_t>(sqe_.addr + offsetof(MessageHeader, control_size)), header.control_size));
  return received;
}

// Several shots: each buffer begins with a header, room for the name and room for the control messages, as the submission's message has them, and the
// bytes follow (io_recvmsg_multishot()).
ErrnoOr<uint64_t> Request::ReceiveWithHeader(Task& helper, Socket& socket, const MessageHeader& wanted, iovec buffer) {
  uint64_t start = reinterpret_cast<uint64_t>(buffer.iov_base), name_room = static_cast<uint64_t>(wanted.name_size), head;
  if (wanted.control_size > INT32_MAX || __builtin_add_overflow(sizeof(HeaderOut) + name_room, wanted.control_size, &head)) return Errno(EOVERFLOW);
  if (buffer.iov_len < head) return Errno(EFAULT);
  MessageHeader header{};
  header.name = name_room != 0 ? start + sizeof(HeaderOut) : 0;
  header.name_size = wanted.name_size;
  header.control = start + sizeof(HeaderOut) + name_room;
  header.control_size = wanted.control_size;
  uint64_t room = buffer.iov_len - head;
  uint64_t received = TRY(ReceiveMessageRanges(helper, socket, {Range(start + head, room)}, &header, static_cast<int>(sqe_.msg_flags)));
  finished_ = received == 0;
  uint64_t name_size = name_room != 0 ? static_cast<uint64_t>(header.name_size) : 0;
  HeaderOut out{static_cast<uint32_t>(name_size), static_cast<uint32_t>(header.control_size), static_cast<uint32_t>(received),
                static_cast<uint32_t>(header.flags)};
  TRY(helper.CopyOut(UserPtr<HeaderOut>(start), out));
  return head + std::min(received, room);
}

}  // namespace amber
