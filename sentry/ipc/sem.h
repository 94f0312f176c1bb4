// System V semaphores (ipc/sem.c): sets of values, and what a process undoes at its end.
//
// Sets are owned by the IpcNamespace, undo lists by the tasks that share them. Guarded by the kernel lock.
#pragma once

#include <sys/sem.h>

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/ipc/ipc_table.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class IpcNamespace;
class SemUndo;

inline constexpr int kSemValueMax = 32767;  // SEMVMX

class SemSet final : public RefCounted<SemSet> {
 public:
  struct Value {
    int value = 0;
    int pid = 0;  // who changed it last, as its namespace counts
  };

  IpcPerm perm;
  std::vector<Value> values;
  int64_t otime = 0, ctime = 0;  // seconds
  WaitQueue queue;

  // All of `ops` at once, or none: EAGAIN if one must wait (then *blocking is its index), EFBIG, ERANGE. `undo` may be null if no op
  // has SEM_UNDO. Wakes whoever waits for a change.
  ErrnoOr<void> Operate(std::span<const sembuf> ops, SemUndo* undo, int pid, size_t* blocking);
};

// Adjustments that are made when the last task of the list exits.
class SemUndo final : public RefCounted<SemUndo>, public state::Saveable {
 public:
  SemUndo() = default;  // for Loader
  explicit SemUndo(RefPtr<IpcNamespace> ns);
  ~SemUndo() override;

  // What is undone of semaphore `index` of set `id`.
  int Get(int id, size_t index) const;
  void Set(int id, size_t index, int value);
  // SETVAL and SETALL, and removal of a set.
  void Clear(int id, size_t index);
  void ClearAll(int id) { adjust_.erase(id); }
  // Makes the adjustments, as `pid`, and forgets them.
  void Apply(int pid);
  IpcNamespace& ns() const { return *ns_; }

  state::Kind kind() const override { return state::Kind::kSemUndo; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  RefPtr<IpcNamespace> ns_;
  std::map<int, std::map<size_t, int>> adjust_;
};

}  // namespace amber
