// An open regular file: position, append, limits; its bytes are those of a data inode's host descriptor.
//
// The data inode is fixed at open: a file of an overlay that was opened for reading keeps reading its lower layer
// after a copy-up, as on Linux.
#pragma once

#include "sentry/vfs/vfs_file.h"

namespace amber {

class RegularFile final : public VfsFile {
 public:
  RegularFile() = default;  // for Loader
  ~RegularFile() override;
  static ErrnoOr<RefPtr<File>> Open(const VfsPath& path, RefPtr<Inode> data, int flags);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Fsync(Task& task, bool data_only) override;
  ErrnoOr<void> Truncate(Task& task, uint64_t size) override;
  ErrnoOr<void> Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<uint64_t> Fcntl(Task& task, int command, uint64_t argument) override;
  DirectSource SourceOfDirectReads() override;
  void DidReadDirectly() override;
  uint64_t map_seam() const override { return data_->map_seam(); }
  uint64_t position() const override { return position_; }
  Inode& data() const { return *data_; }

  state::Kind kind() const override { return state::Kind::kRegularFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  RegularFile(VfsPath path, RefPtr<Inode> data, int flags) : VfsFile(std::move(path), flags), data_(std::move(data)) {}
  // Writes at `offset`, or at the end with O_APPEND; sets `end` to where it stopped.
  ErrnoOr<size_t> WriteAt(Task& task, Source& source, uint64_t offset, uint64_t* end);

  RefPtr<FileSystem> data_fs_;  // from an image: who knows of what file system `data_` is; it lives as long
  RefPtr<Inode> data_;
  uint64_t position_ = 0;
  bool io_begun_ = false;
};

}  // namespace amber
