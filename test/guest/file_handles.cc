// name_to_handle_at and open_by_handle_at: what a handle is, what it leads to when files move and go, who may open by it, and bad handles.
#include <limits.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/vfs.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr int kFid = 0x200, kUniqueMount = 1, kConnectable = 2;  // AT_HANDLE_*

struct FileId {
  uint32_t bytes = 128;
  int32_t type = 0;
  uint8_t data[128] = {};
};

int NameToHandle(int dirfd, const char* path, FileId* handle, void* mount_id, int flags) {
  return static_cast<int>(syscall(SYS_name_to_handle_at, dirfd, path, handle, mount_id, flags));
}
int OpenHandle(int mount, const FileId& handle, int flags) { return static_cast<int>(syscall(SYS_open_by_handle_at, mount, &handle, flags)); }

FileId HandleOf(const char* path) {
  FileId handle;
  int mount_id;
  const int r = NameToHandle(AT_FDCWD, path, &handle, &mount_id, 0);
  if (r < 0 && errno == EOPNOTSUPP) Skip("no handles that can be opened, as in overlays");
  MUST(r);
  return handle;
}

bool Same(const FileId& a, const FileId& b) { return a.bytes == b.bytes && a.type == b.type && memcmp(a.data, b.data, a.bytes) == 0; }

// The descriptor's path is `path`.
void ExpectPath(const char* file, int line, int fd, const char* path) {
  char text[512] = {};
  if (readlink(Str("/proc/self/fd/%d", fd), text, sizeof(text) - 1) < 0) text[0] = 0;
  CheckStrings(file, line, false, "path", text, path);
}
#define EXPECT_LEADS_TO(mount, handle, path)              \
  do {                                                    \
    const int found_ = OpenHandle(mount, handle, O_PATH); \
    EXPECT_GE(found_, 0);                                 \
    ExpectPath(__FILE__, __LINE__, found_, path);         \
    close(found_);                                        \
  } while (0)

void FollowsFiles(const char* root) {
  MUST(mkdir(Str("%s/a", root), 0755));
  MUST(mkdir(Str("%s/a/b", root), 0755));
  WriteFile(Str("%s/a/b/f", root), "content");
  MUST(symlink("f", Str("%s/a/b/l", root)));
  const int at = MUST(open(root, O_RDONLY | O_DIRECTORY));
  const FileId file = HandleOf(Str("%s/a/b/f", root)), dir = HandleOf(Str("%s/a/b", root)), link = HandleOf(Str("%s/a/b/l", root));
  EXPECT(!Same(file, dir) && !Same(file, link));
  EXPECT(Same(file, HandleOf(Str("%s/a/b/f", root))));
  EXPECT_LEADS_TO(at, file, Str("%s/a/b/f", root));
  EXPECT_LEADS_TO(at, dir, Str("%s/a/b", root));
  EXPECT_LEADS_TO(at, link, Str("%s/a/b/l", root));
  EXPECT_ERRNO(OpenHandle(at, link, O_RDONLY), ELOOP);
  CheckpointHere();
  EXPECT(Same(file, HandleOf(Str("%s/a/b/f", root))));
  EXPECT_LEADS_TO(at, file, Str("%s/a/b/f", root));
  // What is moved stays what it is, with what is in it.
  MUST(rename(Str("%s/a/b", root), Str("%s/c", root)));
  EXPECT_LEADS_TO(at, dir, Str("%s/c", root));
  EXPECT_LEADS_TO(at, file, Str("%s/c/f", root));
  EXPECT(Same(file, HandleOf(Str("%s/c/f", root))));
  MUST(rename(Str("%s/c/f", root), Str("%s/a/g", root)));
  const int opened = MUST(OpenHandle(at, file, O_RDWR));
  ExpectPath(__FILE__, __LINE__, opened, Str("%s/a/g", root));
  char text[8] = {};
  EXPECT_EQ(read(opened, text, sizeof(text)), 7);
  EXPECT_STREQ(text, "content");
  close(opened);
  // Another file under the name is another file.
  MUST(unlink(Str("%s/a/g", root)));
  WriteFile(Str("%s/a/g", root), "other");
  EXPECT_ERRNO(OpenHandle(at, file, O_RDONLY), ESTALE);
  EXPECT(!Same(file, HandleOf(Str("%s/a/g", root))));
  MUST(rmdir(Str("%s/a/../c", root)) == 0 ? 0 : unlink(Str("%s/c/l", root)));
  MUST(rmdir(Str("%s/c", root)));
  CheckpointHere();
  EXPECT_ERRNO(OpenHandle(at, dir, O_RDONLY), ESTALE);
  EXPECT_ERRNO(OpenHandle(at, link, O_PATH), ESTALE);
  close(at);
}

