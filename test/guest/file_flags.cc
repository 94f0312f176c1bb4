// Flags of files (chattr(1), lsattr(1)): what sets them, what shows them, and what immutable and append-only files refuse; cachestat.
#include <linux/fs.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct FileAttr {
  uint64_t xflags = 0;
  uint32_t extent_size = 0, extents = 0, project = 0, cow_extent_size = 0;
};

int GetAttr(int dirfd, const char* path, void* attr, size_t size, int flags) { return Call(468, dirfd, path, attr, size, flags); }
int SetAttr(int dirfd, const char* path, const void* attr, size_t size, int flags) { return Call(469, dirfd, path, attr, size, flags); }

int SetFlags(int fd, int flags) { return ioctl(fd, FS_IOC_SETFLAGS, &flags); }
int FlagsOf(int fd) {
  int flags = -1;
  MUST(ioctl(fd, FS_IOC_GETFLAGS, &flags));
  return flags;
}

// A tmpfs with the file f and the directory d. (Linux has flags in tmpfs since 6.6.)
class Tree {
 public:
  Tree() {
    if (mount("none", dir_.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
    file = MUST(open(dir_ / "f", O_CREAT | O_RDWR, 0644));
    MUST(mkdir(dir_ / "d", 0755));
    directory = MUST(open(dir_ / "d", O_RDONLY));
    MUST(write(file, "content", 7));
  }
  ~Tree() {
    close(file);
    close(directory);
    umount2(dir_.path(), MNT_DETACH);
  }
  Str operator/(const char* name) const { return dir_ / name; }

  int file, directory;

 private:
  TempDir dir_;
};

}  // namespace

GUEST_TEST(FileFlags, SetAndShown) {
  Tree t;
  EXPECT_EQ(FlagsOf(t.file), 0);
  for (const int flag : {FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, FS_NOATIME_FL}) {
    EXPECT_EQ(SetFlags(t.file, flag), 0);
    EXPECT_EQ(FlagsOf(t.file), flag);
  }
  EXPECT_EQ(SetFlags(t.file, 0), 0);
  for (const int flag : {FS_SECRM_FL, FS_COMPR_FL, FS_SYNC_FL, FS_INDEX_FL, FS_EXTENT_FL, FS_PROJINHERIT_FL}) {
    EXPECT_ERRNO(SetFlags(t.file, flag), EOPNOTSUPP);
  }
  EXPECT_ERRNO(ioctl(t.file, FS_IOC_GETFLAGS, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.file, FS_IOC_SETFLAGS, kBadAddress), EFAULT);
  MUST(SetFlags(t.file, FS_NODUMP_FL | FS_APPEND_FL));
  CheckpointHere();
  EXPECT_EQ(FlagsOf(t.file), FS_NODUMP_FL | FS_APPEND_FL);
  fsxattr x = {};
  EXPECT_EQ(ioctl(t.file, FS_IOC_FSGETXATTR, &x), 0);
  EXPECT_EQ(x.fsx_xflags, static_cast<unsigned>(FS_XFLAG_NODUMP | FS_XFLAG_APPEND));
  struct statx st = {};
  MUST(statx(AT_FDCWD, t / "f", 0, STATX_BASIC_STATS, &st));
  EXPECT_EQ(st.stx_attributes & (STATX_ATTR_NODUMP | STATX_ATTR_APPEND | STATX_ATTR_IMMUTABLE), uint64_t{STATX_ATTR_NODUMP | STATX_ATTR_APPEND});
  EXPECT_EQ(st.stx_attributes_mask & STATX_ATTR_IMMUTABLE, uint64_t{STATX_ATTR_IMMUTABLE});
  MUST(SetFlags(t.file, 0));
  Pipe pipe;
  int flags;
  EXPECT_ERRNO(ioctl(pipe.r, FS_IOC_GETFLAGS, &flags), ENOTTY);
  const int other = MUST(open("/proc/self/stat", O_RDONLY));
  EXPECT_ERRNO(ioctl(other, FS_IOC_GETFLAGS, &flags), ENOTTY);
  close(other);
}

GUEST_TEST(FileFlags, TheOtherSpelling) {
  Tree t;
  auto set = [&](unsigned xflags, unsigned project = 0, unsigned extent_size = 0) {
    fsxattr x = {};
    x.fsx_xflags = xflags;
    x.fsx_projid = project;
    x.fsx_extsize = extent_size;
    return ioctl(t.file, FS_IOC_FSSETXATTR, &x);
  };
  EXPECT_EQ(set(FS_XFLAG_NODUMP | FS_XFLAG_NOATIME), 0);
  EXPECT_EQ(FlagsOf(t.file), FS_NODUMP_FL | FS_NOATIME_FL);
  for (const unsigned flag : {FS_XFLAG_PREALLOC, FS_XFLAG_EXTSIZE, FS_XFLAG_COWEXTSIZE, static_cast<int>(FS_XFLAG_HASATTR)}) EXPECT_EQ(set(flag), 0);
  for (const unsigned flag : {FS_XFLAG_REALTIME, FS_XFLAG_SYNC, FS_XFLAG_PROJINHERIT, FS_XFLAG_DAX, 0x20000}) EXPECT_ERRNO(set(flag), EOPNOTSUPP);
  EXPECT_ERRNO(set(FS_XFLAG_EXTSZINHERIT), EINVAL);
  EXPECT_ERRNO(set(0, 5), EOPNOTSUPP);
  EXPECT_ERRNO(set(0, 0, 4096), EOPNOTSUPP);
}

GUEST_TEST(FileFlags, FileGetAttr) {
  Tree t;
  MUST(symlink("f", t / "l"));
  MUST(mkfifo(t / "p", 0600));
  FileAttr attr[4];
  if (GetAttr(t.file, "", attr, 24, AT_EMPTY_PATH) < 0 && errno == ENOSYS) Skip("no file_getattr");
  attr[0].xflags = FS_XFLAG_NODUMP;
  EXPECT_EQ(SetAttr(AT_FDCWD, t / "f", attr, 24, 0), 0);
  EXPECT_EQ(FlagsOf(t.file), FS_NODUMP_FL);
  attr[1].xflags = 7;
  EXPECT_EQ(GetAttr(AT_FDCWD, t / "l", attr, 48, 0), 0);
  EXPECT_EQ(attr[0].xflags, uint64_t{FS_XFLAG_NODUMP});
  EXPECT_EQ(attr[1].xflags, 0u);
  EXPECT_EQ(GetAttr(t.file, nullptr, attr, 24, AT_EMPTY_PATH), 0);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "l", attr, 24, AT_SYMLINK_NOFOLLOW), EOPNOTSUPP);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "p", attr, 24, 0), EOPNOTSUPP);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, "/proc/self/stat", attr, 24, 0), EOPNOTSUPP);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "f", attr, 23, 0), EINVAL);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "f", attr, 5000, 0), E2BIG);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "f", attr, 24, AT_SYMLINK_FOLLOW), EINVAL);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "f", kBad, 24, 0), EFAULT);
  EXPECT_ERRNO(GetAttr(AT_FDCWD, t / "none", attr, 24, 0), ENOENT);
  EXPECT_ERRNO(GetAttr(777, "", attr, 24, AT_EMPTY_PATH), EBADF);
  const int path = MUST(open(t / "f", O_PATH));
  EXPECT_ERRNO(GetAttr(path, "", attr, 24, AT_EMPTY_PATH), EBADF);
  close(path);
  attr[0] = attr[1] = {};
  EXPECT_EQ(SetAttr(AT_FDCWD, t / "f", attr, 48, 0), 0);
  attr[1].xflags = 1;
  EXPECT_ERRNO(SetAttr(AT_FDCWD, t / "f", attr, 48, 0), E2BIG);
  attr[0].xflags = uint64_t{1} << 40;
  EXPECT_ERRNO(SetAttr(AT_FDCWD, t / "f", attr, 24, 0), EINVAL);
  attr[0] = {.project = 4};
  EXPECT_ERRNO(SetAttr(AT_FDCWD, t / "f", attr, 24, 0), EOPNOTSUPP);
  attr[0] = {.extents = 4};
  EXPECT_EQ(SetAttr(AT_FDCWD, t / "f", attr, 24, 0), 0);
}

