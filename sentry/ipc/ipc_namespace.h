// The System V IPC objects that some processes share (ipc_namespaces(7)). Owned by their tasks; guarded by the kernel lock.
#pragma once

#include <set>
#include <string>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/ipc/ipc_sysctls.h"
#include "sentry/ipc/ipc_table.h"
#include "sentry/ipc/msg.h"
#include "sentry/ipc/sem.h"
#include "sentry/ipc/shm.h"
#include "sentry/kernel/namespace.h"
#include "sentry/vfs/mount.h"

namespace amber {

namespace ipc_state {
class Perm;
}

class IpcNamespace final : public Namespace {
 public:
  IpcNamespace() = default;
  explicit IpcNamespace(RefPtr<UserNamespace> owner) : Namespace(std::move(owner)) {}
  ~IpcNamespace() override;

  int type() const override { return 0x08000000; }  // CLONE_NEWIPC
  IpcTable<SemSet>& sems() { return sems_; }
  IpcTable<MsgQueue>& msgs() { return msgs_; }
  IpcTable<ShmSegment>& shms() { return shms_; }

  const SysctlNumbers& sysctls() const { return sysctls_; }
  // What was written to the row's file.
  ErrnoOr<void> WriteSysctl(const SysctlRow& row, std::string_view text);
  size_t sysctl(IpcSysctl value) const { return sysctls_[value]; }

  // The file system of POSIX message queues, mounted nowhere; null until it is used (sentry/fs/mqueue).
  const RefPtr<Mount>& mqueue() const { return mqueue_; }
  void set_mqueue(RefPtr<Mount> mount) { mqueue_ = std::move(mount); }

  // Undo lists enter and leave by themselves.
  void AddUndo(SemUndo* undo) { undos_.insert(undo); }
  void RemoveUndo(SemUndo* undo) { undos_.erase(undo); }
  const std::set<SemUndo*>& undos() const { return undos_; }

  // /proc/sysvipc.
  std::string SemText() const;
  std::string MsgText() const;
  std::string ShmText(Kernel& kernel) const;

  state::Kind kind() const override { return state::Kind::kIpcNamespace; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  IpcTable<SemSet> sems_;
  IpcTable<MsgQueue> msgs_;
  IpcTable<ShmSegment> shms_;
  std::set<SemUndo*> undos_;
  SysctlNumbers sysctls_{kIpcSysctls};
  RefPtr<Mount> mqueue_;
  std::vector<RefPtr<ShmSegment>> loading_;  // between Load() and AfterLoad()
};

void SavePerm(const IpcPerm& perm, ipc_state::Perm* out);
IpcPerm LoadPerm(const ipc_state::Perm& in);

}  // namespace amber
