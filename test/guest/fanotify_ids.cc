// fanotify groups that tell files by handles and names (FAN_REPORT_FID and its kin): which flags go together, what is told of names that come, go and
// move, and that the handles are those of name_to_handle_at.
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <initializer_list>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr unsigned kDfidName = FAN_REPORT_DIR_FID | FAN_REPORT_NAME;
constexpr uint64_t kNames = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO | FAN_ONDIR;

struct Id {
  uint32_t bytes = 128;
  int32_t type = 0;
  uint8_t data[128] = {};
};

Id IdOf(const char* path) {
  Id id;
  int mount_id;
  MUST(static_cast<int>(syscall(SYS_name_to_handle_at, AT_FDCWD, path, &id, &mount_id, 0x200 /* AT_HANDLE_FID */)));
  return id;
}

// One record of an event: its type, whose handle it has, and the name.
struct Record {
  int type;
  const Id* id;
  const char* name;
};
struct Expected {
  uint64_t mask;
  std::initializer_list<Record> records;
};

class Group {
 public:
  explicit Group(unsigned flags) {
    fd_ = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC | flags, O_RDONLY);
    if (fd_ < 0 && (errno == EPERM || errno == ENOSYS)) Skip("no fanotify here");
    MUST(fd_);
  }
  ~Group() { close(fd_); }
  int fd() const { return fd_; }
  int Mark(unsigned flags, uint64_t mask, const char* path) const { return fanotify_mark(fd_, flags, mask, AT_FDCWD, path); }

  void Expect(const char* file, int line, std::initializer_list<Expected> list) const {
    alignas(8) char buffer[8192];
    const ssize_t length = read(fd_, buffer, sizeof(buffer));
    ssize_t at = 0;
    for (const Expected& expected : list) {
      if (at >= length) return Fail(file, line, false, "no event where %llx was expected", static_cast<unsigned long long>(expected.mask));
      const auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer + at);
      CheckCompare(file, line, false, "mask", "expected", static_cast<uint64_t>(event->mask), Op::kEq, expected.mask);
      CheckCompare(file, line, false, "pid", "own", event->pid, Op::kEq, getpid());
      CheckCompare(file, line, false, "fd", "FAN_NOFD", event->fd, Op::kEq, FAN_NOFD);
      size_t record = event->metadata_len;
      for (const Record& want : expected.records) record += CheckRecord(file, line, buffer + at + record, want);
      CheckCompare(file, line, false, "length", "records", static_cast<size_t>(event->event_len), Op::kEq, record);
      at += event->event_len;
    }
    if (at < length) Fail(file, line, false, "one more event: %llx", reinterpret_cast<fanotify_event_metadata*>(buffer + at)->mask);
  }

 private:
  static size_t CheckRecord(const char* file, int line, const char* at, const Record& want) {
    const auto* info = reinterpret_cast<const fanotify_event_info_fid*>(at);
    const auto* handle = reinterpret_cast<const Id*>(info->handle);
    CheckCompare(file, line, false, "type", "expected", static_cast<int>(info->hdr.info_type), Op::kEq, want.type);
    CheckCompare(file, line, false, "handle's size", "expected", handle->bytes, Op::kEq, want.id->bytes);
    CheckCompare(file, line, false, "handle's type", "expected", handle->type, Op::kEq, want.id->type);
    if (memcmp(handle->data, want.id->data, want.id->bytes) != 0) Fail(file, line, false, "another handle");
    size_t size = sizeof(*info) + 8 + handle->bytes;
    if (want.name != nullptr) {
      CheckStrings(file, line, false, "name", reinterpret_cast<const char*>(handle->data) + handle->bytes, want.name);
      size += strlen(want.name) + 1;
    }
    return (size + 3) & ~size_t{3};
  }

  int fd_;
};

#define EXPECT_TOLD(group, ...) (group).Expect(__FILE__, __LINE__, {__VA_ARGS__})

