// Credentials, capabilities and the prctl calls about them.
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <unistd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Caps {
  uint64_t effective, permitted, inheritable;
};

Caps GetCaps(pid_t pid = 0) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, pid};
  __user_cap_data_struct data[2] = {};
  MUST(syscall(SYS_capget, &header, data));
  auto join = [](uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; };
  return {join(data[0].effective, data[1].effective), join(data[0].permitted, data[1].permitted), join(data[0].inheritable, data[1].inheritable)};
}

int SetCaps(Caps caps) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  data[0] = {static_cast<uint32_t>(caps.effective), static_cast<uint32_t>(caps.permitted), static_cast<uint32_t>(caps.inheritable)};
  data[1] = {static_cast<uint32_t>(caps.effective >> 32), static_cast<uint32_t>(caps.permitted >> 32), static_cast<uint32_t>(caps.inheritable >> 32)};
  return static_cast<int>(syscall(SYS_capset, &header, data));
}

constexpr uint64_t Bit(int capability) { return 1ULL << capability; }

void NeedRoot() {
  if (geteuid() != 0 || (GetCaps().effective & (Bit(CAP_SETUID) | Bit(CAP_SETGID))) == 0) Skip("needs root");
}

void ExpectGids(gid_t real, gid_t effective, gid_t saved) {
  gid_t r = 0, e = 0, s = 0;
  MUST(getresgid(&r, &e, &s));
  EXPECT_EQ(r, real);
  EXPECT_EQ(e, effective);
  EXPECT_EQ(s, saved);
}

// Without the C library's broadcast to all threads.
int RawSetuid(uid_t uid) { return static_cast<int>(syscall(SYS_setuid, uid)); }

}  // namespace

GUEST_TEST(Uids, SetuidByRootSetsAll) {
  NeedRoot();
  MUST(setuid(1000));
  ExpectUids(1000, 1000, 1000);
  CheckpointHere();
  ExpectUids(1000, 1000, 1000);
  EXPECT_ERRNO(setuid(0), EPERM);
  EXPECT_OK(setuid(1000));
}

GUEST_TEST(Uids, SetuidByUserSetsTheEffective) {
  NeedRoot();
  MUST(setresuid(1000, 1000, 2000));
  MUST(setuid(2000));
  ExpectUids(1000, 2000, 2000);
  MUST(setuid(1000));
  ExpectUids(1000, 1000, 2000);
}

GUEST_TEST(Uids, SetreuidRules) {
  NeedRoot();
  MUST(setreuid(1000, 2000));
  ExpectUids(1000, 2000, 2000);  // The saved one follows when the real one is set.
  EXPECT_ERRNO(setreuid(3000, static_cast<uid_t>(-1)), EPERM);
  MUST(setreuid(2000, 1000));
  ExpectUids(2000, 1000, 1000);
}

GUEST_TEST(Uids, SetresuidRules) {
  NeedRoot();
  MUST(setresuid(1000, 2000, 3000));
  ExpectUids(1000, 2000, 3000);
  EXPECT_ERRNO(setresuid(4000, static_cast<uid_t>(-1), static_cast<uid_t>(-1)), EPERM);
  MUST(setresuid(3000, 1000, 2000));
  ExpectUids(3000, 1000, 2000);
  MUST(setresuid(static_cast<uid_t>(-1), 3000, static_cast<uid_t>(-1)));
  ExpectUids(3000, 3000, 2000);
}

GUEST_TEST(Uids, MinusOneIsNotAUid) {
  NeedRoot();
  EXPECT_ERRNO(setuid(static_cast<uid_t>(-1)), EINVAL);
}

GUEST_TEST(Gids, SetgidFamily) {
  NeedRoot();
  MUST(setresgid(1000, 2000, 3000));
  ExpectGids(1000, 2000, 3000);
  MUST(setgid(4000));  // Still privileged by uid 0.
  ExpectGids(4000, 4000, 4000);
  MUST(setregid(5000, 6000));
  ExpectGids(5000, 6000, 6000);
  MUST(setuid(1000));
  EXPECT_ERRNO(setgid(0), EPERM);
  EXPECT_OK(setgid(5000));
  ExpectGids(5000, 5000, 6000);
}

