// Two and more stacks, wired up by veths and bridges, with a clock of their own.
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <memory>
#include <vector>

#include "sentry/net/ip/stack.h"
#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/dummy_link.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/net/link/veth_link.h"

namespace amber::net {
namespace {

int64_t now = kSecond, tick = 0;

class Host final : public StackHost {
 public:
  int64_t Now() override { return now += tick; }
  void ArmAt(int64_t deadline) override { armed = deadline; }
  uint64_t Random() override { return random_ = random_ * 6364136223846793005u + 1442695040888963407u; }
  int64_t armed = kNoDeadline;

 private:
  uint64_t random_ = 7;
};

// Counts what comes, and keeps the last error.
class Sink final : public Transport {
 public:
  void Receive(Packet packet) override { ++received, last = std::move(packet); }
  void OnError(const Packet&, const IcmpHeader&, int error, bool) override { last_error = error; }
  int received = 0, last_error = 0;
  Packet last;
};

struct Node {
  Node() {
    stack.SetUp(stack.loopback(), true);
    stack.SetTransport(kUdp, &sink);
  }
  ~Node() { stack.SetTransport(kUdp, nullptr); }
  // The end of a new veth.
  VethLink& AddVeth(const char* name, uint32_t address, uint8_t hardware) {
    auto link = MakeRef<VethLink>(name);
    link->set_hardware({2, 0, 0, 0, 0, hardware});
    stack.AddLink(link);
    if (address != 0) EXPECT_TRUE(stack.AddAddress(*link, {IpAddress::V4(address), 24, 0}).ok());
    return *link;
  }
  bool Send(uint32_t to, uint32_t size = 3) {
    auto path = stack.FindPath(IpAddress::V4(to), {}, 0);
    if (!path.ok()) return false;
    Packet p;
    p.source = path->source;
    p.destination = IpAddress::V4(to);
    p.protocol = kUdp;
    p.udp = {1, 2, 0};
    p.payload = Slice::Copy(std::string(size, 'x'));
    Stack::Batch batch(stack);
    stack.Send(std::move(p), *path);
    return true;
  }
  void RunTimers() { stack.RunTimers(); }
  Host host;
  Stack stack{host};
  Sink sink;
};

void Wire(Node& a, VethLink& x, Node& b, VethLink& y) {
  VethLink::Join(x, y);
  a.stack.SetUp(x, true);
  b.stack.SetUp(y, true);
}

constexpr uint32_t kA = 0x0a000001, kB = 0x0a000002;

TEST(Link, PacketsFindTheirWay) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  EXPECT_TRUE(a.Send(kB));
  EXPECT_EQ(b.sink.received, 1);
  EXPECT_EQ(b.sink.last.source, IpAddress::V4(kA));
  const auto& known = a.stack.FindLink("a")->neighbours()->all();
  ASSERT_EQ(known.count(IpAddress::V4(kB)), 1u);
  EXPECT_EQ(known.at(IpAddress::V4(kB)).state, NUD_REACHABLE);
  EXPECT_EQ(known.at(IpAddress::V4(kB)).hardware, (HardwareAddress{2, 0, 0, 0, 0, 2}));
  // Who was asked knows who asked.
  EXPECT_TRUE(b.Send(kA));
  EXPECT_EQ(a.sink.received, 1);
  // Long ago: still used, and looked after.
  now += 60 * kSecond;
  EXPECT_TRUE(a.Send(kB));
  EXPECT_EQ(known.at(IpAddress::V4(kB)).state, NUD_DELAY);
  now += 6 * kSecond;
  a.RunTimers();
  EXPECT_EQ(known.at(IpAddress::V4(kB)).state, NUD_REACHABLE);
}

TEST(Link, NobodyThere) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  EXPECT_TRUE(a.Send(0x0a000009));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(a.sink.last_error, 0);
    now += kSecond + kMs;
    a.RunTimers();
  }
  EXPECT_EQ(a.sink.last_error, EHOSTUNREACH);
  EXPECT_EQ(a.stack.FindLink("a")->neighbours()->all().at(IpAddress::V4(0x0a000009)).state, NUD_FAILED);
}

TEST(Link, NeighboursAreBounded) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Link& link = *a.stack.FindLink("a");
  ASSERT_TRUE(a.stack.AddAddress(link, {IpAddress::V4(0x0b000001), 8, 0}).ok());
  for (uint32_t i = 2; i < 3000; ++i) EXPECT_TRUE(a.Send(0x0b000000 + i));
  EXPECT_LE(link.neighbours()->all().size(), Neighbours::kMax);
}

