// Several threads and processes: clone, vfork, timed waits, descriptors, storms.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "gtest/gtest.h"
#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

using Log = std::vector<int64_t>;

int64_t Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ll + time.tv_nsec;
}

class ThreadsTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(client_.started()); }
  TestClient client_;
};

TEST_F(ThreadsTest, ThreadsRunAndExit) {
  constexpr int kThreads = 100;
  Thread* thread = client_.Start(GuestThreadMaker, kThreads, TestClient::Address(GuestThreadEcho));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  ASSERT_TRUE(client_.AwaitLog(kThreads + 1));
  std::set<int64_t> seen;
  for (int64_t value : client_.log()) seen.insert(value);
  EXPECT_EQ(seen.size(), kThreads + 1u);
  EXPECT_FALSE(seen.contains(8888));
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(ThreadsTest, FiveHundredBlockedThreads) {
  constexpr size_t kThreads = 500;
  Thread* thread = client_.Start(GuestThreadMaker, kThreads, TestClient::Address(GuestThreadBlock));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  std::vector<Thread*> blocked;
  EXPECT_TRUE(client_.Await([&] { return true; }));
  for (int i = 0; i < 3000 && blocked.size() < kThreads + 1; i++) {
    usleep(10000);
    blocked = client_.blocked();
  }
  ASSERT_EQ(blocked.size(), kThreads + 1);
  // Park them all, then let them go.
  std::atomic<size_t> stopped = 0;
  client_.on_frame = [&](Thread&, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kKick);
    stopped++;
    return true;
  };
  for (Thread* t : blocked) t->AnswerStop();
  for (int i = 0; i < 3000 && stopped < blocked.size(); i++) usleep(10000);
  EXPECT_EQ(stopped, blocked.size());
  for (Thread* t : blocked) {
    if (t == thread) continue;
    t->frame().regs.rax = 0;
    t->frame().regs.rip += 2;
    t->Resume();
  }
  usleep(100000);
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

// On a crowded listener calls are shelved; whatever they are answered with must come out the same.
TEST_F(ThreadsTest, CrowdedCallsAreAnswered) {
  constexpr size_t kThreads = 300;
  std::atomic<size_t> stops = 0, continued = 0;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kKick) return false;
    stops++;
    Registers& regs = thread.frame().regs;
    if (regs.rax == kGuestBlock) {  // undone: completed through the frame
      regs.rip += 2;
      regs.rax = 7;
    }
    thread.Resume();
    return true;
  };
  Thread* maker = client_.Start(GuestThreadMaker, kThreads, TestClient::Address(GuestThreadWait));
  RefPtr<AddressSpace> space(&maker->space());
  maker->Resume();
  std::vector<Thread*> blocked;
  for (int i = 0; i < 3000 && blocked.size() < kThreads + 1; i++) {
    usleep(10000);
    blocked = client_.blocked();
  }
  ASSERT_EQ(blocked.size(), kThreads + 1);
  EXPECT_GT(client_.platform().stats().parks, 200u);
  size_t i = 0, answered = 0;
  for (Thread* t : blocked) {
    if (t == maker) continue;
    switch (i++ % 4) {
      case 0: t->Answer(7); break;
      case 1: t->AnswerStop(); break;
      case 2: t->AnswerAndStop(7); break;
      case 3:
        t->Kick();
        t->Answer(7);
        break;
    }
    answered++;
  }
  ASSERT_TRUE(client_.AwaitLog(answered + 1));
  for (int64_t value : client_.log()) EXPECT_TRUE(value == 7 || value == 9000) << value;
  EXPECT_GE(stops, kThreads * 3 / 4);
  EXPECT_EQ(continued, 0u);
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(ThreadsTest, CrowdedCallsContinueAndDie) {
  constexpr size_t kThreads = 200;
  std::mutex mutex;
  std::vector<Thread*> waiting;
  std::atomic<size_t> continued = 0;
  client_.keep_dead = true;  // The last answers below go to threads that may be dead by then.
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestBlock || call.args[0] == 9000) return false;
    std::lock_guard lock(mutex);
    waiting.push_back(&thread);
    return true;
  };
  Thread* maker = client_.Start(GuestThreadMaker, kThreads, TestClient::Address(GuestThreadWait));
  RefPtr<AddressSpace> space(&maker->space());
  maker->Resume();
  for (int i = 0; i < 3000; i++) {
    usleep(10000);
    std::lock_guard lock(mutex);
    if (waiting.size() == kThreads) break;
  }
  ASSERT_EQ(waiting.size(), kThreads);
  for (size_t i = 0; i < kThreads / 2; i++) waiting[i]->AnswerContinue([&] { continued++; });
  ASSERT_TRUE(client_.AwaitLog(kThreads / 2 + 1));
  for (int64_t value : client_.log()) EXPECT_TRUE(value == -ENOSYS || value == 9000) << value;
  EXPECT_EQ(continued, kThreads / 2);
  for (size_t i = kThreads / 2; i < kThreads; i++) {
    if (i == kThreads * 3 / 4) space->Kill();
    waiting[i]->Answer(1);
  }
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(ThreadsTest, KickStorm) {
  constexpr int kThreads = 8;
  std::atomic<uint64_t> stops = 0;
  std::atomic<bool> done = false;
  std::mutex mutex;
  std::vector<Thread*> threads;
  client_.on_child = [&](Thread& thread) {
    std::lock_guard lock(mutex);
    threads.push_back(&thread);
  };
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kKick) return false;
    stops++;
    thread.Resume();
    return true;
  };
  Thread* thread = client_.Start(GuestThreadMaker, kThreads, TestClient::Address(GuestEchoForever));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  ASSERT_TRUE(client_.AwaitLog(1));
  std::thread kickers[2];
  for (std::thread& kicker : kickers) {
    kicker = std::thread([&] {
      while (!done) {
        for (Thread* t : threads) t->Kick();
        usleep(200);
      }
    });
  }
  usleep(1500000);
  done = true;
  for (std::thread& kicker : kickers) kicker.join();
  EXPECT_GT(stops, 100u);
  EXPECT_EQ(client_.log().size(), 1u);  // no wrong answer was logged
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(ThreadsTest, VforkSharesMemory) {
  client_.Start(GuestVfork)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(2));
  Log log = client_.log();
  std::sort(log.begin(), log.end());
  EXPECT_EQ(log, (Log{10, 20}));
}

