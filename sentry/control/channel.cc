#include "sentry/control/channel.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace amber::control {
namespace {

// strerror is not thread-safe, strerrordesc_np is (glibc).
absl::Status ErrnoStatus(std::string_view what) { return absl::InternalError(absl::StrCat("control socket: ", what, ": ", strerrordesc_np(errno))); }

absl::StatusOr<UniqueFd> IntoMemfd(std::string_view bytes) {
  UniqueFd file(memfd_create("amber-message", MFD_CLOEXEC));
  if (!file.valid()) return ErrnoStatus("memfd_create");
  while (!bytes.empty()) {
    ssize_t n = write(file.get(), bytes.data(), bytes.size());
    if (n <= 0) return ErrnoStatus("write");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return file;
}

absl::StatusOr<std::string> FromMemfd(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus("fstat");
  if (!S_ISREG(st.st_mode) || st.st_size <= 0 || st.st_size > static_cast<off_t>(kMaxMessageBytes)) {
    return absl::InvalidArgumentError("control socket: message of an impossible size");
  }
  std::string bytes(static_cast<size_t>(st.st_size), '\0');
  size_t done = 0;
  while (done < bytes.size()) {
    ssize_t n = pread(fd, bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (n <= 0) return absl::InvalidArgumentError("control socket: message shorter than announced");
    done += static_cast<size_t>(n);
  }
  return bytes;
}

}  // namespace

absl::Status SendPacket(int socket, std::string_view bytes, std::span<const int> fds, bool wait) {
  if (bytes.size() > kMaxMessageBytes || fds.size() > kMaxDescriptors) {
    return absl::InvalidArgumentError("control socket: message too large");
  }
  UniqueFd file;
  char kind = 0;
  std::vector<int> all(fds.begin(), fds.end());
  if (bytes.size() > kInlineBytes) {
    absl::StatusOr<UniqueFd> made = IntoMemfd(bytes);
    if (!made.ok()) return made.status();
    file = *std::move(made);
    all.insert(all.begin(), file.get());
    kind = 1;
    bytes = {};
  }
  iovec parts[2] = {{&kind, 1}, {const_cast<char*>(bytes.data()), bytes.size()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))];
  if (!all.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * all.size());
    memset(control, 0, message.msg_controllen);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * all.size());
    memcpy(CMSG_DATA(header), all.data(), sizeof(int) * all.size());
  }
  for (;;) {
    if (sendmsg(socket, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) >= 0) return absl::OkStatus();
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return absl::ResourceExhaustedError("control socket: the other side does not read");
    if (errno == EPIPE || errno == ECONNRESET) return absl::UnavailableError("control socket: closed by the other side");
    return ErrnoStatus("sendmsg");
  }
}

absl::StatusOr<Packet> ReceivePacket(int socket) {
  char kind = 0;
  std::string buffer(kInlineBytes, '\0');
  iovec parts[2] = {{&kind, 1}, {buffer.data(), buffer.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * (kMaxDescriptors + 1))];
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t n;
  // A side that ended with messages unread gives ECONNRESET once, before what it sent itself (unix(7), Linux's
  // unix_release_sock).
  int resets = 0;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && (errno == EINTR || (errno == ECONNRESET && resets++ == 0)));
  if (n < 0 && errno == EAGAIN) return absl::ResourceExhaustedError("control socket: nothing to read");
  if (n < 0 && errno != ECONNRESET) return ErrnoStatus("recvmsg");
  if (n <= 0) return absl::UnavailableError("control socket: closed by the other side");

  Packet packet;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      packet.fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError("control socket: message too large");
  }
  if (kind == 0) {
    buffer.resize(static_cast<size_t>(n) - 1);
    packet.bytes = std::move(buffer);
    return packet;
  }
  if (kind != 1 || packet.fds.empty()) return absl::InvalidArgumentError("control socket: not a control message");
  absl::StatusOr<std::string> bytes = FromMemfd(packet.fds[0].get());
  if (!bytes.ok()) return bytes.status();
  packet.bytes = *std::move(bytes);
  packet.fds.erase(packet.fds.begin());
  return packet;
}

}  // namespace amber::control
