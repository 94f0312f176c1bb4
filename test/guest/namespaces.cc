// Pid, user, mount and IPC namespaces, as far as containers' programs use them.
#include <linux/reboot.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

void NeedRoot() {
  if (geteuid() != 0) Skip("needs root");
}

pid_t CloneInto(unsigned long flags) { return static_cast<pid_t>(MUST(syscall(SYS_clone, flags | SIGCHLD, nullptr, nullptr, nullptr, 0))); }

// Runs `body` as the first process of new namespaces.
template <typename F>
pid_t InNew(unsigned long flags, F body) {
  const pid_t pid = CloneInto(flags);
  if (pid == 0) {
    body();
    ExitWithVerdict();
  }
  return pid;
}

}  // namespace

GUEST_TEST(PidNamespace, FirstProcessIsOne) {
  NeedRoot();
  const pid_t pid = InNew(CLONE_NEWPID, [] {
    EXPECT_EQ(syscall(SYS_getpid), 1);
    EXPECT_EQ(getppid(), 0);
    EXPECT_EQ(syscall(SYS_gettid), 1);
    const pid_t child = Fork([] {
      EXPECT_EQ(syscall(SYS_getpid), 2);
      EXPECT_EQ(getppid(), 1);
    });
    EXPECT_EQ(child, 2);
    CheckpointHere();
    JOIN_OK(child);
  });
  EXPECT_GT(pid, 2);
  JOIN_OK(pid);
}

GUEST_TEST(PidNamespace, OutsidersAreInvisible) {
  NeedRoot();
  const pid_t outside = getpid();
  JOIN_OK(InNew(CLONE_NEWPID, [=] {
    if (outside > 2) EXPECT_ERRNO(kill(outside, 0), ESRCH);
    EXPECT_EQ(getsid(0), 0);  // The session's leader is outside.
    EXPECT_EQ(getpgrp(), 0);
  }));
}

GUEST_TEST(PidNamespace, InitIsProtectedFromInside) {
  NeedRoot();
  const pid_t pid = InNew(CLONE_NEWPID, [] {
    EXPECT_OK(kill(1, SIGKILL));  // No effect without a handler, and none at all for SIGKILL.
    EXPECT_OK(kill(1, SIGTERM));
    JOIN_OK(Fork([] {
      EXPECT_OK(kill(1, SIGKILL));
      EXPECT_OK(kill(1, SIGUSR1));
    }));
  });
  JOIN_OK(pid);
}

GUEST_TEST(PidNamespace, ParentMayKillInit) {
  NeedRoot();
  const pid_t pid = InNew(CLONE_NEWPID, [] {
    for (;;) pause();
  });
  AwaitAsleep(pid);
  CheckpointHere();
  MUST(kill(pid, SIGKILL));
  EXPECT_KILLED(WaitStatus(pid), SIGKILL);
}

GUEST_TEST(PidNamespace, EndOfInitEndsAll) {
  NeedRoot();
  Pipe p;
  const pid_t pid = InNew(CLONE_NEWPID, [&] {
    for (int i = 0; i < 3; ++i) {
      Fork([&] {
        signal(SIGTERM, SIG_IGN);
        for (;;) pause();
      });
    }
  });
  p.CloseWrite();
  char byte;
  EXPECT_EQ(read(p.r, &byte, 1), 0);  // All writers are gone.
  JOIN_OK(pid);
}

GUEST_TEST(PidNamespace, InitAdoptsOrphans) {
  NeedRoot();
  JOIN_OK(InNew(CLONE_NEWPID, [] {
    JOIN_OK(Fork([] { Fork([] { _exit(66); }); }));
    int status = 0;
    EXPECT_EQ(waitpid(-1, &status, 0), 3);
    EXPECT_EXITED(status, 66);
  }));
}

GUEST_TEST(PidNamespace, UnshareAppliesToChildren) {
  NeedRoot();
  JOIN_OK(Fork([] {
    const long before = syscall(SYS_getpid);
    MUST(unshare(CLONE_NEWPID));
    EXPECT_EQ(syscall(SYS_getpid), before);
    const pid_t child = Fork([] { EXPECT_EQ(syscall(SYS_getpid), 1); });
    JOIN_OK(child);
    EXPECT_ERRNO(fork(), ENOMEM);  // Its init is gone: nobody can be born there any more.
  }));
}

