// A host with an NVIDIA driver that does not exist: a model of what the real one accepts, remembers and refuses, for tests.
//
// One FakeHost is one machine; several FakeDrivers, each a process on it, may share it (two sandboxes, two tenants). It is written from
// the same tables as the proxy, but keeps its own objects and ledgers, so that a test can compare. What the proxy must never
// send is recorded in violations(). Thread safe: one lock.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nvproxy/abi.h"
#include "nvproxy/host.h"
#include "nvproxy/status.h"
#include "nvproxy/tables.h"
#include "sentry/base/unique_fd.h"

namespace amber::nvproxy {

struct FakeGpu {
  uint32_t minor = 0, gpu_id = 0, domain = 0, bus = 0, slot = 0;
  uint16_t vendor = 0x10de, device = 0x2330;
  std::string uuid, name = "NVIDIA Fake H100";  // "GPU-..."
  uint64_t memory = uint64_t{80} << 30;
  uint64_t held = 0;     // bytes of it that others on the machine use
  uint32_t lost_at = 0;  // the control by which it falls off the bus; 0: never
};

struct FakeConfig {
  std::string version = "580.159.04";
  std::vector<FakeGpu> gpus;
  uint64_t context_bytes = 400 << 20;
  // The control that takes so long, and cannot be interrupted.
  uint32_t slow_control = 0, slow_milliseconds = 0;
  // The control that makes an event arrive wherever the caller's process wants any (ALLOC_OS_EVENT).
  uint32_t event_control = 0;
};

// Lines "version V", "context BYTES", "slow CONTROL MILLISECONDS", "event CONTROL" and "gpu minor=N uuid=GPU-... pci=0000:41:00.0 memory=BYTES held=BYTES lost-at=CONTROL
// device=PCI-ID name=WORD"; sizes may end in K, M or G. An error says which line.
bool ParseFakeConfig(std::string_view text, FakeConfig* out, std::string* error);
// One GPU of 80 GiB.
FakeConfig DefaultFakeConfig();

class FakeHost {
 public:
  explicit FakeHost(FakeConfig config);
  ~FakeHost();

  // --- what tests look at and do ---
  const FakeConfig& config() const { return config_; }
  std::vector<std::string> violations();
  uint64_t device_bytes(uint32_t gpu);
  uint64_t system_bytes();
  size_t client_count();
  size_t file_count();
  // "class handle parent", of all clients of a process, sorted.
  std::vector<std::string> Graph(uint64_t process);
  // Every ioctl since the start.
  uint64_t calls();
  // The next calls of this number (frontend) or command (control) give `status`, or `error` if it is not 0.
  struct Fault {
    uint32_t number = 0;  // frontend or UVM number; 0 for a control
    uint32_t command = 0;
    uint32_t status = 0;
    int error = 0;
    int times = 1;
  };
  void Inject(Fault fault);
  void ClearFaults();
  void ClearViolations();
  // Makes an event arrive at `file`.
  void FireEvent(HostFile file);
  // Called before each ioctl without the lock: to block, or to look.
  void SetHook(std::function<void(HostFile, uint32_t command)> hook);
  // It fell off the bus: what comes after fails, but that objects are freed.
  void RemoveGpu(uint32_t minor);

  // --- for FakeDriver ---
  std::string ReadInfo(const std::string& path);
  ErrnoOr<HostFile> Open(uint64_t process, const Node& node, int access);
  int Ioctl(uint64_t process, HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested);
  int IoctlNow(uint64_t process, HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested);
  ErrnoOr<HostMapping> Map(HostFile file, uint64_t offset, uint64_t length, int prot);
  uint32_t Poll(HostFile file);
  void SetReadyCallback(HostFile file, std::function<void()> on_ready);
  void Close(HostFile file);

 private:
  struct Bytes;  // of memory, shared by duplicates and UVM mappings
  struct Object;
  struct Client;
  struct File;
  struct Args;

  File* Find(HostFile file) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Violation(const std::string& what) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void* Nested(Args& args, uint64_t pointer, size_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Client* FindClient(Args& args, uint32_t handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Reserve(int gpu, bool system, uint64_t bytes, std::shared_ptr<Bytes>* out) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FreeObject(Client& client, uint32_t handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FreeClient(uint32_t handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t AddObject(Client& client, uint32_t* handle, uint32_t parent, uint32_t number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsLost(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Injected(uint32_t number, uint32_t command, uint32_t* status, int* error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  int Frontend(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int Uvm(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CardInfoCall(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t Alloc(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t AllocClient(Args& args, RmAlloc& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t FillObject(Args& args, Client& client, Object& object, const Entry& entry, void* params) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t AllocMemory(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t Heap(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t Free(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t Dup(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t ShareCall(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t MapMemory(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t Control(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t RunControl(Args& args, Client& client, Object& object, const Entry& entry, std::byte* params) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t FbInfoList(Object& object, std::byte* list, size_t count) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t UvmMapExternal(Args& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  uint32_t UvmRun(Args& args, const Entry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const FakeConfig config_;
  const Branch* branch_;
  absl::Mutex mu_;
  std::map<HostFile, std::unique_ptr<File>> files_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, std::unique_ptr<Client>> clients_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> device_bytes_ ABSL_GUARDED_BY(mu_);
  uint64_t system_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<std::string> violations_ ABSL_GUARDED_BY(mu_);
  std::vector<Fault> faults_ ABSL_GUARDED_BY(mu_);
  std::set<uint32_t> removed_ ABSL_GUARDED_BY(mu_);
  std::function<void(HostFile, uint32_t)> hook_ ABSL_GUARDED_BY(mu_);
  uint64_t calls_ ABSL_GUARDED_BY(mu_) = 0;
  HostFile next_file_ ABSL_GUARDED_BY(mu_) = 0x5a5a0000;
  uint32_t next_client_ ABSL_GUARDED_BY(mu_) = 0xc1d00001;
};

// A process on a FakeHost.
class FakeDriver final : public HostDriver {
 public:
  FakeDriver(FakeHost& host, uint64_t process) : host_(host), process_(process) {}

  std::string Version() override { return host_.config().version; }
  ErrnoOr<std::string> ReadInfo(const std::string& path) override;
  ErrnoOr<HostFile> Open(const Node& node, int access) override { return host_.Open(process_, node, access); }
  int Ioctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested) override {
    return host_.Ioctl(process_, file, command, block, nested);
  }
  ErrnoOr<HostMapping> Map(HostFile file, uint64_t offset, uint64_t length, int prot) override { return host_.Map(file, offset, length, prot); }
  uint32_t Poll(HostFile file) override { return host_.Poll(file); }
  int WaitFd(HostFile) override { return -1; }
  void SetReadyCallback(HostFile file, std::function<void()> on_ready) override { host_.SetReadyCallback(file, std::move(on_ready)); }
  void Close(HostFile file) override { host_.Close(file); }
  ErrnoOr<uint64_t> Alias(std::span<const MemoryPiece> pieces) override;
  void DropAlias(uint64_t address, uint64_t size) override;

 private:
  FakeHost& host_;
  const uint64_t process_;
};

}  // namespace amber::nvproxy
