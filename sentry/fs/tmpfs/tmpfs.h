// A file system in the sandbox's memory (Linux: mm/shmem.c): tmpfs(5), and what overlays keep their changes in.
//
// Directories and attributes are objects of the sentry. The contents of a regular file are in a memfd of its own while the file is open or large;
// small files that nobody has open go back into a string, so that a big tree of small files needs few descriptors.
// Kernel lock.
#pragma once

#include <list>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/restrict.h"

namespace amber {

class TmpfsFileSystem;

class TmpfsInode final : public Inode, public FlaggedInode {
 public:
  TmpfsInode() = default;  // for Loader
  TmpfsInode(TmpfsFileSystem* fs, const NewNode& node);
  ~TmpfsInode() override;

  ErrnoOr<void> Refresh() override;
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<RefPtr<Inode>> MakeUnnamed(const VfsContext& ctx, const NewNode& node) override;
  ErrnoOr<void> Link(const VfsContext& ctx, std::string_view name, Inode& target) override;
  ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                       uint32_t flags) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override;

  ErrnoOr<void> BeginIo(bool write) override;
  void EndIo(bool write) override;
  ErrnoOr<int> HostFd(bool write) override;
  bool sentry_owned() const override { return true; }
  ErrnoOr<uint64_t> PrepareWrite(uint64_t offset, uint64_t size) override;
  void DidRead() override;
  void DidWrite(uint64_t end) override;
  ErrnoOr<void> Fallocate(const VfsContext& ctx, int mode, uint64_t offset, uint64_t size) override;

  ErrnoOr<std::string> GetXattr(std::string_view name) override;
  ErrnoOr<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  ErrnoOr<std::vector<std::string>> ListXattr() override;
  ErrnoOr<void> RemoveXattr(std::string_view name) override;

  ErrnoOr<uint32_t> GetFlags() override { return HasFlags() ? ErrnoOr<uint32_t>(flags_) : Errno(EOPNOTSUPP); }
  ErrnoOr<void> SetFlags(uint32_t flags) override;
  std::optional<uint32_t> known_flags() const override { return HasFlags() ? std::optional<uint32_t>(flags_) : std::nullopt; }

  bool takes_acls() const override { return !IsSymlink(); }
  const Acl* acl() const override { return acl_.get(); }
  const Acl* default_acl() const override { return default_acl_.get(); }

  // What was not made to be sealed is sealed against that.
  int seals() const override { return seals_ >= 0 || !IsRegular() ? seals_ : 1 /* F_SEAL_SEAL */; }
  ErrnoOr<void> AddSeals(int seals) override;
  void AllowSeals(int initial) { seals_ = initial; }

