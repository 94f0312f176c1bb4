// User namespaces: maps, capabilities, and what files and namespaces think of ids in them; namespaces as files.
#include <grp.h>
#include <linux/nsfs.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

void NeedRoot() {
  if (geteuid() != 0) Skip("needs root");
}

// The result of writing all of `text` to `path`: its length or -1.
ssize_t Put(const char* path, const char* text) {
  const int fd = MUST(open(path, O_WRONLY));
  const ssize_t n = write(fd, text, strlen(text));
  const int error = errno;
  close(fd);
  errno = error;
  return n;
}

// An ordinary user in a user namespace of its own, as its root.
void BecomeMappedRoot() {
  MUST(setgroups(0, nullptr));
  MUST(setresgid(1000, 1000, 1000));
  MUST(setresuid(1000, 1000, 1000));
  MUST(prctl(PR_SET_DUMPABLE, 1));
  MUST(unshare(CLONE_NEWUSER));
  MUST(Put("/proc/self/setgroups", "deny"));
  MUST(Put("/proc/self/uid_map", "0 1000 1"));
  MUST(Put("/proc/self/gid_map", "0 1000 1"));
}

uint64_t NamespaceNumber(const char* path) {
  struct stat status = {};
  MUST(stat(path, &status));
  return status.st_ino;
}

}  // namespace

GUEST_TEST(UserNs, MapsAreWrittenOnceAndByRule) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(setgroups(0, nullptr));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    MUST(unshare(CLONE_NEWUSER));
    EXPECT_EQ(getuid(), 65534);
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 0 1"), EPERM);     // Not one's own.
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 1000 2"), EPERM);  // Not alone.
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 1000"), EINVAL);
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 1000 0"), EINVAL);
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 1000 1\n0 1001 1"), EINVAL);
    EXPECT_ERRNO(Put("/proc/self/gid_map", "0 1000 1"), EPERM);  // setgroups is allowed still.
    EXPECT_OK(Put("/proc/self/setgroups", "deny"));
    EXPECT_OK(Put("/proc/self/gid_map", "5 1000 1"));
    EXPECT_ERRNO(Put("/proc/self/setgroups", "allow"), EPERM);
    EXPECT_OK(Put("/proc/self/uid_map", "0 1000 1"));
    EXPECT_ERRNO(Put("/proc/self/uid_map", "0 1000 1"), EPERM);  // Written once.
    CheckpointHere();
    EXPECT_EQ(getuid(), 0);
    EXPECT_EQ(getgid(), 5);
    char text[128] = {};
    ReadFile("/proc/self/uid_map", text, sizeof(text));
    EXPECT_STREQ(text, "         0       1000          1\n");
    const gid_t none = 5;
    EXPECT_ERRNO(setgroups(1, &none), EPERM);
  }));
}

GUEST_TEST(UserNs, OwnersOfIpcObjects) {
  NeedRoot();
  JOIN_OK(Fork([] {
    BecomeMappedRoot();
    const int id = MUST(msgget(IPC_PRIVATE, 0600));
    msqid_ds status = {};
    MUST(msgctl(id, IPC_STAT, &status));
    EXPECT_EQ(status.msg_perm.uid, 0u);
    EXPECT_EQ(status.msg_perm.cuid, 0u);
    EXPECT_OK(msgctl(id, IPC_SET, &status));
    status.msg_perm.uid = 1000;  // Known outside only.
    EXPECT_ERRNO(msgctl(id, IPC_SET, &status), EINVAL);
    MUST(msgctl(id, IPC_STAT, &status));
    EXPECT_EQ(status.msg_perm.uid, 0u);
    EXPECT_OK(msgctl(id, IPC_RMID, nullptr));
  }));
}

