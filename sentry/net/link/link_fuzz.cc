// Hostile frames: a tap whose program writes what it likes, in a stack with addresses, a bridge and a veth, while packets are sent and time passes.
// What must hold: neighbours and what a bridge has learned keep their bounds, and every batch ends.
#include <fuzzer/FuzzedDataProvider.h>
#include <linux/if_ether.h>

#include <string>

#include "sentry/base/check.h"
#include "sentry/net/ip/stack.h"
#include "sentry/net/ip/wire.h"
#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/net/link/veth_link.h"

namespace amber::net {
namespace {

class World final : public StackHost, public TunReader {
 public:
  World();
  ~World() override { tap_->RestoreReader(nullptr); }
  int64_t Now() override { return now_; }
  void ArmAt(int64_t) override {}
  uint64_t Random() override { return random_ = random_ * 6364136223846793005u + 1442695040888963407u; }
  void OnTunPacket() override {}
  void OnTunGone() override {}

  void Step(FuzzedDataProvider& data);

 private:
  std::string Frame(FuzzedDataProvider& data);
  void Send(FuzzedDataProvider& data);

  int64_t now_ = kSecond;
  uint64_t random_ = 1;
  Stack stack_{*this};
  RefPtr<TunLink> tap_ = MakeRef<TunLink>("tap0", true);
  RefPtr<BridgeLink> bridge_ = MakeRef<BridgeLink>("br0");
  RefPtr<VethLink> ends_[2] = {MakeRef<VethLink>("v0"), MakeRef<VethLink>("v1")};
};

World::World() {
  tap_->RestoreReader(this);
  for (const RefPtr<Link>& link : {RefPtr<Link>(tap_), RefPtr<Link>(bridge_), RefPtr<Link>(ends_[0]), RefPtr<Link>(ends_[1])}) {
    link->set_hardware(RandomHardware(Random()));
    stack_.AddLink(link);
  }
  VethLink::Join(*ends_[0], *ends_[1]);
  stack_.SetUp(stack_.loopback(), true);
  for (const auto& link : stack_.links()) stack_.SetUp(*link, true);
  (void)bridge_->AddPort(*ends_[0]);
  (void)stack_.AddAddress(*tap_, {IpAddress::V4(0x0a000001), 8, 0});
  (void)stack_.AddAddress(*ends_[1], {IpAddress::V4(0xc0a80001), 24, 0});
}

// Bytes as they come, or a message that is near what is understood.
std::string World::Frame(FuzzedDataProvider& data) {
  auto bytes = [](const HardwareAddress& h) { return std::string(reinterpret_cast<const char*>(h.data()), h.size()); };
  std::string to = data.ConsumeBool() ? bytes(tap_->hardware()) : std::string(6, '\xff');
  std::string from = std::string("\x02\0\0\0", 4) + data.ConsumeBytesAsString(2);
  from.resize(6);
  switch (data.ConsumeIntegralInRange(0, 2)) {
    case 0: return data.ConsumeRandomLengthString(2000);
    case 1: {
      std::string arp = std::string("\x08\x06\0\1\10\0\6\4\0", 9);
      arp.push_back(static_cast<char>(data.ConsumeIntegralInRange(0, 3)));
      return to + from + arp + from + data.ConsumeRandomLengthString(40);
    }
    default: {
      Packet p;
      p.source = IpAddress::V6Bytes(reinterpret_cast<const uint8_t*>("\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x22"));
      p.destination = tap_->addresses().back().address;
      p.protocol = kIcmp6;
      p.ttl = 255;
      p.icmp.type = data.ConsumeIntegralInRange<uint8_t>(133, 137);
      p.icmp.rest = data.ConsumeIntegral<uint32_t>();
      p.payload = Slice::Copy(p.destination.Raw() + data.ConsumeRandomLengthString(80));
      return to + from + "\x86\xdd" + SerializePacket(p);
    }
  }
}

void World::Send(FuzzedDataProvider& data) {
  IpAddress to = IpAddress::V4(data.ConsumeBool() ? 0x0a000000 + data.ConsumeIntegralInRange(0u, 0xffffu) : data.ConsumeIntegral<uint32_t>());
  auto path = stack_.FindPath(to, {}, 0);
  if (!path.ok()) return;
  Stack::Batch batch(stack_);
  Packet p;
  p.source = path->source;
  p.destination = to;
  p.protocol = kUdp;
  p.payload = Slice::Copy("payload");
  stack_.Send(std::move(p), *path);
}

void World::Step(FuzzedDataProvider& data) {
  switch (data.ConsumeIntegralInRange(0, 7)) {
    case 0: now_ += data.ConsumeIntegralInRange<int64_t>(0, 40 * kSecond); break;
    case 1: Send(data); break;
    case 2:
      while (tap_->has_packet()) tap_->Pop();
      break;
    case 3: {
      Stack::Batch batch(stack_);
      ends_[data.ConsumeIntegralInRange(0, 1)]->SendFrame(Slice::Copy(data.ConsumeRandomLengthString(200)));
      break;
    }
    default: tap_->Inject(Slice::Copy(Frame(data))); break;
  }
  stack_.RunTimers();
  AMBER_CHECK(tap_->neighbours()->all().size() <= Neighbours::kMax);
  AMBER_CHECK(bridge_->table().size() <= BridgeLink::kMaxEntries);
}

}  // namespace
}  // namespace amber::net

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  amber::net::World world;
  while (data.remaining_bytes() > 0) world.Step(data);
  return 0;
}
