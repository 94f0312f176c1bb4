// What a guest does that means harm: memory that changes under the proxy, numbers of every size, races between closing and using, ways around the quota,
// lists that grow. Each of these once was, or could be, a way in.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "absl/synchronization/notification.h"
#include "nvproxy/state.pb.h"
#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

constexpr uint64_t kMiB = 1 << 20;
constexpr const char* kVersions[] = {"535.288.01", "550.163.01", "570.195.03", "575.64.05", "580.159.04",
                                     "590.48.01",  "595.45.04",  "610.1.1",    "615.1.1",   "620.1.1"};

uint32_t Frontend(uint32_t number, size_t size) { return 0xc0004600u | static_cast<uint32_t>(size) << 16 | number; }

// A process that sees which of its bytes are read, and may change them then.
class Watched final : public TestProcess {
 public:
  using TestProcess::TestProcess;
  bool Read(uint64_t address, void* out, size_t size) override {
    for (const auto& [at, length] : reads) twice = twice || (size > 0 && address < at + length && at < address + size);
    if (size > 0) reads.emplace_back(address, size);
    bool good = TestProcess::Read(address, out, size);
    if (on_read) on_read(address, size);
    return good;
  }
  // True if the call has read a byte more than once.
  bool ReadsTwice(int fd, uint32_t command, uint64_t argument) {
    reads.clear();
    twice = false;
    Raw(fd, command, argument);
    return twice;
  }
  std::vector<std::pair<uint64_t, size_t>> reads;
  std::function<void(uint64_t, size_t)> on_read;
  bool twice = false;
};

TEST(Hostile, NothingIsReadTwice) {
  for (const char* version : kVersions) {
    World world(TwoGpus(version));
    Proxy& proxy = world.Sandbox({.capabilities = 0x7f, .allow_other_driver = true});
    Watched p(proxy, {.process = 1, .pid = 1});
    auto b = p.Start();
    int uvm = p.Open(NodeKind::kUvm);
    uint64_t list = TestProcess::kBase + 0x10000;  // zeros, apart from all that is written below
    for (const Entry& entry : proxy.branch().frontend) {
      size_t size = entry.size == kUnknownSize ? 64 : entry.size;
      for (int fd : {b.ctl, b.gpu})
        EXPECT_FALSE(p.ReadsTwice(fd, Frontend(entry.number, size), p.PutBytes(std::vector<uint8_t>(size)))) << entry.name;
    }
    for (const Entry& entry : proxy.branch().uvm)
      EXPECT_FALSE(p.ReadsTwice(uvm, entry.number, p.PutBytes(std::vector<uint8_t>(entry.size)))) << entry.name;
    for (const Entry& entry : proxy.branch().classes) {
      for (uint32_t parent : {b.client, b.device, b.subdevice}) {
        RmAlloc block{.hRoot = b.client,
                      .hObjectParent = parent,
                      .hObjectNew = 0x900,
                      .hClass = entry.number,
                      .pAllocParms = list,
                      .pRightsRequested = list + 0x8000};
        EXPECT_FALSE(p.ReadsTwice(b.ctl, Frontend(0x2b, sizeof(block)), p.Put(block))) << entry.name;
      }
    }
    for (const Entry& entry : proxy.branch().controls) {
      std::vector<uint8_t> params(entry.size == kUnknownSize ? 64 : entry.size);
      uint32_t count = 1;
      if (params.size() >= 4) std::memcpy(params.data(), &count, 4);
      uint64_t each = list;  // a list of its own for each pointer
      for (const Field& field : FieldsOf(entry)) {
        if (field.role == Role::kPointer) std::memcpy(params.data() + field.offset, &(each += 0x1000), 8);
      }
      RmControl block{.hClient = b.client, .hObject = b.subdevice, .cmd = entry.number, .paramsSize = static_cast<uint32_t>(params.size())};
      if (!params.empty()) block.params = p.PutBytes(params);
      EXPECT_FALSE(p.ReadsTwice(b.ctl, Frontend(0x2a, sizeof(block)), p.Put(block))) << entry.name;
    }
    EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
  }
}