// A tmpfs of its own.
class Tree {
 public:
  Tree() {
    if (mount("none", dir_.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
    MUST(mkdir(dir_ / "d", 0755));
    MUST(mkdir(dir_ / "e", 0755));
    WriteFile(dir_ / "d/f", "content");
  }
  ~Tree() { umount2(dir_.path(), MNT_DETACH); }
  Str operator/(const char* name) const { return dir_ / name; }
  const char* path() const { return dir_.path(); }

 private:
  TempDir dir_;
};

}  // namespace

GUEST_TEST(FanotifyIds, Flags) {
  {
    Group probe(FAN_REPORT_FID);
  }
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_CLASS_CONTENT, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_NAME, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_REPORT_NAME, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(kDfidName | FAN_REPORT_TARGET_FID, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_TARGET_FID, O_RDONLY), EINVAL);
  EXPECT_ERRNO(fanotify_init(FAN_REPORT_FID | 0x8000, O_RDONLY), EINVAL);
  Tree tree;
  Group plain(0), fid(FAN_REPORT_FID), dfid(FAN_REPORT_DIR_FID), name(kDfidName), all(FAN_REPORT_DFID_NAME_TARGET);
  for (const uint64_t mask : {FAN_ATTRIB, FAN_CREATE, FAN_DELETE_SELF, FAN_MOVE_SELF, FAN_MOVED_TO}) {
    EXPECT_ERRNO(plain.Mark(FAN_MARK_ADD, mask, tree / "d"), EINVAL);
    EXPECT_ERRNO(fid.Mark(FAN_MARK_ADD | FAN_MARK_MOUNT, mask, tree / "d"), EINVAL);
    EXPECT_EQ(fid.Mark(FAN_MARK_ADD, mask, tree / "d"), 0);
  }
  EXPECT_ERRNO(fid.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d"), EINVAL);
  EXPECT_ERRNO(dfid.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d"), EINVAL);
  EXPECT_EQ(name.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d"), 0);
  EXPECT_ERRNO(name.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d/f"), ENOTDIR);
  EXPECT_EQ(name.Mark(FAN_MARK_ADD, FAN_CREATE, tree / "d/f"), 0);
  EXPECT_ERRNO(all.Mark(FAN_MARK_ADD, FAN_CREATE, tree / "d/f"), ENOTDIR);
  EXPECT_ERRNO(all.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_ONDIR, tree / "d/f"), ENOTDIR);
  EXPECT_ERRNO(fid.Mark(FAN_MARK_ADD, FAN_FS_ERROR, tree / "d"), EINVAL);
  EXPECT_EQ(fid.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_FS_ERROR, tree / "d"), 0);
  EXPECT_ERRNO(fid.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, "/proc"), EOPNOTSUPP);
  EXPECT_EQ(fid.Mark(FAN_MARK_ADD, FAN_OPEN, "/proc/version"), 0);
}

GUEST_TEST(FanotifyIds, NamesThatComeAndGo) {
  Tree tree;
  Group group(kDfidName);
  MUST(group.Mark(FAN_MARK_ADD, kNames, tree / "d"));
  const Id d = IdOf(tree / "d");
  WriteFile(tree / "d/new", "x");
  EXPECT_TOLD(group, {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "new"}}});
  MUST(mkdir(tree / "d/sub", 0755));
  MUST(symlink("x", tree / "d/link"));
  MUST(link(tree / "d/f", tree / "d/hard"));
  CheckpointHere();
  EXPECT_TOLD(group, {FAN_CREATE | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "sub"}}},
              {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "link"}}}, {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "hard"}}});
  MUST(rename(tree / "d/new", tree / "d/newer"));
  EXPECT_TOLD(group, {FAN_MOVED_FROM, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "new"}}}, {FAN_MOVED_TO, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "newer"}}});
  MUST(rename(tree / "d/sub", tree / "e/sub"));
  MUST(unlink(tree / "d/newer"));
  EXPECT_TOLD(group, {FAN_MOVED_FROM | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "sub"}}},
              {FAN_DELETE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "newer"}}});
  // What is made and removed under one name is one event.
  WriteFile(tree / "d/brief", "x");
  MUST(unlink(tree / "d/brief"));
  EXPECT_TOLD(group, {FAN_CREATE | FAN_DELETE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "brief"}}});
  MUST(rename(tree / "e/sub", tree / "d/sub"));
  MUST(rmdir(tree / "d/sub"));
  EXPECT_TOLD(group, {FAN_MOVED_TO | FAN_DELETE | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "sub"}}});
}

