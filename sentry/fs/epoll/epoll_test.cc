#include "sentry/fs/epoll/epoll.h"

#include "gtest/gtest.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/kernel/test_task.h"

namespace amber {
namespace {

class EpollTest : public testing::Test {
 protected:
  epoll_event Event(uint32_t events, uint64_t data) {
    epoll_event e{};
    e.events = events;
    e.data.u64 = data;
    return e;
  }
  size_t Count() { return ep_->Harvest(t_.task(), 10).size(); }
  void Read(EventFd& f) {
    uint64_t v;
    BufferSink sink(&v, sizeof(v));
    f.Read(t_.task(), sink).value();
  }
  TestTask t_;
  RefPtr<Epoll> ep_ = MakeRef<Epoll>();
  RefPtr<EventFd> a_ = MakeRef<EventFd>(0, false, 0);
  RefPtr<EventFd> b_ = MakeRef<EventFd>(0, false, 0);
};

TEST_F(EpollTest, LevelTriggered) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 7)).value();
  EXPECT_EQ(Count(), 0u);
  a_->Signal(1);
  auto events = ep_->Harvest(t_.task(), 10);
  ASSERT_EQ(events.size(), 1u);
  uint64_t data = events[0].data.u64;  // packed: no reference may be made to it
  EXPECT_EQ(data, 7u);
  uint32_t what = events[0].events;
  EXPECT_EQ(what, static_cast<uint32_t>(EPOLLIN));
  EXPECT_EQ(Count(), 1u);
  Read(*a_);
  EXPECT_EQ(Count(), 0u);
}

TEST_F(EpollTest, EdgeTriggered) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN | EPOLLET, 7)).value();
  a_->Signal(1);
  EXPECT_EQ(Count(), 1u);
  EXPECT_EQ(Count(), 0u);
  a_->Signal(1);
  EXPECT_EQ(Count(), 1u);
}

TEST_F(EpollTest, OneShot) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN | EPOLLONESHOT, 7)).value();
  a_->Signal(1);
  EXPECT_EQ(Count(), 1u);
  a_->Signal(1);
  EXPECT_EQ(Count(), 0u);
  ep_->Modify(t_.task(), 3, *a_, Event(EPOLLIN | EPOLLONESHOT, 7)).value();
  EXPECT_EQ(Count(), 1u);
}

TEST_F(EpollTest, AFullHarvestGoesRound) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 1)).value();
  ep_->Add(t_.task(), 4, *b_, Event(EPOLLIN, 2)).value();
  a_->Signal(1);
  b_->Signal(1);
  uint64_t first = ep_->Harvest(t_.task(), 1)[0].data.u64;
  uint64_t second = ep_->Harvest(t_.task(), 1)[0].data.u64;
  EXPECT_NE(first, second);
}

TEST_F(EpollTest, ErrorsOfControl) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 1)).value();
  EXPECT_TRUE(ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 1)).Is(EEXIST));
  ep_->Add(t_.task(), 4, *a_, Event(EPOLLIN, 1)).value();
  EXPECT_TRUE(ep_->Remove(5, *a_).Is(ENOENT));
  ep_->Remove(3, *a_).value();
  EXPECT_TRUE(ep_->Modify(t_.task(), 3, *a_, Event(EPOLLIN, 1)).Is(ENOENT));
}

TEST_F(EpollTest, AClosedFileLeaves) {
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 1)).value();
  a_->Signal(1);
  a_.reset();
  EXPECT_EQ(Count(), 0u);
  EXPECT_EQ(ep_->FdInfo(), "");
}

TEST_F(EpollTest, Nesting) {
  auto outer = MakeRef<Epoll>();
  outer->Add(t_.task(), 9, *ep_, Event(EPOLLIN, 5)).value();
  ep_->Add(t_.task(), 3, *a_, Event(EPOLLIN, 1)).value();
  EXPECT_EQ(outer->Harvest(t_.task(), 10).size(), 0u);
  a_->Signal(1);
  EXPECT_EQ(outer->Harvest(t_.task(), 10).size(), 1u);
  EXPECT_TRUE(ep_->Add(t_.task(), 8, *outer, Event(EPOLLIN, 1)).Is(ELOOP));
  // Five levels are one too many.
  RefPtr<Epoll> chain[6];
  for (auto& e : chain) e = MakeRef<Epoll>();
  bool refused = false;
  for (int i = 0; i < 5; ++i) refused = refused || chain[i]->Add(t_.task(), 3, *chain[i + 1], Event(EPOLLIN, 1)).Is(ELOOP);
  EXPECT_TRUE(refused);
}

}  // namespace
}  // namespace amber
