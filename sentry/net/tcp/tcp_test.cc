// TCP between two stacks with a clock of their own, over a link that writes packets in wire format and loses, repeats and reorders them.
#include <gtest/gtest.h>
#include <net/if_arp.h>
#include <poll.h>

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "sentry/net/ip/wire.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {

struct World {
  int64_t now = kSecond;
  std::multimap<int64_t, std::function<void()>> events;
  std::mt19937_64 random{42};
};

class TestHost final : public StackHost {
 public:
  explicit TestHost(World& world) : world_(world) {}
  int64_t Now() override { return world_.now; }
  void ArmAt(int64_t deadline) override {
    world_.events.emplace(deadline, [this] { stack->RunTimers(); });
  }
  uint64_t Random() override { return world_.random(); }
  Stack* stack = nullptr;

 private:
  World& world_;
};

struct Faults {
  double lose = 0, repeat = 0, reorder = 0;
  int64_t delay = 5 * kMs;
};

class WireLink final : public Link {
 public:
  WireLink(World& world, Faults faults) : Link("wire0", ARPHRD_ETHER, 1500), world_(world), faults_(faults) { set_flags(IFF_UP); }
  void Send(Packet packet, const IpAddress&) override {
    ++sent;
    std::string bytes = SerializePacket(packet);
    EXPECT_LE(bytes.size(), mtu());
    auto chance = [&](double p) { return std::uniform_real_distribution<>(0, 1)(world_.random) < p; };
    if (cut || chance(faults_.lose)) return;
    for (int copies = chance(faults_.repeat) ? 2 : 1; copies > 0; --copies) {
      int64_t delay = faults_.delay + (chance(faults_.reorder) ? 3 * kMs : 0);
      world_.events.emplace(world_.now + delay, [this, bytes] {
        Packet in;
        ASSERT_EQ(ParsePacket(bytes, &in), ParseError::kNone);
        peer_stack->Receive(std::move(in), *peer);
      });
    }
  }
  Link* peer = nullptr;
  Stack* peer_stack = nullptr;
  bool cut = false;
  uint64_t sent = 0;

 private:
  World& world_;
  Faults faults_;
};

struct Node {
  Node(World& world, IpAddress own, IpAddress network, Faults faults) : host(world), stack(host), tcp(stack), address(own) {
    host.stack = &stack;
    stack.SetUp(stack.loopback(), true);
    auto made = MakeRef<WireLink>(world, faults);
    link = made.get();
    stack.AddLink(std::move(made));
    (void)stack.AddAddress(*link, {own, 24, 0});
    Route r;
    r.destination = network;
    r.prefix = 24;
    r.link = link->index();
    stack.routes().push_back(r);
    stack.Changed();
  }
  TestHost host;
  Stack stack;
  TcpLayer tcp;
  IpAddress address;
  WireLink* link;
};

