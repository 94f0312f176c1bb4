// Scheduling: sched(7), setpriority(2), ioprio_set(2), getcpu(2). The host decides when its threads run; what a task asks for is checked as
// Linux checks it, kept, inherited and told. Sets of processors are given to the host.
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/cgroup.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

constexpr int kResetOnFork = 0x40000000;  // SCHED_RESET_ON_FORK
constexpr int kDeadline = 6;              // SCHED_DEADLINE
constexpr int kExt = 7;                   // SCHED_EXT, which has a range of priorities even where nobody may ask for it
constexpr int64_t kRoundRobinSlice = 100'000'000, kFairSlice = 4'000'000;

// struct sched_attr; its first version ended before the clamps.
struct Attr {
  uint32_t size;
  uint32_t policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max;
};
constexpr uint32_t kAttrFirstSize = 48;
static_assert(sizeof(Attr) == 56);
constexpr uint64_t kFlagReset = 1, kFlagReclaim = 2, kFlagOverrun = 4, kFlagKeepPolicy = 8, kFlagKeepParams = 16;
constexpr uint64_t kFlagClamps = 0x60;

bool IsRealtime(int policy) { return policy == SCHED_FIFO || policy == SCHED_RR; }
// Those with a nice value that counts (fair_policy()).
bool HasNice(int policy) { return policy == SCHED_OTHER || policy == SCHED_BATCH; }
bool IsFair(int policy) { return policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE; }

ErrnoOr<Task*> TaskOrSelf(Task& task, int tid) {
  if (tid < 0) return Errno(EINVAL);
  if (tid == 0) return &task;
  Task* found = task.FindTask(tid);
  if (found == nullptr) return Errno(ESRCH);
  return found;
}

ErrnoOr<uint64_t> SchedYield(Task& task) { return task.framed() ? RunUnlocked(task) : 0; }

bool SameOwner(const Task& task, const Task& target) { return task.creds().euid == target.creds().euid || task.creds().euid == target.creds().uid; }

// Unlike the other calls of this family, those of affinity take a negative id for one that nobody has (kernel/sched/syscalls.c).
ErrnoOr<Task*> AffinityTask(Task& task, int tid) {
  if (tid < 0) return Errno(ESRCH);
  return TaskOrSelf(task, tid);
}

ErrnoOr<uint64_t> SchedGetaffinity(Task& task, int tid, uint64_t size, UserPtr<void> out) {
  size_t cpus = static_cast<size_t>(sysconf(_SC_NPROCESSORS_CONF));
  size_t needed = (cpus + 63) / 64 * 8;
  if (size < needed || size % 8 != 0) return Errno(EINVAL);
  Task* target = TRY(AffinityTask(task, tid));
  cpu_set_t set;
  int host = target->thread() != nullptr ? target->thread()->host_tid() : 0;
  if (sched_getaffinity(host, sizeof(set), &set) != 0) return Errno(errno);
  TRY(task.CopyOutBytes(out.address(), &set, needed));
  return needed;
}

ErrnoOr<uint64_t> SchedSetaffinity(Task& task, int tid, uint64_t size, UserPtr<const void> in) {
  cpu_set_t wanted{};
  size_t length = std::min<size_t>(size, sizeof(wanted));
  TRY(task.CopyInBytes(in.address(), &wanted, length));
  Task* target = TRY(AffinityTask(task, tid));
  if (!SameOwner(task, *target) && !task.creds().HasIn(target->creds().user_ns.get(), CAP_SYS_NICE)) return Errno(EPERM);
  CPU_AND(&wanted, &wanted, &Cgroup::AllCpus());
  // What a cpuset takes away comes back when that does (user_cpus_ptr), but something must be left.
  cpu_set_t allowed = Cgroup::With(*target, Cgroup::kCpuset).EffectiveCpus(), left;
  CPU_AND(&left, &wanted, &allowed);
  if (CPU_COUNT(&left) == 0) return Errno(EINVAL);
  target->extras().affinity = wanted;
  target->extras().ApplyAffinity(*target);
  return 0;
}

