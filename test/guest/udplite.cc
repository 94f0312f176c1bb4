// UDP-Lite (udplite(7), RFC 3828): datagrams whose checksum covers a part.
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr int kSendCoverage = 10, kReceiveCoverage = 11;  // UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV

int Open(int family = AF_INET) {
  const int fd = socket(family, SOCK_DGRAM, IPPROTO_UDPLITE);
  if (fd < 0 && errno == EPROTONOSUPPORT) Skip("no UDP-Lite");
  return MUST(fd);
}

void Set(int fd, int option, int value) { MUST(setsockopt(fd, IPPROTO_UDPLITE, option, &value, sizeof(value))); }

int Get(int fd, int option, int level = IPPROTO_UDPLITE) {
  int value = -1;
  socklen_t size = sizeof(value);
  return getsockopt(fd, level, option, &value, &size) < 0 ? -errno : value;
}

// Two sockets that are connected to each other.
struct Lite {
  explicit Lite(int family = AF_INET) : a(Open(family)), b(Open(family)) {
    Join(a, b, family);
    Join(b, a, family);
  }
  static void Join(int from, int to, int family) {
    sockaddr_in6 six = {};
    sockaddr_in four = {};
    six.sin6_family = AF_INET6;
    six.sin6_addr = in6addr_loopback;
    four.sin_family = AF_INET;
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    auto* address = family == AF_INET ? reinterpret_cast<sockaddr*>(&four) : reinterpret_cast<sockaddr*>(&six);
    socklen_t size = family == AF_INET ? sizeof(four) : sizeof(six);
    sockaddr_storage told = {};
    socklen_t told_size = sizeof(told);
    MUST(getsockname(to, reinterpret_cast<sockaddr*>(&told), &told_size));
    if (reinterpret_cast<sockaddr_in*>(&told)->sin_port == 0) {
      MUST(bind(to, address, size));
      told_size = sizeof(told);
      MUST(getsockname(to, reinterpret_cast<sockaddr*>(&told), &told_size));
    }
    MUST(connect(from, reinterpret_cast<sockaddr*>(&told), told_size));
  }
  int a, b;
};

}  // namespace

GUEST_TEST(UdpLite, Datagrams) {
  for (const int family : {AF_INET, AF_INET6}) {
    Lite lite(family);
    int protocol = 0;
    socklen_t size = sizeof(protocol);
    MUST(getsockopt(lite.a, SOL_SOCKET, SO_PROTOCOL, &protocol, &size));
    EXPECT_EQ(protocol, IPPROTO_UDPLITE);
    EXPECT_EQ(send(lite.a, "hello", 5, 0), 5);
    CheckpointHere();
    char text[8] = {};
    EXPECT_EQ(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), 5);
    EXPECT_STREQ(text, "hello");
    EXPECT_EQ(send(lite.b, "", 0, 0), 0);
    EXPECT_EQ(recv(lite.a, text, sizeof(text), MSG_DONTWAIT), 0);
  }
}

GUEST_TEST(UdpLite, PortsAreItsOwn) {
  const int lite = Open(), udp = MUST(socket(AF_INET, SOCK_DGRAM, 0)), other = Open();
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  MUST(bind(lite, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(lite, reinterpret_cast<sockaddr*>(&address), &size));
  EXPECT_OK(bind(udp, reinterpret_cast<sockaddr*>(&address), size));
  CheckpointHere();
  EXPECT_ERRNO(bind(other, reinterpret_cast<sockaddr*>(&address), size), EADDRINUSE);
  const int from = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  MUST(sendto(from, "x", 1, 0, reinterpret_cast<sockaddr*>(&address), size));
  char byte;
  EXPECT_ERRNO(recv(lite, &byte, 1, MSG_DONTWAIT), EAGAIN);
  EXPECT_EQ(recv(udp, &byte, 1, MSG_DONTWAIT), 1);
}

GUEST_TEST(UdpLite, CoverageReadsBack) {
  const int lite = Open(), udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  for (const int option : {kSendCoverage, kReceiveCoverage}) {
    EXPECT_EQ(Get(lite, option), 0);
    Set(lite, option, 20);
    CheckpointHere();
    EXPECT_EQ(Get(lite, option), 20);
    EXPECT_EQ(Get(lite, option, IPPROTO_UDP), 20);
    Set(lite, option, 3);
    EXPECT_EQ(Get(lite, option), 8);  // The header at least.
    Set(lite, option, 100'000);
    EXPECT_EQ(Get(lite, option), 65535);
    const int value = 20;
    EXPECT_ERRNO(setsockopt(udp, IPPROTO_UDP, option, &value, sizeof(value)), ENOPROTOOPT);
    EXPECT_ERRNO(setsockopt(lite, IPPROTO_UDPLITE, option, &value, 2), EINVAL);
  }
}

GUEST_TEST(UdpLite, LessCoverageThanAskedForIsDropped) {
  Lite lite;
  char text[16];
  Set(lite.a, kSendCoverage, 12);
  EXPECT_EQ(send(lite.a, "partial", 7, 0), 7);
  EXPECT_EQ(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), 7);
  Set(lite.b, kReceiveCoverage, 12);
  EXPECT_EQ(send(lite.a, "enough", 6, 0), 6);
  EXPECT_EQ(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), 6);
  Set(lite.b, kReceiveCoverage, 13);
  CheckpointHere();
  EXPECT_EQ(send(lite.a, "too little", 10, 0), 10);
  EXPECT_ERRNO(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), EAGAIN);
  EXPECT_EQ(send(lite.a, "all", 3, 0), 3);  // 11 bytes with the header, all covered.
  EXPECT_EQ(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), 3);
  Set(lite.a, kSendCoverage, 0);
  EXPECT_EQ(send(lite.a, "the whole", 9, 0), 9);
  EXPECT_EQ(recv(lite.b, text, sizeof(text), MSG_DONTWAIT), 9);
}

GUEST_TEST(UdpLite, NobodyThereIsTold) {
  Lite lite;
  close(lite.b);
  MUST(send(lite.a, "x", 1, 0));
  char byte;
  EXPECT_ERRNO(recv(lite.a, &byte, 1, 0), ECONNREFUSED);
}