class TcpTest : public ::testing::Test {
 protected:
  void Start(Faults faults) {
    a_ = std::make_unique<Node>(world_, IpAddress::V4(0x0a000001), IpAddress::V4(0x0a000000), faults);
    b_ = std::make_unique<Node>(world_, IpAddress::V4(0x0a000002), IpAddress::V4(0x0a000000), faults);
    a_->link->peer = b_->link, a_->link->peer_stack = &b_->stack;
    b_->link->peer = a_->link, b_->link->peer_stack = &a_->stack;
    listener_ = MakeRef<TcpConnection>(b_->tcp);
    ASSERT_TRUE(listener_->Bind({b_->address, 80}, false, 0).ok());
    ASSERT_TRUE(listener_->Listen(10).ok());
    client_ = MakeRef<TcpConnection>(a_->tcp);
    ASSERT_TRUE(client_->Connect({b_->address, 80}, false, 0).ok());
  }
  // Runs events until `done` or `limit` of virtual time has passed.
  bool RunUntil(const std::function<bool()>& done, int64_t limit = 600 * kSecond) {
    int64_t end = world_.now + limit;
    while (!done()) {
      if (world_.events.empty() || world_.events.begin()->first > end) return false;
      auto event = world_.events.begin();
      world_.now = std::max(world_.now, event->first);
      auto action = std::move(event->second);
      world_.events.erase(event);
      action();
    }
    return true;
  }
  void Accept() {
    ASSERT_TRUE(RunUntil([&] { return listener_->accept_queue_length() > 0; }));
    server_ = listener_->Accept();
    ASSERT_TRUE(RunUntil([&] { return client_->state() == TcpState::kEstablished; }));
  }
  void Transfer(size_t total) {
    std::string sent(total, '\0'), got;
    for (size_t i = 0; i < total; ++i) sent[i] = static_cast<char>(i * 7 + (i >> 10));
    BufferSource source(sent.data(), sent.size());
    std::vector<char> room(20000);
    bool over = false;
    ASSERT_TRUE(RunUntil([&] {
      if (source.remaining() > 0) {
        (void)client_->Write(source, false, false);
        if (source.remaining() == 0) client_->Shutdown(2);
      }
      for (;;) {
        BufferSink sink(room.data(), room.size());
        auto n = server_->Read(sink, {});
        if (!n.ok()) {
          EXPECT_TRUE(n.Is(EAGAIN));
          break;
        }
        if (*n == 0) over = true;
        if (*n == 0) break;
        got.append(room.data(), *n);
      }
      return over;
    }));
    EXPECT_TRUE(got == sent);
  }

  World world_;
  std::unique_ptr<Node> a_, b_;
  RefPtr<TcpConnection> listener_, client_, server_;
  ~TcpTest() override {
    for (auto* c : {&server_, &client_, &listener_}) {
      if (*c) (*c)->Close(true);
      c->reset();
    }
  }
};

TEST_F(TcpTest, CleanLink) {
  Start({});
  Accept();
  Transfer(3 << 20);
  EXPECT_EQ(a_->stack.counters().tcp_retransmitted, 0u);
  server_->Shutdown(2);
  EXPECT_TRUE(RunUntil([&] { return client_->state() == TcpState::kClosed && server_->state() == TcpState::kClosed; }));
  EXPECT_EQ(a_->tcp.time_waits().size(), 1u);
  EXPECT_TRUE(RunUntil([&] { return a_->tcp.time_waits().empty(); }, 61 * kSecond));
}

TEST_F(TcpTest, LossyLink) {
  Start({.lose = 0.05});
  Accept();
  Transfer(1 << 20);
  EXPECT_GT(a_->stack.counters().tcp_retransmitted, 0u);
}

TEST_F(TcpTest, RenoOnALossyLink) {
  Start({.lose = 0.02});
  Accept();
  for (TcpConnection* c : {client_.get(), server_.get()}) {
    c->options().congestion = CongestionControl::kReno;
    c->OptionsChanged();
  }
  Transfer(1 << 20);
  EXPECT_GT(a_->stack.counters().tcp_retransmitted, 0u);
  EXPECT_EQ(client_->congestion().algorithm, CongestionControl::kReno);
}

TEST(Congestion, RenoGrowsBySegmentsAndHalves) {
  constexpr uint32_t kMss = 1000;
  Congestion c;
  c.Use(CongestionControl::kReno);
  c.Init(kMss);
  EXPECT_EQ(c.cwnd, 10 * kMss);
  // Slow start: by what is acknowledged.
  for (int i = 0; i < 10; ++i) c.OnAck(kMss, kMss, kSecond, kMs, true);
  EXPECT_EQ(c.cwnd, 20 * kMss);
  c.OnLoss(kMss);
  EXPECT_EQ(c.cwnd, 10 * kMss);
  EXPECT_EQ(c.ssthresh, 10 * kMss);
  // Then by one segment for each window, however long that takes.
  for (uint32_t window = 10; window < 15; ++window) {
    for (uint32_t i = 0; i < window; ++i) {
      EXPECT_EQ(c.cwnd, window * kMss);
      c.OnAck(kMss, kMss, (2 + window) * kSecond, kMs, true);
    }
  }
  EXPECT_EQ(c.cwnd, 15 * kMss);
  // Not while the window was not what held it back.
  for (int i = 0; i < 100; ++i) c.OnAck(kMss, kMss, 30 * kSecond, kMs, false);
  EXPECT_EQ(c.cwnd, 15 * kMss);
  c.OnTimeout(kMss, 12 * kMss);
  EXPECT_EQ(c.cwnd, kMss);
  EXPECT_EQ(c.ssthresh, 6 * kMss);
  // CUBIC goes on with the window of the other, and grows faster at last.
  c.Use(CongestionControl::kCubic);
  EXPECT_EQ(c.cwnd, kMss);
}

