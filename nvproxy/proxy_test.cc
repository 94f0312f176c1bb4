#include "nvproxy/proxy.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstdio>
#include <thread>

#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

class ProxyTest : public testing::TestWithParam<const char*> {
 protected:
  ProxyTest() : world(TwoGpus(GetParam())), proxy(world.Sandbox({.allow_other_driver = true})), p(proxy, {.process = 1, .pid = 10}) {}
  ~ProxyTest() override {
    EXPECT_EQ(world.host.violations(), std::vector<std::string>{});
    // No number of a host's file, and no address of the proxy's, may have reached the guest.
    const auto& memory = p.memory();
    for (size_t i = 0; i + 4 <= memory.size(); i += 4) {
      uint32_t word;
      std::memcpy(&word, memory.data() + i, 4);
      if (word >> 16 == 0x5a5au) ADD_FAILURE() << "a host descriptor at offset " << i;
    }
    std::vector<std::pair<uint64_t, uint64_t>> own = OwnMemory();
    for (size_t i = 0; i + 8 <= memory.size(); i += 8) {
      uint64_t word;
      std::memcpy(&word, memory.data() + i, 8);
      if (word < uint64_t{1} << 32 || word >= uint64_t{1} << 47) continue;
      // A handle and a class beside it: AddressSanitizer's heap lies where some classes seem to point.
      if (FindEntry(proxy.branch().classes, static_cast<uint32_t>(word >> 32)) != nullptr) continue;
      bool inside = std::ranges::any_of(own, [&](const auto& range) { return word >= range.first && word < range.second; });
      if (inside) ADD_FAILURE() << "an address of the proxy's at offset " << i << ": " << std::hex << word;
    }
  }
  // What is mapped in this process, without the sanitizers' shadows, which are terabytes.
  static std::vector<std::pair<uint64_t, uint64_t>> OwnMemory() {
    std::vector<std::pair<uint64_t, uint64_t>> out;
    FILE* maps = std::fopen("/proc/self/maps", "r");
    char line[512];
    unsigned long start, end;
    while (maps != nullptr && std::fgets(line, sizeof(line), maps) != nullptr) {
      if (std::sscanf(line, "%lx-%lx", &start, &end) == 2 && end - start < 1ul << 36) out.emplace_back(start, end);
    }
    if (maps != nullptr) std::fclose(maps);
    return out;
  }
  World world;
  Proxy& proxy;
  TestProcess p;
};

INSTANTIATE_TEST_SUITE_P(Branches, ProxyTest,
                         testing::Values("535.288.01", "550.163.01", "570.195.03", "575.64.05", "580.159.04", "590.48.01", "595.45.04", "610.1.1",
                                         "615.1.1", "620.1.1"));

TEST_P(ProxyTest, FindsTheGpus) {
  ASSERT_EQ(proxy.gpus().size(), 2u);
  EXPECT_EQ(proxy.gpus()[1].minor, 1u);
  EXPECT_EQ(proxy.gpus()[0].uuid[0], 0x6f);
  EXPECT_EQ(proxy.gpus()[0].pci(), "0000:41:00.0");
  EXPECT_EQ(world.host.client_count(), 0u);
  EXPECT_EQ(world.host.file_count(), 0u);
}

TEST_P(ProxyTest, Framing) {
  int ctl = p.Open(NodeKind::kControl), gpu = p.Open(NodeKind::kGpu, 0);
  uint64_t before = world.host.calls();
  RmFree block{};
  uint64_t at = p.Put(block);
  for (uint32_t size : {0u, 15u, 17u, 16383u}) EXPECT_EQ(p.Raw(ctl, 0xc0004600u | size << 16 | 0x29, at), -EINVAL) << size;
  EXPECT_EQ(p.Raw(ctl, 0xc0004600u | 16u << 16 | 0xd3, at), -EINVAL);  // the envelope
  EXPECT_EQ(p.Raw(ctl, 0xc0004600u | 16u << 16 | 0xff, at), -EINVAL);
  EXPECT_EQ(p.Raw(gpu, 0xc0004600u | 16u << 16 | 0x29, at), -EINVAL);  // control node only
  EXPECT_EQ(p.Raw(ctl, 0xc0004600u | 56u << 16 | 0x27, at), -EINVAL);  // GPU node only
  EXPECT_EQ(p.Raw(ctl, 0xc0004600u | 16u << 16 | 0x29, 0), -EFAULT);
  EXPECT_EQ(p.Raw(ctl, 0xc0004600u | 16u << 16 | 0x29, TestProcess::kBase + p.memory().size() - 8), -EFAULT);
  EXPECT_EQ(world.host.calls(), before);
  // Type and direction do not matter to the driver, nor here.
  EXPECT_EQ(p.Raw(ctl, 16u << 16 | 0x29, at), 0);
  EXPECT_EQ(p.Get<RmFree>(at).status, uint32_t{kNvInvalidClient});
}

