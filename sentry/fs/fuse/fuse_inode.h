// A file of a server (Linux: struct fuse_inode), and the file system that has it. Guarded by the kernel lock.
//
// An inode counts how often the server told of it; when it goes, the server hears of that many lookups (FORGET). What the server says of names and
// attributes holds for as long as it says, on the host's clock; after a restore nothing of it holds.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/fuse/connection.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/served.h"

namespace amber {

class FuseInode final : public Inode, public ServedInode {
 public:
  FuseInode() = default;  // for Loader
  FuseInode(FuseFileSystem* fs, RefPtr<FuseConnection> connection, uint64_t node, uint64_t generation, uint32_t mode);
  ~FuseInode() override;

  FuseConnection& connection() const { return *connection_; }
  uint64_t node() const { return node_; }
  uint64_t generation() const { return generation_; }

  // --- what answers and notifications do (answer.cc) ---
  void AddLookup() { ++lookups_; }
  // Attributes that were asked for at `version`: they count unless something has changed since.
  void TakeAttr(const fuse_attr& attr, uint64_t valid, uint32_t valid_ns, uint64_t version);
  void set_attr_version(uint64_t version) { attr_version_ = version; }
  void DidWriteTo(uint64_t end);
  void Invalidate(bool data);
  void InvalidatePages() { filled_.clear(); }
  void ForgetName(std::string_view name) { names_.erase(std::string(name)); }

  // --- permissions ---
  ErrnoOr<void> MayUse(const Credentials& creds, int may) override;
  ErrnoOr<void> MayAccess(const Credentials& creds, int may) override;

  // --- Inode ---
  // Through `through_`, where that is set, else by its name.
  ErrnoOr<void> Refresh() override;
  // Through an open file of it.
  ErrnoOr<void> Refresh(const RefPtr<FuseHandle>& handle);
  ErrnoOr<void> StatThrough(const RefPtr<FuseHandle>& handle, struct stat* out);
  ErrnoOr<void> SetAttr(const VfsContext& /*ctx*/, const AttrChange& change) override { return SetAttr(change, nullptr); }
  ErrnoOr<void> SetAttr(const AttrChange& change, const RefPtr<FuseHandle>& handle);
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<void> LookupAhead(const VfsContext& ctx, std::span<const std::string_view> names, std::span<Inode* const> known, bool open_read,
                            std::vector<RefPtr<Inode>>* found) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<void> Link(const VfsContext& ctx, std::string_view name, Inode& target) override;
  ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rmdir(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<void> Rename(const VfsContext& ctx, std::string_view old_name, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                       uint32_t flags) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;
  ErrnoOr<std::string> GetXattr(std::string_view name) override;
  ErrnoOr<void> SetXattr(std::string_view name, std::string_view value, int flags) override;
  ErrnoOr<std::vector<std::string>> ListXattr() override;
  ErrnoOr<void> RemoveXattr(std::string_view name) override;

  // --- contents (pages.cc) ---
  // The whole file as a host file of the sentry's, for mappings; read from the server where that was not done yet.
  ErrnoOr<int> Pages(const RefPtr<FuseHandle>& handle, uint64_t offset, uint64_t size);
  bool has_pages() const { return pages_.valid(); }
  // Bytes of a write, for those who have mapped the file.
  void WritePages(const void* data, size_t size, uint64_t offset);

  // OPEN or OPENDIR.
  ErrnoOr<RefPtr<FuseHandle>> OpenHandle(int flags);

  state::Kind kind() const override { return kFuseInodeKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class FuseConnection;
  struct Name {
    int64_t valid_until = 0;
    bool missing = false;
  };
  // A question about this.
  FuseQuestion About(uint32_t opcode, std::string in = "") const { return {.opcode = opcode, .node = node_, .in = std::move(in)}; }
  // ... that is answered with an entry, which is called `name`.
  ErrnoOr<RefPtr<FuseRequest>> AskEntry(uint32_t opcode, std::string in, std::string_view name);
  ErrnoOr<void> Remove(uint32_t opcode, std::string_view name, Inode& victim);
  void NoteName(std::string_view name, const FuseRequest& request);
  void Changed();
  ErrnoOr<RefPtr<Inode>> Create(std::string_view name, const NewNode& node, int flags);
  ErrnoOr<void> Look() const;
  ErrnoOr<std::string> AskXattr(uint32_t opcode, std::string name);
  ErrnoOr<void> FillPages(const RefPtr<FuseHandle>& handle, uint64_t offset, uint64_t size);

  RefPtr<FuseConnection> connection_;
  uint64_t node_ = 0, generation_ = 0, lookups_ = 0;
  uint64_t attr_version_ = 0;
  bool stale_ = false;  // between Load() and AfterLoad()
  int64_t attr_until_ = 0;
  RefPtr<FuseHandle> through_;
  RefPtr<FuseHandle> created_;  // CREATE has opened it: for Open(), which comes next
  std::unordered_map<std::string, Name> names_;
  // For mappings.
  UniqueFd pages_;
  std::vector<bool> filled_;  // chunks of kPagesChunk
  uint64_t pages_size_ = 0;
  timespec pages_mtime_{};
};

class FuseFileSystem final : public FileSystem, public ServedFileSystem {
 public:
  FuseFileSystem() = default;  // for Loader
  ~FuseFileSystem() override;
  // For RegisterFileSystemType().
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments) { return MakeAny(arguments, false); }
  static ErrnoOr<RefPtr<FileSystem>> MakeOnDevice(const MountArguments& arguments) { return MakeAny(arguments, true); }

  const char* type_name() const override { return type_.c_str(); }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  std::string ShowOptions() const override;
  bool revalidates() const override { return true; }
  bool Busy() const override { return connection_->has_callers(); }
  void Abort() override { connection_->Abort(); }

  state::Kind kind() const override { return kFuseFileSystemKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  static ErrnoOr<RefPtr<FileSystem>> MakeAny(const MountArguments& arguments, bool block_device);

  std::string type_ = "fuse";
  RefPtr<FuseConnection> connection_;
};

// The types "fuse" and "fuseblk", and /dev/fuse (10:229).
void RegisterFuse();

// The host's monotonic clock, ns.
int64_t FuseNow();

}  // namespace amber
