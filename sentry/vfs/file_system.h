// A mounted file system (Linux: struct super_block), and the table of file system types.
//
// Reference counted by its mounts (and by overlays above it). Owns its root dentry and with it the dentry cache.
#pragma once

#include <sys/vfs.h>

#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/vfs/dentry.h"

namespace amber {

class Kernel;
class Task;

class FileSystem : public RefCounted<FileSystem>, public state::Saveable {
 public:
  ~FileSystem() override;

  // "tmpfs": what /proc/mounts shows.
  virtual const char* type_name() const = 0;
  // st_dev of its files.
  uint64_t dev() const { return dev_; }
  const RefPtr<Dentry>& root() const { return root_; }
  virtual ErrnoOr<void> StatFs(struct statfs* out) = 0;
  virtual ErrnoOr<void> Sync() { return Ok(); }
  // Its own mount options for /proc/mounts: ",size=64k" or "".
  virtual std::string ShowOptions() const { return ""; }
  bool read_only() const { return read_only_; }
  void set_read_only(bool on) { read_only_ = on; }
  // The user namespace that it was mounted in (s_user_ns): null is the initial one.
  UserNamespace* owner() const { return owner_.get(); }
  void set_owner(RefPtr<UserNamespace> owner) { owner_ = std::move(owner); }
  bool owned_within(const UserNamespace* ns) const { return owner_ && IsWithin(owner_.get(), ns); }
  // Names change without our doing (/proc, a host directory that others use): cached ones are compared with
  // LookupAhead's answer on every walk. A cached dentry stays if the inode found has the same number and type.
  virtual bool revalidates() const { return false; }

  // Its one file is a mount namespace's, which it keeps alive (is_mnt_ns_file()).
  virtual bool is_mount_namespace() const { return false; }

  // Drops unused dentries until at most `keep` are cached.
  void Shrink(size_t keep);
  size_t cached_dentries() const { return lru_.size(); }
  static constexpr size_t kMaxCached = 16384;

 protected:
  FileSystem();
  // For a file system whose instances all show one device number.
  void set_dev(uint64_t dev) { dev_ = dev; }
  // Makes `inode` the root; once.
  void SetRoot(RefPtr<Inode> inode);
  // To be called first in each destructor of a derived class: drops the root and all cached dentries, and with them
  // inodes that may call back into the derived class.
  void DropDentries();
  // The part of the state that all file systems have, with the derived class's bytes in `specific`.
  std::string SaveBase(state::Saver& saver, std::string specific) const;
  bool LoadBase(state::Loader& loader, std::string_view bytes, std::string* specific);

 private:
  friend class Dentry;
  void ShrinkIfFull();

  size_t shrink_at_ = kMaxCached;
  uint64_t dev_;
  bool read_only_ = false;
  RefPtr<UserNamespace> owner_;
  RefPtr<Dentry> root_;
  std::list<Dentry*> lru_;  // all cached dentries, oldest first
};

// What mount(2) or a container's configuration says.
struct MountArguments {
  Kernel* kernel = nullptr;
  Task* task = nullptr;  // null at container set-up
  std::string source;
  std::vector<std::string> options;  // without ro, nosuid and the like
};

using FileSystemFactory = ErrnoOr<RefPtr<FileSystem>> (*)(const MountArguments& arguments);
// Enters a type ("proc", "devpts", ...). Called at start, once per type, before the first container.
void RegisterFileSystemType(std::string_view type, FileSystemFactory factory);
// ENODEV for an unknown type.
ErrnoOr<RefPtr<FileSystem>> MakeFileSystem(std::string_view type, const MountArguments& arguments);
// The names, for /proc/filesystems.
std::vector<std::string> FileSystemTypes();

}  // namespace amber
