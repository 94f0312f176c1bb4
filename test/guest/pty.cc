// Pseudo-terminals and the line discipline.
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

#include "test/harness/guest_util.h"

using namespace guest;

namespace {

// A pair of ends, not the controlling terminal of anybody.
struct Pty {
  Pty() {
    master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    int unlock = 0;
    MUST(ioctl(master, TIOCSPTLCK, &unlock));
    MUST(ioctl(master, TIOCGPTN, &number));
    slave = OpenSlave();
  }
  int OpenSlave() const { return MUST(open(Str("/dev/pts/%d", number), O_RDWR | O_NOCTTY)); }
  termios Attributes() const {
    termios now = {};
    MUST(tcgetattr(slave, &now));
    return now;
  }
  void Set(const termios& wanted) const { MUST(tcsetattr(slave, TCSANOW, &wanted)); }
  void Local(tcflag_t off, tcflag_t on = 0) const {
    termios now = Attributes();
    now.c_lflag = (now.c_lflag & ~off) | on;
    Set(now);
  }
  void Raw() const {
    termios now = Attributes();
    cfmakeraw(&now);
    Set(now);
  }
  void Type(const char* text) const { MUST(write(master, text, strlen(text))); }
  int master = -1, slave = -1, number = -1;
};

// What can be read within a moment, as a text; reading stops at `wanted` bytes.
Str Read(int fd, size_t wanted) {
  char text[512] = {};
  size_t length = 0;
  pollfd poller = {fd, POLLIN, 0};
  while (length < wanted && poll(&poller, 1, 20000) == 1) {
    const ssize_t got = read(fd, text + length, sizeof(text) - 1 - length);
    if (got <= 0) break;
    length += static_cast<size_t>(got);
  }
  return Str("%s", text);
}

bool HasInput(int fd) {
  pollfd poller = {fd, POLLIN, 0};
  return poll(&poller, 1, 0) == 1 && (poller.revents & POLLIN) != 0;
}

// What is written to one end reaches the other by a kernel worker, so a moment later.
void AwaitInput(int fd) {
  pollfd poller = {fd, POLLIN, 0};
  ASSERT_EQ(poll(&poller, 1, 20000), 1);
}

#define EXPECT_TEXT(fd, text) EXPECT_STREQ(Read(fd, strlen(text)), text)

// A session leader with the terminal as its own; runs `body` in it.
template <typename F>
pid_t Session(const Pty& pty, F body) {
  return Fork([&] {
    MUST(setsid());
    MUST(ioctl(pty.slave, TIOCSCTTY, 0));
    body();
  });
}

}  // namespace

GUEST_TEST(Pty, AttributesOfSystemV) {
  // struct termio of <asm/termios.h>, which does not go with <termios.h>.
  struct {
    unsigned short input, output, control, local;
    unsigned char line, characters[8];
  } old = {};
  Pty pty;
  MUST(ioctl(pty.slave, TCGETA, &old));
  const termios before = pty.Attributes();
  EXPECT_EQ(old.input, before.c_iflag & 0xffff);
  EXPECT_EQ(old.local, before.c_lflag & 0xffff);
  EXPECT_EQ(old.characters[VEOF], before.c_cc[VEOF]);
  old.local &= static_cast<unsigned short>(~ECHO);
  old.characters[VINTR] = 1;
  MUST(ioctl(pty.slave, TCSETA, &old));
  CheckpointHere();
  const termios after = pty.Attributes();
  EXPECT_EQ(after.c_lflag, before.c_lflag & ~static_cast<tcflag_t>(ECHO));
  EXPECT_EQ(after.c_cflag, before.c_cflag);
  EXPECT_EQ(after.c_cc[VINTR], 1);
  EXPECT_EQ(after.c_cc[VSUSP], before.c_cc[VSUSP]);
  EXPECT_OK(ioctl(pty.slave, TCSETAF, &old));
  EXPECT_ERRNO(ioctl(pty.slave, TCGETA, nullptr), EFAULT);
}

