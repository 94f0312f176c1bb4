#include "runsc-cli/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "gofer/client.h"
#include "gofer/main.h"
#include "runsc-cli/cgroup.h"
#include "runsc-cli/console.h"
#include "runsc-cli/files.h"
#include "runsc-cli/gpu_host.h"
#include "runsc-cli/gpu_request.h"
#include "runsc-cli/hooks.h"
#include "runsc-cli/waiter.h"
#include "sentry/control/spec_codec.h"
#include "sentry/host/confine.h"
#include "sentry/host/sentry_main.h"

namespace amber::cli {
namespace {

// Two calls of the sentry may be at the gofer at once.
constexpr int kGoferChannels = 2;
// Host users that nobody else has (systemd's list of user id ranges leaves 1879048192 to 2147483647 free).
constexpr uint32_t kFirstHostId = 0x70000000;
constexpr uint32_t kHostIdMask = 0x07ffffff;

absl::Status Failed(std::string_view what) { return absl::InternalError(absl::StrCat(what, ": ", strerrordesc_np(errno))); }

UniqueFd PidFd(pid_t pid) { return UniqueFd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0))); }

uint32_t RandomHostId() {
  uint32_t bits = 0;
  while (getrandom(&bits, sizeof(bits), 0) != sizeof(bits)) {
  }
  return kFirstHostId + (bits & kHostIdMask);
}

// Puts this process into another network namespace until the object goes.
class NetworkVisit {
 public:
  ~NetworkVisit() { Return(); }
  absl::Status Enter(const std::string& path) {
    home_.reset(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
    if (!home_.valid()) return Failed("/proc/self/ns/net");
    if (path.empty()) {
      if (unshare(CLONE_NEWNET) != 0) return Failed("cannot make a network namespace");
      // As runc: a new namespace has its loopback.
      UniqueFd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
      ifreq request{};
      strncpy(request.ifr_name, "lo", sizeof(request.ifr_name) - 1);
      request.ifr_flags = IFF_UP;
      if (any.valid()) (void)ioctl(any.get(), SIOCSIFFLAGS, &request);
      return absl::OkStatus();
    }
    UniqueFd target(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!target.valid() || setns(target.get(), CLONE_NEWNET) != 0) {
      return Failed(absl::StrCat("cannot join the network namespace ", path));
    }
    return absl::OkStatus();
  }
  void Return() {
    if (home_.valid()) setns(home_.get(), CLONE_NEWNET);
    home_.reset();
  }

 private:
  UniqueFd home_;
};

class Launcher {
 public:
  Launcher(const GlobalOptions& options, LaunchRequest& request)
      : options_(options), request_(request), bundle_(request.bundle), spec_(request.bundle.container) {}
  ~Launcher() {
    if (!done_) Undo();
  }
  absl::StatusOr<Launched> Run();

 private:
  // The steps, in order.
  absl::Status PrepareState();
  absl::Status PrepareConsole();
  absl::Status PrepareGpus();
  absl::Status StartTheWaiter();
  absl::Status StartTheSentry();
  absl::Status StartTheGofer();
  absl::Status OpenImageFiles();
  absl::Status SendRequests();
  absl::Status EnterCgroup();
  absl::Status LeaveCgroup();
  absl::Status RunCreationHooks();
  absl::Status AwaitAnswer();
  absl::Status Commit();

  void Undo();
  void ReleaseSentry();
  bool JoinsSandbox() const { return bundle_.shares_sandbox; }
  bool UsesHostSockets() const { return options_.host_files.connect || options_.host_files.bind; }

