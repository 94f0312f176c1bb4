// FUSE at its edges: servers that say nonsense, are late or die; who may look; waiting calls and signals; mappings; mounting.
#include <errno.h>
#include <linux/mount.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "test/harness/fuse_server.h"

using namespace guest;

namespace {

void AddHello(FuseServer& s) { s.Add(1, "hello", S_IFREG | 0644, "hello, world\n"); }

void Nothing(int, siginfo_t*, void*) {}

// A child that reads "hello" and checks what comes.
pid_t Reader(FuseServer& server, int expected_errno) {
  return Fork([&] {
    char text[64];
    const int fd = open(server / "hello", O_RDONLY);
    const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
    if (expected_errno == 0) {
      EXPECT_EQ(n, 13);
    } else {
      EXPECT_EQ(n, -1);
      EXPECT_EQ(errno, expected_errno);
    }
  });
}

}  // namespace

GUEST_TEST(FuseWait, OthersGoOn) {
  FuseServer server("", AddHello);
  server.shared().held = FUSE_READ;
  const pid_t reader = Reader(server, 0);
  server.AwaitCount(FUSE_READ, 0);
  // The server itself, and other calls of the same mount.
  struct stat st;
  MUST(stat(server / "hello", &st));
  CheckpointHere();
  MUST(stat(server / "hello", &st));
  server.shared().held = -1;
  JOIN_OK(reader);
}

GUEST_TEST(FuseWait, ManyAtOnce) {
  FuseServer server("", AddHello);
  server.shared().held = FUSE_OPEN;
  pid_t readers[8];
  for (pid_t& r : readers) r = Reader(server, 0);
  server.AwaitCount(FUSE_OPEN, 7);
  CheckpointHere();
  server.shared().held = -1;
  for (pid_t r : readers) JOIN_OK(r);
}

GUEST_TEST(FuseWait, SignalIsTold) {
  FuseServer server("", AddHello);
  server.shared().open_flags = FOPEN_DIRECT_IO;  // else the page cache reads, not the caller
  server.shared().held = FUSE_READ;
  Pipe ready;
  const pid_t reader = Fork([&] {
    Handle(SIGUSR1, Nothing);
    char text[64];
    const int fd = MUST(open(server / "hello", O_RDONLY));
    MUST(write(ready.w, "r", 1));
    EXPECT_ERRNO(read(fd, text, sizeof(text)), EINTR);
  });
  char byte;
  MUST(read(ready.r, &byte, 1));
  server.AwaitCount(FUSE_READ, 0);
  MUST(kill(reader, SIGUSR1));
  JOIN_OK(reader);
  EXPECT_EQ(server.shared().interrupts, 1);
}

GUEST_TEST(FuseWait, KilledCallerGoes) {
  FuseServer server("", AddHello);
  server.shared().held = FUSE_OPEN;
  const pid_t reader = Reader(server, 0);
  server.AwaitCount(FUSE_OPEN, 0);
  CheckpointHere();
  MUST(kill(reader, SIGKILL));
  EXPECT_KILLED(WaitStatus(reader), SIGKILL);
  server.shared().held = -1;
  JOIN_OK(Reader(server, 0));
}

GUEST_TEST(FuseWait, ServerWaitsForItself) {
  // Nobody answers whom the server asks by its own mount; ending it ends that.
  FuseServer server("", AddHello);
  snprintf(server.shared().visit, sizeof(server.shared().visit), "%s", (server / "hello").c_str());
  const pid_t first = Fork([&] {
    struct stat st;
    EXPECT_ERRNO(stat(server / "trap", &st), ECONNABORTED);
  });
  server.AwaitCount(FUSE_LOOKUP, 0);
  CheckpointHere();
  server.Kill();
  JOIN_OK(first);
}

