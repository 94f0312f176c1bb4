// Extended attributes: sizes, flags, name spaces, who may touch them.
#include <sys/socket.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A file in a fresh folder, on a file system that takes user attributes.
struct Attributed {
  Attributed() : path(dir / "f") {
    WriteFile(path, "content");
    if (setxattr(path, "user.probe", "", 0, 0) < 0 && errno == EOPNOTSUPP) Skip("no extended attributes here");
    MUST(removexattr(path, "user.probe"));
  }
  TempDir dir;
  Str path;
};

bool Lists(const char* path, const char* name) {
  char names[1024];
  const ssize_t length = MUST(listxattr(path, names, sizeof(names)));
  for (const char* at = names; at < names + length; at += strlen(at) + 1) {
    if (strcmp(at, name) == 0) return true;
  }
  return false;
}

}  // namespace

GUEST_TEST(Xattr, SizeIsToldFirst) {
  Attributed f;
  MUST(setxattr(f.path, "user.a", "12345", 5, 0));
  EXPECT_EQ(getxattr(f.path, "user.a", nullptr, 0), 5);
  char value[8] = {};
  EXPECT_ERRNO(getxattr(f.path, "user.a", value, 4), ERANGE);
  EXPECT_EQ(getxattr(f.path, "user.a", value, 5), 5);
  EXPECT_EQ(memcmp(value, "12345", 5), 0);
  EXPECT_EQ(getxattr(f.path, "user.a", value, 8), 5);
  CheckpointHere();
  EXPECT_EQ(getxattr(f.path, "user.a", value, 8), 5);
  EXPECT_EQ(memcmp(value, "12345", 5), 0);
}

GUEST_TEST(Xattr, CreateAndReplace) {
  Attributed f;
  EXPECT_ERRNO(setxattr(f.path, "user.a", "x", 1, XATTR_REPLACE), ENODATA);
  EXPECT_OK(setxattr(f.path, "user.a", "x", 1, XATTR_CREATE));
  EXPECT_ERRNO(setxattr(f.path, "user.a", "y", 1, XATTR_CREATE), EEXIST);
  EXPECT_OK(setxattr(f.path, "user.a", "yy", 2, XATTR_REPLACE));
  EXPECT_EQ(getxattr(f.path, "user.a", nullptr, 0), 2);
  EXPECT_ERRNO(setxattr(f.path, "user.a", "y", 1, 4), EINVAL);
}

GUEST_TEST(Xattr, EmptyValueIsAValue) {
  Attributed f;
  EXPECT_OK(setxattr(f.path, "user.empty", nullptr, 0, 0));
  EXPECT_EQ(getxattr(f.path, "user.empty", nullptr, 0), 0);
  EXPECT(Lists(f.path, "user.empty"));
}

GUEST_TEST(Xattr, Names) {
  Attributed f;
  EXPECT_ERRNO(setxattr(f.path, "", "x", 1, 0), ERANGE);
  EXPECT_ERRNO(setxattr(f.path, "user.", "x", 1, 0), EINVAL);
  EXPECT_ERRNO(setxattr(f.path, "nospace", "x", 1, 0), EOPNOTSUPP);
  EXPECT_ERRNO(setxattr(f.path, "strange.name", "x", 1, 0), EOPNOTSUPP);
  char name[300];
  memset(name, 'n', sizeof(name));
  memcpy(name, "user.", 5);
  name[256] = '\0';
  EXPECT_ERRNO(setxattr(f.path, name, "x", 1, 0), ERANGE);
  EXPECT_ERRNO(getxattr(f.path, name, nullptr, 0), ERANGE);
  EXPECT_ERRNO(removexattr(f.path, name), ERANGE);
  name[255] = '\0';
  EXPECT_OK(setxattr(f.path, name, "x", 1, 0));
  EXPECT(Lists(f.path, name));
}

GUEST_TEST(Xattr, ValueHasALimit) {
  Attributed f;
  char* value = Pages(17);
  EXPECT_ERRNO(setxattr(f.path, "user.big", value, 65537, 0), E2BIG);
  EXPECT_ERRNO(setxattr(f.path, "user.big", value, SIZE_MAX, 0), E2BIG);
}

