// File locks (flock, record locks, open file description locks), leases' refusal, inotify.
#include <limits.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int Lock(int fd, int command, short type, off_t start, off_t length) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  return fcntl(fd, command, &lock);
}

// Who holds a lock that conflicts with writing that range; F_UNLCK in l_type if nobody.
struct flock Query(int fd, off_t start, off_t length, int command = F_GETLK) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  lock.l_start = start;
  lock.l_len = length;
  MUST(fcntl(fd, command, &lock));
  return lock;
}

struct LockFile {
  LockFile() : path(dir / "f") { WriteFile(path, "0123456789"); }
  int Open(int flags = O_RDWR) const { return MUST(open(path, flags)); }
  TempDir dir;
  Str path;
};

// One event from a nonblocking inotify descriptor; mask 0 if there is none.
struct Event {
  int watch;
  uint32_t mask, cookie;
  char name[NAME_MAX + 1];
};

class Events {
 public:
  explicit Events(int fd) : fd_(fd) {}
  Event Next() {
    if (at_ == length_) {
      const ssize_t got = read(fd_, buffer_, sizeof(buffer_));
      if (got <= 0) return {};
      length_ = static_cast<size_t>(got);
      at_ = 0;
    }
    inotify_event header;
    memcpy(&header, buffer_ + at_, sizeof(header));
    Event event = {header.wd, header.mask, header.cookie, {}};
    if (header.len > 0) strncpy(event.name, buffer_ + at_ + sizeof(header), NAME_MAX);
    at_ += sizeof(header) + header.len;
    return event;
  }

 private:
  int fd_;
  size_t at_ = 0, length_ = 0;
  alignas(inotify_event) char buffer_[4096];
};

}  // namespace

GUEST_TEST(Flock, ExclusiveAndShared) {
  LockFile file;
  const int a = file.Open(), b = file.Open();
  MUST(flock(a, LOCK_SH));
  EXPECT_OK(flock(b, LOCK_SH | LOCK_NB));
  EXPECT_ERRNO(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  MUST(flock(a, LOCK_UN));
  CheckpointHere();
  EXPECT_OK(flock(b, LOCK_EX | LOCK_NB));
  EXPECT_ERRNO(flock(a, LOCK_SH | LOCK_NB), EWOULDBLOCK);
  EXPECT_ERRNO(flock(a, 16), EINVAL);
}

GUEST_TEST(Flock, BelongsToTheOpenFile) {
  LockFile file;
  const int a = file.Open();
  const int copy = MUST(dup(a));
  MUST(flock(a, LOCK_EX));
  EXPECT_OK(flock(copy, LOCK_EX | LOCK_NB));
  close(a);
  const int b = file.Open();
  EXPECT_ERRNO(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);   // Still held by the copy.
  JOIN_OK(Fork([&] { EXPECT_OK(flock(copy, LOCK_UN)); }));  // A child can give it up.
  EXPECT_OK(flock(b, LOCK_EX | LOCK_NB));
}

GUEST_TEST(Flock, BlockedLockerWakes) {
  LockFile file;
  const int a = file.Open();
  MUST(flock(a, LOCK_EX));
  const pid_t pid = Fork([&] { MUST(flock(file.Open(), LOCK_EX)); });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'S');
  MUST(flock(a, LOCK_UN));
  JOIN_OK(pid);
}

GUEST_TEST(RecordLock, ConflictsBetweenProcessesOnly) {
  LockFile file;
  const int a = file.Open(), b = file.Open();
  MUST(Lock(a, F_SETLK, F_WRLCK, 2, 3));
  EXPECT_OK(Lock(b, F_SETLK, F_WRLCK, 2, 3));  // The same owner.
  CheckpointHere();
  JOIN_OK(Fork([&] {
    const int c = file.Open();
    EXPECT_ERRNO(Lock(c, F_SETLK, F_WRLCK, 4, 1), EAGAIN);
    EXPECT_ERRNO(Lock(c, F_SETLK, F_RDLCK, 0, 0), EAGAIN);
    EXPECT_OK(Lock(c, F_SETLK, F_WRLCK, 0, 2));
    EXPECT_OK(Lock(c, F_SETLK, F_WRLCK, 5, 100));
    const struct flock held = Query(c, 0, 0);
    EXPECT_EQ(held.l_type, F_WRLCK);
    EXPECT_EQ(held.l_pid, getppid());
    EXPECT_EQ(held.l_start, 2);
    EXPECT_EQ(held.l_len, 3);
  }));
}

