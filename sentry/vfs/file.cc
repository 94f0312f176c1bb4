#include "sentry/vfs/file.h"

#include <poll.h>

namespace amber {

uint32_t File::Poll(Task& /*task*/) { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM; }

}  // namespace amber
