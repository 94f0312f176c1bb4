// What a stranger does to a kernel: shapes that are too deep, things changed behind others' backs, and ways around what is hidden.
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/openat2.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr long kOpenTree = 428, kMoveMount = 429, kFsConfig = 431, kFsPick = 433;
constexpr unsigned kOpenTreeClone = 1, kMoveMountEmptyPath = 4, kReconfigure = 7, kSetFlag = 0;

void NeedRoot() {
  if (geteuid() != 0) Skip("needs root");
}

// Runs `body` in a mount namespace of its own.
template <typename Body>
void Inside(Body body) {
  NeedRoot();
  JOIN_OK(Fork([&] {
    MUST(unshare(CLONE_NEWNS));
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    body();
  }));
}

void Put(const char* path, const char* text) {
  const int fd = MUST(open(path, O_WRONLY));
  MUST(write(fd, text, strlen(text)));
  close(fd);
}

// An ordinary user, as the root of a user namespace that has just been made with `others`.
void BecomeMappedRoot(int others) {
  MUST(setgroups(0, nullptr));
  MUST(setresgid(1000, 1000, 1000));
  MUST(setresuid(1000, 1000, 1000));
  MUST(prctl(PR_SET_DUMPABLE, 1));
  MUST(unshare(CLONE_NEWUSER | others));
  Put("/proc/self/setgroups", "deny");
  Put("/proc/self/uid_map", "0 1000 1");
  Put("/proc/self/gid_map", "0 1000 1");
}

// A tmpfs at `dir` with the directories of an overlay, which is mounted at its "m".
void MakeOverlay(const TempDir& dir) {
  MUST(mount("none", dir.path(), "tmpfs", 0, nullptr));
  for (const char* name : {"l", "u", "w", "m"}) MUST(mkdir(dir / name, 0755));
}
int MountOverlay(const TempDir& dir, const char* lower, bool upper, const char* where) {
  const Str options(upper ? "lowerdir=%s/%s,upperdir=%s/u,workdir=%s/w" : "lowerdir=%s/%s", dir.path(), lower, dir.path(), dir.path());
  return mount("none", dir / where, "overlay", 0, options);
}

}  // namespace

// Each socket's queue holds the one before; the last close lets all of them go.
GUEST_TEST(Stranger, SocketsInSocketsInSockets) {
  int last = -1;
  for (int i = 0; i < 8000; ++i) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    if (last >= 0) {
      const ssize_t sent = SendFds(pair[1], {last});
      if (sent < 0) EXPECT_EQ(errno, ETOOMANYREFS);  // Of a kernel or user with a limit.
      close(last);
    }
    close(pair[1]);
    last = pair[0];
  }
  CheckpointHere();
  EXPECT_OK(close(last));
  int pair[2];
  EXPECT_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
}

// Linux calls it undefined, but neither crashes nor forgets which file is meant.
GUEST_TEST(Stranger, UpperLayerChangedBehindTheOverlay) {
  TempDir dir;
  Inside([&] {
    MakeOverlay(dir);
    MUST(MountOverlay(dir, "l", true, "m"));
    for (const char* name : {"m/a", "m/b", "m/c", "m/d", "m/e"}) WriteFile(dir / name, "x");
    MUST(mkdir(dir / "m/dir", 0755));
    for (const char* name : {"u/a", "u/b", "u/c", "u/d"}) MUST(unlink(dir / name));
    MUST(rmdir(dir / "u/dir"));
    WriteFile(dir / "u/c", "another");
    EXPECT_ERRNO(unlink(dir / "m/a"), ESTALE);
    EXPECT_ERRNO(rename(dir / "m/b", dir / "m/new"), ESTALE);
    EXPECT_ERRNO(unlink(dir / "m/c"), ESTALE);
    EXPECT_ERRNO(rename(dir / "m/e", dir / "m/d"), ESTALE);
    EXPECT_ERRNO(rmdir(dir / "m/dir"), ESTALE);
    EXPECT_OK(access(dir / "u/c", F_OK));
    EXPECT_OK(access(dir / "u/e", F_OK));
  });
}

