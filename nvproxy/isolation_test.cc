// One guest process tries another's clients and objects, in every place where a call can name one. The proxy refuses each without asking the host.
#include <gtest/gtest.h>

#include <functional>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

class Isolation : public testing::Test {
 protected:
  Isolation() {
    a = victim.Start();
    b = thief.Start();
    EXPECT_EQ(victim.Memory(a.ctl, a.client, a.device, 0x100, 1 << 20), uint32_t{kNvOk});
    EXPECT_EQ(thief.Memory(b.ctl, b.client, b.device, 0x100, 1 << 20), uint32_t{kNvOk});
  }
  ~Isolation() override { EXPECT_EQ(world.host.violations(), std::vector<std::string>{}); }

  void Refused(const char* what, const std::function<int64_t()>& attempt, int64_t expected = kNvInvalidClient) {
    uint64_t before = world.host.calls();
    EXPECT_EQ(attempt(), expected) << what;
    EXPECT_EQ(world.host.calls(), before) << what << " asked the host";
  }
  void TryFrontend(TestProcess& t, const TestProcess::Basic& own);
  void TryParameters(TestProcess& t, const TestProcess::Basic& own);
  void TryUvm(TestProcess& t, const TestProcess::Basic& own);
  void TryAll(TestProcess& t, const TestProcess::Basic& own);
  int64_t UvmOn(TestProcess& t, int file, uint32_t number, uint32_t client, uint32_t object) {
    std::vector<uint8_t> block(FindEntry(proxy.branch().uvm, number)->size);
    UvmOffsets at = TestProcess::Offsets(proxy, number);
    int none = -1;
    std::memcpy(block.data() + at.client, &client, 4);
    if (at.object != 0) std::memcpy(block.data() + at.object, &object, 4);
    if (at.fd != 0) std::memcpy(block.data() + at.fd, &none, 4);
    return t.Uvm(file, number, block);
  }
  uint32_t Dup(TestProcess& p, const TestProcess::Basic& to, uint32_t from, uint32_t object, uint32_t as) {
    RmDup block{.hClient = to.client, .hParent = to.device, .hObject = as, .hClientSrc = from, .hObjectSrc = object};
    p.Frontend(to.ctl, 0x34, block);
    return block.status;
  }
  uint32_t ShareIt(uint16_t type, uint8_t action = 0, uint32_t target = 0) {
    RmShare block{.hClient = a.client,
                  .hObject = 0x100,
                  .sharePolicy_target = target,
                  .sharePolicy_accessMask = 1,
                  .sharePolicy_type = type,
                  .sharePolicy_action = action};
    victim.Frontend(a.ctl, 0x35, block);
    EXPECT_EQ(block.sharePolicy_type, type);  // the guest sees its own
    return block.status;
  }

  World world;
  Proxy& proxy = world.Sandbox({.capabilities = 0x7f});
  TestProcess victim{proxy, {.process = 1, .container = 1, .uid = 1000, .pid = 10}};
  TestProcess thief{proxy, {.process = 2, .container = 1, .uid = 1000, .pid = 11}};
  TestProcess::Basic a, b;
};

