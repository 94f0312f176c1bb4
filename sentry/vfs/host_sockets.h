// Unix sockets of the host's behind names in the file system (--host-uds): what the inodes that can reach any offer to sentry/net/unix.
// Guarded by the kernel lock.
#pragma once

#include <utility>

#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber {

struct Credentials;

// Of an inode whose file may be a socket of the host's.
class HostSocketInode {
 public:
  // A socket of the host's that is connected to the one bound here, whose owner sees `who`'s effective ids; it never blocks. EAGAIN: that one's
  // queue is full. EOPNOTSUPP: the sandbox's owner does not let it through, or there is none.
  virtual ErrnoOr<UniqueFd> ConnectHostSocket(const Credentials& who, int socket_type) = 0;
  // After a restore: binds a new one to the file's name, in the file's place.
  virtual ErrnoOr<UniqueFd> BindHostSocketAgain(int socket_type) = 0;

 protected:
  ~HostSocketInode() = default;
};

// A socket file is being made because somebody binds a socket to it: a directory that can have sockets of the host's may make one, and leave it here.
class SocketBinding {
 public:
  explicit SocketBinding(int socket_type) : type_(socket_type), before_(std::exchange(current_, this)) {}
  ~SocketBinding() { current_ = before_; }
  SocketBinding(const SocketBinding&) = delete;
  // Null: the file is only made (mknod(2)).
  static SocketBinding* Current() { return current_; }
  int type() const { return type_; }
  void Give(UniqueFd bound) { bound_ = std::move(bound); }
  UniqueFd Take() { return std::move(bound_); }

 private:
  int type_;
  SocketBinding* before_;
  UniqueFd bound_;
  static inline thread_local SocketBinding* current_ = nullptr;
};

}  // namespace amber
