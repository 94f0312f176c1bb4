// Calls that the C library no longer makes, because newer ones took their place: programs of old, and those that bring
// a library of their own, still do.
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <utime.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct OldEntry {  // struct linux_dirent: the kind stands in the last byte.
  unsigned long inode;
  unsigned long offset;
  unsigned short length;
  char name[];
};

}  // namespace

GUEST_TEST(Older, OpenAndCreat) {
  TempDir dir;
  const int fd = MUST(Call(SYS_creat, (dir / "f").c_str(), 0640));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
  EXPECT_EQ(write(fd, "abc", 3), 3);
  CheckpointHere();
  struct stat status = {};
  MUST(Call(SYS_stat, (dir / "f").c_str(), &status));
  EXPECT_EQ(status.st_mode, S_IFREG | 0640);
  EXPECT_EQ(status.st_size, 3);
  const int again = MUST(Call(SYS_creat, (dir / "f").c_str(), 0600));  // Truncates what is there and leaves its mode.
  MUST(Call(SYS_fstat, again, &status));
  EXPECT_EQ(status.st_size, 0);
  EXPECT_EQ(status.st_mode, S_IFREG | 0640);
  const int reader = MUST(Call(SYS_open, (dir / "f").c_str(), O_RDONLY | O_CLOEXEC, 0));
  EXPECT_EQ(fcntl(reader, F_GETFD), FD_CLOEXEC);
  EXPECT_ERRNO(Call(SYS_creat, dir.path(), 0600), EISDIR);
  EXPECT_ERRNO(Call(SYS_open, kBadAddress, O_RDONLY, 0), EFAULT);
  EXPECT_ERRNO(Call(SYS_open, "", O_RDONLY, 0), ENOENT);
}

GUEST_TEST(Older, OpenIgnoresFlagsItDoesNotKnow) {
  // open and openat, unlike openat2, drop unknown bits.
  const int fd = MUST(Call(SYS_open, "/dev/null", O_RDONLY | 0x40000000, 0));
  EXPECT_EQ(fcntl(fd, F_GETFL) & 0x40000000, 0);
}

GUEST_TEST(Older, StatFollowsLstatDoesNot) {
  TempDir dir;
  WriteFile(dir / "f", "12345");
  MUST(symlink("f", dir / "l"));
  struct stat status = {};
  MUST(Call(SYS_stat, (dir / "l").c_str(), &status));
  EXPECT(S_ISREG(status.st_mode));
  MUST(Call(SYS_lstat, (dir / "l").c_str(), &status));
  EXPECT(S_ISLNK(status.st_mode));
  EXPECT_EQ(status.st_size, 1);
  EXPECT_ERRNO(Call(SYS_stat, "", &status), ENOENT);
  EXPECT_ERRNO(Call(SYS_stat, (dir / "f").c_str(), kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_lstat, kBadAddress, &status), EFAULT);
  EXPECT_ERRNO(Call(SYS_fstat, 1, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_fstat, -1, &status), EBADF);
}

GUEST_TEST(Older, GetdentsHasItsKindLast) {
  TempDir dir;
  WriteFile(dir / "file", "");
  MUST(mkdir(dir / "folder", 0755));
  const int fd = MUST(open(dir.path(), O_RDONLY | O_DIRECTORY));
  alignas(8) char buffer[1024];
  const int length = MUST(Call(SYS_getdents, fd, buffer, sizeof(buffer)));
  int seen = 0;
  for (int at = 0; at < length;) {
    const auto* entry = reinterpret_cast<OldEntry*>(buffer + at);
    const char kind = buffer[at + entry->length - 1];
    if (strcmp(entry->name, "file") == 0) EXPECT_EQ(kind, DT_REG);
    if (strcmp(entry->name, "folder") == 0) EXPECT_EQ(kind, DT_DIR);
    EXPECT_EQ(entry->length % 8, 0);
    EXPECT_NE(entry->inode, 0);
    ++seen;
    at += entry->length;
  }
  EXPECT_EQ(seen, 4);
  EXPECT_EQ(Call(SYS_getdents, fd, buffer, sizeof(buffer)), 0);
  MUST(lseek(fd, 0, SEEK_SET));
  EXPECT_ERRNO(Call(SYS_getdents, fd, buffer, 8), EINVAL);
  EXPECT_ERRNO(Call(SYS_getdents, fd, kBadAddress, sizeof(buffer)), EFAULT);
  EXPECT_ERRNO(Call(SYS_getdents, TempFile(), buffer, sizeof(buffer)), ENOTDIR);
}

