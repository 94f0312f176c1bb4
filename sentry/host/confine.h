// The steps that take a freshly cloned process's possibilities away, one function each. sentry_main.cc puts them in
// order. All run on the only thread of the child; all say what failed.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"

namespace amber {

// A session of its own (so that no terminal's ^C or hang-up reaches it), default signal handlers, SIGPIPE ignored,
// standard descriptors that nobody waits for. `messages` becomes standard error; -1 for none.
absl::Status DetachFromCaller(const char* name, int messages);
// Waits for the parent's next word on a pipe. CANCELLED if it is gone.
absl::Status WaitForCaller(int gate);
// Waits until the parent has written the id maps, then becomes root of the user namespace.
absl::Status BecomeNamespaceRoot(int gate);
// An empty read-only root with nothing but a /proc that shows processes only. Returns a descriptor of that /proc.
absl::StatusOr<UniqueFd> EnterEmptyRoot();
// No capability in any set, none can come back.
absl::Status DropCapabilities();
// Whether this kernel can keep a process from opening files by paths (Landlock).
bool CanForbidFileOpens();
// From here on, and for the stubs too, only what lies in /proc can be opened, for reading; nothing below a directory descriptor that the
// gofer gives can, however it is reached. Does nothing where CanForbidFileOpens() is false: such a sentry gets no directories.
// `nodes` are descriptors of devices that can still be opened, by way of /proc/self/fd.
absl::Status ForbidFileOpens(std::span<const int> nodes = {});
// As many descriptors as allowed; dumps of 1 byte at most (0 would not stop a dump into a pipe, core(5)).
absl::Status SetResourceLimits();
// Closes every descriptor but 0, 1, 2 and those named. Moves nothing.
absl::Status CloseOtherDescriptors(std::span<const int> keep);

}  // namespace amber