GUEST_TEST(Pty, NumbersAndNodes) {
  Pty a, b;
  EXPECT_NE(a.number, b.number);
  struct stat status = {};
  MUST(fstat(a.slave, &status));
  EXPECT(S_ISCHR(status.st_mode));
  EXPECT_EQ(isatty(a.slave), 1);
  EXPECT_EQ(isatty(a.master), 1);
  char link[64] = {};
  MUST(readlink(Str("/proc/self/fd/%d", a.slave), link, sizeof(link) - 1));
  EXPECT_STREQ(link, Str("/dev/pts/%d", a.number));
}

GUEST_TEST(Pty, SlaveIsLockedAtFirst) {
  const int master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
  int number = -1;
  MUST(ioctl(master, TIOCGPTN, &number));
  EXPECT_ERRNO(open(Str("/dev/pts/%d", number), O_RDWR | O_NOCTTY), EIO);
}

GUEST_TEST(Pty, NodeGoesWithTheMaster) {
  const int master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
  int number = -1;
  MUST(ioctl(master, TIOCGPTN, &number));
  EXPECT_OK(access(Str("/dev/pts/%d", number), F_OK));
  close(master);
  EXPECT_ERRNO(access(Str("/dev/pts/%d", number), F_OK), ENOENT);
}

GUEST_TEST(Pty, PeerByIoctl) {
  Pty pty;
  const int peer = MUST(ioctl(pty.master, TIOCGPTPEER, O_RDWR | O_NOCTTY));
  pty.Type("hi\n");
  EXPECT_TEXT(peer, "hi\n");
}

GUEST_TEST(Termios, Defaults) {
  Pty pty;
  const termios now = pty.Attributes();
  EXPECT_EQ(now.c_iflag & (ICRNL | IXON), ICRNL | IXON);
  EXPECT_EQ(now.c_oflag & (OPOST | ONLCR), OPOST | ONLCR);
  EXPECT_EQ(now.c_lflag & (ICANON | ECHO | ISIG | IEXTEN | ECHOE | ECHOK), ICANON | ECHO | ISIG | IEXTEN | ECHOE | ECHOK);
  EXPECT_EQ(now.c_cc[VINTR], 3);
  EXPECT_EQ(now.c_cc[VEOF], 4);
  EXPECT_EQ(now.c_cc[VERASE], 127);
  EXPECT_EQ(now.c_cc[VKILL], 21);
  EXPECT_EQ(now.c_cc[VSUSP], 26);
  EXPECT_EQ(cfgetospeed(&now), B38400);
}

GUEST_TEST(Termios, SetReadsBack) {
  Pty pty;
  termios wanted = pty.Attributes();
  wanted.c_lflag &= ~(ECHO | ICANON);
  wanted.c_cc[VMIN] = 5;
  wanted.c_cc[VTIME] = 7;
  pty.Set(wanted);
  CheckpointHere();
  const termios now = pty.Attributes();
  EXPECT_EQ(now.c_lflag, wanted.c_lflag);
  EXPECT_EQ(now.c_cc[VMIN], 5);
  EXPECT_EQ(now.c_cc[VTIME], 7);
  termios by_master = {};
  MUST(tcgetattr(pty.master, &by_master));
  EXPECT_EQ(by_master.c_lflag, wanted.c_lflag);
}

GUEST_TEST(Termios, CanonicalGivesLines) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("one");
  EXPECT(!HasInput(pty.slave));
  CheckpointHere();
  pty.Type(" line\ntwo\n");
  char text[64] = {};
  EXPECT_EQ(read(pty.slave, text, sizeof(text)), 9);
  EXPECT_STREQ(text, "one line\n");
  memset(text, 0, sizeof(text));
  EXPECT_EQ(read(pty.slave, text, 2), 2);
  EXPECT_EQ(read(pty.slave, text, 8), 2);
  EXPECT_STREQ(text, "o\n");
}

