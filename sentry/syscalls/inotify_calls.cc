// inotify_init(2), inotify_add_watch(2), inotify_rm_watch(2).
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "sentry/fs/inotify/inotify.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kAllBits = IN_ALL_EVENTS | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK |
                              IN_MASK_CREATE | IN_MASK_ADD | IN_ISDIR | IN_ONESHOT;

ErrnoOr<uint64_t> InotifyInit1(Task& task, int flags) {
  if ((flags & ~(IN_CLOEXEC | IN_NONBLOCK)) != 0) return Errno(EINVAL);
  RefPtr<Inotify> file = TRY(Inotify::Make(task.creds().uid, flags & IN_NONBLOCK));
  return uint64_t(TRY(task.files().Allocate(std::move(file), (flags & IN_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<uint64_t> InotifyInit(Task& task) { return InotifyInit1(task, 0); }

ErrnoOr<RefPtr<Inotify>> GetInotify(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  auto* inotify = dynamic_cast<Inotify*>(file.get());
  if (inotify == nullptr) return Errno(EINVAL);
  return RefPtr<Inotify>(inotify);
}

ErrnoOr<uint64_t> InotifyAddWatch(Task& task, int fd, UserPtr<const char> path, uint32_t mask) {
  if ((mask & kAllBits) == 0 || (mask & ~kAllBits) != 0) return Errno(EINVAL);
  TRY(task.files().Get(fd));
  if ((mask & IN_MASK_ADD) != 0 && (mask & IN_MASK_CREATE) != 0) return Errno(EINVAL);
  RefPtr<Inotify> inotify = TRY(GetInotify(task, fd));
  uint32_t walk = ((mask & IN_DONT_FOLLOW) != 0 ? 0 : kFollowLast) | ((mask & IN_ONLYDIR) != 0 ? kMustBeDir : 0);
  VfsPath place = TRY(ResolvePlaceAt(task, AT_FDCWD, TRY(task.CopyInString(path, 4096)), walk));
  TRY(CheckPermission(task.creds(), place, kMayRead));
  return static_cast<uint64_t>(TRY(inotify->Watch(place, mask)));
}

ErrnoOr<uint64_t> InotifyRmWatch(Task& task, int fd, int wd) {
  TRY(TRY(GetInotify(task, fd))->Unwatch(wd));
  return 0;
}

}  // namespace

void RegisterInotifyCalls(SyscallTable& table) {
  table.Set(SYS_inotify_init, Full<&InotifyInit>());
  table.Set(SYS_inotify_init1, Full<&InotifyInit1>());
  table.Set(SYS_inotify_add_watch, Full<&InotifyAddWatch>());
  table.Set(SYS_inotify_rm_watch, Full<&InotifyRmWatch>());
}

}  // namespace amber
