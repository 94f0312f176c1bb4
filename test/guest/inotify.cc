// inotify: which events come for which change, their order, names and cookies; masks; the queue and its reader.
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#include <initializer_list>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Expected {
  int watch;
  uint32_t mask;
  const char* name = "";
};

class Watcher {
 public:
  Watcher() : fd_(MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC))) {}
  int Add(const char* path, uint32_t mask) const { return inotify_add_watch(fd_, path, mask); }
  int Remove(int watch) const { return inotify_rm_watch(fd_, watch); }
  int fd() const { return fd_; }
  uint32_t cookie() const { return cookie_; }
  // Reads what is queued and compares it with the list.
  void Expect(const char* file, int line, std::initializer_list<Expected> list) {
    alignas(8) char buffer[4096];
    const ssize_t length = read(fd_, buffer, sizeof(buffer));
    ssize_t at = 0;
    for (const Expected& expected : list) {
      if (at >= length) return Fail(file, line, false, "no event where %x was expected", expected.mask);
      const auto* event = reinterpret_cast<inotify_event*>(buffer + at);
      CheckCompare(file, line, false, "watch", "expected", event->wd, Op::kEq, expected.watch);
      CheckCompare(file, line, false, "mask", "expected", event->mask, Op::kEq, expected.mask);
      CheckStrings(file, line, false, "name", event->len > 0 ? event->name : "", expected.name);
      if (event->cookie != 0) cookie_ = event->cookie;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    if (at < length) Fail(file, line, false, "one more event: %x", reinterpret_cast<inotify_event*>(buffer + at)->mask);
  }

 private:
  int fd_;
  uint32_t cookie_ = 0;
};

#define EXPECT_EVENTS(watcher, ...) (watcher).Expect(__FILE__, __LINE__, {__VA_ARGS__})

}  // namespace

GUEST_TEST(InotifyEvents, CreateWriteClose) {
  TempDir dir;
  Watcher w;
  const int wd = MUST(w.Add(dir.path(), IN_ALL_EVENTS));
  const int fd = MUST(open(dir / "f", O_CREAT | O_WRONLY, 0644));
  EXPECT_EVENTS(w, {wd, IN_CREATE, "f"}, {wd, IN_OPEN, "f"});
  MUST(write(fd, "x", 1));
  MUST(write(fd, "y", 1));
  EXPECT_EVENTS(w, {wd, IN_MODIFY, "f"});  // Two equal ones in a row are one.
  CheckpointHere();
  close(fd);
  EXPECT_EVENTS(w, {wd, IN_CLOSE_WRITE, "f"});
}

GUEST_TEST(InotifyEvents, ReadAndClose) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ALL_EVENTS));
  const int fd = MUST(open(dir / "f", O_RDONLY));
  char byte;
  MUST(read(fd, &byte, 1));
  MUST(pread(fd, &byte, 1, 0));
  close(fd);
  EXPECT_EVENTS(w, {wd, IN_OPEN}, {wd, IN_ACCESS}, {wd, IN_CLOSE_NOWRITE});
}

GUEST_TEST(InotifyEvents, EmptyTransfersAreNone) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int fd = MUST(open(dir / "f", O_RDWR));
  MUST(w.Add(dir / "f", IN_ACCESS | IN_MODIFY));
  char byte;
  EXPECT_EQ(read(fd, &byte, 1), 0);
  EXPECT_EQ(write(fd, &byte, 0), 0);
  EXPECT_EVENTS(w);
}

GUEST_TEST(InotifyEvents, TruncationIsAModification) {
  TempDir dir;
  WriteFile(dir / "f", "content");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ALL_EVENTS));
  MUST(truncate(dir / "f", 2));
  EXPECT_EVENTS(w, {wd, IN_MODIFY});
  const int fd = MUST(open(dir / "f", O_WRONLY | O_TRUNC));
  EXPECT_EVENTS(w, {wd, IN_OPEN}, {wd, IN_MODIFY});
  MUST(ftruncate(fd, 100));
  EXPECT_EVENTS(w, {wd, IN_MODIFY});
}

