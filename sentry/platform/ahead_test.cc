// Operations that are taken for done when they are notified, and what calls and processes cost in notifications.
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <vector>

#include "gtest/gtest.h"
#include "sentry/base/unique_fd.h"
#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

using Log = std::vector<int64_t>;
constexpr uint64_t kMapped = 0x40000000;  // by GuestMmap

StubOp OwnCall(const Registers& regs) { return {.number = regs.rax, .args = {regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9}}; }

Options NobodyWatches() {
  Options options;
  options.fast_path = false;
  return options;
}

class AheadTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(client_.started()); }

  // What is done at the guest's trapped mmap.
  void OnMmap(const std::function<void(Thread&)>& what) {
    client_.on_frame = [what](Thread& thread, Stop stop, const Fault*) {
      if (stop != Stop::kSyscall || thread.frame().regs.rax != SYS_mmap) return false;
      what(thread);
      return true;
    };
  }
  static void Return(Thread& thread, int64_t value) {
    thread.frame().regs.rax = static_cast<uint64_t>(value);
    thread.Resume();
  }

  // Notifications of `entry`(a) until its end, less those of its records and its exits.
  uint64_t Cost(void (*entry)(uint64_t, uint64_t), uint64_t a, size_t logs, int deaths) {
    uint64_t before = client_.platform().stats().notifications;
    client_.Start(entry, a)->Resume();
    EXPECT_TRUE(client_.AwaitDeaths(deaths));
    EXPECT_EQ(client_.log().size(), logs);
    return client_.platform().stats().notifications - before - logs - static_cast<uint64_t>(deaths);
  }

  TestClient client_{NobodyWatches()};
};

// Parked with the operation before it: it is done all the same.
TEST_F(AheadTest, AThreadThatStaysStopped) {
  std::atomic<Thread*> stopped = nullptr;
  OnMmap([&](Thread& thread) {
    thread.RunOps({OwnCall(thread.frame().regs)}, [&](std::span<const int64_t> results) {
      EXPECT_EQ(results.size(), 1u);
      EXPECT_EQ(results[0], static_cast<int64_t>(kMapped));
      stopped = &thread;
    });
  });
  Thread* thread = client_.Start(GuestMmap);
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  for (int i = 0; i < 5000 && stopped == nullptr; ++i) usleep(1000);
  ASSERT_EQ(stopped, thread);
  char byte = 7;
  bool there = false;
  for (int i = 0; i < 5000 && !there; ++i) {
    there = space->Write(kMapped + 100, &byte, 1).ok();
    usleep(1000);
  }
  EXPECT_TRUE(there);
  Return(*thread, kMapped);
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{kMapped, 42}));
}

// The next order, with a descriptor, comes while the operation still has to be let through.
TEST_F(AheadTest, AnotherOrderFollows) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 0x10000), 0);
  OnMmap([&](Thread& thread) {
    thread.RunOps({OwnCall(thread.frame().regs)}, [&](std::span<const int64_t>) {
      StubOp map = OwnCall(thread.frame().regs);
      map.args[3] = MAP_SHARED | MAP_FIXED;
      map.args[4] = map.args[5] = 0;
      map.fd = file.get();
      thread.RunOps({map}, [&](std::span<const int64_t> results) { Return(thread, results[0]); });
    });
  });
  client_.Start(GuestMmap)->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{kMapped, 42}));
  uint64_t word = 0;
  EXPECT_EQ(pread(file.get(), &word, sizeof(word), 0), 8);
  EXPECT_EQ(word, 42u);
}

TEST_F(AheadTest, AForkFollows) {
  OnMmap([&](Thread& thread) {
    thread.RunOps({OwnCall(thread.frame().regs)}, [&](std::span<const int64_t>) {
      thread.Fork([&](ErrnoOr<Thread*> child) {
        ASSERT_TRUE(child.ok());
        Return(**child, kMapped);
        Return(thread, kMapped);
      });
    });
  });
  client_.Start(GuestMmap)->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(2));
  EXPECT_EQ(client_.log().size(), 4u);
}

// What fails against all expectation ends the process: its client has been told otherwise.
TEST_F(AheadTest, AFailureKills) {
  OnMmap([&](Thread& thread) {
    thread.RunOps({{.number = SYS_munmap, .args = {kMapped + 1, 4096}}}, [&](std::span<const int64_t> results) { Return(thread, results[0]); });
  });
  client_.Start(GuestMmap)->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_TRUE(client_.log().empty());
}

