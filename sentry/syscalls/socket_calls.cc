// Sockets but for messages: socket, socketpair, bind, listen, accept, connect, shutdown, names and options.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/landlock/landlock.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/socket_numbers.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/socket_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

constexpr int kTypeMask = 0xf;

ErrnoOr<uint64_t> Install(Task& task, RefPtr<File> file, int type_flags) {
  int fd = TRY(task.files().Allocate(std::move(file), (type_flags & SOCK_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE)));
  return static_cast<uint64_t>(fd);
}

// Checks family, type and protocol of a Unix socket, and returns its type without flags.
ErrnoOr<int> UnixType(int family, int type, int protocol) {
  if ((type & ~kTypeMask & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return Errno(EINVAL);
  if (family < 0 || family >= AF_MAX) return Errno(EAFNOSUPPORT);
  int kind = type & kTypeMask;
  if (kind > SOCK_PACKET) return Errno(EINVAL);
  if (family != AF_UNIX) return Errno(EAFNOSUPPORT);
  if (protocol != 0 && protocol != AF_UNIX) return Errno(EPROTONOSUPPORT);
  if (kind == SOCK_RAW) return SOCK_DGRAM;  // as unix_create() has it
  if (kind != SOCK_STREAM && kind != SOCK_DGRAM && kind != SOCK_SEQPACKET) return Errno(ESOCKTNOSUPPORT);
  return kind;
}

int StatusFlags(int type) { return O_RDWR | ((type & SOCK_NONBLOCK) != 0 ? O_NONBLOCK : 0); }

ErrnoOr<RefPtr<Socket>> NewSocket(Task& task, int family, int type, int protocol) {
  if ((type & ~kTypeMask & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return Errno(EINVAL);
  if (family == AF_INET || family == AF_INET6) {
    if ((type & kTypeMask) > SOCK_PACKET) return Errno(EINVAL);
    return NewInetSocket(task, family, type & kTypeMask, protocol);
  }
  if (family == AF_NETLINK) return NetlinkSocket::Make(task, type & kTypeMask, protocol);
  if (family == AF_PACKET) {
    if ((type & kTypeMask) > SOCK_PACKET) return Errno(EINVAL);
    return PacketSocket::Make(task, type & kTypeMask, protocol);
  }
  int kind = TRY(UnixType(family, type, protocol));
  auto socket = MakeRef<UnixSocket>(kind);
  socket->SetMaker(task);
  return RefPtr<Socket>(std::move(socket));
}

ErrnoOr<uint64_t> SocketCall(Task& task, int family, int type, int protocol) {
  RefPtr<Socket> socket = TRY(NewSocket(task, family, type, protocol));
  socket->set_flags(StatusFlags(type));
  return Install(task, std::move(socket), type);
}

struct Fds {
  int fd[2];
};

ErrnoOr<uint64_t> SocketPair(Task& task, int family, int type, int protocol, UserPtr<Fds> out) {
  // Families that Linux has, but that do not come in pairs. Descriptors are told first and sockets made then (__sys_socketpair()).
  if (family == AF_INET || family == AF_INET6 || family == AF_NETLINK || family == AF_PACKET) {
    if ((type & ~kTypeMask & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return Errno(EINVAL);
    TRY(task.CopyOut(out, Fds{{-1, -1}}));
    TRY(NewSocket(task, family, type, protocol));
    return Errno(EOPNOTSUPP);
  }
  int kind = TRY(UnixType(family, type, protocol));
  auto [a, b] = UnixSocket::Pair(task, kind);
  a->set_flags(StatusFlags(type));
  b->set_flags(StatusFlags(type));
  Fds fds{};
  fds.fd[0] = static_cast<int>(TRY(Install(task, std::move(a), type)));
  auto second = Install(task, std::move(b), type);
  if (!second.ok()) {
    (void)task.files().Remove(fds.fd[0]);
    return second;
  }
  fds.fd[1] = static_cast<int>(*second);
  auto copied = task.CopyOut(out, fds);
  if (!copied.ok()) {
    (void)task.files().Remove(fds.fd[0]);
    (void)task.files().Remove(fds.fd[1]);
    return copied.error();
  }
  return uint64_t{0};
}

// current_check_access_socket() of security/landlock/net.c: what comes before the protocol's own checks.
ErrnoOr<void> CheckPort(Task& task, const Socket& socket, const std::string& address, uint64_t right) {
  if (!task.extras().landlock || socket.type() != SOCK_STREAM || (socket.family() != AF_INET && socket.family() != AF_INET6)) return Ok();
  sa_family_t family;
  if (address.size() < sizeof(family)) return Errno(EINVAL);
  memcpy(&family, address.data(), sizeof(family));
  if (family == AF_UNSPEC && right == LandlockRuleset::kConnectTcp) return Ok();
  bool six = family == AF_INET6;
  if (family == AF_UNSPEC && socket.family() != AF_INET) return Errno(EAFNOSUPPORT);
  if (!six && family != AF_INET && family != AF_UNSPEC) return Errno(right == LandlockRuleset::kBindTcp ? EAFNOSUPPORT : EINVAL);
  if (address.size() < (six ? 24u : sizeof(sockaddr_in))) return Errno(EINVAL);  // SIN6_LEN_RFC2133
  if (family != socket.family() && family != AF_UNSPEC) return Errno(EINVAL);
  sockaddr_in in;  // the port lies at the same place in both
  memcpy(&in, address.data(), sizeof(in));
  if (family == AF_UNSPEC && in.sin_addr.s_addr != INADDR_ANY) return Errno(EAFNOSUPPORT);
  return CheckLandlockPort(task, ntohs(in.sin_port), right);
}

ErrnoOr<uint64_t> Bind(Task& task, int fd, UserPtr<const void> address, int size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  std::string bytes = TRY(CopyInAddress(task, address, size));
  TRY(CheckPort(task, *socket, bytes, LandlockRuleset::kBindTcp));
  TRY(socket->Bind(task, bytes));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Listen(Task& task, int fd, int backlog) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  TRY(socket->Listen(task, backlog));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Connect(Task& task, int fd, UserPtr<const void> address, int size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  std::string bytes = TRY(CopyInAddress(task, address, size));
  TRY(CheckPort(task, *socket, bytes, LandlockRuleset::kConnectTcp));
  TRY(socket->Connect(task, bytes));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Accept4(Task& task, int fd, UserPtr<void> address, UserPtr<int> size, int flags) {
  TRY(task.files().Get(fd));
  if ((flags & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) != 0) return Errno(EINVAL);
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  auto accepted = socket->Accept(task);
  if (accepted.Is(EAGAIN)) {
    if (socket->nonblocking() || task.syscall().timed_out) return Errno(EAGAIN);
    return BlockForIo(task, *socket, POLLIN);
  }
  RefPtr<Socket> connection = TRY(std::move(accepted));
  connection->set_flags(StatusFlags(flags));
  uint64_t result = TRY(Install(task, connection, flags));
  if (address) {
    auto name = connection->PeerAddress();
    auto copied = CopyOutAddress(task, name.ok() ? std::string_view(*name) : std::string_view(), address, size);
    if (!copied.ok()) {
      (void)task.files().Remove(static_cast<int>(result));
      return copied.error();
    }
  }
  return result;
}

ErrnoOr<uint64_t> Accept(Task& task, int fd, UserPtr<void> address, UserPtr<int> size) { return Accept4(task, fd, address, size, 0); }

ErrnoOr<uint64_t> Shutdown(Task& task, int fd, int how) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  TRY(socket->Shutdown(task, how));
  return uint64_t{0};
}

ErrnoOr<uint64_t> GetSockName(Task& task, int fd, UserPtr<void> address, UserPtr<int> size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  std::string name = TRY(socket->LocalAddress());
  TRY(CopyOutAddress(task, name, address, size));
  return uint64_t{0};
}

ErrnoOr<uint64_t> GetPeerName(Task& task, int fd, UserPtr<void> address, UserPtr<int> size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  std::string name = TRY(socket->PeerAddress());
  TRY(CopyOutAddress(task, name, address, size));
  return uint64_t{0};
}

ErrnoOr<uint64_t> SetSockOpt(Task& task, int fd, int level, int name, UserPtr<const void> value, int size) {
  if (size < 0) return Errno(EINVAL);
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  // No option is longer; what is beyond is not looked at.
  uint8_t bytes[256];
  size_t used = std::min<size_t>(static_cast<size_t>(size), sizeof(bytes));
  if (used > 0) TRY(task.CopyInBytes(value.address(), bytes, used));
  TRY(socket->SetOption(task, level, name, {bytes, used}));
  return uint64_t{0};
}

ErrnoOr<uint64_t> GetSockOpt(Task& task, int fd, int level, int name, UserPtr<void> value, UserPtr<int> size) {
  RefPtr<Socket> socket = TRY(GetSocket(task, fd));
  int room = TRY(task.CopyIn(size));
  if (room < 0) return Errno(EINVAL);
  std::string bytes;
  if (level == SOL_PACKET && room >= static_cast<int>(sizeof(int))) {
    int question = TRY(task.CopyIn(value.Cast<int>()));
    bytes = TRY(socket->AnswerOption(task, level, name, question, static_cast<size_t>(room)));
  } else {
    bytes = TRY(socket->GetOption(task, level, name, static_cast<size_t>(room)));
  }
  if (level == SOL_SOCKET && name == kSoPeerGroups && bytes.size() > static_cast<size_t>(room)) {
    TRY(task.CopyOut(size, static_cast<int>(bytes.size())));
    return Errno(ERANGE);
  }
  if (level == SOL_SOCKET && name == SO_GET_FILTER) {
    // Lengths of this one are in instructions (sk_get_filter()).
    if (room > 0 && !bytes.empty()) TRY(task.CopyOutBytes(value.address(), bytes.data(), bytes.size()));
    TRY(task.CopyOut(size, static_cast<int>(bytes.size() / sizeof(sock_filter))));
    return uint64_t{0};
  }
  size_t copied = std::min(bytes.size(), static_cast<size_t>(room));
  if (copied > 0) TRY(task.CopyOutBytes(value.address(), bytes.data(), copied));
  TRY(task.CopyOut(size, static_cast<int>(copied)));
  return uint64_t{0};
}

}  // namespace

void RegisterSocketCalls(SyscallTable& table) {
  table.Set(SYS_socket, Partial<&SocketCall>("AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (route, sock_diag), AF_PACKET"));
  table.Set(SYS_socketpair, Full<&SocketPair>());
  table.Set(SYS_bind, Full<&Bind>());
  table.Set(SYS_listen, Full<&Listen>());
  table.Set(SYS_connect, Full<&Connect>());
  table.Set(SYS_accept, Full<&Accept>());
  table.Set(SYS_accept4, Full<&Accept4>());
  table.Set(SYS_shutdown, Full<&Shutdown>());
  table.Set(SYS_getsockname, Full<&GetSockName>());
  table.Set(SYS_getpeername, Full<&GetPeerName>());
  table.Set(SYS_setsockopt, Partial<&SetSockOpt>("no BPF programs but filters, no SO_ZEROCOPY, no headers of IP's options, no packet rings for "
                                                 "sending; many of TCP's and IP's only read back"));
  table.Set(SYS_getsockopt, Partial<&GetSockOpt>("see setsockopt"));
}

}  // namespace amber
