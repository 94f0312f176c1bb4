// The fast path: patching, answers, kicks at every point, calls that are answered late, threads, forks.
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "sentry/base/brief_wait.h"
#include "sentry/platform/fast_actions.h"
#include "sentry/platform/fast_memory.h"
#include "sentry/platform/fast_sites.h"
#include "sentry/platform/stub_text.h"
#include "sentry/platform/test_client.h"

namespace amber::platform {
namespace {

TEST(FindPatchTest, LoadsOfTheNumber) {
  // mov $39, %eax; syscall; ret, the last byte of `syscall` at 0x1000 + 23.
  std::vector<uint8_t> code(64, 0x90);
  const uint8_t site[] = {0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3};
  std::copy(std::begin(site), std::end(site), code.begin() + 16);
  auto patch = FindPatch(0x1000 + 23, 39, 0x1000, code);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kJump);
  EXPECT_EQ(patch->address, 0x1000u + 16);
  EXPECT_EQ(patch->displaced, std::vector<uint8_t>(site, site + 5));
  EXPECT_FALSE(FindPatch(0x1000 + 23, 40, 0x1000, code)) << "another call's number";
  EXPECT_FALSE(FindPatch(0x1000 + 24, 39, 0x1000, code)) << "no syscall instruction there";
  EXPECT_FALSE(patch->straddles);
  auto other = FindPatch(0x1000 + 23 + 47, 39, 0x1000 + 47, code);
  ASSERT_TRUE(other);
  EXPECT_TRUE(other->straddles) << "across a cache line";
  EXPECT_FALSE(FindPatch(0x1000 + 5, 39, 0x1000, code)) << "before what is known";
  EXPECT_FALSE(FindPatch(0x1000 + 400, 39, 0x1000, code)) << "behind what is known";
}

TEST(FindPatchTest, LoadsOfOtherRegistersBetween) {
  // mov $257, %eax; mov %rdi, %rsi; mov $-100, %edi; syscall
  const std::vector<uint8_t> site = {0xb8, 1, 1, 0, 0, 0x48, 0x89, 0xfe, 0xbf, 0x9c, 0xff, 0xff, 0xff, 0x0f, 0x05};
  auto find = [](std::vector<uint8_t> bytes, uint32_t number) {
    std::vector<uint8_t> code(64, 0x90);
    std::copy(bytes.begin(), bytes.end(), code.begin() + 16);
    return FindPatch(0x1000 + 16 + bytes.size(), number, 0x1000, code);
  };
  auto patch = find(site, 257);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kJump);
  EXPECT_EQ(patch->address, 0x1000u + 24);
  EXPECT_EQ(patch->displaced, std::vector<uint8_t>(site.begin() + 8, site.begin() + 13));
  EXPECT_FALSE(find(site, 256)) << "another call's number";
  std::vector<uint8_t> other = site;
  other[5] = 0x49, other[6] = 0x8b, other[7] = 0x3e;  // mov (%r14), %rdi: may fault, and is none of the loads that are known
  EXPECT_FALSE(find(other, 257));
  // The last five bytes are part of one instruction: mov -100(%rdi), %edi.
  EXPECT_FALSE(find({0xb8, 1, 1, 0, 0, 0x8b, 0xbf, 0x9c, 0xff, 0xff, 0xff, 0x0f, 0x05}, 257));
  // And so are these: mov $-100, %r15d.
  EXPECT_FALSE(find({0xb8, 1, 1, 0, 0, 0x41, 0xbf, 0x9c, 0xff, 0xff, 0xff, 0x0f, 0x05}, 257));
  // mov $257, %r8d is no load of the number.
  EXPECT_FALSE(find({0x41, 0xb8, 1, 1, 0, 0, 0xbf, 0x9c, 0xff, 0xff, 0xff, 0x0f, 0x05}, 257));
}

