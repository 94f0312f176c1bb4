#include "sentry/fs/nvidia/driver_work.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"

namespace amber {
namespace {

class DriverWorkTest : public testing::Test {
 protected:
  // The threads are for ever, and so are these.
  DriverWorkTest() : kernel(*new Kernel), work(*new DriverWork(kernel)) {}

  // What is done, in order; with what `hold` names held until Release().
  DriverWork::Job Step(const std::string& name, absl::Notification* hold = nullptr) {
    return [this, name, hold] {
      if (hold != nullptr) hold->WaitForNotification();
      absl::MutexLock lock(&mu);
      log += name;
    };
  }
  void Call(uint64_t process, const std::string& name, absl::Notification* hold = nullptr) {
    KernelLock lock(kernel);
    EXPECT_TRUE(work.Call(process, Step(name, hold), [this, name] { finished += name; }));
  }
  void Close(uint64_t process, const std::string& name, absl::Notification* hold = nullptr) {
    KernelLock lock(kernel);
    work.Close(process, Step(name, hold));
  }
  void End(uint64_t process, const std::string& name) {
    KernelLock lock(kernel);
    work.End(process, Step(name));
  }
  std::string Log() {
    absl::MutexLock lock(&mu);
    return log;
  }
  bool Soon(const std::string& wanted) {
    for (int i = 0; i < 1000 && Log() != wanted; ++i) absl::SleepFor(absl::Milliseconds(10));
    return Log() == wanted;
  }
  void Settle() {
    for (;;) {
      {
        KernelLock lock(kernel);
        if (work.under_way() == 0) return;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
  }

  Kernel& kernel;
  DriverWork& work;
  absl::Mutex mu;
  std::string log, finished;
};

TEST_F(DriverWorkTest, ACallThatIsHeldHoldsNobodyUp) {
  absl::Notification hold;
  Call(1, "a", &hold);
  Call(1, "b"), Call(2, "c");
  Close(1, "d");
  for (int i = 0; i < 1000 && Log().size() < 3; ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(Log().size(), 3u) << Log();
  EXPECT_TRUE(work.HasCalls(1));
  hold.Notify();
  Settle();
  EXPECT_EQ(Log().back(), 'a');
  EXPECT_EQ(finished.back(), 'a');
  EXPECT_FALSE(work.HasCalls(1));
}

TEST_F(DriverWorkTest, CallsComeAfterWhatTheirProcessClosed) {
  absl::Notification hold;
  Close(1, "a", &hold), Close(1, "b");
  Call(1, "c");
  // Longer than anybody waits for another process's.
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(Log(), "");
  Call(2, "d");
  EXPECT_TRUE(Soon("d"));
  hold.Notify();
  Settle();
  EXPECT_EQ(Log(), "dabc");
}

TEST_F(DriverWorkTest, WhatAnotherClosedIsWaitedForAMoment) {
  absl::Notification hold;
  Close(1, "a", &hold);
  Call(2, "b");
  absl::SleepFor(absl::Milliseconds(50));
  hold.Notify();
  Settle();
  EXPECT_EQ(Log(), "ab");
}

TEST_F(DriverWorkTest, AnEndComesAfterTheLastCall) {
  absl::Notification hold;
  Call(1, "a", &hold);
  End(1, "b");
  Close(1, "c");
  // It does not wait for its own end, however late it begins.
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(Log(), "");
  hold.Notify();
  Settle();
  EXPECT_EQ(Log(), "abc");
}

TEST_F(DriverWorkTest, AFreezeWaits) {
  absl::Notification hold;
  std::atomic<bool> frozen = false;
  Call(1, "a", &hold);
  {
    KernelLock lock(kernel);
    kernel.Freeze([&] { frozen = true; });
  }
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(frozen);
  hold.Notify();
  Settle();
  EXPECT_TRUE(frozen);
  KernelLock lock(kernel);
  kernel.Thaw();
}

// More calls are held than there are threads for: what is closed is closed all the same, and all of them end.
TEST_F(DriverWorkTest, MoreThanThreads) {
  absl::Notification hold;
  for (int i = 0; i < 400; ++i) Call(static_cast<uint64_t>(i % 7), "a", &hold);
  Close(9, "b");
  EXPECT_TRUE(Soon("b"));
  hold.Notify();
  Settle();
  EXPECT_EQ(Log().size(), 401u);
}

TEST_F(DriverWorkTest, ManyOfManyProcesses) {
  for (uint64_t round = 0; round < 200; ++round) {
    Call(round % 5, "a");
    Close(round % 5, "b");
    Call(5 + round % 3, "d");
  }
  for (uint64_t process = 0; process < 5; ++process) End(process, "c");
  Settle();
  EXPECT_EQ(Log().size(), 605u);
  EXPECT_EQ(finished.size(), 400u);
}

}  // namespace
}  // namespace amber
