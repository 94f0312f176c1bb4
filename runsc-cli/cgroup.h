// The container's place in the host's cgroups: version 1, version 2, and both at once ("hybrid").
//
// Engines name a place (cgroupsPath); we make it in every hierarchy that is mounted, set the limits, and move the
// sandbox's processes there: engines read statistics from the cgroup of the pid that they know. Nothing is cached
// between calls; the lists of directories used and made are kept in the container's
// state, and removing those made leaves nothing.
#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runsc-cli/oci.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {

struct CgroupHierarchy {
  std::string mount_point;
  std::vector<std::string> controllers;  // empty for version 2
  bool v2 = false;
};

// From the text of /proc/self/mountinfo.
std::vector<CgroupHierarchy> ParseCgroupMounts(std::string_view mountinfo);

// Where the container goes below each mount point, beginning with "/". `cgroups_path` is config.json's; with
// `systemd` it reads "slice:prefix:name". Dots are resolved and cannot lead out.
absl::StatusOr<std::string> CgroupPath(std::string_view cgroups_path, const std::string& id, bool systemd);

// A task limit leaves room for the sentry's own threads; the guest's limit is kept by the sentry.
inline constexpr int64_t kPidsReserve = 256;

class Cgroup {
 public:
  // Makes the directories. On failure nothing stays behind.
  static absl::StatusOr<Cgroup> Create(const std::vector<CgroupHierarchy>& hierarchies, const std::string& path);
  // One that exists, by the directories that it consists of.
  static Cgroup Existing(const std::vector<CgroupHierarchy>& hierarchies, const std::vector<std::string>& directories);

  // Limits that the host's hierarchies do not know are reported, others of the call still set.
  absl::Status Apply(const Resources& resources) const;
  absl::Status Join(const std::vector<pid_t>& processes) const;
  // As above, in version 2 only.
  absl::Status JoinV2(pid_t process) const;
  std::vector<std::string> directories() const;
  // Those that were not there before: ours to remove, with whatever runs in them.
  std::vector<std::string> made_directories() const;
  // "" if there is none.
  std::string Directory(std::string_view controller) const;

 private:
  friend class CgroupVisit;
  struct Place {
    std::string directory;
    std::vector<std::string> controllers;
    bool v2 = false;
    bool made = false;
  };
  const Place* Find(std::string_view controller) const;
  absl::Status Set(std::string_view controller, std::string_view v1_file, std::string_view v2_file, std::string_view value_v1,
                   std::string_view value_v2) const;
  absl::Status ApplyMemory(const Resources& r) const;
  absl::Status ApplyCpu(const Resources& r) const;
  std::vector<Place> places_;
};

// A visit of this process, which has one thread, to a container's cgroups: what it forks meanwhile is born there.
//
// In version 1 it enters itself: writing "0" to `tasks` moves the calling thread without the lock that a move of another process takes,
// whose price is an RCU grace period (10 µs instead of 8 to 18 ms). Version 2 has no such way; there children are to be cloned into v2().
class CgroupVisit {
 public:
  CgroupVisit() = default;
  ~CgroupVisit() { Leave(); }
  // On failure nothing has changed, and processes have to be moved with Cgroup::Join().
  absl::Status Enter(const Cgroup& cgroup, const std::vector<CgroupHierarchy>& hierarchies);
  // Back to where this process was. May be called again.
  void Leave();
  // The directory of version 2, or -1.
  int v2() const { return v2_.get(); }

 private:
  std::vector<UniqueFd> home_;  // the `tasks` files of where this process was
  UniqueFd v2_;
};

// While it stands, the death of this process, which has one thread, removes cgroups that are left empty: for the moment in which they are
// there and the waiter, which is born in one and sees to that from then on, is not.
class CgroupGuard {
 public:
  CgroupGuard() = default;
  ~CgroupGuard() { Dismiss(); }
  absl::Status Start(const std::vector<std::string>& directories);
  void Dismiss();

 private:
  pid_t guard_ = 0;
  UniqueFd dismissal_;  // one byte; the end of the file is our death
  UniqueFd in_;         // its other end, so that a guard that is gone does not end us by SIGPIPE
};

// Whether `process` is in the cgroup `path` of version 2.
bool IsInCgroup2(pid_t process, std::string_view path);

// Ends what still runs there with SIGKILL and removes the directories, for up to two seconds.
absl::Status RemoveCgroups(const std::vector<std::string>& directories);

}  // namespace amber::cli
