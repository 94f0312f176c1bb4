// What every call that takes a path says about bad ones: names and paths that are too long, links that never end, files
// used as folders, folders that may not be searched, bad pointers, empty strings, folders given as descriptors.
#include <limits.h>
#include <linux/stat.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A folder with all kinds of bad paths in it.
struct Bad {
  Bad() : file(dir / "file"), through(dir / "file/x"), loop(dir / "loop"), missing(dir / "none/x"), closed(dir / "closed/x") {
    WriteFile(file, "content", 0666);
    MUST(symlink("loop", loop));
    MUST(mkdir(dir / "closed", 0700));
    WriteFile(closed, "hidden", 0666);
    char name[NAME_MAX + 2];
    memset(name, 'n', sizeof(name));
    name[NAME_MAX + 1] = '\0';
    snprintf(long_name, sizeof(long_name), "%s/%s", dir.path(), name);
    for (char* at = long_path; at < long_path + PATH_MAX; at += 2) memcpy(at, "./", 2);  // PATH_MAX counts the terminator.
    long_path[PATH_MAX] = '\0';
  }
  TempDir dir;
  Str file, through, loop, missing, closed;
  char long_name[600];
  char long_path[PATH_MAX + 1];
};

// `call` takes a path and does what it does with it; it follows links where `follows` says so.
template <typename F>
void Probe(F call, bool follows = true) {
  static Bad bad;
  EXPECT_ERRNO(call(bad.long_name), ENAMETOOLONG);
  EXPECT_ERRNO(call(bad.long_path), ENAMETOOLONG);
  EXPECT_ERRNO(call(bad.through.c_str()), ENOTDIR);
  EXPECT_ERRNO(call(bad.missing.c_str()), ENOENT);
  EXPECT_ERRNO(call(static_cast<const char*>(kBad)), EFAULT);
  EXPECT_ERRNO(call(reinterpret_cast<const char*>(kKernelAddress)), EFAULT);
  EXPECT_ERRNO(call(""), ENOENT);
  EXPECT_ERRNO(call(Str("%s/deeper", bad.loop.c_str()).c_str()), ELOOP);
  if (follows) EXPECT_ERRNO(call(bad.loop.c_str()), ELOOP);
  AS_USER([&] { EXPECT_ERRNO(call(bad.closed.c_str()), EACCES); });
  // A string that runs off its page.
  char* memory = Pages(2);
  MUST(mprotect(memory + kPage, kPage, PROT_NONE));
  memset(memory, '/', kPage);
  EXPECT_ERRNO(call(static_cast<const char*>(memory + kPage - 4)), EFAULT);
  munmap(memory, 2 * kPage);
}

}  // namespace

