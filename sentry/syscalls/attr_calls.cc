// Changing attributes: chmod(2), chown(2), utimensat(2), truncate(2), umask(2).
#include <linux/falloc.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

#include <algorithm>

#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/lock_keeper.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {
namespace {

ErrnoOr<VfsPath> Place(Task& task, int dirfd, UserPtr<const char> path, int flags) {
  std::string name = TRY(task.CopyInString(path, 4096));
  return ResolvePlaceAt(task, dirfd, name, (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast, (flags & AT_EMPTY_PATH) != 0);
}

ErrnoOr<uint64_t> FChmodAt2(Task& task, int dirfd, UserPtr<const char> path, uint32_t mode, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  VfsContext ctx = ContextOf(task);
  TRY(ChmodPlace(ctx, TRY(Place(task, dirfd, path, flags)), mode));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FChmodAt(Task& task, int dirfd, UserPtr<const char> path, uint32_t mode) { return FChmodAt2(task, dirfd, path, mode, 0); }

ErrnoOr<uint64_t> Chmod(Task& task, UserPtr<const char> path, uint32_t mode) { return FChmodAt2(task, AT_FDCWD, path, mode, 0); }

// May the attributes of a file without a place be changed? Those of anonymous inodes may not (anon_inode_setattr(), pidfs_setattr()), and those of
// namespaces are immutable. Sockets and the like have some that nobody sees changed.
ErrnoOr<void> CheckPlaceless(const File& file) {
  if (file.kind() == state::Kind::kNamespaceFile) return Errno(EPERM);
  if (file.LinkName().starts_with("anon_inode:")) return Errno(EOPNOTSUPP);
  return Ok();
}

ErrnoOr<uint64_t> FChmod(Task& task, int fd, uint32_t mode) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->path() != nullptr) {
    TRY(ChmodPlace(ContextOf(task), *file->path(), mode));
  } else if (auto* kept = dynamic_cast<OwnerKeeper*>(file.get())) {
    TRY(kept->CheckMode(mode));
    TRY(ChmodKept(task.creds(), kept->owner_and_mode(), mode));
  } else {
    TRY(CheckPlaceless(*file));
  }
  return uint64_t{0};
}

// Owners as the caller calls them; -1 stays.
ErrnoOr<void> MapOwner(const Task& task, uint32_t* uid, uint32_t* gid) {
  const UserNamespace* ns = task.creds().user_ns.get();
  if (*uid != UINT32_MAX && (*uid = ToKernelUid(ns, *uid)) == UINT32_MAX) return Errno(EINVAL);
  if (*gid != UINT32_MAX && (*gid = ToKernelGid(ns, *gid)) == UINT32_MAX) return Errno(EINVAL);
  return Ok();
}

ErrnoOr<uint64_t> FChownAt(Task& task, int dirfd, UserPtr<const char> path, uint32_t uid, uint32_t gid, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  VfsContext ctx = ContextOf(task);
  TRY(MapOwner(task, &uid, &gid));
  TRY(ChownPlace(ctx, TRY(Place(task, dirfd, path, flags)), uid, gid));
  return uint64_t{0};
}

ErrnoOr<uint64_t> Chown(Task& task, UserPtr<const char> path, uint32_t uid, uint32_t gid) { return FChownAt(task, AT_FDCWD, path, uid, gid, 0); }

ErrnoOr<uint64_t> LChown(Task& task, UserPtr<const char> path, uint32_t uid, uint32_t gid) {
  return FChownAt(task, AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}

ErrnoOr<uint64_t> FChown(Task& task, int fd, uint32_t uid, uint32_t gid) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  VfsContext ctx = ContextOf(task);
  TRY(MapOwner(task, &uid, &gid));
  if (file->path() != nullptr) {
    TRY(ChownPlace(ctx, *file->path(), uid, gid));
  } else if (auto* kept = dynamic_cast<OwnerKeeper*>(file.get())) {
    TRY(ChownKept(task.creds(), kept->owner_and_mode(), uid, gid));
  } else {
    TRY(CheckPlaceless(*file));
  }
  return uint64_t{0};
}

ErrnoOr<std::optional<AttrChange::Time>> ToTime(const timespec& t) {
  if (t.tv_nsec == UTIME_OMIT) return std::optional<AttrChange::Time>();
  if (t.tv_nsec == UTIME_NOW) return std::optional<AttrChange::Time>({.now = true});
  if (t.tv_nsec < 0 || t.tv_nsec >= 1'000'000'000) return Errno(EINVAL);
  return std::optional<AttrChange::Time>({.time = t});
}

// `times` null: both now.
ErrnoOr<uint64_t> SetTimes(Task& task, int dirfd, UserPtr<const char> path, const timespec* times, int flags) {
  if ((flags & ~(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH)) != 0) return Errno(EINVAL);
  AttrChange change{.atime = AttrChange::Time{.now = true}, .mtime = AttrChange::Time{.now = true}};
  if (times != nullptr) {
    change.atime = TRY(ToTime(times[0]));
    change.mtime = TRY(ToTime(times[1]));
    if (!change.atime && !change.mtime) return uint64_t{0};
  }
  VfsPath place;
  if (path.is_null() && dirfd != AT_FDCWD) {
    if (flags != 0) return Errno(EINVAL);
    RefPtr<File> file = TRY(task.files().Get(dirfd));
    if (file->path() == nullptr) {
      TRY(CheckPlaceless(*file));
      return uint64_t{0};
    }
    place = *file->path();
  } else {
    place = TRY(Place(task, dirfd, path, flags));
  }
  VfsContext ctx = ContextOf(task);
  TRY(SetTimesPlace(ctx, place, change));
  return uint64_t{0};
}

ErrnoOr<uint64_t> UtimensAt(Task& task, int dirfd, UserPtr<const char> path, UserPtr<const timespec> p, int flags) {
  if (p.is_null()) return SetTimes(task, dirfd, path, nullptr, flags);
  auto times = TRY(task.CopyInArray(p, 2));
  return SetTimes(task, dirfd, path, times.data(), flags);
}

ErrnoOr<uint64_t> FUtimesAt(Task& task, int dirfd, UserPtr<const char> path, UserPtr<const timeval> p) {
  if (p.is_null()) return SetTimes(task, dirfd, path, nullptr, 0);
  auto values = TRY(task.CopyInArray(p, 2));
  timespec times[2];
  for (int i = 0; i < 2; ++i) {
    if (values[i].tv_usec < 0 || values[i].tv_usec >= 1'000'000) return Errno(EINVAL);
    times[i] = {values[i].tv_sec, values[i].tv_usec * 1000};
  }
  return SetTimes(task, dirfd, path, times, 0);
}

ErrnoOr<uint64_t> UTimes(Task& task, UserPtr<const char> path, UserPtr<const timeval> p) { return FUtimesAt(task, AT_FDCWD, path, p); }

ErrnoOr<uint64_t> UTime(Task& task, UserPtr<const char> path, UserPtr<const utimbuf> p) {
  if (p.is_null()) return SetTimes(task, AT_FDCWD, path, nullptr, 0);
  utimbuf t = TRY(task.CopyIn(p));
  timespec times[2] = {{t.actime, 0}, {t.modtime, 0}};
  return SetTimes(task, AT_FDCWD, path, times, 0);
}

ErrnoOr<void> CheckSizeLimit(Task& task, int64_t size) {
  if (size < 0) return Errno(EINVAL);
  return CheckFileSize(task, static_cast<uint64_t>(size));
}

ErrnoOr<uint64_t> Truncate(Task& task, UserPtr<const char> path, int64_t size) {
  if (size < 0) return Errno(EINVAL);
  VfsPath place = TRY(Place(task, AT_FDCWD, path, 0));
  TRY(CheckSizeLimit(task, size));
  VfsContext ctx = ContextOf(task);
  TRY(TruncatePlace(ctx, place, static_cast<uint64_t>(size)));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FTruncate(Task& task, int fd, int64_t size) {
  if (size < 0) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (!file->writable()) return Errno(EINVAL);
  TRY(CheckSizeLimit(task, size));
  if (auto* placed = dynamic_cast<VfsFile*>(file.get()); placed != nullptr && placed->lacks(file_right::kTruncate)) return Errno(EACCES);
  TRY(file->Truncate(task, static_cast<uint64_t>(size)));
  NotifyFile(*file, IN_MODIFY);
  return uint64_t{0};
}

// Which of fallocate(2)'s modes go together (vfs_fallocate()): one at a time, punching only with the size kept, what moves contents or writes
// zeroes only without.
bool IsFallocateMode(int mode) {
  constexpr int kWriteZeroes = 0x80;  // FALLOC_FL_WRITE_ZEROES, of 6.17
  bool keeps = (mode & FALLOC_FL_KEEP_SIZE) != 0;
  switch (mode & ~FALLOC_FL_KEEP_SIZE) {
    case 0:
    case FALLOC_FL_UNSHARE_RANGE:
    case FALLOC_FL_ZERO_RANGE: return true;
    case FALLOC_FL_PUNCH_HOLE: return keeps;
    case FALLOC_FL_COLLAPSE_RANGE:
    case FALLOC_FL_INSERT_RANGE:
    case kWriteZeroes: return !keeps;
    default: return false;
  }
}

ErrnoOr<uint64_t> FAllocate(Task& task, int fd, int mode, int64_t offset, int64_t size) {
  RefPtr<File> any = TRY(task.files().Get(fd));
  if (offset < 0 || size <= 0) return Errno(EINVAL);
  if (!IsFallocateMode(mode)) return Errno(EOPNOTSUPP);
  RefPtr<File> file = TRY(WritableFile(task, fd));
  struct stat st;
  TRY(file->Stat(task, &st));
  if (S_ISFIFO(st.st_mode)) return Errno(ESPIPE);
  if (S_ISDIR(st.st_mode)) return Errno(EISDIR);
  // A pidfd shows no type, and is a regular file.
  if (!S_ISREG(st.st_mode) && file->kind() != state::Kind::kPidFd) return Errno(ENODEV);
  int64_t end;
  if (__builtin_add_overflow(offset, size, &end)) return Errno(EFBIG);
  TRY(file->Fallocate(task, mode, static_cast<uint64_t>(offset), static_cast<uint64_t>(size)));
  NotifyFile(*file, IN_MODIFY);
  return uint64_t{0};
}

ErrnoOr<uint64_t> Umask(Task& task, uint32_t mask) {
  uint32_t old = task.fs().umask();
  task.fs().set_umask(mask);
  return uint64_t{old};
}

}  // namespace

void RegisterAttrCalls(SyscallTable& table) {
  table.Set(SYS_chmod, Full<&Chmod>());
  table.Set(SYS_fchmod, Full<&FChmod>());
  table.Set(SYS_fchmodat, Full<&FChmodAt>());
  table.Set(452 /* SYS_fchmodat2 */, Full<&FChmodAt2>());
  table.Set(SYS_chown, Full<&Chown>());
  table.Set(SYS_lchown, Full<&LChown>());
  table.Set(SYS_fchown, Full<&FChown>());
  table.Set(SYS_fchownat, Full<&FChownAt>());
  table.Set(SYS_utimensat, Full<&UtimensAt>());
  table.Set(SYS_futimesat, Full<&FUtimesAt>());
  table.Set(SYS_utimes, Full<&UTimes>());
  table.Set(SYS_utime, Full<&UTime>());
  table.Set(SYS_truncate, Full<&Truncate>());
  table.Set(SYS_ftruncate, Full<&FTruncate>());
  table.Set(SYS_fallocate, Partial<&FAllocate>("only what the file's own system can do; no collapse or insert in tmpfs"));
  table.Set(SYS_umask, Full<&Umask>());
}

}  // namespace amber
