// The machine as the guest sees it, and scheduling: uname(2), sysinfo(2), getrandom(2), sched_setaffinity(2).
#include <linux/capability.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/uts_namespace.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr size_t kHostNameMax = 64;

template <size_t N>
void Fill(char (&field)[N], const std::string& text) {
  text.copy(field, N - 1);
}

ErrnoOr<uint64_t> Uname(Task& task, UserPtr<utsname> out) {
  utsname u{};
  Fill(u.sysname, "Linux");
  Fill(u.nodename, task.uts().hostname);
  Fill(u.release, kKernelRelease);
  Fill(u.version, kKernelVersion);
  Fill(u.machine, "x86_64");
  Fill(u.domainname, task.uts().domainname);
  TRY(task.CopyOut(out, u));
  return 0;
}

ErrnoOr<uint64_t> SetUtsField(Task& task, UserPtr<const char> name, int length, std::string* field) {
  if (!task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if (length < 0 || static_cast<size_t>(length) > kHostNameMax) return Errno(EINVAL);
  std::string value(static_cast<size_t>(length), 0);
  TRY(task.CopyInBytes(name.address(), value.data(), value.size()));
  *field = value.substr(0, value.find('\0'));
  return 0;
}

ErrnoOr<uint64_t> Sethostname(Task& task, UserPtr<const char> name, int length) {
  return SetUtsField(task, name, length, &task.uts().hostname);
}
ErrnoOr<uint64_t> Setdomainname(Task& task, UserPtr<const char> name, int length) {
  return SetUtsField(task, name, length, &task.uts().domainname);
}

ErrnoOr<uint64_t> Sysinfo(Task& task, UserPtr<struct sysinfo> out) {
  struct sysinfo host {};
  if (sysinfo(&host) != 0) return Errno(errno);
  struct sysinfo info {};
  info.uptime = task.kernel().clocks().Boottime() / kNsPerSecond;
  info.totalram = host.totalram;
  info.freeram = host.freeram;
  info.bufferram = host.bufferram;
  info.procs = static_cast<unsigned short>(std::min<size_t>(task.kernel().task_count(), 65535));
  info.mem_unit = host.mem_unit;
  TRY(task.CopyOut(out, info));
  return 0;
}

ErrnoOr<uint64_t> Getrandom(Task& task, UserPtr<void> buffer, uint64_t size, unsigned flags) {
  if ((flags & ~(GRND_NONBLOCK | GRND_RANDOM | 4u /* GRND_INSECURE */)) != 0) return Errno(EINVAL);
  if ((flags & GRND_RANDOM) != 0 && (flags & 4u) != 0) return Errno(EINVAL);
  UserSink sink(task, buffer, size);
  char chunk[4096];
  size_t done = 0;
  while (sink.remaining() > 0) {
    size_t n = std::min(sink.remaining(), sizeof(chunk));
    task.kernel().Random(chunk, n);
    auto put = sink.Put(chunk, n);
    if (!put.ok()) {
      if (done == 0) return put.error();
      break;
    }
    done += *put;
    if (*put < n) break;
  }
  return done;
}

// --- scheduling: the host decides; what can be asked is answered, what changes nothing is accepted ---

ErrnoOr<Task*> TaskOrSelf(Task& task, int tid) {
  if (tid < 0) return Errno(EINVAL);
  if (tid == 0) return &task;
  Task* found = task.FindTask(tid);
  if (found == nullptr) return Errno(ESRCH);
  return found;
}

ErrnoOr<uint64_t> SchedYield(Task&) { return 0; }

ErrnoOr<uint64_t> SchedGetaffinity(Task& task, int tid, uint64_t size, UserPtr<void> out) {
  Task* target = TRY(TaskOrSelf(task, tid));
  cpu_set_t set;
  int host = target->thread() != nullptr ? target->thread()->host_tid() : 0;
  if (sched_getaffinity(host, sizeof(set), &set) != 0) return Errno(errno);
  size_t cpus = static_cast<size_t>(sysconf(_SC_NPROCESSORS_CONF));
  size_t needed = (cpus + 63) / 64 * 8;
  if (size < needed || size % 8 != 0) return Errno(EINVAL);
  TRY(task.CopyOutBytes(out.address(), &set, needed));
  return needed;
}

ErrnoOr<uint64_t> SchedSetaffinity(Task& task, int tid, uint64_t size, UserPtr<const void> in) {
  TRY(TaskOrSelf(task, tid));
  cpu_set_t wanted{};
  size_t length = std::min<size_t>(size, sizeof(wanted));
  TRY(task.CopyInBytes(in.address(), &wanted, length));
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return Errno(errno);
  CPU_AND(&wanted, &wanted, &allowed);
  if (CPU_COUNT(&wanted) == 0) return Errno(EINVAL);
  return 0;
}

ErrnoOr<uint64_t> Getcpu(Task& task, UserPtr<unsigned> cpu, UserPtr<unsigned> node) {
  if (cpu) TRY(task.CopyOut(cpu, 0u));
  if (node) TRY(task.CopyOut(node, 0u));
  return 0;
}

ErrnoOr<uint64_t> SchedGetscheduler(Task& task, int tid) {
  TRY(TaskOrSelf(task, tid));
  return SCHED_OTHER;
}

ErrnoOr<uint64_t> SchedSetscheduler(Task& task, int tid, int policy, UserPtr<const int> param) {
  if (param.is_null()) return Errno(EINVAL);
  TRY(TaskOrSelf(task, tid));
  int priority = TRY(task.CopyIn(param));
  switch (policy & ~0x40000000 /* SCHED_RESET_ON_FORK */) {
    case SCHED_OTHER:
    case SCHED_BATCH:
    case SCHED_IDLE:
      return priority == 0 ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
    case SCHED_FIFO:
    case SCHED_RR:
      return priority >= 1 && priority <= 99 ? Errno(EPERM) : Errno(EINVAL);
    default:
      return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> SchedGetparam(Task& task, int tid, UserPtr<int> param) {
  if (param.is_null()) return Errno(EINVAL);
  TRY(TaskOrSelf(task, tid));
  TRY(task.CopyOut(param, 0));
  return 0;
}

ErrnoOr<uint64_t> SchedSetparam(Task& task, int tid, UserPtr<const int> param) {
  return SchedSetscheduler(task, tid, SCHED_OTHER, param);
}

ErrnoOr<uint64_t> SchedGetPriorityMax(Task&, int policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 99;
  return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6 ? ErrnoOr<uint64_t>(0)
                                                                                              : Errno(EINVAL);
}

ErrnoOr<uint64_t> SchedGetPriorityMin(Task&, int policy) {
  if (policy == SCHED_FIFO || policy == SCHED_RR) return 1;
  return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE || policy == 6 ? ErrnoOr<uint64_t>(0)
                                                                                              : Errno(EINVAL);
}

ErrnoOr<uint64_t> SchedRrGetInterval(Task& task, int tid, UserPtr<timespec> out) {
  TRY(TaskOrSelf(task, tid));
  TRY(task.CopyOut(out, timespec{0, 4'000'000}));
  return 0;
}

ErrnoOr<ThreadGroup*> PriorityTarget(Task& task, int which, int who) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Errno(EINVAL);
  if (which != PRIO_PROCESS || who == 0) return &task.group();
  Task* target = task.FindTask(who);
  if (target == nullptr) return Errno(ESRCH);
  return &target->group();
}

// getpriority(2): the raw call returns 20 - nice.
ErrnoOr<uint64_t> Getpriority(Task& task, int which, int who) {
  ThreadGroup* group = TRY(PriorityTarget(task, which, who));
  return static_cast<uint64_t>(20 - group->nice());
}

ErrnoOr<uint64_t> Setpriority(Task& task, int which, int who, int nice) {
  ThreadGroup* group = TRY(PriorityTarget(task, which, who));
  nice = std::clamp(nice, -20, 19);
  if (nice < group->nice() && !task.Has(CAP_SYS_NICE)) return Errno(EACCES);
  group->set_nice(nice);
  return 0;
}

ErrnoOr<uint64_t> IoprioGet(Task&, int, int) { return 0; }
ErrnoOr<uint64_t> IoprioSet(Task&, int which, int, int) { return which >= 1 && which <= 3 ? ErrnoOr<uint64_t>(0) : Errno(EINVAL); }

ErrnoOr<uint64_t> Personality(Task& task, unsigned value) {
  uint32_t before = task.personality();
  if (value != 0xffffffff) {
    if ((value & PER_MASK) != PER_LINUX) return Errno(EINVAL);
    task.set_personality(value);
  }
  return before;
}

ErrnoOr<uint64_t> Syslog(Task& task, int type, UserPtr<char>, int) {
  if (type == 10) return 0;  // SYSLOG_ACTION_SIZE_BUFFER
  if (type == 3 || type == 9) return 0;
  return task.Has(CAP_SYSLOG) ? ErrnoOr<uint64_t>(0) : Errno(EPERM);
}

ErrnoOr<uint64_t> Rseq(Task&, uint64_t, unsigned, int, unsigned) { return Errno(ENOSYS); }
ErrnoOr<uint64_t> RestartSyscall(Task&) { return Errno(EINTR); }
ErrnoOr<uint64_t> NotPermitted(Task&) { return Errno(EPERM); }
ErrnoOr<uint64_t> ModifyLdt(Task&, int, UserPtr<void>, uint64_t) { return Errno(ENOSYS); }

}  // namespace

void RegisterSystemCalls(SyscallTable& table) {
  table.Set(SYS_uname, Full<&Uname>());
  table.Set(SYS_sethostname, Full<&Sethostname>());
  table.Set(SYS_setdomainname, Full<&Setdomainname>());
  table.Set(SYS_sysinfo, Full<&Sysinfo>());
  table.Set(SYS_getrandom, Full<&Getrandom>());
  table.Set(SYS_sched_yield, Full<&SchedYield>());
  table.Set(SYS_sched_getaffinity, Full<&SchedGetaffinity>());
  table.Set(SYS_sched_setaffinity, Partial<&SchedSetaffinity>("checked, without effect"));
  table.Set(SYS_getcpu, Partial<&Getcpu>("always CPU 0; the vDSO tells the truth"));
  table.Set(SYS_sched_getscheduler, Full<&SchedGetscheduler>());
  table.Set(SYS_sched_setscheduler, Partial<&SchedSetscheduler>("real-time policies: EPERM"));
  table.Set(SYS_sched_getparam, Full<&SchedGetparam>());
  table.Set(SYS_sched_setparam, Full<&SchedSetparam>());
  table.Set(SYS_sched_get_priority_max, Full<&SchedGetPriorityMax>());
  table.Set(SYS_sched_get_priority_min, Full<&SchedGetPriorityMin>());
  table.Set(SYS_sched_rr_get_interval, Full<&SchedRrGetInterval>());
  table.Set(SYS_getpriority, Full<&Getpriority>());
  table.Set(SYS_setpriority, Partial<&Setpriority>("kept, without effect on the host"));
  table.Set(SYS_ioprio_get, Partial<&IoprioGet>("always none"));
  table.Set(SYS_ioprio_set, Partial<&IoprioSet>("accepted, without effect"));
  table.Set(SYS_personality, Partial<&Personality>("PER_LINUX; of the flags ADDR_NO_RANDOMIZE has an effect"));
  table.Set(SYS_syslog, Partial<&Syslog>("the log is empty"));
  table.Set(SYS_rseq, Refused<&Rseq>("as a kernel without CONFIG_RSEQ; glibc does without"));
  table.Set(SYS_restart_syscall, Full<&RestartSyscall>());
  table.Set(SYS_modify_ldt, Refused<&ModifyLdt>("as a kernel without CONFIG_MODIFY_LDT_SYSCALL"));
  for (int number : {SYS_reboot, SYS_swapon, SYS_swapoff, SYS_init_module, SYS_finit_module, SYS_delete_module,
                     SYS_acct, SYS_iopl, SYS_ioperm, SYS_kexec_load, SYS_quotactl, SYS_vhangup}) {
    table.Set(number, Refused<&NotPermitted>("the machine is not the guest's"));
  }
}

}  // namespace amber
