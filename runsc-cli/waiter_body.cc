// The waiter's code. It runs from a copy of itself with nothing else mapped: no function of any library, no constant
// outside the code, no stack protector, no vector register spills of aligned constants. Everything is inlined into
// one function in a section of its own; the build file sets the flags that this needs.
#include "runsc-cli/waiter_body.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

namespace amber::cli {
namespace {

#define AMBER_INLINE inline __attribute__((always_inline))

constexpr int32_t kResize = 1001;        // control::kWaiterResize
constexpr int32_t kDetach = 0x10000;     // control::kWaiterDetach
constexpr int32_t kAbandoned = 0x20009;  // control::kWaiterAbandoned

AMBER_INLINE long Call(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  asm volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
  return result;
}

template <typename T>
AMBER_INLINE long Address(T* p) {
  return reinterpret_cast<long>(p);
}

AMBER_INLINE void Unmap(const WaiterData* data) {
  Call(SYS_munmap, 0x1000, static_cast<long>(data->keep_low - 0x1000));
  Call(SYS_munmap, static_cast<long>(data->keep_high), static_cast<long>(data->top - data->keep_high));
}

[[noreturn]] AMBER_INLINE void EndLike(int32_t status) {
  int signal = status & 0x7f;
  if (signal != 0) {
    uint64_t none = 0;
    Call(SYS_rt_sigprocmask, SIG_SETMASK, Address(&none), 0, sizeof(none));
    Call(SYS_kill, Call(SYS_getpid), signal);
    // A signal whose default action is not death.
    Call(SYS_exit_group, 128 + signal);
  }
  Call(SYS_exit_group, (status >> 8) & 0xff);
  __builtin_unreachable();
}

AMBER_INLINE void CleanUp(const WaiterData* data) {
  // Processes that are dying keep their cgroup for a moment.
  for (int round = 0; round < 500; ++round) {
    bool busy = false;
    const char* step = data->cleanup;
    while (*step != 0) {
      const char* path = step + 1;
      if (*step == 'u') Call(SYS_unlink, Address(path));
      if (*step == 'd') {
        long result = Call(SYS_rmdir, Address(path));
        if (result != 0 && result != -2 /* ENOENT */) busy = true;
      }
      if (*step == 'c' && round == 0) {
        long fd = Call(SYS_open, Address(path), 1 /* O_WRONLY */);
        char zero = '0';
        if (fd >= 0) {
          Call(SYS_write, fd, Address(&zero), 1);
          Call(SYS_close, fd);
        }
      }
      while (*step != 0) ++step;
      ++step;
    }
    if (!busy) return;
    timespec pause;
    pause.tv_sec = 0;
    pause.tv_nsec = 10'000'000;
    Call(SYS_nanosleep, Address(&pause), 0);
  }
}

}  // namespace

extern "C" __attribute__((section("waiter_text"), noinline, used)) void AmberWaiterBody(WaiterData* data) {
  Unmap(data);
  int32_t status = SIGKILL;
  // Descriptors of a dying process close before its pidfd says so: who hears of the one waits for the other.
  int patience_ms = 100;
  bool owner_died = false;
  for (;;) {
    pollfd fds[3];
    fds[0].fd = data->stream;
    fds[1].fd = data->signals;
    fds[2].fd = data->owner;
    for (int i = 0; i < 3; ++i) {
      fds[i].events = POLLIN;
      fds[i].revents = 0;
    }
    if (Call(SYS_poll, Address(fds), 3, -1) < 0) continue;
    if (fds[0].revents != 0) {
      int32_t message;
      long n = Call(SYS_read, data->stream, Address(&message), sizeof(message));
      // A sentry that ended with signals of ours unread gives the reset before the status that it sent.
      if (n == -4 /* EINTR */ || n == -104 /* ECONNRESET */) continue;
      if (n == sizeof(message) && message == kDetach) {
        Call(SYS_close, data->owner);
        data->owner = -1;
        continue;
      }
      if (n == sizeof(message)) {
        status = message & 0xffff;
        patience_ms = message == kAbandoned ? 5000 : 0;
      }
      break;
    }
    if (fds[2].revents != 0) {
      owner_died = true;
      break;
    }
    if (fds[1].revents != 0) {
      signalfd_siginfo info;
      if (Call(SYS_read, data->signals, Address(&info), sizeof(info)) != sizeof(info)) continue;
      int32_t message = static_cast<int32_t>(info.ssi_signo);
      if (message == SIGWINCH) message = kResize;
      if (message != SIGCHLD) Call(SYS_write, data->stream, Address(&message), sizeof(message));
    }
  }
  // The stream tells the sentry that we are gone.
  Call(SYS_close, data->stream);
  if (!owner_died && data->owner >= 0) {
    pollfd owner;
    owner.fd = data->owner;
    owner.events = POLLIN;
    owner.revents = 0;
    owner_died = Call(SYS_poll, Address(&owner), 1, patience_ms) == 1;
  }
  if (owner_died) CleanUp(data);
  EndLike(status);
}

}  // namespace amber::cli
