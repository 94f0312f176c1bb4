// A hostile network: a stack with a listener and a client gets raw packets, segments that are near what it expects, and ICMP errors about what it
// sent, while its program reads, writes and closes and time passes. What must hold whatever comes: what is parsed is the same after it was
// written and parsed again, and no more data is kept than the receive buffer allows.
#include <fuzzer/FuzzedDataProvider.h>
#include <net/if_arp.h>

#include <memory>
#include <string>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/net/ip/wire.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber::net {
namespace {

// The stack's only interface; remembers the last TCP packet and the last packet of all that left by it.
class PeerLink final : public Link {
 public:
  PeerLink() : Link("wire0", ARPHRD_ETHER, 1500) { set_flags(IFF_UP); }
  void Send(Packet packet, const IpAddress&) override {
    last_bytes = SerializePacket(packet);
    if (packet.protocol == kTcp) last = std::move(packet);
  }
  Packet last;
  std::string last_bytes;
};

class World final : public StackHost {
 public:
  explicit World(bool v4);
  ~World() override;
  int64_t Now() override { return now_; }
  void ArmAt(int64_t) override {}
  uint64_t Random() override { return random_ = random_ * 6364136223846793005u + 1442695040888963407u; }

  void Step(FuzzedDataProvider& data);

 private:
  void Raw(FuzzedDataProvider& data);
  void Segment(FuzzedDataProvider& data);
  void Icmp(FuzzedDataProvider& data);
  void Program(FuzzedDataProvider& data);
  void Tune(TcpConnection& c, FuzzedDataProvider& data);

