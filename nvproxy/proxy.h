// The proxy of one sandbox: opens device files for guest processes, checks every call that they make on them, and forwards what is allowed.
//
// One per sandbox; owns the table of RM clients and the ledger, not the HostDriver. Outlives its open files. All methods may be called from any thread
// without locks of the kernel's, and may block in the host's driver. Locks: a client's (graph.h), then an open file's, then mu_; the ledger's last.
// No lock but that of the clients named by the call is held across a host call.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nvproxy/graph.h"
#include "nvproxy/guest.h"
#include "nvproxy/host.h"
#include "nvproxy/quota.h"
#include "nvproxy/tables.h"
#include "sentry/base/errno_or.h"

namespace amber::nvproxy {

namespace proto {
class Client;
}

using Uuid = std::array<uint8_t, 16>;

struct Gpu {
  uint32_t minor = 0, gpu_id = 0, instance = 0;
  uint32_t index = 0;  // of all of the machine, in PCI order
  uint32_t domain = 0, bus = 0, slot = 0;
  uint16_t vendor = 0, device = 0;
  Uuid uuid{};
  std::string pci() const;        // "0000:41:00.0"
  std::string uuid_text() const;  // "GPU-..."
  // As Options::devices names GPUs.
  bool IsNamed(std::string_view name) const;
};

struct Options {
  uint8_t capabilities = kCompute | kUtility;
  // The GPUs that the sandbox may have: an index in PCI order ("0"), "GPU-uuid" or "minor:N"; empty means all.
  std::vector<std::string> devices;
  // Which of these it gets, by such names, too; empty means all of them.
  std::vector<std::string> wanted;
  uint64_t memory_limit = 0;           // bytes of each GPU; 0 means no limit
  uint64_t host_limit = 0;             // bytes of host memory that drivers allocate or pin for the sandbox; 0 means no limit
  uint64_t context_bytes = 400 << 20;  // what a process's first context on a GPU costs
  bool allow_other_driver = false;     // point releases that are not known to work
  bool permissive = false;             // lets through, and logs, commands of unknown meaning
  uint32_t max_clients = 64;           // of one process
  uint32_t max_objects = 65536;        // of one client
  uint32_t max_all_objects = 1 << 20;  // of the sandbox: they take the sentry's memory
};

class Proxy {
 public:
  // Asks the driver for its version and its GPUs. Null, and why in `error`.
  static std::unique_ptr<Proxy> Create(HostDriver& host, const Options& options, std::function<void(const std::string&)> log, std::string* error);
  ~Proxy();

  // open(2) of a device node by `session`. ENXIO for a GPU that the sandbox has not.
  ErrnoOr<std::shared_ptr<OpenFile>> Open(const Node& node, int access, const Session& session);
  // ioctl(2), with the result as the driver gives it: an errno for what is malformed, else 0 and a status in the block.
  ErrnoOr<uint64_t> Ioctl(const std::shared_ptr<OpenFile>& file, Caller& caller, uint32_t command, uint64_t argument);
  // mmap(2): what to map in the guest's process.
  ErrnoOr<HostMapping> Map(OpenFile& file, Caller& caller, uint64_t offset, uint64_t length, int prot, bool shared);
  // poll(2). Gives an event to whoever asks first.
  uint32_t Poll(OpenFile& file);
  // A process has ended: nobody can use its clients any more, even if others hold the files.
  void OnExit(uint64_t process);
  // Takes no lock but the proxy's own.
  bool HasClients(uint64_t process);

  HostDriver& host() { return host_; }
  const Branch& branch() const { return *branch_; }
  const std::string& version() const { return version_; }
  const Options& options() const { return options_; }
  // At most 32.
  std::span<const Gpu> gpus() const { return gpus_; }
  // Session::gpus of a container that wants these of what it may have, as in Options; "" or what it cannot have. Names that it may have and that the
  // sandbox has not are no mistake.
  std::string MaskOf(std::span<const std::string> wanted, std::span<const std::string> may_have, uint64_t* mask) const;
  Ledger& ledger() { return *ledger_; }
  // A file below /proc/driver/nvidia as the guest is to see it; ENOENT.
  ErrnoOr<std::string> InfoFile(const std::string& path);

