#include "sentry/loader/vdso/vdso.h"

#include <gtest/gtest.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

#include <chrono>
#include <cstdio>

namespace amber::loader {
namespace {

// Maps the vDSO into this process as the loader does into a guest.
class VdsoTest : public testing::Test {
 protected:
  void SetUp() override {
    auto vdso = Vdso::Create(getauxval(AT_SYSINFO_EHDR));
    ASSERT_TRUE(vdso.ok());
    vdso_ = std::move(*vdso);
    size_ = Vdso::kParamsSize + Vdso::ImageSize();
    char* area = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(area, MAP_FAILED);
    base_ = area + Vdso::kParamsSize;
    ASSERT_NE(mmap(area, Vdso::kParamsSize, PROT_READ, MAP_SHARED | MAP_FIXED, vdso_->params_fd(), 0), MAP_FAILED);
    ASSERT_NE(mmap(base_, Vdso::ImageSize(), PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, vdso_->image_fd(), 0), MAP_FAILED);
  }
  void TearDown() override { munmap(base_ - Vdso::kParamsSize, size_); }

  template <typename F>
  F* Get(const char* name) {
    uint64_t offset = FindVdsoSymbol(base_, name);
    EXPECT_NE(offset, 0u) << name;
    return reinterpret_cast<F*>(base_ + offset);
  }
  static int64_t Ns(const timespec& t) { return t.tv_sec * 1'000'000'000 + t.tv_nsec; }

  std::unique_ptr<Vdso> vdso_;
  char* base_ = nullptr;
  size_t size_ = 0;
};

TEST_F(VdsoTest, ClocksAgreeWithTheHost) {
  auto* gettime = Get<int(clockid_t, timespec*)>("__vdso_clock_gettime");
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW,
                          CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME, CLOCK_TAI}) {
    timespec before, now, after;
    clock_gettime(clock, &before);
    EXPECT_EQ(gettime(clock, &now), 0) << clock;
    clock_gettime(clock, &after);
    EXPECT_LE(Ns(before), Ns(now)) << clock;
    EXPECT_LE(Ns(now), Ns(after)) << clock;
  }
  timespec unused;
  EXPECT_EQ(gettime(4711, &unused), -EINVAL);
}

TEST_F(VdsoTest, OffsetsMoveTheMonotonicClocksOnly) {
  auto* gettime = Get<int(clockid_t, timespec*)>("__vdso_clock_gettime");
  for (int64_t offset : {int64_t{123'456'789'987}, int64_t{-1'999'999'999}, int64_t{-1}, int64_t{1'000'000'000}}) {
    vdso_->SetOffsets(offset, 2 * offset);
    for (auto [clock, factor] : {std::pair{CLOCK_MONOTONIC, 1}, {CLOCK_BOOTTIME, 2}, {CLOCK_REALTIME, 0}}) {
      timespec before, now, after;
      clock_gettime(clock, &before);
      ASSERT_EQ(gettime(clock, &now), 0);
      clock_gettime(clock, &after);
      EXPECT_GE(now.tv_nsec, 0);
      EXPECT_LT(now.tv_nsec, 1'000'000'000);
      EXPECT_LE(Ns(before) + factor * offset, Ns(now));
      EXPECT_LE(Ns(now), Ns(after) + factor * offset);
    }
  }
}

TEST_F(VdsoTest, OtherFunctions) {
  timespec ours, host;
  auto* getres = Get<int(clockid_t, timespec*)>("__vdso_clock_getres");
  for (clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC_COARSE, CLOCK_PROCESS_CPUTIME_ID}) {
    ASSERT_EQ(getres(clock, &ours), 0);
    clock_getres(clock, &host);
    EXPECT_EQ(Ns(ours), Ns(host));
  }
  timeval tv;
  EXPECT_EQ((Get<int(timeval*, void*)>("__vdso_gettimeofday"))(&tv, nullptr), 0);
  EXPECT_NEAR(static_cast<double>(tv.tv_sec), static_cast<double>(time(nullptr)), 1);
  EXPECT_NEAR(static_cast<double>((Get<time_t(time_t*)>("__vdso_time"))(nullptr)), static_cast<double>(time(nullptr)), 1);
  unsigned cpu = 99999, node = 99999;
  EXPECT_EQ((Get<long(unsigned*, unsigned*, void*)>("__vdso_getcpu"))(&cpu, &node, nullptr), 0);
  EXPECT_NE(cpu, 99999u);
  EXPECT_NE(node, 99999u);
}

TEST_F(VdsoTest, ParametersAreSealed) {
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, vdso_->params_fd(), 0), MAP_FAILED);
  EXPECT_EQ(mprotect(base_ - Vdso::kParamsSize, 4096, PROT_READ | PROT_WRITE), -1);
}

TEST_F(VdsoTest, Cost) {
  auto* gettime = Get<int(clockid_t, timespec*)>("__vdso_clock_gettime");
  timespec t;
  auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1'000'000; ++i) gettime(CLOCK_MONOTONIC, &t);
  double ns = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / 1e6;
  printf("clock_gettime: %.1f ns\n", ns);
  EXPECT_LT(ns, 1000);  // a system call would be slower in a sandbox; the figure above is for reading
}

}  // namespace
}  // namespace amber::loader
