// Rules that hold for a kind of field, object or file, whichever call has it: descriptors, lists, what cannot be saved, what is filtered.
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "nvproxy/test_guest.h"

namespace amber::nvproxy {
namespace {

class Rules : public testing::Test {
 protected:
  Rules() {
    b = p.Start();
    EXPECT_EQ(p.Memory(b.ctl, b.client, b.device, 0x100, 1 << 20), uint32_t{kNvOk});
    uvm = p.Open(NodeKind::kUvm);
    std::vector<uint8_t> init(16);
    EXPECT_EQ(p.Uvm(uvm, 0x30000001, init), 0);
  }
  ~Rules() override { EXPECT_EQ(world.host.violations(), std::vector<std::string>{}); }

  std::vector<uint8_t> ExportOf(uint32_t object, int fd) {
    std::vector<uint8_t> out(24);
    uint32_t words[] = {1, b.device, b.device, object, static_cast<uint32_t>(fd), 0};
    std::memcpy(out.data(), words, sizeof(words));
    return out;
  }

  World world;
  Proxy& proxy = world.Sandbox({.capabilities = 0x7f});
  TestProcess p{proxy, {.process = 1, .pid = 10}};
  TestProcess::Basic b;
  int uvm;
};

// A call with a descriptor in it: what it answers, and what stands in the field afterwards.
struct WithFd {
  const char* name;
  std::function<int64_t(int fd, int64_t* after)> call;
};

// Numbers that are no device file's are refused without asking the host, and the guest's number stands where it was, whatever the host answered.
TEST_F(Rules, EveryDescriptor) {
  auto control = [&](uint32_t command, size_t at, bool wide, std::vector<uint8_t> params) -> std::function<int64_t(int, int64_t*)> {
    return [=, this](int fd, int64_t* after) mutable -> int64_t {
      int64_t value = fd;
      std::memcpy(params.data() + at, &value, wide ? 8 : 4);
      uint32_t status = p.Control(b.ctl, b.client, b.client, command, params);
      int32_t narrow;
      std::memcpy(&narrow, params.data() + at, 4);
      *after = narrow;
      return status;
    };
  };
  std::vector<uint8_t> import(20), imports(652), info(80), exports(2128);
  uint32_t place[] = {1, b.device, b.device, 0x700};
  std::memcpy(import.data() + 4, place, sizeof(place));
  std::memcpy(imports.data() + 4, &b.device, 4);
  std::memcpy(exports.data() + 4, &b.device, 4);
  std::vector<WithFd> calls = {
      {"register",
       [&](int fd, int64_t* after) -> int64_t {
         int other = p.Open(NodeKind::kGpu), number = fd;
         int result = p.Frontend(other, 0xc9, number);
         *after = number;
         p.Close(other);
         return result;
       }},
      {"event",
       [&](int fd, int64_t* after) -> int64_t {
         OsEvent event{.hClient = b.client, .hDevice = b.device, .fd = fd};
         int result = p.Frontend(b.ctl, 0xce, event);
         *after = event.fd;
         return result != 0 ? result : static_cast<int64_t>(event.status);
       }},
      {"event object",
       [&](int fd, int64_t* after) -> int64_t {
         EventParams params{.hSrcResource = b.subdevice, .hClass = 0x79, .data = static_cast<uint64_t>(static_cast<int64_t>(fd))};
         RmAlloc block{.hRoot = b.client, .hObjectParent = b.subdevice, .hObjectNew = 0x800, .hClass = 0x79, .pAllocParms = p.Put(params)};
         int result = p.Frontend(b.ctl, 0x2b, block);
         *after = static_cast<int64_t>(p.Get<EventParams>(block.pAllocParms).data);
         p.Free(b.ctl, b.client, 0x800);
         return result != 0 ? result : static_cast<int64_t>(block.status);
       }},
      {"map",
       [&](int fd, int64_t* after) -> int64_t {
         RmMapMemory block{.hClient = b.client, .hDevice = b.device, .hMemory = 0x100, .length = 4096, .pad_fd = fd};
         int result = p.Frontend(b.ctl, 0x4e, block);
         *after = block.pad_fd;
         return result != 0 ? result : static_cast<int64_t>(block.status);
       }},
      {"alloc memory",
       [&](int fd, int64_t* after) -> int64_t {
         RmAllocMemory block{.hRoot = b.client, .hObjectParent = b.device, .hObjectNew = 0x801, .hClass = 0x3e, .limit = 4095, .pad_fd = fd};
         int result = p.Frontend(b.gpu, 0x27, block);
         *after = block.pad_fd;
         p.Free(b.ctl, b.client, 0x801);
         return result != 0 ? result : static_cast<int64_t>(block.status);
       }},
      {"export", control(0x3d05, 16, false, ExportOf(0x100, -1))},
      {"export of many", control(0x3d0b, 0, false, exports)},
      {"export's info", control(0x3d08, 0, false, info)},
      {"import", control(0x3d06, 0, false, import)},
      {"import of many", control(0x3d0c, 0, false, imports)},
  };
  int closed = p.Open(NodeKind::kGpu);
  p.Close(closed);
  for (const WithFd& c : calls) {
    for (int fd : {-1, 999, closed, uvm, INT32_MIN, INT32_MAX}) {
      int64_t after = 0;
      uint64_t before = world.host.calls();
      int64_t answer = c.call(fd, &after);
      EXPECT_TRUE(answer == kNvInvalidArgument || answer == -EINVAL) << c.name << " " << fd << " " << answer;
      EXPECT_EQ(after, fd) << c.name;
      // Frees that the test itself makes are of objects that the proxy does not know.
      EXPECT_EQ(world.host.calls(), before) << c.name << " asked the host";
    }
    for (bool error : {false, true}) {
      int good = p.Open(NodeKind::kControl);
      uint32_t number = std::string_view(c.name) == "register" ? 0xc9 : 0;
      int64_t after = 0;
      // The host refuses after the proxy put its own number there.
      for (uint32_t n : {number != 0 ? number : 0x2au, 0x2bu, 0x27u, 0x4eu, 0xceu}) {
        world.host.Inject({.number = n, .status = error ? 0u : uint32_t{kNvInsufficientResources}, .error = error ? EIO : 0});
      }
      c.call(good, &after);
      EXPECT_EQ(after, good) << c.name << (error ? " after an error" : " after a refusal");
      world.host.ClearFaults();
      p.Close(good);
    }
  }
  const auto& memory = p.memory();
  for (size_t i = 0; i + 4 <= memory.size(); i += 4) {
    uint32_t word;
    std::memcpy(&word, memory.data() + i, 4);
    ASSERT_NE(word >> 16, 0x5a5au) << "a host descriptor at offset " << i;
  }
}

// The control file that UVM calls carry: none is allowed, and given on as it is; what is no control file is refused; the guest's number stands there afterwards,
// whatever the driver says.
TEST_F(Rules, EveryDescriptorOfUvm) {
  constexpr uint32_t kRegisterGpu = 37, kRegisterVaspace = 25, kRegisterChannel = 27, kMapExternal = 33;
  std::vector<uint8_t> space(p.SizeOf(0x90f1));
  ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x200, 0x90f1, space), uint32_t{kNvOk});
  Uuid uuid = proxy.gpus()[0].uuid;
  uint64_t range[] = {0x200000000, 1 << 20};
  std::vector<uint8_t> create(24);
  std::memcpy(create.data(), range, sizeof(range));
  ASSERT_EQ(p.Uvm(uvm, 73, create), 0);
  int closed = p.Open(NodeKind::kGpu);
  p.Close(closed);
  for (uint32_t number : {kRegisterGpu, kRegisterVaspace, kRegisterChannel, kMapExternal}) {
    UvmOffsets at = TestProcess::Offsets(proxy, number);
    ASSERT_NE(at.fd, 0) << number;
    auto call = [&](int fd, int32_t* after) {
      std::vector<uint8_t> block(FindEntry(proxy.branch().uvm, number)->size);
      if (number == kMapExternal) {
        std::memcpy(block.data(), range, sizeof(range));
      } else {
        std::memcpy(block.data(), uuid.data(), uuid.size());
      }
      uint32_t object = number == kMapExternal ? 0x100 : 0x200;
      std::memcpy(block.data() + at.client, &b.client, 4);
      if (at.object != 0) std::memcpy(block.data() + at.object, &object, 4);
      std::memcpy(block.data() + at.fd, &fd, 4);
      int64_t answer = p.Uvm(uvm, number, block);
      std::memcpy(after, block.data() + at.fd, 4);
      return answer;
    };
    int32_t after = 0;
    for (int fd : {-1, b.ctl, b.gpu}) {
      EXPECT_EQ(call(fd, &after), 0) << number << " " << fd;
      EXPECT_EQ(after, fd) << number;
    }
    for (int fd : {999, closed, uvm, INT32_MAX}) {
      uint64_t before = world.host.calls();
      EXPECT_EQ(call(fd, &after), -EINVAL) << number << " " << fd;
      EXPECT_EQ(after, fd) << number;
      EXPECT_EQ(world.host.calls(), before) << number;
    }
    for (int error : {EIO, 0}) {
      world.host.Inject({.number = number, .status = kNvInvalidState, .error = error});
      EXPECT_EQ(call(b.ctl, &after), error != 0 ? -error : static_cast<int64_t>(kNvInvalidState)) << number;
      EXPECT_EQ(after, b.ctl) << number;
    }
  }
  // MM_INITIALIZE names the other file of UVM.
  int other = p.Open(NodeKind::kUvm);
  for (int fd : {-1, 999, closed, b.ctl, other, INT32_MIN}) {
    std::vector<uint8_t> block(8);
    std::memcpy(block.data(), &fd, 4);
    EXPECT_EQ(p.Uvm(other, 75, block), -EINVAL) << fd;
    EXPECT_EQ(std::memcmp(block.data(), &fd, 4), 0);
  }
  std::vector<uint8_t> block(8);
  std::memcpy(block.data(), &uvm, 4);
  EXPECT_EQ(p.Uvm(other, 75, block), static_cast<int64_t>(kNvNotSupported));
  EXPECT_EQ(std::memcmp(block.data(), &uvm, 4), 0);
}

