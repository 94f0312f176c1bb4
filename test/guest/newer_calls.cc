// Calls of newer kernels and small ones that few programs make: mseal, kcmp, scheduling attributes, I/O priorities, xattrat.
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr long kMseal = 462, kSetXattrAt = 463, kGetXattrAt = 464, kListXattrAt = 465, kRemoveXattrAt = 466;

struct SchedAttr {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
  uint32_t util_min, util_max;
};

struct XattrArgs {
  uint64_t value;
  uint32_t size, flags;
};

}  // namespace

GUEST_TEST(Mseal, SealedMemoryStays) {
  auto* p = static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT_NE(p, MAP_FAILED);
  if (syscall(kMseal, p, kPage, 0) < 0 && errno == ENOSYS) Skip("no mseal");
  CheckpointHere();
  EXPECT_ERRNO(munmap(p, kPage), EPERM);
  EXPECT_ERRNO(munmap(p, 2 * kPage), EPERM);
  EXPECT_ERRNO(mprotect(p, kPage, PROT_READ), EPERM);
  EXPECT_EQ(mmap(p, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  EXPECT_EQ(mremap(p, kPage, 2 * kPage, MREMAP_MAYMOVE), MAP_FAILED);
  EXPECT_EQ(errno, EPERM);
  p[0] = 'x';  // Writing is not what is sealed.
  EXPECT_OK(munmap(p + kPage, kPage));
  EXPECT_ERRNO(syscall(kMseal, p, kPage, 1), EINVAL);
  EXPECT_ERRNO(syscall(kMseal, p + 1, kPage, 0), EINVAL);
  EXPECT_ERRNO(syscall(kMseal, p, 2 * kPage, 0), ENOMEM);
}

GUEST_TEST(SchedAttr, ReadsBack) {
  SchedAttr attr = {};
  MUST(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0));
  EXPECT_EQ(attr.size, sizeof(attr));
  EXPECT_EQ(attr.policy, SCHED_OTHER);
  attr = {};
  attr.size = sizeof(attr);
  attr.policy = SCHED_BATCH;
  attr.nice = 7;
  attr.flags = 1;  // Reset on fork.
  MUST(syscall(SYS_sched_setattr, 0, &attr, 0));
  CheckpointHere();
  attr = {};
  MUST(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0));
  EXPECT_EQ(attr.policy, SCHED_BATCH);
  EXPECT_EQ(attr.nice, 7);
  EXPECT_EQ(attr.flags, 1);
  EXPECT_EQ(sched_getscheduler(0), SCHED_BATCH | SCHED_RESET_ON_FORK);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 7);
  EXPECT_ERRNO(syscall(SYS_sched_getattr, 0, &attr, 8, 0), EINVAL);
  attr.size = 8;
  EXPECT_ERRNO(syscall(SYS_sched_setattr, 0, &attr, 0), E2BIG);
  EXPECT_ERRNO(syscall(SYS_sched_setattr, 0, &attr, 1), EINVAL);
}

GUEST_TEST(Ioprio, ReadsBackAndIsInherited) {
  constexpr int kIdle = 3 << 13, kBestEffort = 2 << 13;
  EXPECT_EQ(syscall(SYS_ioprio_get, 1, 0), 0);
  MUST(syscall(SYS_ioprio_set, 1, 0, kBestEffort | 5));
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_ioprio_get, 1, 0), kBestEffort | 5);
  JOIN_OK(Fork([&] {
    EXPECT_EQ(syscall(SYS_ioprio_get, 1, 0), kBestEffort | 5);
    MUST(syscall(SYS_ioprio_set, 1, 0, kIdle));
    EXPECT_EQ(syscall(SYS_ioprio_get, 1, 0), kIdle);
  }));
  EXPECT_ERRNO(syscall(SYS_ioprio_set, 1, 0, 5 << 13), EINVAL);
  EXPECT_ERRNO(syscall(SYS_ioprio_set, 9, 0, kIdle), EINVAL);
  EXPECT_ERRNO(syscall(SYS_ioprio_get, 1, 0x3fffff), ESRCH);
}

