// Names and files: open, link, rename, unlink, permissions, times, folders.
#include <dirent.h>
#include <sys/sysmacros.h>
#include <sys/time.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct stat Stat(const char* path) {
  struct stat status = {};
  MUST(lstat(path, &status));
  return status;
}

mode_t Mode(const char* path) { return Stat(path).st_mode & 07777; }

bool Exists(const char* path) { return access(path, F_OK) == 0; }

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

}  // namespace

GUEST_TEST(Open, CreateAndExclusive) {
  TempDir dir;
  EXPECT_ERRNO(open(dir / "f", O_RDONLY), ENOENT);
  EXPECT_OK(open(dir / "f", O_CREAT | O_RDONLY, 0600));
  EXPECT_EQ(Mode(dir / "f"), 0600);
  EXPECT_ERRNO(open(dir / "f", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
  MUST(symlink("nowhere", dir / "link"));
  EXPECT_ERRNO(open(dir / "link", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
  EXPECT_OK(open(dir / "link", O_CREAT | O_RDWR, 0600));  // Creates where it points.
  EXPECT(Exists(dir / "nowhere"));
}

GUEST_TEST(Open, UmaskApplies) {
  TempDir dir;
  umask(027);
  CheckpointHere();
  MUST(open(dir / "f", O_CREAT | O_WRONLY, 0666));
  EXPECT_EQ(Mode(dir / "f"), 0640);
  MUST(mkdir(dir / "d", 0777));
  EXPECT_EQ(Mode(dir / "d"), 0750);
  EXPECT_EQ(umask(0777), 027);
}

GUEST_TEST(Open, ModeOfANewFileDoesNotBindItsCreator) {
  TempDir dir;
  MUST(chmod(dir.path(), 0777));
  AsUser([&] {
    const int fd = MUST(open(dir / "f", O_CREAT | O_RDWR, 0));
    EXPECT_EQ(write(fd, "x", 1), 1);
    EXPECT_ERRNO(open(dir / "f", O_RDWR), EACCES);
  });
}

GUEST_TEST(Open, Truncates) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  MUST(open(dir / "f", O_WRONLY | O_TRUNC));
  EXPECT_EQ(Stat(dir / "f").st_size, 0);
}

GUEST_TEST(Open, DirectoryRules) {
  TempDir dir;
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(open(dir.path(), O_WRONLY), EISDIR);
  EXPECT_ERRNO(open(dir.path(), O_RDWR | O_CREAT, 0600), EISDIR);
  EXPECT_ERRNO(open(dir / "f", O_RDONLY | O_DIRECTORY), ENOTDIR);
  EXPECT_ERRNO(open(dir / "f/x", O_RDONLY), ENOTDIR);
  EXPECT_ERRNO(open(dir / "f/", O_RDONLY), ENOTDIR);
  EXPECT_ERRNO(open(dir / "new/", O_CREAT | O_WRONLY, 0600), EISDIR);
  const int fd = MUST(open(dir.path(), O_RDONLY));
  char byte;
  EXPECT_ERRNO(read(fd, &byte, 1), EISDIR);
}

GUEST_TEST(Open, NofollowAndLoops) {
  TempDir dir;
  MUST(symlink("self", dir / "self"));
  EXPECT_ERRNO(open(dir / "self", O_RDONLY), ELOOP);
  WriteFile(dir / "f", "");
  MUST(symlink("f", dir / "link"));
  EXPECT_ERRNO(open(dir / "link", O_RDONLY | O_NOFOLLOW), ELOOP);
  const int fd = MUST(open(dir / "link", O_PATH | O_NOFOLLOW));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT(S_ISLNK(status.st_mode));
  char target[8] = {};
  EXPECT_EQ(readlinkat(fd, "", target, 8), 1);
}

GUEST_TEST(Open, NameTooLong) {
  char name[300];
  memset(name, 'n', 256);
  name[256] = '\0';
  TempDir dir;
  EXPECT_ERRNO(open(dir / name, O_CREAT | O_WRONLY, 0600), ENAMETOOLONG);
  name[255] = '\0';
  EXPECT_OK(open(dir / name, O_CREAT | O_WRONLY, 0600));
  static char path[5000];
  memset(path, '/', 4999);
  EXPECT_ERRNO(open(path, O_RDONLY), ENAMETOOLONG);
  EXPECT_ERRNO(open("", O_RDONLY), ENOENT);
  EXPECT_ERRNO(open(reinterpret_cast<char*>(8), O_RDONLY), EFAULT);
}

GUEST_TEST(Open, Tmpfile) {
  TempDir dir;
  const int fd = open(dir.path(), O_TMPFILE | O_RDWR, 0600);
  if (fd < 0 && errno == EOPNOTSUPP) Skip("no O_TMPFILE on this file system");
  MUST(fd);
  MUST(write(fd, "linked", 6));
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_nlink, 0);
  CheckpointHere();
  MUST(linkat(AT_FDCWD, Str("/proc/self/fd/%d", fd), AT_FDCWD, dir / "f", AT_SYMLINK_FOLLOW));
  char text[8];
  EXPECT_EQ(ReadFile(dir / "f", text, sizeof(text)), 6);
  EXPECT_ERRNO(open(dir.path(), O_TMPFILE | O_RDONLY, 0600), EINVAL);
}

GUEST_TEST(Link, SharesTheInode) {
  TempDir dir;
  WriteFile(dir / "a", "x");
  MUST(link(dir / "a", dir / "b"));
  EXPECT_EQ(Stat(dir / "a").st_ino, Stat(dir / "b").st_ino);
  EXPECT_EQ(Stat(dir / "a").st_nlink, 2);
  CheckpointHere();
  WriteFile(dir / "b", "changed");
  EXPECT_EQ(Stat(dir / "a").st_size, 7);
  MUST(unlink(dir / "a"));
  EXPECT_EQ(Stat(dir / "b").st_nlink, 1);
  EXPECT_ERRNO(link(dir.path(), dir / "c"), EPERM);
  EXPECT_ERRNO(link(dir / "none", dir / "c"), ENOENT);
  EXPECT_ERRNO(link(dir / "b", dir / "b"), EEXIST);
}

GUEST_TEST(Symlink, ReadAndFollow) {
  TempDir dir;
  MUST(symlink("target", dir / "link"));
  char text[16];
  memset(text, '#', sizeof(text));
  EXPECT_EQ(readlink(dir / "link", text, sizeof(text)), 6);
  EXPECT_EQ(text[6], '#');  // Never terminated.
  EXPECT_EQ(readlink(dir / "link", text, 3), 3);
  EXPECT_ERRNO(readlink(dir.path(), text, 3), EINVAL);
  EXPECT_ERRNO(readlink(dir / "link", text, 0), EINVAL);
  EXPECT_ERRNO(symlink("", dir / "empty"), ENOENT);
  EXPECT_ERRNO(symlink("x", dir / "link"), EEXIST);
  struct stat status = {};
  EXPECT_ERRNO(stat(dir / "link", &status), ENOENT);
  EXPECT_EQ(Stat(dir / "link").st_size, 6);
}

GUEST_TEST(Symlink, ForLink) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(symlink("f", dir / "s"));
  MUST(link(dir / "s", dir / "hard"));  // Links the link itself.
  EXPECT(S_ISLNK(Stat(dir / "hard").st_mode));
  MUST(linkat(AT_FDCWD, dir / "s", AT_FDCWD, dir / "followed", AT_SYMLINK_FOLLOW));
  EXPECT(S_ISREG(Stat(dir / "followed").st_mode));
}

GUEST_TEST(Symlink, ChainsHaveALimit) {
  TempDir dir;
  WriteFile(dir / "l0", "");
  for (int i = 1; i <= 41; ++i) MUST(symlink(Str("l%d", i - 1), Str("%s/l%d", dir.path(), i)));
  EXPECT_OK(open(dir / "l40", O_RDONLY));
  EXPECT_ERRNO(open(dir / "l41", O_RDONLY), ELOOP);
}

GUEST_TEST(Rename, Replaces) {
  TempDir dir;
  WriteFile(dir / "a", "new");
  WriteFile(dir / "b", "old!");
  const int old = MUST(open(dir / "b", O_RDONLY));
  const ino_t inode = Stat(dir / "a").st_ino;
  MUST(rename(dir / "a", dir / "b"));
  CheckpointHere();
  EXPECT(!Exists(dir / "a"));
  EXPECT_EQ(Stat(dir / "b").st_ino, inode);
  char text[8] = {};
  EXPECT_EQ(read(old, text, 8), 4);  // The replaced file lives on in its descriptor.
  EXPECT_STREQ(text, "old!");
}

GUEST_TEST(Rename, FoldersAndErrors) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  MUST(mkdir(dir / "d/inside", 0755));
  MUST(mkdir(dir / "empty", 0755));
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(rename(dir / "f", dir / "d"), EISDIR);
  EXPECT_ERRNO(rename(dir / "d", dir / "f"), ENOTDIR);
  EXPECT_ERRNO(rename(dir / "empty", dir / "d"), ENOTEMPTY);
  EXPECT_ERRNO(rename(dir / "d", dir / "d/inside/x"), EINVAL);
  EXPECT_ERRNO(rename(dir / "none", dir / "x"), ENOENT);
  EXPECT_OK(rename(dir / "d", dir / "empty"));
  EXPECT(Exists(dir / "empty/inside"));
}

