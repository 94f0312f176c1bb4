// The gofer's confinement, as steps that GoferMain takes one after the other in a process with a single thread.
//
// Afterwards the process has an empty read-only root that holds nothing but the attach points, no network, none of the
// host's IPC, host name or processes, and only those capabilities that let it act on files of any owner.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gofer/main.h"
#include "gofer/node_table.h"

namespace amber::gofer {

// Opens the attach points where they are, without new mounts.
absl::StatusOr<std::vector<AttachPoint>> OpenAttachPoints(GoferConfig& config);

// Enters new namespaces and a new root: clones each attach point's mount (read-only and without devices where the
// configuration says so, never with set-user-id effect, private in any case), gives the process a tmpfs of its own as
// root, and puts the clones there under their index. Mounts of kernel interfaces below them are taken off.
absl::StatusOr<std::vector<AttachPoint>> EnterOwnRoot(GoferConfig& config);

// `keep` of capabilities (bit numbers of <linux/capability.h>) that the process may have; all others go, for good.
absl::Status KeepCapabilities(uint64_t keep);
// The capabilities that serving with `config` needs.
uint64_t NeededCapabilities(const GoferConfig& config);

// Raises the limit of open files as far as it goes and returns it.
uint32_t RaiseFileLimit();

// "WHAT: TEXT OF ERRNO".
absl::Status ErrnoStatus(int number, std::string what);

}  // namespace amber::gofer
