// The gofer process: its configuration, and its life from the fork to the last closed channel.
//
// Who starts a sandbox makes the channels (MakeChannel), calls StartGofer with the server ends, and gives the client ends
// to the sentry. The gofer confines itself (see confine.h), serves until every channel is closed by its peer, and exits
// with 0. It is not tied to its parent's life unless asked.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"

namespace amber::gofer {

struct MountConfig {
  std::string name;  // what Client::Attach asks for, unique
  // A directory or a regular file on the host. A trailing symbolic link is followed, once, at start. With `fd` set,
  // that descriptor (O_PATH will do) is the root instead and `path` only names it in messages.
  std::string path;
  UniqueFd fd;
  bool read_only = false;
  // Mounts below `path` are seen too, except kernel interfaces (proc, sysfs, cgroup, devpts and the like).
  bool recursive = true;
  bool allow_devices = false;  // open and make device nodes
  bool allow_fifos = false;    // open fifos of the host (they may be made in any case)
  bool allow_connect = false;  // connect to Unix sockets of the host (their files may be made in any case)
  bool allow_bind = false;     // make Unix sockets of the host
};

struct GoferConfig {
  std::vector<MountConfig> mounts;
  std::vector<UniqueFd> channels;  // server ends

  // Confinement. All of it is on in the product; tests without privileges turn parts off.
  bool new_mount_namespace = true;   // pivot_root into a tmpfs that holds only the attach points
  bool new_other_namespaces = true;  // ipc, uts, net
  bool new_pid_namespace = true;     // by StartGofer only
  bool drop_capabilities = true;
  bool seccomp = true;
  bool die_with_parent = false;  // SIGKILL when the thread that forked it dies
  // Directories of the attach points may be given to the peer as O_PATH descriptors, for looking at names and attributes. Only for a
  // peer that cannot open anything with them.
  bool allow_directories = false;
  // CAP_SETFCAP, so that package managers in the sandbox may set file capabilities. Adds nothing that a set-user-id
  // file, which the sandbox may make in any case, would not give.
  bool allow_file_capabilities = false;
  // Else standard error becomes /dev/null once set-up is done: who waits for the end of a pipe on it should not wait
  // for the gofer.
  bool keep_stderr = false;

  int cgroup = -1;         // directory of a cgroup of version 2 to be born in if possible; -1 for the caller's
  uint32_t max_nodes = 0;  // 0: as many as RLIMIT_NOFILE allows
};

// Serves in this process, a forked child with a single thread, until all channels are closed. Returns the exit status;
// what went wrong during set-up is written to stderr in one line.
int GoferMain(GoferConfig config);

// Forks a child (in a pid namespace of its own if so configured) that runs GoferMain with `config` and exits. Closes
// every descriptor above 2 in the child that the configuration does not name. Returns the child's pid; the caller reaps
// it. The calling process must have a single thread.
absl::StatusOr<pid_t> StartGofer(GoferConfig config);

}  // namespace amber::gofer
