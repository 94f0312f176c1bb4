#include "sentry/fs/cgroup/cgroup_fs.h"

#include <dirent.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/inotify.h>

#include <algorithm>

#include "sentry/fs/cgroup/cgroup.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/notify.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

constexpr uint64_t kInosPerGroup = 64;  // numbers of a group's directory and files

bool IsThere(const CgroupEntry& entry, const Cgroup& group) { return entry.controllers == 0 || (entry.controllers & group.available()) != 0; }

const CgroupEntry* FindEntry(std::string_view name) {
  auto found = std::ranges::find_if(CgroupEntries(), [name](const CgroupEntry& e) { return name == e.name; });
  return found != CgroupEntries().end() ? &*found : nullptr;
}

}  // namespace

// --- the file system ---

ErrnoOr<RefPtr<FileSystem>> CgroupFileSystem::Make(const MountArguments& arguments) {
  auto fs = MakeRef<CgroupFileSystem>();
  RefPtr<Cgroup> root;
  if (arguments.task != nullptr) root = RefPtr<Cgroup>(&Cgroup::RootFor(*arguments.task));
  fs->SetRoot(MakeRef<CgroupInode>(fs.get(), std::move(root), nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<RefPtr<FileSystem>> CgroupFileSystem::MakeFirstVersion(const MountArguments& arguments) {
  if (arguments.task != nullptr) return Errno(ENODEV);
  return Make(arguments);
}

void CgroupFileSystem::ShowFromNowOn(const RefPtr<Cgroup>& root_group) { static_cast<CgroupInode*>(root()->inode())->Become(root_group); }

ErrnoOr<void> CgroupFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = CGROUP2_SUPER_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

bool CgroupFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  return LoadBase(loader, bytes, &specific);
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
  auto found = std::ranges::find_if(CgroupEntries(), [file](const CgroupEntry& e) { return e.events == file; });
  if (found != CgroupEntries().end() && IsThere(*found, *group_)) NotifyInode(*this, {IN_MODIFY, 0, found->name, false});
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
  uint64_t index = entry_ != nullptr ? static_cast<uint64_t>(entry_ - CgroupEntries().data()) + 1 : 0;
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
  const CgroupEntry* entry = FindEntry(name);
  if (entry == nullptr || !IsThere(*entry, *group)) return Errno(ENOENT);
  return RefPtr<Inode>(MakeRef<CgroupInode>(&fs(), std::move(group), entry));
}

ErrnoOr<RefPtr<Inode>> CgroupInode::Make(const VfsContext& ctx, std::string_view name, const NewNode& node) {
  if (entry_ != nullptr) return Errno(ENOTDIR);
  if (!S_ISDIR(node.mode)) return Errno(S_ISREG(node.mode) ? EACCES : EPERM);
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  if (!group) return Errno(EPERM);
  if (FindEntry(name) != nullptr) return Errno(EEXIST);
  RefPtr<Cgroup> child = TRY(group->MakeChild(name, {(node.mode & ~node.umask) & 07777, node.uid, node.gid}));
  return RefPtr<Inode>(MakeRef<CgroupInode>(&fs(), std::move(child), nullptr));
}

ErrnoOr<void> CgroupInode::Rmdir(const VfsContext& ctx, std::string_view, Inode& victim) {
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  auto& child = static_cast<CgroupInode&>(victim);
  if (!group || !child.group_) return Errno(EBUSY);
  return group->RemoveChild(*child.group_);
}

ErrnoOr<std::vector<DirEnt>> CgroupInode::List(const VfsContext& ctx) {
  std::vector<DirEnt> out;
  RefPtr<Cgroup> group = GroupFor(ctx.task);
  if (!group || group->removed()) return out;
  for (const CgroupEntry& e : CgroupEntries()) {
    if (!IsThere(e, *group)) continue;
    out.push_back({e.name, group->id() * kInosPerGroup + static_cast<uint64_t>(&e - CgroupEntries().data()) + 1, DT_REG});
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
  return m.SerializeAsString();
}

bool CgroupInode::Load(state::Loader& loader, std::string_view bytes) {
  cgroup_fs_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<CgroupFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  group_ = loader.GetRef<Cgroup>(m.group());
  entry_ = m.entry().empty() ? nullptr : FindEntry(m.entry());
  Watch();
  return m.entry().empty() || (entry_ != nullptr && group_) || loader.Fail("a cgroup's file is unknown");
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
