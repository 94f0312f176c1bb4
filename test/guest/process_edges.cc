// Processes: identities and their changes, groups and sessions, waiting, prctl, limits, capabilities; each call's errors.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

__user_cap_data_struct Caps(int word = 0) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2] = {};
  MUST(Call(SYS_capget, &header, data));
  return data[word];
}

}  // namespace

GUEST_TEST(IdEdge, BadPointers) {
  unsigned id = 0;
  EXPECT_ERRNO(Call(SYS_getresuid, kBadAddress, &id, &id), EFAULT);
  EXPECT_ERRNO(Call(SYS_getresuid, &id, kBadAddress, &id), EFAULT);
  EXPECT_ERRNO(Call(SYS_getresgid, &id, &id, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_setgroups, 2, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_setgroups, 65537, kBadAddress), EINVAL);
  EXPECT_ERRNO(Call(SYS_setgroups, -1, kBadAddress), EINVAL);
  const gid_t groups[3] = {5, 6, 7};
  MUST(setgroups(3, groups));
  EXPECT_ERRNO(Call(SYS_getgroups, -1, nullptr), EINVAL);
  gid_t told[3] = {};
  EXPECT_EQ(getgroups(0, nullptr), 3);
  EXPECT_ERRNO(getgroups(2, told), EINVAL);
  EXPECT_ERRNO(Call(SYS_getgroups, 3, kBadAddress), EFAULT);
  CheckpointHere();
  EXPECT_EQ(getgroups(3, told), 3);
  EXPECT_EQ(told[2], 7);
}

GUEST_TEST(IdEdge, UsersMaySwapOnly) {
  MUST(setresuid(1000, 2000, 3000));
  EXPECT_OK(setreuid(2000, 1000));
  // The saved one follows the new effective one where the real one was set (kernel/sys.c, __sys_setreuid).
  ExpectUids(2000, 1000, 1000);
  EXPECT_ERRNO(setreuid(3000, -1), EPERM);
  EXPECT_ERRNO(setuid(4000), EPERM);
  EXPECT_ERRNO(setresuid(-1, -1, 5), EPERM);
  EXPECT_OK(setresuid(-1, -1, -1));
  EXPECT_ERRNO(setgroups(0, nullptr), EPERM);
}

GUEST_TEST(IdEdge, SeteuidKeepsTheSaved) {
  MUST(seteuid(1000));
  ExpectUids(0, 1000, 0);
  EXPECT_EQ(Caps().effective, 0);
  EXPECT_NE(Caps().permitted, 0);
  CheckpointHere();
  EXPECT_OK(seteuid(0));
  EXPECT_NE(Caps().effective, 0);
}

GUEST_TEST(IdEdge, SetgidLeavesCapabilities) {
  MUST(setgid(1000));
  EXPECT_NE(Caps().effective, 0);
  EXPECT_EQ(getegid(), 1000);
}

GUEST_TEST(IdEdge, FsuidRules) {
  EXPECT_EQ(setfsuid(1000), 0);
  EXPECT_EQ(setfsuid(-1), 1000);
  // Capabilities about files go with it.
  EXPECT_EQ(Caps().effective & (1u << CAP_DAC_OVERRIDE), 0);
  EXPECT_NE(Caps().effective & (1u << CAP_SETUID), 0);
  EXPECT_EQ(setfsuid(0), 1000);
  EXPECT_NE(Caps().effective & (1u << CAP_DAC_OVERRIDE), 0);
  AS_USER([] {
    EXPECT_EQ(setfsuid(0), 1000);
    EXPECT_EQ(setfsuid(-1), 1000);  // It didn't change.
  });
}

GUEST_TEST(GroupEdge, SetpgidErrors) {
  EXPECT_ERRNO(setpgid(-1, 0), EINVAL);  // A group of that number is meant.
  EXPECT_ERRNO(setpgid(-1, getpgrp()), ESRCH);
  EXPECT_ERRNO(setpgid(0, -1), EINVAL);
  EXPECT_ERRNO(setpgid(1, 0), ESRCH);  // Neither itself nor a child.
  EXPECT_ERRNO(setpgid(0, 4'000'000), EPERM);
  EXPECT_ERRNO(getpgid(4'000'000), ESRCH);
  EXPECT_ERRNO(getpgid(-1), ESRCH);
  EXPECT_ERRNO(getsid(4'000'000), ESRCH);
  JOIN_OK(Fork([] {
    MUST(setsid());
    EXPECT_ERRNO(setpgid(0, 0), EPERM);  // A session's leader stays where it is.
    EXPECT_ERRNO(setsid(), EPERM);
    EXPECT_EQ(getsid(0), getpid());
    EXPECT_EQ(getpgid(0), getpid());
  }));
}

