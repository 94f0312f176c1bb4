// Urgent bytes on Unix stream sockets (MSG_OOB, SIOCATMARK, SIGURG, SO_OOBINLINE) and the offset of MSG_PEEK (SO_PEEK_OFF).
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

using namespace guest;

namespace {

using Pair = UnixPair;

bool AtMark(int fd) {
  int mark = -1;
  MUST(ioctl(fd, SIOCATMARK, &mark));
  return mark == 1;
}

short Events(int fd) {
  pollfd p = {fd, POLLIN | POLLPRI, 0};
  MUST(poll(&p, 1, 0));
  return p.revents;
}

// What one receive gives, as text; "-" with errno's number for an error.
const char* Receive(int fd, size_t size, int flags = 0) {
  static char text[64];
  const ssize_t got = recv(fd, text, size, flags | MSG_DONTWAIT);
  if (got < 0) {
    snprintf(text, sizeof(text), "-%d", errno);
  } else {
    text[got] = 0;
  }
  return text;
}

const char* Refused(int error) {
  static char text[16];
  snprintf(text, sizeof(text), "-%d", error);
  return text;
}

void PeekFrom(int fd, int offset) { MUST(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset))); }

int PeeksFrom(int fd) {
  int offset = 77;
  socklen_t size = sizeof(offset);
  MUST(getsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &offset, &size));
  return offset;
}

}  // namespace

GUEST_TEST(UnixUrgent, LastByteIsTakenOutOfBand) {
  Pair pair;
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), Refused(EINVAL));
  EXPECT_EQ(send(pair.a, "abc", 3, MSG_OOB), 3);
  EXPECT_EQ(Events(pair.b), POLLIN | POLLPRI);
  EXPECT_EQ(Queued(pair.b), 3);
  CheckpointHere();
  EXPECT_STREQ(Receive(pair.b, 4, MSG_OOB | MSG_PEEK), "c");
  EXPECT_EQ(recv(pair.b, nullptr, 0, MSG_OOB | MSG_PEEK), 1);  // Even without room for it.
  EXPECT_STREQ(Receive(pair.b, 4, MSG_OOB), "c");
  EXPECT_STREQ(Receive(pair.b, 4, MSG_OOB), Refused(EINVAL));
  EXPECT_EQ(Events(pair.b), POLLIN);
  EXPECT_EQ(Queued(pair.b), 2);
  EXPECT_STREQ(Receive(pair.b, 8), "ab");
  EXPECT_STREQ(Receive(pair.b, 8), Refused(EAGAIN));
}

GUEST_TEST(UnixUrgent, ReadingStopsAtTheMark) {
  Pair pair;
  MUST(send(pair.a, "ab", 2, MSG_OOB));
  MUST(send(pair.a, "cd", 2, 0));
  EXPECT(!AtMark(pair.b));
  EXPECT_STREQ(Receive(pair.b, 8), "a");
  EXPECT(AtMark(pair.b));
  CheckpointHere();
  EXPECT(AtMark(pair.b));
  EXPECT_STREQ(Receive(pair.b, 8), "cd");  // Whoever reads on has missed it.
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), Refused(EINVAL));
  EXPECT(!AtMark(pair.b));
}

GUEST_TEST(UnixUrgent, TakenByteLeavesAMark) {
  Pair pair;
  MUST(send(pair.a, "ab", 2, MSG_OOB));
  MUST(send(pair.a, "cd", 2, 0));
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), "b");
  CheckpointHere();
  EXPECT_STREQ(Receive(pair.b, 8), "a");
  EXPECT(AtMark(pair.b));
  EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), "cd");
  EXPECT_STREQ(Receive(pair.b, 8), "cd");
  EXPECT(!AtMark(pair.b));
}

GUEST_TEST(UnixUrgent, MarkAloneIsReadable) {
  Pair pair;
  MUST(send(pair.a, "x", 1, MSG_OOB));
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), "x");
  EXPECT_EQ(Events(pair.b), POLLIN);
  EXPECT(AtMark(pair.b));
  EXPECT_EQ(Queued(pair.b), 0);
  EXPECT_STREQ(Receive(pair.b, 1), Refused(EAGAIN));
  EXPECT_EQ(Events(pair.b), 0);
  EXPECT(!AtMark(pair.b));
}

