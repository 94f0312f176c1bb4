// fanotify_init(2), fanotify_mark(2), as fs/notify/fanotify/fanotify_user.c has them.
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
#include "sentry/vfs/reconfigure.h"

namespace amber {
namespace {

constexpr uint32_t kClasses = FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT;
// FANOTIFY_ADMIN_INIT_FLAGS, FANOTIFY_INIT_FLAGS
constexpr uint32_t kAdminFlags = kClasses | FAN_REPORT_TID | FAN_REPORT_PIDFD | kFanReportFdError | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS;
constexpr uint32_t kInitFlags = kAdminFlags | kFanFids | FAN_CLOEXEC | FAN_NONBLOCK;
// FANOTIFY_INIT_ALL_EVENT_F_BITS; O_LARGEFILE is 0 for 64-bit programs.
constexpr uint32_t kEventFlags = O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DSYNC | O_CLOEXEC | O_NOATIME | 0100000;
constexpr uint32_t kHow = FAN_MARK_ADD | FAN_MARK_REMOVE | FAN_MARK_FLUSH;
constexpr uint32_t kTypes = FAN_MARK_MOUNT | FAN_MARK_FILESYSTEM;
constexpr uint32_t kIgnore = FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORE;
constexpr uint32_t kMarkFlags = kHow | kTypes | kIgnore | FAN_MARK_DONT_FOLLOW | FAN_MARK_ONLYDIR | FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE;
constexpr uint32_t kEventHow = FAN_ONDIR | FAN_EVENT_ON_CHILD;
constexpr uint32_t kPermissions = kFanotifyPermissions | kFanPreAccess;
constexpr uint64_t kMask = kFanPathEvents | kFanNameEvents | kFanInodeEvents | FAN_FS_ERROR | kEventHow | kPermissions;

ErrnoOr<uint64_t> FanotifyInit(Task& task, uint32_t flags, uint32_t event_flags) {
  uint32_t fids = flags & kFanFids;
  if (!task.Has(CAP_SYS_ADMIN) && ((flags & kAdminFlags) != 0 || fids == 0)) return Errno(EPERM);
  if ((flags & ~kInitFlags) != 0) return Errno(EINVAL);
  // A pidfd stands for a process.
  if ((flags & FAN_REPORT_PIDFD) != 0 && (flags & FAN_REPORT_TID) != 0) return Errno(EINVAL);
  if ((event_flags & ~kEventFlags) != 0 || (event_flags & O_ACCMODE) == O_ACCMODE) return Errno(EINVAL);
  if (fids != 0 && (flags & kClasses) != 0) return Errno(EINVAL);
  // A name is told with its directory, and whom it means only with all of that.
  if ((fids & FAN_REPORT_NAME) != 0 && (fids & FAN_REPORT_DIR_FID) == 0) return Errno(EINVAL);
  constexpr uint32_t kForTarget = FAN_REPORT_NAME | FAN_REPORT_FID;
  if ((fids & FAN_REPORT_TARGET_FID) != 0 && (fids & kForTarget) != kForTarget) return Errno(EINVAL);
  if ((flags & kClasses) == kClasses) return Errno(EINVAL);
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

ErrnoOr<void> CheckMarkFlags(uint32_t flags, uint64_t mask) {
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
  return (mask & ~kMask) != 0 || (flags & kIgnore) == kIgnore ? Errno(EINVAL) : ErrnoOr<void>(Ok());
}

// What this group may have in a mark of this kind.
ErrnoOr<void> CheckGroup(Task& task, const Fanotify& group, uint32_t flags, uint32_t mask) {
  uint32_t types = flags & kTypes, fids = group.init_flags() & kFanFids;
  if (types != 0 && !task.creds().HasIn(group.user_ns(), CAP_SYS_ADMIN)) return Errno(EPERM);
  // Only who sees files before others do is asked, and for what is not there yet only the very first.
  if ((mask & kPermissions) != 0 && !group.decides()) return Errno(EINVAL);
  if ((mask & kFanPreAccess) != 0 && (group.init_flags() & FAN_CLASS_PRE_CONTENT) == 0) return Errno(EINVAL);
  if ((mask & FAN_FS_ERROR) != 0 && types != FAN_MARK_FILESYSTEM) return Errno(EINVAL);
  if ((flags & FAN_MARK_EVICTABLE) != 0 && types != 0) return Errno(EINVAL);
  // What comes without a path has no descriptor, and no mount.
  constexpr uint32_t kWithPath = kFanPathEvents | kPermissions | kEventHow;
  if ((mask & ~kWithPath) != 0 && (fids == 0 || types == FAN_MARK_MOUNT)) return Errno(EINVAL);
  if ((mask & FAN_RENAME) != 0 && (fids & FAN_REPORT_NAME) == 0) return Errno(EINVAL);
  return (mask & kFanPreAccess) != 0 && (mask & FAN_ONDIR) != 0 ? Errno(EINVAL) : ErrnoOr<void>(Ok());
}

// fanotify_events_supported(), fanotify_test_fid() and what stands around them.
ErrnoOr<void> CheckPlace(Task& task, const Fanotify& group, const VfsPath& place, uint32_t flags, uint32_t mask) {
  uint32_t types = flags & kTypes, fids = group.init_flags() & kFanFids;
  FileSystem& fs = place.mount->fs();
  bool adds = (flags & kHow) == FAN_MARK_ADD, is_dir = place.inode()->IsDir();
  if (adds) {
    if ((mask & kFanPreAccess) != 0) return Errno(EOPNOTSUPP);  // no file system here has files without contents
    if ((mask & kPermissions) != 0 && fs.type_name() == std::string_view("proc")) return Errno(EINVAL);
    bool strict = (fids & FAN_REPORT_TARGET_FID) != 0 || (mask & FAN_RENAME) != 0 || (flags & FAN_MARK_IGNORE) != 0;
    if (strict && types == 0 && !is_dir && (mask & (kFanNameEvents | kEventHow)) != 0) return Errno(ENOTDIR);
  }
  if (types == FAN_MARK_FILESYSTEM && !task.creds().HasIn(fs.owner(), CAP_SYS_ADMIN)) return Errno(EPERM);
  if (types == FAN_MARK_MOUNT && !task.creds().HasIn(place.mount->ns() != nullptr ? place.mount->ns()->owner() : nullptr, CAP_SYS_ADMIN))
    return Errno(EPERM);
  // Whole file systems are told of where handles can be opened.
  if (fids != 0 && types != 0 && HandlesOf(fs) == nullptr) return Errno(EOPNOTSUPP);
  // What is ignored until the next change: only of a file.
  bool until_changed = (flags & FAN_MARK_IGNORE) != 0 && (flags & FAN_MARK_IGNORED_SURV_MODIFY) == 0;
  if (adds && until_changed && (types != 0 || is_dir)) return Errno(types != 0 ? EINVAL : EISDIR);
  return Ok();
}

ErrnoOr<uint64_t> FanotifyMark(Task& task, int fd, uint32_t flags, uint64_t mask, int dirfd, UserPtr<const char> path) {
  TRY(CheckMarkFlags(flags, mask));
  auto bits = static_cast<uint32_t>(mask);
  // The older kind of ignoring knows neither of the two.
  if ((flags & FAN_MARK_IGNORED_MASK) != 0) bits &= ~kEventHow;
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* group = dynamic_cast<Fanotify*>(file.get());
  if (group == nullptr) return Errno(EINVAL);
  TRY(CheckGroup(task, *group, flags, bits));
  auto on = (flags & FAN_MARK_MOUNT) != 0        ? Fanotify::On::kMount
            : (flags & FAN_MARK_FILESYSTEM) != 0 ? Fanotify::On::kFileSystem
                                                 : Fanotify::On::kInode;
  if ((flags & kHow) == FAN_MARK_FLUSH) {
    group->Flush(on);
    return 0;
  }
  VfsPath place = TRY(PlaceToMark(task, flags, dirfd, path));
  TRY(CheckPlace(task, *group, place, flags, bits));
  bool adds = (flags & kHow) == FAN_MARK_ADD;
  // Only directories have children. Groups that tell directories look at those of what they watch.
  if (on != Fanotify::On::kInode || !place.inode()->IsDir()) {
    bits &= ~uint32_t{FAN_EVENT_ON_CHILD};
    if ((group->init_flags() & FAN_REPORT_DIR_FID) != 0 && adds && (flags & kIgnore) == 0) bits |= FAN_EVENT_ON_CHILD;
  }
  if (adds) {
    TRY(group->Add(place, on, flags, bits));
  } else {
    TRY(group->Remove(place, on, flags, bits));
  }
  return 0;
}

}  // namespace

void RegisterFanotifyCalls(SyscallTable& table) {
  table.Set(SYS_fanotify_init, Partial<&FanotifyInit>("no events of mounts (FAN_REPORT_MNT)"));
  table.Set(SYS_fanotify_mark, Partial<&FanotifyMark>("no FAN_MARK_MNTNS"));
}

}  // namespace amber
