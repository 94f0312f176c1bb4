// Opening and closing: open(2), openat2(2), close(2), close_range(2), dup(2).
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/linger.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_owner.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

constexpr int kLargeFile = 0100000;
// Flags that open(2) knows; it ignores others, openat2(2) refuses them.
constexpr int kOpenFlags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_ASYNC | O_DIRECT |
                           O_LARGEFILE | kLargeFile | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH | O_TMPFILE;

ErrnoOr<uint64_t> OpenCommon(Task& task, int dirfd, const std::string& path, OpenHow how) {
  // Of a lease that was waited for, and no matter for what the path leads to now.
  task.syscall().deadline = kNever;
  task.syscall().timed_out = false;
  bool close_on_exec = (how.flags & O_CLOEXEC) != 0;
  if ((how.flags & (O_SYNC & ~O_DSYNC)) != 0) how.flags |= O_DSYNC;  // build_open_flags()
  if ((how.flags & O_PATH) != 0) how.flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  bool tmpfile = (how.flags & O_TMPFILE) == O_TMPFILE;
  if ((how.flags & O_CREAT) != 0 || tmpfile) how.mode &= 07777;
  how.umask = task.fs().umask();
  VfsPath start = TRY(StartOf(task, dirfd, path));
  VfsContext ctx = ContextOf(task);
  RefPtr<File> file = TRY(OpenPath(ctx, start, path, how));
  return uint64_t(TRY(task.files().Allocate(std::move(file), close_on_exec, task.limit(RLIMIT_NOFILE))));
}

// build_open_flags(), before the path is copied.
ErrnoOr<void> CheckOpenFlags(int flags) {
  if ((flags & O_PATH) != 0) return Ok();
  bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & O_CREAT) != 0 && (flags & O_DIRECTORY) != 0) return Errno(EINVAL);
  return (flags & (O_TMPFILE & ~O_DIRECTORY)) != 0 && (!unnamed || (flags & O_ACCMODE) == O_RDONLY) ? Errno(EINVAL) : ErrnoOr<void>(Ok());
}

ErrnoOr<uint64_t> OpenAt(Task& task, int dirfd, UserPtr<const char> path, int flags, uint32_t mode) {
  TRY(CheckOpenFlags(flags & kOpenFlags));
  return OpenCommon(task, dirfd, TRY(task.CopyInString(path, 4096)), {.flags = flags & kOpenFlags, .mode = mode});
}

ErrnoOr<uint64_t> Open(Task& task, UserPtr<const char> path, int flags, uint32_t mode) { return OpenAt(task, AT_FDCWD, path, flags, mode); }

