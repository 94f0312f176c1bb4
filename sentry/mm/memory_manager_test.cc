#include "sentry/mm/memory_manager.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>

#include "checkpoint/state.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/pages.h"
#include "sentry/mm/proc_text.h"

namespace amber::state {
// These tests load single objects, not images.
Loader::Factory FactoryOf(Kind) { return nullptr; }
}  // namespace amber::state

namespace amber {
namespace {

using platform::kGuestTop;

Vma Anonymous(uint64_t start, uint64_t size, int prot = PROT_READ | PROT_WRITE) {
  Vma v;
  v.start = start;
  v.end = start + size;
  v.prot = prot;
  return v;
}

TEST(MemoryManagerTest, PlacesTopDownBelowTheBase) {
  MemoryManager mm;
  mm.layout().mmap_base = 0x7f0000000000;
  EXPECT_EQ(mm.Place(0, 0x3000).value(), 0x7f0000000000 - 0x3000u);
  mm.Record(Anonymous(0x7f0000000000 - 0x3000, 0x3000));
  EXPECT_EQ(mm.Place(0, 0x1000).value(), 0x7f0000000000 - 0x4000u);
  // A free hint is taken, an occupied one is not.
  EXPECT_EQ(mm.Place(0x600000, 0x1000).value(), 0x600000u);
  EXPECT_EQ(mm.Place(0x7f0000000000 - 0x2000, 0x1000).value(), 0x7f0000000000 - 0x4000u);
  EXPECT_EQ(mm.Place(0x1000, 0x1000).value(), 0x7f0000000000 - 0x4000u);  // below the lowest address
  EXPECT_TRUE(mm.Place(0, 0).Is(ENOMEM));
  EXPECT_TRUE(mm.Place(0, kGuestTop).Is(ENOMEM));
  EXPECT_LT(mm.Place(0, 0x1000, true).value(), 0x80000000u);
}

TEST(MemoryManagerTest, AvoidsWhatIsReserved) {
  MemoryManager mm;
  mm.layout().mmap_base = 0x7f0000000000;
  mm.Reserve(0x7f0000000000 - 0x5000, 0x7f0000000000 - 0x3000);
  EXPECT_EQ(mm.Place(0, 0x3000).value(), 0x7f0000000000 - 0x3000u);
  EXPECT_EQ(mm.Place(0, 0x4000).value(), 0x7f0000000000 - 0x9000u);
  EXPECT_FALSE(mm.IsGuestRange(0x7f0000000000 - 0x4000, 0x7f0000000000));
  EXPECT_FALSE(mm.IsGuestRange(kGuestTop - 0x1000, kGuestTop + 0x1000));
  EXPECT_FALSE(mm.IsGuestRange(0, 0x1000));
  EXPECT_TRUE(mm.IsGuestRange(kGuestTop - 0x1000, kGuestTop));
}

TEST(MemoryManagerTest, GoesAboveTheBaseWhenTheRestIsFull) {
  MemoryManager mm;
  mm.layout().mmap_base = 0x7f0000000000;
  mm.Record(Anonymous(platform::kMinAddress, 0x7f0000000000 - platform::kMinAddress));
  EXPECT_EQ(mm.Place(0, 0x1000).value(), kGuestTop - 0x1000);
}

TEST(MemoryManagerTest, Limits) {
  MemoryManager mm;
  mm.Record(Anonymous(0x100000, 0x10000));
  MemoryLimits limits;
  EXPECT_TRUE(mm.CheckLimits(limits, uint64_t{1} << 46, uint64_t{1} << 46, 0, 1).ok());
  limits.address_space = 0x18000;
  EXPECT_TRUE(mm.CheckLimits(limits, 0x8000, 0, 0, 1).ok());
  EXPECT_TRUE(mm.CheckLimits(limits, 0x9000, 0, 0, 1).Is(ENOMEM));
  limits.data = 0x11000;
  EXPECT_TRUE(mm.CheckLimits(limits, 0x2000, 0x2000, 0, 1).Is(ENOMEM));
  limits.memlock = 0x1000;
  EXPECT_TRUE(mm.CheckLimits(limits, 0x1000, 0, 0x2000, 1).ok());  // CAP_IPC_LOCK
  limits.may_lock = false;
  EXPECT_TRUE(mm.CheckLimits(limits, 0x1000, 0, 0x2000, 1).Is(EAGAIN));
  EXPECT_TRUE(mm.CheckLimits(limits, 0, 0, 0, MemoryManager::kMaxMappings).Is(ENOMEM));
}

TEST(MemoryManagerTest, Fork) {
  MemoryManager mm;
  Vma v = Anonymous(0x100000, 0x1000);
  v.flags = Vma::kLocked;
  mm.Record(v);
  v = Anonymous(0x200000, 0x1000);
  v.flags = Vma::kDontFork;
  mm.Record(v);
  v = Anonymous(0x300000, 0x1000);
  v.image = true;
  v.image_offset = 0x5000;
  mm.Record(v);
  mm.layout().brk = 77;
  RefPtr<MemoryManager> child = mm.Fork();
  EXPECT_EQ(child->vmas().count(), 2u);
  EXPECT_FALSE(child->vmas().Find(0x100000)->locked());
  EXPECT_EQ(child->vmas().Find(0x200000), nullptr);
  EXPECT_TRUE(child->vmas().Find(0x300000)->image);
  EXPECT_EQ(child->layout().brk, 77u);
}

TEST(MemoryManagerTest, SaveAndLoad) {
  MemoryManager mm;
  Vma v = Anonymous(0x100000, 0x3000);
  v.name = VmaName::kHeap;
  v.flags = Vma::kDontDump;
  mm.Record(v);
  mm.Record(Anonymous(0x200000, 0x1000, PROT_READ));
  mm.layout().start_stack = 0x1234;
  mm.set_auxv({1, 2, 3});
  state::Saver saver;
  std::string bytes = mm.Save(saver);
  MemoryManager copy;
  state::Loader loader([](uint64_t) { return -1; });
  ASSERT_TRUE(copy.Load(loader, bytes)) << loader.error();
  EXPECT_EQ(copy.vmas().count(), 2u);
  EXPECT_EQ(copy.vmas().Find(0x100000)->name, VmaName::kHeap);
  EXPECT_EQ(copy.vmas().Find(0x100000)->flags, Vma::kDontDump);
  EXPECT_EQ(copy.vmas().total(), 0x4000u);
  EXPECT_EQ(copy.layout().start_stack, 0x1234u);
  EXPECT_EQ(copy.auxv(), (std::vector<uint64_t>{1, 2, 3}));
  // Damage is refused, or harmless; it never gives a tree that breaks its own rules.
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = bytes;
      bad[i] = static_cast<char>(bad[i] ^ (1 << bit));
      MemoryManager other;
      state::Loader again([](uint64_t) { return -1; });
      if (!other.Load(again, bad)) continue;
      for (const auto& [start, vma] : other.vmas()) {
        EXPECT_LT(vma.start, vma.end);
        EXPECT_LE(vma.end, kGuestTop);
      }
    }
  }
}

