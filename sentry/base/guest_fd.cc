#include "sentry/base/guest_fd.h"

#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

namespace amber {
namespace {

// Small tables (tests, odd machines) keep a quarter.
constexpr rlim_t kReserve = 512;

// The kernel gives out the lowest free number, so the numbers tell how many there are.
int first_reserved = INT32_MAX;

}  // namespace

void KeepDescriptorsForSelf() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT32_MAX) return;
  first_reserved = static_cast<int>(limit.rlim_cur - std::min(kReserve, limit.rlim_cur / 4));
}

UniqueFd GuestFd(int fd) {
  UniqueFd owned(fd);
  if (fd < first_reserved) return owned;
  owned.reset();
  errno = EMFILE;
  return owned;
}

}  // namespace amber