TEST_F(ThreadsTest, SlotsComeBack) {
  // More vforks and threads, one after the other, than an address space has slots.
  std::atomic<int> left = 2500;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestEcho) return false;
    thread.AnswerAndStop(static_cast<int64_t>(call.args[0] + 1));
    return true;
  };
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kKick) return false;
    if (left-- <= 0) {
      thread.space().Kill();
      return true;
    }
    Thread::CloneOptions options;
    options.new_process = left % 2 == 0;
    options.frame = thread.frame();
    thread.Clone(options, [&](ErrnoOr<Thread*> child) {
      EXPECT_TRUE(child.ok());
      if (child.ok()) {
        if ((*child)->host_pid() != thread.host_pid()) {
          thread.space().KillProcess(**child);
        } else {
          (*child)->Exit();
          (*child)->Release();
        }
      }
      thread.Resume();
    });
    return true;
  };
  client_.Start(GuestEchoForever)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1251));
}

TEST_F(ThreadsTest, FutexesStayNative) {
  Thread* thread = client_.Start(GuestThreadMaker, 2, TestClient::Address(GuestFutexPair));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  ASSERT_TRUE(client_.AwaitLog(3));
  EXPECT_LT(client_.platform().stats().notifications, 100u);
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(ThreadsTest, TimedWaitTimesOut) {
  std::atomic<int64_t> result = 1;
  int64_t start = Now();
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kSyscall);
    EXPECT_EQ(thread.frame().regs.rax, uint64_t{SYS_futex});
    Registers before = thread.frame().regs;
    thread.FutexWait(before.rdi, 0, ~0u, false, false, Now() + 50000000, [&, before](int64_t r) {
      result = r;
      EXPECT_EQ(thread.frame().regs.rip, before.rip);
      EXPECT_EQ(thread.frame().regs.rbx, before.rbx);
      EXPECT_EQ(thread.frame().regs.rax, before.rax);
      thread.frame().regs.rax = static_cast<uint64_t>(r);
      thread.Resume();
    });
    return true;
  };
  client_.Start(GuestTimedWait)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(result, -ETIMEDOUT);
  EXPECT_GE(Now() - start, 50000000);
  EXPECT_EQ(client_.log(), (Log{-ETIMEDOUT}));
}