  // Why the state of a file and of its clients cannot go into an image, a line each; empty if it can.
  std::vector<std::string> CannotSave(OpenFile& file);
  // The processes (Session::process) with objects that cannot go into an image: those that use CUDA, not just ask about the GPU.
  std::set<uint64_t> BusyProcesses();
  // What the driver says is free on the GPU at this index, bytes.
  ErrnoOr<uint64_t> FreeBytes(int index);
  // The file and its clients as bytes, and back: null and why in `error`. Handles of clients are those that they had.
  std::string SaveFile(OpenFile& file);
  // Before files are restored: which of gpus() takes the place of each GPU of the image's, by its uuid. Else only a GPU that is still there is found.
  void SetReplacements(std::map<Uuid, uint32_t> replacements) { replacements_ = std::move(replacements); }
  std::shared_ptr<OpenFile> RestoreFile(std::string_view bytes, std::string* error);
  struct Counts {
    uint64_t calls = 0, refused = 0, host_calls = 0;
    size_t clients = 0, objects = 0;
  };
  Counts counts();
  // Every object, a line each: "CLIENT: CLASS HANDLE under PARENT".
  std::vector<std::string> Describe();

  // --- for the handlers ---
  void Log(const std::string& line) {
    if (log_) log_(line);
  }
  void LogOnce(const std::string& line);
  std::shared_ptr<Client> FindClient(uint32_t handle);
  // The client, if `file` and `session` may use it.
  std::shared_ptr<Client> OwnClient(uint32_t handle, OpenFile& file, const Session& session);
  // False if the process has too many.
  bool AddClient(std::shared_ptr<Client> client);
  void RemoveClient(const Client& client);
  // True if `more` objects of `client`, whose lock is held, would be too many.
  bool Full(const Client& client, uint32_t more = 1) const {
    return client.size() + more > options_.max_objects || objects_ + more > options_.max_all_objects;
  }
  std::atomic<size_t>& objects() { return objects_; }
  std::vector<std::shared_ptr<Client>> ClientsOf(const std::function<bool(const Client&)>& wanted);
  // Those that the session may use.
  const Gpu* GpuById(uint32_t gpu_id, const Session& session) const;
  const Gpu* GpuByInstance(uint32_t instance, const Session& session) const;
  const Gpu* GpuByUuid(const void* uuid, const Session& session) const;
  bool Has(const Session& session, const Gpu& gpu) const { return (session.gpus >> IndexOf(gpu) & 1) != 0; }
  std::vector<const Gpu*> GpusOf(const Session& session) const;
  int IndexOf(const Gpu& gpu) const { return static_cast<int>(&gpu - gpus_.data()); }
  bool Allows(const Entry& entry) const { return (entry.caps & options_.capabilities) != 0; }
  int HostIoctl(HostFile file, uint32_t command, std::span<std::byte> block, std::span<const HostBuffer> nested = {});
  uint64_t sys_params() const { return sys_params_; }

 private:
  friend class OpenFile;
  Proxy(HostDriver& host, const Options& options, std::function<void(const std::string&)> log);
  std::string FindGpus();
  const Gpu* Replacement(std::string_view uuid) const;
  void OnFileGone(OpenFile& file);
  std::string RestoreClient(const std::shared_ptr<OpenFile>& file, const proto::Client& saved);
  std::string LinkRestored(uint64_t id, uint64_t linked, const std::shared_ptr<OpenFile>& file);

  HostDriver& host_;
  const Options options_;
  const std::function<void(const std::string&)> log_;
  const Branch* branch_ = nullptr;
  std::string version_;
  std::vector<Gpu> gpus_;
  std::map<Uuid, uint32_t> replacements_;
  std::shared_ptr<Ledger> ledger_;
  uint64_t sys_params_ = ~uint64_t{0};
  std::atomic<uint64_t> calls_{0}, refused_{0}, host_calls_{0};

  std::atomic<uint64_t> next_file_{1};
  std::atomic<size_t> objects_{0};

  absl::Mutex mu_;
  // Of a restore: files by the ids that they had, and those whose control file has not come yet.
  std::map<uint64_t, std::weak_ptr<OpenFile>> restored_ ABSL_GUARDED_BY(mu_);
  std::vector<std::pair<std::weak_ptr<OpenFile>, uint64_t>> unlinked_ ABSL_GUARDED_BY(mu_);
  std::map<uint32_t, std::shared_ptr<Client>> clients_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> logged_ ABSL_GUARDED_BY(mu_);
};

}  // namespace amber::nvproxy
