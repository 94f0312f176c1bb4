// What file calls look at first, and what they tell: flags before paths, names of attributes before files, ranges of locks before types; events of
// directories that are read and of files that are allocated; leases that change while they are broken; seals of files of a tmpfs.
#include <linux/fs.h>
#include <stddef.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A path that is too long.
struct LongPath {
  LongPath() { memset(text, 'a', sizeof(text) - 1); }
  char text[5000] = {};
};

// The masks that an inotify descriptor tells, in order.
size_t Masks(int fd, uint32_t* masks, size_t room) {
  alignas(8) char buffer[4096];
  const ssize_t size = read(fd, buffer, sizeof(buffer));
  size_t count = 0;
  for (ssize_t at = 0; at < size && count < room;) {
    const auto* event = reinterpret_cast<inotify_event*>(buffer + at);
    masks[count++] = event->mask;
    at += static_cast<ssize_t>(sizeof(*event) + event->len);
  }
  return count;
}

}  // namespace

GUEST_TEST(FileOrders, FlagsBeforePaths) {
  const LongPath path;
  EXPECT_ERRNO(open(path.text, O_CREAT | O_DIRECTORY, 0600), EINVAL);
  EXPECT_ERRNO(open(path.text, O_TMPFILE, 0600), EINVAL);
  EXPECT_ERRNO(open(path.text, O_RDONLY), ENAMETOOLONG);
  EXPECT_ERRNO(mknod(path.text, S_IFDIR | 0600, 0), EPERM);
  EXPECT_ERRNO(mknod(path.text, S_IFLNK | 0600, 0), EINVAL);
  EXPECT_ERRNO(symlink("", path.text), ENOENT);
  char byte;
  EXPECT_ERRNO(getxattr("/nothing-here", "", &byte, 1), ERANGE);
  EXPECT_ERRNO(removexattr("/nothing-here", ""), ERANGE);
}

GUEST_TEST(FileOrders, WhatTmpfileTells) {
  TempDir dir;
  const int fd = MUST(open(dir.path(), O_TMPFILE | O_RDWR, 0600));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_TMPFILE, O_TMPFILE);
  CheckpointHere();
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_TMPFILE, O_TMPFILE);
  MUST(linkat(AT_FDCWD, Str("/proc/self/fd/%d", fd), AT_FDCWD, dir / "named", AT_SYMLINK_FOLLOW));
  close(fd);
}

GUEST_TEST(FileOrders, RangesThatWrap) {
  const int fd = TempFile("0123456789");
  MUST(lseek(fd, 3, SEEK_SET));
  EXPECT_ERRNO(lseek(fd, INT64_MAX, SEEK_CUR), EINVAL);
  EXPECT_ERRNO(lseek(fd, INT64_MAX, SEEK_END), EINVAL);
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_CUR, .l_start = INT64_MAX, .l_len = 1, .l_pid = 0};
  for (const int command : {F_SETLK, F_GETLK, F_OFD_SETLK, F_OFD_GETLK}) EXPECT_ERRNO(fcntl(fd, command, &lock), EOVERFLOW);
  lock.l_type = 5;
  EXPECT_ERRNO(fcntl(fd, F_SETLK, &lock), EOVERFLOW);
  EXPECT_ERRNO(fcntl(fd, F_GETLK, &lock), EINVAL);
  lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = 2, .l_len = 5, .l_pid = 0};
  EXPECT_ERRNO(fcntl(fd, F_GETLK, &lock), EINVAL);
  EXPECT_EQ(fcntl(fd, F_OFD_GETLK, &lock), 0);
  EXPECT_EQ(lock.l_type, F_UNLCK);
  EXPECT_EQ(lock.l_start, 2);
  close(fd);
}

GUEST_TEST(FileOrders, FlagsOfReading) {
  const int fd = TempFile("0123456789");
  char buffer[4];
  iovec io = {buffer, sizeof(buffer)};
  for (const int flags : {RWF_DSYNC, RWF_SYNC, RWF_APPEND, RWF_HIPRI}) EXPECT_EQ(preadv2(fd, &io, 1, 0, flags), 4);
  EXPECT_ERRNO(preadv2(fd, &io, 1, 0, 0x40000000), EOPNOTSUPP);
  // RWF_NOAPPEND.
  MUST(fcntl(fd, F_SETFL, O_APPEND));
  if (pwritev2(fd, &io, 1, 2, 0x20) < 0 && errno == EOPNOTSUPP) Skip("no RWF_NOAPPEND");
  struct stat st;
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_size, 10);
  EXPECT_ERRNO(pwritev2(fd, &io, 1, 2, 0x20 | RWF_APPEND), EINVAL);
  close(fd);
}

GUEST_TEST(FileOrders, EventsOfListingAndAllocating) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  const int watch = MUST(inotify_init1(IN_NONBLOCK));
  MUST(inotify_add_watch(watch, dir / "f", IN_MODIFY | IN_DELETE_SELF));
  MUST(inotify_add_watch(watch, dir.path(), IN_ACCESS | IN_DELETE));
  const int file = MUST(open(dir / "f", O_RDWR));
  if (fallocate(file, 0, 0, 100) < 0) Skip("no fallocate here");
  close(file);
  const int list = MUST(open(dir.path(), O_RDONLY));
  char entries[512];
  MUST(static_cast<int>(syscall(SYS_getdents64, list, entries, sizeof(entries))));
  close(list);
  MUST(unlink(dir / "f"));
  uint32_t masks[8] = {};
  EXPECT_EQ(Masks(watch, masks, 8), 5u);
  EXPECT_EQ(masks[0], unsigned{IN_MODIFY});
  EXPECT_EQ(masks[1], unsigned{IN_ACCESS | IN_ISDIR});
  EXPECT_EQ(masks[2], unsigned{IN_DELETE_SELF});
  EXPECT_EQ(masks[3], unsigned{IN_IGNORED});
  EXPECT_EQ(masks[4], unsigned{IN_DELETE});
  close(watch);
}

GUEST_TEST(FileOrders, ALeaseThatIsBrokenStaysSo) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  CountSignals(SIGIO);
  const int fd = MUST(open(dir / "f", O_RDONLY));
  if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) Skip("no leases here");
  EXPECT_ERRNO(open(dir / "f", O_RDWR | O_NONBLOCK), EWOULDBLOCK);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
  EXPECT_EQ(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
  EXPECT_ERRNO(open(dir / "f", O_RDWR | O_NONBLOCK), EWOULDBLOCK);
  EXPECT_EQ(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
  close(MUST(open(dir / "f", O_RDWR | O_NONBLOCK)));
  close(fd);
}

GUEST_TEST(FileOrders, FilesOfTmpfsAreSealedAgainstSeals) {
  TempDir dir;
  if (mount("none", dir.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
  const int fd = MUST(open(dir / "f", O_CREAT | O_RDWR, 0600));
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
  EXPECT_ERRNO(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), EPERM);
  EXPECT_EQ(write(fd, "x", 1), 1);
  close(fd);
  MUST(umount(dir.path()));
}
