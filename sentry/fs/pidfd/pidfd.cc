#include "sentry/fs/pidfd/pidfd.h"

#include <poll.h>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/pidfd/pidfd.pb.h"

namespace amber {

PidFd::PidFd(RefPtr<ThreadGroup> group, RefPtr<Task> task, int flags) : group_(std::move(group)), task_(std::move(task)) {
  set_flags(O_RDWR | flags);
}

bool PidFd::alive() const {
  if (task_) return !task_->exiting();
  return group_->pids().FindGroup(group_->pid()) == group_.get();
}

ErrnoOr<void> PidFd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t PidFd::Poll(Task&) {
  uint32_t events = 0;
  if (group_->zombie() || (task_ && task_->exiting())) events = POLLIN | POLLRDNORM;
  if (!alive()) events = POLLIN | POLLRDNORM | POLLHUP;
  return events;
}

std::string PidFd::FdInfo() const {
  // TODO(compat): in the terms of the reader's /proc.
  int pid = alive() ? (task_ ? task_->tid() : group_->pid()) : -1;
  return "Pid:\t" + std::to_string(pid) + "\nNSpid:\t" + std::to_string(pid) + "\n";
}

std::string PidFd::Save(state::Saver& saver) const {
  proto::PidFd m;
  m.set_group(saver.Ref(group_));
  m.set_task(saver.Ref(task_));
  m.set_flags(static_cast<uint32_t>(flags()));
  return m.SerializeAsString();
}

bool PidFd::Load(state::Loader& loader, std::string_view bytes) {
  proto::PidFd m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  group_ = loader.GetRef<ThreadGroup>(m.group());
  task_ = loader.GetRef<Task>(m.task());
  set_flags(static_cast<int>(m.flags()));
  return static_cast<bool>(group_);
}

}  // namespace amber