GUEST_TEST(FuseEnd, DeadServer) {
  FuseServer server("", AddHello);
  const int fd = MUST(open(server / "hello", O_RDWR));
  server.shared().held = FUSE_OPEN;
  const pid_t reader = Reader(server, ECONNABORTED);
  server.AwaitCount(FUSE_OPEN, 1);
  server.Kill();
  JOIN_OK(reader);
  struct stat st;
  EXPECT_ERRNO(stat(server / "hello", &st), ENOTCONN);
  EXPECT_ERRNO(stat(server.path(), &st), ENOTCONN);
  char text[8];
  EXPECT_ERRNO(read(fd, text, sizeof(text)), ENOTCONN);
  EXPECT_ERRNO(write(fd, "x", 1), ENOTCONN);
  CheckpointHere();
  EXPECT_ERRNO(mkdir(server / "x", 0700), ENOTCONN);
  EXPECT_ERRNO(umount2(server.path(), 0), EBUSY);
  close(fd);
  MUST(umount2(server.path(), 0));
}

GUEST_TEST(FuseEnd, UnmountEndsTheServer) {
  FuseServer server("", AddHello);
  const int fd = MUST(open(server / "hello", O_RDONLY));
  EXPECT_ERRNO(umount2(server.path(), 0), EBUSY);
  close(fd);
  MUST(umount2(server.path(), 0));
  // It read ENODEV.
  EXPECT_EXITED(server.Wait(), 0);
}

GUEST_TEST(FuseEnd, ForcedUnmountAborts) {
  FuseServer server("", AddHello);
  server.shared().held = FUSE_OPEN;
  const pid_t reader = Reader(server, ECONNABORTED);
  server.AwaitCount(FUSE_OPEN, 0);
  EXPECT_ERRNO(umount2(server.path(), 0), EBUSY);
  const int forced = umount2(server.path(), MNT_FORCE);  // the reader may be gone soon enough
  if (forced != 0) EXPECT_EQ(errno, EBUSY);
  JOIN_OK(reader);
}

GUEST_TEST(FuseHostile, WrongEntries) {
  FuseServer server("", AddHello);
  struct stat st;
  for (int wrong : {FuseServer::kNoNode, FuseServer::kBadType, FuseServer::kTooShort, FuseServer::kTooLong}) {
    server.shared().wrong = wrong;
    EXPECT_ERRNO(stat(server / "hello", &st), EIO);
  }
  // An errno that is none is refused; the next answer counts.
  server.shared().wrong = FuseServer::kBadError;
  const int refused = server.shared().refused;
  EXPECT_ERRNO(stat(server / "hello", &st), ENOENT);
  EXPECT_GE(server.shared().refused - refused, 2);
  server.shared().wrong = FuseServer::kRight;
  MUST(stat(server / "hello", &st));
  // Linux takes the root for broken from here on.
  server.shared().wrong = FuseServer::kRootAgain;
  EXPECT_ERRNO(stat(server / "other", &st), EIO);
}

GUEST_TEST(FuseHostile, WrongContents) {
  FuseServer server("", AddHello);
  const int fd = MUST(open(server / "hello", O_RDONLY));
  char text[64];
  server.shared().wrong = FuseServer::kTooShort;  // more than was asked for
  EXPECT_ERRNO(read(fd, text, sizeof(text)), EIO);
  server.shared().wrong = FuseServer::kSlashName;
  const int dir = MUST(open(server.path(), O_RDONLY | O_DIRECTORY));
  char buffer[1024];
  EXPECT_GT(syscall(SYS_getdents64, dir, buffer, sizeof(buffer)), 0);  // "." and ".."
  EXPECT_ERRNO(syscall(SYS_getdents64, dir, buffer, sizeof(buffer)), EIO);
}

GUEST_TEST(FuseHostile, AnswersTwice) {
  FuseServer server("", AddHello);
  server.shared().twice = 1;
  struct stat st;
  MUST(stat(server / "hello", &st));
  while (server.shared().second_errno == 0) SleepMs(1);
  EXPECT_EQ(server.shared().second_errno, ENOENT);
}

