#include "sentry/platform/listener.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "sentry/platform/platform_impl.h"
#include "sentry/platform/thread_impl.h"
#include "sentry/platform/watcher.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS _IOW('!', 4, uint64_t)
#endif

namespace amber::platform {
namespace {

// The host wakes every receiver that waits for each notification (seccomp_notify_recv), so a second one costs two context switches a call. It
// is added when the first was behind so many times in a row that it looked, and retires after so many calls with which it was not.
constexpr int kBehind = 4;
constexpr int kPatience = 64;

}  // namespace

struct Listener::Receiver {
  Listener* listener;
  int surplus = 0;
  int behind = 0;
  unsigned looks = 0;
  bool blocked = false;
  bool watch = false;
  uint64_t handling = 0;           // the notification
  seccomp_notif_resp answer = {};  // to it, when everything else is done; id 0: none
  // What others are told of what was done for this one: likewise, and before.
  std::vector<std::pair<std::shared_ptr<Listener>, seccomp_notif_resp>> others;
  std::vector<RefPtr<ThreadImpl>> woken;
  bool refill = false;
};

thread_local Listener::Receiver* Listener::current_ = nullptr;

Listener::Listener(PlatformImpl& platform, UniqueFd fd) : platform_(platform), fd_(std::move(fd)) { SetHandOver(true); }

Listener::~Listener() = default;

void Listener::Add(pid_t tid, RefPtr<ThreadImpl> thread) {
  absl::MutexLock lock(&mu_);
  std::swap(threads_[tid], thread);
}

void Listener::Remove(pid_t tid) {
  RefPtr<ThreadImpl> last;  // dropped outside the lock
  absl::MutexLock lock(&mu_);
  auto it = threads_.find(tid);
  if (it == threads_.end()) return;
  last = std::move(it->second);
  threads_.erase(it);
}

RefPtr<ThreadImpl> Listener::Find(pid_t tid) {
  absl::MutexLock lock(&mu_);
  auto it = threads_.find(tid);
  if (it == threads_.end()) return nullptr;
  return it->second;
}

void Listener::Answer(uint64_t id, int64_t value) {
  seccomp_notif_resp response = {};
  response.id = id;
  if (value < 0 && value >= -4095) {
    response.error = static_cast<int32_t>(value);
  } else {
    response.val = value;
  }
  Send(response);
}

void Listener::Continue(uint64_t id) {
  seccomp_notif_resp response = {};
  response.id = id;
  response.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
  Send(response);
}

void Listener::Send(const seccomp_notif_resp& response) {
  if (current_ == nullptr || current_->blocked) return SendNow(response);
  if (current_->listener != this || current_->handling != response.id) {
    current_->others.emplace_back(shared_from_this(), response);
    return;
  }
  current_->answer = response;
  current_->handling = 0;
}

bool Listener::WakeAfterwards(ThreadImpl& thread) {
  if (current_ == nullptr || current_->blocked) return false;
  current_->woken.emplace_back(&thread);
  return true;
}

bool Listener::RefillAfterwards() {
  if (current_ == nullptr || current_->blocked) return false;
  current_->refill = true;
  return true;
}

void Listener::TellOthers(Receiver& receiver) {
  while (!receiver.woken.empty()) {
    RefPtr<ThreadImpl> thread = std::move(receiver.woken.back());
    receiver.woken.pop_back();
    thread->WakeStub();
  }
  for (auto& [listener, response] : receiver.others) listener->SendNow(response);
  receiver.others.clear();
}

void Listener::SendDeferred(Receiver& receiver) {
  receiver.handling = 0;
  TellOthers(receiver);
  if (receiver.answer.id != 0) SendNow(receiver.answer);
  receiver.answer = {};
}

// Whoever watches keeps its CPU: the thread must be woken elsewhere.
void Listener::SendNow(seccomp_notif_resp response) {
  bool elsewhere = Watcher::Watching();
  if (elsewhere) SetHandOver(false);
  while (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SEND, &response) != 0 && errno == EINTR) {
  }
  if (elsewhere) SetHandOver(true);
}

void Listener::SetHandOver(bool on) {
  // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP: hand the CPU over to whom is woken.
  if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_SET_FLAGS, uint64_t{on ? 1u : 0u}) != 0) platform_.SetNoSyncWakeUp();
}

void Listener::WatchAfterwards() {
  if (current_ != nullptr) current_->watch = true;
}

