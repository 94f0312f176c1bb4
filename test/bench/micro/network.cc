// TCP over loopback: a byte there and back, a stream, and connections that carry nothing.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vector>

#include "test/bench/micro/micro.h"

namespace amber::bench {
namespace {

constexpr size_t kPiece = 64 << 10;

struct Listener {
  int fd;
  sockaddr_in address = {};

  Listener() : fd(socket(AF_INET, SOCK_STREAM, 0)) {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    Require(fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
    Require(listen(fd, 128) == 0 && getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) == 0, "listen");
  }
  ~Listener() { close(fd); }

  int Connect() const {
    int client = socket(AF_INET, SOCK_STREAM, 0);
    Require(client >= 0 && connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0, "connect");
    return client;
  }
};

struct Connection {
  int client, server;

  Connection() {
    Listener listener;
    client = listener.Connect();
    server = accept(listener.fd, nullptr, nullptr);
    Require(server >= 0, "accept");
    for (int fd : {client, server}) {
      int one = 1;
      Require(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0, "TCP_NODELAY");
    }
  }
  ~Connection() {
    close(client);
    close(server);
  }
};

int64_t TcpPingPong(const Context&, int64_t count) {
  Connection connection;
  int to_child[2] = {connection.server, connection.client};
  int to_parent[2] = {connection.client, connection.server};
  return PingPong(to_child, to_parent, count);
}

// Writes of 64 KiB to a child that reads as much at once; an operation is one of them, and the clock stops when the child has had all.
int64_t TcpStream(const Context&, int64_t count) {
  Connection connection;
  std::vector<char> piece(kPiece);
  pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    for (int64_t left = count * static_cast<int64_t>(kPiece); left > 0;) {
      ssize_t n = read(connection.server, piece.data(), kPiece);
      if (n <= 0) _exit(1);
      left -= n;
    }
    _exit(write(connection.server, "", 1) == 1 ? 0 : 1);
  }
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    for (size_t done = 0; done < kPiece;) {
      ssize_t n = write(connection.client, piece.data() + done, kPiece - done);
      Require(n > 0, "write");
      done += static_cast<size_t>(n);
    }
  }
  Require(read(connection.client, piece.data(), 1) == 1, "read");
  int64_t spent = Now() - start;
  Require(waitpid(child, nullptr, 0) == child, "waitpid");
  return spent;
}

// socket, connect, accept, close at both ends, all by one thread.
int64_t TcpConnect(const Context&, int64_t count) {
  Listener listener;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int client = listener.Connect();
    int server = accept(listener.fd, nullptr, nullptr);
    Require(server >= 0, "accept");
    // A reset leaves no TIME_WAIT, of which there would be more than ports.
    linger reset = {.l_onoff = 1, .l_linger = 0};
    Require(setsockopt(client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0, "SO_LINGER");
    close(client);
    close(server);
  }
  return Now() - start;
}

constexpr Row kRows[] = {
    {"tcp_pingpong", TcpPingPong},
    {"tcp_stream_64k", TcpStream},
    {"tcp_connect", TcpConnect},
};

}  // namespace

std::span<const Row> NetworkRows() { return kRows; }

}  // namespace amber::bench
