#include "nvproxy/fake/fake_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "nvproxy/fake/fake_internal.h"

namespace amber::nvproxy {
namespace {

std::string Pci(const FakeGpu& gpu) {
  char text[32];
  std::snprintf(text, sizeof(text), "%04x:%02x:%02x.0", gpu.domain, gpu.bus, gpu.slot);
  return text;
}

bool ParseSize(std::string_view text, uint64_t* out) {
  if (text.empty()) return false;
  int shift = 0;
  switch (text.back()) {
    case 'K': shift = 10; break;
    case 'M': shift = 20; break;
    case 'G': shift = 30; break;
    default: break;
  }
  if (shift != 0) text.remove_suffix(1);
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  if (error != std::errc() || end != text.data() + text.size() || *out > uint64_t{1} << 40) return false;
  *out <<= shift;
  return true;
}

bool ParseGpu(std::string_view line, FakeGpu* gpu) {
  while (!line.empty()) {
    std::string word(line.substr(0, line.find(' ')));
    line.remove_prefix(std::min(line.size(), word.size() + 1));
    if (word.empty()) continue;
    size_t equals = word.find('=');
    if (equals == std::string::npos) return false;
    std::string key = word.substr(0, equals), value = word.substr(equals + 1);
    if (key == "minor") {
      gpu->minor = static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 0));
    } else if (key == "uuid") {
      gpu->uuid = value;
    } else if (key == "name") {
      gpu->name = value;
    } else if (key == "pci") {
      if (std::sscanf(value.c_str(), "%x:%x:%x", &gpu->domain, &gpu->bus, &gpu->slot) != 3) return false;
    } else if (key == "lost-at") {
      gpu->lost_at = static_cast<uint32_t>(std::strtoul(value.c_str(), nullptr, 0));
    } else if (key == "device") {
      gpu->device = static_cast<uint16_t>(std::strtoul(value.c_str(), nullptr, 0));
    } else if (key == "held") {
      if (!ParseSize(value, &gpu->held)) return false;
    } else if (key != "memory" || !ParseSize(value, &gpu->memory)) {
      return false;
    }
  }
  return gpu->uuid.size() == 40 && gpu->held <= gpu->memory;
}

}  // namespace

bool ParseFakeConfig(std::string_view text, FakeConfig* out, std::string* error) {
  int number = 0;
  while (!text.empty()) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    ++number;
    if (line.empty() || line.front() == '#') continue;
    std::string_view key = line.substr(0, line.find(' '));
    std::string_view rest = line.substr(std::min(line.size(), key.size() + 1));
    bool good = true;
    if (key == "version") {
      out->version = rest;
    } else if (key == "context") {
      good = ParseSize(rest, &out->context_bytes);
    } else if (key == "slow") {
      good = std::sscanf(std::string(rest).c_str(), "%x %u", &out->slow_control, &out->slow_milliseconds) == 2;
    } else if (key == "event") {
      good = std::sscanf(std::string(rest).c_str(), "%x", &out->event_control) == 1;
    } else if (key == "gpu") {
      FakeGpu gpu;
      good = ParseGpu(rest, &gpu);
      // Not the formula of any real driver: nobody may rely on it.
      gpu.gpu_id = 0x4100 + 0x100 * gpu.minor + gpu.slot;
      out->gpus.push_back(gpu);
    } else {
      good = false;
    }
    if (!good) {
      *error = "line " + std::to_string(number) + " makes no sense";
      return false;
    }
  }
  return true;
}

FakeConfig DefaultFakeConfig() {
  FakeConfig config;
  std::string error;
  ParseFakeConfig("gpu minor=0 uuid=GPU-6f2d1c00-1111-2222-3333-444455556666 pci=0000:41:00.0\n", &config, &error);
  return config;
}

FakeHost::FakeHost(FakeConfig config) : config_(std::move(config)), device_bytes_(config_.gpus.size()) {
  std::string_view error;
  branch_ = BranchForVersion(config_.version, true, &error);
  for (size_t i = 0; i < config_.gpus.size(); ++i) device_bytes_[i] = config_.gpus[i].held;
}

FakeHost::~FakeHost() {
  absl::MutexLock lock(&mu_);
  clients_.clear();
  files_.clear();
}

std::vector<std::string> FakeHost::violations() {
  absl::MutexLock lock(&mu_);
  return violations_;
}
uint64_t FakeHost::device_bytes(uint32_t gpu) {
  absl::MutexLock lock(&mu_);
  return device_bytes_[gpu];
}
uint64_t FakeHost::system_bytes() {
  absl::MutexLock lock(&mu_);
  return system_bytes_;
}
size_t FakeHost::client_count() {
  absl::MutexLock lock(&mu_);
  return clients_.size();
}
size_t FakeHost::file_count() {
  absl::MutexLock lock(&mu_);
  return files_.size();
}
uint64_t FakeHost::calls() {
  absl::MutexLock lock(&mu_);
  return calls_;
}
void FakeHost::Inject(Fault fault) {
  absl::MutexLock lock(&mu_);
  faults_.push_back(fault);
}
void FakeHost::ClearFaults() {
  absl::MutexLock lock(&mu_);
  faults_.clear();
}
void FakeHost::ClearViolations() {
  absl::MutexLock lock(&mu_);
  violations_.clear();
}
void FakeHost::SetHook(std::function<void(HostFile, uint32_t)> hook) {
  absl::MutexLock lock(&mu_);
  hook_ = std::move(hook);
}
void FakeHost::RemoveGpu(uint32_t minor) {
  absl::MutexLock lock(&mu_);
  removed_.insert(minor);
}