GUEST_TEST(Termios, EraseWordKill) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type(
      "abd\x7f"
      "c\n");
  EXPECT_TEXT(pty.slave, "abc\n");
  pty.Type(
      "all gone\x15"
      "new\n");
  EXPECT_TEXT(pty.slave, "new\n");
  pty.Type(
      "first second\x17"
      "third\n");
  EXPECT_TEXT(pty.slave, "first third\n");
}

GUEST_TEST(Termios, EchoesWhatIsTyped) {
  Pty pty;
  pty.Type("ab\n");
  EXPECT_TEXT(pty.master, "ab\r\n");
  pty.Type("x\x7f");
  EXPECT_TEXT(pty.master, "x\b \b");
  pty.Type("\x01");
  EXPECT_TEXT(pty.master, "^A");
}

GUEST_TEST(Termios, EndOfFile) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("part\x04");
  EXPECT_TEXT(pty.slave, "part");  // Gives what there is.
  pty.Type("\x04");
  char byte;
  CheckpointHere();
  EXPECT_EQ(read(pty.slave, &byte, 1), 0);
  pty.Type("more\n");
  EXPECT_TEXT(pty.slave, "more\n");  // Not the end for ever.
}

GUEST_TEST(Termios, InputTranslation) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("a\rb\n");
  EXPECT_TEXT(pty.slave, "a\nb\n");
  termios now = pty.Attributes();
  now.c_iflag |= IGNCR;
  pty.Set(now);
  pty.Type("c\rd\n");
  EXPECT_TEXT(pty.slave, "cd\n");
  now.c_iflag = (now.c_iflag & ~(IGNCR | ICRNL)) | INLCR | IUCLC;
  pty.Set(now);
  pty.Local(ICANON);
  pty.Type("X\n");
  EXPECT_TEXT(pty.slave, "x\r");
}

GUEST_TEST(Termios, OutputTranslation) {
  Pty pty;
  MUST(write(pty.slave, "a\nb", 3));
  EXPECT_TEXT(pty.master, "a\r\nb");
  termios now = pty.Attributes();
  now.c_oflag &= ~OPOST;
  pty.Set(now);
  MUST(write(pty.slave, "\n", 1));
  EXPECT_TEXT(pty.master, "\n");
  now.c_oflag |= OPOST | OCRNL;
  pty.Set(now);
  MUST(write(pty.slave, "\rz", 2));
  EXPECT_TEXT(pty.master, "\nz");  // The newline made from it is not translated again.
}

GUEST_TEST(Termios, RawPassesEverything) {
  Pty pty;
  pty.Raw();
  pty.Type("\x03\x04\x1a\r\n\x7f");
  EXPECT_TEXT(pty.slave, "\x03\x04\x1a\r\n\x7f");
  EXPECT(!HasInput(pty.master));
  MUST(write(pty.slave, "\n", 1));
  EXPECT_TEXT(pty.master, "\n");
}

GUEST_TEST(Termios, MinimumAndTime) {
  Pty pty;
  pty.Raw();
  termios now = pty.Attributes();
  now.c_cc[VMIN] = 0;
  now.c_cc[VTIME] = 0;
  pty.Set(now);
  char text[16];
  EXPECT_EQ(read(pty.slave, text, 16), 0);  // Nothing there: at once.
  now.c_cc[VTIME] = 1;
  pty.Set(now);
  const int64_t start = NowNs();
  EXPECT_EQ(read(pty.slave, text, 16), 0);
  EXPECT_GE(NowNs() - start, 90 * kMs);
  now.c_cc[VMIN] = 3;
  now.c_cc[VTIME] = 0;
  pty.Set(now);
  const pid_t pid = Fork([&] { EXPECT_EQ(read(pty.slave, text, 16), 3); });
  pty.Type("ab");
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(waitpid(pid, nullptr, WNOHANG), 0);
  pty.Type("c");
  JOIN_OK(pid);
}

