// /proc/PID/stat, status and limits (fs/proc/array.c).
#include <sched.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/fs/devpts/tty.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/offered_actions.h"
#include "sentry/kernel/seccomp_filter.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/kernel/tracing.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/proc_text.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"

namespace amber {
namespace {

using Ull = unsigned long long;
using Ll = long long;
constexpr int64_t kTick = kNsPerSecond / 100;

bool HasMemory(Task& t) { return !t.exiting() && t.has_mm(); }

// The name as these files show it: control characters and backslashes escaped in status, as they are in stat.
std::string EscapedName(const std::string& name) {
  std::string out;
  for (char c : name) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\\') {
      out += "\\\\";
    } else {
      out += c;
    }
  }
  return out;
}

struct SignalSets {
  SignalSet ignored = 0, caught = 0;
};
SignalSets Dispositions(const ThreadGroup& group) {
  SignalSets s;
  TakeActionsOf(group);
  for (int signo = 1; signo <= kNumSignals; ++signo) {
    uint64_t handler = group.handlers()[signo].handler;
    if (handler == 1) {
      s.ignored |= SignalBit(signo);
    } else if (handler != 0) {
      s.caught |= SignalBit(signo);
    }
  }
  return s;
}

int64_t Ticks(const timeval& t) { return (t.tv_sec * kNsPerSecond + t.tv_usec * 1000) / kTick; }

const char* StateName(char letter) {
  switch (letter) {
    case 'R': return "R (running)";
    case 'T': return "T (stopped)";
    case 't': return "t (tracing stop)";
    case 'Z': return "Z (zombie)";
    case 'X': return "X (dead)";
    case 'D': return "D (disk sleep)";
    default: return "S (sleeping)";
  }
}

// "3": lib/vsprintf.c, bitmap_string().
std::string CpuMask(const cpu_set_t& set, uint32_t cpus) {
  std::string out;
  for (uint32_t word = (cpus + 31) / 32; word-- > 0;) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < 32; ++i) bits |= CPU_ISSET(word * 32 + i, &set) ? 1u << i : 0;
    bool first = out.empty();
    uint32_t width = first ? ((cpus - 1) % 32 + 4) / 4 : 8;
    AppendFormat(&out, "%s%0*x", first ? "" : ",", static_cast<int>(width), bits);
  }
  return out;
}

// The controlling terminal and its foreground process group, as tty_nr and tpgid of stat(5).
uint32_t TerminalDevice(Session& session) { return session.tty() != nullptr ? session.tty()->device() : 0; }
int TerminalForeground(const PidNamespace& ns, Session& session) {
  if (session.tty() == nullptr) return -1;
  ProcessGroup* group = session.tty()->foreground();
  return group != nullptr ? ns.IdOf(*group) : 0;
}

int ParentIn(const PidNamespace& ns, const ThreadGroup& g) { return g.parent() != nullptr ? ns.IdOf(*g.parent()) : 0; }

// Ids from the namespace `from` down to `to`, a tab before each.
template <typename F>
std::string Levels(const PidNamespace& from, const PidNamespace& to, F id) {
  std::string out;
  for (const PidNamespace* at = &to; at != nullptr; at = at->parent()) {
    out = "\t" + std::to_string(id(*at)) + out;
    if (at == &from) break;
  }
  return out;
}

}  // namespace

