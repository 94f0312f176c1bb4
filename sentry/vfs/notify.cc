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

namespace {

void Observe(const NameEvent& event) {
  for (size_t i = 0; i < Observers().size(); ++i) {
    if (Observers()[i].active) Observers()[i].observer->OnNameEvent(event);
  }
}

uint32_t DirBit(const Inode& inode) { return inode.IsDir() ? uint32_t{IN_ISDIR} : 0; }

// To the watchers of the inode alone, and to observers.
void TellInode(Inode& inode, uint32_t mask) {
  NotifyInode(inode, {mask, 0, {}, false});
  Observe({.mask = mask | DirBit(inode), .inode = &inode});
}

}  // namespace

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

namespace {

// fsnotify(): the directory's watchers first.
void TellWatchers(Dentry& dentry, uint32_t mask) {
  if (dentry.negative()) return;
  uint32_t full = mask | DirBit(*dentry.inode());
  RefPtr<Dentry> hold(&dentry);
  RefPtr<Dentry> parent(dentry.parent());
  if (parent && !parent->negative()) NotifyInode(*parent->inode(), {full, 0, dentry.name(), dentry.unlinked()});
  NotifyInode(*dentry.inode(), {full, 0, {}, false});
}

}  // namespace

void Entry(Dentry& dentry, uint32_t mask) {
  if (dentry.negative()) return;
  TellWatchers(dentry, mask);
  Dentry* parent = dentry.parent();
  Inode* dir = parent != nullptr ? parent->inode() : nullptr;
  Observe({.mask = mask | DirBit(*dentry.inode()), .dir = dir, .name = dentry.name(), .inode = dentry.inode()});
}

void FileEvent(const File& file, uint32_t mask) {
  if (file.dentry() == nullptr || (file.flags() & kNoNotify) != 0) return;
  if (file.path() != nullptr && !file.dentry()->negative()) {
    uint32_t full = mask | (file.dentry()->inode()->IsDir() ? IN_ISDIR : 0);
    for (const Observer& o : Observers()) {
      if (o.active) o.observer->OnPlaceEvent(*file.path(), full);
    }
  }
  if ((mask & ~kOpenExec) != 0) TellWatchers(*file.dentry(), mask & ~kOpenExec);
}

}  // namespace notify_internal

void NotifyIfGone(Inode& inode) {
  if (AnyWatches() && inode.links() == 0 && inode.open_files == 0) TellInode(inode, IN_DELETE_SELF);
}

void NotifyLinked(Inode& inode) {
  if (AnyWatches()) TellInode(inode, IN_ATTRIB);
}

void NotifyUnlinked(Inode& dir, Dentry& dentry) {
  if (!AnyWatches() || dentry.negative()) return;
  RefPtr<Inode> inode(dentry.inode());
  if (!inode->IsDir()) TellInode(*inode, IN_ATTRIB);
  // d_delete_notify(): the inode goes before its directory is told.
  NotifyIfGone(*inode);
  NotifyInode(dir, {IN_DELETE | DirBit(*inode), 0, dentry.name(), false});
  Observe({.mask = IN_DELETE | DirBit(*inode), .dir = &dir, .name = dentry.name(), .inode = inode.get()});
}

void NotifyCreated(Inode& dir, Dentry& dentry) {
  if (!AnyWatches() || dentry.negative()) return;
  uint32_t mask = IN_CREATE | DirBit(*dentry.inode());
  NotifyInode(dir, {mask, 0, dentry.name(), false});
  Observe({.mask = mask, .dir = &dir, .name = dentry.name(), .inode = dentry.inode()});
}

// fsnotify_move()
void NotifyMoved(Inode& from, std::string_view old_name, Inode& to, Dentry& moved, Inode* replaced) {
  if (!AnyWatches()) return;
  static uint32_t last_cookie = 0;  // fsnotify_get_cookie(); guarded by the kernel lock
  uint32_t cookie = ++last_cookie;
  Inode& inode = *moved.inode();
  uint32_t dir = DirBit(inode);
  Observe({.mask = kRenamed | dir, .dir = &from, .name = old_name, .inode = &inode, .new_dir = &to, .new_name = moved.name()});
  NotifyInode(from, {IN_MOVED_FROM | dir, cookie, old_name, false});
  Observe({.mask = IN_MOVED_FROM | dir, .dir = &from, .name = old_name, .inode = &inode});
  NotifyInode(to, {IN_MOVED_TO | dir, cookie, moved.name(), false});
  Observe({.mask = IN_MOVED_TO | dir, .dir = &to, .name = moved.name(), .inode = &inode});
  if (replaced != nullptr) TellInode(*replaced, IN_ATTRIB);
  TellInode(inode, IN_MOVE_SELF);
  if (replaced != nullptr) NotifyIfGone(*replaced);
}

}  // namespace amber
