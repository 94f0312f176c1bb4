// Mounts and file systems behind descriptors: fsopen(2), fsmount(2), open_tree(2). Guarded by the kernel lock.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "sentry/vfs/file_system.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

// The context of fsopen(2) or fspick(2).
class FsConfigFile final : public File {
 public:
  enum class Phase : uint8_t {
    kDescribing,     // parameters are set
    kCreated,        // waits for fsmount(2)
    kReconfiguring,  // of a file system that is mounted
    kFailed,
  };

  FsConfigFile() = default;  // for Loader
  // fsopen(2): a new file system of `type`, which exists.
  explicit FsConfigFile(std::string type) : type_(std::move(type)) { set_flags(O_RDWR); }
  // fspick(2).
  explicit FsConfigFile(RefPtr<FileSystem> fs);

  Phase phase() const { return phase_; }
  const std::string& type() const { return type_; }
  const std::string& source() const { return source_; }

  // One option: "ro", "size=1m"; EBUSY once the file system is there, EINVAL for what its type does not know.
  ErrnoOr<void> Set(Task& task, const std::string& key, const std::string* value);
  ErrnoOr<void> Create(Task& task);
  ErrnoOr<void> Reconfigure(Task& task);
  // fsmount(2) takes it: EINVAL unless it was created and not mounted yet.
  ErrnoOr<RefPtr<FileSystem>> Take();

  // The messages about what went wrong, one a read; ENODATA if there is none.
  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  std::string LinkName() const override { return "anon_inode:[fscontext]"; }

  state::Kind kind() const override { return state::Kind::kFsConfigFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  // Notes why, for Read().
  Errno Failure(int error, std::string message);

  std::string type_;
  std::string source_;
  std::vector<std::string> options_;
  Phase phase_ = Phase::kDescribing;
  RefPtr<FileSystem> fs_;
  bool read_only_ = false;
  std::deque<std::string> log_;
};

// A tree of mounts that is not in any process's namespace; like a file opened with O_PATH on its root.
class MountFile final : public VfsFile {
 public:
  MountFile() = default;  // for Loader
  explicit MountFile(RefPtr<MountNamespace> tree);

  // The tree; null once it was mounted somewhere.
  MountNamespace* tree() const { return tree_.get(); }
  // Puts the whole tree at `where` of `ns`.
  ErrnoOr<void> MoveTo(MountNamespace& ns, VfsPath where);

  state::Kind kind() const override { return state::Kind::kMountFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<MountNamespace> tree_;
};

// A detached copy of what is at `source`, with the mounts below if `recursive` (open_tree(2) with OPEN_TREE_CLONE).
ErrnoOr<RefPtr<MountNamespace>> CloneTree(const VfsPath& source, bool recursive);
// A detached mount of `fs`.
RefPtr<MountNamespace> NewTree(RefPtr<FileSystem> fs, uint32_t flags, const std::string& source);

}  // namespace amber
