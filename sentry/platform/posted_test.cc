// Hand-overs by the mailbox: frames and reports that a stub posts while the sentry watches, with kicks, deaths and forgers in the middle.
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <deque>
#include <mutex>
#include <thread>

#include "gtest/gtest.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

class PostedTest : public testing::Test {
 protected:
  void SetUp() override {
    client_ = std::make_unique<TestClient>(Options{.watch_always = true});
    ASSERT_TRUE(client_->started());
  }
  uint64_t Posted() { return client_->platform().stats().posted_contacts; }
  // The platform still works.
  void ExpectAlive() {
    client_->on_frame = nullptr;
    size_t before = client_->log().size();
    client_->StartFast(GuestMmapLoop, 100)->Resume();
    EXPECT_TRUE(client_->AwaitLog(before + 1));
  }
  std::unique_ptr<TestClient> client_;
};

TEST_F(PostedTest, TrapsAndReports) {
  // On a busy machine a stub waits in vain for a watcher that has no CPU, and calls.
  int runs = 0;
  while (Posted() < 500 && runs < 20) {
    client_->StartFast(GuestMmapLoop, 1000)->Resume();
    runs++;
    ASSERT_TRUE(client_->AwaitLog(static_cast<size_t>(runs)));
    EXPECT_TRUE(client_->AwaitDeaths(runs));
  }
  EXPECT_GE(Posted(), 500u);
  for (int64_t wrong : client_->log()) EXPECT_EQ(wrong, 0);
}

TEST_F(PostedTest, NotWithoutTheFastPath) {
  client_->Start(GuestMmapLoop, 500)->Resume();
  ASSERT_TRUE(client_->AwaitLog(1));
  EXPECT_EQ(client_->log()[0], 0);
  EXPECT_EQ(Posted(), 0u);
}

TEST_F(PostedTest, Faults) {
  constexpr uint64_t kPage = kGuestData + 0x4000;
  std::atomic<int> faults = 0;
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault* fault) {
    bool writable = stop == Stop::kFault;
    if (writable) {
      EXPECT_EQ(fault->address, kPage);
      faults++;
    }
    StubOp op = {.number = SYS_mprotect, .args = {kPage, 4096, static_cast<uint64_t>(writable ? PROT_READ | PROT_WRITE : PROT_READ)}};
    thread.RunOps({op}, [&thread, writable](std::span<const int64_t>) {
      if (!writable) thread.frame().regs.rax = 7;
      thread.Resume();
    });
    return true;
  };
  client_->StartFast(GuestFaultLoop, 1000)->Resume();
  ASSERT_TRUE(client_->AwaitLog(1));
  EXPECT_EQ(client_->log()[0], 0);
  EXPECT_EQ(faults, 999);
}

TEST_F(PostedTest, KickedAnywhere) {
  std::atomic<int> kicks = 0;
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kKick) return false;
    kicks++;
    thread.Resume();
    return true;
  };
  Thread* thread = client_->StartFast(GuestMmapForever);
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  usleep(20000);
  for (int i = 0; i < 800; i++) {
    thread->Kick();
    usleep(static_cast<useconds_t>(i * 7 % 400));
  }
  for (int i = 0; i < 500 && kicks < 10; i++) usleep(10000);
  EXPECT_GT(kicks, 10);
  EXPECT_TRUE(client_->log().empty()) << "a mapping went wrong";
  space->Kill();
  EXPECT_TRUE(client_->AwaitDeaths(1));
}

// Threads that are left stopped fall asleep on their order; whoever resumes them must see that.
TEST_F(PostedTest, ResumedLate) {
  std::mutex mu;
  std::deque<Thread*> late;
  std::atomic<bool> over = false;
  std::atomic<int> count = 0;
  client_->on_frame = [&](Thread& thread, Stop, const Fault*) {
    if (++count % 5 != 0) return false;
    thread.frame().regs.rax = thread.frame().regs.rdi;
    std::lock_guard lock(mu);
    late.push_back(&thread);
    return true;
  };
  std::thread resumer([&] {
    for (unsigned i = 0; !over; i++) {
      Thread* next = nullptr;
      {
        std::lock_guard lock(mu);
        if (!late.empty()) {
          next = late.front();
          late.pop_front();
        }
      }
      if (next == nullptr) {
        usleep(20);
        continue;
      }
      usleep(i * 13 % 300);
      next->Resume();
    }
  });
  client_->StartFast(GuestMmapLoop, 1500)->Resume();
  EXPECT_TRUE(client_->AwaitLog(1));
  EXPECT_EQ(client_->log()[0], 0);
  over = true;
  resumer.join();
}