GUEST_TEST(Xattr, BadPointers) {
  Attributed f;
  MUST(setxattr(f.path, "user.a", "12345", 5, 0));
  EXPECT_ERRNO(setxattr(kBad, "user.a", "x", 1, 0), EFAULT);
  EXPECT_ERRNO(setxattr(f.path, kBad, "x", 1, 0), EFAULT);
  EXPECT_ERRNO(syscall(SYS_setxattr, f.path.c_str(), "user.a", kBadAddress, 5, 0), EFAULT);
  EXPECT_ERRNO(syscall(SYS_getxattr, f.path.c_str(), "user.a", kBadAddress, 5), EFAULT);
  EXPECT_ERRNO(syscall(SYS_getxattr, f.path.c_str(), kBadAddress, nullptr, 0), EFAULT);
  EXPECT_ERRNO(syscall(SYS_listxattr, f.path.c_str(), kBadAddress, 100), EFAULT);
  EXPECT_ERRNO(removexattr(f.path, kBad), EFAULT);
  EXPECT_EQ(getxattr(f.path, "user.a", nullptr, 0), 5);
}

GUEST_TEST(Xattr, Missing) {
  Attributed f;
  EXPECT_ERRNO(getxattr(f.path, "user.none", nullptr, 0), ENODATA);
  EXPECT_ERRNO(removexattr(f.path, "user.none"), ENODATA);
  EXPECT_ERRNO(getxattr(f.dir / "none", "user.a", nullptr, 0), ENOENT);
  EXPECT_ERRNO(listxattr(f.dir / "none", nullptr, 0), ENOENT);
  EXPECT_ERRNO(setxattr(f.dir / "none", "user.a", "x", 1, 0), ENOENT);
  EXPECT_ERRNO(setxattr(f.dir / "f/x", "user.a", "x", 1, 0), ENOTDIR);
}

GUEST_TEST(Xattr, ListIsTerminatedNames) {
  Attributed f;
  MUST(setxattr(f.path, "user.one", "1", 1, 0));
  MUST(setxattr(f.path, "user.two", "2", 1, 0));
  const ssize_t needed = MUST(listxattr(f.path, nullptr, 0));
  EXPECT_GE(needed, 18);
  char names[256];
  EXPECT_ERRNO(listxattr(f.path, names, 8), ERANGE);
  EXPECT_EQ(listxattr(f.path, names, static_cast<size_t>(needed)), needed);
  EXPECT_EQ(names[needed - 1], 0);
  CheckpointHere();
  EXPECT(Lists(f.path, "user.one"));
  MUST(removexattr(f.path, "user.one"));
  EXPECT(!Lists(f.path, "user.one"));
  EXPECT(Lists(f.path, "user.two"));
}

GUEST_TEST(Xattr, ByDescriptor) {
  Attributed f;
  const int fd = MUST(open(f.path, O_RDONLY));  // Reading suffices: attributes are not content.
  EXPECT_OK(fsetxattr(fd, "user.a", "value", 5, 0));
  EXPECT_EQ(fgetxattr(fd, "user.a", nullptr, 0), 5);
  char names[256];
  EXPECT_GE(flistxattr(fd, names, sizeof(names)), 7);
  MUST(unlink(f.path));
  CheckpointHere();
  EXPECT_EQ(fgetxattr(fd, "user.a", nullptr, 0), 5);
  EXPECT_OK(fremovexattr(fd, "user.a"));
  EXPECT_ERRNO(fremovexattr(fd, "user.a"), ENODATA);
}

GUEST_TEST(Xattr, DescriptorsThatDoNotServe) {
  Attributed f;
  const int path = MUST(open(f.path, O_PATH));
  EXPECT_ERRNO(fsetxattr(path, "user.a", "x", 1, 0), EBADF);
  EXPECT_ERRNO(fgetxattr(path, "user.a", nullptr, 0), EBADF);
  EXPECT_ERRNO(flistxattr(path, nullptr, 0), EBADF);
  EXPECT_ERRNO(fremovexattr(path, "user.a"), EBADF);
  EXPECT_ERRNO(fsetxattr(999, "user.a", "x", 1, 0), EBADF);
  EXPECT_ERRNO(fgetxattr(-1, "user.a", nullptr, 0), EBADF);
}