// The processor that the host runs the caller's thread on: field 39 of proc_pid_stat(5).
unsigned CurrentCpu(Task& task) {
  char path[64], text[1024];
  snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", task.thread()->host_pid(), task.thread()->host_tid());
  UniqueFd fd(open(path, O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return 0;
  ssize_t n = read(fd.get(), text, sizeof(text) - 1);
  if (n <= 0) return 0;
  text[n] = 0;
  const char* at = strrchr(text, ')');
  for (int field = 2; at != nullptr && field < 39; ++field) at = strchr(at + 1, ' ');
  return at == nullptr ? 0 : static_cast<unsigned>(strtoul(at + 1, nullptr, 10));
}

ErrnoOr<uint64_t> Getcpu(Task& task, UserPtr<unsigned> cpu, UserPtr<unsigned> node) {
  if (cpu) TRY(task.CopyOut(cpu, CurrentCpu(task)));
  if (node) TRY(task.CopyOut(node, 0u));  // one memory node
  return 0;
}

// --- policies ---

// What a call asks for.
struct Request {
  SchedAttributes sched;
  bool has_nice = false;
  int nice = 0;
  bool clamps = false;
};

// can_nice(): RLIMIT_NICE counts from 20 (nice 20) to 40 (nice -20).
bool MayNice(const Task& target, int nice) { return static_cast<uint64_t>(20 - nice) <= target.limit(RLIMIT_NICE); }

// user_check_sched_setscheduler() of kernel/sched/syscalls.c.
ErrnoOr<void> MaySet(const Task& task, const Task& target, const Request& r) {
  if (task.Has(CAP_SYS_NICE)) return Ok();
  const SchedAttributes& now = target.extras().sched;
  int nice = target.group().nice();
  if (HasNice(r.sched.policy) && r.has_nice && r.nice < nice && !MayNice(target, r.nice)) return Errno(EPERM);
  if (IsRealtime(r.sched.policy)) {
    uint64_t limit = target.limit(RLIMIT_RTPRIO);
    if (r.sched.policy != now.policy && limit == 0) return Errno(EPERM);
    if (r.sched.priority > now.priority && static_cast<uint64_t>(r.sched.priority) > limit) return Errno(EPERM);
  }
  if (now.policy == SCHED_IDLE && r.sched.policy != SCHED_IDLE && !MayNice(target, nice)) return Errno(EPERM);
  if (!SameOwner(task, target)) return Errno(EPERM);
  if (now.reset_on_fork && !r.sched.reset_on_fork) return Errno(EPERM);
  return Ok();
}

ErrnoOr<uint64_t> Apply(Task& task, Task& target, const Request& r) {
  if (!IsFair(r.sched.policy) && !IsRealtime(r.sched.policy) && r.sched.policy != kDeadline) return Errno(EINVAL);
  if (r.sched.priority < 0 || r.sched.priority > 99) return Errno(EINVAL);
  if (IsRealtime(r.sched.policy) != (r.sched.priority != 0)) return Errno(EINVAL);
  TRY(MaySet(task, target, r));
  if (r.clamps) return Errno(EOPNOTSUPP);  // as without CONFIG_UCLAMP_TASK
  // No time of the host's processors can be promised: as if all of it were taken.
  if (r.sched.policy == kDeadline) return Errno(task.Has(CAP_SYS_NICE) ? EBUSY : EPERM);
  target.extras().sched = r.sched;
  if (r.has_nice && HasNice(r.sched.policy)) target.group().set_nice(r.nice);
  return 0;
}

ErrnoOr<uint64_t> SchedGetscheduler(Task& task, int tid) {
  const SchedAttributes& s = TRY(TaskOrSelf(task, tid))->extras().sched;
  return static_cast<uint64_t>(s.policy | (s.reset_on_fork ? kResetOnFork : 0));
}

ErrnoOr<uint64_t> SchedSetscheduler(Task& task, int tid, int policy, UserPtr<const int> param) {
  if (policy < 0 || param.is_null() || tid < 0) return Errno(EINVAL);
  // Which needs more than a priority (__checkparam_dl).
  if ((policy & ~kResetOnFork) == kDeadline) return Errno(EINVAL);
  int priority = TRY(task.CopyIn(param));
  Task* target = TRY(TaskOrSelf(task, tid));
  Request r;
  r.sched = {policy & ~kResetOnFork, priority, (policy & kResetOnFork) != 0};
  return Apply(task, *target, r);
}

ErrnoOr<uint64_t> SchedGetparam(Task& task, int tid, UserPtr<int> param) {
  if (param.is_null()) return Errno(EINVAL);
  Task* target = TRY(TaskOrSelf(task, tid));
  TRY(task.CopyOut(param, target->extras().sched.priority));
  return 0;
}

ErrnoOr<uint64_t> SchedSetparam(Task& task, int tid, UserPtr<const int> param) {
  if (param.is_null() || tid < 0) return Errno(EINVAL);
  int priority = TRY(task.CopyIn(param));
  Task* target = TRY(TaskOrSelf(task, tid));
  Request r;
  r.sched = target->extras().sched;
  r.sched.priority = priority;
  return Apply(task, *target, r);
}

// sched_copy_attr(): a structure of another size is fine if what is unknown is zero; the size that is known goes back.
ErrnoOr<Attr> CopyInAttr(Task& task, UserPtr<Attr> p) {
  uint32_t size = TRY(task.CopyIn(p.Cast<uint32_t>()));
  if (size == 0) size = kAttrFirstSize;
  if (size < kAttrFirstSize || size > 4096) {
    TRY(task.CopyOut(p.Cast<uint32_t>(), static_cast<uint32_t>(sizeof(Attr))));
    return Errno(E2BIG);
  }
  std::vector<uint8_t> bytes(std::max<size_t>(size, sizeof(Attr)));
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  if (std::any_of(bytes.begin() + sizeof(Attr), bytes.end(), [](uint8_t b) { return b != 0; })) {
    TRY(task.CopyOut(p.Cast<uint32_t>(), static_cast<uint32_t>(sizeof(Attr))));
    return Errno(E2BIG);
  }
  Attr attr;
  memcpy(&attr, bytes.data(), sizeof(attr));
  if ((attr.flags & kFlagClamps) != 0 && size < sizeof(Attr)) return Errno(EINVAL);
  attr.nice = std::clamp(attr.nice, -20, 19);
  return attr;
}

// __checkparam_dl(): runtime <= deadline <= period, and neither too little nor too much of them.
ErrnoOr<void> CheckDeadline(const Attr& attr) {
  constexpr uint64_t kLeastRuntime = 1024, kLeastPeriod = 100'000, kMostPeriod = uint64_t{1} << 22 << 10;  // ns
  uint64_t period = attr.period != 0 ? attr.period : attr.deadline;
  bool right = attr.priority == 0 && attr.deadline != 0 && attr.runtime >= kLeastRuntime && (attr.deadline >> 63) == 0 && (period >> 63) == 0 &&
               attr.runtime <= attr.deadline && attr.deadline <= period && period >= kLeastPeriod && period <= kMostPeriod;
  return right ? Ok() : Errno(EINVAL);
}

ErrnoOr<uint64_t> SchedSetattr(Task& task, int tid, UserPtr<Attr> p, unsigned flags) {
  if (p.is_null() || tid < 0 || flags != 0) return Errno(EINVAL);
  Attr attr = TRY(CopyInAttr(task, p));
  if (static_cast<int>(attr.policy) < 0) return Errno(EINVAL);
  if ((attr.flags & ~(kFlagReset | kFlagReclaim | kFlagOverrun | kFlagKeepPolicy | kFlagKeepParams | kFlagClamps)) != 0) {
    return Errno(EINVAL);
  }
  Task* target = TRY(TaskOrSelf(task, tid));
  const SchedAttributes& now = target->extras().sched;
  Request r;
  r.sched.policy = (attr.flags & kFlagKeepPolicy) != 0 ? now.policy : static_cast<int>(attr.policy);
  r.sched.reset_on_fork = (attr.flags & kFlagKeepPolicy) != 0 ? now.reset_on_fork : (attr.flags & kFlagReset) != 0;
  if ((attr.flags & kFlagKeepParams) != 0) {
    r.sched.priority = IsRealtime(r.sched.policy) ? now.priority : 0;
  } else {
    if (attr.priority > 99) return Errno(EINVAL);
    r.sched.priority = static_cast<int>(attr.priority);
    r.has_nice = true;
    r.nice = attr.nice;
  }
  r.clamps = (attr.flags & kFlagClamps) != 0;
  if (r.sched.policy == kDeadline && (attr.flags & kFlagKeepParams) == 0) TRY(CheckDeadline(attr));
  return Apply(task, *target, r);
}

ErrnoOr<uint64_t> SchedGetattr(Task& task, int tid, UserPtr<Attr> p, unsigned size, unsigned flags) {
  if (p.is_null() || tid < 0 || size < kAttrFirstSize || size > 4096 || flags != 0) return Errno(EINVAL);
  Task* target = TRY(TaskOrSelf(task, tid));
  const SchedAttributes& s = target->extras().sched;
  Attr attr{};
  attr.policy = static_cast<uint32_t>(s.policy);
  if (s.reset_on_fork) attr.flags |= kFlagReset;
  if (IsRealtime(s.policy)) {
    attr.priority = static_cast<uint32_t>(s.priority);
  } else {
    attr.nice = target->group().nice();
    attr.runtime = kFairSlice;
  }
  attr.size = std::min<uint32_t>(size, sizeof(attr));
  // What a later structure would have is zeros (copy_struct_to_user()).
  std::string bytes(reinterpret_cast<const char*>(&attr), attr.size);
  bytes.resize(size, '\0');
  TRY(task.CopyOutBytes(p.address(), bytes.data(), bytes.size()));
  return 0;
}

ErrnoOr<uint64_t> SchedGetPriorityMax(Task&, int policy) {
  if (IsRealtime(policy)) return 99;
  return IsFair(policy) || policy == kDeadline || policy == kExt ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
}

ErrnoOr<uint64_t> SchedGetPriorityMin(Task&, int policy) {
  if (IsRealtime(policy)) return 1;
  return IsFair(policy) || policy == kDeadline || policy == kExt ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
}

ErrnoOr<uint64_t> SchedRrGetInterval(Task& task, int tid, UserPtr<timespec> out) {
  int policy = TRY(TaskOrSelf(task, tid))->extras().sched.policy;
  int64_t slice = policy == SCHED_RR ? kRoundRobinSlice : policy == SCHED_FIFO ? 0 : kFairSlice;
  TRY(task.CopyOut(out, ToTimespec(slice)));
  return 0;
}

// --- nice values and I/O priorities ---

// The tasks that `which` (1: a task, 2: a process group, 3: a user; 0 is oneself) and `who` mean.
ErrnoOr<std::vector<Task*>> Targets(Task& task, int which, int who) {
  std::vector<Task*> out;
  if (which == 1) {
    Task* one = who == 0 ? &task : task.FindTask(who);
    if (one != nullptr) out.push_back(one);
    return out;
  }
  for (const RefPtr<ThreadGroup>& group : task.group().pids().Groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (t->exiting()) continue;
      const ProcessGroup* wanted_group = who == 0 ? &task.group().process_group() : task.group().pids().FindProcessGroup(who);
      uid_t uid = who == 0 ? task.creds().uid : ToKernelUid(task.creds().user_ns.get(), static_cast<uid_t>(who));
      bool wanted = which == 2 ? &group->process_group() == wanted_group : t->creds().uid == uid;
      if (wanted) out.push_back(t.get());
    }
  }
  return out;
}

// getpriority(2): the raw call returns 20 - nice, of the most favoured of several.
ErrnoOr<uint64_t> Getpriority(Task& task, int which, int who) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Errno(EINVAL);
  std::vector<Task*> targets = TRY(Targets(task, which + 1, who));
  if (targets.empty()) return Errno(ESRCH);
  int best = 19;
  for (Task* t : targets) best = std::min(best, t->group().nice());
  return static_cast<uint64_t>(20 - best);
}

