// The quota: every way to get GPU memory, its limit to the byte, and every way to give it back. After each step the ledger equals the driver's.
#include <gtest/gtest.h>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

constexpr uint64_t kMiB = 1 << 20, kLimit = 64 * kMiB;

class Quota : public testing::Test {
 protected:
  Quota() { b = p.Start(); }
  ~Quota() override {
    EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
    p.Close(b.gpu);
    p.Close(b.ctl);
    for (int fd : uvms) p.Close(fd);
    EXPECT_EQ(proxy.ledger().used(0), 0u);
    EXPECT_EQ(proxy.ledger().host_used(), 0u);
  }
  void Agree() {
    EXPECT_EQ(proxy.ledger().used(0), world.host.device_bytes(0));
    EXPECT_EQ(proxy.ledger().host_used(), world.host.system_bytes());
  }
  uint32_t Mem(uint32_t handle, uint64_t size, uint32_t number = 0x40, uint32_t attr = 0) {
    uint32_t status = p.Memory(b.ctl, b.client, b.device, handle, size, number, attr);
    Agree();
    return status;
  }
  uint32_t Heap(uint32_t handle, uint64_t size, uint32_t attr, uint32_t flags = 0, uint32_t function = 2) {
    RmHeap block{.hRoot = b.client,
                 .hObjectParent = b.device,
                 .function = function,
                 .AllocSize_hMemory = handle,
                 .AllocSize_flags = flags,
                 .AllocSize_attr = attr,
                 .AllocSize_size = size};
    EXPECT_EQ(p.Frontend(b.ctl, 0x4a, block), 0);
    Agree();
    return block.status;
  }
  // A UVM file with `handle` mapped.
  int MapExternally(uint32_t handle) {
    int fd = p.Open(NodeKind::kUvm);
    uvms.push_back(fd);
    std::vector<uint8_t> init(16), range(24), map(FindEntry(proxy.branch().uvm, 0x21)->size);
    EXPECT_EQ(p.Uvm(fd, 0x30000001, init), 0);
    EXPECT_EQ(init[0], 0);  // the flag that the proxy adds does not show
    uint64_t base = 0x200000, size = 0x200000;
    std::memcpy(range.data(), &base, 8), std::memcpy(range.data() + 8, &size, 8);
    EXPECT_EQ(p.Uvm(fd, 0x49, range), 0);
    UvmOffsets at = TestProcess::Offsets(proxy, 0x21);
    std::memcpy(map.data(), &base, 8), std::memcpy(map.data() + 8, &size, 8);
    std::memcpy(map.data() + at.client, &b.client, 4);
    std::memcpy(map.data() + at.object, &handle, 4);
    std::memcpy(map.data() + at.fd, &b.ctl, 4);
    EXPECT_EQ(p.Uvm(fd, 0x21, map), 0);
    int shown;
    std::memcpy(&shown, map.data() + at.fd, 4);
    EXPECT_EQ(shown, b.ctl);
    return fd;
  }

  World world;
  Proxy& proxy = world.Sandbox({.memory_limit = kLimit, .host_limit = 16 * kMiB, .context_bytes = 400 << 20});
  TestProcess p{proxy, {.process = 1, .pid = 10}};
  TestProcess::Basic b;
  std::vector<int> uvms;
};

TEST_F(Quota, ExactLimit) {
  EXPECT_EQ(Mem(1, kLimit + 1), uint32_t{kNvNoMemory});
  EXPECT_EQ(Mem(1, kLimit), uint32_t{kNvOk});
  EXPECT_EQ(Mem(2, 1), uint32_t{kNvNoMemory});
  EXPECT_EQ(p.Free(b.ctl, b.client, 1), uint32_t{kNvOk});
  Agree();
  EXPECT_EQ(Mem(2, ~uint64_t{0}), uint32_t{kNvNoMemory});
  EXPECT_EQ(Mem(2, 1), uint32_t{kNvOk});
}