std::vector<std::string> FakeHost::Graph(uint64_t process) {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> out;
  for (const auto& [handle, client] : clients_) {
    if (client->process != process) continue;
    for (const auto& [h, object] : client->objects) {
      char text[80];
      std::snprintf(text, sizeof(text), "%x: %x %x under %x", handle, object.number, h, object.parent);
      out.emplace_back(text);
    }
  }
  return out;
}

void FakeHost::FireEvent(HostFile file) {
  std::function<void()> ready;
  {
    absl::MutexLock lock(&mu_);
    File* f = Find(file);
    if (f == nullptr) return;
    f->events = POLLIN | POLLPRI;
    ready = f->on_ready;
  }
  if (ready) ready();
}

FakeHost::File* FakeHost::Find(HostFile file) {
  auto it = files_.find(file);
  return it == files_.end() ? nullptr : it->second.get();
}

void FakeHost::Violation(const std::string& what) {
  if (violations_.size() < 100) violations_.push_back(what);
}

std::string FakeHost::ReadInfo(const std::string& path) {
  if (path == "params") return "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nInitializeSystemMemoryAllocations: 1\nRegistryDwords: \"SecretKey=1\"\n";
  if (path == "version") return "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  " + config_.version + "\n";
  for (const FakeGpu& gpu : config_.gpus) {
    if (path != "gpus/" + Pci(gpu) + "/information") continue;
    return "Model: \t\t " + gpu.name + "\nIRQ:   \t\t 16\nGPU UUID: \t " + gpu.uuid + "\nVideo BIOS: \t 96.00.00.00.01\nBus Type: \t PCIe\n" +
           "DMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\nBus Location: \t " + Pci(gpu) + "\nDevice Minor: \t " + std::to_string(gpu.minor) +
           "\nGPU Excluded:\t No\n";
  }
  return "";
}

ErrnoOr<HostFile> FakeHost::Open(uint64_t process, const Node& node, int access) {
  absl::MutexLock lock(&mu_);
  if ((access & ~O_ACCMODE) != 0) Violation("open with flags beyond the access mode");
  if (node.kind == NodeKind::kGpu) {
    bool there = std::ranges::any_of(config_.gpus, [&](const FakeGpu& g) { return g.minor == node.minor; });
    if (!there) return Errno(ENXIO);
    if (removed_.contains(node.minor)) return Errno(EIO);
  }
  HostFile handle = next_file_++;
  auto file = std::make_unique<File>();
  file->node = node;
  file->process = process;
  files_[handle] = std::move(file);
  return handle;
}

void FakeHost::Close(HostFile file) {
  absl::MutexLock lock(&mu_);
  if (Find(file) == nullptr) {
    Violation("close of a file that is not open");
    return;
  }
  std::vector<uint32_t> mine;
  for (const auto& [handle, client] : clients_) {
    if (client->file == file) mine.push_back(handle);
  }
  for (uint32_t handle : mine) FreeClient(handle);
  files_.erase(file);
}

uint32_t FakeHost::Poll(HostFile file) {
  absl::MutexLock lock(&mu_);
  File* f = Find(file);
  if (f == nullptr) return 0;
  if (f->node.kind == NodeKind::kGpu && removed_.contains(f->node.minor)) return POLLHUP;
  return std::exchange(f->events, 0);
}

void FakeHost::SetReadyCallback(HostFile file, std::function<void()> on_ready) {
  absl::MutexLock lock(&mu_);
  if (File* f = Find(file); f != nullptr) f->on_ready = std::move(on_ready);
}

