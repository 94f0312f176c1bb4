// Who may do what to a file, and what a file tells about itself: modes, owners, times, statx,
// extended attributes.
#include <linux/stat.h>
#include <sys/statfs.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct stat Stat(const char* path) {
  struct stat status = {};
  MUST(lstat(path, &status));
  return status;
}

mode_t Mode(const char* path) { return Stat(path).st_mode & 07777; }

template <typename F>
void AsUser(F body, uid_t uid = 1000) {
  if (geteuid() != 0) Skip("needs root to become a user");
  JOIN_OK(Fork([&] {
    MUST(syscall(SYS_setgroups, 0, nullptr));
    MUST(setresgid(uid, uid, uid));
    MUST(setresuid(uid, uid, uid));
    body();
  }));
}

void Give(const char* path, uid_t uid, gid_t gid, mode_t mode) {
  MUST(chown(path, uid, gid));
  MUST(chmod(path, mode));
}

int64_t Ns(const statx_timestamp& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }
int64_t Value(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

}  // namespace

GUEST_TEST(Access, OwnerGroupOthers) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 1000, 2000, 0460);
  AsUser([&] {  // The owner: only the owner's bits count.
    EXPECT_OK(open(dir / "f", O_RDONLY));
    EXPECT_ERRNO(open(dir / "f", O_WRONLY), EACCES);
  });
  AsUser([&] { EXPECT_OK(open(dir / "f", O_RDWR)); }, 2000);
  AsUser([&] { EXPECT_ERRNO(open(dir / "f", O_RDONLY), EACCES); }, 3000);
}

GUEST_TEST(Access, SearchBitOfFolders) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  WriteFile(dir / "d/f", "x");
  Give(dir / "d", 0, 0, 0744);
  AsUser([&] {
    EXPECT_ERRNO(open(dir / "d/f", O_RDONLY), EACCES);
    EXPECT_OK(open(dir / "d", O_RDONLY));
  });
  Give(dir / "d", 0, 0, 0711);
  AsUser([&] {
    EXPECT_OK(open(dir / "d/f", O_RDONLY));
    EXPECT_ERRNO(open(dir / "d", O_RDONLY), EACCES);
    EXPECT_ERRNO(unlink(dir / "d/f"), EACCES);
    EXPECT_ERRNO(open(dir / "d/new", O_CREAT | O_WRONLY, 0600), EACCES);
  });
}

GUEST_TEST(Access, AccessUsesTheRealUid) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 0, 0, 0600);
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 0, 0));
    EXPECT_OK(open(dir / "f", O_RDONLY));
    EXPECT_ERRNO(access(dir / "f", R_OK), EACCES);
    EXPECT_OK(faccessat(AT_FDCWD, dir / "f", R_OK, AT_EACCESS));
  }));
  EXPECT_ERRNO(access(dir / "f", X_OK), EACCES);  // Even for root: nobody may execute it.
  EXPECT_ERRNO(access(dir / "f", 8), EINVAL);
  EXPECT_ERRNO(access(dir / "none", F_OK), ENOENT);
}

GUEST_TEST(Access, StickyFolder) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  Give(dir.path(), 0, 0, 01777);
  WriteFile(dir / "theirs", "x");
  AsUser([&] {
    EXPECT_ERRNO(unlink(dir / "theirs"), EPERM);
    EXPECT_ERRNO(rename(dir / "theirs", dir / "mine"), EPERM);
    WriteFile(dir / "own", "x");
    EXPECT_OK(unlink(dir / "own"));
  });
}

GUEST_TEST(Chmod, OnlyTheOwner) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 1000, 1000, 0600);
  AsUser([&] {
    EXPECT_OK(chmod(dir / "f", 0640));
    EXPECT_OK(chmod(dir / "f", 04711));
  });
  EXPECT_EQ(Mode(dir / "f"), 04711);
  AsUser([&] { EXPECT_ERRNO(chmod(dir / "f", 0600), EPERM); }, 2000);
  const int fd = MUST(open(dir / "f", O_RDONLY));
  MUST(fchmod(fd, 0400));
  EXPECT_EQ(Mode(dir / "f"), 0400);
}

GUEST_TEST(Chmod, ForeignGroupLosesSetgid) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 1000, 2000, 0600);
  AsUser([&] { EXPECT_OK(chmod(dir / "f", 02711)); });
  EXPECT_EQ(Mode(dir / "f"), 0711);
}

