#include "sentry/vfs/file_system.h"

#include <sys/sysmacros.h>

#include <map>

#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

// st_dev as for file systems without a block device: major 0, minors counted up. Guarded by the kernel lock.
uint32_t next_minor = 20;

std::map<std::string, FileSystemFactory, std::less<>>& Types() {
  static auto* types = new std::map<std::string, FileSystemFactory, std::less<>>();
  return *types;
}

}  // namespace

FileSystem::FileSystem() : dev_(makedev(0, next_minor++)) {}
FileSystem::~FileSystem() { AMBER_CHECK(lru_.empty()); }

void FileSystem::SetRoot(RefPtr<Inode> inode) {
  AMBER_CHECK(!root_);
  root_ = MakeRef<Dentry>(this, nullptr, "", std::move(inode));
}

void FileSystem::DropDentries() {
  Shrink(0);
  // What is left is used by nobody but its own children or a mistake: take it out of the tree in any case.
  while (!lru_.empty()) {
    RefPtr<Dentry> d(lru_.back());
    d->Drop(false);
  }
  root_.reset();
}

void FileSystem::Shrink(size_t keep) {
  // Second chance: a dentry that was used since the last visit goes to the end once. Children precede their parents
  // in being dropped because a parent is referenced by them; two rounds reach most of them.
  size_t budget = lru_.size() * 2;
  for (auto it = lru_.begin(); it != lru_.end() && lru_.size() > keep && budget > 0; --budget) {
    Dentry* d = *it++;
    if (d->used_ && keep > 0) {
      d->used_ = false;
      lru_.splice(lru_.end(), lru_, d->lru_);
      continue;
    }
    if (d->ref_count() > 1 || d->mounts_here > 0) continue;
    RefPtr<Dentry> hold(d);
    // The parent's count falls with the child: look at ancestors that thereby became unused.
    while (hold) {
      RefPtr<Dentry> parent = hold->parent_;
      if (it != lru_.end() && *it == hold.get()) ++it;
      hold->Drop(false);
      hold.reset();
      if (keep > 0 || !parent || !parent->cached_ || parent->mounts_here > 0 || parent->ref_count() > 2) break;
      hold = std::move(parent);
    }
  }
}

void FileSystem::ShrinkIfFull() {
  if (lru_.size() <= shrink_at_) return;
  Shrink(kMaxCached / 8 * 7);
  // What is in use cannot go: look again when the cache has grown by a good part, so that the work stays linear.
  shrink_at_ = std::max(kMaxCached, lru_.size() / 4 * 5);
}

std::string FileSystem::SaveBase(state::Saver& saver, std::string specific) const {
  vfs_state::FileSystem m;
  m.set_dev(dev_);
  m.set_read_only(read_only_);
  m.set_root(saver.Ref(root_));
  m.set_specific(std::move(specific));
  m.set_owner(saver.Ref(owner_));
  return m.SerializeAsString();
}

bool FileSystem::LoadBase(state::Loader& loader, std::string_view bytes, std::string* specific) {
  vfs_state::FileSystem m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  dev_ = m.dev();
  next_minor = std::max(next_minor, minor(dev_) + 1);
  read_only_ = m.read_only();
  root_ = loader.GetRef<Dentry>(m.root());
  owner_ = loader.GetRef<UserNamespace>(m.owner());
  *specific = std::move(*m.mutable_specific());
  return static_cast<bool>(root_);
}

void RegisterFileSystemType(std::string_view type, FileSystemFactory factory) { Types()[std::string(type)] = factory; }

ErrnoOr<RefPtr<FileSystem>> MakeFileSystem(std::string_view type, const MountArguments& arguments) {
  auto it = Types().find(type);
  if (it == Types().end()) return Errno(ENODEV);
  return it->second(arguments);
}

std::vector<std::string> FileSystemTypes() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : Types()) names.push_back(name);
  return names;
}

}  // namespace amber
