#include "sentry/vfs/exec_open.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "sentry/kernel/task.h"
#include "sentry/vfs/at.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/served.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

namespace {

// A memfd.
ErrnoOr<RefPtr<File>> OpenNameless(Task& task, File& file) {
  struct stat st;
  TRY(file.Stat(task, &st));
  if (!S_ISREG(st.st_mode)) return Errno(EACCES);
  bool owner = task.creds().fsuid == st.st_uid || task.creds().HasOver(st.st_uid, st.st_gid, CAP_DAC_OVERRIDE);
  if ((st.st_mode & (owner ? 0111 : 0001)) == 0) return Errno(EACCES);
  return file.Reopen(task, O_RDONLY);
}

}  // namespace

ErrnoOr<RefPtr<File>> OpenForExec(Task& task, int dirfd, const std::string& path, int flags) {
  VfsContext ctx = ContextOf(task);
  uint32_t walk = (flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0 : kFollowLast | kOpenRead;
  Resolved r = TRY(ResolveAt(task, dirfd, path, walk, (flags & AT_EMPTY_PATH) != 0));
  if (r.file) {
    if (r.file->path() == nullptr) return OpenNameless(task, *r.file);
    r.path = *r.file->path();
  }
  Inode& inode = *r.path.inode();
  if (inode.IsSymlink()) return Errno(ELOOP);
  if (!inode.IsRegular()) return Errno(EACCES);
  if ((r.path.mount->flags() & MS_NOEXEC) != 0) return Errno(EACCES);
  TRY(CheckPermission(*ctx.creds, inode, kMayExec));
  TRY(CheckRights(ctx, r.path, file_right::kExecute | file_right::kReadFile));
  if (inode.writers > 0) return Errno(ETXTBSY);
  // A program may be executed without being readable: no check for reading.
  TRY(AskPermission(r.path, kExecPermission));
  TRY(AskPermission(r.path, kOpenPermission));
  RefPtr<File> file = TRY(inode.Open(ctx, r.path, O_RDONLY));
  NotifyFile(*file, IN_OPEN | kOpenExec);
  return file;
}

void MarkRunning(File& file) {
  if (auto* placed = dynamic_cast<VfsFile*>(&file)) placed->DenyWriting();
}

ExecIds ExecIdsOf(const File& file) {
  ExecIds ids;
  const VfsPath* path = file.path();
  if (path == nullptr || (path->mount->flags() & MS_NOSUID) != 0) return ids;
  // Nobody becomes somebody else by what a user's server says (mnt_may_suid(); for the user's own namespace, too).
  if (ServedInode::From(*path->inode()) != nullptr && path->mount->fs().owner() != nullptr) return ids;
  const Attr& a = path->inode()->attr();
  ids.uid = a.uid;
  ids.gid = a.gid;
  ids.set_uid = (a.mode & S_ISUID) != 0;
  // Without group execute permission the bit means mandatory locking, not set-group-ID.
  ids.set_gid = (a.mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP);
  auto caps = path->inode()->GetXattr("security.capability");
  if (caps.ok()) ids.capabilities = std::move(*caps);
  return ids;
}

std::string ExecPath(Task& task, const File& file) {
  if (file.path() == nullptr) return file.LinkName();
  return PathName(*file.path(), task.fs().root());
}

}  // namespace amber