GUEST_TEST(FanotifyIds, WhatIsTold) {
  Tree tree;
  const Id d = IdOf(tree / "d"), f = IdOf(tree / "d/f");
  auto act = [&] {
    close(MUST(open(tree / "d/f", O_RDONLY)));
    WriteFile(tree / "d/g", "");
  };
  constexpr uint64_t kMask = FAN_OPEN | FAN_CLOSE_NOWRITE | FAN_CREATE | FAN_EVENT_ON_CHILD;
  {
    Group group(FAN_REPORT_FID);
    MUST(group.Mark(FAN_MARK_ADD, kMask, tree / "d"));
    act();
    const Id g = IdOf(tree / "d/g");
    EXPECT_TOLD(group, {FAN_OPEN | FAN_CLOSE_NOWRITE, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}},
                {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_FID, &d, nullptr}}}, {FAN_OPEN, {{FAN_EVENT_INFO_TYPE_FID, &g, nullptr}}});
    MUST(unlink(tree / "d/g"));
  }
  {
    Group group(FAN_REPORT_DIR_FID);
    MUST(group.Mark(FAN_MARK_ADD, kMask, tree / "d"));
    act();
    EXPECT_TOLD(group, {FAN_OPEN | FAN_CLOSE_NOWRITE | FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID, &d, nullptr}}});
    MUST(unlink(tree / "d/g"));
  }
  {
    Group group(FAN_REPORT_DIR_FID | FAN_REPORT_FID);
    MUST(group.Mark(FAN_MARK_ADD, kMask, tree / "d"));
    act();
    const Id g = IdOf(tree / "d/g");
    EXPECT_TOLD(group, {FAN_OPEN | FAN_CLOSE_NOWRITE, {{FAN_EVENT_INFO_TYPE_DFID, &d, nullptr}, {FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}},
                {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID, &d, nullptr}}},
                {FAN_OPEN, {{FAN_EVENT_INFO_TYPE_DFID, &d, nullptr}, {FAN_EVENT_INFO_TYPE_FID, &g, nullptr}}});
    MUST(unlink(tree / "d/g"));
  }
  {
    Group group(FAN_REPORT_DFID_NAME_TARGET);
    MUST(group.Mark(FAN_MARK_ADD, kMask, tree / "d"));
    act();
    const Id g = IdOf(tree / "d/g");
    EXPECT_TOLD(group, {FAN_OPEN | FAN_CLOSE_NOWRITE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "f"}, {FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}},
                {FAN_CREATE | FAN_OPEN, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "g"}, {FAN_EVENT_INFO_TYPE_FID, &g, nullptr}}});
  }
}

GUEST_TEST(FanotifyIds, Directories) {
  Tree tree;
  const Id d = IdOf(tree / "d");
  Group names(kDfidName), fids(FAN_REPORT_FID);
  MUST(names.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_ATTRIB | FAN_ONDIR, tree / "d"));
  MUST(fids.Mark(FAN_MARK_ADD, FAN_OPEN | FAN_ATTRIB | FAN_ONDIR, tree / "d"));
  close(MUST(open(tree / "d", O_RDONLY)));
  MUST(chmod(tree / "d", 0700));
  EXPECT_TOLD(names, {FAN_OPEN | FAN_ATTRIB | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "."}}});
  EXPECT_TOLD(fids, {FAN_OPEN | FAN_ATTRIB | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_FID, &d, nullptr}}});
}

