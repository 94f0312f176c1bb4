// Files at their edges: open's flags, O_TMPFILE and linking, rename's flags, limits of size, holes, positions in folders,
// statx, reads and writes at the end of what is possible.
#include <dirent.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/stat.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

off_t Size(int fd) {
  struct stat status = {};
  MUST(fstat(fd, &status));
  return status.st_size;
}
struct stat Stat(const char* path) {
  struct stat status = {};
  MUST(lstat(path, &status));
  return status;
}
int Rename2(const char* from, const char* to, unsigned flags) { return Call(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags); }

struct Entry {
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t kind;
  char name[];
};

}  // namespace

GUEST_TEST(OpenEdge, FlagCombinations) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  EXPECT_ERRNO(open(dir.path(), O_WRONLY), EISDIR);
  EXPECT_ERRNO(open(dir.path(), O_RDWR), EISDIR);
  EXPECT_ERRNO(open(dir.path(), O_RDONLY | O_CREAT, 0644), EISDIR);
  EXPECT_ERRNO(open(dir / "f", O_RDONLY | O_DIRECTORY), ENOTDIR);
  EXPECT_ERRNO(open(dir / "new", O_CREAT | O_DIRECTORY | O_RDWR, 0644), EINVAL);
  EXPECT_ERRNO(open(dir.path(), O_TMPFILE | O_RDONLY, 0644), EINVAL);
  EXPECT_OK(open(dir / "f", O_RDONLY | O_TRUNC));  // Undefined by POSIX; Linux cuts it.
  EXPECT_EQ(Stat(dir / "f").st_size, 0);
}

GUEST_TEST(OpenEdge, AccessModeThree) {
  // Neither reading nor writing, but asks for permission to both: for ioctl alone.
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int fd = MUST(open(dir / "f", 3));
  char byte;
  EXPECT_ERRNO(read(fd, &byte, 1), EBADF);
  EXPECT_ERRNO(write(fd, &byte, 1), EBADF);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, 3);
}

GUEST_TEST(OpenEdge, NoatimeIsForOwners) {
  TempDir dir;
  WriteFile(dir / "f", "content", 0666);
  EXPECT_OK(open(dir / "f", O_RDONLY | O_NOATIME));
  AS_USER([&] {
    EXPECT_ERRNO(open(dir / "f", O_RDONLY | O_NOATIME), EPERM);
    const int fd = MUST(open(dir / "f", O_RDONLY));
    EXPECT_ERRNO(fcntl(fd, F_SETFL, O_NOATIME), EPERM);
  });
}

GUEST_TEST(OpenEdge, DevicesAndSockets) {
  TempDir dir;
  MUST(mknod(dir / "s", S_IFSOCK | 0666, 0));
  EXPECT_ERRNO(open(dir / "s", O_RDONLY), ENXIO);
  EXPECT_OK(open(dir / "s", O_PATH));
  if (mknod(dir / "d", S_IFCHR | 0666, makedev(0, 77)) == 0) EXPECT_ERRNO(open(dir / "d", O_RDONLY), ENXIO);
}

GUEST_TEST(OpenEdge, DirectoriesCannotBeReadOrWritten) {
  const int fd = MUST(open("/tmp", O_RDONLY));
  char byte;
  EXPECT_ERRNO(read(fd, &byte, 1), EISDIR);
  EXPECT_ERRNO(pread(fd, &byte, 1, 0), EISDIR);
  EXPECT_ERRNO(write(fd, &byte, 1), EBADF);
  EXPECT_ERRNO(ftruncate(fd, 0), EINVAL);
  EXPECT_ERRNO(fallocate(fd, 0, 0, 1), EBADF);
  EXPECT_OK(fsync(fd));
}

