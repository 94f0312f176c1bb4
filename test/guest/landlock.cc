// landlock(7): landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2).
#include <netinet/in.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"
#include "test/harness/sockets.h"

namespace guest {
namespace {

constexpr long kCreate = 444, kAdd = 445, kRestrict = 446;
constexpr int kPathBeneath = 1, kNetPort = 2;
constexpr uint64_t kExecute = 1, kWriteFile = 2, kReadFile = 4, kReadDir = 8, kRemoveFile = 32, kMakeReg = 256;
constexpr uint64_t kRefer = 1 << 13;
constexpr uint64_t kBindTcp = 1, kConnectTcp = 2;
constexpr uint64_t kAll = (1 << 15) - 1;

struct Attr {
  uint64_t fs = 0, net = 0;
};
struct [[gnu::packed]] Beneath {
  uint64_t rights;
  int32_t fd;
};
struct Port {
  uint64_t rights, port;
};

void NeedLandlock() {
  if (syscall(kCreate, nullptr, 0, 1) < 5) Skip("needs landlock's ABI 5");
}

int Ruleset(uint64_t fs, uint64_t net = 0) {
  const Attr attr = {fs, net};
  return static_cast<int>(MUST(syscall(kCreate, &attr, sizeof(attr), 0)));
}

long AddFd(int ruleset, int fd, uint64_t rights) {
  const Beneath rule = {rights, fd};
  return syscall(kAdd, ruleset, kPathBeneath, &rule, 0);
}

void Add(int ruleset, const char* path, uint64_t rights) {
  const int fd = MUST(open(path, O_PATH | O_CLOEXEC));
  MUST(AddFd(ruleset, fd, rights));
  close(fd);
}

long AddPort(int ruleset, uint64_t port, uint64_t rights) {
  const Port rule = {rights, port};
  return syscall(kAdd, ruleset, kNetPort, &rule, 0);
}

void Restrict(int ruleset) {
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(kRestrict, ruleset, 0));
}

GUEST_TEST(Landlock, ArgumentsAreChecked) {
  NeedLandlock();
  const Attr attr = {kReadFile, 0};
  EXPECT_ERRNO(syscall(kCreate, &attr, sizeof(attr), 1), EINVAL);
  EXPECT_ERRNO(syscall(kCreate, &attr, 4, 0), EINVAL);
  EXPECT_ERRNO(syscall(kCreate, &attr, 5000, 0), E2BIG);
  EXPECT_ERRNO(syscall(kCreate, nullptr, 16, 0), EFAULT);
  const Attr unknown = {uint64_t{1} << 40, 0};
  EXPECT_ERRNO(syscall(kCreate, &unknown, sizeof(unknown), 0), EINVAL);
  const Attr none = {};
  EXPECT_ERRNO(syscall(kCreate, &none, sizeof(none), 0), ENOMSG);

  const int ruleset = Ruleset(kReadFile | kReadDir, kBindTcp);
  char link[64] = {};
  MUST(readlink(Str("/proc/self/fd/%d", ruleset), link, sizeof(link) - 1));
  EXPECT_STREQ(link, "anon_inode:[landlock-ruleset]");
  EXPECT_EQ(MUST(fcntl(ruleset, F_GETFD)), FD_CLOEXEC);
  const int dir = MUST(open("/tmp", O_PATH));
  EXPECT_ERRNO(AddFd(ruleset, dir, 0), ENOMSG);
  EXPECT_ERRNO(AddFd(ruleset, dir, kWriteFile), EINVAL);
  EXPECT_ERRNO(AddFd(ruleset, -1, kReadFile), EBADF);
  EXPECT_ERRNO(AddFd(ruleset, ruleset, kReadFile), EBADFD);
  const Pipe pipe;
  EXPECT_ERRNO(AddFd(ruleset, pipe.r, kReadFile), EBADFD);
  EXPECT_ERRNO(AddFd(pipe.r, dir, kReadFile), EBADFD);
  EXPECT_ERRNO(syscall(kAdd, ruleset, 99, &attr, 0), EINVAL);
  const Beneath rule = {kReadFile, dir};
  EXPECT_ERRNO(syscall(kAdd, ruleset, kPathBeneath, &rule, 1), EINVAL);
  EXPECT_ERRNO(AddPort(ruleset, 70000, kBindTcp), EINVAL);
  EXPECT_ERRNO(AddPort(ruleset, 1, kConnectTcp), EINVAL);
  // A right of directories on a file.
  TempDir temp;
  WriteFile(temp / "f", "x");
  const int file = MUST(open(temp / "f", O_RDONLY));
  EXPECT_ERRNO(AddFd(ruleset, file, kReadDir), EINVAL);
  MUST(AddFd(ruleset, file, kReadFile));
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  EXPECT_ERRNO(syscall(kRestrict, ruleset, 0xff00), EINVAL);
  EXPECT_ERRNO(syscall(kRestrict, -1, 0), EBADF);
}

GUEST_TEST(Landlock, FilesBelowARule) {
  NeedLandlock();
  TempDir dir;
  MUST(mkdir(dir / "in", 0755));
  MUST(mkdir(dir / "in/deep", 0755));
  MUST(mkdir(dir / "out", 0755));
  WriteFile(dir / "in/deep/f", "inside");
  WriteFile(dir / "out/f", "outside");
  const int kept = MUST(open(dir / "out/f", O_RDWR));
  JOIN_OK(Fork([&] {
    const int ruleset = Ruleset(kAll);
    Add(ruleset, dir / "in", kReadFile | kReadDir | kMakeReg | kRemoveFile | kWriteFile);
    CheckpointHere();
    Restrict(ruleset);
    CheckpointHere();
    EXPECT_OK(open(dir / "in/deep/f", O_RDONLY));
    EXPECT_OK(open(dir / "in/deep", O_RDONLY | O_DIRECTORY));
    EXPECT_ERRNO(open(dir / "out/f", O_RDONLY), EACCES);
    EXPECT_ERRNO(open(dir / "out", O_RDONLY | O_DIRECTORY), EACCES);
    EXPECT_ERRNO(open("/", O_RDONLY), EACCES);
    // Looking is free, and so is what was open before.
    struct stat st;
    EXPECT_OK(stat(dir / "out/f", &st));
    EXPECT_OK(open(dir / "out/f", O_PATH));
    char text[8];
    EXPECT_EQ(pread(kept, text, 7, 0), 7);
    EXPECT_OK(ftruncate(kept, 3));
    // Making and removing.
    EXPECT_OK(open(dir / "in/new", O_WRONLY | O_CREAT, 0600));
    EXPECT_OK(unlink(dir / "in/new"));
    EXPECT_ERRNO(mkdir(dir / "in/d", 0700), EACCES);
    EXPECT_ERRNO(symlink("x", dir / "in/l"), EACCES);
    EXPECT_ERRNO(rmdir(dir / "in/deep"), EACCES);
    EXPECT_ERRNO(open(dir / "out/new", O_WRONLY | O_CREAT, 0600), EACCES);
    EXPECT_ERRNO(unlink(dir / "out/f"), EACCES);
    // Truncating is a right of its own.
    EXPECT_ERRNO(truncate(dir / "in/deep/f", 1), EACCES);
    EXPECT_ERRNO(open(dir / "in/deep/f", O_WRONLY | O_TRUNC), EACCES);
    const int file = MUST(open(dir / "in/deep/f", O_RDWR));
    CheckpointHere();
    EXPECT_ERRNO(ftruncate(file, 1), EACCES);
    EXPECT_EQ(write(file, "I", 1), 1);
    // Mounting is over.
    EXPECT_ERRNO(mount("none", dir / "in", "tmpfs", 0, nullptr), EPERM);
  }));
}

GUEST_TEST(Landlock, InheritedOverForkAndExec) {
  NeedLandlock();
  TempDir dir;
  WriteFile(dir / "f", "secret");
  JOIN_OK(Fork([&] {
    const int ruleset = Ruleset(kReadFile);
    Add(ruleset, "/proc", kReadFile);
    Add(ruleset, "/lib", kReadFile);
    Add(ruleset, SelfPath(), kReadFile);
    Restrict(ruleset);
    JOIN_OK(Fork([&] { EXPECT_ERRNO(open(dir / "f", O_RDONLY), EACCES); }));
    JOIN_OK(Fork([&] {
      execl(SelfPath(), SelfPath(), "@OpenRefused", dir.path(), nullptr);
      Fail(__FILE__, __LINE__, false, "exec: %s", ErrnoName(errno));
    }));
  }));
}

GUEST_HELPER(OpenRefused) {
  CheckpointHere();
  return argc == 3 && open(Str("%s/f", argv[2]), O_RDONLY) < 0 && errno == EACCES ? 0 : 1;
}

GUEST_TEST(Landlock, ExecutingIsARight) {
  NeedLandlock();
  TempDir dir;
  WriteFile(dir / "script", "#!/bin/sh\nexit 0\n", 0755);
  JOIN_OK(Fork([&] {
    const int ruleset = Ruleset(kExecute);
    Add(ruleset, "/bin/sh", kExecute);
    Restrict(ruleset);
    EXPECT_ERRNO(execl(dir / "script", "script", nullptr), EACCES);
  }));
}

GUEST_TEST(Landlock, LayersOnlyTakeAway) {
  NeedLandlock();
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "a/b", 0755));
  WriteFile(dir / "a/f", "1");
  WriteFile(dir / "a/b/f", "2");
  JOIN_OK(Fork([&] {
    int ruleset = Ruleset(kReadFile | kWriteFile);
    Add(ruleset, dir / "a", kReadFile | kWriteFile);
    Restrict(ruleset);
    // A rule that is added later changes nothing.
    Add(ruleset, dir.path(), kReadFile);
    EXPECT_OK(open(dir / "a/f", O_RDWR));
    ruleset = Ruleset(kReadFile);
    Add(ruleset, dir / "a/b", kReadFile);
    Restrict(ruleset);
    EXPECT_ERRNO(open(dir / "a/f", O_RDONLY), EACCES);
    EXPECT_OK(open(dir / "a/f", O_WRONLY));
    EXPECT_OK(open(dir / "a/b/f", O_RDWR));
    for (int i = 2; i < 16; ++i) Restrict(ruleset);
    EXPECT_ERRNO(syscall(kRestrict, ruleset, 0), E2BIG);
  }));
}