GUEST_TEST(PidNamespace, NestedShowsInStatus) {
  NeedRoot();
  const pid_t pid = InNew(CLONE_NEWPID, [] {
    for (;;) pause();
  });
  char text[4096];
  ReadFile(Str("/proc/%d/status", pid), text, sizeof(text));
  const char* line = strstr(text, "NSpid:");
  ASSERT_NE(line, nullptr);
  EXPECT_NE(strstr(line, Str("%d\t1\n", pid)), nullptr);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(PidNamespace, SignalSenderFromOutsideIsZero) {
  NeedRoot();
  Gate ready;
  const pid_t pid = InNew(CLONE_NEWPID, [&] {
    CountSignals(SIGUSR1);
    Block({SIGUSR1});
    ready.Open();
    const sigset_t set = Signals({SIGUSR1});
    siginfo_t info = {};
    EXPECT_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    EXPECT_EQ(info.si_pid, 0);
  });
  ready.Await();
  MUST(kill(pid, SIGUSR1));
  JOIN_OK(pid);
}

GUEST_TEST(UserNamespace, RootInside) {
  NeedRoot();
  Gate mapped, made;
  const pid_t pid = Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    MUST(unshare(CLONE_NEWUSER));
    made.Open();
    mapped.Await();
    EXPECT_EQ(geteuid(), 0);
    CheckpointHere();
    EXPECT_EQ(geteuid(), 0);
    EXPECT_ERRNO(setuid(5), EINVAL);   // Not mapped.
    EXPECT_OK(unshare(CLONE_NEWUTS));  // All capabilities in there.
    EXPECT_OK(sethostname("inner", 5));
  });
  made.Await();
  WriteFile(Str("/proc/%d/uid_map", pid), "0 1000 1\n");
  mapped.Open();
  JOIN_OK(pid);
}

GUEST_TEST(UserNamespace, UnmappedIsNobody) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(setresuid(1000, 1000, 1000));
    MUST(unshare(CLONE_NEWUSER));
    EXPECT_EQ(geteuid(), 65534);
    struct stat status = {};
    MUST(stat("/", &status));
    EXPECT_EQ(status.st_uid, 65534);
  }));
}

GUEST_TEST(MountNamespace, TmpfsAndBind) {
  NeedRoot();
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  JOIN_OK(InNew(CLONE_NEWNS, [&] {
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    MUST(mount("none", dir / "a", "tmpfs", 0, "size=1m"));
    WriteFile(dir / "a/f", "in tmpfs");
    MUST(mount(dir / "a", dir / "b", nullptr, MS_BIND, nullptr));
    CheckpointHere();
    char text[32];
    EXPECT_EQ(ReadFile(dir / "b/f", text, sizeof(text)), 8);
    EXPECT_ERRNO(rmdir(dir / "a"), EBUSY);
    MUST(mount(nullptr, dir / "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));
    EXPECT_ERRNO(open(dir / "b/f", O_WRONLY), EROFS);
    EXPECT_OK(open(dir / "a/f", O_WRONLY));
    MUST(umount(dir / "b"));
    EXPECT_ERRNO(access(dir / "b/f", F_OK), ENOENT);
    const int fd = MUST(open(dir / "a/f", O_RDONLY));
    EXPECT_ERRNO(umount(dir / "a"), EBUSY);
    EXPECT_OK(umount2(dir / "a", MNT_DETACH));
    EXPECT_EQ(read(fd, text, sizeof(text)), 8);
  }));
  EXPECT_ERRNO(access(dir / "a/f", F_OK), ENOENT);
}

GUEST_TEST(MountNamespace, TmpfsIsBounded) {
  NeedRoot();
  TempDir dir;
  JOIN_OK(InNew(CLONE_NEWNS, [&] {
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    MUST(mount("none", dir.path(), "tmpfs", 0, "size=64k,mode=0700"));
    const int fd = MUST(open(dir / "f", O_CREAT | O_WRONLY, 0600));
    static char block[100000];
    EXPECT_EQ(write(fd, block, sizeof(block)), 65536);
    EXPECT_ERRNO(write(fd, block, 1), ENOSPC);
    MUST(ftruncate(fd, 0));
    EXPECT_EQ(write(fd, block, 10), 10);
    struct stat status = {};
    MUST(stat(dir.path(), &status));
    EXPECT_EQ(status.st_mode & 07777, 0700);
    close(fd);
    MUST(umount(dir.path()));
  }));
}

GUEST_TEST(MountNamespace, FreshProcOfAPidNamespace) {
  NeedRoot();
  TempDir dir;
  JOIN_OK(InNew(CLONE_NEWNS | CLONE_NEWPID, [&] {
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    MUST(mount("proc", dir.path(), "proc", 0, nullptr));
    char link[16] = {};
    MUST(readlink(dir / "self", link, sizeof(link) - 1));
    EXPECT_STREQ(link, "1");
    CheckpointHere();
    EXPECT_EQ(ProcField(dir / "1/status", "Pid"), 1);
    if (getppid() != 0) EXPECT_ERRNO(access(Str("%s/%d", dir.path(), getppid()), F_OK), ENOENT);
    MUST(umount(dir.path()));
  }));
}

GUEST_TEST(MountNamespace, ErrorsOfMount) {
  NeedRoot();
  TempDir dir;
  EXPECT_ERRNO(mount("none", dir / "none", "tmpfs", 0, nullptr), ENOENT);
  EXPECT_ERRNO(mount("none", dir.path(), "no-such-fs", 0, nullptr), ENODEV);
  EXPECT_ERRNO(umount(dir.path()), EINVAL);
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_ERRNO(mount("none", dir.path(), "tmpfs", 0, nullptr), EPERM);
    EXPECT_ERRNO(unshare(CLONE_NEWNS), EPERM);
  }));
}

