#include "sentry/vfs/mount_setup.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/dev/devices.h"
#include "sentry/fs/dev/populate.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/fifo/fifo.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/fs/gofer/gofer_fs.h"
#include "sentry/fs/image/image_fs.h"
#include "sentry/fs/mqueue/mqueue.h"
#include "sentry/fs/overlay/overlay.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/tmpfs/tmpfs.h"
#include "sentry/fs/tun/tun_file.h"
#include "sentry/kernel/credentials.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

struct FlagOption {
  uint32_t set = 0, clear = 0;
};

// Options that are flags of the mount, or mean nothing here.
const std::map<std::string_view, FlagOption>& FlagOptions() {
  static const auto* options = new std::map<std::string_view, FlagOption>{{"ro", {MS_RDONLY, 0}},
                                                                          {"rw", {0, MS_RDONLY}},
                                                                          {"nosuid", {MS_NOSUID, 0}},
                                                                          {"suid", {0, MS_NOSUID}},
                                                                          {"nodev", {MS_NODEV, 0}},
                                                                          {"dev", {0, MS_NODEV}},
                                                                          {"noexec", {MS_NOEXEC, 0}},
                                                                          {"exec", {0, MS_NOEXEC}},
                                                                          {"noatime", {MS_NOATIME, 0}},
                                                                          {"atime", {0, MS_NOATIME}},
                                                                          {"relatime", {MS_RELATIME, 0}},
                                                                          {"norelatime", {0, MS_RELATIME}},
                                                                          {"strictatime", {}},
                                                                          {"nostrictatime", {}},
                                                                          {"nodiratime", {MS_NODIRATIME, 0}},
                                                                          {"diratime", {0, MS_NODIRATIME}},
                                                                          {"bind", {}},
                                                                          {"rbind", {}},
                                                                          {"private", {}},
                                                                          {"rprivate", {}},
                                                                          {"shared", {}},
                                                                          {"rshared", {}},
                                                                          {"slave", {}},
                                                                          {"rslave", {}},
                                                                          {"unbindable", {}},
                                                                          {"runbindable", {}},
                                                                          {"defaults", {}},
                                                                          {"remount", {}},
                                                                          {"sync", {}},
                                                                          {"async", {}},
                                                                          {"dirsync", {}},
                                                                          {"lazytime", {}},
                                                                          {"nolazytime", {}},
                                                                          {"silent", {}},
                                                                          {"loud", {}},
                                                                          {"tmpcopyup", {}},
                                                                          {"z", {}},
                                                                          {"Z", {}},
                                                                          {"rro", {MS_RDONLY, 0}},
                                                                          {"nosymfollow", {}},
                                                                          {"symfollow", {}}};
  return *options;
}

// Types of other parts of the kernel without which a container can still start: an empty directory stands in for them.
bool MayBeAbsent(std::string_view type) { return type == "cgroup" || type == "cgroup2" || type == "mqueue" || type == "sysfs" || type == "devpts"; }

// Everything a set-up does, it does as root with all capabilities, inside the new root.
class Setup {
 public:
  explicit Setup(MountNamespace& ns) : ns_(ns), fs_(MakeRef<FsContext>(ns.root(), ns.root(), 022)), creds_(MakeRef<Credentials>()) {
    creds_->effective = creds_->permitted = kAllCapabilities;
    ctx_ = {.creds = creds_.get(), .fs = fs_.get()};
  }
  const VfsContext& ctx() const { return ctx_; }

  ErrnoOr<VfsPath> Find(std::string_view path, uint32_t walk = kFollowLast) { return ResolvePlace(ctx_, ns_.root(), path, walk); }
  // The place `path`; directories that are missing are made, the last one as a file if `file`.
  ErrnoOr<VfsPath> FindOrMake(std::string_view path, bool file) {
    size_t at = 0;
    while (at < path.size()) {
      size_t end = std::min(path.find('/', at + 1), path.size());
      std::string_view prefix = path.substr(0, end);
      bool last = path.find_first_not_of('/', end) == std::string_view::npos;
      if (!prefix.empty() && prefix != "/" && Find(prefix).Is(ENOENT)) {
        auto made = MakeAt(ctx_, ns_.root(), prefix, {.mode = file && last ? S_IFREG | 0644u : S_IFDIR | 0755u});
        if (!made.ok()) return made.error();
      }
      at = end;
    }
    return Find(path);
  }

 private:
  MountNamespace& ns_;
  RefPtr<FsContext> fs_;
  RefPtr<Credentials> creds_;
  VfsContext ctx_;
};