GUEST_TEST(FuseDevice, BeforeAndAfter) {
  const int fd = OpenFuseDevice();
  char buffer[65536];
  EXPECT_ERRNO(read(fd, buffer, sizeof(buffer)), EPERM);
  EXPECT_ERRNO(write(fd, buffer, 100), EPERM);
  pollfd p{fd, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLERR);
  TempDir dir;
  MUST(unshare(CLONE_NEWNS));
  MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  char options[128];
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
  MUST(mount("x", dir.path(), "fuse", 0, options));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLIN | POLLOUT);
  EXPECT_ERRNO(read(fd, buffer, 4096), EINVAL);  // too small for what could come
  const ssize_t n = MUST(read(fd, buffer, sizeof(buffer)));
  auto* h = reinterpret_cast<fuse_in_header*>(buffer);
  EXPECT_EQ(h->len, static_cast<uint32_t>(n));
  EXPECT_EQ(h->opcode, static_cast<uint32_t>(FUSE_INIT));
  auto* in = reinterpret_cast<fuse_init_in*>(buffer + sizeof(*h));
  EXPECT_EQ(in->major, 7u);
  EXPECT_GE(in->minor, 31u);
  CheckpointHere();
  EXPECT_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
  EXPECT_ERRNO(read(fd, buffer, sizeof(buffer)), EAGAIN);
  // Answers that are none.
  fuse_out_header out{.len = sizeof(out), .error = 0, .unique = 12345678};
  EXPECT_ERRNO(write(fd, &out, sizeof(out)), ENOENT);
  EXPECT_ERRNO(write(fd, &out, 8), EINVAL);
  out.len = 100;
  EXPECT_ERRNO(write(fd, &out, sizeof(out)), EINVAL);
  out = {.len = sizeof(out), .error = 5, .unique = 2};
  EXPECT_ERRNO(write(fd, &out, sizeof(out)), EINVAL);
  // Another descriptor of the same connection.
  const int clone = OpenFuseDevice();
  uint32_t number = static_cast<uint32_t>(fd);
  MUST(ioctl(clone, FUSE_DEV_IOC_CLONE, &number));
  EXPECT_ERRNO(ioctl(clone, FUSE_DEV_IOC_CLONE, &number), EINVAL);
  close(fd);
  p.fd = clone;
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents, POLLOUT);
  MUST(umount2(dir.path(), MNT_DETACH));
  EXPECT_EQ(poll(&p, 1, 0), 1);
  EXPECT_EQ(p.revents & POLLERR, POLLERR);
  EXPECT_ERRNO(read(clone, buffer, sizeof(buffer)), ENODEV);
}

GUEST_TEST(FuseDevice, OptionsOfMounts) {
  const int fd = OpenFuseDevice();
  TempDir dir;
  MUST(unshare(CLONE_NEWNS));
  MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  const char* bad[] = {
      "rootmode=40000,user_id=0,group_id=0",
      "fd=%d,user_id=0,group_id=0",
      "fd=%d,rootmode=40000,group_id=0",
      "fd=%d,rootmode=40000,user_id=0",
      "fd=%d,rootmode=0,user_id=0,group_id=0",
      "fd=%d,rootmode=40000,user_id=x,group_id=0",
      "fd=%d,rootmode=40000,user_id=0,group_id=0,what",
      "fd=%d,rootmode=40000,user_id=0,group_id=0,blksize=1024",
      "fd=999,rootmode=40000,user_id=0,group_id=0",
      "fd=0,rootmode=40000,user_id=0,group_id=0",
  };
  for (const char* format : bad) {
    char options[128];
    snprintf(options, sizeof(options), format, fd);
    EXPECT_ERRNO(mount("x", dir.path(), "fuse", 0, options), EINVAL);
  }
  char options[160];
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=8192", fd);
  EXPECT_ERRNO(mount("x", dir.path(), "nofuse.x", 0, options), ENODEV);
  MUST(mount("x", dir.path(), "fuse.kind", MS_NOSUID, options));
  FILE* mounts = fopen("/proc/self/mounts", "re");
  char line[512];
  bool found = false;
  while (fgets(line, sizeof(line), mounts) != nullptr) {
    if (strstr(line, dir.path()) == nullptr) continue;
    found = true;
    EXPECT_NE(strstr(line, " fuse.kind "), nullptr);
    EXPECT_NE(strstr(line, ",user_id=0,group_id=0,default_permissions,allow_other,max_read=8192"), nullptr);
  }
  fclose(mounts);
  EXPECT_EQ(found, true);
  FILE* types = fopen("/proc/filesystems", "re");
  found = false;
  while (fgets(line, sizeof(line), types) != nullptr) found = found || strcmp(line, "nodev\tfuse\n") == 0;
  fclose(types);
  EXPECT_EQ(found, true);
  MUST(umount2(dir.path(), MNT_DETACH));
}

