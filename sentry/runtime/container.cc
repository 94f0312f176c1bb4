#include "sentry/runtime/container.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <map>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "sentry/fs/cgroup/cgroup_fs.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/gofer/later.h"
#include "sentry/fs/host/host_file.h"
#include "sentry/fs/nvidia/gpu_support.h"
#include "sentry/fs/nvidia/nvidia_file.h"
#include "sentry/fs/proc/memory_view.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task_lifecycle.h"
#include "sentry/kernel/time_namespace.h"
#include "sentry/runtime/image_mounts.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/fs_context.h"
#include "sentry/vfs/mount_setup.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

// 0 if there is none. The command line has checked them.
uint64_t NumberOf(const std::map<std::string, std::string>& annotations, const char* name) {
  auto it = annotations.find(name);
  uint64_t value = 0;
  return it != annotations.end() && absl::SimpleAtoi(it->second, &value) ? value : 0;
}

MountPlan RootPlan(const ContainerSpec& spec, const std::shared_ptr<gofer::Client>& client, const ImageMounts& images) {
  MountPlan root;
  root.destination = "/";
  root.type = spec.overlay == OverlayKind::kNone ? "gofer" : "overlay";
  root.source = "root";
  if (spec.root_image) {
    root.image = images.at(spec.root_attach);
    root.type = root.image->type();
  } else {
    root.client = client;
  }
  root.container = spec.id;
  root.attach = spec.root_attach;
  root.read_only = spec.root_read_only;
  root.exclusive = true;
  root.overlay = spec.overlay != OverlayKind::kNone;
  root.overlay_size = NumberOf(spec.annotations, kOverlaySizeAnnotation);
  root.overlay_inodes = NumberOf(spec.annotations, kOverlayInodesAnnotation);
  return root;
}

MountPlan PlanOf(const std::string& container, const MountSpec& mount, const std::shared_ptr<gofer::Client>& client, const ImageMounts& images) {
  MountPlan plan;
  plan.container = container;
  plan.destination = mount.destination;
  plan.type = mount.type;
  plan.source = mount.source;
  plan.options = mount.options;
  plan.attach = mount.attach;
  if (mount.image) {
    plan.image = images.at(mount.attach);
  } else if (!mount.attach.empty()) {
    plan.client = client;
  }
  plan.read_only = mount.read_only;
  plan.exclusive = mount.exclusive;
  return plan;
}

RefPtr<const Credentials> CredentialsOf(const ProcessSpec& spec) {
  auto creds = MakeRef<Credentials>();
  creds->uid = creds->euid = creds->suid = creds->fsuid = spec.uid;
  creds->gid = creds->egid = creds->sgid = creds->fsgid = spec.gid;
  creds->groups.assign(spec.groups.begin(), spec.groups.end());
  creds->bounding = spec.capabilities.bounding & kAllCapabilities;
  creds->effective = spec.capabilities.effective & kAllCapabilities;
  creds->permitted = spec.capabilities.permitted & kAllCapabilities;
  creds->inheritable = spec.capabilities.inheritable & kAllCapabilities;
  creds->ambient = spec.capabilities.ambient & creds->permitted & creds->inheritable;
  return creds;
}

uint32_t NodeMode(const DeviceSpec& device) {
  switch (device.type) {
    case 'b': return S_IFBLK | device.mode;
    case 'p': return S_IFIFO | device.mode;
    default: return S_IFCHR | device.mode;
  }
}

