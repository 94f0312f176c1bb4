// Waits for another process that answers within microseconds: to sleep and to be woken costs more than the answer, if a CPU would be idle meanwhile.
#pragma once

namespace amber {

// Of a thread that spins anyhow: while it waits for another process it may spin, too, with sched_yield() in between. One thread's.
class BriefWaiter {
 public:
  // Around each such wait.
  virtual void BeginWait() = 0;
  virtual void EndWait() = 0;

  // The calling thread's; nullptr: it should sleep.
  static BriefWaiter* Current() { return current_; }
  static void SetCurrent(BriefWaiter* waiter) { current_ = waiter; }

 protected:
  ~BriefWaiter() = default;

 private:
  static inline thread_local BriefWaiter* current_ = nullptr;
};

// One wait, if the calling thread may spin.
class BriefWait {
 public:
  BriefWait() : waiter_(BriefWaiter::Current()) {
    if (waiter_ != nullptr) waiter_->BeginWait();
  }
  ~BriefWait() {
    if (waiter_ != nullptr) waiter_->EndWait();
  }
  BriefWait(const BriefWait&) = delete;
  BriefWait& operator=(const BriefWait&) = delete;

  bool may_spin() const { return waiter_ != nullptr; }

 private:
  BriefWaiter* const waiter_;
};

}  // namespace amber
