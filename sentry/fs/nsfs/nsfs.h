// Namespaces as files: what /proc/PID/ns/* open to, and bind mounts of them (Linux: fs/nsfs.c).
//
// An NsFile keeps its namespace alive. It has no place in the tree; a bind mount gives the namespace one by a file system of its own, whose
// only inode is the root. Guarded by the kernel lock.
#pragma once

#include <string>

#include "sentry/kernel/namespace.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"

namespace amber {

// A namespace, or an initial one (null `ns`), of a kind CLONE_NEW*.
struct NsRef {
  int type = 0;
  RefPtr<Namespace> ns;

  uint64_t ino() const;
  // "uts:[4026531838]".
  std::string Name() const;
};

// "uts" for CLONE_NEWUTS; null for what is no kind.
const char* NamespaceTypeName(int type);

class NsFile final : public File {
 public:
  NsFile() = default;  // for Loader
  NsFile(NsRef ref, int flags);
  ~NsFile() override = default;
  static NsFile* From(File& file) { return dynamic_cast<NsFile*>(&file); }

  const NsRef& ref() const { return ref_; }
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<RefPtr<File>> Reopen(Task& task, int flags) override;
  std::string LinkName() const override { return ref_.Name(); }

  state::Kind kind() const override { return state::Kind::kNamespaceFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  ErrnoOr<uint64_t> Open(Task& task, NsRef ref);
  ErrnoOr<uint64_t> TranslatePid(Task& task, uint32_t command, int pid);

  NsRef ref_;
};

class NsFileSystem final : public FileSystem {
 public:
  NsFileSystem() = default;  // for Loader
  explicit NsFileSystem(NsRef ref);
  ~NsFileSystem() override { DropDentries(); }
  const char* type_name() const override { return "nsfs"; }
  bool is_mount_namespace() const override;
  ErrnoOr<void> StatFs(struct statfs* out) override;

  state::Kind kind() const override { return state::Kind::kNsFileSystem; }
  std::string Save(state::Saver& saver) const override { return SaveBase(saver, ""); }
  bool Load(state::Loader& loader, std::string_view bytes) override;
};

class NsInode final : public Inode {
 public:
  NsInode() = default;  // for Loader
  NsInode(FileSystem* fs, NsRef ref);
  const NsRef& ref() const { return ref_; }
  ~NsInode() override = default;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  state::Kind kind() const override { return state::Kind::kNsInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  NsRef ref_;
};

}  // namespace amber