absl::Status Failure(const MountPlan& plan, std::string_view what, Errno error) {
  return absl::FailedPreconditionError(
      absl::StrCat("mount ", plan.destination, " (", plan.type, ", ", plan.source, "): ", what, ": errno ", error.number()));
}

struct Options {
  uint32_t flags = 0;
  std::vector<std::string> rest;
};

Options SplitOptions(const MountPlan& plan) {
  Options o;
  for (const std::string& option : plan.options) {
    auto it = FlagOptions().find(option);
    if (it == FlagOptions().end()) {
      o.rest.push_back(option);
    } else {
      o.flags = (o.flags | it->second.set) & ~it->second.clear;
    }
  }
  if (plan.read_only) o.flags |= MS_RDONLY;
  return o;
}

absl::StatusOr<RefPtr<FileSystem>> MakeFs(Kernel& kernel, const MountPlan& plan, const Options& options) {
  const OverlayLimits limits{.bytes = plan.overlay_size, .inodes = plan.overlay_inodes};
  if (plan.client) {
    auto lower = GoferFileSystem::Make(plan.client, {plan.container, plan.attach, plan.exclusive || plan.overlay});
    if (!lower.ok()) return Failure(plan, absl::StrCat("the gofer has no \"", plan.attach, "\""), lower.error());
    RefPtr<FileSystem> fs(std::move(*lower));
    if (plan.overlay && fs->root()->inode()->IsDir()) return MakeOverlayOnTmpfs(std::move(fs), limits);
    return fs;
  }
  if (plan.image) {
    auto fs = ImageFileSystem::Make(plan.image, {plan.container, plan.attach});
    if (!fs.ok()) return Failure(plan, "the image file is damaged", fs.error());
    if (plan.overlay) return MakeOverlayOnTmpfs(std::move(*fs), limits);
    return std::move(*fs);
  }
  MountArguments arguments{.kernel = &kernel, .source = plan.source, .options = options.rest};
  auto fs = MakeFileSystem(plan.type, arguments);
  if (fs.Is(ENODEV) && MayBeAbsent(plan.type)) fs = RefPtr<FileSystem>(MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0755}));
  if (!fs.ok()) return Failure(plan, fs.Is(ENODEV) ? "no such file system" : "bad options", fs.error());
  return std::move(*fs);
}

absl::Status AddMount(Kernel& kernel, MountNamespace& ns, const MountPlan& plan, std::vector<std::pair<Mount*, uint32_t>>* late) {
  Options options = SplitOptions(plan);
  absl::StatusOr<RefPtr<FileSystem>> fs = MakeFs(kernel, plan, options);
  if (!fs.ok()) return fs.status();
  RefPtr<Dentry> root = (*fs)->root();
  bool is_dir = root->inode()->IsDir();
  std::string source = !plan.source.empty() ? plan.source : plan.client ? plan.attach : "none";
  // Read-only comes last, so that mount points can be made below. `fs` stays here, too: if this fails, `root` must go before it.
  auto mount = MakeRef<Mount>(*fs, root, options.flags & ~MS_RDONLY, std::move(source));
  late->emplace_back(mount.get(), options.flags & kMountFlags);
  if (plan.destination == "/") {
    if (!is_dir) return absl::FailedPreconditionError("the root is not a directory");
    ns.SetRoot(std::move(mount));
    return absl::OkStatus();
  }
  Setup setup(ns);
  auto place = setup.FindOrMake(plan.destination, !is_dir);
  if (!place.ok()) return Failure(plan, "cannot make the mount point", place.error());
  auto attached = ns.Attach(mount, *place);
  if (!attached.ok()) return Failure(plan, "cannot mount there", attached.error());
  if (plan.destination == "/dev" && !plan.client && plan.type == "tmpfs") {
    auto filled = PopulateDev(setup.ctx(), {mount, root});
    if (!filled.ok()) return Failure(plan, "cannot make the device nodes", filled.error());
  }
  return absl::OkStatus();
}

}  // namespace

void RegisterFileSystems() {
  static const bool done = [] {
    RegisterFileSystemType("tmpfs", MakeTmpfs);
    RegisterFileSystemType("ramfs", MakeTmpfs);
    RegisterFileSystemType("overlay", MakeOverlay);
    RegisterFileSystemType("proc", ProcFileSystem::Make);
    Machine::Get();  // asks the host, which a confined sentry may not do
    RegisterFileSystemType("sysfs", SysFileSystem::Make);
    RegisterFileSystemType("cgroup", CgroupFileSystem::MakeFirstVersion);
    RegisterFileSystemType("cgroup2", CgroupFileSystem::Make);
    RegisterFileSystemType("mqueue", MqueueFileSystem::Make);
    RegisterFuse();
    RegisterMemoryDevices();
    RegisterTun();
    RegisterFifos();
    RegisterTerminals();
    return true;
  }();
  (void)done;
}

