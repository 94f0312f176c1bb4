// Interfaces that programs make (veth(4), rtnetlink(7)), their addresses, routes and neighbours, in one network namespace and between two.
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/route.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/vfs.h>

#include "test/harness/guest_netlink.h"

using namespace guest;

namespace {

// Two namespaces, joined by a veth: 10.7.0.1 and fd07::1 in the first, where this process is, 10.7.0.2 and fd07::2 in the second.
struct TwoNets {
  TwoNets() {
    second = NewNet();
    first = NewNet();
    MUST(MakeVeth("west", "east", second));
    Configure("west", "10.7.0.1", "fd07::1");
    EnterNet(second);
    Configure("east", "10.7.0.2", "fd07::2");
    EnterNet(first);
  }
  static void Configure(const char* name, const char* v4, const char* v6) {
    EXPECT_EQ(SetUp("lo"), 0);
    EXPECT_EQ(AddAddress(name, v4, 24), 0);
    EXPECT_EQ(SetUp(name), 0);
    EXPECT_EQ(AddAddress(name, v6, 64), 0);
  }
  int first, second;
};

void ExpectReceives(int fd, const char* text) {
  char got[64] = {};
  pollfd p = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 10'000), 1);
  EXPECT_EQ(recv(fd, got, sizeof(got), 0), static_cast<ssize_t>(strlen(text)));
  EXPECT_EQ(strcmp(got, text), 0);
}

GUEST_TEST(Links, DatagramsCross) {
  TwoNets nets;
  for (int round = 0; round < 2; ++round) {
    const bool v6 = round == 1;
    const SocketAddress here(v6 ? "fd07::1" : "10.7.0.1", 4000), there(v6 ? "fd07::2" : "10.7.0.2", 4001);
    const int a = BoundSocket(SOCK_DGRAM, here);
    EnterNet(nets.second);
    const int b = BoundSocket(SOCK_DGRAM, there);
    EnterNet(nets.first);
    EXPECT_EQ(sendto(a, "over", 4, 0, there.get(), there.size), 4);
    ExpectReceives(b, "over");
    CheckpointHere();
    EXPECT_EQ(sendto(b, "and back", 8, 0, here.get(), here.size), 8);
    ExpectReceives(a, "and back");
    close(a), close(b);
  }
}

GUEST_TEST(Links, TcpCrossesWithMuchData) {
  TwoNets nets;
  EnterNet(nets.second);
  const SocketAddress there("10.7.0.2", 4002);
  const int listener = BoundSocket(SOCK_STREAM, there);
  MUST(listen(listener, 4));
  EnterNet(nets.first);
  constexpr size_t kAll = 1 << 20;
  const pid_t child = Fork([&] {
    const int fd = MUST(accept(listener, nullptr, nullptr));
    static char got[65536];
    size_t all = 0;
    bool right = true;
    for (ssize_t n; (n = recv(fd, got, sizeof(got), 0)) > 0;) {
      for (ssize_t i = 0; i < n; ++i) right = right && got[i] == static_cast<char>((all + static_cast<size_t>(i)) * 7 >> 3);
      all += static_cast<size_t>(n);
    }
    EXPECT_EQ(all, kAll);
    EXPECT(right);
    EXPECT_EQ(send(fd, "done", 4, 0), 4);
  });
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  MUST(connect(fd, there.get(), there.size));
  int mss = 0;
  socklen_t size = sizeof(mss);
  MUST(getsockopt(fd, IPPROTO_TCP, 2 /* TCP_MAXSEG */, &mss, &size));
  EXPECT_EQ(mss, 1448);
  static char data[kAll];
  for (size_t i = 0; i < kAll; ++i) data[i] = static_cast<char>(i * 7 >> 3);
  for (size_t at = 0; at < kAll;) {
    const ssize_t n = send(fd, data + at, kAll - at < 200'000 ? kAll - at : 200'000, 0);
    if (n <= 0) break;
    at += static_cast<size_t>(n);
    if (at < 250'000) CheckpointHere();
  }
  MUST(shutdown(fd, SHUT_WR));
  ExpectReceives(fd, "done");
  JOIN_OK(child);
}

GUEST_TEST(Links, StatesFollowBothEnds) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(LinkFlags("a"), static_cast<unsigned>(IFF_BROADCAST | IFF_MULTICAST));
  EXPECT_EQ(LinkNumber("a", IFLA_OPERSTATE), 2);
  EXPECT_EQ(LinkNumber("a", IFLA_CARRIER), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MTU), 1500);
  EXPECT_EQ(LinkNumber("a", IFLA_MIN_MTU), 68);
  EXPECT_EQ(LinkNumber("a", IFLA_MAX_MTU), 65535);
  EXPECT_EQ(LinkNumber("a", IFLA_TXQLEN), 1000);
  EXPECT_EQ(LinkNumber("a", IFLA_LINK), static_cast<int64_t>(if_nametoindex("b")));
  EXPECT_EQ(LinkNumber("b", IFLA_LINK), static_cast<int64_t>(if_nametoindex("a")));
  EXPECT_EQ(SetUp("a"), 0);
  for (int i = 0; i < 1000 && LinkNumber("a", IFLA_OPERSTATE) != 3; ++i) SleepMs(5);  // the link watch takes its time
  EXPECT_EQ(LinkFlags("a"), static_cast<unsigned>(IFF_UP | IFF_BROADCAST | IFF_MULTICAST));
  EXPECT_EQ(LinkNumber("a", IFLA_OPERSTATE), 3);  // IF_OPER_LOWERLAYERDOWN
  EXPECT_EQ(SetUp("b"), 0);
  CheckpointHere();
  constexpr unsigned kRuns = IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | 0x10000;
  for (int i = 0; i < 1000 && LinkNumber("a", IFLA_OPERSTATE) != 6; ++i) SleepMs(5);
  EXPECT_EQ(LinkFlags("a"), kRuns);
  EXPECT_EQ(LinkFlags("b"), kRuns);
  EXPECT_EQ(LinkNumber("a", IFLA_OPERSTATE), 6);
  EXPECT_EQ(LinkNumber("a", IFLA_CARRIER), 1);
  EXPECT_EQ(SetUp("b", false), 0);
  for (int i = 0; i < 1000 && LinkNumber("a", IFLA_OPERSTATE) == 6; ++i) SleepMs(5);
  EXPECT_EQ(LinkFlags("a"), static_cast<unsigned>(IFF_UP | IFF_BROADCAST | IFF_MULTICAST));
}