GUEST_TEST(Stranger, OverlaysOnOverlays) {
  TempDir dir;
  Inside([&] {
    MakeOverlay(dir);
    for (const char* name : {"1", "2", "3"}) MUST(mkdir(dir / name, 0755));
    const auto on = [&](const char* lower, const char* where) {
      const Str options("lowerdir=%s/%s:%s/l", dir.path(), lower, dir.path());
      return mount("none", dir / where, "overlay", 0, options);
    };
    EXPECT_OK(on("u", "1"));
    EXPECT_OK(on("1", "2"));
    EXPECT_ERRNO(on("2", "3"), EINVAL);  // FILESYSTEM_MAX_STACK_DEPTH
  });
}

GUEST_TEST(Stranger, CopyUpOfADeepTree) {
  constexpr int kDepth = 4000;
  TempDir dir;
  Inside([&] {
    MakeOverlay(dir);
    MUST(chdir(dir / "l"));
    for (int i = 0; i < kDepth; ++i) {
      MUST(mkdir("d", 0755));
      MUST(chdir("d"));
    }
    MUST(MountOverlay(dir, "l", true, "m"));
    MUST(chdir(dir / "m"));
    for (int i = 0; i < kDepth; ++i) MUST(chdir("d"));
    EXPECT_OK(mkdir("new", 0755));
    EXPECT_OK(access("../d/new", F_OK));
  });
}

GUEST_TEST(Stranger, ReconfiguringTheRootOfOthers) {
  NeedRoot();
  JOIN_OK(Fork([] {
    BecomeMappedRoot(CLONE_NEWNS);
    const int context = static_cast<int>(syscall(kFsPick, AT_FDCWD, "/", 0));
    if (context < 0 && errno == ENOSYS) Skip("no fspick");
    MUST(context);
    (void)syscall(kFsConfig, context, kSetFlag, "ro", nullptr, 0);
    EXPECT_ERRNO(syscall(kFsConfig, context, kReconfigure, nullptr, nullptr, 0), EPERM);
  }));
  TempDir still;
}

// Message queues are an ipc namespace's; so is their file system.
GUEST_TEST(Stranger, MessageQueuesOfOthers) {
  NeedRoot();
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  JOIN_OK(Fork([&] {
    BecomeMappedRoot(CLONE_NEWNS);
    EXPECT_ERRNO(mount("mqueue", dir.path(), "mqueue", 0, nullptr), EPERM);
    MUST(unshare(CLONE_NEWIPC));
    EXPECT_OK(mount("mqueue", dir.path(), "mqueue", 0, nullptr));
  }));
}

// What a more privileged namespace has covered cannot be uncovered by copying the tree.
GUEST_TEST(Stranger, CopiesOfTreesStayCovered) {
  TempDir dir;
  MUST(chmod(dir.path(), 0755));
  Inside([&] {
    MUST(mount("none", dir.path(), "tmpfs", 0, "mode=777"));
    MUST(mkdir(dir / "top", 0755));
    MUST(mkdir(dir / "top/covered", 0755));
    MUST(mkdir(dir / "copy", 0777));
    WriteFile(dir / "top/covered/secret", "x");
    MUST(mount(dir / "top", dir / "top", nullptr, MS_BIND, nullptr));
    MUST(mount("none", dir / "top/covered", "tmpfs", 0, nullptr));
    BecomeMappedRoot(CLONE_NEWNS);
    EXPECT_ERRNO(umount2(dir / "top/covered", MNT_DETACH), EINVAL);
    const int tree = static_cast<int>(syscall(kOpenTree, AT_FDCWD, static_cast<const char*>(dir / "top"), kOpenTreeClone | AT_RECURSIVE));
    if (tree < 0 && errno == ENOSYS) Skip("no open_tree");
    MUST(tree);
    EXPECT_ERRNO(syscall(kOpenTree, AT_FDCWD, static_cast<const char*>(dir / "top"), kOpenTreeClone), EINVAL);
    MUST(syscall(kMoveMount, tree, "", AT_FDCWD, static_cast<const char*>(dir / "copy"), kMoveMountEmptyPath));
    EXPECT_ERRNO(umount2(dir / "copy/covered", MNT_DETACH), EINVAL);
    EXPECT_ERRNO(access(dir / "copy/covered/secret", F_OK), ENOENT);
    EXPECT_OK(umount2(dir / "copy", MNT_DETACH));
  });
}

