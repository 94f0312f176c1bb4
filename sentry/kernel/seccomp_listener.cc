#include "sentry/kernel/seccomp_listener.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_owner.h"

namespace amber {
namespace {

using State = SeccompNotification::State;

constexpr uint32_t kReceive = SECCOMP_IOCTL_NOTIF_RECV, kSend = SECCOMP_IOCTL_NOTIF_SEND;
// The second one has its direction wrong, as programs of before 5.17 do.
constexpr uint32_t kIdValid = SECCOMP_IOW(2, uint64_t), kIdValidWrong = SECCOMP_IOR(2, uint64_t);
constexpr uint32_t kSetFlags = SECCOMP_IOW(4, uint64_t);
constexpr uint64_t kSyncWakeUp = 1;
// SECCOMP_IOCTL_NOTIF_ADDFD, whatever size its structure has.
constexpr uint32_t kAddFdNumber = 3;
constexpr uint32_t kAddFdSet = 1, kAddFdSend = 2;

struct AddFdRequest {
  uint64_t id;
  uint32_t flags, source, target, target_flags;
};
static_assert(sizeof(AddFdRequest) == 24);

}  // namespace

SeccompNotification::~SeccompNotification() {
  if (listener != nullptr) listener->Drop(*this);
}

void SeccompNotification::Reply(int32_t with_error, int64_t with_value, bool go_on) {
  state = State::kReplied;
  error = with_error;
  value = with_value;
  goes_on = go_on;
  queue.Notify(POLLIN);
}

SeccompListener::SeccompListener(RefPtr<SeccompFilter> filter, bool wait_killable) : filter_(std::move(filter)), wait_killable_(wait_killable) {
  set_flags(O_RDWR);
  filter_->set_listener(this);
}

// seccomp_notify_detach().
SeccompListener::~SeccompListener() {
  if (filter_) filter_->set_listener(nullptr);
  for (SeccompNotification* n : notifications_) {
    n->listener = nullptr;
    if (n->state != State::kReplied) n->Reply(-ENOSYS, 0, false);
  }
}

void SeccompListener::Add(SeccompNotification& notification) {
  notification.listener = this;
  if (notification.id == 0) notification.id = next_id_++;
  auto at = std::ranges::find_if(notifications_, [&](const SeccompNotification* n) { return n->id > notification.id; });
  notifications_.insert(at, &notification);
  queue_.Notify(POLLIN | POLLRDNORM);
}

void SeccompListener::Drop(SeccompNotification& notification) { std::erase(notifications_, &notification); }

SeccompNotification* SeccompListener::Find(uint64_t id) {
  for (SeccompNotification* n : notifications_) {
    if (n->id == id) return n;
  }
  return nullptr;
}

bool SeccompListener::IsUsed(Task& task) const {
  for (const RefPtr<Task>& t : task.kernel().LiveTasks()) {
    const SeccompFilter* theirs = t->extras().seccomp.get();
    if (theirs != nullptr && theirs->StandsOn(filter_.get())) return true;
  }
  return false;
}

uint32_t SeccompListener::Poll(Task& task) {
  uint32_t events = 0;
  for (const SeccompNotification* n : notifications_) {
    if (n->state == State::kNew) events |= POLLIN | POLLRDNORM;
    if (n->state == State::kReceived) events |= POLLOUT | POLLWRNORM;
  }
  if (!IsUsed(task)) events |= POLLHUP;
  return events;
}

ErrnoOr<uint64_t> SeccompListener::Receive(Task& task, uint64_t address) {
  // Reserved for extensions of the structure: must be zero.
  auto before = TRY(task.CopyIn(UserPtr<const seccomp_notif>(address)));
  static constexpr seccomp_notif kZero{};
  if (memcmp(&before, &kZero, sizeof(before)) != 0) return Errno(EINVAL);
  auto it = std::ranges::find_if(notifications_, [](const SeccompNotification* n) { return n->state == State::kNew; });
  if (it == notifications_.end()) {
    if (!IsUsed(task)) return Errno(ENOENT);
    return task.Block(queue_, POLLIN | kHangup);
  }
  SeccompNotification& n = **it;
  seccomp_notif out{};
  out.id = n.id;
  out.pid = static_cast<uint32_t>(task.group().pids().IdOf(n.task));
  out.data = n.data;
  TRY(task.CopyOut(UserPtr<seccomp_notif>(address), out));
  n.state = State::kReceived;
  // From now on it may be one that waits until it is killed.
  if (wait_killable_) n.queue.Notify(POLLIN);
  queue_.Notify(POLLOUT | POLLWRNORM);
  return 0;
}

ErrnoOr<uint64_t> SeccompListener::Send(Task& task, uint64_t address) {
  auto answer = TRY(task.CopyIn(UserPtr<const seccomp_notif_resp>(address)));
  if ((answer.flags & ~uint32_t{SECCOMP_USER_NOTIF_FLAG_CONTINUE}) != 0) return Errno(EINVAL);
  bool go_on = answer.flags != 0;
  if (go_on && (answer.error != 0 || answer.val != 0)) return Errno(EINVAL);
  SeccompNotification* n = Find(answer.id);
  if (n == nullptr) return Errno(ENOENT);
  if (n->state != State::kReceived) return Errno(EINPROGRESS);
  n->Reply(answer.error, answer.val, go_on);
  return 0;
}

// The structure may be longer than is known, as long as what is not known is zero (copy_struct_from_user).
ErrnoOr<uint64_t> SeccompListener::AddFd(Task& task, uint64_t address, size_t size) {
  if (size < sizeof(AddFdRequest) || size >= 4096) return Errno(EINVAL);
  std::vector<char> bytes = TRY(task.CopyInArray(UserPtr<const char>(address), size));
  if (std::any_of(bytes.begin() + sizeof(AddFdRequest), bytes.end(), [](char c) { return c != 0; })) return Errno(E2BIG);
  AddFdRequest request;
  memcpy(&request, bytes.data(), sizeof(request));
  if ((request.target_flags & ~uint32_t{O_CLOEXEC}) != 0 || (request.flags & ~(kAddFdSet | kAddFdSend)) != 0) return Errno(EINVAL);
  if (request.target != 0 && (request.flags & kAddFdSet) == 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(static_cast<int>(request.source)));
  SeccompNotification* n = Find(request.id);
  if (n == nullptr) return Errno(ENOENT);
  if (n->state != State::kReceived) return Errno(EINPROGRESS);
  bool close_on_exec = request.target_flags != 0;
  uint64_t limit = n->task.limit(RLIMIT_NOFILE);
  int number = static_cast<int>(request.target);
  RefPtr<Task> target(&n->task);
  if ((request.flags & kAddFdSet) != 0) {
    RefPtr<File> old = TRY(target->files().Replace(number, std::move(file), close_on_exec, limit));
    if (old) TellClosed(*old, *target);
  } else {
    number = TRY(target->files().Allocate(std::move(file), close_on_exec, limit));
  }
  if ((request.flags & kAddFdSend) != 0) n->Reply(0, number, false);
  return static_cast<uint64_t>(number);
}

ErrnoOr<uint64_t> SeccompListener::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  switch (command) {
    case kReceive: return Receive(task, argument);
    case kSend: return Send(task, argument);
    case kIdValid:
    case kIdValidWrong: {
      SeccompNotification* n = Find(TRY(task.CopyIn(UserPtr<const uint64_t>(argument))));
      if (n == nullptr || n->state != State::kReceived) return Errno(ENOENT);
      return 0;
    }
    case kSetFlags:
      // A hint on where the host wakes whom.
      return (argument & ~kSyncWakeUp) != 0 ? ErrnoOr<uint64_t>(Errno(EINVAL)) : ErrnoOr<uint64_t>(uint64_t{0});
    default:
      if (_IOC_TYPE(command) == SECCOMP_IOC_MAGIC && _IOC_NR(command) == kAddFdNumber && _IOC_DIR(command) == _IOC_WRITE) {
        return AddFd(task, argument, _IOC_SIZE(command));
      }
      return Errno(EINVAL);
  }
}

ErrnoOr<void> SeccompListener::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

std::string SeccompListener::Save(state::Saver& saver) const {
  proto::SeccompListener m;
  m.set_filter(saver.Ref(filter_));
  m.set_wait_killable(wait_killable_);
  m.set_next_id(next_id_);
  m.set_flags(static_cast<uint32_t>(flags()));
  return m.SerializeAsString();
}

bool SeccompListener::Load(state::Loader& loader, std::string_view bytes) {
  proto::SeccompListener m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a listener of a filter is malformed");
  filter_ = loader.GetRef<SeccompFilter>(m.filter());
  if (!filter_) return loader.Fail("a listener has no filter");
  wait_killable_ = m.wait_killable();
  next_id_ = m.next_id();
  set_flags(static_cast<int>(m.flags()));
  return true;
}

bool SeccompListener::AfterLoad(state::Loader& loader) {
  if (filter_->listener() != nullptr) return loader.Fail("a filter has two listeners");
  filter_->set_listener(this);
  return true;
}

}  // namespace amber
