// The little of sysfs(5) that programs ask for: processors and their caches, huge pages; interfaces are in sysfs_net.cc.
#include <cpuid.h>

#include <cstdio>
#include <deque>
#include <vector>

#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"

namespace amber {
namespace {

constexpr uint32_t kDirectory = S_IFDIR | 0555;

struct Fixed {
  std::string path, text;
};

// Texts that are the same for every reader; entry i of the table shows text i.
class Table {
 public:
  Table() {
    AddDirectories();
    AddProcessors();
    AddNode();
    Add("kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    Add("kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n");
    Add("kernel/mm/transparent_hugepage/hpage_pmd_size", "2097152\n");
    Add("kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n");
  }
  std::span<const ProcEntry> entries() const { return entries_; }
  const std::string* Find(std::string_view path) const {
    for (const Fixed& f : texts_) {
      if (f.path == path) return &f.text;
    }
    return nullptr;
  }

  void Add(std::string path, std::string text) {
    texts_.push_back({std::move(path), std::move(text)});
    entries_.push_back({texts_.back().path.c_str(), kProcFile, nullptr});
  }

 private:
  void AddDirectory(const char* path) { entries_.push_back({path, kDirectory, nullptr}); }

  void AddDirectories() {
    for (const char* d : {"block",     "bus",          "class",           "class/block",     "class/net", "class/tty", "dev",
                          "dev/block", "dev/char",     "devices",         "devices/virtual", "firmware",  "fs",        "fs/cgroup",
                          "kernel",    "kernel/debug", "kernel/security", "kernel/tracing",  "module",    "power"}) {
      AddDirectory(d);
    }
  }

  void AddProcessors() {
    uint32_t cpus = Machine::Get().cpus;
    std::string all = cpus <= 1 ? "0" : "0-" + std::to_string(cpus - 1);
    const std::string base = "devices/system/cpu/";
    Add(base + "online", all + "\n");
    Add(base + "possible", all + "\n");
    Add(base + "present", all + "\n");
    Add(base + "offline", "\n");
    Add(base + "isolated", "\n");
    Add(base + "kernel_max", "8191\n");
    for (uint32_t i = 0; i < cpus; ++i) {
      std::string cpu = base + "cpu" + std::to_string(i) + "/";
      std::string self = std::to_string(i) + "\n";
      if (i > 0) Add(cpu + "online", "1\n");
      Add(cpu + "topology/physical_package_id", "0\n");
      Add(cpu + "topology/die_id", "0\n");
      Add(cpu + "topology/core_id", self);
      for (const char* name : {"thread_siblings_list", "core_cpus_list"}) Add(cpu + "topology/" + name, self);
      for (const char* name : {"core_siblings_list", "package_cpus_list"}) Add(cpu + "topology/" + name, all + "\n");
      AddCaches(cpu + "cache/", i, all);
    }
  }

  // CPUID leaf 4: one cache of the processor after the other.
  void AddCaches(const std::string& base, uint32_t cpu, const std::string& all) {
    for (uint32_t index = 0; index < 8; ++index) {
      uint32_t a = 0, b = 0, c = 0, d = 0;
      if (__get_cpuid_count(4, index, &a, &b, &c, &d) == 0 || (a & 31) == 0) return;
      uint32_t level = a >> 5 & 7, line = (b & 0xfff) + 1, ways = (b >> 22) + 1, parts = (b >> 12 & 0x3ff) + 1, sets = c + 1;
      static constexpr const char* kTypes[] = {"", "Data", "Instruction", "Unified"};
      std::string dir = base + "index" + std::to_string(index) + "/";
      Add(dir + "level", std::to_string(level) + "\n");
      Add(dir + "type", std::string(kTypes[a & 3]) + "\n");
      Add(dir + "coherency_line_size", std::to_string(line) + "\n");
      Add(dir + "ways_of_associativity", std::to_string(ways) + "\n");
      Add(dir + "number_of_sets", std::to_string(sets) + "\n");
      Add(dir + "physical_line_partition", std::to_string(parts) + "\n");
      Add(dir + "size", std::to_string(uint64_t{ways} * parts * line * sets / 1024) + "K\n");
      Add(dir + "shared_cpu_list", (level >= 3 ? all : std::to_string(cpu)) + "\n");
    }
  }

  void AddNode() {
    uint32_t cpus = Machine::Get().cpus;
    std::string all = cpus <= 1 ? "0\n" : "0-" + std::to_string(cpus - 1) + "\n";
    for (const char* name : {"online", "possible", "has_cpu", "has_memory", "has_normal_memory"}) {
      Add(std::string("devices/system/node/") + name, "0\n");
    }
    Add("devices/system/node/node0/cpulist", all);
    Add("devices/system/node/node0/distance", "10\n");
    char map[24];
    snprintf(map, sizeof(map), "%08x\n", cpus >= 32 ? ~0u : (1u << cpus) - 1);
    Add("devices/system/node/node0/cpumap", map);
    std::string kb = std::to_string(Machine::Get().memory_bytes / 1024) + " kB\n";
    Add("devices/system/node/node0/meminfo", "Node 0 MemTotal: " + kb + "Node 0 MemFree: " + kb);
  }

  std::deque<Fixed> texts_;  // paths are pointed to
  std::vector<ProcEntry> entries_;
};

Table& TheTable() {
  static Table table;
  return table;
}

}  // namespace

void AddSysText(std::string path, std::string text) { TheTable().Add(std::move(path), std::move(text)); }

std::span<const ProcEntry> SysfsEntries() { return TheTable().entries(); }
const std::string* SysfsText(std::string_view path) { return TheTable().Find(path); }

}  // namespace amber