GUEST_TEST(Landlock, MovingNeedsRefer) {
  NeedLandlock();
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  MUST(mkdir(dir / "more", 0755));
  WriteFile(dir / "a/f", "1");
  WriteFile(dir / "a/g", "2");
  constexpr uint64_t kMove = kMakeReg | kRemoveFile | kReadFile;
  JOIN_OK(Fork([&] {
    Restrict([&] {
      const int ruleset = Ruleset(kMakeReg | kRemoveFile | kReadFile | kWriteFile);
      Add(ruleset, dir.path(), kMove);
      return ruleset;
    }());
    EXPECT_OK(rename(dir / "a/f", dir / "a/f2"));
    EXPECT_ERRNO(rename(dir / "a/f2", dir / "b/f"), EXDEV);
    EXPECT_ERRNO(link(dir / "a/f2", dir / "b/f"), EXDEV);
    EXPECT_OK(rename(dir / "a/f2", dir / "a/f"));
  }));
  JOIN_OK(Fork([&] {
    const int ruleset = Ruleset(kMakeReg | kRemoveFile | kReadFile | kWriteFile | kRefer);
    Add(ruleset, dir / "a", kMove | kRefer);
    Add(ruleset, dir / "b", kMove | kRefer);
    Add(ruleset, dir / "more", kMove | kRefer | kWriteFile);
    Restrict(ruleset);
    EXPECT_OK(rename(dir / "a/f", dir / "b/f"));
    EXPECT_OK(link(dir / "b/f", dir / "a/f"));
    // It could be written at its new place.
    EXPECT_ERRNO(rename(dir / "a/g", dir / "more/g"), EXDEV);
    EXPECT_ERRNO(rename(dir / "a/g", dir / "g"), EACCES);
  }));
}