// Lists that lie over their own parameters, over each other, over the block, at the end of memory, with counts whose product wraps.
TEST_F(Rules, ListsAnywhere) {
  uint64_t end = TestProcess::kBase + p.memory().size();
  for (const Entry& entry : proxy.branch().controls) {
    std::vector<size_t> pointers;
    for (const Field& field : FieldsOf(entry)) {
      if (field.role == Role::kPointer) pointers.push_back(field.offset);
    }
    // Answered by the proxy alone, whatever the size; a pointer that nobody follows.
    bool counted = entry.kind != Kind::kBuildVersion && entry.kind != Kind::kIdInfo;
    if (pointers.empty()) continue;
    for (uint32_t count : {0u, 1u, 3u, 0x20000000u, 0x40000000u, 0x80000000u, 0xffffffffu}) {
      for (uint64_t where : {uint64_t{0}, uint64_t{1}, end - (1 << 20), end - (1 << 20) + 4, end - 2, end, ~uint64_t{0} - 3, TestProcess::kBase}) {
        std::vector<uint8_t> params(entry.size);
        for (size_t i = 0; i + 4 <= std::min<size_t>(params.size(), 24); i += 4) std::memcpy(params.data() + i, &count, 4);
        for (size_t at : pointers) std::memcpy(params.data() + at, &where, 8);
        uint32_t status = p.Control(b.ctl, b.client, b.subdevice, entry.number, params);
        if (counted && count >= 0x20000000u && where != 0) EXPECT_NE(status, uint32_t{kNvOk}) << entry.name << " " << count;
      }
    }
  }
}