GUEST_TEST(UserNs, CapabilitiesAreInside) {
  NeedRoot();
  TempDir dir;
  WriteFile(dir / "secret", "x", 0600);
  MUST(chmod(dir.path(), 0777));
  JOIN_OK(Fork([&] {
    BecomeMappedRoot();
    // Not over what belongs to the outside.
    EXPECT_ERRNO(sethostname("x", 1), EPERM);
    EXPECT_ERRNO(mount("none", dir.path(), "tmpfs", 0, nullptr), EPERM);
    EXPECT_ERRNO(mknod(dir / "null", S_IFCHR | 0666, makedev(1, 3)), EPERM);
    EXPECT_ERRNO(open(dir / "secret", O_RDONLY), EACCES);
    EXPECT_ERRNO(chown(dir / "secret", 0, 0), EPERM);
    EXPECT_ERRNO(chown(dir.path(), 7, 7), EINVAL);
    EXPECT_ERRNO(setpriority(PRIO_PROCESS, 0, -5), EACCES);
    EXPECT_ERRNO(kill(getppid(), 0), EPERM);
    // But over what was made inside.
    MUST(unshare(CLONE_NEWUTS | CLONE_NEWNS));
    CheckpointHere();
    EXPECT_OK(sethostname("x", 1));
    EXPECT_OK(mount("none", dir.path(), "tmpfs", 0, "mode=755"));
    const int fd = MUST(open(dir / "mine", O_CREAT | O_RDWR, 0600));
    struct stat status = {};
    MUST(fstat(fd, &status));
    EXPECT_EQ(status.st_uid, 0);
    EXPECT_ERRNO(mount("none", dir.path(), "no-such-fs", 0, nullptr), ENODEV);
  }));
  struct stat status = {};
  MUST(stat(dir / "secret", &status));
}

GUEST_TEST(UserNs, FilesKeepTheirOwners) {
  NeedRoot();
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  JOIN_OK(Fork([&] {
    BecomeMappedRoot();
    WriteFile(dir / "f", "x");
    struct stat status = {};
    MUST(stat(dir / "f", &status));
    EXPECT_EQ(status.st_uid, 0);
    EXPECT_EQ(status.st_gid, 0);
    MUST(stat("/proc/1", &status));
  }));
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_uid, 1000);
  EXPECT_EQ(status.st_gid, 1000);
}

// A copy would not have the owner that the file has (ovl_copy_up_one), and a layer shows nothing that locked mounts hide (clone_private_mount).
GUEST_TEST(UserNs, OverlayCopiesOnlyWhatItCanOwn) {
  NeedRoot();
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  MUST(mkdir(dir / "lower", 0777));
  MUST(chmod(dir / "lower", 0777));
  WriteFile(dir / "lower/foreign", "x");
  MUST(chmod(dir / "lower/foreign", 0666));
  JOIN_OK(Fork([&] {
    BecomeMappedRoot();
    MUST(unshare(CLONE_NEWNS));
    WriteFile(dir / "lower/own", "x");
    MUST(mkdir(dir / "top", 0755));
    MUST(mount("none", dir / "top", "tmpfs", 0, nullptr));
    for (const char* name : {"top/u", "top/w", "top/m"}) MUST(mkdir(dir / name, 0755));
    auto overlay = [&](const char* lower) {
      const Str options("lowerdir=%s,upperdir=%s/top/u,workdir=%s/top/w", lower, dir.path(), dir.path());
      return mount("none", dir / "top/m", "overlay", 0, options);
    };
    EXPECT_ERRNO(overlay("/"), EINVAL);
    MUST(overlay(dir / "lower"));
    CheckpointHere();
    char text[8];
    EXPECT_EQ(ReadFile(dir / "top/m/foreign", text, sizeof(text)), 1);
    EXPECT_ERRNO(open(dir / "top/m/foreign", O_WRONLY), EOVERFLOW);
    EXPECT_ERRNO(truncate(dir / "top/m/foreign", 0), EOVERFLOW);
    WriteFile(dir / "top/m/own", "y");
    EXPECT_EQ(ReadFile(dir / "top/u/own", text, sizeof(text)), 1);
    EXPECT_EQ(text[0], 'y');
  }));
}

GUEST_TEST(UserNs, MapIsWrittenByItsOpener) {
  NeedRoot();
  Gate made, done;
  const pid_t pid = Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    MUST(unshare(CLONE_NEWUSER));
    made.Open();
    done.Await();
  });
  made.Await();
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 1000, 0));
    const int fd = MUST(open(Str("/proc/%d/uid_map", pid), O_WRONLY));
    MUST(setresuid(0, 0, 0));  // As if a set-user-id program were made to write to it.
    CheckpointHere();
    EXPECT_ERRNO(write(fd, "0 0 1", 5), EPERM);
    EXPECT_OK(Put(Str("/proc/%d/uid_map", pid), "0 0 1"));
  }));
  done.Open();
  JOIN_OK(pid);
}

GUEST_TEST(UserNs, Nests) {
  NeedRoot();
  JOIN_OK(Fork([] {
    BecomeMappedRoot();
    JOIN_OK(Fork([] {
      MUST(unshare(CLONE_NEWUSER));
      EXPECT_EQ(getuid(), 65534);
      MUST(Put("/proc/self/uid_map", "3 0 1"));
      EXPECT_EQ(getuid(), 3);
      CheckpointHere();
      EXPECT_EQ(getuid(), 3);
    }));
    EXPECT_ERRNO(setns(open("/proc/self/ns/user", O_RDONLY), 0), EINVAL);  // It is there already.
  }));
}

