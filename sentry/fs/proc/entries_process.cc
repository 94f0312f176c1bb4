// Files of /proc/PID (fs/proc/base.c).
#include <linux/capability.h>
#include <sys/resource.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>

#include "sentry/fs/proc/entries_net.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/cgroup_tree.h"
#include "sentry/kernel/core_dump.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/usage.h"
#include "sentry/landlock/landlock.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/proc_text.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/path.h"

namespace amber {

bool MayInspect(Task& caller, Task& target) {
  if (&caller.group() == &target.group()) return true;
  const Credentials& c = caller.creds();
  return CredentialsMayAccess(caller, target, c.fsuid, c.fsgid, c.effective);
}

namespace {

constexpr size_t kMaxText = 4 << 20;

bool HasMemory(Task* target) { return !target->exiting() && target->has_mm(); }

// --- memory ---

std::string PathFor(Task& reader, const File& file) {
  const VfsPath* path = file.path();
  return path != nullptr ? PathName(*path, reader.fs().root()) : file.LinkName();
}

MapsContext ContextFor(Task& reader) {
  return {reader, [&reader](const File& file) { return PathFor(reader, file); }};
}

ErrnoOr<std::string> Maps(Task& reader, Task* target) {
  if (!HasMemory(target)) return std::string();
  return MapsText(target->mm(), ContextFor(reader));
}
ErrnoOr<std::string> Smaps(Task& reader, Task* target) {
  if (!HasMemory(target)) return std::string();
  return SmapsText(target->mm(), ContextFor(reader));
}
ErrnoOr<std::string> NumaMaps(Task& reader, Task* target) {
  if (!HasMemory(target)) return std::string();
  return NumaMapsText(target->mm(), ContextFor(reader), target->extras().memory_policy);
}
ErrnoOr<std::string> SmapsRollup(Task&, Task* target) {
  if (!HasMemory(target)) return Errno(ESRCH);
  return SmapsRollupText(target->mm());
}
ErrnoOr<std::string> Statm(Task&, Task* target) {
  if (!HasMemory(target)) return std::string("0 0 0 0 0 0 0\n");
  return StatmText(target->mm());
}

ErrnoOr<std::string> CommandLine(Task&, Task* target) {
  if (!HasMemory(target)) return std::string();
  const MemoryLayout& l = target->mm().layout();
  std::string text = ReadRange(target->mm(), l.arg_start, l.arg_end, kMaxText);
  // setproctitle(): a last byte that is not NUL means that the title goes on in the environment.
  if (!text.empty() && text.back() != '\0') {
    std::string more = ReadRange(target->mm(), l.arg_end, l.env_end, kMaxText);
    text.resize(std::min(text.size(), text.find('\0')));
    if (text.size() == l.arg_end - l.arg_start) text += more.substr(0, more.find('\0'));
  }
  return text;
}

ErrnoOr<std::string> Environment(Task&, Task* target) {
  if (!HasMemory(target)) return std::string();
  const MemoryLayout& l = target->mm().layout();
  return ReadRange(target->mm(), l.env_start, l.env_end, kMaxText);
}

ErrnoOr<std::string> Auxv(Task&, Task* target) {
  if (!HasMemory(target)) return std::string();
  const std::vector<uint64_t>& auxv = target->mm().auxv();
  return std::string(reinterpret_cast<const char*>(auxv.data()), auxv.size() * sizeof(uint64_t));
}

// --- names and small values ---

ErrnoOr<std::string> Name(Task&, Task* target) { return target->name() + "\n"; }
ErrnoOr<void> SetTaskName(Task& writer, Task* target, std::string_view text) {
  if (&writer.group() != &target->group()) return Errno(EINVAL);
  target->set_name(std::string(text.substr(0, 15)));
  return Ok();
}

ErrnoOr<std::string> CgroupPath(Task& reader, Task* target) { return CgroupPathsText(reader, *target); }

// strstrip() and kstrtoint() with the base that the digits tell. What is beyond a number is ERANGE, what is beyond `low` and `high` EINVAL.
ErrnoOr<int> ParseInt(std::string_view text, int low, int high) {
  auto is_space = [](char c) { return isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  std::string digits(text);
  size_t sign = digits.starts_with('-') || digits.starts_with('+') ? 1 : 0;
  if (digits.size() <= sign || !isdigit(static_cast<unsigned char>(digits[sign]))) return Errno(EINVAL);
  char* end = nullptr;
  errno = 0;
  long value = strtol(digits.c_str(), &end, 0);
  if (*end != '\0') return Errno(EINVAL);
  if (errno != 0 || value < INT32_MIN || value > INT32_MAX) return Errno(ERANGE);
  if (value < low || value > high) return Errno(EINVAL);
  return static_cast<int>(value);
}

// kstrtouint() with base 10: no spaces, a plus sign at most.
ErrnoOr<uint32_t> ParseUnsigned(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::invalid_argument || end != text.data() + text.size()) return Errno(EINVAL);
  if (error != std::errc() || value > UINT32_MAX) return Errno(ERANGE);
  return static_cast<uint32_t>(value);
}

ErrnoOr<void> ChangeOomScore(Task& writer, Task* target, int value) {
  if (value < target->group().oom_score_adj() && !writer.Has(CAP_SYS_RESOURCE)) return Errno(EACCES);
  target->group().set_oom_score_adj(value);
  return Ok();
}
ErrnoOr<std::string> OomScoreAdj(Task&, Task* target) { return std::to_string(target->group().oom_score_adj()) + "\n"; }
ErrnoOr<void> SetOomScoreAdj(Task& writer, Task* target, std::string_view text) {
  return ChangeOomScore(writer, target, TRY(ParseInt(text, -1000, 1000)));
}
ErrnoOr<std::string> OomAdj(Task&, Task* target) { return std::to_string(target->group().oom_score_adj() * 17 / 1000) + "\n"; }
ErrnoOr<void> SetOomAdj(Task& writer, Task* target, std::string_view text) {
  return ChangeOomScore(writer, target, TRY(ParseInt(text, -17, 15)) * 1000 / 17);
}
ErrnoOr<std::string> OomScore(Task&, Task* target) { return std::to_string(std::max(0, 666 + target->group().oom_score_adj() * 2 / 3)) + "\n"; }

// Who logged in, and which login it was: unset until somebody says so, of himself, and then another's only by who controls the audit
// (audit_set_loginuid()).
ErrnoOr<std::string> LoginUid(Task& reader, Task* target) {
  uint32_t uid = target->extras().login_uid;
  return std::to_string(uid == UINT32_MAX ? uid : ShownUid(reader.creds().user_ns.get(), uid));
}
ErrnoOr<std::string> LoginSession(Task&, Task* target) { return std::to_string(target->extras().login_session); }
ErrnoOr<void> SetLoginUid(Task& writer, Task* target, std::string_view text) {
  static uint32_t last_session = 0;
  if (&writer != target) return Errno(EPERM);
  uint32_t uid = TRY(ParseUnsigned(text));
  if (uid != UINT32_MAX && (uid = ToKernelUid(writer.creds().user_ns.get(), uid)) == UserNamespace::kInvalidId) return Errno(EINVAL);
  TaskExtras& extras = target->extras();
  if (extras.login_uid != UINT32_MAX && !writer.Has(CAP_AUDIT_CONTROL)) return Errno(EPERM);
  extras.login_uid = uid;
  extras.login_session = uid == UINT32_MAX ? UINT32_MAX : ++last_session;
  return Ok();
}

// --- what a kernel without security modules that have attributes says of them ---

ErrnoOr<std::string> NoAttribute(Task&, Task*) { return Errno(EINVAL); }
ErrnoOr<void> SetNoAttribute(Task&, Task*, std::string_view) { return Errno(EINVAL); }

// show_timer()
ErrnoOr<std::string> Timers(Task&, Task* target) {
  std::string out;
  for (const auto& [id, timer] : target->group().posix_timers().all()) {
    bool of_thread = timer->notify == SIGEV_THREAD_ID;
    const char* how = timer->notify == SIGEV_NONE ? "none" : timer->notify == SIGEV_THREAD ? "thread" : "signal";
    AppendFormat(&out, "ID: %d\nsignal: %d/%016llx\nnotify: %s/%s.%d\nClockID: %d\n", id, timer->signo, static_cast<unsigned long long>(timer->value),
                 how, of_thread ? "tid" : "pid", of_thread ? timer->thread_id : ProcTerms::Now().IdOf(target->group()), timer->clock);
  }
  return out;
}

ErrnoOr<std::string> MergedPages(Task&, Task*) { return std::string("0\n"); }
ErrnoOr<std::string> MergeStat(Task&, Task* target) {
  std::string any = target->group().extras().merges_memory ? "yes" : "no";
  return "ksm_rmap_items 0\nksm_zero_pages 0\nksm_merging_pages 0\nksm_process_profit 0\nksm_merge_any: " + any + "\nksm_mergeable: " + any + "\n";
}

// --- user namespaces ---

template <bool kGroups>
ErrnoOr<std::string> IdMap(Task& reader, Task* target) {
  const UserNamespace* ns = target->creds().user_ns.get();
  if (ns == nullptr) return std::string("         0          0 4294967295\n");
  return ns->MapText(kGroups, reader.creds().user_ns.get());
}
template <bool kGroups>
ErrnoOr<void> SetIdMap(Task& writer, Task* target, std::string_view text) {
  UserNamespace* ns = target->creds().user_ns.get();
  return ns != nullptr ? ns->WriteMap(kGroups, writer.creds(), text) : ErrnoOr<void>(Errno(EPERM));
}
ErrnoOr<std::string> SetGroups(Task&, Task* target) {
  const UserNamespace* ns = target->creds().user_ns.get();
  return std::string(ns == nullptr || ns->setgroups_allowed() ? "allow\n" : "deny\n");
}
ErrnoOr<void> SetSetGroups(Task& writer, Task* target, std::string_view text) {
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  UserNamespace* ns = target->creds().user_ns.get();
  // The file is opened by somebody who rules over the namespace (proc_setgroups_open).
  if (!writer.creds().HasIn(ns, CAP_SYS_ADMIN)) return Errno(EACCES);
  if (text != "allow" && text != "deny") return Errno(EINVAL);
  if (ns == nullptr) return text == "allow" ? Ok() : ErrnoOr<void>(Errno(EPERM));
  return ns->SetSetgroups(text == "allow");
}
// Project ids are not translated by any file system here.
ErrnoOr<std::string> ProjectIdMap(Task&, Task*) { return std::string("         0          0 4294967295\n"); }
ErrnoOr<std::string> ZeroNoNewline(Task&, Task*) { return std::string("0"); }
ErrnoOr<std::string> Empty(Task&, Task*) { return std::string(); }
ErrnoOr<std::string> Personality(Task&, Task* target) {
  std::string out;
  AppendFormat(&out, "%08x\n", target->personality());
  return out;
}
// timerslack_ns_show(), timerslack_ns_write()
bool MaySeeTimerSlack(const Task& task, const Task& target) {
  return &task == &target || task.creds().HasIn(target.creds().user_ns.get(), CAP_SYS_NICE);
}
ErrnoOr<std::string> TimerSlack(Task& reader, Task* target) {
  if (!MaySeeTimerSlack(reader, *target)) return Errno(EPERM);
  return std::to_string(target->timer_slack()) + "\n";
}
ErrnoOr<void> SetTimerSlack(Task& writer, Task* target, std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.starts_with('+')) text.remove_prefix(1);
  uint64_t ns = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), ns);
  if (error == std::errc::result_out_of_range) return Errno(ERANGE);
  if (error != std::errc() || end != text.data() + text.size()) return Errno(EINVAL);
  if (!MaySeeTimerSlack(writer, *target)) return Errno(EPERM);
  target->set_timer_slack(ns == 0 ? target->extras().default_timer_slack : ns);
  return Ok();
}
ErrnoOr<std::string> CoreDumpFilter(Task&, Task* target) {
  std::string out;
  AppendFormat(&out, "%08x\n", target->group().extras().core_filter);
  return out;
}
// kstrtouint() with the base that the text tells.
ErrnoOr<void> SetCoreDumpFilter(Task&, Task* target, std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  std::string digits(text);
  char* end = nullptr;
  errno = 0;
  unsigned long value = digits.empty() || !isdigit(static_cast<unsigned char>(digits[0])) ? 0 : strtoul(digits.c_str(), &end, 0);
  if (end == nullptr || *end != '\0') return Errno(EINVAL);
  if (errno != 0 || value > UINT32_MAX) return Errno(ERANGE);
  target->group().extras().core_filter = static_cast<uint32_t>(value) & CoreDump::kFilterMask;
  return Ok();
}
ErrnoOr<std::string> TimensOffsets(Task&, Task* target) { return target->exiting() ? std::string() : TimeOffsetsText(*target); }
ErrnoOr<void> SetTimensOffsets(Task& writer, Task* target, std::string_view text) { return WriteTimeOffsets(writer.creds(), *target, text); }
ErrnoOr<void> Accept(Task&, Task*, std::string_view) { return Ok(); }
// CLEAR_REFS_*: which pages forget that they were used. None here remembers.
ErrnoOr<void> ClearRefs(Task&, Task*, std::string_view text) {
  TRY(ParseInt(text, 1, 5));
  return Ok();
}
ErrnoOr<void> RefuseWrite(Task&, Task*, std::string_view) { return Errno(EPERM); }

