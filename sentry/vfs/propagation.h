// Peer groups of mounts (mount_namespaces(7), SHARED SUBTREES; Linux: fs/pnode.c).
//
// A group is owned by its members and its slaves; it knows both by plain pointers. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <vector>

#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class Mount;
class MountNamespace;

// How often mounts of a namespace came, went or changed, and who waits for that: poll(2) on /proc/PID/mounts. Made on first use.
struct MountChanges {
  uint64_t count = 0;
  WaitQueue queue;
};
MountChanges& ChangesOf(const MountNamespace& ns);
// touch_mnt_namespace()
void NoteMountChange(const MountNamespace* ns);

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
