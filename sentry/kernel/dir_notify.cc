#include "sentry/kernel/dir_notify.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>

#include <unordered_map>

#include "sentry/kernel/sigio.h"
#include "sentry/vfs/inode.h"

namespace amber {
namespace {

constexpr struct {
  uint32_t asked, events;
} kEvents[] = {
    {DN_ACCESS, IN_ACCESS},     {DN_MODIFY, IN_MODIFY}, {DN_CREATE, IN_CREATE | IN_MOVED_TO}, {DN_DELETE, IN_DELETE | IN_MOVED_FROM},
    {DN_RENAME, IN_MOVED_FROM}, {DN_ATTRIB, IN_ATTRIB},
};

// Each costs work at every change in the directory, and at the end of any other.
constexpr size_t kMostPerDirectory = 512;

std::unordered_map<const Inode*, size_t>& WatchesOf() {
  static auto* watches = new std::unordered_map<const Inode*, size_t>();
  return *watches;
}

}  // namespace

bool DirNotify::MayWatch(const Inode& dir) {
  auto it = WatchesOf().find(&dir);
  return it == WatchesOf().end() || it->second < kMostPerDirectory;
}

DirNotify::DirNotify(SigioOwner& owner, const VfsPath& dir) : owner_(owner), dir_(dir) {
  ++WatchesOf()[dir_.inode()];
  dir_.inode()->MakeWatches().Add(this);
}

DirNotify::~DirNotify() {
  dir_.inode()->MakeWatches().Remove(this);
  auto it = WatchesOf().find(dir_.inode());
  if (--it->second == 0) WatchesOf().erase(it);
}

uint32_t DirNotify::EventsOf(uint32_t argument) {
  uint32_t events = 0;
  for (const auto& e : kEvents) events |= (argument & e.asked) != 0 ? e.events : 0;
  return events | ((argument & DN_MULTISHOT) != 0 ? kStays : 0);
}

bool DirNotify::Valid(uint32_t events) { return (events & ~(EventsOf(~uint32_t{0}))) == 0; }

void DirNotify::OnInodeEvent(const InodeEvent& event) {
  // dnotify_handle_event(). Once is enough unless it was said to stay; the object is there for the next F_NOTIFY.
  if ((event.mask & events_ & IN_ALL_EVENTS) == 0) return;
  if ((events_ & kStays) == 0) events_ = 0;
  owner_.OnEvent(POLLMSG);
}

}  // namespace amber
