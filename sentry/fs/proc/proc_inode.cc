#include <dirent.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <sched.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "sentry/fs/nsfs/nsfs.h"
#include "sentry/fs/proc/machine.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/proc.pb.h"
#include "sentry/fs/proc/proc_mem.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/tracing.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

// Links of a process that lead to objects.
constexpr const char* kMagicLinks[] = {"cwd", "exe", "root"};
struct NamespaceLink {
  const char* name;
  int type;
  bool for_children = false;
};
constexpr NamespaceLink kNamespaces[] = {
    {"cgroup", CLONE_NEWCGROUP},
    {"ipc", CLONE_NEWIPC},
    {"mnt", CLONE_NEWNS},
    {"net", CLONE_NEWNET},
    {"pid", CLONE_NEWPID},
    {"pid_for_children", CLONE_NEWPID, true},
    {"time", 0x80},
    {"time_for_children", 0x80, true},
    {"user", CLONE_NEWUSER},
    {"uts", CLONE_NEWUTS},
};

// Set by ProcTerms.
const PidNamespace* terms_now = nullptr;

bool IsMagicName(std::string_view path) { return std::ranges::find(kMagicLinks, path) != std::end(kMagicLinks); }

int ParseNumber(std::string_view text) {
  int value = -1;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty() || value < 0) return -1;
  if (text.size() > 1 && text[0] == '0') return -1;
  return value;
}

using Scope = ProcInode::Scope;

// Some files are of processes alone, one is of threads alone (tgid_base_stuff and tid_base_stuff of fs/proc/base.c).
bool IsOfScope(std::string_view path, bool process) {
  constexpr std::string_view kOfProcesses[] = {"autogroup", "coredump_filter", "mountstats", "timens_offsets", "timers", "timerslack_ns"};
  if (path == "children") return !process;
  return process || std::ranges::find(kOfProcesses, path) == std::end(kOfProcesses);
}

// Those that `reader` sees, if it is not null.
template <typename F>
void ForEachEntry(Scope scope, Task* reader, F visit) {
  auto shown = [&](const ProcEntry& e) {
    if (IsShown(reader, e.path)) visit(e);
  };
  if (scope == Scope::kMachine) {
    for (const ProcEntry& e : MachineEntries()) shown(e);
    for (const ProcEntry& e : SysctlEntries()) visit(e);
  } else if (scope == Scope::kSysfs) {
    for (const ProcEntry& e : SysfsEntries()) shown(e);
  } else {
    for (const ProcEntry& e : ProcessEntries()) {
      if (IsOfScope(e.path, scope == Scope::kProcess)) visit(e);
    }
  }
}

const ProcEntry* FindEntry(Scope scope, Task* reader, std::string_view path) {
  const ProcEntry* found = nullptr;
  ForEachEntry(scope, reader, [&](const ProcEntry& e) {
    if (e.path == path) found = &e;
  });
  return found;
}

// True if some entry lies below `path`.
bool IsTableDirectory(Scope scope, Task* reader, std::string_view path) {
  bool found = path.empty();
  ForEachEntry(scope, reader, [&](const ProcEntry& e) {
    std::string_view p = e.path;
    if (p.size() > path.size() && p.starts_with(path) && p[path.size()] == '/') found = true;
  });
  return found;
}

// The entry of ns/NAME, or null.
const NamespaceLink* FindNamespaceLink(std::string_view path) {
  if (!path.starts_with("ns/")) return nullptr;
  for (const NamespaceLink& link : kNamespaces) {
    if (path.substr(3) == link.name) return &link;
  }
  return nullptr;
}
bool IsNamespaceLink(std::string_view path) { return FindNamespaceLink(path) != nullptr; }

ErrnoOr<NsRef> NamespaceBehind(Task& target, const NamespaceLink& link) {
  return NsRef{link.type, TRY(NamespaceOf(target, link.type, link.for_children))};
}

uint64_t Mix(uint64_t h, uint64_t v) {
  h ^= v + 0x9e3779b97f4a7c15 + (h << 6) + (h >> 2);
  return h * 0xff51afd7ed558ccd;
}

}  // namespace

