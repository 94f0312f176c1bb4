// A Unix socket's end in the host (--host-uds): the gofer made it, connected or bound to a file of the host's. It never blocks; its readiness comes
// from HostPoll. Belongs to a UnixSocket, whose queue hears of it. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <utility>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/kernel/kernel.h"

namespace amber {

class UnixHostEnd {
 public:
  UnixHostEnd(Kernel& kernel, UniqueFd fd, WaitQueue& queue) : fd_(std::move(fd)), source_(queue) { source_.Register(kernel.host_poll(), fd_.get()); }
  // It must not be watched any more when it is closed.
  ~UnixHostEnd() { source_.Unregister(); }
  // False if its readiness would not be heard of.
  bool watched() const { return source_.registered(); }
  int fd() const { return fd_.get(); }
  uint32_t Ready(uint32_t events) const { return HostPoll::Ready(fd_.get(), events); }

 private:
  UniqueFd fd_;
  HostPoll::Source source_;
};

}  // namespace amber
