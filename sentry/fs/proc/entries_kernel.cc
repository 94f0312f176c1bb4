// Files of /proc that tell of the kernel: how it is configured, terminals' drivers, pressure, zones of memory.
#include "sentry/fs/proc/entries_kernel.h"

#include <array>
#include <cstdint>

#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

// What a kernel that offers what is offered here would say of itself: programs and test suites look before they try. Names of
// Linux's Kconfig files.
constexpr const char* kConfigured[] = {"64BIT",
                                       "X86_64",
                                       "MMU",
                                       "SMP",
                                       "SWAP",
                                       "SYSVIPC",
                                       "SYSVIPC_SYSCTL",
                                       "POSIX_MQUEUE",
                                       "POSIX_MQUEUE_SYSCTL",
                                       "CROSS_MEMORY_ATTACH",
                                       "NO_HZ",
                                       "HIGH_RES_TIMERS",
                                       "IKCONFIG",
                                       "IKCONFIG_PROC",
                                       "CGROUPS",
                                       "MEMCG",
                                       "CGROUP_SCHED",
                                       "FAIR_GROUP_SCHED",
                                       "CFS_BANDWIDTH",
                                       "CGROUP_PIDS",
                                       "CGROUP_CPUACCT",
                                       "CGROUP_DEVICE",
                                       "CGROUP_FREEZER",
                                       "CPUSETS",
                                       "CPUSETS_V1",
                                       "MEMCG_V1",
                                       "NAMESPACES",
                                       "UTS_NS",
                                       "TIME_NS",
                                       "IPC_NS",
                                       "USER_NS",
                                       "PID_NS",
                                       "NET_NS",
                                       "BINFMT_ELF",
                                       "BINFMT_SCRIPT",
                                       "COREDUMP",
                                       "ELF_CORE",
                                       "FUTEX",
                                       "FUTEX_PI",
                                       "EPOLL",
                                       "SIGNALFD",
                                       "TIMERFD",
                                       "EVENTFD",
                                       "SHMEM",
                                       "AIO",
                                       "IO_URING",
                                       "ADVISE_SYSCALLS",
                                       "MEMBARRIER",
                                       "KCMP",
                                       "RSEQ",
                                       "SECCOMP",
                                       "SECCOMP_FILTER",
                                       "USERFAULTFD",
                                       "TRANSPARENT_HUGEPAGE",
                                       "TRANSPARENT_HUGEPAGE_MADVISE",
                                       "NET",
                                       "UNIX",
                                       "INET",
                                       "IPV6",
                                       "IP_MULTICAST",
                                       "TCP_CONG_CUBIC",
                                       "INET_DIAG",
                                       "UNIX_DIAG",
                                       "TTY",
                                       "UNIX98_PTYS",
                                       "DNOTIFY",
                                       "INOTIFY_USER",
                                       "FANOTIFY",
                                       "FILE_LOCKING",
                                       "FHANDLE",
                                       "FUSE_FS",
                                       "OVERLAY_FS",
                                       "PROC_FS",
                                       "PROC_SYSCTL",
                                       "PROC_PAGE_MONITOR",
                                       "PROC_CHILDREN",
                                       "SYSFS",
                                       "TMPFS",
                                       "TMPFS_POSIX_ACL",
                                       "TMPFS_XATTR",
                                       "MEMFD_CREATE",
                                       "KEYS",
                                       "SECURITY_LANDLOCK",
                                       "MULTIUSER",
                                       "POSIX_TIMERS",
                                       "PRINTK"};
// What is asked for often, and is not there.
constexpr const char* kNotConfigured[] = {"MODULES",   "BPF_SYSCALL", "PERF_EVENTS",      "CGROUP_HUGETLB",    "BLK_CGROUP",
                                          "HUGETLBFS", "PREEMPT_RT",  "SECURITY_SELINUX", "SECURITY_APPARMOR", "QUOTA",
                                          "KPROBES",   "FTRACE",      "BLK_DEV_LOOP",     "BSD_PROCESS_ACCT"};