GUEST_TEST(Chown, ClearsSetuid) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  MUST(chmod(dir / "f", 06755));
  MUST(chown(dir / "f", 1000, 1000));
  EXPECT_EQ(Mode(dir / "f"), 0755);
  MUST(chmod(dir / "f", 02745));
  MUST(chown(dir / "f", 2000, static_cast<gid_t>(-1)));
  EXPECT_EQ(Mode(dir / "f"),
            02745);  // Without group execute it means locking, not privilege: kept.
  EXPECT_EQ(Stat(dir / "f").st_gid, 1000);
}

GUEST_TEST(Chown, UserMayGiveToOwnGroupsOnly) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  MUST(chown(dir / "f", 1000, 1000));
  JOIN_OK(Fork([&] {
    const gid_t groups[] = {1000, 77};
    MUST(syscall(SYS_setgroups, 2, groups));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_OK(chown(dir / "f", static_cast<uid_t>(-1), 77));
    EXPECT_ERRNO(chown(dir / "f", static_cast<uid_t>(-1), 78), EPERM);
    EXPECT_ERRNO(chown(dir / "f", 1001, static_cast<gid_t>(-1)), EPERM);
  }));
  EXPECT_EQ(Stat(dir / "f").st_gid, 77);
}

GUEST_TEST(Chown, OfLinks) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  MUST(symlink("f", dir / "s"));
  MUST(lchown(dir / "s", 5, 6));
  EXPECT_EQ(Stat(dir / "s").st_uid, 5);
  EXPECT_EQ(Stat(dir / "f").st_uid, 0);
  MUST(chown(dir / "s", 7, 8));
  EXPECT_EQ(Stat(dir / "f").st_uid, 7);
}

GUEST_TEST(Write, ClearsSetuid) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 1000, 1000, 06777);
  AsUser([&] {
    const int fd = MUST(open(dir / "f", O_WRONLY));
    EXPECT_EQ(write(fd, "y", 1), 1);
  });
  EXPECT_EQ(Mode(dir / "f"), 0777);
}

GUEST_TEST(SetgidFolder, PassesItsGroupOn) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  Give(dir.path(), 0, 555, 02777);
  WriteFile(dir / "f", "x");
  EXPECT_EQ(Stat(dir / "f").st_gid, 555);
  MUST(mkdir(dir / "d", 0755));
  EXPECT_EQ(Stat(dir / "d").st_gid, 555);
  EXPECT_EQ(Mode(dir / "d"), 02755);
}