ProcTerms::ProcTerms(const PidNamespace& pids) : before_(std::exchange(terms_now, &pids)) {}
ProcTerms::~ProcTerms() { terms_now = before_; }
const PidNamespace& ProcTerms::Now() {
  AMBER_CHECK(terms_now != nullptr);
  return *terms_now;
}

ProcInode::ProcInode(FileSystem* fs, Scope scope, std::string path, RefPtr<Task> target)
    : Inode(fs), scope_(scope), path_(std::move(path)), target_(std::move(target)) {
  Init();
}
ProcInode::~ProcInode() = default;

bool ProcInode::Alive() const { return !target_ || target_->group().pids().FindTask(target_->tid()) == target_.get(); }

int ProcInode::Descriptor() const {
  std::string_view p = path_;
  if (!target_) return -1;
  if (p.starts_with("fd/")) return ParseNumber(p.substr(3));
  if (p.starts_with("fdinfo/")) return ParseNumber(p.substr(7));
  return -1;
}

void ProcInode::Init() {
  bool machine = global();
  entry_ = FindEntry(scope_, nullptr, path_);
  uint32_t mode = S_IFDIR | 0555;
  if (entry_ != nullptr) {
    mode = entry_->mode;
  } else if (Descriptor() >= 0) {
    mode = path_.starts_with("fd/") ? S_IFLNK | 0700 : S_IFREG | 0444;
    if (S_ISLNK(mode)) attr_.size = 64;  // proc_fd_instantiate()
  } else if (!machine && (IsMagicName(path_) || IsNamespaceLink(path_))) {
    mode = S_IFLNK | 0777;
  } else if (IsMapping() && !machine) {
    mode = S_IFLNK | 0600;
    attr_.size = 64;
  } else if ((path_ == "fd" || path_ == "map_files") && !machine) {
    mode = S_IFDIR | 0500;
  } else if (path_ == "fdinfo" && !machine) {
    mode = S_IFDIR | 0555;
  } else if (path_ == "ns") {
    mode = S_IFDIR | 0511;
  }
  attr_.mode = mode;
  attr_.nlink = S_ISDIR(mode) ? 2 : 1;
  attr_.blksize = 1024;
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = FileTimeNow();
  uint64_t h = Mix(std::hash<std::string>()(path_), static_cast<uint64_t>(scope_));
  if (target_) h = Mix(Mix(h, static_cast<uint64_t>(target_->tid())), reinterpret_cast<uint64_t>(target_.get()));
  attr_.ino = path_.empty() && global() ? 1 : (h >> 16) + 2;
  (void)Refresh();
}

namespace {

uint64_t CountDescriptors(const FdTable& files) {
  uint64_t count = 0;
  files.ForEach([&count](int, const RefPtr<File>&, bool) { ++count; });
  return count;
}

}  // namespace

ErrnoOr<void> ProcInode::Refresh() {
  if (!target_) return Ok();
  // task_dump_owner() of Linux: what must not be looked into belongs to root, that of the user namespace that the memory was made in. Directories of
  // a process always show its owner.
  bool show = target_->group().dumpable() || attr_.mode == (S_IFDIR | 0555);
  attr_.uid = target_->creds().euid;
  attr_.gid = target_->creds().egid;
  if (!show) {
    RefPtr<UserNamespace> owner = target_->has_mm() ? RefPtr<UserNamespace>(MemoryOwner::Of(target_->mm())) : nullptr;
    uint32_t uid = ToKernelUid(owner.get(), 0), gid = ToKernelGid(owner.get(), 0);
    attr_.uid = uid != UINT32_MAX ? uid : 0;
    attr_.gid = gid != UINT32_MAX ? gid : 0;
  }
  // proc_task_getattr(): programs that may only have one thread (Chromium's zygotes) count by it.
  if (path_ == "task") attr_.nlink = static_cast<uint32_t>(2 + target_->group().tasks().size());
  // proc_readfd_count()
  if (path_ == "fd") attr_.size = target_->exiting() ? 0 : CountDescriptors(target_->files());
  if (IsMapping()) {
    if (RefPtr<File> file = MappedFile()) attr_.mode = S_IFLNK | (file->readable() ? 0400u : 0) | (file->writable() ? 0200u : 0);
    return Ok();
  }
  // The mode of fd/N tells how the file is open (tid_fd_update_inode).
  if (IsSymlink() && Descriptor() >= 0 && !target_->exiting()) {
    auto file = target_->files().GetAny(Descriptor());
    if (file.ok()) {
      attr_.mode = S_IFLNK | ((*file)->readable() ? 0500u : 0) | ((*file)->writable() ? 0300u : 0);
    }
  }
  return Ok();
}

