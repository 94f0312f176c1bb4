// sendmsg, recvmsg and their kin. Progress of a blocked call is kept in syscall(): bytes of the message for the plain calls,
// whole messages (`done`) and bytes of the present one (`scratch[1]`) for sendmmsg and recvmmsg.
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstddef>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/messages.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/socket_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kMaxMessages = 1024;        // UIO_MAXIOV
constexpr int64_t kMessagesRound = 5'000'000;  // ns that sendmmsg goes on for before others have their turn
constexpr int kCmsgCompat = 0x80000000;        // MSG_CMSG_COMPAT: the kernel's own

static_assert(sizeof(MessageHeader) == sizeof(msghdr) && offsetof(MessageHeader, control) == offsetof(msghdr, msg_control));

struct MultiHeader {
  MessageHeader header;
  uint32_t size;
  uint32_t pad;
};
static_assert(sizeof(MultiHeader) == sizeof(mmsghdr));

size_t TotalSize(const std::vector<iovec>& ranges) {
  size_t total = 0;
  for (const iovec& r : ranges) total += r.iov_len;
  return total;
}

bool DontWait(const Socket& socket, int flags) { return socket.nonblocking() || (flags & MSG_DONTWAIT) != 0; }

// Sends all of `ranges`; `progress` keeps what went in earlier rounds.
ErrnoOr<uint64_t> SendAll(Task& task, Socket& socket, std::vector<iovec> ranges, const MessageHeader& header, int flags, uint64_t& progress) {
  SkipBytes(&ranges, progress);
  size_t left = TotalSize(ranges);
  UserSource source(task, std::move(ranges));
  SendRequest request{source};
  request.flags = flags;
  if (header.name != 0 && header.name_size > 0) {
    int size = std::min<int>(header.name_size, sizeof(sockaddr_storage));
    request.address = TRY(CopyInAddress(task, UserPtr<const void>(header.name), size));
  }
  // Descriptors travel with the first byte.
  if (header.control_size > 0 && progress == 0) {
    TRY(ParseControl(task, socket, UserPtr<const void>(header.control), header.control_size, &request));
  }
  for (;;) {
    auto sent = socket.Send(task, request);
    if (sent.ok()) {
      progress += *sent;
      left -= *sent;
      if (left == 0 || *sent == 0 || !socket.is_stream()) return progress;
      continue;
    }
    if (sent.error().number() != EAGAIN) return progress > 0 ? ErrnoOr<uint64_t>(progress) : sent.error();
    if (DontWait(socket, flags) || task.syscall().timed_out) return progress > 0 ? ErrnoOr<uint64_t>(progress) : Errno(EAGAIN);
    return BlockForIo(task, socket, POLLOUT);
  }
}

ErrnoOr<std::vector<iovec>> RangesOf(Task& task, const MessageHeader& header) {
  if (header.range_count > kMaxMessages) return Errno(EMSGSIZE);  // UIO_MAXIOV; not EINVAL as elsewhere (copy_msghdr_from_user).
  return task.CopyInIovecs(UserPtr<const iovec>(header.ranges), header.range_count);
}

ErrnoOr<uint64_t> SendTo(Task& task, int fd, UserPtr<const void> data, uint64_t size, int flags, UserPtr<const void> address, int address_size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  MessageHeader header{};
  header.name = address.address();
  header.name_size = address_size;
  // Unlike sendmsg(2), which cuts what is too long and takes no length for no address (move_addr_to_kernel(), udp_sendmsg(), ping_common_sendmsg()).
  if (address && (address_size < 0 || address_size > static_cast<int>(sizeof(sockaddr_storage)))) return Errno(EINVAL);
  bool inet = socket->family() == AF_INET || socket->family() == AF_INET6;
  if (address && address_size == 0 && inet && socket->type() == SOCK_DGRAM) return Errno(EINVAL);
  std::vector<iovec> ranges{{reinterpret_cast<void*>(data.address()), std::min<uint64_t>(size, 0x7ffff000)}};
  return SendAll(task, *socket, std::move(ranges), header, flags, task.syscall().done);
}

ErrnoOr<uint64_t> SendMsg(Task& task, int fd, UserPtr<const MessageHeader> p, int flags) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  MessageHeader header = TRY(task.CopyIn(p));
  if (header.name_size < 0) return Errno(EINVAL);
  std::vector<iovec> ranges = TRY(RangesOf(task, header));
  return SendAll(task, *socket, std::move(ranges), header, flags, task.syscall().done);
}

