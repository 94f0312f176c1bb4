#include "sentry/ipc/sem.h"

#include <poll.h>
#include <time.h>

#include <algorithm>

#include "sentry/ipc/ipc.pb.h"
#include "sentry/ipc/ipc_namespace.h"

namespace amber {

ErrnoOr<void> SemSet::Operate(std::span<const sembuf> ops, SemUndo* undo, int pid, size_t* blocking) {
  std::vector<Value> next = values;
  std::map<size_t, int> adjust;
  for (size_t i = 0; i < ops.size(); ++i) {
    const sembuf& op = ops[i];
    if (op.sem_num >= next.size()) return Errno(EFBIG);
    Value& v = next[op.sem_num];
    bool waits = op.sem_op == 0 ? v.value != 0 : v.value + op.sem_op < 0;
    if (waits) {
      *blocking = i;
      return Errno(EAGAIN);
    }
    if (v.value + op.sem_op > kSemValueMax) return Errno(ERANGE);
    if ((op.sem_flg & SEM_UNDO) != 0 && op.sem_op != 0) {
      auto [it, fresh] = adjust.try_emplace(op.sem_num, 0);
      if (fresh) it->second = undo->Get(perm.id, op.sem_num);
      it->second -= op.sem_op;
      if (it->second < -kSemValueMax - 1 || it->second > kSemValueMax) return Errno(ERANGE);
    }
    v.value += op.sem_op;
    v.pid = pid;
  }
  bool altered = std::any_of(ops.begin(), ops.end(), [](const sembuf& op) { return op.sem_op != 0; });
  values = std::move(next);
  for (const auto& [index, value] : adjust) undo->Set(perm.id, index, value);
  otime = time(nullptr);
  if (altered) queue.Notify(POLLIN);
  return Ok();
}

SemUndo::SemUndo(RefPtr<IpcNamespace> ns) : ns_(std::move(ns)) { ns_->AddUndo(this); }

SemUndo::~SemUndo() {
  if (ns_) ns_->RemoveUndo(this);
}

int SemUndo::Get(int id, size_t index) const {
  auto set = adjust_.find(id);
  if (set == adjust_.end()) return 0;
  auto it = set->second.find(index);
  return it == set->second.end() ? 0 : it->second;
}

void SemUndo::Set(int id, size_t index, int value) {
  if (value == 0) return Clear(id, index);
  adjust_[id][index] = value;
}

void SemUndo::Clear(int id, size_t index) {
  auto set = adjust_.find(id);
  if (set == adjust_.end()) return;
  set->second.erase(index);
  if (set->second.empty()) adjust_.erase(set);
}

void SemUndo::Apply(int pid) {
  for (const auto& [id, changes] : std::exchange(adjust_, {})) {
    auto set = ns_->sems().Find(id);
    if (!set.ok()) continue;
    for (const auto& [index, change] : changes) {
      if (index >= (*set)->values.size()) continue;
      SemSet::Value& v = (*set)->values[index];
      // exit_sem(): clamped, as POSIX leaves it open.
      v.value = std::clamp(v.value + change, 0, kSemValueMax);
      v.pid = pid;
    }
    (*set)->otime = time(nullptr);
    (*set)->queue.Notify(POLLIN);
  }
}

std::string SemUndo::Save(state::Saver& saver) const {
  ipc_state::SemUndo m;
  m.set_ns(saver.Ref(ns_));
  for (const auto& [id, changes] : adjust_) {
    for (const auto& [index, change] : changes) {
      ipc_state::SemUndo::Adjust* a = m.add_adjust();
      a->set_id(id);
      a->set_index(static_cast<uint32_t>(index));
      a->set_value(change);
    }
  }
  return m.SerializeAsString();
}

bool SemUndo::Load(state::Loader& loader, std::string_view bytes) {
  ipc_state::SemUndo m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("semaphore adjustments are malformed");
  ns_ = loader.GetRef<IpcNamespace>(m.ns());
  if (!ns_) return loader.Fail("semaphore adjustments have no namespace");
  for (const auto& a : m.adjust()) {
    if (a.value() < -kSemValueMax - 1 || a.value() > kSemValueMax) return loader.Fail("a semaphore adjustment is out of range");
    Set(a.id(), a.index(), a.value());
  }
  return true;
}

bool SemUndo::AfterLoad(state::Loader&) {
  ns_->AddUndo(this);
  return true;
}

}  // namespace amber
