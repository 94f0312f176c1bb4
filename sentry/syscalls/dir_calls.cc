// Directories and places: chdir(2), chroot(2), getcwd(2), getdents(2); flushing: fsync(2), sync(2).
#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "sentry/kernel/task.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/table.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/served.h"

namespace amber {
namespace {

ErrnoOr<uint64_t> ChDir(Task& task, UserPtr<const char> path) {
  VfsPath dir = TRY(ResolvePlaceAt(task, AT_FDCWD, TRY(task.CopyInString(path, 4096)), kFollowLast | kMustBeDir));
  TRY(CheckPermission(task.creds(), *dir.inode(), kMayExec));
  if (ServedInode* served = ServedInode::From(*dir.inode())) TRY(served->MayAccess(task.creds(), kMayExec));
  task.fs().set_cwd(std::move(dir));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FChDir(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().GetAny(fd));
  if (file->path() == nullptr || !file->path()->inode()->IsDir()) return Errno(ENOTDIR);
  TRY(CheckPermission(task.creds(), *file->path()->inode(), kMayExec));
  task.fs().set_cwd(*file->path());
  return uint64_t{0};
}

ErrnoOr<uint64_t> ChRoot(Task& task, UserPtr<const char> path) {
  VfsPath dir = TRY(ResolvePlaceAt(task, AT_FDCWD, TRY(task.CopyInString(path, 4096)), kFollowLast | kMustBeDir));
  TRY(CheckPermission(task.creds(), *dir.inode(), kMayExec));
  if (!task.creds().HasOwn(CAP_SYS_CHROOT)) return Errno(EPERM);
  task.fs().set_root(std::move(dir));
  return uint64_t{0};
}

ErrnoOr<uint64_t> GetCwd(Task& task, UserPtr<char> out, uint64_t size) {
  const VfsPath& cwd = task.fs().cwd();
  if (cwd.dentry->unlinked()) return Errno(ENOENT);
  std::string path = PathName(cwd, task.fs().root(), true);
  if (path.size() + 1 > size) return Errno(ERANGE);
  TRY(task.CopyOutBytes(out.address(), path.c_str(), path.size() + 1));
  return uint64_t{path.size() + 1};
}

constexpr size_t kDirentBuffer = 256 * 1024;

// Collects entries in the layout that `put` writes; EINVAL if not even one fits.
template <typename Put>
ErrnoOr<uint64_t> Dents(Task& task, int fd, uint64_t address, uint64_t size, Put put) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  TRY(AskToRead(*file));
  std::vector<uint8_t> buffer(std::min<uint64_t>(size, kDirentBuffer));
  size_t used = 0;
  bool full = false;
  TRY(file->ReadDir(task, [&](const std::string& name, uint64_t ino, uint8_t type, int64_t next) {
    size_t n = put(std::span(buffer).subspan(used), name, ino, type, next);
    full = n == 0;
    used += n;
    return n != 0;
  }));
  NotifyFile(*file, IN_ACCESS);
  if (used == 0 && full) return Errno(EINVAL);
  TRY(task.CopyOutBytes(address, buffer.data(), used));
  return uint64_t{used};
}

size_t PutDirent64(std::span<uint8_t> room, const std::string& name, uint64_t ino, uint8_t type, int64_t next) {
  size_t n = (offsetof(dirent64, d_name) + name.size() + 1 + 7) & ~size_t{7};
  if (n > room.size()) return 0;
  dirent64 d{};
  d.d_ino = ino;
  d.d_off = next;
  d.d_reclen = static_cast<unsigned short>(n);
  d.d_type = type;
  memset(room.data(), 0, n);
  memcpy(room.data(), &d, offsetof(dirent64, d_name));
  memcpy(room.data() + offsetof(dirent64, d_name), name.data(), name.size());
  return n;
}

ErrnoOr<uint64_t> GetDents64(Task& task, int fd, UserPtr<void> out, uint32_t size) { return Dents(task, fd, out.address(), size, PutDirent64); }

// struct linux_dirent: the type is in the record's last byte.
size_t PutDirent(std::span<uint8_t> room, const std::string& name, uint64_t ino, uint8_t type, int64_t next) {
  constexpr size_t kHeader = 18;
  size_t n = (kHeader + name.size() + 2 + 7) & ~size_t{7};
  if (n > room.size()) return 0;
  auto length = static_cast<uint16_t>(n);
  memset(room.data(), 0, n);
  memcpy(room.data(), &ino, 8);
  memcpy(room.data() + 8, &next, 8);
  memcpy(room.data() + 16, &length, 2);
  memcpy(room.data() + kHeader, name.data(), name.size());
  room[n - 1] = type;
  return n;
}

ErrnoOr<uint64_t> GetDents(Task& task, int fd, UserPtr<void> out, uint32_t size) { return Dents(task, fd, out.address(), size, PutDirent); }

ErrnoOr<uint64_t> SyncFile(Task& task, int fd, bool data_only) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  TRY(file->Fsync(task, data_only));
  return uint64_t{0};
}