// Who is told that a neighbour does not answer is a neighbour himself, for whom others make room.
TEST(Link, FailuresMakeNewNeighbours) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Link& link = *a.stack.FindLink("a");
  ASSERT_TRUE(a.stack.AddAddress(link, {IpAddress::V4(0x0b000001), 8, 0}).ok());
  for (uint32_t i = 2; i < 1000; ++i) {
    auto path = a.stack.FindPath(IpAddress::V4(0x0b000000 + i), {}, 0);
    ASSERT_TRUE(path.ok());
    for (uint32_t n = 0; n < 3; ++n) {
      Packet p;
      p.source = IpAddress::V4(0x0b800000 + 3 * i + n);  // a raw socket may say so
      p.destination = IpAddress::V4(0x0b000000 + i);
      p.protocol = kUdp;
      p.payload = Slice::Copy("lost");
      Stack::Batch batch(a.stack);
      a.stack.Send(std::move(p), *path);
    }
  }
  for (int i = 0; i < 8; ++i) {
    now += kSecond + kMs;
    a.RunTimers();
    EXPECT_LE(link.neighbours()->all().size(), Neighbours::kMax);
  }
  link.neighbours()->Flush();
  EXPECT_EQ(link.neighbours()->waiting_bytes(), 0u);
}

TEST(Link, WaitingPacketsAreBounded) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Link& link = *a.stack.FindLink("a");
  Neighbours& all = *link.neighbours();
  link.set_mtu(65535);
  ASSERT_TRUE(a.stack.AddAddress(link, {IpAddress::V4(0x0b000001), 8, 0}).ok());
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(a.Send(0x0b000002, 60000));
  EXPECT_LE(all.waiting_bytes(), Neighbours::kMaxBytes);
  EXPECT_EQ(all.all().at(IpAddress::V4(0x0b000002)).waiting.size(), 3u);
  EXPECT_EQ(link.counters().tx_dropped, 7u);
  for (uint32_t i = 3; i < 203; ++i) EXPECT_TRUE(a.Send(0x0b000000 + i, 60000));
  EXPECT_LE(all.waiting_bytes(), Neighbours::kMaxBytesOfLink);
  EXPECT_GT(all.waiting_bytes(), Neighbours::kMaxBytesOfLink - 61000);
  // Those that could not wait are asked for as well.
  EXPECT_EQ(all.all().at(IpAddress::V4(0x0b000000 + 202)).state, NUD_INCOMPLETE);
  for (int i = 0; i < 4; ++i) {
    now += kSecond + kMs;
    a.RunTimers();
  }
  EXPECT_EQ(all.waiting_bytes(), 0u);
  EXPECT_TRUE(a.Send(kB, 1000));
  EXPECT_EQ(b.sink.received, 1);
  EXPECT_EQ(all.waiting_bytes(), 0u);
  EXPECT_TRUE(a.Send(0x0b000009, 1000));
  EXPECT_TRUE(all.Remove(IpAddress::V4(0x0b000009)));
  EXPECT_EQ(all.waiting_bytes(), 0u);
}

TEST(Link, FailedNeighboursAreForgotten) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  const auto& all = a.stack.FindLink("a")->neighbours()->all();
  ASSERT_TRUE(a.stack.AddAddress(*a.stack.FindLink("a"), {IpAddress::V4(0x0b000001), 8, 0}).ok());
  for (uint32_t i = 2; i < 302; ++i) EXPECT_TRUE(a.Send(0x0b000000 + i));
  for (int i = 0; i < 4; ++i) {
    now += kSecond + kMs;
    a.RunTimers();
  }
  EXPECT_TRUE(a.Send(kB));
  now += 20 * kSecond;
  EXPECT_TRUE(a.Send(0x0b000fff));
  EXPECT_EQ(all.size(), 2u);
  EXPECT_EQ(all.count(IpAddress::V4(kB)), 1u);
}

