#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

void SaveTime(const timespec& t, vfs_state::Time* out) {
  out->set_seconds(t.tv_sec);
  out->set_nanoseconds(static_cast<uint32_t>(t.tv_nsec));
}

timespec LoadTime(const vfs_state::Time& m) { return {m.seconds(), static_cast<long>(m.nanoseconds() % 1'000'000'000)}; }

}  // namespace

void SavePath(state::Saver& saver, const VfsPath& path, vfs_state::Path* out) {
  out->set_mount(saver.Ref(path.mount));
  out->set_dentry(saver.Ref(path.dentry));
}

bool LoadPath(state::Loader& loader, const vfs_state::Path& m, VfsPath* out) {
  out->mount = loader.GetRef<Mount>(m.mount());
  out->dentry = loader.GetRef<Dentry>(m.dentry());
  if (!out->mount || !out->dentry) return loader.Fail("a path has no mount or no name");
  return true;
}

bool CheckPath(state::Loader& loader, const VfsPath& path) {
  if (&path.dentry->fs() != &path.mount->fs()) return loader.Fail("a path's name is not in its mount's file system");
  return !path.dentry->negative() || loader.Fail("a path has no inode");
}

void SaveAttr(const Attr& a, vfs_state::Attr* out) {
  out->set_ino(a.ino);
  out->set_mode(a.mode);
  out->set_nlink(a.nlink);
  out->set_uid(a.uid);
  out->set_gid(a.gid);
  out->set_rdev(a.rdev);
  out->set_size(a.size);
  out->set_blocks(a.blocks);
  out->set_blksize(a.blksize);
  SaveTime(a.atime, out->mutable_atime());
  SaveTime(a.mtime, out->mutable_mtime());
  SaveTime(a.ctime, out->mutable_ctime());
  SaveTime(a.btime, out->mutable_btime());
}

Attr LoadAttr(const vfs_state::Attr& m) {
  Attr a;
  a.ino = m.ino();
  a.mode = m.mode();
  a.nlink = m.nlink();
  a.uid = m.uid();
  a.gid = m.gid();
  a.rdev = m.rdev();
  a.size = m.size();
  a.blocks = m.blocks();
  a.blksize = m.blksize();
  a.atime = LoadTime(m.atime());
  a.mtime = LoadTime(m.mtime());
  a.ctime = LoadTime(m.ctime());
  a.btime = LoadTime(m.btime());
  return a;
}

}  // namespace amber
