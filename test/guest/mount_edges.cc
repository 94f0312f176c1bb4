// Mounts and namespaces at their edges: flags that bind what is mounted, propagation, detaching, the new calls' arguments.
#include <linux/mount.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// Mounts of its own, cut off from those outside; a tmpfs on `dir`.
struct Mounted {
  explicit Mounted(unsigned long flags = 0, const char* data = nullptr) {
    if (unshare(CLONE_NEWNS) < 0) Skip("no mount namespaces");
    MUST(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr));
    MUST(mount("none", dir.path(), "tmpfs", flags, data));
  }
  ~Mounted() { umount2(dir.path(), MNT_DETACH); }
  TempDir dir;
};

constexpr int kOpenTreeAttr = 467;

}  // namespace

GUEST_TEST(MountFlags, ReadOnly) {
  Mounted m;
  WriteFile(m.dir / "f", "x");
  MUST(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr));
  CheckpointHere();
  EXPECT_ERRNO(open(m.dir / "f", O_WRONLY), EROFS);
  EXPECT_ERRNO(open(m.dir / "new", O_CREAT | O_WRONLY, 0644), EROFS);
  EXPECT_ERRNO(unlink(m.dir / "f"), EROFS);
  EXPECT_ERRNO(mkdir(m.dir / "d", 0755), EROFS);
  EXPECT_ERRNO(chmod(m.dir / "f", 0600), EROFS);
  EXPECT_ERRNO(chown(m.dir / "f", 1, 1), EROFS);
  EXPECT_ERRNO(truncate(m.dir / "f", 0), EROFS);
  EXPECT_ERRNO(utimensat(AT_FDCWD, m.dir / "f", nullptr, 0), EROFS);
  EXPECT_ERRNO(rename(m.dir / "f", m.dir / "g"), EROFS);
  EXPECT_ERRNO(link(m.dir / "f", m.dir / "g"), EROFS);
  EXPECT_ERRNO(symlink("x", m.dir / "l"), EROFS);
  EXPECT_ERRNO(access(m.dir / "f", W_OK), EROFS);
  EXPECT_OK(open(m.dir / "f", O_RDONLY));
  EXPECT_OK(access(m.dir / "f", R_OK));
}

// Who would change something learns that first, before whether it is there (mnt_want_write() in fs/namei.c); who would make something, last.
GUEST_TEST(MountFlags, ReadOnlyComesBeforeWhatIsMissing) {
  Mounted m;
  WriteFile(m.dir / "f", "x");
  TempDir other;
  WriteFile(other / "f", "x");
  MUST(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr));
  CheckpointHere();
  EXPECT_ERRNO(unlink(m.dir / "none"), EROFS);
  EXPECT_ERRNO(unlink(m.dir / "f/"), EROFS);
  EXPECT_ERRNO(unlink(m.dir / "."), EISDIR);
  EXPECT_ERRNO(rmdir(m.dir / "none"), EROFS);
  EXPECT_ERRNO(rmdir(m.dir / "f"), EROFS);
  EXPECT_ERRNO(rmdir(m.dir / "."), EINVAL);
  EXPECT_ERRNO(rename(m.dir / "none", m.dir / "n"), EROFS);
  EXPECT_ERRNO(rename(m.dir / "f", m.dir / "f"), EROFS);
  EXPECT_ERRNO(rename(m.dir / "none", other / "n"), EXDEV);
  EXPECT_ERRNO(rename(m.dir / ".", m.dir / "n"), EBUSY);
  EXPECT_ERRNO(link(other / "f", m.dir / "n"), EROFS);
  EXPECT_ERRNO(link(other / "f", m.dir / "f"), EEXIST);
  EXPECT_ERRNO(link(other / "f", m.dir / "n/"), ENOENT);
  EXPECT_ERRNO(mkdir(m.dir / "f", 0755), EEXIST);
  EXPECT_ERRNO(symlink("x", m.dir / "n/"), ENOENT);
}

GUEST_TEST(MountFlags, RemountReadOnlyWithAWriter) {
  Mounted m;
  const int fd = MUST(open(m.dir / "f", O_CREAT | O_WRONLY, 0644));
  EXPECT_ERRNO(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), EBUSY);
  close(fd);
  EXPECT_OK(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr));
}