ErrnoOr<std::string> SchedStat(Task&, Task* target) { return std::to_string(target->group().CpuTime()) + " 0 0\n"; }

// Of a process, with those that it has waited for; a thread that is not the first has its own. What disks do is the host's affair.
ErrnoOr<std::string> Io(Task&, Task* target) {
  ThreadGroup& group = target->group();
  IoCounts io = target->extras().io;
  if (target == group.leader()) {
    io = group.extras().io;
    for (const RefPtr<Task>& task : group.tasks()) io.Add(task->extras().io);
  }
  std::string out;
  AppendFormat(&out, "rchar: %llu\nwchar: %llu\nsyscr: %llu\nsyscw: %llu\n", static_cast<unsigned long long>(io.read_bytes),
               static_cast<unsigned long long>(io.written_bytes), static_cast<unsigned long long>(io.read_calls),
               static_cast<unsigned long long>(io.write_calls));
  return out + "read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n";
}

ErrnoOr<std::string> SyscallText(Task& reader, Task* target) {
  if (target->exiting()) return Errno(ESRCH);
  if (&reader == target || target->state_letter() == 'R') return std::string("running\n");
  const SyscallState& call = target->syscall();
  std::string out = std::to_string(call.number);
  for (uint64_t a : call.args) AppendFormat(&out, " 0x%llx", static_cast<unsigned long long>(a));
  AppendFormat(&out, " 0x0 0x%llx\n", static_cast<unsigned long long>(call.ip));
  return out;
}