GUEST_TEST(UserNs, ExecOfRootGivesItsCapabilities) {
  NeedRoot();
  JOIN_OK(Fork([] {
    BecomeMappedRoot();
    execl(SelfPath(), SelfPath(), "@FullInside", nullptr);
  }));
}

GUEST_HELPER(FullInside) {
  EXPECT_EQ(getuid(), 0);
  EXPECT_OK(unshare(CLONE_NEWUTS));
  EXPECT_OK(sethostname("inside", 6));
  ExitWithVerdict();
}

GUEST_TEST(UserNs, EntersByDescriptor) {
  NeedRoot();
  Gate ready, done;
  const pid_t pid = Fork([&] {
    BecomeMappedRoot();
    ready.Open();
    done.Await();
  });
  ready.Await();
  JOIN_OK(Fork([&] {
    const int fd = MUST(open(Str("/proc/%d/ns/user", pid), O_RDONLY));
    EXPECT_OK(setns(fd, CLONE_NEWUSER));
    EXPECT_EQ(getuid(), 65534);  // Root of outside has no name there.
    EXPECT_OK(setuid(0));
    CheckpointHere();
    EXPECT_EQ(getuid(), 0);
    EXPECT_ERRNO(sethostname("x", 1), EPERM);
  }));
  done.Open();
  JOIN_OK(pid);
}

GUEST_TEST(NsFiles, NumbersAndKinds) {
  NeedRoot();
  const uint64_t before = NamespaceNumber("/proc/self/ns/uts");
  char link[64] = {};
  MUST(readlink("/proc/self/ns/uts", link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("uts:[%llu]", static_cast<unsigned long long>(before)));
  JOIN_OK(Fork([=] {
    EXPECT_EQ(NamespaceNumber("/proc/self/ns/uts"), before);
    const int old = MUST(open("/proc/self/ns/uts", O_RDONLY));
    MUST(unshare(CLONE_NEWUTS));
    const uint64_t now = NamespaceNumber("/proc/self/ns/uts");
    EXPECT_NE(now, before);
    CheckpointHere();
    EXPECT_EQ(NamespaceNumber("/proc/self/ns/uts"), now);
    EXPECT_EQ(ioctl(old, NS_GET_NSTYPE), CLONE_NEWUTS);
    EXPECT_ERRNO(ioctl(old, NS_GET_PARENT), EINVAL);
    uid_t owner = 1;
    EXPECT_ERRNO(ioctl(old, NS_GET_OWNER_UID, &owner), EINVAL);
    const int user = MUST(ioctl(old, NS_GET_USERNS));
    EXPECT_EQ(ioctl(user, NS_GET_NSTYPE), CLONE_NEWUSER);
    EXPECT_ERRNO(setns(old, CLONE_NEWIPC), EINVAL);
    MUST(setns(old, CLONE_NEWUTS));
    EXPECT_EQ(NamespaceNumber("/proc/self/ns/uts"), before);
    EXPECT_ERRNO(open("/proc/self/ns/uts", O_RDWR), EPERM);
    EXPECT_ERRNO(setns(-1, 0), EBADF);
  }));
}

GUEST_TEST(NsFiles, OwnerOfAUserNamespace) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(setresuid(1000, 1000, 1000));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    MUST(unshare(CLONE_NEWUSER));
    MUST(Put("/proc/self/uid_map", "0 1000 1"));
    const int fd = MUST(open("/proc/self/ns/user", O_RDONLY));
    uid_t owner = 1;
    MUST(ioctl(fd, NS_GET_OWNER_UID, &owner));
    EXPECT_EQ(owner, 0);
    EXPECT_ERRNO(ioctl(fd, NS_GET_PARENT), EPERM);  // Above the caller's.
    EXPECT_ERRNO(ioctl(fd, NS_GET_USERNS), EPERM);
  }));
}

