#include "sentry/fs/nvidia/gpu_support.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "nvproxy/fake/fake_host.h"
#include "nvproxy/real_driver.h"
#include "sentry/control/runtime.h"
#include "sentry/fs/nvidia/nvidia_file.h"
#include "sentry/fs/proc/entry.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

std::unique_ptr<GpuSupport>& TheOne() {
  static std::unique_ptr<GpuSupport> one;
  return one;
}

std::string Hex(uint32_t value, int digits) {
  char text[16];
  std::snprintf(text, sizeof(text), "0x%0*x\n", digits, value);
  return text;
}

}  // namespace

GpuSupport::~GpuSupport() = default;

GpuSupport* GpuSupport::Of(const Kernel& kernel) {
  GpuSupport* one = TheOne().get();
  return one != nullptr && one->kernel_ == &kernel ? one : nullptr;
}

std::string GpuSupport::UseFake(const GpuOptions& options) {
  nvproxy::FakeConfig config;
  std::string error;
  if (!nvproxy::ParseFakeConfig(options.driver, &config, &error)) return "--gpu-driver: " + error;
  if (config.gpus.empty()) config.gpus = nvproxy::DefaultFakeConfig().gpus;
  auto host = std::make_shared<nvproxy::FakeHost>(std::move(config));
  driver_ = std::make_unique<nvproxy::FakeDriver>(*host, 1);
  fake_ = std::move(host);
  return "";
}

std::string GpuSupport::UseReal(const GpuOptions& options) {
  nvproxy::RealConfig config{.info = options.info};
  for (const GpuNode& node : options.nodes) {
    auto kind = node.kind == GpuNode::Kind::kControl ? nvproxy::NodeKind::kControl
                : node.kind == GpuNode::Kind::kUvm   ? nvproxy::NodeKind::kUvm
                                                     : nvproxy::NodeKind::kGpu;
    config.nodes.push_back({{kind, node.minor}, node.fd});
  }
  driver_ = std::make_unique<nvproxy::RealDriver>(std::move(config));
  // The list of host calls was made for the version that the command line read.
  std::string version = driver_->Version();
  if (version != options.version)
    return "the NVIDIA driver says that it is \"" + version + "\", and /proc/driver/nvidia/version \"" + options.version + "\"";
  return "";
}

std::string GpuSupport::Start(Kernel& kernel, const GpuOptions& options) {
  if (!options.enabled) return "";
  std::unique_ptr<GpuSupport> support(new GpuSupport);
  support->kernel_ = &kernel;
  support->work_ = std::make_unique<DriverWork>(kernel);
  std::string error = options.fake ? support->UseFake(options) : support->UseReal(options);
  if (!error.empty()) return error;
  nvproxy::Options proxy_options{.capabilities = options.capabilities,
                                 .devices = options.devices,
                                 .wanted = options.wanted,
                                 .memory_limit = options.memory_limit,
                                 .host_limit = options.host_limit,
                                 .allow_other_driver = options.allow_other_driver};
  support->proxy_ = nvproxy::Proxy::Create(*support->driver_, proxy_options, {}, &error);
  if (support->proxy_ == nullptr) return error;
  for (int i = 0; i < 4; i += 2) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return "no pipe for the GPU checkpoint helper";
    support->pipes_[i].reset(ends[0]);
    support->pipes_[i + 1].reset(ends[1]);
  }
  // The helper is a guest, and guests that may look into it can fill and empty its pipes: the sentry must never wait in them.
  char path[32];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", support->pipes_[0].get());
  support->drain_.reset(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  bool good = support->drain_.valid();
  for (int i : {1, 2}) good = good && fcntl(support->pipes_[i].get(), F_SETFL, O_NONBLOCK) == 0;
  if (!good) return "no pipe for the GPU checkpoint helper";
  support->copy_seconds_ = options.copy_seconds;
  support->AddTexts();
  RegisterNvidiaDevices();
  GroupExtras::SetExitWatcher(&GpuSupport::OnExit);
  TheOne() = std::move(support);
  return "";
}

// What libcuda, NVML and others read to find GPUs.
void GpuSupport::AddTexts() {
  AddProcDevices("195 nvidia\n195 nvidiactl\n" + std::to_string(kUvmMajor) + " nvidia-uvm\n");
  SetProcFilter(&IsShown);
  auto info = [&](const std::string& path) {
    auto text = proxy_->InfoFile(path);
    if (text.ok()) AddProcText("driver/nvidia/" + path, *text);
  };
  info("params");
  info("version");
  AddSysText("module/nvidia/version", proxy_->version() + "\n");
  for (const nvproxy::Gpu& gpu : proxy_->gpus()) {
    info("gpus/" + gpu.pci() + "/information");
    std::string bus = "bus/pci/devices/" + gpu.pci() + "/";
    AddSysText(bus + "vendor", Hex(gpu.vendor, 4));
    AddSysText(bus + "device", Hex(gpu.device, 4));
    AddSysText(bus + "class", Hex(0x030200, 6));
    AddSysText(bus + "numa_node", "-1\n");
    AddSysText(bus + "local_cpulist", "\n");
  }
}