GUEST_TEST(Tmpfile, CanBeLinkedLater) {
  TempDir dir;
  const int fd = open(dir.path(), O_TMPFILE | O_RDWR, 0640);
  if (fd < 0) Skip("no O_TMPFILE here");
  MUST(write(fd, "hidden", 6));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_nlink, 0);
  EXPECT_EQ(status.st_mode, S_IFREG | 0640);
  CheckpointHere();
  EXPECT_OK(linkat(AT_FDCWD, Str("/proc/self/fd/%d", fd), AT_FDCWD, dir / "f", AT_SYMLINK_FOLLOW));
  EXPECT_EQ(Stat(dir / "f").st_size, 6);
  EXPECT_EQ(Stat(dir / "f").st_nlink, 1);
}

GUEST_TEST(Tmpfile, ExclusiveOnesStayHidden) {
  TempDir dir;
  const int fd = open(dir.path(), O_TMPFILE | O_RDWR | O_EXCL, 0600);
  if (fd < 0) Skip("no O_TMPFILE here");
  EXPECT_ERRNO(linkat(AT_FDCWD, Str("/proc/self/fd/%d", fd), AT_FDCWD, dir / "f", AT_SYMLINK_FOLLOW), ENOENT);
}

GUEST_TEST(Tmpfile, Errors) {
  TempDir dir;
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(open(dir / "none", O_TMPFILE | O_RDWR, 0600), ENOENT);
  EXPECT_ERRNO(open(dir / "f", O_TMPFILE | O_RDWR, 0600), ENOTDIR);
  EXPECT_ERRNO(open(dir.path(), O_TMPFILE | O_RDWR | O_CREAT, 0600), EINVAL);
  AS_USER([&] { EXPECT_ERRNO(open(dir.path(), O_TMPFILE | O_RDWR, 0600), EACCES); });
}

GUEST_TEST(LinkEdge, DeletedFilesHaveNoNameToGive) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const int fd = MUST(open(dir / "f", O_RDONLY));
  MUST(unlink(dir / "f"));
  EXPECT_ERRNO(linkat(AT_FDCWD, Str("/proc/self/fd/%d", fd), AT_FDCWD, dir / "g", AT_SYMLINK_FOLLOW), ENOENT);
}

GUEST_TEST(LinkEdge, SymlinksAreLinkedThemselves) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(symlink("f", dir / "l"));
  EXPECT_OK(link(dir / "l", dir / "hard"));
  EXPECT(S_ISLNK(Stat(dir / "hard").st_mode));
  EXPECT_OK(linkat(AT_FDCWD, dir / "l", AT_FDCWD, dir / "followed", AT_SYMLINK_FOLLOW));
  EXPECT(S_ISREG(Stat(dir / "followed").st_mode));
  EXPECT_ERRNO(link(dir / "f", dir / "l"), EEXIST);
  EXPECT_ERRNO(link("/dev/null", dir / "x"), EXDEV);
}

GUEST_TEST(RenameEdge, NoReplaceAndExchange) {
  TempDir dir;
  WriteFile(dir / "a", "A");
  WriteFile(dir / "b", "BB");
  MUST(mkdir(dir / "d", 0755));
  EXPECT_ERRNO(Rename2(dir / "a", dir / "b", 1 /*NOREPLACE*/), EEXIST);
  EXPECT_OK(Rename2(dir / "a", dir / "c", 1));
  EXPECT_OK(Rename2(dir / "c", dir / "b", 2 /*EXCHANGE*/));
  EXPECT_EQ(Stat(dir / "b").st_size, 1);
  EXPECT_OK(Rename2(dir / "b", dir / "d", 2));  // A file and a folder may change places, too.
  CheckpointHere();
  EXPECT(S_ISDIR(Stat(dir / "b").st_mode));
  EXPECT(S_ISREG(Stat(dir / "d").st_mode));
  EXPECT_ERRNO(Rename2(dir / "b", dir / "none", 2), ENOENT);
  EXPECT_ERRNO(Rename2(dir / "b", dir / "d", 3), EINVAL);
  EXPECT_ERRNO(Rename2(dir / "b", dir / "d", 6), EINVAL);
}

