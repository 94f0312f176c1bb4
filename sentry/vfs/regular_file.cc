#include "sentry/vfs/regular_file.h"

#include <linux/capability.h>
#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/data_io.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/restrict.h"
#include "sentry/vfs/state_util.h"

namespace amber {

ErrnoOr<RefPtr<File>> RegularFile::Open(const VfsPath& path, RefPtr<Inode> data, int flags) {
  RefPtr<RegularFile> file = RefPtr<RegularFile>::Adopt(new RegularFile(path, std::move(data), flags));
  TRY(file->data_->BeginIo(file->writable()));
  file->io_begun_ = true;
  return RefPtr<File>(std::move(file));
}

RegularFile::~RegularFile() {
  if (io_begun_) data_->EndIo(writable());
}

namespace {

// atime_needs_update(): neither the open file nor the mount forbids it.
bool Touches(const File& file) {
  if ((file.flags() & O_NOATIME) != 0) return false;
  return file.path() == nullptr || (file.path()->mount->flags() & (MS_NOATIME | MS_RDONLY)) == 0;
}

}  // namespace

ErrnoOr<size_t> RegularFile::Read(Task&, Sink& sink) {
  size_t n = TRY(ReadData(*data_, sink, position_, Touches(*this)));
  position_ += n;
  return n;
}

ErrnoOr<size_t> RegularFile::PRead(Task&, Sink& sink, uint64_t offset) {
  if (offset > INT64_MAX) return Errno(EINVAL);
  return ReadData(*data_, sink, offset, Touches(*this));
}

// Not of tmpfs: its descriptor is that of other files' bytes, too.
File::DirectSource RegularFile::SourceOfDirectReads() {
  if (data_->sentry_owned() || !data_->Refresh().ok()) return {};
  auto fd = data_->HostFd(false);
  if (!fd.ok()) return {};
  return {*fd, data_->attr().size};
}

void RegularFile::DidReadDirectly() {
  if (Touches(*this)) data_->DidRead();
}

ErrnoOr<size_t> RegularFile::Write(Task& task, Source& source) {
  uint64_t end = position_;
  size_t n = TRY(WriteAt(task, source, position_, &end));
  position_ = end;
  return n;
}

ErrnoOr<size_t> RegularFile::PWrite(Task& task, Source& source, uint64_t offset) {
  if (offset > INT64_MAX) return Errno(EINVAL);
  uint64_t end;
  return WriteAt(task, source, offset, &end);
}

ErrnoOr<size_t> RegularFile::WriteAt(Task& task, Source& source, uint64_t offset, uint64_t* end) {
  if (source.remaining() == 0) return size_t{0};
  if ((data_->seals() > 0) && (data_->seals() & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) return Errno(EPERM);
  // pwrite(2), BUGS: with O_APPEND data goes to the end whatever the offset.
  if ((flags() & O_APPEND) != 0) {
    TRY(data_->Refresh());
    offset = data_->attr().size;
  }
  uint64_t limit = TRY(WriteLimit(task, offset));
  TRY(StripSetIds(*task.creds_ref(), inode()));
  size_t n = TRY(WriteData(*data_, source, offset, limit - offset));
  *end = offset + n;
  if ((flags() & (O_DSYNC | O_SYNC)) != 0 && n > 0) TRY(data_->Sync((flags() & O_SYNC) != O_SYNC));
  return n;
}

ErrnoOr<uint64_t> RegularFile::Seek(Task&, int64_t offset, int whence) {
  uint64_t base = 0;
  switch (whence) {
    case SEEK_SET: break;
    case SEEK_CUR: base = position_; break;
    case SEEK_END:
      TRY(data_->Refresh());
      base = data_->attr().size;
      break;
    case SEEK_DATA:
    case SEEK_HOLE:
      if (offset < 0) return Errno(ENXIO);
      position_ = TRY(data_->SeekContents(static_cast<uint64_t>(offset), whence));
      return position_;
    default: return Errno(EINVAL);
  }
  position_ = TRY(SeekTarget(base, offset));
  return position_;
}

ErrnoOr<uint64_t> RegularFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return Errno(ENOTTY);
  TRY(data_->Refresh());
  int left = static_cast<int>(data_->attr().size - position_);
  TRY(task.CopyOut(UserPtr<int>(argument), left));
  return uint64_t{0};
}

ErrnoOr<void> RegularFile::Fsync(Task&, bool data_only) { return data_->Sync(data_only); }

ErrnoOr<void> RegularFile::Truncate(Task& task, uint64_t size) {
  if (IsAppendOnly(inode())) return Errno(EPERM);
  VfsContext ctx = ContextOf(task);
  return TruncateInode(ctx, inode(), size);
}

ErrnoOr<void> RegularFile::Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) {
  // vfs_fallocate()
  if ((IsAppendOnly(inode()) && (mode & ~FALLOC_FL_KEEP_SIZE) != 0) || IsImmutable(inode())) return Errno(EPERM);
  TRY(CheckFileSize(task, offset + size));
  TRY(StripSetIds(*task.creds_ref(), inode()));
  VfsContext ctx = ContextOf(task);
  return data_->Fallocate(ctx, mode, offset, size);
}

ErrnoOr<MapSource> RegularFile::Map(Task&, uint64_t, uint64_t, int prot, bool shared) {
  if ((prot & PROT_EXEC) != 0 && (path()->mount->flags() & MS_NOEXEC) != 0) return Errno(EPERM);
  bool write = shared && writable();
  if (write && data_->seals() > 0 && (data_->seals() & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0) {
    if ((prot & PROT_WRITE) != 0) return Errno(EPERM);
    write = false;
  }
  return data_->MapContents(write);
}

ErrnoOr<uint64_t> RegularFile::Fcntl(Task&, int command, uint64_t argument) {
  switch (command) {
    case F_GET_SEALS:
      if (inode().seals() < 0) return Errno(EINVAL);
      return static_cast<uint64_t>(inode().seals());
    case F_ADD_SEALS:
      if (!writable()) return Errno(EPERM);
      TRY(inode().AddSeals(static_cast<int>(argument)));
      return uint64_t{0};
    default: return Errno(EINVAL);
  }
}

std::string RegularFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, position_, saver.Ref(data_), ""); }

bool RegularFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  data_ = loader.GetRef<Inode>(m.data_inode());
  return position_ <= INT64_MAX && data_;
}

bool RegularFile::AfterLoad(state::Loader& loader) {
  if (!VfsFile::AfterLoad(loader)) return false;
  data_fs_ = RefPtr<FileSystem>(&data_->fs());
  if (!data_->BeginIo(writable()).ok()) {
    return loader.Fail("the open file " + PathName(*path(), path()->mount->ns() ? path()->mount->ns()->root() : *path()) + " cannot be opened again");
  }
  io_begun_ = true;
  return true;
}

}  // namespace amber