TEST_P(ProxyTest, ClientsAndObjects) {
  auto b = p.Start();
  ASSERT_NE(b.client, 0u);
  ASSERT_NE(b.device, 0u);
  ASSERT_NE(b.subdevice, 0u);
  EXPECT_EQ(world.host.client_count(), 1u);
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, b.subdevice, 0x2080, std::vector<uint8_t>(4)), uint32_t{kNvInsertDuplicateName});
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.client, 0x77, 0x2080, std::vector<uint8_t>(4)), uint32_t{kNvInvalidObjectParent});
  EXPECT_EQ(p.Alloc(b.ctl, b.client, 0x9999, 0x77, 0x2080, std::vector<uint8_t>(4)), uint32_t{kNvInvalidObjectParent});
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x77, 0xdead), uint32_t{kNvInvalidClass});
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x77, 0x73), uint32_t{kNvInvalidClass});     // graphics
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x77, 0x40), uint32_t{kNvInvalidArgument});  // no parameters
  EXPECT_EQ(p.Free(b.ctl, b.client, 0x4242), uint32_t{kNvOk});                              // unknown: gone already
  EXPECT_EQ(p.Free(b.ctl, b.client, b.device), uint32_t{kNvOk});
  EXPECT_EQ(world.host.Graph(1000).size(), 1u);
  EXPECT_EQ(proxy.counts().objects, 1u);
  p.Close(b.gpu);  // it holds the control file that it was registered with
  p.Close(b.ctl);
  EXPECT_EQ(world.host.client_count(), 0u);
  EXPECT_EQ(proxy.counts().clients, 0u);
}

TEST_P(ProxyTest, AllocForms) {
  int ctl = p.Open(NodeKind::kControl);
  RmAllocShort block{.hClass = 0x41};
  EXPECT_EQ(p.Frontend(ctl, 0x2b, block), 0);
  EXPECT_EQ(block.status, uint32_t{kNvOk});
  EXPECT_NE(block.hObjectNew, 0u);
  uint32_t zero = 0;
  RmAlloc full{.hClass = 0, .pAllocParms = p.Put(zero)};
  EXPECT_EQ(p.Frontend(ctl, 0x2b, full), 0);
  EXPECT_EQ(full.status, uint32_t{kNvOk});
  EXPECT_EQ(p.Get<uint32_t>(full.pAllocParms), full.hObjectNew);
  EXPECT_NE(full.hObjectNew, block.hObjectNew);
}

// Every class of the branch with good parameters, no parameters and parameters half outside of memory: none confuses the proxy.
TEST_P(ProxyTest, EveryClass) {
  auto b = p.Start();
  for (const Entry& entry : proxy.branch().classes) {
    for (uint32_t parent : {b.client, b.device, b.subdevice}) {
      p.Alloc(b.ctl, b.client, parent, 0x8000 + entry.number, entry.number, std::vector<uint8_t>(entry.size));
      p.Free(b.ctl, b.client, 0x8000 + entry.number);
      p.Alloc(b.ctl, b.client, parent, 0x8000 + entry.number, entry.number);
      p.Free(b.ctl, b.client, 0x8000 + entry.number);
    }
    RmAlloc block{.hRoot = b.client,
                  .hObjectParent = b.device,
                  .hObjectNew = 1,
                  .hClass = entry.number,
                  .pAllocParms = TestProcess::kBase + p.memory().size() - 1};
    int result = p.Frontend(b.ctl, 0x2b, block);
    EXPECT_TRUE(result == -EFAULT || result == 0) << entry.name;
    p.Free(b.ctl, b.client, 1);
  }
  EXPECT_EQ(world.host.Graph(1000).size(), proxy.counts().objects);
}