TEST(HotSitesTest, KnownByPlaceInThePageAndNumber) {
  HotSites sites;
  EXPECT_FALSE(sites.Contains(0x7f0000123456, 257));
  sites.Add(0x7f0000123456, 257);
  EXPECT_TRUE(sites.Contains(0x7f0000123456, 257));
  EXPECT_TRUE(sites.Contains(0x7e1111999456, 257)) << "mapped elsewhere";
  EXPECT_FALSE(sites.Contains(0x7f0000123457, 257));
  EXPECT_FALSE(sites.Contains(0x7f0000123456, 258));
}

TEST(FindPatchTest, ShortOnesNeedAHole) {
  // xor %eax, %eax; syscall; ret; ten bytes of padding up to a boundary of 16.
  std::vector<uint8_t> code(96, 0x55);
  const uint8_t site[] = {0x31, 0xc0, 0x0f, 0x05, 0xc3};
  std::copy(std::begin(site), std::end(site), code.begin() + 16);
  const uint8_t padding[] = {0xc3, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0};
  std::copy(std::begin(padding), std::end(padding), code.begin() + 37);
  auto patch = FindPatch(0x1000 + 20, 0, 0x1000, code);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kShort);
  EXPECT_EQ(patch->hole, 0x1000u + 38);
  code[45] = 0x12;  // not zero any more: no padding
  EXPECT_FALSE(FindPatch(0x1000 + 20, 0, 0x1000, code));
}

TEST(FindPatchTest, MuslsSites) {
  // Where threads can be cancelled: mov 16(%rsp), %r9; mov %r11, 8(%rsp); syscall; ret. Any number comes by.
  std::vector<uint8_t> code(96, 0x55);
  const uint8_t site[] = {0x4c, 0x8b, 0x4c, 0x24, 0x10, 0x4c, 0x89, 0x5c, 0x24, 0x08, 0x0f, 0x05, 0xc3};
  std::copy(std::begin(site), std::end(site), code.begin() + 4);
  auto patch = FindPatch(0x1000 + 16, 3, 0x1000, code);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kJump);
  EXPECT_EQ(patch->displaced, std::vector<uint8_t>(site + 5, site + 10));
  // fstat(): mov $5, %eax; mov %rdx, %rsi; mov %rbp, %rdi; syscall. The last of them is too short for a jump of five bytes.
  std::fill(code.begin(), code.end(), 0x55);
  const uint8_t other[] = {0xb8, 5, 0, 0, 0, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xef, 0x0f, 0x05};
  std::copy(std::begin(other), std::end(other), code.begin() + 3);
  EXPECT_FALSE(FindPatch(0x1000 + 16, 5, 0x1000, code)) << "no padding in reach";
  code[53] = 0xc3;
  std::fill(code.begin() + 54, code.begin() + 64, 0xcc);
  patch = FindPatch(0x1000 + 16, 5, 0x1000, code);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kShort);
  EXPECT_EQ(patch->address, 0x1000u + 11);
  EXPECT_EQ(patch->displaced, std::vector<uint8_t>(other + 8, other + 11));
}

TEST(FindPatchTest, MuslsOneSite) {
  // The end of __syscall_cp_c() and the padding behind it, up to a boundary of 16.
  const std::vector<uint8_t> code = {0x55, 0x55, 0x55, 0x48, 0x89, 0xd6, 0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x48, 0x89, 0xca, 0x0f, 0x05,
                                     0xc3, 0x90, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00, 0x0f, 0x1f, 0x00};
  auto patch = FindPatch(0x1000 + 16, 1, 0x1000, code);
  ASSERT_TRUE(patch);
  EXPECT_EQ(patch->way, SitePatch::Way::kShort);
  EXPECT_EQ(patch->address, 0x1000u + 11);
  EXPECT_EQ(patch->hole, 0x1000u + 17);
}