GUEST_TEST(Links, BothEndsGoTogether) {
  const int second = NewNet();
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b", second), 0);
  EXPECT(if_nametoindex("a") != 0);
  EXPECT_EQ(if_nametoindex("b"), 0u);
  CheckpointHere();
  const int first = MUST(open("/proc/self/ns/net", O_RDONLY));
  EnterNet(second);
  EXPECT(if_nametoindex("b") != 0);
  EXPECT_EQ(DeleteLink("b"), 0);
  EXPECT_EQ(if_nametoindex("b"), 0u);
  EnterNet(first);
  EXPECT_EQ(if_nametoindex("a"), 0u);
  EXPECT_EQ(DeleteLink("a"), -EINVAL);
  ifinfomsg nobody = {};
  nobody.ifi_index = 77;
  EXPECT_EQ(NlRequest(RTM_DELLINK, 0, nobody).Ask(), -ENODEV);
}

// A namespace that goes takes its ends with it.
GUEST_TEST(Links, NamespacesTakeTheirEnds) {
  NewNet();
  Gate moved, leave;
  const pid_t child = Fork([&] {
    MUST(unshare(CLONE_NEWNET));
    moved.Open();
    leave.Await();
  });
  moved.Await();
  const int net = MUST(open(Str("/proc/%d/ns/net", child), O_RDONLY));
  EXPECT_EQ(MakeVeth("a", "b", net), 0);
  close(net);
  CheckpointHere();
  EXPECT(if_nametoindex("a") != 0);
  leave.Open();
  JOIN_OK(child);
  for (int i = 0; i < 2000 && if_nametoindex("a") != 0; ++i) SleepMs(5);
  EXPECT_EQ(if_nametoindex("a"), 0u);
}

GUEST_TEST(Links, MovingKeepsTheNumberAndForgetsTheRest) {
  const int second = NewNet();
  const int first = NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  const unsigned index = if_nametoindex("b");
  EXPECT_EQ(SetUp("b"), 0);
  EXPECT_EQ(AddAddress("b", "10.1.0.1", 24), 0);
  EXPECT_EQ(MoveLink("b", second), 0);
  EXPECT_EQ(if_nametoindex("b"), 0u);
  EnterNet(second);
  CheckpointHere();
  EXPECT_EQ(if_nametoindex("b"), index);
  EXPECT_EQ(LinkFlags("b") & IFF_UP, 0u);
  int addresses = 0;
  ifaddrmsg all = {};
  Dump(RTM_GETADDR, all, [&](const nlmsghdr&, const char*, size_t) { ++addresses; });
  EXPECT_EQ(addresses, 0);
  // The name is taken there.
  EnterNet(first);
  EXPECT_EQ(MakeVeth("b", "c"), 0);
  EXPECT_EQ(MoveLink("b", second), -EEXIST);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("b")).Number<int32_t>(IFLA_NET_NS_FD, second).Text(IFLA_IFNAME, "other").Ask(), 0);
  EnterNet(second);
  EXPECT(if_nametoindex("other") != 0);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("b")).Number<int32_t>(IFLA_NET_NS_FD, 999).Ask(), -EBADF);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("b")).Number<int32_t>(IFLA_NET_NS_PID, 0x3fffffff).Ask(), -ESRCH);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("lo")).Number<int32_t>(IFLA_NET_NS_FD, first).Ask(), -EINVAL);
}

