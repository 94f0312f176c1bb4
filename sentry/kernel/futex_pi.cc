#include "sentry/kernel/futex_pi.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>

#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

ErrnoOr<uint32_t> ReadWord(Task& task, uint64_t address) { return task.CopyIn(UserPtr<uint32_t>(address)); }
ErrnoOr<void> WriteWord(Task& task, uint64_t address, uint32_t value) { return task.CopyOut(UserPtr<uint32_t>(address), value); }

int PriorityOf(const PiWait& wait) { return wait.task.extras().sched.priority; }

// Sets FUTEX_WAITERS in the word, atomically, and has the handler executed again. FUTEX_WAKE_OP is the one operation of the host
// that does so; nobody waits natively for such a word, so it wakes nobody.
ErrnoOr<uint64_t> SetWaitersBit(Task& task, uint64_t address) {
  constexpr uint32_t kOr31 = static_cast<uint32_t>(FUTEX_OP(FUTEX_OP_OR | FUTEX_OP_OPARG_SHIFT, 31, FUTEX_OP_CMP_EQ, 1));
  RefPtr<Task> self(&task);
  task.StopForOps({{SYS_futex, {address, FUTEX_WAKE_OP_PRIVATE, 0, 0, address, kOr31}}}, [self](std::span<const int64_t> results) {
    int64_t result = results.empty() ? -EFAULT : results[0];
    self->FinishSyscall(result < 0 ? result : -static_cast<int64_t>(kErestartnointr.number()));
  });
  return kNoAnswer;
}

}  // namespace

PiWait& PiFutexes::WaitOf(Task& task) {
  auto& wait = task.extras().pi_wait;
  if (wait == nullptr) wait = std::make_unique<PiWait>(task);
  return *wait;
}

void PiFutexes::Enter(PiWait& wait, PiWait::Where where, const FutexKey& key, RefPtr<File> pin, Task* owner) {
  Leave(wait);
  // One that comes back (after a signal, or from an image) keeps its place.
  next_age_ = std::max(next_age_, wait.age + 1);
  if (wait.age == 0) wait.age = next_age_++;
  wait.where = where;
  wait.key = key;
  Waiters& waiters = MapOf(where)[key];
  waiters.owner = owner;
  waiters.pin = std::move(pin);
  auto before = [](const PiWait* a, const PiWait* b) { return PriorityOf(*a) != PriorityOf(*b) ? PriorityOf(*a) > PriorityOf(*b) : a->age < b->age; };
  waiters.list.insert(std::upper_bound(waiters.list.begin(), waiters.list.end(), &wait, before), &wait);
}

void PiFutexes::Leave(PiWait& wait) {
  if (wait.where == PiWait::Where::kNowhere) return;
  Map& map = MapOf(wait.where);
  wait.where = PiWait::Where::kNowhere;
  auto it = map.find(wait.key);
  if (it == map.end()) return;
  std::erase(it->second.list, &wait);
  if (it->second.list.empty()) map.erase(it);
}

PiWait* PiFutexes::Next(Map& map, const FutexKey& key) {
  for (;;) {
    auto it = map.find(key);
    if (it == map.end()) return nullptr;
    PiWait* first = it->second.list.front();
    // A handler may have run instead of the call; it comes back when that is over.
    if (!first->task.exiting() && !first->task.group().exiting() && first->task.blocked_in_call() && first->task.syscall().number == SYS_futex)
      return first;
    Leave(*first);
  }
}

size_t PiFutexes::CountOf(const FutexKey& key) const {
  auto it = locks_.find(key);
  return it == locks_.end() ? 0 : it->second.list.size();
}

bool PiFutexes::WouldDeadlock(const Task& task, const Task* owner) const {
  // max_lock_depth.
  for (int depth = 0; owner != nullptr && depth < 1024; ++depth) {
    if (owner == &task) return true;
    const PiWait* wait = owner->extras().pi_wait.get();
    if (wait == nullptr || wait->where != PiWait::Where::kLock) return false;
    auto it = locks_.find(wait->key);
    owner = it == locks_.end() ? nullptr : it->second.owner;
  }
  return false;
}