TEST(FindPatchTest, OneMoveOfGosMakesRoom) {
  // Four moves; syscall; ...; ret; padding up to a boundary of 16.
  std::vector<uint8_t> code(96, 0x55);
  const uint8_t site[] = {0x49, 0x89, 0xf2, 0x48, 0x89, 0xfa, 0x48, 0x89, 0xce, 0x48, 0x89, 0xdf, 0x0f, 0x05};
  std::copy(std::begin(site), std::end(site), code.begin() + 2);
  code[53] = 0xc3;
  std::fill(code.begin() + 54, code.begin() + 64, 0xcc);
  for (uint32_t number : {0u, 1u, 257u}) {
    auto patch = FindPatch(0x1000 + 16, number, 0x1000, code);
    ASSERT_TRUE(patch);
    EXPECT_EQ(patch->way, SitePatch::Way::kShort);
    EXPECT_EQ(patch->address, 0x1000u + 11);
    EXPECT_EQ(patch->hole, 0x1000u + 54);
    EXPECT_EQ(patch->displaced, std::vector<uint8_t>(site + 9, site + 12));
  }
  // mov %rax, %rbx before the padding of a loop, which is run through, looks like a ret behind something.
  code[51] = 0x48, code[52] = 0x89;
  EXPECT_FALSE(FindPatch(0x1000 + 16, 1, 0x1000, code));
  code[51] = code[52] = 0x55;
  code[3] = 0x8b;  // another instruction: what comes before is not known
  EXPECT_FALSE(FindPatch(0x1000 + 16, 1, 0x1000, code));
}

TEST(FindPatchTest, ThunkGoesToTheEntry) {
  SitePatch patch = {SitePatch::Way::kJump, 0x1000, 0, {0xb8, 1, 0, 0, 0}};
  std::vector<uint8_t> thunk = MakeThunk(patch, 0x1007, 0x2000);
  ASSERT_EQ(thunk.size(), kThunkSize);
  int32_t distance;
  memcpy(&distance, &thunk[8], 4);
  EXPECT_EQ(0x2000 + 12 + distance, 0x1007);
  uint64_t entry;
  memcpy(&entry, &thunk[18], 8);
  EXPECT_EQ(entry, kFastEntry);
}

class FastTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(client_.started()); }
  Thread* Start(void (*entry)(uint64_t, uint64_t), uint64_t a = 0, uint64_t b = 0) { return client_.StartFast(entry, a, b); }
  // `entry` makes many calls at one site, which is patched, and compares the answers.
  void ExpectEchoes(void (*entry)(uint64_t, uint64_t)) {
    Start(entry, 20000)->Resume();
    ASSERT_TRUE(client_.AwaitLog(1));
    EXPECT_EQ(client_.log()[0], 0);
    Stats stats = client_.platform().stats();
    EXPECT_EQ(stats.patched_sites, 1u);
    EXPECT_GT(stats.fast_calls, 100u);
    EXPECT_TRUE(client_.AwaitDeaths(1));
  }
  TestClient client_{Options{.watch_always = true}};
};

TEST_F(FastTest, AnswersAreRight) { ExpectEchoes(GuestFastEcho); }

TEST_F(FastTest, SitesInTwoCacheLines) { ExpectEchoes(GuestFarEcho); }

TEST_F(FastTest, SitesInTwoCacheLinesAreLeftToThreads) {
  constexpr int kThreads = 3;
  Thread* thread = Start(GuestThreadMaker, kThreads, TestClient::Address(GuestFarThread));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  ASSERT_TRUE(client_.AwaitLog(kThreads + 1));
  for (int64_t value : client_.log()) EXPECT_TRUE(value == 0 || value == 9000) << value;
  EXPECT_EQ(client_.platform().stats().patched_sites, 0u) << "another thread may be fetching half of it";
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(FastTest, KickedAnywhere) {
  std::atomic<int> stops = 0;
  std::atomic<int> inside = 0;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kKick);
    if (thread.frame().regs.rip >= kGuestTop) inside++;
    EXPECT_EQ(thread.frame().gs_base, 0u);
    stops++;
    thread.Resume();
    return true;
  };
  Thread* thread = Start(GuestFastEchoForever);
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  usleep(20000);
  // On a busy machine whoever watches has a CPU only now and then.
  auto watched = [&] { return client_.platform().stats().fast_calls > 100; };
  for (int i = 0; i < 1500 || (!watched() && i < 3000); i++) {
    thread->Kick();
    usleep(static_cast<useconds_t>(i < 1500 ? i * 7 % 400 : 5000));
  }
  for (int i = 0; i < 500 && stops < 10; i++) usleep(10000);
  EXPECT_GT(stops, 10);
  EXPECT_EQ(inside, 0) << "frames inside the fast path's code were shown";
  EXPECT_GT(client_.platform().stats().fast_calls, 100u);
  EXPECT_TRUE(client_.log().empty()) << "a call got the wrong answer";
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

