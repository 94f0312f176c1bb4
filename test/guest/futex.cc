// futex: the raw call, and what the C library builds on it.
#include <linux/futex.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

long Futex(void* word, int operation, int value, const void* timeout = nullptr, void* word2 = nullptr, int value3 = 0) {
  return syscall(SYS_futex, word, operation, value, timeout, word2, value3);
}

// The fourth argument as a number, for the requeue family.
const void* Count(long count) { return reinterpret_cast<const void*>(count); }

// Waits for that many waiters to be woken.
void WakeAll(int* word, int operation, int wanted) {
  int woken = 0;
  for (int i = 0; i < 20000 && woken < wanted; ++i) {
    woken += static_cast<int>(MUST(Futex(word, operation, wanted - woken)));
    if (woken < wanted) SleepMs(1);
  }
  EXPECT_EQ(woken, wanted);
}

void Init(pthread_mutex_t* mutex, bool shared, bool robust, int protocol, int type = PTHREAD_MUTEX_NORMAL) {
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  if (shared) pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  if (robust) pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  pthread_mutexattr_setprotocol(&attributes, protocol);
  pthread_mutexattr_settype(&attributes, type);
  ASSERT_EQ(pthread_mutex_init(mutex, &attributes), 0);
}

}  // namespace

GUEST_TEST(Futex, WaitComparesFirst) {
  int word = 1;
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 0), EAGAIN);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT_PRIVATE, 2), EAGAIN);
}

GUEST_TEST(Futex, WakeWithoutWaiters) {
  int word = 0;
  EXPECT_EQ(Futex(&word, FUTEX_WAKE, 1), 0);
  EXPECT_EQ(Futex(&word, FUTEX_WAKE_PRIVATE, 1000), 0);
}

GUEST_TEST(Futex, Arguments) {
  alignas(8) char bytes[8] = {};
  EXPECT_ERRNO(Futex(bytes + 1, FUTEX_WAIT, 0), EINVAL);
  EXPECT_ERRNO(Futex(reinterpret_cast<void*>(4096), FUTEX_WAIT, 0), EFAULT);
  EXPECT_ERRNO(Futex(reinterpret_cast<void*>(0xffff'8000'0000'0000), FUTEX_WAKE, 1), EFAULT);
  EXPECT_ERRNO(Futex(bytes, 99, 0), ENOSYS);
  EXPECT_ERRNO(Futex(bytes, FUTEX_WAIT_BITSET, 0, nullptr, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Futex(bytes, FUTEX_WAKE_BITSET, 1, nullptr, nullptr, 0), EINVAL);
  const timespec bad = {.tv_sec = 0, .tv_nsec = -1};
  EXPECT_ERRNO(Futex(bytes, FUTEX_WAIT, 0, &bad), EINVAL);
  EXPECT_ERRNO(Futex(bytes, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 0), ENOSYS);
}

GUEST_TEST(Futex, WaitTimesOut) {
  int word = 0;
  const int64_t start = NowNs();
  const timespec wait = Ns(40 * kMs);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT, 0, &wait), ETIMEDOUT);
  EXPECT_GE(NowNs() - start, 40 * kMs);
}

GUEST_TEST(Futex, BitsetWaitHasAnAbsoluteTime) {
  int word = 0;
  timespec until = Ns(NowNs() + 40 * kMs);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT_BITSET, 0, &until, nullptr, -1), ETIMEDOUT);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT_BITSET, 0, &until, nullptr, -1),
               ETIMEDOUT);  // Past: at once.
  until = Ns(NowNs(CLOCK_REALTIME) + 40 * kMs);
  EXPECT_ERRNO(Futex(&word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &until, nullptr, -1), ETIMEDOUT);
}

GUEST_TEST(Futex, WakeWakes) {
  int word = 0;
  Thread waiter([&] { EXPECT_EQ(Futex(&word, FUTEX_WAIT_PRIVATE, 0), 0); });
  waiter.AwaitAsleep();
  CheckpointHere();
  WakeAll(&word, FUTEX_WAKE_PRIVATE, 1);
}

