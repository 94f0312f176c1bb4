#include "sentry/fs/devpts/devpts.h"

#include <dirent.h>
#include <linux/magic.h>
#include <sys/sysmacros.h>

#include <charconv>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/devpts/tty_file.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"
#include "sentry/vfs/special.h"

namespace amber {
namespace {

constexpr int kMaxTerminals = 4096;
constexpr uint32_t kTtyMajor = 5;
// Inode numbers: never the same for two terminals, so that a cached name of one that went does not lead to it again.
uint64_t SlaveIno(int index) { return NextAnonIno() << 13 | (static_cast<uint64_t>(index) + 3); }

ErrnoOr<RefPtr<File>> OpenSlave(Task* task, const VfsPath& path, int flags, Tty& tty) {
  TRY(tty.SlaveOpened(task));
  auto file = MakeRef<TtyFile>(path, flags, RefPtr<Tty>(&tty), false);
  // A session leader without a terminal gets the first one it opens (tty_open_proc_set_tty).
  if (task != nullptr && (flags & O_NOCTTY) == 0 && task->group().IsSessionLeader() && task->group().session().tty() == nullptr &&
      tty.session() == nullptr && (flags & O_ACCMODE) != O_WRONLY) {
    tty.SetControlling(*task);
  }
  return RefPtr<File>(std::move(file));
}

ErrnoOr<RefPtr<File>> OpenMaster(const VfsContext& ctx, const VfsPath& path, int flags, DevptsFileSystem& fs) {
  RefPtr<Tty> tty = TRY(fs.NewTty(ctx.creds->fsuid, ctx.creds->fsgid));
  return RefPtr<File>(MakeRef<TtyFile>(path, flags, std::move(tty), true));
}

// /dev/tty and a /dev/ptmx that is a device node of its own.
ErrnoOr<RefPtr<File>> OpenTtyDevice(const VfsContext& ctx, const VfsPath& path, int flags) {
  uint32_t device = minor(path.inode()->attr().rdev);
  if (device == 0) {
    Tty* tty = ctx.task->group().session().tty();
    if (tty == nullptr) return Errno(ENXIO);
    return OpenSlave(ctx.task, path, flags | O_NOCTTY, *tty);
  }
  if (device != 2 || path.dentry->parent() == nullptr) return Errno(ENXIO);
  // The instance is the one that is mounted on "pts" beside the node (devpts_mntget).
  VfsPath pts = TRY(ResolvePlace(ctx, {path.mount, RefPtr<Dentry>(path.dentry->parent())}, "pts", kFollowLast | kMustBeDir));
  auto* fs = dynamic_cast<DevptsFileSystem*>(&pts.mount->fs());
  if (fs == nullptr) return Errno(ENODEV);
  return OpenMaster(ctx, {pts.mount, TRY(LookupChild(ctx, pts, "ptmx"))}, flags, *fs);
}

ErrnoOr<uint32_t> Number(std::string_view text, int base) {
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return Errno(EINVAL);
  return value;
}

}  // namespace

DevptsInode::DevptsInode(FileSystem* fs, uint64_t ino, uint32_t mode, RefPtr<Tty> tty) : Inode(fs), tty_(std::move(tty)) {
  attr_.ino = ino;
  attr_.mode = mode;
  attr_.nlink = S_ISDIR(mode) ? 2 : 1;
  attr_.blksize = 1024;
  attr_.rdev = tty_ ? makedev(136, static_cast<uint32_t>(tty_->index())) : S_ISDIR(mode) ? 0 : makedev(kTtyMajor, 2);
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = FileTimeNow();
}
DevptsInode::~DevptsInode() = default;

ErrnoOr<void> DevptsInode::SetAttr(const VfsContext&, const AttrChange& change) {
  if (change.mode) attr_.mode = (attr_.mode & ~07777u) | *change.mode;
  if (change.uid) attr_.uid = *change.uid;
  if (change.gid) attr_.gid = *change.gid;
  if (change.atime) attr_.atime = change.atime->now ? FileTimeNow() : change.atime->time;
  if (change.mtime) attr_.mtime = change.mtime->now ? FileTimeNow() : change.mtime->time;
  attr_.ctime = FileTimeNow();
  return Ok();
}

ErrnoOr<RefPtr<Inode>> DevptsInode::Lookup(const VfsContext&, std::string_view name) {
  if (!IsDir()) return Errno(ENOTDIR);
  auto& devpts = static_cast<DevptsFileSystem&>(fs());
  if (name == "ptmx") return RefPtr<Inode>(devpts.ptmx());
  auto index = Number(name, 10);
  if (!index.ok() || (name.size() > 1 && name[0] == '0')) return Errno(ENOENT);
  auto it = devpts.terminals().find(static_cast<int>(*index));
  if (it == devpts.terminals().end()) return Errno(ENOENT);
  return RefPtr<Inode>(it->second);
}

ErrnoOr<std::vector<DirEnt>> DevptsInode::List(const VfsContext&) {
  if (!IsDir()) return Errno(ENOTDIR);
  auto& devpts = static_cast<DevptsFileSystem&>(fs());
  std::vector<DirEnt> out{{"ptmx", devpts.ptmx()->ino(), DT_CHR}};
  for (const auto& [index, inode] : devpts.terminals()) out.push_back({std::to_string(index), inode->ino(), DT_CHR});
  return out;
}

ErrnoOr<RefPtr<File>> DevptsInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  if (IsDir()) return RefPtr<File>(MakeRef<DirectoryFile>(path, flags));
  if (tty_) return OpenSlave(ctx.task, path, flags, *tty_);
  return OpenMaster(ctx, path, flags, static_cast<DevptsFileSystem&>(fs()));
}

