#include "sentry/base/descriptor_table.h"

#include <fcntl.h>
#include <unistd.h>

namespace amber {

void ReserveDescriptors(int any, int count) {
  constexpr int kLeast = 64;  // every table has room for these
  for (; count > kLeast; count /= 2) {
    int last = fcntl(any, F_DUPFD_CLOEXEC, count - 1);
    if (last < 0) continue;  // EINVAL: beyond RLIMIT_NOFILE
    close(last);
    return;
  }
}

}  // namespace amber
