// The device nodes that programs count on.
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

void ExpectDevice(const char* path, unsigned major_number, unsigned minor_number) {
  struct stat status = {};
  MUST(stat(path, &status));
  EXPECT(S_ISCHR(status.st_mode));
  EXPECT_EQ(major(status.st_rdev), major_number);
  EXPECT_EQ(minor(status.st_rdev), minor_number);
}

}  // namespace

GUEST_TEST(Dev, Numbers) {
  ExpectDevice("/dev/null", 1, 3);
  ExpectDevice("/dev/zero", 1, 5);
  ExpectDevice("/dev/full", 1, 7);
  ExpectDevice("/dev/random", 1, 8);
  ExpectDevice("/dev/urandom", 1, 9);
  ExpectDevice("/dev/tty", 5, 0);
  ExpectDevice("/dev/ptmx", 5, 2);
}

GUEST_TEST(Dev, Null) {
  const int fd = MUST(open("/dev/null", O_RDWR));
  char byte = 'x';
  CheckpointHere();
  EXPECT_EQ(read(fd, &byte, 1), 0);
  EXPECT_EQ(write(fd, "text", 4), 4);
  EXPECT_EQ(write(fd, reinterpret_cast<void*>(8), 100), 100);  // It does not even look.
  EXPECT_EQ(lseek(fd, 1000, SEEK_SET), 0);
  pollfd poller = {fd, POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  EXPECT_EQ(poller.revents, POLLIN | POLLOUT);
}

GUEST_TEST(Dev, Zero) {
  const int fd = MUST(open("/dev/zero", O_RDWR));
  char block[10000];
  memset(block, 'x', sizeof(block));
  CheckpointHere();
  EXPECT_EQ(read(fd, block, sizeof(block)), sizeof(block));
  for (const char byte : block) {
    if (byte != 0) EXPECT_EQ(byte, 0);
  }
  EXPECT_EQ(write(fd, block, 5), 5);
}

GUEST_TEST(Dev, Full) {
  const int fd = MUST(open("/dev/full", O_RDWR));
  char byte = 'x';
  EXPECT_EQ(read(fd, &byte, 1), 1);
  EXPECT_EQ(byte, 0);
  EXPECT_ERRNO(write(fd, "x", 1), ENOSPC);
}

GUEST_TEST(Dev, Random) {
  for (const char* path : {"/dev/urandom", "/dev/random"}) {
    const int fd = MUST(open(path, O_RDWR));
    unsigned char a[256] = {}, b[256] = {};
    EXPECT_EQ(read(fd, a, sizeof(a)), sizeof(a));
    EXPECT_EQ(read(fd, b, sizeof(b)), sizeof(b));
    EXPECT_NE(memcmp(a, b, sizeof(a)), 0);
    EXPECT_EQ(write(fd, a, 16), 16);  // Stirs the pool.
    int bits = 0;
    for (const unsigned char byte : a) bits += __builtin_popcount(byte);
    EXPECT_GT(bits, 800);
    EXPECT_LT(bits, 1250);
  }
}

GUEST_TEST(Dev, TtyWithoutTerminal) {
  JOIN_OK(Fork([] {
    MUST(setsid());
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
  }));
}

GUEST_TEST(Dev, StdinLinks) {
  char link[64] = {};
  MUST(readlink("/dev/fd", link, sizeof(link) - 1));
  EXPECT_STREQ(link, "/proc/self/fd");
  memset(link, 0, sizeof(link));
  MUST(readlink("/dev/stdin", link, sizeof(link) - 1));
  EXPECT_STREQ(link, "/proc/self/fd/0");
  Pipe p;
  const int writer = MUST(open(Str("/dev/fd/%d", p.w), O_WRONLY));
  EXPECT_EQ(write(writer, "x", 1), 1);
}

GUEST_TEST(Dev, ShmIsTmpfs) {
  struct statfs fs = {};
  MUST(statfs("/dev/shm", &fs));
  EXPECT_EQ(fs.f_type, 0x01021994);
  struct stat status = {};
  MUST(stat("/dev/shm", &status));
  EXPECT_EQ(status.st_mode & 07777, 01777);
  const Str path("/dev/shm/guest-%d", getpid());
  const int fd = MUST(open(path, O_CREAT | O_EXCL | O_RDWR, 0600));
  MUST(ftruncate(fd, kPage));
  auto* memory = static_cast<char*>(MUST(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)));
  memory[0] = 's';
  CheckpointHere();
  JOIN_OK(Fork([&] {
    char byte = 0;
    const int again = MUST(open(path, O_RDONLY));
    EXPECT_EQ(read(again, &byte, 1), 1);
    EXPECT_EQ(byte, 's');
  }));
  MUST(unlink(path));
}

GUEST_TEST(Dev, PtmxAndPts) {
  struct statfs fs = {};
  MUST(statfs("/dev/pts", &fs));
  EXPECT_EQ(fs.f_type, 0x1cd1);
  EXPECT_OK(access("/dev/ptmx", R_OK | W_OK));
}

GUEST_TEST(Dev, IoctlOnTheWrongKind) {
  int value = 0;
  EXPECT_ERRNO(ioctl(TempFile(), TIOCGWINSZ, &value), ENOTTY);
  const int null = MUST(open("/dev/null", O_RDWR));
  EXPECT_ERRNO(ioctl(null, TIOCGWINSZ, &value), ENOTTY);
  EXPECT_EQ(isatty(null), 0);
  EXPECT_EQ(errno, ENOTTY);
}

// Whiteouts, which overlays leave in their upper layers, are made by everybody (vfs_mknod), but not by way of an overlay (ovl_mknod).
GUEST_TEST(Dev, WhiteoutsNeedNoPrivilege) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  MUST(mount("none", dir.path(), "tmpfs", 0, nullptr));
  MUST(chmod(dir.path(), 0777));
  AS_USER([&] {
    MUST(mknod(dir / "whiteout", S_IFCHR | 0600, 0));
    EXPECT_ERRNO(mknod(dir / "block", S_IFBLK | 0600, 0), EPERM);
    EXPECT_ERRNO(mknod(dir / "null", S_IFCHR | 0600, makedev(1, 3)), EPERM);
    EXPECT_ERRNO(open(dir / "whiteout", O_RDONLY), ENXIO);
    WriteFile(dir / "file", "x");
    MUST(
        syscall(SYS_renameat2, AT_FDCWD, static_cast<const char*>(dir / "file"), AT_FDCWD, static_cast<const char*>(dir / "moved"), RENAME_WHITEOUT));
  });
  ExpectDevice(dir / "file", 0, 0);
  for (const char* name : {"lower", "upper", "work", "merged"}) MUST(mkdir(dir / name, 0755));
  const Str options("lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work,,volatile", dir.path(), dir.path(), dir.path());
  MUST(mount("none", dir / "merged", "overlay", 0, options));
  EXPECT_ERRNO(mknod(dir / "merged/whiteout", S_IFCHR | 0600, 0), EPERM);
  MUST(umount(dir / "merged"));
  MUST(umount(dir.path()));
}