GUEST_TEST(Older, Fork) {
  const int pid = MUST(Call(SYS_fork));
  if (pid == 0) _exit(Call(SYS_getppid) == 1 ? 1 : 7);
  EXPECT_EXITED(WaitStatus(pid), 7);
}

GUEST_TEST(Older, Pipe) {
  int ends[2] = {-1, -1};
  MUST(Call(SYS_pipe, ends));
  EXPECT_EQ(write(ends[1], "x", 1), 1);
  char byte = 0;
  EXPECT_EQ(read(ends[0], &byte, 1), 1);
  EXPECT_EQ(fcntl(ends[0], F_GETFD), 0);
  EXPECT_ERRNO(Call(SYS_pipe, kBadAddress), EFAULT);
  const int next = MUST(dup(0));  // What could not be told was closed again.
  EXPECT_EQ(next, ends[1] + 1);
}

GUEST_TEST(Older, TimeOfDayInSeconds) {
  time_t told = 0;
  const time_t now = syscall(SYS_time, &told);
  EXPECT_EQ(now, told);
  EXPECT_LE(NowNs(CLOCK_REALTIME) / 1'000'000'000 - now, 1);
  EXPECT_EQ(syscall(SYS_time, nullptr) >= now, true);
  EXPECT_ERRNO(syscall(SYS_time, kBadAddress), EFAULT);
}

GUEST_TEST(Older, NanosleepTellsWhatIsLeft) {
  CountSignals(SIGALRM);
  MUST(alarm(1));
  timespec wanted = {100, 0}, left = {};
  EXPECT_ERRNO(Call(SYS_nanosleep, &wanted, &left), EINTR);
  EXPECT_GE(left.tv_sec, 50);
  EXPECT_LT(left.tv_sec, 100);
  wanted = {0, 1'000'000'000};
  EXPECT_ERRNO(Call(SYS_nanosleep, &wanted, nullptr), EINVAL);
  wanted = {-1, 0};
  EXPECT_ERRNO(Call(SYS_nanosleep, &wanted, nullptr), EINVAL);
  EXPECT_ERRNO(Call(SYS_nanosleep, kBadAddress, nullptr), EFAULT);
}

GUEST_TEST(Older, UtimeSetsWholeSeconds) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const utimbuf times = {1000, 2000};
  MUST(Call(SYS_utime, (dir / "f").c_str(), &times));
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_atim.tv_sec, 1000);
  EXPECT_EQ(status.st_mtim.tv_sec, 2000);
  EXPECT_EQ(status.st_mtim.tv_nsec, 0);
  CheckpointHere();
  MUST(Call(SYS_utime, (dir / "f").c_str(), nullptr));
  MUST(stat(dir / "f", &status));
  EXPECT_GT(status.st_mtim.tv_sec, 1'000'000'000);
  EXPECT_ERRNO(Call(SYS_utime, (dir / "none").c_str(), nullptr), ENOENT);
  EXPECT_ERRNO(Call(SYS_utime, (dir / "f").c_str(), kBadAddress), EFAULT);
}

GUEST_TEST(Older, UtimesSetsMicroseconds) {
  TempDir dir;
  WriteFile(dir / "f", "");
  timeval times[2] = {{1000, 250'000}, {2000, 999'999}};
  MUST(Call(SYS_utimes, (dir / "f").c_str(), times));
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_atim.tv_nsec, 250'000'000);
  EXPECT_EQ(status.st_mtim.tv_nsec, 999'999'000);
  times[0].tv_usec = 1'000'000;
  EXPECT_ERRNO(Call(SYS_utimes, (dir / "f").c_str(), times), EINVAL);
  times[0].tv_usec = -1;
  EXPECT_ERRNO(Call(SYS_utimes, (dir / "f").c_str(), times), EINVAL);
  EXPECT_ERRNO(Call(SYS_utimes, (dir / "f").c_str(), kBadAddress), EFAULT);
}