GUEST_TEST(Xattr, LinksHaveNoUserAttributes) {
  Attributed f;
  const Str link = f.dir / "link";
  MUST(symlink("f", link));
  EXPECT_OK(setxattr(link, "user.a", "x", 1, 0));
  EXPECT_EQ(getxattr(f.path, "user.a", nullptr, 0), 1);
  EXPECT_ERRNO(lsetxattr(link, "user.a", "x", 1, 0), EPERM);
  EXPECT_ERRNO(lgetxattr(link, "user.a", nullptr, 0), ENODATA);
  EXPECT_ERRNO(lremovexattr(link, "user.a"), EPERM);
  EXPECT_EQ(llistxattr(link, nullptr, 0), 0);
}

GUEST_TEST(Xattr, LinksHaveTrustedOnes) {
  Attributed f;
  const Str link = f.dir / "link";
  MUST(symlink("none", link));
  if (lsetxattr(link, "trusted.a", "xyz", 3, 0) < 0 && (errno == EPERM || errno == EOPNOTSUPP)) Skip("no trusted attributes here");
  EXPECT_EQ(lgetxattr(link, "trusted.a", nullptr, 0), 3);
  char names[64] = {};
  EXPECT_EQ(llistxattr(link, names, sizeof(names)), 10);
  EXPECT_STREQ(names, "trusted.a");
  EXPECT_OK(lremovexattr(link, "trusted.a"));
}

GUEST_TEST(Xattr, OnlyFilesAndFoldersHaveUserOnes) {
  Attributed f;
  const Str fifo = f.dir / "fifo";
  MUST(mkfifo(fifo, 0666));
  EXPECT_ERRNO(setxattr(fifo, "user.a", "x", 1, 0), EPERM);
  EXPECT_ERRNO(getxattr(fifo, "user.a", nullptr, 0), ENODATA);
  EXPECT_OK(setxattr(f.dir.path(), "user.a", "x", 1, 0));
  EXPECT_EQ(getxattr(f.dir.path(), "user.a", nullptr, 0), 1);
}

GUEST_TEST(Xattr, ModeBitsDecideAboutUserOnes) {
  Attributed f;
  MUST(setxattr(f.path, "user.a", "x", 1, 0));
  MUST(chmod(f.path, 0644));
  AS_USER([&] {
    EXPECT_EQ(getxattr(f.path, "user.a", nullptr, 0), 1);
    EXPECT_ERRNO(setxattr(f.path, "user.a", "y", 1, 0), EACCES);
    EXPECT_ERRNO(removexattr(f.path, "user.a"), EACCES);
  });
  MUST(chmod(f.path, 0622));
  AS_USER([&] {
    EXPECT_ERRNO(getxattr(f.path, "user.a", nullptr, 0), EACCES);
    EXPECT_OK(setxattr(f.path, "user.a", "yz", 2, 0));
    EXPECT_EQ(listxattr(f.path, nullptr, 0), 7);  // Listing asks for no permission on the file.
  });
}

GUEST_TEST(Xattr, StickyFolderIsItsOwners) {
  Attributed f;
  const Str folder = f.dir / "sticky";
  MUST(mkdir(folder, 0777));
  MUST(chmod(folder, 01777));
  AS_USER([&] { EXPECT_ERRNO(setxattr(folder, "user.a", "x", 1, 0), EPERM); });
  MUST(chmod(folder, 0777));
  AS_USER([&] { EXPECT_OK(setxattr(folder, "user.a", "x", 1, 0)); });
}

GUEST_TEST(Xattr, TrustedOnesAreHidden) {
  Attributed f;
  if (setxattr(f.path, "trusted.a", "x", 1, 0) < 0) Skip("no trusted attributes here");
  EXPECT(Lists(f.path, "trusted.a"));
  AS_USER([&] {
    EXPECT_ERRNO(getxattr(f.path, "trusted.a", nullptr, 0), ENODATA);
    EXPECT_ERRNO(setxattr(f.path, "trusted.a", "y", 1, 0), EPERM);
    EXPECT_ERRNO(removexattr(f.path, "trusted.a"), EPERM);
    EXPECT(!Lists(f.path, "trusted.a"));
  });
}

