// Random sequences of calls of several processes: after each step the proxy's objects and bytes are the driver's.
#include <gtest/gtest.h>

#include <random>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

struct Actor {
  std::unique_ptr<TestProcess> process;
  std::vector<TestProcess::Basic> clients;
};

class Walk {
 public:
  Walk(Proxy& proxy, uint64_t seed) : proxy_(proxy), random_(seed) {}

  void Step() {
    if (actors_.size() < 3) return Spawn();
    Actor& actor = actors_[Pick(actors_.size())];
    switch (Pick(40)) {
      case 0: return Exit(actor);
      case 1: return NewClient(actor);
      case 2: return CloseClient(actor);
      case 3: return Fork(actor);
      case 4: return Exec(actor);
      default: break;
    }
    if (actor.clients.empty()) return NewClient(actor);
    auto& b = actor.clients[Pick(actor.clients.size())];
    switch (Pick(14)) {
      case 0:
      case 1: actor.process->Memory(b.ctl, b.client, Parent(b), Handle(), Pick(64) << 16); return;
      case 2: actor.process->Memory(b.ctl, b.client, Parent(b), Handle(), Pick(1 << 20), 0x3e); return;
      case 3: return WithSpace(actor, b, 0xa06c, 8);
      case 4: return WithSpace(actor, b, 0xc86f, 28);
      case 5: actor.process->Alloc(b.ctl, b.client, Handle(), Handle(), 0xcbc0, std::vector<uint8_t>(16)); return;
      case 6: actor.process->Alloc(b.ctl, b.client, Parent(b), Handle(), 0x90f1, std::vector<uint8_t>(actor.process->SizeOf(0x90f1))); return;
      case 7: return Dup(actor, b);
      case 8: return Share(actor, b);
      case 9:
      case 10: actor.process->Free(b.ctl, b.client, Pick(20) == 0 ? b.device : Handle()); return;
      case 11: return Map(actor, b);
      case 12: return Pin(actor, b);
      default: return Uvm(actor, b);
    }
  }

  void ExitAll() { actors_.clear(); }

 private:
  size_t Pick(size_t n) { return random_() % n; }
  uint32_t Handle() { return 0x100 + static_cast<uint32_t>(Pick(24)); }
  uint32_t Parent(const TestProcess::Basic& b) { return Pick(3) == 0 ? b.subdevice : b.device; }

