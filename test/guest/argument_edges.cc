// Calls whose answer depends on the order in which arguments are looked at, and commands that few programs use.
#include <asm/prctl.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
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