GUEST_TEST(Gids, SupplementaryGroups) {
  NeedRoot();
  const gid_t groups[] = {30, 10, 20, 10};
  MUST(setgroups(4, groups));
  CheckpointHere();
  EXPECT_EQ(getgroups(0, nullptr), 4);
  gid_t now[8] = {};
  EXPECT_EQ(getgroups(8, now), 4);
  const gid_t expected[] = {10, 10, 20, 30};  // Sorted by the kernel, duplicates kept.
  for (int i = 0; i < 4; ++i) EXPECT_EQ(now[i], expected[i]);
  EXPECT_ERRNO(getgroups(3, now), EINVAL);
  EXPECT_ERRNO(setgroups(65537, groups), EINVAL);
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_ERRNO(setgroups(0, nullptr), EPERM);
}

GUEST_TEST(Gids, GroupsDecideAccess) {
  NeedRoot();
  TempDir dir;
  WriteFile(dir / "f", "x");
  MUST(chown(dir / "f", 0, 4242));
  MUST(chmod(dir / "f", 0640));
  const pid_t pid = Fork([&] {
    const gid_t group = 4242;
    MUST(setgroups(1, &group));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_OK(open(dir / "f", O_RDONLY));
    EXPECT_ERRNO(open(dir / "f", O_WRONLY), EACCES);
  });
  JOIN_OK(pid);
  JOIN_OK(Fork([&] {
    BecomeUser();
    EXPECT_ERRNO(open(dir / "f", O_RDONLY), EACCES);
  }));
}

GUEST_TEST(Uids, FsuidFollowsAndCanBeSet) {
  NeedRoot();
  EXPECT_EQ(setfsuid(static_cast<uid_t>(-1)), 0);
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  MUST(syscall(SYS_setfsuid, 1234));
  EXPECT_EQ(setfsuid(static_cast<uid_t>(-1)), 1234);
  const int fd = MUST(open(dir / "f", O_CREAT | O_WRONLY, 0600));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_uid, 1234);
  MUST(syscall(SYS_setresuid, -1, 0, -1));
  EXPECT_EQ(setfsuid(static_cast<uid_t>(-1)), 0);  // Setting the effective id sets it back.
}

GUEST_TEST(Uids, PerThreadInTheKernel) {
  NeedRoot();
  Thread other([] {
    EXPECT_EQ(RawSetuid(1000), 0);
    EXPECT_EQ(syscall(SYS_geteuid), 1000);
  });
  other.Join();
  EXPECT_EQ(syscall(SYS_geteuid), 0);
}

GUEST_TEST(Uids, InheritedByForkAndShownInStatus) {
  NeedRoot();
  MUST(setresgid(7, 8, 9));
  MUST(setresuid(1000, 2000, 3000));
  JOIN_OK(Fork([] {
    ExpectUids(1000, 2000, 3000);
    char text[4096];
    ReadFile("/proc/self/status", text, sizeof(text));
    EXPECT_NE(strstr(text, "Uid:\t1000\t2000\t3000\t2000\n"), nullptr);
    EXPECT_NE(strstr(text, "Gid:\t7\t8\t9\t8\n"), nullptr);
  }));
}

GUEST_TEST(Caps, DroppingAllUidsDropsAll) {
  NeedRoot();
  EXPECT_NE(GetCaps().effective, 0);
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_EQ(GetCaps().effective, 0);
  EXPECT_EQ(GetCaps().permitted, 0);
}

GUEST_TEST(Caps, EffectiveFollowsTheEffectiveUid) {
  NeedRoot();
  const uint64_t permitted = GetCaps().permitted;
  MUST(setresuid(0, 1000, 0));
  EXPECT_EQ(GetCaps().effective, 0);
  EXPECT_EQ(GetCaps().permitted, permitted);
  MUST(setresuid(0, 0, 0));
  EXPECT_EQ(GetCaps().effective, permitted);
}