GUEST_TEST(RenameEdge, FoldersIntoThemselves) {
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "a/b", 0755));
  EXPECT_ERRNO(rename(dir / "a", dir / "a/b/c"), EINVAL);
  EXPECT_ERRNO(rename(dir / "a", dir / "a/b"), EINVAL);
  EXPECT_ERRNO(rename(dir / "a/b", dir / "a"), ENOTEMPTY);
  EXPECT_ERRNO(Rename2(dir / "a", dir / "a/b", 2), EINVAL);
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(rename(dir / "f", dir / "a"), EISDIR);
  EXPECT_ERRNO(rename(dir / "a", dir / "f"), ENOTDIR);
  EXPECT_ERRNO(rename(dir / "f", "/dev/shm/guest-x"), EXDEV);
}

GUEST_TEST(RenameEdge, UpdatesDotDot) {
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  MUST(mkdir(dir / "a/moved", 0755));
  const ino_t b = Stat(dir / "b").st_ino;
  const int fd = MUST(open(dir / "a/moved", O_RDONLY));
  MUST(rename(dir / "a/moved", dir / "b/moved"));
  CheckpointHere();
  struct stat status = {};
  MUST(fstatat(fd, "..", &status, 0));
  EXPECT_EQ(status.st_ino, b);
  EXPECT_EQ(Stat(dir / "a").st_nlink + 1, Stat(dir / "b").st_nlink);
}

GUEST_TEST(RenameEdge, StickyFolder) {
  TempDir dir;
  MUST(mkdir(dir / "s", 01777));
  MUST(chmod(dir / "s", 01777));
  WriteFile(dir / "s/f", "", 0666);
  AS_USER([&] {
    EXPECT_ERRNO(rename(dir / "s/f", dir / "s/g"), EPERM);
    EXPECT_ERRNO(unlink(dir / "s/f"), EPERM);
    WriteFile(dir / "s/own", "");
    EXPECT_ERRNO(rename(dir / "s/own", dir / "s/f"), EPERM);
    EXPECT_OK(unlink(dir / "s/own"));
  });
}

GUEST_TEST(SizeLimit, WriteStopsAndSignals) {
  const int fd = TempFile();
  rlimit limit = {10, 10};
  MUST(setrlimit(RLIMIT_FSIZE, &limit));
  CountSignals(SIGXFSZ);
  EXPECT_EQ(write(fd, "0123456789abc", 13), 10);
  EXPECT_EQ(SignalCount(), 0);
  EXPECT_ERRNO(write(fd, "x", 1), EFBIG);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_ERRNO(pwrite(fd, "x", 1, 100), EFBIG);
  EXPECT_ERRNO(ftruncate(fd, 11), EFBIG);
  EXPECT_ERRNO(fallocate(fd, 0, 0, 11), EFBIG);
  EXPECT_OK(ftruncate(fd, 5));
  EXPECT_EQ(pwrite(fd, "x", 1, 9), 1);
  EXPECT_EQ(write(fd, "", 0), 0);
}

GUEST_TEST(SizeLimit, FilesInMemoryToo) {
  const int fd = MUST(memfd_create("test", 0));
  rlimit limit = {10, 10};
  MUST(setrlimit(RLIMIT_FSIZE, &limit));
  CountSignals(SIGXFSZ);
  EXPECT_EQ(write(fd, "0123456789abc", 13), 10);
  CheckpointHere();
  EXPECT_ERRNO(write(fd, "x", 1), EFBIG);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_ERRNO(ftruncate(fd, 11), EFBIG);
  EXPECT_EQ(SignalCount(), 2);
  EXPECT_ERRNO(fallocate(fd, 0, 0, 11), EFBIG);
  EXPECT_EQ(SignalCount(), 3);
  EXPECT_EQ(pwrite(fd, "x", 1, 9), 1);
  EXPECT_EQ(write(fd, "", 0), 0);
}

GUEST_TEST(SizeLimit, DefaultActionKills) {
  const pid_t pid = Fork([] {
    const int fd = TempFile();
    rlimit limit = {0, 0}, no_core = {0, 0};
    MUST(setrlimit(RLIMIT_CORE, &no_core));
    MUST(setrlimit(RLIMIT_FSIZE, &limit));
    write(fd, "x", 1);
  });
  EXPECT_KILLED(WaitStatus(pid), SIGXFSZ);
}

