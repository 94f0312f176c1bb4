// Modes of a terminal that are locked (TIOCSLCKTRMIOS).
#include <sys/ioctl.h>
#include <termios.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

int OpenTerminal() {
  const int master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
  int unlock = 0;
  MUST(ioctl(master, TIOCSPTLCK, &unlock));
  return MUST(ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY));
}

termios Modes(int fd) {
  termios now = {};
  MUST(tcgetattr(fd, &now));
  return now;
}

}  // namespace

GUEST_TEST(Pty, LockedModesStay) {
  const int slave = OpenTerminal();
  termios locked = {};
  MUST(ioctl(slave, TIOCGLCKTRMIOS, &locked));
  EXPECT_EQ(locked.c_lflag, 0u);
  locked.c_lflag = ECHO;
  locked.c_cc[VINTR] = 1;
  MUST(ioctl(slave, TIOCSLCKTRMIOS, &locked));
  CheckpointHere();
  termios now = Modes(slave);
  const unsigned char quit = now.c_cc[VQUIT] + 1;
  now.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  now.c_cc[VINTR] = 9;
  now.c_cc[VQUIT] = quit;
  MUST(tcsetattr(slave, TCSANOW, &now));
  now = Modes(slave);
  EXPECT_EQ(now.c_lflag & ECHO, static_cast<tcflag_t>(ECHO));
  EXPECT_EQ(now.c_lflag & ICANON, 0u);
  EXPECT_EQ(now.c_cc[VINTR], 3);
  EXPECT_EQ(now.c_cc[VQUIT], quit);
  termios told = {};
  MUST(ioctl(slave, TIOCGLCKTRMIOS, &told));
  EXPECT_EQ(told.c_lflag, static_cast<tcflag_t>(ECHO));
  EXPECT_ERRNO(ioctl(slave, TIOCSLCKTRMIOS, nullptr), EFAULT);
}

GUEST_TEST(Pty, LockingModesTakesPrivilege) {
  const int slave = OpenTerminal();
  JOIN_OK(Fork([&] {
    MUST(setuid(65534));
    termios modes = {};
    EXPECT_ERRNO(ioctl(slave, TIOCSLCKTRMIOS, &modes), EPERM);
    EXPECT_OK(ioctl(slave, TIOCGLCKTRMIOS, &modes));
  }));
}