// Threads that post in vain, because the one that watches is busy, call instead, stop posting, and are watched again later.
TEST_F(PostedTest, WatcherHeldUp) {
  std::atomic<int> count = 0;
  client_->on_frame = [&](Thread&, Stop, const Fault*) {
    if (++count % 100 == 0) usleep(1000);
    return false;
  };
  Thread* maker = client_->StartFast(GuestThreadMaker, 3, TestClient::Address(GuestMmapForever));
  RefPtr<AddressSpace> space(&maker->space());
  maker->Resume();
  EXPECT_TRUE(client_->AwaitLog(1));
  for (int step = 0; step < 5; step++) {
    uint64_t posted = Posted();
    int frames = count;
    for (int i = 0; i < 3000 && (Posted() <= posted + 5 || count <= frames + 100); i++) usleep(10000);
    EXPECT_GT(Posted(), posted + 5) << step;
  }
  EXPECT_EQ(client_->log().size(), 1u) << "a mapping went wrong";
  space->Kill();
  EXPECT_TRUE(client_->AwaitDeaths(1));
}

// A descriptor needs a notification to come with.
TEST_F(PostedTest, MappingsOfFiles) {
  UniqueFd file(static_cast<int>(syscall(SYS_memfd_create, "posted", 0)));
  ASSERT_EQ(ftruncate(file.get(), 0x10000), 0);
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall) return false;
    StubOp op = {.number = SYS_mmap, .args = {0x40000000, 0x10000, PROT_READ, MAP_SHARED | MAP_FIXED, 0, 0}, .fd = file.get()};
    thread.RunOps({op}, [&thread](std::span<const int64_t> results) {
      thread.frame().regs.rax = static_cast<uint64_t>(results[0]);
      thread.Resume();
    });
    return true;
  };
  client_->StartFast(GuestMmapLoop, 1000)->Resume();
  ASSERT_TRUE(client_->AwaitLog(1));
  EXPECT_EQ(client_->log()[0], 0);
}

TEST_F(PostedTest, ForksAndThreads) {
  client_->StartFast(GuestForkMany, 300)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(301));
  EXPECT_EQ(client_->log().size(), 301u);
  constexpr int kThreads = 60;
  Thread* maker = client_->StartFast(GuestThreadMaker, kThreads, TestClient::Address(GuestThreadEcho));
  RefPtr<AddressSpace> space(&maker->space());
  maker->Resume();
  EXPECT_TRUE(client_->AwaitLog(301 + kThreads + 1));
  space->Kill();
  EXPECT_TRUE(client_->AwaitDeaths(302));
}

TEST_F(PostedTest, DeathsAtAnyMoment) {
  unsigned seed = 3;
  for (int round = 0; round < 100; round++) {
    Thread* thread = client_->StartFast(round % 3 == 0 ? GuestChurn : GuestMmapForever);
    ASSERT_NE(thread, nullptr) << round;
    RefPtr<AddressSpace> space(&thread->space());
    int deaths = client_->deaths();
    thread->Resume();
    usleep(static_cast<useconds_t>(rand_r(&seed) % 4000));
    space->Kill();
    EXPECT_TRUE(client_->AwaitDeaths(deaths + 1));
  }
  ExpectAlive();
}

TEST_F(PostedTest, ShutdownInTheMiddle) {
  for (int round = 0; round < 10; round++) {
    for (int i = 0; i < 3; i++) client_->StartFast(GuestMmapForever)->Resume();
    usleep(static_cast<useconds_t>(round) * 900);
    client_ = std::make_unique<TestClient>(Options{.watch_always = true});
    ASSERT_TRUE(client_->started());
  }
}

TEST_F(PostedTest, Forgers) {
  for (int round = 0; round < 20; round++) {
    int deaths = client_->deaths();
    auto* what = round % 2 == 0 ? GuestPostFor : GuestScribble;
    Thread* thread = client_->StartFast(GuestThreadMaker, 5, TestClient::Address(what));
    RefPtr<AddressSpace> space(&thread->space());
    thread->Resume();
    usleep(50000);
    space->Kill();
    EXPECT_TRUE(client_->AwaitDeaths(deaths + 1));
  }
  ExpectAlive();
}

}  // namespace
}  // namespace amber::platform
