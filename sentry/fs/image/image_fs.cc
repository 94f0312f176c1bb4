#include "sentry/fs/image/image_fs.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/image/image_fs.pb.h"
#include "sentry/vfs/data_io.h"

namespace amber {
namespace {

constexpr uint64_t kPage = 4096;
// Copies of what nobody has open.
constexpr size_t kMaxIdle = 256;
constexpr uint64_t kMaxIdleBytes = 64 << 20;
// Copied under the kernel lock, so there must be an end: what is larger can be read but not mapped.
constexpr uint64_t kMaxCopied = uint64_t{2} << 30;
constexpr uint64_t kMaxPieces = uint64_t{256} << 20;  // of files in chunks, each of which is a read, and of compressed ones
constexpr uint32_t kErofsMagic = 0xE0F5E1E2;

ImageFinder& Finder() {
  static auto* finder = new ImageFinder();
  return *finder;
}

}  // namespace

void SetImageFinder(ImageFinder finder) { Finder() = std::move(finder); }

ErrnoOr<RefPtr<FileSystem>> ImageFileSystem::Make(std::shared_ptr<ImageSource> source, Options options) {
  auto fs = MakeRef<ImageFileSystem>();
  fs->source_ = std::move(source);
  fs->options_ = std::move(options);
  fs->set_read_only(true);
  fs->SetRoot(TRY(fs->Get(fs->source_->root())));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<RefPtr<Inode>> ImageFileSystem::Get(uint64_t id) {
  if (auto it = inodes_.find(id); it != inodes_.end()) return RefPtr<Inode>(it->second);
  return RefPtr<Inode>(MakeRef<ImageInode>(this, TRY(source_->Load(id))));
}

ErrnoOr<void> ImageFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = kErofsMagic;
  out->f_bsize = out->f_frsize = static_cast<__fsword_t>(kPage);
  out->f_namelen = 255;
  out->f_blocks = (source_->size() + kPage - 1) / kPage;
  out->f_files = source_->file_count();
  return Ok();
}

void ImageFileSystem::TrimIdle() {
  while (!idle_.empty() && (idle_.size() > kMaxIdle || idle_bytes_ > kMaxIdleBytes)) {
    ImageInode* oldest = idle_.front();
    idle_.pop_front();
    oldest->idle_ = false;
    oldest->copy_.reset();
    idle_bytes_ -= oldest->copied_bytes();
  }
}

std::string ImageFileSystem::Save(state::Saver& saver) const {
  image_fs_state::FileSystem m;
  m.set_container(options_.container);
  m.set_attach(options_.attach);
  m.set_identity(source_->identity());
  return SaveBase(saver, m.SerializeAsString());
}

bool ImageFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  image_fs_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  options_ = {m.container(), m.attach()};
  if (Finder()) source_ = Finder()(options_.container, options_.attach);
  std::string what = options_.attach == "root" ? "the root file system" : "the mount \"" + options_.attach + "\"";
  if (!source_) return loader.Fail(what + " was an image file, and the new configuration has none for it");
  if (source_->identity() != m.identity()) return loader.Fail(what + " is another image file than the one of the checkpoint");
  return true;
}

ImageInode::ImageInode(ImageFileSystem* fs, const ImageNode& node) : Inode(fs), node_(node) {
  attr_ = node.attr;
  fs->inodes_[node.id] = this;
  entered_ = true;
}

ImageInode::~ImageInode() {
  if (!entered_) return;
  ImageFileSystem& fs = image();
  if (idle_) {
    fs.idle_.erase(idle_position_);
    fs.idle_bytes_ -= copied_bytes();
  }
  fs.inodes_.erase(node_.id);
}

ImageFileSystem& ImageInode::image() const { return static_cast<ImageFileSystem&>(fs()); }

ErrnoOr<RefPtr<Inode>> ImageInode::Lookup(const VfsContext&, std::string_view name) { return image().Get(TRY(image().source_->Find(node_, name))); }

ErrnoOr<std::vector<DirEnt>> ImageInode::List(const VfsContext&) { return image().source_->List(node_); }
ErrnoOr<std::string> ImageInode::ReadLink(const VfsContext&) { return image().source_->Target(node_); }

ErrnoOr<void> ImageInode::BeginIo(bool write) {
  if (write) return Errno(EROFS);
  ++open_;
  if (idle_) {
    idle_ = false;
    image().idle_.erase(idle_position_);
    image().idle_bytes_ -= copied_bytes();
  }
  return Ok();
}