// A number that a program chooses is its own; the others go on from where they were.
GUEST_TEST(Links, NumbersAreChosen) {
  NewNet();
  auto make = [](int number, const char* name, const char* peer, int peer_number = 0) {
    ifinfomsg head = LinkHead();
    head.ifi_index = number;
    NlRequest r(RTM_NEWLINK, kMake, head);
    r.Text(IFLA_IFNAME, name);
    const size_t info = r.Open(IFLA_LINKINFO);
    r.Text(IFLA_INFO_KIND, "veth");
    const size_t data = r.Open(IFLA_INFO_DATA), other = r.Open(VETH_INFO_PEER);
    ifinfomsg peer_head = {};
    peer_head.ifi_index = peer_number;
    r.Raw(&peer_head, sizeof(peer_head));
    r.Text(IFLA_IFNAME, peer);
    r.Close(other);
    r.Close(data);
    r.Close(info);
    return r.Ask();
  };
  EXPECT_EQ(make(-5, "a", "b"), -EINVAL);
  EXPECT_EQ(make(0x7ffffffe, "a", "b"), 0);
  EXPECT_EQ(make(0x7fffffff, "c", "d"), 0);
  EXPECT_EQ(make(0x7ffffffe, "e", "f"), -EEXIST);  // it is that one
  // The other end's.
  EXPECT_EQ(make(101, "x", "y", 0x7ffffffe), -EBUSY);
  EXPECT_EQ(make(101, "x", "y", 101), -EBUSY);
  EXPECT_EQ(make(101, "x", "y", -3), -EINVAL);
  EXPECT_EQ(make(0, "x", "y", -3), -EINVAL);
  EXPECT_EQ(if_nametoindex("x") + if_nametoindex("y"), 0u);
  EXPECT_EQ(make(101, "x", "y", 102), 0);
  EXPECT_EQ(if_nametoindex("y"), 102u);
  EXPECT_EQ(MakeVeth("e", "f"), 0);
  CheckpointHere();
  EXPECT_EQ(MakeVeth("g", "h"), 0);
  EXPECT_EQ(if_nametoindex("a"), 0x7ffffffeu);
  EXPECT_EQ(if_nametoindex("c"), 0x7fffffffu);
  for (const char* name : {"b", "d", "e", "f", "g", "h"}) EXPECT(if_nametoindex(name) < 1000);
  unsigned seen[8] = {};
  int count = 0;
  for (const char* name : {"a", "b", "c", "d", "e", "f", "g", "h"}) {
    const unsigned index = if_nametoindex(name);
    EXPECT(index != 0);
    for (int i = 0; i < count; ++i) EXPECT(seen[i] != index);
    seen[count++] = index;
  }
}

// IPv6's own address comes once when an interface goes up: who takes it away does not get it back by other changes.
GUEST_TEST(Links, AddressesThatNobodyWants) {
  NewNet();
  auto own = [](uint8_t* raw) {
    int found = 0;
    ifaddrmsg all = {};
    all.ifa_family = AF_INET6;
    Dump(RTM_GETADDR, all, [&](const nlmsghdr&, const char* body, size_t size) {
      if (reinterpret_cast<const ifaddrmsg*>(body)->ifa_index != if_nametoindex("a")) return;
      ++found;
      if (const char* data = FindAttribute(body, size, sizeof(ifaddrmsg), IFA_ADDRESS); data != nullptr) memcpy(raw, data, 16);
    });
    return found;
  };
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(SetUp("a") | SetUp("b"), 0);
  uint8_t raw[16] = {};
  for (int i = 0; i < 1000 && own(raw) == 0; ++i) SleepMs(5);
  EXPECT_EQ(own(raw), 1);
  EXPECT_EQ(raw[0] << 8 | raw[1], 0xfe80);
  ifaddrmsg m = {};
  m.ifa_family = AF_INET6;
  m.ifa_prefixlen = 64;
  m.ifa_index = if_nametoindex("a");
  EXPECT_EQ(NlRequest(RTM_DELADDR, 0, m).Put(IFA_LOCAL, raw, 16).Ask(), 0);
  CheckpointHere();
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("a")).Number<uint32_t>(IFLA_MTU, 1400).Ask(), 0);
  EXPECT_EQ(SetUp("b", false) | SetUp("b"), 0);
  SleepMs(100);
  EXPECT_EQ(own(raw), 0);
  EXPECT_EQ(SetUp("a", false) | SetUp("a"), 0);
  for (int i = 0; i < 1000 && own(raw) == 0; ++i) SleepMs(5);
  EXPECT_EQ(own(raw), 1);
}

