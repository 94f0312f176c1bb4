// Terminals at their edges: the ioctls' arguments, what users may not, modes of reading, input that is pushed in.
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

struct Terminal {
  Terminal() {
    master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    MUST(unlockpt(master));
    slave = MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
  }
  termios Get() const {
    termios modes = {};
    MUST(tcgetattr(slave, &modes));
    return modes;
  }
  void Change(tcflag_t local_off, tcflag_t local_on = 0) const {
    termios modes = Get();
    modes.c_lflag = (modes.c_lflag & ~local_off) | local_on;
    MUST(tcsetattr(slave, TCSANOW, &modes));
  }
  void Type(const char* text) const { MUST(write(master, text, strlen(text))); }
  // What is typed arrives when the kernel gets round to it.
  void AwaitInput() const {
    pollfd one = {slave, POLLIN, 0};
    ASSERT_EQ(poll(&one, 1, 10'000), 1);
  }
  int master, slave;
};

}  // namespace

GUEST_TEST(TtyIoctl, BadPointersAndCommands) {
  Terminal t;
  EXPECT_ERRNO(ioctl(t.slave, TCGETS, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.slave, TCSETS, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.slave, TIOCGWINSZ, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.slave, TIOCSWINSZ, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.slave, FIONREAD, kBadAddress), EFAULT);
  EXPECT_ERRNO(ioctl(t.slave, 0x7777, 0), ENOTTY);
  EXPECT_ERRNO(ioctl(t.slave, TIOCGPGRP, &t), ENOTTY);  // Not the caller's terminal.
  EXPECT_ERRNO(ioctl(t.slave, TIOCGSID, &t), ENOTTY);
  EXPECT_ERRNO(ioctl(TempFile(), TCGETS, kBadAddress), ENOTTY);
  int number = -1;
  EXPECT_ERRNO(ioctl(t.slave, TIOCGPTN, &number), ENOTTY);  // Only the master knows.
  EXPECT_OK(ioctl(t.master, TIOCGPTN, &number));
  EXPECT_GE(number, 0);
}

GUEST_TEST(TtyIoctl, LockOfTheSlave) {
  const int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
  int locked = -1;
  EXPECT_OK(ioctl(master, TIOCGPTLCK, &locked));
  EXPECT_EQ(locked, 1);
  EXPECT_ERRNO(open(ptsname(master), O_RDWR | O_NOCTTY), EIO);
  locked = 0;
  EXPECT_OK(ioctl(master, TIOCSPTLCK, &locked));
  CheckpointHere();
  EXPECT_OK(open(ptsname(master), O_RDWR | O_NOCTTY));
}

GUEST_TEST(TtyIoctl, ExclusiveUse) {
  Terminal t;
  EXPECT_OK(ioctl(t.slave, TIOCEXCL));
  MUST(chmod(ptsname(t.master), 0666));
  AS_USER([&] { EXPECT_ERRNO(open(ptsname(t.master), O_RDWR | O_NOCTTY), EBUSY); });
  EXPECT_OK(ioctl(t.slave, TIOCNXCL));
}

GUEST_TEST(TtyIoctl, SimulatedInput) {
  Terminal t;
  t.Change(ICANON | ECHO);
  char byte = 'q';
  const int pushed = ioctl(t.slave, TIOCSTI, &byte);
  if (pushed < 0 && (errno == EIO || errno == EPERM)) Skip("no TIOCSTI here");
  byte = 0;
  EXPECT_EQ(read(t.slave, &byte, 1), 1);
  EXPECT_EQ(byte, 'q');
}

GUEST_TEST(TtyIoctl, BreaksAndFlow) {
  Terminal t;
  EXPECT_OK(tcsendbreak(t.slave, 0));
  EXPECT_OK(tcdrain(t.slave));
  EXPECT_ERRNO(tcflush(t.slave, 9), EINVAL);
  EXPECT_ERRNO(tcflow(t.slave, 9), EINVAL);
  EXPECT_OK(tcflow(t.slave, TCOOFF));
  EXPECT_OK(tcflow(t.slave, TCOON));
}

GUEST_TEST(TtyModes, SpeedsAndSizesReadBack) {
  Terminal t;
  termios modes = t.Get();
  EXPECT_EQ(cfgetospeed(&modes), B38400);
  cfsetspeed(&modes, B9600);
  MUST(tcsetattr(t.slave, TCSANOW, &modes));
  modes = t.Get();
  EXPECT_EQ(cfgetospeed(&modes), B9600);
  EXPECT_EQ(modes.c_cflag & CSIZE, CS8);  // A pseudo terminal has always eight bits.
  EXPECT_EQ(modes.c_cflag & CREAD, CREAD);
  CheckpointHere();
  modes = t.Get();
  EXPECT_EQ(cfgetospeed(&modes), B9600);
}

GUEST_TEST(TtyRead, EmptyLineAndEndOfFile) {
  Terminal t;
  char text[8];
  t.Type("\n");
  EXPECT_EQ(read(t.slave, text, 8), 1);
  t.Type("ab\x04");  // The end of file after characters gives these.
  EXPECT_EQ(read(t.slave, text, 8), 2);
  t.Type("\x04");
  EXPECT_EQ(read(t.slave, text, 8), 0);
  t.Type("more\n");
  EXPECT_EQ(read(t.slave, text, 8), 5);
}

GUEST_TEST(TtyRead, LinesComeOneByOne) {
  Terminal t;
  t.Type("one\ntwo\n");
  t.AwaitInput();
  EXPECT_EQ(Queued(t.slave), 8);
  char text[16] = {};
  EXPECT_EQ(read(t.slave, text, 2), 2);  // A part of a line,
  CheckpointHere();
  EXPECT_EQ(read(t.slave, text, 16), 2);  // the rest of it,
  EXPECT_EQ(read(t.slave, text, 16), 4);  // the next.
}

GUEST_TEST(TtyRead, MinimumWithoutTime) {
  Terminal t;
  termios modes = t.Get();
  modes.c_lflag &= ~(ICANON | ECHO);
  modes.c_cc[VMIN] = 3;
  modes.c_cc[VTIME] = 0;
  MUST(tcsetattr(t.slave, TCSANOW, &modes));
  t.Type("ab");
  pollfd one = {t.slave, POLLIN, 0};
  EXPECT_EQ(poll(&one, 1, 50), 0);
  const pid_t pid = Fork([&] {
    char text[8];
    EXPECT_EQ(read(t.slave, text, 8), 3);
  });
  AwaitAsleep(pid);
  CheckpointHere();
  t.Type("c");
  JOIN_OK(pid);
}

GUEST_TEST(TtyRead, NeitherMinimumNorTime) {
  Terminal t;
  termios modes = t.Get();
  modes.c_lflag &= ~(ICANON | ECHO);
  modes.c_cc[VMIN] = modes.c_cc[VTIME] = 0;
  MUST(tcsetattr(t.slave, TCSANOW, &modes));
  char text[8];
  EXPECT_EQ(read(t.slave, text, 8), 0);
  t.Type("ab");
  t.AwaitInput();
  EXPECT_EQ(read(t.slave, text, 8), 2);
}

GUEST_TEST(TtyRead, TimeAlone) {
  Terminal t;
  termios modes = t.Get();
  modes.c_lflag &= ~(ICANON | ECHO);
  modes.c_cc[VMIN] = 0;
  modes.c_cc[VTIME] = 1;
  MUST(tcsetattr(t.slave, TCSANOW, &modes));
  char text[8];
  const int64_t start = NowNs();
  EXPECT_EQ(read(t.slave, text, 8), 0);
  EXPECT_GE(NowNs() - start, 80 * kMs);
}

GUEST_TEST(TtyWrite, BadBuffersAndHangup) {
  Terminal t;
  EXPECT_ERRNO(write(t.slave, kBad, 4), EFAULT);
  EXPECT_ERRNO(write(t.master, kBad, 4), EFAULT);
  close(t.master);
  char byte;
  EXPECT_EQ(read(t.slave, &byte, 1), 0);
  EXPECT_ERRNO(write(t.slave, "x", 1), EIO);
  EXPECT_ERRNO(ioctl(t.slave, TIOCGWINSZ, &byte), EIO);
}

GUEST_TEST(TtyWrite, MasterWithoutASlave) {
  Terminal t;
  close(t.slave);
  char byte;
  EXPECT_ERRNO(read(t.master, &byte, 1), EIO);
  t.slave = MUST(open(ptsname(t.master), O_RDWR | O_NOCTTY));  // It may come back.
  MUST(write(t.slave, "b", 1));
  EXPECT_EQ(read(t.master, &byte, 1), 1);
}

GUEST_TEST(TtySession, RulesOfTheControllingTerminal) {
  Terminal t;
  JOIN_OK(Fork([&] {
    EXPECT_ERRNO(ioctl(t.slave, TIOCSCTTY, 0), EPERM);  // Not a session's leader.
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
    MUST(setsid());
    EXPECT_ERRNO(tcsetpgrp(t.slave, getpid()), ENOTTY);
    EXPECT_OK(ioctl(t.slave, TIOCSCTTY, 0));
    EXPECT_EQ(tcgetsid(t.slave), getpid());
    EXPECT_EQ(tcgetpgrp(t.slave), getpid());
    EXPECT_ERRNO(tcsetpgrp(t.slave, 4'000'000), ESRCH);
    EXPECT_ERRNO(tcsetpgrp(t.slave, -1), EINVAL);
    EXPECT_ERRNO(tcsetpgrp(t.slave, 1), EPERM);  // Of another session.
    CheckpointHere();
    EXPECT_EQ(tcgetpgrp(t.slave), getpid());
    Terminal other;
    EXPECT_ERRNO(ioctl(other.slave, TIOCSCTTY, 0), EPERM);  // There is one already.
  }));
}

GUEST_TEST(Pty, LockedModesStay) {
  const Terminal t;
  termios locked = {};
  MUST(ioctl(t.slave, TIOCGLCKTRMIOS, &locked));
  EXPECT_EQ(locked.c_lflag, 0u);
  locked.c_lflag = ECHO;
  locked.c_cc[VINTR] = 1;
  MUST(ioctl(t.slave, TIOCSLCKTRMIOS, &locked));
  CheckpointHere();
  termios now = t.Get();
  const unsigned char quit = now.c_cc[VQUIT] + 1;
  now.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  now.c_cc[VINTR] = 9;
  now.c_cc[VQUIT] = quit;
  MUST(tcsetattr(t.slave, TCSANOW, &now));
  now = t.Get();
  EXPECT_EQ(now.c_lflag & ECHO, static_cast<tcflag_t>(ECHO));
  EXPECT_EQ(now.c_lflag & ICANON, 0u);
  EXPECT_EQ(now.c_cc[VINTR], 3);
  EXPECT_EQ(now.c_cc[VQUIT], quit);
  termios told = {};
  MUST(ioctl(t.slave, TIOCGLCKTRMIOS, &told));
  EXPECT_EQ(told.c_lflag, static_cast<tcflag_t>(ECHO));
  EXPECT_ERRNO(ioctl(t.slave, TIOCSLCKTRMIOS, nullptr), EFAULT);
}

GUEST_TEST(Pty, LockingModesTakesPrivilege) {
  const Terminal t;
  JOIN_OK(Fork([&] {
    MUST(setuid(65534));
    termios modes = {};
    EXPECT_ERRNO(ioctl(t.slave, TIOCSLCKTRMIOS, &modes), EPERM);
    EXPECT_OK(ioctl(t.slave, TIOCGLCKTRMIOS, &modes));
  }));
}