GUEST_TEST(UnixUrgent, SecondOneTakesItsPlace) {
  Pair pair;
  MUST(send(pair.a, "ab", 2, MSG_OOB));
  MUST(send(pair.a, "cd", 2, MSG_OOB));
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), "d");
  EXPECT_STREQ(Receive(pair.b, 8), "abc");  // The first one went back into the stream.
  EXPECT(AtMark(pair.b));
}

GUEST_TEST(UnixUrgent, EachTakenByteLeavesAMark) {
  Pair pair;
  for (int i = 0; i < 3; ++i) {
    MUST(send(pair.a, "xy", 2, MSG_OOB));
    EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), "y");
  }
  CheckpointHere();
  EXPECT_EQ(Queued(pair.b), 3);
  EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), "x");
  for (int i = 0; i < 3; ++i) EXPECT_STREQ(Receive(pair.b, 8), "x");  // Each read stops at one.
  EXPECT_STREQ(Receive(pair.b, 8), Refused(EAGAIN));
}

GUEST_TEST(UnixUrgent, InlineItIsPartOfTheStream) {
  Pair pair;
  const int on = 1;
  MUST(setsockopt(pair.b, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on)));
  MUST(send(pair.a, "ab", 2, MSG_OOB));
  MUST(send(pair.a, "cd", 2, 0));
  CheckpointHere();
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), Refused(EINVAL));
  EXPECT_STREQ(Receive(pair.b, 8), "a");
  EXPECT(AtMark(pair.b));
  EXPECT_STREQ(Receive(pair.b, 8), "bcd");
}

GUEST_TEST(UnixUrgent, WhatCannotHaveIt) {
  Pair pair, packets(SOCK_SEQPACKET), datagrams(SOCK_DGRAM);
  EXPECT_ERRNO(send(pair.a, "", 0, MSG_OOB), EOPNOTSUPP);
  EXPECT_ERRNO(send(packets.a, "a", 1, MSG_OOB), EOPNOTSUPP);
  EXPECT_ERRNO(send(datagrams.a, "a", 1, MSG_OOB), EOPNOTSUPP);
  EXPECT_STREQ(Receive(packets.b, 1, MSG_OOB), Refused(EOPNOTSUPP));
  EXPECT_STREQ(Receive(datagrams.b, 1, MSG_OOB), Refused(EOPNOTSUPP));
  int mark;
  EXPECT_ERRNO(ioctl(datagrams.b, SIOCATMARK, &mark), EOPNOTSUPP);
  const int alone = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_STREQ(Receive(alone, 1, MSG_OOB), Refused(EINVAL));
  EXPECT_ERRNO(send(alone, "a", 1, MSG_OOB), ENOTCONN);
  MUST(shutdown(pair.b, SHUT_RD));
  EXPECT_ERRNO(send(pair.a, "a", 1, MSG_OOB | MSG_NOSIGNAL), EPIPE);
}

GUEST_TEST(UnixUrgent, TakenOnesResetNobody) {
  Pair pair, other;
  MUST(send(pair.a, "x", 1, MSG_OOB));
  EXPECT_STREQ(Receive(pair.b, 1, MSG_OOB), "x");
  close(pair.b);
  EXPECT_STREQ(Receive(pair.a, 1), "");
  MUST(send(other.a, "x", 1, MSG_OOB));
  close(other.b);
  EXPECT_STREQ(Receive(other.a, 1), Refused(ECONNRESET));
}

