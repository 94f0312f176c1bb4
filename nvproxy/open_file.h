// A device file that a guest opened, backed by a host file of its own: the driver keeps clients, mapping contexts and events per open file.
//
// Held by the kernel's open file and by calls in progress. The last reference closes the host file and with it ends the clients that were made on it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "nvproxy/proxy.h"

namespace amber::nvproxy {

class OpenFile : public std::enable_shared_from_this<OpenFile> {
 public:
  OpenFile(Proxy& proxy, Node node, int access, const Session& session, HostFile host)
      : proxy_(proxy), node_(node), access_(access), session_(session), host_(host), id_(proxy.next_file_++) {}
  ~OpenFile();
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  Proxy& proxy() { return proxy_; }
  const Node& node() const { return node_; }
  int access() const { return access_; }
  // Who opened it.
  const Session& session() const { return session_; }
  HostFile host() const { return host_; }
  // Unique in the sandbox's life up to a restore.
  uint64_t id() const { return id_; }
  bool is_frontend() const { return node_.kind == NodeKind::kControl || node_.kind == NodeKind::kGpu; }

  absl::Mutex mu;

  // --- /dev/nvidiactl and /dev/nvidiaN ---
  // The control file that this one was registered with, once.
  std::shared_ptr<OpenFile> linked ABSL_GUARDED_BY(mu);
  bool has_links ABSL_GUARDED_BY(mu) = false;  // others are registered with it
  bool attached ABSL_GUARDED_BY(mu) = false;   // ATTACH_GPUS_TO_FD was done
  bool exports ABSL_GUARDED_BY(mu) = false;    // objects were exported to it: never mapped any more
  Exports exported ABSL_GUARDED_BY(mu);        // their memory; null of none
  // What the next mmap maps.
  struct Pending {
    uint64_t length;
    bool whole;  // exactly `length`; else at most
  };
  std::optional<Pending> pending ABSL_GUARDED_BY(mu);
  // An event that the driver announced and no poll has taken.
  uint32_t events ABSL_GUARDED_BY(mu) = 0;

  // --- /dev/nvidia-uvm ---
  bool uvm_initialized ABSL_GUARDED_BY(mu) = false;
  uint64_t uvm_flags ABSL_GUARDED_BY(mu) = 0;
  std::set<int> uvm_gpus ABSL_GUARDED_BY(mu);
  std::map<uint64_t, uint64_t> external_ranges ABSL_GUARDED_BY(mu);  // base to size
  // What is mapped in external ranges, by base: it keeps memory alive.
  struct External {
    uint64_t size;
    std::shared_ptr<Allocation> bytes;
    std::shared_ptr<PinnedMemory> pinned;
    Exports imported;
  };
  static constexpr size_t kMostRanges = 1 << 18;
  std::multimap<uint64_t, External> externals ABSL_GUARDED_BY(mu);
  // mmaps: managed memory, unless a semaphore pool was made of the range.
  struct Managed {
    uint64_t size;
    std::shared_ptr<Allocation> bytes;
  };
  std::map<uint64_t, Managed> managed ABSL_GUARDED_BY(mu);
  // Those that are no longer mapped are looked for when there are so many.
  size_t managed_most ABSL_GUARDED_BY(mu) = 64;
  bool has_managed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) { return !managed.empty(); }

 private:
  Proxy& proxy_;
  const Node node_;
  const int access_;
  const Session session_;
  const HostFile host_;
  const uint64_t id_;
};

}  // namespace amber::nvproxy