// Every call of the frontend that can name a client or an object, by `t`, whose own are `own`.
void Isolation::TryFrontend(TestProcess& t, const TestProcess::Basic& own) {
  Refused("control", [&] {
    std::vector<uint8_t> params(4);
    return t.Control(own.ctl, a.client, a.client, 0x20800111, params);
  });
  Refused(
      "control of another's object",
      [&] {
        std::vector<uint8_t> params(64);
        return t.Control(own.ctl, own.client, 0x7777, 0x20800111, params);
      },
      kNvInvalidObjectHandle);
  Refused("alloc", [&] { return t.Alloc(own.ctl, a.client, a.client, 1, 0x80, std::vector<uint8_t>(56)); });
  Refused(
      "parent of another client", [&] { return t.Alloc(own.ctl, own.client, a.client, 1, 0x80, std::vector<uint8_t>(56)); }, kNvInvalidObjectParent);
  Refused("free", [&] { return t.Free(own.ctl, a.client, a.client); });
  Refused("dup", [&] { return Dup(t, own, a.client, 0x100, 0x200); });
  auto status_of = [&](int fd, uint32_t number, auto block) -> int64_t {
    int result = t.Frontend(fd, number, block);
    return result != 0 ? result : block.status;
  };
  Refused("dup into", [&] {
    return status_of(own.ctl, 0x34, RmDup{.hClient = a.client, .hParent = a.device, .hObject = 0x200, .hClientSrc = own.client, .hObjectSrc = 0x100});
  });
  Refused("share", [&] { return status_of(own.ctl, 0x35, RmShare{.hClient = a.client, .hObject = 0x100, .sharePolicy_type = 1}); });
  Refused("map", [&] {
    return status_of(own.ctl, 0x4e, RmMapMemory{.hClient = a.client, .hDevice = a.device, .hMemory = 0x100, .length = 4096, .pad_fd = own.gpu});
  });
  Refused("unmap", [&] { return status_of(own.ctl, 0x4f, RmUnmapMemory{.hClient = a.client, .hDevice = a.device, .hMemory = 0x100}); });
  for (uint32_t number : {0xceu, 0xcfu}) {
    Refused("event", [&] {
      OsEvent block{.hClient = a.client, .hDevice = a.device, .fd = own.gpu};
      int result = t.Frontend(own.ctl, number, block);
      return result != 0 ? result : static_cast<int64_t>(block.status);
    });
  }
  Refused("heap",
          [&] { return status_of(own.ctl, 0x4a, RmHeap{.hRoot = a.client, .hObjectParent = a.device, .function = 2, .AllocSize_size = 4096}); });
  Refused("alloc memory", [&] {
    return status_of(own.gpu, 0x27, RmAllocMemory{.hRoot = a.client, .hObjectParent = a.device, .hObjectNew = 5, .hClass = 0x40, .limit = 4095});
  });
  Refused("context dma", [&] { return status_of(own.ctl, 0x54, ContextDma{.hObjectParent = a.client, .hObjectNew = 6, .hMemory = 0x100}); });
  Refused("idle channels", [&] {
    uint64_t list = t.Put(a.client);
    return status_of(own.ctl, 0x41, IdleChannels{.hClient = own.client, .numChannels = 1, .phClients = list, .phDevices = list, .phChannels = list});
  });
  // Blocks that begin with the client, of whatever size the branch has.
  for (uint32_t number : {0x57u, 0x58u, 0x5eu}) {
    const Entry& entry = *FindEntry(proxy.branch().frontend, number);
    std::vector<uint8_t> block(entry.size);
    std::memcpy(block.data(), &a.client, 4);
    Refused(entry.name, [&]() -> int64_t {
      uint64_t at = t.PutBytes(block);
      int result = t.Raw(own.ctl, 0xc0004600u | entry.size << 16 | number, at);
      return result != 0 ? result : t.Get<uint32_t>(at + entry.status);
    });
  }
  const Entry& dmabuf = *FindEntry(proxy.branch().frontend, 0xd9);
  Refused(
      "dma-buf", [&] { return int64_t{t.Raw(own.gpu, 0xc0004600u | dmabuf.size << 16 | 0xd9, t.PutBytes(std::vector<uint8_t>(dmabuf.size)))}; },
      -EINVAL);
}

// Clients that stand inside parameters.
void Isolation::TryParameters(TestProcess& t, const TestProcess::Basic& own) {
  auto with = [&](size_t size, size_t offset) {
    std::vector<uint8_t> params(size);
    std::memcpy(params.data() + offset, &a.client, 4);
    return params;
  };
  Refused("hClientShare", [&] { return t.Alloc(own.ctl, own.client, own.client, 1, 0x80, with(56, 4)); });
  Refused("hTargetClient", [&] { return t.Alloc(own.ctl, own.client, own.client, 1, 0x80, with(56, 8)); });
  Refused("event's parent client", [&] { return t.Alloc(own.ctl, own.client, own.subdevice, 1, 0x79, with(24, 0)); });
  Refused("debugger", [&] { return t.Alloc(own.ctl, own.client, own.device, 1, 0x83de, with(12, 4)); });
  Refused("confidential compute", [&] { return t.Alloc(own.ctl, own.client, own.client, 1, 0xcb33, with(4, 0)); });
  Refused("disable channels", [&] {
    auto params = with(536, 24 + 4 * 7);
    return t.Control(own.ctl, own.client, own.subdevice, 0x2080110b, params);
  });
}

