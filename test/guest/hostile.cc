// What a program may do to a kernel that it does not like: objects that tell of themselves, ends of processes in the middle of what tells them, and
// descriptors of what is gone. Nothing of it harms anybody else.
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// Whoever opens it is told of readiness by that signal.
void TellMe(int fd, int number) {
  MUST(fcntl(fd, F_SETOWN, getpid()));
  MUST(fcntl(fd, F_SETSIG, number));
  MUST(fcntl(fd, F_SETFL, O_ASYNC | O_NONBLOCK));
}

// A handler that finds no stack: the signal ends the process, at the moment when it is told.
void HandleWithoutStack(int number) {
  const stack_t stack = {.ss_sp = mmap(nullptr, 16 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), .ss_flags = 0, .ss_size = 16 * kPage};
  MUST(sigaltstack(&stack, nullptr));
  Handle(number, [](int, siginfo_t*, void*) {}, SA_ONSTACK);
}

// Stops `pid`, which waits in a call, and has it go on: it waits on.
void StopAndContinue(pid_t pid) {
  AwaitAsleep(pid);
  MUST(kill(pid, SIGSTOP));
  AwaitState(pid, pid, 'T');
  MUST(kill(pid, SIGCONT));
  AwaitAsleep(pid);
}

}  // namespace

// A signalfd that is told of by a signal of its own mask.
GUEST_TEST(Sigio, SignalfdTellsOfItself) {
  Block({SIGRTMIN, SIGUSR1});
  const sigset_t set = Signals({SIGRTMIN, SIGUSR1});
  const int fd = MUST(signalfd(-1, &set, SFD_NONBLOCK));
  TellMe(fd, SIGRTMIN);
  MUST(kill(getpid(), SIGUSR1));
  MUST(kill(getpid(), SIGRTMIN));
  signalfd_siginfo info = {};
  EXPECT_EQ(MUST(read(fd, &info, sizeof(info))), static_cast<ssize_t>(sizeof(info)));
  EXPECT_EQ(info.ssi_signo, static_cast<uint32_t>(SIGUSR1));
  EXPECT_EQ(MUST(read(fd, &info, sizeof(info))), static_cast<ssize_t>(sizeof(info)));
  EXPECT_ERRNO(read(fd, &info, sizeof(info)), EAGAIN);
}

// Only pipes, sockets, terminals and inotify tell by signals (who has ->fasync).
GUEST_TEST(Sigio, TimersAndCountersTellNobody) {
  CountSignals(SIGUSR1);
  const int timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
  TellMe(timer, SIGUSR1);
  const int counter = MUST(eventfd(0, EFD_NONBLOCK));
  TellMe(counter, SIGUSR1);
  const itimerspec soon = {.it_interval = {}, .it_value = Ns(kMs)};
  MUST(timerfd_settime(timer, 0, &soon, nullptr));
  const uint64_t one = 1;
  MUST(write(counter, &one, sizeof(one)));
  pollfd ready = {.fd = timer, .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&ready, 1, 30000), 1);
  EXPECT_EQ(SignalCount(), 0);
}

// The signal ends the process that owns what is ready, while it becomes ready.
GUEST_TEST(Sigio, ReadinessKillsTheOwner) {
  for (int i = 0; i < 20; ++i) {
    const pid_t pid = Fork([&] {
      const int timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
      TellMe(timer, SIGKILL);
      const itimerspec soon = {.it_interval = {}, .it_value = Ns(kMs)};
      MUST(timerfd_settime(timer, 0, &soon, nullptr));
      SleepMs(3);
      Pipe p;
      TellMe(p.r, SIGKILL);
      MUST(write(p.w, "x", 1));
      pause();
    });
    EXPECT_KILLED(WaitStatus(pid), SIGKILL);
  }
}

// The hard limit of processor time kills a process that nobody waits for.
GUEST_TEST(Limit, CpuTimeWithoutAParentWhoCares) {
  signal(SIGCHLD, SIG_IGN);
  Pipe p;
  const pid_t pid = MUST(fork());
  if (pid == 0) {
    const rlimit limit = {.rlim_cur = 1, .rlim_max = 1};
    MUST(setrlimit(RLIMIT_CPU, &limit));
    p.CloseRead();
    for (volatile int i = 0;; i = i + 1) {
    }
  }
  p.CloseWrite();
  char none;
  EXPECT_EQ(read(p.r, &none, 1), 0);
  EXPECT_ERRNO(waitpid(pid, nullptr, 0), ECHILD);
  // Where the timer would have looked again.
  signal(SIGCHLD, SIG_DFL);
  for (int i = 0; i < 4; ++i) {
    SleepMs(300);
    JOIN_OK(Fork([] { Pages(64)[0] = 1; }));
  }
}

