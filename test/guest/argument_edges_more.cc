// What few programs ask of files without a place in the tree, of processes and of names; and in which order Linux refuses.
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct NoPlace {
  int fds[5];
  NoPlace() {
    sigset_t none;
    sigemptyset(&none);
    fds[0] = MUST(eventfd(0, 0));
    fds[1] = MUST(signalfd(-1, &none, 0));
    fds[2] = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    fds[3] = MUST(epoll_create1(0));
    fds[4] = MUST(inotify_init());
  }
};

}  // namespace

GUEST_TEST(ArgumentEdgeMore, SeekingToNowhere) {
  NoPlace all;
  CheckpointHere();
  char byte;
  for (int fd : all.fds) {
    EXPECT_EQ(lseek(fd, 5, SEEK_SET), 0);
    EXPECT_EQ(lseek(fd, -5, SEEK_CUR), 0);
    EXPECT_EQ(lseek(fd, 0, SEEK_END), 0);
    EXPECT_ERRNO(lseek(fd, 0, 5), EINVAL);
    EXPECT_ERRNO(pread(fd, &byte, 1, 0), ESPIPE);
  }
  int socket = MUST(::socket(AF_UNIX, SOCK_STREAM, 0));
  EXPECT_ERRNO(lseek(socket, 0, SEEK_SET), ESPIPE);
  EXPECT_ERRNO(lseek(socket, 0, 9), EINVAL);
}

