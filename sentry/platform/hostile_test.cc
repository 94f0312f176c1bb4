// Guests that attack their stub, and deaths at every moment. Nothing may hang, leak or crash the
// sentry.
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "gtest/gtest.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/process.h"
#include "sentry/platform/stub_abi.h"
#include "sentry/platform/stub_text.h"
#include "sentry/platform/test_client.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

using Log = std::vector<int64_t>;

int CountFds() {
  DIR* dir = opendir("/proc/self/fd");
  int count = 0;
  while (readdir(dir) != nullptr) count++;
  closedir(dir);
  return count;
}

// At the end of each test there is no child and no descriptor more than before.
class HostileTest : public testing::Test {
 protected:
  void SetUp() override {
    fds_ = CountFds();
    client_ = std::make_unique<TestClient>();
    ASSERT_TRUE(client_->started());
  }
  void TearDown() override {
    client_.reset();
#if __has_feature(thread_sanitizer)
    return;  // its symbolizer is a child of this process
#endif
    EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
    EXPECT_EQ(errno, ECHILD);
    EXPECT_EQ(CountFds(), fds_);
  }
  // The platform still works.
  void ExpectAlive() {
    client_->on_frame = nullptr;
    client_->on_syscall = nullptr;
    size_t before = client_->log().size();
    Thread* thread = client_->Start(GuestHello);
    ASSERT_NE(thread, nullptr);
    thread->Resume();
    EXPECT_TRUE(client_->AwaitLog(before + 3));
  }
  int fds_ = 0;
  std::unique_ptr<TestClient> client_;
};

TEST_F(HostileTest, ForeignCallsDoNotReachTheHost) {
  std::atomic<int> foreign = 0;
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kForeign) return false;
    foreign++;
    thread.frame().regs.rax = 777;
    thread.Resume();
    return true;
  };
  client_->Start(GuestForeign)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(1));
  EXPECT_EQ(foreign, 1);
  EXPECT_EQ(client_->log(), (Log{777, -ENOSYS, -ENOSYS}));
}

TEST_F(HostileTest, StubTextIsReadOnly) {
  std::atomic<int> faults = 0;
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault* fault) {
    if (stop != Stop::kFault) return false;
    EXPECT_EQ(fault->signo, SIGSEGV);
    EXPECT_EQ(fault->address, kTextAddress + 0x100);
    faults++;
    thread.space().Kill();
    return true;
  };
  client_->Start(GuestTouch, kTextAddress + 0x100, 0)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(1));
  EXPECT_EQ(faults, 1);
}

TEST_F(HostileTest, StubRegionCannotBeRemapped) {
  const uint64_t numbers[] = {SYS_munmap, SYS_mprotect, SYS_madvise};
  const uint64_t addresses[] = {kTextAddress, kWindowAddress, kStacksAddress, kVdsoAddress, kGuestTop - 4096};
  size_t logged = 0;
  for (uint64_t number : numbers) {
    for (uint64_t address : addresses) {
      // The kernel above would refuse; here it lets everything through.
      Thread* thread = client_->Start(GuestSyscall, number, address);
      Registers& regs = thread->frame().regs;
      (void)regs;
      thread->Resume();
      ASSERT_TRUE(client_->AwaitLog(++logged));
    }
  }
  for (int64_t value : client_->log()) EXPECT_TRUE(value == -EINVAL || value == 0 || value == -ENOMEM) << value;
  // What lies wholly in the region was refused.
  for (size_t i = 0; i < client_->log().size(); i++) {
    if (i % 5 != 4) {
      EXPECT_EQ(client_->log()[i], -EINVAL);
    }
  }
  ExpectAlive();
}

