// Ping-pong between two processes or threads, and waiting on many descriptors.
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "test/bench/micro/micro.h"

namespace amber::bench {

int64_t PingPong(int to_child[2], int to_parent[2], int64_t count) {
  pid_t child = fork();
  Require(child >= 0, "fork");
  char byte = 0;
  if (child == 0) {
    for (int64_t i = 0; i < count; ++i) {
      if (read(to_child[0], &byte, 1) != 1 || write(to_parent[1], &byte, 1) != 1) _exit(1);
    }
    _exit(0);
  }
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    Require(write(to_child[1], &byte, 1) == 1, "write");
    Require(read(to_parent[0], &byte, 1) == 1, "read");
  }
  int64_t spent = Now() - start;
  Require(waitpid(child, nullptr, 0) == child, "waitpid");
  return spent;
}

namespace {

int64_t PipePingPong(const Context&, int64_t count) {
  int there[2], back[2];
  Require(pipe(there) == 0 && pipe(back) == 0, "pipe");
  int64_t spent = PingPong(there, back, count);
  for (int fd : {there[0], there[1], back[0], back[1]}) close(fd);
  return spent;
}

int64_t SocketPingPong(const Context&, int64_t count) {
  int pair[2];
  Require(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
  // The child reads and writes pair[1], the parent pair[0].
  int to_child[2] = {pair[1], pair[0]};
  int to_parent[2] = {pair[0], pair[1]};
  int64_t spent = PingPong(to_child, to_parent, count);
  close(pair[0]);
  close(pair[1]);
  return spent;
}

struct FutexGame {
  std::atomic<uint32_t> turn{0};
  int64_t count = 0;
};

void PassTurn(FutexGame* game, uint32_t mine) {
  auto* word = reinterpret_cast<uint32_t*>(&game->turn);
  while (true) {
    uint32_t turn = game->turn.load(std::memory_order_acquire);
    if (turn == mine) break;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, turn, nullptr, nullptr, 0);
  }
  game->turn.store(1 - mine, std::memory_order_release);
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
}

void* FutexPartner(void* argument) {
  auto* game = static_cast<FutexGame*>(argument);
  for (int64_t i = 0; i < game->count; ++i) PassTurn(game, 1);
  return nullptr;
}

// Two threads.
int64_t FutexPingPong(const Context&, int64_t count) {
  FutexGame game;
  game.count = count;
  pthread_t partner;
  Require(pthread_create(&partner, nullptr, FutexPartner, &game) == 0, "pthread_create");
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) PassTurn(&game, 0);
  pthread_join(partner, nullptr);
  return Now() - start;
}

int64_t Poll100(const Context&, int64_t count) {
  std::vector<pollfd> entries(100);
  for (pollfd& entry : entries) entry = {.fd = eventfd(0, 0), .events = POLLIN, .revents = 0};
  Require(entries.back().fd >= 0, "eventfd");
  uint64_t one = 1;
  Require(write(entries[50].fd, &one, sizeof(one)) == sizeof(one), "write eventfd");
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) Require(poll(entries.data(), 100, -1) == 1, "poll");
  int64_t spent = Now() - start;
  for (pollfd& entry : entries) close(entry.fd);
  return spent;
}

// Write, epoll_wait, read.
int64_t EpollEventFd(const Context&, int64_t count) {
  int fd = eventfd(0, 0);
  int poller = epoll_create1(0);
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = 1}};
  Require(fd >= 0 && poller >= 0 && epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
  uint64_t value = 1;
  int64_t start = Now();
  for (int64_t i = 0; i < count; ++i) {
    Require(write(fd, &value, sizeof(value)) == sizeof(value), "write eventfd");
    Require(epoll_wait(poller, &event, 1, -1) == 1, "epoll_wait");
    Require(read(fd, &value, sizeof(value)) == sizeof(value), "read eventfd");
  }
  int64_t spent = Now() - start;
  close(poller);
  close(fd);
  return spent;
}

constexpr Row kRows[] = {
    {"pipe_pingpong", PipePingPong}, {"futex_pingpong", FutexPingPong}, {"unix_pingpong", SocketPingPong},
    {"poll_100", Poll100},           {"epoll_eventfd", EpollEventFd},
};

}  // namespace

std::span<const Row> MessageRows() { return kRows; }

}  // namespace amber::bench
