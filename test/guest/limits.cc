// Resource limits, priorities, scheduling parameters, and the calls that describe the machine.
#include <sched.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

rlimit Get(int which) {
  rlimit limit = {};
  MUST(getrlimit(static_cast<__rlimit_resource>(which), &limit));
  return limit;
}

int Set(int which, rlim_t soft, rlim_t hard) {
  const rlimit limit = {soft, hard};
  return setrlimit(static_cast<__rlimit_resource>(which), &limit);
}

}  // namespace

GUEST_TEST(Rlimit, SetAndGet) {
  const rlimit before = Get(RLIMIT_NOFILE);
  MUST(Set(RLIMIT_NOFILE, 100, before.rlim_max));
  CheckpointHere();
  EXPECT_EQ(Get(RLIMIT_NOFILE).rlim_cur, 100);
  EXPECT_EQ(Get(RLIMIT_NOFILE).rlim_max, before.rlim_max);
}

GUEST_TEST(Rlimit, Rules) {
  EXPECT_ERRNO(Set(RLIMIT_NOFILE, 100, 50), EINVAL);
  EXPECT_ERRNO(Set(99, 1, 1), EINVAL);
  EXPECT_ERRNO(Set(RLIMIT_NOFILE, 1 << 30, 1 << 30), EPERM);  // Beyond fs.nr_open, even for root.
  EXPECT_ERRNO(syscall(SYS_getrlimit, RLIMIT_NOFILE, 8), EFAULT);
}

GUEST_TEST(Rlimit, HardOnlyGoesDownForUsers) {
  if (geteuid() != 0) Skip("needs root to drop it");
  MUST(Set(RLIMIT_CORE, 0, 1000));
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_OK(Set(RLIMIT_CORE, 500, 900));
  EXPECT_ERRNO(Set(RLIMIT_CORE, 500, 1000), EPERM);
}

GUEST_TEST(Rlimit, InheritedByForkSharedByThreads) {
  MUST(Set(RLIMIT_CORE, 0, 4096));
  JOIN_OK(Fork([] {
    EXPECT_EQ(Get(RLIMIT_CORE).rlim_max, 4096);
    MUST(Set(RLIMIT_CORE, 0, 1));
  }));
  EXPECT_EQ(Get(RLIMIT_CORE).rlim_max, 4096);
  Thread other([] { MUST(Set(RLIMIT_CORE, 0, 2)); });
  other.Join();
  EXPECT_EQ(Get(RLIMIT_CORE).rlim_max, 2);
}

GUEST_TEST(Rlimit, PrlimitOfAnother) {
  const pid_t pid = Fork([] { pause(); });
  const rlimit wanted = {33, 44};
  rlimit old = {};
  EXPECT_OK(prlimit(pid, RLIMIT_NOFILE, &wanted, &old));
  EXPECT_EQ(old.rlim_cur, Get(RLIMIT_NOFILE).rlim_cur);
  EXPECT_OK(prlimit(pid, RLIMIT_NOFILE, nullptr, &old));
  EXPECT_EQ(old.rlim_cur, 33);
  kill(pid, SIGKILL);
  WaitStatus(pid);
  EXPECT_ERRNO(prlimit(pid, RLIMIT_NOFILE, nullptr, &old), ESRCH);
}

GUEST_TEST(Rlimit, FileSizeSignals) {
  CountSignals(SIGXFSZ);
  MUST(Set(RLIMIT_FSIZE, 100, 1000));
  const int fd = TempFile();
  char block[150] = {};
  EXPECT_EQ(write(fd, block, 150), 100);  // As much as fits.
  EXPECT_EQ(SignalCount(), 0);
  EXPECT_ERRNO(write(fd, block, 1), EFBIG);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_ERRNO(ftruncate(fd, 200), EFBIG);
  EXPECT_EQ(SignalCount(), 2);
}