TEST_F(HostileTest, OperationsInTheStubRegionAreRefused) {
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall) return false;
    thread.RunOps({{.number = SYS_mmap, .args = {kWindowAddress, 4096, 3, 0x32, ~0ull, 0}}}, [&](std::span<const int64_t> results) {
      EXPECT_EQ(results.size(), 1u);
      EXPECT_EQ(results[0], -EINVAL);
      thread.space().Kill();
    });
    return true;
  };
  client_->Start(GuestMmap)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(1));
}

TEST_F(HostileTest, StubCallNumbersFromGuestCodeAreUnknownCalls) {
  client_->Start(GuestSyscall, kStubCall, 1)->Resume();
  EXPECT_TRUE(client_->AwaitLog(1));
  client_->Start(GuestSyscall, kStubTrap, 1)->Resume();
  EXPECT_TRUE(client_->AwaitLog(2));
  EXPECT_EQ(client_->log(), (Log{-ENOSYS, -ENOSYS}));
}

TEST_F(HostileTest, ForgedStubCalls) {
  // Through the `syscall` of the timed wait, which is followed by a trap.
  int deaths = 0;
  for (uint64_t kind = 0; kind < 8; kind++) {
    Thread* thread = client_->Start(GuestStubCall, StubAddress(stub_futex_syscall), kind);
    RefPtr<AddressSpace> space(&thread->space());
    thread->Resume();
    if (!client_->AwaitDeaths(deaths + 1)) space->Kill();
    EXPECT_TRUE(client_->AwaitDeaths(++deaths)) << kind;
  }
  ExpectAlive();
}

TEST_F(HostileTest, JumpsAnywhereIntoStubText) {
  const uint64_t numbers[] = {SYS_getpid, SYS_mmap, SYS_clone, SYS_rt_sigreturn, SYS_exit_group, SYS_seccomp};
  uint64_t size = static_cast<uint64_t>(__stop_stub_text - __start_stub_text);
  int started = 0;
  std::vector<RefPtr<AddressSpace>> spaces;
  for (uint64_t offset = 0; offset < size; offset += 13) {
    Thread* thread = client_->Start(GuestCallAt, kTextAddress + offset, numbers[offset % 6]);
    ASSERT_NE(thread, nullptr);
    spaces.emplace_back(&thread->space());
    thread->Resume();
    started++;
    if (spaces.size() < 64) continue;
    usleep(5000);
    for (auto& space : spaces) space->Kill();
    spaces.clear();
    ASSERT_TRUE(client_->AwaitDeaths(started)) << offset;
  }
  for (auto& space : spaces) space->Kill();
  spaces.clear();
  EXPECT_TRUE(client_->AwaitDeaths(started));
  ExpectAlive();
}

TEST_F(HostileTest, ForgedSignalReturnElsewhereTraps) {
  std::atomic<int> traps = 0;
  client_->on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kSyscall);
    EXPECT_EQ(thread.frame().regs.rax, uint64_t{SYS_rt_sigreturn});
    traps++;
    thread.space().Kill();
    return true;
  };
  client_->Start(GuestSyscall, SYS_rt_sigreturn, 0)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(1));
  EXPECT_EQ(traps, 1);
}

TEST_F(HostileTest, UnkickableThreadIsKilledInTime) {
  // At the stub's own rt_sigreturn, past the instruction that loads its number.
  Thread* thread = client_->Start(GuestForge, StubAddress(stub_sigreturn_end) - 2);
  thread->Resume();
  usleep(100000);
  EXPECT_EQ(client_->deaths(), 0);
  timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  thread->Kick();
  EXPECT_TRUE(client_->AwaitDeaths(1));
  clock_gettime(CLOCK_MONOTONIC, &after);
  EXPECT_GE(after.tv_sec - before.tv_sec, 1);
  EXPECT_GE(client_->platform().stats().kick_resends, 3u);
  ExpectAlive();
}

TEST_F(HostileTest, BrokenStateAtATrap) {
  for (uint64_t what = 0; what < 6; what++) {
    Thread* thread = client_->Start(GuestBreak, what);
    RefPtr<AddressSpace> space(&thread->space());
    thread->Resume();
    EXPECT_TRUE(client_->AwaitDeaths(static_cast<int>(what) + 1)) << what;
  }
  EXPECT_GE(client_->log().size(), 4u);
  ExpectAlive();
}

