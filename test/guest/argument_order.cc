// Which of several wrong arguments a call is refused for: Linux's order, as programs that probe for features see it.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "test/harness/guest_util.h"

using namespace guest;

// What is copied in is, before anything that it is for is looked up.
GUEST_TEST(ArgumentOrder, WhatIsPointedToComesFirst) {
  EXPECT_ERRNO(Call(SYS_setrlimit, -1, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_prlimit64, 999'999, -1, kBadAddress, 0), EFAULT);
  rlimit limit = {};
  EXPECT_ERRNO(Call(SYS_prlimit64, 999'999, -1, &limit, 0), ESRCH);
  EXPECT_ERRNO(Call(SYS_prlimit64, 0, -1, 0, &limit), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_setaffinity, -1, 8, kBadAddress), EFAULT);
  int id;
  EXPECT_ERRNO(Call(SYS_timer_create, 99, kBadAddress, &id), EFAULT);
  EXPECT_ERRNO(Call(SYS_clock_adjtime, 99, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_mq_timedsend, -1, "", 0, UINT_MAX, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_recvmmsg, -1, 0, 1, 0, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_process_madvise, -1, kBadAddress, 1, 99, 0), EFAULT);
  EXPECT_ERRNO(Call(SYS_msgctl, 99'999'999, IPC_SET, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_msgctl, -1, IPC_SET, kBadAddress), EINVAL);
}

GUEST_TEST(ArgumentOrder, DescriptorsBeforeFlags) {
  epoll_event event;
  EXPECT_ERRNO(Call(SYS_epoll_wait, -1, &event, -1, 0), EBADF);
  EXPECT_ERRNO(Call(SYS_accept4, -1, 0, 0, -1), EBADF);
  EXPECT_ERRNO(Call(SYS_accept4, 0, 0, 0, -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_copy_file_range, -1, 0, -1, 0, 1, 1), EBADF);
}

GUEST_TEST(ArgumentOrder, FlagsBeforeDescriptors) {
  EXPECT_ERRNO(Call(SYS_inotify_add_watch, -1, "/", -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_inotify_add_watch, -1, "/", 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_inotify_add_watch, -1, "/", IN_MASK_ADD | IN_MASK_CREATE | IN_MODIFY), EBADF);
  constexpr int kCompat = static_cast<int>(0x80000000);  // MSG_CMSG_COMPAT
  EXPECT_ERRNO(Call(SYS_sendmmsg, -1, 0, 1, kCompat), EINVAL);
  EXPECT_ERRNO(Call(SYS_memfd_create, "x", -1), EINVAL);
  EXPECT_ERRNO(Call(SYS_memfd_create, kBadAddress, 0x80), EINVAL);
}

GUEST_TEST(ArgumentOrder, LengthsBeforeTasks) {
  unsigned long cpus[128];
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, -1, 9, cpus), EINVAL);
  EXPECT_ERRNO(Call(SYS_sched_getaffinity, -1, sizeof(cpus), cpus), ESRCH);
}

GUEST_TEST(ArgumentOrder, TasksBeforeSignals) {
  EXPECT_ERRNO(Call(SYS_tgkill, 999'999, 999'999, 4096), ESRCH);
  EXPECT_ERRNO(Call(SYS_tgkill, 0, 999'999, 4096), EINVAL);
  EXPECT_ERRNO(Call(SYS_tkill, 999'999, 4096), ESRCH);
  EXPECT_ERRNO(Call(SYS_tkill, gettid(), 65), EINVAL);
  EXPECT_EQ(Call(SYS_tkill, gettid(), 0), 0);
}

// Clocks that nobody may set are known before what they are to be set to.
GUEST_TEST(ArgumentOrder, ClocksThatCannotBeSet) {
  EXPECT_ERRNO(Call(SYS_clock_settime, CLOCK_MONOTONIC, kBadAddress), EINVAL);
  EXPECT_ERRNO(Call(SYS_clock_settime, CLOCK_BOOTTIME, kBadAddress), EINVAL);
  EXPECT_ERRNO(Call(SYS_clock_settime, CLOCK_PROCESS_CPUTIME_ID, kBadAddress), EINVAL);
  clockid_t of_process = (~getpid() << 3) | 2;
  EXPECT_ERRNO(Call(SYS_clock_settime, of_process, kBadAddress), EFAULT);
  timespec some = {};
  EXPECT_ERRNO(Call(SYS_clock_settime, of_process, &some), EPERM);
  EXPECT_ERRNO(Call(SYS_clock_settime, 99, &some), EINVAL);
}

// Nothing goes into anything; but the addresses are looked at.
GUEST_TEST(ArgumentOrder, VmspliceOfNothing) {
  int file = MUST(open("/proc/self/exe", O_RDONLY));
  EXPECT_EQ(Call(SYS_vmsplice, file, 0, 0, 0), 0);
  iovec empty = {};
  EXPECT_EQ(Call(SYS_vmsplice, file, &empty, 1, 0), 0);
  EXPECT_ERRNO(Call(SYS_vmsplice, file, kBadAddress, 1, 0), EFAULT);
  char byte = 0;
  iovec one = {&byte, 1};
  EXPECT_ERRNO(Call(SYS_vmsplice, file, &one, 1, 0), EBADF);
  close(file);
}