ErrnoOr<uint64_t> SendMMsg(Task& task, int fd, UserPtr<MultiHeader> p, uint32_t count, int flags) {
  if ((flags & kCmsgCompat) != 0) return Errno(EINVAL);
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  count = std::min(count, kMaxMessages);
  BeginRound(task);
  int64_t end = task.kernel().clocks().Monotonic() + kMessagesRound;
  uint64_t& done = task.syscall().done;
  uint64_t& bytes = task.syscall().scratch[1];
  auto one = [&](UserPtr<MultiHeader> at) -> ErrnoOr<uint64_t> {
    MultiHeader m = TRY(task.CopyIn(at));
    if (m.header.name_size < 0) return Errno(EINVAL);
    std::vector<iovec> ranges = TRY(RangesOf(task, m.header));
    uint64_t sent = TRY(SendAll(task, *socket, std::move(ranges), m.header, flags, bytes));
    TRY(task.CopyOut(UserPtr<uint32_t>(at.address() + offsetof(MultiHeader, size)), static_cast<uint32_t>(sent)));
    return sent;
  };
  while (done < count) {
    auto sent = one(p + done);
    if (!sent.ok()) {
      if (sent.error() == kBlocked || done == 0) return sent.error();
      break;
    }
    bytes = 0;
    ++done;
    // As in Linux (cond_resched()): each message may cost much.
    if (done < count && task.kernel().clocks().Monotonic() > end) return GoOn(task);
  }
  return done;
}

// Receives into `ranges`. With MSG_WAITALL a stream fills them, `progress` keeping what came in earlier rounds.
ErrnoOr<uint64_t> ReceiveAll(Task& task, Socket& socket, std::vector<iovec> ranges, ReceiveRequest* out, uint64_t& progress) {
  bool wait_all = (out->flags & MSG_WAITALL) != 0 && (out->flags & MSG_PEEK) == 0 && socket.is_stream();
  SkipBytes(&ranges, progress);
  size_t wanted = TotalSize(ranges);
  UserSink sink(task, std::move(ranges));
  for (;;) {
    ReceiveRequest request{sink};
    request.flags = out->flags;
    auto got = socket.Receive(task, request);
    if (got.ok()) {
      progress += *got;
      wanted -= std::min(wanted, *got);
      out->address = std::move(request.address);
      out->out_flags = request.out_flags;
      out->full_size = request.full_size;
      out->credentials = request.credentials;
      out->rights = std::move(request.rights);
      out->wants_pidfd = request.wants_pidfd;
      out->process = std::move(request.process);
      out->control = std::move(request.control);
      if (!wait_all || wanted == 0 || *got == 0 || !out->rights.empty()) return progress;
      continue;
    }
    if (got.error().number() != EAGAIN) return progress > 0 ? ErrnoOr<uint64_t>(progress) : got.error();
    // Nobody waits for what the error queue may get.
    if (DontWait(socket, out->flags) || (out->flags & MSG_ERRQUEUE) != 0 || task.syscall().timed_out) {
      return progress > 0 ? ErrnoOr<uint64_t>(progress) : Errno(EAGAIN);
    }
    return BlockForIo(task, socket, POLLIN);
  }
}

uint64_t ResultSize(const ReceiveRequest& request, uint64_t received, const Socket& socket) {
  // MSG_TRUNC asks for the real length of a datagram.
  return (request.flags & MSG_TRUNC) != 0 && !socket.is_stream() ? request.full_size : received;
}

ErrnoOr<uint64_t> RecvFrom(Task& task, int fd, UserPtr<void> data, uint64_t size, int flags, UserPtr<void> address, UserPtr<int> address_size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  std::vector<iovec> ranges{{reinterpret_cast<void*>(data.address()), std::min<uint64_t>(size, 0x7ffff000)}};
  BufferSink none(nullptr, 0);
  ReceiveRequest out{none};
  out.flags = flags;
  uint64_t received = TRY(ReceiveAll(task, *socket, std::move(ranges), &out, task.syscall().done));
  if (address) TRY(CopyOutAddress(task, out.address, address, address_size));
  return ResultSize(out, received, *socket);
}

ErrnoOr<uint64_t> ReceiveRanges(Task& task, Socket& socket, std::vector<iovec> ranges, MessageHeader* header, int flags, uint64_t& progress) {
  BufferSink none(nullptr, 0);
  ReceiveRequest out{none};
  out.flags = flags;
  uint64_t received = TRY(ReceiveAll(task, socket, std::move(ranges), &out, progress));
  header->flags = out.out_flags | (flags & MSG_CMSG_CLOEXEC);
  header->control_size =
      TRY(DeliverControl(task, out, UserPtr<void>(header->control), header->control_size, (flags & MSG_CMSG_CLOEXEC) != 0, &header->flags));
  if (header->name != 0) {
    size_t copied = std::min(out.address.size(), static_cast<size_t>(header->name_size));
    if (copied > 0) TRY(task.CopyOutBytes(header->name, out.address.data(), copied));
    header->name_size = static_cast<int>(out.address.size());
  }
  return ResultSize(out, received, socket);
}