// With an address its routes go: its network's, and those that send from it.
TEST(Link, AddressesGoWithTheirRoutes) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Link& link = *a.stack.FindLink("a");
  auto v6 = [](int number) {
    uint8_t raw[16] = {0xfd, static_cast<uint8_t>(number >> 8), static_cast<uint8_t>(number)};
    raw[15] = 1;
    return IpAddress::V6Bytes(raw);
  };
  size_t before = a.stack.routes().size();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(a.stack.AddAddress(link, {v6(i), 64, RT_SCOPE_UNIVERSE}).ok());
  ASSERT_TRUE(a.stack.AddAddress(link, {IpAddress::V4(kA + 100), 24, 0}).ok());
  EXPECT_EQ(a.stack.routes().size(), before + 1000);
  ASSERT_TRUE(a.stack.RemoveAddress(link, v6(7), 64).ok());
  EXPECT_EQ(a.stack.routes().size(), before + 999);
  Route r;
  r.destination = IpAddress::V4(0x0c000000);
  r.prefix = 8;
  r.link = link.index();
  r.source = IpAddress::V4(kA + 100);
  ASSERT_TRUE(a.stack.AddRoute(r, NLM_F_CREATE).ok());
  // The first address of a network takes the others with it.
  ASSERT_TRUE(a.stack.RemoveAddress(link, IpAddress::V4(kA), 24).ok());
  EXPECT_EQ(a.stack.routes().size(), before + 998);
  a.stack.SetUp(link, false);
  EXPECT_TRUE(a.stack.routes().empty());
  EXPECT_TRUE(link.addresses().empty());
}

TEST(Link, EndsDieTogether) {
  Node a;
  auto b = std::make_unique<Node>();
  Wire(a, a.AddVeth("a", kA, 1), *b, b->AddVeth("b", kB, 2));
  auto path = a.stack.FindPath(IpAddress::V4(kB), {}, 0);
  ASSERT_TRUE(path.ok());
  b.reset();
  EXPECT_EQ(a.stack.FindLink("a"), nullptr);
  EXPECT_FALSE(a.Send(kB));
  // A way that somebody has kept leads nowhere.
  Stack::Batch batch(a.stack);
  Packet p;
  p.source = p.destination = IpAddress::V4(kB);
  a.stack.Send(std::move(p), *path);
}

TEST(Link, MovingForgets) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Node c;
  Link& link = *b.stack.FindLink("b");
  b.stack.MoveLink(link, c.stack, "moved");
  EXPECT_EQ(b.stack.FindLink("b"), nullptr);
  EXPECT_TRUE(b.stack.routes().empty());
  ASSERT_EQ(c.stack.FindLink("moved"), &link);
  EXPECT_FALSE(link.up());
  EXPECT_TRUE(link.addresses().empty());
  ASSERT_TRUE(c.stack.AddAddress(link, {IpAddress::V4(kB), 24, 0}).ok());
  c.stack.SetUp(link, true);
  EXPECT_TRUE(a.Send(kB));
  EXPECT_EQ(c.sink.received, 1);
}

TEST(Link, NumbersAreNeverShared) {
  Node a;
  std::vector<RefPtr<TunLink>> links;
  auto add = [&](int index = 0) {
    links.push_back(MakeRef<TunLink>("t" + std::to_string(links.size()), false));
    return a.stack.AddLink(links.back(), index).index();
  };
  EXPECT_EQ(add(), 2);
  EXPECT_EQ(add(4), 4);
  EXPECT_EQ(add(INT32_MAX), INT32_MAX);
  EXPECT_EQ(add(INT32_MAX), 3);
  EXPECT_EQ(add(), 5);
  EXPECT_EQ(add(INT32_MAX - 2), INT32_MAX - 2);
  a.stack.set_next_index(INT32_MAX - 2);
  EXPECT_EQ(add(), INT32_MAX - 1);
  // All others have been used: those that are free again.
  a.stack.RemoveLink(*links[0]);
  EXPECT_EQ(add(), 2);
  EXPECT_EQ(add(), 6);
}

// What a link has received goes with it, and is not taken for the frame of another link with its number.
TEST(Link, FramesGoWithTheirLink) {
  Node a;
  struct Tap final : FrameTap {
    void OnFrame(const Packet& packet, const Link& link, bool) override {
      EXPECT_GE(packet.frame.size, link.header_size());
      ++frames;
    }
    void OnLinkChange(const Link&) override {}
    int frames = 0;
  } tap;
  a.stack.SetFrameTap(&tap);
  auto tun = MakeRef<TunLink>("t", false);
  tun->no_carrier = true;
  a.stack.AddLink(tun);
  a.stack.SetUp(*tun, true);
  tun->Inject(Slice::Copy("@"));
  EXPECT_EQ(tap.frames, 1);
  {
    Stack::Batch batch(a.stack);
    tun->Inject(Slice::Copy("@"));
    a.stack.RemoveLink(*tun);
    auto ethernet = MakeRef<DummyLink>("d");
    a.stack.AddLink(ethernet, 2);
    a.stack.SetUp(*ethernet, true);
  }
  EXPECT_EQ(tap.frames, 1);
  a.stack.SetFrameTap(nullptr);
}

