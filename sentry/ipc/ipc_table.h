// Keys, ids and permissions of System V IPC objects (ipc/util.c).
//
// A table is owned by its IpcNamespace. Values only. Guarded by the kernel lock.
#pragma once

#include <sys/ipc.h>
#include <sys/types.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/credentials.h"

namespace amber {

struct IpcPerm {
  key_t key = IPC_PRIVATE;
  int id = -1;
  uid_t uid = 0, cuid = 0;
  gid_t gid = 0, cgid = 0;
  uint32_t mode = 0;  // permission bits
  int seq = 0;

  void SetCreator(const Credentials& creds, uint32_t flags) {
    uid = cuid = creds.euid;
    gid = cgid = creds.egid;
    mode = flags & 0777;
  }
  // ipcperms(): `wanted` are bits of 0777, of which one class is asked; CAP_IPC_OWNER overrides.
  ErrnoOr<void> Check(const Credentials& creds, uint32_t wanted) const;
  // IPC_SET and IPC_RMID: owner, creator or CAP_SYS_ADMIN.
  ErrnoOr<void> CheckOwner(const Credentials& creds) const;
  void FillOut(struct ipc_perm* out) const;
};

inline constexpr int kIpcMni = 32768;  // an id is sequence number * IPCMNI + index

template <typename T>
class IpcTable {
 public:
  // EINVAL for an id that is not in use.
  ErrnoOr<RefPtr<T>> Find(int id) const {
    auto it = objects_.find(id % kIpcMni);
    if (id < 0 || it == objects_.end() || it->second->perm.id != id) return Errno(EINVAL);
    return it->second;
  }
  // By index, as SHM_STAT and its like count.
  ErrnoOr<RefPtr<T>> FindIndex(int index) const {
    auto it = objects_.find(index);
    if (it == objects_.end()) return Errno(EINVAL);
    return it->second;
  }
  RefPtr<T> FindKey(key_t key) const {
    if (key == IPC_PRIVATE) return nullptr;
    for (const auto& [index, object] : objects_) {
      if (object->perm.key == key) return object;
    }
    return nullptr;
  }
  // Enters `object`, whose key is set, under a new id; false if the table is full.
  bool Add(RefPtr<T> object, size_t max) {
    if (objects_.size() >= max) return false;
    int index = 0;
    for (const auto& [used, unused] : objects_) {
      if (used != index) break;
      ++index;
    }
    if (index <= last_index_) seq_ = (seq_ + 1) % (INT32_MAX / kIpcMni);
    last_index_ = index;
    object->perm.seq = seq_;
    object->perm.id = seq_ * kIpcMni + index;
    objects_[index] = std::move(object);
    return true;
  }
  void Remove(int id) { objects_.erase(id % kIpcMni); }
  const std::map<int, RefPtr<T>>& all() const { return objects_; }
  int max_index() const { return objects_.empty() ? 0 : objects_.rbegin()->first; }

  // For images.
  int seq() const { return seq_; }
  int last_index() const { return last_index_; }
  void Restore(int seq, int last_index) {
    seq_ = std::clamp(seq, 0, INT32_MAX / kIpcMni - 1);
    last_index_ = last_index;
  }
  bool RestoreObject(RefPtr<T> object) {
    if (object->perm.id < 0) return false;
    return objects_.try_emplace(object->perm.id % kIpcMni, std::move(object)).second;
  }

 private:
  std::map<int, RefPtr<T>> objects_;  // by index
  int seq_ = 0;
  int last_index_ = -1;
};

// The *get calls: the object of `key`, or a new one made by `make`. EEXIST, ENOENT, EACCES as ipcget() gives them; `check` looks at an
// existing one.
template <typename T, typename Check, typename Make>
ErrnoOr<int> IpcGet(IpcTable<T>& table, const Credentials& creds, key_t key, int flags, Check check, Make make) {
  if (key == IPC_PRIVATE) return make();
  RefPtr<T> found = table.FindKey(key);
  if (!found) return (flags & IPC_CREAT) != 0 ? make() : ErrnoOr<int>(Errno(ENOENT));
  if ((flags & IPC_CREAT) != 0 && (flags & IPC_EXCL) != 0) return Errno(EEXIST);
  ErrnoOr<void> good = check(*found);
  if (!good.ok()) return good.error();
  good = found->perm.Check(creds, static_cast<uint32_t>(flags) & 0777);
  if (!good.ok()) return good.error();
  return found->perm.id;
}

}  // namespace amber