GUEST_TEST(FileFlags, Immutable) {
  Tree t;
  const int writer = MUST(open(t / "f", O_WRONLY | O_APPEND));
  MUST(SetFlags(t.file, FS_IMMUTABLE_FL));
  MUST(SetFlags(t.directory, FS_IMMUTABLE_FL));
  CheckpointHere();
  close(MUST(open(t / "f", O_RDONLY)));
  for (const int flags : {O_RDWR, O_WRONLY | O_APPEND, O_RDONLY | O_TRUNC}) EXPECT_ERRNO(open(t / "f", flags), EPERM);
  EXPECT_ERRNO(truncate(t / "f", 2), EPERM);
  EXPECT_ERRNO(fallocate(t.file, 0, 0, 10), EPERM);
  EXPECT_ERRNO(chmod(t / "f", 0600), EPERM);
  EXPECT_ERRNO(chown(t / "f", 1, 1), EPERM);
  EXPECT_ERRNO(utimensat(AT_FDCWD, t / "f", nullptr, 0), EPERM);
  EXPECT_ERRNO(link(t / "f", t / "g"), EPERM);
  EXPECT_ERRNO(rename(t / "f", t / "g"), EPERM);
  EXPECT_ERRNO(unlink(t / "f"), EPERM);
  EXPECT_ERRNO(setxattr(t / "f", "user.a", "x", 1, 0), EPERM);
  EXPECT_ERRNO(setxattr(t / "f", "trusted.a", "x", 1, 0), EPERM);
  EXPECT_ERRNO(access(t / "f", W_OK), EPERM);
  EXPECT_ERRNO(mknod(t / "d/x", S_IFREG | 0600, 0), EPERM);
  EXPECT_ERRNO(open(t / "d", O_TMPFILE | O_RDWR, 0600), EPERM);
  EXPECT_ERRNO(rmdir(t / "d"), EPERM);
  EXPECT_ERRNO(chmod(t / "d", 0700), EPERM);
  // Who has it open goes on.
  EXPECT_EQ(write(writer, "x", 1), 1);
  EXPECT_EQ(ftruncate(t.file, 3), 0);
  close(writer);
  MUST(SetFlags(t.file, 0));
  MUST(SetFlags(t.directory, 0));
  MUST(unlink(t / "f"));
}

