// Pid namespaces: the ids of tasks at every level (Linux: kernel/pid.c, kernel/pid_namespace.c).
#include "sentry/kernel/extras.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

int PidIds::In(const PidNamespace& ns, const PidNamespace& made_in) const {
  if (&ns == &made_in) return own;
  const PidNamespace* at = &made_in;
  for (int id : above) {
    if ((at = at->parent()) == nullptr) return 0;
    if (at == &ns) return id;
  }
  return 0;
}

PidIds IdsOf(const Task& task) { return {task.tid(), task.extras().ids_above}; }

PidNamespace::PidNamespace(RefPtr<PidNamespace> parent, RefPtr<UserNamespace> owner)
    : Namespace(std::move(owner)), level_(parent->level_ + 1), parent_(std::move(parent)) {}

PidNamespace::~PidNamespace() = default;

bool PidNamespace::IsWithin(const PidNamespace& outer) const {
  const PidNamespace* at = this;
  while (at != &outer && at != nullptr) at = at->parent();
  return at != nullptr;
}

ErrnoOr<int> PidNamespace::AllocateHere(Task* task, int wanted) {
  if (tasks_.size() >= kPidMax - 1) return Errno(EAGAIN);
  if (wanted != 0) {
    if (Taken(wanted)) return Errno(EEXIST);
    tasks_[wanted] = task;
    return wanted;
  }
  for (;;) {
    // Low numbers are for early processes alone once the counter has wrapped (RESERVED_PIDS).
    last_ = last_ + 1 >= kPidMax ? 300 : last_ + 1;
    if (Taken(last_)) continue;
    tasks_[last_] = task;
    return last_;
  }
}

ErrnoOr<PidIds> PidNamespace::Allocate(Task* task, const std::vector<int>& wanted) {
  if (dead_) return Errno(ENOMEM);
  PidIds ids;
  size_t level = 0;
  for (PidNamespace* ns = this; ns != nullptr; ns = ns->parent(), ++level) {
    auto id = ns->AllocateHere(task, level < wanted.size() ? wanted[level] : 0);
    if (!id.ok()) {
      if (level > 0) Free(ids);
      return id.error();
    }
    if (level == 0) {
      ids.own = *id;
    } else {
      ids.above.push_back(*id);
    }
  }
  return ids;
}

void PidNamespace::Free(const PidIds& ids) {
  tasks_.erase(ids.own);
  PidNamespace* ns = this;
  for (int id : ids.above) {
    ns = ns->parent();
    ns->tasks_.erase(id);
  }
}

void PidNamespace::Rebind(const PidIds& ids, Task* task) {
  tasks_[ids.own] = task;
  PidNamespace* ns = this;
  for (int id : ids.above) {
    ns = ns->parent();
    ns->tasks_[id] = task;
  }
}

int PidNamespace::IdOf(const Task& task) const { return IdsOf(task).In(*this, task.group().pids()); }

int PidNamespace::IdOf(const ThreadGroup& group) const {
  if (&group.pids() == this) return group.pid();
  // Reaped: its leader is gone.
  return group.tasks().empty() ? 0 : IdOf(*group.leader());
}

int PidNamespace::IdOf(const ProcessGroup& group) const { return group.ids_.In(*this, *group.pids_); }
int PidNamespace::IdOf(const Session& session) const {
  // An image from before ids nested.
  return session.pids_ ? session.ids_.In(*this, *session.pids_) : session.id();
}

Task* PidNamespace::FindTask(int id) const {
  auto it = tasks_.find(id);
  return it == tasks_.end() ? nullptr : it->second;
}

ThreadGroup* PidNamespace::FindGroup(int pid) const {
  Task* task = FindTask(pid);
  return task != nullptr && task->is_leader() ? &task->group() : nullptr;
}

ProcessGroup* PidNamespace::FindProcessGroup(int id) const {
  auto it = process_groups_.find(id);
  return it == process_groups_.end() ? nullptr : it->second;
}

std::vector<RefPtr<ThreadGroup>> PidNamespace::Groups() const {
  std::vector<RefPtr<ThreadGroup>> groups;
  for (const auto& [id, task] : tasks_) {
    if (task != nullptr && task->is_leader()) groups.emplace_back(&task->group());
  }
  return groups;
}

}  // namespace amber
