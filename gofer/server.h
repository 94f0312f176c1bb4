// The gofer's server: what a hostile peer may do to the files below the attach points, and no more.
//
// One Server per gofer. Serve() is called once per channel, on a thread of its own, and returns when the peer closes the
// channel or says something malformed. All channels share the nodes; everything else belongs to one channel.
//
// How it stays inside its attach points: every look-up is one openat2 of one validated name below a directory
// descriptor, with RESOLVE_BENEATH, NO_SYMLINKS and NO_MAGICLINKS; a node is an O_PATH descriptor of one inode; what is
// done to a node is done through its entry in /proc/self/fd, which leads to that inode and nowhere else. Descriptors
// that leave are of regular files (and of fifos and devices where the attach point says so), never of directories and
// never O_PATH.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "gofer/act_as.h"
#include "gofer/node_table.h"
#include "sentry/base/unique_fd.h"

namespace amber::gofer {

class Server {
 public:
  // `proc_self_fd` is an O_PATH descriptor of /proc/self/fd.
  Server(std::vector<AttachPoint> attach_points, UniqueFd proc_self_fd, uint32_t max_nodes);

  // Gives the calling thread what Serve() relies on: a working directory (/proc/self/fd) and a umask (0) that other
  // threads do not share. Errors of the host.
  ErrnoOr<void> PrepareThread();

  // PrepareThread() must have been called on this thread. Does not take over `socket`.
  void Serve(int socket);

  const std::vector<AttachPoint>& attach_points() const { return attach_points_; }
  NodeTable& nodes() { return nodes_; }
  const User& self() const { return self_; }

 private:
  const std::vector<AttachPoint> attach_points_;
  const UniqueFd proc_self_fd_;
  NodeTable nodes_;
  const User self_ = User::Self();
};

// An O_PATH descriptor of this process's /proc/self/fd: a mount of just that directory where the process may make one,
// so that nothing else of proc can be reached from it.
ErrnoOr<UniqueFd> OpenProcSelfFd();

}  // namespace amber::gofer