void OpenFileStays(const char* root) {
  WriteFile(Str("%s/f", root), "content");
  const int at = MUST(open(root, O_RDONLY | O_DIRECTORY)), held = MUST(open(Str("%s/f", root), O_RDONLY));
  const FileId file = HandleOf(Str("%s/f", root));
  MUST(unlink(Str("%s/f", root)));
  const int again = MUST(OpenHandle(at, file, O_RDONLY));
  struct stat a, b;
  MUST(fstat(held, &a));
  MUST(fstat(again, &b));
  EXPECT_EQ(a.st_ino, b.st_ino);
  EXPECT_EQ(b.st_nlink, 0u);
  close(held);
  close(again);
  EXPECT_ERRNO(OpenHandle(at, file, O_RDONLY), ESTALE);
  close(at);
}

// An overlay's handles name files and cannot be opened, as on Linux without nfs_export.
void NeedHandles(const char* path) {
  struct statfs st;
  MUST(statfs(path, &st));
  if (st.f_type == OVERLAYFS_SUPER_MAGIC) Skip("files of an overlay are not opened by handle");
}

void MountTmpfs(const TempDir& dir) {
  if (mount("none", dir.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
}

}  // namespace

GUEST_TEST(FileHandles, FollowFiles) {
  TempDir dir;
  NeedHandles(dir.path());
  FollowsFiles(dir.path());
}

GUEST_TEST(FileHandles, FollowFilesOfTmpfs) {
  TempDir dir;
  MountTmpfs(dir);
  FollowsFiles(dir.path());
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FileHandles, OpenFilesStay) {
  TempDir dir;
  NeedHandles(dir.path());
  OpenFileStays(dir.path());
}

GUEST_TEST(FileHandles, OpenFilesOfTmpfsStay) {
  TempDir dir;
  MountTmpfs(dir);
  OpenFileStays(dir.path());
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FileHandles, TmpfsLinksAndBindMounts) {
  TempDir dir;
  MountTmpfs(dir);
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "z", 0755));
  WriteFile(dir / "a/f", "x");
  const FileId file = HandleOf(dir / "a/f");
  MUST(link(dir / "a/f", dir / "a/k"));
  EXPECT(Same(file, HandleOf(dir / "a/k")));
  MUST(unlink(dir / "a/f"));
  CheckpointHere();
  close(MUST(open(dir / "a/k", O_RDONLY)));
  // A mount of another part of the same file system serves as well.
  MUST(mount(dir / "z", dir / "z", nullptr, MS_BIND, nullptr));
  const int at = MUST(open(dir / "z", O_RDONLY));
  struct stat st, want;
  const int found = MUST(OpenHandle(at, file, O_RDONLY));
  MUST(fstat(found, &st));
  MUST(stat(dir / "a/k", &want));
  EXPECT_EQ(st.st_ino, want.st_ino);
  close(found);
  close(at);
  // Of another file system it is stale.
  TempDir other;
  MountTmpfs(other);
  const int elsewhere = MUST(open(other.path(), O_RDONLY));
  EXPECT_ERRNO(OpenHandle(elsewhere, file, O_RDONLY), ESTALE);
  close(elsewhere);
  MUST(umount2(other.path(), MNT_DETACH));
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FileHandles, NameToHandleArguments) {
  TempDir dir;
  MountTmpfs(dir);
  WriteFile(dir / "f", "");
  FileId handle;
  uint64_t id = 0;
  int old_id = 0;
  for (const int flags : {0x100, INT_MIN, kFid | kConnectable, kConnectable | AT_EMPTY_PATH, kFid | kConnectable | kUniqueMount}) {
    EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", &handle, &id, flags), EINVAL);
  }
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", &handle, &id, kConnectable), EOPNOTSUPP);
  for (const uint32_t room : {0u, 4u, 11u}) {
    handle = {.bytes = room};
    old_id = 0;
    EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", &handle, &old_id, 0), EOVERFLOW);
    EXPECT_EQ(handle.bytes, 12u);
    EXPECT_EQ(handle.type, 0xff);
    EXPECT_NE(old_id, 0);
  }
  handle = {.bytes = 129};
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", &handle, &id, 0), EINVAL);
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "none", &handle, &id, 0), ENOENT);
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, "", &handle, &id, 0), ENOENT);
  EXPECT_ERRNO(NameToHandle(777, "f", &handle, &id, 0), EBADF);
  handle = {.bytes = 13};
  MUST(NameToHandle(AT_FDCWD, dir / "f", &handle, &id, kUniqueMount));
  EXPECT_EQ(handle.bytes, 12u);
  EXPECT_GE(id, uint64_t{1} << 31);
  FileId fid;
  MUST(NameToHandle(AT_FDCWD, dir / "f", &fid, &old_id, kFid));
  EXPECT(Same(fid, handle));
  const int fd = MUST(open(dir / "f", O_RDONLY));
  FileId by_fd;
  MUST(NameToHandle(fd, "", &by_fd, &old_id, AT_EMPTY_PATH));
  EXPECT(Same(by_fd, handle));
  close(fd);
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", kBad, &old_id, 0), EFAULT);
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, dir / "f", &handle, kBad, 0), EFAULT);
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FileHandles, WhatCannotBeOpened) {
  FileId handle;
  int id;
  EXPECT_ERRNO(NameToHandle(AT_FDCWD, "/proc/self/stat", &handle, &id, 0), EOPNOTSUPP);
  MUST(NameToHandle(AT_FDCWD, "/proc/self/stat", &handle, &id, kFid));
  EXPECT_EQ(handle.bytes, 12u);
  EXPECT_EQ(handle.type, 0x81);
  Pipe pipe;
  handle = {};
  EXPECT_ERRNO(NameToHandle(pipe.r, "", &handle, &id, AT_EMPTY_PATH), EOPNOTSUPP);
  MUST(NameToHandle(pipe.r, "", &handle, &id, AT_EMPTY_PATH | kFid));
  EXPECT_EQ(handle.type, 0x81);
  EXPECT_ERRNO(OpenHandle(pipe.r, handle, O_RDONLY), ESTALE);
}