uint32_t Crc32(std::string_view text) {
  uint32_t crc = ~uint32_t{0};
  for (char c : text) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0xedb88320 : 0);
  }
  return ~crc;
}

void Append(std::string* out, uint32_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) *out += static_cast<char>(value >> (8 * i));
}

// RFC 1952 around RFC 1951's stored blocks.
std::string Gzip(std::string_view text) {
  std::string out("\x1f\x8b\x08\0\0\0\0\0\0\x03", 10);
  for (std::string_view rest = text;;) {
    std::string_view block = rest.substr(0, 0xffff);
    rest.remove_prefix(block.size());
    out += rest.empty() ? '\x01' : '\0';
    Append(&out, static_cast<uint32_t>(block.size()), 2);
    Append(&out, ~static_cast<uint32_t>(block.size()), 2);
    out += block;
    if (rest.empty()) break;
  }
  Append(&out, Crc32(text), 4);
  Append(&out, static_cast<uint32_t>(text.size()), 4);
  return out;
}

}  // namespace

ErrnoOr<std::string> ProcConfig(Task&, Task*) {
  static const std::string packed = [] {
    std::string text = "# What a Linux kernel would be configured with that offers what this sandbox does.\n";
    for (const char* name : kConfigured) AppendFormat(&text, "CONFIG_%s=y\n", name);
    for (const char* name : kNotConfigured) AppendFormat(&text, "# CONFIG_%s is not set\n", name);
    return Gzip(text);
  }();
  return packed;
}

ErrnoOr<std::string> ProcTtyDrivers(Task&, Task*) {
  return std::string(
      "/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
      "/dev/console         /dev/console    5       1 system:console\n"
      "/dev/ptmx            /dev/ptmx       5       2 system\n"
      "pty_slave            /dev/pts      136 0-1048575 pty:slave\n"
      "pty_master           /dev/ptm      128 0-1048575 pty:master\n");
}

ErrnoOr<std::string> ProcPressure(Task&, Task*) {
  return std::string("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n");
}

namespace {

uint64_t FreeMemory(Task& reader) {
  uint64_t total = MemoryOf(reader.container());
  return MemoryUsedBy(ProcTerms::Now().Groups()).FreeOf(total);
}

}  // namespace

// All free memory in the largest blocks of one zone.
ErrnoOr<std::string> ProcBuddyInfo(Task& reader, Task*) {
  std::string out = "Node 0, zone   Normal ";
  for (int order = 0; order <= 10; ++order) {
    AppendFormat(&out, "%6llu ", order < 10 ? 0ull : static_cast<unsigned long long>(FreeMemory(reader) >> 22));
  }
  return out + "\n";
}

ErrnoOr<std::string> ProcZoneInfo(Task& reader, Task*) {
  auto pages = [](uint64_t bytes) { return static_cast<unsigned long long>(bytes / 4096); };
  uint64_t total = MemoryOf(reader.container());
  std::string out = "Node 0, zone   Normal\n";
  AppendFormat(&out, "  pages free     %llu\n        boost    0\n        min      %llu\n        low      %llu\n        high     %llu\n",
               pages(FreeMemory(reader)), pages(total / 512), pages(total / 400), pages(total / 320));
  AppendFormat(&out, "        spanned  %llu\n        present  %llu\n        managed  %llu\n", pages(total), pages(total), pages(total));
  return out;
}

ErrnoOr<std::string> ProcSoftIrqs(Task&, Task*) {
  std::string out = "          ";
  uint32_t cpus = Machine::Get().cpus;
  for (uint32_t i = 0; i < cpus; ++i) AppendFormat(&out, "       CPU%-3u", i);
  out += "\n";
  for (const char* name : {"HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU"}) {
    AppendFormat(&out, "%12s:", name);
    for (uint32_t i = 0; i < cpus; ++i) out += "          0";
    out += "\n";
  }
  return out;
}

}  // namespace amber
