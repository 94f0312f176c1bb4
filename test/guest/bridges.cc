// Bridges (net/bridge): a switch of interfaces.
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>

#include "test/harness/guest_netlink.h"

using namespace guest;

namespace {

int SetMaster(const char* name, const char* master) {
  return NlRequest(RTM_NEWLINK, 0, LinkHead(name))
      .Number<int32_t>(IFLA_MASTER, master != nullptr ? static_cast<int>(if_nametoindex(master)) : 0)
      .Ask();
}

// A bridge here with 10.6.0.1, and two namespaces behind it with 10.6.0.2 and .3.
struct Switch {
  Switch() {
    far[0] = NewNet();
    far[1] = NewNet();
    here = NewNet();
    EXPECT_EQ(MakeLink("br", "bridge"), 0);
    EXPECT_EQ(SetUp("lo"), 0);
    EXPECT_EQ(SetUp("br"), 0);
    EXPECT_EQ(AddAddress("br", "10.6.0.1", 24), 0);
    for (int i = 0; i < 2; ++i) {
      const Str port("port%d", i);
      EXPECT_EQ(MakeVeth(port, "eth0", far[i]), 0);
      EXPECT_EQ(SetMaster(port, "br"), 0);
      EXPECT_EQ(SetUp(port), 0);
      EnterNet(far[i]);
      EXPECT_EQ(SetUp("lo"), 0);
      EXPECT_EQ(AddAddress("eth0", Str("10.6.0.%d", i + 2), 24), 0);
      EXPECT_EQ(SetUp("eth0"), 0);
      EnterNet(here);
    }
  }
  int far[2], here;
};

// Sends from one socket until the other has it: ports take a moment to forward.
void Reaches(int from, int to, const SocketAddress& at) {
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(sendto(from, "hop", 3, 0, at.get(), at.size), 3);
    pollfd p = {to, POLLIN, 0};
    if (poll(&p, 1, 50) != 1) continue;
    char got[8] = {};
    EXPECT_EQ(recv(to, got, sizeof(got), 0), 3);
    EXPECT_EQ(memcmp(got, "hop", 3), 0);
    while (recv(to, got, sizeof(got), MSG_DONTWAIT) > 0) {
    }
    return;
  }
  EXPECT(!"nothing came");
}

GUEST_TEST(Bridges, JoinNamespaces) {
  Switch net;
  int sockets[3];
  sockets[0] = BoundSocket(SOCK_DGRAM, SocketAddress("10.6.0.1", 4200));
  for (int i = 0; i < 2; ++i) {
    EnterNet(net.far[i]);
    sockets[i + 1] = BoundSocket(SOCK_DGRAM, SocketAddress(Str("10.6.0.%d", i + 2), 4200));
  }
  EnterNet(net.here);
  for (int round = 0; round < 2; ++round) {
    Reaches(sockets[1], sockets[2], SocketAddress("10.6.0.3", 4200));
    Reaches(sockets[2], sockets[0], SocketAddress("10.6.0.1", 4200));
    Reaches(sockets[0], sockets[1], SocketAddress("10.6.0.2", 4200));
    CheckpointHere();
  }
}

GUEST_TEST(Bridges, PortsComeAndGo) {
  NewNet();
  EXPECT_EQ(MakeLink("br", "bridge"), 0);
  EXPECT_EQ(MakeVeth("a", "b"), 0);
  EXPECT_EQ(SetUp("br"), 0);
  // Before its first port a bridge does not know whether it works.
  EXPECT_EQ(LinkFlags("br"), static_cast<unsigned>(IFF_UP | IFF_BROADCAST | IFF_RUNNING | IFF_MULTICAST | 0x10000));
  EXPECT_EQ(LinkNumber("br", IFLA_OPERSTATE), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), -1);
  EXPECT_EQ(SetMaster("a", "br"), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), static_cast<int64_t>(if_nametoindex("br")));
  for (int i = 0; i < 2000 && (LinkFlags("br") & IFF_RUNNING) != 0; ++i) SleepMs(5);  // the link watch takes its time
  EXPECT_EQ(LinkFlags("br"), static_cast<unsigned>(IFF_UP | IFF_BROADCAST | IFF_MULTICAST));
  // Its address is its port's.
  EXPECT_EQ(LinkNumber("br", IFLA_ADDRESS), LinkNumber("a", IFLA_ADDRESS));
  EXPECT_EQ(SetMaster("lo", "br"), -EINVAL);
  EXPECT_EQ(MakeLink("br2", "bridge"), 0);
  EXPECT_EQ(SetMaster("br2", "br"), -ELOOP);
  EXPECT_EQ(SetMaster("b", "a"), -EOPNOTSUPP);
  EXPECT_EQ(SetUp("a"), 0);
  EXPECT_EQ(SetUp("b"), 0);
  CheckpointHere();
  for (int i = 0; i < 2000 && LinkNumber("br", IFLA_OPERSTATE) != 6; ++i) SleepMs(5);
  EXPECT_EQ(LinkNumber("br", IFLA_OPERSTATE), 6);
  EXPECT_EQ(SetMaster("a", "br2"), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), static_cast<int64_t>(if_nametoindex("br2")));
  EXPECT_EQ(SetMaster("a", nullptr), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), -1);
  EXPECT_EQ(SetMaster("a", "br"), 0);
  EXPECT_EQ(DeleteLink("br"), 0);
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), -1);
  EXPECT_EQ(SetMaster("a", "br2"), 0);
  EXPECT_EQ(DeleteLink("b"), 0);
  EXPECT(if_nametoindex("br2") != 0);
}

