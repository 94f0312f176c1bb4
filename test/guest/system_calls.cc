// Calls about the machine as a whole, scheduling, memory policy; each with its arguments' rules.
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/klog.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/utsname.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {}  // namespace

GUEST_TEST(Klog, Rules) {
  EXPECT_GT(klogctl(10, nullptr, 0), 0);                // The size of the buffer.
  const bool privileged = klogctl(9, nullptr, 0) >= 0;  // What is unread.
  EXPECT_ERRNO(klogctl(99, nullptr, 0), privileged ? EINVAL : EPERM);
  EXPECT_ERRNO(klogctl(3, nullptr, 10), EINVAL);
  char text[64];
  EXPECT_ERRNO(klogctl(3, text, -1), EINVAL);
  EXPECT_EQ(klogctl(3, text, 0), 0);
  EXPECT_ERRNO(klogctl(8, nullptr, 0), privileged ? EINVAL : EPERM);
  EXPECT_ERRNO(klogctl(8, nullptr, 9), privileged ? EINVAL : EPERM);
}

GUEST_TEST(Klog, UsersMayNotClear) {
  AS_USER([] {
    EXPECT_ERRNO(klogctl(5, nullptr, 0), EPERM);
    EXPECT_ERRNO(klogctl(6, nullptr, 0), EPERM);
  });
}

GUEST_TEST(DomainName, InItsOwnNamespace) {
  if (unshare(CLONE_NEWUTS) < 0) Skip("no UTS namespaces");
  MUST(setdomainname("amber.test", 10));
  CheckpointHere();
  utsname names = {};
  MUST(uname(&names));
  EXPECT_STREQ(names.domainname, "amber.test");
  EXPECT_ERRNO(setdomainname("x", 65), EINVAL);
  EXPECT_ERRNO(Call(SYS_setdomainname, "x", -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_setdomainname, kBadAddress, 3), EFAULT);
  EXPECT_OK(setdomainname("", 0));
  MUST(uname(&names));
  EXPECT_STREQ(names.domainname, "");
  AS_USER([] { EXPECT_ERRNO(setdomainname("x", 1), EPERM); });
}

GUEST_TEST(HostName, LengthsAndPrivilege) {
  if (unshare(CLONE_NEWUTS) < 0) Skip("no UTS namespaces");
  char name[65];
  memset(name, 'h', sizeof(name));
  EXPECT_OK(sethostname(name, 64));
  utsname names = {};
  MUST(uname(&names));
  EXPECT_EQ(strlen(names.nodename), 64);
  EXPECT_ERRNO(sethostname(name, 65), EINVAL);
  EXPECT_ERRNO(Call(SYS_sethostname, "x", -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_sethostname, kBadAddress, 3), EFAULT);
  AS_USER([] { EXPECT_ERRNO(sethostname("x", 1), EPERM); });
}

GUEST_TEST(Uname, BadPointer) { EXPECT_ERRNO(Call(SYS_uname, kBadAddress), EFAULT); }

GUEST_TEST(Sysinfo, BadPointerAndSanity) {
  struct sysinfo info = {};
  MUST(sysinfo(&info));
  EXPECT_GT(info.totalram, 0);
  EXPECT_LE(info.freeram, info.totalram);
  EXPECT_GE(info.procs, 1);
  EXPECT_GE(info.mem_unit, 1);
  EXPECT_ERRNO(Call(SYS_sysinfo, kBadAddress), EFAULT);
}

