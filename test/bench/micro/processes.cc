// Processes, threads and signals.
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "test/bench/micro/micro.h"

extern char** environ;

namespace amber::bench {
namespace {

constexpr size_t kPage = 4096;

int64_t TimeFork(int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    pid_t child = fork();
    Require(child >= 0, "fork");
    if (child == 0) _exit(0);
    Require(waitpid(child, nullptr, 0) == child, "waitpid");
  }
  return Now() - start;
}

int64_t ForkSmall(const Context&, int64_t count) { return TimeFork(count); }

int64_t Fork64M(const Context&, int64_t count) {
  constexpr size_t kSize = 64 << 20;
  void* memory = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Require(memory != MAP_FAILED, "mmap");
  for (size_t i = 0; i < kSize; i += kPage) static_cast<volatile char*>(memory)[i] = 1;
  int64_t spent = TimeFork(count);
  munmap(memory, kSize);
  return spent;
}

// posix_spawn is vfork and exec in glibc.
int64_t TimeSpawn(const std::string& program, int64_t count) {
  char* arguments[] = {const_cast<char*>(program.c_str()), nullptr};
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    pid_t child;
    Require(posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ) == 0, program.c_str());
    int status;
    Require(waitpid(child, &status, 0) == child && status == 0, "waitpid");
  }
  return Now() - start;
}

int64_t SpawnStatic(const Context& context, int64_t count) { return TimeSpawn(context.self_folder + "exit0", count); }

int64_t SpawnDynamic(const Context&, int64_t count) { return TimeSpawn("/bin/true", count); }

void* Nothing(void*) { return nullptr; }

int64_t ThreadCreateJoin(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    pthread_t thread;
    Require(pthread_create(&thread, nullptr, Nothing, nullptr) == 0, "pthread_create");
    pthread_join(thread, nullptr);
  }
  return Now() - start;
}

volatile int64_t signals_seen = 0;

void CountSignal(int) { signals_seen = signals_seen + 1; }

int64_t SignalSelf(const Context&, int64_t count) {
  struct sigaction action = {}, before;
  action.sa_handler = CountSignal;
  sigaction(SIGUSR1, &action, &before);
  signals_seen = 0;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) kill(getpid(), SIGUSR1);
  int64_t spent = Now() - start;
  Require(signals_seen == count, "a signal was lost");
  sigaction(SIGUSR1, &before, nullptr);
  return spent;
}

char* faulting_page = nullptr;

void Unprotect(int) {
  if (mprotect(faulting_page, kPage, PROT_READ | PROT_WRITE) != 0) _exit(1);
}

// A write barrier as garbage collectors have it: fault, mprotect in the handler, protect again.
int64_t SegvHandler(const Context&, int64_t count) {
  void* memory = mmap(nullptr, kPage, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  Require(memory != MAP_FAILED, "mmap");
  faulting_page = static_cast<char*>(memory);
  struct sigaction action = {}, before;
  action.sa_handler = Unprotect;
  sigaction(SIGSEGV, &action, &before);
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    *const_cast<volatile char*>(faulting_page) = 1;
    Require(mprotect(faulting_page, kPage, PROT_READ) == 0, "mprotect");
  }
  int64_t spent = Now() - start;
  sigaction(SIGSEGV, &before, nullptr);
  munmap(memory, kPage);
  return spent;
}

constexpr Row kRows[] = {
    {"fork_wait", ForkSmall},
    {"fork_wait_64m", Fork64M},
    {"spawn_static", SpawnStatic},
    {"spawn_dynamic", SpawnDynamic},
    {"thread_create_join", ThreadCreateJoin},
    {"signal_self", SignalSelf},
    {"segv_handler", SegvHandler},
};

}  // namespace

std::span<const Row> ProcessRows() { return kRows; }

}  // namespace amber::bench
