// Messages of guests on sockets of the host's that never block. Kernel lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "sentry/net/socket.h"

namespace amber {

// Sends what `request` has, a stream's as far as there is room, with the control messages `control` as sendmsg(2) wants them. Bytes that were taken
// and not sent are put back. No signal is raised.
ErrnoOr<size_t> SendToHost(int fd, SendRequest& request, bool stream, size_t max_datagram, int flags, std::string control);
// Receives into the request, and tells how much of `control` was filled.
ErrnoOr<size_t> ReceiveFromHost(int fd, ReceiveRequest& request, bool stream, size_t max_datagram, int flags, std::span<uint8_t> control,
                                size_t* control_size);

}  // namespace amber