ErrnoOr<uint64_t> Creat(Task& task, UserPtr<const char> path, uint32_t mode) {
  return OpenAt(task, AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

// Copies a structure that may be older or newer than ours: unknown bytes must be zero (copy_struct_from_user).
ErrnoOr<open_how> CopyInHow(Task& task, UserPtr<const void> p, uint64_t size) {
  open_how how{};
  if (size < sizeof(how)) return Errno(EINVAL);
  if (size > 4096) return Errno(E2BIG);
  std::vector<uint8_t> bytes(size);
  TRY(task.CopyInBytes(p.address(), bytes.data(), size));
  for (size_t i = sizeof(how); i < size; ++i) {
    if (bytes[i] != 0) return Errno(E2BIG);
  }
  memcpy(&how, bytes.data(), sizeof(how));
  return how;
}

ErrnoOr<uint64_t> OpenAt2(Task& task, int dirfd, UserPtr<const char> path, UserPtr<const void> p, uint64_t size) {
  open_how how = TRY(CopyInHow(task, p, size));
  constexpr uint64_t kResolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED;
  if ((how.flags & ~static_cast<uint64_t>(kOpenFlags)) != 0 || (how.resolve & ~kResolve) != 0) return Errno(EINVAL);
  if ((how.resolve & RESOLVE_BENEATH) != 0 && (how.resolve & RESOLVE_IN_ROOT) != 0) return Errno(EINVAL);
  auto flags = static_cast<int>(how.flags);
  bool makes = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & O_CREAT) != 0 && (flags & O_DIRECTORY) != 0) return Errno(EINVAL);
  bool unnamed = (flags & O_TMPFILE) == O_TMPFILE;
  if ((flags & (O_TMPFILE & ~O_DIRECTORY)) != 0 && (!unnamed || (flags & O_ACCMODE) == O_RDONLY)) return Errno(EINVAL);
  if ((how.mode & ~uint64_t{07777}) != 0 || (!makes && how.mode != 0)) return Errno(EINVAL);
  if ((flags & O_PATH) != 0 && (flags & ~(O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) != 0) return Errno(EINVAL);
  // What is looked for in the cache alone. Here everything counts as cached but what Linux never finds there: what is to be made, and where
  // magic links lead. A caller that is told EAGAIN asks again without.
  bool cached = (how.resolve & RESOLVE_CACHED) != 0;
  if (cached && (makes || (flags & O_TRUNC) != 0)) return Errno(EAGAIN);
  uint32_t walk = 0;
  if ((how.resolve & RESOLVE_NO_XDEV) != 0) walk |= kNoXdev;
  if ((how.resolve & RESOLVE_NO_MAGICLINKS) != 0) walk |= kNoMagicLinks;
  if ((how.resolve & RESOLVE_NO_SYMLINKS) != 0) walk |= kNoSymlinks;
  if ((how.resolve & RESOLVE_BENEATH) != 0) walk |= kBeneath;
  if ((how.resolve & RESOLVE_IN_ROOT) != 0) walk |= kInRoot;
  std::string name = TRY(task.CopyInString(path, 4096));
  // An absolute path is taken below the directory (or the working directory) here, so the descriptor counts.
  if ((walk & (kInRoot | kBeneath)) != 0 && !name.empty() && name.front() == '/') {
    if ((walk & kBeneath) != 0) return Errno(EXDEV);
    name.insert(0, ".");
  }
  bool may_loop = cached && (walk & kNoSymlinks) == 0;
  if (may_loop) walk |= kNoMagicLinks;
  auto opened = OpenCommon(task, dirfd, name, {.flags = flags, .mode = static_cast<uint32_t>(how.mode), .walk = walk});
  return may_loop && opened.Is(ELOOP) ? Errno(EAGAIN) : opened;
}

ErrnoOr<uint64_t> Close(Task& task, int fd) {
  if (Lingers(task)) return GoOnLingering(task);
  RefPtr<File> file = TRY(task.files().Remove(fd));
  TellClosed(*file, task);
  return DropLingering(task, std::move(file), 0);
}

ErrnoOr<uint64_t> CloseRange(Task& task, uint32_t first, uint32_t last, uint32_t flags) {
  constexpr uint32_t kUnshare = 2, kCloexec = 4;
  if ((flags & ~(kUnshare | kCloexec)) != 0 || first > last) return Errno(EINVAL);
  if ((flags & kUnshare) != 0 && task.files().ref_count() > 1) task.UnshareFiles();
  auto in_range = [&](int fd) { return static_cast<uint32_t>(fd) >= first && static_cast<uint32_t>(fd) <= last; };
  if ((flags & kCloexec) != 0) {
    std::vector<int> fds;
    task.files().ForEach([&](int fd, const RefPtr<File>&, bool) {
      if (in_range(fd)) fds.push_back(fd);
    });
    for (int fd : fds) TRY(task.files().set_close_on_exec(fd, true));
  } else {
    task.files().RemoveIf(task, [&](int fd, bool) { return in_range(fd); });
  }
  return uint64_t{0};
}

ErrnoOr<uint64_t> Dup(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  return uint64_t(TRY(task.files().Allocate(std::move(file), false, task.limit(RLIMIT_NOFILE))));
}

ErrnoOr<uint64_t> DupTo(Task& task, int old_fd, int new_fd, bool close_on_exec) {
  if (Lingers(task)) return GoOnLingering(task);
  RefPtr<File> file = TRY(task.files().GetAny(old_fd));
  RefPtr<File> before = TRY(task.files().Replace(new_fd, std::move(file), close_on_exec, task.limit(RLIMIT_NOFILE)));
  if (!before) return static_cast<uint64_t>(new_fd);
  TellClosed(*before, task);
  return DropLingering(task, std::move(before), static_cast<uint64_t>(new_fd));
}

ErrnoOr<uint64_t> Dup2(Task& task, int old_fd, int new_fd) {
  if (old_fd == new_fd) {
    TRY(task.files().GetAny(old_fd));
    return static_cast<uint64_t>(new_fd);
  }
  return DupTo(task, old_fd, new_fd, false);
}

ErrnoOr<uint64_t> Dup3(Task& task, int old_fd, int new_fd, int flags) {
  if ((flags & ~O_CLOEXEC) != 0 || old_fd == new_fd) return Errno(EINVAL);
  return DupTo(task, old_fd, new_fd, (flags & O_CLOEXEC) != 0);
}

}  // namespace

void RegisterOpenCalls(SyscallTable& table) {
  table.Set(SYS_open, Full<&Open>());
  table.Set(SYS_openat, Full<&OpenAt>());
  table.Set(SYS_openat2, Full<&OpenAt2>());
  table.Set(SYS_creat, Full<&Creat>());
  table.Set(SYS_close, Full<&Close>());
  table.Set(SYS_close_range, Full<&CloseRange>());
  table.Set(SYS_dup, Full<&Dup>());
  table.Set(SYS_dup2, Full<&Dup2>());
  table.Set(SYS_dup3, Full<&Dup3>());
}

}  // namespace amber
