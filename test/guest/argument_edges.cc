// Calls whose answer depends on the order in which arguments are looked at, and commands that few programs use.
#include <asm/prctl.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test/harness/guest_util.h"

using namespace guest;

GUEST_TEST(ArgumentEdge, UnreadableActionsComeFirst) {
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGKILL, kBadAddress, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 0, kBadAddress, nullptr, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, SIGKILL, kBadAddress, nullptr, 9), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigaction, 65, nullptr, nullptr, 8), EINVAL);
}

GUEST_TEST(ArgumentEdge, UnreadableSignalsComeFirst) {
  EXPECT_ERRNO(Call(SYS_rt_tgsigqueueinfo, 0, 0, 0, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_rt_sigqueueinfo, getpid(), 65, kBadAddress), EFAULT);
  siginfo_t info{};
  info.si_code = SI_QUEUE;
  EXPECT_ERRNO(Call(SYS_rt_tgsigqueueinfo, 0, getpid(), 0, &info), EINVAL);
  EXPECT_ERRNO(Call(SYS_rt_sigqueueinfo, getpid(), 65, &info), EINVAL);
}

GUEST_TEST(ArgumentEdge, OneOpenFileOrTwo) {
  constexpr int kDupfdQuery = 1027;  // F_DUPFD_QUERY
  int first = MUST(open("/dev/null", O_RDWR));
  int same = MUST(dup(first));
  int other = MUST(open("/dev/null", O_RDWR));
  CheckpointHere();
  EXPECT_EQ(fcntl(first, kDupfdQuery, same), 1);
  EXPECT_EQ(fcntl(first, kDupfdQuery, first), 1);
  EXPECT_EQ(fcntl(first, kDupfdQuery, other), 0);
  EXPECT_ERRNO(fcntl(first, kDupfdQuery, 999), EBADF);
  EXPECT_ERRNO(fcntl(999, kDupfdQuery, first), EBADF);
  int path = MUST(open("/dev/null", O_PATH));
  EXPECT_EQ(fcntl(path, kDupfdQuery, path), 1);
  EXPECT_EQ(fcntl(path, kDupfdQuery, first), 0);
}