// What the container may not see or change, and the nodes that it is given, as the runtime specification orders them.
absl::Status Restrict(MountNamespace& mounts, const ContainerSpec& spec) {
  for (const DeviceSpec& d : spec.devices) {
    // Those of the GPUs are there already, with the guest's numbers.
    if (spec.gpu && d.path.starts_with("/dev/nvidia")) continue;
    absl::Status s = MakeDevice(mounts, d.path, NodeMode(d), makedev(d.major, d.minor), d.uid, d.gid);
    if (!s.ok()) return s;
  }
  for (const std::string& path : spec.read_only_paths) {
    if (absl::Status s = MakePathReadOnly(mounts, path); !s.ok()) return s;
  }
  for (const std::string& path : spec.masked_paths) {
    if (absl::Status s = MaskPath(mounts, path); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

Container::~Container() {
  SetMemoryLimit(this, 0);
  GpuSupport* gpus = kernel_ != nullptr ? GpuSupport::Of(*kernel_) : nullptr;
  if (gpus != nullptr) gpus->Forget(this);
}

absl::Status Container::SetUp(std::vector<UniqueFd> gofer_channels, std::vector<UniqueFd> image_files) {
  if (gofer_channels.empty() && NeedsGofer(spec_)) return absl::InvalidArgumentError("the container needs a gofer");
  if (!gofer_channels.empty()) gofer_ = std::make_shared<gofer::Client>(std::move(gofer_channels));
  absl::StatusOr<ImageMounts> images = OpenImageMounts(spec_, std::move(image_files));
  if (!images.ok()) return images.status();
  SetMemoryLimit(this, spec_.memory_limit);
  pids_ = MakeRef<PidNamespace>();
  kernel_->AddPidNamespace(pids_);
  uts_ = MakeRef<UtsNamespace>();
  if (!spec_.hostname.empty()) uts_->hostname = spec_.hostname;
  if (!spec_.domainname.empty()) uts_->domainname = spec_.domainname;
  std::vector<MountPlan> plans{RootPlan(spec_, gofer_, *images)};
  for (const MountSpec& m : spec_.mounts) plans.push_back(PlanOf(spec_.id, m, gofer_, *images));
  absl::StatusOr<RefPtr<MountNamespace>> mounts = BuildMounts(*kernel_, plans);
  if (!mounts.ok()) return mounts.status();
  mounts_ = *std::move(mounts);
  cgroup_ = Cgroup::NewRoot(*kernel_);
  for (Mount* mount : mounts_->All()) {
    auto* fs = dynamic_cast<CgroupFileSystem*>(&mount->fs());
    if (fs == nullptr || fs->ShowFromNowOn(cgroup_).ok()) continue;
    return absl::InvalidArgumentError("the options of a mount of type cgroup are none that Linux takes, or name what another mount has");
  }
  if (GpuSupport* gpus = GpuSupport::Of(*kernel_); gpus != nullptr && spec_.gpu) {
    if (absl::Status s = gpus->Admit(this, spec_); !s.ok()) return s;
    if (absl::Status s = MakeGpuNodes(); !s.ok()) return s;
  }
  return Restrict(*mounts_, spec_);
}

absl::Status Container::MakeGpuNodes() {
  constexpr uint32_t kMostGpus = 32;
  std::set<std::string> own;
  for (const GpuSupport::Node& node : GpuSupport::Of(*kernel_)->NodesOf(this)) {
    absl::Status made = MakeDevice(*mounts_, node.path, S_IFCHR | 0666, makedev(node.major, node.minor), 0, 0);
    if (!made.ok()) return made;
    own.insert(node.path);
  }
  // From before a restore.
  for (uint32_t minor = 0; minor < kMostGpus; ++minor) {
    std::string path = absl::StrCat("/dev/nvidia", minor);
    if (!own.contains(path)) RemoveDevice(*mounts_, path, makedev(kNvidiaMajor, minor));
  }
  return absl::OkStatus();
}

absl::Status Container::AddStdio(FdTable& files, ProcessFds fds) {
  int index = 0;
  auto add = [&](UniqueFd fd) {
    int number = index++;
    if (!fd.valid()) return true;
    return files.Replace(number, MakeRef<HostFile>(kernel_->host_poll(), std::move(fd), number), false, FdTable::kMaxFds).ok();
  };
  for (UniqueFd& fd : fds.stdio) {
    if (!add(std::move(fd))) return absl::InternalError("cannot install a standard stream");
  }
  for (UniqueFd& fd : fds.extra) {
    if (!add(std::move(fd))) return absl::ResourceExhaustedError("too many descriptors were passed");
  }
  return absl::OkStatus();
}

absl::StatusOr<RefPtr<Task>> Container::NewProcess(const ProcessSpec& spec, ProcessFds fds) {
  if (spec.argv.empty()) return absl::InvalidArgumentError("the process has no arguments: process.args must name a program");
  struct NewProcess what;
  what.pids = pids_;
  what.uts = uts_;
  what.mounts = mounts_;
  what.files = MakeRef<FdTable>();
  what.fs = MakeRef<FsContext>(mounts_->root(), mounts_->root(), spec.umask.value_or(022));
  what.creds = CredentialsOf(spec);
  what.container = this;
  what.cgroup = cgroup_;
  what.no_new_privs = spec.no_new_privs;
  RefPtr<File> terminal;
  if (spec.terminal && fds.console.valid()) {
    winsize window{spec.window.rows, spec.window.columns, 0, 0};
    auto opened = OpenConsole(*kernel_, *mounts_, std::move(fds.console), 0, window, spec.uid);
    if (!opened.ok()) return absl::InternalError(absl::StrCat("cannot make a terminal: ", strerror(opened.error().number())));
    terminal = *std::move(opened);
  }
  if (absl::Status s = AddStdio(*what.files, std::move(fds)); !s.ok()) return s;
  for (int fd = 0; terminal && fd < 3; ++fd) {
    if (!what.files->Replace(fd, terminal, false, FdTable::kMaxFds).ok()) return absl::InternalError("cannot install the terminal");
  }
  ErrnoOr<RefPtr<Task>> made = kernel_->lifecycle().NewProcessTask(std::move(what));
  if (!made.ok()) return absl::ResourceExhaustedError("cannot start a process: the limit on tasks is reached");
  RefPtr<Task> task = *std::move(made);
  if (absl::Status s = EnterTime(*task); !s.ok()) return s;
  if (terminal) MakeControllingTerminal(*task, *terminal);
  for (const RlimitSpec& limit : spec.rlimits) {
    if (limit.resource < 0 || limit.resource >= RLIM_NLIMITS || limit.soft > limit.hard) {
      return absl::InvalidArgumentError(absl::StrCat("rlimit ", limit.resource, " is not one that Linux takes"));
    }
    task->group().rlim(limit.resource) = {limit.soft, limit.hard};
  }
  if (spec.oom_score_adj) task->group().set_oom_score_adj(*spec.oom_score_adj);
  int pid = task->pid();
  started_[pid].task = task;
  RefPtr<Container> self(this);
  task->group().set_exit_watcher([self, pid](int status) { self->OnExit(pid, status); });
  return task;
}

absl::Status Container::EnterTime(Task& task) {
  if (!spec_.time || task.pid() != 1) return absl::OkStatus();
  auto ns = MakeRef<TimeNamespace>(RefPtr<UserNamespace>(), nullptr);
  if (!ns->SetOffsets(kernel_->clocks(), {spec_.time->monotonic, spec_.time->boottime}).ok()) {
    return absl::InvalidArgumentError("linux.timeOffsets: a clock would be negative or leave its range");
  }
  ns->Freeze();
  task.extras().time = task.extras().time_for_children = ns;
  return absl::OkStatus();
}

void Container::ChangeMemoryLimit(uint64_t bytes) {
  spec_.memory_limit = bytes;
  SetMemoryLimit(this, bytes);
}

void Container::OnExit(int pid, int wait_status) {
  // Who hears of the end may look at files.
  LaterChange::Flush();
  Started& entry = started_[pid];
  entry.task.reset();
  entry.wait_status = wait_status;
  for (Runtime::WaitCallback& w : entry.waiters) {
    // On the heap: AfterUnlock takes what can be copied.
    auto callback = std::make_shared<Runtime::WaitCallback>(std::move(w));
    kernel_->AfterUnlock([callback, wait_status] { (*callback)(wait_status); });
  }
  entry.waiters.clear();
}

void Container::KillAll() {
  for (const RefPtr<ThreadGroup>& g : pids_->Groups()) {
    if (!g->zombie()) kernel_->lifecycle().KillGroup(*g, SIGKILL);
  }
}

}  // namespace amber
