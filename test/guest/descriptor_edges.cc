// Small print of descriptors: event counters, pipes, epoll, process descriptors, seals of memory files.
#include <linux/memfd.h>
#include <mqueue.h>
#include <poll.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

constexpr long kPidfdSendSignal = 424, kPidfdOpen = 434;

}  // namespace

GUEST_TEST(EventFdEdge, OneNumberAtATime) {
  int fd = MUST(eventfd(0, EFD_NONBLOCK));
  uint64_t numbers[3] = {1, 1, 1};
  EXPECT_ERRNO(write(fd, numbers, sizeof(numbers)), EINVAL);
  EXPECT_ERRNO(write(fd, numbers, 9), EINVAL);
  EXPECT_EQ(write(fd, numbers, 8), 8);
  CheckpointHere();
  // Reading has more room than it needs.
  EXPECT_EQ(read(fd, numbers, sizeof(numbers)), 8);
  EXPECT_EQ(numbers[0], 1u);
}

GUEST_TEST(PipeEdge, PacketsAreTheWritersChoice) {
  int ends[2];
  MUST(pipe2(ends, O_DIRECT | O_NONBLOCK));
  EXPECT_EQ(fcntl(ends[0], F_GETFL) & (O_DIRECT | O_NONBLOCK), O_NONBLOCK);
  EXPECT_EQ(fcntl(ends[1], F_GETFL) & (O_DIRECT | O_NONBLOCK), O_DIRECT | O_NONBLOCK);
  MUST(write(ends[1], "ab", 2));
  MUST(write(ends[1], "cd", 2));
  CheckpointHere();
  char buffer[8];
  EXPECT_EQ(read(ends[0], buffer, 8), 2);
  EXPECT_EQ(read(ends[0], buffer, 8), 2);
}

GUEST_TEST(PipeEdge, NoSizeIsAPage) {
  Pipe pipe;
  EXPECT_EQ(fcntl(pipe.r, F_SETPIPE_SZ, 0), 4096);
  EXPECT_EQ(fcntl(pipe.r, F_GETPIPE_SZ), 4096);
  EXPECT_ERRNO(fcntl(pipe.r, F_SETPIPE_SZ, 0x80000001u), EINVAL);
}

GUEST_TEST(SpliceEdge, DirectoriesGiveNothing) {
  Pipe pipe;
  int folder = MUST(open("/tmp", O_RDONLY | O_DIRECTORY));
  int null = MUST(open("/dev/null", O_WRONLY));
  EXPECT_ERRNO(splice(folder, nullptr, pipe.w, nullptr, 10, 0), EINVAL);
  EXPECT_ERRNO(sendfile(null, folder, nullptr, 10), EINVAL);
}

// What could not be told is there again: an edge, and the one shot.
GUEST_TEST(EpollEdge, EventsNobodyGot) {
  Pipe edge, shot;
  int epoll = MUST(epoll_create1(0));
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.u64 = 1}};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, edge.r, &event));
  event = {.events = EPOLLIN | EPOLLONESHOT, .data = {.u64 = 2}};
  MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, shot.r, &event));
  MUST(write(edge.w, "x", 1));
  MUST(write(shot.w, "x", 1));
  EXPECT_ERRNO(epoll_wait(epoll, kBad, 2, 0), EFAULT);
  CheckpointHere();
  // Room for one that can be written to, at the end of a page.
  char* pages = Pages(2);
  MUST(munmap(pages + kPage, kPage));
  auto* last = reinterpret_cast<epoll_event*>(pages + kPage - sizeof(epoll_event));
  EXPECT_EQ(epoll_wait(epoll, last, 2, 0), 1);
  EXPECT_EQ(last->data.u64, 1u);
  EXPECT_EQ(epoll_wait(epoll, last, 1, 0), 1);
  EXPECT_EQ(last->data.u64, 2u);
  EXPECT_EQ(epoll_wait(epoll, last, 1, 0), 0);
}