GUEST_TEST(Links, Settings) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  const uint8_t hardware[6] = {2, 0, 0, 0, 0, 9}, group[6] = {1, 0, 0, 0, 0, 9};
  EXPECT_EQ(
      NlRequest(RTM_NEWLINK, 0, LinkHead("a")).Put(IFLA_ADDRESS, hardware, 6).Number<uint32_t>(IFLA_MTU, 1400).Text(IFLA_IFALIAS, "first").Ask(), 0);
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("a")).Put(IFLA_ADDRESS, group, 6).Ask(), -EADDRNOTAVAIL);
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("a")).Number<uint32_t>(IFLA_MTU, 67).Ask(), -EINVAL);
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("a")).Number<uint32_t>(IFLA_MTU, 65536).Ask(), -EINVAL);
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead("a")).Number<uint32_t>(IFLA_TXQLEN, 7).Number<uint32_t>(IFLA_GROUP, 3).Ask(), 0);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("a")).Text(IFLA_IFNAME, "renamed").Ask(), 0);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("b")).Text(IFLA_IFNAME, "renamed").Ask(), -EEXIST);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("b")).Text(IFLA_IFNAME, "a/b").Ask(), -EINVAL);
  CheckpointHere();
  EXPECT_EQ(LinkNumber("renamed", IFLA_MTU), 1400);
  EXPECT_EQ(LinkNumber("renamed", IFLA_TXQLEN), 7);
  EXPECT_EQ(LinkNumber("renamed", IFLA_GROUP), 3);
  EXPECT_EQ(LinkNumber("renamed", IFLA_ADDRESS), 0x090000000002);
  EXPECT_EQ(LinkNumber("renamed", IFLA_IFALIAS) & 0xffffff, 'f' | 'i' << 8 | 'r' << 16);
  // Neither flags nor a mask of them: they stay.
  EXPECT_EQ(SetUp("lo"), 0);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead("lo")).Number<uint32_t>(IFLA_TXQLEN, 9).Ask(), 0);
  EXPECT((LinkFlags("lo") & IFF_UP) != 0);
}

GUEST_TEST(Links, Refusals) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(MakeVeth("a", "c"), -EEXIST);
  EXPECT_EQ(MakeVeth("d", "b"), -EEXIST);
  EXPECT_EQ(if_nametoindex("d"), 0u);
  EXPECT_EQ(MakeVeth("bad name", "e"), -EINVAL);
  EXPECT_EQ(MakeVeth("much_too_long_a_name", "e"), -ERANGE);
  EXPECT_EQ(MakeLink("f", "nosuchkind"), -EOPNOTSUPP);
  EXPECT_EQ(MakeLink("f", "tun"), -EOPNOTSUPP);
  EXPECT_EQ(DeleteLink("lo"), -EOPNOTSUPP);
  EXPECT_EQ(NlRequest(RTM_SETLINK, 0, LinkHead()).Text(IFLA_IFNAME, "nobody").Ask(), -ENODEV);
  EXPECT_EQ(NlRequest(RTM_NEWLINK, 0, LinkHead()).Text(IFLA_IFNAME, "nobody").Ask(), -ENODEV);
  AS_USER([] {
    EXPECT_EQ(SetUp("a"), -EPERM);
    EXPECT_EQ(MakeVeth("x", "y"), -EPERM);
    EXPECT_EQ(AddAddress("a", "10.0.0.1", 24), -EPERM);
  });
}

// Which destinations the main table has, as bits of their first byte's use below.
bool HasRoute(const char* to, int prefix, const char* device) {
  const RawAddress raw(to);
  bool found = false;
  rtmsg all = {};
  all.rtm_family = static_cast<uint8_t>(raw.family);
  Dump(RTM_GETROUTE, all, [&](const nlmsghdr&, const char* body, size_t size) {
    const auto* m = reinterpret_cast<const rtmsg*>(body);
    if (m->rtm_table != RT_TABLE_MAIN || m->rtm_dst_len != prefix) return;
    const char* dst = FindAttribute(body, size, sizeof(rtmsg), RTA_DST);
    if (prefix > 0 && (dst == nullptr || memcmp(dst, raw.bytes, raw.size()) != 0)) return;
    int link = 0;
    if (const char* oif = FindAttribute(body, size, sizeof(rtmsg), RTA_OIF); oif != nullptr) memcpy(&link, oif, sizeof(link));
    found = found || link == static_cast<int>(if_nametoindex(device));
  });
  return found;
}