TEST_F(TcpTest, VeryLossyRepeatingReorderingLink) {
  Start({.lose = 0.2, .repeat = 0.1, .reorder = 0.3});
  Accept();
  Transfer(200 << 10);
}

TEST_F(TcpTest, ReorderingAloneIsNotMuchLoss) {
  Start({.reorder = 0.02});
  Accept();
  Transfer(1 << 20);
}

TEST_F(TcpTest, SelectiveAcknowledgementsSaveTimeouts) {
  Start({.lose = 0.01});
  Accept();
  int64_t before = world_.now;
  Transfer(2 << 20);
  // With time-outs alone (200 ms each, some 15 losses) it would take much longer.
  EXPECT_LT(world_.now - before, 15 * kSecond);
}

TEST_F(TcpTest, ConnectTimesOut) {
  Start({.lose = 1.0});
  EXPECT_TRUE(RunUntil([&] { return client_->state() == TcpState::kClosed; }));
  EXPECT_EQ(client_->TakeError(), ETIMEDOUT);
}

TEST_F(TcpTest, KeepAliveFindsADeadPeer) {
  Start({});
  Accept();
  client_->options().keepalive = true;
  client_->options().keep_idle = 10;
  client_->options().keep_interval = 5;
  client_->options().keep_count = 3;
  client_->OptionsChanged();
  EXPECT_FALSE(RunUntil([&] { return client_->state() == TcpState::kClosed; }, 300 * kSecond));
  a_->link->cut = true;
  EXPECT_TRUE(RunUntil([&] { return client_->state() == TcpState::kClosed; }, 100 * kSecond));
  EXPECT_EQ(client_->TakeError(), ETIMEDOUT);
}

TEST_F(TcpTest, UserTimeoutEndsASilentConnection) {
  Start({});
  Accept();
  client_->options().user_timeout_ms = 3000;
  a_->link->cut = true;
  BufferSource source("x", 1);
  ASSERT_TRUE(client_->Write(source, false, false).ok());
  int64_t before = world_.now;
  EXPECT_TRUE(RunUntil([&] { return client_->state() == TcpState::kClosed; }));
  EXPECT_LT(world_.now - before, 8 * kSecond);
  EXPECT_EQ(client_->TakeError(), ETIMEDOUT);
}

TEST_F(TcpTest, ZeroWindowIsProbedAndOpens) {
  Start({.lose = 0.05});
  Accept();
  std::string data(1 << 20, 'z');
  BufferSource source(data.data(), data.size());
  RunUntil(
      [&] {
        if (source.remaining() > 0) (void)client_->Write(source, false, false);
        return false;
      },
      5 * kSecond);
  size_t got = 0;
  std::vector<char> room(20000);
  ASSERT_TRUE(RunUntil([&] {
    if (source.remaining() > 0) (void)client_->Write(source, false, false);
    BufferSink sink(room.data(), room.size());
    auto n = server_->Read(sink, {});
    if (n.ok()) got += *n;
    return got == data.size();
  })) << got
      << " of " << data.size() << ", state " << static_cast<int>(client_->state()) << ", unsent " << client_->unsent();
}

TEST_F(TcpTest, ResetOfAnUnknownPort) {
  Start({});
  auto other = MakeRef<TcpConnection>(a_->tcp);
  ASSERT_TRUE(other->Connect({b_->address, 81}, false, 0).ok());
  EXPECT_TRUE(RunUntil([&] { return other->state() == TcpState::kClosed; }));
  EXPECT_EQ(other->TakeError(), ECONNREFUSED);
}

}  // namespace
}  // namespace amber::net
