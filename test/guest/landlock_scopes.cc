// Landlock's scopes (ABI 6): no signals, and no connections to abstract Unix sockets, to what is outside of the domain; and what ABI 7 says of flags.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "test/harness/sockets.h"

namespace guest {
namespace {

constexpr long kCreate = 444, kRestrict = 446;
constexpr uint64_t kAbstract = 1, kSignal = 2;

struct Attr {
  uint64_t fs, net, scoped;
};

void NeedScopes() {
  if (syscall(kCreate, nullptr, 0, 1) < 7) Skip("needs landlock's ABI 7");
}

int Ruleset(uint64_t scoped) {
  const Attr attr = {0, 0, scoped};
  return static_cast<int>(MUST(syscall(kCreate, &attr, sizeof(attr), 0)));
}

void Restrict(uint64_t scoped) {
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  MUST(syscall(kRestrict, Ruleset(scoped), 0));
}

// "@name" with the name's own length.
struct Abstract {
  explicit Abstract(const char* name) {
    address.sun_family = AF_UNIX;
    const int n = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "%s-%d", name, getpid());
    length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + static_cast<size_t>(n));
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address); }
  sockaddr_un address = {};
  socklen_t length;
};

int Listener(const Abstract& at) {
  const int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(fd, at.get(), at.length));
  MUST(listen(fd, 5));
  return fd;
}

int Receiver(const Abstract& at) {
  const int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
  MUST(bind(fd, at.get(), at.length));
  return fd;
}

int TryConnect(const Abstract& at, int type = SOCK_STREAM) {
  const int fd = MUST(socket(AF_UNIX, type, 0));
  const int error = connect(fd, at.get(), at.length) == 0 ? 0 : errno;
  close(fd);
  return error;
}

long TrySend(int fd, const Abstract& to) { return sendto(fd, "x", 1, 0, to.get(), to.length) < 0 ? -errno : 0; }

pid_t Sleeper() {
  return Fork([] {
    for (;;) pause();
  });
}

}  // namespace

GUEST_TEST(LandlockScopes, ArgumentsAreChecked) {
  NeedScopes();
  const Attr unknown = {0, 0, 4}, none = {};
  EXPECT_ERRNO(syscall(kCreate, &unknown, sizeof(unknown), 0), EINVAL);
  EXPECT_ERRNO(syscall(kCreate, &none, sizeof(none), 0), ENOMSG);
  EXPECT_ERRNO(syscall(kCreate, &none, 0, 1), EINVAL);
  EXPECT_ERRNO(syscall(kCreate, nullptr, 0, 3), EINVAL);
  EXPECT_EQ(MUST(syscall(kCreate, nullptr, 0, 2)) & 7, 7);
  JOIN_OK(Fork([] {
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    EXPECT_ERRNO(syscall(kRestrict, -1, 0), EBADF);
    EXPECT_ERRNO(syscall(kRestrict, -1, 8), EINVAL);
    EXPECT_OK(syscall(kRestrict, -1, 4));
    EXPECT_ERRNO(syscall(kRestrict, -1, 5), EBADF);
    const int ruleset = Ruleset(kSignal);
    for (unsigned flags = 0; flags < 8; flags++) EXPECT_OK(syscall(kRestrict, ruleset, flags));
    EXPECT_ERRNO(syscall(kRestrict, ruleset, 16), EINVAL);
  }));
}

GUEST_TEST(LandlockScopes, SignalsStayInside) {
  NeedScopes();
  const pid_t outside = Sleeper();
  JOIN_OK(Fork([&] {
    const pid_t before = Sleeper();  // a child, but not within the domain
    Restrict(kSignal);
    const pid_t within = Sleeper();
    CheckpointHere();
    for (const int signo : {0, SIGTERM, SIGKILL, SIGCONT}) {
      EXPECT_ERRNO(kill(outside, signo), EPERM);
      EXPECT_ERRNO(kill(before, signo), EPERM);
      EXPECT_ERRNO(syscall(SYS_tgkill, before, before, signo), EPERM);
    }
    siginfo_t info = {};
    info.si_code = SI_QUEUE;
    EXPECT_ERRNO(syscall(SYS_rt_sigqueueinfo, before, SIGTERM, &info), EPERM);
    const int pidfd = static_cast<int>(MUST(syscall(SYS_pidfd_open, before, 0)));
    EXPECT_ERRNO(syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, nullptr, 0), EPERM);
    EXPECT_ERRNO(kill(getppid(), 0), EPERM);
    EXPECT_OK(kill(getpid(), 0));
    EXPECT_OK(kill(within, 0));
    // A domain below may not signal the one above it, but is reached from there.
    Gate up, done;
    const pid_t below = Fork([&] {
      Restrict(kSignal);
      EXPECT_ERRNO(kill(within, 0), EPERM);
      EXPECT_ERRNO(kill(getppid(), 0), EPERM);
      up.Open();
      done.Await();
    });
    up.Await();
    EXPECT_OK(kill(below, 0));
    done.Open();
    JOIN_OK(below);
    EXPECT_OK(kill(within, SIGKILL));
    EXPECT_KILLED(WaitStatus(within), SIGKILL);
    EXPECT_OK(kill(-getpgid(0), 0));  // some of the group may get it
  }));
  EXPECT_OK(kill(outside, SIGKILL));
  EXPECT_KILLED(WaitStatus(outside), SIGKILL);
}

