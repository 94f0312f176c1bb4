#include "sentry/fs/fanotify/permission.h"

#include <fcntl.h>
#include <sys/fanotify.h>

#include "sentry/fs/fanotify/fanotify.h"
#include "sentry/fs/fanotify/fanotify.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/inode.h"

namespace amber {

void FanotifyPermission::Answer(bool allow) {
  if (answered()) return;
  allowed_ = allow;
  SetAnswered();
}

std::string FanotifyPermission::Save(state::Saver&) const {
  fanotify_state::Permission m;
  m.set_key(key());
  m.set_answered(answered());
  m.set_allowed(allowed_);
  m.set_abandoned(abandoned_);
  return m.SerializeAsString();
}

bool FanotifyPermission::Load(state::Loader& loader, std::string_view bytes) {
  fanotify_state::Permission m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a call that waits for leave is malformed");
  set_key(m.key());
  if (m.answered()) set_answered_before();
  allowed_ = m.allowed();
  abandoned_ = m.abandoned();
  return true;
}

// fanotify_get_response()
ErrnoOr<void> Fanotify::OnPlacePermission(const VfsPath& place, uint32_t mask) {
  uint32_t matched = 0;
  uint32_t told = InterestIn(EventAt(place, mask), place.mount.get(), &matched) & kFanotifyPermissions;
  Task* task = ServedCall::Current();
  if (told == 0 || task == nullptr) return Ok();  // the kernel itself asks nobody
  ServedCall& call = ServedCall::Of(*task);
  std::string key = "leave " + std::to_string(number_) + " " + std::to_string(told) + " " + std::to_string(place.mount->fs().dev()) + " " +
                    std::to_string(place.inode()->ino());
  if (RefPtr<ServedRequest> known = call.Find(key)) {
    auto* mine = dynamic_cast<FanotifyPermission*>(known.get());
    if (mine == nullptr) return Errno(EIO);
    if (!mine->answered()) return ServedCall::WaitFor(*task, *mine);
    return mine->allowed() ? Ok() : ErrnoOr<void>(Errno(EPERM));
  }
  if (call.requests() >= ServedCall::kMostRequests) return Errno(EIO);
  auto request = MakeRef<FanotifyPermission>(std::move(key));
  // An event that was lost for want of room forbids nothing.
  if (!Queue({.mask = told, .place = place, .permission = request})) return Ok();
  call.Add(request);
  return ServedCall::WaitFor(*task, *request);
}

// process_access_response()
ErrnoOr<size_t> Fanotify::Write(Task&, Source& source) {
  fanotify_response response;
  size_t size = source.remaining();
  if (size < sizeof(response)) return Errno(EINVAL);
  if (TRY(source.Take(&response, sizeof(response))) != sizeof(response)) return Errno(EFAULT);
  if (response.response != FAN_ALLOW && response.response != FAN_DENY) return Errno(EINVAL);
  if (response.fd < 0) return Errno(EINVAL);
  for (auto it = unanswered_.begin(); it != unanswered_.end(); ++it) {
    if (it->first != response.fd) continue;
    RefPtr<FanotifyPermission> request = std::move(it->second);
    unanswered_.erase(it);
    request->Answer(response.response == FAN_ALLOW);
    return size;
  }
  return Errno(ENOENT);
}

void Fanotify::DropAbandoned() {
  while (!events_.empty() && events_.front().permission && events_.front().permission->abandoned()) (void)Take();
}

// fanotify_release()
void Fanotify::AllowAll() {
  for (Event& event : events_) {
    if (event.permission) event.permission->Answer(true);
  }
  for (auto& [fd, request] : unanswered_) request->Answer(true);
}

}  // namespace amber