GUEST_TEST(Adjtimex, ReadingIsForAll) {
  AS_USER([] {
    timex state = {};
    EXPECT_GE(adjtimex(&state), 0);
    EXPECT_GE(state.tick, 9000);
    EXPECT_LE(state.tick, 11000);
    EXPECT_GT(state.time.tv_sec, 1'000'000'000);
    state = {};
    state.modes = ADJ_STATUS;
    EXPECT_ERRNO(adjtimex(&state), EPERM);
  });
  EXPECT_ERRNO(Call(SYS_adjtimex, kBadAddress), EFAULT);
}

GUEST_TEST(Adjtimex, ByClock) {
  timex state = {};
  EXPECT_GE(clock_adjtime(CLOCK_REALTIME, &state), 0);
  EXPECT_GT(state.time.tv_sec, 1'000'000'000);
  EXPECT_ERRNO(clock_adjtime(CLOCK_MONOTONIC, &state), EOPNOTSUPP);
  EXPECT_ERRNO(clock_adjtime(77, &state), EINVAL);
  EXPECT_ERRNO(Call(SYS_clock_adjtime, CLOCK_REALTIME, kBadAddress), EFAULT);
}

GUEST_TEST(Sched, ParametersByPolicy) {
  sched_param parameter = {};
  EXPECT_OK(sched_getparam(0, &parameter));
  EXPECT_EQ(parameter.sched_priority, 0);
  EXPECT_OK(sched_setparam(0, &parameter));
  parameter.sched_priority = 1;
  EXPECT_ERRNO(sched_setparam(0, &parameter), EINVAL);  // SCHED_OTHER has one priority.
  EXPECT_ERRNO(Call(SYS_sched_setparam, 0, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_setparam, -1, &parameter), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_setparam, 0, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_sched_getparam, 0, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_getparam, 0, kBadAddress), EFAULT);
  EXPECT_ERRNO(sched_getparam(-1, &parameter), EINVAL);
  EXPECT_ERRNO(sched_getparam(4'000'000, &parameter), ESRCH);
}

GUEST_TEST(Sched, RealTimeParameters) {
  sched_param parameter = {.sched_priority = 10};
  if (sched_setscheduler(0, SCHED_FIFO, &parameter) < 0) Skip("no real-time policy here");
  parameter.sched_priority = 20;
  EXPECT_OK(sched_setparam(0, &parameter));
  CheckpointHere();
  sched_param told = {};
  MUST(sched_getparam(0, &told));
  EXPECT_EQ(told.sched_priority, 20);
  EXPECT_EQ(sched_getscheduler(0), SCHED_FIFO);
  parameter.sched_priority = 0;
  EXPECT_ERRNO(sched_setparam(0, &parameter), EINVAL);
  parameter.sched_priority = 100;
  EXPECT_ERRNO(sched_setparam(0, &parameter), EINVAL);
}

GUEST_TEST(Sched, PolicyRules) {
  sched_param parameter = {};
  EXPECT_OK(sched_setscheduler(0, SCHED_BATCH, &parameter));
  EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH);
  EXPECT_OK(sched_setscheduler(0, SCHED_IDLE, &parameter));
  EXPECT_EQ(sched_getscheduler(0), SCHED_IDLE);
  EXPECT_ERRNO(sched_setscheduler(0, 99, &parameter), EINVAL);
  EXPECT_ERRNO(sched_setscheduler(-1, SCHED_OTHER, &parameter), EINVAL);
  EXPECT_ERRNO(sched_setscheduler(4'000'000, SCHED_OTHER, &parameter), ESRCH);
  EXPECT_ERRNO(Call(SYS_sched_setscheduler, 0, SCHED_OTHER, kBadAddress), EFAULT);
  EXPECT_ERRNO(sched_getscheduler(-1), EINVAL);
  EXPECT_ERRNO(sched_getscheduler(4'000'000), ESRCH);
}

GUEST_TEST(Sched, ResetOnFork) {
  sched_param parameter = {};
  EXPECT_OK(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &parameter));
  EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH | SCHED_RESET_ON_FORK);
  JOIN_OK(Fork([] { EXPECT_EQ(sched_getscheduler(0) & SCHED_RESET_ON_FORK, 0); }));
  AS_USER([] {
    sched_param none = {};
    EXPECT_OK(sched_setscheduler(0, SCHED_BATCH, &none));
  });
}

GUEST_TEST(Sched, UsersMayNotBeRealTime) {
  AS_USER([] {
    rlimit none = {0, 0};
    setrlimit(RLIMIT_RTPRIO, &none);
    sched_param parameter = {.sched_priority = 1};
    EXPECT_ERRNO(sched_setscheduler(0, SCHED_FIFO, &parameter), EPERM);
    parameter.sched_priority = 0;
    EXPECT_OK(sched_setscheduler(0, SCHED_BATCH, &parameter));
    EXPECT_ERRNO(sched_setscheduler(1, SCHED_BATCH, &parameter), EPERM);
  });
}

