// Netlink sockets (netlink(7)): names, who may change something, and what waits to be read.
#include <errno.h>
#include <linux/filter.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "test/harness/guest_netlink.h"

using namespace guest;

namespace {

int Open(int protocol = NETLINK_ROUTE) { return MUST(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)); }

int Bind(int fd, uint32_t port, uint32_t groups = 0) {
  sockaddr_nl a = {};
  a.nl_family = AF_NETLINK;
  a.nl_pid = port;
  a.nl_groups = groups;
  return bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof(a)) < 0 ? -errno : 0;
}

uint32_t Port(int fd) {
  sockaddr_nl a = {};
  socklen_t size = sizeof(a);
  MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&a), &size));
  return a.nl_pid;
}

GUEST_TEST(NetlinkSocket, PortsAreTheirOwn) {
  NewNet();
  const int first = Open(), second = Open(), other = Open(NETLINK_SOCK_DIAG), third = Open();
  EXPECT_EQ(Port(first), 0u);
  EXPECT_EQ(Bind(first, 0), 0);
  EXPECT_EQ(Port(first), static_cast<uint32_t>(getpid()));
  EXPECT_EQ(Bind(first, 0), -EINVAL);
  EXPECT_EQ(Bind(first, 4711), -EINVAL);
  EXPECT_EQ(Bind(first, Port(first)), 0);
  EXPECT_EQ(Bind(second, Port(first)), -EADDRINUSE);
  CheckpointHere();
  EXPECT_EQ(Bind(second, Port(first)), -EADDRINUSE);
  EXPECT_EQ(Bind(second, 0), 0);
  EXPECT(static_cast<int>(Port(second)) < -4096);
  // Of each protocol its own.
  EXPECT_EQ(Bind(other, 0), 0);
  EXPECT_EQ(Port(other), Port(first));
  EXPECT_EQ(Bind(third, 4711), 0);
  const int late = Open();
  EXPECT_EQ(Bind(late, 4711), -EADDRINUSE);
  close(third);
  EXPECT_EQ(Bind(late, 4711), 0);
  close(first);
  const int again = Open();
  EXPECT_EQ(Bind(again, 0), 0);
  EXPECT_EQ(Port(again), static_cast<uint32_t>(getpid()));
  // Another namespace has ports of its own.
  NewNet();
  const int far = Open();
  EXPECT_EQ(Bind(far, 4711), 0);
}

// CAP_NET_ADMIN is asked of who sends and of who made the socket: a privileged program may be brought to write to somebody else's (CVE-2014-0181).
GUEST_TEST(NetlinkSocket, TheMakerIsAsked) {
  if (geteuid() != 0) Skip("needs root");
  NewNet();
  MUST(seteuid(1000));
  const int theirs = Open();
  MUST(seteuid(0));
  const int ours = Open();
  NlRequest up(RTM_NEWLINK, 0, LinkHead("lo", IFF_UP, IFF_UP));
  CheckpointHere();
  EXPECT_EQ(up.Ask(theirs), -EPERM);
  MUST(seteuid(1000));
  EXPECT_EQ(up.Ask(ours), -EPERM);
  MUST(seteuid(0));
  EXPECT_EQ(up.Ask(ours), 0);
  // Who says to whom it goes means it.
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  up.header()->nlmsg_seq = 7;
  EXPECT(sendto(theirs, up.header(), up.header()->nlmsg_len, 0, reinterpret_cast<sockaddr*>(&kernel), sizeof(kernel)) > 0);
  struct {
    nlmsghdr h;
    int error;
    nlmsghdr to;
  } answer = {};
  EXPECT_EQ(recv(theirs, &answer, sizeof(answer), 0), static_cast<ssize_t>(sizeof(answer)));
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.h.nlmsg_seq, 7u);
}

GUEST_TEST(NetlinkSocket, UnknownMessages) {
  NewNet();
  const rtgenmsg none = {};
  EXPECT_EQ(NlRequest(200, 0, none).Ask(), -EOPNOTSUPP);
  AS_USER([&] {
    EXPECT_EQ(NlRequest(200, 0, none).Ask(), -EOPNOTSUPP);
    EXPECT_EQ(NlRequest(202, 0, none).Ask(), -EOPNOTSUPP);
    EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead()).Ask(), -EPERM);
  });
}

