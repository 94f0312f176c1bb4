#include "sentry/io_uring/operations.h"

#include <sys/syscall.h>

#include <algorithm>

namespace amber {

bool IsReadWrite(uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_READV:
    case IORING_OP_WRITEV:
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case kOpReadvFixed:
    case kOpWritevFixed: return true;
    default: return false;
  }
}

bool MustBeWhole(uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_SPLICE:
    case IORING_OP_TEE: return true;
    default: return false;
  }
}

bool IsZeroCopy(uint8_t opcode) { return opcode == IORING_OP_SEND_ZC || opcode == IORING_OP_SENDMSG_ZC; }

bool IsMessage(uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG: return true;
    default: return IsZeroCopy(opcode);
  }
}

bool TakesFile(uint8_t opcode) {
  switch (opcode) {
    case IORING_OP_FSYNC:
    case IORING_OP_POLL_ADD:
    case IORING_OP_SYNC_FILE_RANGE:
    case IORING_OP_ACCEPT:
    case IORING_OP_CONNECT:
    case IORING_OP_FALLOCATE:
    case IORING_OP_FADVISE:
    case IORING_OP_SHUTDOWN:
    case IORING_OP_FSETXATTR:
    case IORING_OP_FGETXATTR:
    case IORING_OP_SPLICE:
    case IORING_OP_TEE:
    case IORING_OP_URING_CMD:
    case kOpReadMultishot:
    case kOpFixedFdInstall:
    case kOpFtruncate:
    case kOpBind:
    case kOpListen:
    case kOpEpollWait: return true;
    default: return IsReadWrite(opcode) || IsMessage(opcode);
  }
}

bool IsKnown(uint8_t opcode) {
  OperationCall call;
  io_uring_sqe sqe{};
  sqe.opcode = opcode;
  switch (opcode) {
    case IORING_OP_NOP:
    case IORING_OP_POLL_ADD:
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_TIMEOUT:
    case IORING_OP_TIMEOUT_REMOVE:
    case IORING_OP_ASYNC_CANCEL:
    case IORING_OP_LINK_TIMEOUT:
    case IORING_OP_PROVIDE_BUFFERS:
    case IORING_OP_REMOVE_BUFFERS:
    case IORING_OP_FILES_UPDATE:
    case IORING_OP_SPLICE:
    case IORING_OP_TEE:
    case IORING_OP_MSG_RING:
    case IORING_OP_URING_CMD:
    case kOpReadMultishot:
    case kOpFixedFdInstall: return true;
    default: return IsReadWrite(opcode) || IsMessage(opcode) || CallOf(sqe, 0, &call);
  }
}

bool CallOf(const io_uring_sqe& s, int descriptor, OperationCall* out) {
  uint64_t fd = static_cast<uint64_t>(static_cast<int64_t>(descriptor));
  auto is = [&](uint64_t number, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0, uint64_t d = 0, uint64_t e = 0, uint64_t f = 0) {
    *out = {number, {a, b, c, d, e, f}};
    return true;
  };
  switch (s.opcode) {
    case IORING_OP_FSYNC: return is((s.fsync_flags & IORING_FSYNC_DATASYNC) != 0 ? SYS_fdatasync : SYS_fsync, fd);
    case IORING_OP_SYNC_FILE_RANGE: return is(SYS_sync_file_range, fd, s.off, s.len, s.sync_range_flags);
    case IORING_OP_ACCEPT: return is(SYS_accept4, fd, s.addr, s.addr2, s.accept_flags);
    case IORING_OP_CONNECT: return is(SYS_connect, fd, s.addr, s.addr2);
    case IORING_OP_FALLOCATE: return is(SYS_fallocate, fd, s.len, s.off, s.addr);
    case IORING_OP_OPENAT: return is(SYS_openat, fd, s.addr, s.open_flags, s.len);
    case IORING_OP_OPENAT2: return is(437 /* openat2 */, fd, s.addr, s.addr2, s.len);
    case IORING_OP_CLOSE: return is(SYS_close, fd);
    case IORING_OP_STATX: return is(SYS_statx, fd, s.addr, s.statx_flags, s.len, s.addr2);
    // A length of 64 bits lies where others have an address.
    case IORING_OP_FADVISE: return is(SYS_fadvise64, fd, s.off, s.addr != 0 ? s.addr : s.len, s.fadvise_advice);
    case IORING_OP_EPOLL_CTL: return is(SYS_epoll_ctl, fd, s.len, s.off, s.addr);
    case IORING_OP_SHUTDOWN: return is(SYS_shutdown, fd, s.len);
    case IORING_OP_RENAMEAT: return is(SYS_renameat2, fd, s.addr, s.len, s.addr2, s.rename_flags);
    case IORING_OP_UNLINKAT: return is(SYS_unlinkat, fd, s.addr, s.unlink_flags);
    case IORING_OP_MKDIRAT: return is(SYS_mkdirat, fd, s.addr, s.len);
    case IORING_OP_SYMLINKAT: return is(SYS_symlinkat, s.addr, fd, s.addr2);
    case IORING_OP_LINKAT: return is(SYS_linkat, fd, s.addr, s.len, s.addr2, s.hardlink_flags);
    case IORING_OP_SOCKET: return is(SYS_socket, fd, s.off, s.len);
    case IORING_OP_SETXATTR: return is(SYS_setxattr, s.addr3, s.addr, s.addr2, s.len, s.xattr_flags);
    case IORING_OP_FSETXATTR: return is(SYS_fsetxattr, fd, s.addr, s.addr2, s.len, s.xattr_flags);
    case IORING_OP_GETXATTR: return is(SYS_getxattr, s.addr3, s.addr, s.addr2, s.len);
    case IORING_OP_FGETXATTR: return is(SYS_fgetxattr, fd, s.addr, s.addr2, s.len);
    case kOpFtruncate: return is(SYS_ftruncate, fd, s.off);
    case kOpBind: return is(SYS_bind, fd, s.addr, s.addr2);
    case kOpListen: return is(SYS_listen, fd, s.len);
    case kOpWaitid: return is(SYS_waitid, s.len, fd, s.addr2, s.file_index);
    case kOpEpollWait: return is(SYS_epoll_wait, fd, s.addr, s.len, ~uint64_t{0});
    case IORING_OP_MADVISE: return is(SYS_madvise, s.addr, s.off != 0 ? s.off : s.len, s.fadvise_advice);
    case kOpPipe: return is(SYS_pipe2, s.addr, s.rw_flags);
    default: return false;
  }
}

}  // namespace amber