// Every number with every size, on both nodes; where only the driver knows a size, the guest's may be any.
TEST(Hostile, EveryNumberOfEverySize) {
  for (const char* version : kVersions) {
    World world(TwoGpus(version));
    Proxy& proxy = world.Sandbox({.capabilities = 0x7f, .memory_limit = 1 << 30, .allow_other_driver = true, .permissive = true});
    TestProcess p(proxy, {.process = 1, .pid = 1});
    auto b = p.Start();
    for (uint8_t fill : {0x00, 0xff}) {
      for (uint32_t number = 0; number < 256; ++number) {
        for (uint32_t size : {0u, 1u, 3u, 4u, 8u, 15u, 16u, 17u, 31u, 32u, 33u, 47u, 48u, 56u, 72u, 73u, 184u, 2304u, 16383u}) {
          uint64_t at = p.PutBytes(std::vector<uint8_t>(size, fill));
          for (int fd : {b.ctl, b.gpu}) p.Raw(fd, Frontend(number, size), at);
        }
      }
      for (const Entry& entry : proxy.branch().controls) {
        if (entry.size != kUnknownSize || entry.kind == Kind::kOpaque) continue;
        for (size_t size = 0; size < 80; ++size) {
          std::vector<uint8_t> params(size, fill);
          p.Control(b.ctl, b.client, b.subdevice, entry.number, params);
        }
      }
    }
    EXPECT_EQ(world.host.violations(), std::vector<std::string>{}) << version;
  }
}

// An event's class stands in its parameters, and the driver believes that one: of others `data` is the address of a function of the driver's own.
TEST(Hostile, EventsAreTheProcesses) {
  World world;
  Proxy& proxy = world.Sandbox();
  Watched p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  EventParams params{.hParentClient = b.client, .hSrcResource = b.subdevice, .hClass = 0x78, .data = static_cast<uint64_t>(b.gpu)};
  auto make = [&](uint32_t number) {
    RmAlloc block{.hRoot = b.client, .hObjectParent = b.subdevice, .hObjectNew = 0x300, .hClass = number, .pAllocParms = p.Put(params)};
    EXPECT_EQ(p.Frontend(b.ctl, 0x2b, block), 0);
    return block.status;
  };
  uint64_t before = world.host.calls();
  for (uint32_t kind : {0x78u, 0x7eu, 0x5u, 0xffffffffu}) {
    params.hClass = kind;
    EXPECT_EQ(make(0x79), uint32_t{kNvInvalidClass}) << kind;
    EXPECT_EQ(make(0x5), uint32_t{kNvInvalidClass}) << kind;
  }
  EXPECT_EQ(world.host.calls(), before);
  // The other name of the same, from memory that another thread changes as soon as it has been looked at.
  params.hClass = 0x79;
  p.on_read = [&](uint64_t address, size_t size) {
    uint32_t other = 0x78;
    if (size == sizeof(params)) p.Write(address + offsetof(EventParams, hClass), &other, 4);
  };
  EXPECT_EQ(make(0x5), uint32_t{kNvOk});
  EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
}