absl::Status GpuSupport::Admit(const Container* container, const ContainerSpec& spec) {
  uint64_t mask = 0;
  std::string error = proxy_->MaskOf(spec.gpu_devices, spec.gpu_limit, &mask);
  if (!error.empty()) return absl::FailedPreconditionError(error + "; a pod's GPUs are those that its sandbox was started with");
  containers_[container] = mask;
  return absl::OkStatus();
}

uint64_t GpuSupport::GpusOf(const Container* container) const {
  auto it = containers_.find(container);
  return it == containers_.end() ? 0 : it->second;
}

// A container's files of the driver's are those of its own GPUs, in /proc and in /sys.
bool GpuSupport::IsShown(Task& reader, std::string_view path) {
  constexpr std::string_view kGpus = "driver/nvidia/gpus/", kBus = "bus/pci/devices/";
  bool of_one = path.starts_with(kGpus) || path.starts_with(kBus);
  GpuSupport* gpus = TheOne().get();
  if (gpus == nullptr || (!of_one && !path.starts_with("driver/nvidia/") && !path.starts_with("module/nvidia/"))) return true;
  uint64_t mask = gpus->GpusOf(reader.container());
  if (!of_one) return mask != 0;
  path.remove_prefix(path.starts_with(kGpus) ? kGpus.size() : kBus.size());
  std::string_view pci = path.substr(0, path.find('/'));
  return std::ranges::any_of(gpus->proxy().GpusOf({.gpus = mask}), [&](const nvproxy::Gpu* gpu) { return gpu->pci() == pci; });
}

std::vector<GpuSupport::Node> GpuSupport::NodesOf(const Container* container) const {
  auto it = containers_.find(container);
  if (it == containers_.end() || it->second == 0) return {};
  std::vector<Node> nodes = {{"/dev/nvidiactl", kNvidiaMajor, kNvidiaControlMinor}, {"/dev/nvidia-uvm", kUvmMajor, 0}};
  for (const nvproxy::Gpu* gpu : proxy_->GpusOf({.gpus = it->second})) {
    nodes.push_back({"/dev/nvidia" + std::to_string(gpu->minor), kNvidiaMajor, gpu->minor});
  }
  return nodes;
}

nvproxy::Session GpuSupport::SessionOf(Task& task) {
  nvproxy::Session session{.process = ProcessOf(task.group()), .uid = task.creds().uid, .pid = static_cast<uint32_t>(task.pid())};
  GpuSupport* gpus = TheOne().get();
  session.container = reinterpret_cast<uint64_t>(task.container());
  if (gpus == nullptr) return session;
  session.gpus = gpus->GpusOf(task.container());
  return session;
}

uint64_t GpuSupport::ProcessOf(const ThreadGroup& group) { return group.extras().serial; }

// Its clients end with it, even where a child still holds the files that it made them on: nobody else may use them.
void GpuSupport::OnExit(ThreadGroup& group) {
  GpuSupport* gpus = TheOne().get();
  uint64_t process = ProcessOf(group);
  // A call of its that is still in the driver may make one.
  if (gpus == nullptr || (!gpus->proxy().HasClients(process) && !gpus->work().HasCalls(process))) return;
  gpus->work().End(process, [gpus, process] { gpus->proxy().OnExit(process); });
}

void GpuSupport::AddStats(ContainerStats* stats) {
  nvproxy::Proxy::Counts counts = proxy_->counts();
  nvproxy::Ledger& ledger = proxy_->ledger();
  for (size_t i = 0; i < proxy_->gpus().size(); ++i) {
    const nvproxy::Gpu& gpu = proxy_->gpus()[i];
    auto index = static_cast<uint32_t>(i);
    stats->gpus.push_back(
        {.minor = gpu.minor, .uuid = gpu.uuid_text(), .used = ledger.used(index), .peak = ledger.peak(index), .limit = ledger.limit()});
  }
  stats->gpu_host_bytes = ledger.host_used();
  stats->gpu_calls = counts.calls;
  stats->gpu_calls_refused = counts.refused;
}

std::string GpuSupport::StatsText() {
  nvproxy::Proxy::Counts c = proxy_->counts();
  std::string out;
  AppendFormat(&out, "gpu calls %llu\ngpu calls refused %llu\ngpu clients %zu\ngpu objects %zu\n", static_cast<unsigned long long>(c.calls),
               static_cast<unsigned long long>(c.refused), c.clients, c.objects);
  for (size_t i = 0; i < proxy_->gpus().size(); ++i) {
    auto gpu = static_cast<uint32_t>(i);
    AppendFormat(&out, "gpu %u bytes %llu peak %llu limit %llu\n", proxy_->gpus()[i].minor,
                 static_cast<unsigned long long>(proxy_->ledger().used(gpu)), static_cast<unsigned long long>(proxy_->ledger().peak(gpu)),
                 static_cast<unsigned long long>(proxy_->ledger().limit()));
  }
  return out;
}

}  // namespace amber