GUEST_TEST(PathErrors, Open) {
  Probe([](const char* path) { return open(path, O_RDONLY); });
}
GUEST_TEST(PathErrors, OpenForCreating) {
  Probe([](const char* path) { return open(path, O_RDWR | O_CREAT, 0644); });
}
GUEST_TEST(PathErrors, OpenOfThePathOnly) {
  Probe([](const char* path) { return open(path, O_PATH); });
}
GUEST_TEST(PathErrors, OpenatTwo) {
  struct {
    uint64_t flags, mode, resolve;
  } how = {};
  Probe([&](const char* path) { return Call(437, AT_FDCWD, path, &how, sizeof(how)); });
}
GUEST_TEST(PathErrors, Stat) {
  struct stat status;
  Probe([&](const char* path) { return stat(path, &status); });
}
GUEST_TEST(PathErrors, Lstat) {
  struct stat status;
  Probe([&](const char* path) { return lstat(path, &status); }, false);
}
GUEST_TEST(PathErrors, Statx) {
  struct statx status;
  Probe([&](const char* path) { return Call(SYS_statx, AT_FDCWD, path, 0, STATX_BASIC_STATS, &status); });
}
GUEST_TEST(PathErrors, Statfs) {
  struct statfs status;
  Probe([&](const char* path) { return statfs(path, &status); });
}
GUEST_TEST(PathErrors, Access) {
  Probe([](const char* path) { return access(path, F_OK); });
}
GUEST_TEST(PathErrors, Faccessat) {
  Probe([](const char* path) { return Call(SYS_faccessat, AT_FDCWD, path, R_OK); });
  EXPECT_ERRNO(Call(SYS_faccessat, AT_FDCWD, "/tmp", 8), EINVAL);
}
GUEST_TEST(PathErrors, Chdir) {
  Probe([](const char* path) { return chdir(path); });
}
GUEST_TEST(PathErrors, ChrootOf) {
  Bad bad;
  EXPECT_ERRNO(chroot(bad.long_name), ENAMETOOLONG);
  EXPECT_ERRNO(chroot(bad.loop), ELOOP);
  EXPECT_ERRNO(chroot(bad.file), ENOTDIR);
  EXPECT_ERRNO(chroot(bad.missing), ENOENT);
  EXPECT_ERRNO(chroot(kBad), EFAULT);
  AS_USER([&] { EXPECT_ERRNO(chroot(bad.dir.path()), EPERM); });
}
GUEST_TEST(PathErrors, Chmod) {
  Probe([](const char* path) { return chmod(path, 0644); });
}
GUEST_TEST(PathErrors, Chown) {
  Probe([](const char* path) { return chown(path, -1, -1); });
}
GUEST_TEST(PathErrors, Lchown) {
  Probe([](const char* path) { return lchown(path, -1, -1); }, false);
}
GUEST_TEST(PathErrors, Truncate) {
  Probe([](const char* path) { return truncate(path, 1); });
}
GUEST_TEST(PathErrors, Utimensat) {
  Probe([](const char* path) { return utimensat(AT_FDCWD, path, nullptr, 0); });
}
GUEST_TEST(PathErrors, Readlink) {
  char text[16];
  Probe([&](const char* path) { return readlink(path, text, sizeof(text)); }, false);
}
GUEST_TEST(PathErrors, Mkdir) {
  Probe([](const char* path) { return mkdir(path, 0755); }, false);
}
GUEST_TEST(PathErrors, Mknod) {
  Probe([](const char* path) { return mknod(path, S_IFIFO | 0644, 0); }, false);
}
GUEST_TEST(PathErrors, Rmdir) {
  Probe([](const char* path) { return rmdir(path); }, false);
}
GUEST_TEST(PathErrors, Unlink) {
  Probe([](const char* path) { return unlink(path); }, false);
}
GUEST_TEST(PathErrors, SymlinksPlace) {
  Probe([](const char* path) { return symlink("target", path); }, false);
}
GUEST_TEST(PathErrors, LinkFrom) {
  TempDir dir;
  const Str other = dir / "other";
  Probe([&](const char* path) { return link(path, other); }, false);
}
GUEST_TEST(PathErrors, LinkTo) {
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  WriteFile(dir / "f", "", 0666);
  const Str file = dir / "f";
  Probe([&](const char* path) { return link(file, path); }, false);
}
GUEST_TEST(PathErrors, RenameFrom) {
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  const Str other = dir / "other";
  Probe([&](const char* path) { return rename(path, other); }, false);
}
GUEST_TEST(PathErrors, RenameTo) {
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  WriteFile(dir / "f", "", 0666);
  const Str file = dir / "f";
  Probe([&](const char* path) { return rename(file, path); }, false);
}
GUEST_TEST(PathErrors, Execve) {
  char* const arguments[] = {nullptr};
  Probe([&](const char* path) { return execve(path, arguments, arguments); });
}
GUEST_TEST(PathErrors, Setxattr) {
  Probe([](const char* path) { return setxattr(path, "user.a", "x", 1, 0); });
}
GUEST_TEST(PathErrors, Getxattr) {
  Probe([](const char* path) { return getxattr(path, "user.a", nullptr, 0); });
}
GUEST_TEST(PathErrors, Listxattr) {
  Probe([](const char* path) { return listxattr(path, nullptr, 0); });
}
GUEST_TEST(PathErrors, InotifyWatch) {
  const int fd = MUST(inotify_init1(0));
  Probe([&](const char* path) { return inotify_add_watch(fd, path, IN_CREATE); });
}
GUEST_TEST(PathErrors, Mount) {
  TempDir dir;
  Bad bad;
  EXPECT_ERRNO(mount("none", bad.long_name, "tmpfs", 0, nullptr), ENAMETOOLONG);
  EXPECT_ERRNO(mount("none", bad.missing, "tmpfs", 0, nullptr), ENOENT);
  EXPECT_ERRNO(mount("none", bad.loop, "tmpfs", 0, nullptr), ELOOP);
  EXPECT_ERRNO(mount("none", kBad, "tmpfs", 0, nullptr), EFAULT);
  EXPECT_ERRNO(mount("none", bad.file, "tmpfs", 0, nullptr), ENOTDIR);
  EXPECT_ERRNO(umount(bad.missing), ENOENT);
  EXPECT_ERRNO(umount(bad.dir.path()), EINVAL);
  EXPECT_ERRNO(umount(kBad), EFAULT);
  AS_USER([&] { EXPECT_ERRNO(umount(bad.dir.path()), EPERM); });
}

