// Makes system calls with arguments that make some sense and many that make none, as fast as it can, by several processes and threads at once: what a
// hostile guest does. Only for a sandbox: it would spoil the machine that it runs on.
//
// The first process keeps watch. Each round it starts a few programs in namespaces of their own, lets them go on for a while, kills them all, and tells
// how many calls they made and how long it was kept from running meanwhile.
//
//   random_calls ROUNDS MILLISECONDS SEED
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/hostile/arguments.h"

namespace hostile {
namespace {

constexpr int kPrograms = 3, kThreads = 2;
constexpr int kMaxProcesses = 48;

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1'000'000;
}

void Wake(int) {}

// A system call may leave nothing as it was: no call of the C library is made between two of them.
[[noreturn]] void CallForEver(Shared& shared, uint64_t seed, uint64_t program) {
  Arguments arguments(seed, program);
  for (;;) {
    Call call = arguments.Next();
    __atomic_add_fetch(&shared.calls, 1, __ATOMIC_RELAXED);
    const bool makes_process = call.number == SYS_fork || call.number == SYS_clone || call.number == SYS_clone3 || call.number == SYS_vfork;
    if (makes_process && __atomic_add_fetch(&shared.processes, 1, __ATOMIC_RELAXED) > kMaxProcesses) {
      __atomic_sub_fetch(&shared.processes, 1, __ATOMIC_RELAXED);
      continue;
    }
    const long result = syscall(call.number, call.args[0], call.args[1], call.args[2], call.args[3], call.args[4], call.args[5]);
    if (makes_process && result == 0) arguments.Reseed();
    arguments.Learn(call, result);
  }
}

struct ThreadStart {
  Shared* shared;
  uint64_t seed, program;
};

int ThreadBody(void* argument) {
  auto* start = static_cast<ThreadStart*>(argument);
  CallForEver(*start->shared, start->seed, start->program);
}

// In namespaces that this makes, so that the keeper's stay what they are.
[[noreturn]] void Program(Shared& shared, uint64_t seed) {
  // Some only have what any user has.
  const bool plain = seed % 3 == 0;
  if (plain) {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) _exit(1);
  }
  const int all = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP;
  if (unshare(plain ? all | CLONE_NEWUSER : all) != 0) _exit(2);
  const pid_t init = fork();
  if (init < 0) _exit(3);
  if (init > 0) {
    waitpid(init, nullptr, 0);
    _exit(0);
  }
  struct sigaction action = {};
  action.sa_handler = Wake;
  sigaction(SIGALRM, &action, nullptr);
  const itimerval often = {{0, 20'000}, {0, 20'000}};
  setitimer(ITIMER_REAL, &often, nullptr);
  const rlimit space = {1ul << 30, 1ul << 30};
  setrlimit(RLIMIT_AS, &space);
  MakeObjects(seed);
  static ThreadStart starts[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    starts[i] = {&shared, seed * 31 + static_cast<uint64_t>(i) + 1, seed};
    constexpr size_t kStack = 1 << 18;
    void* stack = mmap(nullptr, kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) break;
    clone(ThreadBody, static_cast<char*>(stack) + kStack, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM,
          &starts[i]);
  }
  CallForEver(shared, seed, seed);
}

// Everybody but the keeper, the first process of the container.
bool EndAll() {
  const int64_t deadline = NowMs() + 20'000;
  while (NowMs() < deadline) {
    kill(-1, SIGKILL);
    pid_t pid;
    while ((pid = waitpid(-1, nullptr, WNOHANG | __WALL)) > 0) {
    }
    if (pid < 0 && errno == ECHILD) return true;
    usleep(1000);
  }
  return false;
}

int Keep(int rounds, int milliseconds, uint64_t seed) {
  auto* shared = static_cast<Shared*>(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  int null = open("/dev/null", O_RDWR);
  for (int round = 0; round < rounds; ++round) {
    memset(shared, 0, sizeof(*shared));
    fflush(stdout);
    for (int i = 0; i < kPrograms; ++i) {
      const uint64_t own = seed + static_cast<uint64_t>(round * kPrograms + i);
      if (fork() == 0) {
        // What they write is for nobody.
        for (int fd = 0; fd < 3; ++fd) dup2(null, fd);
        Program(*shared, own);
      }
    }
    int64_t longest = 0;
    const int64_t end = NowMs() + milliseconds;
    for (int64_t now = NowMs(); now < end;) {
      usleep(2000);
      const int64_t then = NowMs();
      if (then - now > longest) longest = then - now;
      now = then;
    }
    const int64_t killed = NowMs();
    if (!EndAll()) {
      printf("STUCK round %d seed %lu\n", round, seed);
      fflush(stdout);
      return 1;
    }
    printf("round %d seed %lu calls %lu longest-pause-ms %ld end-ms %ld\n", round, seed, shared->calls, longest, NowMs() - killed);
    fflush(stdout);
  }
  printf("done\n");
  return 0;
}

}  // namespace
}  // namespace hostile

int main(int argc, char** argv) {
  // What an execve() among the calls runs.
  if (argc != 4 || getpid() != 1) return 0;
  return hostile::Keep(atoi(argv[1]), atoi(argv[2]), strtoull(argv[3], nullptr, 0));
}