// The driver itself would accept these of another guest process: it only compares host processes.
void Isolation::TryUvm(TestProcess& t, const TestProcess::Basic& own) {
  int file = t.Open(NodeKind::kUvm);
  std::vector<uint8_t> init(16);
  EXPECT_EQ(t.Uvm(file, 0x30000001, init), 0);
  for (uint32_t number : {0x19u, 0x1bu, 0x1cu, 0x21u, 0x25u}) {
    Refused("UVM", [&] { return UvmOn(t, file, number, a.client, 0x100); });
    Refused("UVM with an unknown client", [&] { return UvmOn(t, file, number, 0xc1d0ffff, 0x100); });
  }
  Refused("UVM with an unknown object", [&] { return UvmOn(t, file, 0x21, own.client, 0x4242); }, kNvInvalidObjectHandle);
  EXPECT_NE(UvmOn(t, file, 0x21, own.client, own.device), int64_t{kNvInvalidClient});
}

void Isolation::TryAll(TestProcess& t, const TestProcess::Basic& own) {
  TryFrontend(t, own);
  TryParameters(t, own);
  TryUvm(t, own);
}

TEST_F(Isolation, AnotherProcess) { TryAll(thief, b); }

TEST_F(Isolation, AnotherContainer) {
  EXPECT_EQ(ShareIt(kShareAll), uint32_t{kNvOk});  // which is for its own container's processes
  TestProcess neighbour(proxy, {.process = 4, .container = 2, .uid = 1000, .pid = 10});
  TryAll(neighbour, neighbour.Start());
}

TEST_F(Isolation, AnotherSandbox) {
  EXPECT_EQ(ShareIt(kShareAll), uint32_t{kNvOk});
  Proxy& other = world.Sandbox({.capabilities = 0x7f});
  TestProcess stranger(other, {.process = 1, .container = 1, .uid = 1000, .pid = 10});
  TryAll(stranger, stranger.Start());
}

// A child has its parent's files but is another process: the clients stay the parent's.
TEST_F(Isolation, InheritedFiles) {
  TestProcess child(proxy, {.process = 3, .container = 1, .pid = 12});
  child.Inherit(a.ctl, victim);
  std::vector<uint8_t> params(4);
  Refused("control of a parent's client", [&] { return child.Control(a.ctl, a.client, a.client, 0x20800111, params); });
  EXPECT_NE(child.Client(a.ctl), 0u);
}

// Through another control file of the same process: the driver's rule.
TEST_F(Isolation, OtherFileOfTheSameProcess) {
  int other = victim.Open(NodeKind::kControl);
  std::vector<uint8_t> params(4);
  Refused("control", [&] { return victim.Control(other, a.client, a.client, 0x20800111, params); });
}

TEST_F(Isolation, SharedObjectsCanBeDuplicated) {
  EXPECT_EQ(ShareIt(kShareAll), uint32_t{kNvOk});
  EXPECT_EQ(Dup(thief, b, a.client, 0x100, 0x200), uint32_t{kNvOk});
  EXPECT_EQ(ShareIt(kShareNone), uint32_t{kNvOk});
  Refused("no longer shared", [&] { return Dup(thief, b, a.client, 0x100, 0x201); });
  EXPECT_EQ(ShareIt(kShareToken), uint32_t{kNvOk});  // same user
  EXPECT_EQ(Dup(thief, b, a.client, 0x100, 0x202), uint32_t{kNvOk});
  EXPECT_EQ(ShareIt(kShareClient, 0, b.client), uint32_t{kNvOk});
  EXPECT_EQ(Dup(thief, b, a.client, 0x100, 0x203), uint32_t{kNvOk});
  EXPECT_EQ(ShareIt(kShareClient, kShareRevoke | kShareCompose, b.client), uint32_t{kNvOk});
  Refused("revoked", [&] { return Dup(thief, b, a.client, 0x100, 0x204); });
  EXPECT_EQ(ShareIt(kShareAll), uint32_t{kNvOk});
  EXPECT_EQ(ShareIt(kSharePid, kShareRequire | kShareCompose), uint32_t{kNvOk});
  Refused("required to be the same process", [&] { return Dup(thief, b, a.client, 0x100, 0x205); });
  uint64_t before = world.host.calls();
  EXPECT_EQ(ShareIt(kShareFabric), uint32_t{kNvNotSupported});
  EXPECT_EQ(ShareIt(99), uint32_t{kNvInvalidArgument});
  EXPECT_EQ(world.host.calls(), before);
}

