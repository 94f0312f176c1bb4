#include "sentry/mm/vma.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

namespace amber {
namespace {

constexpr uint64_t kBase = 0x100000;
constexpr int kPages = 48;

// What a page holds in the model: protection, flags, image offset; nothing if absent.
struct Page {
  bool mapped = false;
  int prot = 0;
  uint32_t flags = 0;
  bool image = false;
  uint64_t image_offset = 0;
  friend bool operator==(const Page&, const Page&) = default;
};
using Model = std::array<Page, kPages>;

uint64_t At(int page) { return kBase + static_cast<uint64_t>(page) * kPageSize; }

Vma Make(int from, int to, int prot, uint32_t flags, bool image, uint64_t image_offset) {
  Vma v;
  v.start = At(from);
  v.end = At(to);
  v.prot = prot;
  v.flags = flags;
  v.image = image;
  v.image_offset = image_offset;
  return v;
}

void Compare(const VmaSet& set, const Model& model) {
  Model seen;
  uint64_t total = 0, data = 0, locked = 0;
  const Vma* last = nullptr;
  for (const auto& [start, v] : set) {
    ASSERT_EQ(start, v.start);
    ASSERT_LT(v.start, v.end);
    if (last != nullptr) {
      ASSERT_LE(last->end, v.start);
      ASSERT_FALSE(last->MergesWith(v));
    }
    last = &v;
    total += v.size();
    if (v.data()) data += v.size();
    if (v.locked()) locked += v.size();
    for (uint64_t a = v.start; a < v.end; a += kPageSize) {
      seen[(a - kBase) / kPageSize] = {true, v.prot, v.flags, v.image, v.image ? v.image_offset + (a - v.start) : 0};
    }
  }
  ASSERT_EQ(seen, model);
  ASSERT_EQ(set.total(), total);
  ASSERT_EQ(set.data(), data);
  ASSERT_EQ(set.locked(), locked);
}

void CompareQueries(const VmaSet& set, const Model& model, int from, int to) {
  int hole = from;
  while (hole < to && model[static_cast<size_t>(hole)].mapped) ++hole;
  ASSERT_EQ(set.FirstHole(At(from), At(to)), At(hole));
  bool free = true;
  for (int i = from; i < to; ++i) free &= !model[static_cast<size_t>(i)].mapped;
  ASSERT_EQ(set.IsFree(At(from), At(to)), free || from == to);
  for (int size = 1; size <= 5; ++size) {
    int top = -1, bottom = -1;
    for (int i = 0; i + size <= kPages; ++i) {
      bool fits = true;
      for (int k = i; k < i + size; ++k) fits &= !model[static_cast<size_t>(k)].mapped;
      if (!fits) continue;
      if (bottom < 0) bottom = i;
      top = i;
    }
    auto down = set.FindFreeTopDown(static_cast<uint64_t>(size) * kPageSize, At(0), At(kPages));
    auto up = set.FindFreeBottomUp(static_cast<uint64_t>(size) * kPageSize, At(0), At(kPages));
    ASSERT_EQ(down.has_value(), top >= 0);
    ASSERT_EQ(up.has_value(), bottom >= 0);
    if (top >= 0) {
      ASSERT_EQ(*down, At(top));
      ASSERT_EQ(*up, At(bottom));
    }
  }
}

TEST(VmaSetTest, BehavesAsAnArrayOfPages) {
  std::mt19937 random(4711);
  auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 60; ++round) {
    VmaSet set;
    Model model;
    for (int step = 0; step < 150; ++step) {
      int from = pick(kPages), to = from + 1 + pick(kPages - from);
      int what = pick(3);
      int prot = pick(2) != 0 ? PROT_READ | PROT_WRITE : PROT_READ;
      uint32_t flags = pick(3) == 0 ? Vma::kLocked : 0;
      if (what == 0) {  // map over what is there
        bool image = pick(3) == 0;
        // Image offsets that continue in address order, so that neighbours may merge.
        uint64_t offset = image ? static_cast<uint64_t>(from) * kPageSize : 0;
        set.Remove(At(from), At(to));
        set.Insert(Make(from, to, prot, flags, image, offset));
        for (int i = from; i < to; ++i) {
          model[static_cast<size_t>(i)] = {true, prot, flags, image, image ? static_cast<uint64_t>(i) * kPageSize : 0};
        }
      } else if (what == 1) {
        for (const Vma& v : set.Remove(At(from), At(to))) ASSERT_TRUE(v.start >= At(from) && v.end <= At(to));
        for (int i = from; i < to; ++i) model[static_cast<size_t>(i)] = Page();
      } else {
        set.Update(At(from), At(to), [&](Vma& v) { v.prot = prot; });
        for (int i = from; i < to; ++i) {
          if (model[static_cast<size_t>(i)].mapped) model[static_cast<size_t>(i)].prot = prot;
        }
      }
      Compare(set, model);
      if (HasFatalFailure()) return;
      CompareQueries(set, model, from, to);
      if (HasFatalFailure()) return;
    }
  }
}

TEST(VmaSetTest, FindAndSlice) {
  VmaSet set;
  set.Insert(Make(2, 5, PROT_READ, 0, false, 0));
  EXPECT_EQ(set.Find(At(1)), nullptr);
  EXPECT_EQ(set.Find(At(5)), nullptr);
  ASSERT_NE(set.Find(At(5) - 1), nullptr);
  EXPECT_EQ(set.Find(At(5) - 1)->start, At(2));
  EXPECT_EQ(set.Slice(At(3), At(4)).size(), 1u);
  EXPECT_EQ(set.Slice(At(3), At(4))[0].start, At(3));
  EXPECT_TRUE(set.Slice(At(5), At(9)).empty());
  EXPECT_TRUE(set.Slice(At(3), At(3)).empty());
}

TEST(VmaSetTest, AlignedSearch) {
  VmaSet set;
  auto at = set.FindFreeTopDown(kPageSize, 0x100000, 0x345000, 0x10000);
  ASSERT_TRUE(at.has_value());
  EXPECT_EQ(*at, 0x340000u);
  EXPECT_FALSE(set.FindFreeTopDown(0x2000, 0x101000, 0x10f000, 0x10000).has_value());
}

TEST(VmaSetTest, OtherKindsStayApart) {
  VmaSet set;
  Vma heap = Make(0, 1, PROT_READ, 0, false, 0);
  heap.name = VmaName::kHeap;
  set.Insert(heap);
  set.Insert(Make(1, 2, PROT_READ, 0, false, 0));
  Vma shared = Make(2, 3, PROT_READ, 0, false, 0);
  shared.shared = true;
  set.Insert(shared);
  EXPECT_EQ(set.count(), 3u);
  set.Insert(Make(4, 5, PROT_READ, 0, true, 4 * kPageSize));
  set.Insert(Make(5, 6, PROT_READ, 0, true, 9 * kPageSize));  // elsewhere in the image
  EXPECT_EQ(set.count(), 5u);
}

}  // namespace
}  // namespace amber
