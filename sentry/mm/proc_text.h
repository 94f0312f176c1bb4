// What /proc/PID/maps and its relatives say about an address space, as text in Linux's formats.
//
// Sizes come from the tree; what is resident comes from the stub's own /proc files on the host. Kernel lock held.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "sentry/mm/memory_manager.h"

namespace amber {

class Task;

struct MapsContext {
  Task& reader;  // asks files for their numbers
  // The path of a mapped file as the reader sees it, "(deleted)" included; called for files that have a dentry.
  std::function<std::string(const File& file)> path_of;
};

// To the guest, neighbours that differ only in what the host maps are one mapping.
std::vector<Vma> GuestMappings(const MemoryManager& mm);
std::string MapsText(const MemoryManager& mm, const MapsContext& context);   // /proc/PID/maps
std::string SmapsText(const MemoryManager& mm, const MapsContext& context);  // /proc/PID/smaps
// /proc/PID/numa_maps; `policy` is the process's own.
std::string NumaMapsText(const MemoryManager& mm, const MapsContext& context, const MemoryPolicy& policy);
std::string SmapsRollupText(const MemoryManager& mm);  // /proc/PID/smaps_rollup
std::string StatmText(const MemoryManager& mm);        // /proc/PID/statm
// The lines VmPeak to VmSwap of /proc/PID/status.
std::string StatusMemoryText(const MemoryManager& mm);
// Bytes of [start, end) in the guest as they are, short at the first unmapped page: /proc/PID/cmdline and environ.
std::string ReadRange(const MemoryManager& mm, uint64_t start, uint64_t end, size_t limit);

}  // namespace amber
