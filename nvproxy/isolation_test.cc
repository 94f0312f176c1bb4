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
    uvm = thief.Open(NodeKind::kUvm);
    std::vector<uint8_t> init(16);
    EXPECT_EQ(thief.Uvm(uvm, 0x30000001, init), 0);
  }
  ~Isolation() override { EXPECT_EQ(world.host.violations(), std::vector<std::string>{}); }

  void Refused(const char* what, const std::function<int64_t()>& attempt, int64_t expected = kNvInvalidClient) {
    uint64_t before = world.host.calls();
    EXPECT_EQ(attempt(), expected) << what;
    EXPECT_EQ(world.host.calls(), before) << what << " asked the host";
  }
  int64_t UvmOn(uint32_t number, uint32_t client, uint32_t object) {
    std::vector<uint8_t> block(FindEntry(proxy.branch().uvm, number)->size);
    UvmOffsets at = TestProcess::Offsets(proxy, number);
    int none = -1;
    std::memcpy(block.data() + at.client, &client, 4);
    if (at.object != 0) std::memcpy(block.data() + at.object, &object, 4);
    if (at.fd != 0) std::memcpy(block.data() + at.fd, &none, 4);
    return thief.Uvm(uvm, number, block);
  }
  uint32_t Dup(TestProcess& p, const TestProcess::Basic& to, uint32_t from, uint32_t object, uint32_t as) {
    RmDup block{.hClient = to.client, .hParent = to.device, .hObject = as, .hClientSrc = from, .hObjectSrc = object};
    p.Frontend(to.ctl, 0x34, block);
    return block.status;
  }
  uint32_t ShareIt(uint16_t type, uint8_t action = 0, uint32_t target = 0) {
    RmShare block{.hClient = a.client, .hObject = 0x100, .sharePolicy_target = target, .sharePolicy_accessMask = 1, .sharePolicy_type = type,
                  .sharePolicy_action = action};
    victim.Frontend(a.ctl, 0x35, block);
    EXPECT_EQ(block.sharePolicy_type, type);  // the guest sees its own
    return block.status;
  }

  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess victim{proxy, {.process = 1, .container = 1, .uid = 1000, .pid = 10}};
  TestProcess thief{proxy, {.process = 2, .container = 1, .uid = 1000, .pid = 11}};
  TestProcess::Basic a, b;
  int uvm = -1;
};

TEST_F(Isolation, FrontendCalls) {
  Refused("control", [&] {
    std::vector<uint8_t> params(4);
    return thief.Control(b.ctl, a.client, a.client, 0x20800111, params);
  });
  Refused("alloc", [&] { return thief.Alloc(b.ctl, a.client, a.client, 1, 0x80, std::vector<uint8_t>(56)); });
  Refused("parent of another client", [&] { return thief.Alloc(b.ctl, b.client, a.client, 1, 0x80, std::vector<uint8_t>(56)); },
          kNvInvalidObjectParent);
  Refused("free", [&] { return thief.Free(b.ctl, a.client, a.client); });
  Refused("dup", [&] { return Dup(thief, b, a.client, 0x100, 0x200); });
  Refused("dup into", [&] {
    RmDup block{.hClient = a.client, .hParent = a.device, .hObject = 0x200, .hClientSrc = b.client, .hObjectSrc = 0x100};
    thief.Frontend(b.ctl, 0x34, block);
    return block.status;
  });
  Refused("share", [&] {
    RmShare block{.hClient = a.client, .hObject = 0x100, .sharePolicy_type = 1};
    thief.Frontend(b.ctl, 0x35, block);
    return block.status;
  });
  Refused("map", [&] {
    RmMapMemory block{.hClient = a.client, .hDevice = a.device, .hMemory = 0x100, .length = 4096, .pad_fd = b.gpu};
    thief.Frontend(b.ctl, 0x4e, block);
    return block.status;
  });
  Refused("unmap", [&] {
    RmUnmapMemory block{.hClient = a.client, .hDevice = a.device, .hMemory = 0x100};
    thief.Frontend(b.ctl, 0x4f, block);
    return block.status;
  });
  Refused("event", [&] {
    OsEvent block{.hClient = a.client, .hDevice = a.device, .fd = b.gpu};
    thief.Frontend(b.ctl, 0xce, block);
    return block.status;
  });
  Refused("heap", [&] {
    RmHeap block{.hRoot = a.client, .hObjectParent = a.device, .function = 2, .AllocSize_size = 4096};
    thief.Frontend(b.ctl, 0x4a, block);
    return block.status;
  });
  Refused("alloc memory", [&] {
    RmAllocMemory block{.hRoot = a.client, .hObjectParent = a.device, .hObjectNew = 5, .hClass = 0x40, .limit = 4095};
    thief.Frontend(b.gpu, 0x27, block);
    return block.status;
  });
}

TEST_F(Isolation, ClientsInsideParameters) {
  std::vector<uint8_t> device(56);
  std::memcpy(device.data() + 4, &a.client, 4);
  Refused("hClientShare", [&] { return thief.Alloc(b.ctl, b.client, b.client, 1, 0x80, device); });
  device.assign(56, 0);
  std::memcpy(device.data() + 8, &a.client, 4);
  Refused("hTargetClient", [&] { return thief.Alloc(b.ctl, b.client, b.client, 1, 0x80, device); });
  std::vector<uint8_t> event(24);
  std::memcpy(event.data(), &a.client, 4);
  Refused("event's parent client", [&] { return thief.Alloc(b.ctl, b.client, b.subdevice, 1, 0x79, event); });
  std::vector<uint8_t> debugger(12);
  std::memcpy(debugger.data() + 4, &a.client, 4);
  Refused("debugger", [&] { return thief.Alloc(b.ctl, b.client, b.device, 1, 0x83de, debugger); });
  std::vector<uint8_t> confidential(4);
  std::memcpy(confidential.data(), &a.client, 4);
  Refused("confidential compute", [&] { return thief.Alloc(b.ctl, b.client, b.client, 1, 0xcb33, confidential); });
  std::vector<uint8_t> disable(536);
  std::memcpy(disable.data() + 24 + 4 * 7, &a.client, 4);
  Refused("disable channels", [&] { return thief.Control(b.ctl, b.client, b.subdevice, 0x2080110b, disable); });
}

// The driver itself would accept these: it only compares host processes.
TEST_F(Isolation, UvmCalls) {
  for (uint32_t number : {0x19u, 0x1bu, 0x1cu, 0x21u, 0x25u}) {
    Refused("UVM", [&] { return UvmOn(number, a.client, 0x100); });
    Refused("UVM with an unknown client", [&] { return UvmOn(number, 0xc1d0ffff, 0x100); });
  }
  Refused("UVM with an unknown object", [&] { return UvmOn(0x21, b.client, 0x4242); }, kNvInvalidObjectHandle);
  EXPECT_NE(UvmOn(0x21, b.client, 0x100), int64_t{kNvInvalidClient});
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
