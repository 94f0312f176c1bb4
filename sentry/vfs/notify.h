// Telling watchers of what happens to files: inotify(7), fanotify(7) and F_NOTIFY hang on it.
//
// An InodeWatch is owned by who watches; it is in the list of the inode while it is armed. The names of events are those of
// <sys/inotify.h>. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "sentry/base/errno_or.h"

namespace amber {

class Dentry;
class File;
class FileSystem;
class Inode;
class Mount;
class Task;
struct VfsPath;

struct InodeEvent {
  uint32_t mask = 0;      // one IN_* event, with IN_ISDIR if it is about a directory
  uint32_t cookie = 0;    // joins the two halves of a rename
  std::string_view name;  // of the entry, if the event is about something in the directory that is watched
  bool unlinked = false;  // that entry has no name any more
};

// What happened to names and inodes, whoever watches them.
struct NameEvent {
  uint32_t mask = 0;  // one IN_* event, or kRenamed, with IN_ISDIR
  // Where the name is; null for events about the inode alone. Of IN_CREATE, IN_DELETE, IN_MOVED_* and kRenamed it is the directory that has changed.
  Inode* dir = nullptr;
  std::string_view name;
  Inode* inode = nullptr;
  // Of kRenamed: where it is now.
  Inode* new_dir = nullptr;
  std::string_view new_name;
};

class InodeWatch {
 public:
  // May take this out of the list.
  virtual void OnInodeEvent(const InodeEvent& event) = 0;

 protected:
  ~InodeWatch() = default;
};

class WatchList {
 public:
  ~WatchList();
  void Add(InodeWatch* watch);
  void Remove(InodeWatch* watch);
  bool empty() const { return watches_.empty(); }
  const std::vector<InodeWatch*>& watches() const { return watches_; }

 private:
  std::vector<InodeWatch*> watches_;
};

// Who is told of everything, wherever it happens.
class PlaceObserver {
 public:
  // Something happened by way of an open file (IN_ACCESS, IN_MODIFY, IN_OPEN, IN_CLOSE_*, kOpenExec, with IN_ISDIR).
  virtual void OnPlaceEvent(const VfsPath& /*place*/, uint32_t /*mask*/) {}
  // Somebody is about to (kOpenPermission, kReadPermission, kExecPermission, with IN_ISDIR): EPERM, or kBlocked while the answer is missing.
  virtual ErrnoOr<void> OnPlacePermission(const VfsPath& /*place*/, uint32_t /*mask*/) { return Ok(); }
  virtual void OnNameEvent(const NameEvent& /*event*/) {}
  // The mount's last user has gone, or the last user of all mounts of a file system.
  virtual void OnMountGone(const Mount& /*mount*/) {}
  virtual void OnUnmounted(const FileSystem& /*fs*/) {}

 protected:
  ~PlaceObserver() = default;
};
// `active`: it wants OnPlaceEvent() and OnNameEvent().
void AddPlaceObserver(PlaceObserver& observer, bool active);
void RemovePlaceObserver(PlaceObserver& observer);
void NotifyMountGone(const Mount& mount);
void NotifyUnmounted(const FileSystem& fs);

// FS_OPEN_EXEC: opened to be executed; inotify does not have it.
inline constexpr uint32_t kOpenExec = 0x1000;
// FS_RENAME: both ends of a rename in one.
inline constexpr uint32_t kRenamed = 0x10000000;
// FS_OPEN_PERM, FS_ACCESS_PERM, FS_OPEN_EXEC_PERM.
inline constexpr uint32_t kOpenPermission = 0x10000, kReadPermission = 0x20000, kExecPermission = 0x40000;
// FMODE_NONOTIFY among File::flags(): what happens to this file is told to nobody.
inline constexpr int kNoNotify = 0x4000000;
// The task whose call runs on this thread, for events that name who did it.
inline thread_local Task* notify_actor = nullptr;

namespace notify_internal {
// Watches in all lists: hooks on busy paths ask nothing else while it is 0.
inline size_t active = 0;
// Marks that want to be asked, likewise.
inline size_t judges = 0;
ErrnoOr<void> Ask(const VfsPath& place, uint32_t mask);
ErrnoOr<void> AskOfFile(const File& file, uint32_t mask);
void Entry(Dentry& dentry, uint32_t mask);
void FileEvent(const File& file, uint32_t mask);
}  // namespace notify_internal

inline bool AnyWatches() { return notify_internal::active != 0; }

// Whether what is to be done is allowed by those who have marked that they decide; the call may have to be executed again.
inline ErrnoOr<void> AskPermission(const VfsPath& place, uint32_t mask) {
  return notify_internal::judges == 0 ? Ok() : notify_internal::Ask(place, mask);
}
inline ErrnoOr<void> AskToRead(const File& file) { return notify_internal::judges == 0 ? Ok() : notify_internal::AskOfFile(file, kReadPermission); }

// To the watchers of `inode` itself.
void NotifyInode(Inode& inode, InodeEvent event);
// Something happened to what `dentry` names: to the watchers of its directory, with the name, and to those of itself.
inline void NotifyEntry(Dentry& dentry, uint32_t mask) {
  if (AnyWatches()) notify_internal::Entry(dentry, mask);
}
// The same for an open file; nothing for one without a place.
inline void NotifyFile(const File& file, uint32_t mask) {
  if (AnyWatches()) notify_internal::FileEvent(file, mask);
}
// The name went from `dir`; `dentry` still has its inode. Also tells of the end of the inode if nothing else refers to it.
void NotifyUnlinked(Inode& dir, Dentry& dentry);
// Another name was given to the inode.
void NotifyLinked(Inode& inode);
// A name came to `dir`.
void NotifyCreated(Inode& dir, Dentry& dentry);
// `moved` went from one name to another; `replaced` (or null) lost its name by that.
void NotifyMoved(Inode& from, std::string_view old_name, Inode& to, Dentry& moved, Inode* replaced);
// An open file of an inode went: tells of the inode's end if it was the last of a file without names.
void NotifyIfGone(Inode& inode);

}  // namespace amber