ErrnoOr<uint64_t> Setpriority(Task& task, int which, int who, int nice) {
  if (which < PRIO_PROCESS || which > PRIO_USER) return Errno(EINVAL);
  std::vector<Task*> targets = TRY(Targets(task, which + 1, who));
  nice = std::clamp(nice, -20, 19);
  int error = ESRCH;
  for (Task* t : targets) {
    // set_one_prio().
    if (!SameOwner(task, *t) && task.creds().uid != t->creds().uid && !task.creds().HasIn(t->creds().user_ns.get(), CAP_SYS_NICE)) {
      error = EPERM;
    } else if (nice < t->group().nice() && !MayNice(*t, nice) && !task.Has(CAP_SYS_NICE)) {
      error = EACCES;
    } else {
      if (error == ESRCH) error = 0;
      t->group().set_nice(nice);
    }
  }
  return error == 0 ? ErrnoOr<uint64_t>(0) : Errno(error);
}

constexpr int kIoRealtime = 1, kIoBestEffort = 2, kIoIdle = 3;

ErrnoOr<void> CheckIoprio(const Task& task, int value) {
  int level = value & 7;
  switch (value >> 13 & 7) {
    case kIoRealtime:
      if (!task.Has(CAP_SYS_ADMIN) && !task.Has(CAP_SYS_NICE)) return Errno(EPERM);
      return Ok();
    case kIoBestEffort:
    case kIoIdle: return Ok();
    case 0: return level != 0 ? ErrnoOr<void>(Errno(EINVAL)) : Ok();
    default: return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> IoprioSet(Task& task, int which, int who, int value) {
  TRY(CheckIoprio(task, value));
  if (which < 1 || which > 3) return Errno(EINVAL);
  std::vector<Task*> targets = TRY(Targets(task, which, who));
  if (targets.empty()) return Errno(ESRCH);
  for (Task* t : targets) {
    bool mine = t->creds().uid == task.creds().euid || t->creds().uid == task.creds().uid;
    if (!mine && !task.creds().HasIn(t->creds().user_ns.get(), CAP_SYS_NICE)) return Errno(EPERM);
    t->extras().ioprio = value & 0xffff;
  }
  return 0;
}

ErrnoOr<uint64_t> IoprioGet(Task& task, int which, int who) {
  if (which < 1 || which > 3) return Errno(EINVAL);
  std::vector<Task*> targets = TRY(Targets(task, which, who));
  if (targets.empty()) return Errno(ESRCH);
  if (which == 1) return static_cast<uint64_t>(targets.front()->extras().ioprio);
  int best = INT32_MAX;
  for (Task* t : targets) {
    // Without one of its own a task has the best-effort level of its nice value.
    int value = t->extras().ioprio;
    if (value >> 13 == 0) value = kIoBestEffort << 13 | (t->group().nice() + 20) / 5;
    best = std::min(best, value);
  }
  return static_cast<uint64_t>(best);
}

}  // namespace

void RegisterSchedCalls(SyscallTable& table) {
  constexpr const char* kKept = "kept and told; the host schedules as it likes";
  table.Set(SYS_sched_yield, Full<&SchedYield>());
  table.Set(SYS_sched_getaffinity, Full<&SchedGetaffinity>());
  table.Set(SYS_sched_setaffinity, Full<&SchedSetaffinity>());
  table.Set(SYS_getcpu, Full<&Getcpu>());
  table.Set(SYS_sched_getscheduler, Full<&SchedGetscheduler>());
  table.Set(SYS_sched_setscheduler, Partial<&SchedSetscheduler>(kKept));
  table.Set(SYS_sched_getparam, Full<&SchedGetparam>());
  table.Set(SYS_sched_setparam, Partial<&SchedSetparam>(kKept));
  table.Set(SYS_sched_setattr, Partial<&SchedSetattr>(kKept));
  table.Set(SYS_sched_getattr, Full<&SchedGetattr>());
  table.Set(SYS_sched_get_priority_max, Full<&SchedGetPriorityMax>());
  table.Set(SYS_sched_get_priority_min, Full<&SchedGetPriorityMin>());
  table.Set(SYS_sched_rr_get_interval, Full<&SchedRrGetInterval>());
  table.Set(SYS_getpriority, Full<&Getpriority>());
  table.Set(SYS_setpriority, Partial<&Setpriority>(kKept));
  table.Set(SYS_ioprio_get, Full<&IoprioGet>());
  table.Set(SYS_ioprio_set, Partial<&IoprioSet>(kKept));
}

}  // namespace amber