int DropAll(int fd) {
  sock_filter none = BPF_STMT(BPF_RET | BPF_K, 0);
  const sock_fprog program = {1, &none};
  return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

struct DumpRequest {
  nlmsghdr h;
  rtgenmsg body;
  char pad[3];
};
DumpRequest Ask(uint16_t type, uint32_t sequence) {
  DumpRequest r = {};
  r.h.nlmsg_len = sizeof(r);
  r.h.nlmsg_type = type;
  r.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  r.h.nlmsg_seq = sequence;
  return r;
}

// What does not fit is told as it is read; meanwhile there is no other dump.
GUEST_TEST(NetlinkSocket, DumpsComeInParts) {
  constexpr int kAddresses = 900;
  NewNet();
  EXPECT_EQ(SetUp("lo"), 0);
  for (int i = 0; i < kAddresses; ++i) EXPECT_EQ(AddAddress("lo", Str("10.%d.%d.1", i / 200, i % 200), 24), 0);
  const int fd = Open();
  for (int round = 0; round < 2; ++round) {
    const DumpRequest first = Ask(RTM_GETADDR, 1), second = Ask(RTM_GETLINK, 2);
    EXPECT_EQ(send(fd, &first, sizeof(first), 0), static_cast<ssize_t>(sizeof(first)));
    EXPECT_EQ(send(fd, &second, sizeof(second), 0), static_cast<ssize_t>(sizeof(second)));
    int told = 0, busy = 0, done = 0, receives = 0;
    for (; done == 0; ++receives) {
      alignas(4) static char got[65536];
      ssize_t left = MUST(recv(fd, got, sizeof(got), MSG_DONTWAIT));
      if (receives == 1) CheckpointHere();
      for (auto* h = reinterpret_cast<nlmsghdr*>(got); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
        int error = 0;
        if (h->nlmsg_type == NLMSG_ERROR) memcpy(&error, NLMSG_DATA(h), sizeof(error));
        if (h->nlmsg_type == RTM_NEWADDR && h->nlmsg_seq == 1) ++told;
        if (h->nlmsg_seq == 2) busy += error == -EBUSY ? 1 : 100;
        if (h->nlmsg_type == NLMSG_DONE) ++done;
      }
    }
    EXPECT_EQ(told, kAddresses + 2);
    EXPECT_EQ(busy, 1);
    EXPECT(receives > 2);
    char none[4];
    EXPECT_ERRNO(recv(fd, none, sizeof(none), MSG_DONTWAIT), EAGAIN);
  }
}

// Nobody gets what a filter drops, however much was asked for.
GUEST_TEST(NetlinkSocket, DumpsThatNobodySees) {
  NewNet();
  EXPECT_EQ(SetUp("lo"), 0);
  const int fd = Open();
  EXPECT_EQ(DropAll(fd), 0);
  static DumpRequest many[65000 / sizeof(DumpRequest)];
  for (DumpRequest& r : many) r = Ask(RTM_GETADDR, 1);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(send(fd, many, sizeof(many), 0), static_cast<ssize_t>(sizeof(many)));
  CheckpointHere();
  char got[4];
  EXPECT_ERRNO(recv(fd, got, sizeof(got), MSG_DONTWAIT), EAGAIN);
  const int none = 0;
  MUST(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none)));
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("lo")).Ask(fd), 0);
}

GUEST_TEST(NetlinkSocket, WhatIsLostIsTold) {
  NewNet();
  const int fd = Open();
  EXPECT_EQ(Bind(fd, 0, RTMGRP_LINK), 0);
  int size = 4000;
  MUST(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(SetUp("lo", i % 2 == 0), 0);
  CheckpointHere();
  socklen_t length = sizeof(size);
  MUST(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, &length));
  EXPECT_EQ(size, 8000);
  char got[4096];
  EXPECT_ERRNO(recv(fd, got, sizeof(got), MSG_DONTWAIT), ENOBUFS);
  EXPECT(recv(fd, got, sizeof(got), MSG_DONTWAIT) > 0);
}

}  // namespace

// Any socket tells of interfaces; of addresses only those of IPv4.
GUEST_TEST(NetlinkSocket, InterfacesByIoctl) {
  NewNet();
  constexpr struct {
    int family, type;
    bool addresses;
  } kKinds[] = {{AF_UNIX, SOCK_DGRAM, false}, {AF_NETLINK, SOCK_RAW, false}, {AF_INET6, SOCK_DGRAM, false}, {AF_INET, SOCK_STREAM, true}};
  for (const auto& kind : kKinds) {
    const int fd = MUST(socket(kind.family, kind.type, 0));
    ifreq r = {};
    strcpy(r.ifr_name, "lo");
    EXPECT_OK(ioctl(fd, SIOCGIFINDEX, &r));
    EXPECT_EQ(r.ifr_ifindex, 1);
    EXPECT_OK(ioctl(fd, SIOCGIFFLAGS, &r));
    EXPECT_OK(ioctl(fd, SIOCGIFMTU, &r));
    EXPECT_EQ(r.ifr_mtu, 65536);
    for (unsigned long request : {SIOCGIFADDR, SIOCGIFNETMASK, SIOCGIFBRDADDR})
      EXPECT_ERRNO(ioctl(fd, request, &r), kind.addresses ? EADDRNOTAVAIL : ENOTTY);
    close(fd);
  }
}