GUEST_TEST(Caps, KeepCapsKeepsThePermitted) {
  NeedRoot();
  const uint64_t permitted = GetCaps().permitted;
  MUST(prctl(PR_SET_KEEPCAPS, 1));
  EXPECT_EQ(prctl(PR_GET_KEEPCAPS), 1);
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_EQ(GetCaps().permitted, permitted);
  EXPECT_EQ(GetCaps().effective, 0);
  MUST(SetCaps({Bit(CAP_KILL), permitted, 0}));
  CheckpointHere();
  EXPECT_EQ(GetCaps().effective, Bit(CAP_KILL));
}

GUEST_TEST(Caps, CannotGainWhatIsNotPermitted) {
  NeedRoot();
  MUST(SetCaps({Bit(CAP_KILL), Bit(CAP_KILL), 0}));
  EXPECT_ERRNO(SetCaps({Bit(CAP_KILL), Bit(CAP_KILL) | Bit(CAP_CHOWN), 0}), EPERM);
  EXPECT_ERRNO(SetCaps({Bit(CAP_CHOWN), Bit(CAP_KILL), 0}), EPERM);
  EXPECT_OK(SetCaps({0, Bit(CAP_KILL), Bit(CAP_KILL)}));
  EXPECT_ERRNO(setuid(1000), EPERM);
}

GUEST_TEST(Caps, VersionIsNegotiated) {
  __user_cap_header_struct header = {0x12345678, 0};
  __user_cap_data_struct data[2] = {};
  EXPECT_ERRNO(syscall(SYS_capget, &header, data), EINVAL);
  EXPECT_EQ(header.version, _LINUX_CAPABILITY_VERSION_3);
  header.version = 0;
  EXPECT_OK(syscall(SYS_capget, &header, nullptr));
  header = {_LINUX_CAPABILITY_VERSION_3, 0x3ffffff};
  EXPECT_ERRNO(syscall(SYS_capget, &header, data), ESRCH);
  header = {_LINUX_CAPABILITY_VERSION_3, getppid()};
  EXPECT_ERRNO(syscall(SYS_capset, &header, data), EPERM);
}

GUEST_TEST(Caps, BoundingSet) {
  NeedRoot();
  EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 1);
  EXPECT_ERRNO(prctl(PR_CAPBSET_READ, 64), EINVAL);
  if ((GetCaps().effective & Bit(CAP_SETPCAP)) == 0) Skip("needs CAP_SETPCAP");
  MUST(prctl(PR_CAPBSET_DROP, CAP_CHOWN));
  EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0);
  EXPECT_NE(GetCaps().effective & Bit(CAP_CHOWN), 0);  // Only exec looks at it.
  CheckpointHere();
  EXPECT_EQ(prctl(PR_CAPBSET_READ, CAP_CHOWN), 0);
  MUST(SetCaps({0, GetCaps().permitted, 0}));
  EXPECT_ERRNO(prctl(PR_CAPBSET_DROP, CAP_KILL), EPERM);
}

GUEST_TEST(Caps, AmbientNeedsBothOthers) {
  NeedRoot();
  EXPECT_ERRNO(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), EPERM);
  Caps caps = GetCaps();
  caps.inheritable = Bit(CAP_KILL);
  MUST(SetCaps(caps));
  EXPECT_OK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
  EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), 1);
  caps.inheritable = 0;
  MUST(SetCaps(caps));
  EXPECT_EQ(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0), 0);
  EXPECT_ERRNO(prctl(PR_CAP_AMBIENT, 99, 0, 0, 0), EINVAL);
}

GUEST_HELPER(HasKillOnly) {
  EXPECT_EQ(geteuid(), 1000);
  EXPECT_EQ(GetCaps().effective, Bit(CAP_KILL));
  EXPECT_EQ(GetCaps().permitted, Bit(CAP_KILL));
  ExitWithVerdict();
}

GUEST_TEST(Caps, AmbientSurvivesExec) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(1000, 1000, 1000));
    MUST(SetCaps({Bit(CAP_KILL), Bit(CAP_KILL), Bit(CAP_KILL)}));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
    execl(SelfPath(), SelfPath(), "@HasKillOnly", nullptr);
  }));
}

