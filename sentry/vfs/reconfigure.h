// What only some file systems can: have their options changed while they are mounted, and name their files by handles. Kernel lock held.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

// mount(2) with MS_REMOUNT, fsconfig(2) with FSCONFIG_CMD_RECONFIGURE.
class Reconfigurable {
 public:
  // All of `options`, or none of them.
  virtual ErrnoOr<void> Reconfigure(Task& task, const std::vector<std::string>& options) = 0;

 protected:
  ~Reconfigurable() = default;
};

// Options that every file system takes (vfs_parse_sb_flag()); but for ro and rw they have no effect here.
inline bool IsCommonMountFlag(std::string_view key) {
  constexpr std::string_view kKnown[] = {"ro", "rw", "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand"};
  return std::ranges::find(kKnown, key) != std::end(kKnown);
}

// --- handle.cc ---
// A file's name within its file system that stays when its path changes: name_to_handle_at(2), open_by_handle_at(2), fanotify's file identifiers.

// include/linux/exportfs.h
inline constexpr int kHandleInvalid = 0xff;     // FILEID_INVALID
inline constexpr int kHandleInode32 = 0x01;     // FILEID_INO32_GEN
inline constexpr int kHandleInode64 = 0x81;     // FILEID_INO64_GEN: 8 bytes of inode number, 4 of generation
inline constexpr size_t kMaxHandleBytes = 128;  // MAX_HANDLE_SZ

struct FileHandle {
  int type = kHandleInvalid;
  std::string bytes;
  friend bool operator==(const FileHandle&, const FileHandle&) = default;
};

// File systems whose handles lead back to files; of the others they only tell files apart.
class HandleFileSystem {
 public:
  struct Place {
    bool named = false;              // `names` lead there, from the root of the file system
    std::vector<std::string> names;  // none: the root
    RefPtr<Inode> inode;             // the file, if it is known without looking
  };
  // A longer way is not gone for a handle.
  static constexpr size_t kMaxDepth = 4096;

  virtual FileHandle HandleOf(Inode& inode) = 0;
  // `handle` is any bytes that a guest has made up. ESTALE.
  virtual ErrnoOr<Place> FindHandle(const FileHandle& handle) = 0;
  // What the names led to is the file.
  virtual bool IsOfHandle(Inode& inode, const FileHandle& handle) = 0;

 protected:
  ~HandleFileSystem() = default;
};

// Null: its handles cannot be opened.
HandleFileSystem* HandlesOf(FileSystem& fs);
// Any inode has a handle that tells it from others.
FileHandle HandleFor(Inode& inode);
// As fdinfo shows it (show_mark_fhandle()).
std::string ShowHandle(Inode& inode);
// Of something without a place.
FileHandle HandleForNumber(uint64_t ino, uint32_t generation);
// The file of `mount` that the handle means. ESTALE.
ErrnoOr<VfsPath> OpenHandle(const VfsContext& ctx, const RefPtr<Mount>& mount, const FileHandle& handle);

}  // namespace amber
