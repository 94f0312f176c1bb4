// The waiter: a tiny host process that stands for a guest process, because engines learn of an exit by reaping a host
// pid and signal that pid.
//
// It is a child of the command line, so that it falls to the engine's subreaper when the command line ends. It sends
// every signal that it can catch to the sentry, and ends as the guest process does: with its exit code, or killed by
// the same signal (core dumps off). If it is killed, the sentry sees its stream close and kills the guest process; if
// the sentry dies, it ends by SIGKILL. SIGWINCH means that the console's size changed.
//
// Life: made by fork without exec; then everything is unmapped but one page of code and a few of data and stack, so
// that it costs next to nothing (some 30 KiB with page tables) although the command line was large. The code it runs
// (waiter_body.cc) is copied, and uses no library, no globals and no thread-local storage.
//
// With an `owner` it also watches that process: if the owner dies, the waiter ends the sandbox and removes what the owner
// would have removed. That holds for good in the foreground, and until the sentry says kWaiterDetach otherwise.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"

namespace amber::cli {

struct CleanupStep {
  enum class Kind : char {
    kUnlink = 'u',
    kRemoveDirectory = 'd',
    kLeaveCgroup = 'c',  // `path` is the cgroup.procs file to move the waiter into
  };
  Kind kind;
  std::string path;
};

struct WaiterOptions {
  int stream = -1;   // connected to the sentry
  int console = -1;  // host terminal that becomes the waiter's controlling terminal; -1 for none
  int owner = -1;    // pidfd; -1 for none
  int cgroup = -1;   // directory of a cgroup of version 2 to be born in if possible; -1 for the caller's
  std::vector<CleanupStep> cleanup;
};

// One end for the waiter, one for the sentry: kept message boundaries, so that four bytes arrive as four bytes.
struct WaiterStream {
  UniqueFd waiter;
  UniqueFd sentry;
};
absl::StatusOr<WaiterStream> MakeWaiterStream();

// The caller has one thread. Its descriptors stay its own.
absl::StatusOr<pid_t> StartWaiter(const WaiterOptions& options);

}  // namespace amber::cli