TEST_F(Quota, PageSizes) {
  EXPECT_EQ(Mem(1, 1, 0x40, 1u << 23), uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), 4096u);
  EXPECT_EQ(Mem(2, 1, 0x40, 2u << 23), uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), 4096u + 65536);
  EXPECT_EQ(Mem(3, 1, 0x40, 3u << 23), uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), 4096u + 65536 + 2 * kMiB);
}

TEST_F(Quota, HeapCalls) {
  EXPECT_EQ(Heap(1, kLimit, 0), uint32_t{kNvOk});
  EXPECT_EQ(Heap(2, 1, 3u << 25), uint32_t{kNvNoMemory});    // ANY is the GPU's
  EXPECT_EQ(Heap(2, kLimit, 0, 0x80000), uint32_t{kNvOk});   // addresses alone
  EXPECT_EQ(Heap(3, 16 * kMiB, 1u << 25), uint32_t{kNvOk});  // host memory
  EXPECT_EQ(Heap(4, 1, 1u << 25), uint32_t{kNvNoMemory});
  EXPECT_EQ(Heap(5, 1, 0, 0, 14), uint32_t{kNvInvalidFunction});
  EXPECT_EQ(proxy.ledger().used(0), kLimit);
}

TEST_F(Quota, AllocMemoryCalls) {
  auto alloc = [&](uint32_t number, uint32_t handle, uint64_t size) {
    RmAllocMemory block{.hRoot = b.client,
                        .hObjectParent = b.device,
                        .hObjectNew = handle,
                        .hClass = number,
                        .flags = 1u << 16,
                        .pMemory = TestProcess::kBase,
                        .limit = size - 1};
    EXPECT_EQ(p.Frontend(b.gpu, 0x27, block), 0);
    if (block.status != kNvOk || number == 0x71) EXPECT_EQ(block.pMemory, TestProcess::kBase);
    Agree();
    return block.status;
  };
  EXPECT_EQ(alloc(0x40, 1, kLimit), uint32_t{kNvOk});
  EXPECT_EQ(alloc(0x3f, 2, 4096), uint32_t{kNvNoMemory});
  EXPECT_EQ(alloc(0x3e, 3, 8 * kMiB), uint32_t{kNvOk});
  EXPECT_EQ(alloc(0x71, 4, 8 * kMiB), uint32_t{kNvOk});  // pinned guest memory
  EXPECT_EQ(alloc(0x71, 5, 4096), uint32_t{kNvNoMemory});
  EXPECT_EQ(alloc(0x71, 5, 1), uint32_t{kNvNoMemory});
  EXPECT_EQ(alloc(0x71, 5, 0), uint32_t{kNvInvalidLimit});
  EXPECT_EQ(alloc(0x90f1, 6, 4096), uint32_t{kNvInvalidClass});
  EXPECT_EQ(p.Free(b.ctl, b.client, 4), uint32_t{kNvOk});
  Agree();
  EXPECT_EQ(alloc(0x71, 5, 4095), uint32_t{kNvOk});  // a whole page all the same
}

// Pages are pinned for writing, unless the guest says that they are to be read.
TEST_F(Quota, RegisteredMemoryThatIsReadOnly) {
  p.MarkReadOnly(TestProcess::kBase);
  auto alloc = [&](uint32_t handle, uint64_t address, uint32_t flags) {
    RmAllocMemory block{.hRoot = b.client,
                        .hObjectParent = b.device,
                        .hObjectNew = handle,
                        .hClass = 0x71,
                        .flags = flags | 1u << 30,
                        .pMemory = address,
                        .limit = 8191};
    EXPECT_EQ(p.Frontend(b.gpu, 0x27, block), 0);
    Agree();
    return block.status;
  };
  constexpr uint32_t kReadOnly = 1u << 21;
  EXPECT_EQ(alloc(1, TestProcess::kBase, 0), uint32_t{kNvInvalidAddress});
  EXPECT_EQ(alloc(1, TestProcess::kBase, kReadOnly), uint32_t{kNvOk});
  EXPECT_EQ(alloc(2, TestProcess::kBase + 4096, 0), uint32_t{kNvOk});
  EXPECT_EQ(alloc(3, TestProcess::kBase + 8, 0), uint32_t{kNvNotSupported});
  EXPECT_EQ(alloc(3, ~uint64_t{0} - 4095, 0), uint32_t{kNvInvalidAddress});
}