// Each kind of object and file that cannot be made again has a line of its own in the refusal.
TEST_F(Rules, WhatCannotBeSavedIsNamed) {
  auto names = [&](int fd, const char* what) {
    std::string all;
    for (const std::string& line : proxy.CannotSave(*p.FileOf(fd))) all += line + "\n";
    EXPECT_NE(all.find(what), std::string::npos) << what << " in " << all;
  };
  names(b.ctl, "NV01_MEMORY_LOCAL_USER, handle 0x100");
  names(uvm, "/dev/nvidia-uvm");
  p.Free(b.ctl, b.client, 0x100);
  EXPECT_TRUE(proxy.CannotSave(*p.FileOf(b.ctl)).empty());
  auto one = [&](const char* what, uint32_t handle) {
    names(b.ctl, what);
    EXPECT_EQ(p.Free(b.ctl, b.client, handle), uint32_t{kNvOk});
    EXPECT_TRUE(proxy.CannotSave(*p.FileOf(b.ctl)).empty()) << what;
  };
  std::vector<uint8_t> event(24);
  std::memcpy(event.data() + 16, &b.gpu, 4);
  ASSERT_EQ(p.Alloc(b.ctl, b.client, b.subdevice, 0x300, 0x79, event), uint32_t{kNvOk});
  one("NV01_EVENT_OS_EVENT", 0x300);
  ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x301, 0xa06c, std::vector<uint8_t>(p.SizeOf(0xa06c))), uint32_t{kNvOk});
  one("KEPLER_CHANNEL_GROUP_A", 0x301);
  ASSERT_EQ(p.Alloc(b.ctl, b.client, b.device, 0x302, 0x90f1, std::vector<uint8_t>(p.SizeOf(0x90f1))), uint32_t{kNvOk});
  one("FERMI_VASPACE_A", 0x302);
  for (uint32_t number : {0x71u, 0x3eu}) {
    RmAllocMemory block{.hRoot = b.client,
                        .hObjectParent = b.device,
                        .hObjectNew = 0x303,
                        .hClass = number,
                        .flags = 1u << 16,
                        .pMemory = TestProcess::kBase,
                        .limit = 4095};
    ASSERT_EQ(p.Frontend(b.gpu, 0x27, block), 0);
    ASSERT_EQ(block.status, uint32_t{kNvOk});
    one("NV_ESC_RM_ALLOC_MEMORY", 0x303);
  }
  RmHeap heap{.hRoot = b.client, .hObjectParent = b.device, .function = 2, .AllocSize_hMemory = 0x304, .AllocSize_size = 4096};
  ASSERT_EQ(p.Frontend(b.ctl, 0x4a, heap), 0);
  RmDup dup{.hClient = b.client, .hParent = b.device, .hObject = 0x305, .hClientSrc = b.client, .hObjectSrc = 0x304};
  ASSERT_EQ(p.Frontend(b.ctl, 0x34, dup), 0);
  ContextDma dma{.hObjectParent = b.client, .hObjectNew = 0x306, .hMemory = 0x304};
  ASSERT_EQ(p.Frontend(b.ctl, 0x54, dma), 0);
  ASSERT_EQ(dma.status, uint32_t{kNvOk});
  names(b.ctl, "NV_ESC_RM_ALLOC_CONTEXT_DMA2");
  ASSERT_EQ(p.Free(b.ctl, b.client, 0x304), uint32_t{kNvOk});  // and the context DMA with it
  one("NV_ESC_RM_DUP_OBJECT", 0x305);
  int fd = p.Open(NodeKind::kControl);
  ASSERT_EQ(p.Memory(b.ctl, b.client, b.device, 0x307, 4096), uint32_t{kNvOk});
  auto out = ExportOf(0x307, fd);
  ASSERT_EQ(p.Control(b.ctl, b.client, b.client, 0x3d05, out), uint32_t{kNvOk});
  names(fd, "exported to a descriptor");
  int attached = p.Open(NodeKind::kControl);
  uint32_t id = proxy.gpus()[0].gpu_id;
  ASSERT_EQ(p.Frontend(attached, 0xd4, id), 0);
  names(attached, "attached to a descriptor");
  int pending = p.Open(NodeKind::kGpu);
  RmMapMemory map{.hClient = b.client, .hDevice = b.device, .hMemory = 0x307, .length = 4096, .pad_fd = pending};
  ASSERT_EQ(p.Frontend(b.ctl, 0x4e, map), 0);
  names(pending, "about to be made");
}