// Every command: sizes, absent parameters, capabilities, pointers that lead nowhere.
TEST_P(ProxyTest, EveryControl) {
  auto b = p.Start();
  for (const Entry& entry : proxy.branch().controls) {
    size_t size = entry.size == kUnknownSize ? 64 : entry.size;
    bool allowed = (entry.caps & (kCompute | kUtility)) != 0 && entry.kind != Kind::kOpaque;
    std::vector<uint8_t> params(size);
    uint32_t status = p.Control(b.ctl, b.client, b.subdevice, entry.number, params);
    if (!allowed) EXPECT_EQ(status, uint32_t{kNvNotSupported}) << entry.name;
    if (allowed && entry.size != kUnknownSize) {
      std::vector<uint8_t> longer(size + 4);
      EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, entry.number, longer), uint32_t{kNvInvalidParamStruct}) << entry.name;
    }
    RmControl odd{.hClient = b.client, .hObject = b.client, .cmd = entry.number, .paramsSize = 8};
    EXPECT_EQ(p.Frontend(b.ctl, 0x2a, odd), 0);
    EXPECT_EQ(odd.status, uint32_t{kNvInvalidArgument});
    for (const Field& field : FieldsOf(entry)) {
      if (field.role != Role::kPointer || !allowed) continue;
      std::vector<uint8_t> wild(size, 0xff);
      std::ranges::fill(wild, 0);
      uint32_t count = 0x7fffffff;
      std::memcpy(wild.data(), &count, 4);
      uint64_t nowhere = 0x1234;
      std::memcpy(wild.data() + field.offset, &nowhere, 8);
      status = p.Control(b.ctl, b.client, b.subdevice, entry.number, wild);
      EXPECT_NE(status, uint32_t{kNvOk}) << entry.name;
      count = 4;
      std::memcpy(wild.data(), &count, 4);
      p.Control(b.ctl, b.client, b.subdevice, entry.number, wild);
    }
  }
}

// But for those that the list has, with exactly their sizes and from their branch on.
TEST_P(ProxyTest, ListedFirmwareCommandsPass) {
  auto b = p.Start();
  for (const Legacy& known : LegacyCommands()) {
    if (known.command == 0) continue;
    std::vector<uint8_t> params(known.size), longer(known.size + 4);
    uint32_t expected = proxy.branch().number >= known.since ? kNvOk : kNvNotSupported;
    EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, known.command, params), expected) << known.command;
    EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, known.command, longer), uint32_t{kNvNotSupported}) << known.command;
    EXPECT_NE(known.command & 0xc000u, 0xc000u) << "root's";
  }
}

TEST_P(ProxyTest, FirmwareCommandsAreRefused) {
  auto b = p.Start();
  std::vector<uint8_t> params(32);
  EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x20808123, params), uint32_t{kNvNotSupported});
  EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x20810001, params), uint32_t{kNvNotSupported});
  EXPECT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x2080c123, params), uint32_t{kNvNotSupported});
  RmControl huge{.hClient = b.client, .hObject = b.client, .cmd = 0x101, .params = TestProcess::kBase, .paramsSize = (1 << 20) + 4};
  EXPECT_EQ(p.Frontend(b.ctl, 0x2a, huge), 0);
  EXPECT_EQ(huge.status, uint32_t{kNvInvalidArgument});
}

TEST_P(ProxyTest, VersionIsAnsweredHere) {
  int ctl = p.Open(NodeKind::kControl);
  uint64_t before = world.host.calls();
  VersionCheck check{.cmd = 0x32};
  EXPECT_EQ(p.Frontend(ctl, 0xd2, check), 0);
  EXPECT_STREQ(check.text, GetParam());
  check = {.cmd = 0, .text = "1.2.3"};
  EXPECT_EQ(p.Frontend(ctl, 0xd2, check), -EINVAL);
  EXPECT_EQ(world.host.calls(), before);
}

