// The file system object behind a gofer's attach point, and its way through a checkpoint.
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>

#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/gofer/gofer_fs.pb.h"
#include "sentry/fs/gofer/later.h"

namespace amber {
namespace {

GoferFinder& Finder() {
  static auto* finder = new GoferFinder();
  return *finder;
}

// Multigrain timestamps (Documentation/filesystems/multigrain-ts.rst) are there since 6.13: a change of a file whose ctime was asked for gets a
// ctime of its own. Before the sentry confines itself: it is not allowed uname() afterwards.
const bool kernel_has_fine_times = [] {
  utsname names;
  int major = 0, minor = 0;
  if (uname(&names) != 0 || sscanf(names.release, "%d.%d", &major, &minor) != 2) return false;
  return major > 6 || (major == 6 && minor >= 13);
}();

// Those that set FS_MGTIME; they also keep whatever owner, mode and times they are given.
bool IsOrdinary(uint64_t type) { return type == EXT4_SUPER_MAGIC || type == XFS_SUPER_MAGIC || type == BTRFS_SUPER_MAGIC || type == TMPFS_MAGIC; }

constexpr uint64_t kUnknownDevice = UINT64_MAX;  // until an inode of an image is found again

std::string Join(const std::vector<std::string>& names) {
  std::string s;
  for (const std::string& n : names) s += '/' + n;
  return s.empty() ? "/" : s;
}

}  // namespace

void SetGoferFinder(GoferFinder finder) { Finder() = std::move(finder); }

ErrnoOr<RefPtr<GoferFileSystem>> GoferFileSystem::Make(std::shared_ptr<gofer::Client> client, Options options) {
  auto fs = MakeRef<GoferFileSystem>();
  fs->client_ = std::move(client);
  fs->options_ = std::move(options);
  TRY(fs->Connect());
  gofer::Node root = std::move(fs->root_node_);
  fs->SetRoot(MakeRef<GoferInode>(fs.get(), nullptr, "", std::move(root)));
  return fs;
}

GoferFileSystem::GoferFileSystem() : handles_(MakeHandles()), later_(std::make_unique<LaterChange>(*this)) {}

GoferFileSystem::~GoferFileSystem() {
  later_.reset();
  DropDentries();
  listed_ahead_.clear();
  while (!ahead_order_.empty()) DropAhead(std::pair(ahead_order_.front()));
  if (client_) client_->FlushForgets();
}

ErrnoOr<void> GoferFileSystem::Connect() {
  gofer::AttachedRoot attached = TRY(client_->Attach(options_.attach));
  if (attached.read_only) set_read_only(true);
  root_dev_ = attached.root.attributes.dev;
  auto stats = client_->StatFs(attached.root.id);
  bool ordinary = stats.ok() && IsOrdinary(stats->type);
  fine_times_ = ordinary && kernel_has_fine_times;
  later_->set_ordinary(ordinary);
  root_node_ = std::move(attached.root);
  return Ok();
}

uint64_t GoferFileSystem::GuestIno(const gofer::Attributes& a) {
  if (a.dev == root_dev_) return a.ino;
  // Mounts of the host inside the tree share our device number: keep their inode numbers apart.
  auto [it, is_new] = other_devs_.try_emplace(a.dev, other_devs_.size() + 1);
  return a.ino + (it->second << 48);
}

GoferInode* GoferFileSystem::Known(const gofer::Attributes& a) const {
  auto it = inodes_.find({a.dev, a.ino});
  if (it == inodes_.end()) return nullptr;
  // A number that is used again for something else, behind our back.
  if ((it->second->attr_.mode & S_IFMT) != (a.mode & S_IFMT)) return nullptr;
  return it->second;
}

RefPtr<GoferInode> GoferFileSystem::InodeFor(RefPtr<GoferInode> parent, std::string_view name, gofer::Node node) {
  GoferInode* known = Known(node.attributes);
  // Without a node a number may have been used again.
  bool sure = known != nullptr && (known->node_ != gofer::kNoNode || options_.exclusive || known->IsOf(node.attributes));
  if (!sure || known->removed_) {
    return MakeRef<GoferInode>(this, std::move(parent), name, std::move(node));
  }
  if (node.id != gofer::kNoNode) {
    if (known->node_ == gofer::kNoNode) {
      known->node_ = node.id;
      known->target_ = std::move(node.target);
    } else {
      client_->Forget(node.id);
    }
  }
  known->Take(node.attributes);
  if (parent && known->parent_ != parent.get() && !options_.exclusive) {
    known->parent_ = std::move(parent);
    known->name_ = name;
  }
  return RefPtr<GoferInode>(known);
}

ErrnoOr<void> GoferFileSystem::StatFs(struct statfs* out) {
  auto& root_inode = static_cast<GoferInode&>(*root()->inode());
  TRY(root_inode.NeedNode());
  gofer::FileSystemStats s = TRY(client_->StatFs(root_inode.node_));
  *out = {};
  out->f_type = static_cast<decltype(out->f_type)>(s.type);
  out->f_bsize = static_cast<decltype(out->f_bsize)>(s.block_size);
  out->f_frsize = static_cast<decltype(out->f_frsize)>(s.fragment_size);
  out->f_blocks = s.blocks;
  out->f_bfree = s.blocks_free;
  out->f_bavail = s.blocks_available;
  out->f_files = s.files;
  out->f_ffree = s.files_free;
  out->f_namelen = static_cast<decltype(out->f_namelen)>(s.name_max);
  return Ok();
}

std::string GoferFileSystem::Save(state::Saver& saver) const {
  LaterChange::Flush();
  gofer_fs_state::FileSystem m;
  m.set_container(options_.container);
  m.set_attach(options_.attach);
  m.set_exclusive(options_.exclusive);
  m.set_handles(SaveHandles());
  return SaveBase(saver, m.SerializeAsString());
}

bool GoferFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  gofer_fs_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  options_ = {m.container(), m.attach(), m.exclusive()};
  if (!LoadHandles(m.handles())) return loader.Fail("file handles are malformed");
  if (Finder()) client_ = Finder()(options_.container, options_.attach);
  if (!client_) return loader.Fail("the mount \"" + options_.attach + "\" of the image is not in the new configuration");
  auto r = Connect();
  if (!r.ok()) {
    return loader.Fail("the mount \"" + options_.attach + "\" cannot be attached (errno " + std::to_string(r.error().number()) + ")");
  }
  return true;
}