GUEST_TEST(ArgumentEdgeMore, RecordLocksOfSockets) {
  int fds[2];
  MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  EXPECT_EQ(fcntl(fds[0], F_SETLK, &lock), 0);
  EXPECT_EQ(flock(fds[0], LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(flock(fds[1], LOCK_EX | LOCK_NB), 0);
  CheckpointHere();
  JOIN_OK(Fork([&] {
    struct flock wanted = {};
    wanted.l_type = F_RDLCK;
    EXPECT_ERRNO(fcntl(fds[0], F_SETLK, &wanted), EAGAIN);
    EXPECT_EQ(fcntl(fds[0], F_GETLK, &wanted), 0);
    EXPECT_EQ(wanted.l_type, F_WRLCK);
    EXPECT_EQ(wanted.l_pid, getppid());
  }));
  // Any descriptor of it that is closed ends them.
  close(MUST(dup(fds[0])));
  JOIN_OK(Fork([&] {
    struct flock wanted = {};
    wanted.l_type = F_RDLCK;
    EXPECT_EQ(fcntl(fds[0], F_SETLK, &wanted), 0);
  }));
}

GUEST_TEST(ArgumentEdgeMore, LocksThatAreNoMore) {
  int fd = MUST(open("/dev/null", O_RDWR));
  EXPECT_EQ(flock(fd, 32 /* LOCK_MAND */), 0);
  EXPECT_ERRNO(flock(999, 3), EINVAL);
  EXPECT_ERRNO(flock(999, LOCK_SH), EBADF);
}

GUEST_TEST(ArgumentEdgeMore, HintsOfLifetime) {
  int file = MUST(open("/tmp", O_TMPFILE | O_RDWR, 0600));
  int event = MUST(eventfd(0, 0));
  for (int fd : {file, event}) {
    // Linux has one inode for all eventfds, which keeps what somebody said before.
    uint64_t hint = 0;
    EXPECT_EQ(fcntl(fd, F_SET_RW_HINT, &hint), 0);
    hint = 7;
    EXPECT_EQ(fcntl(fd, F_GET_RW_HINT, &hint), 0);
    EXPECT_EQ(hint, 0u);
    hint = RWH_WRITE_LIFE_LONG;
    EXPECT_EQ(fcntl(fd, F_SET_RW_HINT, &hint), 0);
    hint = 6;
    EXPECT_ERRNO(fcntl(fd, F_SET_RW_HINT, &hint), EINVAL);
    EXPECT_ERRNO(fcntl(fd, F_SET_RW_HINT, kBadAddress), EFAULT);
    EXPECT_ERRNO(fcntl(fd, F_GET_FILE_RW_HINT, &hint), EINVAL);
  }
  CheckpointHere();
  for (int fd : {file, event}) {
    uint64_t hint = 0;
    EXPECT_EQ(fcntl(fd, F_GET_RW_HINT, &hint), 0);
    EXPECT_EQ(hint, uint64_t{RWH_WRITE_LIFE_LONG});
  }
}

GUEST_TEST(ArgumentEdgeMore, MadeWhenOpened) {
  constexpr int kCreatedQuery = 1028;  // F_CREATED_QUERY
  char name[] = "/tmp/created-XXXXXX";
  close(MUST(mkstemp(name)));
  int old = MUST(open(name, O_RDWR | O_CREAT, 0600));
  unlink(name);
  int fresh = MUST(open(name, O_RDWR | O_CREAT, 0600));
  unlink(name);
  CheckpointHere();
  EXPECT_EQ(fcntl(old, kCreatedQuery, 0), 0);
  EXPECT_EQ(fcntl(fresh, kCreatedQuery, 0), 1);
  EXPECT_EQ(fcntl(MUST(open("/tmp", O_PATH)), kCreatedQuery, 0), 0);
}

GUEST_TEST(ArgumentEdgeMore, FlagsThatMeanNothing) {
  int event = MUST(eventfd(0, 0));
  int flags = fcntl(event, F_GETFL);
  EXPECT_EQ(fcntl(event, F_SETFL, flags | O_ASYNC), 0);
  EXPECT_EQ(fcntl(event, F_GETFL), flags);
  EXPECT_ERRNO(fcntl(event, F_SETFL, flags | O_DIRECT), EINVAL);
  int on = 1;
  EXPECT_ERRNO(ioctl(event, FIOASYNC, &on), ENOTTY);
  EXPECT_ERRNO(open("/proc/self/status", O_RDONLY | O_DIRECT), EINVAL);
  EXPECT_ERRNO(fcntl(MUST(open("/dev/null", O_RDONLY)), F_ADD_SEALS, 0), EPERM);
}

GUEST_TEST(ArgumentEdgeMore, AttributesOfWhatHasNoPlace) {
  NoPlace all;
  for (int fd : all.fds) {
    EXPECT_ERRNO(fchmod(fd, 0600), EOPNOTSUPP);
    EXPECT_ERRNO(fchown(fd, 0, 0), EOPNOTSUPP);
    EXPECT_ERRNO(futimens(fd, nullptr), EOPNOTSUPP);
    char value[8];
    EXPECT_ERRNO(fgetxattr(fd, "user.x", value, sizeof(value)), ENODATA);
    EXPECT_ERRNO(fremovexattr(fd, "user.x"), EPERM);
    EXPECT_EQ(flistxattr(fd, value, sizeof(value)), 0);
  }
}

GUEST_TEST(ArgumentEdgeMore, NamesOfProtocols) {
  struct {
    int family, type;
    const char* name;
  } kinds[] = {{AF_UNIX, SOCK_STREAM, "UNIX-STREAM"},
               {AF_UNIX, SOCK_DGRAM, "UNIX"},
               {AF_INET, SOCK_STREAM, "TCP"},
               {AF_INET, SOCK_DGRAM, "UDP"},
               {AF_INET6, SOCK_STREAM, "TCPv6"}};
  for (auto& kind : kinds) {
    int fd = MUST(socket(kind.family, kind.type, 0));
    char name[32] = {}, list[64] = {};
    EXPECT_EQ(fgetxattr(fd, "system.sockprotoname", name, sizeof(name)), static_cast<long>(strlen(kind.name) + 1));
    EXPECT_EQ(strcmp(name, kind.name), 0);
    EXPECT_EQ(flistxattr(fd, list, sizeof(list)), 21);
    EXPECT_ERRNO(fgetxattr(fd, "system.sockprotoname", name, 2), ERANGE);
  }
}

GUEST_TEST(ArgumentEdgeMore, ModesOfFallocate) {
  int fd = MUST(open("/tmp", O_TMPFILE | O_RDWR, 0600));
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096), EOPNOTSUPP);
  int event = MUST(eventfd(0, 0));
  EXPECT_ERRNO(fallocate(event, 0, 0, 1), ENODEV);
  EXPECT_ERRNO(fallocate(event, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
  EXPECT_ERRNO(fallocate(event, 0, 0, 0), EINVAL);
  int folder = MUST(open("/tmp", O_RDONLY));
  EXPECT_ERRNO(fallocate(folder, 0, 0, 1), EBADF);
  EXPECT_ERRNO(fallocate(folder, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
}

GUEST_TEST(ArgumentEdgeMore, PositionsWithASign) {
  int fd = MUST(open("/dev/zero", O_RDWR));
  char byte = 0;
  EXPECT_ERRNO(pread(fd, &byte, 1, INT64_MAX), EINVAL);
  EXPECT_ERRNO(pwrite(fd, &byte, 1, INT64_MAX), EINVAL);
  EXPECT_ERRNO(Call(SYS_read, fd, &byte, 0x7fffffffffff), EFAULT);
  EXPECT_ERRNO(Call(SYS_write, fd, &byte, ~0ul), EFAULT);
  EXPECT_ERRNO(sync_file_range(fd, INT64_MAX, 1, 0), EINVAL);
  int pipe_end = MUST(eventfd(0, 0));
  EXPECT_ERRNO(pwrite(pipe_end, &byte, 1, 0), ESPIPE);
  int socket = MUST(::socket(AF_INET, SOCK_STREAM, 0));
  EXPECT_EQ(read(socket, &byte, 0), 0);
}

GUEST_TEST(ArgumentEdgeMore, BytesThatNobodyMoves) {
  int from = MUST(eventfd(0, 0)), to = MUST(eventfd(0, 0)), folder = MUST(open("/tmp", O_RDONLY));
  int file = MUST(open("/tmp", O_TMPFILE | O_RDWR, 0600));
  EXPECT_ERRNO(ioctl(to, FICLONE, from), EINVAL);
  EXPECT_ERRNO(ioctl(to, FICLONE, 999), EBADF);
  EXPECT_ERRNO(ioctl(to, FICLONE, folder), EXDEV);
  EXPECT_ERRNO(ioctl(file, FICLONE, folder), EISDIR);
  EXPECT_ERRNO(copy_file_range(folder, nullptr, to, nullptr, 1, 0), EISDIR);
  EXPECT_ERRNO(copy_file_range(from, nullptr, to, nullptr, 1, 0), EINVAL);
  int size = -1;
  EXPECT_EQ(ioctl(to, FIGETBSZ, &size), 0);
  EXPECT_EQ(size, 4096);
}

GUEST_TEST(ArgumentEdgeMore, WrittenMemoryIsNotExecuted) {
  constexpr int kSet = 65, kGet = 66, kRefuse = 1, kNoInherit = 2;
  JOIN_OK(Fork([&] {
    EXPECT_ERRNO(prctl(kSet, kNoInherit, 0, 0, 0), EINVAL);
    EXPECT_ERRNO(prctl(kSet, kRefuse, 1, 0, 0), EINVAL);
    EXPECT_EQ(prctl(kGet, 0, 0, 0, 0), 0);
    void* before = mmap(nullptr, kPage, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_EQ(prctl(kSet, kRefuse, 0, 0, 0), 0);
    EXPECT_ERRNO(prctl(kSet, kRefuse | kNoInherit, 0, 0, 0), EPERM);
    EXPECT_ERRNO(prctl(kSet, 0, 0, 0, 0), EPERM);
    CheckpointHere();
    EXPECT_EQ(prctl(kGet, 0, 0, 0, 0), kRefuse);
    EXPECT(mmap(nullptr, kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    EXPECT_EQ(errno, EACCES);
    void* data = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_ERRNO(mprotect(data, kPage, PROT_READ | PROT_EXEC), EACCES);
    EXPECT_EQ(mprotect(before, kPage, PROT_EXEC), 0);
    EXPECT_EQ(mprotect(before, kPage, PROT_READ), 0);
    EXPECT_ERRNO(mprotect(before, kPage, PROT_EXEC), EACCES);
    JOIN_OK(Fork([&] { EXPECT_EQ(prctl(kGet, 0, 0, 0, 0), kRefuse); }));
  }));
  JOIN_OK(Fork([&] {
    EXPECT_EQ(prctl(kSet, kRefuse | kNoInherit, 0, 0, 0), 0);
    JOIN_OK(Fork([&] { EXPECT_EQ(prctl(kGet, 0, 0, 0, 0), 0); }));
  }));
}

GUEST_TEST(ArgumentEdgeMore, PrctlsThatAreKept) {
  constexpr int kSetMerge = 67, kGetMerge = 68;
  EXPECT_EQ(prctl(kSetMerge, 1, 0, 0, 0), 0);
  EXPECT_ERRNO(prctl(kSetMerge, 1, 1, 0, 0), EINVAL);
  EXPECT_EQ(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0), 0);
  EXPECT_ERRNO(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 1, 0, 0), EINVAL);
  EXPECT_ERRNO(prctl(PR_MCE_KILL, 2, 0, 0, 0), EINVAL);
  int word = 0;
  Call(SYS_set_tid_address, &word);
  CheckpointHere();
  int* told = nullptr;
  EXPECT_EQ(prctl(PR_GET_TID_ADDRESS, &told, 0, 0, 0), 0);
  EXPECT(told == &word);
  EXPECT_EQ(prctl(kGetMerge, 0, 0, 0, 0), 1);
  EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY);
  JOIN_OK(Fork([&] { EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_EARLY); }));
  EXPECT_EQ(prctl(PR_MCE_KILL, PR_MCE_KILL_CLEAR, 0, 0, 0), 0);
  EXPECT_EQ(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0), PR_MCE_KILL_DEFAULT);
}

GUEST_TEST(ArgumentEdgeMore, TimersWithChosenIds) {
  constexpr int kRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS
  struct sigevent none = {};
  none.sigev_notify = SIGEV_NONE;
  EXPECT_EQ(prctl(kRestoreIds, 2, 0, 0, 0), 0);
  EXPECT_EQ(prctl(kRestoreIds, 1, 0, 0, 0), 0);
  EXPECT_ERRNO(prctl(kRestoreIds, 3, 0, 0, 0), EINVAL);
  int id = 77;
  EXPECT_EQ(Call(SYS_timer_create, CLOCK_MONOTONIC, &none, &id), 0);
  EXPECT_EQ(id, 77);
  CheckpointHere();
  EXPECT_EQ(prctl(kRestoreIds, 2, 0, 0, 0), 1);
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &none, &id), EBUSY);
  id = -1;
  EXPECT_ERRNO(Call(SYS_timer_create, CLOCK_MONOTONIC, &none, &id), EINVAL);
  EXPECT_EQ(prctl(kRestoreIds, 0, 0, 0, 0), 0);
  EXPECT_EQ(Call(SYS_timer_delete, 77), 0);
}