GUEST_TEST(FileHandles, BadHandles) {
  TempDir dir;
  MountTmpfs(dir);
  MUST(mkdir(dir / "d", 0755));
  const int at = MUST(open(dir.path(), O_RDONLY));
  const FileId good = HandleOf(dir / "d");
  auto with = [&](uint32_t bytes, int type) {
    FileId handle = good;
    handle.bytes = bytes;
    handle.type = type;
    return handle;
  };
  EXPECT_ERRNO(OpenHandle(at, with(0, good.type), O_RDONLY), EINVAL);
  EXPECT_ERRNO(OpenHandle(at, with(129, good.type), O_RDONLY), EINVAL);
  EXPECT_ERRNO(OpenHandle(777, with(0, good.type), O_RDONLY), EINVAL);
  EXPECT_ERRNO(OpenHandle(at, with(12, -1), O_RDONLY), EINVAL);
  EXPECT_ERRNO(OpenHandle(at, with(12, good.type | 0x40000), O_RDONLY), EINVAL);
  EXPECT_ERRNO(OpenHandle(at, with(11, good.type), O_RDONLY), ESTALE);
  EXPECT_ERRNO(OpenHandle(777, good, O_RDONLY), EBADF);
  EXPECT_ERRNO(syscall(SYS_open_by_handle_at, 777, kBadAddress, O_RDONLY), EFAULT);
  close(MUST(OpenHandle(at, with(16, good.type), O_RDONLY)));
  close(MUST(OpenHandle(at, with(12, good.type | 0x20000), O_RDONLY)));
  for (uint32_t i = 0; i < 12; ++i) {
    FileId wrong = good;
    wrong.data[i] ^= 0x55;
    EXPECT_ERRNO(OpenHandle(at, wrong, O_RDONLY), ESTALE);
  }
  EXPECT_ERRNO(OpenHandle(at, good, O_RDWR), EISDIR);
  EXPECT_ERRNO(OpenHandle(at, good, O_CREAT | O_EXCL), EEXIST);
  WriteFile(dir / "f", "12345");
  const FileId file = HandleOf(dir / "f");
  EXPECT_ERRNO(OpenHandle(at, file, O_DIRECTORY), ENOTDIR);
  EXPECT_ERRNO(OpenHandle(at, file, O_TMPFILE | O_RDWR), ENOTDIR);
  close(MUST(OpenHandle(at, file, O_CREAT)));
  close(MUST(OpenHandle(at, file, O_TRUNC | O_RDWR)));
  struct stat st;
  MUST(stat(dir / "f", &st));
  EXPECT_EQ(st.st_size, 0);
  // A handle that promises a directory, and one that promises a way from here.
  FileId claims = file;
  claims.type |= 0x20000;
  EXPECT_ERRNO(OpenHandle(at, claims, O_RDONLY), ESTALE);
  claims.type = file.type | 0x10000;
  close(MUST(OpenHandle(at, claims, O_RDONLY)));
  const int below = MUST(open(dir / "d", O_RDONLY));
  EXPECT_ERRNO(OpenHandle(below, claims, O_RDONLY), ESTALE);
  close(MUST(OpenHandle(below, file, O_RDONLY)));
  close(below);
  close(at);
  MUST(umount2(dir.path(), MNT_DETACH));
}