GUEST_TEST(InotifyEvents, Attributes) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int of_file = MUST(w.Add(dir / "f", IN_ALL_EVENTS)), of_folder = MUST(w.Add(dir.path(), IN_ATTRIB));
  MUST(chmod(dir / "f", 0600));
  EXPECT_EVENTS(w, {of_folder, IN_ATTRIB, "f"}, {of_file, IN_ATTRIB});
  MUST(chown(dir / "f", 1, 1));
  EXPECT_EVENTS(w, {of_folder, IN_ATTRIB, "f"}, {of_file, IN_ATTRIB});
  MUST(utimensat(AT_FDCWD, dir / "f", nullptr, 0));
  EXPECT_EVENTS(w, {of_folder, IN_ATTRIB, "f"}, {of_file, IN_ATTRIB});
  MUST(link(dir / "f", dir / "g"));  // The number of links changed.
  EXPECT_EVENTS(w, {of_file, IN_ATTRIB});
}

GUEST_TEST(InotifyEvents, RenameHasOneCookie) {
  TempDir dir;
  MUST(mkdir(dir / "a", 0755));
  MUST(mkdir(dir / "b", 0755));
  WriteFile(dir / "a/f", "");
  Watcher w;
  const int a = MUST(w.Add(dir / "a", IN_MOVE)), b = MUST(w.Add(dir / "b", IN_MOVE)), f = MUST(w.Add(dir / "a/f", IN_MOVE_SELF));
  MUST(rename(dir / "a/f", dir / "b/g"));
  CheckpointHere();
  alignas(8) char buffer[512];
  ASSERT_GT(read(w.fd(), buffer, sizeof(buffer)), 0);
  const auto* from = reinterpret_cast<inotify_event*>(buffer);
  const auto* to = reinterpret_cast<inotify_event*>(buffer + sizeof(inotify_event) + from->len);
  const auto* self = reinterpret_cast<const inotify_event*>(reinterpret_cast<const char*>(to) + sizeof(inotify_event) + to->len);
  EXPECT_EQ(from->wd, a);
  EXPECT_EQ(from->mask, IN_MOVED_FROM);
  EXPECT_EQ(to->wd, b);
  EXPECT_EQ(to->mask, IN_MOVED_TO);
  EXPECT_NE(from->cookie, 0);
  EXPECT_EQ(from->cookie, to->cookie);
  EXPECT_EQ(self->wd, f);
  EXPECT_EQ(self->mask, IN_MOVE_SELF);
  EXPECT_EQ(self->cookie, 0);
}

GUEST_TEST(InotifyEvents, FoldersAreMarked) {
  TempDir dir;
  Watcher w;
  const int wd = MUST(w.Add(dir.path(), IN_CREATE | IN_DELETE | IN_MOVE));
  MUST(mkdir(dir / "d", 0755));
  MUST(rmdir(dir / "d"));
  MUST(symlink("x", dir / "l"));
  MUST(mknod(dir / "p", S_IFIFO | 0600, 0));
  EXPECT_EVENTS(w, {wd, IN_CREATE | IN_ISDIR, "d"}, {wd, IN_DELETE | IN_ISDIR, "d"}, {wd, IN_CREATE, "l"}, {wd, IN_CREATE, "p"});
}

GUEST_TEST(InotifyEvents, DeletionOfTheWatchedFile) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ALL_EVENTS));
  MUST(unlink(dir / "f"));
  EXPECT_EVENTS(w, {wd, IN_ATTRIB}, {wd, IN_DELETE_SELF}, {wd, IN_IGNORED});
  EXPECT_ERRNO(w.Remove(wd), EINVAL);
}

