// Who is at the other end: SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD, and the switches of what messages tell (unix(7)).
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

#include "sentry/fs/pidfd/pidfd.h"
#include "sentry/kernel/namespaces.h"
#include "sentry/kernel/task.h"
#include "sentry/net/socket_numbers.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

UnixIdentity UnixIdentity::Of(Task& task) {
  return {true, KernelCredentials(task, task.creds().euid, task.creds().egid), task.creds_ref(), RefPtr<ThreadGroup>(&task.group())};
}

void UnixSocket::AutoBind() {
  if (!address_.empty()) return;
  UnixName name = UnixNames::FreeAbstract(net_.get());
  if (!UnixNames::Abstract().try_emplace({net_.get(), name.Bytes()}, this).second) return;
  address_ = name.Bytes();
  owns_name_ = true;
}

void UnixSocket::LeavePeer() {
  // unix_dgram_disconnected(): what lies here unread came from that peer, which hears of it if it talks to this socket alone. (It may hold the last
  // reference to that peer.)
  if (peer_ == nullptr || messages_.empty()) return;
  RefPtr<UnixSocket> peer(peer_);
  DropMessages();
  WakeSenders();
  if (peer->peer_ != this) return;
  peer->error_ = ECONNRESET;
  peer->queue_.Notify(POLLERR | POLLIN | POLLOUT);
}

ErrnoOr<void> UnixSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level != SOL_SOCKET || (name != kSoPassPidfd && name != kSoPassRights)) return Socket::SetOption(task, level, name, value);
  int on = 0;
  if (value.size() < sizeof(on)) return Errno(EINVAL);
  memcpy(&on, value.data(), sizeof(on));
  (name == kSoPassPidfd ? pass_pidfd_ : pass_rights_) = on != 0;
  return Ok();
}

ErrnoOr<std::string> UnixSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level != SOL_SOCKET) return Socket::GetOption(task, level, name, capacity);
  switch (name) {
    case SO_PEERCRED: return Bytes(identity_.known ? ShownCredentials(task, identity_.credentials) : identity_.credentials);
    case kSoPassPidfd: return Bytes<int>(pass_pidfd_ ? 1 : 0);
    case kSoPassRights: return Bytes<int>(pass_rights_ ? 1 : 0);
    case kSoPeerGroups: {
      if (!identity_.known) return Errno(ENODATA);
      std::string out;
      for (gid_t g : identity_.groups->groups) out += Bytes(ShownGid(task.creds().user_ns.get(), g));
      return out;  // more than there is room for is ERANGE, with the size told
    }
    case kSoPeerPidfd: {
      if (!identity_.known || !identity_.process) return Errno(ENODATA);
      auto file = MakeRef<PidFd>(identity_.process, nullptr, 0);
      return Bytes(TRY(task.files().Allocate(std::move(file), true, task.limit(RLIMIT_NOFILE))));
    }
    default: return Socket::GetOption(task, level, name, capacity);
  }
}

}  // namespace amber