// A client that a block names beside its own must not end while the driver works on it: its number could become another process's.
TEST(Hostile, ClientsThatAreNamedStay) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  uint32_t other = p.Client(b.ctl);
  absl::Notification inside, release;
  std::atomic<bool> freed = false;
  world.host.SetHook([&](HostFile, uint32_t command) {
    if ((command & 0xff) != 0x2b || inside.HasBeenNotified()) return;
    inside.Notify();
    release.WaitForNotification();
  });
  std::thread caller([&] {
    TestProcess q(proxy, {.process = 1, .pid = 1});
    q.InheritAll(p);
    std::vector<uint8_t> device(56);
    std::memcpy(device.data() + 8, &other, 4);  // hTargetClient
    EXPECT_EQ(q.Alloc(b.ctl, b.client, b.client, 0x5c000009, 0x80, device), uint32_t{kNvOk});
  });
  inside.WaitForNotification();
  std::thread ender([&] {
    TestProcess q(proxy, {.process = 1, .pid = 1});
    q.InheritAll(p);
    EXPECT_EQ(q.Free(b.ctl, other, other), uint32_t{kNvOk});
    freed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_FALSE(freed);
  release.Notify();
  caller.join();
  ender.join();
  EXPECT_TRUE(freed);
}

// Locks of many clients at once, in each other's way: all calls end.
TEST(Hostile, ClientsNamedCrosswise) {
  World world;
  Proxy& proxy = world.Sandbox({.capabilities = 0x7f});
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  std::vector<uint32_t> clients{b.client};
  for (int i = 0; i < 5; ++i) clients.push_back(p.Client(b.ctl));
  std::vector<std::thread> threads;
  for (uint32_t n = 0; n < 8; ++n) {
    threads.emplace_back([&, n] {
      TestProcess q(proxy, {.process = 1, .pid = 1});
      q.InheritAll(p);
      for (uint32_t i = 0; i < 200; ++i) {
        uint32_t list[4];
        for (uint32_t k = 0; k < 4; ++k) list[k] = clients[(n * 7 + i * (k + 1)) % clients.size()];
        uint64_t at = q.Put(list);
        IdleChannels block{.hClient = list[0], .numChannels = 4, .phClients = at, .phDevices = at, .phChannels = at};
        q.Frontend(b.ctl, 0x41, block);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
}

// Threads that close files on which there are clients, and make new ones of the same number at once: none may take another's away.
TEST(Hostile, ClosesAtTheSameTime) {
  World world;
  Proxy& proxy = world.Sandbox();
  std::vector<std::thread> threads;
  std::atomic<int> lost = 0;
  for (uint32_t n = 0; n < 8; ++n) {
    threads.emplace_back([&, n] {
      TestProcess p(proxy, {.process = n + 1, .pid = n + 1});
      int gpu = p.Open(NodeKind::kGpu);
      for (int i = 0; i < 400; ++i) {
        int ctl = p.Open(NodeKind::kControl);
        RmAlloc root{.hRoot = 0xc1d10000 + n, .hClass = 0x41};
        p.Frontend(ctl, 0x2b, root);
        uint32_t client = root.hObjectNew;
        if (root.status != kNvOk) lost++;
        if (p.Alloc(ctl, client, client, 1, 0x80, std::vector<uint8_t>(56)) != kNvOk) lost++;
        if (p.Memory(ctl, client, 1, 2, 1 << 16) != kNvOk) lost++;
        p.Close(ctl);
      }
      p.Close(gpu);
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(proxy.counts().clients, 0u);
  EXPECT_EQ(world.host.client_count(), 0u);
  EXPECT_EQ(proxy.ledger().used(0), 0u);
  EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
}

// Two containers can have processes of one number; it takes both to be the same one.
TEST(Hostile, ProcessesOfOneNumberInTwoContainers) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .container = 1, .pid = 1}), q(proxy, {.process = 1, .container = 2, .pid = 1});
  auto b = p.Start();
  q.InheritAll(p);
  EXPECT_EQ(q.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvInvalidClient});
  EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvOk});
}

// What takes a right away is never left out of a list that is full.
TEST(Hostile, FullListsOfShares) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  ASSERT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvOk});
  auto share = [&](uint16_t type, uint8_t action, uint32_t target) {
    RmShare block{.hClient = b.client,
                  .hObject = 0x100,
                  .sharePolicy_target = target,
                  .sharePolicy_accessMask = 1,
                  .sharePolicy_type = type,
                  .sharePolicy_action = action};
    EXPECT_EQ(p.Frontend(b.ctl, 0x35, block), 0);
    return block.status;
  };
  EXPECT_EQ(share(kShareClient, 0, 0), uint32_t{kNvOk});
  uint32_t status = kNvOk;
  for (uint32_t i = 1; i < 100 && status == kNvOk; ++i) status = share(kShareClient, kShareCompose, i);
  EXPECT_EQ(status, uint32_t{kNvInsufficientResources});
  EXPECT_EQ(share(kShareToken, kShareCompose | kShareRevoke, 0), uint32_t{kNvInsufficientResources});
  EXPECT_EQ(share(kShareClient, kShareCompose | kShareRevoke, 7), uint32_t{kNvOk});  // in the place of one that is there
  EXPECT_EQ(share(kShareNone, 0, 0), uint32_t{kNvOk});
}