GUEST_TEST(FileFlags, AppendOnly) {
  Tree t;
  MUST(mkdir(t / "d/y", 0755));
  MUST(SetFlags(t.file, FS_APPEND_FL));
  MUST(SetFlags(t.directory, FS_APPEND_FL));
  const int writer = MUST(open(t / "f", O_WRONLY | O_APPEND));
  EXPECT_EQ(write(writer, "x", 1), 1);
  EXPECT_ERRNO(fcntl(writer, F_SETFL, 0), EPERM);
  close(writer);
  for (const int flags : {O_RDWR, O_WRONLY, O_RDONLY | O_TRUNC, O_WRONLY | O_APPEND | O_TRUNC}) EXPECT_ERRNO(open(t / "f", flags), EPERM);
  EXPECT_ERRNO(truncate(t / "f", 2), EPERM);
  EXPECT_ERRNO(ftruncate(t.file, 2), EPERM);
  EXPECT_EQ(fallocate(t.file, 0, 0, 10), 0);
  EXPECT_ERRNO(fallocate(t.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4), EPERM);
  EXPECT_ERRNO(chmod(t / "f", 0600), EPERM);
  EXPECT_EQ(utimensat(AT_FDCWD, t / "f", nullptr, 0), 0);
  const timespec times[2] = {{1, 1}, {1, 1}};
  EXPECT_ERRNO(utimensat(AT_FDCWD, t / "f", times, 0), EPERM);
  EXPECT_ERRNO(link(t / "f", t / "g"), EPERM);
  EXPECT_ERRNO(unlink(t / "f"), EPERM);
  EXPECT_ERRNO(setxattr(t / "f", "user.a", "x", 1, 0), EPERM);
  EXPECT_EQ(access(t / "f", W_OK), 0);
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ, MAP_SHARED, t.file, 0), EACCES);
  EXPECT_EQ(mknod(t / "d/x", S_IFREG | 0600, 0), 0);
  EXPECT_ERRNO(unlink(t / "d/x"), EPERM);
  EXPECT_ERRNO(rename(t / "d/x", t / "d/z"), EPERM);
  EXPECT_ERRNO(rmdir(t / "d/y"), EPERM);
}

