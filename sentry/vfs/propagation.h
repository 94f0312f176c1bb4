// Peer groups of mounts (mount_namespaces(7), SHARED SUBTREES; Linux: fs/pnode.c).
//
// A group is owned by its members and its slaves; it knows both by plain pointers. Guarded by the kernel lock.
#pragma once

#include <vector>

#include "sentry/base/ref_ptr.h"

namespace amber {

class Mount;

class PeerGroup final : public RefCounted<PeerGroup> {
 public:
  // 0: a new number.
  explicit PeerGroup(int id = 0);
  ~PeerGroup();
  PeerGroup(const PeerGroup&) = delete;
  PeerGroup& operator=(const PeerGroup&) = delete;

  // What mountinfo shows.
  int id() const { return id_; }
  // The group with this number, or null.
  static PeerGroup* Find(int id);

  std::vector<Mount*> members, slaves;

 private:
  int id_;
};

}  // namespace amber
