// Files of /proc that describe the machine (fs/proc/*.c).
#include <stdarg.h>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <vector>

#include "sentry/fs/proc/entries_kernel.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/locks_text.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/keys/key.h"
#include "sentry/vfs/file_system.h"

namespace amber {

void AppendFormat(std::string* out, const char* format, ...) {
  char line[2048];
  va_list args;
  va_start(args, format);
  int n = vsnprintf(line, sizeof(line), format, args);
  va_end(args);
  out->append(line, std::min<size_t>(static_cast<size_t>(std::max(n, 0)), sizeof(line) - 1));
}

namespace {

constexpr int64_t kTick = kNsPerSecond / 100;  // USER_HZ

// Processor time of all processes of the reader's container that have not been reaped, in ticks.
uint64_t UsedTicks() {
  int64_t ns = 0;
  for (const RefPtr<ThreadGroup>& g : ProcTerms::Now().Groups()) {
    const rusage& dead = g->child_usage();
    ns += g->CpuTime() + (dead.ru_utime.tv_sec + dead.ru_stime.tv_sec) * kNsPerSecond;
  }
  return static_cast<uint64_t>(ns / kTick);
}

struct Counts {
  unsigned running = 0, tasks = 0;
  int last = 0;
};

Counts CountTasks() {
  Counts c;
  for (const RefPtr<ThreadGroup>& g : ProcTerms::Now().Groups()) {
    for (const RefPtr<Task>& t : g->tasks()) {
      ++c.tasks;
      if (t->state_letter() == 'R') ++c.running;
      c.last = std::max(c.last, ProcTerms::Now().IdOf(*t));
    }
  }
  return c;
}

ErrnoOr<std::string> SysvSem(Task& reader, Task*) { return reader.extras().ipc->SemText(); }
ErrnoOr<std::string> SysvMsg(Task& reader, Task*) { return reader.extras().ipc->MsgText(); }
ErrnoOr<std::string> SysvShm(Task& reader, Task*) { return reader.extras().ipc->ShmText(reader.kernel()); }

ErrnoOr<std::string> CpuInfo(Task&, Task*) { return CpuInfoText(); }

ErrnoOr<std::string> MemInfo(Task& reader, Task*) {
  MemoryUse use = MemoryUsedBy(ProcTerms::Now().Groups());
  uint64_t total = MemoryOf(reader.container()) / 1024, used = use.resident / 1024, anonymous = use.anonymous / 1024, shared = use.shared / 1024;
  uint64_t free = use.FreeOf(total * 1024) / 1024;
  std::string out;
  auto line = [&](const char* name, uint64_t kb) { AppendFormat(&out, "%-15s %8llu kB\n", name, static_cast<unsigned long long>(kb)); };
  line("MemTotal:", total);
  line("MemFree:", free);
  line("MemAvailable:", free);
  line("Buffers:", 0);
  line("Cached:", shared);
  for (const char* name : {"SwapCached:", "Active:", "Inactive:"}) line(name, 0);
  line("Active(anon):", anonymous);
  for (const char* name :
       {"Inactive(anon):", "Active(file):", "Inactive(file):", "Unevictable:", "Mlocked:", "SwapTotal:", "SwapFree:", "Dirty:", "Writeback:"}) {
    line(name, 0);
  }
  line("AnonPages:", anonymous);
  line("Mapped:", used - std::min(used, anonymous));
  line("Shmem:", shared);
  for (const char* name :
       {"KReclaimable:", "Slab:", "SReclaimable:", "SUnreclaim:", "KernelStack:", "PageTables:", "NFS_Unstable:", "Bounce:", "WritebackTmp:"}) {
    line(name, 0);
  }
  line("CommitLimit:", total / 2);
  line("Committed_AS:", anonymous);
  line("VmallocTotal:", 34359738367);
  for (const char* name : {"VmallocUsed:", "VmallocChunk:", "Percpu:", "AnonHugePages:", "ShmemHugePages:", "ShmemPmdMapped:"}) {
    line(name, 0);
  }
  out += "HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\nHugePages_Surp:        0\n";
  line("Hugepagesize:", 2048);
  line("Hugetlb:", 0);
  return out;
}

ErrnoOr<std::string> Stat(Task& reader, Task*) {
  Kernel& kernel = reader.kernel();
  uint64_t cpus = Machine::Get().cpus;
  uint64_t all = static_cast<uint64_t>(kernel.clocks().Boottime() / kTick) * cpus;
  uint64_t used = std::min(UsedTicks(), all);
  std::string out;
  auto line = [&](const std::string& name, uint64_t user, uint64_t idle) {
    AppendFormat(&out, "%s %llu 0 0 %llu 0 0 0 0 0 0\n", name.c_str(), static_cast<unsigned long long>(user), static_cast<unsigned long long>(idle));
  };
  line("cpu ", used, all - used);
  for (uint64_t i = 0; i < cpus; ++i) line("cpu" + std::to_string(i), used / cpus, (all - used) / cpus);
  Counts counts = CountTasks();
  int64_t boot = (kernel.clocks().Realtime() - kernel.clocks().Boottime() - TimeOffsetsOf(reader).boottime) / kNsPerSecond;
  AppendFormat(&out, "intr 0\nctxt %llu\nbtime %lld\nprocesses %llu\nprocs_running %u\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
               static_cast<unsigned long long>(kernel.stats().syscalls.load()), static_cast<long long>(boot),
               static_cast<unsigned long long>(kernel.stats().forks.load() + 1), std::max(counts.running, 1u));
  return out;
}

ErrnoOr<std::string> Uptime(Task& reader, Task*) {
  int64_t up = (reader.kernel().clocks().Boottime() + TimeOffsetsOf(reader).boottime) / (kNsPerSecond / 100);
  int64_t idle = std::max<int64_t>(up * Machine::Get().cpus - static_cast<int64_t>(UsedTicks()), 0);
  std::string out;
  AppendFormat(&out, "%lld.%02lld %lld.%02lld\n", static_cast<long long>(up / 100), static_cast<long long>(up % 100),
               static_cast<long long>(idle / 100), static_cast<long long>(idle % 100));
  return out;
}

ErrnoOr<std::string> LoadAverage(Task&, Task*) {
  Counts c = CountTasks();
  std::string out;
  AppendFormat(&out, "0.00 0.00 0.00 %u/%u %d\n", std::max(c.running, 1u), c.tasks, c.last);
  return out;
}

ErrnoOr<std::string> Version(Task&, Task*) {
  return std::string("Linux version ") + kKernelRelease + " (amber@amber) (clang version 19) " + kKernelVersion + "\n";
}

ErrnoOr<std::string> FileSystems(Task&, Task*) {
  std::string out;
  for (const std::string& type : FileSystemTypes()) out += "nodev\t" + type + "\n";
  return out;
}

ErrnoOr<std::string> Devices(Task&, Task*);

ErrnoOr<std::string> VmStat(Task&, Task*) {
  return std::string(
      "nr_free_pages 0\nnr_mapped 0\nnr_dirty 0\nnr_writeback 0\npgpgin 0\npgpgout 0\npswpin 0\npswpout 0\n"
      "pgfault 0\npgmajfault 0\noom_kill 0\n");
}

// One text for files that say nothing.
template <const char* Text>
ErrnoOr<std::string> Fixed(Task&, Task*) {
  return std::string(Text);
}
constexpr char kEmpty[] = "";
constexpr char kCommandLine[] = "console=none\n";
constexpr char kPartitions[] = "major minor  #blocks  name\n\n";
constexpr char kSwaps[] = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
constexpr char kInterrupts[] = "           CPU0\n";
constexpr char kMountsLink[] = "self/mounts";
constexpr char kNetLink[] = "self/net";

ErrnoOr<std::string> Self(Task& reader, Task*) {
  int pid = ProcTerms::Now().IdOf(reader.group());
  return pid != 0 ? ErrnoOr<std::string>(std::to_string(pid)) : Errno(ENOENT);
}
ErrnoOr<std::string> ThreadSelf(Task& reader, Task* target) {
  return TRY(Self(reader, target)) + "/task/" + std::to_string(ProcTerms::Now().IdOf(reader));
}

ErrnoOr<std::string> Cgroups(Task& reader, Task*) { return CgroupsText(reader); }
ErrnoOr<std::string> Keys(Task& reader, Task*) { return KeysText(reader); }
ErrnoOr<std::string> KeyUsers(Task& reader, Task*) { return KeyUsersText(reader); }

constexpr char kExecDomains[] = "0-0\tLinux           \t[kernel]\n";
constexpr char kLineDisciplines[] = "n_tty       0\n";

constexpr ProcEntry kEntries[] = {
    {"buddyinfo", kProcFile, &ProcBuddyInfo},
    {"cgroups", kProcFile, &Cgroups},
    {"cmdline", kProcFile, &Fixed<kCommandLine>},
    {"config.gz", kProcFile, &ProcConfig},
    {"consoles", kProcFile, &Fixed<kEmpty>},
    {"cpuinfo", kProcFile, &CpuInfo},
    {"crypto", kProcFile, &Fixed<kEmpty>},
    {"devices", kProcFile, &Devices},
    {"diskstats", kProcFile, &Fixed<kEmpty>},
    {"execdomains", kProcFile, &Fixed<kExecDomains>},
    {"filesystems", kProcFile, &FileSystems},
    {"interrupts", kProcFile, &Fixed<kInterrupts>},
    {"key-users", kProcFile, &KeyUsers},
    {"keys", kProcFile, &Keys},
    {"loadavg", kProcFile, &LoadAverage},
    {"locks", kProcFile, &LocksText},
    {"meminfo", kProcFile, &MemInfo},
    {"misc", kProcFile, &Fixed<kEmpty>},
    {"modules", kProcFile, &Fixed<kEmpty>},
    {"mounts", kProcLink, &Fixed<kMountsLink>},
    {"net", kProcLink, &Fixed<kNetLink>},
    {"partitions", kProcFile, &Fixed<kPartitions>},
    {"pressure/cpu", kProcFile, &ProcPressure},
    {"pressure/io", kProcFile, &ProcPressure},
    {"pressure/memory", kProcFile, &ProcPressure},
    {"self", kProcLink, &Self},
    {"softirqs", kProcFile, &ProcSoftIrqs},
    {"stat", kProcFile, &Stat},
    {"swaps", kProcFile, &Fixed<kSwaps>},
    {"thread-self", kProcLink, &ThreadSelf},
    {"sysvipc/msg", kProcFile, &SysvMsg},
    {"sysvipc/sem", kProcFile, &SysvSem},
    {"sysvipc/shm", kProcFile, &SysvShm},
    {"tty/drivers", kProcFile, &ProcTtyDrivers},
    {"tty/ldiscs", kProcFile, &Fixed<kLineDisciplines>},
    {"uptime", kProcFile, &Uptime},
    {"version", kProcFile, &Version},
    {"vmstat", kProcFile, &VmStat},
    {"zoneinfo", kProcFile, &ProcZoneInfo},
};

// The table, and what was added to it.
struct AddedTexts {
  struct Text {
    std::string path, text;
  };
  std::deque<Text> texts;  // paths are pointed to
  std::vector<ProcEntry> entries{std::begin(kEntries), std::end(kEntries)};
  std::string devices;
  ProcFilter filter = nullptr;
};
AddedTexts& Added() {
  static AddedTexts added;
  return added;
}

ErrnoOr<std::string> Devices(Task&, Task*) {
  return "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 misc\n136 pts\n" + Added().devices + "\nBlock devices:\n";
}

}  // namespace

void AddProcText(std::string path, std::string text) {
  AddedTexts& added = Added();
  added.texts.push_back({std::move(path), std::move(text)});
  added.entries.push_back({added.texts.back().path.c_str(), kProcFile, nullptr});
}

void AddProcDevices(std::string_view lines) { Added().devices += lines; }

void SetProcFilter(ProcFilter filter) { Added().filter = filter; }
bool IsShown(Task* reader, std::string_view path) {
  ProcFilter filter = Added().filter;
  return filter == nullptr || reader == nullptr || filter(*reader, path);
}

const std::string* AddedProcText(std::string_view path) {
  for (const AddedTexts::Text& t : Added().texts) {
    if (t.path == path) return &t.text;
  }
  return nullptr;
}

std::span<const ProcEntry> MachineEntries() { return Added().entries; }

}  // namespace amber