GUEST_TEST(InotifyEvents, OpenFileIsDeletedAtItsClose) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int fd = MUST(open(dir / "f", O_RDONLY));
  const int wd = MUST(w.Add(dir / "f", IN_ALL_EVENTS));
  MUST(unlink(dir / "f"));
  EXPECT_EVENTS(w, {wd, IN_ATTRIB});
  CheckpointHere();
  close(fd);
  EXPECT_EVENTS(w, {wd, IN_CLOSE_NOWRITE}, {wd, IN_DELETE_SELF}, {wd, IN_IGNORED});
}

GUEST_TEST(InotifyEvents, RenameOverAFile) {
  TempDir dir;
  WriteFile(dir / "old", "");
  WriteFile(dir / "new", "");
  Watcher w;
  const int wd = MUST(w.Add(dir / "old", IN_ATTRIB | IN_DELETE_SELF));
  MUST(rename(dir / "new", dir / "old"));
  EXPECT_EVENTS(w, {wd, IN_ATTRIB}, {wd, IN_DELETE_SELF}, {wd, IN_IGNORED});
}

GUEST_TEST(InotifyEvents, LinksWatchedThemselves) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(symlink("f", dir / "l"));
  Watcher w;
  const int target = MUST(w.Add(dir / "l", IN_ATTRIB)), link = MUST(w.Add(dir / "l", IN_ATTRIB | IN_DONT_FOLLOW));
  EXPECT_NE(target, link);
  MUST(chmod(dir / "l", 0600));
  EXPECT_EVENTS(w, {target, IN_ATTRIB});
  MUST(lchown(dir / "l", 1, 1));
  EXPECT_EVENTS(w, {link, IN_ATTRIB});
}

GUEST_TEST(InotifyEvents, ExecutingOpensAndReads) {
  TempDir dir;
  WriteFile(dir / "script", "#!/bin/sh\n", 0755);
  Watcher w;
  const int wd = MUST(w.Add(dir / "script", IN_OPEN));
  const pid_t pid = Fork([&] { execl(dir / "script", "script", nullptr); });
  WaitStatus(pid);
  alignas(8) char buffer[512];
  ASSERT_GT(read(w.fd(), buffer, sizeof(buffer)), 0);
  EXPECT_EQ(reinterpret_cast<inotify_event*>(buffer)->wd, wd);
  EXPECT_EQ(reinterpret_cast<inotify_event*>(buffer)->mask, IN_OPEN);
}

GUEST_TEST(InotifyEvents, PipesAndOtherKinds) {
  TempDir dir;
  MUST(mkfifo(dir / "p", 0600));
  Watcher w;
  const int wd = MUST(w.Add(dir / "p", IN_ALL_EVENTS));
  const int fd = MUST(open(dir / "p", O_RDWR));
  MUST(write(fd, "x", 1));
  char byte;
  MUST(read(fd, &byte, 1));
  close(fd);
  EXPECT_EVENTS(w, {wd, IN_OPEN}, {wd, IN_MODIFY}, {wd, IN_ACCESS}, {wd, IN_CLOSE_WRITE});
}

GUEST_TEST(InotifyMask, OneShot) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ATTRIB | IN_ONESHOT));
  MUST(chmod(dir / "f", 0600));
  MUST(chmod(dir / "f", 0644));
  EXPECT_EVENTS(w, {wd, IN_ATTRIB}, {wd, IN_IGNORED});
}

GUEST_TEST(InotifyMask, AddAndReplace) {
  TempDir dir;
  WriteFile(dir / "f", "x");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ATTRIB));
  EXPECT_EQ(w.Add(dir / "f", IN_MODIFY), wd);  // Another mask in place of the first.
  MUST(chmod(dir / "f", 0600));
  EXPECT_EVENTS(w);
  EXPECT_EQ(w.Add(dir / "f", IN_ATTRIB | IN_MASK_ADD), wd);
  CheckpointHere();
  MUST(chmod(dir / "f", 0644));
  MUST(truncate(dir / "f", 0));
  EXPECT_EVENTS(w, {wd, IN_ATTRIB}, {wd, IN_MODIFY});
  EXPECT_ERRNO(w.Add(dir / "f", IN_ATTRIB | 0x10000000 /*IN_MASK_CREATE*/), EEXIST);
  EXPECT_ERRNO(w.Add(dir / "f", IN_ATTRIB | IN_MASK_ADD | 0x10000000), EINVAL);
}

