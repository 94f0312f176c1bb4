// Locks at their edges: flock, record locks, locks of open files: arguments, inheritance, what conversion and closing do,
// deadlocks, mandatory rules; leases where the kernel has them.
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct LockFile {
  LockFile() : path(dir / "f") { WriteFile(path, "0123456789"); }
  int Open(int flags = O_RDWR) const { return MUST(open(path, flags)); }
  TempDir dir;
  Str path;
};

struct flock Range(short type, off_t start = 0, off_t length = 0, short whence = SEEK_SET) {
  struct flock lock = {};
  lock.l_type = type;
  lock.l_whence = whence;
  lock.l_start = start;
  lock.l_len = length;
  return lock;
}
int Set(int fd, short type, off_t start = 0, off_t length = 0, short whence = SEEK_SET) {
  struct flock lock = Range(type, start, length, whence);
  return fcntl(fd, F_SETLK, &lock);
}
int SetOpen(int fd, short type, off_t start = 0, off_t length = 0) {
  struct flock lock = Range(type, start, length);
  return fcntl(fd, F_OFD_SETLK, &lock);
}
struct flock Get(int fd, short type, off_t start = 0, off_t length = 0) {
  struct flock lock = Range(type, start, length);
  MUST(fcntl(fd, F_GETLK, &lock));
  return lock;
}

}  // namespace

GUEST_TEST(FlockEdge, Arguments) {
  LockFile f;
  const int fd = f.Open();
  EXPECT_ERRNO(flock(fd, 0), EINVAL);
  EXPECT_ERRNO(flock(fd, LOCK_EX | LOCK_UN), EINVAL);
  EXPECT_ERRNO(flock(999, LOCK_EX), EBADF);
  EXPECT_ERRNO(flock(f.Open(O_PATH), LOCK_EX), EBADF);
  EXPECT_OK(flock(f.Open(O_RDONLY), LOCK_EX));  // Reading suffices for any lock.
}