TEST_F(Quota, GivenBackWithParentsAndClients) {
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  EXPECT_EQ(p.Free(b.ctl, b.client, b.device), uint32_t{kNvOk});
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
  auto second = p.Start();
  EXPECT_EQ(p.Memory(second.ctl, second.client, second.device, 1, kMiB), uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  p.Close(second.gpu);
  p.Close(second.ctl);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_F(Quota, DuplicatesKeepBytes) {
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  RmDup dup{.hClient = b.client, .hParent = b.device, .hObject = 2, .hClientSrc = b.client, .hObjectSrc = 1};
  EXPECT_EQ(p.Frontend(b.ctl, 0x34, dup), 0);
  EXPECT_EQ(dup.status, uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  p.Free(b.ctl, b.client, 1);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  p.Free(b.ctl, b.client, 2);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_F(Quota, ExternalMappingsKeepBytes) {
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  int fd = MapExternally(1);
  p.Free(b.ctl, b.client, 1);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  std::vector<uint8_t> free(FindEntry(proxy.branch().uvm, 0x22)->size);
  uint64_t base = 0x200000;
  std::memcpy(free.data(), &base, 8);
  EXPECT_EQ(p.Uvm(fd, 0x22, free), 0);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  fd = MapExternally(1);
  p.Free(b.ctl, b.client, 1);
  p.Close(fd);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

// The driver keeps exported memory as long as the descriptor, and imported memory as long as the import.
TEST_F(Quota, ExportsAndImportsKeepBytes) {
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  int fd = p.Open(NodeKind::kControl);
  std::vector<uint8_t> out(24);
  uint32_t words[] = {1, b.device, b.client, 1, static_cast<uint32_t>(fd), 0};
  std::memcpy(out.data(), words, sizeof(words));
  EXPECT_EQ(p.Control(b.ctl, b.client, b.client, 0x3d05, out), uint32_t{kNvOk});
  p.Free(b.ctl, b.client, 1);
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  std::vector<uint8_t> in(20);
  uint32_t import[] = {static_cast<uint32_t>(fd), 1, b.device, b.device, 0x500};
  std::memcpy(in.data(), import, sizeof(import));
  EXPECT_EQ(p.Control(b.ctl, b.client, b.client, 0x3d06, in), uint32_t{kNvOk});
  EXPECT_FALSE(proxy.Map(*p.FileOf(fd), p, 0, 4096, PROT_READ, true).ok());
  p.Close(fd);
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  p.Free(b.ctl, b.client, 0x500);
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_F(Quota, FailedCallsCostNothing) {
  world.host.Inject({.number = 0x2b, .status = kNvInsufficientResources});
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvInsufficientResources});
  world.host.Inject({.number = 0x2b, .error = EINTR});
  Mem(1, kMiB);
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_F(Quota, ContextsCost) {
  Proxy& roomy = world.Sandbox({.memory_limit = 500 * kMiB});
  TestProcess q(roomy, {.process = 1});
  auto c = q.Start();
  EXPECT_EQ(q.Alloc(c.ctl, c.client, c.device, 0x10, 0xa06c, std::vector<uint8_t>(20)), uint32_t{kNvOk});
  EXPECT_EQ(roomy.ledger().used(0), 400 * kMiB);
  EXPECT_EQ(q.Alloc(c.ctl, c.client, c.device, 0x11, 0xa06c, std::vector<uint8_t>(20)), uint32_t{kNvOk});
  EXPECT_EQ(roomy.ledger().used(0), 400 * kMiB);
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x10, 0xa06c, std::vector<uint8_t>(20)), uint32_t{kNvNoMemory});
}

TEST_F(Quota, ProgramsSeeTheLimit) {
  EXPECT_EQ(Mem(1, kMiB), uint32_t{kNvOk});
  std::vector<uint8_t> info(FindEntry(proxy.branch().controls, 0x20801303)->size);
  uint32_t words[] = {4, 8, 0, 0x16, 0, 0x20, 0, 9, 0};
  std::memcpy(info.data(), words, sizeof(words));
  ASSERT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x20801303, info), uint32_t{kNvOk});
  std::memcpy(words, info.data(), sizeof(words));
  EXPECT_EQ(words[2], kLimit >> 10);
  EXPECT_EQ(words[4], (kLimit - kMiB) >> 10);
  EXPECT_EQ(words[6], kLimit >> 10);
  uint32_t many = 129;
  std::memcpy(info.data(), &many, 4);
  EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x20801303, info), uint32_t{kNvInvalidArgument});
}

