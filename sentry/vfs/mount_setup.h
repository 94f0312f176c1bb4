// The mounts that a container starts with.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/mount.h"

namespace amber {

class Kernel;
class ImageSource;
namespace gofer {
class Client;
}

// How much of a container's root overlay stays in memory at most: annotations of its configuration, in bytes and files.
inline constexpr char kOverlaySizeAnnotation[] = "org.amber.overlay.size";
inline constexpr char kOverlayInodesAnnotation[] = "org.amber.overlay.nr_inodes";

struct MountPlan {
  std::string destination;           // absolute; "/" is the root and comes first
  std::string type;                  // "proc", "tmpfs", ...; ignored if `client` is set
  std::string source;                // for /proc/mounts
  std::vector<std::string> options;  // as in config.json: "ro", "nosuid", "size=64k", ...; unknown ones go to the file system
  // A directory or a file of the host: the gofer's client and the name of its attach point.
  std::shared_ptr<gofer::Client> client;
  std::string attach;
  // Or a file that is a file system itself, also called `attach`.
  std::shared_ptr<ImageSource> image;
  std::string container;  // whose gofer or file it is: with `attach`, how a restore finds it (SetGoferFinder, SetImageFinder)
  bool read_only = false;
  bool exclusive = false;  // nobody else changes what is there: cache without revalidation
  // Writes stay in the sandbox's memory: the mount is an overlay of a tmpfs over the host's directory.
  bool overlay = false;
  uint64_t overlay_size = 0, overlay_inodes = 0;  // OverlayLimits
};

// Enters the file systems and devices of sentry/fs that need no more than the VFS (tmpfs, overlay, the memory devices, fifos) into their
// tables. Once is enough; BuildMounts() does it, a restore must before it loads.
void RegisterFileSystems();

// Makes a mount namespace; missing mount points are created (in the upper layer, or through the gofer where the root
// is written through), and a tmpfs on /dev is filled. The status says which mount failed and why. Kernel lock held.
absl::StatusOr<RefPtr<MountNamespace>> BuildMounts(Kernel& kernel, std::span<const MountPlan> plans);

// linux.maskedPaths: covers `path`, if it is there, with nothing; linux.readonlyPaths: makes it read-only. Kernel lock held.
absl::Status MaskPath(MountNamespace& ns, std::string_view path);
absl::Status MakePathReadOnly(MountNamespace& ns, std::string_view path);
// linux.devices: a node at `path`, with directories above it as needed. `mode` has the type. What is there already stays.
absl::Status MakeDevice(MountNamespace& ns, std::string_view path, uint32_t mode, uint64_t rdev, uint32_t uid, uint32_t gid);
// Takes away the node of this character device, if that is what is at `path` and it can be removed.
void RemoveDevice(MountNamespace& ns, std::string_view path, uint64_t rdev);

}  // namespace amber
