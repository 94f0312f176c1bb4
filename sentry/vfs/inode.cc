#include "sentry/vfs/inode.h"

#include <unistd.h>

#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/notify.h"

namespace amber {

Inode::Inode() = default;
Inode::Inode(FileSystem* fs) : fs_(fs) {}
Inode::~Inode() = default;

WatchList& Inode::MakeWatches() {
  if (watches_ == nullptr) watches_ = std::make_unique<WatchList>();
  return *watches_;
}

ErrnoOr<void> Inode::SetAttr(const VfsContext&, const AttrChange&) { return Errno(EPERM); }
ErrnoOr<RefPtr<Inode>> Inode::Lookup(const VfsContext&, std::string_view) { return Errno(ENOTDIR); }

ErrnoOr<void> Inode::LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const>, bool,
                                 std::vector<RefPtr<Inode>>* found) {
  auto r = Lookup(ctx, names.front());
  if (!r.ok()) return r.error();
  found->push_back(std::move(*r));
  return Ok();
}

// vfs_create() where there is no operation; vfs_mkdir() and its like.
ErrnoOr<RefPtr<Inode>> Inode::Make(const VfsContext&, std::string_view, const NewNode& node) { return Errno(S_ISREG(node.mode) ? EACCES : EPERM); }
ErrnoOr<RefPtr<Inode>> Inode::MakeUnnamed(const VfsContext&, const NewNode&) { return Errno(EOPNOTSUPP); }
ErrnoOr<void> Inode::Link(const VfsContext&, std::string_view, Inode&) { return Errno(EPERM); }
ErrnoOr<void> Inode::Unlink(const VfsContext&, std::string_view, Inode&) { return Errno(EPERM); }
ErrnoOr<void> Inode::Rmdir(const VfsContext&, std::string_view, Inode&) { return Errno(EPERM); }
ErrnoOr<void> Inode::Rename(const VfsContext&, std::string_view, Inode&, Inode&, std::string_view, Inode*, uint32_t) { return Errno(EPERM); }
ErrnoOr<std::vector<DirEnt>> Inode::List(const VfsContext&) { return Errno(ENOTDIR); }
ErrnoOr<std::string> Inode::ReadLink(const VfsContext&) { return Errno(EINVAL); }
ErrnoOr<LinkTarget> Inode::MagicLink(const VfsContext&) { return Errno(EINVAL); }
ErrnoOr<RefPtr<Inode>> Inode::DataInode(const VfsContext&, bool) { return RefPtr<Inode>(this); }
ErrnoOr<void> Inode::BeginIo(bool) { return Ok(); }
void Inode::EndIo(bool) {}
ErrnoOr<int> Inode::HostFd(bool) { return Errno(EINVAL); }

ErrnoOr<size_t> Inode::ReadBytes(void* to, size_t size, uint64_t offset) {
  ssize_t n = pread(TRY(HostFd(false)), to, size, static_cast<off_t>(offset));
  if (n < 0) return Errno(errno);
  return static_cast<size_t>(n);
}

ErrnoOr<uint64_t> Inode::SeekContents(uint64_t offset, int whence) {
  off_t r = lseek(TRY(HostFd(false)), static_cast<off_t>(offset), whence);
  if (r < 0) return Errno(errno);
  return static_cast<uint64_t>(r);
}

ErrnoOr<MapSource> Inode::MapContents(bool write) { return MapSource{.fd = TRY(HostFd(write)), .sentry_owned = sentry_owned()}; }
ErrnoOr<void> Inode::Fallocate(const VfsContext&, int, uint64_t, uint64_t) { return Errno(EOPNOTSUPP); }
ErrnoOr<void> Inode::Sync(bool) { return Ok(); }
ErrnoOr<std::string> Inode::GetXattr(std::string_view) { return Errno(EOPNOTSUPP); }
ErrnoOr<void> Inode::SetXattr(std::string_view, std::string_view, int) { return Errno(EOPNOTSUPP); }
ErrnoOr<std::vector<std::string>> Inode::ListXattr() { return std::vector<std::string>(); }
ErrnoOr<void> Inode::RemoveXattr(std::string_view) { return Errno(EOPNOTSUPP); }

FileLocks& Inode::locks() {
  if (!locks_) locks_ = std::make_unique<FileLocks>();
  return *locks_;
}

timespec FileTimeNow() {
  timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return now;
}

}  // namespace amber