GUEST_TEST(Futex, PrivateAndSharedDoNotMeet) {
  int word = 0;
  Thread waiter([&] { EXPECT_EQ(Futex(&word, FUTEX_WAIT_PRIVATE, 0), 0); });
  waiter.AwaitAsleep();
  EXPECT_EQ(Futex(&word, FUTEX_WAKE, 1), 0);
  WakeAll(&word, FUTEX_WAKE_PRIVATE, 1);
}

GUEST_TEST(Futex, WakesInOrderOfArrival) {
  int word = 0;
  int order[3] = {-1, -1, -1}, next = 0;
  auto wait = [&](int me) {
    EXPECT_EQ(Futex(&word, FUTEX_WAIT, 0), 0);
    order[__atomic_fetch_add(&next, 1, __ATOMIC_SEQ_CST)] = me;
  };
  Thread a([&] { wait(0); });
  a.AwaitAsleep();
  Thread b([&] { wait(1); });
  b.AwaitAsleep();
  Thread c([&] { wait(2); });
  c.AwaitAsleep();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(Futex(&word, FUTEX_WAKE, 1), 1);
    while (__atomic_load_n(&next, __ATOMIC_SEQ_CST) != i + 1) SleepMs(1);
  }
  for (int i = 0; i < 3; ++i) EXPECT_EQ(order[i], i);
}

GUEST_TEST(Futex, BitsetSelects) {
  int word = 0;
  Thread even([&] { EXPECT_EQ(Futex(&word, FUTEX_WAIT_BITSET, 0, nullptr, nullptr, 2), 0); });
  Thread odd([&] { EXPECT_EQ(Futex(&word, FUTEX_WAIT_BITSET, 0, nullptr, nullptr, 1), 0); });
  even.AwaitAsleep();
  odd.AwaitAsleep();
  CheckpointHere();
  EXPECT_EQ(Futex(&word, FUTEX_WAKE_BITSET, 10, nullptr, nullptr, 4), 0);
  EXPECT_EQ(Futex(&word, FUTEX_WAKE_BITSET, 10, nullptr, nullptr, 1), 1);
  odd.Join();
  EXPECT_EQ(Futex(&word, FUTEX_WAKE, 10), 1);
}

GUEST_TEST(Futex, SharedBetweenProcesses) {
  auto* word = Shared<int>();
  const pid_t pid = Fork([=] { EXPECT_EQ(Futex(word, FUTEX_WAIT, 0), 0); });
  AwaitAsleep(pid);
  CheckpointHere();
  WakeAll(word, FUTEX_WAKE, 1);
  JOIN_OK(pid);
}

GUEST_TEST(Futex, SharedByFileAtDifferentAddresses) {
  const int fd = TempFile();
  MUST(ftruncate(fd, kPage));
  void* first = MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  void* second = MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  EXPECT_NE(first, second);
  Thread waiter([&] { EXPECT_EQ(Futex(first, FUTEX_WAIT, 0), 0); });
  waiter.AwaitAsleep();
  WakeAll(static_cast<int*>(second), FUTEX_WAKE, 1);
}

GUEST_TEST(Futex, SignalInterrupts) {
  CountSignals(SIGUSR1);
  auto* word = Shared<int>();
  const pid_t self = getpid();
  const pid_t pid = Fork([=] {
    AwaitAsleep(self);
    kill(self, SIGUSR1);
  });
  EXPECT_ERRNO(Futex(word, FUTEX_WAIT, 0), EINTR);
  JOIN_OK(pid);
}

GUEST_TEST(Futex, TimedWaitGoesOnAfterStop) {
  auto* word = Shared<int>();
  const pid_t pid = Fork([=] {
    const timespec wait = Ns(100 * kMs);
    const int64_t start = NowNs();
    EXPECT_ERRNO(Futex(word, FUTEX_WAIT, 0, &wait), ETIMEDOUT);
    EXPECT_GE(NowNs() - start, 100 * kMs);
  });
  AwaitAsleep(pid);
  kill(pid, SIGSTOP);
  AwaitState(pid, pid, 'T');
  kill(pid, SIGCONT);
  JOIN_OK(pid);
}