GUEST_TEST(SeekEdge, EndsOfTheRange) {
  const int fd = TempFile("abc");
  EXPECT_ERRNO(lseek(fd, INT64_MIN, SEEK_SET), EINVAL);
  EXPECT_ERRNO(lseek(fd, -4, SEEK_END), EINVAL);
  EXPECT_ERRNO(lseek(fd, -1, SEEK_CUR), EINVAL);
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 0);
  EXPECT_ERRNO(lseek(fd, 0, 5), EINVAL);
  EXPECT_ERRNO(lseek(fd, 3, SEEK_DATA), ENXIO);
  EXPECT_ERRNO(lseek(fd, -1, SEEK_HOLE), ENXIO);
  EXPECT_EQ(lseek(fd, 0, SEEK_HOLE), 3);
  EXPECT_EQ(lseek(fd, 1, SEEK_DATA), 1);
  Pipe p;
  EXPECT_ERRNO(lseek(p.r, 0, SEEK_CUR), ESPIPE);
  EXPECT_ERRNO(lseek(MUST(open("/tmp", O_PATH)), 0, SEEK_SET), EBADF);
}

GUEST_TEST(ReadEdge, SizesAndDirections) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  const int reader = MUST(open(dir / "f", O_RDONLY)), writer = MUST(open(dir / "f", O_WRONLY));
  char text[16];
  EXPECT_ERRNO(read(writer, text, 1), EBADF);
  EXPECT_ERRNO(write(reader, text, 1), EBADF);
  EXPECT_ERRNO(pread(writer, text, 1, 0), EBADF);
  EXPECT_ERRNO(pwrite(reader, text, 1, 0), EBADF);
  EXPECT_EQ(read(reader, text, 0), 0);
  EXPECT_EQ(read(reader, kBad, 0), 0);  // Nothing is touched.
  EXPECT_ERRNO(read(reader, reinterpret_cast<void*>(kKernelAddress), 4), EFAULT);
  EXPECT_ERRNO(write(writer, reinterpret_cast<void*>(kKernelAddress), 4), EFAULT);
  EXPECT_ERRNO(Call(SYS_read, reader, text, -1L), EFAULT);  // Larger than the address space.
  EXPECT_EQ(lseek(reader, 0, SEEK_CUR), 0);
  EXPECT_ERRNO(pread(reader, text, 1, INT64_MIN), EINVAL);
  EXPECT_EQ(pread(reader, text, 4, INT64_MAX - 10), 0);
}

GUEST_TEST(VectorEdge, CountsAndBadOnes) {
  const int fd = TempFile("0123456789");
  char a[4] = {}, b[4] = {};
  iovec vector[3] = {{a, 3}, {reinterpret_cast<void*>(kBadAddress), 3}, {b, 3}};
  EXPECT_EQ(readv(fd, vector, 3), 3);  // Up to the bad one.
  EXPECT_EQ(lseek(fd, 0, SEEK_CUR), 3);
  EXPECT_EQ(writev(fd, vector, 3), 3);
  vector[1] = {nullptr, 0};
  MUST(lseek(fd, 0, SEEK_SET));
  EXPECT_EQ(readv(fd, vector, 3), 6);
  EXPECT_STREQ(b, "012");
  vector[0].iov_len = SIZE_MAX;
  EXPECT_ERRNO(readv(fd, vector, 1), EINVAL);
  EXPECT_ERRNO(preadv(fd, vector + 1, 1, -1), EINVAL);
  EXPECT_ERRNO(writev(fd, kBad, 1), EFAULT);
  EXPECT_ERRNO(pwritev(fd, vector, 1025, 0), EINVAL);
  Pipe p;
  EXPECT_ERRNO(preadv(p.r, vector, 1, 0), ESPIPE);
  EXPECT_ERRNO(pwritev(p.w, vector, 1, 0), ESPIPE);
}