GUEST_TEST(FlockEdge, ConversionIsNotAtomic) {
  LockFile f;
  const int a = f.Open(), b = f.Open();
  MUST(flock(a, LOCK_SH));
  MUST(flock(b, LOCK_SH));
  EXPECT_ERRNO(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  // The old lock is gone (flock(2)): so the other one gets through now.
  EXPECT_OK(flock(b, LOCK_EX | LOCK_NB));
  CheckpointHere();
  EXPECT_ERRNO(flock(a, LOCK_SH | LOCK_NB), EWOULDBLOCK);
  MUST(flock(b, LOCK_SH));
  EXPECT_OK(flock(a, LOCK_SH | LOCK_NB));
}

GUEST_TEST(FlockEdge, DuplicatesShareIt) {
  LockFile f;
  const int fd = f.Open(), other = f.Open();
  MUST(flock(fd, LOCK_EX));
  const int copy = MUST(dup(fd));
  close(fd);
  EXPECT_ERRNO(flock(other, LOCK_EX | LOCK_NB), EWOULDBLOCK);
  JOIN_OK(Fork([&] { EXPECT_OK(flock(copy, LOCK_UN)); }));  // The child unlocks for both.
  EXPECT_OK(flock(other, LOCK_EX | LOCK_NB));
}

GUEST_TEST(FlockEdge, PipesAndFolders) {
  Pipe p;
  EXPECT_OK(flock(p.r, LOCK_EX | LOCK_NB));
  LockFile f;
  const int folder = MUST(open(f.dir.path(), O_RDONLY)), again = MUST(open(f.dir.path(), O_RDONLY));
  EXPECT_OK(flock(folder, LOCK_EX));
  EXPECT_ERRNO(flock(again, LOCK_SH | LOCK_NB), EWOULDBLOCK);
}

GUEST_TEST(FlockEdge, OfPipes) {
  Pipe p;
  char path[64];
  snprintf(path, sizeof(path), "/proc/self/fd/%d", p.r);
  EXPECT_OK(flock(p.r, LOCK_EX | LOCK_NB));
  EXPECT_ERRNO(flock(p.w, LOCK_SH | LOCK_NB), EWOULDBLOCK);  // one inode, two open files
  EXPECT_OK(Set(p.w, F_WRLCK, 0, 10));
  const int again = MUST(open(path, O_RDONLY | O_NONBLOCK));
  CheckpointHere();
  EXPECT_ERRNO(flock(again, LOCK_SH | LOCK_NB), EWOULDBLOCK);
  JOIN_OK(Fork([&] {
    EXPECT_EQ(Get(p.w, F_WRLCK).l_pid, getppid());
    EXPECT_ERRNO(Set(p.w, F_WRLCK, 5, 1), EAGAIN);
    EXPECT_OK(Set(p.w, F_WRLCK, 10, 1));
  }));
  close(again);  // and with it the process's record locks
  JOIN_OK(Fork([&] { EXPECT_OK(Set(p.w, F_WRLCK, 5, 1)); }));
  EXPECT_OK(flock(p.r, LOCK_UN));
  EXPECT_OK(flock(p.w, LOCK_EX | LOCK_NB));
}

GUEST_TEST(RecordEdge, Arguments) {
  LockFile f;
  const int fd = f.Open();
  EXPECT_ERRNO(Set(fd, 77), EINVAL);
  EXPECT_ERRNO(Set(fd, F_WRLCK, 0, 0, 9), EINVAL);
  EXPECT_ERRNO(Set(fd, F_WRLCK, -1), EINVAL);
  EXPECT_ERRNO(Set(fd, F_WRLCK, 5, -6), EINVAL);
  EXPECT_ERRNO(Set(fd, F_WRLCK, INT64_MAX, INT64_MAX), EOVERFLOW);
  EXPECT_ERRNO(fcntl(fd, F_SETLK, kBadAddress), EFAULT);
  EXPECT_ERRNO(fcntl(fd, F_GETLK, kBadAddress), EFAULT);
  struct flock unlock = Range(F_UNLCK);
  EXPECT_ERRNO(fcntl(fd, F_GETLK, &unlock), EINVAL);
  EXPECT_ERRNO(Set(f.Open(O_RDONLY), F_WRLCK), EBADF);
  EXPECT_ERRNO(Set(f.Open(O_WRONLY), F_RDLCK), EBADF);
  EXPECT_ERRNO(Set(999, F_RDLCK), EBADF);
}

GUEST_TEST(RecordEdge, NegativeLengthsAndWhence) {
  LockFile f;
  const int fd = f.Open();
  MUST(lseek(fd, 6, SEEK_SET));
  MUST(Set(fd, F_WRLCK, 0, -4, SEEK_CUR));  // [2, 6)
  CheckpointHere();
  JOIN_OK(Fork([&] {
    const struct flock held = Get(fd, F_WRLCK);
    EXPECT_EQ(held.l_start, 2);
    EXPECT_EQ(held.l_len, 4);
    EXPECT_EQ(held.l_whence, SEEK_SET);
    EXPECT_EQ(held.l_pid, getppid());
    EXPECT_OK(Set(fd, F_WRLCK, 0, 2));
    EXPECT_OK(Set(fd, F_WRLCK, 0, 0, SEEK_END));
    EXPECT_ERRNO(Set(fd, F_WRLCK, 5, 1), EAGAIN);
  }));
}

GUEST_TEST(RecordEdge, ReadersShareAndUpgradeAtomically) {
  LockFile f;
  const int fd = f.Open();
  MUST(Set(fd, F_RDLCK));
  Gate ready, done;
  const pid_t pid = Fork([&] {
    EXPECT_OK(Set(fd, F_RDLCK));
    ready.Open();
    done.Await();
  });
  ready.Await();
  EXPECT_ERRNO(Set(fd, F_WRLCK), EAGAIN);
  const pid_t asker = Fork([&] { EXPECT_ERRNO(Set(fd, F_WRLCK), EAGAIN); });  // Ours is still there.
  JOIN_OK(asker);
  done.Open();
  JOIN_OK(pid);
  EXPECT_OK(Set(fd, F_WRLCK));
}

GUEST_TEST(RecordEdge, NeighboursMergeAndSplit) {
  LockFile f;
  const int fd = f.Open();
  MUST(Set(fd, F_WRLCK, 0, 2));
  MUST(Set(fd, F_WRLCK, 2, 2));
  JOIN_OK(Fork([&] {
    const struct flock held = Get(fd, F_RDLCK);
    EXPECT_EQ(held.l_start, 0);
    EXPECT_EQ(held.l_len, 4);
  }));
  MUST(Set(fd, F_RDLCK, 1, 2));  // Another kind in the middle.
  CheckpointHere();
  JOIN_OK(Fork([&] {
    EXPECT_EQ(Get(fd, F_RDLCK, 1, 2).l_type, F_UNLCK);
    EXPECT_EQ(Get(fd, F_WRLCK, 1, 2).l_type, F_RDLCK);
    EXPECT_EQ(Get(fd, F_RDLCK, 3, 1).l_type, F_WRLCK);
  }));
}

GUEST_TEST(RecordEdge, ToTheEndHasNoLength) {
  LockFile f;
  const int fd = f.Open();
  MUST(Set(fd, F_WRLCK, 5, 0));
  JOIN_OK(Fork([&] {
    const struct flock held = Get(fd, F_RDLCK, 1'000'000, 1);
    EXPECT_EQ(held.l_type, F_WRLCK);
    EXPECT_EQ(held.l_start, 5);
    EXPECT_EQ(held.l_len, 0);
    EXPECT_OK(Set(fd, F_WRLCK, 0, 5));
  }));
}

GUEST_TEST(RecordEdge, ChildrenDoNotInheritButExecKeeps) {
  LockFile f;
  const int fd = f.Open();
  MUST(Set(fd, F_WRLCK));
  JOIN_OK(Fork([&] { EXPECT_ERRNO(Set(fd, F_WRLCK), EAGAIN); }));
  Pipe p;
  const pid_t pid = Fork([&] {
    MUST(Set(fd, F_UNLCK));
    const int own = f.Open();
    MUST(lseek(own, 0, SEEK_SET));
    execl(SelfPath(), SelfPath(), "@SleepBriefly", nullptr);
  });
  JOIN_OK(pid);
  JOIN_OK(Fork([&] { EXPECT_ERRNO(Set(fd, F_WRLCK), EAGAIN); }));  // Nobody else unlocked ours.
}
GUEST_HELPER(SleepBriefly) { return 0; }

GUEST_TEST(RecordEdge, WaitersGetItInTurn) {
  LockFile f;
  const int fd = f.Open();
  MUST(Set(fd, F_WRLCK));
  auto* order = Shared<int[4]>();
  pid_t pids[2];
  for (int i = 0; i < 2; ++i) {
    pids[i] = Fork([&] {
      struct flock lock = Range(F_WRLCK);
      MUST(fcntl(fd, F_SETLKW, &lock));
      (*order)[(*order)[3]++] = i;
    });
    AwaitAsleep(pids[i]);
  }
  CheckpointHere();
  MUST(Set(fd, F_UNLCK));
  for (const pid_t pid : pids) JOIN_OK(pid);
  EXPECT_EQ((*order)[3], 2);
}

GUEST_TEST(RecordEdge, DeadlockOfThree) {
  LockFile f;
  const int fd = f.Open();
  Gate first, second;
  MUST(Set(fd, F_WRLCK, 0, 1));
  const pid_t a = Fork([&] {
    MUST(Set(fd, F_WRLCK, 1, 1));
    first.Open();
    struct flock lock = Range(F_WRLCK, 0, 1);
    EXPECT_OK(fcntl(fd, F_SETLKW, &lock));  // Waits for us.
  });
  first.Await();
  AwaitAsleep(a);
  const pid_t b = Fork([&] {
    MUST(Set(fd, F_WRLCK, 2, 1));
    second.Open();
    struct flock lock = Range(F_WRLCK, 1, 1);
    EXPECT_OK(fcntl(fd, F_SETLKW, &lock));  // Waits for the first.
  });
  second.Await();
  AwaitAsleep(b);
  struct flock lock = Range(F_WRLCK, 2, 1);
  EXPECT_ERRNO(fcntl(fd, F_SETLKW, &lock), EDEADLK);
  MUST(Set(fd, F_UNLCK));
  JOIN_OK(a);
  JOIN_OK(b);
}

GUEST_TEST(OpenFileLockEdge, PidHasToBeZero) {
  LockFile f;
  const int fd = f.Open();
  struct flock lock = Range(F_WRLCK);
  lock.l_pid = getpid();
  EXPECT_ERRNO(fcntl(fd, F_OFD_SETLK, &lock), EINVAL);
  EXPECT_ERRNO(fcntl(fd, F_OFD_GETLK, &lock), EINVAL);
}

GUEST_TEST(OpenFileLockEdge, ConflictsWithinOneProcess) {
  LockFile f;
  const int a = f.Open(), b = f.Open();
  MUST(SetOpen(a, F_WRLCK, 0, 5));
  EXPECT_ERRNO(SetOpen(b, F_WRLCK, 4, 1), EAGAIN);
  EXPECT_ERRNO(Set(b, F_WRLCK, 4, 1), EAGAIN);  // With the process's locks, too.
  EXPECT_OK(SetOpen(b, F_WRLCK, 5, 1));
  struct flock held = Get(b, F_WRLCK, 0, 1);
  EXPECT_EQ(held.l_type, F_WRLCK);
  EXPECT_EQ(held.l_pid, -1);  // Nobody's in particular.
  CheckpointHere();
  close(MUST(dup(a)));
  EXPECT_ERRNO(SetOpen(b, F_WRLCK, 4, 1), EAGAIN);
  close(a);
  EXPECT_OK(SetOpen(b, F_WRLCK, 4, 1));
}

GUEST_TEST(OpenFileLockEdge, IndependentOfFlock) {
  LockFile f;
  const int a = f.Open(), b = f.Open();
  MUST(flock(a, LOCK_EX));
  EXPECT_OK(SetOpen(b, F_WRLCK));
  EXPECT_OK(Set(a, F_WRLCK) == 0 ? -1 : 0);  // But not of each other.
}

GUEST_TEST(LockfEdge, WorksFromThePosition) {
  LockFile f;
  const int fd = f.Open();
  MUST(lseek(fd, 4, SEEK_SET));
  EXPECT_OK(lockf(fd, F_TLOCK, 2));
  JOIN_OK(Fork([&] {
    const int own = f.Open();
    MUST(lseek(own, 5, SEEK_SET));
    EXPECT_ERRNO(lockf(own, F_TLOCK, 1), EAGAIN);
    EXPECT_ERRNO(lockf(own, F_TEST, 1), EACCES);
    MUST(lseek(own, 6, SEEK_SET));
    EXPECT_OK(lockf(own, F_TEST, 1));
  }));
}

GUEST_TEST(Lease, TakenAndTold) {
  LockFile f;
  const int fd = f.Open(O_RDONLY);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
  if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN) Skip("no leases on this file system");
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);
  EXPECT_OK(fcntl(fd, F_SETLEASE, F_UNLCK));
  EXPECT_ERRNO(fcntl(fd, F_SETLEASE, F_UNLCK), EAGAIN);
  EXPECT_ERRNO(fcntl(fd, F_SETLEASE, 77), EINVAL);
}