// Answers GuestFastCopies; counts what came and went by the mailbox.
class Copies {
 public:
  explicit Copies(TestClient& client) {
    client.on_syscall = [this](Thread& thread, const Syscall& call) { return Serve(thread, call); };
  }
  std::atomic<int> posted_in = 0, posted_out = 0;

 private:
  bool Serve(Thread& thread, const Syscall& call) {
    if (call.number != SYS_write && call.number != SYS_pread64) return false;
    uint8_t bytes[256];
    size_t size = std::min<size_t>(call.args[2], sizeof(bytes));
    if (call.number == SYS_write) {
      if (ReadPosted(&thread, call.args[1], bytes, size)) {
        posted_in++;
      } else if (!thread.space().Read(call.args[1], bytes, size).ok()) {
        thread.Answer(-EFAULT);
        return true;
      }
      bool alike = std::all_of(bytes, bytes + size, [&](uint8_t byte) { return byte == bytes[0]; });
      thread.Answer(alike ? bytes[0] : -EIO);
      return true;
    }
    memset(bytes, static_cast<int>(call.args[3] & 0xff), size);
    // In two pieces, and now and then the second one directly.
    size_t half = size / 2;
    bool posted = half > 0 && WritePosted(&thread, call.args[1], bytes, half);
    if (!posted && half > 0) (void)thread.space().Write(call.args[1], bytes, half);
    if (call.args[3] % 3 == 0 || !WritePosted(&thread, call.args[1] + half, bytes, size - half)) {
      FlushPosted(&thread);
      (void)thread.space().Write(call.args[1] + half, bytes, size - half);
    }
    posted_out += posted ? 1 : 0;
    thread.Answer(static_cast<int64_t>(size));
    return true;
  }
};

TEST_F(FastTest, MemoryGoesAlong) {
  Copies copies(client_);
  int runs = 0;
  while ((copies.posted_in < 100 || copies.posted_out < 100) && runs < 20) {
    Start(GuestFastCopies, 4000)->Resume();
    ASSERT_TRUE(client_.AwaitLog(static_cast<size_t>(++runs)));
    EXPECT_TRUE(client_.AwaitDeaths(runs));
  }
  for (int64_t wrong : client_.log()) EXPECT_EQ(wrong, 0);
  EXPECT_GE(copies.posted_in, 100);
  EXPECT_GE(copies.posted_out, 100);
}