const ProcOptions& ProcInode::Options() const {
  static const ProcOptions none;
  return scope_ == Scope::kSysfs ? none : static_cast<ProcFileSystem&>(fs()).options();
}

const PidNamespace& ProcInode::Pids(const VfsContext& ctx) const {
  const PidNamespace* mounted = scope_ != Scope::kSysfs ? static_cast<ProcFileSystem&>(fs()).pids() : nullptr;
  if (mounted != nullptr) return *mounted;
  // A container's own.
  const PidNamespace* top = ctx.task != nullptr ? &ctx.task->group().pids() : &target_->group().pids();
  while (top->parent() != nullptr) top = top->parent();
  return *top;
}

ErrnoOr<void> ProcInode::SetAttr(const VfsContext&, const AttrChange& change) {
  // O_TRUNC and utime do nothing; modes are fixed (proc_setattr). Owners may be changed, which does not last until anybody looks (pid_revalidate()).
  return change.mode || (global() && (change.uid || change.gid)) ? Errno(EPERM) : ErrnoOr<void>();
}

ErrnoOr<RefPtr<Inode>> ProcInode::Make(const VfsContext&, std::string_view, const NewNode&) { return Errno(ENOENT); }

RefPtr<Inode> ProcInode::Child(std::string_view name) const { return MakeRef<ProcInode>(&fs(), scope_, ChildPath(name), target_); }

// net_ctl_set_ownership(): settings of a network namespace belong to the root of the user namespace that owns it. Each owner's inode is another one.
void ProcInode::BelongTo(const UserNamespace* owner) {
  uint32_t uid = ToKernelUid(owner, 0), gid = ToKernelGid(owner, 0);
  attr_.uid = uid != UINT32_MAX ? uid : 0;
  attr_.gid = gid != UINT32_MAX ? gid : 0;
  if (attr_.uid != 0) attr_.ino = (Mix(attr_.ino, attr_.uid) >> 16) + 2;
}

RefPtr<Inode> ProcInode::NetChild(std::string_view name, uint32_t mode) const {
  auto child = MakeRef<ProcInode>(&fs(), scope_, ChildPath(name), nullptr);
  child->attr_.mode = mode;
  child->attr_.nlink = S_ISDIR(mode) ? 2 : 1;
  return RefPtr<Inode>(std::move(child));
}

