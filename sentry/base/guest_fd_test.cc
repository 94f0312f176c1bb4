#include "sentry/base/guest_fd.h"

#include <fcntl.h>
#include <sys/resource.h>

#include <cerrno>
#include <vector>

#include "gtest/gtest.h"

namespace amber {
namespace {

TEST(GuestFd, LeavesTheReserve) {
  rlimit limit = {64, 64};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  KeepDescriptorsForSelf();
  std::vector<UniqueFd> files;
  for (;;) {
    UniqueFd fd = GuestFd(open("/dev/null", O_RDONLY | O_CLOEXEC));
    if (!fd.valid()) break;
    files.push_back(std::move(fd));
  }
  EXPECT_EQ(errno, EMFILE);
  EXPECT_EQ(files.back().get(), 47);  // a quarter of 64 is kept
  std::vector<UniqueFd> own;
  for (int i = 0; i < 16; ++i) {
    own.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(own.back().valid());
  }
  files.pop_back();
  EXPECT_TRUE(GuestFd(open("/dev/null", O_RDONLY | O_CLOEXEC)).valid());
  UniqueFd none = GuestFd(open("/nothing", O_RDONLY | O_CLOEXEC));
  EXPECT_FALSE(none.valid());
  EXPECT_EQ(errno, ENOENT);
}

}  // namespace
}  // namespace amber
