// The sentry process, from its first instruction after clone() to its end.
//
// The CLI makes the process with LaunchSentry(): one clone() into new user, pid, mount, ipc and uts namespaces (and a
// new network namespace unless sockets are passed through), no exec. The child confines itself in the order that
// SentryMain lists, then serves the control socket until its last container has ended.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"
#include "sentry/control/spec.h"
#include "sentry/control/wire.h"

namespace amber {

struct SentryLaunch {
  SandboxOptions options;
  // Host uid and gid of the sentry and its stubs; root inside its user namespace. Never 0.
  uint32_t host_id = 0;
  // Descriptors of the calling process, which the child inherits. The caller closes its own after the launch.
  int primary = -1;   // the sentry's end of the CLI's connection, non-blocking
  int listener = -1;  // control socket; -1 for none
  int log = -1;       // -1 for none
  // Where the sentry's last words go: 2 in the foreground; otherwise the log or nowhere, since who waits for the end of
  // a pipe on the command line's stderr should not wait for the sandbox.
  int messages = -1;
  int cgroup = -1;   // -1 for none
  int born_in = -1;  // directory of a cgroup of version 2 to be born in if possible; -1 for the caller's
};

// The child sets itself up at once, but makes no process of its own before Release(): so that all are born in the
// cgroup that the caller moves it to meanwhile.
struct LaunchedSentry {
  pid_t pid = 0;
  UniqueFd pidfd;
  UniqueFd gate;

  absl::Status Release();
};

// The caller has one thread, is root, and is in the network namespace that the sandbox is to use. What goes wrong in the
// child afterwards is answered on `primary`.
absl::StatusOr<LaunchedSentry> LaunchSentry(const SentryLaunch& launch);

}  // namespace amber