GUEST_TEST(Xattr, SecurityOnesNeedPrivilege) {
  Attributed f;
  if (setxattr(f.path, "security.amber", "x", 1, 0) < 0) Skip("no security attributes here");
  AS_USER([&] {
    EXPECT_EQ(getxattr(f.path, "security.amber", nullptr, 0), 1);
    EXPECT_ERRNO(setxattr(f.path, "security.amber", "y", 1, 0), EPERM);
    EXPECT_ERRNO(removexattr(f.path, "security.amber"), EPERM);
  });
  EXPECT_OK(removexattr(f.path, "security.amber"));
}

GUEST_TEST(Xattr, FollowTheFileNotTheName) {
  Attributed f;
  MUST(setxattr(f.path, "user.a", "x", 1, 0));
  MUST(link(f.path, f.dir / "other"));
  MUST(rename(f.path, f.dir / "moved"));
  CheckpointHere();
  EXPECT_EQ(getxattr(f.dir / "other", "user.a", nullptr, 0), 1);
  EXPECT_EQ(getxattr(f.dir / "moved", "user.a", nullptr, 0), 1);
}

GUEST_TEST(Xattr, SettingAdvancesTheChangeTime) {
  Attributed f;
  struct stat before = {}, after = {};
  MUST(stat(f.path, &before));
  SleepMs(20);
  MUST(setxattr(f.path, "user.a", "x", 1, 0));
  MUST(stat(f.path, &after));
  EXPECT_EQ(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
  EXPECT(after.st_ctim.tv_sec > before.st_ctim.tv_sec || after.st_ctim.tv_nsec > before.st_ctim.tv_nsec);
}

GUEST_TEST(Xattr, PipesAndSocketsHaveNone) {
  Pipe p;
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  for (const int one : {p.r, fd}) {
    EXPECT_ERRNO(fsetxattr(one, "user.a", "x", 1, 0), EPERM);
    EXPECT_ERRNO(fgetxattr(one, "user.a", nullptr, 0), ENODATA);
  }
}

GUEST_TEST(Xattr, AccessListsByMode) {
  Attributed f;
  // A file without a list has none: its mode says all.
  const ssize_t got = getxattr(f.path, "system.posix_acl_access", nullptr, 0);
  EXPECT_EQ(got, -1);
  EXPECT(errno == ENODATA || errno == EOPNOTSUPP);
  EXPECT(!Lists(f.path, "system.posix_acl_access"));
  EXPECT_ERRNO(setxattr(f.path, "system.posix_acl_access", "bad", 3, 0), errno == EOPNOTSUPP ? EOPNOTSUPP : EINVAL);
}

GUEST_TEST(Xattr, CapabilitiesOfFiles) {
  Attributed f;
  // struct vfs_cap_data, version 2: CAP_NET_RAW permitted and effective.
  const uint32_t data[5] = {0x02000001, 1u << 13, 0, 0, 0};
  if (setxattr(f.path, "security.capability", data, sizeof(data), 0) < 0 && errno == EOPNOTSUPP) Skip("no capabilities of files here");
  uint32_t told[6] = {};
  EXPECT_EQ(getxattr(f.path, "security.capability", told, sizeof(told)), 20);
  EXPECT_EQ(told[0], data[0]);
  EXPECT_EQ(told[1], data[1]);
  EXPECT_ERRNO(setxattr(f.path, "security.capability", data, 7, 0), EINVAL);
  EXPECT_ERRNO(setxattr(f.path, "security.capability", "12345678901234567890", 20, 0), EINVAL);
}

GUEST_TEST(Xattr, WritingTakesTheCapabilitiesOfAFile) {
  Attributed f;
  const uint32_t data[5] = {0x02000001, 1u << 13, 0, 0, 0};
  if (setxattr(f.path, "security.capability", data, sizeof(data), 0) < 0 && errno == EOPNOTSUPP) Skip("no capabilities of files here");
  uint32_t told[6] = {};
  const int fd = MUST(open(f.path, O_WRONLY));
  MUST(write(fd, "x", 1));  // Who writes into a program takes its capabilities away.
  EXPECT_ERRNO(getxattr(f.path, "security.capability", told, sizeof(told)), ENODATA);
}
