// prctl(2), and rlimits: prlimit(2).
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "sentry/kernel/cpu_timers.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/posix_timers.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/seccomp_calls.h"
#include "sentry/syscalls/stack_growth.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

// Whether the processor speculates is the host's matter, and cannot be changed for one task: PR_SPEC_ENABLE without PR_SPEC_PRCTL.
constexpr int kPrGetSpeculation = 52, kPrSetSpeculation = 53;
constexpr uint64_t kLastSpeculation = 2, kSpeculationEnabled = 2;

constexpr size_t kNameSize = 16;

// The host's process does without, too. Its children inherit that as the guest's do (MMF_INIT_MASK).
ErrnoOr<uint64_t> DisableHugePages(Task& task, bool on) {
  MmLock lock(task, 0, ~uint64_t{0});
  if (!lock.held()) return WaitForMm(task);
  return RunMemoryOps(task, lock, {NoHugePagesOp(on)}, [group = RefPtr<ThreadGroup>(&task.group()), on](std::span<const int64_t>) -> int64_t {
    group->extras().no_huge_pages = on;
    return 0;
  });
}

ErrnoOr<uint64_t> SetName(Task& task, uint64_t address) {
  auto name = task.CopyInString(UserPtr<const char>(address), kNameSize);
  if (name.ok()) {
    task.set_name(*name);
    return 0;
  }
  // Longer names are cut.
  if (!name.Is(ENAMETOOLONG)) return name.error();
  char cut[kNameSize];
  TRY(task.CopyInBytes(address, cut, sizeof(cut)));
  task.set_name(std::string(cut, kNameSize - 1));
  return 0;
}

ErrnoOr<uint64_t> GetName(Task& task, uint64_t address) {
  char name[kNameSize] = {};
  task.name().copy(name, kNameSize - 1);
  TRY(task.CopyOutBytes(address, name, sizeof(name)));
  return 0;
}

ErrnoOr<uint64_t> DropBounding(Task& task, uint64_t capability) {
  if (!task.creds().HasOwn(CAP_SETPCAP)) return Errno(EPERM);
  if (capability > CAP_LAST_CAP) return Errno(EINVAL);
  auto next = MakeRef<Credentials>(task.creds());
  next->bounding &= ~(uint64_t{1} << capability);
  task.set_creds(std::move(next));
  return 0;
}

ErrnoOr<uint64_t> Ambient(Task& task, uint64_t what, uint64_t capability) {
  auto next = MakeRef<Credentials>(task.creds());
  if (what == PR_CAP_AMBIENT_CLEAR_ALL) {
    if (capability != 0) return Errno(EINVAL);
    next->ambient = 0;
    task.set_creds(std::move(next));
    return 0;
  }
  if (capability > CAP_LAST_CAP) return Errno(EINVAL);
  uint64_t bit = uint64_t{1} << capability;
  switch (what) {
    case PR_CAP_AMBIENT_IS_SET: return (next->ambient & bit) != 0 ? 1 : 0;
    case PR_CAP_AMBIENT_RAISE:
      if ((next->permitted & next->inheritable & bit) == 0 || (next->securebits & SECBIT_NO_CAP_AMBIENT_RAISE) != 0) {
        return Errno(EPERM);
      }
      next->ambient |= bit;
      break;
    case PR_CAP_AMBIENT_LOWER: next->ambient &= ~bit; break;
    default: return Errno(EINVAL);
  }
  task.set_creds(std::move(next));
  return 0;
}

ErrnoOr<uint64_t> SetSecurebits(Task& task, uint64_t bits) {
  uint32_t old = task.creds().securebits;
  // A lock bit pins its neighbour, for good (cap_task_prctl).
  if (((old & SECURE_ALL_LOCKS) >> 1) & (old ^ bits)) return Errno(EPERM);
  if ((old & SECURE_ALL_LOCKS & ~bits) != 0) return Errno(EPERM);
  if ((bits & ~uint64_t{SECURE_ALL_LOCKS | SECURE_ALL_BITS}) != 0) return Errno(EPERM);
  if (!task.creds().HasOwn(CAP_SETPCAP)) return Errno(EPERM);
  auto next = MakeRef<Credentials>(task.creds());
  next->securebits = static_cast<uint32_t>(bits);
  task.set_keep_caps((bits & SECBIT_KEEP_CAPS) != 0);
  task.set_creds(std::move(next));
  return 0;
}