GUEST_TEST(Rlimit, CpuTimeSignals) {
  const pid_t pid = Fork([] {
    CountSignals(SIGXCPU);
    MUST(Set(RLIMIT_CPU, 1, 2));
    while (SignalCount() == 0) {
    }
    // Linux looks at what its ticks have counted, which a machine with stolen time makes too much.
    EXPECT_GE(NowNs(CLOCK_PROCESS_CPUTIME_ID), 500 * kMs);
    for (;;) {
    }
  });
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(Rlimit, StackBoundsGrowth) {
  const rlimit none = {0, 0};
  MUST(setrlimit(RLIMIT_CORE, &none));
  MUST(Set(RLIMIT_STACK, 256 * 1024, RLIM_INFINITY));
  struct Deep {
    static int Down(int level) {
      volatile char frame[4096];
      frame[0] = static_cast<char>(level);
      return level == 0 ? 0 : Down(level - 1) + frame[0];
    }
  };
  const pid_t pid = Fork([] { EXPECT_NE(Deep::Down(1000), 1); });
  EXPECT_KILLED(WaitStatus(pid), SIGSEGV);
}

GUEST_TEST(Rlimit, DataBoundsTheBreak) {
  MUST(Set(RLIMIT_DATA, static_cast<rlim_t>(ProcField("/proc/self/status", "VmData") * 1024 + (1 << 20)), RLIM_INFINITY));
  EXPECT_ERRNO(brk(static_cast<char*>(sbrk(0)) + (8 << 20)), ENOMEM);
  EXPECT_ERRNO(mmap(nullptr, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
}

GUEST_TEST(Rlimit, ProcLimitsAgrees) {
  MUST(Set(RLIMIT_NOFILE, 321, 654));
  char text[4096];
  ReadFile("/proc/self/limits", text, sizeof(text));
  const char* line = strstr(text, "Max open files");
  ASSERT_NE(line, nullptr);
  long soft = 0, hard = 0;
  EXPECT_EQ(sscanf(line, "Max open files %ld %ld files", &soft, &hard), 2);
  EXPECT_EQ(soft, 321);
  EXPECT_EQ(hard, 654);
}

GUEST_TEST(Rlimit, ProcessCountForUsers) {
  if (geteuid() != 0) Skip("needs root to drop it");
  JOIN_OK(Fork([] {
    MUST(Set(RLIMIT_NPROC, 3, 3));
    MUST(setresgid(31337, 31337, 31337));
    MUST(setresuid(31337, 31337, 31337));
    pid_t children[8];
    int made = 0;
    Gate go;
    for (; made < 8; ++made) {
      const pid_t pid = fork();
      if (pid < 0) break;
      if (pid == 0) {
        go.Await();
        _exit(0);
      }
      children[made] = pid;
    }
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(made, 2);
    for (int i = 0; i < made; ++i) go.Open();
    for (int i = 0; i < made; ++i) JOIN_OK(children[i]);
  }));
}

GUEST_TEST(Priority, NiceOfProcess) {
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 0);
  MUST(setpriority(PRIO_PROCESS, 0, 5));
  CheckpointHere();
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 5);
  EXPECT_EQ(syscall(SYS_getpriority, PRIO_PROCESS, 0), 15);  // The raw call answers 20 - nice.
  JOIN_OK(Fork([] { EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 5); }));
  MUST(setpriority(PRIO_PROCESS, 0, 100));
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 19);
  EXPECT_ERRNO(getpriority(static_cast<__priority_which>(9), 0), EINVAL);
  EXPECT_ERRNO(getpriority(PRIO_PROCESS, 0x3ffffff), ESRCH);
}

GUEST_TEST(Priority, UsersMayNotLowerIt) {
  if (geteuid() != 0) Skip("needs root to drop it");
  MUST(Set(RLIMIT_NICE, 0, 0));
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_OK(setpriority(PRIO_PROCESS, 0, 3));
  EXPECT_ERRNO(setpriority(PRIO_PROCESS, 0, 1), EACCES);
}

