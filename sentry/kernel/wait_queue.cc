#include "sentry/kernel/wait_queue.h"

#include <poll.h>

#include "sentry/base/check.h"

namespace amber {

void Waiter::Remove() {
  if (queue_ != nullptr) queue_->Unlink(this);
}

WaitQueue::~WaitQueue() {
  while (head_ != nullptr) Unlink(head_);
}

void WaitQueue::Add(Waiter* waiter, uint32_t mask, bool exclusive) {
  AMBER_CHECK(waiter->queue_ == nullptr);
  waiter->queue_ = this;
  waiter->mask_ = mask | POLLERR | POLLHUP;
  waiter->exclusive_ = exclusive;
  // Plain waiters go before the exclusive ones, so that an exclusive one never ends the walk early.
  Waiter* after = tail_;
  if (!exclusive) {
    while (after != nullptr && after->exclusive_) after = after->prev_;
  }
  waiter->prev_ = after;
  waiter->next_ = after != nullptr ? after->next_ : head_;
  (waiter->prev_ != nullptr ? waiter->prev_->next_ : head_) = waiter;
  (waiter->next_ != nullptr ? waiter->next_->prev_ : tail_) = waiter;
}

void WaitQueue::Unlink(Waiter* waiter) {
  if (cursor_ == waiter) cursor_ = waiter->next_;
  (waiter->prev_ != nullptr ? waiter->prev_->next_ : head_) = waiter->next_;
  (waiter->next_ != nullptr ? waiter->next_->prev_ : tail_) = waiter->prev_;
  waiter->queue_ = nullptr;
  waiter->next_ = waiter->prev_ = nullptr;
}

void WaitQueue::Notify(uint32_t events) {
  // A callback that notifies this queue again (an epoll that watches itself through others) ends the outer walk where the
  // inner one ended: everybody has been told by then.
  cursor_ = head_;
  while (cursor_ != nullptr) {
    Waiter* waiter = cursor_;
    cursor_ = waiter->next_;
    if ((waiter->mask_ & events) == 0) continue;
    bool exclusive = waiter->exclusive_;
    waiter->OnEvent(events);
    if (exclusive) break;
  }
  cursor_ = nullptr;
}

}  // namespace amber