// One message into the msghdr at `p`.
ErrnoOr<uint64_t> ReceiveMessage(Task& task, Socket& socket, UserPtr<MessageHeader> p, int flags, uint64_t& progress) {
  MessageHeader header = TRY(task.CopyIn(p));
  if (header.name_size < 0) return Errno(EINVAL);
  std::vector<iovec> ranges = TRY(RangesOf(task, header));
  uint64_t received = TRY(ReceiveRanges(task, socket, std::move(ranges), &header, flags, progress));
  if (header.name != 0) TRY(task.CopyOut(UserPtr<int>(p.address() + offsetof(MessageHeader, name_size)), header.name_size));
  TRY(task.CopyOut(UserPtr<int>(p.address() + offsetof(MessageHeader, flags)), header.flags));
  TRY(task.CopyOut(UserPtr<uint64_t>(p.address() + offsetof(MessageHeader, control_size)), header.control_size));
  return received;
}

ErrnoOr<uint64_t> RecvMsg(Task& task, int fd, UserPtr<MessageHeader> p, int flags) {
  if ((flags & kCmsgCompat) != 0) return Errno(EINVAL);
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  return ReceiveMessage(task, *socket, p, flags, task.syscall().done);
}

ErrnoOr<uint64_t> RecvMMsg(Task& task, int fd, UserPtr<MultiHeader> p, uint32_t count, int flags, UserPtr<timespec> timeout) {
  if ((flags & kCmsgCompat) != 0) return Errno(EINVAL);
  int64_t limit = TRY(CopyInTimeout(task, UserPtr<const timespec>(timeout.address())));
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  count = std::min(count, kMaxMessages);
  SyscallState& call = task.syscall();
  // As on Linux the time-out is looked at between messages only (recvmmsg(2), BUGS).
  if (!call.restarted) call.scratch[2] = static_cast<uint64_t>(DeadlineAfter(task, limit));
  int64_t end = static_cast<int64_t>(call.scratch[2]);
  while (call.done < count) {
    int now_flags = flags & ~MSG_WAITFORONE;
    if ((flags & MSG_WAITFORONE) != 0 && call.done > 0) now_flags |= MSG_DONTWAIT;
    UserPtr<MultiHeader> at = p + call.done;
    auto got = ReceiveMessage(task, *socket, at.Cast<MessageHeader>(), now_flags, call.scratch[1]);
    if (!got.ok()) {
      if (got.error() == kBlocked || call.done == 0) return got.error();
      break;
    }
    TRY(task.CopyOut(UserPtr<uint32_t>(at.address() + offsetof(MultiHeader, size)), static_cast<uint32_t>(*got)));
    call.scratch[1] = 0;
    ++call.done;
    if (end != kNever && task.kernel().clocks().Monotonic() >= end) break;
  }
  // __sys_recvmmsg(): the caller learns how much time is left.
  if (end != kNever) TRY(task.CopyOut(timeout, ToTimespec(std::max<int64_t>(end - task.kernel().clocks().Monotonic(), 0))));
  return call.done;
}

}  // namespace

ErrnoOr<std::vector<iovec>> MessageRanges(Task& task, const MessageHeader& header) { return RangesOf(task, header); }

ErrnoOr<uint64_t> SendMessageRanges(Task& task, Socket& socket, std::vector<iovec> ranges, const MessageHeader& header, int flags) {
  return SendAll(task, socket, std::move(ranges), header, flags, task.syscall().done);
}

ErrnoOr<uint64_t> ReceiveMessageRanges(Task& task, Socket& socket, std::vector<iovec> ranges, MessageHeader* header, int flags) {
  return ReceiveRanges(task, socket, std::move(ranges), header, flags, task.syscall().done);
}

void RegisterMessageCalls(SyscallTable& table) {
  table.Set(SYS_sendto, Full<&SendTo>());
  table.Set(SYS_sendmsg, Full<&SendMsg>());
  table.Set(SYS_sendmmsg, Full<&SendMMsg>());
  table.Set(SYS_recvfrom, Full<&RecvFrom>());
  table.Set(SYS_recvmsg, Full<&RecvMsg>());
  table.Set(SYS_recvmmsg, Full<&RecvMMsg>());
}

}  // namespace amber