TEST_F(ThreadsTest, TimedWaitIsKickedAndMismatches) {
  std::atomic<Thread*> waiting = nullptr;
  std::atomic<int64_t> first = 1, second = 1;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kSyscall);
    uint64_t address = thread.frame().regs.rdi;
    thread.FutexWait(address, 0, ~0u, false, false, Now() + 20000000000, [&, address](int64_t r) {
      first = r;
      thread.FutexWait(address, 1, ~0u, false, false, Now() + 20000000000, [&](int64_t r2) {
        second = r2;
        thread.space().Kill();
      });
    });
    waiting = &thread;
    return true;
  };
  client_.Start(GuestTimedWait)->Resume();
  while (waiting == nullptr) usleep(1000);
  usleep(20000);
  waiting.load()->Kick();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(first, -EINTR);
  EXPECT_EQ(second, -EAGAIN);
}

TEST_F(ThreadsTest, TimedWaitIsWokenNatively) {
  std::atomic<int64_t> result = 1;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall || thread.frame().regs.rax != SYS_futex) return false;
    // A second thread that wakes the first natively.
    Thread::CloneOptions options;
    options.frame = thread.frame();
    options.frame.regs.rip = TestClient::Address(GuestWaker);
    options.frame.regs.rdi = kGuestData;
    options.frame.regs.rsp = kGuestData + 0x8000;
    thread.Clone(options, [&](ErrnoOr<Thread*> child) {
      ASSERT_TRUE(child.ok());
      (*child)->Resume();
      thread.FutexWait(kGuestData, 0, ~0u, false, false, Now() + 20000000000, [&](int64_t r) {
        result = r;
        thread.frame().regs.rax = static_cast<uint64_t>(r);
        thread.Resume();
      });
    });
    return true;
  };
  client_.Start(GuestTimedWait)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(result, 0);
}

TEST_F(ThreadsTest, DescriptorsAreMappedAndClosed) {
  int fd = memfd_create("file", MFD_CLOEXEC);
  ASSERT_EQ(write(fd, "content!", 8), 8);
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall) return false;
    std::vector<StubOp> ops;
    for (uint64_t i = 0; i < 6; i++) {
      ops.push_back({.number = SYS_mmap, .args = {0x40000000 + i * 4096, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, 0, 0}, .fd = fd});
      ops.push_back({.number = SYS_mprotect, .args = {0x40000000 + i * 4096, 4096, PROT_READ | PROT_WRITE}});
    }
    ops.push_back({.number = SYS_mmap,  // fails: no such offset alignment
                   .args = {0x50000000, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED, 0, 1},
                   .fd = fd});
    ops.push_back({.number = SYS_munmap, .args = {0x40000000, 4096}});
    thread.RunOps(ops, [&](std::span<const int64_t> results) {
      EXPECT_EQ(results.size(), 13u);
      EXPECT_EQ(results.back(), -EINVAL);
      char buffer[8];
      EXPECT_TRUE(thread.space().Read(0x40005000, buffer, 8).ok());
      EXPECT_EQ(std::string(buffer, 8), "content!");
      // None is left in the stub (it may just be closing the last).
      std::string path = "/proc/" + std::to_string(thread.host_pid()) + "/fd/0";
      char target[64];
      for (int i = 0; i < 1000 && readlink(path.c_str(), target, sizeof(target)) >= 0; i++) usleep(1000);
      EXPECT_LT(readlink(path.c_str(), target, sizeof(target)), 0);
      thread.frame().regs.rax = 1;
      thread.Resume();
    });
    return true;
  };
  client_.Start(GuestMmap)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  close(fd);
}

TEST_F(ThreadsTest, ThreadsAndProcessesRightAfterAMapping) {
  // The mapping of a file by a process of one thread ends without a report; what follows must not be taken for one.
  int fd = memfd_create("file", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, 4096), 0);
  StubOp map = {.number = SYS_mmap, .args = {0x40000000, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED}, .fd = fd};
  bool forked = false, cloned = false;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall) return false;
    thread.RunOps({map}, [&](std::span<const int64_t>) {
      thread.Fork([&](ErrnoOr<Thread*> child) {
        forked = child.ok();
        if (forked) (*child)->space().Kill();
        thread.RunOps({map}, [&](std::span<const int64_t>) {
          thread.Clone({.frame = thread.frame()}, [&](ErrnoOr<Thread*> sibling) {
            cloned = sibling.ok();
            thread.space().Kill();
          });
        });
      });
    });
    return true;
  };
  client_.Start(GuestMmap)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(2));
  EXPECT_TRUE(forked);
  EXPECT_TRUE(cloned);
  close(fd);
}