GUEST_TEST(FileTimes, WritesAdvanceThem) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  const timespec past[2] = {{1000, 0}, {2000, 5}};
  MUST(utimensat(AT_FDCWD, dir / "f", past, 0));
  CheckpointHere();
  EXPECT_EQ(Stat(dir / "f").st_atime, 1000);
  EXPECT_EQ(Value(Stat(dir / "f").st_mtim), 2000'000'000'005);
  EXPECT_GT(Stat(dir / "f").st_ctime, 1'000'000'000);
  WriteFile(dir / "f", "y");
  EXPECT_GT(Stat(dir / "f").st_mtime, 1'000'000'000);
  EXPECT_EQ(Stat(dir / "f").st_atime, 1000);
}

GUEST_TEST(FileTimes, NowAndOmit) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  const timespec past[2] = {{1000, 0}, {2000, 0}};
  MUST(utimensat(AT_FDCWD, dir / "f", past, 0));
  const timespec mixed[2] = {{0, UTIME_OMIT}, {0, UTIME_NOW}};
  MUST(utimensat(AT_FDCWD, dir / "f", mixed, 0));
  EXPECT_EQ(Stat(dir / "f").st_atime, 1000);
  EXPECT_GT(Stat(dir / "f").st_mtime, 1'000'000'000);
  const timespec bad[2] = {{0, 1'000'000'000}, {0, 0}};
  EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", bad, 0), EINVAL);
  EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "none", past, 0), ENOENT);
}

GUEST_TEST(FileTimes, FolderChangesWithItsEntries) {
  TempDir dir;
  const timespec past[2] = {{1000, 0}, {2000, 0}};
  MUST(utimensat(AT_FDCWD, dir.path(), past, 0));
  WriteFile(dir / "f", "");
  EXPECT_GT(Stat(dir.path()).st_mtime, 1'000'000'000);
  MUST(utimensat(AT_FDCWD, dir.path(), past, 0));
  MUST(unlink(dir / "f"));
  EXPECT_GT(Stat(dir.path()).st_mtime, 1'000'000'000);
}

GUEST_TEST(FileTimes, WhoMaySet) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "f", "x");
  Give(dir / "f", 1000, 1000, 0666);
  const timespec past[2] = {{1000, 0}, {2000, 0}};
  AsUser(
      [&] {
        EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", past, 0), EPERM);
        EXPECT_OK(utimensat(AT_FDCWD, dir / "f", nullptr, 0));  // To now: whoever may write.
      },
      2000);
}

GUEST_TEST(Statx, AgreesWithStat) {
  TempDir dir;
  WriteFile(dir / "f", "12345");
  struct statx extended = {};
  MUST(syscall(SYS_statx, AT_FDCWD, (dir / "f").c_str(), 0, STATX_BASIC_STATS | STATX_BTIME, &extended));
  const struct stat status = Stat(dir / "f");
  EXPECT_EQ(extended.stx_ino, status.st_ino);
  EXPECT_EQ(extended.stx_size, 5);
  EXPECT_EQ(extended.stx_mode, status.st_mode);
  EXPECT_EQ(extended.stx_nlink, 1);
  EXPECT_EQ(extended.stx_uid, status.st_uid);
  EXPECT_EQ(Ns(extended.stx_mtime), Value(status.st_mtim));
  EXPECT_EQ(extended.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
  EXPECT_ERRNO(syscall(SYS_statx, AT_FDCWD, "", 0, STATX_SIZE, &extended), ENOENT);
  const int fd = MUST(open(dir / "f", O_RDONLY));
  EXPECT_OK(syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_SIZE, &extended));
  EXPECT_ERRNO(syscall(SYS_statx, fd, "", 0x80000, STATX_SIZE, &extended), EINVAL);
}

GUEST_TEST(Statx, StatBlocksAndSizes) {
  const int fd = TempFile("some bytes");
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_GE(status.st_blksize, 512);
  EXPECT_GE(status.st_blocks, 0);
  struct statfs fs = {};
  MUST(fstatfs(fd, &fs));
  EXPECT_GT(fs.f_bsize, 0);
  EXPECT_EQ(fs.f_namelen, 255);
  MUST(statfs("/proc", &fs));
  EXPECT_EQ(fs.f_type, 0x9fa0);
}

GUEST_TEST(Xattr, UserAttributes) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  if (setxattr(dir / "f", "user.color", "green", 5, 0) < 0 && errno == EOPNOTSUPP) Skip("no extended attributes here");
  char value[16] = {};
  CheckpointHere();
  EXPECT_EQ(getxattr(dir / "f", "user.color", value, sizeof(value)), 5);
  EXPECT_STREQ(value, "green");
  EXPECT_EQ(getxattr(dir / "f", "user.color", nullptr, 0), 5);
  EXPECT_ERRNO(getxattr(dir / "f", "user.color", value, 2), ERANGE);
  EXPECT_ERRNO(setxattr(dir / "f", "user.color", "red", 3, XATTR_CREATE), EEXIST);
  EXPECT_ERRNO(setxattr(dir / "f", "user.none", "red", 3, XATTR_REPLACE), ENODATA);
  char names[64] = {};
  EXPECT_EQ(listxattr(dir / "f", names, sizeof(names)), sizeof("user.color"));
  EXPECT_OK(removexattr(dir / "f", "user.color"));
  EXPECT_ERRNO(getxattr(dir / "f", "user.color", value, 16), ENODATA);
  EXPECT_ERRNO(removexattr(dir / "f", "user.color"), ENODATA);
}

GUEST_TEST(Xattr, Rules) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  EXPECT_ERRNO(setxattr(dir / "f", "nonsense", "x", 1, 0), EOPNOTSUPP);
  MUST(symlink("f", dir / "s"));
  EXPECT_ERRNO(lsetxattr(dir / "s", "user.a", "x", 1, 0), EPERM);
  EXPECT_ERRNO(setxattr(dir / "none", "user.a", "x", 1, 0), ENOENT);
}
