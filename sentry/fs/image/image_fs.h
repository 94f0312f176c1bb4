// The file system over an ImageSource. Read-only. Kernel lock.
#pragma once

#include <array>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "sentry/fs/image/image_source.h"
#include "sentry/vfs/acl.h"
#include "sentry/vfs/file_system.h"

namespace amber {

class ImageFileSystem;

class ImageInode final : public Inode {
 public:
  ImageInode() = default;  // for Loader
  ImageInode(ImageFileSystem* fs, const ImageNode& node);
  ~ImageInode() override;

  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<std::string> ReadLink(const VfsContext& ctx) override;

  ErrnoOr<void> BeginIo(bool write) override;
  void EndIo(bool write) override;
  ErrnoOr<size_t> ReadBytes(void* to, size_t size, uint64_t offset) override;
  ErrnoOr<uint64_t> SeekContents(uint64_t offset, int whence) override;
  ErrnoOr<MapSource> MapContents(bool write) override;
  uint64_t map_seam() const override;

  bool takes_acls() const override { return !IsSymlink(); }
  const Acl* acl() const override { return Acls()[0].get(); }
  const Acl* default_acl() const override { return Acls()[1].get(); }
  ErrnoOr<std::string> GetXattr(std::string_view name) override;
  ErrnoOr<void> SetXattr(std::string_view, std::string_view, int) override { return Errno(EROFS); }
  ErrnoOr<std::vector<std::string>> ListXattr() override;
  ErrnoOr<void> RemoveXattr(std::string_view) override { return Errno(EROFS); }

  state::Kind kind() const override { return state::Kind::kImageInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class ImageFileSystem;
  ImageFileSystem& image() const;
  uint64_t copied_bytes() const { return attr_.size - copied_from(); }
  // Where the memfd's part of the file begins.
  uint64_t copied_from() const;
  ErrnoOr<void> NeedCopy();
  using AclPair = std::array<std::unique_ptr<Acl>, 2>;  // access, default
  const AclPair& Acls() const;

  ImageNode node_;
  mutable std::unique_ptr<AclPair> acls_;  // read when first asked for
  UniqueFd copy_;                          // the contents from copied_from() on, once something was mapped
  int open_ = 0;
  bool entered_ = false;  // is in the file system's table
  bool idle_ = false;     // is in the file system's idle list
  std::list<ImageInode*>::iterator idle_position_;
};

class ImageFileSystem final : public FileSystem {
 public:
  struct Options {
    std::string container, attach;  // how a restore finds the file (SetImageFinder)
  };

  ImageFileSystem() = default;  // for Loader
  ~ImageFileSystem() override { DropDentries(); }
  static ErrnoOr<RefPtr<FileSystem>> Make(std::shared_ptr<ImageSource> source, Options options);

  const char* type_name() const override { return source_->type(); }
  ErrnoOr<void> StatFs(struct statfs* out) override;

  state::Kind kind() const override { return state::Kind::kImageFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class ImageInode;
  // The inode of a node, whatever name it was found by.
  ErrnoOr<RefPtr<Inode>> Get(uint64_t id);
  // Drops copies of files that nobody has open, but for the last ones.
  void TrimIdle();

  std::shared_ptr<ImageSource> source_;
  Options options_;
  absl::flat_hash_map<uint64_t, ImageInode*> inodes_;
  std::list<ImageInode*> idle_;  // with a copy that nobody has open, oldest first
  uint64_t idle_bytes_ = 0;
};

// For a restore: finds a container's image by the name of its mount; null if the bundle has none. Set before Loader::Run().
using ImageFinder = std::function<std::shared_ptr<ImageSource>(const std::string& container, const std::string& attach)>;
void SetImageFinder(ImageFinder finder);

}  // namespace amber
