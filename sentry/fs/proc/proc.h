// proc(5). One instance serves every mount of it that shares a file system object. It shows the processes of the pid namespace of who
// mounted it; what a container's configuration mounts shows those of the reader.
//
// An inode is a path in the tables of entry.h plus, under /proc/PID, the task that it is about. Nothing is kept but that; texts are made when a
// file is read. Kernel lock.
#pragma once

#include <string>
#include <string_view>

#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/text_file.h"

namespace amber {

// What is hidden from whom (proc(5), "Mount options").
struct ProcOptions {
  static constexpr int kNoAccess = 1, kInvisible = 2, kPtraceable = 4;  // HIDEPID_*

  int hide = 0;
  uint32_t gid = 0;             // whose members see everything, but with kPtraceable
  bool processes_only = false;  // subset=pid

  // `base` with `options`; gids are those of `task`, or the kernel's. EINVAL for what proc does not know.
  static ErrnoOr<ProcOptions> Parse(const Task* task, const std::vector<std::string>& options, ProcOptions base);
  std::string Text() const;
  // May `reader` do with `target` what is hidden from `from` on?
  bool Permits(Task* reader, Task& target, int from) const;
};

class ProcFileSystem final : public FileSystem, public Reconfigurable {
 public:
  ProcFileSystem() = default;  // for Loader
  ~ProcFileSystem() override { DropDentries(); }
  // For containers and mount(2).
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments);

  const char* type_name() const override { return "proc"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  bool revalidates() const override { return true; }
  // Null: the reader's.
  const PidNamespace* pids() const { return pids_.get(); }
  const ProcOptions& options() const { return options_; }
  std::string ShowOptions() const override { return options_.Text(); }
  ErrnoOr<void> Reconfigure(Task& task, const std::vector<std::string>& options) override;

  state::Kind kind() const override { return state::Kind::kProcFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<PidNamespace> pids_;
  ProcOptions options_;
};

// sysfs(5) is served by the same inodes from a table of its own.
class SysFileSystem final : public FileSystem {
 public:
  SysFileSystem() = default;  // for Loader
  ~SysFileSystem() override { DropDentries(); }
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments);

  const char* type_name() const override { return "sysfs"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  // What is there differs by machine, and after a restore.
  bool revalidates() const override { return true; }

  state::Kind kind() const override { return state::Kind::kSysFileSystem; }
  std::string Save(state::Saver& saver) const override { return SaveBase(saver, ""); }
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

class ProcInode final : public Inode {
 public:
  enum class Scope : uint8_t { kMachine, kProcess, kThread, kSysfs };

  ProcInode() = default;  // for Loader
  // `path` exists (see Find()). `target` is null exactly for kMachine and kSysfs.
  ProcInode(FileSystem* fs, Scope scope, std::string path, RefPtr<Task> target);
  ~ProcInode() override;

  const ProcEntry* entry() const { return entry_; }
  Task* target() const { return target_.get(); }
  // The leader of the process whose directory /proc/PID this is, else null.
  Task* process() const { return scope_ == Scope::kProcess && path_.empty() ? target_.get() : nullptr; }
  // The target has not been reaped.
  bool Alive() const;
  // The text of a file, as `reader` may see it.
  ErrnoOr<std::string> Text(Task& reader) const;

  ErrnoOr<void> Refresh() override;
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  // Nothing can be made here, as on Linux by that errno.
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override;
  bool IsMagicLink() const override;
  ErrnoOr<LinkTarget> MagicLink(const VfsContext& ctx) override;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  state::Kind kind() const override { return state::Kind::kProcInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  void Init();
  // Descriptor number of fd/N and fdinfo/N, -1 for others.
  int Descriptor() const;
  RefPtr<Inode> Child(std::string_view name) const;
  void BelongTo(const UserNamespace* owner);
  // Of an interface's, in sysfs.
  RefPtr<Inode> NetChild(std::string_view name, uint32_t mode) const;
  void ListDescriptors(std::vector<DirEnt>* out) const;
  // --- map_files.cc ---
  // map_files of a process, or a name in it; the mapped file, or null.
  bool IsMapFiles() const;
  bool IsMapping() const { return path_.starts_with("map_files/"); }
  RefPtr<File> MappedFile() const;
  void ListMappings(std::vector<DirEnt>* out) const;
  std::string ChildPath(std::string_view name) const { return path_.empty() ? std::string(name) : path_ + "/" + std::string(name); }

  const ProcOptions& Options() const;
  // In whose terms processes are shown.
  const PidNamespace& Pids(const VfsContext& ctx) const;
  bool global() const { return scope_ == Scope::kMachine || scope_ == Scope::kSysfs; }

  Scope scope_ = Scope::kMachine;
  std::string path_;  // below /proc or /proc/PID; empty for those
  RefPtr<Task> target_;
  const ProcEntry* entry_ = nullptr;  // null for directories, fd/N, fdinfo/N, magic links
};

// An open file of /proc: a text that is made when reading begins at 0.
class ProcTextFile final : public TextFile {
 public:
  ProcTextFile() = default;  // for Loader
  // `opener`: who opened it; null for the kernel itself.
  ProcTextFile(VfsPath path, int flags, const Credentials* opener);

  ErrnoOr<uint64_t> Seek(Task& task, int64_t offset, int whence) override;
  // Of what tells mounts: whether they have changed since the last time.
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override;
  bool pollable() const override { return watched_ || TextFile::pollable(); }

  state::Kind kind() const override { return state::Kind::kProcFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 protected:
  ErrnoOr<std::string> MakeText(Task& task) override;
  ErrnoOr<void> MayWrite(Task& task, size_t size) override;
  ErrnoOr<void> TakeText(Task& task, std::string_view line) override;

 private:
  // A map of ids is written by who opened the file, or it would be written by whatever program can be made to write to a descriptor.
  uint32_t opener_ = 0;
  RefPtr<UserNamespace> opener_ns_;
  RefPtr<MountNamespace> watched_;  // of mounts and mountinfo: what they showed at the opening
  uint64_t seen_ = 0;
};

// Text of /proc/PID/fdinfo/N.
ErrnoOr<std::string> FdInfoText(Task& target, int fd);

}  // namespace amber