// The permissive mode lets unknown commands through and tells of each once; the firmware's for root never pass.
TEST_F(Rules, PermissiveMode) {
  Proxy& open = world.Sandbox({.permissive = true});
  TestProcess q(open, {.process = 1, .pid = 1});
  auto c = q.Start();
  size_t before = world.log.size();
  uint64_t calls = world.host.calls();
  std::vector<uint8_t> params(32);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(q.Control(c.ctl, c.client, c.subdevice, 0x2080c123, params), uint32_t{kNvNotSupported});
  EXPECT_EQ(world.host.calls(), calls);
  RmControl huge{.hClient = c.client, .hObject = c.subdevice, .cmd = 0x20808123, .params = TestProcess::kBase, .paramsSize = (1 << 20) + 1};
  EXPECT_EQ(q.Frontend(c.ctl, 0x2a, huge), 0);
  EXPECT_EQ(huge.status, uint32_t{kNvInvalidArgument});
  EXPECT_EQ(world.host.calls(), calls);
  for (int i = 0; i < 3; ++i) q.Control(c.ctl, c.client, c.subdevice, 0x20808123, params);
  EXPECT_EQ(world.host.calls(), calls + 3);
  EXPECT_EQ(world.log.size(), before + 1);
  EXPECT_NE(world.log.back().find("let through control 0x20808123"), std::string::npos);
  // That these arrive is what the driver that does not exist complains of.
  EXPECT_EQ(world.host.violations().size(), 3u);
  world.host.ClearViolations();
}

