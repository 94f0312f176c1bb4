// What the parts of rawrm share: the calls that a CUDA program begins with, and a line for each thing that is expected.
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "nvproxy/abi.h"
#include "nvproxy/status.h"

namespace rawrm {

using namespace amber::nvproxy;

inline int failures = 0;

inline void Expect(bool good, const char* name, uint64_t got = 0) {
  if (good) {
    printf("ok %s\n", name);
  } else {
    printf("FAIL %s: %#llx, errno %d\n", name, static_cast<unsigned long long>(got), errno);
    ++failures;
  }
}

template <typename T>
int Call(int fd, uint32_t number, T& block) {
  return ioctl(fd, 0xc0004600ul | sizeof(T) << 16 | number, &block);
}

inline constexpr uint32_t kDevice = 0x5c000001, kSubdevice = 0x5c000002;

struct Session {
  int ctl = -1, gpu = -1;
  uint32_t client = 0;
};

inline uint32_t Alloc(const Session& s, uint32_t parent, uint32_t handle, uint32_t number, void* params) {
  RmAlloc block{};
  block.hRoot = s.client;
  block.hObjectParent = parent;
  block.hObjectNew = handle;
  block.hClass = number;
  block.pAllocParms = reinterpret_cast<uint64_t>(params);
  if (Call(s.ctl, 0x2b, block) != 0) return ~0u;
  return block.status;
}

inline uint32_t Control(const Session& s, uint32_t object, uint32_t command, void* params, uint32_t size) {
  RmControl block{};
  block.hClient = s.client;
  block.hObject = object;
  block.cmd = command;
  block.params = reinterpret_cast<uint64_t>(params);
  block.paramsSize = size;
  if (Call(s.ctl, 0x2a, block) != 0) return ~0u;
  return block.status;
}

inline uint32_t Memory(const Session& s, uint32_t handle, uint64_t size) {
  alignas(8) uint8_t params[128] = {};
  memcpy(params + offsetof(MemoryParams, size), &size, sizeof(size));
  return Alloc(s, kDevice, handle, 0x40, params);
}

inline Session Start() {
  Session s;
  s.ctl = open("/dev/nvidiactl", O_RDWR | O_CLOEXEC);
  s.gpu = open("/dev/nvidia0", O_RDWR | O_CLOEXEC);
  Expect(s.ctl >= 0 && s.gpu >= 0, "open");
  VersionCheck version{};
  version.cmd = 0x32;
  Expect(Call(s.ctl, 0xd2, version) == 0 && version.reply == 1 && version.text[0] != 0, "version");
  static CardInfo cards[32];
  Expect(Call(s.ctl, 0xc8, cards) == 0 && cards[0].valid == 1 && cards[0].fb_address == 0, "cards");
  int fd = s.ctl;
  Expect(Call(s.gpu, 0xc9, fd) == 0 && fd == s.ctl, "register fd");
  RmAlloc root{};
  root.hClass = 0x41;
  Expect(Call(s.ctl, 0x2b, root) == 0 && root.status == kNvOk, "client", root.status);
  s.client = root.hObjectNew;
  alignas(8) uint8_t device[56] = {};
  uint32_t status = Alloc(s, s.client, kDevice, 0x80, device);
  Expect(status == kNvOk, "device", status);
  uint32_t zero = 0;
  status = Alloc(s, kDevice, kSubdevice, 0x2080, &zero);
  Expect(status == kNvOk, "subdevice", status);
  return s;
}

// The last line; what main() returns.
inline int Verdict() {
  printf("%s\n", failures == 0 ? "PASS" : "FAILED");
  return failures != 0;
}

// rawrm_memory.cc, rawrm_events.cc, rawrm_blocked.cc
int Memories();
int Events();
int Blocked(int milliseconds);
int Stuck();

}  // namespace rawrm
