#include "sentry/kernel/extras.h"

#include <sched.h>

#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/net/inet/net_namespace.h"

namespace amber {

TaskExtras::TaskExtras() = default;
TaskExtras::~TaskExtras() = default;

void TaskExtras::Inherit(Task& parent, uint64_t flags) {
  TaskExtras& from = parent.extras();
  ipc = from.ipc;
  net = from.net;
  if ((flags & CLONE_SYSVSEM) != 0) {
    if (!from.sem_undo) from.sem_undo = MakeRef<SemUndo>(from.ipc);
    sem_undo = from.sem_undo;
  }
  sched = from.sched;
  if (sched.reset_on_fork) {
    bool realtime = sched.policy == SCHED_FIFO || sched.policy == SCHED_RR;
    sched = SchedAttributes{.policy = realtime ? SCHED_OTHER : sched.policy};
  }
  ioprio = from.ioprio;
}

void TaskExtras::LeaveSemUndo(Task& task) {
  RefPtr<SemUndo> undo = std::move(sem_undo);
  if (undo && undo->ref_count() == 1) undo->Apply(task.pid());
}

void TaskExtras::OnExit(Task& task) {
  LeaveSemUndo(task);
  ipc.reset();
  net.reset();
}

std::string TaskExtras::Save(state::Saver& saver) const {
  proto::TaskExtras m;
  m.set_ipc(saver.Ref(ipc));
  m.set_sem_undo(saver.Ref(sem_undo));
  m.set_sched_policy(sched.policy);
  m.set_sched_priority(sched.priority);
  m.set_sched_reset_on_fork(sched.reset_on_fork);
  m.set_ioprio(ioprio);
  m.set_net(saver.Ref(net));
  return m.SerializeAsString();
}

bool TaskExtras::Load(state::Loader& loader, const std::string& bytes) {
  proto::TaskExtras m;
  if (!m.ParseFromString(bytes)) return loader.Fail("a task's extras are malformed");
  ipc = loader.GetRef<IpcNamespace>(m.ipc());
  // An image from before there were ipc namespaces.
  if (m.ipc() == 0) ipc = MakeRef<IpcNamespace>();
  sem_undo = loader.GetRef<SemUndo>(m.sem_undo());
  sched = {m.sched_policy(), m.sched_priority(), m.sched_reset_on_fork()};
  ioprio = m.ioprio();
  net = loader.GetRef<NetNamespace>(m.net());
  if (m.net() != 0 && !net) return false;
  return true;
}

GroupExtras::GroupExtras() = default;
GroupExtras::~GroupExtras() = default;

std::string GroupExtras::Save(state::Saver&) const {
  proto::GroupExtras m;
  return m.SerializeAsString();
}

bool GroupExtras::Load(state::Loader& loader, const std::string& bytes) {
  proto::GroupExtras m;
  if (!m.ParseFromString(bytes)) return loader.Fail("a process's extras are malformed");
  return true;
}

}  // namespace amber
