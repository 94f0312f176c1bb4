// The file systems of control groups: cgroup2, and cgroup for trees of the first version.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "sentry/kernel/cgroup.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/text_file.h"

namespace amber {

inline constexpr state::Kind kCgroupInodeKind = static_cast<state::Kind>(201), kCgroupFileKind = static_cast<state::Kind>(202);

// A file that each group has, or those with a controller.
struct CgroupEntry {
  const char* name;
  uint32_t controllers;  // one of them must be available; 0: always there
  uint32_t mode;
  std::string (*text)(Task& reader, Cgroup& group);
  ErrnoOr<void> (*write)(Task& writer, Cgroup& group, std::string_view text) = nullptr;
  Cgroup::EventFile events = Cgroup::kNoEvents;  // tells when it changes
  enum class Where : uint8_t { kAll, kRoot, kNotRoot } where = Where::kAll;
};
std::span<const CgroupEntry> CgroupEntries(bool first_version);
inline constexpr uint64_t kInosPerGroup = 64;  // numbers of a group's directory and files

// CLONE_INTO_CGROUP: the group whose directory descriptor `fd` is, if `task` may make a process (or a thread of its own) there.
ErrnoOr<RefPtr<Cgroup>> CgroupForClone(Task& task, int fd, bool thread);

class CgroupFileSystem final : public FileSystem {
 public:
  CgroupFileSystem() = default;  // for Loader
  ~CgroupFileSystem() override;
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments);
  // A container's configuration mounts it before there is a group: it shows `root` from now on, or the tree of the first version that its options name.
  // Nothing if it shows one already.
  ErrnoOr<void> ShowFromNowOn(const RefPtr<Cgroup>& root);
  // For mount(2) of "cgroup".
  static ErrnoOr<RefPtr<FileSystem>> MakeFirstVersion(const MountArguments& arguments);

  const char* type_name() const override { return tree_ ? "cgroup" : "cgroup2"; }
  std::string ShowOptions() const override;
  ErrnoOr<void> StatFs(struct statfs* out) override;
  bool revalidates() const override { return true; }

  state::Kind kind() const override { return state::Kind::kCgroupFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  void ShowTree(const RefPtr<Cgroup>& root);

  RefPtr<Cgroup> tree_;              // the root of what it shows, of the first version; null: the second
  bool mounted_ = false;             // it has been told of this
  std::vector<std::string> wanted_;  // until ShowFromNowOn(): options of the first version
};

class CgroupInode final : public Inode, public Cgroup::Watcher {
 public:
  CgroupInode() = default;  // for Loader
  // `group` null: not known yet, the root for whoever asks. `entry` null: the directory.
  CgroupInode(FileSystem* fs, RefPtr<Cgroup> group, const CgroupEntry* entry);
  ~CgroupInode() override;

  const CgroupEntry* entry() const { return entry_; }
  void Become(RefPtr<Cgroup> group);
  const RefPtr<Cgroup>& group() const { return group_; }
  // Null if nobody asks.
  RefPtr<Cgroup> GroupFor(const Task* task) const;

  void OnFileChanged(Cgroup::EventFile file) override;

  ErrnoOr<void> Refresh() override;
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                       uint32_t flags) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  state::Kind kind() const override { return kCgroupInodeKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  void ShowAttr();
  Cgroup::Owner* OwnerOf(bool make);
  // Of the directory and of files that tell when they change.
  void Watch();

  RefPtr<Cgroup> group_;
  const CgroupEntry* entry_ = nullptr;
  bool first_version_ = false;  // between Load() and AfterLoad()
};

class CgroupFile final : public TextFile {
 public:
  CgroupFile() = default;  // for Loader
  // `opener`: its effective user, who alone may write.
  CgroupFile(VfsPath path, int flags, uint32_t opener);

  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  // POLLPRI and POLLERR if it has changed since it was read (kernfs_generic_poll()).
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override;
  bool pollable() const override { return true; }

  state::Kind kind() const override { return kCgroupFileKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 protected:
  ErrnoOr<std::string> MakeText(Task& task) override;
  ErrnoOr<void> MayWrite(Task& task, size_t size) override;
  ErrnoOr<void> TakeText(Task& task, std::string_view line) override;

 private:
  // ENODEV: it has been removed.
  ErrnoOr<RefPtr<Cgroup>> Group(Task& task) const;

  // How often it has changed by now.
  uint64_t changes() const;

  uint32_t opener_ = 0;
  uint64_t read_at_ = 0;  // changes() when it was read; 0: not yet
};

}  // namespace amber