GUEST_TEST(AtCalls, DescriptorsOfTheWrongKind) {
  Bad bad;
  const int file = MUST(open(bad.file, O_RDONLY));
  struct stat status;
  char text[8];
  struct Try {
    int fd, error;
  };
  for (const auto [fd, error] : {Try{file, ENOTDIR}, Try{999, EBADF}, Try{-1, EBADF}}) {
    EXPECT_ERRNO(openat(fd, "x", O_RDONLY), error);
    EXPECT_ERRNO(fstatat(fd, "x", &status, 0), error);
    EXPECT_ERRNO(mkdirat(fd, "x", 0755), error);
    EXPECT_ERRNO(mknodat(fd, "x", S_IFIFO, 0), error);
    EXPECT_ERRNO(unlinkat(fd, "x", 0), error);
    EXPECT_ERRNO(symlinkat("t", fd, "x"), error);
    EXPECT_ERRNO(readlinkat(fd, "x", text, sizeof(text)), error);
    EXPECT_ERRNO(Call(SYS_fchmodat, fd, "x", 0644), error);
    EXPECT_ERRNO(fchownat(fd, "x", 0, 0, 0), error);
    EXPECT_ERRNO(utimensat(fd, "x", nullptr, 0), error);
    EXPECT_ERRNO(linkat(fd, "x", AT_FDCWD, bad.missing, 0), error);
    EXPECT_ERRNO(renameat(fd, "x", AT_FDCWD, "y"), error);
    EXPECT_ERRNO(Call(SYS_faccessat, fd, "x", F_OK), error);
    EXPECT_OK(fstatat(fd, "/tmp", &status, 0));  // An absolute path doesn't look at it.
  }
}