GUEST_TEST(ArgumentEdgeMore, EndsThatAreNoSignals) {
  long child = Call(SYS_clone, 200, 0, 0, 0, 0);
  if (child == 0) _exit(3);
  EXPECT(child > 0);
  int status = 0;
  EXPECT_ERRNO(waitpid(static_cast<pid_t>(child), &status, 0), ECHILD);
  CheckpointHere();
  EXPECT_EQ(waitpid(static_cast<pid_t>(child), &status, __WALL), child);
  EXPECT_EXITED(status, 3);
}

GUEST_TEST(ArgumentEdgeMore, TimersAsGoodAsNever) {
  struct itimerval huge = {}, now = {};
  huge.it_value.tv_sec = INT64_MAX;
  huge.it_interval.tv_sec = INT64_MAX;
  EXPECT_EQ(setitimer(ITIMER_REAL, &huge, nullptr), 0);
  int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
  struct itimerspec long_time = {{INT64_MAX, 0}, {INT64_MAX, 0}}, left = {};
  EXPECT_EQ(timerfd_settime(fd, 0, &long_time, nullptr), 0);
  CheckpointHere();
  EXPECT_EQ(getitimer(ITIMER_REAL, &now), 0);
  EXPECT_EQ(now.it_interval.tv_sec, 9223372036);
  EXPECT_EQ(now.it_interval.tv_usec, 854775);
  EXPECT(now.it_value.tv_sec > 9000000000);
  EXPECT_EQ(timerfd_gettime(fd, &left), 0);
  EXPECT_EQ(left.it_interval.tv_nsec, 854775807);
  EXPECT(left.it_value.tv_sec > 9000000000);
}

