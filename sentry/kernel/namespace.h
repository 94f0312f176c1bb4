// What all kinds of namespaces have (Linux: struct ns_common): a number, and the user namespace whose capabilities count in it.
//
// Reference counted by the tasks that are in it and by open files of nsfs (sentry/fs/nsfs). Guarded by the kernel lock.
//
// The initial user, time and cgroup namespaces have no object: a null pointer stands for them.
#pragma once

#include <cstdint>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

class UserNamespace;

class Namespace : public RefCounted<Namespace>, public state::Saveable {
 public:
  ~Namespace() override;

  // CLONE_NEW*: its kind.
  virtual int type() const = 0;
  // The one above it, for kinds that nest; null at the top and for those that do not.
  virtual Namespace* above() const { return nullptr; }
  // The inode number that /proc/PID/ns shows; never used again.
  uint64_t ino() const { return ino_; }
  // Null: the initial one.
  UserNamespace* owner() const { return owner_.get(); }
  const RefPtr<UserNamespace>& owner_ref() const { return owner_; }

  // The numbers that Linux gives the initial namespaces (include/linux/nsfs.h).
  static constexpr uint64_t kInitialUser = 0xeffffffd, kInitialTime = 0xeffffffa, kInitialCgroup = 0xeffffffb;

 protected:
  Namespace();  // a new number; for Loader, too
  explicit Namespace(RefPtr<UserNamespace> owner);
  // The number and the owner in an image; an image without them (0) leaves what there is.
  uint64_t SaveOwner(state::Saver& saver) const;
  bool LoadCommon(state::Loader& loader, uint64_t ino, uint64_t owner);

 private:
  uint64_t ino_;
  RefPtr<UserNamespace> owner_;
};

}  // namespace amber
