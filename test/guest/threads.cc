// Threads: what they share and what is their own.
#include <sched.h>
#include <sys/prctl.h>

#include "test/harness/guest_util.h"

using namespace guest;

GUEST_TEST(Thread, SharesPidNotTid) {
  const pid_t pid = getpid();
  Thread other([=] {
    EXPECT_EQ(getpid(), pid);
    EXPECT_NE(syscall(SYS_gettid), pid);
  });
  other.Join();
  EXPECT_NE(other.tid(), pid);
}

GUEST_TEST(Thread, LocalStorageIsOwn) {
  static thread_local int value = 7;
  value = 1;
  Thread other([] {
    EXPECT_EQ(value, 7);
    value = 2;
    CheckpointHere();
    EXPECT_EQ(value, 2);
  });
  other.Join();
  EXPECT_EQ(value, 1);
}

GUEST_TEST(Thread, FsBaseIsOwn) {
  unsigned long here = 0, there = 0;
  MUST(syscall(SYS_arch_prctl, 0x1003 /*ARCH_GET_FS*/, &here));
  Thread other([&] { MUST(syscall(SYS_arch_prctl, 0x1003, &there)); });
  other.Join();
  EXPECT_NE(here, there);
  EXPECT_EQ(here, reinterpret_cast<unsigned long>(__builtin_thread_pointer()));
}

GUEST_TEST(Thread, GsBaseHoldsItsValue) {
  static uint64_t slot[2] = {0x1122334455667788, 5};
  MUST(syscall(SYS_arch_prctl, 0x1001 /*ARCH_SET_GS*/, slot));
  CheckpointHere();
  SleepMs(1);
  uint64_t value = 0;
  asm volatile("mov %%gs:0, %0" : "=r"(value));
  EXPECT_EQ(value, slot[0]);
  unsigned long base = 0;
  MUST(syscall(SYS_arch_prctl, 0x1004 /*ARCH_GET_GS*/, &base));
  EXPECT_EQ(base, reinterpret_cast<unsigned long>(slot));
  EXPECT_ERRNO(syscall(SYS_arch_prctl, 0x1001, 0x8000'0000'0000'0000), EPERM);
  EXPECT_ERRNO(syscall(SYS_arch_prctl, 0x9999, 0), EINVAL);
}

GUEST_TEST(Thread, MutexExcludes) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  int64_t counter = 0;
  auto work = [&] {
    for (int i = 0; i < 20000; ++i) {
      pthread_mutex_lock(&mutex);
      counter = counter + 1;
      pthread_mutex_unlock(&mutex);
    }
  };
  {
    Thread a(work), b(work), c(work), d(work);
    CheckpointHere();
  }
  EXPECT_EQ(counter, 80000);
}

GUEST_TEST(Thread, ConditionPingPong) {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  int turn = 0;
  auto play = [&](int me) {
    for (int i = 0; i < 500; ++i) {
      pthread_mutex_lock(&mutex);
      while (turn % 2 != me) pthread_cond_wait(&condition, &mutex);
      ++turn;
      pthread_cond_broadcast(&condition);
      pthread_mutex_unlock(&mutex);
    }
  };
  {
    Thread other([&] { play(1); });
    play(0);
  }
  EXPECT_EQ(turn, 1000);
}

GUEST_TEST(Thread, ManyThreads) {
  static int started = 0;
  static Gate* gate;
  Gate go;
  gate = &go;
  pthread_t threads[100];
  for (pthread_t& thread : threads) {
    ASSERT_EQ(pthread_create(
                  &thread, nullptr,
                  [](void*) -> void* {
                    __atomic_fetch_add(&started, 1, __ATOMIC_SEQ_CST);
                    gate->Await();
                    return nullptr;
                  },
                  nullptr),
              0);
  }
  while (__atomic_load_n(&started, __ATOMIC_SEQ_CST) < 100) SleepMs(1);
  EXPECT_EQ(ProcField("/proc/self/status", "Threads"), 101);
  CheckpointHere();
  EXPECT_EQ(ProcField("/proc/self/status", "Threads"), 101);
  for (int i = 0; i < 100; ++i) go.Open();
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
}

GUEST_TEST(Thread, CancelInABlockingCall) {
  Pipe p;
  Thread other([&] {
    char byte;
    read(p.r, &byte, 1);
    EXPECT(false);
  });
  other.AwaitAsleep();
  EXPECT_EQ(pthread_cancel(other.handle()), 0);
}

GUEST_TEST(Thread, NamesArePerThread) {
  MUST(prctl(PR_SET_NAME, "main-name"));
  Thread other([] {
    char name[16] = {};
    MUST(prctl(PR_GET_NAME, name));
    EXPECT_STREQ(name, "main-name");  // Inherited.
    MUST(prctl(PR_SET_NAME, "a-name-that-is-too-long"));
    MUST(prctl(PR_GET_NAME, name));
    EXPECT_STREQ(name, "a-name-that-is-");
    CheckpointHere();
    char text[32];
    ReadFile(Str("/proc/self/task/%d/comm", static_cast<int>(syscall(SYS_gettid))), text, sizeof(text));
    EXPECT_STREQ(text, "a-name-that-is-\n");
  });
  other.Join();
  char text[32];
  ReadFile("/proc/self/comm", text, sizeof(text));
  EXPECT_STREQ(text, "main-name\n");
}

GUEST_TEST(Thread, UnshareFilesSplitsTheTable) {
  Thread other([] {
    MUST(unshare(CLONE_FILES));
    MUST(dup2(1, 88));
  });
  other.Join();
  EXPECT_ERRNO(fcntl(88, F_GETFD), EBADF);
}

GUEST_TEST(Thread, UnshareFsSplitsTheFolder) {
  Thread other([] {
    MUST(unshare(CLONE_FS));
    MUST(chdir("/proc"));
  });
  other.Join();
  char folder[256];
  ASSERT_NE(getcwd(folder, sizeof(folder)), nullptr);
  EXPECT_NE(strcmp(folder, "/proc"), 0);
}

GUEST_TEST(Thread, AffinityOfOneThread) {
  cpu_set_t all, one, now;
  CPU_ZERO(&one);
  MUST(sched_getaffinity(0, sizeof(all), &all));
  int cpu = 0;
  while (!CPU_ISSET(cpu, &all)) ++cpu;
  CPU_SET(cpu, &one);
  Thread other([&] {
    MUST(sched_setaffinity(0, sizeof(one), &one));
    CheckpointHere();
    MUST(sched_getaffinity(0, sizeof(now), &now));
    EXPECT(CPU_EQUAL(&now, &one));
    EXPECT_EQ(sched_getcpu(), cpu);
  });
  other.Join();
  MUST(sched_getaffinity(0, sizeof(now), &now));
  EXPECT(CPU_EQUAL(&now, &all));
}
