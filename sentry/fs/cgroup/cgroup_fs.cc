#include "sentry/fs/cgroup/cgroup_fs.h"

#include <dirent.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/inotify.h>

#include <algorithm>

#include "sentry/fs/cgroup/cgroup.pb.h"
#include "sentry/fs/cgroup/first_version.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

bool IsThere(const CgroupEntry& entry, const Cgroup& group) {
  using Where = CgroupEntry::Where;
  if (entry.where != Where::kAll && (entry.where == Where::kRoot) != (group.parent() == nullptr)) return false;
  return entry.controllers == 0 || (entry.controllers & group.available()) != 0;
}

// Of a group that is not known yet: the second version's.
std::span<const CgroupEntry> EntriesOf(const RefPtr<Cgroup>& group) { return CgroupEntries(group && group->first() != nullptr); }

const CgroupEntry* FindEntry(bool first_version, std::string_view name) {
  std::span<const CgroupEntry> entries = CgroupEntries(first_version);
  auto found = std::ranges::find_if(entries, [name](const CgroupEntry& e) { return name == e.name; });
  return found != entries.end() ? &*found : nullptr;
}

// cgroup_init_fs_context(), mount_capable(): who rules over the cgroup namespace.
ErrnoOr<void> MayMount(const Task& task) {
  const RefPtr<CgroupNamespace>& ns = task.extras().cgroup;
  return task.creds().HasIn(ns ? ns->owner() : nullptr, CAP_SYS_ADMIN) ? Ok() : ErrnoOr<void>(Errno(EPERM));
}

}  // namespace

// --- the file system ---