GUEST_HELPER(HasNothing) {
  EXPECT_EQ(GetCaps().effective, 0);
  EXPECT_EQ(prctl(PR_GET_KEEPCAPS), 0);
  ExitWithVerdict();
}

GUEST_TEST(Caps, UserLosesAllAtExec) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_NE(GetCaps().permitted, 0);
    execl(SelfPath(), SelfPath(), "@HasNothing", nullptr);
  }));
}

GUEST_TEST(Caps, SecurebitsNoRoot) {
  NeedRoot();
  if ((GetCaps().effective & Bit(CAP_SETPCAP)) == 0) Skip("needs CAP_SETPCAP");
  EXPECT_EQ(prctl(PR_GET_SECUREBITS), 0);
  JOIN_OK(Fork([] {
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
    EXPECT_ERRNO(prctl(PR_SET_SECUREBITS, 0), EPERM);
    CheckpointHere();
    EXPECT_EQ(prctl(PR_GET_SECUREBITS), SECBIT_NOROOT | SECBIT_NOROOT_LOCKED);
    execl(SelfPath(), SelfPath(), "@HasNothing", nullptr);
  }));
}

GUEST_TEST(Caps, SecurebitsNoSetuidFixup) {
  NeedRoot();
  if ((GetCaps().effective & Bit(CAP_SETPCAP)) == 0) Skip("needs CAP_SETPCAP");
  const uint64_t before = GetCaps().effective;
  MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP));
  MUST(setresuid(1000, 1000, 1000));
  EXPECT_EQ(GetCaps().effective, before);
}

GUEST_HELPER(ShowIds) {
  EXPECT_EQ(getuid(), 1000);
  EXPECT_EQ(geteuid(), atoi(argv[2]));
  EXPECT_EQ(getegid(), atoi(argv[3]));
  ExitWithVerdict();
}

namespace {

// A copy of this program owned by 4000:5000 with such mode bits.
void MakeCopy(const char* path, mode_t mode) {
  static char self[8 << 20];
  const size_t size = ReadFile(SelfPath(), self, sizeof(self));
  WriteFile(path, self, size, 0755);
  MUST(chown(path, 4000, 5000));
  MUST(chmod(path, mode));
}

// Such a copy, executed by user 1000.
void RunCopy(mode_t mode, bool no_new_privileges, const char* uid, const char* gid) {
  TempDir dir;
  MakeCopy(dir / "copy", mode);
  JOIN_OK(Fork([&] {
    BecomeUser();
    if (no_new_privileges) MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    execl(dir / "copy", "copy", "@ShowIds", uid, gid, nullptr);
  }));
}

}  // namespace

GUEST_TEST(SetuidExec, TakesTheOwner) {
  NeedRoot();
  RunCopy(04755, false, "4000", "1000");
}

// Who is traced by somebody without privileges, or shares its directories with another process, gains nothing (cap_bprm_creds_from_file).
GUEST_TEST(SetuidExec, TracedGainsNothing) {
  NeedRoot();
  TempDir dir;
  MakeCopy(dir / "copy", 04755);
  JOIN_OK(Fork([&] {
    BecomeUser();
    MUST(prctl(PR_SET_DUMPABLE, 1));
    const pid_t pid = Fork([&] {
      MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
      execl(dir / "copy", "copy", "@ShowIds", "1000", "1000", nullptr);
    });
    int status = 0;
    MUST(waitpid(pid, &status, 0));
    ASSERT(WIFSTOPPED(status));  // Execve's own.
    MUST(ptrace(PTRACE_DETACH, pid, nullptr, nullptr));
    EXPECT_EXITED(WaitStatus(pid), 0);
  }));
}