GUEST_TEST(EpollEdge, ParametersAreKept) {
  constexpr unsigned long kSet = 0x40088a01, kGet = 0x80088a02;
  struct {
    uint32_t microseconds;
    uint16_t budget;
    uint8_t prefer, pad;
  } given = {100, 32, 1, 0}, got = {1, 1, 1, 1};
  int epoll = MUST(epoll_create1(0));
  EXPECT_EQ(ioctl(epoll, kGet, &got), 0);
  EXPECT(got.microseconds == 0 && got.budget == 0 && got.prefer == 0 && got.pad == 0);
  EXPECT_EQ(ioctl(epoll, kSet, &given), 0);
  CheckpointHere();
  EXPECT_EQ(ioctl(epoll, kGet, &got), 0);
  EXPECT(got.microseconds == 100 && got.budget == 32 && got.prefer == 1);
  given.pad = 1;
  EXPECT_ERRNO(ioctl(epoll, kSet, &given), EINVAL);
  given.pad = 0;
  given.prefer = 2;
  EXPECT_ERRNO(ioctl(epoll, kSet, &given), EINVAL);
  given = {0x80000000, 0, 0, 0};
  EXPECT_ERRNO(ioctl(epoll, kSet, &given), EINVAL);
  EXPECT_ERRNO(ioctl(epoll, kSet, kBadAddress), EFAULT);
  int count;
  EXPECT_ERRNO(ioctl(epoll, FIONREAD, &count), EINVAL);
  EXPECT_ERRNO(ioctl(epoll, 0x1234, &count), EINVAL);
  AS_USER([epoll] {
    struct {
      uint32_t microseconds;
      uint16_t budget;
      uint8_t prefer, pad;
    } large = {1, 65, 0, 0};
    EXPECT_ERRNO(ioctl(epoll, kSet, &large), EPERM);
  });
}

GUEST_TEST(WaitidEdge, TheDeadDoNotStop) {
  Pipe alive;
  pid_t child = Fork([&] { alive.CloseRead(); });
  alive.CloseWrite();
  char byte;
  EXPECT_EQ(read(alive.r, &byte, 1), 0);
  AwaitState(child, child, 'Z');
  CheckpointHere();
  siginfo_t info;
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, WSTOPPED | WNOHANG), ECHILD);
  EXPECT_ERRNO(waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WCONTINUED), ECHILD);
  EXPECT_EQ(waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WEXITED), 0);
  EXPECT_EQ(info.si_code, CLD_EXITED);
}

// Nothing but the fields that tell of a child is written, and those whatever the answer is.
GUEST_TEST(WaitidEdge, WhatIsWritten) {
  auto filled = [](siginfo_t* info) { memset(info, 0xee, sizeof(*info)); };
  auto word = [](const siginfo_t& info, size_t at) {
    uint32_t value;
    memcpy(&value, reinterpret_cast<const char*>(&info) + at, sizeof(value));
    return value;
  };
  constexpr uint32_t kUntouched = 0xeeeeeeee;
  auto check = [&](const siginfo_t& info, uint32_t signo, uint32_t code, uint32_t pid, uint32_t status) {
    uint32_t expected[] = {signo, 0, code, kUntouched, pid, 0, status, kUntouched};
    for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); ++i) EXPECT_EQ(word(info, i * 4), expected[i]);
  };
  siginfo_t info;
  filled(&info);
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
  check(info, 0, 0, 0, 0);
  filled(&info);
  EXPECT_ERRNO(waitid(P_ALL, 0, &info, 0), EINVAL);
  check(info, 0, 0, 0, 0);
  Gate end;
  pid_t child = Fork([&] {
    end.Await();
    _exit(9);
  });
  filled(&info);
  EXPECT_EQ(waitid(P_ALL, 0, &info, WEXITED | WNOHANG), 0);
  check(info, 0, 0, 0, 0);
  CheckpointHere();
  end.Open();
  filled(&info);
  EXPECT_EQ(waitid(P_ALL, 0, &info, WEXITED), 0);
  check(info, SIGCHLD, CLD_EXITED, static_cast<uint32_t>(child), 9);
}

GUEST_TEST(SchedEdge, AttributesOfALaterTime) {
  unsigned char attributes[256];
  memset(attributes, 0xee, sizeof(attributes));
  EXPECT_EQ(Call(SYS_sched_getattr, 0, attributes, 200, 0), 0);
  EXPECT_LT(attributes[0], 200);
  for (size_t i = attributes[0]; i < 200; ++i) EXPECT_EQ(attributes[i], 0);
  EXPECT_EQ(attributes[200], 0xee);
}

namespace {

// linux/pidfd.h of 6.18.
struct PidfdInfo {
  uint64_t mask, cgroup;
  uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr unsigned long InfoOf(unsigned size) { return _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, size); }
constexpr uint64_t kInfoPid = 1, kInfoCreds = 2, kInfoExit = 8;

}  // namespace