TEST_F(Isolation, InheritedPolicy) {
  std::vector<uint8_t> policy(12);
  policy[4] = 1;  // the right to duplicate
  policy[8] = kShareAll;
  std::vector<uint8_t> sent = policy;
  EXPECT_EQ(victim.Control(a.ctl, a.client, a.client, 0xd04, policy), uint32_t{kNvOk});
  EXPECT_EQ(policy, sent);
  EXPECT_EQ(Dup(thief, b, a.client, 0x100, 0x200), uint32_t{kNvOk});
}

TEST_F(Isolation, ContainersAndSandboxes) {
  EXPECT_EQ(ShareIt(kShareAll), uint32_t{kNvOk});
  TestProcess neighbour(proxy, {.process = 4, .container = 2, .uid = 1000, .pid = 10});
  auto n = neighbour.Start();
  Refused("another container", [&] { return Dup(neighbour, n, a.client, 0x100, 0x200); });
  Proxy& other = world.Sandbox();
  TestProcess stranger(other, {.process = 1, .container = 1, .uid = 1000, .pid = 10});
  auto s = stranger.Start();
  Refused("another sandbox", [&] { return Dup(stranger, s, a.client, 0x100, 0x200); });
  std::vector<uint8_t> params(4);
  Refused("another sandbox's client", [&] { return stranger.Control(s.ctl, a.client, a.client, 0x20800111, params); });
}

