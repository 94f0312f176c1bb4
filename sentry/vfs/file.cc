#include "sentry/vfs/file.h"

#include <poll.h>

namespace amber {

File::~File() {
  std::vector<ReleaseObserver*> observers = std::move(observers_);
  for (ReleaseObserver* o : observers) o->OnRelease(*this);
}

uint32_t File::Poll(Task& /*task*/) { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM; }

}  // namespace amber
