// The file system of pseudo terminals (/dev/pts, fs/devpts/inode.c): ptmx, and a device for each terminal whose master is open.
//
// Each mount made afresh is an instance with numbers of its own. Kernel lock.
#pragma once

#include <map>
#include <optional>

#include "sentry/fs/devpts/tty.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"

namespace amber {

class Kernel;
class MountNamespace;

class DevptsInode final : public Inode {
 public:
  DevptsInode() = default;  // for Loader
  // The root or, with `mode` of a device, ptmx (`tty` null) or a slave.
  DevptsInode(FileSystem* fs, uint64_t ino, uint32_t mode, RefPtr<Tty> tty);
  ~DevptsInode() override;

  Tty* tty() const { return tty_.get(); }
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  state::Kind kind() const override { return state::Kind::kDevptsInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<Tty> tty_;
};

class DevptsFileSystem final : public FileSystem {
 public:
  DevptsFileSystem() = default;  // for Loader
  ~DevptsFileSystem() override;
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments);

  const char* type_name() const override { return "devpts"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  std::string ShowOptions() const override;
  bool revalidates() const override { return true; }

  // A new terminal; its slave belongs to `uid` and `gid`. ENOSPC beyond 4096.
  ErrnoOr<RefPtr<Tty>> NewTty(uint32_t uid, uint32_t gid);
  void Remove(int index);
  const std::map<int, RefPtr<DevptsInode>>& terminals() const { return terminals_; }
  const RefPtr<DevptsInode>& ptmx() const { return ptmx_; }

  state::Kind kind() const override { return state::Kind::kDevptsFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  std::map<int, RefPtr<DevptsInode>> terminals_;
  RefPtr<DevptsInode> ptmx_;
  std::optional<uint32_t> uid_, gid_;
  uint32_t mode_ = 0600;
  uint32_t ptmx_mode_ = 0;
  std::vector<uint64_t> loading_;
};

// Enters /dev/tty and /dev/ptmx into the device table, and the file system type.
void RegisterTerminals();

// --- for the runtime ---
// A new terminal in the devpts of `mounts` (or one that is mounted nowhere, if there is none), whose master is the host's `console`;
// returns its slave, open for reading and writing. `index`: which descriptor of the caller `console` is, for a restore.
ErrnoOr<RefPtr<File>> OpenConsole(Kernel& kernel, const MountNamespace& mounts, UniqueFd console, int index, const winsize& window, uint32_t uid);
// Makes `terminal` the controlling terminal of `task`'s session, with `task`'s process group in the foreground.
void MakeControllingTerminal(Task& task, File& terminal);

}  // namespace amber