constexpr int kGetAuxv = 0x41555856;  // PR_GET_AUXV, of Linux 6.4

// What fits; the answer is what there is (prctl_get_auxv).
ErrnoOr<uint64_t> GetAuxv(Task& task, UserPtr<void> out, uint64_t length) {
  const std::vector<uint64_t>& auxv = task.mm().auxv();
  size_t size = auxv.size() * sizeof(auxv[0]);
  TRY(task.CopyOutBytes(out.address(), auxv.data(), std::min<uint64_t>(size, length)));
  return size;
}

// Numbers that linux/prctl.h got with 6.3, 6.4 and 6.6.
constexpr int kSetMdwe = 65, kGetMdwe = 66, kSetMemoryMerge = 67, kGetMemoryMerge = 68;

// prctl_set_mdwe(): what is set stays.
ErrnoOr<uint64_t> SetMdwe(Task& task, uint64_t bits) {
  if ((bits & ~uint64_t{kMdweRefuseExecGain | kMdweNoInherit}) != 0) return Errno(EINVAL);
  if ((bits & kMdweNoInherit) != 0 && (bits & kMdweRefuseExecGain) == 0) return Errno(EINVAL);
  uint32_t& now = task.group().extras().mdwe;
  if (now != 0 && now != bits) return Errno(EPERM);
  now = static_cast<uint32_t>(bits);
  return 0;
}

// PR_MCE_KILL: what a thread wants to happen when memory of its breaks.
ErrnoOr<uint64_t> SetMachineChecks(Task& task, uint64_t what, uint64_t policy) {
  int& now = task.extras().machine_checks;
  if (what == PR_MCE_KILL_CLEAR && policy == 0) {
    now = PR_MCE_KILL_DEFAULT;
  } else if (what == PR_MCE_KILL_SET && policy <= PR_MCE_KILL_DEFAULT) {
    now = static_cast<int>(policy);
  } else {
    // From then on it has a policy of its own, if none that it asked for.
    if (what == PR_MCE_KILL_SET && now == PR_MCE_KILL_DEFAULT) now = PR_MCE_KILL_LATE;
    return Errno(EINVAL);
  }
  return 0;
}

constexpr int kTimerCreateRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS, of 6.15

ErrnoOr<uint64_t> ChooseTimerIds(Task& task, uint64_t what) {
  constexpr uint64_t kOff = 0, kOn = 1, kGet = 2;
  bool& chosen = task.group().posix_timers().ids_are_chosen;
  if (what > kGet) return Errno(EINVAL);
  if (what == kGet) return chosen ? 1 : 0;
  chosen = what == kOn;
  return kOff;
}

// What is only kept and told.
ErrnoOr<uint64_t> KeptPrctl(Task& task, int option, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5) {
  bool rest = a3 != 0 || a4 != 0 || a5 != 0;
  switch (option) {
    case PR_MCE_KILL: return a4 != 0 || a5 != 0 ? Errno(EINVAL) : SetMachineChecks(task, a2, a3);
    case PR_MCE_KILL_GET:
      if (a2 != 0 || rest) return Errno(EINVAL);
      return static_cast<uint64_t>(task.extras().machine_checks);
    case PR_GET_TID_ADDRESS: TRY(task.CopyOut(UserPtr<uint64_t>(a2), TaskLifecycle::ClearChildTid(task))); return 0;
    case kSetMdwe: return rest ? Errno(EINVAL) : SetMdwe(task, a2);
    case kTimerCreateRestoreIds: return rest ? Errno(EINVAL) : ChooseTimerIds(task, a2);
    case kGetMdwe: return a2 != 0 || rest ? Errno(EINVAL) : ErrnoOr<uint64_t>(task.group().extras().mdwe);
    case kSetMemoryMerge:
      if (rest) return Errno(EINVAL);
      task.group().extras().merges_memory = a2 != 0;
      return 0;
    case kGetMemoryMerge:
      if (a2 != 0 || rest) return Errno(EINVAL);
      return task.group().extras().merges_memory ? 1 : 0;
    default: return Errno(EINVAL);
  }
}