GUEST_TEST(Lease, BreakingSignalsTheHolder) {
  LockFile f;
  const int fd = f.Open(O_RDONLY);
  CountSignals(SIGIO);
  if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN) Skip("no leases on this file system");
  EXPECT_ERRNO(open(f.path, O_WRONLY | O_NONBLOCK), EWOULDBLOCK);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_OK(fcntl(fd, F_SETLEASE, F_UNLCK));
  EXPECT_OK(open(f.path, O_WRONLY | O_NONBLOCK));
}

GUEST_TEST(Lease, OpeningWaitsForTheHolder) {
  LockFile f;
  const int fd = f.Open(O_RDONLY);
  CountSignals(SIGRTMIN);
  MUST(fcntl(fd, F_SETSIG, SIGRTMIN));
  if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0 && errno == EAGAIN) Skip("no leases on this file system");
  const pid_t child = Fork([&] { close(MUST(open(f.path, O_RDONLY))); });
  AwaitAsleep(child);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_fd, fd);
  EXPECT_EQ(LastSignal().si_code, POLL_MSG);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);  // What it is to become.
  CheckpointHere();
  AwaitAsleep(child);
  EXPECT_OK(fcntl(fd, F_SETLEASE, F_RDLCK));
  JOIN_OK(child);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);
  // Readers do not break one of a reader; who truncates does.
  EXPECT_OK(open(f.path, O_RDONLY | O_NONBLOCK));
  const pid_t truncater = Fork([&] { MUST(truncate(f.path, 0)); });
  AwaitAsleep(truncater);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
  close(fd);  // With the open file goes the lease.
  JOIN_OK(truncater);
}