GUEST_TEST(Futex, RequeueMovesWaiters) {
  int first = 0, second = 0;
  Thread a([&] { EXPECT_EQ(Futex(&first, FUTEX_WAIT, 0), 0); });
  Thread b([&] { EXPECT_EQ(Futex(&first, FUTEX_WAIT, 0), 0); });
  Thread c([&] { EXPECT_EQ(Futex(&first, FUTEX_WAIT, 0), 0); });
  a.AwaitAsleep();
  b.AwaitAsleep();
  c.AwaitAsleep();
  EXPECT_EQ(Futex(&first, FUTEX_REQUEUE, 1, Count(1), &second), 2);
  EXPECT_EQ(Futex(&second, FUTEX_WAKE, 10), 1);
  EXPECT_EQ(Futex(&first, FUTEX_WAKE, 10), 1);
}

GUEST_TEST(Futex, CmpRequeueCompares) {
  int first = 7, second = 0;
  EXPECT_ERRNO(Futex(&first, FUTEX_CMP_REQUEUE, 1, Count(1), &second, 8), EAGAIN);
  EXPECT_EQ(Futex(&first, FUTEX_CMP_REQUEUE, 1, Count(1), &second, 7), 0);
  Thread a([&] { EXPECT_EQ(Futex(&first, FUTEX_WAIT, 7), 0); });
  a.AwaitAsleep();
  EXPECT_EQ(Futex(&first, FUTEX_CMP_REQUEUE, 0, Count(1), &second, 7), 1);
  CheckpointHere();
  WakeAll(&second, FUTEX_WAKE, 1);
}

GUEST_TEST(Futex, WakeOpChangesAndWakes) {
  int first = 0, second = 10;
  Thread a([&] { EXPECT_EQ(Futex(&first, FUTEX_WAIT, 0), 0); });
  Thread b([&] { EXPECT_EQ(Futex(&second, FUTEX_WAIT, 10), 0); });
  a.AwaitAsleep();
  b.AwaitAsleep();
  EXPECT_EQ(Futex(&first, FUTEX_WAKE_OP, 1, Count(1), &second, FUTEX_OP(FUTEX_OP_ADD, 5, FUTEX_OP_CMP_EQ, 10)), 2);
  EXPECT_EQ(second, 15);
  EXPECT_EQ(Futex(&first, FUTEX_WAKE_OP, 1, Count(1), &second, FUTEX_OP(FUTEX_OP_SET, 1, FUTEX_OP_CMP_LT, 0)), 0);
  EXPECT_EQ(second, 1);
}

GUEST_TEST(Futex, PiLockSetsTheOwner) {
  int word = 0;
  EXPECT_EQ(Futex(&word, FUTEX_LOCK_PI, 0), 0);
  EXPECT_EQ(word & FUTEX_TID_MASK, syscall(SYS_gettid));
  EXPECT_ERRNO(Futex(&word, FUTEX_LOCK_PI, 0), EDEADLK);
  EXPECT_ERRNO(Futex(&word, FUTEX_TRYLOCK_PI, 0), EDEADLK);
  EXPECT_EQ(Futex(&word, FUTEX_UNLOCK_PI, 0), 0);
  EXPECT_EQ(word, 0);
  EXPECT_ERRNO(Futex(&word, FUTEX_UNLOCK_PI, 0), EPERM);
}

GUEST_TEST(Futex, PiLockBlocksAndHandsOver) {
  int word = 0;
  ASSERT_EQ(Futex(&word, FUTEX_LOCK_PI, 0), 0);
  Thread other([&] {
    EXPECT_ERRNO(Futex(&word, FUTEX_TRYLOCK_PI, 0), EAGAIN);
    EXPECT_EQ(Futex(&word, FUTEX_LOCK_PI, 0), 0);
    EXPECT_EQ(word & FUTEX_TID_MASK, syscall(SYS_gettid));
    EXPECT_EQ(Futex(&word, FUTEX_UNLOCK_PI, 0), 0);
  });
  other.AwaitAsleep();
  EXPECT_NE(word & FUTEX_WAITERS, 0);
  CheckpointHere();
  EXPECT_EQ(Futex(&word, FUTEX_UNLOCK_PI, 0), 0);
}

GUEST_TEST(Futex, PiLockOfADeadOwner) {
  auto* word = Shared<int>();
  const pid_t gone = Fork([] {});
  JOIN_OK(gone);
  *word = gone;
  EXPECT_ERRNO(Futex(word, FUTEX_LOCK_PI, 0), ESRCH);
}