// Where a datagram socket's connect leads: its own address, in host order; 0 if there is no way.
uint32_t SourceTo(const char* address) {
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  const SocketAddress to(address, 9);
  sockaddr_in own = {};
  socklen_t size = sizeof(own);
  if (connect(fd, to.get(), to.size) == 0) MUST(getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size));
  close(fd);
  return ntohl(own.sin_addr.s_addr);
}

GUEST_TEST(Links, AddressesMakeRoutes) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(AddAddress("a", "10.2.0.1", 24), 0);
  EXPECT(!HasRoute("10.2.0.0", 24, "a"));
  EXPECT_EQ(SourceTo("10.2.0.9"), 0u);
  EXPECT_EQ(SetUp("lo"), 0);
  EXPECT_EQ(SetUp("a"), 0);
  EXPECT_EQ(SetUp("b"), 0);
  EXPECT(HasRoute("10.2.0.0", 24, "a"));
  EXPECT_EQ(AddAddress("a", "10.2.0.2", 24), 0);
  EXPECT_EQ(AddAddress("a", "10.2.0.2", 24), -EEXIST);
  EXPECT_EQ(AddAddress("b", "10.3.0.1", 16), 0);
  EXPECT_EQ(AddAddress("b", "fd03::1", 64), 0);
  EXPECT(HasRoute("fd03::", 64, "b"));
  EXPECT(HasRoute("10.3.0.0", 16, "b"));
  EXPECT_EQ(SourceTo("10.2.0.9"), 0x0a020001u);
  EXPECT_EQ(SourceTo("10.3.9.9"), 0x0a030001u);
  EXPECT_EQ(SourceTo("10.4.0.1"), 0u);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "0.0.0.0", 0, "10.3.0.254", nullptr), 0);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "0.0.0.0", 0, "10.3.0.254", nullptr), -EEXIST);
  CheckpointHere();
  EXPECT(HasRoute("0.0.0.0", 0, "b"));
  EXPECT_EQ(SourceTo("10.4.0.1"), 0x0a030001u);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 16, nullptr, "a"), 0);
  EXPECT_EQ(SourceTo("10.5.0.1"), 0x0a020001u);
  EXPECT_EQ(ChangeRoute(RTM_DELROUTE, "10.5.0.0", 16, nullptr, nullptr), 0);
  EXPECT_EQ(ChangeRoute(RTM_DELROUTE, "10.5.0.0", 16, nullptr, nullptr), -ESRCH);
  EXPECT_EQ(SourceTo("10.5.0.1"), 0x0a030001u);
  // The first address takes its network, and the second with it.
  EXPECT_EQ(ChangeAddress(RTM_DELADDR, "a", "10.2.0.1", 24), 0);
  EXPECT(!HasRoute("10.2.0.0", 24, "a"));
  EXPECT_EQ(ChangeAddress(RTM_DELADDR, "a", "10.2.0.2", 24), -EADDRNOTAVAIL);
  // What is down has no routes; addresses of IPv4 stay, others go.
  EXPECT_EQ(SetUp("b", false), 0);
  EXPECT(!HasRoute("10.3.0.0", 16, "b"));
  EXPECT(!HasRoute("0.0.0.0", 0, "b"));
  EXPECT_EQ(SetUp("b"), 0);
  EXPECT(HasRoute("10.3.0.0", 16, "b"));
  EXPECT(!HasRoute("0.0.0.0", 0, "b"));
  EXPECT(!HasRoute("fd03::", 64, "b"));
}

GUEST_TEST(Links, RouteRefusals) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 16, nullptr, "a"), -ENETDOWN);
  EXPECT_EQ(SetUp("lo"), 0);
  EXPECT_EQ(SetUp("a"), 0);
  EXPECT_EQ(AddAddress("a", "10.2.0.1", 24), 0);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 16, "10.9.0.1", nullptr), -ENETUNREACH);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 16, nullptr, nullptr), -ENODEV);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.1", 16, nullptr, "a"), -EINVAL);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 33, nullptr, "a"), -EINVAL);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.5.0.0", 16, nullptr, "a", 0), -ENOENT);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.6.0.0", 16, nullptr, nullptr, kMake, RTN_UNREACHABLE), 0);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.7.0.0", 16, nullptr, nullptr, kMake, RTN_PROHIBIT), 0);
  EXPECT_EQ(ChangeRoute(RTM_NEWROUTE, "10.8.0.0", 16, nullptr, nullptr, kMake, RTN_BLACKHOLE), 0);
  CheckpointHere();
  const struct {
    const char* to;
    int error;
  } kCases[] = {{"10.6.0.1", EHOSTUNREACH}, {"10.7.0.1", EACCES}, {"10.8.0.1", EINVAL}, {"10.9.0.1", ENETUNREACH}};
  for (const auto& c : kCases) {
    const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    const SocketAddress to(c.to, 9);
    EXPECT_ERRNO(connect(fd, to.get(), to.size), c.error);
    close(fd);
  }
}