GUEST_TEST(Sched, RoundRobinInterval) {
  timespec slice = {-1, -1};
  EXPECT_OK(sched_rr_get_interval(0, &slice));
  EXPECT_EQ(slice.tv_sec, 0);
  EXPECT_GE(slice.tv_nsec, 0);
  EXPECT_ERRNO(sched_rr_get_interval(-1, &slice), EINVAL);
  EXPECT_ERRNO(sched_rr_get_interval(4'000'000, &slice), ESRCH);
  EXPECT_ERRNO(Call(SYS_sched_rr_get_interval, 0, kBadAddress), EFAULT);
}

GUEST_TEST(Sched, PriorityRanges) {
  for (const int policy : {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE}) {
    EXPECT_EQ(sched_get_priority_min(policy), 0);
    EXPECT_EQ(sched_get_priority_max(policy), 0);
  }
  EXPECT_EQ(sched_get_priority_min(SCHED_RR), 1);
  EXPECT_EQ(sched_get_priority_max(SCHED_RR), 99);
  EXPECT_EQ(sched_get_priority_max(6 /*SCHED_DEADLINE*/), 0);
  EXPECT_ERRNO(sched_get_priority_min(4), EINVAL);
  EXPECT_ERRNO(sched_get_priority_max(-1), EINVAL);
}

GUEST_TEST(Sched, AffinitySizes) {
  unsigned long mask[32] = {};
  const int length = MUST(Call(SYS_sched_getaffinity, 0, sizeof(mask), mask));  // The call tells how much it wrote.
  EXPECT_EQ(length % sizeof(long), 0);
  EXPECT_NE(mask[0], 0);
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, 0, 0, mask), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, 0, 7, mask), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, 0, sizeof(mask), kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, 4'000'000, sizeof(mask), mask), ESRCH);
  EXPECT_OK(Call(SYS_sched_setaffinity, 0, sizeof(mask), mask));
  EXPECT_ERRNO(Call(SYS_sched_setaffinity, 0, sizeof(mask), kBadAddress), EFAULT);
  memset(mask, 0, sizeof(mask));
  EXPECT_ERRNO(Call(SYS_sched_setaffinity, 0, sizeof(mask), mask), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_setaffinity, 0, 0, mask), EINVAL);
}

GUEST_TEST(Nice, PriorityByKind) {
  EXPECT_OK(setpriority(PRIO_PROCESS, 0, 3));
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 3);
  EXPECT_EQ(Call(SYS_getpriority, PRIO_PROCESS, 0), 20 - 3);
  EXPECT_OK(setpriority(PRIO_PGRP, 0, 5));
  EXPECT_EQ(getpriority(PRIO_PGRP, 0), 5);
  EXPECT_EQ(getpriority(PRIO_PROCESS, getpid()), 5);
  EXPECT_OK(setpriority(PRIO_PROCESS, 0, 1000));  // Held to the range.
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 19);
  EXPECT_OK(setpriority(PRIO_PROCESS, 0, -1000));
  EXPECT_EQ(Call(SYS_getpriority, PRIO_PROCESS, 0), 40);
  EXPECT_ERRNO(Call(SYS_getpriority, 3, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_setpriority, -1, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_getpriority, PRIO_PROCESS, 4'000'000), ESRCH);
  EXPECT_ERRNO(setpriority(PRIO_PGRP, 4'000'000, 0), ESRCH);
}

GUEST_TEST(Nice, ForeignProcesses) {
  AS_USER([] {
    EXPECT_ERRNO(setpriority(PRIO_PROCESS, 1, 10), EPERM);
    EXPECT_OK(setpriority(PRIO_PROCESS, 0, 10));
    EXPECT_ERRNO(setpriority(PRIO_PROCESS, 0, 5), EACCES);
  });
}

GUEST_TEST(MlockAll, LocksWhatIsAndWhatComes) {
  EXPECT_ERRNO(mlockall(0), EINVAL);
  EXPECT_ERRNO(mlockall(8), EINVAL);
  EXPECT_ERRNO(mlockall(MCL_ONFAULT), EINVAL);
  if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0 && (errno == EPERM || errno == ENOMEM)) Skip("may not lock");
  const int64_t before = ProcField("/proc/self/status", "VmLck");
  EXPECT_GT(before, 0);
  Pages(16);
  EXPECT_GE(ProcField("/proc/self/status", "VmLck"), before + 64);
  CheckpointHere();
  EXPECT_GE(ProcField("/proc/self/status", "VmLck"), before + 64);
  EXPECT_OK(munlockall());
  EXPECT_EQ(ProcField("/proc/self/status", "VmLck"), 0);
}