GUEST_TEST(Futex, PiLockTimesOut) {
  auto* word = Shared<int>();
  Gate locked, done;
  const pid_t pid = Fork([&] {
    EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);
    locked.Open();
    done.Await();
    EXPECT_EQ(Futex(word, FUTEX_UNLOCK_PI, 0), 0);
  });
  locked.Await();
  const timespec until = Ns(NowNs(CLOCK_REALTIME) + 30 * kMs);
  EXPECT_ERRNO(Futex(word, FUTEX_LOCK_PI, 0, &until), ETIMEDOUT);
  done.Open();
  JOIN_OK(pid);
  EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);
}

GUEST_TEST(Futex, RobustListAnswersItsHead) {
  void* head = nullptr;
  size_t size = 0;
  MUST(syscall(SYS_get_robust_list, 0, &head, &size));
  EXPECT_NE(head, nullptr);
  EXPECT_EQ(size, sizeof(robust_list_head));
  EXPECT_ERRNO(syscall(SYS_set_robust_list, head, size - 1), EINVAL);
}

GUEST_TEST(Futex, RobustMutexOfADeadProcess) {
  auto* mutex = Shared<pthread_mutex_t>();
  Init(mutex, true, true, PTHREAD_PRIO_NONE);
  const pid_t pid = Fork([=] {
    EXPECT_EQ(pthread_mutex_lock(mutex), 0);
    _exit(0);
  });
  JOIN_OK(pid);
  EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD);
  EXPECT_EQ(pthread_mutex_consistent(mutex), 0);
  EXPECT_EQ(pthread_mutex_unlock(mutex), 0);
  EXPECT_EQ(pthread_mutex_lock(mutex), 0);
}

GUEST_TEST(Futex, RobustMutexWakesAWaiterOnKill) {
  auto* mutex = Shared<pthread_mutex_t>();
  Init(mutex, true, true, PTHREAD_PRIO_NONE);
  Gate locked;
  const pid_t owner = Fork([&] {
    EXPECT_EQ(pthread_mutex_lock(mutex), 0);
    locked.Open();
    pause();
  });
  locked.Await();
  const pid_t waiter = Fork([=] { EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD); });
  AwaitAsleep(waiter);
  CheckpointHere();
  kill(owner, SIGKILL);
  EXPECT_KILLED(WaitStatus(owner), SIGKILL);
  JOIN_OK(waiter);
}

GUEST_TEST(Futex, RobustMutexOfADeadThread) {
  auto* mutex = Shared<pthread_mutex_t>();
  Init(mutex, false, true, PTHREAD_PRIO_NONE);
  Thread other([=] { EXPECT_EQ(pthread_mutex_lock(mutex), 0); });
  other.Join();
  EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD);
}

GUEST_TEST(Futex, RobustMutexSurvivesOnExec) {
  auto* mutex = Shared<pthread_mutex_t>();
  Init(mutex, true, true, PTHREAD_PRIO_NONE);
  const pid_t pid = Fork([=] {
    EXPECT_EQ(pthread_mutex_lock(mutex), 0);
    char* arguments[] = {const_cast<char*>(SelfPath()), const_cast<char*>("@True"), nullptr};
    execv(SelfPath(), arguments);
  });
  JOIN_OK(pid);
  EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD);
}

GUEST_HELPER(True) { return 0; }

GUEST_TEST(Futex, PriorityInheritanceMutex) {
  auto* mutex = Shared<pthread_mutex_t>();
  Init(mutex, true, true, PTHREAD_PRIO_INHERIT);
  Gate locked;
  const pid_t owner = Fork([&] {
    EXPECT_EQ(pthread_mutex_lock(mutex), 0);
    locked.Open();
    pause();
  });
  locked.Await();
  const pid_t waiter = Fork([=] { EXPECT_EQ(pthread_mutex_lock(mutex), EOWNERDEAD); });
  AwaitAsleep(waiter);
  CheckpointHere();
  kill(owner, SIGKILL);
  EXPECT_KILLED(WaitStatus(owner), SIGKILL);
  JOIN_OK(waiter);
}

