#include <cstdio>
#include <cstring>

#include "sentry/vfs/file_system.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/reconfigure.h"

namespace amber {

HandleFileSystem* HandlesOf(FileSystem& fs) { return dynamic_cast<HandleFileSystem*>(&fs); }

// exportfs_encode_ino64_fid()
FileHandle HandleForNumber(uint64_t ino, uint32_t generation) {
  FileHandle handle{kHandleInode64, std::string(sizeof(ino) + sizeof(generation), '\0')};
  memcpy(handle.bytes.data(), &ino, sizeof(ino));
  memcpy(handle.bytes.data() + sizeof(ino), &generation, sizeof(generation));
  return handle;
}

FileHandle HandleFor(Inode& inode) {
  HandleFileSystem* fs = HandlesOf(inode.fs());
  return fs != nullptr ? fs->HandleOf(inode) : HandleForNumber(inode.ino(), 0);
}

std::string ShowHandle(Inode& inode) {
  FileHandle handle = HandleFor(inode);
  char text[64];
  snprintf(text, sizeof(text), "fhandle-bytes:%zx fhandle-type:%x f_handle:", handle.bytes.size(), static_cast<unsigned>(handle.type));
  std::string out = text;
  for (unsigned char byte : handle.bytes) {
    snprintf(text, sizeof(text), "%02x", byte);
    out += text;
  }
  return out;
}

ErrnoOr<VfsPath> OpenHandle(const VfsContext& ctx, const RefPtr<Mount>& mount, const FileHandle& handle) {
  HandleFileSystem* fs = HandlesOf(mount->fs());
  if (fs == nullptr) return Errno(ESTALE);
  HandleFileSystem::Place place = TRY(fs->FindHandle(handle));
  VfsPath at{mount, mount->fs().root()};
  bool there = place.named && place.names.size() <= HandleFileSystem::kMaxDepth;
  for (size_t i = 0; there && i < place.names.size(); ++i) {
    there = at.inode()->IsDir();
    auto next = there ? LookupChild(ctx, at, place.names[i]) : ErrnoOr<RefPtr<Dentry>>(Errno(ENOTDIR));
    there = next.ok() && !(*next)->negative();
    if (there) at.dentry = std::move(*next);
  }
  if (there && fs->IsOfHandle(*at.inode(), handle)) return at;
  // Without a name, but somebody has it open.
  if (!place.inode) return Errno(ESTALE);
  // A directory that has a name has one dentry: with a second one it could be moved below itself.
  if (place.inode->IsDir() && place.inode->links() > 0) return Errno(ESTALE);
  return VfsPath{mount, MakeRef<Dentry>(&mount->fs(), nullptr, "", std::move(place.inode))};
}

}  // namespace amber
