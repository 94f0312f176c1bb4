#include "sentry/vfs/notify.h"

#include <sys/inotify.h>

#include "sentry/vfs/dentry.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

// Guarded by the kernel lock.
struct Observer {
  PlaceObserver* observer;
  bool active;
};
std::vector<Observer>& Observers() {
  static auto* observers = new std::vector<Observer>();
  return *observers;
}

}  // namespace

void AddPlaceObserver(PlaceObserver& observer, bool active) {
  Observers().push_back({&observer, active});
  if (active) ++notify_internal::active;
}

void RemovePlaceObserver(PlaceObserver& observer) {
  std::erase_if(Observers(), [&](const Observer& o) {
    if (o.observer == &observer && o.active) --notify_internal::active;
    return o.observer == &observer;
  });
}

void NotifyMountGone(const Mount& mount) {
  for (const Observer& o : std::vector<Observer>(Observers())) o.observer->OnMountGone(mount);
}

void NotifyUnmounted(const FileSystem& fs) {
  for (const Observer& o : std::vector<Observer>(Observers())) o.observer->OnUnmounted(fs);
}

WatchList::~WatchList() { notify_internal::active -= watches_.size(); }

void WatchList::Add(InodeWatch* watch) {
  watches_.push_back(watch);
  ++notify_internal::active;
}

void WatchList::Remove(InodeWatch* watch) { notify_internal::active -= std::erase(watches_, watch); }

void NotifyInode(Inode& inode, InodeEvent event) {
  if (inode.watches() == nullptr || inode.watches()->empty()) return;
  RefPtr<Inode> hold(&inode);  // a watch that takes itself away may have been its last user
  std::vector<InodeWatch*> watches = inode.watches()->watches();
  for (InodeWatch* w : watches) w->OnInodeEvent(event);
}

namespace notify_internal {

ErrnoOr<void> Ask(const VfsPath& place, uint32_t mask) {
  if (place.dentry->negative()) return Ok();
  uint32_t full = mask | (place.inode()->IsDir() ? IN_ISDIR : 0);
  for (const Observer& o : std::vector<Observer>(Observers())) {
    if (o.active) TRY(o.observer->OnPlacePermission(place, full));
  }
  return Ok();
}

ErrnoOr<void> AskOfFile(const File& file, uint32_t mask) {
  if (file.path() == nullptr || (file.flags() & kNoNotify) != 0) return Ok();
  return Ask(*file.path(), mask);
}

// fsnotify(): the directory's watchers first.
void Entry(Dentry& dentry, uint32_t mask) {
  if (dentry.negative()) return;
  uint32_t full = mask | (dentry.inode()->IsDir() ? IN_ISDIR : 0);
  RefPtr<Dentry> hold(&dentry);
  RefPtr<Dentry> parent(dentry.parent());
  if (parent && !parent->negative()) NotifyInode(*parent->inode(), {full, 0, dentry.name(), dentry.unlinked()});
  NotifyInode(*dentry.inode(), {full, 0, {}, false});
}

void FileEvent(const File& file, uint32_t mask) {
  if (file.dentry() == nullptr || (file.flags() & kNoNotify) != 0) return;
  if (file.path() != nullptr && !file.dentry()->negative()) {
    uint32_t full = mask | (file.dentry()->inode()->IsDir() ? IN_ISDIR : 0);
    for (const Observer& o : Observers()) {
      if (o.active) o.observer->OnPlaceEvent(*file.path(), full);
    }
  }
  if ((mask & ~kOpenExec) != 0) Entry(*file.dentry(), mask & ~kOpenExec);
}

}  // namespace notify_internal

void NotifyIfGone(Inode& inode) {
  if (AnyWatches() && inode.links() == 0 && inode.open_files == 0) NotifyInode(inode, {IN_DELETE_SELF, 0, {}, false});
}

void NotifyUnlinked(Inode& dir, Dentry& dentry) {
  if (!AnyWatches() || dentry.negative()) return;
  RefPtr<Inode> inode(dentry.inode());
  bool is_dir = inode->IsDir();
  if (!is_dir) NotifyInode(*inode, {IN_ATTRIB, 0, {}, false});
  NotifyInode(dir, {IN_DELETE | (is_dir ? uint32_t{IN_ISDIR} : 0u), 0, dentry.name(), false});
  NotifyIfGone(*inode);
}

void NotifyCreated(Inode& dir, Dentry& dentry) {
  if (!AnyWatches() || dentry.negative()) return;
  NotifyInode(dir, {IN_CREATE | (dentry.inode()->IsDir() ? uint32_t{IN_ISDIR} : 0u), 0, dentry.name(), false});
}

void NotifyMoved(Inode& from, std::string_view old_name, Inode& to, Dentry& moved, Inode* replaced) {
  if (!AnyWatches()) return;
  static uint32_t last_cookie = 0;  // fsnotify_get_cookie(); guarded by the kernel lock
  uint32_t cookie = ++last_cookie;
  uint32_t dir = moved.inode()->IsDir() ? uint32_t{IN_ISDIR} : 0u;
  NotifyInode(from, {IN_MOVED_FROM | dir, cookie, old_name, false});
  NotifyInode(to, {IN_MOVED_TO | dir, cookie, moved.name(), false});
  if (replaced != nullptr) NotifyInode(*replaced, {IN_ATTRIB, 0, {}, false});
  NotifyInode(*moved.inode(), {IN_MOVE_SELF, 0, {}, false});
  if (replaced != nullptr) NotifyIfGone(*replaced);
}

}  // namespace amber