GUEST_TEST(ArgumentEdge, SyncFileRangeOfOtherFiles) {
  int ends[2];
  MUST(pipe(ends));
  EXPECT_ERRNO(sync_file_range(ends[0], 0, 0, 0), ESPIPE);
  EXPECT_ERRNO(sync_file_range(ends[0], 0, 0, 8), EINVAL);
  int socket = MUST(::socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(sync_file_range(socket, 0, 0, 1), ESPIPE);
  int null = MUST(open("/dev/null", O_RDWR));
  EXPECT_ERRNO(sync_file_range(null, 0, 0, 1), ESPIPE);
  EXPECT_ERRNO(sync_file_range(999, 0, 0, 8), EBADF);
  int memory = MUST(memfd_create("m", 0));
  EXPECT_EQ(sync_file_range(memory, 0, 0, 7), 0);
  int folder = MUST(open("/tmp", O_RDONLY));
  EXPECT_EQ(sync_file_range(folder, 0, 0, 0), 0);
}

GUEST_TEST(ArgumentEdge, ProtectionForSemaphores) {
  constexpr int kProtSem = 8;
  size_t page = 4096;
  auto* memory = static_cast<char*>(mmap(nullptr, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(memory != MAP_FAILED);
  EXPECT_EQ(mprotect(memory, page, kProtSem | PROT_READ | PROT_WRITE), 0);
  memory[0] = 1;
  EXPECT_EQ(memory[0], 1);
  EXPECT_ERRNO(mprotect(memory, page, 0x20 | PROT_READ), EINVAL);
}

GUEST_TEST(ArgumentEdge, RarePrctls) {
  EXPECT_EQ(prctl(PR_TASK_PERF_EVENTS_DISABLE, 0, 0, 0, 0), 0);
  EXPECT_EQ(prctl(PR_TASK_PERF_EVENTS_ENABLE, 0, 0, 0, 0), 0);
  EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_DEFAULT);
  EXPECT_ERRNO(prctl(PR_MCE_KILL_GET, 1, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_MCE_KILL_GET, 0, 0, 0, 1), EINVAL);
  EXPECT_EQ(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0), 0);
  EXPECT_ERRNO(prctl(PR_SET_TSC, 0, 0, 0, 0), EINVAL);
}

GUEST_TEST(ArgumentEdge, PlaceForAPidFd) {
  int next = MUST(dup(0));
  close(next);
  // Nowhere to write the number: no child.
  EXPECT_ERRNO(Call(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, kBadAddress, 0, 0), EFAULT);
  EXPECT_ERRNO(wait4(-1, nullptr, WNOHANG, nullptr), ECHILD);
  EXPECT_EQ(dup(0), next);
}

GUEST_TEST(ArgumentEdge, StacksThatWrap) {
  struct clone_args args = {};
  args.exit_signal = SIGCHLD;
  args.stack = ~uint64_t{0} - 4095;
  args.stack_size = 8192;
  EXPECT_ERRNO(Call(SYS_clone3, &args, sizeof(args)), EINVAL);
  args.stack = 0xffff800000000000;
  args.stack_size = 4096;
  EXPECT_ERRNO(Call(SYS_clone3, &args, sizeof(args)), EINVAL);
}

GUEST_TEST(ArgumentEdge, NoAlternateStackKeepsItsFlag) {
  constexpr int kAutodisarm = static_cast<int>(1u << 31);
  stack_t none = {};
  none.ss_flags = SS_DISABLE | kAutodisarm;
  EXPECT_EQ(sigaltstack(&none, nullptr), 0);
  CheckpointHere();
  stack_t now = {};
  EXPECT_EQ(sigaltstack(nullptr, &now), 0);
  EXPECT_EQ(now.ss_flags, SS_DISABLE | kAutodisarm);
}

GUEST_TEST(ArgumentEdge, ClockOfTheDay) {
  EXPECT_ERRNO(Call(SYS_settimeofday, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_settimeofday, nullptr, kBadAddress), EFAULT);
  struct timeval time = {.tv_sec = 1, .tv_usec = -1};
  EXPECT_ERRNO(Call(SYS_settimeofday, &time, nullptr), EINVAL);
  time = {.tv_sec = 1, .tv_usec = 1000000};
  EXPECT_ERRNO(Call(SYS_settimeofday, &time, nullptr), EINVAL);
  time = {.tv_sec = -1, .tv_usec = 0};
  EXPECT_ERRNO(Call(SYS_settimeofday, &time, nullptr), EINVAL);
}

GUEST_TEST(ArgumentEdge, LockedMemoryIsDropped) {
  constexpr int kDontNeedLocked = 24;
  size_t page = 4096;
  auto* memory = static_cast<char*>(mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT(memory != MAP_FAILED);
  memory[0] = 1;
  EXPECT_EQ(mlock(memory, page), 0);
  CheckpointHere();
  EXPECT_ERRNO(madvise(memory, page, MADV_DONTNEED), EINVAL);
  EXPECT_EQ(memory[0], 1);
  EXPECT_EQ(madvise(memory, page, kDontNeedLocked), 0);
  EXPECT_EQ(memory[0], 0);
}

GUEST_TEST(ArgumentEdge, TimerSlackIsAFile) {
  const char* file = "/proc/self/timerslack_ns";
  auto shown = [&] {
    char text[32] = {};
    ReadFile(file, text, sizeof(text));
    return strtoul(text, nullptr, 10);
  };
  auto write_to = [&](const char* text) {
    int fd = MUST(open(file, O_WRONLY));
    long n = write(fd, text, strlen(text)), error = errno;
    close(fd);
    errno = static_cast<int>(error);
    return n;
  };
  unsigned long before = shown();
  EXPECT_EQ(prctl(PR_SET_TIMERSLACK, 7000, 0, 0, 0), 0);
  CheckpointHere();
  EXPECT_EQ(shown(), 7000u);
  EXPECT_EQ(write_to("9000\n"), 5);
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), 9000);
  EXPECT_ERRNO(write_to("-1"), EINVAL);
  EXPECT_ERRNO(write_to("12x"), EINVAL);
  EXPECT_ERRNO(write_to("99999999999999999999999"), ERANGE);
  EXPECT_EQ(write_to("0"), 1);
  EXPECT_EQ(shown(), before);
}

GUEST_TEST(ArgumentEdge, AuxiliaryVectorByPrctl) {
  constexpr int kGetAuxv = 0x41555856;
  unsigned long vector[256] = {};
  int size = prctl(kGetAuxv, vector, sizeof(vector), 0, 0);
  EXPECT(size > 0 && static_cast<size_t>(size) <= sizeof(vector));
  unsigned long page = 0;
  for (size_t i = 0; i + 1 < sizeof(vector) / sizeof(vector[0]) && vector[i] != AT_NULL; i += 2) {
    if (vector[i] == AT_PAGESZ) page = vector[i + 1];
  }
  EXPECT_EQ(page, 4096u);
  // What does not fit is left out, and the size is told all the same.
  unsigned long start[2] = {1, 1};
  EXPECT_EQ(prctl(kGetAuxv, start, sizeof(start[0]), 0, 0), size);
  EXPECT_EQ(start[0], vector[0]);
  EXPECT_EQ(start[1], 1u);
  EXPECT_ERRNO(prctl(kGetAuxv, vector, sizeof(vector), 1, 0), EINVAL);
  EXPECT_ERRNO(prctl(kGetAuxv, kBadAddress, 8, 0, 0), EFAULT);
}

