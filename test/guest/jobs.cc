// Sessions, process groups, and job control on a terminal.
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <termios.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Terminal {
  Terminal() {
    master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    int unlock = 0, number = -1;
    MUST(ioctl(master, TIOCSPTLCK, &unlock));
    MUST(ioctl(master, TIOCGPTN, &number));
    slave = MUST(open(Str("/dev/pts/%d", number), O_RDWR | O_NOCTTY));
    path = Str("/dev/pts/%d", number);
  }
  int master = -1, slave = -1;
  Str path{"%s", ""};
};

// Runs `body` as the leader of a session that owns the terminal.
template <typename F>
void InSession(const Terminal& terminal, F body) {
  JOIN_OK(Fork([&] {
    MUST(setsid());
    MUST(ioctl(terminal.slave, TIOCSCTTY, 0));
    body();
  }));
}

// A child in a group of its own, in the background.
template <typename F>
pid_t Background(F body) {
  const pid_t pid = Fork([&] {
    MUST(setpgid(0, 0));
    body();
  });
  setpgid(pid, pid);  // Both sides, so that it holds whoever comes first.
  return pid;
}

int WaitStopped(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, WUNTRACED) < 0 && errno == EINTR) {
  }
  EXPECT(WIFSTOPPED(status));
  return WSTOPSIG(status);
}

void Kill(pid_t pid) {
  kill(pid, SIGKILL);
  WaitStatus(pid);
}

}  // namespace

GUEST_TEST(Session, SetsidMakesALeader) {
  JOIN_OK(Fork([] {
    EXPECT_EQ(setsid(), getpid());
    EXPECT_EQ(getsid(0), getpid());
    EXPECT_EQ(getpgrp(), getpid());
    EXPECT_ERRNO(setsid(), EPERM);
    CheckpointHere();
    EXPECT_EQ(getsid(0), getpid());
    const pid_t leader = getpid();
    JOIN_OK(Fork([=] {
      EXPECT_EQ(getsid(0), leader);
      EXPECT_EQ(getpgrp(), leader);
    }));
  }));
}

GUEST_TEST(Session, GroupLeadersMayNot) {
  EXPECT_EQ(getpgrp(), getpid());
  EXPECT_ERRNO(setsid(), EPERM);
  EXPECT_ERRNO(getsid(0x3ffffff), ESRCH);
}

GUEST_TEST(Group, SetpgidRules) {
  const pid_t pid = Fork([] { pause(); });
  EXPECT_EQ(getpgid(pid), getpgrp());
  EXPECT_OK(setpgid(pid, pid));
  EXPECT_EQ(getpgid(pid), pid);
  EXPECT_OK(setpgid(pid, getpgrp()));
  EXPECT_EQ(getpgid(pid), getpgrp());
  EXPECT_ERRNO(setpgid(pid, 0x3ffffff), EPERM);
  EXPECT_ERRNO(setpgid(getppid(), 0), ESRCH);
  EXPECT_ERRNO(setpgid(pid, -1), EINVAL);
  Kill(pid);
}

GUEST_TEST(Group, NotAfterExecNorAcrossSessions) {
  Pipe p(O_CLOEXEC);
  const pid_t pid = Fork([&] {
    execl(SelfPath(), SelfPath(), "@Pause", nullptr);
    _exit(1);
  });
  p.CloseWrite();
  char byte;
  EXPECT_EQ(read(p.r, &byte, 1), 0);  // It has executed.
  EXPECT_ERRNO(setpgid(pid, pid), EACCES);
  Kill(pid);
  Gate ready;
  const pid_t other = Fork([&] {
    MUST(setsid());
    ready.Open();
    pause();
  });
  ready.Await();
  EXPECT_ERRNO(setpgid(other, getpgrp()), EPERM);
  EXPECT_ERRNO(setpgid(0, other), EPERM);
  Kill(other);
}

GUEST_HELPER(Pause) {
  pause();
  return 0;
}

GUEST_TEST(Group, KillReachesAllOfIt) {
  pid_t pids[5];
  const pid_t leader = Background([] { pause(); });
  for (pid_t& pid : pids) {
    pid = Fork([] { pause(); });
    MUST(setpgid(pid, leader));
  }
  CheckpointHere();
  MUST(kill(-leader, SIGTERM));
  EXPECT_KILLED(WaitStatus(leader), SIGTERM);
  for (const pid_t pid : pids) EXPECT_KILLED(WaitStatus(pid), SIGTERM);
  EXPECT_ERRNO(kill(-leader, 0), ESRCH);
}

GUEST_TEST(Group, OutlivesItsLeader) {
  Gate go;
  const pid_t leader = Background([] {});
  const pid_t member = Fork([&] { go.Await(); });
  MUST(setpgid(member, leader));  // The leader may be a zombie, but its group is there.
  JOIN_OK(leader);
  CheckpointHere();
  EXPECT_EQ(getpgid(member), leader);
  EXPECT_OK(kill(-leader, 0));
  go.Open();
  JOIN_OK(member);
}

