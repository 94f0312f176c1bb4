#include "sentry/vfs/file.h"

#include <poll.h>

#include "sentry/vfs/file_owner.h"

namespace amber {

File::File() = default;

void File::set_owner(std::unique_ptr<FileOwner> owner) { owner_ = std::move(owner); }

File::~File() {
  // It may be a waiter on a queue that went with the subclass; waiters unlink themselves.
  owner_.reset();
  std::vector<ReleaseObserver*> observers = std::move(observers_);
  for (ReleaseObserver* o : observers) o->OnRelease(*this);
}

uint32_t File::Poll(Task& /*task*/) { return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM; }

}  // namespace amber
