// fcntl F_NOTIFY: a signal to a directory's opener when something happens in it (fs/notify/dnotify).
//
// Owned by the SigioOwner of the open directory, and goes with the description: Linux ends it already when the descriptor that was named is closed
// while copies of it stay open. Guarded by the kernel lock.
#pragma once

#include <cstdint>

#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"

namespace amber {

class SigioOwner;

class DirNotify final : public InodeWatch {
 public:
  static constexpr uint32_t kStays = 0x80000000;  // DN_MULTISHOT

  // False: too many watch `dir` already (Linux has no bound but memory).
  static bool MayWatch(const Inode& dir);

  DirNotify(SigioOwner& owner, const VfsPath& dir);
  ~DirNotify();
  DirNotify(const DirNotify&) = delete;

  // DN_* as events of inotify, with kStays.
  static uint32_t EventsOf(uint32_t argument);
  static bool Valid(uint32_t events);
  void Add(uint32_t events) { events_ |= events; }
  uint32_t events() const { return events_; }

  void OnInodeEvent(const InodeEvent& event) override;

 private:
  SigioOwner& owner_;
  const VfsPath dir_;
  uint32_t events_ = 0;
};

}  // namespace amber