GUEST_TEST(AtCalls, UnknownFlags) {
  TempDir dir;
  WriteFile(dir / "f", "");
  struct stat status;
  struct statx extended;
  const int bad = 0x40000000;
  EXPECT_ERRNO(fstatat(AT_FDCWD, dir / "f", &status, bad), EINVAL);
  EXPECT_ERRNO(unlinkat(AT_FDCWD, dir / "f", bad), EINVAL);
  EXPECT_ERRNO(fchownat(AT_FDCWD, dir / "f", 0, 0, bad), EINVAL);
  EXPECT_ERRNO(utimensat(AT_FDCWD, dir / "f", nullptr, bad), EINVAL);
  EXPECT_ERRNO(linkat(AT_FDCWD, dir / "f", AT_FDCWD, dir / "g", bad), EINVAL);
  EXPECT_ERRNO(Call(SYS_renameat2, AT_FDCWD, (dir / "f").c_str(), AT_FDCWD, (dir / "g").c_str(), bad), EINVAL);
  EXPECT_ERRNO(Call(439 /*faccessat2*/, AT_FDCWD, (dir / "f").c_str(), F_OK, bad), EINVAL);
  EXPECT_ERRNO(Call(SYS_statx, AT_FDCWD, (dir / "f").c_str(), bad, STATX_BASIC_STATS, &extended), EINVAL);
  EXPECT_ERRNO(Call(SYS_statx, AT_FDCWD, (dir / "f").c_str(), 0, STATX__RESERVED, &extended), EINVAL);
  EXPECT_ERRNO(Call(SYS_statx, AT_FDCWD, (dir / "f").c_str(), AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, 0, &extended), EINVAL);
}

GUEST_TEST(AtCalls, EmptyPathMeansTheDescriptor) {
  TempDir dir;
  WriteFile(dir / "f", "12345", 0600);
  const int fd = MUST(open(dir / "f", O_RDONLY)), path = MUST(open(dir / "f", O_PATH));
  struct stat status = {};
  EXPECT_OK(fstatat(path, "", &status, AT_EMPTY_PATH));
  EXPECT_EQ(status.st_size, 5);
  EXPECT_ERRNO(fstatat(path, "", &status, 0), ENOENT);
  EXPECT_OK(fchownat(fd, "", 0, 77, AT_EMPTY_PATH));
  EXPECT_OK(fstat(fd, &status));
  EXPECT_EQ(status.st_gid, 77);
  EXPECT_OK(Call(439 /*faccessat2*/, fd, "", R_OK, AT_EMPTY_PATH));
  EXPECT_OK(linkat(path, "", AT_FDCWD, dir / "g", AT_EMPTY_PATH));
  EXPECT_OK(fstat(fd, &status));
  EXPECT_EQ(status.st_nlink, 2);
  EXPECT_OK(utimensat(path, "", nullptr, AT_EMPTY_PATH));
}

GUEST_TEST(AtCalls, ModesAndOwnersThroughAFolder) {
  TempDir dir;
  const int folder = MUST(open(dir.path(), O_PATH | O_DIRECTORY));
  MUST(mknodat(folder, "fifo", S_IFIFO | 0600, 0));
  WriteFile(dir / "f", "");
  MUST(symlink("f", dir / "l"));
  EXPECT_OK(Call(SYS_fchmodat, folder, "l", 0751));  // Follows: the call has no flags.
  EXPECT_OK(fchownat(folder, "l", 5, 6, AT_SYMLINK_NOFOLLOW));
  CheckpointHere();
  struct stat status = {};
  MUST(lstat(dir / "f", &status));
  EXPECT_EQ(status.st_mode, S_IFREG | 0751);
  EXPECT_EQ(status.st_uid, 0);
  MUST(lstat(dir / "l", &status));
  EXPECT_EQ(status.st_uid, 5);
  EXPECT_EQ(status.st_gid, 6);
  MUST(lstat(dir / "fifo", &status));
  EXPECT(S_ISFIFO(status.st_mode));
}

GUEST_TEST(AtCalls, FchmodatTwo) {
  TempDir dir;
  WriteFile(dir / "f", "", 0644);
  MUST(symlink("f", dir / "l"));
  if (Call(452, AT_FDCWD, (dir / "f").c_str(), 0600, 0) < 0 && errno == ENOSYS) Skip("no fchmodat2");
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_mode & 07777, 0600);
  const int path = MUST(open(dir / "f", O_PATH));
  EXPECT_OK(Call(452, path, "", 0640, AT_EMPTY_PATH));
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_mode & 07777, 0640);
  EXPECT_ERRNO(Call(452, AT_FDCWD, (dir / "l").c_str(), 0600, AT_SYMLINK_NOFOLLOW), EOPNOTSUPP);  // Links have no mode.
  EXPECT_ERRNO(Call(452, AT_FDCWD, (dir / "f").c_str(), 0600, 0x800), EINVAL);
}