GUEST_TEST(Lease, WhoMayHaveOne) {
  LockFile f;
  const int reader = f.Open(O_RDONLY);
  if (fcntl(reader, F_SETLEASE, F_RDLCK) < 0 && errno == EAGAIN) Skip("no leases on this file system");
  MUST(fcntl(reader, F_SETLEASE, F_UNLCK));
  const int writer = f.Open(O_RDWR);
  EXPECT_ERRNO(fcntl(reader, F_SETLEASE, F_RDLCK), EAGAIN);
  EXPECT_ERRNO(fcntl(writer, F_SETLEASE, F_WRLCK), EAGAIN);  // It is open elsewhere.
  close(reader);
  EXPECT_OK(fcntl(writer, F_SETLEASE, F_WRLCK));
  Pipe pipe;
  EXPECT_ERRNO(fcntl(pipe.r, F_SETLEASE, F_RDLCK), EINVAL);
  const int directory = MUST(open("/", O_RDONLY));
  EXPECT_ERRNO(fcntl(directory, F_SETLEASE, F_RDLCK), EINVAL);
  char text[8] = {};
  const int limit = MUST(open("/proc/sys/fs/lease-break-time", O_RDONLY));
  MUST(read(limit, text, sizeof(text) - 1));
  EXPECT_STREQ(text, "45\n");
}