ErrnoOr<std::string> ProcStatText(Task& reader, Task* target) {
  Task& t = *target;
  ThreadGroup& g = t.group();
  MemoryManager::Usage usage;
  MemoryLayout layout;
  if (HasMemory(t)) {
    usage = t.mm().GetUsage();
    if (MayInspect(reader, t)) layout = t.mm().layout();
  }
  SignalSets sets = Dispositions(g);
  const rusage& children = g.child_usage();
  const PidNamespace& ns = ProcTerms::Now();
  std::string out = std::to_string(ns.IdOf(t)) + " (" + t.name() + ") ";
  out += t.state_letter();
  const SchedAttributes& sched = t.extras().sched;
  bool real_time = sched.policy == SCHED_FIFO || sched.policy == SCHED_RR;
  AppendFormat(&out, " %d %d %d %d %d 4194304 0 0 0 0 %lld 0 %lld %lld %d %d %zu 0 %llu", ParentIn(ns, g), ns.IdOf(g.process_group()),
               ns.IdOf(g.session()), static_cast<int>(TerminalDevice(g.session())), TerminalForeground(ns, g.session()),
               static_cast<Ll>((t.is_leader() ? g.CpuTime() : t.CpuTime()) / kTick), static_cast<Ll>(Ticks(children.ru_utime)),
               static_cast<Ll>(Ticks(children.ru_stime)), real_time ? -1 - sched.priority : 20 + g.nice(), g.nice(), g.live_tasks(),
               static_cast<Ull>((g.start_time() + TimeOffsetsOf(reader).boottime) / kTick));
  AppendFormat(&out, " %llu %llu %llu %llu %llu %llu 0 0 %llu %llu %llu %llu 0 0 0 17 0 %d %d 0 0 0", static_cast<Ull>(usage.total),
               static_cast<Ull>(usage.resident / 4096), static_cast<Ull>(g.rlim(RLIMIT_RSS).rlim_cur), static_cast<Ull>(layout.start_code),
               static_cast<Ull>(layout.end_code), static_cast<Ull>(layout.start_stack), static_cast<Ull>(t.pending() & 0x7fffffff),
               static_cast<Ull>(t.blocked() & 0x7fffffff), static_cast<Ull>(sets.ignored & 0x7fffffff), static_cast<Ull>(sets.caught & 0x7fffffff),
               sched.priority, sched.policy);
  AppendFormat(&out, " %llu %llu %llu %llu %llu %llu %llu %d\n", static_cast<Ull>(layout.start_data), static_cast<Ull>(layout.end_data),
               static_cast<Ull>(layout.start_brk), static_cast<Ull>(layout.arg_start), static_cast<Ull>(layout.arg_end),
               static_cast<Ull>(layout.env_start), static_cast<Ull>(layout.env_end), g.zombie() ? g.exit_status() : 0);
  return out;
}

ErrnoOr<std::string> ProcStatusText(Task& reader, Task* target) {
  Task& t = *target;
  ThreadGroup& g = t.group();
  const PidNamespace& ns = ProcTerms::Now();
  const UserNamespace* user = reader.creds().user_ns.get();
  const Credentials& c = t.creds();
  std::string out = "Name:\t" + EscapedName(t.name()) + "\n";
  if (!t.exiting()) AppendFormat(&out, "Umask:\t%04o\n", t.fs().umask());
  AppendFormat(&out, "State:\t%s\nTgid:\t%d\nNgid:\t0\nPid:\t%d\nPPid:\t%d\nTracerPid:\t%d\n", StateName(t.state_letter()), ns.IdOf(g), ns.IdOf(t),
               ParentIn(ns, g), t.extras().tracee != nullptr ? ns.IdOf(*t.extras().tracee->tracer) : 0);
  AppendFormat(&out, "Uid:\t%u\t%u\t%u\t%u\nGid:\t%u\t%u\t%u\t%u\n", ShownUid(user, c.uid), ShownUid(user, c.euid), ShownUid(user, c.suid),
               ShownUid(user, c.fsuid), ShownGid(user, c.gid), ShownGid(user, c.egid), ShownGid(user, c.sgid), ShownGid(user, c.fsgid));
  AppendFormat(&out, "FDSize:\t%d\nGroups:\t", t.exiting() ? 0 : t.files().capacity());
  for (gid_t group : c.groups) AppendFormat(&out, "%u ", ShownGid(user, group));
  if (c.groups.empty()) out += ' ';  // proc(5) has it after each group, and after none
  out += "\nNStgid:" + Levels(ns, g.pids(), [&](const PidNamespace& at) { return at.IdOf(g); });
  out += "\nNSpid:" + Levels(ns, g.pids(), [&](const PidNamespace& at) { return at.IdOf(t); });
  out += "\nNSpgid:" + Levels(ns, g.pids(), [&](const PidNamespace& at) { return at.IdOf(g.process_group()); });
  out += "\nNSsid:" + Levels(ns, g.pids(), [&](const PidNamespace& at) { return at.IdOf(g.session()); });
  out += "\nKthread:\t0\n";
  if (HasMemory(t))
    out += StatusMemoryText(t.mm()) + "HugetlbPages:\t       0 kB\nCoreDumping:\t0\nTHP_enabled:\t" + (g.extras().no_huge_pages ? "0" : "1") +
           "\nuntag_mask:\t0xffffffffffffffff\n";
  SignalSets sets = Dispositions(g);
  AppendFormat(&out, "Threads:\t%zu\nSigQ:\t0/%llu\n", std::max<size_t>(g.live_tasks(), 1), static_cast<Ull>(g.rlim(RLIMIT_SIGPENDING).rlim_cur));
  AppendFormat(&out, "SigPnd:\t%016llx\nShdPnd:\t%016llx\nSigBlk:\t%016llx\nSigIgn:\t%016llx\nSigCgt:\t%016llx\n", static_cast<Ull>(t.own_pending()),
               static_cast<Ull>(t.pending() & ~t.own_pending()), static_cast<Ull>(t.blocked()), static_cast<Ull>(sets.ignored),
               static_cast<Ull>(sets.caught));
  AppendFormat(&out, "CapInh:\t%016llx\nCapPrm:\t%016llx\nCapEff:\t%016llx\nCapBnd:\t%016llx\nCapAmb:\t%016llx\n", static_cast<Ull>(c.inheritable),
               static_cast<Ull>(c.permitted), static_cast<Ull>(c.effective), static_cast<Ull>(c.bounding), static_cast<Ull>(c.ambient));
  cpu_set_t cpus = Cgroup::CpusFor(t);
  AppendFormat(&out, "NoNewPrivs:\t%d\nSeccomp:\t%d\nSeccomp_filters:\t%zu\nSpeculation_Store_Bypass:\tvulnerable\n", t.no_new_privs() ? 1 : 0,
               t.extras().seccomp_mode, t.extras().seccomp ? t.extras().seccomp->depth() : 0);
  AppendFormat(&out, "SpeculationIndirectBranch:\tconditional enabled\nCpus_allowed:\t%s\nCpus_allowed_list:\t%s\n",
               CpuMask(cpus, Cgroup::PossibleCpus()).c_str(), CpuListText(cpus).c_str());
  out += "Mems_allowed:\t1\nMems_allowed_list:\t0\nvoluntary_ctxt_switches:\t0\nnonvoluntary_ctxt_switches:\t0\n";
  return out;
}