GUEST_TEST(AtCalls, FaccessatTwo) {
  TempDir dir;
  WriteFile(dir / "f", "", 0600);
  MUST(symlink("none", dir / "l"));
  const Str path = dir / "f", link = dir / "l";
  if (Call(439, AT_FDCWD, path.c_str(), F_OK, 0) < 0 && errno == ENOSYS) Skip("no faccessat2");
  EXPECT_ERRNO(Call(439, AT_FDCWD, link.c_str(), F_OK, 0), ENOENT);
  EXPECT_OK(Call(439, AT_FDCWD, link.c_str(), F_OK, AT_SYMLINK_NOFOLLOW));
  EXPECT_ERRNO(Call(439, AT_FDCWD, path.c_str(), X_OK, 0), EACCES);  // Even root needs one bit for executing.
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 0, 0));  // Asked by the real user, or by the one that acts.
    EXPECT_ERRNO(Call(439, AT_FDCWD, path.c_str(), R_OK, 0), EACCES);
    EXPECT_OK(Call(439, AT_FDCWD, path.c_str(), R_OK, AT_EACCESS));
  }));
}

GUEST_TEST(Owner, ByDescriptor) {
  const int fd = TempFile();
  EXPECT_OK(fchown(fd, 12, 34));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_uid, 12);
  EXPECT_EQ(status.st_gid, 34);
  EXPECT_OK(fchown(fd, -1, 35));
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_uid, 12);
  EXPECT_EQ(status.st_gid, 35);
  EXPECT_ERRNO(fchown(999, 0, 0), EBADF);
  const int path = MUST(open("/tmp", O_PATH));
  EXPECT_ERRNO(fchown(path, 0, 0), EBADF);
  EXPECT_ERRNO(fchmod(path, 0777), EBADF);
  AS_USER([&] {
    EXPECT_ERRNO(fchown(fd, 1000, -1), EPERM);
    EXPECT_ERRNO(fchmod(fd, 0777), EPERM);
  });
}

GUEST_TEST(Paths, TrailingSlashes) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(mkdir(dir / "d", 0755));
  MUST(symlink("d", dir / "to_d"));
  MUST(symlink("f", dir / "to_f"));
  struct stat status = {};
  EXPECT_ERRNO(stat(dir / "f/", &status), ENOTDIR);
  EXPECT_OK(stat(dir / "d///", &status));
  EXPECT_OK(lstat(dir / "to_d/", &status));  // The slash asks for what the link leads to.
  EXPECT(S_ISDIR(status.st_mode));
  EXPECT_ERRNO(lstat(dir / "to_f/", &status), ENOTDIR);
  EXPECT_ERRNO(open(dir / "new/", O_CREAT | O_WRONLY, 0644), EISDIR);
  EXPECT_ERRNO(unlink(dir / "f/"), ENOTDIR);
  EXPECT_ERRNO(rmdir(dir / "to_d/"), ENOTDIR);
  EXPECT_OK(mkdir(dir / "made/", 0755));
  EXPECT_ERRNO(symlink("x", dir / "s/"), ENOENT);
  EXPECT_ERRNO(mknod(dir / "n/", S_IFREG, 0), ENOENT);
  EXPECT_OK(rename(dir / "made/", dir / "renamed/"));
  EXPECT_ERRNO(rename(dir / "f", dir / "g/"), ENOTDIR);
}