// Mappings of unknown files, large ones, and other calls may fail: their results are awaited.
TEST_F(AheadTest, OthersAreAwaited) {
  OnMmap([&](Thread& thread) {
    StubOp wrong = OwnCall(thread.frame().regs);
    wrong.args[3] = MAP_FIXED | MAP_ANONYMOUS;  // neither shared nor private
    thread.RunOps({wrong}, [&](std::span<const int64_t> results) {
      EXPECT_EQ(results[0], -EINVAL);
      StubOp large = {.number = SYS_mmap,
                      .args = {0x100000000, uint64_t{100} << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, ~0ull, 0}};
      thread.RunOps({large}, [&](std::span<const int64_t> other) { Return(thread, other[0]); });
    });
  });
  client_.Start(GuestMmap)->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), Log{-ENOMEM});
}

TEST_F(AheadTest, KicksAreDelivered) {
  std::atomic<int> kicks = 0;
  client_.on_frame = [&](Thread&, Stop stop, const Fault*) {
    if (stop == Stop::kKick) ++kicks;
    return false;
  };
  Thread* thread = client_.Start(GuestMmapForever);
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  for (int i = 0; i < 200; ++i) {
    int before = kicks;
    thread->Kick();
    for (int k = 0; k < 5000 && kicks == before; ++k) usleep(1000);
    ASSERT_GT(kicks, before) << i;
  }
  space->Kill();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_TRUE(client_.log().empty());
}

TEST_F(AheadTest, DeathAtAnyMoment) {
  for (int i = 0; i < 100; ++i) {
    Thread* thread = client_.Start(GuestMmapForever);
    ASSERT_NE(thread, nullptr);
    RefPtr<AddressSpace> space(&thread->space());
    thread->Resume();
    usleep(static_cast<useconds_t>(i * 20));
    space->Kill();
    ASSERT_TRUE(client_.AwaitDeaths(i + 1));
  }
  EXPECT_TRUE(client_.log().empty());
}

// Of a file that has been mapped so before the result is known, too; and its descriptor is closed before anything else happens.
TEST_F(AheadTest, FilesThatWereMappedBefore) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 0x100000), 0);
  OnMmap([&](Thread& thread) {
    StubOp map = OwnCall(thread.frame().regs);
    map.args[3] = MAP_PRIVATE | MAP_FIXED;
    map.args[4] = map.args[5] = 0;
    map.fd = file.get();
    thread.RunOps({map}, [&](std::span<const int64_t> results) { Return(thread, results[0]); });
  });
  // The trapped call, and the mapping; the first one is reported.
  EXPECT_EQ(Cost(GuestMmapLoop, 100, 1, 1), 100u * 2 + 1);
  EXPECT_EQ(Cost(GuestMmapLoop, 100, 2, 2) + 1 + 1, 100u * 2);  // less the records and the exit of the first program
}

TEST_F(AheadTest, MappingsToExecuteAreAwaited) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(file.get(), 0x100000), 0);
  OnMmap([&](Thread& thread) {
    StubOp map = OwnCall(thread.frame().regs);
    map.args[2] = PROT_READ | PROT_EXEC;
    map.args[3] = MAP_PRIVATE | MAP_FIXED;
    map.args[4] = map.args[5] = 0;
    map.fd = file.get();
    thread.RunOps({map}, [&](std::span<const int64_t> results) { Return(thread, results[0]); });
  });
  EXPECT_EQ(Cost(GuestMmapLoop, 100, 1, 1), 100u * 3);
}

// The costs, as golden figures. The trapped call, and the operation.
TEST_F(AheadTest, CostOfMmap) { EXPECT_EQ(Cost(GuestMmapLoop, 100, 1, 1), 100u * 2); }

TEST_F(AheadTest, CostOfMunmap) { EXPECT_EQ(Cost(GuestMunmapLoop, 100, 1, 1), 100u); }

// The trapped call, the clone, and the child's mapping of its window; and the one call that the child makes besides.
TEST_F(AheadTest, CostOfFork) { EXPECT_EQ(Cost(GuestFork, 0, 3, 2), 3u + 1); }

}  // namespace
}  // namespace amber::platform
