// For tests: a mount namespace with one file system, root's credentials, and shorthands. No task.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/kernel/credentials.h"
#include "sentry/vfs/data_io.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"

namespace amber {

class TestTree {
 public:
  explicit TestTree(RefPtr<FileSystem> fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755}))
      : ns(MakeRef<MountNamespace>()), creds(MakeRef<Credentials>()) {
    RefPtr<Dentry> root = fs->root();
    ns->SetRoot(MakeRef<Mount>(std::move(fs), std::move(root), 0, "test"));
    context = MakeRef<FsContext>(ns->root(), ns->root(), 022);
    creds->effective = creds->permitted = kAllCapabilities;
  }

  VfsContext ctx() const { return {.creds = creds.get(), .fs = context.get()}; }
  void Become(uint32_t id) {
    creds = MakeRef<Credentials>();
    creds->uid = creds->euid = creds->suid = creds->fsuid = id;
    creds->gid = creds->egid = creds->sgid = creds->fsgid = id;
  }

  // Each returns 0 or an errno.
  int MkDir(std::string_view path, uint32_t mode = 0755) { return Make(path, {.mode = S_IFDIR | mode}); }
  int Symlink(std::string_view target, std::string_view path) { return Make(path, {.mode = S_IFLNK | 0777, .target = std::string(target)}); }
  int Make(std::string_view path, NewNode node) { return Number(MakeAt(ctx(), context->cwd(), path, std::move(node))); }
  int Unlink(std::string_view path) { return Number(UnlinkAt(ctx(), context->cwd(), path)); }
  int Rmdir(std::string_view path) { return Number(RmdirAt(ctx(), context->cwd(), path)); }
  int Rename(std::string_view from, std::string_view to, uint32_t flags = 0) {
    return Number(RenameAt(ctx(), context->cwd(), from, context->cwd(), to, flags));
  }
  int Link(std::string_view from, std::string_view to) {
    auto target = Find(from);
    return target.ok() ? Number(LinkAt(ctx(), *target, context->cwd(), to)) : target.error().number();
  }
  ErrnoOr<VfsPath> Find(std::string_view path, uint32_t walk = kFollowLast) { return ResolvePlace(ctx(), context->cwd(), path, walk); }
  int Lookup(std::string_view path, uint32_t walk = kFollowLast) { return Number(Find(path, walk)); }
  ErrnoOr<RefPtr<File>> Open(std::string_view path, int flags, uint32_t mode = 0644) {
    return OpenPath(ctx(), context->cwd(), path, {.flags = flags, .mode = mode});
  }
  // Contents through a data inode.
  int Write(std::string_view path, std::string_view bytes, uint64_t offset = 0) {
    auto file = Open(path, O_RDWR | O_CREAT);
    if (!file.ok()) return file.error().number();
    auto data = (*file)->path()->inode()->DataInode(ctx(), true);
    if (!data.ok()) return data.error().number();
    BufferSource source(bytes.data(), bytes.size());
    auto n = WriteData(**data, source, offset);
    return !n.ok() ? n.error().number() : *n == bytes.size() ? 0 : ENOSPC;
  }
  std::string Read(std::string_view path) {
    auto file = Open(path, O_RDONLY);
    if (!file.ok()) return "errno " + std::to_string(file.error().number());
    return ReadInode(**(*file)->path()->inode()->DataInode(ctx(), false));
  }
  static std::string ReadInode(Inode& data) {
    std::string bytes(1 << 20, '\0');
    BufferSink sink(bytes.data(), bytes.size());
    auto n = ReadData(data, sink, 0);
    if (!n.ok()) return "errno " + std::to_string(n.error().number());
    bytes.resize(*n);
    return bytes;
  }
  std::vector<std::string> List(std::string_view path) {
    std::vector<std::string> names;
    auto dir = Find(path);
    if (!dir.ok()) return names;
    auto list = dir->inode()->List(ctx());
    if (!list.ok()) return names;
    for (DirEnt& e : *list) names.push_back(std::move(e.name));
    std::sort(names.begin(), names.end());
    return names;
  }
  uint64_t Ino(std::string_view path) {
    auto place = Find(path);
    return place.ok() ? place->inode()->ino() : 0;
  }

  template <typename T>
  static int Number(const ErrnoOr<T>& r) {
    return r.ok() ? 0 : r.error().number();
  }

  RefPtr<MountNamespace> ns;
  RefPtr<Credentials> creds;
  RefPtr<FsContext> context;
};

}  // namespace amber