TEST_F(FastTest, MemoryGoesAlongKicked) {
  Copies copies(client_);
  std::atomic<int> inside = 0, stops = 0;
  client_.on_frame = [&](Thread& thread, Stop stop, const Fault*) {
    EXPECT_EQ(stop, Stop::kKick);
    if (thread.frame().regs.rip >= kGuestTop) inside++;
    stops++;
    thread.Resume();
    return true;
  };
  Thread* thread = Start(GuestFastCopies);
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  usleep(20000);
  for (int i = 0; i < 1500 || (copies.posted_out < 100 && i < 3000); i++) {
    thread->Kick();
    usleep(static_cast<useconds_t>(i < 1500 ? i * 7 % 400 : 5000));
  }
  EXPECT_GT(stops, 10);
  EXPECT_EQ(inside, 0);
  EXPECT_TRUE(client_.log().empty()) << "a call got the wrong answer";
  EXPECT_GT(copies.posted_out, 0);
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

// The client of GuestActions: what it knows of the actions are the changes that it took, and the calls that came.
class Actions {
 public:
  explicit Actions(TestClient& client) {
    client.on_syscall = [this](Thread& thread, const Syscall& call) { return Serve(thread, call); };
    client.on_frame = [this](Thread& thread, Stop stop, const Fault*) {
      EXPECT_EQ(stop, Stop::kKick);
      if (thread.frame().regs.rip >= kGuestTop) inside++;
      Take(thread);
      stops++;
      thread.Resume();
      return true;
    };
  }
  void Offer(Thread& thread) { EXPECT_TRUE(OfferActions(&thread, table_)); }
  std::atomic<int> inside = 0, stops = 0, calls = 0, changes = 0;

 private:
  void Take(Thread& thread) {
    uint64_t changed = TakeActions(&thread, table_);
    EXPECT_EQ(changed & ~(1ull << 9), 0u);
    if (changed == 0) return;
    changes++;
    // Of one piece: it does not change while its thread is here.
    const uint64_t* action = &table_[9 * 4];
    EXPECT_EQ(action[0], action[2]);
    EXPECT_GE(action[0], last_);
    EXPECT_EQ(action[1], 0x10000004u);
    EXPECT_EQ(action[3], ~0x40100ull);
    last_ = action[0];
  }

  bool Serve(Thread& thread, const Syscall& call) {
    if (call.number != SYS_rt_sigaction) return false;
    calls++;
    Take(thread);
    if (call.args[0] != 10) {
      thread.Answer(-EINVAL);
      return true;
    }
    uint64_t before[4], next[4];
    memcpy(before, &table_[9 * 4], sizeof(before));
    if (call.args[1] != 0) {
      EXPECT_TRUE(ReadPosted(&thread, call.args[1], next, sizeof(next)) || thread.space().Read(call.args[1], next, sizeof(next)).ok());
      next[3] &= ~0x40100ull;
      memcpy(&table_[9 * 4], next, sizeof(next));
      SetAction(&thread, 10, std::span<const uint64_t, 4>(next));
      last_ = next[0];
    }
    auto written = thread.space().Write(call.args[2], before, sizeof(before));
    thread.Answer(written.ok() ? 0 : -EFAULT);
    return true;
  }

  std::array<uint64_t, 64 * 4> table_ = {};
  uint64_t last_ = 0;
};

TEST_F(FastTest, ActionsNeedNoCalls) {
  Actions actions(client_);
  Thread* thread = Start(GuestActions, 3200);
  actions.Offer(*thread);
  thread->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), std::vector<int64_t>{0});
  // Those before the site was patched, those with a bad pointer, and those that fail.
  EXPECT_LE(actions.calls, 10 + 100 + 2 * 200);
  EXPECT_GE(actions.changes, 100);
}

TEST_F(FastTest, ActionsKicked) {
  Actions actions(client_);
  Thread* thread = Start(GuestActions);
  RefPtr<AddressSpace> space(&thread->space());
  actions.Offer(*thread);
  thread->Resume();
  usleep(20000);
  for (int i = 0; i < 3000; i++) {
    thread->Kick();
    usleep(static_cast<useconds_t>(i * 7 % 100));
  }
  EXPECT_GT(actions.stops, 10);
  EXPECT_EQ(actions.inside, 0);
  EXPECT_TRUE(client_.log().empty()) << "a call got the wrong answer";
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(FastTest, ActionsWithdrawn) {
  Actions actions(client_);
  Thread* thread = Start(GuestActions, 640);
  actions.Offer(*thread);
  WithdrawActions(thread);
  thread->Resume();
  ASSERT_TRUE(client_.AwaitDeaths(1));
  EXPECT_EQ(client_.log(), std::vector<int64_t>{0});
  EXPECT_EQ(actions.calls, 640 * 2 + 2 * 40);
}

TEST_F(FastTest, LateAnswers) {
  std::mutex mu;
  std::deque<std::pair<Thread*, int64_t>> late;
  std::atomic<bool> over = false;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestEcho || call.args[0] % 50 != 7) return false;
    std::lock_guard lock(mu);
    late.emplace_back(&thread, static_cast<int64_t>(call.args[0] + 1));
    return true;
  };
  std::thread answers([&] {
    for (int i = 0; !over; i++) {
      std::pair<Thread*, int64_t> next = {nullptr, 0};
      {
        std::lock_guard lock(mu);
        if (!late.empty()) {
          next = late.front();
          late.pop_front();
        }
      }
      if (next.first == nullptr) {
        usleep(20);
      } else {
        if (i % 3 == 0) usleep(30);
        if (i % 5 == 0) next.first->Kick();
        next.first->Answer(next.second);
      }
    }
  });
  Start(GuestFastEcho, 20000)->Resume();
  EXPECT_TRUE(client_.AwaitLog(1));
  EXPECT_EQ(client_.log()[0], 0);
  EXPECT_TRUE(client_.AwaitDeaths(1));
  over = true;
  answers.join();
}