GUEST_TEST(MountFlags, ReadOnlyBindWithAWriter) {
  Mounted m;
  MUST(mkdir(m.dir / "a", 0755));
  MUST(mkdir(m.dir / "b", 0755));
  MUST(mount(m.dir / "a", m.dir / "b", nullptr, MS_BIND, nullptr));
  const int fd = MUST(open(m.dir / "b/f", O_CREAT | O_WRONLY, 0644));
  CheckpointHere();
  EXPECT_ERRNO(mount(nullptr, m.dir / "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr), EBUSY);
  EXPECT_OK(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));  // Another mount of the same file system.
  EXPECT_OK(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT | MS_BIND, nullptr));
  close(fd);
  EXPECT_OK(mount(nullptr, m.dir / "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));
  MUST(umount(m.dir / "b"));
}

GUEST_TEST(MountFlags, NoSymFollow) {
  constexpr unsigned long kNoSymFollow = 256;
  Mounted m(kNoSymFollow);
  WriteFile(m.dir / "f", "content");
  MUST(mkdir(m.dir / "d", 0755));
  MUST(symlink("f", m.dir / "link"));
  MUST(symlink("d", m.dir / "to-d"));
  EXPECT_ERRNO(open(m.dir / "link", O_RDONLY), ELOOP);
  EXPECT_ERRNO(open(m.dir / "link", O_CREAT | O_WRONLY, 0644), ELOOP);
  EXPECT_ERRNO(access(m.dir / "to-d/x", F_OK), ELOOP);
  char target[8] = {};
  EXPECT_EQ(readlink(m.dir / "link", target, sizeof(target)), 1);
  struct statvfs told = {};
  MUST(statvfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_flag & 8192, 8192u);
  CheckpointHere();
  EXPECT_ERRNO(open(m.dir / "link", O_RDONLY), ELOOP);
  MUST(mount(nullptr, m.dir.path(), nullptr, MS_REMOUNT, nullptr));
  EXPECT_OK(open(m.dir / "link", O_RDONLY));
}

GUEST_TEST(MountFlags, ReadOnlyBindIsOfThatPlaceOnly) {
  Mounted m;
  MUST(mkdir(m.dir / "a", 0755));
  MUST(mkdir(m.dir / "b", 0755));
  MUST(mount(m.dir / "a", m.dir / "b", nullptr, MS_BIND, nullptr));
  MUST(mount(nullptr, m.dir / "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr));
  EXPECT_ERRNO(open(m.dir / "b/f", O_CREAT | O_WRONLY, 0644), EROFS);
  EXPECT_OK(open(m.dir / "a/f", O_CREAT | O_WRONLY, 0644));
  EXPECT_OK(access(m.dir / "b/f", F_OK));
  MUST(umount(m.dir / "b"));
}

GUEST_TEST(MountFlags, NoExec) {
  Mounted m(MS_NOEXEC);
  WriteFile(m.dir / "script", "#!/bin/sh\n", 0755);
  char* const none[] = {nullptr};
  EXPECT_ERRNO(execve(m.dir / "script", none, none), EACCES);
  const int fd = MUST(open(m.dir / "script", O_RDONLY));
  EXPECT_ERRNO(mmap(nullptr, kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0), EPERM);
  EXPECT_ERRNO(access(m.dir / "script", X_OK), EACCES);
}

GUEST_TEST(MountFlags, NoDev) {
  Mounted m(MS_NODEV);
  if (mknod(m.dir / "null", S_IFCHR | 0666, makedev(1, 3)) < 0) Skip("may not make devices");
  EXPECT_ERRNO(open(m.dir / "null", O_RDONLY), EACCES);
}

GUEST_TEST(MountFlags, AreTold) {
  Mounted m(MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME);
  struct statvfs told = {};
  MUST(statvfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME), ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME);
  EXPECT_EQ(told.f_flag & ST_RDONLY, 0);
}

GUEST_TEST(MountFlags, NoAtime) {
  Mounted m(MS_NOATIME);
  WriteFile(m.dir / "f", "content");
  struct stat before = {}, after = {};
  const timespec times[2] = {{1000, 0}, {2000, 0}};
  MUST(utimensat(AT_FDCWD, m.dir / "f", times, 0));
  MUST(stat(m.dir / "f", &before));
  char text[16];
  ReadFile(m.dir / "f", text, sizeof(text));
  MUST(stat(m.dir / "f", &after));
  EXPECT_EQ(after.st_atim.tv_sec, before.st_atim.tv_sec);
}

GUEST_TEST(TmpfsOptions, ModeOwnerAndSize) {
  Mounted m(0, "mode=0750,uid=12,gid=34,size=8k");
  struct stat status = {};
  MUST(stat(m.dir.path(), &status));
  EXPECT_EQ(status.st_mode, S_IFDIR | 0750);
  EXPECT_EQ(status.st_uid, 12);
  EXPECT_EQ(status.st_gid, 34);
  const int fd = MUST(open(m.dir / "f", O_CREAT | O_WRONLY, 0644));
  char* memory = Pages(4);
  memset(memory, 'x', 4 * kPage);
  EXPECT_EQ(write(fd, memory, 4 * kPage), 2 * kPage);
  EXPECT_ERRNO(write(fd, memory, kPage), ENOSPC);
  CheckpointHere();
  struct statfs told = {};
  MUST(statfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_blocks, 2);
  EXPECT_EQ(told.f_bfree, 0);
}

GUEST_TEST(TmpfsOptions, BadOnesAreRefused) {
  Mounted m;
  EXPECT_ERRNO(mount("none", m.dir.path(), "tmpfs", 0, "nonesuch=1"), EINVAL);
  EXPECT_ERRNO(mount("none", m.dir.path(), "tmpfs", 0, "size=much"), EINVAL);
  EXPECT_ERRNO(mount("none", m.dir.path(), "tmpfs", 0, "mode=9"), EINVAL);
  EXPECT_ERRNO(mount("none", m.dir.path(), "nonesuch", 0, nullptr), ENODEV);
  EXPECT_ERRNO(mount("none", m.dir.path(), nullptr, 0, nullptr), EINVAL);
  EXPECT_ERRNO(mount("none", m.dir.path(), kBad, 0, nullptr), EFAULT);
}

GUEST_TEST(TmpfsOptions, NumberOfInodes) {
  Mounted m(0, "nr_inodes=4");
  int made = 0;
  while (made < 10 && mkdir(m.dir / Str("d%d", made), 0755) == 0) ++made;
  EXPECT_EQ(errno, ENOSPC);
  EXPECT_EQ(made, 3);  // The root is one.
}

GUEST_TEST(TmpfsOptions, NamesOfHardLinksCount) {
  Mounted m(0, "nr_inodes=4");
  WriteFile(m.dir / "f", "x");
  EXPECT_OK(link(m.dir / "f", m.dir / "g"));
  EXPECT_OK(link(m.dir / "f", m.dir / "h"));
  CheckpointHere();
  EXPECT_ERRNO(link(m.dir / "f", m.dir / "i"), ENOSPC);
  EXPECT_OK(unlink(m.dir / "g"));
  EXPECT_OK(link(m.dir / "f", m.dir / "i"));
  EXPECT_ERRNO(mkdir(m.dir / "d", 0755), ENOSPC);
}

GUEST_TEST(TmpfsOptions, HolesCountWhenTheyAreFilled) {
  Mounted m(0, "size=16k");
  const int fd = MUST(open(m.dir / "f", O_CREAT | O_RDWR, 0644));
  MUST(ftruncate(fd, 64 * kPage));
  char* memory = Pages(8);
  memset(memory, 'x', 8 * kPage);
  EXPECT_EQ(pwrite(fd, memory, 8 * kPage, 8 * kPage), 4 * kPage);
  CheckpointHere();
  EXPECT_ERRNO(pwrite(fd, memory, 1, 0), ENOSPC);
  EXPECT_EQ(pwrite(fd, memory, 4 * kPage, 8 * kPage), 4 * kPage);  // They are there.
  EXPECT_EQ(pwrite(fd, memory, 5 * kPage, 8 * kPage), 4 * kPage);
  EXPECT_ERRNO(fallocate(fd, 0, 0, kPage), ENOSPC);
  MUST(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 9 * kPage, kPage));
  EXPECT_EQ(pwrite(fd, memory, 2 * kPage, 0), kPage);
  struct statfs told = {};
  MUST(statfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_bfree, 0);
}

GUEST_TEST(TmpfsOptions, LongSymbolicLinksCount) {
  Mounted m(0, "size=4k");
  EXPECT_OK(symlink("short", m.dir / "s"));
  char target[500] = {};
  memset(target, 'x', sizeof(target) - 1);
  EXPECT_OK(symlink(target, m.dir / "l"));
  CheckpointHere();
  EXPECT_ERRNO(symlink(target, m.dir / "m"), ENOSPC);
  EXPECT_OK(unlink(m.dir / "l"));
  EXPECT_OK(symlink(target, m.dir / "m"));
}

GUEST_TEST(Binds, FilesOverFiles) {
  Mounted m;
  WriteFile(m.dir / "a", "A");
  WriteFile(m.dir / "b", "BB");
  MUST(mkdir(m.dir / "d", 0755));
  MUST(mount(m.dir / "a", m.dir / "b", nullptr, MS_BIND, nullptr));
  struct stat status = {};
  MUST(stat(m.dir / "b", &status));
  EXPECT_EQ(status.st_size, 1);
  EXPECT_ERRNO(unlink(m.dir / "b"), EBUSY);
  EXPECT_ERRNO(rename(m.dir / "b", m.dir / "c"), EBUSY);
  EXPECT_ERRNO(mount(m.dir / "a", m.dir / "d", nullptr, MS_BIND, nullptr), ENOTDIR);
  EXPECT_ERRNO(mount(m.dir / "d", m.dir / "a", nullptr, MS_BIND, nullptr), ENOTDIR);
  CheckpointHere();
  EXPECT_OK(umount(m.dir / "b"));
  MUST(stat(m.dir / "b", &status));
  EXPECT_EQ(status.st_size, 2);
}

GUEST_TEST(Binds, RecursiveOrNot) {
  Mounted m;
  MUST(mkdir(m.dir / "a", 0755));
  MUST(mkdir(m.dir / "a/inner", 0755));
  MUST(mkdir(m.dir / "plain", 0755));
  MUST(mkdir(m.dir / "deep", 0755));
  MUST(mount("none", m.dir / "a/inner", "tmpfs", 0, nullptr));
  WriteFile(m.dir / "a/inner/f", "");
  MUST(mount(m.dir / "a", m.dir / "plain", nullptr, MS_BIND, nullptr));
  MUST(mount(m.dir / "a", m.dir / "deep", nullptr, MS_BIND | MS_REC, nullptr));
  EXPECT_ERRNO(access(m.dir / "plain/inner/f", F_OK), ENOENT);
  EXPECT_OK(access(m.dir / "deep/inner/f", F_OK));
}

GUEST_TEST(Unmounting, BusyAndLazy) {
  Mounted m;
  MUST(mkdir(m.dir / "d", 0755));
  MUST(mount("none", m.dir / "d", "tmpfs", 0, nullptr));
  const int fd = MUST(open(m.dir / "d/f", O_CREAT | O_RDWR, 0644));
  EXPECT_ERRNO(umount(m.dir / "d"), EBUSY);
  EXPECT_OK(umount2(m.dir / "d", MNT_DETACH));
  EXPECT_ERRNO(access(m.dir / "d/f", F_OK), ENOENT);
  CheckpointHere();
  EXPECT_EQ(write(fd, "still", 5), 5);  // Whoever has it open goes on.
  EXPECT_ERRNO(umount(m.dir / "d"), EINVAL);
}

GUEST_TEST(Unmounting, WorkingFolderIsBusy) {
  Mounted m;
  MUST(mkdir(m.dir / "d", 0755));
  MUST(mount("none", m.dir / "d", "tmpfs", 0, nullptr));
  MUST(chdir(m.dir / "d"));
  EXPECT_ERRNO(umount(m.dir / "d"), EBUSY);
  MUST(chdir("/"));
  EXPECT_OK(umount(m.dir / "d"));
}

GUEST_TEST(Unmounting, Flags) {
  Mounted m;
  EXPECT_ERRNO(umount2(m.dir.path(), 0x100), EINVAL);
  EXPECT_ERRNO(umount2(m.dir.path(), MNT_EXPIRE | MNT_DETACH), EINVAL);
  MUST(symlink(m.dir.path(), "/tmp/guest-link"));
  EXPECT_ERRNO(umount2("/tmp/guest-link", UMOUNT_NOFOLLOW), EINVAL);
  MUST(unlink("/tmp/guest-link"));
  EXPECT_ERRNO(umount2(m.dir.path(), MNT_EXPIRE), EAGAIN);  // Marked; the second time it goes.
  EXPECT_OK(umount2(m.dir.path(), MNT_EXPIRE));
}

GUEST_TEST(Propagation, KindsExclude) {
  Mounted m;
  EXPECT_ERRNO(mount(nullptr, m.dir.path(), nullptr, MS_SHARED | MS_PRIVATE, nullptr), EINVAL);
  EXPECT_ERRNO(mount(nullptr, m.dir.path(), nullptr, MS_SHARED | MS_RDONLY, nullptr), EINVAL);
  EXPECT_OK(mount(nullptr, m.dir.path(), nullptr, MS_SHARED, nullptr));
  MUST(mkdir(m.dir / "d", 0755));
  EXPECT_ERRNO(mount(nullptr, m.dir / "d", nullptr, MS_PRIVATE, nullptr), EINVAL);  // No mount begins there.
  EXPECT_OK(mount(nullptr, m.dir.path(), nullptr, MS_UNBINDABLE, nullptr));
  EXPECT_ERRNO(mount(m.dir.path(), m.dir / "d", nullptr, MS_BIND, nullptr), EINVAL);
}

GUEST_TEST(Moving, IntoItselfAndShared) {
  Mounted m;
  MUST(mkdir(m.dir / "a", 0755));
  MUST(mkdir(m.dir / "b", 0755));
  MUST(mount("none", m.dir / "a", "tmpfs", 0, nullptr));
  MUST(mkdir(m.dir / "a/inner", 0755));
  EXPECT_ERRNO(mount(m.dir / "a", m.dir / "a/inner", nullptr, MS_MOVE, nullptr), ELOOP);
  EXPECT_ERRNO(mount(m.dir / "b", m.dir / "a", nullptr, MS_MOVE, nullptr), EINVAL);
  EXPECT_OK(mount(m.dir / "a", m.dir / "b", nullptr, MS_MOVE, nullptr));
  EXPECT_OK(access(m.dir / "b/inner", F_OK));
  EXPECT_ERRNO(access(m.dir / "a/inner", F_OK), ENOENT);
}

GUEST_TEST(NewMountCalls, Arguments) {
  Mounted m;
  EXPECT_ERRNO(Call(SYS_fsopen, "nonesuch", 0), ENODEV);
  EXPECT_ERRNO(Call(SYS_fsopen, "tmpfs", 0x100), EINVAL);
  EXPECT_ERRNO(Call(SYS_fsopen, kBadAddress, 0), EFAULT);
  const int context = MUST(Call(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC));
  EXPECT_ERRNO(Call(SYS_fsmount, context, 0, 0), EINVAL);  // Nothing was created yet.
  EXPECT_ERRNO(Call(SYS_fsconfig, context, 99, nullptr, nullptr, 0), EOPNOTSUPP);
  EXPECT_ERRNO(Call(SYS_fsconfig, context, FSCONFIG_SET_STRING, nullptr, "x", 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_fsconfig, 1, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_fsconfig, 999, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), EBADF);
  MUST(Call(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0));
  EXPECT_ERRNO(Call(SYS_fsmount, context, 0x100, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_open_tree, AT_FDCWD, m.dir.path(), 0x40000000), EINVAL);
  EXPECT_ERRNO(Call(SYS_open_tree, AT_FDCWD, (m.dir / "none").c_str(), 0), ENOENT);
  EXPECT_ERRNO(Call(SYS_move_mount, AT_FDCWD, m.dir.path(), AT_FDCWD, m.dir.path(), 0x40000000), EINVAL);
  EXPECT_ERRNO(Call(SYS_fspick, AT_FDCWD, (m.dir / "none").c_str(), 0), ENOENT);
}

GUEST_TEST(NewMountCalls, OpenTreeWithAttributes) {
  Mounted m;
  WriteFile(m.dir / "f", "");
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_RDONLY;
  const int fd = Call(kOpenTreeAttr, AT_FDCWD, m.dir.path(), OPEN_TREE_CLONE, &attributes, sizeof(attributes));
  if (fd < 0 && errno == ENOSYS) Skip("no open_tree_attr");
  MUST(fd);
  EXPECT_ERRNO(openat(fd, "f", O_WRONLY), EROFS);
  EXPECT_OK(open(m.dir / "f", O_WRONLY));
  EXPECT_ERRNO(Call(kOpenTreeAttr, AT_FDCWD, m.dir.path(), OPEN_TREE_CLONE, &attributes, 8L), EINVAL);
  EXPECT_ERRNO(Call(kOpenTreeAttr, AT_FDCWD, m.dir.path(), OPEN_TREE_CLONE, kBadAddress, sizeof(attributes)), EFAULT);
}

GUEST_TEST(NewMountCalls, AttributesOfATree) {
  Mounted m;
  mount_attr attributes = {};
  attributes.attr_set = MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV;
  EXPECT_OK(Call(SYS_mount_setattr, AT_FDCWD, m.dir.path(), 0, &attributes, sizeof(attributes)));
  struct statvfs told = {};
  MUST(statvfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_flag & (ST_NOEXEC | ST_NODEV), ST_NOEXEC | ST_NODEV);
  attributes = {};
  attributes.attr_clr = MOUNT_ATTR_NOEXEC;
  EXPECT_OK(Call(SYS_mount_setattr, AT_FDCWD, m.dir.path(), 0, &attributes, sizeof(attributes)));
  MUST(statvfs(m.dir.path(), &told));
  EXPECT_EQ(told.f_flag & (ST_NOEXEC | ST_NODEV), ST_NODEV);
  attributes.attr_set = 0x40000000;
  EXPECT_ERRNO(Call(SYS_mount_setattr, AT_FDCWD, m.dir.path(), 0, &attributes, sizeof(attributes)), EINVAL);
  EXPECT_ERRNO(Call(SYS_mount_setattr, AT_FDCWD, m.dir.path(), 0x40000000, &attributes, sizeof(attributes)), EINVAL);
  attributes = {};
  attributes.propagation = MS_SHARED | MS_PRIVATE;
  EXPECT_ERRNO(Call(SYS_mount_setattr, AT_FDCWD, m.dir.path(), 0, &attributes, sizeof(attributes)), EINVAL);
}

GUEST_TEST(PivotRootEdge, Rules) {
  Mounted m;
  MUST(mkdir(m.dir / "new", 0755));
  MUST(mkdir(m.dir / "new/old", 0755));
  EXPECT_ERRNO(Call(SYS_pivot_root, (m.dir / "new").c_str(), (m.dir / "new/old").c_str()), EINVAL);  // Not where a mount begins.
  EXPECT_ERRNO(Call(SYS_pivot_root, (m.dir / "none").c_str(), (m.dir / "none").c_str()), ENOENT);
  EXPECT_ERRNO(Call(SYS_pivot_root, kBadAddress, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_pivot_root, "/", "/"), EBUSY);
  AS_USER([&] { EXPECT_ERRNO(Call(SYS_pivot_root, m.dir.path(), m.dir.path()), EPERM); });
}

GUEST_TEST(MountUsers, MayNot) {
  TempDir dir;
  AS_USER([&] {
    EXPECT_ERRNO(mount("none", dir.path(), "tmpfs", 0, nullptr), EPERM);
    EXPECT_ERRNO(Call(SYS_fsopen, "tmpfs", 0), EPERM);
    EXPECT_ERRNO(Call(SYS_open_tree, AT_FDCWD, dir.path(), OPEN_TREE_CLONE), EPERM);
    EXPECT_OK(Call(SYS_open_tree, AT_FDCWD, dir.path(), 0));
    EXPECT_ERRNO(chroot(dir.path()), EPERM);
  });
}