GUEST_TEST(VectorEdge, FlagsOfTheSecondVersion) {
  const int fd = TempFile("0123456789");
  char text[4] = {};
  iovec vector = {text, 3};
  EXPECT_EQ(preadv2(fd, &vector, 1, 0, RWF_HIPRI), 3);
  const ssize_t quick = preadv2(fd, &vector, 1, 0, RWF_NOWAIT);
  EXPECT(quick == 3 || (quick == -1 && (errno == EAGAIN || errno == EOPNOTSUPP)));
  EXPECT_EQ(pwritev2(fd, &vector, 1, 0, RWF_SYNC), 3);
  EXPECT_EQ(pwritev2(fd, &vector, 1, 0, RWF_DSYNC), 3);
  EXPECT_ERRNO(preadv2(fd, &vector, 1, -2, 0), EINVAL);
  EXPECT_EQ(pwritev2(fd, &vector, 1, -1, RWF_APPEND), 3);
  EXPECT_EQ(Size(fd), 13);
}

GUEST_TEST(FallocateEdge, ModesAndErrors) {
  const int fd = TempFile("0123456789");
  EXPECT_ERRNO(fallocate(fd, 0x1000, 0, 1), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE, 0, 1), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(fd, 0, -1, 1), EINVAL);
  EXPECT_ERRNO(fallocate(fd, 0, 1, -1), EINVAL);
  EXPECT_ERRNO(fallocate(fd, 0, INT64_MAX, 1), EFBIG);
  EXPECT_ERRNO(fallocate(999, 0, 0, 1), EBADF);
  TempDir dir;
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(fallocate(MUST(open(dir / "f", O_RDONLY)), 0, 0, 1), EBADF);
  EXPECT_ERRNO(fallocate(MUST(open("/dev/null", O_RDWR)), 0, 0, 1), ENODEV);
}

GUEST_TEST(FallocateEdge, ZeroRange) {
  const int fd = TempFile("0123456789");
  if (fallocate(fd, FALLOC_FL_ZERO_RANGE, 2, 3) < 0 && errno == EOPNOTSUPP) Skip("no FALLOC_FL_ZERO_RANGE here");
  char text[10];
  EXPECT_EQ(pread(fd, text, 10, 0), 10);
  EXPECT_EQ(memcmp(text, "01\0\0\00056789", 10), 0);
  EXPECT_OK(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 8, 10));
  EXPECT_EQ(Size(fd), 10);
  EXPECT_OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 8, 10));
  EXPECT_EQ(Size(fd), 18);
}

GUEST_TEST(Getdents, PositionsCanBeGoneBackTo) {
  TempDir dir;
  for (int i = 0; i < 50; ++i) WriteFile(dir / Str("file%02d", i), "");
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  alignas(8) char buffer[512];
  int64_t after_first = 0;
  char second[64] = {};
  const int length = MUST(Call(SYS_getdents64, fd, buffer, sizeof(buffer)));
  const auto* first_entry = reinterpret_cast<Entry*>(buffer);
  const auto* second_entry = reinterpret_cast<Entry*>(buffer + first_entry->length);
  ASSERT_GT(length, first_entry->length + second_entry->length);
  after_first = first_entry->offset;
  strcpy(second, second_entry->name);
  CheckpointHere();
  MUST(lseek(fd, after_first, SEEK_SET));
  MUST(Call(SYS_getdents64, fd, buffer, sizeof(buffer)));
  EXPECT_STREQ(reinterpret_cast<Entry*>(buffer)->name, second);
}

GUEST_TEST(Getdents, EveryNameOnceWhileReadingInSmallSteps) {
  TempDir dir;
  for (int i = 0; i < 100; ++i) WriteFile(dir / Str("file%02d", i), "");
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  alignas(8) char buffer[128];
  int seen[100] = {};
  int calls = 0;
  for (int length; (length = MUST(Call(SYS_getdents64, fd, buffer, sizeof(buffer)))) > 0; ++calls) {
    for (int at = 0; at < length;) {
      const auto* entry = reinterpret_cast<Entry*>(buffer + at);
      int number = -1;
      if (sscanf(entry->name, "file%d", &number) == 1) {
        ++seen[number];
        EXPECT_EQ(entry->kind, DT_REG);
      }
      at += entry->length;
    }
    if (calls == 10) unlink(dir / "file99");  // May or may not be told; the others have to be.
  }
  EXPECT_GT(calls, 20);
  for (int i = 0; i < 99; ++i) EXPECT_EQ(seen[i], 1);
  EXPECT_LE(seen[99], 1);
}