GUEST_TEST(Landlock, TcpPorts) {
  NeedLandlock();
  JOIN_OK(Fork([] {
    sockaddr_in address;
    const socklen_t size = sizeof(address);
    TcpListener(&address);
    const int ruleset = Ruleset(0, kBindTcp | kConnectTcp);
    MUST(AddPort(ruleset, ntohs(address.sin_port), kConnectTcp));
    MUST(AddPort(ruleset, 0, kBindTcp));
    Restrict(ruleset);
    CheckpointHere();
    const int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in other = address;
    other.sin_port = htons(1);
    EXPECT_ERRNO(connect(client, reinterpret_cast<sockaddr*>(&other), size), EACCES);
    EXPECT_OK(connect(client, reinterpret_cast<sockaddr*>(&address), size));
    const int server = MUST(socket(AF_INET, SOCK_STREAM, 0));
    other.sin_port = htons(23456);
    EXPECT_ERRNO(bind(server, reinterpret_cast<sockaddr*>(&other), size), EACCES);
    other.sin_port = 0;
    EXPECT_OK(bind(server, reinterpret_cast<sockaddr*>(&other), size));
    const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    other.sin_port = htons(23457);
    EXPECT_OK(bind(udp, reinterpret_cast<sockaddr*>(&other), size));
    // Files are free.
    EXPECT_OK(open("/", O_RDONLY));
  }));
}

// The descriptor that an event comes with is opened by the rights of who reads the event (dentry_open()).
GUEST_TEST(Landlock, FanotifyOpensNothingElse) {
  NeedLandlock();
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int group = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY);
  if (group < 0) Skip("no fanotify here");
  MUST(fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, dir / "f"));
  const int child = Fork([&] {
    close(MUST(open(dir / "f", O_RDONLY)));
    Restrict(Ruleset(kReadFile));
    char event[64];
    EXPECT_ERRNO(read(group, event, sizeof(event)), EACCES);
  });
  JOIN_OK(child);
}

GUEST_TEST(Landlock, NoTracingOutOfTheDomain) {
  NeedLandlock();
  Gate restricted;
  const pid_t outside = Fork([] {
    for (;;) pause();
  });
  const pid_t tracer = Fork([&] {
    Restrict(Ruleset(kReadFile));
    EXPECT_ERRNO(ptrace(PTRACE_ATTACH, outside, 0, 0), EPERM);
    const pid_t inside = Fork([] {
      for (;;) pause();
    });
    EXPECT_OK(ptrace(PTRACE_ATTACH, inside, 0, 0));
    kill(inside, SIGKILL);
  });
  JOIN_OK(tracer);
  kill(outside, SIGKILL);
  EXPECT_KILLED(WaitStatus(outside), SIGKILL);
}

}  // namespace
}  // namespace guest
