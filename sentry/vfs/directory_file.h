// An open directory. Its list is taken when reading starts and again after a rewind; positions are indices into it.
#pragma once

#include <vector>

#include "sentry/vfs/vfs_file.h"

namespace amber {

class DirectoryFile final : public VfsFile {
 public:
  DirectoryFile() = default;  // for Loader
  DirectoryFile(VfsPath path, int flags) : VfsFile(std::move(path), flags) {}

  ErrnoOr<size_t> Read(Task&, Sink&) override { return Errno(EISDIR); }
  ErrnoOr<size_t> PRead(Task&, Sink&, uint64_t) override { return Errno(EISDIR); }
  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  ErrnoOr<void> ReadDir(Task& task, const EmitDirent& emit) override;
  ErrnoOr<void> Fsync(Task& task, bool data_only) override;
  uint64_t position() const override { return position_; }

  state::Kind kind() const override { return state::Kind::kDirectoryFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  std::vector<DirEnt> entries_;
  bool listed_ = false;
  uint64_t position_ = 0;  // 0 and 1 are "." and ".."
};

}  // namespace amber
