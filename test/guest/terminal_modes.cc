// Modes of terminals that few programs use (termios(3), ioctl_tty(2)): printed erasing, external processing, packets, hang-ups.
#include <asm/ioctls.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "test/harness/guest_util.h"
#include "test/harness/turns.h"

using namespace guest;

namespace {

struct Terminal {
  int master = -1, slave = -1;
  char name[64] = {};
  Terminal() {
    master = MUST(posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK));
    MUST(grantpt(master));
    MUST(unlockpt(master));
    MUST(ptsname_r(master, name, sizeof(name)));
    slave = MUST(open(name, O_RDWR | O_NOCTTY | O_NONBLOCK));
  }
  void Set(tcflag_t local, tcflag_t not_local, tcflag_t input = 0, tcflag_t output = 0) {
    termios t;
    MUST(tcgetattr(slave, &t));
    t.c_lflag = (t.c_lflag | local) & ~not_local;
    t.c_iflag |= input;
    t.c_oflag |= output;
    MUST(tcsetattr(slave, TCSANOW, &t));
  }
  void Type(const char* text, size_t size = 0) { MUST(write(master, text, size != 0 ? size : strlen(text))); }
};

// Reads until `wanted` is there, or for some time. On Linux what is written comes a little later.
bool Reads(int fd, const char* wanted, size_t size) {
  char got[256] = {};
  size_t have = 0;
  for (int i = 0; i < 200 && have < size; ++i) {
    long n = read(fd, got + have, sizeof(got) - have);
    if (n > 0) have += static_cast<size_t>(n);
    if (n <= 0) SleepMs(5);
  }
  return have == size && memcmp(got, wanted, size) == 0;
}
bool Reads(int fd, const char* wanted) { return Reads(fd, wanted, strlen(wanted)); }

}  // namespace

GUEST_TEST(TerminalModes, ErasingOnPaper) {
  Terminal t;
  t.Set(ECHOPRT, ECHOE);
  t.Type("abc\177\177");
  EXPECT(Reads(t.master, "abc\\cb"));
  CheckpointHere();
  t.Type("d\n");
  EXPECT(Reads(t.master, "/d\r\n"));
  EXPECT(Reads(t.slave, "ad\n"));
}

GUEST_TEST(TerminalModes, NewlinesThatAreNoLines) {
  Terminal t;
  t.Set(0, ICANON);
  t.Type("a\n\r");
  EXPECT(Reads(t.master, "a^J\r\n"));
  EXPECT(Reads(t.slave, "a\n\n"));
}

GUEST_TEST(TerminalModes, MarksAreDoubled) {
  Terminal t;
  t.Set(0, ECHO, PARMRK);
  t.Type("a\377b\n");
  EXPECT(Reads(t.slave, "a\377\377b\n"));
}

GUEST_TEST(TerminalModes, CaseOfLatinLetters) {
  Terminal t;
  t.Set(IEXTEN, ECHO, IUCLC, OLCUC);
  t.Type("A\301\327\n");
  EXPECT(Reads(t.slave, "a\341\327\n"));
  MUST(write(t.slave, "a\341", 2));
  EXPECT(Reads(t.master, "A\301"));
}

GUEST_TEST(TerminalModes, ReturnsThatBecomeNewlines) {
  Terminal t;
  t.Set(0, 0, 0, OCRNL | ONOCR);
  MUST(write(t.slave, "a\r\r", 3));
  // The column stays where it is, so the second return counts, too.
  EXPECT(Reads(t.master, "a\n\n"));
}

GUEST_TEST(TerminalModes, ExternalProcessing) {
  Terminal t;
  t.Set(EXTPROC, 0);
  t.Type("ab\177c\003\n");
  CheckpointHere();
  EXPECT(Reads(t.slave, "ab\177c\003\n"));
  char byte;
  EXPECT_ERRNO(read(t.master, &byte, 1), EAGAIN);  // no echo
  t.Type("x");
  EXPECT(Reads(t.slave, "x"));
  t.Type("\004");
  pollfd p = {t.slave, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 5000), 1);
  EXPECT_EQ(read(t.slave, &byte, 1), 0);
}

GUEST_TEST(TerminalModes, PacketsTellOfModes) {
  Terminal t;
  int on = 1;
  MUST(ioctl(t.master, TIOCPKT, &on));
  termios settings;
  MUST(tcgetattr(t.slave, &settings));
  settings.c_iflag &= ~tcflag_t{IXON};
  MUST(tcsetattr(t.slave, TCSANOW, &settings));
  pollfd p = {t.master, POLLIN | POLLPRI, 0};
  EXPECT_EQ(poll(&p, 1, 5000), 1);
  EXPECT((p.revents & POLLPRI) != 0);
  CheckpointHere();
  char status = 0;
  EXPECT_EQ(read(t.master, &status, 1), 1);
  EXPECT_EQ(status, TIOCPKT_NOSTOP);
  settings.c_iflag |= IXON;
  settings.c_lflag |= EXTPROC;
  MUST(tcsetattr(t.slave, TCSANOW, &settings));
  EXPECT_EQ(read(t.master, &status, 1), 1);
  EXPECT_EQ(status, TIOCPKT_DOSTOP | TIOCPKT_IOCTL);
}