ErrnoOr<void> PiFutexes::Grant(PiWait& wait, uint32_t flags) {
  FutexKey key = wait.where == PiWait::Where::kRequeue ? wait.target : wait.key;
  size_t others = CountOf(key) - (wait.where == PiWait::Where::kLock ? 1 : 0);
  uint32_t word = static_cast<uint32_t>(wait.task.tid()) | flags | (others > 0 ? FUTEX_WAITERS : 0);
  TRY(WriteWord(wait.task, wait.address, word));
  Leave(wait);
  auto it = locks_.find(key);
  if (it != locks_.end()) it->second.owner = &wait.task;
  wait.granted = wait.address;
  wait.queue.Notify(POLLIN);
  return Ok();
}

// True if the lock was given to the task while it waited; also after a signal handler that ran instead of the wait's end.
bool PiFutexes::TakeGrant(PiWait& wait, uint64_t address) {
  if (wait.granted == 0) return false;
  uint64_t granted = std::exchange(wait.granted, 0);
  auto word = ReadWord(wait.task, address);
  if (granted != address || !word.ok() || (*word & FUTEX_TID_MASK) != static_cast<uint32_t>(wait.task.tid())) return false;
  wait.age = 0;
  wait.requeued = false;
  return true;
}

ErrnoOr<uint64_t> PiFutexes::Lock(Task& task, uint64_t address, bool shared, int64_t deadline, bool try_only) {
  PiWait& wait = WaitOf(task);
  if (TakeGrant(wait, address)) return 0;
  if (wait.where == PiWait::Where::kNowhere && !task.syscall().restarted) wait.age = 0;
  RefPtr<File> pin;
  FutexKey key = TRY(FutexKeyOf(task, address, shared, &pin));
  uint32_t word = TRY(ReadWord(task, address));
  uint32_t holder = word & FUTEX_TID_MASK;
  if (holder == static_cast<uint32_t>(task.tid())) return Errno(EDEADLK);
  Task* owner = holder != 0 ? task.FindTask(static_cast<int>(holder)) : nullptr;
  if (holder != 0 && (owner == nullptr || owner->exiting())) {
    Leave(wait);
    return Errno(ESRCH);
  }
  if (holder != 0 && try_only) return Errno(EAGAIN);
  if (task.syscall().timed_out) {
    Leave(wait);
    return Errno(ETIMEDOUT);
  }
  if (WouldDeadlock(task, owner)) return Errno(EDEADLK);
  if ((word & FUTEX_WAITERS) == 0) return SetWaitersBit(task, address);
  if (holder == 0) {
    Leave(wait);
    wait.age = 0;
    TRY(WriteWord(task, address, static_cast<uint32_t>(task.tid()) | (word & FUTEX_OWNER_DIED) | (CountOf(key) > 0 ? FUTEX_WAITERS : 0)));
    auto it = locks_.find(key);
    if (it != locks_.end()) it->second.owner = &task;
    return 0;
  }
  wait.address = address;
  Enter(wait, PiWait::Where::kLock, key, std::move(pin), owner);
  return task.Block(wait.queue, POLLIN, deadline, kErestartnointr);
}

ErrnoOr<uint64_t> PiFutexes::Unlock(Task& task, uint64_t address, bool shared) {
  FutexKey key = TRY(FutexKeyOf(task, address, shared, nullptr));
  uint32_t word = TRY(ReadWord(task, address));
  if ((word & FUTEX_TID_MASK) != static_cast<uint32_t>(task.tid())) return Errno(EPERM);
  while (PiWait* next = Next(locks_, key)) {
    if (Grant(*next, 0).ok()) return 0;
    Leave(*next);  // it has unmapped the word
  }
  TRY(WriteWord(task, address, 0));
  return 0;
}