TEST_P(ProxyTest, RegisterFdRules) {
  int ctl = p.Open(NodeKind::kControl), gpu = p.Open(NodeKind::kGpu, 0), uvm = p.Open(NodeKind::kUvm), other = p.Open(NodeKind::kControl);
  for (int bad : {-1, 999, uvm, gpu, ctl}) {
    int fd = bad;
    EXPECT_EQ(p.Frontend(ctl, 0xc9, fd), -EINVAL) << bad;
  }
  int fd = ctl;
  EXPECT_EQ(p.Frontend(gpu, 0xc9, fd), 0);
  EXPECT_EQ(fd, ctl);
  EXPECT_EQ(p.Frontend(gpu, 0xc9, fd), -EINVAL);  // once
  fd = other;
  EXPECT_EQ(p.Frontend(ctl, 0xc9, fd), -EINVAL);  // no chains
}

TEST_P(ProxyTest, MappingIsWholeAndOnce) {
  auto b = p.Start();
  ASSERT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 1 << 20), uint32_t{kNvOk});
  int map = p.Open(NodeKind::kGpu, 0);
  RmMapMemory block{.hClient = b.client, .hDevice = b.device, .hMemory = 0x100, .length = 1 << 16, .pad_fd = map};
  ASSERT_EQ(p.Frontend(b.ctl, 0x4e, block), 0);
  ASSERT_EQ(block.status, uint32_t{kNvOk});
  EXPECT_EQ(block.pad_fd, map);
  auto file = p.FileOf(map);
  EXPECT_FALSE(proxy.Map(*file, p, 0, 1 << 15, PROT_READ, true).ok());
  EXPECT_FALSE(proxy.Map(*file, p, 4096, 1 << 16, PROT_READ, true).ok());
  EXPECT_FALSE(proxy.Map(*file, p, 0, 1 << 16, PROT_READ, false).ok());
  EXPECT_FALSE(proxy.Map(*file, p, 0, 1 << 16, PROT_READ | PROT_EXEC, true).ok());
  EXPECT_TRUE(proxy.Map(*file, p, 0, 1 << 16, PROT_READ | PROT_WRITE, true).ok());
  EXPECT_FALSE(proxy.Map(*file, p, 0, 1 << 16, PROT_READ, true).ok());  // used up
  EXPECT_FALSE(proxy.Map(*p.FileOf(b.ctl), p, 0, 4096, PROT_READ, true).ok());
}

TEST_P(ProxyTest, EventsReachOnePoll) {
  auto b = p.Start();
  OsEvent event{.hClient = b.client, .hDevice = b.device, .fd = b.gpu};
  ASSERT_EQ(p.Frontend(b.ctl, 0xce, event), 0);
  EXPECT_EQ(event.status, uint32_t{kNvOk});
  EXPECT_EQ(event.fd, b.gpu);
  auto file = p.FileOf(b.gpu);
  EXPECT_EQ(proxy.Poll(*file), 0u);
  world.host.FireEvent(file->host());
  EXPECT_EQ(proxy.Poll(*file), uint32_t{POLLIN | POLLPRI});
  EXPECT_EQ(proxy.Poll(*file), 0u);
  std::vector<uint8_t> params(24);
  uint64_t fd = static_cast<uint64_t>(b.gpu);
  std::memcpy(params.data() + 16, &fd, 8);
  std::vector<uint8_t> out;
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.subdevice, 0x300, 0x79, params, &out), uint32_t{kNvOk});
  EXPECT_EQ(out, params);
  fd = 77;  // not open
  std::memcpy(params.data() + 16, &fd, 8);
  EXPECT_EQ(p.Alloc(b.ctl, b.client, b.subdevice, 0x301, 0x79, params), uint32_t{kNvInvalidArgument});
}