GUEST_TEST(InotifyMask, ExcludesUnlinkedFiles) {
  TempDir dir;
  Watcher w;
  const int wd = MUST(w.Add(dir.path(), IN_MODIFY | IN_EXCL_UNLINK));
  const int fd = MUST(open(dir / "f", O_CREAT | O_WRONLY, 0644));
  MUST(write(fd, "x", 1));
  EXPECT_EVENTS(w, {wd, IN_MODIFY, "f"});
  MUST(unlink(dir / "f"));
  MUST(write(fd, "x", 1));
  EXPECT_EVENTS(w);
}

GUEST_TEST(InotifyMask, OnlyFolders) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  EXPECT_ERRNO(w.Add(dir / "f", IN_CREATE | IN_ONLYDIR), ENOTDIR);
  EXPECT_GT(w.Add(dir.path(), IN_CREATE | IN_ONLYDIR), 0);
  EXPECT_ERRNO(w.Add(dir / "f", 0), EINVAL);
  AS_USER([&] {
    MUST(access(dir / "f", R_OK));
    EXPECT_GT(w.Add(dir / "f", IN_ATTRIB), 0);
  });
  MUST(chmod(dir / "f", 0200));
  AS_USER([&] { EXPECT_ERRNO(w.Add(dir / "f", IN_ATTRIB), EACCES); });
}

GUEST_TEST(InotifyWatch, NumbersAreNotReused) {
  TempDir dir;
  WriteFile(dir / "f", "");
  Watcher w;
  const int first = MUST(w.Add(dir / "f", IN_ATTRIB));
  EXPECT_OK(w.Remove(first));
  EXPECT_EVENTS(w, {first, IN_IGNORED});
  const int second = MUST(w.Add(dir / "f", IN_ATTRIB));
  EXPECT_GT(second, first);
  EXPECT_ERRNO(w.Remove(first), EINVAL);
  EXPECT_ERRNO(inotify_rm_watch(1, 1), EINVAL);
  EXPECT_ERRNO(inotify_rm_watch(999, 1), EBADF);
  EXPECT_ERRNO(inotify_add_watch(1, dir.path(), IN_CREATE), EINVAL);
  EXPECT_ERRNO(inotify_init1(1), EINVAL);
}

GUEST_TEST(InotifyWatch, SameFileByTwoNames) {
  TempDir dir;
  WriteFile(dir / "f", "");
  MUST(link(dir / "f", dir / "g"));
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ATTRIB));
  EXPECT_EQ(w.Add(dir / "g", IN_ATTRIB), wd);
}

GUEST_TEST(InotifyWatch, TwoInstancesAreIndependent) {
  TempDir dir;
  Watcher a, b;
  const int first = MUST(a.Add(dir.path(), IN_CREATE));
  const int second = MUST(b.Add(dir.path(), IN_CREATE | IN_DELETE));
  WriteFile(dir / "f", "");
  MUST(unlink(dir / "f"));
  EXPECT_EVENTS(a, {first, IN_CREATE, "f"});
  EXPECT_EVENTS(b, {second, IN_CREATE, "f"}, {second, IN_DELETE, "f"});
}

GUEST_TEST(InotifyWatch, UnmountEndsIt) {
  TempDir dir;
  if (mount("none", dir.path(), "tmpfs", 0, nullptr) < 0) Skip("may not mount");
  WriteFile(dir / "f", "");
  Watcher w;
  const int wd = MUST(w.Add(dir / "f", IN_ALL_EVENTS));
  MUST(umount(dir.path()));
  EXPECT_EVENTS(w, {wd, IN_UNMOUNT}, {wd, IN_IGNORED});
}