GUEST_TEST(Scheduler, PolicyReadsBack) {
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
  sched_param parameters = {.sched_priority = 0};
  MUST(sched_setscheduler(0, SCHED_BATCH, &parameters));
  CheckpointHere();
  EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
  MUST(sched_getparam(0, &parameters));
  EXPECT_EQ(parameters.sched_priority, 0);
  parameters.sched_priority = 5;
  EXPECT_ERRNO(sched_setscheduler(0, SCHED_OTHER, &parameters), EINVAL);
  EXPECT_ERRNO(sched_setscheduler(0, 77, &parameters), EINVAL);
  EXPECT_ERRNO(sched_setscheduler(-5, SCHED_OTHER, &parameters), EINVAL);
}

GUEST_TEST(Scheduler, PriorityRanges) {
  EXPECT_EQ(sched_get_priority_min(SCHED_FIFO), 1);
  EXPECT_EQ(sched_get_priority_max(SCHED_FIFO), 99);
  EXPECT_EQ(sched_get_priority_max(SCHED_OTHER), 0);
  EXPECT_ERRNO(sched_get_priority_max(77), EINVAL);
  EXPECT_OK(sched_yield());
}

GUEST_TEST(Scheduler, AffinityArguments) {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_ERRNO(sched_setaffinity(0, sizeof(set), &set), EINVAL);  // No processor at all.
  EXPECT_ERRNO(syscall(SYS_sched_getaffinity, 0, 4, &set), EINVAL);
  EXPECT_GE(syscall(SYS_sched_getaffinity, 0, sizeof(set), &set), 8);
  EXPECT_GE(CPU_COUNT(&set), 1);
  EXPECT_ERRNO(sched_getaffinity(0x3ffffff, sizeof(set), &set), ESRCH);
  EXPECT_ERRNO(sched_getaffinity(-1, sizeof(set), &set), ESRCH);
  MUST(sched_getaffinity(0, sizeof(set), &set));
  EXPECT_ERRNO(sched_setaffinity(-1, sizeof(set), &set), ESRCH);
  EXPECT_OK(sched_setaffinity(getpid(), sizeof(set), &set));
}

GUEST_TEST(Scheduler, AffinityIsInheritedAndKept) {
  cpu_set_t all, one, now;
  MUST(sched_getaffinity(0, sizeof(all), &all));
  CPU_ZERO(&one);
  int cpu = CPU_SETSIZE - 1;
  while (!CPU_ISSET(cpu, &all)) --cpu;
  CPU_SET(cpu, &one);
  MUST(sched_setaffinity(0, sizeof(one), &one));
  CheckpointHere();
  EXPECT_EQ(sched_getcpu(), cpu);
  const pid_t child = Fork([&] {
    MUST(sched_getaffinity(0, sizeof(now), &now));
    EXPECT(CPU_EQUAL(&now, &one));
    // Beyond what it was left: the parent's set stays as it is.
    EXPECT_OK(sched_setaffinity(0, sizeof(all), &all));
  });
  JOIN_OK(child);
  MUST(sched_getaffinity(0, sizeof(now), &now));
  EXPECT(CPU_EQUAL(&now, &one));
}

GUEST_TEST(Scheduler, GetcpuIsInTheSet) {
  cpu_set_t set;
  MUST(sched_getaffinity(0, sizeof(set), &set));
  unsigned cpu = ~0u, node = ~0u;
  MUST(syscall(SYS_getcpu, &cpu, &node, nullptr));
  EXPECT(CPU_ISSET(cpu, &set));
  const int by_vdso = sched_getcpu();
  EXPECT_GE(by_vdso, 0);
  EXPECT(CPU_ISSET(by_vdso, &set));
}

GUEST_TEST(Machine, Uname) {
  utsname name = {};
  MUST(uname(&name));
  EXPECT_STREQ(name.sysname, "Linux");
  EXPECT_STREQ(name.machine, "x86_64");
  int major = 0, minor = 0;
  EXPECT_EQ(sscanf(name.release, "%d.%d", &major, &minor), 2);
  EXPECT_GE(major, 4);
  EXPECT_ERRNO(uname(reinterpret_cast<utsname*>(8)), EFAULT);
  char host[128] = {};
  MUST(gethostname(host, sizeof(host)));
  EXPECT_STREQ(host, name.nodename);
}