TEST_P(ProxyTest, OnlyOwnGpus) {
  Proxy& one = world.Sandbox({.devices = {"minor:1"}, .allow_other_driver = true});
  TestProcess q(one, {.process = 1, .pid = 5});
  int ctl = q.Open(NodeKind::kControl);
  EXPECT_EQ(q.Open(NodeKind::kGpu, 0), -ENXIO);
  EXPECT_GE(q.Open(NodeKind::kGpu, 1), 0);
  std::array<CardInfo, 8> cards{};
  EXPECT_EQ(q.Frontend(ctl, 0xc8, cards), 0);
  EXPECT_EQ(cards[0].minor, 1u);
  EXPECT_EQ(cards[0].reg_address, 0u);
  EXPECT_EQ(cards[1].valid, 0);
  uint32_t foreign = world.host.config().gpus[0].gpu_id, own = world.host.config().gpus[1].gpu_id;
  EXPECT_EQ(q.Frontend(ctl, 0xd4, foreign), -EINVAL);
  EXPECT_EQ(q.Frontend(ctl, 0xd4, own), 0);
  EXPECT_EQ(q.Frontend(ctl, 0xd4, own), -EINVAL);  // once
  uint32_t client = q.Client(ctl);
  std::vector<uint8_t> device(56);  // instance 0: not its own
  EXPECT_EQ(q.Alloc(ctl, client, client, 1, 0x80, device), uint32_t{kNvInvalidDevice});
  EXPECT_EQ(q.Alloc(ctl, client, client, 1, 0x80), uint32_t{kNvInvalidDevice});
  device[0] = 1;
  EXPECT_EQ(q.Alloc(ctl, client, client, 1, 0x80, device), uint32_t{kNvOk});
  std::vector<uint8_t> ids(FindEntry(one.branch().controls, 0x214)->size == kUnknownSize ? 384 : FindEntry(one.branch().controls, 0x214)->size);
  EXPECT_EQ(q.Control(ctl, client, client, 0x214, ids), uint32_t{kNvOk});
  uint32_t first, second;
  std::memcpy(&first, ids.data(), 4);
  std::memcpy(&second, ids.data() + 4, 4);
  EXPECT_EQ(first, own);
  EXPECT_EQ(second, ~0u);
  std::vector<uint8_t> info(32);
  std::memcpy(info.data(), &foreign, 4);
  EXPECT_EQ(q.Control(ctl, client, client, 0x205, info), uint32_t{kNvInvalidArgument});
  EXPECT_NE(one.InfoFile("params")->find("ModifyDeviceFiles: 0"), std::string::npos);
  EXPECT_EQ(one.InfoFile("params")->find("SecretKey"), std::string::npos);
  EXPECT_FALSE(one.InfoFile("gpus/0000:41:00.0/information").ok());
  EXPECT_TRUE(one.InfoFile("gpus/0000:42:00.0/information").ok());
}

TEST_P(ProxyTest, PidsAreTheGuests) {
  auto b = p.Start();
  std::vector<uint8_t> pids(3812);
  ASSERT_EQ(p.Control(b.ctl, b.client, b.subdevice, 0x2080018d, pids), uint32_t{kNvOk});
  GpuPids out;
  std::memcpy(&out, pids.data(), sizeof(out));
  EXPECT_EQ(out.pidTblCount, 1u);
  EXPECT_EQ(out.pidTbl[0], 10u);
}

// No lock of the proxy's is held while one client's call is in the driver.
TEST_P(ProxyTest, ClientsDoNotWaitForEachOther) {
  auto a = p.Start();
  TestProcess q(proxy, {.process = 2, .pid = 11});
  auto b = q.Start();
  HostFile slow = p.FileOf(a.ctl)->host();
  std::atomic<bool> inside = false, go = false;
  world.host.SetHook([&](HostFile file, uint32_t) {
    if (file != slow) return;
    inside = true;
    while (!go) std::this_thread::yield();
  });
  std::thread blocked([&] { p.Memory(a.ctl, a.client, a.device, 0x100, 4096); });
  while (!inside) std::this_thread::yield();
  EXPECT_EQ(q.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvOk});
  go = true;
  blocked.join();
}