GUEST_TEST(Paths, DotsAtTheEnd) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  MUST(mkdir(dir / "d/e", 0755));
  EXPECT_ERRNO(rmdir(dir / "d/e/."), EINVAL);
  EXPECT_ERRNO(rmdir(dir / "d/e/.."), ENOTEMPTY);
  EXPECT_ERRNO(rmdir("/"), EBUSY);
  EXPECT_ERRNO(mkdir(dir / "d/.", 0755), EEXIST);
  EXPECT_ERRNO(mkdir("/", 0755), EEXIST);
  EXPECT_ERRNO(unlink(dir / "d/."), EISDIR);
  EXPECT_ERRNO(rename(dir / "d/.", dir / "x"), EBUSY);
  EXPECT_ERRNO(rename(dir / "d", dir / "d/e/.."), EBUSY);
  EXPECT_ERRNO(link(dir / "d", dir / "hard"), EPERM);
}

GUEST_TEST(Paths, LongestNameAndPath) {
  TempDir dir;
  char name[NAME_MAX + 1];
  memset(name, 'x', NAME_MAX);
  name[NAME_MAX] = '\0';
  EXPECT_OK(mkdir(dir / name, 0755));
  CheckpointHere();
  EXPECT_OK(access(dir / name, F_OK));
  char path[PATH_MAX];
  memset(path, '/', sizeof(path));
  path[PATH_MAX - 1] = '\0';
  EXPECT_OK(access(path, F_OK));
}

GUEST_TEST(Paths, FortyLinksAreFollowed) {
  TempDir dir;
  WriteFile(dir / "l0", "end");
  for (int i = 1; i <= 41; ++i) MUST(symlink(Str("l%d", i - 1), dir / Str("l%d", i)));
  EXPECT_OK(access(dir / "l40", F_OK));
  EXPECT_ERRNO(access(dir / "l41", F_OK), ELOOP);
}

GUEST_TEST(Paths, DanglingLinkAndCreation) {
  TempDir dir;
  MUST(symlink("target", dir / "l"));
  EXPECT_ERRNO(open(dir / "l", O_CREAT | O_EXCL | O_WRONLY, 0644), EEXIST);
  EXPECT_ERRNO(open(dir / "l", O_CREAT | O_NOFOLLOW | O_WRONLY, 0644), ELOOP);
  EXPECT_ERRNO(open(dir / "l", O_WRONLY), ENOENT);
  EXPECT_OK(open(dir / "l", O_CREAT | O_WRONLY, 0644));
  EXPECT_OK(access(dir / "target", F_OK));
}

GUEST_TEST(Readlink, SizesAndKinds) {
  TempDir dir;
  MUST(symlink("twelve bytes", dir / "l"));
  WriteFile(dir / "f", "");
  char text[32];
  memset(text, '#', sizeof(text));
  EXPECT_EQ(readlink(dir / "l", text, 6), 6);  // Cut, and never terminated.
  EXPECT_EQ(memcmp(text, "twelve#", 7), 0);
  EXPECT_EQ(readlink(dir / "l", text, sizeof(text)), 12);
  EXPECT_EQ(text[12], '#');
  EXPECT_ERRNO(readlink(dir / "f", text, sizeof(text)), EINVAL);
  EXPECT_ERRNO(readlink(dir / "l", text, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_readlink, (dir / "l").c_str(), text, -1), EINVAL);
  EXPECT_ERRNO(readlink(dir / "l", kBad, 10), EFAULT);
  const int fd = MUST(open(dir / "l", O_PATH | O_NOFOLLOW));
  EXPECT_EQ(readlinkat(fd, "", text, sizeof(text)), 12);
}

GUEST_TEST(Symlink, TargetsLength) {
  TempDir dir;
  char target[PATH_MAX + 1];
  memset(target, 't', sizeof(target));
  target[PATH_MAX] = '\0';
  EXPECT_ERRNO(symlink(target, dir / "l"), ENAMETOOLONG);
  EXPECT_ERRNO(symlink("", dir / "l"), ENOENT);
  EXPECT_ERRNO(symlink(kBad, dir / "l"), EFAULT);
  EXPECT_ERRNO(symlink("x", dir.path()), EEXIST);
}
