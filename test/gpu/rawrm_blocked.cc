// Calls that the driver holds for long: who is held up with them, and who can still be killed. `control` below is the one that takes long.
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#include "test/gpu/rawrm.h"

namespace rawrm {
namespace {

constexpr uint32_t kSlowControl = 0x20800111;

long Now() {  // ms
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

struct Slow {
  Session session;
  pthread_t thread;
  uint32_t status = ~0u;
  volatile bool over = false;
};

void* InDriver(void* argument) {
  auto* slow = static_cast<Slow*>(argument);
  uint8_t params[64] = {};
  slow->status = Control(slow->session, kSubdevice, kSlowControl, params, sizeof(params));
  slow->over = true;
  return nullptr;
}

void Begin(Slow* slow) {
  Expect(pthread_create(&slow->thread, nullptr, InDriver, slow) == 0, "thread");
  usleep(100000);  // it is in the driver
}

volatile int signals = 0;
void Count(int) { signals = signals + 1; }

// The other threads, a child, timers, other clients and other files go on.
void OthersGoOn(int milliseconds) {
  Slow slow;
  slow.session = Start();
  Session other = Start();
  long begin = Now();
  Begin(&slow);
  int ends[2];
  char byte = 0;
  bool good = pipe(ends) == 0;
  for (int i = 0; good && i < 500; ++i) good = write(ends[1], &byte, 1) == 1 && read(ends[0], &byte, 1) == 1;
  Expect(good, "another thread's calls");
  usleep(20000);
  uint8_t params[132] = {};
  uint32_t status = Control(other, kSubdevice, 0x20800110, params, sizeof(params));
  Expect(status == kNvOk, "another client's calls", status);
  int fd = open("/dev/nvidia0", O_RDWR | O_CLOEXEC);
  Expect(fd >= 0 && close(fd) == 0, "another file");
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) _exit(3);
  int end = 0;
  Expect(waitpid(child, &end, 0) == child && WIFEXITED(end) && WEXITSTATUS(end) == 3, "a child");
  Expect(!slow.over && Now() - begin < milliseconds, "all that while the driver held a call", static_cast<uint64_t>(Now() - begin));
  // As in the driver itself, whose waits are not interruptible: the signal is taken when the call is over, which has its result.
  struct sigaction action{};
  action.sa_handler = Count;
  sigaction(SIGUSR1, &action, nullptr);
  pthread_kill(slow.thread, SIGUSR1);
  pthread_join(slow.thread, nullptr);
  Expect(slow.status == kNvOk, "the call that took long", slow.status);
  Expect(signals == 1, "a signal that came meanwhile", static_cast<uint64_t>(signals));
  close(ends[0]), close(ends[1]), close(slow.session.ctl), close(slow.session.gpu), close(other.ctl), close(other.gpu);
}

// Runs `body` in a child that has a thread in the driver; its wait status, and how long after `body` that came.
template <typename Body>
int InChild(uint64_t memory, long* took, const Body& body) {
  int ready[2];
  if (pipe(ready) != 0) return -1;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    Slow slow;
    slow.session = Start();
    if (memory != 0) Expect(Memory(slow.session, 0x100, memory) == kNvOk, "memory of a process that ends");
    Begin(&slow);
    fflush(stdout);
    char byte = failures == 0 ? 'y' : 'n';
    if (write(ready[1], &byte, 1) != 1) _exit(9);
    body(0);
    for (;;) pause();
  }
  char byte = 0;
  Expect(read(ready[0], &byte, 1) == 1 && byte == 'y', "a child with a thread in the driver");
  long begin = Now();
  body(child);
  int status = 0;
  waitpid(child, &status, 0);
  *took = Now() - begin;
  close(ready[0]), close(ready[1]);
  return status;
}

}  // namespace

int Blocked(int milliseconds) {
  constexpr uint64_t kMemory = uint64_t{3} << 29;  // of 2 GiB
  OthersGoOn(milliseconds);
  long took = 0;
  int status = InChild(kMemory, &took, [](pid_t child) {
    if (child != 0) kill(child, SIGKILL);
  });
  Expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "killed", static_cast<uint64_t>(status));
  Expect(took < milliseconds / 2, "a killed process is gone while the driver holds its call", static_cast<uint64_t>(took));
  status = InChild(0, &took, [](pid_t child) {
    if (child == 0) _exit(7);
  });
  Expect(WIFEXITED(status) && WEXITSTATUS(status) == 7 && took < milliseconds / 2, "exit_group", static_cast<uint64_t>(took));
  status = InChild(0, &took, [](pid_t child) {
    if (child == 0) execl("/proc/self/exe", "rawrm", "nothing", nullptr);
  });
  Expect(WIFEXITED(status) && WEXITSTATUS(status) == 0 && took < milliseconds / 2, "execve", static_cast<uint64_t>(took));
  // The memory comes back when the driver has let go of the killed process's call.
  Session s = Start();
  uint32_t result = kNvNoMemory;
  for (long end = Now() + 3L * milliseconds; result == kNvNoMemory && Now() < end; usleep(50000)) result = Memory(s, 0x100, kMemory);
  Expect(result == kNvOk, "the memory is free again", result);
  return Verdict();
}

int Stuck() {
  Session s = Start();
  printf("ready\n");
  uint8_t params[64] = {};
  uint32_t status = Control(s, kSubdevice, kSlowControl, params, sizeof(params));
  Expect(status == kNvOk, "the call that took long", status);
  printf("over\n");
  char line[16];
  if (read(0, line, sizeof(line)) < 0) return 2;
  status = Memory(s, 0x100, 1 << 20);
  Expect(status == kNvOk, "memory below a device from before", status);
  printf("held\n");
  return failures != 0;
}

}  // namespace rawrm
