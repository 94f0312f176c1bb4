// io_uring: descriptors in slots of the ring, sends that say when their memory is free, and operations that came later.
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"
#include "test/harness/rings.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

constexpr int kFixedFdInstall = 54, kFtruncate = 55, kBind = 56, kListen = 57;
constexpr unsigned kFiles2 = 13;

}  // namespace

GUEST_TEST(IoUringSlots, FilesAreOpenedIntoThem) {
  Ring ring;
  TempDir dir;
  struct {
    uint32_t count, flags;
    uint64_t reserved, data, tags;
  } sparse = {4, IORING_RSRC_REGISTER_SPARSE, 0, 0, 0};
  io_uring_sqe& early = ring.Next(IORING_OP_SOCKET, AF_UNIX, 1);
  early.off = SOCK_STREAM;
  early.file_index = 1;
  MUST(ring.Submit(1));
  ring.ExpectNext(1, -ENXIO);
  MUST(syscall(kRegister, ring.fd, kFiles2, &sparse, sizeof(sparse)));
  EXPECT_ERRNO(syscall(kRegister, ring.fd, kFiles2, &sparse, sizeof(sparse)), EBUSY);

  const int before = MUST(dup(0));
  close(before);
  const Str path = dir / "f";
  io_uring_sqe& open_it = ring.Buffer(IORING_OP_OPENAT, AT_FDCWD, 2, static_cast<const char*>(path), 0600);
  open_it.open_flags = O_RDWR | O_CREAT;
  open_it.file_index = 3;
  MUST(ring.Submit(1));
  ring.ExpectNext(2, 0);
  CheckpointHere();
  ring.Buffer(IORING_OP_WRITE, 2, 3, "text", 4).flags = IOSQE_FIXED_FILE;
  MUST(ring.Submit(1));
  ring.ExpectNext(3, 4);
  const int after = MUST(dup(0));
  EXPECT_EQ(after, before);  // no descriptor was used
  io_uring_sqe& any = ring.Next(IORING_OP_SOCKET, AF_UNIX, 4);
  any.off = SOCK_STREAM;
  any.file_index = IORING_FILE_INDEX_ALLOC;
  MUST(ring.Submit(1));
  ring.ExpectNext(4, 3);  // the next behind the one that was filled last
  io_uring_sqe& far = ring.Next(IORING_OP_SOCKET, AF_UNIX, 5);
  far.off = SOCK_STREAM;
  far.file_index = 9;
  MUST(ring.Submit(1));
  ring.ExpectNext(5, -EINVAL);
  io_uring_sqe& closing = ring.Next(IORING_OP_SOCKET, AF_UNIX, 6);
  closing.off = SOCK_STREAM | SOCK_CLOEXEC;
  closing.file_index = 1;
  MUST(ring.Submit(1));
  ring.ExpectNext(6, -EINVAL);
  // One of them becomes a descriptor.
  ring.Next(kFixedFdInstall, 2, 7).flags = IOSQE_FIXED_FILE;
  MUST(ring.Submit(1));
  const int made = ring.Take().res;
  EXPECT_EQ(fcntl(made, F_GETFD), FD_CLOEXEC);
  char text[8];
  EXPECT_EQ(pread(made, text, sizeof(text), 0), 4);
  ring.Next(kFixedFdInstall, made, 8);
  MUST(ring.Submit(1));
  ring.ExpectNext(8, -EBADF);
  ring.Next(IORING_OP_CLOSE, 0, 9).file_index = 3;
  ring.Next(IORING_OP_CLOSE, 0, 10).file_index = 3;
  ring.Next(IORING_OP_CLOSE, 0, 11).file_index = 30;
  for (int i = 0; i < 3; i++) MUST(ring.Submit(1));
  ring.ExpectInAnyOrder({{9, 0}, {10, -EBADF}, {11, -EINVAL}});
  // FILES_UPDATE puts descriptors into slots, given ones or free ones.
  int fds[2] = {made, made};
  ring.Buffer(IORING_OP_FILES_UPDATE, -1, 12, fds, 2, 2);
  MUST(ring.Submit(1));
  ring.ExpectNext(12, 2);
  ring.Buffer(IORING_OP_FILES_UPDATE, -1, 13, fds, 1, IORING_FILE_INDEX_ALLOC);
  MUST(ring.Submit(1));
  ring.ExpectNext(13, 1);
  EXPECT_EQ(fds[0], 0);
  ring.Buffer(IORING_OP_READ, 0, 14, text, 4).flags = IOSQE_FIXED_FILE;
  MUST(ring.Submit(1));
  ring.ExpectNext(14, 4);
}