// Two containers of one sandbox with a GPU each, and one with none.
TEST_F(Isolation, GpusOfContainers) {
  TestProcess one(proxy, {.process = 5, .container = 5, .pid = 1, .gpus = 1}), two(proxy, {.process = 6, .container = 6, .pid = 1, .gpus = 2});
  TestProcess none(proxy, {.process = 7, .container = 7, .pid = 1, .gpus = 0});
  EXPECT_EQ(one.Open(NodeKind::kGpu, 1), -ENXIO);
  EXPECT_EQ(two.Open(NodeKind::kGpu, 0), -ENXIO);
  for (NodeKind kind : {NodeKind::kControl, NodeKind::kGpu, NodeKind::kUvm}) EXPECT_EQ(none.Open(kind), -ENXIO);
  auto x = one.Start(0, 0), y = two.Start(1, 1);
  EXPECT_NE(x.device, 0u);
  EXPECT_NE(y.device, 0u);
  uint32_t ids[] = {proxy.gpus()[0].gpu_id, proxy.gpus()[1].gpu_id};
  auto sees_only = [&](TestProcess& p, const TestProcess::Basic& own, uint32_t mine) {
    uint32_t other = 1 - mine;
    std::array<CardInfo, 8> cards{};
    EXPECT_EQ(p.Frontend(own.ctl, 0xc8, cards), 0);
    EXPECT_EQ(cards[0].gpu_id, ids[mine]);
    EXPECT_EQ(cards[1].valid, 0);
    for (uint32_t command : {0x201u, 0x214u}) {
      std::vector<uint8_t> list(FindEntry(proxy.branch().controls, command)->size);
      EXPECT_EQ(p.Control(own.ctl, own.client, own.client, command, list), uint32_t{kNvOk});
      uint32_t words[2];
      std::memcpy(words, list.data(), 8);
      EXPECT_EQ(words[0], ids[mine]);
      EXPECT_EQ(words[1], ~0u);
    }
    std::vector<uint8_t> attach(FindEntry(proxy.branch().controls, 0x215)->size, 0xff);
    std::memcpy(attach.data(), &ids[other], 4);
    Refused("attach", [&] { return p.Control(own.ctl, own.client, own.client, 0x215, attach); }, kNvInvalidArgument);
    std::vector<uint8_t> info(32), device(56);
    std::memcpy(info.data(), &ids[other], 4);
    Refused("info", [&] { return p.Control(own.ctl, own.client, own.client, 0x205, info); }, kNvInvalidArgument);
    device[0] = static_cast<uint8_t>(other);
    Refused("device", [&] { return p.Alloc(own.ctl, own.client, own.client, 9, 0x80, device); }, kNvInvalidDevice);
    uint32_t foreign = ids[other];
    Refused("attach to a file", [&] { return int64_t{p.Frontend(own.ctl, 0xd4, foreign)}; }, -EINVAL);
    int uvm = p.Open(NodeKind::kUvm);
    std::vector<uint8_t> init(16), gpu(40);
    std::fill_n(gpu.begin() + 24, 4, 0xff);  // no control file
    EXPECT_EQ(p.Uvm(uvm, 0x30000001, init), 0);
    std::memcpy(gpu.data(), proxy.gpus()[other].uuid.data(), 16);
    Refused("UVM", [&] { return p.Uvm(uvm, 0x25, gpu); }, kNvInvalidDevice);
    std::memcpy(gpu.data(), proxy.gpus()[mine].uuid.data(), 16);
    EXPECT_EQ(p.Uvm(uvm, 0x25, gpu), 0);
  };
  sees_only(one, x, 0);
  sees_only(two, y, 1);
  uint64_t mask = 0;
  using Names = std::vector<std::string>;
  auto expect = [&](const Names& wanted, const Names& may_have, uint64_t expected) {
    EXPECT_EQ(proxy.MaskOf(wanted, may_have, &mask), "");
    EXPECT_EQ(mask, expected);
  };
  std::string first = proxy.gpus()[0].uuid_text();
  expect({}, {}, 3);
  expect({"minor:1"}, {}, 2);
  expect({"1", first}, {}, 3);
  // Within what it may have, by whichever names.
  expect({}, {first}, 1);
  expect({"minor:0"}, {first}, 1);
  expect({}, {"1", "7"}, 2);
  EXPECT_EQ(proxy.MaskOf(Names{"2"}, {}, &mask), "the sandbox has no GPU \"2\"");
  EXPECT_EQ(proxy.MaskOf(Names{"0", "1"}, Names{first}, &mask), "GPU \"1\" is asked for, and --gpu-devices does not have it");
  EXPECT_EQ(proxy.MaskOf({}, Names{"7"}, &mask), "the sandbox has none of the GPUs that --gpu-devices names");
}

TEST_F(Isolation, AnExitedProcessLeavesNothing) {
  proxy.OnExit(1);
  EXPECT_EQ(world.host.client_count(), 1u);
  EXPECT_EQ(victim.Memory(a.ctl, a.client, a.device, 0x300, 4096), uint32_t{kNvInvalidClient});
}

TEST_F(Isolation, Limits) {
  Proxy& small = world.Sandbox({.max_clients = 3, .max_objects = 8});
  TestProcess p(small, {.process = 1});
  auto basic = p.Start();
  EXPECT_NE(p.Client(basic.ctl), 0u);
  EXPECT_NE(p.Client(basic.ctl), 0u);
  EXPECT_EQ(p.Client(basic.ctl), 0u);
  for (uint32_t i = 0; i < 5; ++i) EXPECT_EQ(p.Memory(basic.ctl, basic.client, basic.device, 0x100 + i, 4096), uint32_t{kNvOk});
  EXPECT_EQ(p.Memory(basic.ctl, basic.client, basic.device, 0x200, 4096), uint32_t{kNvInsufficientResources});
}

}  // namespace
}  // namespace amber::nvproxy