ErrnoOr<uint64_t> PiFutexes::WaitRequeue(Task& task, uint64_t address, bool shared, uint32_t value, int64_t deadline, uint64_t lock) {
  PiWait& wait = WaitOf(task);
  if (TakeGrant(wait, lock)) return 0;
  if (!task.syscall().restarted) wait.requeued = false;
  if (wait.requeued) {
    auto got = Lock(task, lock, shared, deadline, false);
    if (got.ok() || !got.Is(kBlocked.number())) wait.requeued = got.Is(kNoAnswer.number());
    return got;
  }
  if (wait.where == PiWait::Where::kNowhere && !task.syscall().restarted) wait.age = 0;
  RefPtr<File> pin;
  FutexKey key = TRY(FutexKeyOf(task, address, shared, &pin));
  FutexKey target = TRY(FutexKeyOf(task, lock, shared, nullptr));
  if (key == target) return Errno(EINVAL);
  if (task.syscall().timed_out) {
    Leave(wait);
    return Errno(ETIMEDOUT);
  }
  // A wait that a signal interrupted begins anew, and looks again.
  if (TRY(ReadWord(task, address)) != value) {
    Leave(wait);
    return Errno(EAGAIN);
  }
  wait.address = lock;
  wait.target = target;
  Enter(wait, PiWait::Where::kRequeue, key, std::move(pin), nullptr);
  return task.Block(wait.queue, POLLIN, deadline, kErestartnointr);
}

ErrnoOr<uint64_t> PiFutexes::Requeue(Task& task, uint64_t address, bool shared, int wake, int requeue, uint64_t lock, uint32_t value) {
  if (wake != 1 || requeue < 0) return Errno(EINVAL);
  RefPtr<File> pin;
  FutexKey key = TRY(FutexKeyOf(task, address, shared, nullptr));
  FutexKey target = TRY(FutexKeyOf(task, lock, shared, &pin));
  if (key == target) return Errno(EINVAL);
  if (TRY(ReadWord(task, address)) != value) return Errno(EAGAIN);
  PiWait* first = Next(requeues_, key);
  if (first == nullptr) return 0;
  if (first->target != target) return Errno(EINVAL);
  uint32_t word = TRY(ReadWord(task, lock));
  uint32_t holder = word & FUTEX_TID_MASK;
  Task* owner = holder != 0 ? task.FindTask(static_cast<int>(holder)) : nullptr;
  if (holder != 0 && (owner == nullptr || owner->exiting())) return Errno(ESRCH);
  if ((word & FUTEX_WAITERS) == 0) return SetWaitersBit(task, lock);
  // As many as `requeue` go to wait for the lock, and one more gets it if it is free.
  std::vector<PiWait*> moving;
  size_t limit = static_cast<size_t>(requeue) + 1;
  auto it = requeues_.find(key);
  for (PiWait* wait : it->second.list) {
    if (moving.size() < limit && wait->target == target) moving.push_back(wait);
  }
  for (PiWait* wait : moving) {
    wait->requeued = true;
    Enter(*wait, PiWait::Where::kLock, target, pin, owner);
  }
  if (owner == nullptr) {
    PiWait* next = Next(locks_, target);
    if (next != nullptr) TRY(Grant(*next, word & FUTEX_OWNER_DIED));
  }
  return moving.size();
}

void PiFutexes::OnExit(Task& task) {
  if (task.extras().pi_wait != nullptr) Leave(*task.extras().pi_wait);
  std::vector<FutexKey> owned;
  for (const auto& [key, waiters] : locks_) {
    if (waiters.owner == &task) owned.push_back(key);
  }
  for (const FutexKey& key : owned) {
    while (PiWait* next = Next(locks_, key)) {
      if (Grant(*next, FUTEX_OWNER_DIED).ok()) break;
      Leave(*next);
    }
    auto it = locks_.find(key);
    if (it != locks_.end() && it->second.owner == &task) it->second.owner = nullptr;
  }
}

}  // namespace amber
