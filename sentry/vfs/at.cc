#include "sentry/vfs/at.h"

#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/ops.h"

namespace amber {

VfsContext ContextOf(Task& task) { return {.task = &task, .creds = &task.creds(), .fs = &task.fs()}; }

ErrnoOr<VfsPath> StartOf(Task& task, int dirfd, std::string_view path) {
  if (!path.empty() && path.front() == '/') return task.fs().root();
  if (dirfd == AT_FDCWD) return task.fs().cwd();
  RefPtr<File> file = TRY(task.files().GetAny(dirfd));
  // path_init() looks at the descriptor even if the path is empty, but then ENOENT comes first.
  if (path.empty()) return Errno(ENOENT);
  if (file->path() == nullptr || !file->path()->inode()->IsDir()) return Errno(ENOTDIR);
  return *file->path();
}

ErrnoOr<Resolved> ResolveAt(Task& task, int dirfd, std::string_view path, uint32_t walk, bool empty_path) {
  if (path.empty() && empty_path) {
    if (dirfd == AT_FDCWD) return Resolved{task.fs().cwd(), nullptr};
    RefPtr<File> file = TRY(task.files().GetAny(dirfd));
    Resolved r;
    if (file->path() != nullptr) r.path = *file->path();
    r.file = std::move(file);
    return r;
  }
  VfsContext ctx = ContextOf(task);
  return ResolvePath(ctx, TRY(StartOf(task, dirfd, path)), path, walk);
}

ErrnoOr<VfsPath> ResolvePlaceAt(Task& task, int dirfd, std::string_view path, uint32_t walk, bool empty_path) {
  Resolved r = TRY(ResolveAt(task, dirfd, path, walk, empty_path));
  if (!r.path) return Errno(EINVAL);
  return std::move(r.path);
}

}  // namespace amber