GUEST_TEST(GroupEdge, ParentMovesItsChild) {
  const pid_t pid = Fork([] { pause(); });
  EXPECT_OK(setpgid(pid, pid));
  EXPECT_EQ(getpgid(pid), pid);
  const pid_t other = Fork([] { pause(); });
  EXPECT_OK(setpgid(other, pid));
  CheckpointHere();
  EXPECT_EQ(getpgid(other), pid);
  EXPECT_OK(kill(-pid, SIGKILL));
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
  EXPECT_KILLED(WaitStatus(other), SIGKILL);
  EXPECT_ERRNO(kill(-pid, 0), ESRCH);
}

GUEST_TEST(WaitEdge, Arguments) {
  int status = 0;
  rusage usage = {};
  siginfo_t info = {};
  EXPECT_ERRNO(Call(SYS_wait4, -1, &status, 0x1000, &usage), EINVAL);
  EXPECT_ERRNO(Call(SYS_wait4, INT32_MIN, &status, 0, nullptr), ESRCH);
  EXPECT_ERRNO(wait4(-1, &status, WNOHANG, nullptr), ECHILD);
  EXPECT_ERRNO(wait4(4'000'000, &status, 0, nullptr), ECHILD);
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, 0), EINVAL);
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, WEXITED | 0x80), EINVAL);
  EXPECT_ERRNO(waitid(static_cast<idtype_t>(9), 0, &info, WEXITED), EINVAL);
  EXPECT_ERRNO(waitid(P_PID, 0, &info, WEXITED), EINVAL);
  EXPECT_ERRNO(waitid(P_PID, -1, &info, WEXITED), EINVAL);
  EXPECT_ERRNO(waitid(P_PIDFD, 999, &info, WEXITED), EBADF);
  EXPECT_ERRNO(waitid(P_PIDFD, 1, &info, WEXITED), EBADF);
}

GUEST_TEST(WaitEdge, NullsAndBadPointers) {
  pid_t pid = Fork([] {});
  EXPECT_EQ(Call(SYS_wait4, pid, nullptr, 0, nullptr), pid);
  pid = Fork([] {});
  EXPECT_ERRNO(Call(SYS_waitid, P_PID, pid, kBadAddress, WEXITED, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_wait4, pid, nullptr, WNOHANG, nullptr), ECHILD);  // It was reaped all the same.
  pid = Fork([] {});
  EXPECT_EQ(Call(SYS_waitid, P_PID, pid, nullptr, WEXITED, nullptr), 0);
}

GUEST_TEST(WaitEdge, GroupZeroIsTheCallersOwn) {
  const pid_t same = Fork([] {});
  const pid_t other = Fork([] {
    setpgid(0, 0);
    pause();
  });
  while (getpgid(other) != other) SleepMs(1);
  EXPECT_EQ(waitpid(0, nullptr, 0), same);
  EXPECT_ERRNO(waitpid(0, nullptr, WNOHANG), ECHILD);
  kill(other, SIGKILL);
  siginfo_t info = {};
  EXPECT_OK(waitid(P_PGID, static_cast<id_t>(other), &info, WEXITED));
  EXPECT_EQ(info.si_pid, other);
}

GUEST_TEST(WaitEdge, NonblockingPidfd) {
  const pid_t pid = Fork([] { pause(); });
  const int fd = MUST(Call(SYS_pidfd_open, pid, O_NONBLOCK));
  siginfo_t info = {};
  EXPECT_ERRNO(waitid(P_PIDFD, static_cast<id_t>(fd), &info, WEXITED), EAGAIN);
  kill(pid, SIGKILL);
  for (int i = 0; i < 5000 && waitid(P_PIDFD, static_cast<id_t>(fd), &info, WEXITED) < 0; ++i) SleepMs(1);
  EXPECT_EQ(info.si_pid, pid);
}

GUEST_TEST(WaitEdge, SiginfoTellsTheUser) {
  const pid_t pid = Fork([] {
    BecomeUser();
    _exit(5);
  });
  siginfo_t info = {};
  MUST(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED));
  EXPECT_EQ(info.si_uid, 1000);
  EXPECT_EQ(info.si_signo, SIGCHLD);
  EXPECT_EQ(info.si_status, 5);
}