GUEST_TEST(NsFiles, BindMountKeepsANamespace) {
  NeedRoot();
  TempDir dir;
  WriteFile(dir / "ns", "");
  JOIN_OK(Fork([&] {
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    JOIN_OK(Fork([&] {
      MUST(unshare(CLONE_NEWUTS));
      MUST(sethostname("kept", 4));
      MUST(mount("/proc/self/ns/uts", dir / "ns", nullptr, MS_BIND, nullptr));
    }));
    CheckpointHere();
    struct stat here = {}, there = {};
    MUST(stat("/proc/self/ns/uts", &here));
    MUST(stat(dir / "ns", &there));
    EXPECT_EQ(here.st_dev, there.st_dev);
    EXPECT_NE(here.st_ino, there.st_ino);
    const int fd = MUST(open(dir / "ns", O_RDONLY));
    MUST(setns(fd, CLONE_NEWUTS));
    char name[64] = {};
    MUST(gethostname(name, sizeof(name)));
    EXPECT_STREQ(name, "kept");
    close(fd);
    MUST(umount(dir / "ns"));
  }));
}

GUEST_TEST(NsFiles, SetnsByProcess) {
  NeedRoot();
  Gate ready, done;
  const pid_t pid = Fork([&] {
    MUST(unshare(CLONE_NEWUTS | CLONE_NEWIPC));
    MUST(sethostname("byprocess", 9));
    ready.Open();
    done.Await();
  });
  ready.Await();
  JOIN_OK(Fork([&] {
    const int fd = static_cast<int>(MUST(syscall(434 /* pidfd_open */, pid, 0)));
    EXPECT_ERRNO(setns(fd, 0), EINVAL);
    EXPECT_ERRNO(setns(fd, CLONE_VM), EINVAL);
    MUST(setns(fd, CLONE_NEWUTS | CLONE_NEWIPC));
    char name[64] = {};
    MUST(gethostname(name, sizeof(name)));
    EXPECT_STREQ(name, "byprocess");
    EXPECT_EQ(NamespaceNumber("/proc/self/ns/ipc"), NamespaceNumber(Str("/proc/%d/ns/ipc", pid)));
  }));
  done.Open();
  JOIN_OK(pid);
}

GUEST_TEST(NsFiles, SetnsIntoAPidNamespace) {
  NeedRoot();
  Gate done;
  const pid_t init = static_cast<pid_t>(MUST(syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, 0)));
  if (init == 0) {
    done.Await();
    ExitWithVerdict();
  }
  JOIN_OK(Fork([&] {
    const int fd = MUST(open(Str("/proc/%d/ns/pid", init), O_RDONLY));
    const long before = syscall(SYS_getpid);
    MUST(setns(fd, CLONE_NEWPID));
    EXPECT_EQ(syscall(SYS_getpid), before);
    JOIN_OK(Fork([] {
      EXPECT_EQ(syscall(SYS_getpid), 2);
      EXPECT_EQ(getppid(), 0);
      EXPECT_OK(kill(1, 0));
      CheckpointHere();
      EXPECT_EQ(syscall(SYS_getpid), 2);
    }));
    EXPECT_NE(NamespaceNumber("/proc/self/ns/pid"), NamespaceNumber("/proc/self/ns/pid_for_children"));
  }));
  done.Open();
  JOIN_OK(init);
}

GUEST_TEST(NetNs, IsEmptyAndAlone) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(unshare(CLONE_NEWNET));
    CheckpointHere();
    const int fd = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(9);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_ERRNO(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), ENETUNREACH);
  }));
}

// Whoever enters a namespace is not its root's for that: what it has in memory is from outside (mm->user_ns).
GUEST_TEST(UserNs, VisitorsAreNotTraced) {
  NeedRoot();
  Gate made, end;
  Pipe number;
  const pid_t inside = Fork([&] {
    BecomeMappedRoot();
    made.Open();
    pid_t visitor = 0;
    MUST(read(number.r, &visitor, sizeof(visitor)));
    EXPECT_ERRNO(ptrace(PTRACE_ATTACH, visitor, nullptr, nullptr), EPERM);
    void* head;
    size_t size;
    EXPECT_ERRNO(Call(SYS_get_robust_list, visitor, &head, &size), EPERM);
    EXPECT_ERRNO(Call(SYS_pidfd_getfd, MUST(Call(SYS_pidfd_open, visitor, 0)), 0, 0), EPERM);
    CheckpointHere();
    EXPECT_ERRNO(ptrace(PTRACE_ATTACH, visitor, nullptr, nullptr), EPERM);
    end.Open();
  });
  made.Await();
  const int ns = MUST(open(Str("/proc/%d/ns/user", inside), O_RDONLY));
  const pid_t visitor = Fork([&] {
    MUST(setns(ns, CLONE_NEWUSER));
    const pid_t self = getpid();
    MUST(write(number.w, &self, sizeof(self)));
    end.Await();
  });
  JOIN_OK(inside);
  JOIN_OK(visitor);
}