GUEST_TEST(LandlockScopes, OneLayerWithTheScopeIsEnough) {
  NeedScopes();
  const pid_t outside = Sleeper();
  JOIN_OK(Fork([&] {
    Restrict(kAbstract);
    EXPECT_OK(kill(outside, 0));
    const pid_t between = Sleeper();
    Restrict(kSignal);
    Restrict(kAbstract);
    EXPECT_ERRNO(kill(outside, 0), EPERM);
    EXPECT_ERRNO(kill(between, 0), EPERM);
    const pid_t within = Sleeper();
    EXPECT_OK(kill(within, SIGKILL));
    EXPECT_KILLED(WaitStatus(within), SIGKILL);
  }));
  MUST(kill(outside, SIGKILL));
  EXPECT_KILLED(WaitStatus(outside), SIGKILL);
}

GUEST_TEST(LandlockScopes, ThreadsOfOneProcessMaySignalEachOther) {
  NeedScopes();
  JOIN_OK(Fork([] {
    static Gate restricted, over;
    static volatile pid_t first = 0;
    first = getpid();
    Thread other([] {
      Restrict(kSignal);  // this thread alone
      EXPECT_OK(syscall(SYS_tgkill, first, first, 0));
      EXPECT_OK(kill(first, 0));
      EXPECT_ERRNO(kill(getppid(), 0), EPERM);
    });
    other.Join();
    EXPECT_OK(kill(getppid(), 0));
  }));
}

GUEST_TEST(LandlockScopes, OwnersOfFilesAreToldByWhoSetThem) {
  NeedScopes();
  Gate armed, written;
  static volatile sig_atomic_t got;
  got = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { got = got + 1; };
  MUST(sigaction(SIGIO, &action, nullptr));
  UnixPair pair;
  const pid_t parent = getpid();
  for (const bool scoped : {false, true}) {
    got = 0;
    JOIN_OK(Fork([&] {
      if (scoped) Restrict(kSignal);
      MUST(fcntl(pair.a, F_SETOWN, parent));
      MUST(fcntl(pair.a, F_SETFL, O_ASYNC | O_NONBLOCK));
    }));
    CheckpointHere();
    MUST(write(pair.b, "x", 1));
    for (int i = 0; i < 50 && got == 0; i++) usleep(scoped ? 2000 : 20000);
    EXPECT_EQ(got > 0, !scoped);
    char c;
    MUST(read(pair.a, &c, 1));
  }
}

GUEST_TEST(LandlockScopes, AbstractSocketsOutsideAreOutOfReach) {
  NeedScopes();
  const Abstract stream("stream"), packets("packets");
  Listener(stream);
  Receiver(packets);
  TempDir dir;
  const UnixAddress path(dir / "s");
  const int named = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  MUST(bind(named, path.get(), path.length));
  MUST(listen(named, 5));
  JOIN_OK(Fork([&] {
    const int connected = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    MUST(connect(connected, packets.get(), packets.length));
    Restrict(kAbstract);
    CheckpointHere();
    EXPECT_EQ(TryConnect(stream), EPERM);
    EXPECT_EQ(TryConnect(packets, SOCK_DGRAM), EPERM);
    const int loose = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
    EXPECT_EQ(TrySend(loose, packets), -EPERM);
    // What was connected before stays so; paths are other rights' business.
    EXPECT_OK(write(connected, "x", 1));
    const int by_path = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    EXPECT_OK(connect(by_path, path.get(), path.length));
    // Inside there are others of its own.
    const Abstract own("own"), own_packets("own-packets");
    Listener(own);
    Receiver(own_packets);
    EXPECT_EQ(TryConnect(own), 0);
    EXPECT_EQ(TrySend(loose, own_packets), 0);
    JOIN_OK(Fork([&] {
      EXPECT_EQ(TryConnect(own), 0);
      Restrict(kAbstract);
      EXPECT_EQ(TryConnect(own), EPERM);
      EXPECT_EQ(TryConnect(own_packets, SOCK_DGRAM), EPERM);
    }));
  }));
  JOIN_OK(Fork([&] {
    Restrict(kSignal);
    EXPECT_EQ(TryConnect(stream), 0);
  }));
}

GUEST_TEST(LandlockScopes, ASocketIsOfTheDomainThatMadeIt) {
  NeedScopes();
  const Abstract at("made-before");
  JOIN_OK(Fork([&] {
    const int before = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    Restrict(kAbstract);
    MUST(bind(before, at.get(), at.length));
    MUST(listen(before, 1));
    CheckpointHere();
    EXPECT_EQ(TryConnect(at), EPERM);  // it was made outside
  }));
}

}  // namespace guest