// mount_too_revealing()
GUEST_TEST(Stranger, NewProcShowsNoMoreThanTheOld) {
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  const auto mount_proc = [&] {
    BecomeMappedRoot(CLONE_NEWNS | CLONE_NEWPID);
    JOIN_OK(Fork([&] { _exit(mount("proc", dir.path(), "proc", 0, nullptr) == 0 ? 0 : errno == EPERM ? 1 : 2); }));
  };
  Inside([&] {
    // One that is wholly visible, on top of whatever this machine covers.
    MUST(mount("proc", "/proc", "proc", 0, nullptr));
    EXPECT_EXITED(WaitStatus(Fork(mount_proc)), 0);
    MUST(mount("none", "/proc/sys", "tmpfs", MS_RDONLY, nullptr));
    CheckpointHere();
    EXPECT_EXITED(WaitStatus(Fork([&] {
                    BecomeMappedRoot(CLONE_NEWNS | CLONE_NEWPID);
                    JOIN_OK(Fork([&] { EXPECT_ERRNO(mount("proc", dir.path(), "proc", 0, nullptr), EPERM); }));
                  })),
                  0);
  });
}

// A mount namespace with a mount of itself inside would never go.
GUEST_TEST(Stranger, MountNamespaceHoldingItself) {
  TempDir dir;
  WriteFile(dir / "ns", "");
  Inside([&] {
    EXPECT_ERRNO(mount("/proc/self/ns/mnt", dir / "ns", nullptr, MS_BIND, nullptr), EINVAL);
    EXPECT_OK(mount("/proc/self/ns/uts", dir / "ns", nullptr, MS_BIND, nullptr));
  });
}

GUEST_TEST(Stranger, AbstractNamesAreANetworkNamespaces) {
  NeedRoot();
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  memcpy(name.sun_path + 1, "stranger", 8);
  const socklen_t size = offsetof(sockaddr_un, sun_path) + 9;
  const auto* address = reinterpret_cast<const sockaddr*>(&name);
  const int server = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(server, address, size));
  MUST(listen(server, 1));
  const int old = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  JOIN_OK(Fork([&] {
    MUST(unshare(CLONE_NEWNET));
    const int own = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_ERRNO(connect(own, address, size), ECONNREFUSED);
    CheckpointHere();
    EXPECT_ERRNO(connect(own, address, size), ECONNREFUSED);
    EXPECT_OK(connect(old, address, size));  // Made where the name is.
    EXPECT_OK(bind(own, address, size));
    char text[65536] = {};
    ReadFile("/proc/self/net/unix", text, sizeof(text) - 1);
    int lines = 0;
    for (const char* at = text; (at = strstr(at, "@stranger")) != nullptr; ++at) ++lines;
    EXPECT_EQ(lines, 1);
  }));
}

// The namespace that counts is the socket's, not where the caller has gone since.
GUEST_TEST(Stranger, OldSocketsInNewNamespaces) {
  NeedRoot();
  JOIN_OK(Fork([] {
    MUST(unshare(CLONE_NEWNET));
    const int netlink = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
    const int udp = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    BecomeMappedRoot(CLONE_NEWNET);
    struct {
      nlmsghdr header;
      ifinfomsg info;
    } request = {};
    request.header.nlmsg_len = sizeof(request);
    request.header.nlmsg_type = RTM_SETLINK;
    request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    request.info.ifi_index = 1;
    request.info.ifi_flags = request.info.ifi_change = IFF_UP;
    MUST(send(netlink, &request, sizeof(request), 0));
    struct {
      nlmsghdr header;
      nlmsgerr error;
      char rest[256];
    } answer = {};
    MUST(recv(netlink, &answer, sizeof(answer), 0));
    EXPECT_EQ(answer.header.nlmsg_type, NLMSG_ERROR);
    EXPECT_EQ(answer.error.error, -EPERM);
    ifreq interface = {};
    memcpy(interface.ifr_name, "lo", 2);
    interface.ifr_flags = IFF_UP;
    EXPECT_ERRNO(ioctl(udp, SIOCSIFFLAGS, &interface), EPERM);
    sockaddr_in low = {};
    low.sin_family = AF_INET;
    low.sin_port = htons(80);
    EXPECT_ERRNO(bind(udp, reinterpret_cast<const sockaddr*>(&low), sizeof(low)), EACCES);
    const int own = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    EXPECT_OK(ioctl(own, SIOCSIFFLAGS, &interface));
    EXPECT_OK(bind(own, reinterpret_cast<const sockaddr*>(&low), sizeof(low)));
  }));
}