// Imported memory that is exported again, many objects a call: what is remembered does not double with each round.
TEST(Hostile, ExportsOfImports) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  for (uint32_t i = 0; i < 600; ++i) ASSERT_EQ(p.Memory(b.ctl, b.client, b.device, 0x1000 + i, 4096), uint32_t{kNvOk});
  uint32_t first = 0x1000, next = 0x8000;
  for (int round = 0; round < 6; ++round) {
    int fd = p.Open(NodeKind::kControl);
    for (uint32_t half : {0u, 64u}) {
      std::vector<uint8_t> out(2128);
      std::memcpy(out.data(), &fd, 4);
      std::memcpy(out.data() + 4, &b.device, 4);
      for (uint32_t i = 0; i < 64; ++i) {
        uint32_t handle = first + half + i;
        std::memcpy(out.data() + 76 + 4 * i, &handle, 4);
      }
      ASSERT_EQ(p.Control(b.ctl, b.client, b.client, 0x3d0b, out), uint32_t{kNvOk});
    }
    {
      auto file = p.FileOf(fd);
      absl::MutexLock lock(&file->mu);
      ASSERT_NE(file->exported, nullptr);
      EXPECT_EQ(file->exported->size(), 128u) << round;
    }
    first = next;
    for (uint32_t i = 0; i < 128; ++i) {
      std::vector<uint8_t> in(20);
      uint32_t import[] = {static_cast<uint32_t>(fd), 1, b.device, b.device, next++};
      std::memcpy(in.data(), import, sizeof(import));
      ASSERT_EQ(p.Control(b.ctl, b.client, b.client, 0x3d06, in), uint32_t{kNvOk});
    }
    p.Close(fd);
  }
  int fd = p.Open(NodeKind::kControl);
  uint32_t status = kNvOk, exported = 0;
  for (; exported < 600 && status == kNvOk; ++exported) {
    std::vector<uint8_t> out(24);
    uint32_t words[] = {1, b.device, b.device, 0x1000 + exported, static_cast<uint32_t>(fd), 0};
    std::memcpy(out.data(), words, sizeof(words));
    status = p.Control(b.ctl, b.client, b.client, 0x3d05, out);
  }
  EXPECT_EQ(status, uint32_t{kNvInsufficientResources});
  EXPECT_EQ(exported, 513u);
}

class Managed : public testing::Test {
 protected:
  Managed() {
    uvm = p.Open(NodeKind::kUvm);
    std::vector<uint8_t> init(16);
    EXPECT_EQ(p.Uvm(uvm, 0x30000001, init), 0);
  }
  bool Map(uint64_t at, uint64_t size) { return proxy.Map(*p.FileOf(uvm), p, at, size, PROT_READ | PROT_WRITE, true).ok(); }
  World world;
  Proxy& proxy = world.Sandbox({.memory_limit = 64 * kMiB});
  TestProcess p{proxy, {.process = 1, .pid = 1}};
  int uvm;
};

// The proxy answers before the mapping is made. One that then fails, over memory that is mapped there, gives nothing back.
TEST_F(Managed, AFailedMappingGivesNothingBack) {
  EXPECT_TRUE(Map(0x10000000, 60 * kMiB));
  EXPECT_TRUE(Map(0x10000000, 4096));
  EXPECT_GE(proxy.ledger().used(0), 60 * kMiB);
  EXPECT_FALSE(Map(0x40000000, 32 * kMiB));
  EXPECT_TRUE(Map(0x10000000, 3 * kMiB));
  EXPECT_GE(proxy.ledger().used(0), 60 * kMiB);
  p.MarkUnmapped(0x10000000);
  EXPECT_TRUE(Map(0x40000000, 32 * kMiB));
}