GUEST_TEST(Setns, JoinsByDescriptor) {
  NeedRoot();
  Gate named, done;
  const pid_t pid = InNew(CLONE_NEWUTS, [&] {
    MUST(sethostname("elsewhere", 9));
    named.Open();
    done.Await();
  });
  named.Await();
  JOIN_OK(Fork([&] {
    const int fd = MUST(open(Str("/proc/%d/ns/uts", pid), O_RDONLY));
    EXPECT_ERRNO(setns(fd, CLONE_NEWPID), EINVAL);
    MUST(setns(fd, CLONE_NEWUTS));
    char name[64] = {};
    MUST(gethostname(name, sizeof(name)));
    EXPECT_STREQ(name, "elsewhere");
    EXPECT_ERRNO(setns(1, 0), EINVAL);
  }));
  done.Open();
  JOIN_OK(pid);
}

namespace {

// Asked for nonsense: who may not do it at all hears of that first.
void NeedReboot() {
  NeedRoot();
  if (Call(SYS_reboot, 1, 1, 1, nullptr) < 0 && errno == EPERM) Skip("needs CAP_SYS_BOOT");
}

}  // namespace

GUEST_TEST(PidNamespace, RebootEndsIt) {
  NeedReboot();
  struct {
    unsigned command;
    int signal;
  } cases[] = {{LINUX_REBOOT_CMD_RESTART, SIGHUP}, {LINUX_REBOOT_CMD_POWER_OFF, SIGINT}, {LINUX_REBOOT_CMD_HALT, SIGINT}};
  for (auto [command, signal] : cases) {
    // By init itself, and by a child of its.
    for (bool by_child : {false, true}) {
      Pipe alive;
      const pid_t pid = InNew(CLONE_NEWPID, [&, number = command] {
        alive.CloseRead();
        auto reboot = [&] {
          Call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, number, nullptr);
          _exit(99);
        };
        if (!by_child) reboot();
        Fork([&] {
          CheckpointHere();
          reboot();
        });
        for (;;) pause();
      });
      alive.CloseWrite();
      EXPECT_KILLED(WaitStatus(pid), signal);
      char byte;
      EXPECT_EQ(read(alive.r, &byte, 1), 0);  // Nobody is left.
    }
  }
}

GUEST_TEST(PidNamespace, RebootIsChecked) {
  NeedReboot();
  JOIN_OK(InNew(CLONE_NEWPID, [] {
    EXPECT_ERRNO(Call(SYS_reboot, 1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, nullptr), EINVAL);
    EXPECT_ERRNO(Call(SYS_reboot, LINUX_REBOOT_MAGIC1, 1, LINUX_REBOOT_CMD_RESTART, nullptr), EINVAL);
    EXPECT_ERRNO(Call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2A, LINUX_REBOOT_CMD_CAD_ON, nullptr), EINVAL);
    EXPECT_ERRNO(Call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, 12345, nullptr), EINVAL);
    AS_USER([] { EXPECT_ERRNO(Call(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_RESTART, nullptr), EPERM); });
  }));
}