ErrnoOr<uint64_t> Prctl(Task& task, int option, uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5) {
  switch (option) {
    case PR_SET_NAME: return SetName(task, a2);
    case PR_GET_NAME: return GetName(task, a2);
    case PR_SET_PDEATHSIG:
      if (a2 > kNumSignals) return Errno(EINVAL);
      task.set_parent_death_signal(static_cast<int>(a2));
      return 0;
    case PR_GET_PDEATHSIG: TRY(task.CopyOut(UserPtr<int>(a2), task.parent_death_signal())); return 0;
    case PR_SET_DUMPABLE:
      if (a2 > 1) return Errno(EINVAL);
      task.group().set_dumpable(a2 == 1);
      return 0;
    case PR_GET_DUMPABLE: return task.group().dumpable() ? 1 : 0;
    case PR_SET_KEEPCAPS:
      if (a2 > 1) return Errno(EINVAL);
      if ((task.creds().securebits & SECBIT_KEEP_CAPS_LOCKED) != 0) return Errno(EPERM);
      task.set_keep_caps(a2 == 1);
      return 0;
    case PR_GET_KEEPCAPS: return task.keep_caps() ? 1 : 0;
    case PR_CAPBSET_READ:
      if (a2 > CAP_LAST_CAP) return Errno(EINVAL);
      return task.creds().bounding >> a2 & 1;
    case PR_CAPBSET_DROP: return DropBounding(task, a2);
    case PR_CAP_AMBIENT: return a4 != 0 || a5 != 0 ? Errno(EINVAL) : Ambient(task, a2, a3);
    case PR_SET_SECUREBITS: return SetSecurebits(task, a2);
    case PR_GET_SECUREBITS: return task.creds().securebits | (task.keep_caps() ? SECBIT_KEEP_CAPS : 0u);
    case PR_SET_NO_NEW_PRIVS:
      if (a2 != 1 || a3 != 0 || a4 != 0 || a5 != 0) return Errno(EINVAL);
      task.set_no_new_privs();
      return 0;
    case PR_GET_NO_NEW_PRIVS:
      if (a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0) return Errno(EINVAL);
      return task.no_new_privs() ? 1 : 0;
    case PR_SET_CHILD_SUBREAPER: task.group().set_child_subreaper(a2 != 0); return 0;
    case PR_GET_CHILD_SUBREAPER: TRY(task.CopyOut(UserPtr<int>(a2), task.group().child_subreaper() ? 1 : 0)); return 0;
    case PR_SET_TIMERSLACK: task.set_timer_slack(static_cast<int64_t>(a2) <= 0 ? task.extras().default_timer_slack : a2); return 0;
    case PR_GET_TIMERSLACK: return task.timer_slack();
    case PR_SET_TIMING: return a2 == PR_TIMING_STATISTICAL ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
    case PR_GET_TIMING: return PR_TIMING_STATISTICAL;
    case PR_GET_SECCOMP: return static_cast<uint64_t>(task.extras().seccomp_mode);
    case PR_SET_SECCOMP: return PrctlSetSeccomp(task, a2, a3);
    // The two that need CAP_SYS_RESOURCE, and have nothing to be told about here.
    case PR_SET_IO_FLUSHER:
    case PR_GET_IO_FLUSHER: return Errno(task.Has(CAP_SYS_RESOURCE) ? EINVAL : EPERM);
    // Turning off what cannot be on.
    case PR_SET_SYSCALL_USER_DISPATCH: return a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0 ? Errno(EINVAL) : ErrnoOr<uint64_t>(0);
    case kGetAuxv: return a4 != 0 || a5 != 0 ? Errno(EINVAL) : GetAuxv(task, UserPtr<void>(a2), a3);
    case PR_GET_TSC: TRY(task.CopyOut(UserPtr<int>(a2), int{PR_TSC_ENABLE})); return 0;
    // What the processor's counter says is always told, so turning that on changes nothing.
    case PR_SET_TSC: return a2 == PR_TSC_ENABLE ? ErrnoOr<uint64_t>(0) : Errno(EINVAL);
    // Of the events that a task has opened, which are none here: perf_event_open is not there.
    case PR_TASK_PERF_EVENTS_DISABLE:
    case PR_TASK_PERF_EVENTS_ENABLE: return 0;
    case PR_SET_THP_DISABLE: return a3 != 0 || a4 != 0 || a5 != 0 ? Errno(EINVAL) : DisableHugePages(task, a2 != 0);
    case PR_GET_THP_DISABLE:
      if (a2 != 0 || a3 != 0 || a4 != 0 || a5 != 0) return Errno(EINVAL);
      return task.group().extras().no_huge_pages ? 1 : 0;
    case PR_SET_VMA: return 0;  // PR_SET_VMA_ANON_NAME: the name is not shown, as without CONFIG_ANON_VMA_NAME's users
    case kPrGetSpeculation:
      if (a3 != 0) return Errno(EINVAL);
      return a2 <= kLastSpeculation ? ErrnoOr<uint64_t>(kSpeculationEnabled) : Errno(ENODEV);
    case PR_SET_MM: return Errno(task.Has(CAP_SYS_RESOURCE) ? EINVAL : EPERM);  // where its parts lie is the kernel's to say
    case kPrSetSpeculation:
      if (a4 != 0 || a5 != 0) return Errno(EINVAL);
      return Errno(a2 <= kLastSpeculation ? ENXIO : ENODEV);
    default: return KeptPrctl(task, option, a2, a3, a4, a5);
  }
}