GUEST_TEST(Futex, PiLock2TakesMonotonicTimes) {
  auto* word = Shared<int>();
  *word = MUST(Fork([] { pause(); }));
  const timespec until = Ns(NowNs() + 30 * kMs);
  EXPECT_ERRNO(Futex(word, 13 /*FUTEX_LOCK_PI2*/, 0, &until), ETIMEDOUT);
  EXPECT_GE(NowNs(), until.tv_sec * 1'000'000'000 + until.tv_nsec);
  const timespec real = Ns(NowNs(CLOCK_REALTIME) + 30 * kMs);
  EXPECT_ERRNO(Futex(word, 13 | FUTEX_CLOCK_REALTIME, 0, &real), ETIMEDOUT);
  EXPECT_ERRNO(Futex(word, FUTEX_LOCK_PI | FUTEX_CLOCK_REALTIME, 0, &real), ENOSYS);
  kill(*word & FUTEX_TID_MASK, SIGKILL);
}

GUEST_TEST(Futex, PiLocksInACircle) {
  int first = 0, second = 0;
  ASSERT_EQ(Futex(&first, FUTEX_LOCK_PI, 0), 0);
  Gate locked;
  Thread other([&] {
    EXPECT_EQ(Futex(&second, FUTEX_LOCK_PI, 0), 0);
    locked.Open();
    EXPECT_EQ(Futex(&first, FUTEX_LOCK_PI, 0), 0);
    EXPECT_EQ(Futex(&first, FUTEX_UNLOCK_PI, 0), 0);
    EXPECT_EQ(Futex(&second, FUTEX_UNLOCK_PI, 0), 0);
  });
  locked.Await();
  other.AwaitAsleep();
  EXPECT_ERRNO(Futex(&second, FUTEX_LOCK_PI, 0), EDEADLK);
  EXPECT_EQ(Futex(&first, FUTEX_UNLOCK_PI, 0), 0);
  other.Join();
}

GUEST_TEST(Futex, PiLockOfAKilledOwnerIsHandedOn) {
  auto* word = Shared<int>();
  Gate locked;
  const pid_t owner = Fork([&] {
    EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);
    locked.Open();
    pause();
  });
  locked.Await();
  const pid_t waiter = Fork([=] {
    EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);
    EXPECT_EQ(*word & FUTEX_TID_MASK, getpid());
    EXPECT_NE(*word & FUTEX_OWNER_DIED, 0);
    EXPECT_EQ(Futex(word, FUTEX_UNLOCK_PI, 0), 0);
  });
  AwaitAsleep(waiter);
  CheckpointHere();
  kill(owner, SIGKILL);
  EXPECT_KILLED(WaitStatus(owner), SIGKILL);
  JOIN_OK(waiter);
}

GUEST_TEST(Futex, PiLockSurvivesASignal) {
  CountSignals(SIGUSR1);
  auto* word = Shared<int>();
  Gate locked, interrupted;
  const pid_t self = getpid();
  const pid_t owner = Fork([&] {
    EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);
    locked.Open();
    AwaitAsleep(self);
    kill(self, SIGUSR1);
    SleepMs(20);
    AwaitAsleep(self);
    EXPECT_EQ(Futex(word, FUTEX_UNLOCK_PI, 0), 0);
  });
  locked.Await();
  EXPECT_EQ(Futex(word, FUTEX_LOCK_PI, 0), 0);  // Restarted, whatever the handler's flags say.
  EXPECT_EQ(*word & FUTEX_TID_MASK, getpid());
  EXPECT_EQ(Futex(word, FUTEX_UNLOCK_PI, 0), 0);
  JOIN_OK(owner);
}

GUEST_TEST(Futex, PiRequeue) {
  int condition = 0, lock = 0;
  auto wait = [&] {
    EXPECT_EQ(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, nullptr, &lock), 0);
    EXPECT_EQ(lock & FUTEX_TID_MASK, syscall(SYS_gettid));
    EXPECT_EQ(Futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0), 0);
  };
  EXPECT_ERRNO(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 1, nullptr, &lock), EAGAIN);
  EXPECT_ERRNO(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, nullptr, &condition), EINVAL);
  const timespec until = Ns(NowNs() + 20 * kMs);
  EXPECT_ERRNO(Futex(&condition, FUTEX_WAIT_REQUEUE_PI_PRIVATE, 0, &until, &lock), ETIMEDOUT);
  Thread a(wait), b(wait);
  a.AwaitAsleep();
  b.AwaitAsleep();
  ASSERT_EQ(Futex(&lock, FUTEX_LOCK_PI_PRIVATE, 0), 0);
  EXPECT_ERRNO(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 2, Count(1), &lock, 0), EINVAL);
  EXPECT_ERRNO(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, Count(1), &lock, 5), EAGAIN);
  EXPECT_EQ(Futex(&condition, FUTEX_CMP_REQUEUE_PI_PRIVATE, 1, Count(10), &lock, 0), 2);
  CheckpointHere();
  EXPECT_EQ(Futex(&lock, FUTEX_UNLOCK_PI_PRIVATE, 0), 0);
  a.Join();
  b.Join();
  EXPECT_EQ(lock & FUTEX_TID_MASK, 0);
}