GUEST_TEST(Kcmp, SharedAndNot) {
  const pid_t self = getpid();
  if (syscall(SYS_kcmp, self, self, 1, 0, 0) < 0 && errno == ENOSYS) Skip("no kcmp");
  EXPECT_EQ(syscall(SYS_kcmp, self, self, 1 /*KCMP_VM*/, 0, 0), 0);
  Gate gate;
  const pid_t pid = Fork([&] { pause(); });
  EXPECT_NE(syscall(SYS_kcmp, self, pid, 1, 0, 0), 0);
  EXPECT_NE(syscall(SYS_kcmp, self, pid, 2 /*KCMP_FILES*/, 0, 0), 0);
  EXPECT_EQ(syscall(SYS_kcmp, self, pid, 0 /*KCMP_FILE*/, 2, 2), 0);
  EXPECT_ERRNO(syscall(SYS_kcmp, self, pid, 0, 999, 2), EBADF);
  EXPECT_ERRNO(syscall(SYS_kcmp, self, pid, 99, 0, 0), EINVAL);
  const int epoll = MUST(epoll_create1(0));
  const int event = MUST(eventfd(0, 0));
  epoll_event wanted = {EPOLLIN, {}};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted));
  struct {
    uint32_t epoll, target, offset;
  } slot = {static_cast<uint32_t>(epoll), static_cast<uint32_t>(event), 0};
  EXPECT_EQ(syscall(SYS_kcmp, self, self, 7 /*KCMP_EPOLL_TFD*/, event, &slot), 0);
  slot.target = 1;
  EXPECT_ERRNO(syscall(SYS_kcmp, self, self, 7, event, &slot), ENOENT);
  kill(pid, SIGKILL);
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
  EXPECT_ERRNO(syscall(SYS_kcmp, self, 0x3fffff, 1, 0, 0), ESRCH);
}

GUEST_TEST(XattrAt, ByDescriptor) {
  TempDir dir;
  WriteFile(dir / "file", "x");
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  if (setxattr(dir / "file", "user.probe", "1", 1, 0) < 0) Skip("no extended attributes here");
  char value[16] = "value";
  XattrArgs args = {reinterpret_cast<uint64_t>(value), 5, XATTR_CREATE};
  if (syscall(kSetXattrAt, fd, "file", 0, "user.a", &args, sizeof(args)) < 0 && errno == ENOSYS) Skip("no setxattrat");
  EXPECT_ERRNO(syscall(kSetXattrAt, fd, "file", 0, "user.a", &args, sizeof(args)), EEXIST);
  char out[16] = {};
  XattrArgs get = {reinterpret_cast<uint64_t>(out), sizeof(out), 0};
  EXPECT_EQ(syscall(kGetXattrAt, fd, "file", 0, "user.a", &get, sizeof(get)), 5);
  EXPECT_STREQ(out, "value");
  char names[64];
  EXPECT_EQ(syscall(kListXattrAt, fd, "file", 0, names, sizeof(names)), 18);
  MUST(syscall(kRemoveXattrAt, fd, "file", 0, "user.a"));
  EXPECT_ERRNO(syscall(kGetXattrAt, fd, "file", 0, "user.a", &get, sizeof(get)), ENODATA);
  get.flags = 1;
  EXPECT_ERRNO(syscall(kGetXattrAt, fd, "file", 0, "user.a", &get, sizeof(get)), EINVAL);
  EXPECT_ERRNO(syscall(kGetXattrAt, fd, "file", 0, "user.a", &get, 8), EINVAL);
}

GUEST_TEST(SelectTime, InterruptedCallTellsWhatIsLeft) {
  CountSignals(SIGALRM);
  const itimerval timer = {{0, 0}, {0, 50'000}};
  MUST(setitimer(ITIMER_REAL, &timer, nullptr));
  timeval timeout = {100, 0};
  EXPECT_ERRNO(syscall(SYS_select, 0, nullptr, nullptr, nullptr, &timeout), EINTR);
  EXPECT_LT(timeout.tv_sec, 100);
  EXPECT_GE(timeout.tv_sec, 50);
}

GUEST_TEST(Membarrier, Registrations) {
  const long known = MUST(syscall(SYS_membarrier, 0, 0, 0));
  if ((known & 512) == 0) Skip("cannot be asked for registrations");
  EXPECT_EQ(syscall(SYS_membarrier, 512, 0, 0), 0);
  MUST(syscall(SYS_membarrier, 4 /*REGISTER_GLOBAL_EXPEDITED*/, 0, 0));
  MUST(syscall(SYS_membarrier, 16 /*REGISTER_PRIVATE_EXPEDITED*/, 0, 0));
  CheckpointHere();
  EXPECT_EQ(syscall(SYS_membarrier, 512, 0, 0), 4 | 16);
  EXPECT_OK(syscall(SYS_membarrier, 2, 0, 0));
  EXPECT_OK(syscall(SYS_membarrier, 8, 0, 0));
}

GUEST_TEST(Futex2, WakeAndRequeue) {
  static int word = 0;
  if (syscall(454 /*futex_wake*/, &word, 0xfffffffful, 1, 2 /*FUTEX2_SIZE_U32*/) < 0 && errno == ENOSYS) Skip("no futex_wake");
  Thread waiter([&] { syscall(455 /*futex_wait*/, &word, 0ul, 0xfffffffful, 2, nullptr, 0); });
  waiter.AwaitAsleep();
  EXPECT_EQ(syscall(454, &word, 0xfffffffful, 1, 2), 1);
  EXPECT_ERRNO(syscall(454, &word, 0xfffffffful, 1, 0x80000000), EINVAL);
}
