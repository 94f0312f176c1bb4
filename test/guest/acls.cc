// POSIX access control lists: acl(5), fs/posix_acl.c.
#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr const char* kAccess = "system.posix_acl_access";
constexpr const char* kDefault = "system.posix_acl_default";
enum : uint16_t { kUserObj = 1, kUser = 2, kGroupObj = 4, kGroup = 8, kMask = 16, kOther = 32 };

struct Entry {
  uint16_t tag, perm;
  uint32_t id = ~0u;
};

struct List {
  List(std::initializer_list<Entry> all) {
    for (const Entry& e : all) entries[count++] = e;
  }
  size_t size() const { return sizeof(version) + count * sizeof(Entry); }
  uint32_t version = 2;
  Entry entries[10];
  size_t count = 0;
};

int Set(const char* path, const char* name, const List& list) { return setxattr(path, name, &list, list.size(), 0); }

// The permissions of the entry, or -1.
int PermOf(const char* path, const char* name, uint16_t tag) {
  List list({});
  const ssize_t size = getxattr(path, name, &list, sizeof(list.version) + sizeof(list.entries));
  if (size < 0) return -1;
  EXPECT_EQ(list.version, 2u);
  for (size_t i = 0; i < (static_cast<size_t>(size) - sizeof(list.version)) / sizeof(Entry); ++i) {
    if (list.entries[i].tag == tag) return list.entries[i].perm;
  }
  return -1;
}

mode_t ModeOf(const char* path) {
  struct stat st;
  MUST(lstat(path, &st));
  return st.st_mode & 07777;
}

// A folder that others can enter, on a file system that takes lists.
struct Listed {
  Listed() : path(dir / "f") {
    MUST(chmod(dir.path(), 0755));
    WriteFile(path, "content");
    MUST(chmod(path, 0600));
    if (Set(path, kAccess, {{kUserObj, 6}, {kGroupObj, 0}, {kOther, 0}}) < 0 && errno == EOPNOTSUPP) Skip("no access control lists here");
  }
  TempDir dir;
  Str path;
};

template <typename F>
void As(uid_t uid, gid_t gid, F body) {
  JOIN_OK(Fork([&] {
    MUST(setgroups(0, nullptr));
    MUST(setresgid(gid, gid, gid));
    MUST(setresuid(uid, uid, uid));
    body();
  }));
}

}  // namespace

GUEST_TEST(Acl, NamesUsersAndMasksThem) {
  Listed f;
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 6}, {kUser, 6, 1000}, {kGroupObj, 0}, {kMask, 4}, {kOther, 0}}));
  EXPECT_EQ(ModeOf(f.path), 0640u);
  CheckpointHere();
  As(1000, 1000, [&] {
    EXPECT_OK(open(f.path, O_RDONLY));
    EXPECT_ERRNO(open(f.path, O_RDWR), EACCES);
    EXPECT_OK(access(f.path, R_OK));
    EXPECT_ERRNO(access(f.path, W_OK), EACCES);
  });
  As(1001, 1000, [&] { EXPECT_ERRNO(open(f.path, O_RDONLY), EACCES); });
  // chmod's group bits are the mask.
  EXPECT_OK(chmod(f.path, 0660));
  EXPECT_EQ(PermOf(f.path, kAccess, kMask), 6);
  EXPECT_EQ(PermOf(f.path, kAccess, kGroupObj), 0);
  As(1000, 1000, [&] { EXPECT_OK(open(f.path, O_RDWR)); });
  EXPECT_OK(chmod(f.path, 0600));
  As(1000, 1000, [&] { EXPECT_ERRNO(open(f.path, O_RDONLY), EACCES); });
  EXPECT_EQ(PermOf(f.path, kAccess, kUser), 6);
}

GUEST_TEST(Acl, NamesGroups) {
  Listed f;
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 6}, {kGroupObj, 0}, {kGroup, 4, 2000}, {kGroup, 2, 2001}, {kMask, 7}, {kOther, 7}}));
  EXPECT_EQ(ModeOf(f.path), 0677u);
  As(1000, 2000, [&] {
    EXPECT_OK(open(f.path, O_RDONLY));
    EXPECT_ERRNO(open(f.path, O_WRONLY), EACCES);
  });
  // In both groups: neither of them grants reading and writing at once.
  JOIN_OK(Fork([&] {
    gid_t groups[] = {2000, 2001};
    MUST(setgroups(2, groups));
    MUST(setresgid(3000, 3000, 3000));
    MUST(setresuid(1000, 1000, 1000));
    EXPECT_OK(open(f.path, O_RDONLY));
    EXPECT_OK(open(f.path, O_WRONLY));
    EXPECT_ERRNO(open(f.path, O_RDWR), EACCES);
  }));
  As(1000, 0, [&] { EXPECT_ERRNO(open(f.path, O_RDONLY), EACCES); });  // the owning group
  As(1000, 3000, [&] { EXPECT_OK(open(f.path, O_RDWR)); });
}

GUEST_TEST(Acl, OneThatTheModeSaysIsNotKept) {
  Listed f;
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 7}, {kUser, 7, 5}, {kGroupObj, 4}, {kMask, 4}, {kOther, 1}}));
  EXPECT_OK(getxattr(f.path, kAccess, nullptr, 0));
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 6}, {kGroupObj, 5}, {kOther, 4}}));
  EXPECT_EQ(ModeOf(f.path), 0654u);
  EXPECT_ERRNO(getxattr(f.path, kAccess, nullptr, 0), ENODATA);
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 6}, {kUser, 7, 5}, {kGroupObj, 5}, {kMask, 5}, {kOther, 4}}));
  EXPECT_OK(removexattr(f.path, kAccess));
  EXPECT_ERRNO(getxattr(f.path, kAccess, nullptr, 0), ENODATA);
  EXPECT_EQ(ModeOf(f.path), 0654u);
}