  bool v4_;
  int64_t now_ = kSecond;
  uint64_t random_ = 1;
  Stack stack_{*this};
  TcpLayer tcp_{stack_};
  PeerLink* link_;
  IpAddress own_, peer_;
  RefPtr<TcpConnection> listener_;
  std::vector<RefPtr<TcpConnection>> connections_;  // the client, then what was accepted
};

IpAddress Host(bool v4, uint8_t n) {
  uint8_t raw[16] = {0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n};
  return v4 ? IpAddress::V4(0x0a000000u + n) : IpAddress::V6Bytes(raw);
}

World::World(bool v4) : v4_(v4), own_(Host(v4, 1)), peer_(Host(v4, 2)) {
  stack_.SetUp(stack_.loopback(), true);
  auto made = MakeRef<PeerLink>();
  link_ = made.get();
  stack_.AddLink(std::move(made));
  AMBER_CHECK(stack_.AddAddress(*link_, {own_, v4 ? 24 : 120, 0}).ok());
  Route r;
  r.destination = Host(v4, 0);
  r.prefix = v4 ? 24 : 120;
  r.link = link_->index();
  stack_.routes().push_back(r);
  stack_.Changed();
  listener_ = MakeRef<TcpConnection>(tcp_);
  AMBER_CHECK(listener_->Bind({own_, 80}, false, 0).ok());
  AMBER_CHECK(listener_->Listen(4).ok());
  connections_.push_back(MakeRef<TcpConnection>(tcp_));
  AMBER_CHECK(connections_[0]->Connect({peer_, 80}, false, 0).ok());
}

World::~World() {
  for (auto& c : connections_) c->Close(true);
  listener_->Close(true);
}

void CheckSame(const Packet& a, const Packet& b) {
  AMBER_CHECK(a.source == b.source && a.destination == b.destination && a.protocol == b.protocol);
  AMBER_CHECK(a.payload.view() == b.payload.view());
  if (a.protocol == kTcp) {
    AMBER_CHECK(a.tcp.seq == b.tcp.seq && a.tcp.ack == b.tcp.ack && a.tcp.flags == b.tcp.flags && a.tcp.mss == b.tcp.mss);
    AMBER_CHECK(a.tcp.window_scale == b.tcp.window_scale && a.tcp.timestamp == b.tcp.timestamp);
  }
}

void World::Raw(FuzzedDataProvider& data) {
  std::string bytes = data.ConsumeRandomLengthString(600);
  Packet packet;
  (void)ParseQuoted(bytes, v4_, &packet);
  packet = {};
  (void)ParsePacket(bytes, &packet);
  packet = {};
  if (ParsePacket(bytes, &packet, false) != ParseError::kNone) return;
  Packet again;
  AMBER_CHECK(ParsePacket(SerializePacket(packet), &again) == ParseError::kNone);
  CheckSame(packet, again);
  if (data.ConsumeBool()) {
    packet.source = peer_;
    packet.destination = own_;
    if (data.ConsumeBool()) packet.tcp.destination_port = 80;
  }
  stack_.Receive(std::move(packet), *link_);
}

// A small number, or any.
uint32_t Near(FuzzedDataProvider& data) {
  return data.ConsumeBool() ? data.ConsumeIntegral<uint32_t>() : static_cast<uint32_t>(data.ConsumeIntegralInRange<int>(-4, 2000));
}

void World::Segment(FuzzedDataProvider& data) {
  Packet p;
  p.source = peer_;
  p.destination = own_;
  p.protocol = kTcp;
  TcpHeader& h = p.tcp;
  const TcpHeader& last = link_->last.tcp;
  uint8_t odd = data.ConsumeIntegral<uint8_t>();
  bool fresh = (odd & 3) == 0;  // a connection of the peer's
  h.source_port = fresh ? data.ConsumeIntegralInRange<uint16_t>(1000, 1003) : last.destination_port;
  h.destination_port = fresh ? 80 : last.source_port;
  h.flags = data.ConsumeIntegral<uint8_t>() & 0x3f;
  h.seq = fresh ? 100 : last.ack;
  if ((odd & 4) != 0) h.seq += Near(data);
  h.ack = fresh ? 0 : last.seq + link_->last.payload.size + ((last.flags & (kSyn | kFin)) != 0 ? 1 : 0);
  if ((odd & 8) != 0) h.ack += Near(data);
  h.window = (odd & 16) != 0 ? data.ConsumeIntegral<uint16_t>() : 0xffff;
  h.urgent = (h.flags & kUrg) != 0 ? data.ConsumeIntegral<uint16_t>() : 0;
  if ((odd & 32) != 0) {
    h.mss = data.ConsumeIntegral<uint16_t>();
    h.window_scale = data.ConsumeIntegralInRange<int8_t>(-1, 14);
    h.sack_permitted = data.ConsumeBool();
  }
  h.has_timestamp = last.has_timestamp || (odd & 64) != 0;
  h.timestamp = static_cast<uint32_t>(now_ / kMs) + ((odd & 64) != 0 ? Near(data) : 0);
  h.timestamp_echo = last.timestamp;
  if ((odd & 128) != 0) {
    h.sack_count = data.ConsumeIntegralInRange<uint8_t>(0, 4);
    for (int i = 0; i < h.sack_count; ++i) h.sacks[i] = {h.ack + Near(data), h.ack + Near(data)};
  }
  size_t size = data.ConsumeBool() ? data.ConsumeIntegralInRange<size_t>(0, 1460) : 0;
  p.payload = Slice::Copy(std::string(size, 'd'));
  stack_.Receive(std::move(p), *link_);
}

void World::Icmp(FuzzedDataProvider& data) {
  Packet p;
  p.source = peer_;
  p.destination = own_;
  p.protocol = v4_ ? kIcmp : kIcmp6;
  p.icmp.type = data.ConsumeIntegral<uint8_t>();
  p.icmp.code = data.ConsumeIntegralInRange<uint8_t>(0, 8);
  p.icmp.rest = data.ConsumeIntegral<uint32_t>();
  std::string quoted = link_->last_bytes;
  quoted.resize(std::min<size_t>(quoted.size(), data.ConsumeIntegralInRange<size_t>(0, 80)));
  p.payload = Slice::Copy(quoted);
  stack_.Receive(std::move(p), *link_);
}

void World::Tune(TcpConnection& c, FuzzedDataProvider& data) {
  c.options().keepalive = data.ConsumeBool();
  c.options().keep_idle = data.ConsumeIntegralInRange(1, 100);
  c.options().user_timeout_ms = data.ConsumeIntegralInRange(0, 5000);
  c.OptionsChanged();
  c.SetReceiveLimit(data.ConsumeIntegralInRange<uint32_t>(2304, 1 << 20));
  c.SetSendLimit(data.ConsumeIntegralInRange<uint32_t>(4608, 1 << 20));
}

void World::Program(FuzzedDataProvider& data) {
  TcpConnection& c = *connections_[data.ConsumeIntegral<uint8_t>() % connections_.size()];
  char room[4096];
  switch (data.ConsumeIntegralInRange(0, 7)) {
    case 0: {
      std::string text(data.ConsumeIntegralInRange<size_t>(1, 20000), 'w');
      BufferSource source(text.data(), text.size());
      (void)c.Write(source, data.ConsumeBool(), data.ConsumeBool());
      return;
    }
    case 1: {
      BufferSink sink(room, data.ConsumeIntegralInRange<size_t>(1, sizeof(room)));
      (void)c.Read(sink, {data.ConsumeBool(), data.ConsumeBool(), data.ConsumeIntegralInRange<size_t>(0, 3)});
      return;
    }
    case 2: return c.Shutdown(data.ConsumeIntegralInRange(1, 3));
    case 3: (void)c.ReadUrgent(data.ConsumeBool()); return;
    case 4: return Tune(c, data);
    case 5: {
      RefPtr<TcpConnection> accepted = listener_->Accept();
      if (accepted && connections_.size() < 8) connections_.push_back(std::move(accepted));
      if (accepted) accepted->Close(data.ConsumeBool());
      return;
    }
    case 6:
      (void)c.Disconnect();
      (void)c.Connect({peer_, 80}, false, 0);
      return;
    default:
      if (connections_.size() < 2) return;
      connections_.back()->Close(data.ConsumeBool());
      connections_.pop_back();
  }
}

void World::Step(FuzzedDataProvider& data) {
  switch (data.ConsumeIntegralInRange(0, 7)) {
    case 0: Raw(data); break;
    case 1: Icmp(data); break;
    case 2:
    case 3: Program(data); break;
    case 4:
      now_ += data.ConsumeIntegralInRange<int64_t>(0, data.ConsumeBool() ? 300 * kSecond : 300 * kMs);
      stack_.RunTimers();
      break;
    default: Segment(data); break;
  }
  for (const auto& c : connections_) AMBER_CHECK(c->unread() <= size_t{c->receive_limit()} + (1 << 20));
  AMBER_CHECK(listener_->accept_queue_length() <= listener_->backlog() + 1);
}

}  // namespace
}  // namespace amber::net

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace amber::net;
  FuzzedDataProvider data(bytes, size);
  World world(data.ConsumeBool());
  for (int i = 0; i < 256 && data.remaining_bytes() > 0; ++i) world.Step(data);
  return 0;
}