GUEST_TEST(IoUringSlots, AcceptedConnectionsGoThere) {
  Ring ring;
  int none[3] = {-1, -1, -1};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_FILES, none, 3));
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  io_uring_sqe& sqe = ring.Next(IORING_OP_ACCEPT, listener, 1);
  sqe.ioprio = IORING_ACCEPT_MULTISHOT;
  sqe.file_index = IORING_FILE_INDEX_ALLOC;
  MUST(ring.Submit());
  for (int i = 0; i < 3; i++) {
    const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    ExpectNext(ring, 1, i, kMore);
    MUST(write(client, "x", 1));
    char c = 0;
    ring.Buffer(IORING_OP_RECV, i, 2, &c, 1).flags = IOSQE_FIXED_FILE;
    MUST(ring.Submit(1));
    ring.ExpectNext(2, 1);
    EXPECT_EQ(c, 'x');
  }
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  ExpectNext(ring, 1, -ENFILE, 0);
}

GUEST_TEST(IoUringCalls, NewerOnes) {
  Ring ring;
  TempDir dir;
  WriteFile(dir / "f", "0123456789");
  const int file = MUST(open(dir / "f", O_RDWR));
  ring.Next(kFtruncate, file, 1).off = 4;
  MUST(ring.Submit(1));
  ring.ExpectNext(1, 0);
  struct stat st;
  MUST(fstat(file, &st));
  EXPECT_EQ(st.st_size, 4);
  const int socket_fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in any = {};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  io_uring_sqe& bind_it = ring.Next(kBind, socket_fd, 2);
  bind_it.addr = reinterpret_cast<uint64_t>(&any);
  bind_it.addr2 = sizeof(any);
  MUST(ring.Submit(1));
  ring.ExpectNext(2, 0);
  ring.Next(kListen, socket_fd, 3).len = 5;
  MUST(ring.Submit(1));
  ring.ExpectNext(3, 0);
  int listening = 0;
  socklen_t size = sizeof(listening);
  MUST(getsockopt(socket_fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size));
  EXPECT_EQ(listening, 1);
  io_uring_sqe& set = ring.Buffer(IORING_OP_FSETXATTR, file, 4, "user.a", 3);
  set.addr2 = reinterpret_cast<uint64_t>("one");
  MUST(ring.Submit(1));
  const int result = ring.Take().res;
  if (result == -EOPNOTSUPP) return;
  EXPECT_EQ(result, 0);
  char value[8] = {};
  const Str path = dir / "f";
  io_uring_sqe& get = ring.Buffer(IORING_OP_GETXATTR, 0, 5, "user.a", sizeof(value));
  get.addr2 = reinterpret_cast<uint64_t>(value);
  get.addr3 = reinterpret_cast<uint64_t>(static_cast<const char*>(path));
  MUST(ring.Submit(1));
  ring.ExpectNext(5, 3);
  EXPECT_STREQ(value, "one");
}

GUEST_TEST(IoUringZeroCopy, TellsTwice) {
  Ring ring;
  sockaddr_in address;
  const int listener = TcpListener(&address, 5);
  const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(client, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
  const int server = MUST(accept(listener, nullptr, nullptr));
  static char memory[64] = "some text";
  constexpr unsigned kReport = 8;
  constexpr int kCopied = INT32_MIN;
  auto send = [&](int fd, unsigned flags, int result, int usage) {
    ring.Buffer(IORING_OP_SEND_ZC, fd, 1, memory, 5).ioprio = static_cast<uint16_t>(flags);
    MUST(ring.Submit(2));
    ExpectNext(ring, 1, result, kMore);
    ExpectNext(ring, 1, usage, IORING_CQE_F_NOTIF);
  };
  send(client, 0, 5, 0);
  send(client, kReport, 5, kCopied);
  char got[16];
  EXPECT_EQ(recv(server, got, 10, MSG_WAITALL), 10);
  EXPECT_EQ(memcmp(got, "some some ", 10), 0);
  send(client, IORING_RECVSEND_FIXED_BUF, -EFAULT, 0);
  iovec buffer = {memory, sizeof(memory)};
  MUST(syscall(kRegister, ring.fd, IORING_REGISTER_BUFFERS, &buffer, 1));
  send(client, IORING_RECVSEND_FIXED_BUF, 5, 0);
  UnixPair pair;
  send(pair.a, 0, -EOPNOTSUPP, 0);
  send(99, 0, -EBADF, 0);
  iovec part = {memory, 4};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  ring.Buffer(IORING_OP_SENDMSG_ZC, client, 2, &message, 1);
  MUST(ring.Submit(2));
  ExpectNext(ring, 2, 4, kMore);
  ExpectNext(ring, 2, 0, IORING_CQE_F_NOTIF);
  shutdown(client, SHUT_WR);
  send(client, 0, -EPIPE, 0);
}