GUEST_TEST(MlockAll, UsersHaveALimit) {
  AS_USER([] {
    rlimit none = {0, 0};
    MUST(setrlimit(RLIMIT_MEMLOCK, &none));
    EXPECT_ERRNO(mlockall(MCL_CURRENT), EPERM);
    EXPECT_OK(munlockall());
  });
}

GUEST_TEST(MemoryPolicy, DefaultsAndRules) {
  int mode = -1;
  unsigned long nodes[16] = {};
  if (syscall(SYS_get_mempolicy, &mode, nodes, 1024, nullptr, 0) < 0 && errno == ENOSYS) Skip("no memory policies");
  EXPECT_EQ(mode, MPOL_DEFAULT);
  EXPECT_EQ(nodes[0], 0);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 1 << 5), EINVAL);
  EXPECT_ERRNO(Call(SYS_get_mempolicy, kBadAddress, nullptr, 0, nullptr, 0), EFAULT);
  EXPECT_OK(Call(SYS_set_mempolicy, MPOL_DEFAULT, nullptr, 0));
  EXPECT_ERRNO(Call(SYS_set_mempolicy, 99, nullptr, 0), EINVAL);
  nodes[0] = 1;
  EXPECT_ERRNO(Call(SYS_set_mempolicy, MPOL_DEFAULT, nodes, 64), EINVAL);  // The default takes no nodes.
  nodes[0] = 0;
  EXPECT_ERRNO(Call(SYS_set_mempolicy, MPOL_BIND, nodes, 64), EINVAL);  // And this one needs some.
  EXPECT_ERRNO(Call(SYS_set_mempolicy, MPOL_BIND, kBadAddress, 64), EFAULT);
}

GUEST_TEST(MemoryPolicy, OfTheThread) {
  unsigned long nodes[16] = {1};
  if (syscall(SYS_set_mempolicy, MPOL_INTERLEAVE, nodes, 1024) < 0 && errno == ENOSYS) Skip("no memory policies");
  int mode = -1;
  CheckpointHere();
  unsigned long told[16] = {};
  MUST(Call(SYS_get_mempolicy, &mode, told, 1024, nullptr, 0));
  EXPECT_EQ(mode, MPOL_INTERLEAVE);
  EXPECT_EQ(told[0], 1);
  JOIN_OK(Fork([&] {
    MUST(Call(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0));
    EXPECT_EQ(mode, MPOL_INTERLEAVE);
  }));
}

GUEST_TEST(MemoryPolicy, OfARange) {
  char* memory = Pages(4);
  unsigned long nodes[16] = {1};
  if (syscall(SYS_mbind, memory, 4 * kPage, MPOL_BIND, nodes, 1024, 0) < 0 && errno == ENOSYS) Skip("no memory policies");
  int mode = -1;
  MUST(Call(SYS_get_mempolicy, &mode, nullptr, 0, memory, MPOL_F_ADDR));
  EXPECT_EQ(mode, MPOL_BIND);
  EXPECT_ERRNO(Call(SYS_mbind, memory + 1, kPage, MPOL_DEFAULT, nullptr, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_mbind, memory, kPage, 99, nullptr, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_mbind, memory, kPage, MPOL_DEFAULT, nullptr, 0, 1 << 9), EINVAL);
  EXPECT_OK(Call(SYS_mbind, memory, 0, MPOL_DEFAULT, nullptr, 0, 0));
  MUST(munmap(memory + kPage, kPage));
  EXPECT_ERRNO(Call(SYS_mbind, memory, 3 * kPage, MPOL_BIND, nodes, 1024, 0), EFAULT);
}

GUEST_TEST(Getcpu, BadPointersAndNulls) {
  unsigned cpu = ~0u, node = ~0u;
  EXPECT_OK(Call(SYS_getcpu, &cpu, &node, nullptr));
  EXPECT_LT(cpu, 4096);
  EXPECT_EQ(node, 0);
  EXPECT_OK(Call(SYS_getcpu, nullptr, nullptr, nullptr));
  EXPECT_ERRNO(Call(SYS_getcpu, kBadAddress, nullptr, nullptr), EFAULT);
}