// A semaphore pool in a part of managed memory does not free the rest.
TEST_F(Managed, APoolInAPartOfIt) {
  EXPECT_TRUE(Map(0x10000000, 60 * kMiB));
  std::vector<uint8_t> pool(FindEntry(proxy.branch().uvm, 0x44)->size);
  uint64_t range[] = {0x10000000, 4096};
  std::memcpy(pool.data(), range, sizeof(range));
  EXPECT_EQ(p.Uvm(uvm, 0x44, pool), 0);
  EXPECT_EQ(proxy.ledger().used(0), 60 * kMiB);
}

// Mappings that come and go are forgotten.
TEST_F(Managed, MappingsThatAreGone) {
  for (uint64_t i = 0; i < 20000; ++i) {
    ASSERT_TRUE(Map(0x10000000 + (i << 12), 4096));
    p.MarkUnmapped(0x10000000 + (i << 12));
  }
  auto file = p.FileOf(uvm);
  absl::MutexLock lock(&file->mu);
  EXPECT_LE(file->managed.size(), 128u);
}

// Managed memory may be moved to this machine's processor, which has a uuid of its own, and to no GPU but the sandbox's.
TEST_F(Managed, TheProcessorIsAPlace) {
  Proxy& one = world.Sandbox({.devices = {"minor:1"}});
  TestProcess q(one, {.process = 1, .pid = 1});
  int fd = q.Open(NodeKind::kUvm);
  std::vector<uint8_t> init(16);
  EXPECT_EQ(q.Uvm(fd, 0x30000001, init), 0);
  Uuid cpu = {0xa6, 0x5e, 0x0f, 0x4e, 0xd7, 0xd4, 0x7b, 0xa2, 0x50, 0x47, 0x41, 0x2c, 0x14, 0x2a, 0x77, 0x73};
  for (uint32_t number : {0x2au, 0x2eu, 0x2fu, 0x33u}) {
    auto to = [&](const Uuid& uuid) {
      std::vector<uint8_t> block(FindEntry(one.branch().uvm, number)->size);
      std::memcpy(block.data() + 16, uuid.data(), 16);
      return q.Uvm(fd, number, block);
    };
    EXPECT_EQ(to(cpu), 0) << number;
    EXPECT_EQ(to(one.gpus()[0].uuid), 0) << number;
    EXPECT_EQ(to(proxy.gpus()[0].uuid), int64_t{kNvInvalidDevice}) << number;
    cpu[15] ^= 1;
    EXPECT_EQ(to(cpu), int64_t{kNvInvalidDevice}) << number;
    cpu[15] ^= 1;
  }
}

// Objects under objects, as deep as there may be: nothing that walks them runs out of stack, and what cannot be saved is not.
TEST(Hostile, DeepTrees) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  ASSERT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvOk});
  uint32_t parent = b.device;
  for (uint32_t i = 0; i < 50000; ++i) {
    RmDup block{.hClient = b.client, .hParent = parent, .hObject = 0x10000 + i, .hClientSrc = b.client, .hObjectSrc = 0x100};
    ASSERT_EQ(p.Frontend(b.ctl, 0x34, block), 0);
    ASSERT_EQ(block.status, uint32_t{kNvOk});
    parent = block.hObject;
  }
  EXPECT_FALSE(proxy.CannotSave(*p.FileOf(b.ctl)).empty());
  EXPECT_LT(proxy.SaveFile(*p.FileOf(b.ctl)).size(), 1000u);
  p.Close(b.gpu);
  p.Close(b.ctl);
  EXPECT_EQ(proxy.counts().objects, 0u);
}