GUEST_TEST(UnixUrgent, SignalsTheOwner) {
  Pair pair;
  CountSignals(SIGURG);
  MUST(send(pair.a, "x", 1, MSG_OOB));
  EXPECT_EQ(SignalCount(), 0);
  MUST(fcntl(pair.b, F_SETOWN, getpid()));
  CheckpointHere();
  MUST(send(pair.a, "y", 1, MSG_OOB));
  EXPECT_EQ(SignalCount(), 1);  // Without O_ASYNC.
  MUST(send(pair.a, "plain", 5, 0));
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(TcpUrgent, SignalsTheOwner) {
  const TcpPair tcp;
  const int client = tcp.a, server = tcp.b;
  CountSignals(SIGURG);
  const int own = getpid();
  MUST(ioctl(server, FIOSETOWN, &own));
  int told = 0;
  EXPECT_OK(ioctl(server, SIOCGPGRP, &told));
  EXPECT_EQ(told, own);
  MUST(send(client, "x", 1, MSG_OOB));
  EXPECT_EQ(SignalCount(), 1);
}

GUEST_TEST(PeekOffset, OfAStream) {
  Pair pair;
  EXPECT_EQ(PeeksFrom(pair.b), -1);
  MUST(send(pair.a, "abc", 3, 0));
  MUST(send(pair.a, "defg", 4, 0));
  PeekFrom(pair.b, 2);
  EXPECT_STREQ(Receive(pair.b, 3, MSG_PEEK), "cde");  // Across writes.
  EXPECT_EQ(PeeksFrom(pair.b), 5);
  CheckpointHere();
  EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), "fg");
  EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), Refused(EAGAIN));
  EXPECT_STREQ(Receive(pair.b, 4), "abcd");  // Takes from the front, and the offset goes back.
  EXPECT_EQ(PeeksFrom(pair.b), 3);
  EXPECT_STREQ(Receive(pair.b, 8), "efg");
  EXPECT_EQ(PeeksFrom(pair.b), 0);
  PeekFrom(pair.b, -1);
  MUST(send(pair.a, "xy", 2, 0));
  EXPECT_STREQ(Receive(pair.b, 1, MSG_PEEK), "x");
  EXPECT_STREQ(Receive(pair.b, 1, MSG_PEEK), "x");
}

GUEST_TEST(PeekOffset, OfPackets) {
  for (const int type : {SOCK_DGRAM, SOCK_SEQPACKET}) {
    Pair pair(type);
    MUST(send(pair.a, "abc", 3, 0));
    MUST(send(pair.a, "defg", 4, 0));
    PeekFrom(pair.b, 1);
    EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), "bc");  // Packets stay apart.
    EXPECT_STREQ(Receive(pair.b, 2, MSG_PEEK), "de");
    EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), "fg");
    EXPECT_STREQ(Receive(pair.b, 8, MSG_PEEK), Refused(EAGAIN));
    EXPECT_EQ(PeeksFrom(pair.b), 7);
    EXPECT_STREQ(Receive(pair.b, 1), "a");  // And are taken whole.
    EXPECT_EQ(PeeksFrom(pair.b), 4);
  }
}

GUEST_TEST(PeekOffset, OfInetSockets) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  MUST(bind(udp, reinterpret_cast<sockaddr*>(&address), size));
  MUST(getsockname(udp, reinterpret_cast<sockaddr*>(&address), &size));
  MUST(connect(udp, reinterpret_cast<sockaddr*>(&address), size));
  MUST(send(udp, "abcd", 4, 0));
  MUST(send(udp, "efgh", 4, 0));
  PeekFrom(udp, 1);
  EXPECT_STREQ(Receive(udp, 2, MSG_PEEK), "bc");
  CheckpointHere();
  EXPECT_STREQ(Receive(udp, 8, MSG_PEEK), "d");
  EXPECT_STREQ(Receive(udp, 8, MSG_PEEK), "efgh");
  EXPECT_STREQ(Receive(udp, 8, MSG_PEEK), Refused(EAGAIN));
  EXPECT_STREQ(Receive(udp, 8), "abcd");
  EXPECT_EQ(PeeksFrom(udp), 4);
  const int raw = socket(AF_INET, SOCK_RAW, IPPROTO_UDP);
  const int offset = 1;
  EXPECT_ERRNO(setsockopt(raw, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)), EOPNOTSUPP);
}

GUEST_TEST(PeekOffset, OfTcp) {
  const TcpPair tcp;
  const int client = tcp.a, server = tcp.b;
  const int offset = 2;
  if (setsockopt(server, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0) Skip("no SO_PEEK_OFF for TCP");  // Linux 6.9
  MUST(send(client, "abcdefgh", 8, 0));
  EXPECT_STREQ(Receive(server, 3, MSG_PEEK), "cde");
  CheckpointHere();
  EXPECT_STREQ(Receive(server, 8, MSG_PEEK), "fgh");
  EXPECT_STREQ(Receive(server, 8, MSG_PEEK), Refused(EAGAIN));
  EXPECT_STREQ(Receive(server, 3), "abc");
  EXPECT_EQ(PeeksFrom(server), 5);
}