GUEST_TEST(Pidfd, OfAReapedProcessSurvives) {
  const pid_t pid = Fork([] { _exit(3); });
  const int fd = static_cast<int>(MUST(syscall(434 /* pidfd_open */, pid, 0)));
  EXPECT_EXITED(WaitStatus(pid), 3);
  for (int i = 0; i < 5; ++i) JOIN_OK(Fork([] {}));
  CheckpointHere();
  pollfd ready = {.fd = fd, .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&ready, 1, 0), 1);
  EXPECT_ERRNO(syscall(424 /* pidfd_send_signal */, fd, 0, nullptr, 0), ESRCH);
  siginfo_t info = {};
  EXPECT_ERRNO(waitid(static_cast<idtype_t>(3) /* P_PIDFD */, static_cast<id_t>(fd), &info, WEXITED), ECHILD);
  JOIN_OK(Fork([] {}));
}

// The end of a tracee's tracer in the middle of what tells it of the tracee.
GUEST_TEST(Tracer, DiesOfTheSignalThatTellsOfAStop) {
  Gate go, went;
  const pid_t tracer = Fork([&] {
    const pid_t tracee = Fork([&] {
      MUST(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr));
      raise(SIGSTOP);
      go.Await();
      raise(SIGURG);
      went.Open();
    });
    int status = 0;
    MUST(waitpid(tracee, &status, 0));
    HandleWithoutStack(SIGCHLD);
    MUST(ptrace(PTRACE_CONT, tracee, nullptr, nullptr));
    waitpid(tracee, &status, 0);
  });
  StopAndContinue(tracer);
  go.Open();
  EXPECT_KILLED(WaitStatus(tracer), SIGSEGV);
  went.Await();
}

GUEST_TEST(Tracer, DiesOfTheSignalThatTellsOfAThreadsEnd) {
  Gate go, went;
  Pipe tid;
  const pid_t tracee = Fork([&] {
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    {
      Thread thread([&] { go.Await(); });
      const pid_t id = thread.tid();
      MUST(write(tid.w, &id, sizeof(id)));
    }
    went.Open();
  });
  pid_t thread = 0;
  MUST(read(tid.r, &thread, sizeof(thread)));
  const pid_t tracer = Fork([&] {
    if (ptrace(static_cast<__ptrace_request>(0x4206) /* PTRACE_SEIZE */, thread, nullptr, nullptr) != 0) _exit(77);
    HandleWithoutStack(SIGCHLD);
    int status = 0;
    waitpid(thread, &status, __WALL);
  });
  AwaitState(tracer, tracer, 'S');
  if (waitpid(tracer, nullptr, WNOHANG) == tracer) Skip("may not trace");
  StopAndContinue(tracer);
  go.Open();
  EXPECT_KILLED(WaitStatus(tracer), SIGSEGV);
  went.Await();
  JOIN_OK(tracee);
}

// Who ends takes its tracee with it, which is the first process of its namespace and so takes it with it.
GUEST_TEST(Tracer, TakesItsNamespacesInitWithIt) {
  const pid_t init = static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, nullptr, nullptr, nullptr, 0));
  if (init < 0 && errno == EPERM) Skip("may not make pid namespaces");
  MUST(init);
  if (init == 0) {
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    if (fork() == 0) {
      const bool traces = ptrace(static_cast<__ptrace_request>(0x4206) /* PTRACE_SEIZE */, 1, nullptr, static_cast<long>(PTRACE_O_EXITKILL)) == 0;
      _exit(traces ? 0 : 5);
    }
    int status = 0;
    while (wait(&status) < 0) {
    }
    // It was waited for before its end took this process.
    _exit(WEXITSTATUS(status) == 0 ? 0 : 77);
  }
  const int status = WaitStatus(init);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 77) Skip("may not trace");
  EXPECT(WIFEXITED(status) || WTERMSIG(status) == SIGKILL);
  JOIN_OK(Fork([] {}));
}

