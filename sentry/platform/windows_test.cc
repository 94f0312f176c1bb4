// A window that was one guest's is all zero when the next one gets it, whatever the first wrote where.
#include "sentry/platform/windows.h"

#include <sys/stat.h>

#include <vector>

#include "gtest/gtest.h"

namespace amber::platform {
namespace {

char* At(const Windows::Lease& lease, uint64_t offset) { return reinterpret_cast<char*>(lease.window) + offset; }

bool AllZero(const Windows::Lease& lease) {
  for (uint64_t at = 0; at < kWindowSize; at += 512) {
    for (uint64_t i = 0; i < 512; i += 8) {
      if (*reinterpret_cast<uint64_t*>(At(lease, at + i)) != 0) return false;
    }
  }
  return true;
}

off_t PagesOf(const Windows& windows) {
  struct stat status = {};
  EXPECT_EQ(fstat(windows.fd(), &status), 0);
  return status.st_blocks / 8;
}

TEST(Windows, AreClearForTheNext) {
  Windows windows;
  ASSERT_TRUE(windows.Start());
  constexpr uint64_t kBox = offsetof(Window, mailboxes), kMemory = offsetof(Window, memory), kActions = offsetof(Window, actions);
  const std::vector<std::vector<uint64_t>> written = {
      {},
      {0, kBox, kMemory, kActions},
      {4096, kBox - 1, kBox + 4096, kMemory - 1, kMemory + 4096, kActions - 1, kActions + 4096, kWindowSize - 1},
      {0, 4095, 8192, kBox + 4095, kMemory + 5 * 4096, kActions + 77 * 4096 + 1},
      {kWindowSize - 4096},
      {kMemory + 4096},
  };
  for (const std::vector<uint64_t>& offsets : written) {
    Windows::Lease lease = windows.Allocate(), other = windows.Allocate();
    ASSERT_NE(lease.window, nullptr);
    ASSERT_NE(other.window, nullptr);
    for (uint64_t offset : offsets) *At(lease, offset) = *At(other, offset) = 'x';
    windows.Free(lease);
    EXPECT_LE(PagesOf(windows), 1 + 2 * 4 + static_cast<off_t>(offsets.size()));
    windows.Free(other);
    EXPECT_LE(PagesOf(windows), 1 + 2 * 4);
    for (int i = 0; i < 2; i++) {
      Windows::Lease again = windows.Allocate();
      EXPECT_TRUE(AllZero(again));
      windows.Free(again);  // reading has made all of its pages
    }
  }
}

}  // namespace
}  // namespace amber::platform