// The children that this thread has made, oldest first; those of threads that are gone are the leader's.
ErrnoOr<std::string> Children(Task&, Task* target) {
  if (target->exiting()) return std::string();
  const ThreadGroup& group = target->group();
  std::vector<const ThreadGroup*> own;
  for (const ThreadGroup* child : group.children()) {
    int creator = child->extras().creator_tid;
    bool lives = std::ranges::any_of(group.tasks(), [&](const RefPtr<Task>& t) { return !t->exiting() && t->tid() == creator; });
    if (lives ? creator == target->tid() : target->is_leader()) own.push_back(child);
  }
  std::ranges::sort(own, {}, [](const ThreadGroup* g) { return std::pair(g->start_time(), g->pid()); });
  std::string out;
  for (const ThreadGroup* g : own) {
    if (int pid = ProcTerms::Now().IdOf(*g); pid != 0) out += std::to_string(pid) + " ";
  }
  return out;
}

// --- mounts ---

ErrnoOr<std::string> Mounts(Task&, Task* target) {
  if (target->exiting()) return Errno(EINVAL);
  return target->mounts().FormatMounts(target->fs().root());
}
ErrnoOr<std::string> MountInfo(Task&, Task* target) {
  if (target->exiting()) return Errno(EINVAL);
  return target->mounts().FormatMountInfo(target->fs().root());
}
ErrnoOr<std::string> MountStats(Task&, Task* target) {
  if (target->exiting()) return Errno(EINVAL);
  std::string out;
  for (Mount* m : target->mounts().All()) {
    out += "device " + (m->source().empty() ? std::string("none") : m->source()) + " mounted on ";
    out += PathName({RefPtr<Mount>(m), m->root()}, target->fs().root()) + " with fstype " + m->fs().type_name() + "\n";
  }
  return out;
}

