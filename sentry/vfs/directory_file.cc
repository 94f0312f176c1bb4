#include "sentry/vfs/directory_file.h"

#include <dirent.h>
#include <unistd.h>

#include "sentry/vfs/ops.h"
#include "sentry/vfs/state_util.h"

namespace amber {

ErrnoOr<uint64_t> DirectoryFile::Seek(Task&, int64_t offset, int whence) {
  if (whence == SEEK_CUR) {
    if (__builtin_add_overflow(offset, static_cast<int64_t>(position_), &offset)) return Errno(EINVAL);
  } else if (whence != SEEK_SET) {
    return Errno(EINVAL);
  }
  if (offset < 0) return Errno(EINVAL);
  position_ = static_cast<uint64_t>(offset);
  if (position_ == 0) {
    listed_ = false;
    entries_.clear();
  }
  return position_;
}

ErrnoOr<void> DirectoryFile::ReadDir(Task& task, const EmitDirent& emit) {
  if (path()->dentry->unlinked()) return Errno(ENOENT);
  if (!listed_) {
    VfsContext ctx = ContextOf(task);
    entries_ = TRY(inode().List(ctx));
    listed_ = true;
  }
  Dentry* up = path()->dentry->parent();
  while (position_ < entries_.size() + 2) {
    auto next = static_cast<int64_t>(position_ + 1);
    bool more;
    if (position_ == 0) {
      more = emit(".", inode().ino(), DT_DIR, next);
    } else if (position_ == 1) {
      more = emit("..", up != nullptr ? up->inode()->ino() : inode().ino(), DT_DIR, next);
    } else {
      const DirEnt& e = entries_[position_ - 2];
      more = emit(e.name, e.ino, e.type, next);
    }
    if (!more) break;
    ++position_;
  }
  return Ok();
}

ErrnoOr<void> DirectoryFile::Fsync(Task&, bool data_only) { return inode().Sync(data_only); }

std::string DirectoryFile::Save(state::Saver& saver) const {
  vfs_state::DirectoryFile m;
  m.set_listed(listed_);
  for (const DirEnt& e : entries_) {
    auto* out = m.add_entries();
    out->set_name(e.name);
    out->set_ino(e.ino);
    out->set_type(e.type);
  }
  return SaveOpenFile(saver, position_, 0, m.SerializeAsString());
}

bool DirectoryFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  vfs_state::DirectoryFile d;
  if (!LoadOpenFile(loader, bytes, &m) || !d.ParseFromString(m.extra())) return false;
  position_ = m.position();
  listed_ = d.listed();
  for (const auto& e : d.entries()) entries_.push_back({e.name(), e.ino(), static_cast<uint8_t>(e.type())});
  return true;
}

}  // namespace amber
