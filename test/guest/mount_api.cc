// The new mount calls: fsopen, fsconfig, fsmount, fspick, open_tree, move_mount, mount_setattr, statmount, listmount.
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "test/harness/guest_util.h"
#include "test/harness/mounts.h"

using namespace guest;

namespace {

constexpr long kOpenTree = 428, kMoveMount = 429, kFsOpen = 430, kFsConfig = 431, kFsMount = 432, kFsPick = 433;
constexpr long kMountSetattr = 442, kStatMount = 457, kListMount = 458;

// A mount of a new tmpfs that is nowhere yet.
int NewTmpfs(const char* size) {
  const int context = static_cast<int>(syscall(kFsOpen, "tmpfs", FSOPEN_CLOEXEC));
  if (context < 0 && errno == ENOSYS) Skip("no fsopen");
  MUST(context);
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "source", "guest", 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "size", size, 0));
  MUST(syscall(kFsConfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  const int tree = static_cast<int>(MUST(syscall(kFsMount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV)));
  close(context);
  return tree;
}

}  // namespace

GUEST_TEST(MountApi, NewFileSystem) {
  TempDir dir;
  InOwnMounts([&] {
    const int tree = NewTmpfs("1m");
    const int early = MUST(openat(tree, "early", O_CREAT | O_WRONLY, 0600));
    MUST(write(early, "x", 1));
    close(early);
    CheckpointHere();
    // What cannot be mounted there can still be elsewhere.
    WriteFile(dir / "file", "");
    const Str file = dir / "file";
    EXPECT_ERRNO(syscall(kMoveMount, tree, "", AT_FDCWD, static_cast<const char*>(file), MOVE_MOUNT_F_EMPTY_PATH), EINVAL);
    EXPECT_ERRNO(mount("/proc", file, nullptr, MS_MOVE, nullptr), EINVAL);
    EXPECT_OK(faccessat(tree, "early", F_OK, 0));
    MUST(syscall(kMoveMount, tree, "", AT_FDCWD, dir.path(), MOVE_MOUNT_F_EMPTY_PATH));
    EXPECT_OK(access(dir / "early", F_OK));
    char text[8] = {};
    EXPECT_EQ(ReadFile(dir / "early", text, sizeof(text)), 1);
    close(tree);
    EXPECT_OK(access(dir / "early", F_OK));
    MUST(umount2(dir.path(), 0));
    EXPECT_ERRNO(access(dir / "early", F_OK), ENOENT);
  });
}

GUEST_TEST(MountApi, TmpfsCountsWhatFilesTake) {
  TempDir dir;
  InOwnMounts([&] {
    MUST(mount("guest", dir.path(), "tmpfs", 0, nullptr));
    struct statfs empty, now;
    MUST(statfs(dir.path(), &empty));
    EXPECT(empty.f_blocks > 0);
    EXPECT_EQ(empty.f_bfree, empty.f_blocks);
    const int file = MUST(open(dir / "f", O_CREAT | O_RDWR, 0600));
    for (int i = 0; i < 64; ++i) EXPECT_EQ(pwrite(file, dir.path(), 1, i * 4096), 1);
    CheckpointHere();
    MUST(statfs(dir.path(), &now));
    EXPECT_EQ(empty.f_bfree - now.f_bfree, 64u);
    // Half of the machine's memory is all that it may take.
    EXPECT_ERRNO(fallocate(file, 0, 0, static_cast<off_t>((empty.f_blocks + 1) * 4096)), ENOSPC);
    MUST(ftruncate(file, 0));
    MUST(statfs(dir.path(), &now));
    EXPECT_EQ(now.f_bfree, empty.f_bfree);
    close(file);
    MUST(umount2(dir.path(), 0));
    MUST(mount("guest", dir.path(), "tmpfs", 0, "size=0"));
    MUST(statfs(dir.path(), &now));
    EXPECT_EQ(now.f_blocks, 0u);
    MUST(umount2(dir.path(), 0));
  });
}

GUEST_TEST(MountApi, UnmountedTreeGoes) {
  InOwnMounts([&] {
    const int tree = NewTmpfs("64k");
    const int file = MUST(openat(tree, "f", O_CREAT | O_RDWR, 0600));
    close(tree);
    EXPECT_EQ(write(file, "still here", 10), 10);
  });
}