GUEST_TEST(Termios, SwitchToRawShowsPendingText) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("unfinished");
  EXPECT(!HasInput(pty.slave));
  pty.Raw();
  EXPECT_TEXT(pty.slave, "unfinished");
}

GUEST_TEST(Termios, FlushDropsInput) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("gone\n");
  AwaitInput(pty.slave);
  MUST(tcflush(pty.slave, TCIFLUSH));
  EXPECT(!HasInput(pty.slave));
  EXPECT_ERRNO(tcflush(pty.slave, 99), EINVAL);
}

GUEST_TEST(Termios, QueuedBytesAreCounted) {
  Pty pty;
  pty.Local(ECHO);
  int bytes = -1;
  pty.Type("12345\n678");
  AwaitInput(pty.slave);
  MUST(ioctl(pty.slave, FIONREAD, &bytes));
  EXPECT_EQ(bytes, 6);
  MUST(write(pty.slave, "out", 3));
  AwaitInput(pty.master);
}

GUEST_TEST(Termios, LiteralNext) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type(
      "a\x16\x03"
      "b\n");
  EXPECT_TEXT(pty.slave,
              "a\x03"
              "b\n");
}

GUEST_TEST(Termios, StopAndStartOutput) {
  Pty pty;
  pty.Local(ECHO);
  pty.Type("\x13x\n");  // ^S, and something whose arrival tells that it was seen.
  AwaitInput(pty.slave);
  const pid_t pid = Fork([&] { MUST(write(pty.slave, "held", 4)); });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT(!HasInput(pty.master));
  pty.Type("\x11");  // ^Q
  EXPECT_TEXT(pty.master, "held");
  JOIN_OK(pid);
}

GUEST_TEST(Pty, WindowSize) {
  Pty pty;
  winsize size = {};
  MUST(ioctl(pty.slave, TIOCGWINSZ, &size));
  EXPECT_EQ(size.ws_row, 0);
  size = {.ws_row = 25, .ws_col = 80, .ws_xpixel = 1, .ws_ypixel = 2};
  MUST(ioctl(pty.master, TIOCSWINSZ, &size));
  size = {};
  CheckpointHere();
  MUST(ioctl(pty.slave, TIOCGWINSZ, &size));
  EXPECT_EQ(size.ws_row, 25);
  EXPECT_EQ(size.ws_col, 80);
  EXPECT_EQ(size.ws_ypixel, 2);
}

GUEST_TEST(Pty, WindowSizeSignalsTheForegroundGroup) {
  Pty pty;
  Gate ready;
  const pid_t pid = Session(pty, [&] {
    CountSignals(SIGWINCH);
    Block({SIGWINCH});
    ready.Open();
    const sigset_t set = Signals({SIGWINCH});
    EXPECT_EQ(sigwaitinfo(&set, nullptr), SIGWINCH);
  });
  ready.Await();
  CheckpointHere();
  const winsize size = {.ws_row = 30, .ws_col = 90};
  MUST(ioctl(pty.master, TIOCSWINSZ, &size));
  JOIN_OK(pid);
}

GUEST_TEST(Pty, InterruptCharacterSignals) {
  Pty pty;
  const struct {
    const char* key;
    int number;
  } keys[] = {{"\x03", SIGINT}, {"\x1c", SIGQUIT}};
  for (const auto& [key, number] : keys) {
    Gate ready;
    const pid_t pid = Session(pty, [&] {
      const pid_t child = Fork([&] {
        ready.Open();
        for (;;) pause();
      });
      signal(SIGINT, SIG_IGN);
      signal(SIGQUIT, SIG_IGN);
      EXPECT_KILLED(WaitStatus(child), number);
      _exit(Failures());
    });
    ready.Await();
    AwaitAsleep(pid);
    pty.Type(key);
    EXPECT_EXITED(WaitStatus(pid), 0);
  }
}