GUEST_TEST(ArgumentEdgeMore, TicksThatAreGiven) {
  constexpr unsigned long kSetTicks = 0x40085400;  // TFD_IOC_SET_TICKS
  int fd = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  uint64_t ticks = 0;
  EXPECT_ERRNO(ioctl(fd, kSetTicks, &ticks), EINVAL);
  EXPECT_ERRNO(ioctl(fd, kSetTicks, kBadAddress), EFAULT);
  ticks = 5;
  EXPECT_EQ(ioctl(fd, kSetTicks, &ticks), 0);
  CheckpointHere();
  ticks = 0;
  EXPECT_EQ(read(fd, &ticks, sizeof(ticks)), 8);
  EXPECT_EQ(ticks, 5u);
  EXPECT_ERRNO(read(fd, &ticks, sizeof(ticks)), EAGAIN);
}

GUEST_TEST(ArgumentEdgeMore, MoreMemoryThanThereIs) {
  EXPECT_ERRNO(shmget(IPC_PRIVATE, 1ul << 50, 0600 | IPC_CREAT), ENOMEM);
  int id = MUST(shmget(IPC_PRIVATE, 1ul << 40, 0600 | IPC_CREAT | SHM_NORESERVE));
  EXPECT_EQ(shmctl(id, IPC_RMID, nullptr), 0);
  EXPECT(mmap(nullptr, 1ul << 45, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
  EXPECT_EQ(errno, ENOMEM);
}

GUEST_TEST(ArgumentEdgeMore, WalksInTheCache) {
  struct open_how how = {};
  how.resolve = RESOLVE_CACHED;
  access("/tmp", F_OK);
  int fd = static_cast<int>(Call(SYS_openat2, AT_FDCWD, "/tmp", &how, sizeof(how)));
  EXPECT(fd >= 0);
  EXPECT_ERRNO(Call(SYS_openat2, AT_FDCWD, "/proc/self/exe", &how, sizeof(how)), EAGAIN);
  how.resolve = RESOLVE_CACHED | RESOLVE_NO_SYMLINKS;
  EXPECT_ERRNO(Call(SYS_openat2, AT_FDCWD, "/proc/self/exe", &how, sizeof(how)), ELOOP);
  how.resolve = RESOLVE_CACHED;
  how.flags = O_CREAT | O_RDWR;
  how.mode = 0600;
  EXPECT_ERRNO(Call(SYS_openat2, AT_FDCWD, "/tmp/new", &how, sizeof(how)), EAGAIN);
  // What makes no sense is refused before the walk.
  how = {};
  how.resolve = RESOLVE_BENEATH;
  how.flags = O_CREAT | O_DIRECTORY;
  EXPECT_ERRNO(Call(SYS_openat2, AT_FDCWD, "/tmp", &how, sizeof(how)), EINVAL);
}

GUEST_TEST(ArgumentEdgeMore, DeadlinesMakeSense) {
  struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
  } attr = {48, 6, 0, 0, 0, 40'000'000, 30'000'000, 30'000'000};
  EXPECT_ERRNO(Call(SYS_sched_setattr, 0, &attr, 0), EINVAL);
  attr.runtime = 100;
  EXPECT_ERRNO(Call(SYS_sched_setattr, 0, &attr, 0), EINVAL);
  attr.runtime = 10'000'000;
  attr.period = 20'000'000;
  EXPECT_ERRNO(Call(SYS_sched_setattr, 0, &attr, 0), EINVAL);
  EXPECT_EQ(sched_get_priority_max(7), 0);  // SCHED_EXT
}

GUEST_TEST(ArgumentEdgeMore, NamesInOrder) {
  char folder[] = "/tmp/names-XXXXXX";
  MUST(mkdtemp(folder) != nullptr ? 0 : -1);
  MUST(chdir(folder));
  close(MUST(open("f", O_CREAT | O_RDWR, 0600)));
  MUST(mkdir("d", 0700));
  MUST(mkdir("d/sub", 0700));
  // What is there comes before what is wrong with the names.
  EXPECT_ERRNO(Call(SYS_renameat2, AT_FDCWD, "f", AT_FDCWD, "d/", RENAME_NOREPLACE), EEXIST);
  EXPECT_ERRNO(Call(SYS_renameat2, AT_FDCWD, "d", AT_FDCWD, "d/sub", RENAME_NOREPLACE), EEXIST);
  EXPECT_ERRNO(Call(SYS_renameat2, AT_FDCWD, "f/", AT_FDCWD, "nx", RENAME_EXCHANGE), ENOENT);
  EXPECT_ERRNO(rename("d", "d/sub"), EINVAL);
  EXPECT_ERRNO(rename("d/sub", "d"), ENOTEMPTY);
  EXPECT_ERRNO(open(".", O_CREAT | O_EXCL | O_RDWR, 0600), EEXIST);
  EXPECT_ERRNO(open("d/", O_CREAT | O_EXCL | O_RDWR, 0600), EISDIR);
  EXPECT_ERRNO(link("f", "/proc/x"), ENOENT);
  EXPECT_ERRNO(link("f", "/dev/pts/x"), EXDEV);
  EXPECT_ERRNO(open("/dev/pts/x", O_CREAT | O_RDWR, 0600), EACCES);
  EXPECT_ERRNO(mkdir("/dev/pts/x", 0700), EPERM);
}

GUEST_TEST(ArgumentEdgeMore, ClassesOfAttributes) {
  if (geteuid() != 0) Skip("needs root");
  char folder[] = "/tmp/attributes-XXXXXX";
  MUST(mkdtemp(folder) != nullptr ? 0 : -1);
  MUST(chmod(folder, 0755));
  MUST(chdir(folder));
  close(MUST(open("f", O_CREAT | O_RDWR, 0644)));
  MUST(symlink("f", "l"));
  EXPECT_ERRNO(setxattr("nx", "user.a", "", 0, 9), EINVAL);
  EXPECT_ERRNO(setxattr("nx", nullptr, "", 0, 0), EFAULT);
  EXPECT_ERRNO(setxattr("f", "user.", "", 0, 0), EINVAL);
  EXPECT_ERRNO(lsetxattr("l", "user.", "", 0, 0), EPERM);
  EXPECT_ERRNO(setxattr("f", "nobody.a", "", 0, 0), EOPNOTSUPP);
  JOIN_OK(Fork([&] {
    MUST(setresuid(1000, 1000, 1000));
    char value[8];
    EXPECT_ERRNO(setxattr("f", "user.", "", 0, 0), EACCES);
    EXPECT_ERRNO(setxattr("f", "nobody.a", "", 0, 0), EACCES);
    EXPECT_ERRNO(getxattr("f", "nobody.a", value, sizeof(value)), EOPNOTSUPP);
    EXPECT_ERRNO(setxattr("f", "trusted.", "", 0, 0), EPERM);
    EXPECT_ERRNO(getxattr("f", "trusted.", value, sizeof(value)), ENODATA);
  }));
}

GUEST_TEST(ArgumentEdgeMore, MemoryThatMayBeDropped) {
  constexpr int kDroppable = 8;  // MAP_DROPPABLE
  auto* memory = static_cast<char*>(mmap(nullptr, kPage, PROT_READ | PROT_WRITE, kDroppable | MAP_ANONYMOUS, -1, 0));
  if (memory == MAP_FAILED && errno == EINVAL) Skip("a kernel before 6.11");
  EXPECT(memory != MAP_FAILED);
  memory[0] = 1;
  CheckpointHere();
  JOIN_OK(Fork([&] { EXPECT_EQ(memory[0], 0); }));
  int fd = MUST(memfd_create("m", 0));
  EXPECT(mmap(nullptr, kPage, PROT_READ, kDroppable, fd, 0) == MAP_FAILED);
  EXPECT_EQ(errno, EINVAL);
  EXPECT(mmap(nullptr, kPage, PROT_READ, kDroppable | MAP_ANONYMOUS | MAP_LOCKED, -1, 0) == MAP_FAILED);
  EXPECT(mmap(nullptr, kPage, PROT_READ, kDroppable | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0) == MAP_FAILED);
}
