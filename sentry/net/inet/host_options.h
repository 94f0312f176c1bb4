// Which socket options and control messages of the guest's reach a socket of the host's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "sentry/net/socket.h"

namespace amber {

struct HostOption {
  int level, name;
  uint32_t size;  // at most
  bool set;       // may be set; all may be read
};

// Null for an option that is not passed on.
const HostOption* FindHostOption(int level, int name);
// The control messages as sendmsg(2) wants them; EINVAL for one that is not passed on.
ErrnoOr<std::string> PackHostControl(const std::vector<ControlMessage>& messages);
// What recvmsg(2) brought, of the kinds that are passed on.
std::vector<ControlMessage> UnpackHostControl(std::span<const uint8_t> bytes);

}  // namespace amber