ErrnoOr<uint64_t> Prlimit64(Task& task, int pid, int resource, UserPtr<const rlimit> in, UserPtr<rlimit> out) {
  rlimit next = {};
  if (in) next = TRY(task.CopyIn(in));
  Task* target = pid == 0 ? &task : task.FindTask(pid);
  if (target == nullptr) return Errno(ESRCH);
  if (&target->group() != &task.group() && !task.creds().HasIn(target->creds().user_ns.get(), CAP_SYS_RESOURCE)) {
    const Credentials& mine = task.creds();
    const Credentials& theirs = target->creds();
    bool same = mine.uid == theirs.uid && mine.uid == theirs.euid && mine.uid == theirs.suid && mine.gid == theirs.gid && mine.gid == theirs.egid &&
                mine.gid == theirs.sgid;
    if (!same) return Errno(EPERM);
  }
  if (resource < 0 || resource >= RLIM_NLIMITS) return Errno(EINVAL);
  // A smaller stack takes effect at once: exec has mapped all that the old limit allowed.
  bool stack = in && resource == RLIMIT_STACK && &target->group() == &task.group();
  std::optional<MmLock> lock;
  if (stack && !lock.emplace(task, 0, ~uint64_t{0}).held()) return WaitForMm(task);
  rlimit& current = target->group().rlim(resource);
  rlimit before = current;
  if (in) {
    if (next.rlim_cur > next.rlim_max) return Errno(EINVAL);
    if (resource == RLIMIT_NOFILE && next.rlim_max > 1 << 20) return Errno(EPERM);  // fs.nr_open
    if (next.rlim_max > current.rlim_max && !task.Has(CAP_SYS_RESOURCE)) return Errno(EPERM);
    current = next;
    if (resource == RLIMIT_CPU) target->group().extras().cpu_timers(target->group()).UpdateLimit();
  }
  if (out) TRY(task.CopyOut(out, before));
  if (!stack || current.rlim_cur >= before.rlim_cur) return 0;
  UnusedStack unused = StackBeyond(task, current.rlim_cur);
  if (unused.start == unused.end) return 0;
  RefPtr<MemoryManager> mm(&task.mm());
  return RunMemoryOps(task, *lock, {MemoryManager::Op(SYS_munmap, unused.start, unused.end - unused.start)},
                      [mm, unused](std::span<const int64_t>) -> int64_t {
                        mm->vmas().Remove(unused.start, unused.end);
                        return 0;
                      });
}

ErrnoOr<uint64_t> Getrlimit(Task& task, int resource, UserPtr<rlimit> out) {
  if (resource < 0 || resource >= RLIM_NLIMITS) return Errno(EINVAL);
  TRY(task.CopyOut(out, task.group().rlim(resource)));
  return 0;
}

ErrnoOr<uint64_t> Setrlimit(Task& task, int resource, UserPtr<const rlimit> in) {
  if (in.is_null()) return Errno(EFAULT);
  return Prlimit64(task, 0, resource, in, {});
}

}  // namespace

void RegisterPrctlCalls(SyscallTable& table) {
  table.Set(SYS_prctl, Partial<&Prctl>("names, ids, capabilities, reaping and the common queries"));
  table.Set(SYS_prlimit64, Full<&Prlimit64>());
  table.Set(SYS_getrlimit, Full<&Getrlimit>());
  table.Set(SYS_setrlimit, Full<&Setrlimit>());
}

}  // namespace amber
