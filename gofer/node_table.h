// The gofer's nodes: a bounded table from node ids, which the peer may forge, to O_PATH descriptors.
//
// One table per gofer, shared by all channel threads, under one reader-writer lock that is never held across a host call
// but close. A node that is in use lives until its last reference goes, even if it is forgotten meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"

namespace amber::gofer {

// A subtree (or single file) of the host that the sandbox may see. Immutable once the server exists.
struct AttachPoint {
  std::string name;
  UniqueFd root;  // O_PATH
  bool read_only = false;
  bool allow_devices = false;
  bool allow_fifos = false;
  bool allow_connect = false;
  bool allow_bind = false;
  bool allow_directories = false;  // O_PATH descriptors of directories may leave
};

// One inode. Immutable. An inode's type never changes, so `type` holds for as long as the descriptor is open.
class HostNode : public RefCounted<HostNode> {
 public:
  HostNode(UniqueFd fd, const AttachPoint& attach, uint32_t type, uint64_t dev) : fd_(std::move(fd)), attach_(attach), type_(type), dev_(dev) {}
  int fd() const { return fd_.get(); }
  const AttachPoint& attach() const { return attach_; }
  uint32_t type() const { return type_; }  // S_IFREG, S_IFDIR, ...
  uint64_t dev() const { return dev_; }

 private:
  friend class RefCounted<HostNode>;
  ~HostNode() = default;

  const UniqueFd fd_;
  const AttachPoint& attach_;
  const uint32_t type_;
  const uint64_t dev_;
};

// A reader-writer lock that makes no host call but futex. absl::Mutex asks for scheduling parameters and CPU
// frequencies and sleeps in several ways, all of which the gofer's filter would have to allow.
class ABSL_LOCKABLE TableLock {
 public:
  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { lock_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { lock_.unlock(); }
  void ReaderLock() ABSL_SHARED_LOCK_FUNCTION() { lock_.lock_shared(); }
  void ReaderUnlock() ABSL_UNLOCK_FUNCTION() { lock_.unlock_shared(); }

 private:
  std::shared_mutex lock_;
};

class NodeTable {
 public:
  explicit NodeTable(uint32_t max_nodes) : max_nodes_(max_nodes) {}

  // ENFILE if there are max_nodes already.
  ErrnoOr<uint64_t> Add(RefPtr<HostNode> node);
  // EBADF if there is no such node (any more).
  ErrnoOr<RefPtr<HostNode>> Get(uint64_t id) const;
  void Remove(uint64_t id);
  size_t size() const;

 private:
  // An id is the slot's index plus one in the lower half and its generation in the upper half, so that a forgotten
  // id does not name the slot's next node.
  struct Slot {
    uint32_t generation = 0;
    RefPtr<HostNode> node;
  };
  // The slot of `id`, or nullptr.
  const Slot* Find(uint64_t id) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const uint32_t max_nodes_;
  mutable TableLock mutex_;
  std::vector<Slot> slots_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint32_t> free_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace amber::gofer
