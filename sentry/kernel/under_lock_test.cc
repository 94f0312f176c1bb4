#include "sentry/kernel/under_lock.h"

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <thread>

namespace amber {
namespace {

// Says on its end whether the kernel lock was held then. Nobody else takes the lock meanwhile.
struct Witness {
  Witness(Kernel& kernel, int* with, int* without) : kernel(kernel), with(with), without(without) {}
  ~Witness() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    if (kernel.mu().TryLock()) {
      kernel.mu().Unlock();
      ++*without;
    } else {
      ++*with;
    }
  }
  Kernel& kernel;
  int* with;
  int* without;
};

class UnderLockTest : public testing::Test {
 protected:
  std::function<void(int)> Make() {
    return UnderLock(kernel_, [this, witness = std::make_shared<Witness>(kernel_, &with_, &without_)](int value) {
      kernel_.mu().AssertHeld();
      got_ += value;
    });
  }

  Kernel kernel_;
  int got_ = 0, with_ = 0, without_ = 0;
};

TEST_F(UnderLockTest, RunsAndEndsWithTheLock) {
  std::function<void(int)> callback = Make();
  std::thread([&] { callback(3); }).join();
  EXPECT_EQ(got_, 3);
  EXPECT_EQ(with_, 1);
  callback = nullptr;
  {
    KernelLock lock(kernel_);
  }
  EXPECT_EQ(with_, 1);
  EXPECT_EQ(without_, 0);
}

TEST_F(UnderLockTest, DroppedWithoutACallEndsWithTheLock) {
  std::function<void(int)> callback = Make();
  std::thread([&] { callback = nullptr; }).join();
  EXPECT_EQ(with_ + without_, 0);
  {
    KernelLock lock(kernel_);
  }
  EXPECT_EQ(got_, 0);
  EXPECT_EQ(with_, 1);
  EXPECT_EQ(without_, 0);
}

// Whoever drops it may have the lock.
TEST_F(UnderLockTest, DroppedByTheHolderOfTheLock) {
  std::function<void(int)> callback = Make();
  {
    KernelLock lock(kernel_);
    callback = nullptr;
  }
  EXPECT_EQ(with_, 1);
  EXPECT_EQ(without_, 0);
}

TEST_F(UnderLockTest, CopiesShareNothingButTheirCaptures) {
  std::function<void(int)> callback = Make();
  std::function<void(int)> copy = callback;
  callback = nullptr;
  copy(4);
  EXPECT_EQ(got_, 4);
  copy = nullptr;
  {
    KernelLock lock(kernel_);
  }
  EXPECT_EQ(with_, 1);
  EXPECT_EQ(without_, 0);
}

}  // namespace
}  // namespace amber