TEST_P(ProxyTest, HostErrorsArePassedOn) {
  auto b = p.Start();
  world.host.Inject({.number = 0x2b, .status = kNvNoMemory});
  EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 4096), uint32_t{kNvNoMemory});
  world.host.Inject({.number = 0x2b, .error = EINTR});
  EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 4096), 0xffff0000u | EINTR);
  EXPECT_EQ(proxy.counts().objects, 3u);
  EXPECT_EQ(proxy.ledger().used(0), 0u);
}

TEST_P(ProxyTest, NamesWhatCannotBeSaved) {
  auto b = p.Start();
  auto ctl = p.FileOf(b.ctl);
  EXPECT_TRUE(proxy.CannotSave(*ctl).empty());  // NVML's leftovers can be made again
  p.Memory(b.ctl, b.client, b.device, 0x100, 4096);
  ASSERT_EQ(proxy.CannotSave(*ctl).size(), 1u);
  EXPECT_NE(proxy.CannotSave(*ctl)[0].find("NV01_MEMORY_LOCAL_USER"), std::string::npos);
  int uvm = p.Open(NodeKind::kUvm);
  EXPECT_TRUE(proxy.CannotSave(*p.FileOf(uvm)).empty());
  std::vector<uint8_t> init(16);
  p.Uvm(uvm, 0x30000001, init);
  EXPECT_EQ(proxy.CannotSave(*p.FileOf(uvm)).size(), 1u);
}

// Files and clients as NVML leaves them, on another machine: the same handles, the GPU found by its uuid, links whole.
TEST_P(ProxyTest, SavesAndRestores) {
  auto b = p.Start(1, 1);
  std::string ctl = proxy.SaveFile(*p.FileOf(b.ctl)), gpu = proxy.SaveFile(*p.FileOf(b.gpu));
  for (bool ctl_first : {true, false}) {
    FakeConfig config = TwoGpus(GetParam());
    std::swap(config.gpus[0].uuid, config.gpus[1].uuid);
    World there(config);
    Proxy& other = there.Sandbox({.allow_other_driver = true});
    std::string error;
    auto first = other.RestoreFile(ctl_first ? ctl : gpu, &error);
    auto second = other.RestoreFile(ctl_first ? gpu : ctl, &error);
    ASSERT_EQ(error, "");
    EXPECT_EQ(other.Describe(), proxy.Describe());
    EXPECT_EQ(other.Describe(), there.host.Graph(1000));
    auto& gpu_file = ctl_first ? second : first;
    EXPECT_EQ(gpu_file->node().minor, 0u);
    TestProcess q(other, p.session());
    int fd = q.Adopt(gpu_file), event_fd = fd;
    OsEvent event{.hClient = b.client, .hDevice = b.device, .fd = event_fd};
    EXPECT_EQ(q.Frontend(fd, 0xce, event), 0);
    EXPECT_EQ(event.status, uint32_t{kNvOk});  // through the link
    EXPECT_EQ(there.host.violations(), std::vector<std::string>{});
    auto again = other.RestoreFile(ctl, &error);
    EXPECT_EQ(again, nullptr);  // the handle is taken
    EXPECT_NE(error.find("another process"), std::string::npos);
  }
  World older(TwoGpus("550.90.12"));
  std::string error;
  EXPECT_EQ(older.Sandbox().RestoreFile(ctl, &error), nullptr);
  EXPECT_NE(error.find("this machine has 550.90.12"), std::string::npos);
  error.clear();
  EXPECT_EQ(proxy.RestoreFile("\xff\xff", &error), nullptr);
}

TEST(ProxyCreate, ErrorsSayWhat) {
  std::string error;
  {
    FakeHost host({.version = "580.999.99", .gpus = TwoGpus().gpus});
    FakeDriver driver(host, 1);
    EXPECT_EQ(Proxy::Create(driver, {}, {}, &error), nullptr);
    EXPECT_NE(error.find("580.999.99"), std::string::npos);
  }
  {
    FakeHost host(TwoGpus());
    FakeDriver driver(host, 1);
    EXPECT_EQ(Proxy::Create(driver, {.devices = {"minor:5"}}, {}, &error), nullptr);
    EXPECT_EQ(error, "there is no GPU \"minor:5\" on this machine");
  }
}