GUEST_TEST(Rusage, WhoAndBadPointers) {
  rusage usage = {};
  EXPECT_OK(getrusage(RUSAGE_SELF, &usage));
  EXPECT_GT(usage.ru_maxrss, 0);
  EXPECT_OK(getrusage(RUSAGE_THREAD, &usage));
  EXPECT_OK(getrusage(RUSAGE_CHILDREN, &usage));
  EXPECT_ERRNO(Call(SYS_getrusage, 2, &usage), EINVAL);
  EXPECT_ERRNO(Call(SYS_getrusage, -2, &usage), EINVAL);
  EXPECT_ERRNO(Call(SYS_getrusage, RUSAGE_SELF, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_times, kBadAddress), EFAULT);
}

GUEST_TEST(SyncAll, AndOfOneFileSystem) {
  sync();
  const int fd = TempFile("x");
  EXPECT_OK(syncfs(fd));
  EXPECT_ERRNO(syncfs(-1), EBADF);
  const int path = MUST(open("/tmp", O_PATH));
  EXPECT_ERRNO(syncfs(path), EBADF);
}

GUEST_TEST(ReadAhead, Descriptors) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int fd = MUST(open(dir / "f", O_RDONLY));
  EXPECT_EQ(readahead(fd, 0, 4096), 0);
  EXPECT_ERRNO(readahead(-1, 0, 1), EBADF);
  const int writer = MUST(open(dir / "f", O_WRONLY));
  EXPECT_ERRNO(readahead(writer, 0, 1), EBADF);
  Pipe p;
  EXPECT_ERRNO(readahead(p.r, 0, 1), EINVAL);
}

GUEST_TEST(LsmModules, ListIsCounted) {
  uint64_t ids[64] = {};
  uint32_t size = sizeof(ids);
  const int count = static_cast<int>(syscall(461 /*lsm_list_modules*/, ids, &size, 0));
  if (count < 0 && errno == ENOSYS) Skip("no lsm_list_modules");
  EXPECT_EQ(size, static_cast<uint32_t>(count) * 8);
  EXPECT_ERRNO(Call(461, ids, &size, 1), EINVAL);
  EXPECT_ERRNO(Call(461, ids, kBadAddress, 0), EFAULT);
}

GUEST_TEST(Random, Flags) {
  char bytes[300] = {};
  EXPECT_EQ(syscall(SYS_getrandom, bytes, 256, 0), 256);
  EXPECT_EQ(syscall(SYS_getrandom, bytes, 0, 0), 0);
  EXPECT_EQ(syscall(SYS_getrandom, bytes, 16, 1 /*GRND_NONBLOCK*/), 16);
  EXPECT_EQ(syscall(SYS_getrandom, bytes, 16, 2 /*GRND_RANDOM*/), 16);
  EXPECT_EQ(syscall(SYS_getrandom, bytes, 16, 4 /*GRND_INSECURE*/), 16);
  EXPECT_ERRNO(syscall(SYS_getrandom, bytes, 16, 6), EINVAL);
  EXPECT_ERRNO(syscall(SYS_getrandom, bytes, 16, 8), EINVAL);
  EXPECT_ERRNO(syscall(SYS_getrandom, kBadAddress, 16, 0), EFAULT);
  char* page = Pages(2);
  MUST(mprotect(page + kPage, kPage, PROT_NONE));
  EXPECT_EQ(syscall(SYS_getrandom, page + kPage - 100, 200, 0), 100);  // As far as it gets.
}

GUEST_TEST(Personality, QueriesAndInherits) {
  const int old = MUST(Call(SYS_personality, 0xffffffffL));
  EXPECT_EQ(Call(SYS_personality, old | 0x0040000 /*ADDR_NO_RANDOMIZE*/), old);
  EXPECT_EQ(Call(SYS_personality, 0xffffffffL), old | 0x0040000);
  JOIN_OK(Fork([&] { EXPECT_EQ(Call(SYS_personality, 0xffffffffL), old | 0x0040000); }));
}