int Listener::AddFd(uint64_t id, int fd, int number, bool answer) {
  seccomp_notif_addfd add = {};
  add.id = id;
  add.flags = SECCOMP_ADDFD_FLAG_SETFD | (answer ? SECCOMP_ADDFD_FLAG_SEND : 0);
  add.srcfd = static_cast<uint32_t>(fd);
  add.newfd = static_cast<uint32_t>(number);
  for (;;) {
    if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_ADDFD, &add) >= 0) return 0;
    if (errno != EINTR) return -errno;
  }
}

bool Listener::Behind() const {
  pollfd poll_fd = {fd_.get(), POLLIN, 0};
  return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLIN) != 0;
}

bool Listener::AddReceiver(int at_most) {
  int receivers = receivers_.load(std::memory_order_relaxed);
  if (receivers >= at_most || !receivers_.compare_exchange_strong(receivers, receivers + 1)) return false;
  if (platform_.workers().Run([self = shared_from_this()] { self->Receive(); })) return true;
  receivers_.fetch_sub(1);
  return false;
}

bool Listener::Start() { return AddReceiver(1); }

void Listener::BeforeLongWork() {
  if (current_ == nullptr) return;
  TellOthers(*current_);
  if (current_->listener->running_.load(std::memory_order_relaxed) > 0) AboutToBlock();
}

// Whether this receiver goes on. It looks, after each notification, for the next one that waits already: only then would another have helped.
bool Listener::Needed(Receiver& receiver) {
  int receivers = receivers_.load(std::memory_order_relaxed);
  bool others = running_.load(std::memory_order_relaxed) > 1;
  if (receivers <= 1 && !others) {
    receiver.behind = receiver.surplus = 0;
    return true;
  }
  // (With one receiver, every 16th time will do: a look costs half a microsecond.)
  if (receivers <= 1 && ++receiver.looks % 16 != 0) return true;
  if (others && Behind()) {
    receiver.surplus = 0;
    if (++receiver.behind < kBehind) return true;
    receiver.behind = 0;
    AddReceiver(platform_.max_receivers());
    return true;
  }
  receiver.behind = 0;
  if (receivers <= 1) {
    receiver.surplus = 0;
    return true;
  }
  return ++receiver.surplus <= kPatience || !receivers_.compare_exchange_strong(receivers, receivers - 1);
}

void Listener::AboutToBlock() {
  Receiver* receiver = current_;
  if (receiver == nullptr || receiver->blocked) return;
  receiver->blocked = true;
  Listener& listener = *receiver->listener;
  listener.SendDeferred(*receiver);
  if (listener.receivers_.fetch_sub(1) == 1) listener.AddReceiver(1);
}

// Receives and handles one notification. False if there will be no more.
bool Listener::Handle(Receiver& receiver) {
  seccomp_notif notification;
  memset(&notification, 0, sizeof(notification));  // the kernel wants zeros
  if (ioctl(fd_.get(), SECCOMP_IOCTL_NOTIF_RECV, &notification) != 0) {
    if (errno == EINTR) return true;
    // ENOENT: withdrawn (its thread was kicked or killed), or nobody is left to notify.
    pollfd poll_fd = {fd_.get(), POLLIN, 0};
    return errno == ENOENT && poll(&poll_fd, 1, 0) >= 0 && (poll_fd.revents & (POLLHUP | POLLERR)) == 0;
  }
  platform_.counters().notifications.fetch_add(1, std::memory_order_relaxed);
  RefPtr<ThreadImpl> thread = Find(static_cast<pid_t>(notification.pid));
  receiver.handling = notification.id;
  if (thread) {
    thread->OnNotification(notification);
  } else {
    platform_.OnStranger(*this, notification);
  }
  if (std::exchange(receiver.watch, false)) {
    // The guest thread goes on on this CPU, so whoever watches must not come here.
    bool ok = platform_.workers().RunElsewhere(sched_getcpu(), [self = shared_from_this()] { self->platform_.watcher().Watch(self->watch_credit_); });
    if (!ok) platform_.watcher().GiveUp();
  }
  SendDeferred(receiver);
  if (std::exchange(receiver.refill, false)) platform_.Refill();
  if (receiver.blocked) {
    // Somebody else may have taken over: then this one is surplus, and retires soon.
    receiver.blocked = false;
    receivers_.fetch_add(1);
    receiver.surplus = kPatience;
  }
  return true;
}

void Listener::Receive() {
  Receiver receiver = {this};
  current_ = &receiver;
  while (Handle(receiver)) {
    if (Needed(receiver)) continue;
    current_ = nullptr;
    return;
  }
  current_ = nullptr;
  receivers_.fetch_sub(1);
}

void AboutToBlock() { Listener::AboutToBlock(); }

}  // namespace amber::platform