GUEST_TEST(RecordLock, UnlockingTheMiddleSplits) {
  LockFile file;
  const int a = file.Open();
  MUST(Lock(a, F_SETLK, F_WRLCK, 0, 10));
  MUST(Lock(a, F_SETLK, F_UNLCK, 4, 2));
  CheckpointHere();
  JOIN_OK(Fork([&] {
    const int c = file.Open();
    EXPECT_OK(Lock(c, F_SETLK, F_WRLCK, 4, 2));
    EXPECT_EQ(Query(c, 0, 4).l_len, 4);
    EXPECT_EQ(Query(c, 6, 100).l_start, 6);
    EXPECT_EQ(Query(c, 6, 100).l_len, 4);
  }));
}

GUEST_TEST(RecordLock, AnyCloseDropsAll) {
  LockFile file;
  const int a = file.Open();
  MUST(Lock(a, F_SETLK, F_WRLCK, 0, 0));
  close(file.Open());
  JOIN_OK(Fork([&] { EXPECT_OK(Lock(file.Open(), F_SETLK, F_WRLCK, 0, 0)); }));
}

GUEST_TEST(RecordLock, EndOfProcessDropsThem) {
  LockFile file;
  JOIN_OK(Fork([&] { MUST(Lock(file.Open(), F_SETLK, F_WRLCK, 0, 0)); }));
  EXPECT_EQ(Query(file.Open(), 0, 0).l_type, F_UNLCK);
}

GUEST_TEST(RecordLock, WaitsAndWakes) {
  LockFile file;
  const int a = file.Open();
  MUST(Lock(a, F_SETLK, F_WRLCK, 0, 0));
  const pid_t pid = Fork([&] { EXPECT_OK(Lock(file.Open(), F_SETLKW, F_RDLCK, 0, 1)); });
  AwaitAsleep(pid);
  CheckpointHere();
  MUST(Lock(a, F_SETLK, F_UNLCK, 0, 0));
  JOIN_OK(pid);
}

