// What the VFS knows of file systems whose server is a guest (sentry/fs/fuse). Guarded by the kernel lock.
#pragma once

#include <fcntl.h>

#include "sentry/base/errno_or.h"
#include "sentry/vfs/inode.h"

namespace amber {

class ServedInode {
 public:
  // Null for inodes of other file systems. Costs nothing as long as there are none of these.
  static ServedInode* From(const Inode& inode) { return count_ == 0 ? nullptr : Cast(inode); }

  // In the place of CheckPermission(): modes count only if the file system was told so, and not everybody may look at what a user serves.
  virtual ErrnoOr<void> MayUse(const Credentials& creds, int may) = 0;
  // access(2) and chdir(2), which ask the server: `may` of kMayRead and so on.
  virtual ErrnoOr<void> MayAccess(const Credentials& creds, int may) = 0;

 protected:
  ServedInode() { ++count_; }
  ~ServedInode() { --count_; }

 private:
  static ServedInode* Cast(const Inode& inode);
  static inline int count_ = 0;
};

// For umount2(2).
class ServedFileSystem {
 public:
  // A call waits for the server: it is in the mount, though nobody holds that.
  virtual bool Busy() const = 0;
  // MNT_FORCE.
  virtual void Abort() = 0;

 protected:
  ~ServedFileSystem() = default;
};

// A file is being made because somebody opens it with these O_* flags: a server does both in one request.
class CreateIntent {
 public:
  explicit CreateIntent(int flags) : before_(flags_) { flags_ = flags; }
  ~CreateIntent() { flags_ = before_; }
  CreateIntent(const CreateIntent&) = delete;
  // -1: it is only made (mknod(2)).
  static int flags() { return flags_; }
  // A file without a name that shall never get one.
  static bool hidden() { return flags_ != -1 && (flags_ & (O_TMPFILE | O_EXCL)) == (O_TMPFILE | O_EXCL); }

 private:
  int before_;
  static inline thread_local int flags_ = -1;
};

// CheckPermission() by the mode, as everybody else's inodes have it.
ErrnoOr<void> CheckModeBits(const Credentials& creds, const Inode& inode, int may);

}  // namespace amber