// A file that is closed while a call on it is in the driver lives until that has returned.
TEST_F(Rules, CloseDuringACall) {
  absl::Notification inside, release;
  HostFile host = p.FileOf(b.ctl)->host();
  size_t files = world.host.file_count();
  world.host.SetHook([&](HostFile file, uint32_t) {
    if (file != host || inside.HasBeenNotified()) return;
    inside.Notify();
    release.WaitForNotification();
  });
  std::shared_ptr<OpenFile> control = p.FileOf(b.ctl);
  TestProcess q(proxy, {.process = 1, .pid = 10});
  std::thread caller([&, file = std::move(control)]() mutable {
    RmAlloc block{
        .hRoot = b.client, .hObjectParent = b.device, .hObjectNew = 0x900, .hClass = 0x90f1, .pAllocParms = q.Put(std::array<uint8_t, 256>{})};
    auto result = proxy.Ioctl(file, q, 0xc0004600u | sizeof(block) << 16 | 0x2b, q.Put(block));
    EXPECT_TRUE(result.ok());
    file.reset();
  });
  inside.WaitForNotification();
  p.Close(b.gpu);
  p.Close(b.ctl);
  EXPECT_EQ(world.host.file_count(), files - 1);  // that of the GPU, which held the other
  release.Notify();
  caller.join();
  EXPECT_EQ(world.host.file_count(), files - 2);
  EXPECT_EQ(world.host.client_count(), 0u);
  EXPECT_EQ(proxy.counts().clients, 0u);
}

// Numbers of GPUs as masks and lists.
TEST_F(Rules, ListsOfGpus) {
  Proxy& one = world.Sandbox({.devices = {"minor:1"}});
  TestProcess q(one, {.process = 1, .pid = 1});
  auto c = q.Start(1, 1);
  std::vector<uint8_t> mask(4, 0xff), active(3076);
  EXPECT_EQ(q.Control(c.ctl, c.client, c.client, 0x204, mask), uint32_t{kNvOk});
  EXPECT_EQ(mask[0], 2);
  EXPECT_EQ(mask[1] | mask[2] | mask[3], 0);
  uint32_t words[] = {2, world.host.config().gpus[0].gpu_id, 7, 8, world.host.config().gpus[1].gpu_id, 9, 10};
  std::memcpy(active.data(), words, sizeof(words));  // as the host would fill it in
  EXPECT_EQ(q.Control(c.ctl, c.client, c.client, 0x288, active), uint32_t{kNvOk});
  std::memcpy(words, active.data(), sizeof(words));
  EXPECT_EQ(words[0], 1u);
  EXPECT_EQ(words[1], world.host.config().gpus[1].gpu_id);
  EXPECT_EQ(words[2], 9u);
  EXPECT_EQ(words[4] | words[5] | words[6], 0u);
}

}  // namespace
}  // namespace amber::nvproxy