GUEST_TEST(Rename, SameFileDoesNothing) {
  TempDir dir;
  WriteFile(dir / "a", "");
  MUST(link(dir / "a", dir / "b"));
  EXPECT_OK(rename(dir / "a", dir / "b"));
  EXPECT(Exists(dir / "a"));
}

GUEST_TEST(Rename, Flags) {
  TempDir dir;
  WriteFile(dir / "a", "a");
  WriteFile(dir / "b", "bb");
  EXPECT_ERRNO(renameat2(AT_FDCWD, dir / "a", AT_FDCWD, dir / "b", RENAME_NOREPLACE), EEXIST);
  MUST(renameat2(AT_FDCWD, dir / "a", AT_FDCWD, dir / "b", RENAME_EXCHANGE));
  EXPECT_EQ(Stat(dir / "a").st_size, 2);
  EXPECT_EQ(Stat(dir / "b").st_size, 1);
  EXPECT_ERRNO(renameat2(AT_FDCWD, dir / "a", AT_FDCWD, dir / "b", 0x100), EINVAL);
  EXPECT_ERRNO(renameat2(AT_FDCWD, dir / "a", AT_FDCWD, dir / "b", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
}

GUEST_TEST(Unlink, OpenFileLivesOn) {
  TempDir dir;
  WriteFile(dir / "f", "alive");
  const int fd = MUST(open(dir / "f", O_RDWR));
  MUST(unlink(dir / "f"));
  EXPECT(!Exists(dir / "f"));
  CheckpointHere();
  char text[8] = {};
  EXPECT_EQ(pread(fd, text, 8, 0), 5);
  EXPECT_EQ(pwrite(fd, "A", 1, 0), 1);
  struct stat status = {};
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_nlink, 0);
  char link[128] = {};
  MUST(readlink(Str("/proc/self/fd/%d", fd), link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("%s (deleted)", (dir / "f").c_str()));
}

GUEST_TEST(Unlink, Errors) {
  TempDir dir;
  EXPECT_ERRNO(unlink(dir / "none"), ENOENT);
  EXPECT_ERRNO(unlink(dir.path()), EISDIR);
  WriteFile(dir / "f", "");
  EXPECT_ERRNO(rmdir(dir / "f"), ENOTDIR);
  EXPECT_ERRNO(rmdir(dir.path()), ENOTEMPTY);
  EXPECT_ERRNO(rmdir(dir / "."), EINVAL);
  EXPECT_ERRNO(unlinkat(AT_FDCWD, dir / "f", 0x1), EINVAL);
}

GUEST_TEST(Folder, LinkCountsAndDeletedFolder) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  MUST(chdir(dir / "d"));
  MUST(rmdir(dir / "d"));
  char path[256];
  CheckpointHere();
  EXPECT_EQ(getcwd(path, sizeof(path)), nullptr);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_ERRNO(open("x", O_CREAT | O_WRONLY, 0600), ENOENT);
  EXPECT_OK(chdir("/"));
}

GUEST_TEST(Folder, ListsItsEntries) {
  TempDir dir;
  for (int i = 0; i < 200; ++i) WriteFile(Str("%s/file-%03d", dir.path(), i), "");
  MUST(mkdir(dir / "sub", 0755));
  MUST(symlink("x", dir / "link"));
  DIR* stream = opendir(dir.path());
  ASSERT_NE(stream, nullptr);
  int files = 0, folders = 0, links = 0;
  while (const dirent* entry = readdir(stream)) {
    files += entry->d_type == DT_REG;
    folders += entry->d_type == DT_DIR;
    links += entry->d_type == DT_LNK;
    if (files == 100) CheckpointHere();
  }
  EXPECT_EQ(files, 200);
  EXPECT_EQ(folders, 3);  // With . and ..
  EXPECT_EQ(links, 1);
  rewinddir(stream);
  int again = 0;
  while (readdir(stream) != nullptr) ++again;
  EXPECT_EQ(again, 204);
}

GUEST_TEST(Folder, GetdentsArguments) {
  TempDir dir;
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  char buffer[512];
  EXPECT_ERRNO(syscall(SYS_getdents64, fd, buffer, 1), EINVAL);
  EXPECT_GT(syscall(SYS_getdents64, fd, buffer, sizeof(buffer)), 0);
  EXPECT_EQ(syscall(SYS_getdents64, fd, buffer, sizeof(buffer)), 0);
  EXPECT_ERRNO(syscall(SYS_getdents64, 1, buffer, sizeof(buffer)), ENOTDIR);
  MUST(lseek(fd, 0, SEEK_SET));
  EXPECT_GT(syscall(SYS_getdents64, fd, buffer, sizeof(buffer)), 0);
}

GUEST_TEST(Folder, CurrentFolder) {
  TempDir dir;
  MUST(mkdir(dir / "d", 0755));
  MUST(chdir(dir / "d"));
  char path[256];
  CheckpointHere();
  ASSERT_NE(getcwd(path, sizeof(path)), nullptr);
  EXPECT_STREQ(path, dir / "d");
  WriteFile("relative", "");
  EXPECT(Exists(dir / "d/relative"));
  MUST(rename(dir / "d", dir / "moved"));
  ASSERT_NE(getcwd(path, sizeof(path)), nullptr);
  EXPECT_STREQ(path, dir / "moved");
  EXPECT_ERRNO(syscall(SYS_getcwd, path, 3), ERANGE);
  EXPECT_ERRNO(chdir(dir / "moved/relative"), ENOTDIR);
  const int fd = MUST(open(dir.path(), O_RDONLY));
  MUST(fchdir(fd));
  EXPECT(Exists("moved"));
}

GUEST_TEST(Folder, MkdirErrors) {
  TempDir dir;
  EXPECT_ERRNO(mkdir(dir.path(), 0755), EEXIST);
  EXPECT_ERRNO(mkdir(dir / "a/b", 0755), ENOENT);
  EXPECT_OK(mkdir(dir / "slash/", 0755));
  EXPECT_EQ(Stat(dir.path()).st_nlink, 3);
}

GUEST_TEST(Folder, Chroot) {
  if (geteuid() != 0) Skip("needs root");
  TempDir dir;
  WriteFile(dir / "inside", "");
  JOIN_OK(Fork([&] {
    MUST(chroot(dir.path()));
    MUST(chdir("/"));
    EXPECT(Exists("/inside"));
    EXPECT(Exists("/../../inside"));
    EXPECT(!Exists("/proc"));
    CheckpointHere();
    EXPECT(Exists("/inside"));
    char path[64];
    ASSERT_NE(getcwd(path, sizeof(path)), nullptr);
    EXPECT_STREQ(path, "/");
  }));
}

GUEST_TEST(At, RelativeToADescriptor) {
  TempDir dir;
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  MUST(mkdirat(fd, "d", 0755));
  const int file = MUST(openat(fd, "d/f", O_CREAT | O_WRONLY, 0600));
  MUST(write(file, "abc", 3));
  MUST(symlinkat("d/f", fd, "s"));
  MUST(renameat(fd, "d/f", fd, "d/g"));
  struct stat status = {};
  CheckpointHere();
  MUST(fstatat(fd, "d/g", &status, 0));
  EXPECT_EQ(status.st_size, 3);
  EXPECT_ERRNO(fstatat(fd, "s", &status, 0), ENOENT);
  EXPECT_OK(fstatat(fd, "s", &status, AT_SYMLINK_NOFOLLOW));
  EXPECT_ERRNO(fstatat(fd, "", &status, 0), ENOENT);
  EXPECT_OK(fstatat(fd, "", &status, AT_EMPTY_PATH));
  EXPECT(S_ISDIR(status.st_mode));
  EXPECT_ERRNO(openat(file, "x", O_RDONLY), ENOTDIR);
  EXPECT_ERRNO(openat(999, "x", O_RDONLY), EBADF);
  EXPECT_OK(openat(999, dir / "d", O_RDONLY));  // Absolute: the descriptor does not matter.
  EXPECT_OK(unlinkat(fd, "d/g", 0));
  EXPECT_OK(unlinkat(fd, "d", AT_REMOVEDIR));
}

GUEST_TEST(At, Openat2Resolve) {
  struct How {
    uint64_t flags, mode, resolve;
  };
  TempDir dir;
  MUST(symlink("/etc", dir / "out"));
  WriteFile(dir / "f", "");
  const int fd = MUST(open(dir.path(), O_PATH));
  How how = {O_RDONLY, 0, 0x08 /*RESOLVE_BENEATH*/};
  EXPECT_OK(syscall(SYS_openat2, fd, "f", &how, sizeof(how)));
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "../x", &how, sizeof(how)), EXDEV);
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "out/passwd", &how, sizeof(how)), EXDEV);
  how.resolve = 0x10;  // RESOLVE_IN_ROOT
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "out/passwd", &how, sizeof(how)), ENOENT);
  EXPECT_OK(syscall(SYS_openat2, fd, "/../f", &how, sizeof(how)));
  how.resolve = 0x04;  // RESOLVE_NO_SYMLINKS
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "out", &how, sizeof(how)), ELOOP);
  how = {O_RDONLY, 0600, 0};
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "f", &how, sizeof(how)),
               EINVAL);  // A mode without O_CREAT.
  how = {O_RDONLY, 0, 0};
  EXPECT_ERRNO(syscall(SYS_openat2, fd, "f", &how, 8), EINVAL);
}

GUEST_TEST(Mknod, KindsOfNodes) {
  TempDir dir;
  MUST(mknod(dir / "fifo", S_IFIFO | 0600, 0));
  EXPECT(S_ISFIFO(Stat(dir / "fifo").st_mode));
  MUST(mknod(dir / "file", S_IFREG | 0600, 0));
  MUST(mknod(dir / "plain", 0600, 0));
  EXPECT(S_ISREG(Stat(dir / "plain").st_mode));
  EXPECT_ERRNO(mknod(dir / "d", S_IFDIR | 0700, 0), EPERM);
  EXPECT_ERRNO(mknod(dir / "file", S_IFREG | 0600, 0), EEXIST);
  AsUser([&] { EXPECT_ERRNO(mknod("/tmp/guest-no-device", S_IFCHR | 0600, makedev(1, 3)), EPERM); });
}