// The terminal of a session goes, and its leader by the signal that tells of that.
GUEST_TEST(Terminal, KillsItsSessionsLeader) {
  const int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
  MUST(grantpt(master));
  MUST(unlockpt(master));
  char name[64] = {};
  ASSERT_EQ(ptsname_r(master, name, sizeof(name)), 0);
  const pid_t leader = Fork([&] {
    MUST(setsid());
    close(master);
    MUST(open(name, O_RDWR));  // Becomes its controlling terminal.
    pause();
  });
  StopAndContinue(leader);
  MUST(close(master));
  EXPECT_KILLED(WaitStatus(leader), SIGHUP);
  JOIN_OK(Fork([] {}));
}

// A stop is told of while the one that is told dies of it, and the stopped process is left to nobody.
GUEST_TEST(Stop, KillsWhoIsToldOfIt) {
  Gate go;
  Pipe held;
  const pid_t parent = Fork([&] {
    MUST(setsid());
    const pid_t child = Fork([&] {
      MUST(setpgid(0, 0));
      held.CloseRead();
      Gate never;
      Thread other([&] { never.Await(); });
      other.AwaitAsleep();
      MUST(write(held.w, "r", 1));
      go.Await();
      raise(SIGSTOP);
      pause();
    });
    held.CloseWrite();
    HandleWithoutStack(SIGCHLD);
    waitpid(child, nullptr, 0);
  });
  held.CloseWrite();
  char byte;
  MUST(read(held.r, &byte, 1));
  StopAndContinue(parent);
  go.Open();
  EXPECT_KILLED(WaitStatus(parent), SIGSEGV);
  // The orphaned group got SIGHUP and SIGCONT.
  EXPECT_EQ(read(held.r, &byte, 1), 0);
}

// Signals that wait are counted (RLIMIT_SIGPENDING): a program cannot have the kernel keep any number of them.
GUEST_TEST(Limit, PendingSignals) {
  Block({SIGRTMIN});
  const rlimit limit = {.rlim_cur = 20, .rlim_max = 20};
  MUST(setrlimit(RLIMIT_SIGPENDING, &limit));
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  int sent = 0;
  const pid_t tid = static_cast<pid_t>(syscall(SYS_gettid));
  for (; sent < 100; ++sent) {
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGRTMIN, &info) != 0) break;
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_LE(sent, 20);
  EXPECT_ERRNO(syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMIN, &info), EAGAIN);
  EXPECT_ERRNO(syscall(SYS_tgkill, getpid(), tid, SIGRTMIN), EAGAIN);
  // kill(2) never fails: what finds no room is pending all the same, without details.
  for (int i = 0; i < 100; ++i) EXPECT_OK(kill(getpid(), SIGRTMIN));
  const sigset_t set = Signals({SIGRTMIN});
  const timespec none = {};
  int taken = 0;
  while (sigtimedwait(&set, nullptr, &none) == SIGRTMIN) ++taken;
  EXPECT_GE(taken, sent);
  EXPECT_LE(taken, sent + 1);
  // A signal that has no room at all is still taken once.
  const rlimit no_room = {.rlim_cur = 0, .rlim_max = 20};
  MUST(setrlimit(RLIMIT_SIGPENDING, &no_room));
  Block({SIGRTMIN + 1});
  MUST(kill(getpid(), SIGRTMIN + 1));
  const sigset_t other = Signals({SIGRTMIN + 1});
  EXPECT_EQ(sigtimedwait(&other, &info, &none), SIGRTMIN + 1);
  EXPECT_EQ(info.si_code, SI_USER);
  EXPECT_ERRNO(sigtimedwait(&other, &info, &none), EAGAIN);
}

GUEST_TEST(Limit, Timers) {
  const rlimit limit = {.rlim_cur = 10, .rlim_max = 10};
  MUST(setrlimit(RLIMIT_SIGPENDING, &limit));
  int made = 0;
  for (; made < 50; ++made) {
    timer_t timer = nullptr;
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &timer) != 0) break;
  }
  EXPECT_EQ(errno, EAGAIN);
  EXPECT_LE(made, 10);
}