GUEST_TEST(Getdents, DeletedFolder) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  const int fd = MUST(open(dir / "d", O_RDONLY | O_DIRECTORY));
  MUST(rmdir(dir / "d"));
  char buffer[256];
  EXPECT_ERRNO(Call(SYS_getdents64, fd, buffer, sizeof(buffer)), ENOENT);
  EXPECT_ERRNO(openat(fd, "x", O_CREAT | O_WRONLY, 0644), ENOENT);
  EXPECT_ERRNO(mkdirat(fd, "x", 0755), ENOENT);
  EXPECT_ERRNO(openat(fd, "..", O_RDONLY) < 0 ? -1 : (errno = ENOENT, -1), ENOENT);
}

GUEST_TEST(StatxCall, MasksAndTypes) {
  TempDir dir;
  WriteFile(dir / "f", "12345");
  MUST(symlink("f", dir / "l"));
  struct statx told = {};
  MUST(Call(SYS_statx, AT_FDCWD, (dir / "f").c_str(), 0, 0, &told));  // Asked for nothing: what is free is told.
  MUST(Call(SYS_statx, AT_FDCWD, (dir / "l").c_str(), AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &told));
  EXPECT_EQ(told.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT(S_ISLNK(told.stx_mode));
  const int fd = MUST(open(dir / "f", O_RDONLY));
  MUST(Call(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_ALL | STATX_MNT_ID, &told));
  EXPECT_EQ(told.stx_size, 5);
  EXPECT_EQ(told.stx_nlink, 1);
  EXPECT_EQ(told.stx_mask & STATX_MNT_ID, STATX_MNT_ID);
  EXPECT_GT(told.stx_blksize, 0);
  EXPECT_ERRNO(Call(SYS_statx, AT_FDCWD, (dir / "f").c_str(), 0, STATX_ALL, kBadAddress), EFAULT);
  MUST(Call(SYS_statx, AT_FDCWD, "/dev/null", 0, STATX_BASIC_STATS, &told));
  EXPECT_EQ(told.stx_rdev_major, 1);
  EXPECT_EQ(told.stx_rdev_minor, 3);
  MUST(Call(SYS_statx, AT_FDCWD, "/", 0, STATX_BASIC_STATS, &told));
  EXPECT_EQ(told.stx_attributes & STATX_ATTR_MOUNT_ROOT, STATX_ATTR_MOUNT_ROOT);
}

GUEST_TEST(FileTimesEdge, NanosecondRules) {
  TempDir dir;
  WriteFile(dir / "f", "", 0666);
  timespec times[2] = {{1, 1'000'000'000}, {2, 0}};
  EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", times, 0), EINVAL);
  times[0].tv_nsec = -1;
  EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", times, 0), EINVAL);
  times[0] = {-5, 999'999'999};  // Before 1970.
  EXPECT_OK(utimensat(AT_FDCWD, dir / "f", times, 0));
  EXPECT_EQ(Stat(dir / "f").st_atim.tv_sec, -5);
  times[0] = times[1] = {0, UTIME_OMIT};
  EXPECT_OK(utimensat(AT_FDCWD, dir / "f", times, 0));
  EXPECT_OK(Call(SYS_utimensat, AT_FDCWD, nullptr, times, 0));  // Nothing to do: nobody looks at the path.
  MUST(chmod(dir / "f", 0666));
  AS_USER([&] {
    timespec fixed[2] = {{1, 0}, {1, 0}};
    EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", fixed, 0), EPERM);
    EXPECT_OK(utimensat(AT_FDCWD, dir / "f", nullptr, 0));  // Who may write may touch.
    fixed[0].tv_nsec = UTIME_NOW;
    EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", fixed, 0), EPERM);
  });
}

GUEST_TEST(ModeEdge, SpecialBits) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(chmod(dir / "f", 07777));
  EXPECT_EQ(Stat(dir / "f").st_mode & 07777, 07777);
  MUST(chmod(dir / "f", 0170000 | 0640));  // Bits of the kind are ignored.
  EXPECT_EQ(Stat(dir / "f").st_mode, S_IFREG | 0640);
  MUST(umask(077));
  EXPECT_EQ(umask(0123456), 077);
  EXPECT_EQ(umask(022), 0123456 & 0777);
  MUST(mkdir(dir / "d", 01777));
  EXPECT_EQ(Stat(dir / "d").st_mode & 07777, 01755);
}

GUEST_TEST(ModeEdge, ImmutableEndsOfFolders) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  WriteFile(dir / "d/f", "");
  EXPECT_ERRNO(rmdir(dir / "d"), ENOTEMPTY);
  EXPECT_ERRNO(unlink(dir / "d"), EISDIR);
  EXPECT_ERRNO(rmdir(dir / "d/f"), ENOTDIR);
  EXPECT_ERRNO(Call(SYS_unlinkat, AT_FDCWD, (dir / "d/f").c_str(), AT_REMOVEDIR), ENOTDIR);
  MUST(chmod(dir / "d", 0555));
  MUST(chown(dir / "d", 1000, 1000));
  AS_USER([&] {
    EXPECT_ERRNO(unlink(dir / "d/f"), EACCES);
    EXPECT_ERRNO(open(dir / "d/new", O_CREAT | O_WRONLY, 0644), EACCES);
    EXPECT_ERRNO(mkdir(dir / "d/new", 0755), EACCES);
    EXPECT_ERRNO(symlink("x", dir / "d/new"), EACCES);
    EXPECT_ERRNO(mknod(dir / "d/new", S_IFIFO | 0600, 0), EACCES);
    EXPECT_ERRNO(rename(dir / "d/f", dir / "d/g"), EACCES);
  });
}

GUEST_TEST(StatfsCall, TellsTheKindAndItsFlags) {
  struct statfs told = {};
  MUST(statfs("/proc", &told));
  EXPECT_EQ(told.f_type, 0x9fa0);
  EXPECT_EQ(told.f_namelen, 255);
  MUST(statfs("/dev/shm", &told));
  EXPECT_EQ(told.f_type, 0x01021994);
  EXPECT_GE(told.f_blocks, told.f_bfree);
  EXPECT_GE(told.f_bfree, told.f_bavail);
  const int fd = TempFile();
  EXPECT_OK(fstatfs(fd, &told));
  EXPECT_EQ(told.f_namelen, 255);
  EXPECT_ERRNO(fstatfs(999, &told), EBADF);
  EXPECT_ERRNO(fstatfs(fd, kBad), EFAULT);
  Pipe p;
  EXPECT_OK(fstatfs(p.r, &told));
  EXPECT_EQ(told.f_type, 0x50495045);
}

GUEST_TEST(Cwd, LongAndDeleted) {
  TempDir dir;
  char text[PATH_MAX];
  MUST(chdir(dir.path()));
  const int length = MUST(Call(SYS_getcwd, text, sizeof(text)));
  EXPECT_EQ(length, static_cast<int>(strlen(dir.path())) + 1);  // With its terminator.
  EXPECT_ERRNO(Call(SYS_getcwd, text, 3), ERANGE);
  EXPECT_ERRNO(Call(SYS_getcwd, kBadAddress, 100), EFAULT);
  MUST(mkdir("gone", 0755));
  MUST(chdir("gone"));
  MUST(rmdir(dir / "gone"));
  CheckpointHere();
  EXPECT_ERRNO(Call(SYS_getcwd, text, sizeof(text)), ENOENT);
  EXPECT_ERRNO(open("new", O_CREAT | O_WRONLY, 0644), ENOENT);
  EXPECT_OK(chdir(".."));
  EXPECT_ERRNO(fchdir(TempFile()), ENOTDIR);
  EXPECT_ERRNO(fchdir(999), EBADF);
}
