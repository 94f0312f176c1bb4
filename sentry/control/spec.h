// What a container and a process in it are to be: plain values, with nothing of the OCI's JSON left in them.
//
// The CLI makes these from config.json and command line flags, sends them as Protobuf (control.proto, converted
// by spec_codec.h), and the kernel reads them. Nothing here is shared between threads; copies are independent.
// The values come from the sandbox's owner, not from the guest, but may still be odd: paths may contain "..",
// lists may be long, numbers may be out of range. Whoever uses a value checks it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace amber {

struct RlimitSpec {
  int resource = 0;  // RLIMIT_*, Linux numbering
  uint64_t soft = 0;
  uint64_t hard = 0;
};

// Bit n stands for capability n (capabilities(7)). What is absent from a set is not held.
struct CapabilitySpec {
  uint64_t bounding = 0;
  uint64_t effective = 0;
  uint64_t inheritable = 0;
  uint64_t permitted = 0;
  uint64_t ambient = 0;
};

struct WindowSize {
  uint16_t rows = 0;
  uint16_t columns = 0;
};

// A process to start: a container's init, or an exec into a container.
struct ProcessSpec {
  std::vector<std::string> argv;  // not empty; argv[0] is looked up in PATH of `env` as execvp(3) does
  std::vector<std::string> env;   // "NAME=value"
  std::string cwd = "/";
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
  std::optional<uint32_t> umask;  // 0022 if absent
  CapabilitySpec capabilities;
  std::vector<RlimitSpec> rlimits;
  bool no_new_privs = false;
  // The process gets a controlling terminal, /dev/pts/N of its container, on descriptors 0 to 2.
  bool terminal = false;
  WindowSize window;
  std::optional<int> oom_score_adj;
};

enum class OverlayKind {
  kNone,    // the root is written through to the host
  kMemory,  // writes stay in the sandbox's memory
  kFile,    // writes stay in one host file
};

struct MountSpec {
  std::string destination;  // absolute in the container
  std::string type;         // "proc", "tmpfs", "devpts", "bind", ...
  std::string source;
  std::vector<std::string> options;  // as in config.json: "ro", "nosuid", "size=64k", "rbind", ...
  // Name of the gofer's attach point for bind mounts; empty for file systems of the kernel's own.
  std::string attach;
  // `source` is a file of the host's that is a file system itself (sentry/fs/image); its descriptor comes along, in the order of the mounts.
  bool image = false;
  bool read_only = false;
  // Nobody else changes what is below while the sandbox runs: attributes may be cached without revalidation.
  bool exclusive = false;
};

struct DeviceSpec {
  std::string path;
  char type = 'c';  // 'c', 'b', 'u' or 'p'
  uint32_t major = 0;
  uint32_t minor = 0;
  uint32_t mode = 0666;
  uint32_t uid = 0;
  uint32_t gid = 0;
};

// Whose namespaces a container shares: empty means namespaces of its own, else the id of another container of
// the same sandbox. "host" asks for the sandbox's own (pid namespace of the first container, and so on).
struct NamespaceSpec {
  std::string pid;
  std::string ipc;
  std::string uts;
  std::string network;
};

// A time namespace of its own: what its clocks are ahead, in ns.
struct TimeSpec {
  int64_t monotonic = 0;
  int64_t boottime = 0;
};

struct ContainerSpec {
  std::string id;
  ProcessSpec process;
  std::string hostname;
  std::string domainname;
  std::string root_attach = "root";  // name of the gofer's attach point
  bool root_image = false;           // the root is an image file, whose descriptor comes first (MountSpec::image)
  bool root_read_only = false;
  OverlayKind overlay = OverlayKind::kNone;
  std::vector<MountSpec> mounts;  // in order, without the root
  std::vector<DeviceSpec> devices;
  NamespaceSpec namespaces;
  std::optional<TimeSpec> time;
  std::map<std::string, std::string> sysctls;  // "net.ipv4.ip_forward" -> "1"
  std::map<std::string, std::string> annotations;
  std::vector<std::string> masked_paths;
  std::vector<std::string> read_only_paths;
  uint64_t pids_limit = 0;    // tasks; 0 means no limit
  uint64_t memory_limit = 0;  // bytes; 0 means no limit. The host's cgroup enforces it; /proc/meminfo shows it
  bool gpu = false;           // gets GPUs of the sandbox's
  // Which of them, as GpuOptions::wanted and ::devices name them.
  std::vector<std::string> gpu_devices, gpu_limit;
};

// True if the container has a mount that a gofer serves.
inline bool NeedsGofer(const ContainerSpec& spec) {
  return !spec.root_image || std::any_of(spec.mounts.begin(), spec.mounts.end(), [](const MountSpec& m) { return !m.attach.empty() && !m.image; });
}

enum class NetworkKind {
  kNone,  // loopback only
  kHost,  // sockets are passed through in the container's host network namespace
};

// A device of the NVIDIA driver's on this machine.
struct GpuNode {
  enum class Kind : uint8_t { kControl, kGpu, kUvm };
  Kind kind = Kind::kControl;
  uint32_t minor = 0;  // of a GPU
  int fd = -1;         // O_PATH, in this process and those it makes
};

// GPUs of the whole sandbox (nvproxy/).
struct GpuOptions {
  bool enabled = false;
  bool fake = false;   // a driver that does not exist, for tests
  std::string driver;  // of a fake one: its description (nvproxy/fake)
  // Of the real one: its version, its texts by path below /proc/driver/nvidia, its nodes.
  std::string version;
  std::map<std::string, std::string> info;
  std::vector<GpuNode> nodes;
  // Which GPUs the owner lets containers have: an index in PCI order, "GPU-uuid" or "minor:N"; empty means all.
  std::vector<std::string> devices;
  // Which of these a container asks for, by such names; empty means all of them.
  std::vector<std::string> wanted;
  uint64_t memory_limit = 0;  // bytes of each GPU; 0 means no limit
  uint64_t host_limit = 0;    // bytes of host memory that the driver allocates or pins for the sandbox; 0 means no limit
  uint8_t capabilities = 3;   // nvproxy::Capability: compute and utility
  bool allow_other_driver = false;
  int64_t copy_seconds = 60;  // most for each step of a checkpoint that copies a process's GPU memory, beside a second per GB
};

// What concerns the whole sandbox.
struct SandboxOptions {
  std::string id;
  NetworkKind network = NetworkKind::kNone;
  bool strace = false;
  bool debug = false;
  bool timings = false;
  bool fast_path = true;      // see sentry/platform/README.md
  bool host_sockets = false;  // Unix sockets of the host come from the gofer
  uint32_t cpus = 0;          // how many the guest sees; 0 means as many as the host lets us use
  GpuOptions gpu;
};

}  // namespace amber