GUEST_TEST(DirectoryNotification, TellsByASignal) {
  TempDir dir;
  const int fd = MUST(open(dir.path(), O_RDONLY));
  CountSignals(SIGRTMIN);
  MUST(fcntl(fd, F_SETSIG, SIGRTMIN));
  EXPECT_OK(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT));
  WriteFile(dir / "f", "");
  EXPECT_GE(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_fd, fd);
}

GUEST_TEST(DirectoryNotification, OnceOrUntilItIsEnded) {
  TempDir dir;
  const int fd = MUST(open(dir.path(), O_RDONLY));
  CountSignals(SIGRTMIN);
  MUST(fcntl(fd, F_SETSIG, SIGRTMIN));
  EXPECT_OK(fcntl(fd, F_NOTIFY, DN_CREATE));
  EXPECT_EQ(fcntl(fd, F_GETOWN), getpid());
  CheckpointHere();
  WriteFile(dir / "a", "");
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, POLL_MSG);
  WriteFile(dir / "b", "");
  EXPECT_EQ(SignalCount(), 1);  // Without DN_MULTISHOT that was all.
  EXPECT_OK(fcntl(fd, F_NOTIFY, DN_DELETE | DN_MULTISHOT));
  WriteFile(dir / "c", "");
  EXPECT_EQ(SignalCount(), 1);
  CheckpointHere();
  MUST(unlink(dir / "a"));
  MUST(unlink(dir / "b"));
  EXPECT_EQ(SignalCount(), 3);
  EXPECT_OK(fcntl(fd, F_NOTIFY, DN_ATTRIB | DN_MULTISHOT));  // Added to the others.
  MUST(chmod(dir / "c", 0600));
  EXPECT_EQ(SignalCount(), 4);
  EXPECT_OK(fcntl(fd, F_NOTIFY, 0));
  MUST(unlink(dir / "c"));
  EXPECT_EQ(SignalCount(), 4);
}

