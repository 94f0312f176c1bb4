// Handles of tmpfs's files (shmem_encode_fh(), shmem_fh_to_dentry()).
#include <sys/random.h>

#include <algorithm>
#include <cstring>

#include "sentry/fs/tmpfs/tmpfs.h"

namespace amber {

TmpfsFileSystem::TmpfsFileSystem() {
  if (getrandom(&salt_, sizeof(salt_), 0) != sizeof(salt_)) salt_ = 1;
}

TmpfsFileSystem::TmpfsFileSystem(const Options& options) : TmpfsFileSystem() {
  options_ = options;
  SetRoot(MakeRef<TmpfsInode>(this, NewNode{.mode = S_IFDIR | (options.mode & 07777), .uid = options.uid, .gid = options.gid}));
}

// Numbers are not used again, so that all it has to tell is this file system from others.
uint32_t TmpfsFileSystem::GenerationOf(uint64_t ino) const { return salt_ ^ (static_cast<uint32_t>(ino) * 0x9e3779b1u); }

FileHandle TmpfsFileSystem::HandleOf(Inode& inode) {
  uint64_t ino = inode.ino();
  uint32_t generation = GenerationOf(ino);
  FileHandle handle{kHandleInode32, std::string(kHandleBytes, '\0')};
  memcpy(handle.bytes.data(), &generation, sizeof(generation));
  memcpy(handle.bytes.data() + sizeof(generation), &ino, sizeof(ino));
  return handle;
}

// Linux asks for neither the type nor the end of longer ones.
ErrnoOr<HandleFileSystem::Place> TmpfsFileSystem::FindHandle(const FileHandle& handle) {
  if (handle.bytes.size() < kHandleBytes) return Errno(ESTALE);
  uint64_t ino;
  memcpy(&ino, handle.bytes.data() + sizeof(uint32_t), sizeof(ino));
  auto it = by_number_.find(ino);
  if (it == by_number_.end() || !IsOfHandle(*it->second, handle)) return Errno(ESTALE);
  TmpfsInode* inode = it->second;
  if (inode->attr().nlink == 0 && inode->open_files == 0) return Errno(ESTALE);
  Place place{.inode = RefPtr<Inode>(inode)};
  const TmpfsInode* at = inode;
  for (; at->home_ != nullptr && place.names.size() <= kMaxDepth; at = at->home_) place.names.push_back(*at->home_name_);
  place.named = at == root()->inode();
  std::ranges::reverse(place.names);
  return place;
}

}  // namespace amber
