// close(2) of a TCP socket with SO_LINGER: it waits for the other side to have everything, for a time.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A connection whose client has written until nothing more fits, so that its FIN cannot be acknowledged before the server reads.
struct Full {
  explicit Full(int seconds) {
    const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    MUST(bind(listener, reinterpret_cast<sockaddr*>(&address), size));
    const int small = 8192;
    MUST(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size));
    client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(setsockopt(client, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)));
    MUST(connect(client, reinterpret_cast<sockaddr*>(&address), size));
    server = MUST(accept(listener, nullptr, nullptr));
    const linger l = {1, seconds};
    MUST(setsockopt(client, SOL_SOCKET, SO_LINGER, &l, sizeof(l)));
    static char bytes[4096];
    for (ssize_t n; (n = send(client, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0;) sent += n;
  }
  // How much the server gets until the end.
  ssize_t Drain() const {
    static char bytes[4096];
    ssize_t got = 0;
    for (ssize_t n; (n = MUST(read(server, bytes, sizeof(bytes)))) > 0;) got += n;
    return got;
  }
  int client, server;
  ssize_t sent = 0;
};

int64_t Ms(int64_t since) { return (NowNs() - since) / 1'000'000; }

}  // namespace

GUEST_TEST(TcpLinger, WaitsForTheReader) {
  Full full(30);
  Gate closed;
  const pid_t pid = Fork([&] {
    close(full.server);
    closed.Await();
    EXPECT_OK(close(full.client));
    EXPECT_ERRNO(fcntl(full.client, F_GETFD), EBADF);
  });
  close(full.client);  // Not the last reference: no waiting.
  closed.Open();
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(full.Drain(), full.sent);
  JOIN_OK(pid);
}

GUEST_TEST(TcpLinger, OnlyForItsTime) {
  Full full(1);
  const int64_t start = NowNs();
  EXPECT_OK(close(full.client));
  EXPECT_GE(Ms(start), 900);
  EXPECT_EQ(full.Drain(), full.sent);  // The connection goes on by itself.
}

GUEST_TEST(TcpLinger, SignalsEndItWithoutAnError) {
  Full full(30);
  CountSignals(SIGUSR1);
  const int parent = getpid();
  Gate closed;
  const pid_t pid = Fork([&] {
    close(full.server);
    close(full.client);
    closed.Open();
    AwaitAsleep(parent);
    CheckpointHere();
    for (;;) {
      kill(parent, SIGUSR1);
      SleepMs(50);
    }
  });
  closed.Await();
  const int64_t start = NowNs();
  EXPECT_OK(close(full.client));
  EXPECT_LT(Ms(start), 20'000);
  EXPECT_GE(SignalCount(), 1);
  kill(pid, SIGKILL);
  WaitStatus(pid);
  EXPECT_EQ(full.Drain(), full.sent);
}

GUEST_TEST(TcpLinger, ReplacedByDup2) {
  Full full(1);
  const int other = MUST(open("/dev/null", O_RDONLY));
  const int64_t start = NowNs();
  EXPECT_EQ(dup2(other, full.client), full.client);
  EXPECT_GE(Ms(start), 900);
  EXPECT_OK(fcntl(full.client, F_GETFD));
}

GUEST_TEST(TcpLinger, NotWithUnreadBytesAndNotWhenDone) {
  Full full(30);
  MUST(send(full.server, "x", 1, 0));
  EXPECT_OK(close(full.client));  // Resets at once.
  char byte[4096];
  ssize_t n;
  while ((n = read(full.server, byte, sizeof(byte))) > 0) continue;
  EXPECT(n < 0 && errno == ECONNRESET);
  Full other(30);
  MUST(shutdown(other.client, SHUT_WR));  // Does not wait.
  EXPECT_EQ(other.Drain(), other.sent);
  EXPECT_OK(close(other.client));
}

GUEST_TEST(TcpLinger, ExitDoesNotWait) {
  Full full(30);
  Gate closed;
  const pid_t pid = Fork([&] {
    close(full.server);
    closed.Await();
  });
  close(full.client);
  const int64_t start = NowNs();
  closed.Open();
  JOIN_OK(pid);
  EXPECT_LT(Ms(start), 20'000);
  EXPECT_EQ(full.Drain(), full.sent);
}