  void Spawn() {
    uint64_t id = ++next_process_;
    actors_.push_back({std::make_unique<TestProcess>(proxy_, Session{.process = id, .pid = static_cast<uint32_t>(id)}), {}});
  }
  void Exit(Actor& actor) {
    if (Pick(2) == 0) proxy_.OnExit(actor.process->session().process);
    actors_.erase(actors_.begin() + (&actor - actors_.data()));
  }
  void NewClient(Actor& actor) {
    if (actor.clients.size() < 4) actor.clients.push_back(actor.process->Start(static_cast<uint32_t>(Pick(2))));
  }
  void CloseClient(Actor& actor) {
    if (actor.clients.empty()) return;
    actor.process->Close(actor.clients.back().gpu);
    actor.process->Close(actor.clients.back().ctl);
    actor.clients.pop_back();
  }
  // A child has its parent's files, and with them keeps its parent's clients alive, which it may not use.
  void Fork(Actor& parent) {
    if (actors_.size() >= 6 || parent.clients.empty()) return;
    auto b = parent.clients[Pick(parent.clients.size())];
    uint64_t id = ++next_process_;
    auto child = std::make_unique<TestProcess>(proxy_, Session{.process = id, .pid = static_cast<uint32_t>(id)});
    child->Inherit(b.ctl, *parent.process), child->Inherit(b.gpu, *parent.process);
    EXPECT_EQ(child->Memory(b.ctl, b.client, b.device, 0x4000, 1 << 16), uint32_t{kNvInvalidClient});
    actors_.push_back({std::move(child), {}});
  }
  // All its files were opened to be closed then.
  void Exec(Actor& actor) {
    while (!actor.clients.empty()) CloseClient(actor);
  }
  // A mapping context on a file of its own, and sometimes the mapping; the memory may be freed in between.
  void Map(Actor& actor, TestProcess::Basic& b) {
    int fd = actor.process->Open(NodeKind::kGpu, 0);
    uint32_t handle = Handle();
    RmMapMemory block{.hClient = b.client, .hDevice = b.device, .hMemory = handle, .length = Pick(8) << 12, .pad_fd = fd};
    actor.process->Frontend(b.ctl, 0x4e, block);
    if (Pick(4) == 0) actor.process->Free(b.ctl, b.client, handle);
    if (Pick(2) == 0) (void)proxy_.Map(*actor.process->FileOf(fd), *actor.process, 0, Pick(8) << 12, 3, true);
    if (Pick(8) != 0) actor.process->Close(fd);
  }
  void Pin(Actor& actor, TestProcess::Basic& b) {
    RmAllocMemory block{.hRoot = b.client,
                        .hObjectParent = b.device,
                        .hObjectNew = Handle(),
                        .hClass = 0x71,
                        .pMemory = TestProcess::kBase + (Pick(64) << 12),
                        .limit = ((Pick(15) + 1) << 12) - 1 + (Pick(10) == 0)};
    actor.process->Frontend(b.gpu, 0x27, block);
  }
  void WithSpace(Actor& actor, TestProcess::Basic& b, uint32_t number, size_t offset) {
    std::vector<uint8_t> params(actor.process->SizeOf(number));
    uint32_t space = Pick(4) == 0 ? 0 : Handle();
    std::memcpy(params.data() + offset, &space, 4);
    uint32_t parent = number == 0xc86f && Pick(2) == 0 ? Handle() : b.device;
    actor.process->Alloc(b.ctl, b.client, parent, Handle(), number, params);
  }
  void Dup(Actor& actor, TestProcess::Basic& b) {
    Actor& other = actors_[Pick(actors_.size())];
    if (other.clients.empty()) return;
    auto& from = other.clients[Pick(other.clients.size())];
    RmDup block{.hClient = b.client, .hParent = b.device, .hObject = Handle(), .hClientSrc = from.client, .hObjectSrc = Handle()};
    actor.process->Frontend(b.ctl, 0x34, block);
  }
  void Share(Actor& actor, TestProcess::Basic& b) {
    RmShare block{.hClient = b.client,
                  .hObject = Handle(),
                  .sharePolicy_target = b.client,
                  .sharePolicy_accessMask = 1,
                  .sharePolicy_type = static_cast<uint16_t>(Pick(9)),
                  .sharePolicy_action = static_cast<uint8_t>(Pick(8))};
    actor.process->Frontend(b.ctl, 0x35, block);
  }
  void Uvm(Actor& actor, TestProcess::Basic& b) {
    int fd = actor.process->Open(NodeKind::kUvm);
    std::vector<uint8_t> init(16), range(24), map(FindEntry(proxy_.branch().uvm, 0x21)->size);
    actor.process->Uvm(fd, 0x30000001, init);
    uint64_t base = 0x10000, size = 0x100000;
    std::memcpy(range.data(), &base, 8);
    std::memcpy(range.data() + 8, &size, 8);
    actor.process->Uvm(fd, 0x49, range);
    UvmOffsets at = TestProcess::Offsets(proxy_, 0x21);
    uint32_t handle = Handle();
    int none = -1;
    std::memcpy(map.data(), &base, 8);
    std::memcpy(map.data() + 8, &size, 8);
    std::memcpy(map.data() + at.client, &b.client, 4);
    std::memcpy(map.data() + at.object, &handle, 4);
    std::memcpy(map.data() + at.fd, &none, 4);
    actor.process->Uvm(fd, 0x21, map);
    if (Pick(4) != 0) actor.process->Close(fd);  // else it stays open, and keeps memory, until the process ends
  }

  Proxy& proxy_;
  std::mt19937_64 random_;
  std::vector<Actor> actors_;
  uint64_t next_process_ = 0;
};

TEST(Property, GraphsAndLedgersAgree) {
#if __has_feature(thread_sanitizer)
  constexpr int kSteps = 10000;  // one thread, in which there is no race to find
#else
  constexpr int kSteps = 100000;
#endif
  World world;
  Proxy& proxy = world.Sandbox({.context_bytes = 400 << 20});
  Walk walk(proxy, 20261124);
  size_t most = 0;
  for (int i = 0; i < kSteps; ++i) {
    walk.Step();
    std::vector<std::string> ours = proxy.Describe(), theirs = world.host.Graph(1000);
    ASSERT_EQ(ours, theirs) << "step " << i;
    most = std::max(most, ours.size());
    for (uint32_t gpu : {0u, 1u}) ASSERT_EQ(proxy.ledger().used(gpu), world.host.device_bytes(gpu)) << "step " << i;
    ASSERT_EQ(proxy.ledger().host_used(), world.host.system_bytes()) << "step " << i;
    if (i % 1000 == 0) ASSERT_EQ(world.host.violations(), std::vector<std::string>{}) << "step " << i;
  }
  EXPECT_GT(most, 40u);
  EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
  walk.ExitAll();
  EXPECT_EQ(world.host.client_count(), 0u);
  EXPECT_EQ(world.host.file_count(), 0u);
  EXPECT_EQ(proxy.ledger().used(0) + proxy.ledger().used(1) + proxy.ledger().host_used(), 0u);
}

}  // namespace
}  // namespace amber::nvproxy