GUEST_TEST(PidFdInfo, OfTheLiving) {
  int fd = MUST(Call(kPidfdOpen, getpid(), 0));
  struct {
    PidfdInfo info;
    uint64_t more[8];
  } all{};
  PidfdInfo& info = all.info;
  info.mask = kInfoPid | kInfoCreds | kInfoExit;
  EXPECT_ERRNO(ioctl(fd, InfoOf(56), &info), ENOTTY);
  EXPECT_ERRNO(ioctl(fd, InfoOf(64), nullptr), EINVAL);
  EXPECT_ERRNO(ioctl(fd, InfoOf(64), kBadAddress), EFAULT);
  CheckpointHere();
  EXPECT_EQ(ioctl(fd, InfoOf(sizeof(info)), &info), 0);
  EXPECT_EQ(info.mask & (kInfoPid | kInfoCreds | kInfoExit), kInfoPid | kInfoCreds);
  EXPECT_EQ(info.pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(info.tgid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(info.ppid, static_cast<uint32_t>(getppid()));
  EXPECT_EQ(info.ruid, getuid());
  EXPECT_EQ(info.fsgid, getegid());
  // A larger structure is filled with zeros.
  info.mask = kInfoPid;
  all.more[7] = ~uint64_t{0};
  EXPECT_EQ(ioctl(fd, InfoOf(sizeof(all)), &all), 0);
  EXPECT_EQ(info.pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(all.more[7], 0u);
}

GUEST_TEST(PidFdInfo, OfTheDead) {
  pid_t child = Fork([] { _exit(3); });
  int fd = MUST(Call(kPidfdOpen, child, 0));
  AwaitState(child, child, 'Z');
  PidfdInfo info{};
  info.mask = kInfoExit;
  EXPECT_EQ(ioctl(fd, InfoOf(sizeof(info)), &info), 0);
  EXPECT_EQ(info.mask & (kInfoPid | kInfoExit), kInfoPid);
  EXPECT_EQ(info.pid, static_cast<uint32_t>(child));
  EXPECT_EXITED(WaitStatus(child), 3);
  CheckpointHere();
  info = {};
  info.mask = kInfoExit;
  EXPECT_EQ(ioctl(fd, InfoOf(sizeof(info)), &info), 0);
  EXPECT_EQ(info.mask & (kInfoPid | kInfoExit), kInfoExit);
  EXPECT_EQ(info.exit_code, 3 << 8);
  info.mask = kInfoPid;
  EXPECT_ERRNO(ioctl(fd, InfoOf(sizeof(info)), &info), ESRCH);
  EXPECT_ERRNO(ioctl(fd, _IO(0xff, 4), 0), ESRCH);
}

GUEST_TEST(PidFdInfo, Namespaces) {
  constexpr const char* kNames[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
  int fd = MUST(Call(kPidfdOpen, getpid(), 0));
  CheckpointHere();
  unsigned number = 0;
  for (const char* name : kNames) {
    int ns = MUST(ioctl(fd, _IO(0xff, ++number), 0));
    EXPECT_EQ(fcntl(ns, F_GETFD), FD_CLOEXEC);
    struct stat by_fd, by_name;
    MUST(fstat(ns, &by_fd));
    MUST(stat(Str("/proc/self/ns/%s", name), &by_name));
    EXPECT_EQ(by_fd.st_ino, by_name.st_ino);
    close(ns);
  }
  EXPECT_ERRNO(ioctl(fd, _IO(0xff, 4), 1), EINVAL);
  EXPECT_ERRNO(ioctl(fd, _IO(0xff, 12), 0), ENOTTY);
  // Joining what was found this way.
  int uts = MUST(ioctl(fd, _IO(0xff, 10), 0));
  if (setns(uts, CLONE_NEWUTS) != 0) EXPECT_EQ(errno, EPERM);
}

GUEST_TEST(PidFdSignal, OfOneself) {
  constexpr int kSelfThread = -10000, kSelfGroup = -10001;
  CountSignals(SIGUSR1);
  EXPECT_EQ(Call(kPidfdSendSignal, kSelfThread, SIGUSR1, nullptr, 0), 0);
  EXPECT_EQ(SignalCount(), 1);
  EXPECT_EQ(LastSignal().si_code, SI_TKILL);
  CheckpointHere();
  EXPECT_EQ(Call(kPidfdSendSignal, kSelfGroup, SIGUSR1, nullptr, 0), 0);
  EXPECT_EQ(SignalCount(), 2);
  EXPECT_EQ(LastSignal().si_code, SI_USER);
  EXPECT_ERRNO(Call(kPidfdSendSignal, -10002, 0, nullptr, 0), EBADF);
}

GUEST_TEST(PidFdSignal, ToAGroupItMustLead) {
  constexpr unsigned kProcessGroup = 4;
  int own = MUST(Call(kPidfdOpen, getpid(), 0));
  EXPECT_EQ(Call(kPidfdSendSignal, own, 0, nullptr, kProcessGroup), 0);  // a test leads its group
  JOIN_OK(Fork([] {
    int fd = MUST(Call(kPidfdOpen, getpid(), 0));
    EXPECT_ERRNO(Call(kPidfdSendSignal, fd, 0, nullptr, kProcessGroup), ESRCH);
    EXPECT_EQ(Call(kPidfdSendSignal, fd, 0, nullptr, 0), 0);
  }));
}

GUEST_TEST(MemfdSeals, AgainstExecution) {
  constexpr unsigned kNoExecSeal = 8;
  constexpr int kSealExec = 0x20;
  int fd = MUST(memfd_create("m", MFD_ALLOW_SEALING | kNoExecSeal));
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), kSealExec);
  EXPECT_ERRNO(fchmod(fd, 0700), EPERM);
  EXPECT_EQ(fchmod(fd, 0640), 0);
  struct stat status;
  MUST(fstat(fd, &status));
  EXPECT_EQ(status.st_mode & 07777, 0640u);
  CheckpointHere();
  EXPECT_EQ(fcntl(fd, F_GET_SEALS), kSealExec);
  EXPECT_ERRNO(fchmod(fd, 0100), EPERM);
  EXPECT_EQ(write(fd, "x", 1), 1);
  // What may be executed cannot be written to then.
  int program = MUST(memfd_create("m", MFD_ALLOW_SEALING));
  EXPECT_EQ(fcntl(program, F_ADD_SEALS, kSealExec), 0);
  EXPECT_EQ(fcntl(program, F_GET_SEALS), kSealExec | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE);
  EXPECT_ERRNO(fchmod(program, 0600), EPERM);
  EXPECT_EQ(fchmod(program, 0711), 0);
  EXPECT_ERRNO(write(program, "x", 1), EPERM);
  // Sealed against seals.
  int plain = MUST(memfd_create("m", 0));
  EXPECT_ERRNO(fcntl(plain, F_ADD_SEALS, kSealExec), EPERM);
}

GUEST_TEST(PersonalityEdge, OldMachines) {
  utsname name;
  MUST(personality(PER_LINUX32));
  MUST(uname(&name));
  EXPECT_STREQ(name.machine, "i686");
  CheckpointHere();
  MUST(personality(UNAME26));
  MUST(uname(&name));
  EXPECT_STREQ(name.machine, "x86_64");
  EXPECT_EQ(strncmp(name.release, "2.6.", 4), 0);
  for (int kind : {int{PER_SVR4}, int{PER_BSD}, int{PER_HPUX}, 0x12345678}) {
    MUST(personality(static_cast<unsigned>(kind)));
    EXPECT_EQ(personality(0xffffffff), kind);
  }
  MUST(personality(PER_LINUX));
}

// A signal of number 0 is one that nobody gets; the registration counts all the same.
GUEST_TEST(MqNotifyEdge, NoSignalAtAll) {
  Str name("/none.%d", getpid());
  mqd_t queue = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, nullptr));
  MUST(mq_unlink(name));
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  EXPECT_EQ(mq_notify(queue, &event), 0);
  EXPECT_ERRNO(mq_notify(queue, &event), EBUSY);
  CheckpointHere();
  MUST(mq_send(queue, "x", 1, 0));
  EXPECT_EQ(mq_notify(queue, &event), 0);
  event.sigev_signo = -1;
  EXPECT_ERRNO(mq_notify(queue, &event), EINVAL);
}

// O_LARGEFILE, which is 0 for programs, is what open(2) and memfd_create(2) set by themselves, and others do not.
GUEST_TEST(FlagEdge, LargeFiles) {
  constexpr int kLargeFile = 0100000;
  auto large = [](int fd) { return (fcntl(fd, F_GETFL) & kLargeFile) != 0; };
  int memory = MUST(memfd_create("m", 0));
  Pipe pipe;
  Str name("/flags.%d", getpid());
  mqd_t queue = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, nullptr));
  MUST(mq_unlink(name));
  CheckpointHere();
  EXPECT(large(memory));
  EXPECT(large(MUST(open(Str("/proc/self/fd/%d", memory), O_RDONLY))));
  EXPECT(!large(pipe.r));
  EXPECT(large(MUST(open(Str("/proc/self/fd/%d", pipe.r), O_RDONLY))));
  EXPECT(!large(queue));
  EXPECT(large(MUST(open("/dev/null", O_RDONLY))));
  EXPECT(!large(MUST(open("/dev/null", O_PATH))));
}
