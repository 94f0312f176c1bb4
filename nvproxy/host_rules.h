// Which ioctls the real driver may get from this process, for the filter of host calls: the numbers of tables.txt, as far as a filter can tell. What is
// behind pointers (commands, classes, handles) only the proxy itself checks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nvproxy/tables.h"

namespace amber::nvproxy {

// Descriptors of the driver's files lie in this range, so that UVM's small numbers cannot mean another kind of file.
inline constexpr int kHostFdBase = 0x4000;
inline constexpr uint64_t kHostFdMask = 0xffffc000;

// ioctl(fd, command) with (fd & kHostFdMask) == kHostFdBase and (command & mask) == value.
struct HostIoctlRule {
  uint32_t mask, value;
  const char* name;
};

// For a sandbox with `capabilities`. Numbers whose size the guest chooses have their size bits left open.
std::vector<HostIoctlRule> HostIoctlRules(const Branch& branch, uint8_t capabilities);
// As a reviewer reads it.
std::string DescribeHostIoctls(const Branch& branch, uint8_t capabilities);

}  // namespace amber::nvproxy
