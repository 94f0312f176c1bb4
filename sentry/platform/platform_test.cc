// The platform's plain paths: exec, calls, traps, stops, operations, kicks, deaths.
#include "sentry/platform/platform.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "gtest/gtest.h"
#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

using Log = std::vector<int64_t>;

class PlatformTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(client_.started()); }
  TestClient client_;
};

TEST(ProbeTest, ThisHostIsComplete) { EXPECT_EQ(Platform::Probe(), ""); }

TEST_F(PlatformTest, RunsAProgram) {
  Thread* thread = client_.Start(GuestHello);
  ASSERT_NE(thread, nullptr);
  thread->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{1, 2, 3}));
  EXPECT_TRUE(WIFSIGNALED(client_.last_status()));
}

TEST_F(PlatformTest, AnswersReachTheirCalls) {
  client_.Start(GuestEchoLoop, 20000)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{0}));
}

TEST_F(PlatformTest, TrappedCallsRunOperations) {
  client_.Start(GuestMmap)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{0x40000000, 42}));
}

TEST_F(PlatformTest, ManyOperations) {
  client_.Start(GuestMmapLoop, 2000)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{0}));
}

TEST_F(PlatformTest, ContinuedCalls) {
  client_.Start(GuestMunmapLoop, 2000)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{0}));
}

TEST_F(PlatformTest, KicksASpinningThread) {
  std::atomic<int> kicks = 0;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kKick);
    if (++kicks < 50) {
      thread.Resume();
      thread.Kick();
    } else {
      thread.space().Kill();
    }
    return true;
  };
  Thread* thread = client_.Start(GuestSpin);
  thread->Resume();
  thread->Kick();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(kicks, 50);
}

TEST_F(PlatformTest, AnswerStopRewinds) {
  std::atomic<int> stops = 0, calls = 0;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestBlock) return false;
    EXPECT_EQ(call.args[0], 7u);
    if (++calls <= 20) {
      thread.AnswerStop();
    } else {
      thread.AnswerAndStop(55);
    }
    return true;
  };
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kKick);
    EXPECT_EQ(thread.frame().regs.rax, ++stops <= 20 ? uint64_t{kGuestBlock} : 55u);
    thread.Resume();
    return true;
  };
  client_.Start(GuestBlocked, 7)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(stops, 21);
  EXPECT_EQ(client_.log(), (Log{55}));
}

TEST_F(PlatformTest, ParkedThreadIsResumedFromElsewhere) {
  Thread* thread = client_.Start(GuestBlocked, 1);
  client_.on_syscall = [&](Thread& t, const Syscall& call) {
    if (call.number != kGuestBlock) return false;
    t.AnswerStop();
    return true;
  };
  std::atomic<bool> stopped = false;
  client_.on_frame = [&](Thread&, Stop, const Fault*) {
    stopped = true;
    return true;
  };
  thread->Resume();
  while (!stopped) usleep(1000);
  usleep(20000);
  Registers& regs = thread->frame().regs;
  regs.rax = 123;
  regs.rip += 2;
  thread->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{123}));
}

TEST_F(PlatformTest, FaultsAreHandedOver) {
  struct Case {
    uint64_t which;
    int signo;
  } cases[] = {{0, SIGSEGV}, {1, SIGILL}, {2, SIGTRAP}, {3, SIGFPE}, {4, SIGSEGV}};
  int deaths = 0;
  for (const Case& c : cases) {
    std::atomic<int> signo = 0;
    client_.on_frame = [&](Thread& thread, Stop stop, const Fault* fault) {
      EXPECT_EQ(stop, Stop::kFault);
      if (fault != nullptr) {
        signo = fault->signo;
        if (c.which == 0) {
          EXPECT_EQ(fault->address, 0x1230u);
        }
      }
      thread.space().Kill();
      return true;
    };
    client_.Start(GuestFault, c.which)->Resume();
    EXPECT_TRUE(client_.AwaitDeaths(++deaths));
    EXPECT_EQ(signo, c.signo);
  }
}

TEST_F(PlatformTest, ForkCopies) {
  client_.Start(GuestFork)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(2));
  Log log = client_.log();
  std::sort(log.begin(), log.end());
  EXPECT_EQ(log, (Log{101, 205, 301}));
}

TEST_F(PlatformTest, ReadsAndWritesMemory) {
  Thread* thread = client_.Start(GuestHello);
  AddressSpace& space = thread->space();
  char buffer[16] = "hello, guest";
  ErrnoOr<size_t> n = space.Write(kGuestData, buffer, sizeof(buffer));
  ASSERT_TRUE(n.ok());
  EXPECT_EQ(*n, sizeof(buffer));
  char back[16] = {};
  EXPECT_EQ(*space.Read(kGuestData, back, sizeof(back)), sizeof(back));
  EXPECT_STREQ(back, buffer);
  EXPECT_TRUE(space.Read(0x50000000, back, 8).Is(EFAULT));
  EXPECT_TRUE(space.Read(kGuestTop + 0x10000, back, 8).Is(EFAULT));
  EXPECT_EQ(*space.Read(kGuestData + kGuestDataSize - 4, back, 8), 4u);
  space.Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(PlatformTest, VectorStateSurvivesATrap) {
  client_.Start(GuestVector)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{1}));
}

TEST_F(PlatformTest, UnknownExecOperationsFail) {
  ExecPlan plan = TestClient::Plan(GuestHello, 0, 0);
  plan.ops.push_back({.number = SYS_munmap, .args = {1, 0}});
  EXPECT_TRUE(client_.platform().Exec(plan).Is(EINVAL));
  plan.ops.back() = {.number = SYS_munmap, .args = {kGuestTop, 4096}};
  EXPECT_TRUE(client_.platform().Exec(plan).Is(EINVAL));
}

}  // namespace
}  // namespace amber::platform
