// The mounts that a container starts with.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/mount.h"

namespace amber {

class Kernel;
namespace gofer {
class Client;
}

struct MountPlan {
  std::string destination;  // absolute; "/" is the root and comes first
  std::string type;         // "proc", "tmpfs", ...; ignored if `client` is set
  std::string source;       // for /proc/mounts
  std::vector<std::string> options;  // as in config.json: "ro", "nosuid", "size=64k", ...; unknown ones go to the file system
  // A directory or a file of the host: the gofer's client and the name of its attach point.
  std::shared_ptr<gofer::Client> client;
  std::string attach;
  bool read_only = false;
  bool exclusive = false;   // nobody else changes what is there: cache without revalidation
  // Writes stay in the sandbox's memory: the mount is an overlay of a tmpfs over the host's directory.
  bool overlay = false;
};

// Makes a mount namespace; missing mount points are created (in the upper layer, or through the gofer where the root
// is written through). The status says which mount failed and why. Kernel lock held.
absl::StatusOr<RefPtr<MountNamespace>> BuildMounts(Kernel& kernel, std::span<const MountPlan> plans);

}  // namespace amber