TEST(Link, BridgesLearn) {
  Node hub;
  auto bridge = MakeRef<BridgeLink>("br");
  hub.stack.AddLink(bridge);
  hub.stack.SetUp(*bridge, true);
  ASSERT_TRUE(hub.stack.AddAddress(*bridge, {IpAddress::V4(0x0a0000fe), 24, 0}).ok());
  Node far[3];
  for (uint8_t i = 0; i < 3; ++i) {
    VethLink& port = hub.AddVeth(("p" + std::to_string(i)).c_str(), 0, static_cast<uint8_t>(0x10 + i));
    ASSERT_TRUE(bridge->AddPort(port).ok());
    Wire(hub, port, far[i], far[i].AddVeth("eth0", kA + i, static_cast<uint8_t>(0x20 + i)));
  }
  EXPECT_TRUE(bridge->carrier());
  EXPECT_EQ(bridge->hardware(), (HardwareAddress{2, 0, 0, 0, 0, 0x10}));
  EXPECT_TRUE(far[0].Send(kA + 1));
  EXPECT_EQ(far[1].sink.received, 1);
  EXPECT_EQ(far[2].sink.received, 0);
  EXPECT_EQ(bridge->table().size(), 2u);
  EXPECT_TRUE(far[2].Send(0x0a0000fe));
  EXPECT_EQ(hub.sink.received, 1);
  EXPECT_TRUE(hub.Send(kA));
  EXPECT_EQ(far[0].sink.received, 1);
  EXPECT_FALSE(bridge->AddPort(static_cast<FrameLink&>(*hub.stack.FindLink("p0"))).ok());
}

TEST(Link, CirclesDoNotHoldTheLock) {
  Node hub;
  RefPtr<BridgeLink> bridges[2];
  for (int i = 0; i < 2; ++i) {
    bridges[i] = MakeRef<BridgeLink>("br" + std::to_string(i));
    hub.stack.AddLink(bridges[i]);
    hub.stack.SetUp(*bridges[i], true);
  }
  ASSERT_TRUE(hub.stack.AddAddress(*bridges[0], {IpAddress::V4(kA), 24, 0}).ok());
  for (int i = 0; i < 3; ++i) {
    VethLink& x = hub.AddVeth(("x" + std::to_string(i)).c_str(), 0, static_cast<uint8_t>(0x30 + i));
    VethLink& y = hub.AddVeth(("y" + std::to_string(i)).c_str(), 0, static_cast<uint8_t>(0x40 + i));
    ASSERT_TRUE(bridges[0]->AddPort(x).ok());
    ASSERT_TRUE(bridges[1]->AddPort(y).ok());
    Wire(hub, x, hub, y);
  }
  auto carried = [&] {
    uint64_t sum = 0;
    for (const auto& l : hub.stack.links()) sum += l->counters().rx_packets;
    return sum;
  };
  EXPECT_TRUE(hub.Send(kB));
  uint64_t before = carried();
  // It goes on, a bounded number of frames at a time.
  EXPECT_NE(hub.host.armed, kNoDeadline);
  now += 2 * kMs;
  hub.RunTimers();
  EXPECT_GT(carried(), before);
  EXPECT_LT(carried() - before, 40'000u);
}

TEST(Link, BatchesEndInTime) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  EXPECT_TRUE(a.Send(kB));
  ASSERT_EQ(b.sink.received, 1);
  tick = kMs;  // each look at the clock
  {
    Stack::Batch batch(a.stack);
    for (int i = 0; i < 500; ++i) EXPECT_TRUE(a.Send(kB));
  }
  tick = 0;
  EXPECT_GT(b.sink.received, 50);
  EXPECT_LT(b.sink.received, 200);
  EXPECT_NE(b.host.armed, kNoDeadline);
  for (int i = 0; i < 20; ++i) {
    now += 10 * kMs;
    b.RunTimers();
  }
  EXPECT_EQ(b.sink.received, 501);
}

TEST(Link, BacklogsAreBounded) {
  Node a, b;
  VethLink &x = a.AddVeth("a", kA, 1), &y = b.AddVeth("b", kB, 2);
  Wire(a, x, b, y);
  x.set_mtu(65535);
  EXPECT_TRUE(a.Send(kB));
  {
    Stack::Batch batch(b.stack);
    for (int i = 0; i < 400; ++i) EXPECT_TRUE(a.Send(kB, 60000));
    EXPECT_GT(y.counters().rx_dropped, 100u);
  }
  EXPECT_GT(b.sink.received, 200);
  // There is room again.
  int before = b.sink.received;
  EXPECT_TRUE(a.Send(kB, 60000));
  EXPECT_EQ(b.sink.received, before + 1);
}