GUEST_TEST(PidfdEdge, Arguments) {
  EXPECT_ERRNO(Call(SYS_pidfd_open, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_pidfd_open, -1, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_pidfd_open, 4'000'000, 0), ESRCH);
  EXPECT_ERRNO(Call(SYS_pidfd_open, getpid(), 1), EINVAL);
  const int fd = MUST(Call(SYS_pidfd_open, getpid(), 0));
  EXPECT_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, fd, 0, nullptr, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, fd, 65, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, 999, 0, nullptr, 0), EBADF);
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, TempFile(), 0, nullptr, 0), EBADF);
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, fd, SIGUSR1, kBadAddress, 0), EFAULT);
  siginfo_t info = {};
  info.si_signo = SIGUSR2;
  EXPECT_ERRNO(Call(SYS_pidfd_send_signal, fd, SIGUSR1, &info, 0), EINVAL);  // The numbers differ.
  EXPECT_OK(Call(SYS_pidfd_send_signal, fd, 0, nullptr, 0));
}

GUEST_TEST(PidfdEdge, TakesADescriptor) {
  Pipe p;
  Gate ready, done;
  const pid_t pid = Fork([&] {
    MUST(dup2(p.w, 77));
    ready.Open();
    done.Await();
  });
  ready.Await();
  const int fd = MUST(Call(SYS_pidfd_open, pid, 0));
  const int taken = MUST(Call(438 /*pidfd_getfd*/, fd, 77, 0));
  EXPECT_EQ(fcntl(taken, F_GETFD), FD_CLOEXEC);
  CheckpointHere();
  MUST(write(taken, "x", 1));
  char byte = 0;
  EXPECT_EQ(read(p.r, &byte, 1), 1);
  EXPECT_ERRNO(Call(438, fd, 78, 0), EBADF);
  EXPECT_ERRNO(Call(438, fd, 77, 1), EINVAL);
  EXPECT_ERRNO(Call(438, 999, 77, 0), EBADF);
  AS_USER([&] { EXPECT_ERRNO(Call(438, fd, 77, 0), EPERM); });
  done.Open();
  JOIN_OK(pid);
}

GUEST_TEST(PrctlEdge, NamesAndPointers) {
  char name[16] = {};
  MUST(prctl(PR_SET_NAME, "a name that is too long"));
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_STREQ(name, "a name that is ");
  EXPECT_ERRNO(prctl(PR_SET_NAME, kBadAddress), EFAULT);
  EXPECT_ERRNO(prctl(PR_GET_NAME, kBadAddress), EFAULT);
  CheckpointHere();
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_STREQ(name, "a name that is ");
}

GUEST_TEST(PrctlEdge, ValuesOutOfRange) {
  EXPECT_ERRNO(prctl(PR_SET_DUMPABLE, 2, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_PDEATHSIG, 65, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_KEEPCAPS, 2, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_TIMING, 1, 0, 0, 0), EINVAL);
  EXPECT_EQ(prctl(PR_GET_TIMING), 0);
  EXPECT_ERRNO(prctl(PR_CAPBSET_READ, 64, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_CAPBSET_DROP, 64, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_SECUREBITS, 0x1000, 0, 0, 0), EPERM);
  EXPECT_ERRNO(prctl(PR_SET_CHILD_SUBREAPER + 1, kBadAddress, 0, 0, 0), EFAULT);  // PR_GET_CHILD_SUBREAPER
  EXPECT_ERRNO(prctl(PR_GET_PDEATHSIG, kBadAddress, 0, 0, 0), EFAULT);
  EXPECT_ERRNO(prctl(PR_CAP_AMBIENT, 99, 0, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_SET_THP_DISABLE, 1, 1, 1, 1), EINVAL);
  EXPECT_ERRNO(prctl(PR_MCE_KILL, 9, 0, 0, 0), EINVAL);
}

GUEST_TEST(PrctlEdge, TimerSlackDefaults) {
  const int slack = prctl(PR_GET_TIMERSLACK);
  EXPECT_GT(slack, 0);
  EXPECT_OK(prctl(PR_SET_TIMERSLACK, 12345));
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 12345);
  CheckpointHere();
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 12345);
  EXPECT_OK(prctl(PR_SET_TIMERSLACK, 0));  // The default of the process.
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK), slack);
}