GUEST_TEST(Ctty, AcquiredByOpening) {
  Terminal terminal;
  JOIN_OK(Fork([&] {
    MUST(setsid());
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
    const int fd = MUST(open(terminal.path, O_RDWR));  // No O_NOCTTY: it becomes ours.
    EXPECT_OK(open("/dev/tty", O_RDWR));
    EXPECT_EQ(tcgetsid(fd), getpid());
    EXPECT_EQ(tcgetpgrp(fd), getpid());
  }));
}

GUEST_TEST(Ctty, OnlyLeadersAndOnlyOnce) {
  Terminal terminal, second;
  InSession(terminal, [&] {
    EXPECT_ERRNO(ioctl(second.slave, TIOCSCTTY, 0), EPERM);  // Has one already.
    JOIN_OK(Fork([&] { EXPECT_ERRNO(ioctl(second.slave, TIOCSCTTY, 0), EPERM); }));
    JOIN_OK(Fork([&] {
      MUST(setsid());
      EXPECT_ERRNO(ioctl(terminal.slave, TIOCSCTTY, 0), EPERM);  // Taken by another session.
    }));
  });
}

GUEST_TEST(Ctty, DevTtyIsThatTerminal) {
  Terminal terminal;
  InSession(terminal, [&] {
    const int tty = MUST(open("/dev/tty", O_RDWR));
    MUST(write(tty, "through tty", 11));
    char text[32] = {};
    EXPECT_EQ(read(terminal.master, text, sizeof(text)), 11);
    CheckpointHere();
    EXPECT_OK(open("/dev/tty", O_RDWR));
    JOIN_OK(Fork([] {
      MUST(setsid());
      EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
    }));
  });
}

GUEST_TEST(Ctty, GivenUp) {
  Terminal terminal;
  InSession(terminal, [&] {
    signal(SIGHUP, SIG_IGN);
    signal(SIGCONT, SIG_IGN);
    MUST(ioctl(terminal.slave, TIOCNOTTY));
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
    EXPECT_ERRNO(tcgetpgrp(terminal.slave), ENOTTY);
  });
}

GUEST_TEST(Ctty, StatShowsIt) {
  Terminal terminal;
  InSession(terminal, [&] {
    char text[512];
    ReadFile("/proc/self/stat", text, sizeof(text));
    int ppid, pgrp, session, tty, foreground;
    EXPECT_EQ(sscanf(strrchr(text, ')') + 4, "%d %d %d %d %d", &ppid, &pgrp, &session, &tty, &foreground), 5);
    EXPECT_EQ(session, getpid());
    EXPECT_EQ(foreground, getpid());
    struct stat status = {};
    MUST(fstat(terminal.slave, &status));
    EXPECT_EQ(tty, static_cast<int>(status.st_rdev));
  });
}

GUEST_TEST(JobControl, ForegroundGroup) {
  Terminal terminal;
  InSession(terminal, [&] {
    EXPECT_EQ(tcgetpgrp(terminal.slave), getpgrp());
    const pid_t job = Background([] { pause(); });
    MUST(tcsetpgrp(terminal.slave, job));
    CheckpointHere();
    signal(SIGTTOU, SIG_IGN);
    EXPECT_EQ(tcgetpgrp(terminal.slave), job);
    int by_master = 0;
    MUST(ioctl(terminal.master, TIOCGPGRP, &by_master));
    EXPECT_EQ(by_master, job);
    EXPECT_ERRNO(tcsetpgrp(terminal.slave, 0x3ffffff), ESRCH);
    EXPECT_ERRNO(tcsetpgrp(terminal.slave, getppid()), EPERM);
    Kill(job);
  });
}

GUEST_TEST(JobControl, BackgroundReadStops) {
  Terminal terminal;
  InSession(terminal, [&] {
    const pid_t job = Background([&] {
      char text[16] = {};
      EXPECT_EQ(read(terminal.slave, text, sizeof(text)), 3);
      EXPECT_STREQ(text, "ok\n");
    });
    EXPECT_EQ(WaitStopped(job), SIGTTIN);
    CheckpointHere();
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(terminal.slave, job));
    MUST(kill(-job, SIGCONT));
    MUST(write(terminal.master, "ok\n", 3));
    JOIN_OK(job);
  });
}

GUEST_TEST(JobControl, BackgroundReadWithTtinIgnored) {
  Terminal terminal;
  InSession(terminal, [&] {
    JOIN_OK(Background([&] {
      signal(SIGTTIN, SIG_IGN);
      char byte;
      EXPECT_ERRNO(read(terminal.slave, &byte, 1), EIO);
    }));
    JOIN_OK(Background([&] {
      Block({SIGTTIN});
      char byte;
      EXPECT_ERRNO(read(terminal.slave, &byte, 1), EIO);
    }));
  });
}