bool GoferInode::HostPath(std::vector<std::string>* names) const {
  for (const GoferInode* i = this;; i = i->parent_.get()) {
    if (i->removed_) return false;  // files that never had a name (O_TMPFILE) have no parent either
    if (!i->parent_) break;
    names->push_back(i->name_);
  }
  std::reverse(names->begin(), names->end());
  return true;
}

ErrnoOr<void> GoferInode::NeedNode() {
  if (node_ != gofer::kNoNode) return Ok();
  if (detached_ || removed_) return Errno(ENOENT);
  // After a restore: the parent knows the way. Loader::Run() has checked the chain's end; its length is the tree's depth.
  if (!parent_) {
    gofer::Node root = std::move(gofer().root_node_);
    if (root.id == gofer::kNoNode) return Errno(ENOENT);
    if ((root.attributes.mode & S_IFMT) != type()) return Errno(ESTALE);
    node_ = root.id;
    key_ = {root.attributes.dev, root.attributes.ino};
    gofer().inodes_[key_] = this;
    Take(root.attributes);
    return Ok();
  }
  TRY(parent_->NeedNode());
  std::string_view name = name_;
  gofer::WalkResult walked = TRY(client().Walk(parent_->node_, std::span(&name, 1)));
  if (walked.stop == gofer::WalkResult::Stop::kMissing) return Errno(ENOENT);
  if (walked.stop == gofer::WalkResult::Stop::kError) return walked.error;
  if (walked.found.size() != 1) return Errno(EIO);
  return TakeNode(std::move(walked.found[0]));
}

ErrnoOr<void> GoferInode::TakeNode(gofer::Node node) {
  std::pair<uint64_t, uint64_t> key(node.attributes.dev, node.attributes.ino);
  bool other = (node.attributes.mode & S_IFMT) != type() || (key_.first != kUnknownDevice && key_ != key);
  if (other) {
    client().Forget(node.id);
    return Errno(ESTALE);
  }
  node_ = node.id;
  key_ = key;
  target_ = std::move(node.target);
  gofer().inodes_[key_] = this;
  Take(node.attributes);
  return Ok();
}

std::string GoferInode::CannotSave() const {
  if (!removed_ || detached_ || IsDir()) return "";
  if (IsRegular()) return has_fd() || node_ != gofer::kNoNode ? "" : "a deleted file of a host directory is in use by O_PATH descriptors only";
  return "a deleted special file or symbolic link of a host directory is in use";
}

std::string GoferInode::Save(state::Saver& saver) const {
  gofer_fs_state::Inode m;
  m.set_base(SaveBase(saver));
  std::vector<std::string> names;
  bool reachable = !detached_ && HostPath(&names);
  m.set_target(target_);
  m.set_removed(!reachable);
  if (reachable) {
    m.set_parent(saver.Ref(parent_));
    m.set_name(name_);
  } else if (IsRegular()) {
    // Its name is gone: the image must hold the contents.
    auto* self = const_cast<GoferInode*>(this);
    auto fd = self->HostFd(false);
    struct stat st;
    if (fd.ok() && fstat(*fd, &st) == 0) m.set_file(saver.File(*fd, static_cast<uint64_t>(st.st_size)));
  }
  return m.SerializeAsString();
}

bool GoferInode::Load(state::Loader& loader, std::string_view bytes) {
  gofer_fs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<GoferFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  target_ = m.target();
  parent_ = loader.GetRef<GoferInode>(m.parent());
  name_ = m.name();
  key_ = {kUnknownDevice, attr_.ino};
  removed_ = detached_ = m.removed();
  if (!detached_) return true;
  attr_.nlink = 0;
  if (!IsRegular()) return true;
  rw_fd_.reset(m.file() != 0 ? loader.OpenFile(m.file()) : -1);
  if (!rw_fd_.valid()) return loader.Fail("the contents of a deleted file are missing");
  return true;
}

bool GoferInode::AfterLoad(state::Loader& loader) {
  size_t depth = 0;
  for (const GoferInode* i = this; i != nullptr; i = i->parent_.get()) {
    if (++depth > 4096) return loader.Fail("a directory tree is too deep");
  }
  if (detached_) return true;
  auto r = NeedNode();
  if (r.ok()) return true;
  std::vector<std::string> names;
  HostPath(&names);
  std::string what = r.Is(ESTALE)   ? "is of another type now"
                     : r.Is(ENOENT) ? "does not exist any more"
                                    : "cannot be reached (errno " + std::to_string(r.error().number()) + ")";
  return loader.Fail("the file " + Join(names) + " of the mount \"" + gofer().options_.attach + "\", which is in use in the image, " + what);
}

}  // namespace amber
