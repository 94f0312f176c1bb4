// An open file that has a place in the tree: the base of regular files, directories, O_PATH files and devices.
//
// Guarded by the kernel lock. Holds its mount, so that the file system outlives it.
#pragma once

#include "sentry/base/errno_or.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"

namespace amber {

namespace vfs_state {
class OpenFile;
}

class VfsFile : public File {
 public:
  ~VfsFile() override;

  Dentry* dentry() const override { return path_.dentry.get(); }
  const VfsPath* path() const override { return &path_; }
  Inode& inode() const { return *path_.dentry->inode(); }
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  // As long as this file is there nobody may open its inode for writing (deny_write_access()): for running programs.
  void DenyWriting();
  // What the file may not be used for, as its opener had no right to it (restrict.h).
  void set_lost_rights(uint64_t rights) { lost_rights_ = rights; }
  bool lacks(uint64_t right) const { return (lost_rights_ & right) != 0; }
  // The call that opened it made it (FMODE_CREATED).
  void set_created() { created_ = true; }
  bool created() const { return created_; }
  // Drops the POSIX locks of the task's descriptor table.
  void OnClose(Task& task) override;

  // Saves flags, place and position; a subclass with more overrides them, calling the base with its bytes in `extra`.
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 protected:
  VfsFile() = default;  // for Loader
  VfsFile(VfsPath path, int flags);
  std::string SaveOpenFile(state::Saver& saver, uint64_t position, uint64_t data_inode, std::string extra) const;
  bool LoadOpenFile(state::Loader& loader, std::string_view bytes, vfs_state::OpenFile* out);

 private:
  VfsPath path_;
  uint64_t lost_rights_ = 0;
  bool created_ = false;
  bool counted_as_writer_ = false;
  bool denies_writing_ = false;  // not saved: a restore says it again
};

// RLIMIT_FSIZE (generic_write_check_limits(), inode_newsize_ok()): where a write at `offset` must end at the latest; that a file may be `size` bytes
// long. Beyond it SIGXFSZ is sent: EFBIG.
ErrnoOr<uint64_t> WriteLimit(Task& task, uint64_t offset);
ErrnoOr<void> CheckFileSize(Task& task, uint64_t size);
// Where lseek(2) leads that is relative to `base`.
ErrnoOr<uint64_t> SeekTarget(uint64_t base, int64_t offset);

// `struct stat` of an inode, brought up to date.
ErrnoOr<void> StatInode(Inode& inode, struct stat* out);

// What O_PATH gives: a place, and nothing that can be done with it but *at calls.
class PathFile final : public VfsFile {
 public:
  PathFile() = default;  // for Loader
  PathFile(VfsPath path, int flags) : VfsFile(std::move(path), flags) {}
  state::Kind kind() const override { return state::Kind::kPathFile; }
};

}  // namespace amber