GUEST_TEST(JobControl, BackgroundWriteIsAllowedWithoutTostop) {
  Terminal terminal;
  InSession(terminal, [&] {
    JOIN_OK(Background([&] { EXPECT_EQ(write(terminal.slave, "x", 1), 1); }));
    termios now = {};
    MUST(tcgetattr(terminal.slave, &now));
    now.c_lflag |= TOSTOP;
    MUST(tcsetattr(terminal.slave, TCSANOW, &now));
    const pid_t job = Background([&] { EXPECT_EQ(write(terminal.slave, "y", 1), 1); });
    EXPECT_EQ(WaitStopped(job), SIGTTOU);
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(terminal.slave, job));
    MUST(kill(-job, SIGCONT));
    JOIN_OK(job);
  });
}

GUEST_TEST(JobControl, BackgroundSettingStops) {
  Terminal terminal;
  InSession(terminal, [&] {
    const pid_t job = Background([&] {
      termios now = {};
      MUST(tcgetattr(terminal.slave, &now));  // Reading attributes is fine.
      MUST(tcsetattr(terminal.slave, TCSANOW, &now));
    });
    EXPECT_EQ(WaitStopped(job), SIGTTOU);
    Kill(job);
    JOIN_OK(Background([&] {
      signal(SIGTTOU, SIG_IGN);
      EXPECT_OK(tcsetpgrp(terminal.slave,
                          getpgrp()));  // Ignoring it is how shells take the terminal back.
    }));
  });
}

GUEST_TEST(JobControl, SuspendCharacterStopsTheForeground) {
  Terminal terminal;
  InSession(terminal, [&] {
    Gate ready;
    const pid_t job = Background([&] {
      ready.Open();
      for (;;) pause();
    });
    ready.Await();
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(terminal.slave, job));
    MUST(write(terminal.master, "\x1a", 1));
    EXPECT_EQ(WaitStopped(job), SIGTSTP);
    EXPECT_EQ(ThreadState(job, job), 'T');
    CheckpointHere();
    EXPECT_EQ(ThreadState(job, job), 'T');
    MUST(kill(-job, SIGCONT));
    int status = 0;
    EXPECT_EQ(waitpid(job, &status, WCONTINUED), job);
    Kill(job);
  });
}

GUEST_TEST(JobControl, InterruptOnlyReachesTheForeground) {
  Terminal terminal;
  InSession(terminal, [&] {
    const pid_t background = Background([] { pause(); });
    Gate ready;
    const pid_t job = Background([&] {
      ready.Open();
      for (;;) pause();
    });
    ready.Await();
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(terminal.slave, job));
    MUST(write(terminal.master, "\x03", 1));
    EXPECT_KILLED(WaitStatus(job), SIGINT);
    EXPECT_OK(kill(background, 0));
    EXPECT_EQ(waitpid(background, nullptr, WNOHANG), 0);
    Kill(background);
  });
}

GUEST_TEST(JobControl, LeaderExitHangsUp) {
  Terminal terminal;
  auto* child = Shared<pid_t>();
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  InSession(terminal, [&] {
    Gate ready;
    *child = Fork([&] {
      ready.Open();
      for (;;) pause();
    });
    ready.Await();
  });
  // The foreground group gets SIGHUP (then SIGCONT) when the session's leader ends.
  EXPECT_KILLED(WaitStatus(*child), SIGHUP);
}

GUEST_TEST(Orphan, StoppedGroupGetsHangup) {
  MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
  auto* child = Shared<pid_t>();
  // middle leads a session; its child stops in a group of its own; when middle ends the group is
  // orphaned.
  JOIN_OK(Fork([&] {
    MUST(setsid());
    *child = Background([] {
      raise(SIGSTOP);
      _exit(1);
    });
    EXPECT_EQ(WaitStopped(*child), SIGSTOP);
    CheckpointHere();
  }));
  EXPECT_KILLED(WaitStatus(*child), SIGHUP);
}

GUEST_TEST(Orphan, TstpDoesNotStopOrphans) {
  JOIN_OK(Fork([] {
    MUST(setsid());  // Its parent is in another session: an orphaned group.
    raise(SIGTSTP);
    raise(SIGTTIN);
    raise(SIGTTOU);
  }));
}

GUEST_TEST(Orphan, BackgroundReadIsEio) {
  Terminal terminal;
  // When the group's one member with a parent elsewhere in the session is gone, the rest are
  // orphans.
  InSession(terminal, [&] {
    auto* verdict = Shared<int>();
    Gate middle_gone, done;
    const pid_t middle = Background([&] {
      Fork([&] { done.Await(); });
      Fork([&] {
        middle_gone.Await();
        char byte;
        const ssize_t got = read(terminal.slave, &byte, 1);
        *verdict = got < 0 && errno == EIO ? 1 : 2;
      });
    });
    JOIN_OK(middle);
    middle_gone.Open();
    for (int i = 0; i < 20000 && __atomic_load_n(verdict, __ATOMIC_SEQ_CST) == 0; ++i) SleepMs(1);
    EXPECT_EQ(*verdict, 1);
    done.Open();
  });
}
