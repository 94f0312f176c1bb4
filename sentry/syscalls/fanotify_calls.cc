// fanotify_init(2), fanotify_mark(2), as fs/notify/fanotify/fanotify_user.c has them before FAN_REPORT_FID.
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/fanotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "sentry/fs/fanotify/fanotify.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kClasses = FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT;
constexpr uint32_t kInitFlags = FAN_CLOEXEC | FAN_NONBLOCK | kClasses | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_TID | FAN_REPORT_PIDFD;
// FANOTIFY_INIT_ALL_EVENT_F_BITS; O_LARGEFILE is 0 for 64-bit programs.
constexpr uint32_t kEventFlags = O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_CLOEXEC | O_NOATIME | 0100000;
constexpr uint32_t kHow = FAN_MARK_ADD | FAN_MARK_REMOVE | FAN_MARK_FLUSH;
constexpr uint32_t kMarkFlags = kHow | FAN_MARK_DONT_FOLLOW | FAN_MARK_ONLYDIR | FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM | FAN_MARK_IGNORED_MASK |
                                FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_IGNORE | FAN_MARK_EVICTABLE;
constexpr uint64_t kMask = FAN_ACCESS | FAN_MODIFY | FAN_CLOSE | FAN_OPEN | FAN_OPEN_EXEC | FAN_ONDIR | FAN_EVENT_ON_CHILD | kFanotifyPermissions;

ErrnoOr<uint64_t> FanotifyInit(Task& task, uint32_t flags, uint32_t event_flags) {
  // Without the capability events would have to name files by handles.
  if (!task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
  if ((flags & ~kInitFlags) != 0 || (flags & kClasses) == kClasses) return Errno(EINVAL);
  // A pidfd stands for a process.
  if ((flags & FAN_REPORT_PIDFD) != 0 && (flags & FAN_REPORT_TID) != 0) return Errno(EINVAL);
  if ((event_flags & ~kEventFlags) != 0 || (event_flags & O_ACCMODE) == O_ACCMODE) return Errno(EINVAL);
  RefPtr<Fanotify> file = TRY(Fanotify::Make(task, flags, event_flags));
  return uint64_t(TRY(task.files().Allocate(std::move(file), (flags & FAN_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<VfsPath> PlaceToMark(Task& task, uint32_t flags, int dirfd, UserPtr<const char> path) {
  VfsPath place;
  if (path.is_null()) {
    RefPtr<File> file = TRY(task.files().Get(dirfd));
    if (file->path() == nullptr) return Errno(EINVAL);
    place = *file->path();
    if ((flags & FAN_MARK_ONLYDIR) != 0 && !place.inode()->IsDir()) return Errno(ENOTDIR);
  } else {
    uint32_t walk = ((flags & FAN_MARK_DONT_FOLLOW) != 0 ? 0 : kFollowLast) | ((flags & FAN_MARK_ONLYDIR) != 0 ? kMustBeDir : 0);
    place = TRY(ResolvePlaceAt(task, dirfd, TRY(task.CopyInString(path, 4096)), walk));
  }
  TRY(CheckPermission(task.creds(), place, kMayRead));
  return place;
}

ErrnoOr<uint64_t> FanotifyMark(Task& task, int fd, uint32_t flags, uint64_t mask, int dirfd, UserPtr<const char> path) {
  constexpr uint32_t kTypes = FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM;
  if (mask >> 32 != 0 || (flags & ~kMarkFlags) != 0 || (flags & kTypes) == kTypes) return Errno(EINVAL);
  switch (flags & kHow) {
    case FAN_MARK_ADD:
    case FAN_MARK_REMOVE:
      if (mask == 0) return Errno(EINVAL);
      break;
    case FAN_MARK_FLUSH:
      if ((flags & ~(kTypes | FAN_MARK_FLUSH)) != 0) return Errno(EINVAL);
      break;
    default: return Errno(EINVAL);
  }
  if ((mask & ~kMask) != 0) return Errno(EINVAL);
  constexpr uint32_t kIgnore = FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE;
  if ((flags & kIgnore) == kIgnore || ((flags & FAN_MARK_EVICTABLE) != 0 && (flags & kTypes) != 0)) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* group = dynamic_cast<Fanotify*>(file.get());
  if (group == nullptr) return Errno(EINVAL);
  // Only who sees files before others do is asked.
  if ((mask & kFanotifyPermissions) != 0 && (flags & kHow) != FAN_MARK_FLUSH && !group->decides()) return Errno(EINVAL);
  auto on = (flags & FAN_MARK_MOUNT) != 0        ? Fanotify::On::kMount
            : (flags & FAN_MARK_FILESYSTEM) != 0 ? Fanotify::On::kFileSystem
                                                 : Fanotify::On::kInode;
  if ((flags & kHow) == FAN_MARK_FLUSH) {
    group->Flush(on);
    return 0;
  }
  VfsPath place = TRY(PlaceToMark(task, flags, dirfd, path));
  auto bits = static_cast<uint32_t>(mask);
  // What is ignored until the next change: only of a file.
  bool until_changed = (flags & FAN_MARK_IGNORE) != 0 && (flags & FAN_MARK_IGNORED_SURV_MODIFY) == 0;
  if ((flags & kHow) == FAN_MARK_ADD && until_changed) {
    if (on != Fanotify::On::kInode) return Errno(EINVAL);
    if (place.inode()->IsDir()) return Errno(EISDIR);
  }
  // The older kind of ignoring knows neither of the two.
  if ((flags & FAN_MARK_IGNORED_MASK) != 0) bits &= ~uint32_t{FAN_ONDIR | FAN_EVENT_ON_CHILD};
  // Marks of mounts and file systems know no children.
  if (on != Fanotify::On::kInode) bits &= ~uint32_t{FAN_EVENT_ON_CHILD};
  if ((flags & kHow) == FAN_MARK_ADD) {
    TRY(group->Add(place, on, flags, bits));
  } else {
    TRY(group->Remove(place, on, flags, bits));
  }
  return 0;
}

}  // namespace

void RegisterFanotifyCalls(SyscallTable& table) {
  table.Set(SYS_fanotify_init, Partial<&FanotifyInit>("no events with file handles (FAN_REPORT_FID), so only with CAP_SYS_ADMIN"));
  table.Set(SYS_fanotify_mark,
            Partial<&FanotifyMark>("no events of directories (FAN_CREATE and its kin), which need file handles; no FAN_PRE_ACCESS, FAN_MARK_MNTNS"));
}

}  // namespace amber