// A process that left its own group comes back to it, not to another of the same number.
GUEST_TEST(Groups, OwnGroupIsFoundAgain) {
  Gate done;
  const pid_t pid = Fork([&] {
    MUST(setpgid(0, 0));
    const pid_t other = Fork([&] { done.Await(); });
    MUST(setpgid(other, other));
    const pid_t stays = Fork([&] { done.Await(); });
    MUST(setpgid(0, other));
    EXPECT_EQ(getpgid(stays), getpid());
    MUST(setpgid(0, 0));
    EXPECT_EQ(getpgrp(), getpid());
    // One group: both are reached by its number.
    EXPECT_OK(setpgid(other, getpid()));
    CheckpointHere();
    MUST(setpgid(0, 0));
    done.Open();
    done.Open();
    JOIN_OK(stays);
    JOIN_OK(other);
    EXPECT_OK(kill(-getpid(), 0));
  });
  JOIN_OK(pid);
}

// Names are bytes, not text: those of hosts, of domains, of mounts that are being made, of control groups.
GUEST_TEST(Names, AreAnyBytes) {
  if (unshare(CLONE_NEWUTS) < 0) Skip("no namespace of one's own");
  const char odd[] = "\xff\xfe\x80name\xc3";
  MUST(sethostname(odd, sizeof(odd) - 1));
  MUST(setdomainname(odd, sizeof(odd) - 1));
  MUST(prctl(PR_SET_NAME, odd));
  const int context = static_cast<int>(syscall(SYS_fsopen, "tmpfs", 0));
  if (context >= 0) MUST(syscall(SYS_fsconfig, context, 1 /*FSCONFIG_SET_STRING*/, "source", odd, 0));
  char group[64];
  snprintf(group, sizeof(group), "/sys/fs/cgroup/%s", odd);
  const bool made = mkdir(group, 0755) == 0;
  CheckpointHere();
  char host[65] = {}, name[16] = {};
  MUST(gethostname(host, sizeof(host)));
  EXPECT_STREQ(host, odd);
  MUST(getdomainname(host, sizeof(host)));
  EXPECT_STREQ(host, odd);
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_STREQ(name, odd);
  if (made) EXPECT_OK(rmdir(group));
}

// Each dies of its parent's end. However many there are, the kernel has one stack for all of them.
GUEST_TEST(Chain, EndsFromItsTop) {
  constexpr int kLength = 600;
  int ends[2];
  MUST(pipe(ends));
  const pid_t first = Fork([&] {
    close(ends[0]);
    for (int i = 1; i < kLength; ++i) {
      const pid_t next = fork();
      if (next < 0) break;  // As long as it may be.
      if (next > 0) break;
      MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
    }
    MUST(write(ends[1], "x", 1));
    pause();
  });
  close(ends[1]);
  char byte;
  for (int i = 0; i < kLength; ++i) MUST(read(ends[0], &byte, 1));
  CheckpointHere();
  MUST(kill(first, SIGKILL));
  MUST(waitpid(first, nullptr, 0));
  // Nobody is left who could write.
  EXPECT_EQ(read(ends[0], &byte, 1), 0);
}

// What a timer sends is the end of the process that has it, and nobody waits for that.
GUEST_TEST(Timers, EndTheirProcess) {
  signal(SIGCHLD, SIG_IGN);
  for (int round = 0; round < 8; ++round) {
    int ends[2];
    MUST(pipe(ends));
    Fork([&] {
      sigevent event = {};
      event.sigev_notify = round % 2 == 0 ? SIGEV_SIGNAL : SIGEV_THREAD_ID;
      event.sigev_signo = SIGKILL;
      Thread other([&] {
        event._sigev_un._tid = gettid();
        int timer;
        MUST(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
        const itimerspec soon = {{0, 0}, {0, 1'000'000}};
        MUST(syscall(SYS_timer_settime, timer, 0, &soon, nullptr));
        pause();
      });
      pause();
    });
    close(ends[1]);
    char byte;
    EXPECT_EQ(read(ends[0], &byte, 1), 0);
    close(ends[0]);
  }
}

// As long as offsets are, with data far behind: holes are no memory, and images have room for their numbers.
GUEST_TEST(Files, OfAnyLength) {
  const int fd = MUST(memfd_create("long", 0));
  constexpr off_t kFar = off_t{1} << 60;
  MUST(ftruncate(fd, INT64_MAX));
  EXPECT_EQ(pwrite(fd, "far", 3, kFar + 5), 3);
  CheckpointHere();
  char got[4] = {};
  EXPECT_EQ(pread(fd, got, 3, kFar + 5), 3);
  EXPECT_STREQ(got, "far");
  struct stat st;
  MUST(fstat(fd, &st));
  EXPECT_EQ(st.st_size, INT64_MAX);
}