GUEST_TEST(Older, FutimesatTakesAFolder) {
  TempDir dir;
  WriteFile(dir / "f", "");
  const int folder = MUST(open(dir.path(), O_PATH | O_DIRECTORY));
  const timeval times[2] = {{11, 0}, {22, 5}};
  MUST(Call(SYS_futimesat, folder, "f", times));
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_mtim.tv_sec, 22);
  EXPECT_EQ(status.st_mtim.tv_nsec, 5000);
  const int fd = MUST(open(dir / "f", O_RDONLY));
  EXPECT_OK(Call(SYS_futimesat, fd, nullptr, times));  // Without a path: of the descriptor.
  EXPECT_ERRNO(Call(SYS_futimesat, fd, "f", times), ENOTDIR);
  EXPECT_ERRNO(Call(SYS_futimesat, 999, "f", times), EBADF);
}

GUEST_TEST(Older, UstatKnowsMountedDevices) {
  struct {
    int free_blocks;
    unsigned long free_inodes;
    char name[6], pack[6];
  } told = {};
  struct stat status = {};
  MUST(stat("/dev/shm", &status));
  EXPECT_OK(Call(SYS_ustat, static_cast<unsigned>(status.st_dev), &told));
  EXPECT_ERRNO(Call(SYS_ustat, static_cast<unsigned>(status.st_dev), kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_ustat, 0xfffffL, &told), EINVAL);
}

GUEST_TEST(Older, SysfsNamesFileSystems) {
  const int count = MUST(Call(SYS_sysfs, 3));
  EXPECT_GT(count, 2);
  char name[64] = {};
  EXPECT_OK(Call(SYS_sysfs, 2, 0, name));
  EXPECT_NE(name[0], 0);
  EXPECT_EQ(Call(SYS_sysfs, 1, name), 0);
  EXPECT_ERRNO(Call(SYS_sysfs, 1, "no such system"), EINVAL);
  EXPECT_ERRNO(Call(SYS_sysfs, 2, count, name), EINVAL);
  EXPECT_ERRNO(Call(SYS_sysfs, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_sysfs, 1, kBadAddress), EFAULT);
}

GUEST_TEST(Older, EventfdWithoutFlags) {
  const int fd = MUST(Call(SYS_eventfd, 3));
  uint64_t value = 0;
  EXPECT_EQ(read(fd, &value, 8), 8);
  EXPECT_EQ(value, 3);
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
}

GUEST_TEST(Older, SignalfdWithoutFlags) {
  Block({SIGUSR1});
  const uint64_t mask = 1ull << (SIGUSR1 - 1);
  const int fd = MUST(Call(SYS_signalfd, -1, &mask, 8));
  raise(SIGUSR1);
  CheckpointHere();
  signalfd_siginfo info = {};
  EXPECT_EQ(read(fd, &info, sizeof(info)), sizeof(info));
  EXPECT_EQ(info.ssi_signo, SIGUSR1);
  EXPECT_ERRNO(Call(SYS_signalfd, -1, &mask, 4), EINVAL);
  EXPECT_ERRNO(Call(SYS_signalfd, -1, kBadAddress, 8), EFAULT);
  EXPECT_ERRNO(Call(SYS_signalfd, 0, &mask, 8), EINVAL);
}

GUEST_TEST(Older, EpollCreateWithASize) {
  const int fd = MUST(Call(SYS_epoll_create, 1));
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
  EXPECT_ERRNO(Call(SYS_epoll_create, 0), EINVAL);
  EXPECT_ERRNO(Call(SYS_epoll_create, -1), EINVAL);
  EXPECT_OK(Call(SYS_epoll_create, INT32_MAX));
}

GUEST_TEST(Older, InotifyInitBlocks) {
  const int fd = MUST(Call(SYS_inotify_init));
  EXPECT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(fcntl(fd, F_GETFD), 0);
  TempDir dir;
  EXPECT_EQ(inotify_add_watch(fd, dir.path(), IN_CREATE), 1);
}

