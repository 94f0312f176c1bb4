#include "test/gpu/fakecuda_device.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <initializer_list>

#include "nvproxy/abi.h"
#include "test/gpu/fakecuda.h"

namespace fakecuda {
namespace {

using namespace amber::nvproxy;

constexpr uint32_t kDevice = 0x5c000001, kSubdevice = 0x5c000002, kFirstMemory = 0x100;
constexpr uint32_t kNoMemory = 0x51;
// Where CUDA has its device addresses.
constexpr uint64_t kBase = 0x200000000, kSpace = uint64_t{8} << 30, kAlignment = 2 << 20;

template <typename T>
bool Call(int fd, uint32_t number, T& block) {
  return ioctl(fd, 0xc0004600ul | sizeof(T) << 16 | number, &block) == 0;
}

int ResultOf(uint32_t status) { return status == 0 ? kCudaOk : status == kNoMemory ? kCudaOutOfMemory : kCudaOperatingSystem; }

void* At(uint64_t address) { return reinterpret_cast<void*>(address); }

}  // namespace

uint32_t Device::Object(uint32_t parent, uint32_t handle, uint32_t number, void* params) {
  RmAlloc block{};
  block.hRoot = client_;
  block.hObjectParent = parent;
  block.hObjectNew = handle;
  block.hClass = number;
  block.pAllocParms = reinterpret_cast<uint64_t>(params);
  return Call(ctl_, 0x2b, block) ? block.status : ~0u;
}

// The GPUs that there are, in the driver's order.
bool Device::List() {
  CardInfo cards[kMostGpus] = {};
  count_ = 0;
  if (!Call(ctl_, 0xc8, cards)) return false;
  for (const CardInfo& card : cards) {
    if (card.valid == 0) continue;
    GpuIdInfo id{};
    GpuUuidInfo uuid{};
    id.gpuId = uuid.gpuId = card.gpu_id;
    if (!Control(0x205, &id, sizeof(id)) || !Control(0x275, &uuid, sizeof(uuid))) return false;
    Card& out = cards_[count_++];
    out = {{}, card.minor, id.deviceInstance};
    int digits = 0;
    for (const uint8_t* p = uuid.gpuUuid + 4; *p != 0 && digits < 32; ++p) {
      if (*p == '-') continue;
      int value = *p <= '9' ? *p - '0' : *p - 'a' + 10;
      uint8_t& byte = out.uuid.bytes[digits / 2];
      byte = static_cast<uint8_t>(digits % 2 == 0 ? value << 4 : byte | value);
      ++digits;
    }
  }
  return true;
}

bool Device::Control(uint32_t command, void* params, uint32_t size) {
  RmControl block{};
  block.hClient = block.hObject = client_;
  block.cmd = command;
  block.params = reinterpret_cast<uint64_t>(params);
  block.paramsSize = size;
  return Call(ctl_, 0x2a, block) && block.status == 0;
}

// Which GPU is ours: $FAKECUDA_DEVICE says at the start, later it is the one with that uuid.
bool Device::Find() {
  if (seen_count_ == 0) {
    const char* text = getenv("FAKECUDA_DEVICE");
    int wanted = text != nullptr ? atoi(text) : 0;
    if (wanted >= count_) return false;
    for (int i = 0; i < count_; ++i) seen_[i] = cards_[i].uuid;
    seen_count_ = count_;
    uuid_ = cards_[wanted].uuid;
  }
  for (int i = 0; i < count_; ++i) {
    if (memcmp(&cards_[i].uuid, &uuid_, sizeof(uuid_)) != 0) continue;
    minor_ = cards_[i].minor;
    instance_ = cards_[i].instance;
    return true;
  }
  return false;
}

int Device::OpenNode() const {
  char path[32];
  snprintf(path, sizeof(path), "/dev/nvidia%u", minor_);
  return ::open(path, O_RDWR | O_CLOEXEC);
}

int Device::Open() {
  ctl_ = ::open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
  uvm_ = ::open("/dev/nvidia-uvm", O_RDWR | O_CLOEXEC);
  int linked = ctl_;
  RmAlloc root{};
  root.hClass = 0x41;
  bool good = ctl_ >= 0 && uvm_ >= 0 && Call(ctl_, 0x2b, root) && root.status == 0;
  client_ = root.hObjectNew;
  good = good && List() && Find();
  gpu_ = good ? OpenNode() : -1;
  UvmInitialize uvm{};
  alignas(8) uint8_t device[56] = {};
  memcpy(device, &instance_, sizeof(instance_));
  uint32_t subdevice = 0;
  good = good && gpu_ >= 0 && Call(gpu_, 0xc9, linked) && ioctl(uvm_, 0x30000001, &uvm) == 0 && uvm.rmStatus == 0 &&
         Object(client_, kDevice, 0x80, device) == 0 && Object(kDevice, kSubdevice, 0x2080, &subdevice) == 0;
  if (!good) {
    Close();
    return kCudaOperatingSystem;
  }
  if (next_ == 0) {
    if (mmap(At(kBase), kSpace, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0) != At(kBase))
      return kCudaOutOfMemory;
    next_ = kBase;
  }
  return kCudaOk;
}

void Device::Close() {
  if (client_ != 0) {
    RmFree all{};
    all.hRoot = all.hObjectOld = client_;
    Call(ctl_, 0x29, all);
    client_ = 0;
  }
  for (int* fd : {&uvm_, &gpu_, &ctl_}) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
}

// The driver's part of `memory`, at the address that it has.
int Device::Make(Memory& memory, int index) {
  uint32_t handle = kFirstMemory + static_cast<uint32_t>(index);
  if (memory.host) {
    RmAllocMemory block{};
    block.hRoot = client_;
    block.hObjectParent = kDevice;
    block.hObjectNew = handle;
    block.hClass = 0x71;
    block.pMemory = memory.address;
    block.limit = memory.size - 1;
    return Call(gpu_, 0x27, block) ? ResultOf(block.status) : kCudaOperatingSystem;
  }
  alignas(8) uint8_t params[128] = {};
  memcpy(params + offsetof(MemoryParams, size), &memory.size, sizeof(memory.size));
  if (int result = ResultOf(Object(kDevice, handle, 0x40, params)); result != kCudaOk) return result;
  memory.fd = OpenNode();
  RmMapMemory block{};
  block.hClient = client_;
  block.hDevice = kDevice;
  block.hMemory = handle;
  block.length = memory.size;
  block.pad_fd = memory.fd;
  bool good = Call(ctl_, 0x4e, block) && block.status == 0 &&
              mmap(At(memory.address), memory.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory.fd, 0) == At(memory.address) &&
              madvise(At(memory.address), memory.size, MADV_DONTFORK) == 0;
  return good ? kCudaOk : kCudaOperatingSystem;
}

int Device::Allocate(size_t size, uint64_t* address) {
  size = (size + kAlignment - 1) & ~(kAlignment - 1);
  if (size == 0 || next_ + size > kBase + kSpace) return kCudaOutOfMemory;
  for (int i = 0; i < kMostMemory; ++i) {
    if (memory_[i].size != 0) continue;
    Memory memory{.address = next_, .size = size};
    if (int result = Make(memory, i); result != kCudaOk) return result;
    next_ += size;
    *address = memory.address;
    memory_[i] = memory;
    return kCudaOk;
  }
  return kCudaOutOfMemory;
}

int Device::Register(void* host, size_t size) {
  for (int i = 0; i < kMostMemory; ++i) {
    if (memory_[i].size != 0) continue;
    Memory memory{.address = reinterpret_cast<uint64_t>(host), .size = size, .host = true};
    if (int result = Make(memory, i); result != kCudaOk) return result;
    memory_[i] = memory;
    return kCudaOk;
  }
  return kCudaOutOfMemory;
}

int Device::Free(uint64_t address) {
  for (int i = 0; i < kMostMemory; ++i) {
    Memory& memory = memory_[i];
    if (memory.size == 0 || memory.address != address) continue;
    RmFree block{};
    block.hRoot = client_;
    block.hObjectParent = kDevice;
    block.hObjectOld = kFirstMemory + static_cast<uint32_t>(i);
    if (!memory.host) {
      mmap(At(address), memory.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
      ::close(memory.fd);
    }
    memory = Memory{};
    return Call(ctl_, 0x29, block) ? ResultOf(block.status) : kCudaOperatingSystem;
  }
  return kCudaInvalidValue;
}

int Device::Info(size_t* free, size_t* total) {
  struct {
    uint32_t count = 2;
    uint32_t list[128] = {8 /* TOTAL_RAM_SIZE */, 0, 0x16 /* HEAP_FREE */, 0};
  } params;
  RmControl block{};
  block.hClient = client_;
  block.hObject = kSubdevice;
  block.cmd = 0x20801303;
  block.params = reinterpret_cast<uint64_t>(&params);
  block.paramsSize = 1028;
  if (!Call(ctl_, 0x2a, block) || block.status != 0) return kCudaOperatingSystem;
  *total = size_t{params.list[1]} << 10;
  *free = size_t{params.list[3]} << 10;
  return kCudaOk;
}

int Device::Drain() {
  for (Memory& memory : memory_) {
    if (memory.size == 0 || memory.host) continue;
    memory.copy = mmap(nullptr, memory.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.copy == MAP_FAILED) return kCudaOutOfMemory;
    memcpy(memory.copy, At(memory.address), memory.size);
  }
  for (Memory& memory : memory_) {
    if (memory.size == 0 || memory.host) continue;
    munmap(At(memory.address), memory.size);
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (mmap(At(memory.address), memory.size, PROT_NONE, kFlags, -1, 0) != At(memory.address)) return kCudaOperatingSystem;
    ::close(memory.fd);
    memory.fd = -1;
  }
  Close();
  return kCudaOk;
}

int Device::Refill(const GpuPair* pairs, unsigned count) {
  Uuid now = uuid_;
  for (int i = 0; i < seen_count_ && count > 0; ++i) {
    unsigned at = 0;
    while (at < count && memcmp(&pairs[at].from, &seen_[i], sizeof(Uuid)) != 0) ++at;
    if (at == count) return kCudaInvalidValue;
    if (memcmp(&uuid_, &seen_[i], sizeof(Uuid)) == 0) now = pairs[at].to;
    seen_[i] = pairs[at].to;
  }
  uuid_ = now;
  if (int result = Open(); result != kCudaOk) return result;
  for (int i = 0; i < kMostMemory; ++i) {
    Memory& memory = memory_[i];
    if (memory.size == 0) continue;
    if (int result = Make(memory, i); result != kCudaOk) return result;
    if (memory.host) continue;
    memcpy(At(memory.address), memory.copy, memory.size);
    munmap(memory.copy, memory.size);
    memory.copy = nullptr;
  }
  return kCudaOk;
}

}  // namespace fakecuda
