// What becomes known of a process that has been taken apart already: nothing, since nobody would take it apart once more.
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/process.h"
#include "sentry/platform/stub_abi.h"
#include "sentry/platform/test_client.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr pid_t kTid = 1 << 30;  // no thread's

// A process that the host does not know.
class ReapTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(client_.started());
    Windows::Lease lease = impl().windows().Allocate();
    ASSERT_NE(lease.window, nullptr);
    core_ = std::make_shared<SpaceCore>(impl(), lease);
    listener_ = std::make_shared<Listener>(impl(), UniqueFd());
    process_ = std::make_shared<Process>(core_, listener_, kTid, UniqueFd());
    space_ = MakeRef<SpaceImpl>(core_);
  }
  PlatformImpl& impl() { return static_cast<PlatformImpl&>(client_.platform()); }
  RefPtr<ThreadImpl> MakeThread(uint32_t slot) { return MakeRef<ThreadImpl>(impl(), process_, RefPtr<SpaceImpl>(space_), kTid, slot); }
  // As the monitor does it.
  void TakeApart() {
    for (const RefPtr<ThreadImpl>& thread : process_->TakeThreads()) {
      core_->RemoveTid(thread->host_tid());
      listener_->Remove(thread->host_tid());
    }
  }

  TestClient client_;
  std::shared_ptr<SpaceCore> core_;
  std::shared_ptr<Listener> listener_;
  std::shared_ptr<Process> process_;
  RefPtr<SpaceImpl> space_;
};

TEST_F(ReapTest, AThreadIsKnownEverywhereOrNowhere) {
  RefPtr<ThreadImpl> thread = MakeThread(0);
  ASSERT_TRUE(process_->AddThread(thread));
  EXPECT_EQ(listener_->Find(kTid), thread);
  EXPECT_EQ(core_->any_tid(), kTid);
  EXPECT_EQ(process_->thread_count(), 1);
  TakeApart();
  EXPECT_FALSE(listener_->Find(kTid));
  EXPECT_EQ(core_->any_tid(), 0);
  EXPECT_EQ(thread->ref_count(), 1);

  RefPtr<ThreadImpl> late = MakeThread(1);
  EXPECT_FALSE(process_->AddThread(late));
  EXPECT_FALSE(listener_->Find(kTid));
  EXPECT_EQ(core_->any_tid(), 0);
  EXPECT_EQ(process_->thread_count(), 0);
  EXPECT_EQ(late->ref_count(), 1);
}

TEST_F(ReapTest, NothingWaitsForADeadProcess) {
  // (Work holds its thread, and that its process.)
  auto early = std::make_shared<int>(), late = std::make_shared<int>();
  int forks = 0;
  process_->WhenNoDescriptor([&forks] { forks++; });
  process_->WhenNoFork([early] { FAIL(); });
  EXPECT_EQ(forks, 1);
  EXPECT_EQ(early.use_count(), 2);
  TakeApart();
  EXPECT_EQ(early.use_count(), 1);
  process_->WhenNoFork([late] { FAIL(); });
  process_->WhenNoDescriptor([late] { FAIL(); });
  EXPECT_EQ(late.use_count(), 1);
  process_->ForkDone();
}

// Of an address space that other processes share: they would run out of them.
TEST_F(ReapTest, ADeadParentsUnbornLeaveTheirSlots) {
  auto slots_left = [this] {
    std::vector<uint32_t> taken;
    for (int slot; (slot = core_->AllocateSlot()) >= 0;) taken.push_back(static_cast<uint32_t>(slot));
    for (uint32_t slot : taken) core_->FreeSlot(slot);
    return taken.size();
  };
  core_->TakeSlot(0);
  for (bool new_process : {false, true}) {
    RefPtr<ThreadImpl> parent = MakeThread(0);
    Thread::CloneOptions options;
    options.new_process = new_process;
    auto held = std::make_shared<int>();
    parent->Clone(options, [held](ErrnoOr<Thread*>) { FAIL(); });
    EXPECT_EQ(held.use_count(), 2);
    EXPECT_EQ(slots_left(), kMaxThreads - 2);
    parent->SetGone();
    parent->DropOrders();
    EXPECT_EQ(held.use_count(), 1);
    EXPECT_EQ(slots_left(), kMaxThreads - 1);
    // Cut off before the order is there.
    parent->Clone(options, [](ErrnoOr<Thread*>) { FAIL(); });
    EXPECT_EQ(slots_left(), kMaxThreads - 1);
  }
}

}  // namespace
}  // namespace amber::platform
