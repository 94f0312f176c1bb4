#include "sentry/fs/eventfd/eventfd.h"

#include <poll.h>

#include <cstdio>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/eventfd/eventfd.pb.h"

namespace amber {

void EventFd::Signal(uint64_t value) {
  count_ = value > kMax - count_ ? UINT64_MAX : count_ + value;
  queue_.Notify(POLLIN | POLLRDNORM);
}

ErrnoOr<size_t> EventFd::Read(Task&, Sink& sink) {
  if (sink.remaining() < sizeof(uint64_t)) return Errno(EINVAL);
  if (count_ == 0) return Errno(EAGAIN);
  uint64_t value = semaphore_ ? 1 : count_;
  // The counter goes down even if the bytes cannot be delivered (eventfd_read).
  count_ -= value;
  queue_.Notify(POLLOUT | POLLWRNORM);
  size_t put = TRY(sink.Put(&value, sizeof(value)));
  if (put != sizeof(value)) return Errno(EFAULT);
  return sizeof(value);
}

ErrnoOr<size_t> EventFd::Write(Task&, Source& source) {
  uint64_t value = 0;
  // Exactly one number (eventfd_write()); only reading is told more room than that.
  if (source.remaining() != sizeof(value)) return Errno(EINVAL);
  if (TRY(source.Take(&value, sizeof(value))) != sizeof(value)) return Errno(EFAULT);
  if (value == UINT64_MAX) return Errno(EINVAL);
  if (value > kMax - std::min(count_, kMax)) return Errno(EAGAIN);
  count_ += value;
  queue_.Notify(POLLIN | POLLRDNORM);
  return sizeof(value);
}

ErrnoOr<void> EventFd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t EventFd::Poll(Task&) {
  uint32_t events = 0;
  if (count_ > 0) events |= POLLIN | POLLRDNORM;
  if (count_ == UINT64_MAX) events |= POLLERR;
  if (count_ < kMax) events |= POLLOUT | POLLWRNORM;
  return events;
}

std::string EventFd::FdInfo() const {
  char line[80];
  snprintf(line, sizeof(line), "eventfd-count: %16llx\neventfd-semaphore: %d\n", static_cast<unsigned long long>(count_), semaphore_ ? 1 : 0);
  return line;
}

std::string EventFd::Save(state::Saver&) const {
  proto::EventFd m;
  m.set_count(count_);
  m.set_semaphore(semaphore_);
  m.set_flags(static_cast<uint32_t>(flags()));
  return m.SerializeAsString();
}

bool EventFd::Load(state::Loader&, std::string_view bytes) {
  proto::EventFd m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  count_ = m.count();
  semaphore_ = m.semaphore();
  set_flags(static_cast<int>(m.flags()));
  return true;
}

}  // namespace amber