TEST_F(Quota, FabricMemory) {
  auto alloc = [&](uint32_t handle, uint64_t size) {
    std::vector<uint8_t> params(p.SizeOf(0xf8));
    std::memcpy(params.data() + 8, &size, 8);
    uint32_t status = p.Alloc(b.ctl, b.client, b.subdevice, handle, 0xf8, params);
    Agree();
    return status;
  };
  EXPECT_EQ(alloc(1, kLimit + 1), uint32_t{kNvNoMemory});
  EXPECT_EQ(alloc(1, kLimit), uint32_t{kNvOk});
  EXPECT_EQ(proxy.ledger().used(0), kLimit);
  EXPECT_EQ(Mem(2, 1), uint32_t{kNvNoMemory});
  p.Free(b.ctl, b.client, 1);
  Agree();
}

TEST_F(Quota, AddressesCostNothing) {
  std::vector<uint8_t> space(p.SizeOf(0x90f1));
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, 1, 0x90f1, space), uint32_t{kNvOk});
  EXPECT_EQ(Mem(2, kLimit * 2, 0x50a0), uint32_t{kNvOk});
  std::vector<uint8_t> multicast(p.SizeOf(0xfd));
  std::memcpy(multicast.data() + 48, &kLimit, 8);
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.client, 3, 0xfd, multicast), uint32_t{kNvOk});
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_F(Quota, AKilledProcessGivesBack) {
  TestProcess other(proxy, {.process = 2, .pid = 11});
  auto o = other.Start();
  EXPECT_EQ(other.Memory(o.ctl, o.client, o.device, 1, kMiB), uint32_t{kNvOk});
  EXPECT_EQ(other.Memory(o.ctl, o.client, o.device, 2, kMiB, 0x3e), uint32_t{kNvOk});
  TestProcess child(proxy, {.process = 3, .pid = 12});
  child.Inherit(o.ctl, other), child.Inherit(o.gpu, other);
  EXPECT_TRUE(proxy.HasClients(2));
  EXPECT_FALSE(proxy.HasClients(3));
  proxy.OnExit(2);
  EXPECT_FALSE(proxy.HasClients(2));
  Agree();
  EXPECT_EQ(proxy.ledger().used(0) + proxy.ledger().host_used(), 0u);
}