ErrnoOr<uint64_t> FSync(Task& task, int fd) { return SyncFile(task, fd, false); }
ErrnoOr<uint64_t> FDataSync(Task& task, int fd) { return SyncFile(task, fd, true); }

ErrnoOr<uint64_t> SyncFileRange(Task& task, int fd, int64_t offset, int64_t size, uint32_t flags) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  int64_t end;
  if (offset < 0 || size < 0 || __builtin_add_overflow(offset, size, &end) || (flags & ~7u) != 0) return Errno(EINVAL);
  // fs/sync.c: regular files, block devices, folders and links only.
  struct stat status{};
  TRY(file->Stat(task, &status));
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode) && !S_ISDIR(status.st_mode) && !S_ISLNK(status.st_mode)) return Errno(ESPIPE);
  // Of files that keep nothing, as those of /proc, there is nothing to write.
  auto synced = file->Fsync(task, true);
  if (!synced.ok() && !synced.Is(EINVAL)) return synced.error();
  return uint64_t{0};
}

ErrnoOr<uint64_t> SyncFs(Task& task, int fd) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->path() != nullptr) TRY(file->path()->mount->fs().Sync());
  return uint64_t{0};
}

ErrnoOr<uint64_t> Sync(Task& task) {
  if (MountNamespace* ns = task.fs().root().mount->ns()) {
    for (Mount* m : ns->All()) (void)m->fs().Sync();
  }
  return uint64_t{0};
}

ErrnoOr<uint64_t> FAdvise64(Task& task, int fd, int64_t, int64_t size, int advice) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (file->path() == nullptr && file->LinkName().starts_with("pipe:")) return Errno(ESPIPE);
  if (size < 0 || advice < POSIX_FADV_NORMAL || advice > POSIX_FADV_NOREUSE) return Errno(EINVAL);
  return uint64_t{0};
}

ErrnoOr<uint64_t> ReadAhead(Task& task, int fd, int64_t, uint64_t) {
  RefPtr<File> file = TRY(task.files().Get(fd));
  if (!file->readable()) return Errno(EBADF);
  struct stat status{};
  TRY(file->Stat(task, &status));
  return S_ISREG(status.st_mode) || S_ISBLK(status.st_mode) ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(EINVAL);
}

}  // namespace

void RegisterDirCalls(SyscallTable& table) {
  table.Set(SYS_chdir, Full<&ChDir>());
  table.Set(SYS_fchdir, Full<&FChDir>());
  table.Set(SYS_chroot, Full<&ChRoot>());
  table.Set(SYS_getcwd, Full<&GetCwd>());
  table.Set(SYS_getdents64, Full<&GetDents64>());
  table.Set(SYS_getdents, Full<&GetDents>());
  table.Set(SYS_fsync, Full<&FSync>());
  table.Set(SYS_fdatasync, Full<&FDataSync>());
  table.Set(SYS_sync_file_range, Full<&SyncFileRange>());
  table.Set(SYS_syncfs, Partial<&SyncFs>("host file systems are flushed by the host in its own time"));
  table.Set(SYS_sync, Partial<&Sync>("host file systems are flushed by the host in its own time"));
  table.Set(SYS_fadvise64, Full<&FAdvise64>());
  table.Set(SYS_readahead, Full<&ReadAhead>());
}

}  // namespace amber