GUEST_TEST(FanotifyIds, Renames) {
  Tree tree;
  const Id d = IdOf(tree / "d"), e = IdOf(tree / "e"), f = IdOf(tree / "d/f");
  Group from(kDfidName), to(kDfidName), both(FAN_REPORT_DFID_NAME_TARGET), everything(kDfidName);
  MUST(from.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d"));
  MUST(to.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "e"));
  MUST(both.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "d"));
  MUST(both.Mark(FAN_MARK_ADD, FAN_RENAME, tree / "e"));
  MUST(everything.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_RENAME, tree.path()));
  MUST(rename(tree / "d/f", tree / "e/g"));
  CheckpointHere();
  EXPECT_TOLD(from, {FAN_RENAME, {{FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &d, "f"}}});
  EXPECT_TOLD(to, {FAN_RENAME, {{FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &e, "g"}}});
  EXPECT_TOLD(both,
              {FAN_RENAME,
               {{FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &d, "f"}, {FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &e, "g"}, {FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  EXPECT_TOLD(everything, {FAN_RENAME, {{FAN_EVENT_INFO_TYPE_OLD_DFID_NAME, &d, "f"}, {FAN_EVENT_INFO_TYPE_NEW_DFID_NAME, &e, "g"}}});
  // Without FAN_ONDIR nothing of directories.
  MUST(mkdir(tree / "d/sub", 0755));
  MUST(rename(tree / "d/sub", tree / "e/sub"));
  EXPECT_TOLD(from);
}

GUEST_TEST(FanotifyIds, WhatHappensToTheFileItself) {
  Tree tree;
  const Id f = IdOf(tree / "d/f"), d = IdOf(tree / "d");
  Group group(FAN_REPORT_FID), names(FAN_REPORT_DIR_FID | FAN_REPORT_FID | FAN_REPORT_NAME);
  constexpr uint64_t kMask = FAN_ATTRIB | FAN_MOVE_SELF | FAN_DELETE_SELF;
  MUST(group.Mark(FAN_MARK_ADD, kMask, tree / "d/f"));
  MUST(names.Mark(FAN_MARK_ADD, kMask, tree / "d/f"));
  MUST(chmod(tree / "d/f", 0600));
  MUST(setxattr(tree / "d/f", "trusted.a", "x", 1, 0));
  EXPECT_TOLD(group, {FAN_ATTRIB, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  EXPECT_TOLD(names, {FAN_ATTRIB, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "f"}, {FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  MUST(rename(tree / "d/f", tree / "e/f"));
  EXPECT_TOLD(group, {FAN_MOVE_SELF, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  EXPECT_TOLD(names, {FAN_MOVE_SELF, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  MUST(unlink(tree / "e/f"));
  EXPECT_TOLD(group, {FAN_ATTRIB | FAN_DELETE_SELF, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  EXPECT_TOLD(names, {FAN_ATTRIB | FAN_DELETE_SELF, {{FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
}

GUEST_TEST(FanotifyIds, WholeFileSystems) {
  Tree tree;
  const Id d = IdOf(tree / "d"), root = IdOf(tree.path()), f = IdOf(tree / "d/f");
  Group group(FAN_REPORT_DIR_FID | FAN_REPORT_FID | FAN_REPORT_NAME);
  MUST(group.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CREATE | FAN_MODIFY | FAN_ATTRIB | FAN_ONDIR, tree.path()));
  MUST(mkdir(tree / "more", 0755));
  MUST(truncate(tree / "d/f", 1));
  EXPECT_TOLD(group, {FAN_CREATE | FAN_ONDIR, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &root, "more"}}},
              {FAN_MODIFY, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "f"}, {FAN_EVENT_INFO_TYPE_FID, &f, nullptr}}});
  // The event's directory and name lead to the file.
  WriteFile(tree / "d/found", "here");
  alignas(8) char buffer[512];
  MUST(read(group.fd(), buffer, sizeof(buffer)));
  const auto* info = reinterpret_cast<fanotify_event_info_fid*>(buffer + FAN_EVENT_METADATA_LEN);
  struct statfs stats;
  MUST(statfs(tree.path(), &stats));
  EXPECT_EQ(memcmp(&info->fsid, &stats.f_fsid, sizeof(info->fsid)), 0);
  const int at = MUST(open(tree.path(), O_RDONLY));
  CheckpointHere();
  const int dir = MUST(static_cast<int>(syscall(SYS_open_by_handle_at, at, info->handle, O_PATH)));
  const auto* handle = reinterpret_cast<const Id*>(info->handle);
  const int file = MUST(openat(dir, reinterpret_cast<const char*>(handle->data) + handle->bytes, O_RDONLY));
  ExpectContent(file, "here");
  for (const int fd : {file, dir, at}) close(fd);
}

GUEST_TEST(FanotifyIds, Unprivileged) {
  Tree tree;
  MUST(chmod(tree.path(), 0755));
  MUST(chmod(tree / "d", 0777));
  {
    Group probe(FAN_REPORT_FID);
  }
  AS_USER([&] {
    for (const unsigned flags : {0u, unsigned{FAN_REPORT_FID | FAN_REPORT_PIDFD}, unsigned{FAN_REPORT_FID | FAN_UNLIMITED_QUEUE},
                                 unsigned{FAN_REPORT_FID | FAN_REPORT_TID}, unsigned{FAN_CLASS_CONTENT}}) {
      EXPECT_ERRNO(fanotify_init(flags, O_RDONLY), EPERM);
    }
    const Id d = IdOf(tree / "d");
    Group group(kDfidName);
    EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_OPEN, tree.path()), EPERM);
    EXPECT_ERRNO(group.Mark(FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, tree.path()), EPERM);
    EXPECT_ERRNO(group.Mark(FAN_MARK_ADD, FAN_OPEN_PERM, tree / "d"), EINVAL);
    MUST(group.Mark(FAN_MARK_ADD, kNames, tree / "d"));
    WriteFile(tree / "d/mine", "");
    EXPECT_TOLD(group, {FAN_CREATE, {{FAN_EVENT_INFO_TYPE_DFID_NAME, &d, "mine"}}});
    // Who else does something is not told.
    JOIN_OK(Fork([&] { WriteFile(tree / "d/other", ""); }));
    fanotify_event_metadata event[8];
    MUST(read(group.fd(), event, sizeof(event)));
    EXPECT_EQ(event[0].pid, 0);
  });
}

GUEST_TEST(FanotifyIds, FdInfoShowsHandles) {
  Tree tree;
  Group group(FAN_REPORT_FID);
  MUST(group.Mark(FAN_MARK_ADD, FAN_CREATE, tree / "d"));
  const Id d = IdOf(tree / "d");
  char want[400];
  int length = snprintf(want, sizeof(want), "ignored_mask:0 fhandle-bytes:%x fhandle-type:%x f_handle:", d.bytes, static_cast<unsigned>(d.type));
  for (uint32_t i = 0; i < d.bytes; ++i) length += snprintf(want + length, sizeof(want) - static_cast<size_t>(length), "%02x", d.data[i]);
  char text[1024] = {};
  ReadFile(Str("/proc/self/fdinfo/%d", group.fd()), text, sizeof(text));
  EXPECT(strstr(text, want) != nullptr);
}

// A group that has lost its last mark takes others.
GUEST_TEST(FanotifyIds, MarksAfterTheLast) {
  Tree tree;
  Group group(FAN_REPORT_FID);
  for (int i = 0; i < 3; ++i) {
    MUST(group.Mark(FAN_MARK_ADD, FAN_CREATE, tree / "d"));
    MUST(group.Mark(FAN_MARK_FLUSH, 0, tree / "d"));
    MUST(group.Mark(FAN_MARK_ADD, FAN_OPEN, tree / "d/f"));
    MUST(group.Mark(FAN_MARK_REMOVE, FAN_OPEN, tree / "d/f"));
  }
}