GUEST_TEST(InotifyQueue, ReadingNeedsRoom) {
  TempDir dir;
  Watcher w;
  MUST(w.Add(dir.path(), IN_CREATE));
  char buffer[512];
  EXPECT_ERRNO(read(w.fd(), buffer, sizeof(buffer)), EAGAIN);
  WriteFile(dir / "name", "");
  EXPECT_ERRNO(read(w.fd(), buffer, sizeof(inotify_event)), EINVAL);  // The name doesn't fit.
  int available = 0;
  EXPECT_OK(ioctl(w.fd(), FIONREAD, &available));
  EXPECT_EQ(available, sizeof(inotify_event) + 16);  // Names are padded to whole events.
  EXPECT_ERRNO(read(w.fd(), kBad, 512), EFAULT);     // The event is off the queue by then.
  EXPECT_ERRNO(read(w.fd(), buffer, sizeof(buffer)), EAGAIN);
  EXPECT_ERRNO(write(w.fd(), buffer, 1), EBADF);
}

GUEST_TEST(InotifyQueue, PartialReadsLeaveWholeEvents) {
  TempDir dir;
  Watcher w;
  const int wd = MUST(w.Add(dir.path(), IN_CREATE));
  WriteFile(dir / "a", "");
  WriteFile(dir / "b", "");
  char buffer[40];
  EXPECT_EQ(read(w.fd(), buffer, sizeof(buffer)), 32);
  CheckpointHere();
  EXPECT_EVENTS(w, {wd, IN_CREATE, "b"});
}

GUEST_TEST(InotifyQueue, OverflowIsTold) {
  char text[32] = {};
  const int limit_file = open("/proc/sys/fs/inotify/max_queued_events", O_RDONLY);
  if (limit_file < 0) Skip("no limit to read");
  MUST(read(limit_file, text, sizeof(text) - 1));
  const int limit = atoi(text);
  if (limit > 20000) Skip("the queue is too long for a test");
  TempDir dir;
  WriteFile(dir / "a", "");
  WriteFile(dir / "b", "");
  Watcher w;
  MUST(w.Add(dir.path(), IN_ATTRIB));
  for (int i = 0; i <= limit / 2; ++i) {
    MUST(chmod(dir / "a", 0600));
    MUST(chmod(dir / "b", 0600));
  }
  alignas(8) static char buffer[65536];
  uint32_t last = 0;
  int last_watch = 0, events = 0;
  for (ssize_t got; (got = read(w.fd(), buffer, sizeof(buffer))) > 0;) {
    for (ssize_t at = 0; at < got;) {
      const auto* event = reinterpret_cast<inotify_event*>(buffer + at);
      last = event->mask;
      last_watch = event->wd;
      ++events;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
  EXPECT_EQ(last, IN_Q_OVERFLOW);
  EXPECT_EQ(last_watch, -1);
  EXPECT_EQ(events, limit + 1);
}

GUEST_TEST(InotifyQueue, PollAndBlockedReader) {
  TempDir dir;
  Watcher w;
  MUST(fcntl(w.fd(), F_SETFL, 0));
  MUST(w.Add(dir.path(), IN_CREATE));
  pollfd poll_for = {w.fd(), POLLIN | POLLOUT, 0};
  EXPECT_EQ(poll(&poll_for, 1, 0), 0);
  const pid_t pid = Fork([&] {
    char buffer[512];
    EXPECT_EQ(read(w.fd(), buffer, sizeof(buffer)), 32);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  WriteFile(dir / "f", "");
  JOIN_OK(pid);
}

GUEST_TEST(InotifyQueue, InstanceLimitOfAUser) {
  char text[32] = {};
  const int limit_file = open("/proc/sys/fs/inotify/max_user_instances", O_RDONLY);
  if (limit_file < 0) Skip("no limit to read");
  MUST(read(limit_file, text, sizeof(text) - 1));
  const int limit = atoi(text);
  if (limit > 500) Skip("the limit is above that of open files");
  AS_USER([&] {
    int count = 0;
    while (inotify_init1(0) >= 0) ++count;
    EXPECT_EQ(errno, EMFILE);
    EXPECT_LE(count, limit);
  });
}