GUEST_TEST(PrctlEdge, TimerSlackOfTheCreatorIsTheDefault) {
  MUST(prctl(PR_SET_TIMERSLACK, 777));
  JOIN_OK(Fork([] {
    EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 777);
    MUST(prctl(PR_SET_TIMERSLACK, 5));
    MUST(prctl(PR_SET_TIMERSLACK, 0));
    EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 777);
  }));
}

GUEST_TEST(PrctlEdge, SecurebitsLock) {
  EXPECT_EQ(prctl(PR_GET_SECUREBITS), 0);
  MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
  EXPECT_EQ(prctl(PR_GET_SECUREBITS), SECBIT_NOROOT | SECBIT_NOROOT_LOCKED);
  EXPECT_ERRNO(prctl(PR_SET_SECUREBITS, 0), EPERM);
  EXPECT_ERRNO(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT), EPERM);
  MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_KEEP_CAPS));
  EXPECT_EQ(prctl(PR_GET_KEEPCAPS), 1);
  CheckpointHere();
  JOIN_OK(Fork([] { EXPECT_EQ(prctl(PR_GET_SECUREBITS) & SECBIT_NOROOT, SECBIT_NOROOT); }));
}

GUEST_TEST(PrctlEdge, ChildSubreaperReadsBack) {
  int value = -1;
  MUST(prctl(PR_GET_CHILD_SUBREAPER, &value));
  EXPECT_EQ(value, 0);
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 5));
  MUST(prctl(PR_GET_CHILD_SUBREAPER, &value));
  EXPECT_EQ(value, 1);
}

GUEST_TEST(PrctlEdge, SpeculationQueries) {
  const int told = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
  EXPECT_GE(told, 0);
  EXPECT_ERRNO(prctl(PR_GET_SPECULATION_CTRL, 99, 0, 0, 0), ENODEV);
  EXPECT_ERRNO(prctl(PR_GET_SPECULATION_CTRL, 0, 1, 0, 0), EINVAL);
}

GUEST_TEST(PrctlEdge, HugePagesCanBeDisabled) {
  EXPECT_EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 0);
  EXPECT_OK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
  EXPECT_EQ(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
}

GUEST_TEST(PrctlEdge, TscAndAlignment) {
  int value = -1;
  EXPECT_OK(prctl(PR_GET_TSC, &value));
  EXPECT_EQ(value, PR_TSC_ENABLE);
  EXPECT_ERRNO(prctl(PR_SET_TSC, 9), EINVAL);
  EXPECT_ERRNO(prctl(PR_GET_UNALIGN, &value), EINVAL);  // Not on this machine.
  EXPECT_ERRNO(prctl(PR_GET_FPEMU, &value), EINVAL);
  EXPECT_ERRNO(prctl(PR_GET_ENDIAN, &value), EINVAL);
}

GUEST_TEST(CapEdge, HeadersAndProcesses) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 4'000'000};
  __user_cap_data_struct data[2] = {};
  EXPECT_ERRNO(Call(SYS_capget, &header, data), ESRCH);
  header.pid = -1;
  EXPECT_ERRNO(Call(SYS_capget, &header, data), EINVAL);
  header.pid = 1;
  EXPECT_OK(Call(SYS_capget, &header, data));
  EXPECT_ERRNO(Call(SYS_capset, &header, data), EPERM);  // Only one's own can be set.
  header.pid = 0;
  EXPECT_ERRNO(Call(SYS_capget, kBadAddress, data), EFAULT);
  EXPECT_ERRNO(Call(SYS_capget, &header, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_capset, &header, kBadAddress), EFAULT);
  header.version = 0x12345678;
  EXPECT_ERRNO(Call(SYS_capget, &header, data), EINVAL);
  EXPECT_EQ(header.version, _LINUX_CAPABILITY_VERSION_3);
  EXPECT_OK(Call(SYS_capget, &header, nullptr));
}