GUEST_TEST(TerminalModes, AlwaysEightBits) {
  Terminal t;
  termios settings;
  MUST(tcgetattr(t.slave, &settings));
  settings.c_cflag = (settings.c_cflag & ~tcflag_t{CSIZE | CREAD}) | CS5 | PARENB | CSTOPB;
  (void)tcsetattr(t.slave, TCSANOW, &settings);
  MUST(tcgetattr(t.slave, &settings));
  EXPECT_EQ(settings.c_cflag & CSIZE, static_cast<tcflag_t>(CS8));
  EXPECT_EQ(settings.c_cflag & PARENB, 0u);
  EXPECT((settings.c_cflag & CREAD) != 0);
  EXPECT((settings.c_cflag & CSTOPB) != 0);
}

GUEST_TEST(TerminalModes, AskingTheOtherSideToStop) {
  Terminal t;
  EXPECT_EQ(tcflow(t.slave, TCIOFF), 0);
  EXPECT(Reads(t.master, "\023"));
  EXPECT_EQ(tcflow(t.slave, TCION), 0);
  EXPECT(Reads(t.master, "\021"));
}

GUEST_TEST(TerminalModes, WhatTheMasterHasNotRead) {
  Terminal t;
  MUST(write(t.slave, "abc", 3));
  pollfd p = {t.master, POLLIN, 0};
  EXPECT_EQ(poll(&p, 1, 5000), 1);
  int bytes = -1;
  EXPECT_EQ(ioctl(t.slave, TIOCOUTQ, &bytes), 0);
  EXPECT_EQ(bytes, 0);
  EXPECT_EQ(tcflush(t.master, TCIFLUSH), 0);
  char byte;
  EXPECT_ERRNO(read(t.master, &byte, 1), EAGAIN);
}

GUEST_TEST(TerminalModes, ArgumentsOfIoctls) {
  Terminal t;
  EXPECT_ERRNO(Call(SYS_ioctl, t.slave, TIOCSPGRP, 0), EFAULT);
  EXPECT_ERRNO(ioctl(t.master, TIOCNOTTY), ENOTTY);
  EXPECT_ERRNO(ioctl(t.slave, TIOCGPTPEER, 0), EIO);
  int local = -1;
  EXPECT_EQ(ioctl(t.slave, TIOCGSOFTCAR, &local), 0);
  EXPECT_EQ(local, 0);
  local = 1;
  EXPECT_EQ(ioctl(t.slave, TIOCSSOFTCAR, &local), 0);
  termios settings;
  MUST(tcgetattr(t.slave, &settings));
  EXPECT((settings.c_cflag & CLOCAL) != 0);
}

GUEST_TEST(TerminalModes, HungUp) {
  if (geteuid() != 0) Skip("needs root");
  Terminal t;
  JOIN_OK(Fork([&] {
    struct sigaction ignore = {};
    ignore.sa_handler = SIG_IGN;
    sigaction(SIGHUP, &ignore, nullptr);
    MUST(setsid());
    MUST(ioctl(t.slave, TIOCSCTTY, 0));
    EXPECT_EQ(Call(SYS_vhangup), 0);
    CheckpointHere();
    char byte;
    EXPECT_EQ(read(t.slave, &byte, 1), 0);
    EXPECT_ERRNO(write(t.slave, "a", 1), EIO);
    termios settings;
    EXPECT_ERRNO(tcgetattr(t.slave, &settings), EIO);
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
    pollfd p = {t.slave, POLLIN, 0};
    EXPECT_EQ(poll(&p, 1, 0), 1);
    EXPECT((p.revents & POLLHUP) != 0);
    // Who opens it anew has a terminal.
    int again = MUST(open(t.name, O_RDWR | O_NOCTTY));
    EXPECT_EQ(write(again, "b", 1), 1);
    EXPECT(Reads(t.master, "b"));
  }));
  EXPECT_ERRNO(write(t.slave, "a", 1), EIO);
}

// Whoever types takes no memory without end: not by ends of files that nobody reads, nor by what stops the other side.
GUEST_TEST(TerminalModes, WhatNobodyReadsHasAnEnd) {
  Terminal t;
  char ends[4096];
  memset(ends, 4, sizeof(ends));
  size_t written = 0;
  long n = 0;
  while (written < 1 << 20 && (n = write(t.master, ends, sizeof(ends))) > 0) written += static_cast<size_t>(n);
  EXPECT(n < 0 && errno == EAGAIN);
  CheckpointHere();
  char c;
  EXPECT_EQ(read(t.slave, &c, 1), 0);
  EXPECT_EQ(read(t.slave, &c, 1), 0);
  MUST(tcflush(t.slave, TCIFLUSH));
  for (int i = 0; i < 80'000; ++i) MUST(tcflow(t.slave, TCIOFF));
  int waiting = 0;
  MUST(ioctl(t.master, FIONREAD, &waiting));
  EXPECT(waiting <= 70'000);
}

// What is typed and forgotten at once is taken without end; others get their turn.
GUEST_TEST(TerminalModes, WhatIsForgottenTakesTurns) {
  constexpr size_t kSize = 16 << 20;
  Terminal t;
  t.Set(0, ECHO);
  char* kills = static_cast<char*>(malloc(kSize));
  memset(kills, 025, kSize);
  Turns turns;
  turns.Begin();
  for (size_t done = 0; done < kSize;) {
    const long n = write(t.master, kills + done, kSize - done);
    if (n <= 0) SleepMs(1);
    done += n > 0 ? static_cast<size_t>(n) : 0;
  }
  const int count = turns.End();
  EXPECT(count > 3);
}