ErrnoOr<RefPtr<FileSystem>> CgroupFileSystem::Make(const MountArguments& arguments) {
  auto fs = MakeRef<CgroupFileSystem>();
  RefPtr<Cgroup> root;
  if (arguments.task != nullptr) {
    TRY(MayMount(*arguments.task));
    root = RefPtr<Cgroup>(&Cgroup::RootFor(*arguments.task));
  }
  fs->SetRoot(MakeRef<CgroupInode>(fs.get(), std::move(root), nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<RefPtr<FileSystem>> CgroupFileSystem::MakeFirstVersion(const MountArguments& arguments) {
  auto fs = MakeRef<CgroupFileSystem>();
  RefPtr<Cgroup> root;
  if (arguments.task != nullptr) {
    TRY(MayMount(*arguments.task));
    root = TRY(TreeForMount(*arguments.task, arguments.options));
    fs->ShowTree(root);
  } else {
    // A container's configuration gets the second version for either, unless it names controllers.
    fs->wanted_ = arguments.options;
  }
  fs->SetRoot(MakeRef<CgroupInode>(fs.get(), std::move(root), nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

CgroupFileSystem::~CgroupFileSystem() {
  DropDentries();
  if (mounted_) tree_->OnUnmount();
}

std::string CgroupFileSystem::ShowOptions() const { return tree_ && tree_->own_tree() != nullptr ? TreeOptions(*tree_) : ""; }

void CgroupFileSystem::ShowTree(const RefPtr<Cgroup>& root_group) {
  tree_ = RefPtr<Cgroup>(&root_group->Top());
  tree_->OnMount();
  mounted_ = true;
}

ErrnoOr<void> CgroupFileSystem::ShowFromNowOn(const RefPtr<Cgroup>& root_group) {
  auto* inode = static_cast<CgroupInode*>(root()->inode());
  if (inode->group()) return Ok();
  RefPtr<Cgroup> shown = root_group;
  if (!wanted_.empty()) {
    shown = TRY(TreeOf(*root_group, wanted_));
    ShowTree(shown);
    wanted_.clear();
  }
  inode->Become(std::move(shown));
  return Ok();
}

ErrnoOr<void> CgroupFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = tree_ ? CGROUP_SUPER_MAGIC : CGROUP2_SUPER_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

std::string CgroupFileSystem::Save(state::Saver& saver) const {
  cgroup_fs_state::FileSystem m;
  m.set_tree(saver.Ref(tree_));
  return SaveBase(saver, m.SerializeAsString());
}

bool CgroupFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  cgroup_fs_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  tree_ = loader.GetRef<Cgroup>(m.tree());
  return m.tree() == 0 || tree_;
}

bool CgroupFileSystem::AfterLoad(state::Loader& loader) {
  auto* inode = dynamic_cast<CgroupInode*>(root()->inode());
  if (inode == nullptr) return loader.Fail("a file system of cgroups has no root");
  if (!tree_) return !inode->group() || inode->group()->first() == nullptr || loader.Fail("a cgroup2 file system shows the first version");
  if (tree_->own_tree() == nullptr || tree_->removed() || !inode->group() || &inode->group()->Top() != tree_.get()) {
    return loader.Fail("a cgroup file system has no tree");
  }
  ShowTree(tree_);
  return true;
}

// --- inodes ---

CgroupInode::CgroupInode(FileSystem* fs, RefPtr<Cgroup> group, const CgroupEntry* entry) : Inode(fs), group_(std::move(group)), entry_(entry) {
  ShowAttr();
  Watch();
}

CgroupInode::~CgroupInode() {
  if (group_) group_->RemoveWatcher(this);
}

void CgroupInode::Watch() {
  if (group_ && (entry_ == nullptr || entry_->events != Cgroup::kNoEvents)) group_->AddWatcher(this);
}

// kernfs_notify_workfn()
void CgroupInode::OnFileChanged(Cgroup::EventFile file) {
  if (!AnyWatches()) return;
  RefPtr<Inode> self(this);
  if (entry_ != nullptr) {
    if (entry_->events == file) NotifyInode(*this, {IN_MODIFY, 0, {}, false});
    return;
  }
  std::span<const CgroupEntry> entries = EntriesOf(group_);
  auto found = std::ranges::find_if(entries, [file](const CgroupEntry& e) { return e.events == file; });
  if (found != entries.end() && IsThere(*found, *group_)) NotifyInode(*this, {IN_MODIFY, 0, found->name, false});
}

void CgroupInode::Become(RefPtr<Cgroup> group) {
  if (group_) return;
  group_ = std::move(group);
  ShowAttr();
  Watch();
}

RefPtr<Cgroup> CgroupInode::GroupFor(const Task* task) const {
  if (group_ || task == nullptr) return group_;
  return RefPtr<Cgroup>(&Cgroup::RootFor(*task));
}

Cgroup::Owner* CgroupInode::OwnerOf(bool make) {
  if (!group_) return nullptr;
  if (entry_ == nullptr) return &group_->owner();
  auto& owners = group_->file_owners();
  auto it = owners.find(entry_->name);
  if (it != owners.end()) return &it->second;
  if (!make) return nullptr;
  // Files of a delegated directory are its maker's.
  return &(owners[entry_->name] = {entry_->mode, group_->owner().uid, group_->owner().gid});
}

void CgroupInode::ShowAttr() {
  uint64_t index = entry_ != nullptr ? static_cast<uint64_t>(entry_ - EntriesOf(group_).data()) + 1 : 0;
  attr_.ino = (group_ ? group_->id() : 1) * kInosPerGroup + index;
  attr_.mode = entry_ != nullptr ? S_IFREG | entry_->mode : S_IFDIR | 0755;
  attr_.nlink = entry_ == nullptr ? 2 : 1;
  if (const Cgroup::Owner* owner = OwnerOf(false)) {
    attr_.mode = (attr_.mode & S_IFMT) | owner->mode;
    attr_.uid = owner->uid;
    attr_.gid = owner->gid;
  } else if (group_) {
    attr_.uid = group_->owner().uid;
    attr_.gid = group_->owner().gid;
  }
  attr_.blksize = 4096;
  if (attr_.mtime.tv_sec == 0) attr_.atime = attr_.mtime = attr_.ctime = FileTimeNow();
}

ErrnoOr<void> CgroupInode::Refresh() {
  ShowAttr();
  return Ok();
}

ErrnoOr<void> CgroupInode::SetAttr(const VfsContext&, const AttrChange& change) {
  if (change.size) return Ok();  // O_TRUNC
  Cgroup::Owner* owner = OwnerOf(true);
  if (owner == nullptr) return Errno(EPERM);
  if (change.mode) owner->mode = *change.mode & 07777;
  if (change.uid) owner->uid = *change.uid;
  if (change.gid) owner->gid = *change.gid;
  attr_.ctime = FileTimeNow();
  ShowAttr();
  return Ok();
}

ErrnoOr<RefPtr<Inode>> CgroupInode::Lookup(const VfsContext& ctx, std::string_view name) {
  if (entry_ != nullptr) return Errno(ENOTDIR);
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  if (!group || group->removed()) return Errno(ENOENT);
  if (auto it = group->children().find(name); it != group->children().end()) {
    return RefPtr<Inode>(MakeRef<CgroupInode>(&fs(), it->second, nullptr));
  }
  const CgroupEntry* entry = FindEntry(group->first() != nullptr, name);
  if (entry == nullptr || !IsThere(*entry, *group)) return Errno(ENOENT);
  return RefPtr<Inode>(MakeRef<CgroupInode>(&fs(), std::move(group), entry));
}

ErrnoOr<RefPtr<Inode>> CgroupInode::Make(const VfsContext& ctx, std::string_view name, const NewNode& node) {
  if (entry_ != nullptr) return Errno(ENOTDIR);
  if (!S_ISDIR(node.mode)) return Errno(S_ISREG(node.mode) ? EACCES : EPERM);
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  if (!group) return Errno(EPERM);
  if (const CgroupEntry* entry = FindEntry(group->first() != nullptr, name); entry != nullptr && IsThere(*entry, *group)) return Errno(EEXIST);
  RefPtr<Cgroup> child = TRY(group->MakeChild(name, {(node.mode & ~node.umask) & 07777, node.uid, node.gid}));
  return RefPtr<Inode>(MakeRef<CgroupInode>(&fs(), std::move(child), nullptr));
}

ErrnoOr<void> CgroupInode::Rmdir(const VfsContext& ctx, std::string_view, Inode& victim) {
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  auto& child = static_cast<CgroupInode&>(victim);
  if (!group || !child.group_) return Errno(EBUSY);
  return group->RemoveChild(*child.group_);
}

// cgroup1_rename(): groups of the first version, where they are.
ErrnoOr<void> CgroupInode::Rename(const VfsContext&, std::string_view, Inode& moved, Inode& new_dir, std::string_view new_name, Inode* replaced,
                                  uint32_t) {
  if (!group_ || group_->first() == nullptr) return Errno(EPERM);
  auto& child = static_cast<CgroupInode&>(moved);
  if (!moved.IsDir()) return Errno(ENOTDIR);
  if (&static_cast<CgroupInode&>(new_dir) != this && static_cast<CgroupInode&>(new_dir).group_ != group_) return Errno(EIO);
  if (replaced != nullptr || FindEntry(true, new_name) != nullptr) return Errno(EEXIST);
  return group_->RenameChild(*child.group_, new_name);
}

ErrnoOr<std::vector<DirEnt>> CgroupInode::List(const VfsContext& ctx) {
  std::vector<DirEnt> out;
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  if (!group || group->removed()) return out;
  std::span<const CgroupEntry> entries = EntriesOf(group);
  for (const CgroupEntry& e : entries) {
    if (!IsThere(e, *group)) continue;
    out.push_back({e.name, group->id() * kInosPerGroup + static_cast<uint64_t>(&e - entries.data()) + 1, DT_REG});
  }
  for (const auto& [name, child] : group->children()) out.push_back({name, child->id() * kInosPerGroup, DT_DIR});
  return out;
}

ErrnoOr<RefPtr<File>> CgroupInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  if (entry_ == nullptr) return RefPtr<File>(MakeRef<DirectoryFile>(path, flags));
  if (group_->removed()) return Errno(ENODEV);
  return RefPtr<File>(MakeRef<CgroupFile>(path, flags, ctx.creds != nullptr ? ctx.creds->euid : 0));
}

std::string CgroupInode::Save(state::Saver& saver) const {
  cgroup_fs_state::Inode m;
  m.set_base(SaveBase(saver));
  m.set_group(saver.Ref(group_));
  if (entry_ != nullptr) m.set_entry(entry_->name);
  m.set_first_version(group_ && group_->first() != nullptr);
  return m.SerializeAsString();
}

bool CgroupInode::Load(state::Loader& loader, std::string_view bytes) {
  cgroup_fs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<CgroupFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  group_ = loader.GetRef<Cgroup>(m.group());
  first_version_ = m.first_version();
  entry_ = m.entry().empty() ? nullptr : FindEntry(first_version_, m.entry());
  return m.entry().empty() || (entry_ != nullptr && group_) || loader.Fail("a cgroup's file is unknown");
}

bool CgroupInode::AfterLoad(state::Loader& loader) {
  if (first_version_ != (group_ && group_->first() != nullptr)) return loader.Fail("a cgroup's file is of another version");
  bool of_root = entry_ != nullptr && entry_->where == CgroupEntry::Where::kRoot;
  if (of_root && first_version_ && group_->own_tree() == nullptr) return loader.Fail("a cgroup has a file that only roots have");
  Watch();
  return true;
}

// --- open files ---

CgroupFile::CgroupFile(VfsPath path, int flags, uint32_t opener) : TextFile(std::move(path), flags), opener_(opener) {}

ErrnoOr<RefPtr<Cgroup>> CgroupFile::Group(Task& task) const {
  RefPtr<Cgroup> group = static_cast<CgroupInode&>(inode()).GroupFor(&task);
  return group->removed() ? ErrnoOr<RefPtr<Cgroup>>(Errno(ENODEV)) : group;
}

ErrnoOr<std::string> CgroupFile::MakeText(Task& task) {
  RefPtr<Cgroup> group = TRY(Group(task));
  auto& node = static_cast<CgroupInode&>(inode());
  if (node.entry()->text == nullptr) return Errno(EINVAL);
  read_at_ = changes();
  return node.entry()->text(task, *group);
}

ErrnoOr<void> CgroupFile::MayWrite(Task& task, size_t size) {
  TRY(Group(task));
  if (static_cast<CgroupInode&>(inode()).entry()->write == nullptr) return Errno(EINVAL);
  // A descriptor is no way to make a program with more rights write: it is the opener's.
  if (task.creds().euid != opener_) return Errno(EACCES);
  return size > kMaxWrite ? ErrnoOr<void>(Errno(E2BIG)) : Ok();
}

ErrnoOr<void> CgroupFile::TakeText(Task& task, std::string_view line) {
  RefPtr<Cgroup> group = TRY(Group(task));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\0' || line.back() == ' ')) line.remove_suffix(1);
  while (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  return static_cast<CgroupInode&>(inode()).entry()->write(task, *group, line);
}

ErrnoOr<uint64_t> CgroupFile::Seek(Task& task, int64_t offset, int whence) {
  return whence == SEEK_END ? ErrnoOr<uint64_t>(Errno(EINVAL)) : TextFile::Seek(task, offset, whence);
}

uint64_t CgroupFile::changes() const {
  auto& node = static_cast<CgroupInode&>(inode());
  return node.entry()->events == Cgroup::kNoEvents ? 1 : node.group()->changes(node.entry()->events);
}

uint32_t CgroupFile::Poll(Task&) {
  constexpr uint32_t kUsual = POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
  bool changed = static_cast<CgroupInode&>(inode()).group()->removed() || read_at_ != changes();
  return kUsual | (changed ? POLLPRI | POLLERR : 0);
}

WaitQueue* CgroupFile::wait_queue() {
  static auto* never = new WaitQueue();
  auto& node = static_cast<CgroupInode&>(inode());
  return node.entry()->events == Cgroup::kNoEvents ? never : &node.group()->change_queue(node.entry()->events);
}

std::string CgroupFile::Save(state::Saver& saver) const {
  uint64_t up_to_date = read_at_ == changes() ? 1 : 0;
  return SaveOpenFile(saver, position_, (made_ ? 1 : 0) | uint64_t{opener_} << 1 | up_to_date << 33, text_);
}

bool CgroupFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  made_ = (m.data_inode() & 1) != 0;
  opener_ = static_cast<uint32_t>(m.data_inode() >> 1);
  read_at_ = m.data_inode() >> 33 & 1;  // changes are counted anew
  text_ = m.extra();
  return true;
}

bool CgroupFile::AfterLoad(state::Loader& loader) {
  if (!VfsFile::AfterLoad(loader)) return false;
  auto* node = dynamic_cast<CgroupInode*>(&inode());
  return (node != nullptr && node->entry() != nullptr) || loader.Fail("an open file is in the wrong file system");
}

}  // namespace amber