void ImageInode::EndIo(bool) {
  if (--open_ > 0 || !copy_.valid()) return;
  ImageFileSystem& fs = image();
  idle_ = true;
  idle_position_ = fs.idle_.insert(fs.idle_.end(), this);
  fs.idle_bytes_ += copied_bytes();
  fs.TrimIdle();
}

ErrnoOr<size_t> ImageInode::ReadBytes(void* to, size_t size, uint64_t offset) { return image().source_->Read(node_, to, size, offset); }

// All of it is data, as far as anybody is told.
ErrnoOr<uint64_t> ImageInode::SeekContents(uint64_t offset, int whence) {
  if (offset >= attr_.size) return Errno(ENXIO);
  return whence == SEEK_DATA ? offset : attr_.size;
}

uint64_t ImageInode::copied_from() const { return image().source_->OnPages(node_) ? attr_.size / kPage * kPage : 0; }

uint64_t ImageInode::map_seam() const {
  uint64_t from = copied_from();
  return from == 0 ? UINT64_MAX : from;
}

ErrnoOr<void> ImageInode::NeedCopy() {
  if (copy_.valid()) return Ok();
  uint64_t from = copied_from(), size = attr_.size - from;
  bool pieces = node_.layout == ImageNode::Layout::kChunks || node_.layout == ImageNode::Layout::kCompressed;
  if (size > (pieces ? kMaxPieces : kMaxCopied)) return Errno(ENOMEM);
  UniqueFd fd = GuestFd(memfd_create("image", MFD_CLOEXEC));
  if (!fd.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  if (ftruncate(fd.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  uint8_t* buffer = BounceBuffer::Get();
  for (uint64_t at = 0; at < size;) {
    size_t n = TRY(ReadBytes(buffer, std::min<uint64_t>(size - at, BounceBuffer::kSize), from + at));
    if (n == 0) return Errno(EIO);
    // Zeros stay holes.
    if (std::any_of(buffer, buffer + n, [](uint8_t b) { return b != 0; })) TRY(WriteAll(fd.get(), buffer, n, at));
    at += n;
  }
  copy_ = std::move(fd);
  return Ok();
}

ErrnoOr<MapSource> ImageInode::MapContents(bool write) {
  if (write) return Errno(EACCES);
  TRY(NeedCopy());
  uint64_t from = copied_from();
  if (from == 0) return MapSource{.fd = copy_.get()};
  return MapSource{.fd = image().source_->fd(), .offset = node_.data, .rest_fd = copy_.get(), .rest_from = from};
}

const ImageInode::AclPair& ImageInode::Acls() const {
  static const AclPair none;
  if (node_.xattr_size == 0) return none;
  if (acls_ != nullptr) return *acls_;
  acls_ = std::make_unique<AclPair>();
  auto xattrs = image().source_->Xattrs(node_);
  if (!xattrs.ok()) return *acls_;
  for (size_t i = 0; i < 2; ++i) {
    auto it = xattrs->find(i == 0 ? kAccessAcl : kDefaultAcl);
    auto list = it != xattrs->end() ? Acl::Parse(it->second, nullptr) : std::optional<Acl>();
    if (list.ok() && *list) (*acls_)[i] = std::make_unique<Acl>(**std::move(list));
  }
  return *acls_;
}

ErrnoOr<std::string> ImageInode::GetXattr(std::string_view name) {
  XattrMap xattrs = TRY(image().source_->Xattrs(node_));
  auto it = xattrs.find(name);
  if (it == xattrs.end()) return Errno(ENODATA);
  return std::move(it->second);
}

ErrnoOr<std::vector<std::string>> ImageInode::ListXattr() {
  std::vector<std::string> names;
  for (const auto& [name, value] : TRY(image().source_->Xattrs(node_))) names.push_back(name);
  return names;
}

std::string ImageInode::Save(state::Saver& saver) const {
  image_fs_state::Inode m;
  m.set_base(SaveBase(saver));
  m.set_id(node_.id);
  return m.SerializeAsString();
}

bool ImageInode::Load(state::Loader& loader, std::string_view bytes) {
  image_fs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<ImageFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  node_.id = m.id();
  return true;
}

// Not in Load(): the file system may be loaded after its root.
bool ImageInode::AfterLoad(state::Loader& loader) {
  auto node = image().source_->Load(node_.id);
  if (!node.ok() || ((node->attr.mode ^ attr_.mode) & S_IFMT) != 0) return loader.Fail("the image file lacks a file of the checkpoint");
  if (!image().inodes_.emplace(node_.id, this).second) return loader.Fail("a file of an image is there twice");
  node_ = *node;
  attr_ = node->attr;
  entered_ = true;
  return true;
}

}  // namespace amber