GUEST_TEST(MountApi, ContextErrors) {
  InOwnMounts([&] {
    EXPECT_ERRNO(syscall(kFsOpen, "no-such-type", 0), ENODEV);
    EXPECT_ERRNO(syscall(kFsOpen, "tmpfs", 99), EINVAL);
    const int context = static_cast<int>(MUST(syscall(kFsOpen, "tmpfs", 0)));
    EXPECT_ERRNO(syscall(kFsMount, context, 0, 0), EINVAL);  // Not created yet.
    EXPECT_ERRNO(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "nonsense", "1", 0), EINVAL);
    EXPECT_ERRNO(syscall(kFsConfig, context, FSCONFIG_SET_STRING, "size", nullptr, 0), EINVAL);
    EXPECT_ERRNO(syscall(kFsConfig, context, 99, nullptr, nullptr, 0), EOPNOTSUPP);
    EXPECT_ERRNO(syscall(kFsConfig, 1, FSCONFIG_SET_FLAG, "ro", nullptr, 0), EINVAL);
    MUST(syscall(kFsConfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
    EXPECT_ERRNO(syscall(kFsConfig, context, FSCONFIG_SET_FLAG, "ro", nullptr, 0), EBUSY);
    EXPECT_ERRNO(syscall(kFsMount, context, 0, 0x400), EINVAL);
    MUST(syscall(kFsMount, context, 0, 0));
  });
}

GUEST_TEST(MountApi, CopiedTree) {
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  InOwnMounts([&] {
    const int tmpfs = NewTmpfs("1m");
    MUST(syscall(kMoveMount, tmpfs, "", AT_FDCWD, static_cast<const char*>(dir / "a"), MOVE_MOUNT_F_EMPTY_PATH));
    WriteFile(dir / "a/f", "x");
    EXPECT_ERRNO(syscall(kOpenTree, AT_FDCWD, dir.path(), AT_RECURSIVE), EINVAL);
    const int tree = static_cast<int>(MUST(syscall(kOpenTree, AT_FDCWD, dir.path(), OPEN_TREE_CLONE | AT_RECURSIVE)));
    struct mount_attr attr = {MOUNT_ATTR_RDONLY, 0, 0, 0};
    MUST(syscall(kMountSetattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr)));
    MUST(syscall(kMoveMount, tree, "", AT_FDCWD, static_cast<const char*>(dir / "b"), MOVE_MOUNT_F_EMPTY_PATH));
    CheckpointHere();
    EXPECT_OK(access(dir / "b/a/f", F_OK));
    EXPECT_ERRNO(open(dir / "b/a/f", O_WRONLY), EROFS);
    EXPECT_OK(open(dir / "a/f", O_WRONLY));
    attr = {0, MOUNT_ATTR_RDONLY, 0, 0};
    MUST(syscall(kMountSetattr, AT_FDCWD, static_cast<const char*>(dir / "b/a"), 0, &attr, sizeof(attr)));
    EXPECT_OK(open(dir / "b/a/f", O_WRONLY));
    attr = {MOUNT_ATTR_NOATIME, 0, 0, 0};
    EXPECT_ERRNO(syscall(kMountSetattr, AT_FDCWD, static_cast<const char*>(dir / "b/a"), 0, &attr, sizeof(attr)), EINVAL);
  });
}

GUEST_TEST(MountApi, PickedFileSystemBecomesReadOnly) {
  TempDir dir;
  InOwnMounts([&] {
    const int tree = NewTmpfs("1m");
    MUST(syscall(kMoveMount, tree, "", AT_FDCWD, dir.path(), MOVE_MOUNT_F_EMPTY_PATH));
    const int context = static_cast<int>(MUST(syscall(kFsPick, AT_FDCWD, dir.path(), FSPICK_CLOEXEC)));
    MUST(syscall(kFsConfig, context, FSCONFIG_SET_FLAG, "ro", nullptr, 0));
    MUST(syscall(kFsConfig, context, FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0));
    EXPECT_ERRNO(open(dir / "f", O_CREAT | O_WRONLY, 0600), EROFS);
  });
}