  const GlobalOptions& options_;
  LaunchRequest& request_;
  Bundle& bundle_;
  ContainerSpec& spec_;
  bool done_ = false;
  control::StepTimings timings_;
  std::optional<StateDir> dir_;
  State state_;
  GpuOptions gpu_;
  std::vector<UniqueFd> gpu_nodes_;
  bool saved_ = false;  // state_ is in its file already
  NetworkVisit network_;
  NetworkKind network_kind_ = NetworkKind::kNone;
  std::string cgroup_path_;
  std::vector<CgroupHierarchy> hierarchies_;
  std::optional<Cgroup> cgroup_;
  CgroupGuard guard_;
  CgroupVisit visit_;
  bool born_there_ = false;
  UniqueFd console_;
  UniqueFd waiter_stream_;  // the sentry's end
  std::optional<LaunchedSentry> sentry_;
  std::optional<control::Client> client_;
  std::vector<UniqueFd> gofer_channels_;
  std::vector<UniqueFd> image_files_;
};

absl::StatusOr<Launched> Launcher::Run() {
  for (const auto& [name, step] : std::initializer_list<std::pair<const char*, absl::Status (Launcher::*)()>>{
           {"state directory", &Launcher::PrepareState},
           {"console", &Launcher::PrepareConsole},
           {"find GPUs", &Launcher::PrepareGpus},
           {"enter the cgroup", &Launcher::EnterCgroup},
           {"start the waiter", &Launcher::StartTheWaiter},
           {"start the sentry", &Launcher::StartTheSentry},
           {"open image files", &Launcher::OpenImageFiles},
           {"start the gofer", &Launcher::StartTheGofer},
           {"leave the cgroup", &Launcher::LeaveCgroup},
           {"send the container", &Launcher::SendRequests},
           {"hooks", &Launcher::RunCreationHooks},
           {"wait for the sentry", &Launcher::AwaitAnswer},
           {"save the state", &Launcher::Commit},
       }) {
    timings_.Begin(name);
    if (absl::Status status = (this->*step)(); !status.ok()) return status;
  }
  timings_.End();
  done_ = true;
  dir_->Unlock();
  if (options_.timings) {
    for (const auto& step : timings_.steps()) {
      fprintf(stderr, "%10.3f ms  %8.3f ms  %s\n", static_cast<double>(step.start_ns - timings_.steps()[0].start_ns) / 1e6,
              static_cast<double>(step.duration_ns) / 1e6, step.name.c_str());
    }
  }
  return Launched{std::move(state_), std::move(*client_)};
}

absl::Status Launcher::PrepareState() {
  if (geteuid() != 0) {
    return absl::PermissionDeniedError("starting a sandbox needs root for now (rootless mode does not exist yet): try sudo");
  }
  absl::StatusOr<StateDir> dir = StateDir::Create(options_.root, request_.id, request_.image.valid());
  if (!dir.ok()) return dir.status();
  dir_.emplace(*std::move(dir));
  state_.id = request_.id;
  state_.status = request_.start || request_.image.valid() ? "running" : "created";
  state_.bundle = bundle_.directory;
  state_.rootfs = bundle_.root;
  state_.created = TimestampNow();
  state_.annotations = spec_.annotations;
  state_.poststop = bundle_.hooks.poststop;
  state_.sandbox_id = JoinsSandbox() ? bundle_.sandbox_id : request_.id;
  if (request_.foreground) state_.owner = ProcessRef::Of(getpid());
  spec_.id = request_.id;
  if (request_.use_cgroup) {
    absl::StatusOr<std::string> mountinfo = ReadSmallFile("/proc/self/mountinfo");
    if (!mountinfo.ok()) return mountinfo.status();
    hierarchies_ = ParseCgroupMounts(*mountinfo);
    absl::StatusOr<std::string> path = CgroupPath(bundle_.cgroups_path, request_.id, options_.systemd_cgroup);
    if (!path.ok()) return path.status();
    cgroup_path_ = *std::move(path);
  }
  return absl::OkStatus();
}

absl::Status Launcher::PrepareConsole() {
  if (!spec_.process.terminal) {
    if (!request_.console_socket.empty()) {
      return absl::InvalidArgumentError("--console-socket is for containers with process.terminal");
    }
    return absl::OkStatus();
  }
  if (request_.terminal.valid()) {
    spec_.process.window = SizeOf(request_.terminal.get());
    console_ = std::move(request_.terminal);
    return absl::OkStatus();
  }
  if (request_.console_socket.empty()) {
    return absl::InvalidArgumentError("process.terminal is set: a detached container needs --console-socket");
  }
  absl::StatusOr<UniqueFd> slave = SendConsole(request_.console_socket, spec_.process.window);
  if (!slave.ok()) return slave.status();
  console_ = *std::move(slave);
  return absl::OkStatus();
}

absl::Status Launcher::PrepareGpus() {
  gpu_ = options_.gpu;
  absl::StatusOr<GpuRequest> asked = ReadGpuRequest(bundle_);
  if (!asked.ok()) return asked.status();
  for (const std::string& warning : asked->warnings) options_.report->Warning(warning);
  if (absl::Status s = ApplyGpuRequest(*asked, &gpu_); !s.ok()) return s;
  for (std::vector<Hook>* hooks : {&bundle_.hooks.prestart, &bundle_.hooks.create_runtime, &bundle_.hooks.create_container}) {
    std::erase_if(*hooks, IsReplacedHook);
  }
  if (asked->legacy_hook) {
    absl::StatusOr<std::string> files = ListGpuDriverFiles();
    if (!files.ok()) return files.status();
    int number = 0;
    for (MountSpec& mount : GpuDriverMounts(*files)) {
      mount.attach = absl::StrCat("gpu", number++);
      spec_.mounts.push_back(std::move(mount));
    }
    AddGpuLibraries(&spec_.process.env);
  }
  if (!gpu_.enabled) return absl::OkStatus();
  spec_.gpu = true;
  spec_.gpu_devices = gpu_.wanted;
  spec_.gpu_limit = gpu_.devices;
  if (gpu_.fake || JoinsSandbox()) return absl::OkStatus();
  return FindGpuHost("", &gpu_, &gpu_nodes_);
}

absl::Status Launcher::StartTheWaiter() {
  // The namespace that engines see in /proc/PID/ns/net, and whose sockets --network=host passes through.
  bool own_network = !bundle_.host_network;
  if (own_network) {
    if (absl::Status status = network_.Enter(bundle_.network_path); !status.ok()) return status;
  }
  if (options_.network == "host") network_kind_ = NetworkKind::kHost;

  absl::StatusOr<WaiterStream> stream = MakeWaiterStream();
  if (!stream.ok()) return stream.status();
  UniqueFd self = PidFd(getpid());
  WaiterOptions waiter = {.stream = stream->waiter.get(), .console = console_.get(), .owner = self.get()};
  waiter.cgroup = visit_.v2();
  if (request_.foreground) waiter.console = -1;  // the user's terminal stays the command line's
  if (!cgroup_path_.empty()) {
    for (const CgroupHierarchy& h : hierarchies_) {
      waiter.cleanup.push_back({CleanupStep::Kind::kLeaveCgroup, h.mount_point + "/cgroup.procs"});
    }
    for (const CgroupHierarchy& h : hierarchies_) {
      waiter.cleanup.push_back({CleanupStep::Kind::kRemoveDirectory, h.mount_point + cgroup_path_});
    }
  }
  for (const char* name : {"/state.json", "/state.json.new", "/control.sock", "/lock"}) {
    waiter.cleanup.push_back({CleanupStep::Kind::kUnlink, dir_->path() + name});
  }
  waiter.cleanup.push_back({CleanupStep::Kind::kRemoveDirectory, dir_->path()});
  absl::StatusOr<pid_t> pid = StartWaiter(waiter);
  if (!pid.ok()) return pid.status();
  guard_.Dismiss();
  state_.waiter = ProcessRef::Of(*pid);
  waiter_stream_ = std::move(stream->sentry);
  return absl::OkStatus();
}

absl::Status Launcher::StartTheSentry() {
  if (JoinsSandbox()) {
    absl::StatusOr<State> sandbox = StateDir::Read(options_.root, bundle_.sandbox_id);
    if (!sandbox.ok()) return sandbox.status();
    state_.sentry = sandbox->sentry;
    state_.host_id = sandbox->host_id;
    state_.host_sockets = sandbox->host_sockets;
    if (UsesHostSockets() && !sandbox->host_sockets) {
      // What the sentry may ask of the host was settled when it started.
      return absl::FailedPreconditionError(absl::StrCat("sandbox \"", bundle_.sandbox_id,
                                                        "\" was started without --host-uds: a container in it cannot have Unix sockets of the host"));
    }
    absl::StatusOr<control::Client> client = ConnectTo(options_, state_);
    if (!client.ok()) return client.status();
    client_.emplace(*std::move(client));
    return absl::OkStatus();
  }
  absl::StatusOr<UniqueFd> listener = control::Listen(dir_->socket_path());
  if (!listener.ok()) return listener.status();
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return Failed("socketpair");
  client_.emplace(UniqueFd(ends[0]));
  UniqueFd primary(ends[1]);
  fcntl(primary.get(), F_SETFL, O_NONBLOCK);
  state_.host_id = RandomHostId();
  state_.host_sockets = UsesHostSockets();
  // Without --log the guest's calls go where the user looks.
  UniqueFd standard_error;
  int log = options_.report->fd();
  if (log < 0 && options_.strace) {
    standard_error.reset(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
    log = standard_error.get();
  }
  SentryLaunch launch = {.options = {.id = request_.id,
                                     .network = network_kind_,
                                     .strace = options_.strace,
                                     .debug = options_.debug,
                                     .timings = options_.timings,
                                     .fast_path = options_.fast_path,
                                     .host_sockets = UsesHostSockets(),
                                     .gpu = gpu_},
                         .host_id = state_.host_id,
                         .primary = primary.get(),
                         .listener = listener->get(),
                         .log = log,
                         .messages = request_.foreground ? STDERR_FILENO : options_.report->fd(),
                         .born_in = visit_.v2()};
  absl::StatusOr<LaunchedSentry> sentry = LaunchSentry(launch);
  if (!sentry.ok()) return sentry.status();
  sentry_.emplace(*std::move(sentry));
  state_.sentry = ProcessRef::Of(sentry_->pid);
  network_.Return();
  return absl::OkStatus();
}

// The root first, then the mounts in their order (ContainerFds::file_systems).
absl::Status Launcher::OpenImageFiles() {
  auto open_file = [this](const std::string& path) {
    image_files_.emplace_back(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!image_files_.back().valid()) return absl::NotFoundError(absl::StrCat("the image file ", path, ": ", strerrordesc_np(errno)));
    return absl::OkStatus();
  };
  if (spec_.root_image) {
    if (absl::Status s = open_file(bundle_.root); !s.ok()) return s;
  }
  for (const MountSpec& mount : spec_.mounts) {
    if (!mount.image) continue;
    if (absl::Status s = open_file(SourceOf(bundle_, mount)); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status Launcher::StartTheGofer() {
  if (!NeedsGofer(spec_)) return absl::OkStatus();
  gofer::GoferConfig config;
  config.allow_file_capabilities = true;
  // The sentry of this sandbox has taken the possibility from itself, see ForbidFileOpens().
  config.allow_directories = CanForbidFileOpens();
  config.cgroup = visit_.v2();
  if (!spec_.root_image) {
    config.mounts.push_back({.name = spec_.root_attach,
                             .path = bundle_.root,
                             .fd = UniqueFd(),
                             // An overlay's lower layer is never written.
                             .read_only = spec_.root_read_only || spec_.overlay != OverlayKind::kNone,
                             .allow_connect = options_.host_files.connect,
                             .allow_bind = options_.host_files.bind});
  }
  for (const MountSpec& mount : spec_.mounts) {
    if (mount.attach.empty() || mount.image) continue;
    config.mounts.push_back({.name = mount.attach,
                             .path = SourceOf(bundle_, mount),
                             .fd = UniqueFd(),
                             .read_only = mount.read_only,
                             .allow_fifos = options_.host_files.fifos,
                             .allow_connect = options_.host_files.connect,
                             .allow_bind = options_.host_files.bind});
  }
  for (int i = 0; i < kGoferChannels; ++i) {
    ErrnoOr<gofer::ChannelPair> channel = gofer::MakeChannel();
    if (!channel.ok()) return absl::InternalError("cannot make a channel to the gofer");
    gofer_channels_.push_back(std::move(channel->client));
    config.channels.push_back(std::move(channel->server));
  }
  absl::StatusOr<pid_t> pid = gofer::StartGofer(std::move(config));
  if (!pid.ok()) return pid.status();
  state_.gofer = ProcessRef::Of(*pid);
  return absl::OkStatus();
}

absl::Status Launcher::SendRequests() {
  control::Request request = MakeRequest(request_.id);
  bool restore = request_.image.valid();
  control::Container* container = restore ? request.mutable_restore()->mutable_container() : request.mutable_create()->mutable_container();
  control::Encode(spec_, container);
  std::vector<int> fds;
  control::Descriptors* d = request.mutable_descriptors();
  d->set_gofer(static_cast<uint32_t>(gofer_channels_.size()));
  for (const UniqueFd& channel : gofer_channels_) fds.push_back(channel.get());
  d->set_waiter(true);
  fds.push_back(waiter_stream_.get());
  if (console_.valid()) {
    d->set_console(true);
    fds.push_back(console_.get());
  } else {
    d->set_stdio(true);
    fds.insert(fds.end(), {0, 1, 2});
  }
  absl::StatusOr<std::vector<UniqueFd>> extra = PreservedFds(request_.preserve_fds);
  if (!extra.ok()) return extra.status();
  d->set_extra(request_.preserve_fds);
  for (const UniqueFd& fd : *extra) fds.push_back(fd.get());
  if (restore) {
    d->set_image(true);
    fds.push_back(request_.image.get());
  }
  d->set_file_systems(static_cast<uint32_t>(image_files_.size()));
  for (const UniqueFd& file : image_files_) fds.push_back(file.get());
  absl::Status status = client_->Send(request, fds);
  if (absl::IsUnavailable(status)) {
    // A sentry that has ended already has said why.
    absl::Status why = client_->Receive().status();
    if (!why.ok()) status = why;
  }
  gofer_channels_.clear();
  waiter_stream_.reset();
  console_.reset();
  return status;
}

absl::Status Launcher::EnterCgroup() {
  if (cgroup_path_.empty()) return absl::OkStatus();
  std::vector<std::string> directories;
  for (const CgroupHierarchy& h : hierarchies_) directories.push_back(h.mount_point + cgroup_path_);
  if (absl::Status status = guard_.Start(directories); !status.ok()) return status;
  absl::StatusOr<Cgroup> cgroup = Cgroup::Create(hierarchies_, cgroup_path_);
  if (!cgroup.ok()) return cgroup.status();
  cgroup_.emplace(*std::move(cgroup));
  state_.cgroups = cgroup_->directories();
  state_.made_cgroups = cgroup_->made_directories();
  if (absl::Status status = cgroup_->Apply(bundle_.resources); !status.ok()) return status;
  absl::Status entered = visit_.Enter(*cgroup_, hierarchies_);
  born_there_ = entered.ok();
  if (!born_there_) options_.report->Debug(absl::StrCat("moving processes to their cgroup: ", entered.message()));
  return absl::OkStatus();
}

absl::Status Launcher::LeaveCgroup() {
  visit_.Leave();
  if (spec_.process.oom_score_adj) {
    // Lowering it needs CAP_SYS_RESOURCE, which hosts in a VM or container may lack.
    for (pid_t pid : {state_.waiter.pid, sentry_ ? sentry_->pid : 0}) {
      if (pid == 0) continue;
      absl::Status status = WriteExistingFile(absl::StrCat("/proc/", pid, "/oom_score_adj"), absl::StrCat(*spec_.process.oom_score_adj));
      if (!status.ok()) options_.report->Warning(std::string(status.message()));
    }
  }
  if (!cgroup_) return absl::OkStatus();
  // The sentry waits for this: it first, and the others while it goes on.
  for (pid_t pid : {sentry_ ? sentry_->pid : 0, state_.waiter.pid, state_.gofer.pid}) {
    if (pid == 0) continue;
    absl::Status status = !born_there_ ? cgroup_->Join({pid}) : IsInCgroup2(pid, cgroup_path_) ? absl::OkStatus() : cgroup_->JoinV2(pid);
    if (!status.ok()) return status;
    const Hooks& hooks = bundle_.hooks;
    bool any_hooks = !hooks.prestart.empty() || !hooks.create_runtime.empty() || !hooks.create_container.empty();
    if (sentry_ && pid == sentry_->pid && !any_hooks) ReleaseSentry();
  }
  return absl::OkStatus();
}

void Launcher::ReleaseSentry() {
  if (!sentry_ || !sentry_->gate.valid()) return;
  // If it is gone already, its answer says why.
  sentry_->Release().IgnoreError();
  sentry_->gate.reset();
}

absl::Status Launcher::RunCreationHooks() {
  const Hooks& hooks = bundle_.hooks;
  if (!hooks.prestart.empty() || !hooks.create_runtime.empty() || !hooks.create_container.empty()) {
    State creating = state_;
    creating.status = "creating";
    std::string json = OciState(creating);
    if (absl::Status s = RunHooks(hooks.prestart, "prestart", json); !s.ok()) return s;
    if (absl::Status s = RunHooks(hooks.create_runtime, "createRuntime", json); !s.ok()) return s;
    if (absl::Status s = RunHooks(hooks.create_container, "createContainer", json); !s.ok()) return s;
  }
  if ((request_.start || request_.image.valid()) && !JoinsSandbox()) {
    // Whoever hears of the program by what it does finds the container, too.
    state_.guest_pid = 1;
    if (absl::Status s = dir_->Save(state_); !s.ok()) return s;
    saved_ = true;
  }
  ReleaseSentry();
  if (!request_.start) return absl::OkStatus();
  control::Request start = MakeRequest(request_.id);
  start.mutable_start();
  // A sandbox that failed to create the container says so in its answer to that.
  client_->Send(start).IgnoreError();
  return absl::OkStatus();
}

absl::Status Launcher::AwaitAnswer() {
  absl::StatusOr<control::Reply> created = client_->Receive();
  if (!created.ok()) return created.status();
  saved_ = saved_ && state_.guest_pid == created->pid();
  state_.guest_pid = created->pid();
  for (const control::Timing& t : created->timings()) timings_.Add({t.step(), t.start_ns(), t.duration_ns()});
  if (request_.start) {
    absl::Status started = client_->Receive().status();
    started.SetPayload(kStartFailed, absl::Cord("1"));
    if (!started.ok()) return started;
  }
  return absl::OkStatus();
}

absl::Status Launcher::Commit() {
  if (absl::Status status = saved_ ? absl::OkStatus() : dir_->Save(state_); !status.ok()) return status;
  if (!request_.pid_file.empty()) {
    if (absl::Status status = WritePidFile(request_.pid_file, state_.waiter.pid); !status.ok()) return status;
  }
  if (request_.foreground) return absl::OkStatus();
  control::Request detach = MakeRequest(request_.id);
  detach.mutable_detach();
  return client_->Call(detach).status();
}

void Launcher::Undo() {
  visit_.Leave();
  network_.Return();
  client_.reset();
  if (sentry_) {
    kill(sentry_->pid, SIGKILL);
    waitpid(sentry_->pid, nullptr, 0);
  }
  for (const ProcessRef& process : {state_.waiter, state_.gofer}) {
    if (process.pid == 0) continue;
    kill(process.pid, SIGKILL);
    waitpid(process.pid, nullptr, 0);
  }
  absl::Status status = RemoveCgroups(state_.made_cgroups);
  if (dir_ && status.ok()) status = dir_->Remove();
  if (!status.ok()) options_.report->Warning(std::string(status.message()));
}

}  // namespace

absl::StatusOr<Launched> Launch(const GlobalOptions& options, LaunchRequest request) {
  if (absl::Status status = PrepareMounts(options, &request.bundle); !status.ok()) return status;
  for (const std::string& warning : request.bundle.warnings) options.report->Debug(warning);
  return Launcher(options, request).Run();
}

}  // namespace amber::cli