GUEST_TEST(CapEdge, EffectiveWithinPermitted) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct data[2] = {};
  data[0].permitted = 1u << CAP_CHOWN;
  data[0].effective = (1u << CAP_CHOWN) | (1u << CAP_KILL);
  EXPECT_ERRNO(Call(SYS_capset, &header, data), EPERM);
  data[0].effective = 0;
  EXPECT_OK(Call(SYS_capset, &header, data));
  EXPECT_EQ(Caps().permitted, 1u << CAP_CHOWN);
  CheckpointHere();
  const int fd = TempFile();
  EXPECT_ERRNO(fchown(fd, 5, 5), EPERM);
  data[0].effective = 1u << CAP_CHOWN;
  EXPECT_OK(Call(SYS_capset, &header, data));
  EXPECT_OK(fchown(fd, 5, 5));
  data[0].permitted |= 1u << CAP_KILL;
  EXPECT_ERRNO(Call(SYS_capset, &header, data), EPERM);
}

GUEST_TEST(RlimitEdge, PrlimitArguments) {
  rlimit limit = {};
  EXPECT_ERRNO(Call(SYS_prlimit64, 0, 16, nullptr, &limit), EINVAL);
  EXPECT_ERRNO(Call(SYS_prlimit64, 4'000'000, RLIMIT_NOFILE, nullptr, &limit), ESRCH);
  EXPECT_ERRNO(Call(SYS_prlimit64, 0, RLIMIT_NOFILE, kBadAddress, nullptr), EFAULT);
  EXPECT_ERRNO(Call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, kBadAddress), EFAULT);
  EXPECT_OK(Call(SYS_prlimit64, 0, RLIMIT_NOFILE, nullptr, nullptr));
  AS_USER([&] { EXPECT_ERRNO(Call(SYS_prlimit64, 1, RLIMIT_NOFILE, nullptr, &limit), EPERM); });
}

GUEST_TEST(RlimitEdge, LoweringIsForAll) {
  AS_USER([] {
    rlimit limit = {};
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    const rlim_t hard = limit.rlim_max;
    limit.rlim_cur = limit.rlim_max = 64;
    EXPECT_OK(setrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_max = hard;
    EXPECT_ERRNO(setrlimit(RLIMIT_NOFILE, &limit), EPERM);
    limit.rlim_max = 64;
    limit.rlim_cur = 65;
    EXPECT_ERRNO(setrlimit(RLIMIT_NOFILE, &limit), EINVAL);
  });
}

GUEST_TEST(KcmpEdge, Arguments) {
  EXPECT_EQ(Call(SYS_kcmp, getpid(), getpid(), 1 /*KCMP_VM*/, 0, 0), 0);
  EXPECT_ERRNO(Call(SYS_kcmp, getpid(), getpid(), 99, 0, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_kcmp, getpid(), 4'000'000, 1, 0, 0), ESRCH);
  EXPECT_ERRNO(Call(SYS_kcmp, getpid(), getpid(), 0, 999, 1), EBADF);
  AS_USER([] { EXPECT_ERRNO(Call(SYS_kcmp, getpid(), 1, 1, 0, 0), EPERM); });
}

GUEST_TEST(UnshareEdge, Arguments) {
  EXPECT_ERRNO(unshare(0x1), EINVAL);
  EXPECT_OK(unshare(0));
  EXPECT_OK(unshare(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM));
  Thread other([] {});
  AS_USER([] {
    EXPECT_ERRNO(unshare(CLONE_NEWUTS), EPERM);
    EXPECT_ERRNO(unshare(CLONE_NEWIPC), EPERM);
    EXPECT_ERRNO(unshare(CLONE_NEWNET), EPERM);
    EXPECT_ERRNO(unshare(CLONE_NEWPID), EPERM);
    EXPECT_ERRNO(unshare(CLONE_NEWNS), EPERM);
  });
  EXPECT_ERRNO(setns(-1, 0), EBADF);
  EXPECT_ERRNO(setns(TempFile(), 0), EINVAL);
  const int uts = MUST(open("/proc/self/ns/uts", O_RDONLY));
  EXPECT_ERRNO(setns(uts, CLONE_NEWNET), EINVAL);
  EXPECT_OK(setns(uts, CLONE_NEWUTS));
}

GUEST_TEST(UnshareEdge, ThreadsForbidSome) {
  Pipe p;
  Thread other([&] {
    char byte;
    read(p.r, &byte, 1);
  });
  other.AwaitAsleep();
  EXPECT_ERRNO(unshare(CLONE_NEWUSER), EINVAL);
  EXPECT_ERRNO(unshare(CLONE_THREAD), EINVAL);
  EXPECT_ERRNO(unshare(CLONE_VM), EINVAL);
  MUST(write(p.w, "x", 1));
}