// Who opened the device elsewhere is not to be the server here.
GUEST_TEST(FuseDevice, OfAnotherUserNamespace) {
  const int outside = OpenFuseDevice();
  const char* device = FuseDevicePath();
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  JOIN_OK(Fork([&] {
    MUST(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    WriteFile("/proc/self/setgroups", "deny");
    WriteFile("/proc/self/uid_map", "0 0 1");
    WriteFile("/proc/self/gid_map", "0 0 1");
    const int inside = open(device, O_RDWR);
    ASSERT(inside >= 0);
    auto try_mount = [&](int fd) { return mount("x", dir.path(), "fuse", 0, Str("fd=%d,rootmode=40000,user_id=0,group_id=0", fd).c_str()); };
    EXPECT_ERRNO(try_mount(outside), EINVAL);
    CheckpointHere();
    EXPECT_ERRNO(try_mount(outside), EINVAL);
    EXPECT_OK(try_mount(inside));
    EXPECT_OK(umount2(dir.path(), MNT_DETACH));
  }));
}

GUEST_TEST(FuseDevice, ByFsOpen) {
  constexpr long kFsOpen = 430, kFsConfig = 431, kFsMount = 432, kMoveMount = 429;
  const int fd = OpenFuseDevice();
  TempDir dir;
  MUST(unshare(CLONE_NEWNS));
  MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
  const int context = static_cast<int>(MUST(syscall(kFsOpen, "fuse", 0)));
  char number[16];
  snprintf(number, sizeof(number), "%d", fd);
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "fd", number, 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "rootmode", "40000", 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "user_id", "0", 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "group_id", "0", 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  const int tree = static_cast<int>(MUST(syscall(kFsMount, context, 0, 0)));
  MUST(syscall(kMoveMount, tree, "", AT_FDCWD, dir.path(), MOVE_MOUNT_F_EMPTY_PATH));
  pollfd p{fd, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 1000), 1);
  EXPECT_EQ(p.revents, POLLIN);
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FuseMay, OnlyTheOneWhoMounted) {
  FuseServer server("", AddHello);
  AS_USER([&] {
    struct stat st;
    EXPECT_ERRNO(stat(server / "hello", &st), EACCES);
    EXPECT_ERRNO(open(server / "hello", O_RDONLY), EACCES);
    EXPECT_ERRNO(mkdir(server / "x", 0700), EACCES);
  });
}

GUEST_TEST(FuseMay, OthersWithModes) {
  FuseServer server(",allow_other,default_permissions", [](FuseServer& s) {
    s.Add(1, "open", S_IFREG | 0644, "open");
    s.Add(1, "closed", S_IFREG | 0600, "closed");
  });
  AS_USER([&] {
    EXPECT_OK(open(server / "open", O_RDONLY));
    EXPECT_ERRNO(open(server / "open", O_WRONLY), EACCES);
    EXPECT_ERRNO(open(server / "closed", O_RDONLY), EACCES);
    EXPECT_ERRNO(mkdir(server / "x", 0700), EACCES);
    EXPECT_ERRNO(access(server / "closed", R_OK), EACCES);
  });
  EXPECT_EQ(server.count(FUSE_ACCESS), 0);
}