DevptsFileSystem::~DevptsFileSystem() { DropDentries(); }

ErrnoOr<RefPtr<FileSystem>> DevptsFileSystem::Make(const MountArguments& arguments) {
  auto fs = MakeRef<DevptsFileSystem>();
  const UserNamespace* ns = arguments.task != nullptr ? arguments.task->creds().user_ns.get() : nullptr;
  for (const std::string& option : arguments.options) {
    std::string_view o = option;
    std::string_view value = o.substr(std::min(o.size(), o.find('=') + 1));
    if (o.starts_with("gid=")) {
      fs->gid_ = ToKernelGid(ns, TRY(Number(value, 10)));
      if (*fs->gid_ == UserNamespace::kInvalidId) return Errno(EINVAL);
    } else if (o.starts_with("uid=")) {
      fs->uid_ = ToKernelUid(ns, TRY(Number(value, 10)));
      if (*fs->uid_ == UserNamespace::kInvalidId) return Errno(EINVAL);
    } else if (o.starts_with("mode=")) {
      fs->mode_ = TRY(Number(value, 8)) & 0777;
    } else if (o.starts_with("ptmxmode=")) {
      fs->ptmx_mode_ = TRY(Number(value, 8)) & 0777;
    } else if (o != "newinstance" && !o.starts_with("max=")) {
      return Errno(EINVAL);
    }
  }
  fs->ptmx_ = MakeRef<DevptsInode>(fs.get(), 2, S_IFCHR | fs->ptmx_mode_, nullptr);
  fs->SetRoot(MakeRef<DevptsInode>(fs.get(), 1, S_IFDIR | 0755, nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<void> DevptsFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = DEVPTS_SUPER_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

std::string DevptsFileSystem::ShowOptions() const {
  std::string out;
  char text[64];
  if (uid_) out += ",uid=" + std::to_string(*uid_);
  if (gid_) out += ",gid=" + std::to_string(*gid_);
  snprintf(text, sizeof(text), ",mode=%03o,ptmxmode=%03o", mode_, ptmx_mode_);
  return out + text;
}

ErrnoOr<RefPtr<Tty>> DevptsFileSystem::NewTty(uint32_t uid, uint32_t gid) {
  int index = 0;
  while (terminals_.contains(index)) ++index;
  if (index >= kMaxTerminals) return Errno(ENOSPC);
  auto tty = MakeRef<Tty>(RefPtr<DevptsFileSystem>(this), index);
  auto inode = MakeRef<DevptsInode>(this, SlaveIno(index), S_IFCHR | mode_, tty);
  AttrChange owner;
  owner.uid = uid_.value_or(uid);
  owner.gid = gid_.value_or(gid);
  TRY(inode->SetAttr({}, owner));
  terminals_[index] = std::move(inode);
  return tty;
}

void DevptsFileSystem::Remove(int index) { terminals_.erase(index); }

void RegisterTerminals() {
  RegisterFileSystemType("devpts", DevptsFileSystem::Make);
  RegisterCharDevice(kTtyMajor, 0, 1, OpenTtyDevice);
  RegisterCharDevice(kTtyMajor, 2, 1, OpenTtyDevice);
}

ErrnoOr<RefPtr<File>> OpenConsole(Kernel& kernel, const MountNamespace& mounts, UniqueFd console, int index, const winsize& window, uint32_t uid) {
  RefPtr<Mount> mount;
  for (Mount* m : mounts.All()) {
    if (dynamic_cast<DevptsFileSystem*>(&m->fs()) != nullptr) mount = RefPtr<Mount>(m);
  }
  if (!mount) {
    RefPtr<FileSystem> fs = TRY(DevptsFileSystem::Make({}));
    mount = MakeRef<Mount>(fs, fs->root(), 0, "devpts");
  }
  auto& fs = static_cast<DevptsFileSystem&>(mount->fs());
  RefPtr<Tty> tty = TRY(fs.NewTty(uid, 5 /* tty */));
  tty->SetWindow(window);
  tty->AttachConsole(kernel, std::move(console), index);
  RefPtr<Dentry> name = TRY(LookupChild({}, {mount, fs.root()}, std::to_string(tty->index())));
  return OpenSlave(nullptr, {mount, name}, O_RDWR, *tty);
}

void MakeControllingTerminal(Task& task, File& terminal) {
  if (Tty* tty = TtyFile::Of(terminal); tty != nullptr) tty->SetControlling(task);
}

}  // namespace amber