ErrnoOr<HostMapping> FakeHost::Map(HostFile file, uint64_t offset, uint64_t length, int prot) {
  absl::MutexLock lock(&mu_);
  File* f = Find(file);
  if (f == nullptr) return Errno(EBADF);
  if ((prot & PROT_EXEC) != 0) Violation("an executable mapping");
  if (f->node.kind == NodeKind::kUvm) {
    if (!f->initialized || (f->flags & 2) == 0) return Errno(EOPNOTSUPP);
    if (!f->memory.valid()) {
      f->memory = UniqueFd(memfd_create("fake-uvm", MFD_CLOEXEC));
      if (ftruncate(f->memory.get(), off_t{1} << 47) != 0) return Errno(ENOMEM);
    }
    f->managed[offset] = std::max(f->managed[offset], length);
    return HostMapping{f->memory.get(), 0};
  }
  if (!f->pending || offset != 0) return Errno(EINVAL);
  if (f->pending->whole ? length != f->pending->length : length > f->pending->length) {
    Violation("a mapping of a part");
    return Errno(EINVAL);
  }
  std::shared_ptr<Bytes> alive = f->pending->bytes.lock();
  if (alive == nullptr) return Errno(EINVAL);
  Bytes& bytes = *alive;
  if (!bytes.memory.valid()) {
    bytes.memory = UniqueFd(memfd_create("fake-gpu", MFD_CLOEXEC));
    if (ftruncate(bytes.memory.get(), static_cast<off_t>(std::max<uint64_t>(bytes.size, 1 << 16))) != 0) return Errno(ENOMEM);
  }
  HostMapping mapping{bytes.memory.get(), f->pending->offset};
  f->pending.reset();
  return mapping;
}

// Whether the call is about an object of a GPU that is gone. Clients can still be freed.
bool FakeHost::IsLost(Args& args) {
  if (args.file.node.kind == NodeKind::kUvm || args.number == 0x29) return false;
  // Of every block of the frontend that names an object, the client comes first and the object, or the new one's parent, behind it.
  auto client = clients_.find(args.Word(0));
  if (client == clients_.end()) return false;
  auto object = client->second->objects.find(args.Word(4));
  if (object == client->second->objects.end() || object->second.gpu < 0) return false;
  const FakeGpu& gpu = config_.gpus[static_cast<size_t>(object->second.gpu)];
  if (args.number == 0x2a && gpu.lost_at != 0 && args.Word(8) == gpu.lost_at) removed_.insert(gpu.minor);
  return removed_.contains(gpu.minor);
}

bool FakeHost::Injected(uint32_t number, uint32_t command, uint32_t* status, int* error) {
  for (Fault& fault : faults_) {
    if (fault.times == 0 || fault.number != number || (fault.command != 0 && fault.command != command)) continue;
    fault.times--;
    *status = fault.status;
    *error = fault.error;
    return true;
  }
  return false;
}

int FakeHost::Ioctl(uint64_t process, HostFile handle, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) {
  std::function<void(HostFile, uint32_t)> hook;
  {
    absl::MutexLock lock(&mu_);
    hook = hook_;
  }
  if (hook) hook(handle, command);
  uint32_t control = 0;
  if ((command & 0xff) == 0x2a && block.size() == sizeof(RmControl)) std::memcpy(&control, block.data() + offsetof(RmControl, cmd), sizeof(control));
  if (control != 0 && control == config_.slow_control) absl::SleepFor(absl::Milliseconds(config_.slow_milliseconds));
  int error = IoctlNow(process, handle, command, block, nested);
  if (error != 0 || control == 0 || control != config_.event_control) return error;
  std::vector<HostFile> due;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [h, f] : files_) {
      if (f->process == process && f->os_events > 0) due.push_back(h);
    }
  }
  for (HostFile h : due) FireEvent(h);
  return 0;
}

int FakeHost::IoctlNow(uint64_t process, HostFile handle, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) {
  absl::MutexLock lock(&mu_);
  calls_++;
  File* file = Find(handle);
  if (file == nullptr) {
    Violation("ioctl of a file that is not open");
    return EBADF;
  }
  bool uvm = file->node.kind == NodeKind::kUvm;
  Args args{process, handle, *file, uvm ? command : command & 0xff, block, nested};
  const Entry* entry = FindEntry(uvm ? branch_->uvm : branch_->frontend, args.number);
  if (entry == nullptr) {
    Violation("ioctl " + std::to_string(args.number) + " is not in the list");
    return EINVAL;
  }
  if (!uvm && (command >> 16 & 0x3fff) != block.size()) Violation("the size in the command is not the block's");
  uint32_t status = 0;
  int error = 0;
  uint32_t control = args.number == 0x2a ? args.Word(8) : 0;
  if (entry->status != kNoStatus && IsLost(args)) {
    constexpr uint32_t kLost = kNvGpuIsLost;
    std::memcpy(block.data() + entry->status, &kLost, 4);
    return 0;
  }
  if (Injected(args.number, control, &status, &error)) {
    if (error == 0 && entry->status != kNoStatus) std::memcpy(block.data() + entry->status, &status, 4);
    return error;
  }
  return uvm ? Uvm(args) : Frontend(args);
}

ErrnoOr<std::string> FakeDriver::ReadInfo(const std::string& path) {
  std::string text = host_.ReadInfo(path);
  if (text.empty()) return Errno(ENOENT);
  return text;
}

ErrnoOr<uint64_t> FakeDriver::Alias(std::span<const MemoryPiece> pieces) { return MapAlias(pieces); }

void FakeDriver::DropAlias(uint64_t address, uint64_t size) { UnmapAlias(address, size); }

}  // namespace amber::nvproxy