// A duplicate of another process keeps the bytes of one that is gone.
TEST_F(Quota, AKilledProcessKeepsWhatOthersHave) {
  TestProcess other(proxy, {.process = 2, .pid = 11});
  auto o = other.Start();
  EXPECT_EQ(other.Memory(o.ctl, o.client, o.device, 1, kMiB), uint32_t{kNvOk});
  RmShare share{.hClient = o.client, .hObject = 1, .sharePolicy_accessMask = 1, .sharePolicy_type = kShareAll};
  EXPECT_EQ(other.Frontend(o.ctl, 0x35, share), 0);
  RmDup dup{.hClient = b.client, .hParent = b.device, .hObject = 2, .hClientSrc = o.client, .hObjectSrc = 1};
  EXPECT_EQ(p.Frontend(b.ctl, 0x34, dup), 0);
  EXPECT_EQ(dup.status, uint32_t{kNvOk});
  proxy.OnExit(2);
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  EXPECT_EQ(p.Free(b.ctl, b.client, 2), uint32_t{kNvOk});
  Agree();
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

// The list by a pointer, which graphics programs use.
TEST_F(Quota, TheOlderListIsClampedToo) {
  Proxy& graphics = world.Sandbox({.capabilities = kCompute | kUtility | kGraphics, .memory_limit = kLimit});
  TestProcess q(graphics, {.process = 1});
  auto c = q.Start();
  uint32_t pairs[] = {7, 0, 8, 0, 9, 0, 0x16, 0, 0x12, 0, 0x20, 0};
  struct {
    uint32_t count, pad;
    uint64_t list;
  } info{6, 0, q.Put(pairs)};
  std::vector<uint8_t> params(sizeof(info));
  std::memcpy(params.data(), &info, sizeof(info));
  EXPECT_EQ(q.Control(c.ctl, c.client, c.subdevice, 0x20801301, params), uint32_t{kNvOk});
  for (uint32_t i = 0; i < 6; ++i) EXPECT_EQ(q.Get<uint32_t>(info.list + 8 * i + 4), kLimit >> 10) << i;
}

TEST_F(Quota, SemaphorePoolsAreNotManagedMemory) {
  int fd = p.Open(NodeKind::kUvm);
  uvms.push_back(fd);
  std::vector<uint8_t> init(16), pool(FindEntry(proxy.branch().uvm, 0x44)->size);
  EXPECT_EQ(p.Uvm(fd, 0x30000001, init), 0);
  EXPECT_TRUE(proxy.Map(*p.FileOf(fd), p, 0x10000000, kMiB, PROT_READ | PROT_WRITE, true).ok());
  EXPECT_EQ(proxy.ledger().used(0), kMiB);
  uint64_t range[] = {0x10000000, kMiB};
  std::memcpy(pool.data(), range, sizeof(range));
  EXPECT_EQ(p.Uvm(fd, 0x44, pool), 0);
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

// Memory that other tenants hold is not the sandbox's: it gets what the driver has, and its ledger does not move.
TEST(QuotaHeld, OthersHoldMemory) {
  FakeConfig config = TwoGpus();
  config.gpus[0].held = config.gpus[0].memory - kMiB;
  World world(config);
  Proxy& proxy = world.Sandbox();
  EXPECT_EQ(*proxy.FreeBytes(0), kMiB);
  TestProcess p(proxy, {.process = 1});
  auto b = p.Start();
  EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 1, kMiB + 1), uint32_t{kNvNoMemory});
  EXPECT_EQ(proxy.ledger().used(0), 0u);
  EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 1, kMiB), uint32_t{kNvOk});
}

TEST_F(Quota, ManagedMemoryIsBounded) {
  int fd = p.Open(NodeKind::kUvm);
  uvms.push_back(fd);
  std::vector<uint8_t> init(16);
  auto file = p.FileOf(fd);
  EXPECT_FALSE(proxy.Map(*file, p, 0x10000000, kMiB, PROT_READ | PROT_WRITE, true).ok());
  EXPECT_EQ(p.Uvm(fd, 0x30000001, init), 0);
  EXPECT_TRUE(proxy.Map(*file, p, 0x10000000, kLimit, PROT_READ | PROT_WRITE, true).ok());
  EXPECT_FALSE(proxy.Map(*file, p, 0x20000000, 4096, PROT_READ | PROT_WRITE, true).ok());
  p.MarkUnmapped(0x10000000);
  EXPECT_TRUE(proxy.Map(*file, p, 0x20000000, 4096, PROT_READ | PROT_WRITE, true).ok());
}

}  // namespace
}  // namespace amber::nvproxy
