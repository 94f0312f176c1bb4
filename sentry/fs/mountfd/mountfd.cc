#include "sentry/fs/mountfd/mountfd.h"

#include <linux/capability.h>

#include <algorithm>
#include <map>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/mountfd/mountfd.pb.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/reconfigure.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

constexpr size_t kMaxLog = 8, kMaxOptions = 256;

}  // namespace

FsConfigFile::FsConfigFile(RefPtr<FileSystem> fs) : phase_(Phase::kReconfiguring), fs_(std::move(fs)) {
  type_ = fs_->type_name();
  read_only_ = fs_->read_only();
  set_flags(O_RDWR);
}

Errno FsConfigFile::Failure(int error, std::string message) {
  log_.push_back("e " + type_ + ": " + std::move(message));
  if (log_.size() > kMaxLog) log_.pop_front();
  return Errno(error);
}

ErrnoOr<void> FsConfigFile::Set(Task& task, const std::string& key, const std::string* value) {
  if (phase_ != Phase::kDescribing && phase_ != Phase::kReconfiguring) return Errno(EBUSY);
  if (value == nullptr && IsCommonMountFlag(key)) {
    if (key == "ro" || key == "rw") read_only_ = key == "ro";
    return Ok();
  }
  if (value != nullptr && key == "source") {
    if (!source_.empty()) return Failure(EINVAL, "VFS: Multiple sources");
    source_ = *value;
    return Ok();
  }
  if (options_.size() >= kMaxOptions) return Errno(EINVAL);
  std::string option = value == nullptr ? key : key + "=" + *value;
  // What cannot be right is refused at once. An overlay's options make sense together only, and so do those of FUSE.
  if (type_ != "overlay" && !type_.starts_with("fuse")) {
    MountArguments trial{.kernel = &task.kernel(), .task = &task, .source = "none", .options = {option}};
    if (!MakeFileSystem(type_, trial).ok()) return Failure(EINVAL, "Unknown or bad parameter '" + key + "'");
  }
  options_.push_back(std::move(option));
  return Ok();
}

ErrnoOr<void> FsConfigFile::Create(Task& task) {
  if (phase_ != Phase::kDescribing) return Errno(EBUSY);
  MountArguments arguments{.kernel = &task.kernel(), .task = &task, .source = source_.empty() ? "none" : source_, .options = options_};
  auto made = MakeFileSystem(type_, arguments);
  if (!made.ok()) {
    phase_ = Phase::kFailed;
    return Failure(made.error().number(), "cannot be made");
  }
  fs_ = *std::move(made);
  if (task.creds().user_ns && !fs_->owner()) fs_->set_owner(task.creds().user_ns);
  if (read_only_) fs_->set_read_only(true);
  phase_ = Phase::kCreated;
  return Ok();
}

ErrnoOr<void> FsConfigFile::Reconfigure(Task& task) {
  if (phase_ != Phase::kReconfiguring) return Errno(EBUSY);
  // The file system itself is its owner's alone (vfs_fsconfig_locked()).
  const UserNamespace* mine = task.creds().user_ns.get();
  if (!task.creds().HasOwn(CAP_SYS_ADMIN) || (mine != nullptr && !fs_->owned_within(mine))) return Errno(EPERM);
  if (auto* changeable = dynamic_cast<Reconfigurable*>(fs_.get())) TRY(changeable->Reconfigure(task, options_));
  fs_->set_read_only(read_only_);
  options_.clear();
  return Ok();
}

ErrnoOr<RefPtr<FileSystem>> FsConfigFile::Take() {
  if (phase_ != Phase::kCreated) return Errno(EINVAL);
  phase_ = Phase::kReconfiguring;
  options_.clear();
  return fs_;
}

ErrnoOr<size_t> FsConfigFile::Read(Task&, Sink& sink) {
  if (log_.empty()) return Errno(ENODATA);
  std::string line = std::move(log_.front());
  log_.pop_front();
  if (line.size() > sink.remaining()) return Errno(EMSGSIZE);
  return sink.Put(line.data(), line.size());
}

ErrnoOr<void> FsConfigFile::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

std::string FsConfigFile::Save(state::Saver& saver) const {
  mountfd_state::FsConfig m;
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_type(type_);
  m.set_source(source_);
  for (const std::string& o : options_) m.add_option(o);
  m.set_phase(static_cast<uint32_t>(phase_));
  m.set_fs(saver.Ref(fs_));
  m.set_read_only(read_only_);
  for (const std::string& l : log_) m.add_log(l);
  return m.SerializeAsString();
}

bool FsConfigFile::Load(state::Loader& loader, std::string_view bytes) {
  mountfd_state::FsConfig m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a file system context is malformed");
  if (m.phase() > static_cast<uint32_t>(Phase::kFailed)) return false;
  set_flags(static_cast<int>(m.flags()));
  type_ = m.type();
  source_ = m.source();
  options_.assign(m.option().begin(), m.option().end());
  phase_ = static_cast<Phase>(m.phase());
  fs_ = loader.GetRef<FileSystem>(m.fs());
  read_only_ = m.read_only();
  log_.assign(m.log().begin(), m.log().end());
  bool needs_fs = phase_ == Phase::kCreated || phase_ == Phase::kReconfiguring;
  return !needs_fs || static_cast<bool>(fs_);
}

MountFile::MountFile(RefPtr<MountNamespace> tree) : VfsFile(tree->root(), O_PATH), tree_(std::move(tree)) {}

ErrnoOr<void> MountFile::MoveTo(MountNamespace& ns, VfsPath where) {
  if (!tree_) return Errno(EINVAL);
  ns.CrossDown(&where);
  if (where.inode()->IsDir() != tree_->root().inode()->IsDir()) return Errno(EINVAL);  // do_move_mount()
  // Whoever else holds the namespace (nobody does) would find it empty.
  if (tree_->ref_count() > 1) return Errno(EBUSY);
  MountTree tree = tree_->TakeTree();
  tree_.reset();
  auto attached = ns.AttachTree(tree, std::move(where));
  if (!attached.ok()) tree_ = MountNamespace::OfTree(std::move(tree));
  return attached;
}

std::string MountFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, 0, saver.Ref(tree_), ""); }

bool MountFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  tree_ = loader.GetRef<MountNamespace>(m.data_inode());
  return true;
}

ErrnoOr<RefPtr<MountNamespace>> CloneTree(const VfsPath& source, bool recursive) {
  return MountNamespace::OfTree(TRY(MountNamespace::CopyPlace(source, recursive)));
}

RefPtr<MountNamespace> NewTree(RefPtr<FileSystem> fs, uint32_t flags, const std::string& source) {
  auto tree = MakeRef<MountNamespace>();
  RefPtr<Dentry> root = fs->root();
  tree->SetRoot(MakeRef<Mount>(std::move(fs), std::move(root), flags, source));
  return tree;
}

}  // namespace amber