TEST(PagesTest, RestoreMapsRunsFromTheImage) {
  MemoryManager mm;
  mm.Record(Anonymous(0x100000, 0x10000));
  Vma wiped = Anonymous(0x200000, 0x2000);
  wiped.flags = Vma::kWipeOnFork;
  mm.Record(wiped);
  RestoreSources sources;
  sources.image_fd = 9;
  ImageRun runs[] = {{0x102000, 0x105000, 0x40000}, {0x200000, 0x201000, 0x43000}};
  std::vector<ImageRun> copies;
  auto ops = RestoreOps(mm, runs, sources, &copies);
  ASSERT_TRUE(ops.ok());
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].image_offset, 0x43000u);
  ASSERT_EQ(ops->size(), 5u);  // before, image, behind, wiped, advice
  const platform::StubOp& image = (*ops)[1];
  EXPECT_EQ(image.number, static_cast<uint64_t>(SYS_mmap));
  EXPECT_EQ(image.args[0], 0x102000u);
  EXPECT_EQ(image.args[1], 0x3000u);
  EXPECT_EQ(image.args[3], static_cast<uint64_t>(MAP_PRIVATE | MAP_FIXED));
  EXPECT_EQ(image.args[5], 0x40000u);
  EXPECT_EQ(image.fd, 9);
  EXPECT_EQ((*ops)[0].fd, -1);
  EXPECT_EQ((*ops)[4].number, static_cast<uint64_t>(SYS_madvise));
  EXPECT_TRUE(mm.vmas().Find(0x103000)->image);
  EXPECT_FALSE(mm.vmas().Find(0x105000)->image);
  // A run outside of the mappings is an image that lies.
  ImageRun bad[] = {{0x300000, 0x301000, 0}};
  EXPECT_TRUE(RestoreOps(mm, bad, sources, &copies).Is(EINVAL));
  ImageRun unaligned[] = {{0x100000, 0x101000, 7}};
  EXPECT_TRUE(RestoreOps(mm, unaligned, sources, &copies).Is(EINVAL));
}

TEST(ProcTextTest, Maps) {
  MemoryManager mm;
  Vma heap = Anonymous(0x100000, 0x3000);
  heap.name = VmaName::kHeap;
  mm.Record(heap);
  // What only the host sees differently is one mapping to the guest.
  mm.Record(Anonymous(0x7f0000000000, 0x1000, PROT_READ | PROT_EXEC));
  Vma image = Anonymous(0x7f0000001000, 0x1000, PROT_READ | PROT_EXEC);
  image.image = true;
  mm.Record(image);
  alignas(Task) static char never_used[sizeof(Task)];
  MapsContext context{reinterpret_cast<Task&>(never_used), nullptr};
  EXPECT_EQ(MapsText(mm, context),
            "00100000-00103000 rw-p 00000000 00:00 0                                  [heap]\n"
            "7f0000000000-7f0000002000 r-xp 00000000 00:00 0 \n");
  EXPECT_EQ(StatmText(mm), "5 0 0 0 0 3 0\n");
  EXPECT_NE(StatusMemoryText(mm).find("VmSize:\t      20 kB\n"), std::string::npos);
}

}  // namespace
}  // namespace amber