TEST_F(ThreadsTest, OperationsMayBeNativeCalls) {
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall) return false;
    StubOp wake = {.number = SYS_futex, .args = {kGuestData, 1, 1, 0, 0, 0}};
    StubOp map = {.number = SYS_mmap, .args = {0x40000000, 4096, 3, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS, ~0ull, 0}};
    StubOp bad = {.number = SYS_munmap, .args = {1, 1}};
    thread.RunOps({wake, map, wake, wake, map, wake, bad, map}, [&](std::span<const int64_t> results) {
      EXPECT_EQ(Log(results.begin(), results.end()), (Log{0, 0x40000000, 0, 0, 0x40000000, 0, -EINVAL}));
      thread.frame().regs.rax = 1;
      thread.Resume();
    });
    return true;
  };
  client_.Start(GuestSyscall, SYS_mmap, 0)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), (Log{1}));
}

TEST_F(ThreadsTest, ForkManyTimes) {
  constexpr int kChildren = 200;
  client_.Start(GuestForkMany, kChildren)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(kChildren + 1));
  std::set<int64_t> seen;
  for (int64_t value : client_.log()) seen.insert(value);
  EXPECT_EQ(seen.size(), kChildren + 1u);
  EXPECT_FALSE(seen.contains(5000));
}

TEST_F(ThreadsTest, ForksAndDescriptorsKeepApart) {
  // Threads of one process fork and map files at the same time: no child may inherit a descriptor.
  int fd = memfd_create("file", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(fd, 4096), 0);
  std::atomic<int> left = 400;
  std::atomic<int> leaked = 0, children = 0;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestEcho) return false;
    thread.AnswerAndStop(static_cast<int64_t>(call.args[0] + 1));
    return true;
  };
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kKick) return false;
    if (left-- <= 0) {
      thread.space().Kill();
      return true;
    }
    if (left % 2 == 0) {
      thread.Fork([&](ErrnoOr<Thread*> child) {
        if (child.ok()) {
          children++;
          std::string path = "/proc/" + std::to_string((*child)->host_pid()) + "/fd/0";
          char target[64] = {};
          // (The mailboxes' descriptor may be seen there: the child is just closing it.)
          if (readlink(path.c_str(), target, sizeof(target) - 1) >= 0 && strstr(target, "file")) leaked++;
          (*child)->space().Kill();
        }
        thread.Resume();
      });
    } else {
      thread.RunOps({{.number = SYS_mmap, .args = {0x40000000, 4096, PROT_READ, MAP_PRIVATE | MAP_FIXED}, .fd = fd}},
                    [&](std::span<const int64_t> results) {
                      EXPECT_EQ(results[0], 0x40000000);
                      thread.Resume();
                    });
    }
    return true;
  };
  client_.Start(GuestThreadMaker, 6, TestClient::Address(GuestEchoForever))->Resume();
  EXPECT_TRUE(client_.Await([&] { return left <= 0; }) || left <= 0);
  for (int i = 0; i < 1000 && left > 0; i++) usleep(10000);
  EXPECT_LE(left, 0);
  for (int i = 0; i < 1000 && client_.deaths() < children + 1; i++) usleep(10000);
  EXPECT_EQ(client_.deaths(), children + 1);
  EXPECT_GT(children, 50);
  EXPECT_EQ(leaked, 0);
  close(fd);
}

TEST_F(ThreadsTest, ExtendedStateMovesBetweenProcesses) {
  std::vector<uint8_t> saved;
  Frame frame;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    if (stop != Stop::kSyscall || !saved.empty()) return false;
    auto state = thread.xstate();
    EXPECT_TRUE(state.ok());
    saved.assign(state->begin(), state->end());
    frame = thread.frame();
    thread.space().Kill();
    return true;
  };
  client_.Start(GuestVector)->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  ASSERT_FALSE(saved.empty());
  ExecPlan plan = TestClient::Plan(GuestVector, 0, 0);
  frame.regs.rax = 0;
  plan.frame = frame;
  plan.xstate = saved;
  ErrnoOr<Thread*> thread = client_.platform().Exec(plan);
  ASSERT_TRUE(thread.ok());
  std::vector<uint8_t> broken = saved;
  broken[464] ^= 1;
  EXPECT_TRUE((*thread)->set_xstate(broken).Is(EINVAL));
  broken = saved;
  broken.back() ^= 1;
  EXPECT_TRUE((*thread)->set_xstate(broken).Is(EINVAL));
  broken = saved;
  broken[512 + 7] = 0x40;
  EXPECT_TRUE((*thread)->set_xstate(broken).Is(EINVAL));
  (*thread)->Resume();
  EXPECT_TRUE(client_.AwaitDeaths(2));
  EXPECT_EQ(client_.log(), (Log{1}));
}

}  // namespace
}  // namespace amber::platform