// While a call that was taken waits for another process its thread gives its CPU away, and stays as it was.
TEST_F(FastTest, CallsThatWaitForOthers) {
  std::atomic<uint64_t> brief = 0, rounds = 0;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    if (call.number != kGuestEcho || call.args[0] % 20 != 7) return false;
    BriefWait wait;
    brief += wait.may_spin() ? 1 : 0;
    for (auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(30); std::chrono::steady_clock::now() < end; rounds++) sched_yield();
    if (call.args[0] % 200 == 7) thread.Kick();
    return false;
  };
  Start(GuestFastEcho, 20000)->Resume();
  ASSERT_TRUE(client_.AwaitLog(1));
  EXPECT_EQ(client_.log()[0], 0);
  EXPECT_TRUE(client_.AwaitDeaths(1));
  EXPECT_GT(rounds, 0u);
  // The thread that watches may spin, others may not.
  if (client_.platform().stats().fast_calls > 15000) {
    EXPECT_GT(brief, 100u);
  }
  if (client_.platform().stats().fast_calls == 0) {
    EXPECT_EQ(brief, 0u);
  }
}

TEST_F(FastTest, CallsThatWantMoreThanAValue) {
  // Every 40th is undone (and so made again), every 41st answered and stopped.
  std::atomic<int> stops = 0;
  std::atomic<int64_t> undone = -1;
  client_.on_syscall = [&](Thread& thread, const Syscall& call) {
    int64_t i = static_cast<int64_t>(call.args[0]);
    if (call.number != kGuestEcho) return false;
    if (i % 40 == 0 && undone.exchange(i) != i) {
      thread.AnswerStop();
      return true;
    }
    if (i % 41 != 0) return false;
    thread.AnswerAndStop(i + 1);
    return true;
  };
  client_.on_frame = [&](Thread& thread, Stop, const Fault*) {
    stops++;
    thread.Resume();
    return true;
  };
  Start(GuestFastEcho, 20000)->Resume();
  ASSERT_TRUE(client_.AwaitLog(1));
  EXPECT_EQ(client_.log()[0], 0);
  EXPECT_GT(stops, 500);
  // Those whose call was posted stopped by themselves.
  Stats stats = client_.platform().stats();
  if (stats.fast_calls > 15000) {
    EXPECT_LT(stats.kicks, static_cast<uint64_t>(stops) * 3 / 4);
  }
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(FastTest, ThreadsShareASite) {
  constexpr int kThreads = 8;
  Thread* thread = Start(GuestThreadMaker, kThreads, TestClient::Address(GuestFastThread));
  RefPtr<AddressSpace> space(&thread->space());
  thread->Resume();
  ASSERT_TRUE(client_.AwaitLog(kThreads + 1));
  for (int64_t value : client_.log()) EXPECT_TRUE(value == 0 || value == 9000) << value;
  EXPECT_EQ(client_.platform().stats().patched_sites, 1u);
  space->Kill();
  EXPECT_TRUE(client_.AwaitDeaths(1));
}

TEST_F(FastTest, ForkedChildrenGoOn) {
  Start(GuestFastFork, 30000)->Resume();
  ASSERT_TRUE(client_.AwaitLog(3));
  for (int64_t value : client_.log()) EXPECT_EQ(value, 0);
  EXPECT_TRUE(client_.AwaitDeaths(2));
}

}  // namespace
}  // namespace amber::platform