GUEST_TEST(SetuidExec, SharedDirectoryGainsNothing) {
  NeedRoot();
  TempDir dir;
  MakeCopy(dir / "copy", 04755);
  JOIN_OK(Fork([&] {
    BecomeUser();
    static char stack[16384];
    const pid_t pid = clone([](void*) { return pause(); }, stack + sizeof(stack), CLONE_FS | SIGCHLD, nullptr);
    MUST(pid);
    JOIN_OK(Fork([&] { execl(dir / "copy", "copy", "@ShowIds", "4000", "1000", nullptr); }));
    const pid_t sharing = static_cast<pid_t>(MUST(syscall(SYS_clone, CLONE_FS | SIGCHLD, nullptr, nullptr, nullptr, nullptr)));
    if (sharing == 0) {
      execl(dir / "copy", "copy", "@ShowIds", "1000", "1000", nullptr);
      _exit(120);
    }
    EXPECT_EXITED(WaitStatus(sharing), 0);
    MUST(kill(pid, SIGKILL));
    EXPECT_KILLED(WaitStatus(pid), SIGKILL);
  }));
}

GUEST_TEST(SetuidExec, TakesTheGroup) {
  NeedRoot();
  RunCopy(02755, false, "1000", "5000");
}

GUEST_TEST(SetuidExec, GroupBitWithoutExecuteIsNot) {
  NeedRoot();
  RunCopy(02745, false, "1000", "1000");
}

GUEST_TEST(SetuidExec, NoNewPrivilegesStopsIt) {
  NeedRoot();
  RunCopy(06755, true, "1000", "1000");
}

// Root may trace what gains.
GUEST_TEST(SetuidExec, TracedByRootGains) {
  NeedRoot();
  if ((GetCaps().effective & Bit(CAP_SYS_PTRACE)) == 0) Skip("needs CAP_SYS_PTRACE");
  TempDir dir;
  MakeCopy(dir / "copy", 04755);
  const pid_t pid = Fork([&] {
    MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
    BecomeUser();
    execl(dir / "copy", "copy", "@ShowIds", "4000", "1000", nullptr);
  });
  int status = 0;
  MUST(waitpid(pid, &status, 0));
  EXPECT(WIFSTOPPED(status));
  MUST(ptrace(PTRACE_CONT, pid, nullptr, nullptr));
  JOIN_OK(pid);
}

// Root itself does not get back what it has given up, once it may gain no privileges.
GUEST_HELPER(ShowNoCaps) {
  EXPECT_EQ(GetCaps().permitted, 0u);
  EXPECT_EQ(GetCaps().effective, 0u);
  ExitWithVerdict();
}

GUEST_TEST(SetuidExec, NoNewPrivilegesBindsRoot) {
  NeedRoot();
  JOIN_OK(Fork([] {
    SetCaps({});
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    execl(SelfPath(), "copy", "@ShowNoCaps", nullptr);
  }));
}

GUEST_TEST(Prctl, NoNewPrivileges) {
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 0);
  EXPECT_ERRNO(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  CheckpointHere();
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
  JOIN_OK(Fork([] { EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1); }));
}

GUEST_TEST(Prctl, Dumpable) {
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1);
  MUST(prctl(PR_SET_DUMPABLE, 0));
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 0);
  CheckpointHere();
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 0);
  EXPECT_ERRNO(prctl(PR_SET_DUMPABLE, 2), EINVAL);
}

GUEST_TEST(Prctl, DumpableGoesWithTheUid) {
  NeedRoot();
  MUST(setresuid(0, 1000, 0));
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 0);
}

GUEST_TEST(Prctl, TimerSlack) {
  MUST(prctl(PR_SET_TIMERSLACK, 123456));
  CheckpointHere();
  EXPECT_EQ(prctl(PR_GET_TIMERSLACK), 123456);
  MUST(prctl(PR_SET_TIMERSLACK, 0));
  EXPECT_NE(prctl(PR_GET_TIMERSLACK), 123456);
}

GUEST_TEST(Prctl, UnknownOption) { EXPECT_ERRNO(prctl(0x7fff'0000, 0, 0, 0, 0), EINVAL); }

GUEST_TEST(Prctl, ParentDeathSignalReads) {
  MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
  int number = 0;
  MUST(prctl(PR_GET_PDEATHSIG, &number));
  EXPECT_EQ(number, SIGUSR1);
  EXPECT_ERRNO(prctl(PR_SET_PDEATHSIG, 65), EINVAL);
  JOIN_OK(Fork([] {
    int own = -1;
    MUST(prctl(PR_GET_PDEATHSIG, &own));
    EXPECT_EQ(own, 0);
  }));
}