GUEST_TEST(FileHandles, NeedTheCapability) {
  TempDir dir;
  MountTmpfs(dir);
  MUST(chmod(dir.path(), 0755));
  MUST(mkdir(dir / "d", 0755));
  WriteFile(dir / "f", "x");
  MUST(chmod(dir / "f", 0));
  const int at = MUST(open(dir.path(), O_RDONLY));
  const FileId handle = HandleOf(dir / "f"), folder = HandleOf(dir / "d");
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    FileId mine;
    int id;
    EXPECT_EQ(NameToHandle(AT_FDCWD, dir / "f", &mine, &id, 0), 0);
    EXPECT(Same(mine, handle));
    EXPECT_ERRNO(OpenHandle(at, handle, O_RDONLY), EPERM);
    EXPECT_ERRNO(OpenHandle(at, handle, O_PATH), EPERM);
    EXPECT_ERRNO(OpenHandle(at, folder, O_DIRECTORY), EPERM);
    EXPECT_ERRNO(OpenHandle(777, handle, O_RDONLY), EBADF);
  }));
  close(at);
  MUST(umount2(dir.path(), MNT_DETACH));
}

// Who has mounted a file system opens its directories by handles.
GUEST_TEST(FileHandles, InUserNamespaces) {
  TempDir dir;
  JOIN_OK(Fork([&] {
    MUST(chmod(dir.path(), 0777));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return;
    WriteFile("/proc/self/setgroups", "deny");
    WriteFile("/proc/self/uid_map", "0 1000 1");
    WriteFile("/proc/self/gid_map", "0 1000 1");
    if (mount("none", dir.path(), "tmpfs", 0, nullptr) < 0) return;
    MUST(mkdir(dir / "d", 0755));
    WriteFile(dir / "f", "x");
    const int at = MUST(open(dir.path(), O_RDONLY));
    const FileId file = HandleOf(dir / "f"), folder = HandleOf(dir / "d");
    EXPECT_ERRNO(OpenHandle(at, folder, O_RDONLY), EPERM);
    close(MUST(OpenHandle(at, folder, O_RDONLY | O_DIRECTORY)));
    EXPECT_ERRNO(OpenHandle(at, file, O_RDONLY | O_DIRECTORY), ESTALE);
  }));
}
