// Connected sockets and names, for tests of sockets. They stay open until the test's process ends.
#pragma once

#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "test/harness/guest_util.h"

namespace guest {

// A Unix address with a path, which may fill it to the last byte.
struct UnixAddress {
  explicit UnixAddress(const char* path) {
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, path, sizeof(address.sun_path));
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + strlen(path) + 1);
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  sockaddr_un address = {};
  socklen_t length;
};

struct UnixPair {
  explicit UnixPair(int type = SOCK_STREAM) {
    int ends[2];
    MUST(socketpair(AF_UNIX, type, 0, ends));
    a = ends[0];
    b = ends[1];
  }
  int a, b;
};

// Listens on the loopback, at `address`.
inline int TcpListener(sockaddr_in* address, int backlog = 1) {
  const int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
  *address = {};
  address->sin_family = AF_INET;
  address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(*address);
  MUST(bind(listener, reinterpret_cast<sockaddr*>(address), size));
  MUST(listen(listener, backlog));
  MUST(getsockname(listener, reinterpret_cast<sockaddr*>(address), &size));
  return listener;
}

// Over the loopback; `a` has connected to `b`.
struct TcpPair {
  TcpPair() {
    sockaddr_in address;
    const int listener = TcpListener(&address);
    a = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(a, reinterpret_cast<sockaddr*>(&address), sizeof(address)));
    b = MUST(accept(listener, nullptr, nullptr));
    close(listener);
  }
  int a, b;
};

}  // namespace guest
