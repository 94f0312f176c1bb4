// Who waits for what: the one mechanism by which anything in the kernel wakes anything else.
//
// Nothing in the sentry blocks a host thread to wait for a guest. A Waiter is a callback on a WaitQueue; a task that must
// wait registers waiters and gives its worker back (Task::Block), and its call is executed again when one fires. So a
// checkpoint meets no C++ stacks, and a sleeping task costs a few hundred bytes.
//
// Guarded by the kernel lock. Callbacks run inside Notify(): they may remove their own waiter and others of the queue, may add
// to other queues, and must not call back into the object that notifies. Both classes unlink themselves when destroyed.
#pragma once

#include <cstdint>

namespace amber {

class WaitQueue;

class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;
  virtual ~Waiter() { Remove(); }

  // `events` are poll(2) bits that happened.
  virtual void OnEvent(uint32_t events) = 0;

  bool queued() const { return queue_ != nullptr; }
  // Leaves its queue, if it is in one.
  void Remove();

 private:
  friend class WaitQueue;
  WaitQueue* queue_ = nullptr;
  Waiter* next_ = nullptr;
  Waiter* prev_ = nullptr;
  uint32_t mask_ = 0;
  bool exclusive_ = false;
};

class WaitQueue {
 public:
  WaitQueue() = default;
  WaitQueue(const WaitQueue&) = delete;
  WaitQueue& operator=(const WaitQueue&) = delete;
  ~WaitQueue();

  // Registers `waiter`, which must be in no queue, for the poll(2) bits in `mask` (POLLERR and POLLHUP are always included). Of the
  // exclusive waiters only the first is notified; order is first in, first out, exclusive ones last.
  void Add(Waiter* waiter, uint32_t mask, bool exclusive = false);
  // Tells the waiters whose mask meets `events`.
  void Notify(uint32_t events);
  bool empty() const { return head_ == nullptr; }

 private:
  friend class Waiter;
  void Unlink(Waiter* waiter);

  Waiter* head_ = nullptr;
  Waiter* tail_ = nullptr;
  Waiter* cursor_ = nullptr;  // the next waiter of a Notify() that is under way
};

}  // namespace amber
