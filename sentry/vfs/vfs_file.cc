#include "sentry/vfs/vfs_file.h"

#include <sys/inotify.h>

#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/state_util.h"

namespace amber {

ErrnoOr<uint64_t> WriteLimit(Task& task, uint64_t offset) {
  uint64_t limit = task.limit(RLIMIT_FSIZE);
  if (limit == RLIM_INFINITY || limit > INT64_MAX) limit = INT64_MAX;
  if (offset < limit) return limit;
  if (offset < INT64_MAX) task.SendSignal(SigInfo::Kernel(SIGXFSZ));
  return Errno(EFBIG);
}

ErrnoOr<void> CheckFileSize(Task& task, uint64_t size) {
  if (size <= task.limit(RLIMIT_FSIZE)) return Ok();
  task.SendSignal(SigInfo::Kernel(SIGXFSZ));
  return Errno(EFBIG);
}

ErrnoOr<uint64_t> SeekTarget(uint64_t base, int64_t offset) {
  int64_t target;
  if (__builtin_add_overflow(static_cast<int64_t>(base), offset, &target) || target < 0) return Errno(EINVAL);
  return static_cast<uint64_t>(target);
}

VfsFile::VfsFile(VfsPath path, int flags) : path_(std::move(path)) {
  if (path_.mount) path_.mount->set_expires(false);
  set_flags(flags);
  if ((flags & O_PATH) == 0) ++inode().open_files;
  if (writable() && inode().IsRegular()) {
    counted_as_writer_ = true;
    ++inode().writers;
    if (path_.mount) path_.mount->CountWriter(1);
  }
}

VfsFile::~VfsFile() {
  if (!path_.dentry || path_.dentry->negative()) return;
  if (counted_as_writer_) {
    --inode().writers;
    if (path_.mount) path_.mount->CountWriter(-1);
  }
  if (denies_writing_) --inode().deny_write;
  if ((flags() & O_PATH) == 0) {
    --inode().open_files;
    NotifyFile(*this, writable() ? IN_CLOSE_WRITE : IN_CLOSE_NOWRITE);
    NotifyIfGone(inode());
  }
  if (FileLocks* locks = inode().locks_if_any()) locks->ReleaseAll(this);
}

void VfsFile::DenyWriting() {
  if (denies_writing_ || path_.dentry->negative()) return;
  denies_writing_ = true;
  ++inode().deny_write;
}

ErrnoOr<void> StatInode(Inode& inode, struct stat* out) {
  TRY(inode.Refresh());
  const Attr& a = inode.attr();
  *out = {};
  out->st_dev = inode.fs().dev();
  out->st_ino = inode.ino();
  out->st_mode = a.mode;
  out->st_nlink = inode.links();
  out->st_uid = a.uid;
  out->st_gid = a.gid;
  out->st_rdev = a.rdev;
  out->st_size = static_cast<off_t>(a.size);
  out->st_blksize = a.blksize;
  out->st_blocks = static_cast<blkcnt_t>(a.blocks);
  out->st_atim = a.atime;
  out->st_mtim = a.mtime;
  out->st_ctim = a.ctime;
  return Ok();
}

ErrnoOr<void> VfsFile::Stat(Task& /*task*/, struct stat* out) { return StatInode(inode(), out); }

void VfsFile::OnClose(Task& task) {
  // fcntl(2): closing any descriptor of a file drops the process's record locks on it.
  FileLocks* locks = inode().locks_if_any();
  if (locks != nullptr && !locks->empty()) locks->ReleaseAll(&task.files());
}

std::string VfsFile::SaveOpenFile(state::Saver& saver, uint64_t position, uint64_t data_inode, std::string extra) const {
  vfs_state::OpenFile m;
  m.set_flags(flags());
  SavePath(saver, path_, m.mutable_path());
  m.set_position(position);
  m.set_data_inode(data_inode);
  m.set_extra(std::move(extra));
  m.set_lost_rights(lost_rights_);
  m.set_created(created_);
  return m.SerializeAsString();
}

bool VfsFile::LoadOpenFile(state::Loader& loader, std::string_view bytes, vfs_state::OpenFile* out) {
  if (!out->ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  set_flags(out->flags());
  lost_rights_ = out->lost_rights();
  created_ = out->created();
  return LoadPath(loader, out->path(), &path_);
}

std::string VfsFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, 0, 0, ""); }

bool VfsFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  return LoadOpenFile(loader, bytes, &m);
}

bool VfsFile::AfterLoad(state::Loader& loader) {
  if (!CheckPath(loader, path_)) return false;
  if ((flags() & O_PATH) == 0) ++inode().open_files;
  if (writable() && inode().IsRegular()) {
    counted_as_writer_ = true;
    ++inode().writers;
    path_.mount->CountWriter(1);
  }
  if (FileLocks* locks = inode().locks_if_any()) locks->Confirm(*this);
  return true;
}

}  // namespace amber
