// What the platform's paths cost. Prints one line per figure, in microseconds per operation.
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

double Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

// CPU time of this process and of its ended stubs: steadier than wall time on a busy machine.
double CpuNow() {
  double total = 0;
  for (int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage usage = {};
    getrusage(who, &usage);
    total += static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
             static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  }
  return total;
}

void Report(const char* what, double start, double rounds) {
  printf("%-44s %9.2f us\n", what, (Now() - start) / rounds);
  fflush(stdout);
}

void Guest(const char* what, void (*entry)(uint64_t, uint64_t), uint64_t rounds) {
  TestClient client;
  if (entry == GuestForkExitLoop) {
    client.on_syscall = [&](Thread& thread, const Syscall& call) {
      if (call.number != kGuestBlock) return false;
      thread.Answer(0);
      return true;
    };
  }
  double cpu = CpuNow();
  Thread* thread = client.Start(entry, rounds);
  double start = Now();
  thread->Resume();
  client.AwaitLog(1);
  double wall = Now() - start;
  client.AwaitDeaths(1);
  printf("%-44s %9.2f us, %.2f us of CPU\n", what, wall / static_cast<double>(rounds), (CpuNow() - cpu) / static_cast<double>(rounds));
  fflush(stdout);
}

void Busy() {
  std::atomic<bool> stop = false;
  std::thread spinners[2];
  for (std::thread& spinner : spinners) {
    spinner = std::thread([&] {
      while (!stop) {
      }
    });
  }
  Guest("call and answer, both CPUs busy", GuestEchoLoop, 50000);
  Guest("mmap by the trap, both CPUs busy", GuestMmapLoop, 20000);
  stop = true;
  for (std::thread& spinner : spinners) spinner.join();
}

void Execs() {
  TestClient client;
  constexpr int kRounds = 200;
  double critical = 0;
  for (int i = 0; i < kRounds; i++) {
    double start = Now();
    Thread* thread = client.Start(GuestHello);
    critical += Now() - start;
    thread->space().Kill();
    client.AwaitDeaths(i + 1);
    usleep(2000);
  }
  printf("%-44s %9.2f us\n", "exec (pool filled), until stopped", critical / kRounds);
  double start = Now();
  for (int i = 0; i < kRounds; i++) {
    client.Start(GuestHello)->Resume();
    client.AwaitDeaths(kRounds + i + 1);
  }
  Report("exec, run, exit, reaped, back to back", start, kRounds);
}

void Kicks() {
  TestClient client;
  std::atomic<int> kicks = 0;
  client.on_frame = [&](Thread& thread, Stop, const Fault*) {
    kicks++;
    thread.Resume();
    return true;
  };
  Thread* thread = client.Start(GuestSpin);
  thread->Resume();
  usleep(10000);
  constexpr int kRounds = 5000;
  double start = Now();
  for (int i = 0; i < kRounds; i++) {
    thread->Kick();
    while (kicks <= i) sched_yield();
  }
  Report("kick of a spinning thread until stopped", start, kRounds);
}

void Threads() {
  constexpr int kRounds = 500;
  TestClient client;
  Thread* thread = client.Start(GuestThreadMaker, kRounds, TestClient::Address(GuestThreadEcho));
  RefPtr<AddressSpace> space(&thread->space());
  double start = Now();
  thread->Resume();
  client.AwaitLog(kRounds + 1);
  Report("thread: create, 50 calls, log, exit", start, kRounds);
}

// Two threads of one process that call at the same time; per call of one.
void TwoThreads() {
  TestClient client;
  std::atomic<int> calls = 0;
  client.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestEcho) return false;
    calls.fetch_add(1, std::memory_order_relaxed);
    thread.Answer(static_cast<int64_t>(call.args[0] + 1));
    return true;
  };
  Thread* thread = client.Start(GuestThreadMaker, 2, TestClient::Address(GuestEchoForever));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  client.AwaitLog(1);
  usleep(20000);
  int before = calls;
  double start = Now();
  usleep(300000);
  Report("call and answer, two threads at once", start, (calls - before) / 2);
}

// One thread calls while others of its process wait natively.
void IdleThreads() {
  double cpu = CpuNow();
  TestClient client;
  client.on_child = [&](Thread& child) { child.frame().regs.rbx = 0; };
  Thread* thread = client.Start(GuestThreadMaker, 4, TestClient::Address(GuestThreadFutex));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  client.AwaitLog(1);
  std::vector<Thread*> blocked;
  while (blocked.empty()) blocked = client.blocked();
  // The maker now becomes the caller.
  client.on_frame = [&](Thread& t, Stop, const Fault*) {
    t.frame().regs.rip = TestClient::Address(GuestEchoLoop);
    t.frame().regs.rdi = 50000;
    t.frame().regs.rsp = kGuestStackTop - 8;
    t.Resume();
    return true;
  };
  size_t logged = client.log().size();
  double start = Now();
  blocked[0]->AnswerStop();
  client.AwaitLog(logged + 1);
  double wall = Now() - start;
  space->Kill();
  client.AwaitDeaths(1);
  printf("%-44s %9.2f us, %.2f us of CPU\n", "call and answer, four others in futex waits", wall / 50000, (CpuNow() - cpu) / 50000);
}

void Probes() {
  double start = Now();
  std::string missing = Platform::Probe();
  Report(missing.empty() ? "probe" : missing.c_str(), start, 1);
  start = Now();
  {
    TestClient client;
    Report("create", start, 1);
    start = Now();
  }
  Report("destroy", start, 1);
}

void Native() {
  constexpr int kRounds = 300;
  double start = Now();
  for (int i = 0; i < kRounds; i++) {
    long pid = syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0) syscall(SYS_exit_group, 0);
    int status;
    wait4(static_cast<pid_t>(pid), &status, 0, nullptr);
  }
  Report("native: fork, exit, wait of this program", start, kRounds);
}

struct Row {
  const char* name;
  void (*run)();
};

constexpr Row kRows[] = {
    {"native", Native},
    {"probe", Probes},
    {"call", [] { Guest("call and answer", GuestEchoLoop, 100000); }},
    {"mmap", [] { Guest("mmap by the trap", GuestMmapLoop, 20000); }},
    {"munmap", [] { Guest("munmap, continued", GuestMunmapLoop, 50000); }},
    {"fork", [] { Guest("fork (child exits, killed by the kernel)", GuestForkExitLoop, 300); }},
    {"exec", Execs},
    {"kick", Kicks},
    {"threads", Threads},
    {"two", TwoThreads},
    {"idle", IdleThreads},
    {"busy", Busy},
};

}  // namespace
}  // namespace amber::platform

// Names of rows as arguments; without any, all are run.
int main(int argc, char** argv) {
  for (const amber::platform::Row& row : amber::platform::kRows) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; i++) wanted |= std::string(argv[i]) == row.name;
    if (wanted) row.run();
  }
}