// A frame that goes to a thousand ports is a thousand.
TEST(Link, FloodsAreCounted) {
  Node hub, far, sender;
  auto bridge = MakeRef<BridgeLink>("br");
  hub.stack.AddLink(bridge);
  hub.stack.SetUp(*bridge, true);
  for (int i = 0; i < 1000; ++i) {
    VethLink& port = hub.AddVeth(("p" + std::to_string(i)).c_str(), 0, 0x10);
    ASSERT_TRUE(bridge->AddPort(port).ok());
    Wire(hub, port, far, far.AddVeth(("f" + std::to_string(i)).c_str(), 0, 0x11));
  }
  VethLink& in = hub.AddVeth("in", 0, 0x12);
  ASSERT_TRUE(bridge->AddPort(in).ok());
  Wire(hub, in, sender, sender.AddVeth("eth0", kA, 0x13));
  auto carried = [&] {
    uint64_t sum = 0;
    for (const auto& l : far.stack.links()) sum += l->counters().rx_packets + l->counters().rx_dropped;
    return sum;
  };
  uint64_t before = carried();
  {
    Stack::Batch batch(sender.stack);
    for (uint32_t i = 0; i < 100; ++i) EXPECT_TRUE(sender.Send(0x0a000064 + i % 100));  // each asks everybody who that is
  }
  EXPECT_GT(carried() - before, 2000u);
  EXPECT_LT(carried() - before, 10'000u);
}

TEST(Link, TunsHoldSoMuch) {
  Node a;
  class Reader final : public TunReader {
   public:
    void OnTunPacket() override { ++packets; }
    void OnTunGone() override { gone = true; }
    int packets = 0;
    bool gone = false;
  } reader;
  auto tun = MakeRef<TunLink>("t0", false);
  tun->RestoreReader(&reader);
  a.stack.AddLink(tun);
  a.stack.SetUp(*tun, true);
  ASSERT_TRUE(a.stack.AddAddress(*tun, {IpAddress::V4(kA), 24, 0}).ok());
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(a.Send(kB));
  EXPECT_EQ(tun->queue().size(), 500u);
  EXPECT_EQ(tun->front().view()[0], 0x45);
  EXPECT_GE(tun->counters().tx_dropped, 500u);
  while (tun->has_packet()) tun->Pop();
  tun->settings().queue_length = 100'000;
  tun->set_mtu(65535);
  for (int i = 0; i < 200; ++i) EXPECT_TRUE(a.Send(kB, 50000));
  size_t bytes = 0;
  for (const Slice& packet : tun->queue()) bytes += packet.size;
  EXPECT_LE(bytes, TunLink::kMostBytes);
  EXPECT_GT(bytes, TunLink::kMostBytes - 51000);
  a.stack.RemoveLink(*tun);
  EXPECT_TRUE(reader.gone);
  tun->Inject(Slice::Copy("\x45 nowhere"));
}

TEST(Routes, TheBestOneWins) {
  Node a, b;
  Wire(a, a.AddVeth("a", kA, 1), b, b.AddVeth("b", kB, 2));
  Route r;
  r.destination = IpAddress::V4(0);
  r.gateway = IpAddress::V4(kB);
  EXPECT_TRUE(a.stack.AddRoute(r, NLM_F_CREATE | NLM_F_EXCL).ok());
  EXPECT_TRUE(a.stack.AddRoute(r, NLM_F_CREATE | NLM_F_EXCL).Is(EEXIST));
  auto path = a.stack.FindPath(IpAddress::V4(0x08080808), {}, 0);
  ASSERT_TRUE(path.ok());
  EXPECT_EQ(path->next_hop, IpAddress::V4(kB));
  EXPECT_EQ(path->source, IpAddress::V4(kA));
  Route no;
  no.destination = IpAddress::V4(0x08000000);
  no.prefix = 8;
  no.type = RTN_PROHIBIT;
  EXPECT_TRUE(a.stack.AddRoute(no, NLM_F_CREATE).ok());
  EXPECT_TRUE(a.stack.FindPath(IpAddress::V4(0x08080808), {}, 0).Is(EACCES));
  Route lost;
  lost.destination = IpAddress::V4(0x09000000);
  lost.prefix = 8;
  lost.gateway = IpAddress::V4(0x0c000001);
  // Its gateway must be on a link itself.
  EXPECT_TRUE(a.stack.AddRoute(lost, NLM_F_CREATE).Is(ENETUNREACH));
}

}  // namespace
}  // namespace amber::net