GUEST_TEST(Futex, PiRequeueToAFreeLock) {
  int condition = 0, lock = 0;
  Thread waiter([&] {
    EXPECT_EQ(Futex(&condition, FUTEX_WAIT_REQUEUE_PI, 0, nullptr, &lock), 0);
    EXPECT_EQ(Futex(&lock, FUTEX_UNLOCK_PI, 0), 0);
  });
  waiter.AwaitAsleep();
  EXPECT_EQ(Futex(&condition, FUTEX_CMP_REQUEUE_PI, 1, Count(0), &lock, 0), 1);
  waiter.Join();
}

GUEST_TEST(Futex, PiMutexUnderContention) {
  pthread_mutex_t mutex;
  Init(&mutex, false, false, PTHREAD_PRIO_INHERIT);
  int count = 0;
  auto work = [&] {
    for (int i = 0; i < 300; ++i) {
      EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
      count = count + 1;
      if (i % 50 == 0) sched_yield();
      EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
    }
  };
  {
    Thread a(work), b(work), c(work);
    work();
  }
  EXPECT_EQ(count, 1200);
}

GUEST_TEST(Futex, PiMutexWithACondition) {
  pthread_mutex_t mutex;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  Init(&mutex, false, false, PTHREAD_PRIO_INHERIT);
  int turn = 0;
  auto play = [&](int me) {
    for (int i = 0; i < 50; ++i) {
      pthread_mutex_lock(&mutex);
      while (turn != me) pthread_cond_wait(&condition, &mutex);
      turn = 1 - me;
      pthread_cond_signal(&condition);
      pthread_mutex_unlock(&mutex);
    }
  };
  Thread other([&] { play(1); });
  play(0);
  other.Join();
  EXPECT_EQ(turn, 0);
}

namespace {

struct RobustEntry {
  RobustEntry* next;
  int word;
};

// A process whose robust list has `count` entries, all of them its own locks; closed by its head or not.
void DieWithList(robust_list_head* head, RobustEntry* entries, int count, bool closed) {
  JOIN_OK(Fork([=] {
    for (int i = 0; i < count; ++i) {
      entries[i].next = i + 1 < count ? &entries[i + 1] : closed ? reinterpret_cast<RobustEntry*>(head) : &entries[0];
      entries[i].word = getpid();
    }
    head->list.next = reinterpret_cast<robust_list*>(&entries[0]);
    head->futex_offset = offsetof(RobustEntry, word);
    head->list_op_pending = nullptr;
    MUST(syscall(SYS_set_robust_list, head, sizeof(*head)));
    _exit(0);
  }));
}

}  // namespace

GUEST_TEST(Futex, RobustListIsWalkedToItsLimit) {
  constexpr int kCount = 2060;
  auto* head = Shared<robust_list_head>();
  auto* entries =
      static_cast<RobustEntry*>(MUST(mmap(nullptr, kCount * sizeof(RobustEntry), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)));
  DieWithList(head, entries, kCount, true);
  EXPECT_EQ(entries[0].word, static_cast<int>(FUTEX_OWNER_DIED));
  EXPECT_EQ(entries[2047].word, static_cast<int>(FUTEX_OWNER_DIED));
  EXPECT_NE(entries[2048].word, static_cast<int>(FUTEX_OWNER_DIED));
  EXPECT_NE(entries[kCount - 1].word, static_cast<int>(FUTEX_OWNER_DIED));
}