// Many objects that hang on one: they go as fast as they came.
TEST(Hostile, ManyDependants) {
  World world;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  std::vector<uint8_t> space(p.SizeOf(0x90f1)), group(p.SizeOf(0xa06c));
  ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x100, 0x90f1, space), uint32_t{kNvOk});
  uint32_t on = 0x100;
  std::memcpy(group.data() + 8, &on, 4);
  for (uint32_t i = 0; i < 20000; ++i) ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x1000 + i, 0xa06c, group), uint32_t{kNvOk});
  auto begin = std::chrono::steady_clock::now();
  p.Close(b.gpu);
  p.Close(b.ctl);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_EQ(proxy.counts().objects, 0u);
}

// Files that an image registers with each other, with themselves, or with what is no control file would keep each other open for ever.
TEST(Hostile, FilesOfAnImageInARing) {
  struct Saved {
    NodeKind kind;
    uint64_t id, linked;
  };
  using Ring = std::vector<Saved>;
  for (const Ring& ring : {Ring{{NodeKind::kControl, 1, 1}}, Ring{{NodeKind::kControl, 1, 2}, {NodeKind::kControl, 2, 1}},
                           Ring{{NodeKind::kControl, 1, 2}, {NodeKind::kControl, 2, 3}, {NodeKind::kControl, 3, 1}},
                           Ring{{NodeKind::kGpu, 1, 2}, {NodeKind::kGpu, 2, 0}}, Ring{{NodeKind::kUvm, 1, 2}, {NodeKind::kControl, 2, 0}}}) {
    World world;
    Proxy& proxy = world.Sandbox();
    bool refused = false;
    {
      std::vector<std::shared_ptr<OpenFile>> files;
      for (const Saved& s : ring) {
        proto::File file;
        file.set_driver(proxy.version());
        file.set_node(static_cast<uint32_t>(s.kind));
        file.set_access(2);
        file.set_id(s.id);
        file.set_linked(s.linked);
        const Uuid& uuid = proxy.gpus()[0].uuid;
        file.set_gpu_uuid(std::string(reinterpret_cast<const char*>(uuid.data()), uuid.size()));
        std::string error;
        files.push_back(proxy.RestoreFile(file.SerializeAsString(), &error));
        refused = refused || files.back() == nullptr;
      }
    }
    EXPECT_TRUE(refused);
    EXPECT_EQ(world.host.file_count(), 0u);
  }
}

// Clients of a file that is no control file: the driver is not even asked.
TEST(Hostile, ClientsOfAnotherFile) {
  World world;
  Proxy& proxy = world.Sandbox();
  for (NodeKind kind : {NodeKind::kUvm, NodeKind::kGpu}) {
    proto::File file;
    file.set_driver(proxy.version());
    file.set_node(static_cast<uint32_t>(kind));
    file.set_access(2);
    file.add_clients()->set_handle(0xc1d00001);
    std::string error;
    uint64_t calls = world.host.calls();
    EXPECT_EQ(proxy.RestoreFile(file.SerializeAsString(), &error), nullptr);
    EXPECT_NE(error.find("malformed"), std::string::npos) << error;
    EXPECT_EQ(world.host.calls(), calls);
  }
  EXPECT_TRUE(world.host.violations().empty());
}

// An image that somebody else wrote: no more objects than a sandbox may have.
TEST(Hostile, ImagesAreBounded) {
  World world, there, small;
  Proxy& proxy = world.Sandbox();
  TestProcess p(proxy, {.process = 1, .pid = 1});
  auto b = p.Start();
  for (uint32_t i = 0; i < 20; ++i) ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x100 + i, 0x2080, std::vector<uint8_t>(4)), uint32_t{kNvOk});
  std::string image = proxy.SaveFile(*p.FileOf(b.ctl)), error;
  EXPECT_NE(there.Sandbox().RestoreFile(image, &error), nullptr) << error;
  EXPECT_EQ(small.Sandbox({.max_objects = 16}).RestoreFile(image, &error), nullptr);
  EXPECT_NE(error.find("more objects"), std::string::npos) << error;
  EXPECT_EQ(small.host.client_count(), 0u);
  EXPECT_EQ(small.host.file_count(), 0u);
}

}  // namespace
}  // namespace amber::nvproxy