GUEST_TEST(Acl, DefaultsAreInherited) {
  Listed f;
  Str dir = f.dir / "d";
  MUST(mkdir(dir, 0755));
  EXPECT_OK(Set(dir, kDefault, {{kUserObj, 7}, {kUser, 7, 1000}, {kGroupObj, 5}, {kMask, 7}, {kOther, 1}}));
  EXPECT_EQ(ModeOf(dir), 0755u);
  umask(077);
  Str file = f.dir / "d/f", sub = f.dir / "d/s", node = f.dir / "d/n";
  MUST(close(MUST(open(file, O_CREAT | O_RDWR, 0664))));
  EXPECT_EQ(ModeOf(file), 0660u);  // the list takes the umask's place
  EXPECT_EQ(PermOf(file, kAccess, kUser), 7);
  EXPECT_EQ(PermOf(file, kAccess, kMask), 6);
  EXPECT_EQ(PermOf(file, kAccess, kGroupObj), 5);
  EXPECT_EQ(PermOf(file, kDefault, kUser), -1);
  MUST(mkdir(sub, 0777));
  EXPECT_EQ(ModeOf(sub), 0771u);
  CheckpointHere();
  EXPECT_EQ(PermOf(sub, kDefault, kUser), 7);
  EXPECT_EQ(PermOf(sub, kAccess, kMask), 7);
  MUST(mknod(node, S_IFREG | 0640, 0));
  EXPECT_EQ(ModeOf(node), 0640u);
  EXPECT_EQ(PermOf(node, kAccess, kMask), 4);
  // Without a list the umask counts.
  EXPECT_OK(removexattr(dir, kDefault));
  Str plain = f.dir / "d/p";
  MUST(close(MUST(open(plain, O_CREAT | O_RDWR, 0666))));
  EXPECT_EQ(ModeOf(plain), 0600u);
  EXPECT_ERRNO(getxattr(plain, kAccess, nullptr, 0), ENODATA);
}

GUEST_TEST(Acl, MalformedOnesAreRefused) {
  Listed f;
  EXPECT_ERRNO(Set(f.path, kAccess, {{kUserObj, 6}, {kUser, 6, 1000}, {kGroupObj, 0}, {kOther, 0}}), EINVAL);  // no mask
  EXPECT_ERRNO(Set(f.path, kAccess, {{kGroupObj, 0}, {kUserObj, 6}, {kOther, 0}}), EINVAL);                    // the order
  EXPECT_ERRNO(Set(f.path, kAccess, {{kUserObj, 6}, {kOther, 0}}), EINVAL);
  EXPECT_ERRNO(Set(f.path, kAccess, {{kUserObj, 8}, {kGroupObj, 0}, {kOther, 0}}), EINVAL);
  EXPECT_ERRNO(Set(f.path, kAccess, {{kUserObj, 6}, {kGroupObj, 0}, {kOther, 0}, {kOther, 0}}), EINVAL);
  List good({{kUserObj, 6}, {kGroupObj, 0}, {kOther, 0}});
  EXPECT_ERRNO(setxattr(f.path, kAccess, &good, good.size() - 1, 0), EINVAL);
  EXPECT_ERRNO(setxattr(f.path, kAccess, &good, 2, 0), EINVAL);
  good.version = 1;
  EXPECT_ERRNO(setxattr(f.path, kAccess, &good, good.size(), 0), EOPNOTSUPP);
  good.version = 2;
  EXPECT_ERRNO(Set(f.path, kDefault, good), EACCES);
  Str link = f.dir / "l";
  MUST(symlink("f", link));
  EXPECT_ERRNO(lsetxattr(link, kAccess, &good, good.size(), 0), EOPNOTSUPP);
  EXPECT_ERRNO(lgetxattr(link, kAccess, nullptr, 0), EOPNOTSUPP);
  As(1000, 1000, [&] {
    EXPECT_ERRNO(Set(f.path, kAccess, good), EPERM);
    EXPECT_ERRNO(removexattr(f.path, kAccess), EPERM);
    EXPECT_ERRNO(getxattr(f.path, kAccess, nullptr, 0), ENODATA);
  });
  // No entries: none.
  EXPECT_OK(Set(f.path, kAccess, {{kUserObj, 6}, {kUser, 6, 1000}, {kGroupObj, 0}, {kMask, 6}, {kOther, 0}}));
  EXPECT_OK(Set(f.path, kAccess, {}));
  EXPECT_ERRNO(getxattr(f.path, kAccess, nullptr, 0), ENODATA);
}

GUEST_TEST(Acl, DirectoriesAreSearchedByThem) {
  Listed f;
  Str dir = f.dir / "d", inner = f.dir / "d/f";
  MUST(mkdir(dir, 0700));
  WriteFile(inner, "x");
  As(1000, 1000, [&] { EXPECT_ERRNO(open(inner, O_RDONLY), EACCES); });
  EXPECT_OK(Set(dir, kAccess, {{kUserObj, 7}, {kUser, 1, 1000}, {kGroupObj, 0}, {kMask, 1}, {kOther, 0}}));
  As(1000, 1000, [&] {
    EXPECT_OK(open(inner, O_RDONLY));
    EXPECT_ERRNO(open(dir, O_RDONLY), EACCES);
  });
}
