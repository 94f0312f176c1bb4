// Calls that do next to nothing: what trapping alone costs.
#include <fcntl.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "test/bench/micro/micro.h"

namespace amber::bench {
namespace {

// Through libc's syscall(), whose site cannot be patched for one call number.
int64_t GetPid(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) syscall(SYS_getpid);
  return Now() - start;
}

// A call site of its own: mov $number, %eax; syscall.
int64_t GetPidSite(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int64_t result;
    asm volatile("movl %1, %%eax\n\tsyscall" : "=&a"(result) : "i"(SYS_getpid) : "rcx", "r11", "memory");
  }
  return Now() - start;
}

int64_t ReadZero(const Context&, int64_t count) {
  int fd = open("/dev/zero", O_RDONLY);
  Require(fd >= 0, "open /dev/zero");
  char byte;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) Require(read(fd, &byte, 1) == 1, "read /dev/zero");
  int64_t spent = Now() - start;
  close(fd);
  return spent;
}

int64_t WriteNull(const Context&, int64_t count) {
  int fd = open("/dev/null", O_WRONLY);
  Require(fd >= 0, "open /dev/null");
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) Require(write(fd, "x", 1) == 1, "write /dev/null");
  int64_t spent = Now() - start;
  close(fd);
  return spent;
}

int64_t ClockGetTime(const Context&, int64_t count) {
  timespec now;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) clock_gettime(CLOCK_MONOTONIC, &now);
  return Now() - start;
}

int64_t SchedYield(const Context&, int64_t count) {
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) sched_yield();
  return Now() - start;
}

constexpr Row kRows[] = {
    {"getpid", GetPid},        {"getpid_site", GetPidSite}, {"read_zero", ReadZero},
    {"write_null", WriteNull}, {"clock", ClockGetTime},     {"sched_yield", SchedYield},
};

}  // namespace

std::span<const Row> CallRows() { return kRows; }

}  // namespace amber::bench