GUEST_TEST(DirectoryNotification, Errors) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const int file = MUST(open(dir / "f", O_RDONLY));
  EXPECT_ERRNO(fcntl(file, F_NOTIFY, DN_CREATE), ENOTDIR);
  EXPECT_OK(fcntl(file, F_NOTIFY, 0));
  EXPECT_ERRNO(fcntl(MUST(open(dir.path(), O_PATH)), F_NOTIFY, DN_CREATE), EBADF);
  Pipe p;
  EXPECT_ERRNO(fcntl(p.r, F_NOTIFY, DN_CREATE), ENOTDIR);
}

// By a call that is made so often that it goes another way: where the lock lies, and what else fcntl takes as an argument.
GUEST_TEST(RecordLocks, AgainAndAgain) {
  LockFile f;
  const int fd = f.Open(), other = f.Open();
  for (int i = 0; i < 200; i++) {
    struct flock lock = Range(F_WRLCK, i, 1);
    EXPECT_OK(fcntl(fd, F_OFD_SETLK, &lock));
    struct flock found = Range(F_RDLCK, 0, 1000);
    EXPECT_OK(fcntl(other, F_OFD_GETLK, &found));
    EXPECT_EQ(found.l_type, F_WRLCK);
    EXPECT_EQ(found.l_start, i);
    lock.l_type = F_UNLCK;
    EXPECT_OK(fcntl(fd, F_OFD_SETLK, &lock));
    EXPECT_OK(fcntl(fd, F_SETFL, i % 2 == 0 ? O_NONBLOCK : 0));
    EXPECT_EQ((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0, i % 2 == 0);
    if (i % 20 == 0) EXPECT_ERRNO(fcntl(fd, F_SETLK, reinterpret_cast<void*>(16)), EFAULT);
    if (i == 100) CheckpointHere();
  }
}

// lock_get_status() of fs/locks.c: what is behind the number.
GUEST_TEST(LockEdge, AreListed) {
  TempDir dir;
  auto open_one = [&](const char* name) { return MUST(open(dir / name, O_RDWR | O_CREAT, 0600)); };
  const int posix = open_one("posix"), ofd = open_one("ofd"), whole = open_one("flock"), leased = open_one("lease");
  struct flock range = {};
  range.l_type = F_RDLCK;
  range.l_start = 5;
  range.l_len = 10;
  MUST(fcntl(posix, F_SETLK, &range));
  range.l_type = F_WRLCK;
  range.l_start = range.l_len = 0;
  MUST(fcntl(ofd, F_OFD_SETLK, &range));
  MUST(flock(whole, LOCK_SH));
  close(leased);
  const int reader = MUST(open(dir / "lease", O_RDONLY));
  const bool has_lease = fcntl(reader, F_SETLEASE, F_RDLCK) == 0;
  CheckpointHere();
  auto line = [&](int fd, const char* kind, const char* type, int pid, const char* range_text) {
    struct stat st;
    MUST(fstat(fd, &st));
    return Str("%s%s %d %02x:%02x:%lu %s\n", kind, type, pid, major(st.st_dev), minor(st.st_dev), static_cast<unsigned long>(st.st_ino), range_text);
  };
  static char all[1 << 16], info[4096];
  ReadFile("/proc/locks", all, sizeof(all));
  auto check = [&](int fd, const Str& text) {
    EXPECT(strstr(all, text) != nullptr);
    ReadFile(Str("/proc/self/fdinfo/%d", fd), info, sizeof(info));
    EXPECT(strstr(info, Str("lock:\t1: %s", static_cast<const char*>(text))) != nullptr);
  };
  check(posix, line(posix, "POSIX  ADVISORY  ", "READ", getpid(), "5 14"));
  check(ofd, line(ofd, "OFDLCK ADVISORY  ", "WRITE", -1, "0 EOF"));
  check(whole, line(whole, "FLOCK  ADVISORY  ", "READ", getpid(), "0 EOF"));
  if (has_lease) check(reader, line(reader, "LEASE  ACTIVE    ", "READ", getpid(), "0 EOF"));
  // Another's are not told by one's own descriptor of the same file.
  const int other = MUST(open(dir / "flock", O_RDWR));
  ReadFile(Str("/proc/self/fdinfo/%d", other), info, sizeof(info));
  EXPECT(strstr(info, "lock:") == nullptr);
}