GUEST_TEST(Stranger, AbsolutePathsBelowTheWorkingDirectory) {
  TempDir dir;
  MUST(mkdir(dir / "etc", 0755));
  WriteFile(dir / "etc/mine", "x");
  MUST(chdir(dir.path()));
  open_how how = {};
  how.flags = O_RDONLY;
  how.resolve = RESOLVE_IN_ROOT;
  EXPECT_OK(syscall(SYS_openat2, AT_FDCWD, "/etc/mine", &how, sizeof(how)));
  EXPECT_ERRNO(syscall(SYS_openat2, AT_FDCWD, "/proc/self/stat", &how, sizeof(how)), ENOENT);
  EXPECT_ERRNO(syscall(SYS_openat2, AT_FDCWD, "/../../proc/self/stat", &how, sizeof(how)), ENOENT);
  how.resolve = RESOLVE_BENEATH;
  EXPECT_ERRNO(syscall(SYS_openat2, AT_FDCWD, "/etc/mine", &how, sizeof(how)), EXDEV);
}

GUEST_TEST(Stranger, NothingRunsFromNoexec) {
  TempDir dir;
  Inside([&] {
    MUST(mount("none", dir.path(), "tmpfs", MS_NOEXEC, nullptr));
    WriteFile(dir / "code", "x", 0755);
    MUST(truncate(dir / "code", kPage));
    const int fd = MUST(open(dir / "code", O_RDWR));
    for (const int type : {MAP_PRIVATE, MAP_SHARED}) {
      EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ | PROT_EXEC, type, fd, 0), EPERM);
      void* at = MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, type, fd, 0));
      EXPECT_ERRNO(mprotect(at, kPage, PROT_READ | PROT_EXEC), EACCES);
      CheckpointHere();
      EXPECT_ERRNO(mprotect(at, kPage, PROT_READ | PROT_EXEC), EACCES);
      EXPECT_OK(mprotect(at, kPage, PROT_READ));
    }
    EXPECT_ERRNO(execl(dir / "code", "code", nullptr), EACCES);
  });
}

// file_remove_privs(): who may write a program must not thereby get what its owner was given.
GUEST_TEST(Stranger, FileCapabilitiesGoWithAWrite) {
  TempDir dir;
  Inside([&] {
    MUST(mount("none", dir.path(), "tmpfs", 0, nullptr));
    WriteFile(dir / "program", "text", 0755);
    const uint32_t raw[5] = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, 1u << CAP_NET_RAW};
    const auto give = [&] { return setxattr(dir / "program", "security.capability", raw, sizeof(raw), 0); };
    const auto has = [&] { return getxattr(dir / "program", "security.capability", nullptr, 0) > 0; };
    if (give() != 0) Skip("no file capabilities on tmpfs");
    EXPECT(has());
    const int fd = MUST(open(dir / "program", O_WRONLY));
    EXPECT(has());
    MUST(write(fd, "T", 1));
    EXPECT(!has());
    MUST(give());
    MUST(ftruncate(fd, 2));
    EXPECT(!has());
    MUST(give());
    MUST(chown(dir / "program", 7, 7));
    EXPECT(!has());
    MUST(give());
    MUST(chmod(dir / "program", 0700));
    EXPECT(has());
  });
}
