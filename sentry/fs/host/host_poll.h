// Readiness of host descriptors: one host thread per kernel waits in epoll and notifies WaitQueues under the kernel lock.
#pragma once

#include <cstdint>
#include <thread>
#include <unordered_map>

#include "sentry/base/unique_fd.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Kernel;

class HostPoll {
 public:
  // A descriptor whose events notify `queue`. Guarded by the kernel lock; leaves by itself when destroyed.
  class Source {
   public:
    explicit Source(WaitQueue& queue) : queue_(queue) {}
    Source(const Source&) = delete;
    Source& operator=(const Source&) = delete;
    ~Source() { Unregister(); }
    // Watches `fd`, edge triggered. False for what epoll does not take (regular files): always ready.
    bool Register(HostPoll& poll, int fd);
    void Unregister();
    bool registered() const { return poll_ != nullptr; }

   private:
    friend class HostPoll;
    WaitQueue& queue_;
    HostPoll* poll_ = nullptr;
    int fd_ = -1;
    uint64_t id_ = 0;
  };

  explicit HostPoll(Kernel& kernel);
  ~HostPoll();
  HostPoll(const HostPoll&) = delete;
  HostPoll& operator=(const HostPoll&) = delete;

  // What poll(2) says of `fd` right now: POLL* bits among `events`, and POLLERR, POLLHUP, POLLNVAL.
  static uint32_t Ready(int fd, uint32_t events);

 private:
  void Loop();

  Kernel& kernel_;
  UniqueFd epoll_;
  UniqueFd stop_;  // eventfd
  std::unordered_map<uint64_t, Source*> sources_;
  uint64_t next_id_ = 1;
  std::thread thread_;
};

}  // namespace amber
