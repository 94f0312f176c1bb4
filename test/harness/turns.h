// Whether others get the kernel while a long call goes on: a thread that asks it for something every millisecond.
#pragma once

#include <sys/syscall.h>

#include "test/harness/guest_util.h"

namespace guest {

class Turns {
 public:
  Turns() : thread_(Counter{this}) { thread_.tid(); }
  ~Turns() { state_ = 2; }
  // From now on they are counted.
  void Begin() { state_ = 1; }
  int End() {
    state_ = 2;
    thread_.Join();
    return count_;
  }

 private:
  struct Counter {
    void operator()() const {
      while (turns->state_ == 0) SleepMs(1);
      while (turns->state_ == 1) {
        syscall(SYS_getppid);
        SleepMs(1);
        turns->count_ = turns->count_ + 1;
      }
    }
    Turns* turns;
  };
  volatile int state_ = 0, count_ = 0;
  Thread<Counter> thread_;
};

}  // namespace guest