GUEST_TEST(ArgumentEdge, DeadlinesNeedMoreThanAPriority) {
  struct sched_param param = {};
  EXPECT_ERRNO(Call(SYS_sched_setscheduler, 0, 6, &param), EINVAL);
}

GUEST_TEST(ArgumentEdge, FilePagesInAnotherOrder) {
  int fd = MUST(memfd_create("pages", 0));
  EXPECT_EQ(ftruncate(fd, 4 * kPage), 0);
  for (int i = 0; i < 4; i++) {
    char value = static_cast<char>('a' + i);
    EXPECT_EQ(pwrite(fd, &value, 1, static_cast<long>(i * kPage)), 1);
  }
  auto* memory = static_cast<char*>(mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  EXPECT(memory != MAP_FAILED);
  for (size_t i = 0; i < 4; i++) EXPECT_EQ(remap_file_pages(memory + i * kPage, kPage, 0, 3 - i, 0), 0);
  CheckpointHere();
  for (size_t i = 0; i < 4; i++) EXPECT_EQ(memory[i * kPage], static_cast<char>('d' - i));
  memory[0] = 'D';
  char last = 0;
  EXPECT_EQ(pread(fd, &last, 1, 3 * kPage), 1);
  EXPECT_EQ(last, 'D');
  EXPECT_ERRNO(remap_file_pages(memory, kPage, PROT_READ, 0, 0), EINVAL);
  EXPECT_ERRNO(remap_file_pages(memory, 0, 0, 0, 0), EINVAL);
  auto* own = static_cast<char*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
  EXPECT_ERRNO(remap_file_pages(own, kPage, 0, 1, 0), EINVAL);
  EXPECT_EQ(munmap(memory + kPage, kPage), 0);
  EXPECT_ERRNO(remap_file_pages(memory, 3 * kPage, 0, 0, 0), EINVAL);
  // Anonymous shared memory is a file, too.
  auto* shared = static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  shared[0] = 'x';
  shared[kPage] = 'y';
  EXPECT_EQ(remap_file_pages(shared, kPage, 0, 1, 0), 0);
  EXPECT_EQ(shared[0], 'y');
}

GUEST_TEST(ArgumentEdge, LengthsThatWrap) {
  auto* memory = static_cast<char*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT_EQ(Call(SYS_mlock, memory, ~0ul), 0);
  EXPECT_EQ(Call(SYS_munlock, memory, ~0ul), 0);
  EXPECT_EQ(Call(SYS_msync, memory, ~0ul - 100, MS_SYNC), 0);
  EXPECT_ERRNO(Call(SYS_msync, memory, ~0ul - 8191, MS_SYNC), ENOMEM);
  EXPECT_ERRNO(Call(SYS_madvise, memory, ~0ul, MADV_NORMAL), EINVAL);
}

GUEST_TEST(ArgumentEdge, HalfOfSyncIsSync) {
  int fd = MUST(open("/tmp", O_TMPFILE | O_RDWR | (O_SYNC & ~O_DSYNC), 0600));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_SYNC, O_SYNC);
}

GUEST_TEST(ArgumentEdge, DispatchIsOff) {
  EXPECT_EQ(prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 0, 0, 0), 0);
  EXPECT_ERRNO(prctl(PR_SET_SYSCALL_USER_DISPATCH, 0, 1, 0, 0), EINVAL);
}

GUEST_TEST(ArgumentEdge, SizesByIoctl) {
  int fd = MUST(open("/tmp", O_TMPFILE | O_RDWR, 0600));
  EXPECT_EQ(pwrite(fd, "x", 1, 0), 1);
  EXPECT_EQ(fsync(fd), 0);  // now it has its block
  int block = 0;
  EXPECT_EQ(ioctl(fd, 2 /* FIGETBSZ */, &block), 0);
  EXPECT_EQ(block, 4096);
  int64_t size = 0;
  EXPECT_EQ(ioctl(fd, FIOQSIZE, &size), 0);
  EXPECT_EQ(size, 4096);
  int null = MUST(open("/dev/null", O_RDWR));
  EXPECT_ERRNO(ioctl(null, FIOQSIZE, &size), ENOTTY);
  EXPECT_ERRNO(Call(SYS_ioctl, fd, FIOQSIZE, kBadAddress), EFAULT);
}