GUEST_TEST(Bridges, StayInTheirNamespace) {
  const int other = NewNet();
  NewNet();
  EXPECT_EQ(MakeLink("br", "bridge"), 0);
  EXPECT_EQ(MoveLink("br", other), -EINVAL);
  EXPECT(if_nametoindex("br") != 0);
}

// A new interface may be made a port at once; if it cannot be one, there is none.
GUEST_TEST(Bridges, PortsFromTheBeginning) {
  NewNet();
  EXPECT_EQ(MakeLink("br", "bridge"), 0);
  auto make = [](const char* kind, const char* name, int master) {
    NlRequest r(RTM_NEWLINK, kMake, LinkHead(nullptr, IFF_UP, IFF_UP));
    r.Text(IFLA_IFNAME, name).Number<int32_t>(IFLA_MASTER, master);
    const size_t info = r.Open(IFLA_LINKINFO);
    r.Text(IFLA_INFO_KIND, kind);
    r.Close(info);
    return r.Ask();
  };
  const int bridge = static_cast<int>(if_nametoindex("br"));
  EXPECT_EQ(make("veth", "a", bridge), 0);
  CheckpointHere();
  EXPECT_EQ(LinkNumber("a", IFLA_MASTER), bridge);
  EXPECT((LinkFlags("a") & IFF_UP) != 0);
  EXPECT_EQ(make("veth", "b", 4711), -EINVAL);
  EXPECT_EQ(make("veth", "b", static_cast<int>(if_nametoindex("a"))), -EOPNOTSUPP);
  EXPECT_EQ(make("bridge", "b", bridge), -ELOOP);
  EXPECT_EQ(if_nametoindex("b"), 0u);
  int links = 0;
  Dump(RTM_GETLINK, LinkHead(), [&](const nlmsghdr&, const char*, size_t) { ++links; });
  EXPECT_EQ(links, 4);
}

// Bridges in a circle: what goes round ends sometime, and everybody else lives on.
GUEST_TEST(Bridges, CirclesEnd) {
  NewNet();
  EXPECT_EQ(MakeLink("br0", "bridge"), 0);
  EXPECT_EQ(MakeLink("br1", "bridge"), 0);
  EXPECT_EQ(MakeVeth("a0", "a1"), 0);
  EXPECT_EQ(MakeVeth("b0", "b1"), 0);
  EXPECT_EQ(SetMaster("a0", "br0") | SetMaster("b0", "br0") | SetMaster("a1", "br1") | SetMaster("b1", "br1"), 0);
  for (const char* name : {"lo", "a0", "a1", "b0", "b1", "br0", "br1"}) EXPECT_EQ(SetUp(name), 0);
  EXPECT_EQ(AddAddress("br0", "10.6.1.1", 24), 0);
  const SocketAddress to("10.6.1.9", 9);
  const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
  EXPECT_EQ(sendto(fd, "x", 1, 0, to.get(), to.size), 1);
  SleepMs(20);
  EXPECT_EQ(DeleteLink("a0"), 0);
  EXPECT_EQ(DeleteLink("b0"), 0);
  const SocketAddress own("10.6.1.1", 4201);
  const int here = BoundSocket(SOCK_DGRAM, own);
  EXPECT_EQ(sendto(here, "x", 1, 0, own.get(), own.size), 1);
  char got[4];
  EXPECT_EQ(recv(here, got, sizeof(got), 0), 1);
}

}  // namespace