GUEST_TEST(Pty, InterruptDropsTheLine) {
  Pty pty;
  const pid_t pid = Session(pty, [&] {
    signal(SIGINT, SIG_IGN);
    pty.Type("dropped\x03kept\n");
    EXPECT_TEXT(pty.slave, "kept\n");
  });
  JOIN_OK(pid);
}

GUEST_TEST(Pty, HangupOfTheMaster) {
  Pty pty;
  Gate ready;
  const pid_t pid = Fork([&] {
    close(pty.master);
    MUST(setsid());
    MUST(ioctl(pty.slave, TIOCSCTTY, 0));
    CountSignals(SIGHUP);
    Block({SIGHUP});
    ready.Open();
    const sigset_t none = Signals({});
    while (SignalCount() == 0) sigsuspend(&none);
    char byte;
    EXPECT_EQ(read(pty.slave, &byte, 1), 0);
    EXPECT_ERRNO(write(pty.slave, "x", 1), EIO);
    pollfd poller = {pty.slave, POLLIN, 0};
    EXPECT_EQ(poll(&poller, 1, 0), 1);
    EXPECT(poller.revents & POLLHUP);
    EXPECT_ERRNO(open("/dev/tty", O_RDWR), ENXIO);
  });
  ready.Await();
  CheckpointHere();
  close(pty.master);
  JOIN_OK(pid);
}

GUEST_TEST(Pty, MasterSeesTheLastSlaveGo) {
  Pty pty;
  MUST(write(pty.slave, "bye", 3));
  close(pty.slave);
  EXPECT_TEXT(pty.master, "bye");
  char byte;
  EXPECT_ERRNO(read(pty.master, &byte, 1), EIO);
  pollfd poller = {pty.master, POLLIN, 0};
  EXPECT_EQ(poll(&poller, 1, 0), 1);
  EXPECT(poller.revents & POLLHUP);
  const int again = pty.OpenSlave();  // And it can come back.
  pty.Type("again\n");
  EXPECT_TEXT(again, "again\n");
}

GUEST_TEST(Pty, NonblockingReads) {
  Pty pty;
  MUST(fcntl(pty.slave, F_SETFL, O_NONBLOCK));
  MUST(fcntl(pty.master, F_SETFL, O_NONBLOCK));
  char byte;
  EXPECT_ERRNO(read(pty.slave, &byte, 1), EAGAIN);
  EXPECT_ERRNO(read(pty.master, &byte, 1), EAGAIN);
}

GUEST_TEST(Pty, PacketModeTellsChanges) {
  Pty pty;
  int on = 1;
  MUST(ioctl(pty.master, TIOCPKT, &on));
  MUST(write(pty.slave, "data", 4));
  char text[16] = {};
  EXPECT_EQ(read(pty.master, text, sizeof(text)), 5);
  EXPECT_EQ(text[0], TIOCPKT_DATA);
  EXPECT_EQ(memcmp(text + 1, "data", 4), 0);
  MUST(tcflush(pty.slave, TCIFLUSH));
  EXPECT_EQ(read(pty.master, text, sizeof(text)), 1);
  EXPECT_NE(text[0] & TIOCPKT_FLUSHREAD, 0);
}

GUEST_TEST(Pty, BlockedReaderSurvives) {
  Pty pty;
  pty.Local(ECHO);
  const pid_t pid = Fork([&] {
    char text[32] = {};
    EXPECT_EQ(read(pty.slave, text, sizeof(text)), 6);
    EXPECT_STREQ(text, "hello\n");
  });
  AwaitAsleep(pid);
  CheckpointHere();
  EXPECT_EQ(ThreadState(pid, pid), 'S');
  pty.Type("hello\n");
  JOIN_OK(pid);
}

GUEST_TEST(Pty, DrainAndBreak) {
  Pty pty;
  MUST(write(pty.slave, "x", 1));
  EXPECT_OK(tcdrain(pty.slave));
  EXPECT_OK(tcsendbreak(pty.slave, 0));
}
