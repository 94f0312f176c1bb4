// Open files and directories of a server, and /dev/fuse. Guarded by the kernel lock.
#pragma once

#include <string>
#include <vector>

#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

struct FuseDirent {
  std::string name;
  uint64_t ino = 0;
  uint8_t type = 0;
  uint64_t next = 0;
};

// What the server has in a directory from `offset` on; empty at the end.
ErrnoOr<std::vector<FuseDirent>> FuseReadDir(FuseInode& dir, const RefPtr<FuseHandle>& handle, uint64_t offset);

class FuseFile final : public VfsFile {
 public:
  FuseFile() = default;  // for Loader
  FuseFile(VfsPath path, int flags, RefPtr<FuseHandle> handle) : VfsFile(std::move(path), flags), handle_(std::move(handle)) {}

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<size_t> PRead(Task& task, Sink& sink, uint64_t offset) override;
  ErrnoOr<size_t> PWrite(Task& task, Source& source, uint64_t offset) override;
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<void> ReadDir(Task& task, const EmitDirent& emit) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Fsync(Task& task, bool data_only) override;
  ErrnoOr<void> Truncate(Task& task, uint64_t size) override;
  ErrnoOr<void> Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) override;
  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  void OnClose(Task& task) override;
  uint64_t position() const override { return position_; }

  state::Kind kind() const override { return kFuseFileKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  FuseInode& fuse() const { return static_cast<FuseInode&>(inode()); }
  FuseConnection& connection() const { return fuse().connection(); }
  bool seekable() const { return (handle_->open_flags & (FOPEN_NONSEEKABLE | FOPEN_STREAM)) == 0; }
  ErrnoOr<size_t> ReadAt(Task& task, Sink& sink, uint64_t offset);
  ErrnoOr<size_t> WriteAt(Task& task, Source& source, uint64_t offset, uint64_t* end);
  ErrnoOr<size_t> WriteChunks(Source& source, uint64_t offset, uint64_t limit);
  ErrnoOr<uint64_t> SeekData(int64_t offset, int whence);

  RefPtr<FuseHandle> handle_;
  uint64_t position_ = 0;  // of a directory: what the server calls the place
  std::vector<FuseDirent> entries_;
  size_t next_entry_ = 0;
};

class FuseDevice final : public VfsFile {
 public:
  FuseDevice() = default;  // for Loader
  // `opener`: the user namespace that it was opened in, which alone may mount with it.
  FuseDevice(VfsPath path, int flags, RefPtr<UserNamespace> opener) : VfsFile(std::move(path), flags), opener_(std::move(opener)) {}
  ~FuseDevice() override;

  const RefPtr<UserNamespace>& opener() const { return opener_; }

  FuseConnection* connection() const { return connection_.get(); }
  void Connect(RefPtr<FuseConnection> connection);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return connection_ ? &connection_->device_queue() : &queue_; }
  bool pollable() const override { return true; }

  state::Kind kind() const override { return kFuseDeviceKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  RefPtr<FuseConnection> connection_;
  RefPtr<UserNamespace> opener_;
  WaitQueue queue_;  // before it has a connection
};

}  // namespace amber