// The state of the neighbour `address` (NUD_*), 0 if nobody knows it.
int NeighbourState(const char* address, uint8_t* hardware = nullptr) {
  const RawAddress raw(address);
  int state = 0;
  ndmsg all = {};
  all.ndm_family = static_cast<uint8_t>(raw.family);
  Dump(RTM_GETNEIGH, all, [&](const nlmsghdr&, const char* body, size_t size) {
    const char* dst = FindAttribute(body, size, sizeof(ndmsg), NDA_DST);
    if (dst == nullptr || memcmp(dst, raw.bytes, raw.size()) != 0) return;
    state = reinterpret_cast<const ndmsg*>(body)->ndm_state;
    const char* where = FindAttribute(body, size, sizeof(ndmsg), NDA_LLADDR);
    if (where != nullptr && hardware != nullptr) memcpy(hardware, where, 6);
  });
  return state;
}

GUEST_TEST(Links, NeighboursAreFoundOut) {
  TwoNets nets;
  EnterNet(nets.second);
  const int64_t east = LinkNumber("east", IFLA_ADDRESS);
  EnterNet(nets.first);
  for (const char* address : {"10.7.0.2", "fd07::2"}) {
    EXPECT_EQ(NeighbourState(address), 0);
    const SocketAddress to(address, 9);
    const int fd = MUST(socket(to.storage.ss_family, SOCK_DGRAM, 0));
    MUST(sendto(fd, "x", 1, 0, to.get(), to.size));
    for (int i = 0; i < 2000 && (NeighbourState(address) & (NUD_REACHABLE | NUD_STALE | NUD_DELAY)) == 0; ++i) SleepMs(5);
    uint8_t hardware[8] = {};
    EXPECT((NeighbourState(address, hardware) & (NUD_REACHABLE | NUD_STALE | NUD_DELAY)) != 0);
    EXPECT_EQ(memcmp(hardware, &east, 6), 0);
    close(fd);
  }
  CheckpointHere();
  const RawAddress raw("10.7.0.9");
  const uint8_t hardware[6] = {2, 0, 0, 0, 0, 9};
  ndmsg m = {};
  m.ndm_family = AF_INET;
  m.ndm_ifindex = static_cast<int>(if_nametoindex("west"));
  m.ndm_state = NUD_PERMANENT;
  EXPECT_EQ(NlRequest(RTM_NEWNEIGH, kMake, m).Put(NDA_DST, raw.bytes, 4).Put(NDA_LLADDR, hardware, 6).Ask(), 0);
  EXPECT_EQ(NlRequest(RTM_NEWNEIGH, kMake, m).Put(NDA_DST, raw.bytes, 4).Put(NDA_LLADDR, hardware, 6).Ask(), -EEXIST);
  CheckpointHere();
  EXPECT_EQ(NeighbourState("10.7.0.9"), NUD_PERMANENT);
  // All states may be written; those that packets are sent in need an address.
  auto write = [&](int last, uint16_t state, bool with) {
    ndmsg one = m;
    one.ndm_state = state;
    const RawAddress at(Str("10.7.0.%d", last));
    NlRequest r(RTM_NEWNEIGH, kMake, one);
    r.Put(NDA_DST, at.bytes, 4);
    if (with) r.Put(NDA_LLADDR, hardware, 6);
    return r.Ask();
  };
  constexpr uint16_t kStates[] = {NUD_NONE, NUD_INCOMPLETE, NUD_FAILED, NUD_REACHABLE, NUD_STALE, NUD_DELAY, NUD_PROBE, NUD_NOARP};
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(write(100 + i, kStates[i], true), 0);
    const int now = NeighbourState(Str("10.7.0.%d", 100 + i));
    EXPECT(now == kStates[i] || (kStates[i] == NUD_DELAY && now == NUD_PROBE));
    EXPECT_EQ(write(120 + i, kStates[i], false), i < 3 ? 0 : -EINVAL);
  }
  EXPECT_EQ(NlRequest(RTM_DELNEIGH, 0, m).Put(NDA_DST, raw.bytes, 4).Ask(), 0);
  EXPECT_EQ(NlRequest(RTM_NEWNEIGH, 0, m).Put(NDA_DST, raw.bytes, 4).Put(NDA_LLADDR, hardware, 6).Ask(), -ENOENT);
}