GUEST_TEST(Futex, RobustListThatNeverEnds) {
  auto* head = Shared<robust_list_head>();
  auto* entries = Shared<RobustEntry>();
  DieWithList(head, entries, 1, false);
  EXPECT_EQ(entries->word, static_cast<int>(FUTEX_OWNER_DIED));
}

GUEST_TEST(Futex, RobustMutexOfAThreadThatOthersWaitFor) {
  pthread_mutex_t mutex;
  Init(&mutex, false, true, PTHREAD_PRIO_NONE);
  Gate locked, die;
  Thread owner([&] {
    EXPECT_EQ(pthread_mutex_lock(&mutex), 0);
    locked.Open();
    die.Await();
  });
  locked.Await();
  auto wait = [&] {
    const int result = pthread_mutex_lock(&mutex);
    EXPECT(result == 0 || result == EOWNERDEAD);
    if (result == EOWNERDEAD) EXPECT_EQ(pthread_mutex_consistent(&mutex), 0);
    EXPECT_EQ(pthread_mutex_unlock(&mutex), 0);
  };
  Thread a(wait), b(wait), c(wait);
  a.AwaitAsleep();
  b.AwaitAsleep();
  c.AwaitAsleep();
  CheckpointHere();
  die.Open();
}

GUEST_TEST(Futex, SharedConditionVariable) {
  struct Block {
    pthread_mutex_t mutex;
    pthread_cond_t condition;
    int ready;
  };
  auto* block = Shared<Block>();
  Init(&block->mutex, true, false, PTHREAD_PRIO_NONE);
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ASSERT_EQ(pthread_cond_init(&block->condition, &attributes), 0);
  pid_t pids[4];
  for (pid_t& pid : pids) {
    pid = Fork([=] {
      pthread_mutex_lock(&block->mutex);
      while (block->ready == 0) pthread_cond_wait(&block->condition, &block->mutex);
      pthread_mutex_unlock(&block->mutex);
    });
  }
  for (const pid_t pid : pids) AwaitAsleep(pid);
  CheckpointHere();
  pthread_mutex_lock(&block->mutex);
  block->ready = 1;
  pthread_cond_broadcast(&block->condition);
  pthread_mutex_unlock(&block->mutex);
  for (const pid_t pid : pids) JOIN_OK(pid);
}

GUEST_TEST(Futex, TimedConditionWait) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  pthread_mutex_lock(&mutex);
  const timespec until = Ns(NowNs(CLOCK_REALTIME) + 30 * kMs);
  EXPECT_EQ(pthread_cond_timedwait(&condition, &mutex, &until), ETIMEDOUT);
  EXPECT_GE(NowNs(CLOCK_REALTIME), until.tv_sec * 1'000'000'000 + until.tv_nsec);
  pthread_mutex_unlock(&mutex);
}

GUEST_TEST(Futex, BarrierMeets) {
  pthread_barrier_t barrier;
  pthread_barrier_init(&barrier, nullptr, 4);
  int serial = 0;
  auto meet = [&] {
    for (int i = 0; i < 50; ++i) {
      if (pthread_barrier_wait(&barrier) == PTHREAD_BARRIER_SERIAL_THREAD) __atomic_fetch_add(&serial, 1, 5);
    }
  };
  {
    Thread a(meet), b(meet), c(meet);
    meet();
  }
  EXPECT_EQ(serial, 50);
}

GUEST_TEST(Futex, Waitv) {
  struct Entry {
    uint64_t value;
    uint64_t address;
    uint32_t flags;
    uint32_t reserved;
  };
  int first = 0, second = 0;
  Entry entries[2] = {{0, reinterpret_cast<uint64_t>(&first), 2 /*FUTEX_32*/, 0}, {0, reinterpret_cast<uint64_t>(&second), 2, 0}};
  const timespec now = Ns(NowNs());
  if (syscall(449 /*futex_waitv*/, entries, 2, 0, &now, CLOCK_MONOTONIC) < 0 && errno == ENOSYS) Skip("no futex_waitv");
  EXPECT_EQ(errno, ETIMEDOUT);
  Thread waiter([&] { EXPECT_EQ(syscall(449, entries, 2, 0, nullptr, 0), 1); });
  waiter.AwaitAsleep();
  WakeAll(&second, FUTEX_WAKE, 1);
}
