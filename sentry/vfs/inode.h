// A file as its file system knows it, whatever its names (Linux: struct inode).
//
// Owned by reference counts: dentries, open files and, in file systems that keep everything here (tmpfs), the directories that
// name it. Guarded by the kernel lock. Every user of an inode also holds a Mount, directly or through a File: an inode points to its file system
// without a reference.
//
// File systems derive from Inode. The defaults of the operations give the errno of a file system that lacks them. No
// operation checks permissions, flags of mounts, or that a name is free: ops.cc and open.cc have done so.
#pragma once

#include <sys/stat.h>
#include <time.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"

namespace amber {

class Acl;         // sentry/vfs/acl.h
class FileLocks;   // sentry/vfs/file_lock.h
class FileSystem;  // sentry/vfs/file_system.h
class FsContext;
class Inode;
class WatchList;  // sentry/vfs/notify.h
class Task;
struct Credentials;
struct VfsPath;  // sentry/vfs/mount.h

// On whose behalf something is done.
struct VfsContext {
  Task* task = nullptr;  // null when the kernel itself acts (container set-up, tests)
  const Credentials* creds = nullptr;
  FsContext* fs = nullptr;
};

struct Attr {
  uint64_t ino = 0;
  uint32_t mode = 0;  // with the type
  uint32_t nlink = 1;
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t rdev = 0;
  uint64_t size = 0;
  uint64_t blocks = 0;  // of 512 bytes
  uint32_t blksize = 4096;
  timespec atime{}, mtime{}, ctime{}, btime{};
};

// What is set is changed; ctime follows by itself.
struct AttrChange {
  struct Time {
    bool now = false;
    timespec time{};
  };
  std::optional<uint32_t> mode;  // permission bits (07777)
  std::optional<uint32_t> uid, gid;
  std::optional<uint64_t> size;
  std::optional<Time> atime, mtime;
};

// Something to be made in a directory.
struct NewNode {
  uint32_t mode = 0;  // with the type
  uint32_t uid = 0;
  uint32_t gid = 0;
  uint64_t rdev = 0;
  std::string target;  // of a symbolic link
  uint32_t umask = 0;  // still to be applied to `mode`, unless the directory has a default access control list
};

struct DirEnt {
  std::string name;
  uint64_t ino = 0;
  uint8_t type = 0;  // DT_*
};

// What a magic link of /proc leads to: a path, or a file that has none (a pipe, a socket).
struct LinkTarget {
  std::unique_ptr<VfsPath> path;
  RefPtr<File> file;
};

// What other subsystems attach to an inode: the pipe of a fifo, the socket bound to a name.
class SpecialState : public RefCounted<SpecialState> {
 public:
  virtual ~SpecialState() = default;
  // For the image: the object that is behind this, or null if it does not outlive a checkpoint.
  virtual const state::Saveable* saveable() const { return nullptr; }
};

class Inode : public RefCounted<Inode>, public state::Saveable {
 public:
  ~Inode() override;

  FileSystem& fs() const { return *fs_; }

  // The attributes as far as they are known without asking anybody. What permission checks use.
  virtual const Attr& attr() const { return attr_; }
  // Brings attr() up to date.
  virtual ErrnoOr<void> Refresh() { return Ok(); }
  // The numbers that the guest sees.
  virtual uint64_t ino() const { return attr().ino; }
  virtual uint32_t links() const { return attr().nlink; }
  uint32_t type() const { return attr().mode & S_IFMT; }
  bool IsDir() const { return type() == S_IFDIR; }
  bool IsRegular() const { return type() == S_IFREG; }
  bool IsSymlink() const { return type() == S_IFLNK; }

  virtual ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change);

