// System V semaphores: semget(2), semop(2), semctl(2).
#include <linux/capability.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/ipc_owner.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {
namespace {

// What a blocked semop(2) notes in syscall().scratch[1]: the semaphore that it waits for, and how.
constexpr uint64_t kWaits = uint64_t{1} << 32, kWaitsForZero = uint64_t{1} << 33;
// Debian 12's headers are older.
constexpr int kSemStatAny = 20;

IpcNamespace& NamespaceOf(Task& task) { return *task.extras().ipc; }

ErrnoOr<uint64_t> Semget(Task& task, int key, int count, int flags) {
  IpcNamespace& ns = NamespaceOf(task);
  if (count < 0 || static_cast<size_t>(count) > std::min<size_t>(ns.sysctl(kSysctlSemSetMax), kSemSetMost)) return Errno(EINVAL);
  auto check = [&](const SemSet& set) -> ErrnoOr<void> { return static_cast<size_t>(count) > set.values.size() ? Errno(EINVAL) : Ok(); };
  auto make = [&]() -> ErrnoOr<int> {
    if (count == 0) return Errno(EINVAL);
    auto set = MakeRef<SemSet>();
    set->perm.SetCreator(task.creds(), static_cast<uint32_t>(flags));
    set->perm.key = key;
    set->values.resize(static_cast<size_t>(count));
    set->ctime = time(nullptr);
    if (!ns.sems().Add(set, ns.sysctl(kSysctlSemSets))) return Errno(ENOSPC);
    return set->perm.id;
  };
  return static_cast<uint64_t>(TRY(IpcGet(ns.sems(), task.creds(), key, flags, check, make)));
}

SemUndo* UndoOf(Task& task) {
  TaskExtras& extras = task.extras();
  if (!extras.sem_undo) extras.sem_undo = MakeRef<SemUndo>(extras.ipc);
  return extras.sem_undo.get();
}

ErrnoOr<uint64_t> Operate(Task& task, int id, UserPtr<const sembuf> p, uint64_t count, int64_t deadline) {
  if (count < 1 || id < 0) return Errno(EINVAL);
  if (count > std::min<size_t>(NamespaceOf(task).sysctl(kSysctlSemOps), kSemOpsMost)) return Errno(E2BIG);
  std::vector<sembuf> ops = TRY(task.CopyInArray(p, count));
  auto found = NamespaceOf(task).sems().Find(id);
  // It was there when the call began to wait.
  if (!found.ok()) return Errno(task.syscall().scratch[1] != 0 ? EIDRM : EINVAL);
  SemSet& set = **found;
  bool alters = false, undo = false;
  for (const sembuf& op : ops) {
    if (op.sem_num >= set.values.size()) return Errno(EFBIG);
    alters |= op.sem_op != 0;
    undo |= (op.sem_flg & SEM_UNDO) != 0;
  }
  TRY(set.perm.Check(task.creds(), alters ? 0222 : 0444));
  size_t blocking = 0;
  auto done = set.Operate(ops, undo ? UndoOf(task) : nullptr, task.pid(), &blocking);
  if (done.ok()) return 0;
  if (!done.Is(EAGAIN) || (ops[blocking].sem_flg & IPC_NOWAIT) != 0) return done.error();
  if (task.syscall().timed_out) return Errno(EAGAIN);
  task.syscall().scratch[1] = ops[blocking].sem_num | kWaits | (ops[blocking].sem_op == 0 ? kWaitsForZero : 0);
  // semop(2) is never restarted after a handler, whatever SA_RESTART says (signal(7)).
  return task.Block(set.queue, POLLIN, deadline, Errno(EINTR));
}

ErrnoOr<uint64_t> Semop(Task& task, int id, UserPtr<const sembuf> ops, uint64_t count) {
  return Operate(task, id, ops, static_cast<unsigned>(count), kNever);
}

ErrnoOr<uint64_t> Semtimedop(Task& task, int id, UserPtr<const sembuf> ops, uint64_t count, UserPtr<const timespec> timeout) {
  int64_t deadline = kNever;
  if (timeout) deadline = DeadlineAfter(task, TRY(CopyInDuration(task, timeout)));
  return Operate(task, id, ops, static_cast<unsigned>(count), deadline);
}

// Tasks that wait for semaphore `index` to be zero, or to grow.
uint64_t CountWaiters(Task& task, const SemSet& set, int index, bool zero) {
  uint64_t count = 0;
  for (const RefPtr<ThreadGroup>& group : task.kernel().groups()) {
    for (const RefPtr<Task>& t : group->tasks()) {
      if (t->exiting() || !t->blocked_in_call() || t->extras().ipc.get() != &NamespaceOf(task)) continue;
      const SyscallState& call = t->syscall();
      if (call.number != SYS_semop && call.number != SYS_semtimedop) continue;
      if (static_cast<int>(call.args[0]) != set.perm.id || (call.scratch[1] & kWaits) == 0) continue;
      bool waits_for_zero = (call.scratch[1] & kWaitsForZero) != 0;
      if (static_cast<int>(call.scratch[1] & 0xffff) == index && waits_for_zero == zero) ++count;
    }
  }
  return count;
}

void ForgetUndo(IpcNamespace& ns, int id, int index) {
  for (SemUndo* undo : ns.undos()) {
    if (index < 0) {
      undo->ClearAll(id);
    } else {
      undo->Clear(id, static_cast<size_t>(index));
    }
  }
}

void Changed(SemSet& set) {
  set.ctime = time(nullptr);
  set.queue.Notify(POLLIN);
}

// Commands about one semaphore.
ErrnoOr<uint64_t> ControlOne(Task& task, SemSet& set, int index, int command, uint64_t argument) {
  bool write = command == SETVAL;
  int value = static_cast<int>(argument);
  if (write && (value < 0 || value > kSemValueMax)) return Errno(ERANGE);
  TRY(set.perm.Check(task.creds(), write ? 0222 : 0444));
  if (index < 0 || static_cast<size_t>(index) >= set.values.size()) return Errno(EINVAL);
  SemSet::Value& v = set.values[static_cast<size_t>(index)];
  switch (command) {
    case GETVAL: return static_cast<uint64_t>(v.value);
    case GETPID: return static_cast<uint64_t>(v.pid);
    case GETNCNT:
    case GETZCNT: return CountWaiters(task, set, index, command == GETZCNT);
    default:
      ForgetUndo(NamespaceOf(task), set.perm.id, index);
      v.value = value;
      v.pid = task.pid();
      Changed(set);
      return 0;
  }
}

ErrnoOr<uint64_t> GetAll(Task& task, SemSet& set, uint64_t out) {
  TRY(set.perm.Check(task.creds(), 0444));
  std::vector<uint16_t> values;
  for (const SemSet::Value& v : set.values) values.push_back(static_cast<uint16_t>(v.value));
  TRY(task.CopyOutBytes(out, values.data(), values.size() * sizeof(uint16_t)));
  return 0;
}

ErrnoOr<uint64_t> SetAll(Task& task, SemSet& set, uint64_t in) {
  TRY(set.perm.Check(task.creds(), 0222));
  std::vector<uint16_t> values = TRY(task.CopyInArray(UserPtr<uint16_t>(in), set.values.size()));
  for (uint16_t v : values) {
    if (v > kSemValueMax) return Errno(ERANGE);
  }
  for (size_t i = 0; i < values.size(); ++i) set.values[i] = {values[i], task.pid()};
  ForgetUndo(NamespaceOf(task), set.perm.id, -1);
  Changed(set);
  return 0;
}

ErrnoOr<uint64_t> Stat(Task& task, SemSet& set, uint64_t out) {
  semid_ds ds{};
  set.perm.FillOut(&ds.sem_perm);
  ShowIpcOwner(task, &ds.sem_perm);
  ds.sem_otime = set.otime;
  ds.sem_ctime = set.ctime;
  ds.sem_nsems = set.values.size();
  TRY(task.CopyOutBytes(out, &ds, sizeof(ds)));
  return 0;
}

ErrnoOr<uint64_t> Info(Task& task, int command, uint64_t out) {
  IpcNamespace& ns = NamespaceOf(task);
  seminfo info{};
  info.semmni = static_cast<int>(ns.sysctl(kSysctlSemSets));
  info.semmsl = static_cast<int>(ns.sysctl(kSysctlSemSetMax));
  info.semmns = static_cast<int>(ns.sysctl(kSysctlSemMax));
  info.semmnu = info.semmap = 1024000000;  // SEMMNU and SEMMAP are SEMMNS as it was at build time
  info.semvmx = info.semaem = kSemValueMax;
  info.semopm = static_cast<int>(ns.sysctl(kSysctlSemOps));
  info.semume = 500;
  info.semusz = 20;
  if (command == SEM_INFO) {
    info.semusz = static_cast<int>(ns.sems().all().size());
    int total = 0;
    for (const auto& [index, set] : ns.sems().all()) total += static_cast<int>(set->values.size());
    info.semaem = total;
  }
  TRY(task.CopyOutBytes(out, &info, sizeof(info)));
  return static_cast<uint64_t>(ns.sems().max_index());
}

ErrnoOr<uint64_t> Semctl(Task& task, int id, int index, int command, uint64_t argument) {
  IpcNamespace& ns = NamespaceOf(task);
  if (id < 0) return Errno(EINVAL);
  switch (command) {
    case IPC_INFO:
    case SEM_INFO: return Info(task, command, argument);
    case SEM_STAT:
    case kSemStatAny: {
      RefPtr<SemSet> set = TRY(ns.sems().FindIndex(id));
      if (command == SEM_STAT) TRY(set->perm.Check(task.creds(), 0444));
      TRY(Stat(task, *set, argument));
      return static_cast<uint64_t>(set->perm.id);
    }
    default: break;
  }
  RefPtr<SemSet> set = TRY(ns.sems().Find(id));
  switch (command) {
    case IPC_STAT: TRY(set->perm.Check(task.creds(), 0444)); return Stat(task, *set, argument);
    case GETALL: return GetAll(task, *set, argument);
    case SETALL: return SetAll(task, *set, argument);
    case GETVAL:
    case GETPID:
    case GETNCNT:
    case GETZCNT:
    case SETVAL: return ControlOne(task, *set, index, command, argument);
    case IPC_SET: {
      semid_ds ds = TRY(task.CopyIn(UserPtr<semid_ds>(argument)));
      TRY(set->perm.CheckOwner(task.creds()));
      TRY(SetIpcOwner(task, ds.sem_perm, &set->perm));
      set->ctime = time(nullptr);
      return 0;
    }
    case IPC_RMID:
      TRY(set->perm.CheckOwner(task.creds()));
      ForgetUndo(ns, id, -1);
      ns.sems().Remove(id);
      set->queue.Notify(POLLIN);
      return 0;
    default: return Errno(EINVAL);
  }
}

}  // namespace

void RegisterSemCalls(SyscallTable& table) {
  table.Set(SYS_semget, Full<&Semget>());
  table.Set(SYS_semop, Full<&Semop>());
  table.Set(SYS_semtimedop, Full<&Semtimedop>());
  table.Set(SYS_semctl, Full<&Semctl>());
}

}  // namespace amber
