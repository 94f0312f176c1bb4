// Many threads that call at once, many processes, many descriptors in one epoll.
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "test/bench/micro/micro.h"

namespace amber::bench {
namespace {

struct Share {
  int fd;
  int64_t calls;
};

void* ReadZeroes(void* argument) {
  const Share& share = *static_cast<Share*>(argument);
  char byte;
  for (int64_t i = 0; i < share.calls; ++i) Require(read(share.fd, &byte, 1) == 1, "read");
  return nullptr;
}

// One operation is one call, whichever thread makes it: with as many CPUs as threads and nothing shared, N threads take 1/N of the time.
template <int kThreads>
int64_t ThreadsThatRead(const Context&, int64_t count) {
  int fd = open("/dev/zero", O_RDONLY);
  Require(fd >= 0, "/dev/zero");
  Share share{fd, std::max<int64_t>(1, count / kThreads)};
  pthread_t threads[kThreads];
  int64_t start = Now();
  for (pthread_t& thread : threads) Require(pthread_create(&thread, nullptr, ReadZeroes, &share) == 0, "pthread_create");
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  int64_t spent = Now() - start;
  close(fd);
  return spent;
}

// A thousand processes at once, each made, woken and waited for; one operation is one of them.
int64_t ThousandProcesses(const Context&, int64_t count) {
  constexpr int kProcesses = 1000;
  int64_t spent = 0;
  for (int64_t done = 0; done < count; done += kProcesses) {
    int gate[2];
    Require(pipe(gate) == 0, "pipe");
    int64_t start = Now();
    for (int i = 0; i < kProcesses; ++i) {
      pid_t child = fork();
      Require(child >= 0, "fork");
      if (child == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 0 : 1);
      }
    }
    close(gate[1]);
    for (int i = 0; i < kProcesses; ++i) {
      int status;
      Require(waitpid(-1, &status, 0) > 0 && status == 0, "waitpid");
    }
    spent += Now() - start;
    close(gate[0]);
  }
  return spent * std::max<int64_t>(count, 1) / ((count + kProcesses - 1) / kProcesses * kProcesses);
}

// One event among ten thousand descriptors that are watched.
int64_t EpollOfTenThousand(const Context&, int64_t count) {
  constexpr int kDescriptors = 10'000;
  rlimit limit;
  Require(getrlimit(RLIMIT_NOFILE, &limit) == 0, "getrlimit");
  limit.rlim_cur = limit.rlim_max;
  Require(setrlimit(RLIMIT_NOFILE, &limit) == 0, "setrlimit");
  int ep = epoll_create1(0);
  Require(ep >= 0, "epoll_create1");
  std::vector<int> fds;
  for (int i = 0; i < kDescriptors; ++i) {
    int fd = eventfd(0, EFD_NONBLOCK);
    Require(fd >= 0, "eventfd");
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    Require(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
    fds.push_back(fd);
  }
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    int fd = fds[static_cast<size_t>(i * 7919 % kDescriptors)];
    uint64_t value = 1;
    epoll_event event;
    Require(write(fd, &value, sizeof(value)) == sizeof(value), "write");
    Require(epoll_wait(ep, &event, 1, -1) == 1 && event.data.fd == fd, "epoll_wait");
    Require(read(fd, &value, sizeof(value)) == sizeof(value), "read");
  }
  int64_t spent = Now() - start;
  for (int fd : fds) close(fd);
  close(ep);
  return spent;
}

constexpr Row kRows[] = {
    {"read_threads_1", ThreadsThatRead<1>}, {"read_threads_2", ThreadsThatRead<2>},   {"read_threads_4", ThreadsThatRead<4>},
    {"read_threads_8", ThreadsThatRead<8>}, {"read_threads_16", ThreadsThatRead<16>}, {"processes_1000", ThousandProcesses},
    {"epoll_10000", EpollOfTenThousand},
};

}  // namespace

std::span<const Row> ScaleRows() { return kRows; }

}  // namespace amber::bench