GUEST_TEST(RecordLock, DeadlockIsFound) {
  LockFile file;
  const int a = file.Open();
  MUST(Lock(a, F_SETLK, F_WRLCK, 0, 1));
  Gate locked;
  const pid_t pid = Fork([&] {
    const int c = file.Open();
    MUST(Lock(c, F_SETLK, F_WRLCK, 1, 1));
    locked.Open();
    EXPECT_OK(Lock(c, F_SETLKW, F_WRLCK, 0, 1));
  });
  locked.Await();
  AwaitAsleep(pid);
  EXPECT_ERRNO(Lock(a, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
  MUST(Lock(a, F_SETLK, F_UNLCK, 0, 0));
  JOIN_OK(pid);
}

GUEST_TEST(RecordLock, SignalInterruptsTheWait) {
  LockFile file;
  Gate locked;
  const pid_t self = getpid();
  const pid_t pid = Fork([&] {
    MUST(Lock(file.Open(), F_SETLK, F_WRLCK, 0, 0));
    locked.Open();
    AwaitAsleep(self);
    kill(self, SIGUSR1);
    pause();
  });
  CountSignals(SIGUSR1);
  locked.Await();
  EXPECT_ERRNO(Lock(file.Open(), F_SETLKW, F_WRLCK, 0, 0), EINTR);
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

GUEST_TEST(RecordLock, Arguments) {
  LockFile file;
  const int reader = file.Open(O_RDONLY);
  EXPECT_ERRNO(Lock(reader, F_SETLK, F_WRLCK, 0, 0), EBADF);
  const int a = file.Open();
  EXPECT_ERRNO(Lock(a, F_SETLK, 99, 0, 0), EINVAL);
  EXPECT_ERRNO(Lock(a, F_SETLK, F_WRLCK, -5, 1), EINVAL);
  EXPECT_OK(Lock(a, F_SETLK, F_WRLCK, 5, -3));  // Backwards: 2, 3 and 4.
  JOIN_OK(Fork([&] { EXPECT_EQ(Query(file.Open(), 0, 0).l_start, 2); }));
}

GUEST_TEST(OfdLock, BelongsToTheOpenFile) {
  LockFile file;
  const int a = file.Open(), b = file.Open();
  MUST(Lock(a, F_OFD_SETLK, F_WRLCK, 0, 0));
  EXPECT_ERRNO(Lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
  EXPECT_EQ(Query(b, 0, 0, F_OFD_GETLK).l_pid, -1);
  close(file.Open());  // Another open file's end does not matter.
  CheckpointHere();
  EXPECT_ERRNO(Lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
  close(a);
  EXPECT_OK(Lock(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}

GUEST_TEST(OfdLock, SurvivesTheForkOfItsOwner) {
  LockFile file;
  const int a = file.Open();
  MUST(Lock(a, F_OFD_SETLK, F_WRLCK, 0, 0));
  Gate go;
  const pid_t pid = Fork([&] { go.Await(); });
  close(a);
  const int b = file.Open();
  EXPECT_ERRNO(Lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), EAGAIN);
  go.Open();
  JOIN_OK(pid);
  EXPECT_OK(Lock(b, F_OFD_SETLK, F_WRLCK, 0, 0));
}

GUEST_TEST(Inotify, FolderEvents) {
  TempDir dir;
  const int fd = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const int watch = MUST(inotify_add_watch(fd, dir.path(), IN_CREATE | IN_DELETE | IN_CLOSE_WRITE | IN_MOVE));
  WriteFile(dir / "a", "x");
  MUST(rename(dir / "a", dir / "b"));
  CheckpointHere();
  MUST(unlink(dir / "b"));
  Events events(fd);
  Event event = events.Next();
  EXPECT_EQ(event.watch, watch);
  EXPECT_EQ(event.mask, IN_CREATE);
  EXPECT_STREQ(event.name, "a");
  EXPECT_EQ(events.Next().mask, IN_CLOSE_WRITE);
  event = events.Next();
  EXPECT_EQ(event.mask, IN_MOVED_FROM);
  const uint32_t cookie = event.cookie;
  event = events.Next();
  EXPECT_EQ(event.mask, IN_MOVED_TO);
  EXPECT_EQ(event.cookie, cookie);
  EXPECT_STREQ(event.name, "b");
  EXPECT_EQ(events.Next().mask, IN_DELETE);
  EXPECT_EQ(events.Next().mask, 0);
}

GUEST_TEST(Inotify, FileEventsAndMerging) {
  LockFile file;
  const int fd = MUST(inotify_init1(IN_NONBLOCK));
  MUST(inotify_add_watch(fd, file.path, IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF));
  const int writer = file.Open();
  MUST(write(writer, "a", 1));
  MUST(write(writer, "b", 1));  // Equal to the last event: merged.
  MUST(fchmod(writer, 0600));
  Events events(fd);
  EXPECT_EQ(events.Next().mask, IN_MODIFY);
  EXPECT_EQ(events.Next().mask, IN_ATTRIB);
  EXPECT_EQ(events.Next().mask, 0);
  close(writer);
  CheckpointHere();
  MUST(unlink(file.path));
  EXPECT_EQ(events.Next().mask, IN_ATTRIB);  // The link count.
  EXPECT_EQ(events.Next().mask, IN_DELETE_SELF);
  EXPECT_EQ(events.Next().mask, IN_IGNORED);
}

GUEST_TEST(Inotify, RemoveAndArguments) {
  TempDir dir;
  const int fd = MUST(inotify_init1(IN_NONBLOCK));
  const int watch = MUST(inotify_add_watch(fd, dir.path(), IN_CREATE));
  EXPECT_EQ(inotify_add_watch(fd, dir.path(), IN_DELETE), watch);  // The same inode: replaced.
  MUST(inotify_rm_watch(fd, watch));
  Events events(fd);
  EXPECT_EQ(events.Next().mask, IN_IGNORED);
  EXPECT_ERRNO(inotify_rm_watch(fd, watch), EINVAL);
  EXPECT_ERRNO(inotify_add_watch(fd, dir / "none", IN_CREATE), ENOENT);
  EXPECT_ERRNO(inotify_add_watch(fd, dir.path(), 0), EINVAL);
  EXPECT_ERRNO(inotify_add_watch(1, dir.path(), IN_CREATE), EINVAL);
}

GUEST_TEST(Inotify, ReadinessAndWaiting) {
  TempDir dir;
  const int fd = MUST(inotify_init());
  MUST(inotify_add_watch(fd, dir.path(), IN_CREATE));
  pollfd poller = {fd, POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 0);
  const pid_t pid = Fork([&] {
    Events events(fd);
    EXPECT_STREQ(events.Next().name, "late");
  });
  AwaitAsleep(pid);
  CheckpointHere();
  WriteFile(dir / "late", "");
  JOIN_OK(pid);
  int bytes = -1;
  MUST(ioctl(fd, FIONREAD, &bytes));
  EXPECT_EQ(bytes, 0);
}