GUEST_TEST(FileFlags, InheritedAndPrivileged) {
  Tree t;
  MUST(SetFlags(t.directory, FS_NODUMP_FL | FS_NOATIME_FL));
  for (const int flags : {O_CREAT | O_RDWR, O_TMPFILE | O_RDWR}) {
    const int made = MUST(open((flags & O_TMPFILE) == O_TMPFILE ? t / "d" : t / "d/new", flags, 0600));
    EXPECT_EQ(FlagsOf(made), FS_NODUMP_FL | FS_NOATIME_FL);
    close(made);
  }
  MUST(fchown(t.file, 1000, 1000));
  AS_USER([&] {
    EXPECT_ERRNO(SetFlags(t.file, FS_IMMUTABLE_FL), EPERM);
    EXPECT_EQ(SetFlags(t.file, FS_NODUMP_FL), 0);
    EXPECT_ERRNO(SetFlags(t.directory, 0), EPERM);
  });
}

GUEST_TEST(CacheStat, CountsPages) {
  struct {
    uint64_t offset, size;
  } range = {0, 0};
  struct {
    uint64_t cached, dirty, writeback, evicted, recent;
  } stat;
  Tree t;
  if (Call(451, t.file, &range, &stat, 0) < 0 && errno == ENOSYS) Skip("no cachestat");
  char* page = Pages(1);
  memset(page, 1, kPage);
  for (const int at : {0, 1, 5}) MUST(pwrite(t.file, page, kPage, at * static_cast<off_t>(kPage)));
  EXPECT_EQ(Call(451, t.file, &range, &stat, 0), 0);
  EXPECT_EQ(stat.cached, 3u);
  range = {kPage, 4 * kPage};
  EXPECT_EQ(Call(451, t.file, &range, &stat, 0), 0);
  EXPECT_EQ(stat.cached, 1u);
  range = {3 * kPage, 0};
  EXPECT_EQ(Call(451, t.file, &range, &stat, 0), 0);
  EXPECT_EQ(stat.cached, 1u);
  EXPECT_ERRNO(Call(451, t.file, &range, &stat, 1), EINVAL);
  EXPECT_ERRNO(Call(451, 777, &range, &stat, 1), EBADF);
  EXPECT_ERRNO(Call(451, t.file, kBadAddress, &stat, 1), EFAULT);
  EXPECT_ERRNO(Call(451, t.file, &range, kBadAddress, 0), EFAULT);
  Pipe pipe;
  EXPECT_EQ(Call(451, pipe.r, &range, &stat, 0), 0);
  EXPECT_EQ(stat.cached, 0u);
  AS_USER([&] {
    const int mine = MUST(open(t / "f", O_RDONLY));
    EXPECT_ERRNO(Call(451, mine, &range, &stat, 0), EPERM);
  });
}