GUEST_TEST(MountApi, StatAndList) {
  TempDir dir;
  InOwnMounts([&] {
    const int tree = NewTmpfs("1m");
    MUST(syscall(kMoveMount, tree, "", AT_FDCWD, dir.path(), MOVE_MOUNT_F_EMPTY_PATH));
    struct statx status = {};
    MUST(statx(AT_FDCWD, dir.path(), 0, 0x4000 /*STATX_MNT_ID_UNIQUE*/, &status));
    if ((status.stx_mask & 0x4000) == 0) Skip("no unique ids of mounts");
    struct {
      uint32_t size, spare;
      uint64_t id, param;
    } request = {24, 0, status.stx_mnt_id, 2 | 0x10 | 0x20};
    alignas(8) char buffer[1024] = {};
    if (syscall(kStatMount, &request, buffer, sizeof(buffer), 0) < 0 && errno == ENOSYS) Skip("no statmount");
    uint64_t mask = 0, id = 0;
    uint32_t type = 0, point = 0;
    memcpy(&mask, buffer + 8, 8);
    memcpy(&type, buffer + 36, 4);
    memcpy(&id, buffer + 40, 8);
    memcpy(&point, buffer + 108, 4);
    EXPECT_EQ(mask, 2 | 0x10 | 0x20);
    EXPECT_EQ(id, status.stx_mnt_id);
    EXPECT_STREQ(buffer + 512 + type, "tmpfs");
    EXPECT_STREQ(buffer + 512 + point, dir.path());
    request.id = ~0ul;
    request.param = 0;
    uint64_t ids[256];
    const long count = MUST(syscall(kListMount, &request, ids, 256, 0));
    bool found = false;
    for (long i = 0; i < count; ++i) found |= ids[i] == status.stx_mnt_id;
    EXPECT(found);
    request.id = 5;  // Not a unique one.
    EXPECT_ERRNO(syscall(kStatMount, &request, buffer, sizeof(buffer), 0), EINVAL);
    request.id = 0x7ffffffffffful;
    EXPECT_ERRNO(syscall(kStatMount, &request, buffer, sizeof(buffer), 0), ENOENT);
    EXPECT_ERRNO(syscall(kStatMount, &request, buffer, sizeof(buffer), 1), EINVAL);
  });
}

// Who cannot see a mount from its root is not told of it: is_path_reachable().
GUEST_TEST(MountApi, FromARootOfOnesOwn) {
  TempDir dir;
  InOwnMounts([&] {
    MUST(mkdir(dir / "root", 0755));
    MUST(mkdir(dir / "root/in", 0755));
    MUST(mkdir(dir / "beside", 0755));
    MUST(mount("none", dir / "root/in", "tmpfs", 0, nullptr));
    MUST(mount("none", dir / "beside", "tmpfs", 0, nullptr));
    const auto id_of = [](const char* path) {
      struct statx status = {};
      MUST(statx(AT_FDCWD, path, 0, 0x4000 /*STATX_MNT_ID_UNIQUE*/, &status));
      if ((status.stx_mask & 0x4000) == 0) Skip("no unique ids of mounts");
      return uint64_t{status.stx_mnt_id};
    };
    const uint64_t in = id_of(dir / "root/in"), beside = id_of(dir / "beside"), above = id_of(dir.path());
    const int proc = MUST(open("/proc/self", O_PATH | O_DIRECTORY));
    MUST(chroot(dir / "root"));
    MUST(chdir("/"));
    char text[4096] = {};
    const int info = MUST(openat(proc, "mountinfo", O_RDONLY));
    MUST(read(info, text, sizeof(text) - 1));
    EXPECT(strstr(text, " / /in ") != nullptr);
    EXPECT_EQ(strchr(text, '\n') + 1, text + strlen(text));
    MUST(setresuid(65534, 65534, 65534));
    struct {
      uint32_t size, spare;
      uint64_t id, param;
    } request = {24, 0, in, 0x10};
    alignas(8) char buffer[1024] = {};
    if (syscall(kStatMount, &request, buffer, sizeof(buffer), 0) < 0 && errno == ENOSYS) Skip("no statmount");
    uint32_t point = 0;
    memcpy(&point, buffer + 108, 4);
    EXPECT_STREQ(buffer + 512 + point, "/in");
    request.id = beside;
    EXPECT_ERRNO(syscall(kStatMount, &request, buffer, sizeof(buffer), 0), EPERM);
    request.id = above;
    EXPECT_ERRNO(syscall(kStatMount, &request, buffer, sizeof(buffer), 0), EPERM);
    request.param = 0;
    uint64_t ids[256];
    EXPECT_ERRNO(syscall(kListMount, &request, ids, 256, 0), EPERM);
    request.id = ~0ul;
    EXPECT_EQ(syscall(kListMount, &request, ids, 256, 0), 1);
    EXPECT_EQ(ids[0], in);
  });
}