// --- network: loopback alone ---

ErrnoOr<std::string> NetUnix(Task& reader, Task* target) {
  const NetNamespace& net = NetNamespace::Of(target != nullptr && !target->exiting() ? *target : reader);
  std::string out = "Num       RefCount Protocol Flags    Type St Inode Path\n";
  UnixSocket::ForEach([&](const UnixSocket& s) {
    if (s.net() == &net) out += s.Describe();
  });
  return out;
}
ErrnoOr<std::string> NetArp(Task&, Task*) { return std::string("IP address       HW type     Flags       HW address            Mask     Device\n"); }

// As with kernel.sched_autogroup_enabled=0, and one set of processors.
ErrnoOr<std::string> AutoGroup(Task&, Task* target) { return "/autogroup-1 nice " + std::to_string(target->group().nice()) + "\n"; }
// proc_cpuset_show(): the nearest group that has the controller.
ErrnoOr<std::string> CpuSet(Task& reader, Task* target) {
  const Cgroup* group = &Cgroup::With(*target, Cgroup::kCpuset);
  while (group->parent() != nullptr && (group->available() & Cgroup::kCpuset) == 0) group = group->parent();
  return group->PathFrom(Cgroup::RootFor(reader, group->tree())) + "\n";
}

// sched_show_task() in a few lines: what somebody may ask for.
ErrnoOr<std::string> SchedText(Task&, Task* target) {
  std::string out;
  AppendFormat(&out, "%s (%d, #threads: %zu)\n-------------------------------------------------------------------\n", target->name().c_str(),
               ProcTerms::Now().IdOf(*target), target->group().live_tasks());
  long long ns = target->CpuTime();
  AppendFormat(&out, "%-45s:%21lld.%06lld\n", "se.sum_exec_runtime", ns / 1000000, ns % 1000000);
  rusage usage = UsageOf(*target);
  auto line = [&out](const char* name, long long value) { AppendFormat(&out, "%-45s:%21lld\n", name, value); };
  line("nr_switches", usage.ru_nvcsw + usage.ru_nivcsw);
  line("nr_voluntary_switches", usage.ru_nvcsw);
  line("nr_involuntary_switches", usage.ru_nivcsw);
  line("policy", target->extras().sched.policy);
  line("prio", 120 + target->group().nice());
  return out;
}

