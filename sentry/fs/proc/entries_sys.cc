// /proc/sys (sysctl(8)): values that programs read. Few may be written, and what may be is the container's own.
#include <linux/capability.h>

#include <cstdio>

#include "sentry/fs/proc/entry.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"

namespace amber {
namespace {

ErrnoOr<std::string> HostName(Task& reader, Task*) { return reader.uts().hostname + "\n"; }
ErrnoOr<std::string> DomainName(Task& reader, Task*) { return reader.uts().domainname + "\n"; }

ErrnoOr<void> SetName(Task& writer, std::string_view text, std::string* name) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text.size() > 64) return Errno(EINVAL);
  *name = text;
  return Ok();
}
ErrnoOr<void> SetHostName(Task& writer, Task*, std::string_view text) { return SetName(writer, text, &writer.uts().hostname); }
ErrnoOr<void> SetDomainName(Task& writer, Task*, std::string_view text) { return SetName(writer, text, &writer.uts().domainname); }

std::string RandomUuid(Task& reader) {
  uint8_t b[16];
  reader.kernel().Random(b, sizeof(b));
  b[6] = static_cast<uint8_t>((b[6] & 0x0f) | 0x40);
  b[8] = static_cast<uint8_t>((b[8] & 0x3f) | 0x80);
  std::string out;
  for (int i = 0; i < 16; ++i) AppendFormat(&out, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
  return out + "\n";
}

ErrnoOr<std::string> Uuid(Task& reader, Task*) { return RandomUuid(reader); }
ErrnoOr<std::string> BootId(Task& reader, Task*) {
  static const std::string id = RandomUuid(reader);  // one per sandbox
  return id;
}
ErrnoOr<std::string> Release(Task&, Task*) { return std::string(kKernelRelease) + "\n"; }
ErrnoOr<std::string> Version(Task&, Task*) { return std::string(kKernelVersion) + "\n"; }

ErrnoOr<std::string> CorePattern(Task& reader, Task*) { return reader.kernel().lifecycle().core_dumps().pattern + "\n"; }
// Programs that take core files ('|') do not exist here. The rest is cut at CORENAME_MAX_SIZE, as proc_dostring() does.
ErrnoOr<void> SetCorePattern(Task& writer, Task*, std::string_view text) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text.starts_with('|')) return Errno(EINVAL);
  writer.kernel().lifecycle().core_dumps().pattern = text.substr(0, 127);
  return Ok();
}
ErrnoOr<std::string> CoreUsesPid(Task& reader, Task*) { return std::string(reader.kernel().lifecycle().core_dumps().uses_pid ? "1\n" : "0\n"); }
ErrnoOr<void> SetCoreUsesPid(Task& writer, Task*, std::string_view text) {
  if (!writer.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (text != "0" && text != "1") return Errno(EINVAL);
  writer.kernel().lifecycle().core_dumps().uses_pid = text == "1";
  return Ok();
}

ErrnoOr<std::string> ThreadsMax(Task&, Task*) { return std::to_string(Machine::Get().memory_bytes / 131072) + "\n"; }

// A value that does not change.
template <const char* Text>
ErrnoOr<std::string> Fixed(Task&, Task*) {
  return std::string(Text) + "\n";
}
#define AMBER_SYSCTL(id, value) constexpr char id[] = value
AMBER_SYSCTL(kLinux, "Linux");
AMBER_SYSCTL(k0, "0");
AMBER_SYSCTL(k1, "1");
AMBER_SYSCTL(k2, "2");
AMBER_SYSCTL(k50, "50");
AMBER_SYSCTL(k45, "45");
AMBER_SYSCTL(k60, "60");
AMBER_SYSCTL(k128, "128");
AMBER_SYSCTL(k256, "256");
AMBER_SYSCTL(k1024, "1024");
AMBER_SYSCTL(k4096, "4096");
AMBER_SYSCTL(k8192, "8192");
AMBER_SYSCTL(k16384, "16384");
AMBER_SYSCTL(k32000, "32000");
AMBER_SYSCTL(k40, "40");
AMBER_SYSCTL(k10, "10");
AMBER_SYSCTL(k20, "20");
AMBER_SYSCTL(k65530, "65530");
AMBER_SYSCTL(k65534, "65534");
AMBER_SYSCTL(k65536, "65536");
AMBER_SYSCTL(k212992, "212992");
AMBER_SYSCTL(k1048576, "1048576");
AMBER_SYSCTL(kPidMax, "4194304");
AMBER_SYSCTL(kFileMax, "9223372036854775807");
AMBER_SYSCTL(kFileNr, "1024\t0\t9223372036854775807");
AMBER_SYSCTL(kShmAll, "18446744073692774399");
AMBER_SYSCTL(kSem, "32000\t1024000000\t500\t32000");
AMBER_SYSCTL(kPrintk, "4\t4\t1\t7");
AMBER_SYSCTL(kPorts, "32768\t60999");

constexpr ProcEntry kEntries[] = {
    {"sys/fs/aio-max-nr", kProcFile, &Fixed<k65536>},
    {"sys/fs/aio-nr", kProcFile, &Fixed<k0>},
    {"sys/fs/epoll/max_user_watches", kProcFile, &Fixed<k1048576>},
    {"sys/fs/fanotify/max_queued_events", kProcFile, &Fixed<k16384>},
    {"sys/fs/fanotify/max_user_groups", kProcFile, &Fixed<k128>},
    {"sys/fs/fanotify/max_user_marks", kProcFile, &Fixed<k8192>},
    {"sys/fs/file-max", kProcFile, &Fixed<kFileMax>},
    {"sys/fs/file-nr", kProcFile, &Fixed<kFileNr>},
    {"sys/fs/inotify/max_queued_events", kProcFile, &Fixed<k16384>},
    {"sys/fs/inotify/max_user_instances", kProcFile, &Fixed<k128>},
    {"sys/fs/inotify/max_user_watches", kProcFile, &Fixed<k65536>},
    {"sys/fs/lease-break-time", kProcFile, &Fixed<k45>},
    {"sys/fs/mqueue/msg_max", kProcFile, &Fixed<k10>},
    {"sys/fs/mqueue/msgsize_max", kProcFile, &Fixed<k8192>},
    {"sys/fs/mqueue/queues_max", kProcFile, &Fixed<k256>},
    {"sys/fs/nr_open", kProcFile, &Fixed<k1048576>},
    {"sys/fs/pipe-max-size", kProcFile, &Fixed<k1048576>},
    {"sys/fs/protected_hardlinks", kProcFile, &Fixed<k0>},
    {"sys/fs/protected_symlinks", kProcFile, &Fixed<k0>},
    {"sys/fs/suid_dumpable", kProcFile, &Fixed<k0>},
    {"sys/kernel/cap_last_cap", kProcFile, &Fixed<k40>},
    {"sys/kernel/core_pattern", kProcWritable, &CorePattern, &SetCorePattern},
    {"sys/kernel/core_uses_pid", kProcWritable, &CoreUsesPid, &SetCoreUsesPid},
    {"sys/kernel/domainname", kProcWritable, &DomainName, &SetDomainName},
    {"sys/kernel/dmesg_restrict", kProcFile, &Fixed<k1>},
    {"sys/kernel/hostname", kProcWritable, &HostName, &SetHostName},
    {"sys/kernel/kptr_restrict", kProcFile, &Fixed<k1>},
    {"sys/kernel/msgmax", kProcFile, &Fixed<k8192>},
    {"sys/kernel/msgmnb", kProcFile, &Fixed<k16384>},
    {"sys/kernel/msgmni", kProcFile, &Fixed<k32000>},
    {"sys/kernel/ngroups_max", kProcFile, &Fixed<k65536>},
    {"sys/kernel/osrelease", kProcFile, &Release},
    {"sys/kernel/ostype", kProcFile, &Fixed<kLinux>},
    {"sys/kernel/overflowgid", kProcFile, &Fixed<k65534>},
    {"sys/kernel/overflowuid", kProcFile, &Fixed<k65534>},
    {"sys/kernel/perf_event_paranoid", kProcFile, &Fixed<k2>},
    {"sys/kernel/pid_max", kProcFile, &Fixed<kPidMax>},
    {"sys/kernel/printk", kProcFile, &Fixed<kPrintk>},
    {"sys/kernel/pty/max", kProcFile, &Fixed<k4096>},
    {"sys/kernel/random/boot_id", kProcFile, &BootId},
    {"sys/kernel/random/entropy_avail", kProcFile, &Fixed<k256>},
    {"sys/kernel/random/poolsize", kProcFile, &Fixed<k256>},
    {"sys/kernel/random/uuid", kProcFile, &Uuid},
    {"sys/kernel/randomize_va_space", kProcFile, &Fixed<k2>},
    {"sys/kernel/sem", kProcFile, &Fixed<kSem>},
    {"sys/kernel/shmall", kProcFile, &Fixed<kShmAll>},
    {"sys/kernel/shmmax", kProcFile, &Fixed<kShmAll>},
    {"sys/kernel/shmmni", kProcFile, &Fixed<k4096>},
    {"sys/kernel/tainted", kProcFile, &Fixed<k0>},
    {"sys/kernel/threads-max", kProcFile, &ThreadsMax},
    {"sys/kernel/version", kProcFile, &Version},
    {"sys/net/core/rmem_default", kProcFile, &Fixed<k212992>},
    {"sys/net/core/rmem_max", kProcFile, &Fixed<k212992>},
    {"sys/net/core/somaxconn", kProcFile, &Fixed<k4096>},
    {"sys/net/core/wmem_default", kProcFile, &Fixed<k212992>},
    {"sys/net/core/wmem_max", kProcFile, &Fixed<k212992>},
    {"sys/net/ipv4/ip_forward", kProcFile, &Fixed<k0>},
    {"sys/net/ipv4/ip_local_port_range", kProcFile, &Fixed<kPorts>},
    {"sys/net/ipv4/tcp_fin_timeout", kProcFile, &Fixed<k60>},
    {"sys/net/ipv4/tcp_max_syn_backlog", kProcFile, &Fixed<k1024>},
    {"sys/net/unix/max_dgram_qlen", kProcFile, &Fixed<k10>},
    {"sys/vm/dirty_background_ratio", kProcFile, &Fixed<k10>},
    {"sys/vm/dirty_ratio", kProcFile, &Fixed<k20>},
    {"sys/vm/drop_caches", S_IFREG | 0200, &Fixed<k0>},
    {"sys/vm/max_map_count", kProcFile, &Fixed<k65530>},
    {"sys/vm/mmap_min_addr", kProcFile, &Fixed<k65536>},
    {"sys/vm/nr_hugepages", kProcFile, &Fixed<k0>},
    {"sys/vm/overcommit_memory", kProcFile, &Fixed<k0>},
    {"sys/vm/overcommit_ratio", kProcFile, &Fixed<k50>},
    {"sys/vm/swappiness", kProcFile, &Fixed<k60>},
    {"sys/vm/unprivileged_userfaultfd", kProcFile, &Fixed<k0>},
};

}  // namespace

std::span<const ProcEntry> SysctlEntries() { return kEntries; }

}  // namespace amber
