// One end of a control connection: whole messages with descriptors over a SOCK_SEQPACKET Unix socket.
//
// A message up to kInlineBytes travels in the packet itself, after a zero byte. A longer one travels in a memfd, the
// first descriptor of the packet, after a one byte; that file is read once into memory of ours, so that its sender
// cannot change it while it is parsed. Neither side trusts the other's sizes.
// Thread-safe: Send() may be called on any thread, Receive() on one at a time.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "sentry/base/unique_fd.h"

namespace amber::control {

inline constexpr size_t kInlineBytes = 32 << 10;
inline constexpr size_t kMaxMessageBytes = 64 << 20;
inline constexpr size_t kMaxDescriptors = 200;  // SCM_MAX_FD is 253

struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

// UNAVAILABLE: the other side is gone. RESOURCE_EXHAUSTED: it does not read (with `wait` false only).
absl::Status SendPacket(int socket, std::string_view bytes, std::span<const int> fds = {}, bool wait = true);
// Blocks for a message unless the socket is non-blocking. UNAVAILABLE: the other side is gone; INVALID_ARGUMENT: not
// one of our packets. An empty packet is never returned.
absl::StatusOr<Packet> ReceivePacket(int socket);

}  // namespace amber::control