GUEST_TEST(Links, NobodyAnswers) {
  TwoNets nets;
  const SocketAddress to("10.7.0.77", 9);
  const int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_ERRNO(connect(fd, to.get(), to.size), EHOSTUNREACH);
  // Another attempt may be under way.
  EXPECT((NeighbourState("10.7.0.77") & (NUD_FAILED | NUD_INCOMPLETE)) != 0);
}

GUEST_TEST(Links, ListenersHear) {
  NewNet();
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  sockaddr_nl a = {};
  a.nl_family = AF_NETLINK;
  a.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE;
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&a), sizeof(a)));
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  CheckpointHere();
  EXPECT_EQ(SetUp("a"), 0);
  EXPECT_EQ(AddAddress("a", "10.1.0.1", 24), 0);
  EXPECT_EQ(DeleteLink("a"), 0);
  bool made = false, up = false, address = false, route = false, gone = false;
  alignas(4) char got[65536];
  for (ssize_t left; (left = recv(fd, got, sizeof(got), MSG_DONTWAIT)) > 0;) {
    for (auto* h = reinterpret_cast<nlmsghdr*>(got); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      const char* body = reinterpret_cast<const char*>(NLMSG_DATA(h));
      const auto* info = reinterpret_cast<const ifinfomsg*>(body);
      if (h->nlmsg_type == RTM_NEWLINK) made = true, up = up || (info->ifi_flags & IFF_UP) != 0;
      if (h->nlmsg_type == RTM_NEWADDR) address = true;
      if (h->nlmsg_type == RTM_NEWROUTE) route = true;
      if (h->nlmsg_type == RTM_DELLINK) gone = true;
    }
  }
  EXPECT(made && up && address && route && gone);
}

GUEST_TEST(Links, OlderCalls) {
  NewNet();
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  ifreq r = {};
  strcpy(r.ifr_name, "a");
  auto set = [&](unsigned long command, const char* text) {
    auto& in = reinterpret_cast<sockaddr_in&>(r.ifr_addr);
    in = {};
    in.sin_family = AF_INET;
    MUST(inet_pton(AF_INET, text, &in.sin_addr) == 1 ? 0 : -1);
    return ioctl(fd, command, &r) < 0 ? -errno : 0;
  };
  EXPECT_EQ(set(SIOCSIFADDR, "10.2.3.4"), 0);
  EXPECT_EQ(set(SIOCSIFNETMASK, "255.0.255.0"), -EINVAL);
  EXPECT_EQ(set(SIOCSIFNETMASK, "255.255.255.0"), 0);
  r.ifr_flags = IFF_UP;
  EXPECT_EQ(ioctl(fd, SIOCSIFFLAGS, &r), 0);
  EXPECT(HasRoute("10.2.3.0", 24, "a"));
  EXPECT_EQ(ioctl(fd, SIOCGIFADDR, &r), 0);
  EXPECT_EQ(ntohl(reinterpret_cast<sockaddr_in&>(r.ifr_addr).sin_addr.s_addr), 0x0a020304u);
  rtentry route = {};
  auto& gateway = reinterpret_cast<sockaddr_in&>(route.rt_gateway);
  gateway.sin_family = AF_INET;
  gateway.sin_addr.s_addr = htonl(0x0a0203fe);
  route.rt_dst.sa_family = route.rt_genmask.sa_family = AF_INET;
  route.rt_flags = RTF_UP | RTF_GATEWAY;
  char device[] = "a";
  route.rt_dev = device;
  EXPECT_EQ(ioctl(fd, SIOCADDRT, &route), 0);
  EXPECT_ERRNO(ioctl(fd, SIOCADDRT, &route), EEXIST);
  CheckpointHere();
  EXPECT(HasRoute("0.0.0.0", 0, "a"));
  EXPECT_EQ(ioctl(fd, SIOCDELRT, &route), 0);
  EXPECT_ERRNO(ioctl(fd, SIOCDELRT, &route), ESRCH);
  strcpy(r.ifr_newname, "again");
  EXPECT_EQ(ioctl(fd, SIOCSIFNAME, &r), 0);
  EXPECT(if_nametoindex("again") != 0);
}

