#include "sentry/control/client.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "sentry/control/channel.h"

namespace amber::control {
namespace {

// Socket addresses hold 107 bytes; state directories may be deeper. /proc/self/fd/N/NAME names the same file.
absl::StatusOr<sockaddr_un> Address(const std::string& path, UniqueFd& directory) {
  size_t slash = path.rfind('/');
  std::string parent = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  directory.reset(open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) {
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(parent, " does not exist"));
    return absl::InternalError(absl::StrCat(parent, ": ", strerrordesc_np(errno)));
  }
  std::string name = absl::StrCat("/proc/self/fd/", directory.get(), "/", slash == std::string::npos ? path : path.substr(slash + 1));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (name.size() >= sizeof(address.sun_path)) return absl::InvalidArgumentError("socket name too long");
  memcpy(address.sun_path, name.c_str(), name.size() + 1);
  return address;
}

}  // namespace

absl::StatusOr<Client> Client::Connect(const std::string& path) {
  UniqueFd directory;
  absl::StatusOr<sockaddr_un> address = Address(path, directory);
  if (!address.ok()) return address.status();
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid() || connect(socket.get(), reinterpret_cast<sockaddr*>(&*address), sizeof(*address)) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot reach the sandbox at ", path, ": ", strerrordesc_np(errno)));
  }
  return Client(std::move(socket));
}

absl::Status Client::Send(Request& request, std::span<const int> fds) {
  request.set_id(next_id_++);
  return SendPacket(socket_.get(), request.SerializeAsString(), fds);
}

absl::StatusOr<Reply> Client::Receive(const std::function<void(const ProgressReply&)>& progress) {
  for (;;) {
    absl::StatusOr<Packet> packet = ReceivePacket(socket_.get());
    if (!packet.ok()) {
      if (!absl::IsUnavailable(packet.status())) return packet.status();
      return absl::UnavailableError("the sandbox ended before it answered");
    }
    Reply reply;
    if (!reply.ParseFromString(packet->bytes)) return absl::InternalError("the sandbox sent an answer that makes no sense");
    if (reply.more()) {
      if (progress != nullptr) progress(reply.progress());
      continue;
    }
    if (reply.code() != 0) return absl::Status(static_cast<absl::StatusCode>(reply.code()), reply.error());
    return reply;
  }
}

absl::StatusOr<Reply> Client::Call(Request& request, std::span<const int> fds, const std::function<void(const ProgressReply&)>& progress) {
  absl::Status sent = Send(request, fds);
  // Who is gone may have said why: a sandbox that cannot start answers a request that it has not read.
  if (!sent.ok() && !absl::IsUnavailable(sent)) return sent;
  return Receive(progress);
}

absl::StatusOr<UniqueFd> Listen(const std::string& path) {
  UniqueFd directory;
  absl::StatusOr<sockaddr_un> address = Address(path, directory);
  if (!address.ok()) return address.status();
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // The directory is closed to others, so the moment before the chmod does no harm.
  if (!socket.valid() || bind(socket.get(), reinterpret_cast<sockaddr*>(&*address), sizeof(*address)) != 0 || chmod(address->sun_path, 0600) != 0 ||
      listen(socket.get(), 64) != 0) {
    return absl::InternalError(absl::StrCat("cannot make the control socket ", path, ": ", strerrordesc_np(errno)));
  }
  return socket;
}

}  // namespace amber::control