constexpr uint32_t kProcAttribute = S_IFREG | 0666;

constexpr ProcEntry kEntries[] = {
    {"arch_status", kProcFile, &Empty},
    {"attr/current", kProcAttribute, &NoAttribute, &SetNoAttribute},
    {"attr/exec", kProcAttribute, &NoAttribute, &SetNoAttribute},
    {"attr/fscreate", kProcAttribute, &NoAttribute, &SetNoAttribute},
    {"attr/keycreate", kProcAttribute, &NoAttribute, &SetNoAttribute},
    {"attr/prev", kProcFile, &NoAttribute},
    {"attr/sockcreate", kProcAttribute, &NoAttribute, &SetNoAttribute},
    {"autogroup", kProcFile, &AutoGroup},
    {"auxv", kProcPrivate, &Auxv, nullptr, true},
    {"cgroup", kProcFile, &CgroupPath},
    {"children", kProcFile, &Children},  // of threads only
    {"clear_refs", S_IFREG | 0200, &Empty, &ClearRefs},
    {"cmdline", kProcFile, &CommandLine},
    {"comm", kProcWritable, &Name, &SetTaskName},
    {"coredump_filter", kProcWritable, &CoreDumpFilter, &SetCoreDumpFilter},
    {"cpuset", kProcFile, &CpuSet},
    {"environ", kProcPrivate, &Environment, nullptr, true},
    {"gid_map", kProcWritable, &IdMap<true>, &SetIdMap<true>, false, true},
    {"io", kProcPrivate, &Io, nullptr, true},
    {"ksm_merging_pages", kProcPrivate, &MergedPages, nullptr, true},
    {"ksm_stat", kProcPrivate, &MergeStat, nullptr, true},
    {"limits", kProcFile, &ProcLimitsText},
    {"loginuid", kProcWritable, &LoginUid, &SetLoginUid},
    {"maps", kProcFile, &Maps, nullptr, true},
    {"mem", S_IFREG | 0600, &Empty},  // proc_mem.h
    {"mountinfo", kProcFile, &MountInfo},
    {"mounts", kProcFile, &Mounts},
    {"mountstats", kProcPrivate, &MountStats},
    {"net/arp", kProcFile, &NetArp},
    {"net/dev", kProcFile, &ProcNetDev},
    {"net/icmp", kProcFile, &ProcNetIcmp},
    {"net/icmp6", kProcFile, &ProcNetIcmp6},
    {"net/if_inet6", kProcFile, &ProcNetIfInet6},
    {"net/igmp", kProcFile, &ProcNetIgmp},
    {"net/ipv6_route", kProcFile, &ProcNetRoute6},
    {"net/netlink", kProcFile, &ProcNetNetlink},
    {"net/netstat", kProcFile, &ProcNetNetstat},
    {"net/packet", kProcFile, &ProcNetPacket},
    {"net/protocols", kProcFile, &ProcNetProtocols},
    {"net/ptype", kProcFile, &ProcNetPtype},
    {"net/raw", kProcFile, &ProcNetRaw},
    {"net/raw6", kProcFile, &ProcNetRaw6},
    {"net/route", kProcFile, &ProcNetRoute},
    {"net/snmp", kProcFile, &ProcNetSnmp},
    {"net/snmp6", kProcFile, &ProcNetSnmp6},
    {"net/sockstat", kProcFile, &ProcNetSockstat},
    {"net/sockstat6", kProcFile, &ProcNetSockstat6},
    {"net/softnet_stat", kProcFile, &ProcNetSoftnetStat},
    {"net/tcp", kProcFile, &ProcNetTcp},
    {"net/tcp6", kProcFile, &ProcNetTcp6},
    {"net/udp", kProcFile, &ProcNetUdp},
    {"net/udp6", kProcFile, &ProcNetUdp6},
    {"net/udplite", kProcFile, &ProcNetUdpLite},
    {"net/udplite6", kProcFile, &ProcNetUdpLite6},
    {"net/unix", kProcFile, &NetUnix},
    {"numa_maps", kProcFile, &NumaMaps, nullptr, true},
    {"oom_adj", kProcWritable, &OomAdj, &SetOomAdj},
    {"oom_score", kProcFile, &OomScore},
    {"oom_score_adj", kProcWritable, &OomScoreAdj, &SetOomScoreAdj},
    {"pagemap", S_IFREG | 0400, &Empty, nullptr, true},  // proc_mem.h
    {"personality", kProcPrivate, &Personality, nullptr, true},
    {"projid_map", kProcWritable, &ProjectIdMap, &RefuseWrite},
    {"sched", kProcWritable, &SchedText, &Accept},
    {"schedstat", kProcFile, &SchedStat},
    {"sessionid", kProcFile, &LoginSession},
    {"setgroups", kProcWritable, &SetGroups, &SetSetGroups, false, true},
    {"smaps", kProcFile, &Smaps, nullptr, true},
    {"smaps_rollup", kProcFile, &SmapsRollup, nullptr, true},
    {"stack", kProcPrivate, &Empty, nullptr, true},
    {"stat", kProcFile, &ProcStatText},
    {"statm", kProcFile, &Statm},
    {"status", kProcFile, &ProcStatusText},
    {"syscall", kProcPrivate, &SyscallText, nullptr, true},
    {"timers", kProcFile, &Timers},
    {"timens_offsets", kProcWritable, &TimensOffsets, &SetTimensOffsets, false, true},
    {"timerslack_ns", S_IFREG | 0666, &TimerSlack, &SetTimerSlack},
    {"uid_map", kProcWritable, &IdMap<false>, &SetIdMap<false>, false, true},
    {"wchan", kProcFile, &ZeroNoNewline},
};

}  // namespace

std::span<const ProcEntry> ProcessEntries() { return kEntries; }

}  // namespace amber
