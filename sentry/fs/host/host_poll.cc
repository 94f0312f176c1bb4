#include "sentry/fs/host/host_poll.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "sentry/base/check.h"
#include "sentry/kernel/kernel.h"

namespace amber {

bool HostPoll::Source::Register(HostPoll& poll, int fd) {
  AMBER_CHECK(poll_ == nullptr);
  uint64_t id = poll.next_id_++;
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
  event.data.u64 = id;
  if (epoll_ctl(poll.epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return false;
  poll_ = &poll;
  fd_ = fd;
  id_ = id;
  poll.sources_[id] = this;
  return true;
}

void HostPoll::Source::Unregister() {
  if (poll_ == nullptr) return;
  epoll_ctl(poll_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  poll_->sources_.erase(id_);
  poll_ = nullptr;
}

HostPoll::HostPoll(Kernel& kernel) : kernel_(kernel), epoll_(epoll_create1(EPOLL_CLOEXEC)), stop_(eventfd(0, EFD_CLOEXEC)) {
  AMBER_CHECK(epoll_.valid() && stop_.valid());
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = 0;
  AMBER_CHECK(epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, stop_.get(), &event) == 0);
  thread_ = std::thread([this] { Loop(); });
}

uint32_t HostPoll::Ready(int fd, uint32_t events) {
  pollfd p{fd, static_cast<short>(events), 0};
  if (poll(&p, 1, 0) <= 0) return 0;
  return static_cast<uint32_t>(p.revents) & 0xffff;
}

HostPoll::~HostPoll() {
  uint64_t one = 1;
  AMBER_CHECK(write(stop_.get(), &one, sizeof(one)) == sizeof(one));
  thread_.join();
}

void HostPoll::Loop() {
  epoll_event events[32];
  for (;;) {
    int n = epoll_wait(epoll_.get(), events, 32, -1);
    if (n <= 0) continue;
    KernelLock lock(kernel_);
    for (int i = 0; i < n; ++i) {
      if (events[i].data.u64 == 0) return;
      // A source that left while the event was on its way is not in the table any more.
      auto it = sources_.find(events[i].data.u64);
      if (it == sources_.end()) continue;
      uint32_t bits = events[i].events;
      if ((bits & EPOLLRDHUP) != 0) bits |= EPOLLIN;
      it->second->queue_.Notify(bits);
    }
  }
}

}  // namespace amber
