// What can be wrong with a submission before it begins.
#include <fcntl.h>
#include <sys/socket.h>

#include <cerrno>

#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/io_uring/request.h"

namespace amber {
namespace {

constexpr uint8_t kKnownFlags = 0x7f;

// Fields that an operation does not look at must be zero, or a later kernel could not give them a meaning.
bool HasStrayFields(const io_uring_sqe& s) {
  switch (s.opcode) {
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT: return s.buf_index != 0 || s.len != 1 || s.splice_fd_in != 0 || (s.opcode == IORING_OP_LINK_TIMEOUT && s.off != 0);
    case IORING_OP_TIMEOUT_REMOVE: return s.buf_index != 0 || s.len != 0 || s.splice_fd_in != 0;
    case IORING_OP_POLL_ADD: return s.buf_index != 0 || s.off != 0 || s.addr != 0;
    case IORING_OP_POLL_REMOVE: return s.buf_index != 0 || s.splice_fd_in != 0;
    case IORING_OP_ASYNC_CANCEL: return s.off != 0 || s.splice_fd_in != 0;
    case IORING_OP_ACCEPT: return s.len != 0 || s.buf_index != 0;
    case IORING_OP_FSYNC: return s.addr != 0 || s.buf_index != 0 || s.splice_fd_in != 0 || (s.fsync_flags & ~uint32_t{IORING_FSYNC_DATASYNC}) != 0;
    case IORING_OP_CONNECT: return s.len != 0 || s.buf_index != 0 || s.rw_flags != 0 || s.splice_fd_in != 0;
    case IORING_OP_OPENAT:
    case IORING_OP_OPENAT2: return s.buf_index != 0;
    case IORING_OP_SOCKET: return s.addr != 0 || s.rw_flags != 0 || s.buf_index != 0;
    case IORING_OP_CLOSE: return s.off != 0 || s.addr != 0 || s.len != 0 || s.rw_flags != 0 || s.buf_index != 0 || (s.file_index != 0 && s.fd != 0);
    case IORING_OP_PROVIDE_BUFFERS: return s.rw_flags != 0 || s.splice_fd_in != 0;
    case IORING_OP_REMOVE_BUFFERS: return s.rw_flags != 0 || s.addr != 0 || s.len != 0 || s.off != 0 || s.splice_fd_in != 0;
    case IORING_OP_FILES_UPDATE: return s.rw_flags != 0 || s.splice_fd_in != 0 || s.len == 0 || (s.flags & IOSQE_FIXED_FILE) != 0;
    case kOpReadMultishot: return s.addr != 0 || s.len != 0 || (s.flags & IOSQE_BUFFER_SELECT) == 0;
    case kOpFixedFdInstall: return s.off != 0 || s.addr != 0 || s.len != 0 || s.buf_index != 0 || s.splice_fd_in != 0 || s.addr3 != 0;
    case kOpFtruncate: return s.rw_flags != 0 || s.addr != 0 || s.len != 0 || s.buf_index != 0 || s.splice_fd_in != 0 || s.addr3 != 0;
    case kOpBind: return s.len != 0 || s.buf_index != 0 || s.rw_flags != 0 || s.splice_fd_in != 0;
    case kOpListen: return s.addr != 0 || s.buf_index != 0 || s.rw_flags != 0 || s.splice_fd_in != 0 || s.addr2 != 0;
    case IORING_OP_FSETXATTR:
    case IORING_OP_FGETXATTR:
    case IORING_OP_SETXATTR:
    case IORING_OP_GETXATTR: return (s.flags & IOSQE_FIXED_FILE) != 0 && s.opcode != IORING_OP_FSETXATTR && s.opcode != IORING_OP_FGETXATTR;
    case IORING_OP_TEE: return s.splice_off_in != 0 || s.off != 0;
    case IORING_OP_MADVISE:
    case IORING_OP_FADVISE: return s.buf_index != 0 || s.splice_fd_in != 0;
    case IORING_OP_URING_CMD: return s.off >> 32 != 0;
    case kOpWaitid: return s.addr != 0 || s.buf_index != 0 || s.addr3 != 0 || s.rw_flags != 0;
    case kOpEpollWait: return s.off != 0 || s.rw_flags != 0 || s.buf_index != 0 || s.splice_fd_in != 0;
    case kOpPipe: return s.off != 0 || s.addr3 != 0;
    case IORING_OP_SHUTDOWN: return s.off != 0 || s.addr != 0 || s.rw_flags != 0 || s.buf_index != 0 || s.splice_fd_in != 0;
    default: return false;
  }
}

bool HasUnknownFlags(const io_uring_sqe& s) {
  constexpr uint32_t kTimes = IORING_TIMEOUT_ABS | IORING_TIMEOUT_CLOCK_MASK | IORING_TIMEOUT_ETIME_SUCCESS;
  switch (s.opcode) {
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
      // One clock of the two.
      if ((s.timeout_flags & kTimeoutMultishot) != 0 && (s.opcode != IORING_OP_TIMEOUT || (s.timeout_flags & IORING_TIMEOUT_ABS) != 0)) return true;
      return (s.timeout_flags & ~(kTimes | kTimeoutMultishot)) != 0 || (s.timeout_flags & IORING_TIMEOUT_CLOCK_MASK) == IORING_TIMEOUT_CLOCK_MASK;
    case IORING_OP_TIMEOUT_REMOVE:
      return (s.timeout_flags & ~(IORING_TIMEOUT_UPDATE_MASK | IORING_TIMEOUT_ABS)) != 0 || s.timeout_flags == IORING_TIMEOUT_ABS;
    case IORING_OP_ASYNC_CANCEL: {
      bool some = (s.cancel_flags & (IORING_ASYNC_CANCEL_FD | kCancelOp)) != 0;
      return (s.cancel_flags & ~kCancelFlags) != 0 || (some && (s.cancel_flags & IORING_ASYNC_CANCEL_ANY) != 0);
    }
    case IORING_OP_POLL_ADD:
      // Not IORING_POLL_ADD_LEVEL.
      return (s.len & ~uint32_t{IORING_POLL_ADD_MULTI}) != 0 || (s.len != 0 && (s.flags & IOSQE_CQE_SKIP_SUCCESS) != 0);
    case IORING_OP_POLL_REMOVE: {
      constexpr uint32_t kUpdates = IORING_POLL_UPDATE_EVENTS | IORING_POLL_UPDATE_USER_DATA;
      if ((s.len & ~(kUpdates | IORING_POLL_ADD_MULTI)) != 0 || s.len == IORING_POLL_ADD_MULTI) return true;
      if ((s.len & IORING_POLL_UPDATE_USER_DATA) == 0 && s.off != 0) return true;
      return (s.len & IORING_POLL_UPDATE_EVENTS) == 0 && s.poll32_events != 0;
    }
    case IORING_OP_ACCEPT: {
      bool several = (s.ioprio & IORING_ACCEPT_MULTISHOT) != 0;
      if ((s.ioprio & ~(IORING_ACCEPT_MULTISHOT | kAcceptDontWait | kAcceptPollFirst)) != 0 ||
          (s.file_index != 0 && (s.accept_flags & SOCK_CLOEXEC) != 0))
        return true;
      return several && s.file_index != 0 && s.file_index != IORING_FILE_INDEX_ALLOC;
    }
    case IORING_OP_OPENAT: return s.file_index != 0 && (s.open_flags & O_CLOEXEC) != 0;
    case IORING_OP_SOCKET: return s.file_index != 0 && (s.off & SOCK_CLOEXEC) != 0;
    case IORING_OP_SEND: return (s.ioprio & ~(IORING_RECVSEND_POLL_FIRST | kBundle | kVectorized)) != 0;
    case IORING_OP_SENDMSG: return (s.ioprio & ~IORING_RECVSEND_POLL_FIRST) != 0;
    case IORING_OP_SEND_ZC:
      if ((s.ioprio & ~(IORING_RECVSEND_POLL_FIRST | IORING_RECVSEND_FIXED_BUF | kReportUsage | kVectorized)) != 0) return true;
      return (s.flags & IOSQE_CQE_SKIP_SUCCESS) != 0 || s.addr3 != 0;
    case IORING_OP_SENDMSG_ZC:
      return (s.ioprio & ~(IORING_RECVSEND_POLL_FIRST | IORING_RECVSEND_FIXED_BUF | kReportUsage)) != 0 || (s.flags & IOSQE_CQE_SKIP_SUCCESS) != 0 ||
             s.addr3 != 0;
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG:
      if ((s.ioprio & ~(IORING_RECVSEND_POLL_FIRST | IORING_RECV_MULTISHOT | (s.opcode == IORING_OP_RECV ? kBundle : 0))) != 0) return true;
      return (s.ioprio & IORING_RECV_MULTISHOT) != 0 && ((s.flags & IOSQE_BUFFER_SELECT) == 0 || (s.msg_flags & MSG_WAITALL) != 0);
    case kOpFixedFdInstall: return (s.rw_flags & ~1) != 0;  // IORING_FIXED_FD_NO_CLOEXEC
    case IORING_OP_NOP: return (static_cast<uint32_t>(s.rw_flags) & ~(kNopInjectResult | kNopTaskWork)) != 0;
    case IORING_OP_SPLICE:
    case IORING_OP_TEE: return (s.splice_flags & ~(kSpliceFdInFixed | SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT)) != 0;
    case kOpPipe: return (static_cast<uint32_t>(s.rw_flags) & ~(O_CLOEXEC | O_NONBLOCK | O_DIRECT)) != 0;
    default: return false;
  }
}

}  // namespace

int Request::Check() {
  if (!IsKnown(sqe_.opcode) || (sqe_.flags & ~kKnownFlags) != 0) return error_ = EINVAL;
  bool chooses = sqe_.opcode == IORING_OP_READ || sqe_.opcode == IORING_OP_READV || sqe_.opcode == IORING_OP_SEND || sqe_.opcode == IORING_OP_RECV ||
                 sqe_.opcode == IORING_OP_RECVMSG || sqe_.opcode == kOpReadMultishot;
  if ((sqe_.flags & IOSQE_BUFFER_SELECT) != 0 && !chooses) return error_ = EOPNOTSUPP;
  if (!ring_->Allows(sqe_)) return error_ = EACCES;
  bool has_flags = IsReadWrite(sqe_.opcode) || IsMessage(sqe_.opcode) || sqe_.opcode == IORING_OP_ACCEPT;
  if (sqe_.ioprio != 0 && !has_flags) return error_ = EINVAL;
  // ioprio_check_cap(): classes are kept nowhere, but malformed ones are told.
  int io_class = sqe_.ioprio >> 13;
  if (IsReadWrite(sqe_.opcode) && (io_class > 3 || (io_class == 0 && sqe_.ioprio != 0))) return error_ = EINVAL;
  if (HasStrayFields(sqe_) || HasUnknownFlags(sqe_)) return error_ = EINVAL;
  if (sqe_.personality != 0) {
    creds_ = ring_->Personality(sqe_.personality);
    if (!creds_) return error_ = EINVAL;
  } else if (ring_->polls()) {
    creds_ = ring_->poller_creds();
  }
  // Descriptors are made by the task itself.
  if (sqe_.opcode == kOpFixedFdInstall && sqe_.personality != 0) return error_ = EPERM;
  if (sqe_.opcode == kOpFixedFdInstall && (sqe_.flags & IOSQE_FIXED_FILE) == 0) return error_ = EBADF;
  if ((sqe_.flags & IOSQE_FIXED_FILE) != 0 && !TakesFile(sqe_.opcode)) {
    bool by_path = sqe_.opcode != IORING_OP_NOP && sqe_.opcode != IORING_OP_MSG_RING && sqe_.opcode != IORING_OP_ASYNC_CANCEL;
    return error_ = by_path ? EBADF : 0;
  }
  return 0;
}

}  // namespace amber