// The owner's list is the limit, and who asks chooses within it, each by whatever names.
TEST(ProxyCreate, WhatIsWantedOfWhatMayBe) {
  using Names = std::vector<std::string>;
  FakeHost host(TwoGpus());
  std::string uuid = "GPU-7f2d1c00-1111-2222-3333-444455556666";
  auto minors = [&](const Names& devices, const Names& wanted) {
    FakeDriver driver(host, 1);
    std::string error;
    auto proxy = Proxy::Create(driver, {.devices = devices, .wanted = wanted}, {}, &error);
    for (const Gpu& gpu : proxy != nullptr ? proxy->gpus() : std::span<const Gpu>()) error += std::to_string(gpu.minor);
    return error;
  };
  EXPECT_EQ(minors({}, {}), "01");
  EXPECT_EQ(minors({"1"}, {}), "1");
  EXPECT_EQ(minors({}, {"minor:1"}), "1");
  EXPECT_EQ(minors({"1", "0"}, {uuid}), "1");
  EXPECT_EQ(minors({uuid}, {"1"}), "1");
  EXPECT_EQ(minors({"0"}, {uuid}), "GPU \"" + uuid + "\" is asked for, and --gpu-devices does not have it");
  EXPECT_EQ(minors({"0"}, {"0", "1"}), "GPU \"1\" is asked for, and --gpu-devices does not have it");
  EXPECT_EQ(minors({"0"}, {"2"}), "there is no GPU \"2\" on this machine");
}

// A machine with other cards: each of the image's has one that takes its place, for its files and for what was made on it.
TEST_P(ProxyTest, RestoresOnOtherGpus) {
  auto b = p.Start(1, 1);
  int gpu_fd = p.Open(NodeKind::kGpu, 1);
  std::string ctl = proxy.SaveFile(*p.FileOf(b.ctl)), gpu = proxy.SaveFile(*p.FileOf(gpu_fd)), error;
  FakeConfig config;
  ASSERT_TRUE(
      ParseFakeConfig("gpu minor=7 uuid=GPU-11111111-1111-2222-3333-444455556666 pci=0000:01:00.0\n"
                      "gpu minor=3 uuid=GPU-22222222-1111-2222-3333-444455556666 pci=0000:02:00.0\n"
                      "gpu minor=5 uuid=GPU-33333333-1111-2222-3333-444455556666 pci=0000:03:00.0\n",
                      &config, &error));
  config.version = GetParam();
  World there(config);
  Proxy& other = there.Sandbox({.allow_other_driver = true});
  EXPECT_EQ(other.RestoreFile(gpu, &error), nullptr);
  EXPECT_EQ(error, "a GPU that the sandbox had open is not there");
  error.clear();
  EXPECT_EQ(other.RestoreFile(ctl, &error), nullptr);
  EXPECT_NE(error.find("is of a GPU that the sandbox does not have"), std::string::npos) << error;
  EXPECT_EQ(there.host.client_count(), 0u);
  EXPECT_EQ(there.host.file_count(), 0u);
  error.clear();
  other.SetReplacements({{proxy.gpus()[0].uuid, 2}, {proxy.gpus()[1].uuid, 1}});
  auto control = other.RestoreFile(ctl, &error), node = other.RestoreFile(gpu, &error);
  ASSERT_EQ(error, "");
  EXPECT_EQ(node->node().minor, 3u);
  TestProcess q(other, p.session());
  int fd = q.Adopt(control);
  std::string again = other.SaveFile(*control);
  EXPECT_NE(again.find(std::string(other.gpus()[1].uuid.begin(), other.gpus()[1].uuid.end())), std::string::npos);
  EXPECT_EQ(there.host.Graph(1000), other.Describe());
  std::vector<uint8_t> params(4);
  EXPECT_EQ(q.Control(fd, b.client, b.device, 0x800280, params), p.Control(b.ctl, b.client, b.device, 0x800280, params));
  EXPECT_EQ(there.host.violations(), std::vector<std::string>{});
}

}  // namespace
}  // namespace amber::nvproxy