  // --- directories ---
  virtual ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name);
  // Looks up names one below the other, to spare round trips. `known[i]` is the cached inode of names[i] or null; file systems that
  // revalidate compare with it. Fills `found` up to the first name that is missing or not a directory; ENOENT
  // with found->size() names found means that the next one is missing. `open_read`: the last one will be opened for reading.
  virtual ErrnoOr<void> LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> known, bool open_read,
                                    std::vector<RefPtr<Inode>>* found);
  // A file, directory, symbolic link, fifo, device or socket under a free name.
  virtual ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node);
  // O_TMPFILE. Link() may name it later.
  virtual ErrnoOr<RefPtr<Inode>> MakeUnnamed(const VfsContext& ctx, const NewNode& node);
  virtual ErrnoOr<void> Link(const VfsContext& ctx, std::string_view name, Inode& target);
  virtual ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim);
  // ENOTEMPTY is this operation's to find.
  virtual ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim);
  // Moves `moved` from `old_name` here to `new_name` in `new_dir` (of the same file system), over `replaced` if not null. `flags`:
  // RENAME_NOREPLACE (checked already), RENAME_EXCHANGE, RENAME_WHITEOUT.
  virtual ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name,
                               Inode* replaced, uint32_t flags);
  // All entries but "." and "..".
  virtual ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx);

  // --- symbolic links ---
  virtual ErrnoOr<std::string> ReadLink(const VfsContext& ctx);
  // True for /proc's links that lead to an object rather than to a name; then MagicLink() is asked.
  virtual bool IsMagicLink() const { return false; }
  virtual ErrnoOr<LinkTarget> MagicLink(const VfsContext& ctx);

  // --- open files ---
  // An open file of this inode, which `path` leads to. The default serves regular files that have a host descriptor (RegularFile),
  // directories, and through special.h fifos and devices. May return kBlocked (a fifo). O_TRUNC has been done.
  virtual ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags);
  // The contents of a regular file: the inode that has them. An overlay returns its upper inode, copying up first if
  // `write`, or its lower one.
  virtual ErrnoOr<RefPtr<Inode>> DataInode(const VfsContext& ctx, bool write);

  // --- contents of regular files (of data inodes) ---
  // Between BeginIo and EndIo HostFd() stays valid.
  virtual ErrnoOr<void> BeginIo(bool write);
  virtual void EndIo(bool write);
  // The host descriptor for reading, or for reading and writing.
  virtual ErrnoOr<int> HostFd(bool write);
  // True if HostFd() is the sentry's own (see MapSource).
  virtual bool sentry_owned() const { return false; }
  // At most `size` bytes at `offset` into `to`; fewer at the end only.
  virtual ErrnoOr<size_t> ReadBytes(void* to, size_t size, uint64_t offset);
  // lseek(2)'s SEEK_DATA and SEEK_HOLE.
  virtual ErrnoOr<uint64_t> SeekContents(uint64_t offset, int whence);
  // What mappings map; `write`: shared and writable.
  virtual ErrnoOr<MapSource> MapContents(bool write);
  // See File::map_seam().
  virtual uint64_t map_seam() const { return UINT64_MAX; }
  // Called before a write of [offset, offset + size): returns how many bytes may be written (ENOSPC if none); before the bytes move.
  virtual ErrnoOr<uint64_t> PrepareWrite(uint64_t /*offset*/, uint64_t size) { return size; }
  // Bytes were read, or written up to `end`.
  virtual void DidRead() {}
  virtual void DidWrite(uint64_t /*end*/) {}
  virtual ErrnoOr<void> Fallocate(const VfsContext& ctx, int mode, uint64_t offset, uint64_t size);
  virtual ErrnoOr<void> Sync(bool data_only);

  // --- extended attributes ---
  virtual ErrnoOr<std::string> GetXattr(std::string_view name);
  virtual ErrnoOr<void> SetXattr(std::string_view name, std::string_view value, int flags);
  virtual ErrnoOr<std::vector<std::string>> ListXattr();
  virtual ErrnoOr<void> RemoveXattr(std::string_view name);

  // POSIX access control lists, which are set and read as extended attributes (acl.h): whether it may have some; null if it has none.
  virtual bool takes_acls() const { return false; }
  virtual const Acl* acl() const { return nullptr; }
  virtual const Acl* default_acl() const { return nullptr; }

  // fcntl seals (F_SEAL_*); -1 where the file has none.
  virtual int seals() const { return -1; }
  virtual ErrnoOr<void> AddSeals(int /*seals*/) { return Errno(EINVAL); }

  // Locks of open files (file_lock.h); made on first use.
  FileLocks& locks();
  FileLocks* locks_if_any() const { return locks_.get(); }

  SpecialState* special() const { return special_.get(); }
  void set_special(RefPtr<SpecialState> state) { special_ = std::move(state); }

  // Who watches this for changes (inotify, fanotify, leases); null if nobody ever did.
  WatchList* watches() const { return watches_.get(); }
  WatchList& MakeWatches();

  // How many open files may write (for ETXTBSY) and how many executions forbid it.
  int writers = 0;
  int deny_write = 0;
  // How many open files there are, O_PATH ones not counted.
  int open_files = 0;

 protected:
  Inode();
  explicit Inode(FileSystem* fs);
  void set_fs(FileSystem* fs) { fs_ = fs; }
  // The part of the state that all inodes have: file system, attributes, locks. LoadBase() must be called even if nothing of it is used.
  std::string SaveBase(state::Saver& saver) const;
  bool LoadBase(state::Loader& loader, std::string_view bytes);

  Attr attr_;

 private:
  FileSystem* fs_ = nullptr;
  std::unique_ptr<FileLocks> locks_;
  RefPtr<SpecialState> special_;
  std::unique_ptr<WatchList> watches_;
};

// Now, as file times have it.
timespec FileTimeNow();

}  // namespace amber
