// Sending and receiving messages with headers and ranges that the caller has in hand.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

class Socket;
class Task;

// struct msghdr with addresses as numbers.
struct MessageHeader {
  uint64_t name;
  int32_t name_size;
  uint32_t pad;
  uint64_t ranges;
  uint64_t range_count;
  uint64_t control;
  uint64_t control_size;
  int32_t flags;
  uint32_t pad2;
};

// The ranges of a message, copied in and checked. EMSGSIZE for too many.
ErrnoOr<std::vector<iovec>> MessageRanges(Task& task, const MessageHeader& header);
// Bytes moved; both may Block(), and keep what is done in syscall().done. `flags`: MSG_*. Kernel lock held.
ErrnoOr<uint64_t> SendMessageRanges(Task& task, Socket& socket, std::vector<iovec> ranges, const MessageHeader& header, int flags);
// `header` says where name and control go, and how much room there is; then how long they are (the name in full), and the flags.
ErrnoOr<uint64_t> ReceiveMessageRanges(Task& task, Socket& socket, std::vector<iovec> ranges, MessageHeader* header, int flags);

}  // namespace amber
