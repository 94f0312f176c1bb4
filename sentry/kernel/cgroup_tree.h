// What only control groups of the first version have (Documentation/admin-guide/cgroup-v1/). Owned by their groups; kernel lock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sentry/kernel/cgroup.h"

namespace amber {

// Of the root of a tree.
struct CgroupTree {
  std::string name;           // of a tree that was mounted with name=
  std::string release_agent;  // a program of the container
  std::string options;        // of its first mount that do nothing here, as /proc/mounts shows them: ",xattr"
  size_t mounts = 0;
};

inline constexpr uint32_t kDeviceMake = 1, kDeviceRead = 2, kDeviceWrite = 4, kDeviceAll = 7;
inline constexpr uint32_t kAnyDevice = ~uint32_t{0};

// One line of devices.list: what differs from the rule for all others.
struct DeviceException {
  bool block = false;
  uint32_t major = 0, minor = 0;  // or kAnyDevice
  uint32_t access = 0;
};

// Of each group.
struct FirstVersion {
  bool notify_on_release = false, clone_children = false;
  // memory
  uint64_t soft_limit = Cgroup::kMax, memsw_limit = Cgroup::kMax;
  uint64_t swappiness = 60;
  bool oom_kill_disable = false;
  // cpuset; of these only cpu_exclusive and mem_exclusive matter where there is one memory node, and domains of processors are the host's.
  bool cpu_exclusive = false, mem_exclusive = false, mem_hardwall = false, memory_migrate = false;
  bool spread_page = false, spread_slab = false, load_balance = true, pressure = false;
  int relax_domain_level = -1;
  // devices
  static constexpr size_t kMostExceptions = 64;
  bool devices_allowed = true;
  std::vector<DeviceException> devices;
  int64_t usage_base_user = 0, usage_base_system = 0;  // cpuacct.usage counts from here

  // Whether it may do that by its own list.
  bool Allows(const DeviceException& wanted) const;
  void AddDevice(const DeviceException& line);
  void TakeDevice(const DeviceException& line);
};

// The names of controllers in the order of /proc/cgroups, with commas.
struct ControllerName {
  const char* name;
  Cgroup::Controller bit;
};
inline constexpr ControllerName kControllerNames[] = {{"cpuset", Cgroup::kCpuset}, {"cpu", Cgroup::kCpu},         {"cpuacct", Cgroup::kCpuacct},
                                                      {"memory", Cgroup::kMemory}, {"devices", Cgroup::kDevices}, {"freezer", Cgroup::kFreezer},
                                                      {"pids", Cgroup::kPids}};
std::string ControllerNames(uint32_t set, char between);

// /proc/cgroups, and /proc/PID/cgroup of `target`.
std::string CgroupsText(const Task& reader);
std::string CgroupPathsText(const Task& reader, const Task& target);

}  // namespace amber