GUEST_TEST(Links, FramesAreSeen) {
  TwoNets nets;
  const int fd = MUST(socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)));
  sockaddr_ll where = {};
  where.sll_family = AF_PACKET;
  where.sll_protocol = htons(ETH_P_ALL);
  where.sll_ifindex = static_cast<int>(if_nametoindex("west"));
  MUST(bind(fd, reinterpret_cast<sockaddr*>(&where), sizeof(where)));
  const SocketAddress to("10.7.0.2", 9);
  const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  MUST(sendto(udp, "frame", 5, 0, to.get(), to.size));
  bool asked = false, answered = false, sent = false;
  for (int i = 0; i < 200 && !(asked && answered && sent); ++i) {
    pollfd p = {fd, POLLIN, 0};
    if (poll(&p, 1, 100) != 1) continue;
    uint8_t frame[2048];
    const ssize_t size = MUST(recv(fd, frame, sizeof(frame), 0));
    const int protocol = frame[12] << 8 | frame[13];
    if (protocol == ETH_P_ARP && size >= 42) (frame[21] == 1 ? asked : answered) = true;
    if (protocol == ETH_P_IP && size == 14 + 20 + 8 + 5 && memcmp(frame + 42, "frame", 5) == 0) sent = true;
  }
  EXPECT(asked && answered && sent);
}

// Scoped addresses of IPv6 name their link.
GUEST_TEST(Links, AddressesOfOneLink) {
  TwoNets nets;
  EnterNet(nets.second);
  EXPECT_EQ(AddAddress("east", "fe80::22", 64), 0);
  const int b = BoundSocket(SOCK_DGRAM, SocketAddress("::", 4003));
  EnterNet(nets.first);
  EXPECT_EQ(AddAddress("west", "fe80::11", 64), 0);
  const SocketAddress from("fe80::11", 4004, "west"), to("fe80::22", 4003, "west");
  const int a = BoundSocket(SOCK_DGRAM, from);
  CheckpointHere();
  EXPECT_EQ(sendto(a, "near", 4, 0, to.get(), to.size), 4);
  ExpectReceives(b, "near");
}

GUEST_TEST(Links, Dummies) {
  NewNet();
  const int made = MakeLink("d", "dummy");
  if (made == -EOPNOTSUPP) Skip("this kernel has no dummy interfaces");
  EXPECT_EQ(made, 0);
  EXPECT_EQ(SetUp("lo"), 0);
  EXPECT_EQ(SetUp("d"), 0);
  EXPECT_EQ(AddAddress("d", "10.8.0.1", 24), 0);
  CheckpointHere();
  EXPECT_EQ(LinkFlags("d"), static_cast<unsigned>(IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_NOARP | 0x10000));
  // Its own address answers, what is behind it is swallowed.
  const SocketAddress own("10.8.0.1", 4005), other("10.8.0.2", 9);
  const int fd = BoundSocket(SOCK_DGRAM, own);
  EXPECT_EQ(sendto(fd, "self", 4, 0, own.get(), own.size), 4);
  ExpectReceives(fd, "self");
  EXPECT_EQ(sendto(fd, "gone", 4, 0, other.get(), other.size), 4);
  EXPECT_EQ(DeleteLink("d"), 0);
  // Its own address has gone: ENETUNREACH as of Linux 6.18, which was EINVAL earlier.
  EXPECT_EQ(sendto(fd, "gone", 4, 0, other.get(), other.size), -1);
  EXPECT(errno == ENETUNREACH || errno == EINVAL);
  const int free = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  EXPECT_ERRNO(sendto(free, "gone", 4, 0, other.get(), other.size), ENETUNREACH);
}

// Settings of a network namespace belong to the root of the user namespace that owns it.
GUEST_TEST(Links, SettingsBelongToTheOwner) {
  AS_USER([] {
    MUST(prctl(PR_SET_DUMPABLE, 1));
    if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0) Skip("no user namespaces");
    WriteFile("/proc/self/setgroups", "deny");
    WriteFile("/proc/self/uid_map", "0 1000 1");
    WriteFile("/proc/self/gid_map", "0 1000 1");
    struct stat st = {};
    MUST(stat("/proc/sys/net/ipv4/ping_group_range", &st));
    EXPECT_EQ(st.st_uid, 0u);
    const int fd = MUST(open("/proc/sys/net/ipv4/ping_group_range", O_WRONLY));
    EXPECT_EQ(write(fd, "0 0", 3), 3);
  });
}

GUEST_TEST(Links, NamespacesAreOfNsfs) {
  constexpr long kNsfs = 0x6e736673;
  struct statfs s = {};
  MUST(statfs("/proc/self/ns/net", &s));
  EXPECT_EQ(static_cast<long>(s.f_type), kNsfs);
  const int fd = MUST(open("/proc/self/ns/net", O_RDONLY));
  MUST(fstatfs(fd, &s));
  EXPECT_EQ(static_cast<long>(s.f_type), kNsfs);
}

}  // namespace