ErrnoOr<std::string> ProcLimitsText(Task&, Task* target) {
  struct Row {
    int resource;
    const char* name;
    const char* unit;
  };
  static constexpr Row kRows[] = {
      {RLIMIT_CPU, "Max cpu time", "seconds"},         {RLIMIT_FSIZE, "Max file size", "bytes"},
      {RLIMIT_DATA, "Max data size", "bytes"},         {RLIMIT_STACK, "Max stack size", "bytes"},
      {RLIMIT_CORE, "Max core file size", "bytes"},    {RLIMIT_RSS, "Max resident set", "bytes"},
      {RLIMIT_NPROC, "Max processes", "processes"},    {RLIMIT_NOFILE, "Max open files", "files"},
      {RLIMIT_MEMLOCK, "Max locked memory", "bytes"},  {RLIMIT_AS, "Max address space", "bytes"},
      {RLIMIT_LOCKS, "Max file locks", "locks"},       {RLIMIT_SIGPENDING, "Max pending signals", "signals"},
      {RLIMIT_MSGQUEUE, "Max msgqueue size", "bytes"}, {RLIMIT_NICE, "Max nice priority", ""},
      {RLIMIT_RTPRIO, "Max realtime priority", ""},    {RLIMIT_RTTIME, "Max realtime timeout", "us"},
  };
  auto text = [](rlim_t value) { return value == RLIM_INFINITY ? std::string("unlimited") : std::to_string(value); };
  std::string out = "Limit                     Soft Limit           Hard Limit           Units     \n";
  for (const Row& row : kRows) {
    const rlimit& l = target->group().rlim(row.resource);
    AppendFormat(&out, *row.unit != 0 ? "%-25s %-20s %-20s %-10s\n" : "%-25s %-20s %-20s \n", row.name, text(l.rlim_cur).c_str(),
                 text(l.rlim_max).c_str(), row.unit);
  }
  return out;
}

}  // namespace amber