GUEST_TEST(FuseMay, TheServerDecides) {
  FuseServer server(",allow_other", [](FuseServer& s) { s.Add(1, "closed", S_IFREG | 0600, "closed"); });
  AS_USER([&] {
    EXPECT_OK(open(server / "closed", O_RDONLY));
    EXPECT_OK(access(server / "closed", R_OK));
  });
  EXPECT_EQ(static_cast<int>(server.shared().uid), 1000);
  server.shared().fails[FUSE_ACCESS] = EACCES;
  EXPECT_ERRNO(access(server / "closed", R_OK), EACCES);
  server.shared().fails[FUSE_OPEN] = ETXTBSY;
  EXPECT_ERRNO(open(server / "closed", O_RDONLY), ETXTBSY);
}

GUEST_TEST(FuseMay, MappedPrivately) {
  FuseServer server("", [](FuseServer& s) { s.Add(1, "big", S_IFREG | 0644); });
  constexpr size_t kSize = 300'000;
  server.node(server.Find(1, "big")).size = kSize;
  for (size_t i = 0; i < kSize; ++i) server.shared().big[i] = static_cast<char>(i * 3);
  const int fd = MUST(open(server / "big", O_RDWR));
  auto* map = static_cast<char*>(MUST(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0)));
  EXPECT_EQ(memcmp(map, server.shared().big, kSize), 0);
  map[0] = 'x';
  auto* part = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, MUST(open(server / "big", O_RDONLY)), 4 * kPage)));
  EXPECT_EQ(memcmp(part, server.shared().big + 4 * kPage, kPage), 0);
  CheckpointHere();
  EXPECT_EQ(map[0], 'x');
  EXPECT_EQ(memcmp(map + 1, server.shared().big + 1, kSize - 1), 0);
  // What is written is in the mapping.
  EXPECT_EQ(pwrite(fd, "seen", 4, 4 * kPage + 10), 4);
  EXPECT_EQ(memcmp(part + 10, "seen", 4), 0);
  EXPECT_EQ(server.shared().big[0], 0);
}

GUEST_TEST(FuseMay, RunsPrograms) {
  FuseServer server("", [](FuseServer& s) { s.Add(1, "big", S_IFREG | 0755); });
  // This very program.
  const int self = MUST(open(SelfPath(), O_RDONLY));
  struct stat st;
  MUST(fstat(self, &st));
  if (static_cast<size_t>(st.st_size) > FuseServer::kBig) Skip("this program is too large");
  for (off_t at = 0; at < st.st_size;) at += MUST(pread(self, server.shared().big + at, static_cast<size_t>(st.st_size - at), at));
  server.node(server.Find(1, "big")).size = static_cast<uint64_t>(st.st_size);
  const pid_t child = MUST(fork());
  if (child == 0) {
    const char* arguments[] = {"big", "--list", nullptr};
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    execve(server / "big", const_cast<char**>(arguments), environ);
    _exit(99);
  }
  EXPECT_EXITED(WaitStatus(child), 0);
  EXPECT_GE(server.count(FUSE_READ), 1);
}

GUEST_TEST(FuseMay, InAUserNamespace) {
  const int fd = OpenFuseDevice();
  const char* path = FuseDevicePath();
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) Skip("no user namespaces");
  WriteFile("/proc/self/setgroups", "deny");
  WriteFile("/proc/self/uid_map", "0 0 1");
  WriteFile("/proc/self/gid_map", "0 0 1");
  close(fd);
  // Opened in the namespace that mounts.
  const int own = MUST(open(path, O_RDWR));
  TempDir dir;
  char options[128];
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", own);
  MUST(mount("x", dir.path(), "fuse", MS_NOSUID | MS_NODEV, options));
  snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=5,group_id=0", MUST(open(path, O_RDWR)));
  EXPECT_ERRNO(mount("x", dir.path(), "fuse", MS_NOSUID | MS_NODEV, options), EINVAL);
  MUST(umount2(dir.path(), MNT_DETACH));
}