GUEST_TEST(Older, SelectUpdatesItsTime) {
  Pipe p;
  fd_set set;
  FD_ZERO(&set);
  FD_SET(p.r, &set);
  timeval time = {0, 20'000};
  EXPECT_EQ(Call(SYS_select, p.r + 1, &set, nullptr, nullptr, &time), 0);
  EXPECT_EQ(time.tv_sec, 0);
  EXPECT_EQ(time.tv_usec, 0);
  EXPECT(!FD_ISSET(p.r, &set));
  MUST(write(p.w, "x", 1));
  FD_SET(p.r, &set);
  time = {100, 0};
  EXPECT_EQ(Call(SYS_select, p.r + 1, &set, nullptr, nullptr, &time), 1);
  EXPECT_GE(time.tv_sec, 90);
  EXPECT_ERRNO(Call(SYS_select, -1, &set, nullptr, nullptr, &time), EINVAL);
  EXPECT_ERRNO(Call(SYS_select, p.r + 1, kBadAddress, nullptr, nullptr, &time), EFAULT);
  EXPECT_ERRNO(Call(SYS_select, p.r + 1, &set, nullptr, nullptr, kBadAddress), EFAULT);
  time = {-1, 0};
  EXPECT_ERRNO(Call(SYS_select, p.r + 1, &set, nullptr, nullptr, &time), EINVAL);
}

GUEST_TEST(Older, LimitsByTheOldCalls) {
  rlimit limit = {};
  MUST(Call(SYS_getrlimit, RLIMIT_NOFILE, &limit));
  limit.rlim_cur = 40;
  MUST(Call(SYS_setrlimit, RLIMIT_NOFILE, &limit));
  rlimit again = {};
  MUST(Call(SYS_getrlimit, RLIMIT_NOFILE, &again));
  EXPECT_EQ(again.rlim_cur, 40);
  EXPECT_EQ(again.rlim_max, limit.rlim_max);
  EXPECT_ERRNO(Call(SYS_getrlimit, 16, &limit), EINVAL);
  EXPECT_ERRNO(Call(SYS_setrlimit, -1, &limit), EINVAL);
  EXPECT_ERRNO(Call(SYS_getrlimit, RLIMIT_NOFILE, kBadAddress), EFAULT);
  EXPECT_ERRNO(Call(SYS_setrlimit, RLIMIT_NOFILE, kBadAddress), EFAULT);
  limit.rlim_cur = limit.rlim_max + 1;
  EXPECT_ERRNO(Call(SYS_setrlimit, RLIMIT_NOFILE, &limit), EINVAL);
}

GUEST_TEST(Older, TidAddressIsTheThreadsId) {
  int word = 77;
  EXPECT_EQ(Call(SYS_set_tid_address, &word), Call(SYS_gettid));
  Thread other([] {
    static int cleared = 5;
    EXPECT_EQ(Call(SYS_set_tid_address, &cleared), Call(SYS_gettid));
    EXPECT_EQ(cleared, 5);  // Nothing is written until the thread ends.
    Call(SYS_set_tid_address, nullptr);
  });
  // The library waits for the word that it gave, which nobody clears now; so the thread is not joined.
  SleepMs(20);
  _exit(Failures() == 0 ? 0 : 1);
}

GUEST_TEST(Older, RestartSyscallWithoutAnythingToGoOnWith) { EXPECT_ERRNO(Call(SYS_restart_syscall), EINTR); }

GUEST_TEST(Older, GroupIdOfFileAccess) {
  EXPECT_EQ(Call(SYS_setfsgid, -1), 0);
  EXPECT_EQ(Call(SYS_setfsgid, 1234), 0);
  EXPECT_EQ(Call(SYS_setfsgid, -1), 1234);
  TempDir dir;
  WriteFile(dir / "f", "");
  struct stat status = {};
  MUST(stat(dir / "f", &status));
  EXPECT_EQ(status.st_gid, 1234);
  MUST(setgid(55));  // Takes the file system's along.
  EXPECT_EQ(Call(SYS_setfsgid, -1), 55);
}