  state::Kind kind() const override { return state::Kind::kTmpfsInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class TmpfsFileSystem;
  TmpfsFileSystem& tmpfs() const;
  bool HasFlags() const { return IsRegular() || IsDir(); }
  void Changed();   // ctime and mtime of a directory
  void DropLink();  // one name less
  void Add(std::string_view name, RefPtr<TmpfsInode> child);
  void Remove(std::string_view name);
  // `child` is what has this name here. Who changes the upper layer of an overlay behind its back makes the overlay believe in names that are gone.
  bool Holds(std::string_view name, const Inode* child) const;
  // `entry` of children_ is a name that leads to its inode; or no longer does.
  using Entry = std::pair<const std::string, RefPtr<TmpfsInode>>;
  void SetHome(const Entry& entry);
  void LeaveHome(const Entry& entry);
  ErrnoOr<void> SetSize(uint64_t size);
  // Contents or owner change: capabilities that a file gives go (file_remove_privs).
  void DropCapabilities() {
    if (!xattrs_.empty()) xattrs_.erase("security.capability");
  }
  // After a change of an extended attribute. EINVAL if it is a list's name and the value is none.
  ErrnoOr<void> ReadAcl(std::string_view name);
  // Makes the memfd, with the string's bytes in it.
  ErrnoOr<void> NeedMemFd();
  // Puts the bytes back into the string, if they are few and nobody has the file open.
  void FoldMemFd();
  // Tells the file system how many bytes the file takes now.
  void Account();
  void Reaccount(uint64_t contents);
  // What long targets of symbolic links and large extended attributes take; small ones go with the inode.
  uint64_t ChargeOf(uint64_t xattr_bytes) const;
  uint64_t XattrBytes() const;
  // How far from `offset` towards `end` pages that are missing may come into being, if they are to take no more than `free` bytes.
  uint64_t FitsUpTo(uint64_t offset, uint64_t end, uint64_t free) const;

  std::map<std::string, RefPtr<TmpfsInode>, std::less<>> children_;
  // One of our names, for handles: the directory, which outlives this, and the key in its children_. Null: no name, or none that is known.
  TmpfsInode* home_ = nullptr;
  const std::string* home_name_ = nullptr;
  std::string target_;
  std::map<std::string, std::string, std::less<>> xattrs_;
  std::unique_ptr<Acl> acl_, default_acl_;  // what the extended attributes of their names say
  UniqueFd memfd_;
  std::string small_;       // the contents while there is no memfd; may be shorter than the size
  uint64_t accounted_ = 0;  // bytes
  uint64_t charge_ = 0;     // of them, what is not contents
  int open_ = 0;
  bool allocated_beyond_ = false;  // by FALLOC_FL_KEEP_SIZE, some time
  bool dense_ = false;             // the write that begins leaves no hole, nor did others: what the file takes is known by its size
  int seals_ = -1;
  uint32_t flags_ = 0;    // FS_*_FL
  bool unnamed_ = false;  // O_TMPFILE: may still get a name
  bool idle_ = false;     // is in the file system's idle list
  std::list<TmpfsInode*>::iterator idle_position_;
};

class TmpfsFileSystem final : public FileSystem, public Reconfigurable, public HandleFileSystem {
 public:
  struct Options {
    uint64_t size = 0;    // bytes; 0: half of the machine's memory, as shmem_default_max_blocks() of Linux
    uint64_t inodes = 0;  // 0 means no limit
    uint32_t mode = 01777;
    uint32_t uid = 0, gid = 0;
    bool unlimited = false;  // size=0
  };

  TmpfsFileSystem();  // for Loader
  explicit TmpfsFileSystem(const Options& options);
  ~TmpfsFileSystem() override { DropDentries(); }

  const char* type_name() const override { return "tmpfs"; }
  // Bytes that files of all file systems of this kind take (Shmem of /proc/meminfo).
  static uint64_t AllUsed();

  ErrnoOr<void> StatFs(struct statfs* out) override;
  std::string ShowOptions() const override;
  // mount -o remount,size=...
  ErrnoOr<void> Reconfigure(Task& task, const std::vector<std::string>& options) override;

  FileHandle HandleOf(Inode& inode) override;
  ErrnoOr<Place> FindHandle(const FileHandle& handle) override;
  bool IsOfHandle(Inode& inode, const FileHandle& handle) override { return HandleOf(inode).bytes == handle.bytes.substr(0, kHandleBytes); }

  state::Kind kind() const override { return state::Kind::kTmpfsFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class TmpfsInode;
  uint64_t limit() const;
  uint64_t free_bytes() const { return limit() > used_ ? limit() - used_ : 0; }
  bool MayAddInode() const { return options_.inodes == 0 || inodes_ < options_.inodes; }

  static constexpr size_t kHandleBytes = 12;
  uint32_t GenerationOf(uint64_t ino) const;

  Options options_;
  uint32_t salt_ = 0;                                    // of the generations in handles
  std::unordered_map<uint64_t, TmpfsInode*> by_number_;  // all inodes
  uint64_t next_ino_ = 1;
  uint64_t inodes_ = 0;          // names of hard links included, as on Linux: they take memory, too
  uint64_t used_ = 0;            // bytes
  std::list<TmpfsInode*> idle_;  // small files with a memfd that nobody has open, oldest first
};

// "size=64k,mode=1777,..."; EINVAL for what tmpfs does not know.
ErrnoOr<TmpfsFileSystem::Options> ParseTmpfsOptions(const std::vector<std::string>& options);
// For RegisterFileSystemType.
ErrnoOr<RefPtr<FileSystem>> MakeTmpfs(const MountArguments& arguments);

}  // namespace amber