absl::StatusOr<RefPtr<MountNamespace>> BuildMounts(Kernel& kernel, std::span<const MountPlan> plans) {
  RegisterFileSystems();
  if (plans.empty() || plans[0].destination != "/") return absl::InvalidArgumentError("the first mount must be the root");
  auto ns = MakeRef<MountNamespace>();
  std::vector<std::pair<Mount*, uint32_t>> late;
  for (const MountPlan& plan : plans) {
    if (plan.destination.empty() || plan.destination[0] != '/' || (ns->size() > 0 && plan.destination == "/")) {
      return absl::InvalidArgumentError(absl::StrCat("mount destination \"", plan.destination, "\" makes no sense"));
    }
    if (absl::Status s = AddMount(kernel, *ns, plan, &late); !s.ok()) return s;
  }
  for (auto [mount, flags] : late) mount->set_flags(flags);
  return ns;
}

absl::Status MaskPath(MountNamespace& ns, std::string_view path) {
  Setup setup(ns);
  auto place = setup.Find(path);
  if (place.Is(ENOENT) || place.Is(ENOTDIR)) return absl::OkStatus();
  if (!place.ok()) return absl::InternalError(absl::StrCat("cannot mask ", path, ": errno ", place.error().number()));
  // An empty read-only file or directory of its own.
  auto fs = MakeRef<TmpfsFileSystem>(TmpfsFileSystem::Options{.mode = 0555});
  RefPtr<Dentry> root = fs->root();
  RefPtr<Dentry> cover = root;
  auto mount = MakeRef<Mount>(fs, root, 0, "tmpfs");
  if (!place->inode()->IsDir()) {
    auto file = MakeAt(setup.ctx(), {mount, root}, "null", {.mode = S_IFREG | 0444});
    if (!file.ok()) return absl::InternalError("cannot make an empty file");
    cover = std::move(*file);
  }
  auto top = MakeRef<Mount>(std::move(fs), std::move(cover), MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "tmpfs");
  auto r = ns.Attach(std::move(top), *place);
  if (!r.ok()) return absl::InternalError(absl::StrCat("cannot mask ", path, ": errno ", r.error().number()));
  return absl::OkStatus();
}

absl::Status MakePathReadOnly(MountNamespace& ns, std::string_view path) {
  Setup setup(ns);
  auto place = setup.Find(path);
  if (place.Is(ENOENT) || place.Is(ENOTDIR)) return absl::OkStatus();
  ErrnoOr<void> r = place.ok() ? ns.Bind(*place, *place, true, place->mount->flags() | MS_RDONLY) : place.error();
  if (!r.ok()) return absl::InternalError(absl::StrCat("cannot make ", path, " read-only: errno ", r.error().number()));
  return absl::OkStatus();
}

absl::Status MakeDevice(MountNamespace& ns, std::string_view path, uint32_t mode, uint64_t rdev, uint32_t uid, uint32_t gid) {
  Setup setup(ns);
  auto fail = [&](Errno error) { return absl::FailedPreconditionError(absl::StrCat("cannot make the device ", path, ": errno ", error.number())); };
  if (setup.Find(path).ok()) return absl::OkStatus();
  size_t slash = path.rfind('/');
  if (slash == std::string_view::npos) return fail(Errno(EINVAL));
  if (slash > 0) {
    auto dir = setup.FindOrMake(path.substr(0, slash), false);
    if (!dir.ok()) return fail(dir.error());
  }
  auto made = MakeAt(setup.ctx(), ns.root(), path, {.mode = mode, .rdev = rdev});
  if (!made.ok()) return fail(made.error());
  auto owned = (*made)->inode()->SetAttr(setup.ctx(), {.mode = mode & 07777, .uid = uid, .gid = gid});
  if (!owned.ok()) return fail(owned.error());
  return absl::OkStatus();
}

void RemoveDevice(MountNamespace& ns, std::string_view path, uint64_t rdev) {
  Setup setup(ns);
  auto place = setup.Find(path);
  if (!place.ok() || !S_ISCHR(place->inode()->attr().mode) || place->inode()->attr().rdev != rdev) return;
  (void)UnlinkAt(setup.ctx(), ns.root(), path);
}

}  // namespace amber