GUEST_TEST(Machine, HostnameInItsOwnNamespace) {
  if (geteuid() != 0) Skip("needs root");
  utsname before = {}, after = {};
  MUST(uname(&before));
  JOIN_OK(Fork([] {
    if (unshare(CLONE_NEWUTS) < 0) Fail(__FILE__, __LINE__, true, "unshare: %s", ErrnoName(errno));
    MUST(sethostname("inside", 6));
    CheckpointHere();
    utsname name = {};
    MUST(uname(&name));
    EXPECT_STREQ(name.nodename, "inside");
  }));
  MUST(uname(&after));
  EXPECT_STREQ(after.nodename, before.nodename);
}

GUEST_TEST(Machine, Sysinfo) {
  struct sysinfo info = {};
  MUST(sysinfo(&info));
  EXPECT_GT(info.totalram, 0);
  EXPECT_LE(info.freeram, info.totalram);
  EXPECT_GT(info.procs, 0);
  EXPECT_GE(info.mem_unit, 1);
  EXPECT_GE(info.uptime, 0);
}

GUEST_TEST(Machine, Getrandom) {
  unsigned char a[64] = {}, b[64] = {};
  EXPECT_EQ(getrandom(a, sizeof(a), 0), sizeof(a));
  EXPECT_EQ(getrandom(b, sizeof(b), GRND_NONBLOCK), sizeof(b));
  EXPECT_NE(memcmp(a, b, sizeof(a)), 0);
  EXPECT_ERRNO(getrandom(a, 1, 0x100), EINVAL);
  EXPECT_ERRNO(getrandom(reinterpret_cast<void*>(8), 8, 0), EFAULT);
}

GUEST_TEST(Machine, RandomDiffersInTheChild) {
  auto* bytes = Shared<unsigned char[2][32]>();
  JOIN_OK(Fork([=] { MUST(getrandom((*bytes)[0], 32, 0)); }));
  MUST(getrandom((*bytes)[1], 32, 0));
  EXPECT_NE(memcmp((*bytes)[0], (*bytes)[1], 32), 0);
}

GUEST_TEST(Machine, Personality) {
  const int before = static_cast<int>(MUST(syscall(SYS_personality, 0xffffffff)));
  EXPECT_EQ(before & 0xff, 0);
  MUST(syscall(SYS_personality, 0x0040000 /*ADDR_NO_RANDOMIZE*/));
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_personality, 0xffffffff), 0x0040000);
  JOIN_OK(Fork([] { EXPECT_EQ(syscall(SYS_personality, 0xffffffff), 0x0040000); }));
}

GUEST_TEST(Machine, CpuidWorks) {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0), "c"(0));
  EXPECT_GE(a, 1);
  uint32_t low = 0, high = 0, low2 = 0, high2 = 0;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  asm volatile("rdtsc" : "=a"(low2), "=d"(high2));
  EXPECT_GE((static_cast<uint64_t>(high2) << 32 | low2), (static_cast<uint64_t>(high) << 32 | low));
}

GUEST_TEST(Abi, Int80IsNotTheSixtyFourBitAbi) {
  // Native kernels run the 32-bit table here (20 is getpid); one without that ABI may also raise a
  // signal.
  const pid_t pid = Fork([] {
    long result = 20;
    asm volatile("int $0x80" : "+a"(result) : : "memory", "r8", "r9", "r10", "r11");
    _exit(result == getpid() ? 10 : result == -ENOSYS ? 11 : 12);
  });
  const int status = WaitStatus(pid);
  if (WIFEXITED(status)) {
    EXPECT(WEXITSTATUS(status) == 10 || WEXITSTATUS(status) == 11);
  } else {
    EXPECT(WTERMSIG(status) == SIGSEGV || WTERMSIG(status) == SIGSYS);
  }
}

GUEST_TEST(Abi, X32NumbersAreRefused) {
  EXPECT_ERRNO(syscall(0x40000000 + SYS_getpid), ENOSYS);
  EXPECT_ERRNO(syscall(0x40000000 + 512), ENOSYS);
  EXPECT_ERRNO(syscall(0x40000000 + 5000), ENOSYS);
}