TEST_F(HostileTest, ScribbledMailboxesAndStacks) {
  for (int round = 0; round < 10; round++) {
    int deaths = client_->deaths();
    Thread* thread = client_->Start(GuestThreadMaker, 5, TestClient::Address(GuestScribble));
    RefPtr<AddressSpace> space(&thread->space());
    thread->Resume();
    usleep(100000);
    space->Kill();
    EXPECT_TRUE(client_->AwaitDeaths(deaths + 1));
  }
  ExpectAlive();
}

TEST_F(HostileTest, DeathsAtAnyMoment) {
  unsigned seed = 1;
  for (int round = 0; round < 300; round++) {
    Thread* thread = client_->Start(GuestChurn);
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

// The windows between being created and being known, and between an order and its start, in which a death took apart what was not there yet.
TEST(ProcessTest, WorkOfADeadProcessIsDropped) {
  Process process(nullptr, nullptr, 1, UniqueFd());
  auto held = std::make_shared<int>(0);
  process.WhenNoFork([] {});
  process.WhenNoDescriptor([held] { FAIL(); });
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_TRUE(process.TakeThreads().empty());
  EXPECT_EQ(held.use_count(), 1);
  process.WhenNoDescriptor([held] { FAIL(); });
  process.WhenNoFork([held] { FAIL(); });
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(HostileTest, NothingKnowsAThreadThatComesTooLate) {
  RefPtr<ThreadImpl> thread(static_cast<ThreadImpl*>(client_->Start(GuestSpin)));
  Process& process = thread->process();
  EXPECT_EQ(process.listener().Find(process.pid()).get(), thread.get());
  process.Kill();
  ASSERT_TRUE(client_->AwaitDeaths(1));
  EXPECT_FALSE(process.AddThread(thread));
  EXPECT_EQ(process.listener().Find(process.pid()).get(), nullptr);
  EXPECT_EQ(process.space().any_tid(), 0);
}

TEST_F(HostileTest, AChildsDeathIsToldAfterItsBirth) {
  client_->on_child = [&](Thread& child) {
    child.space().KillProcess(child);
    usleep(100'000);
    EXPECT_EQ(client_->deaths(), 0);
  };
  client_->Start(GuestFork)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(2));
  EXPECT_EQ(client_->log(), (Log{101}));
}

TEST_F(HostileTest, WhatFollowsACallIsDoneIfItsThreadDiesBefore) {
  std::atomic<int> done = 0;
  client_->on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != SYS_munmap) return false;
    thread.space().Kill();
    usleep(100'000);
    thread.AnswerContinue([&] { done++; });
    return true;
  };
  client_->Start(GuestMunmapLoop, 1)->Resume();
  EXPECT_TRUE(client_->AwaitDeaths(1));
  EXPECT_EQ(done, 1);
}

TEST_F(HostileTest, ShutdownInTheMiddle) {
  for (int round = 0; round < 20; round++) {
    for (int i = 0; i < 4; i++) client_->Start(GuestChurn)->Resume();
    usleep(static_cast<useconds_t>(round) * 500);
    client_.reset();
    client_ = std::make_unique<TestClient>();
    ASSERT_TRUE(client_->started());
  }
}

TEST_F(HostileTest, DroppedReferencesKill) {
  for (int i = 0; i < 20; i++) {
    Thread* thread = client_->Start(GuestSpin);
    int pid = thread->host_pid();
    thread->Resume();
    thread->Release();
    for (int wait = 0; wait < 5000 && kill(pid, 0) == 0; wait++) usleep(1000);
    EXPECT_NE(kill(pid, 0), 0);
  }
}

}  // namespace
}  // namespace amber::platform