ErrnoOr<RefPtr<Inode>> ProcInode::Lookup(const VfsContext& ctx, std::string_view name) {
  if (!Alive()) return Errno(ESRCH);
  std::string path = ChildPath(name);
  int number = ParseNumber(name);
  if (scope_ == Scope::kMachine) {
    if (path_.empty() && number > 0) {
      Task* task = ctx.task != nullptr ? Pids(ctx).FindTask(number) : nullptr;
      if (task == nullptr || !Options().Permits(ctx.task, *task, ProcOptions::kInvisible)) return Errno(ENOENT);
      return RefPtr<Inode>(MakeRef<ProcInode>(&fs(), Scope::kProcess, "", RefPtr<Task>(task)));
    }
    if (Options().processes_only && path_.empty() && name != "self" && name != "thread-self") return Errno(ENOENT);
  }
  // proc_pid_permission()
  if (scope_ == Scope::kProcess && path_.empty() && !Options().Permits(ctx.task, *target_, ProcOptions::kNoAccess)) return Errno(EPERM);
  if (scope_ == Scope::kSysfs && ctx.task != nullptr) {
    if (auto node = FindSysNet(*ctx.task, path)) return NetChild(name, node->mode);
  }
  if (global()) {
    if (FindEntry(scope_, ctx.task, path) == nullptr && !IsTableDirectory(scope_, ctx.task, path)) return Errno(ENOENT);
    RefPtr<Inode> child = Child(name);
    if (ctx.task != nullptr && path.starts_with("sys/net/")) static_cast<ProcInode&>(*child).BelongTo(NetNamespace::Of(*ctx.task).owner());
    return child;
  }
  if (path_ == "task") {
    Task* task = number > 0 ? Pids(ctx).FindTask(number) : nullptr;
    if (task == nullptr || &task->group() != &target_->group()) return Errno(ENOENT);
    return RefPtr<Inode>(MakeRef<ProcInode>(&fs(), Scope::kThread, "", RefPtr<Task>(task)));
  }
  if (path_ == "fd" || path_ == "fdinfo") {
    if (ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
    if (number < 0 || target_->exiting() || !target_->files().GetAny(number).ok()) return Errno(ENOENT);
    return Child(name);
  }
  if (IsMapFiles()) {
    if (ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
    RefPtr<Inode> child = Child(name);
    return static_cast<ProcInode&>(*child).MappedFile() ? ErrnoOr<RefPtr<Inode>>(std::move(child)) : Errno(ENOENT);
  }
  bool known = FindEntry(scope_, nullptr, path) != nullptr || IsTableDirectory(scope_, nullptr, path) || IsNamespaceLink(path);
  if (path_.empty()) {
    known = known || IsMagicName(name) || name == "fd" || name == "fdinfo" || name == "ns" ||
            ((name == "task" || name == "map_files") && scope_ == Scope::kProcess);
  }
  if (!known) return Errno(ENOENT);
  return Child(name);
}

void ProcInode::ListDescriptors(std::vector<DirEnt>* out) const {
  if (target_->exiting()) return;
  uint8_t type = path_ == "fd" ? DT_LNK : DT_REG;
  target_->files().ForEach([&](int fd, const RefPtr<File>&, bool) {
    RefPtr<Inode> child = Child(std::to_string(fd));
    out->push_back({std::to_string(fd), child->ino(), type});
  });
}

ErrnoOr<std::vector<DirEnt>> ProcInode::List(const VfsContext& ctx) {
  if (!Alive()) return Errno(ENOENT);
  std::vector<DirEnt> out;
  bool machine = global();
  std::set<std::string> names;
  std::string prefix = path_.empty() ? "" : path_ + "/";
  ForEachEntry(scope_, ctx.task, [&](const ProcEntry& e) {
    std::string_view p = e.path;
    if (p.starts_with(prefix)) names.emplace(p.substr(prefix.size(), p.find('/', prefix.size()) - prefix.size()));
  });
  if (scope_ == Scope::kMachine && path_.empty() && Options().processes_only) {
    std::erase_if(names, [](const std::string& name) { return name != "self" && name != "thread-self"; });
  }
  if (!machine && path_.empty()) {
    for (const char* n : {"cwd", "exe", "fd", "fdinfo", "ns", "root"}) names.insert(n);
    if (scope_ == Scope::kProcess) names.insert({"map_files", "task"});
  }
  if (path_ == "ns" && !machine) {
    for (const NamespaceLink& link : kNamespaces) names.insert(link.name);
  }
  if (scope_ == Scope::kSysfs && ctx.task != nullptr) ListSysNet(*ctx.task, path_, &names);
  for (const std::string& name : names) {
    auto node = scope_ == Scope::kSysfs && ctx.task != nullptr ? FindSysNet(*ctx.task, ChildPath(name)) : std::nullopt;
    RefPtr<Inode> child = node ? NetChild(name, node->mode) : Child(name);
    out.push_back({name, child->ino(), static_cast<uint8_t>(IFTODT(child->attr().mode))});
  }
  if (scope_ == Scope::kMachine && path_.empty() && ctx.task != nullptr) {
    for (const RefPtr<ThreadGroup>& g : Pids(ctx).Groups()) {
      if (g->leader() == nullptr || !Options().Permits(ctx.task, *g->leader(), ProcOptions::kInvisible)) continue;
      RefPtr<Inode> child = MakeRef<ProcInode>(&fs(), Scope::kProcess, "", RefPtr<Task>(g->leader()));
      out.push_back({std::to_string(Pids(ctx).IdOf(*g)), child->ino(), DT_DIR});
    }
  } else if (!machine && path_ == "task") {
    for (const RefPtr<Task>& t : target_->group().tasks()) {
      RefPtr<Inode> child = MakeRef<ProcInode>(&fs(), Scope::kThread, "", t);
      out.push_back({std::to_string(Pids(ctx).IdOf(*t)), child->ino(), DT_DIR});
    }
  } else if (!machine && (path_ == "fd" || path_ == "fdinfo")) {
    if (ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
    ListDescriptors(&out);
  } else if (IsMapFiles()) {
    if (ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
    ListMappings(&out);
  }
  return out;
}

bool ProcInode::IsMagicLink() const {
  return !global() && IsSymlink() && (IsMagicName(path_) || IsNamespaceLink(path_) || IsMapping() || Descriptor() >= 0);
}

ErrnoOr<std::string> ProcInode::ReadLink(const VfsContext& ctx) {
  if (!IsSymlink()) return Errno(EINVAL);
  if (scope_ == Scope::kSysfs) {
    auto node = ctx.task != nullptr ? FindSysNet(*ctx.task, path_) : std::nullopt;
    return node ? node->text : ErrnoOr<std::string>(Errno(ENOENT));
  }
  if (ctx.task == nullptr || !Alive()) return Errno(ENOENT);
  if (entry_ != nullptr) {
    ProcTerms terms(Pids(ctx));
    return entry_->text(*ctx.task, target_.get());
  }
  if (!MayInspect(*ctx.task, *target_)) return Errno(EACCES);
  if (const NamespaceLink* link = FindNamespaceLink(path_)) return TRY(NamespaceBehind(*target_, *link)).Name();
  if (IsMapping()) {
    RefPtr<File> file = MappedFile();
    if (!file) return Errno(ENOENT);
    return file->path() != nullptr ? PathName(*file->path(), ctx.task->fs().root()) : file->LinkName();
  }
  LinkTarget to = TRY(MagicLink(ctx));
  if (to.path) return PathName(*to.path, ctx.task->fs().root());
  return to.file->LinkName();
}

ErrnoOr<LinkTarget> ProcInode::MagicLink(const VfsContext& ctx) {
  if (!Alive() || target_->exiting()) return Errno(ENOENT);
  if (ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
  LinkTarget to;
  if (path_ == "cwd") {
    to.path = std::make_unique<VfsPath>(target_->fs().cwd());
  } else if (path_ == "root") {
    to.path = std::make_unique<VfsPath>(target_->fs().root());
  } else if (path_ == "exe") {
    if (!target_->has_mm() || !target_->mm().exe()) return Errno(ENOENT);
    to.file = target_->mm().exe();
  } else if (const NamespaceLink* link = FindNamespaceLink(path_)) {
    to.file = MakeRef<NsFile>(TRY(NamespaceBehind(*target_, *link)), O_RDONLY);
  } else if (IsMapping()) {
    // proc_map_files_get_link(): opening by what is mapped goes around permissions of the directories above.
    if (ctx.task != nullptr && !ctx.task->Has(CAP_CHECKPOINT_RESTORE) && !ctx.task->Has(CAP_SYS_ADMIN)) return Errno(EPERM);
    to.file = MappedFile();
    if (!to.file) return Errno(ENOENT);
  } else {
    to.file = TRY(target_->files().GetAny(Descriptor()));
  }
  if (to.file && to.file->path() != nullptr) {
    to.path = std::make_unique<VfsPath>(*to.file->path());
    to.file.reset();
  }
  return to;
}

ErrnoOr<RefPtr<File>> ProcInode::Open(const VfsContext& ctx, const VfsPath& path, int flags) {
  if (!Alive()) return Errno(ENOENT);
  if (scope_ == Scope::kProcess && path_.empty() && !Options().Permits(ctx.task, *target_, ProcOptions::kNoAccess)) return Errno(EPERM);
  if (IsDir()) return RefPtr<File>(MakeRef<DirectoryFile>(path, flags));
  if (!IsRegular()) return Errno(ENXIO);
  // sysctl_perm(): nobody writes what cannot be written, whatever he may do elsewhere.
  if (entry_ != nullptr && global() && path_.starts_with("sys/") && entry_->write == nullptr && (flags & O_ACCMODE) != O_RDONLY) return Errno(EACCES);
  if (entry_ != nullptr && entry_->ptrace && ctx.task != nullptr && !MayInspect(*ctx.task, *target_)) return Errno(EACCES);
  if (entry_ != nullptr && path_ == "mem" && !global()) {
    if (!target_->has_mm()) return Errno(ESRCH);
    if (ctx.task != nullptr && !Tracing::MayAccess(*ctx.task, *target_)) return Errno(EACCES);
    return RefPtr<File>(MakeRef<ProcMemFile>(path, flags, RefPtr<MemoryManager>(&target_->mm())));
  }
  if (entry_ != nullptr && path_ == "pagemap" && !global()) {
    if (!target_->has_mm()) return Errno(ESRCH);
    auto file = MakeRef<ProcMemFile>(path, flags, RefPtr<MemoryManager>(&target_->mm()));
    file->set_pagemap();
    return RefPtr<File>(std::move(file));
  }
  return RefPtr<File>(MakeRef<ProcTextFile>(path, flags, ctx.creds));
}

std::string ProcInode::Save(state::Saver& saver) const {
  proto::ProcInode m;
  m.set_base(SaveBase(saver));
  m.set_scope(static_cast<uint32_t>(scope_));
  m.set_path(path_);
  m.set_task(saver.Ref(target_));
  return m.SerializeAsString();
}

bool ProcInode::Load(state::Loader& loader, std::string_view bytes) {
  proto::ProcInode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (m.scope() > static_cast<uint32_t>(Scope::kSysfs)) return false;
  scope_ = static_cast<Scope>(m.scope());
  path_ = m.path();
  target_ = loader.GetRef<Task>(m.task());
  if (global() == static_cast<bool>(target_)) return false;
  entry_ = FindEntry(scope_, nullptr, path_);
  return true;
}

ErrnoOr<RefPtr<FileSystem>> ProcFileSystem::Make(const MountArguments& arguments) {
  Machine::Get();
  auto fs = MakeRef<ProcFileSystem>();
  if (arguments.task != nullptr) {
    PidNamespace& pids = arguments.task->group().pids();
    // proc_init_fs_context() and proc_get_tree(): who mounts it must rule over the pid namespace.
    if (!arguments.task->creds().HasIn(pids.owner(), CAP_SYS_ADMIN)) return Errno(EPERM);
    fs->pids_ = RefPtr<PidNamespace>(&pids);
  }
  fs->options_ = TRY(ProcOptions::Parse(arguments.task, arguments.options, {}));
  fs->SetRoot(MakeRef<ProcInode>(fs.get(), ProcInode::Scope::kMachine, "", nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<void> ProcFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = PROC_SUPER_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

std::string ProcFileSystem::Save(state::Saver& saver) const {
  proto::ProcFileSystem m;
  m.set_pids(saver.Ref(pids_));
  m.set_hide(static_cast<uint32_t>(options_.hide));
  m.set_gid(options_.gid);
  m.set_processes_only(options_.processes_only);
  return SaveBase(saver, m.SerializeAsString());
}

bool ProcFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  if (!LoadBase(loader, bytes, &specific)) return false;
  proto::ProcFileSystem m;
  if (!m.ParseFromString(specific)) return false;
  pids_ = loader.GetRef<PidNamespace>(m.pids());
  options_ = {static_cast<int>(m.hide()), m.gid(), m.processes_only()};
  return m.hide() <= ProcOptions::kPtraceable && m.hide() != 3;
}

ErrnoOr<RefPtr<FileSystem>> SysFileSystem::Make(const MountArguments&) {
  Machine::Get();
  auto fs = MakeRef<SysFileSystem>();
  fs->SetRoot(MakeRef<ProcInode>(fs.get(), ProcInode::Scope::kSysfs, "", nullptr));
  return RefPtr<FileSystem>(std::move(fs));
}

ErrnoOr<void> SysFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = SYSFS_MAGIC;
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

bool SysFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  return LoadBase(loader, bytes, &specific);
}

}  // namespace amber
