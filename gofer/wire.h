// Packets of the gofer protocol: Cap'n Proto messages in and out of a SOCK_SEQPACKET socket.
//
// A WireBuffer belongs to one channel and is used by one thread at a time. Readers returned from it point into it and
// live until the next Receive. Accessors of readers throw kj::Exception on malformed content: who reads catches it.
#pragma once

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "gofer/protocol.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/unique_fd.h"

namespace amber::gofer {

// A builder whose first segment is zeroed memory that the channel keeps, so that ordinary messages do not allocate.
class WireBuffer {
 public:
  WireBuffer();
  ~WireBuffer();
  WireBuffer(const WireBuffer&) = delete;
  WireBuffer& operator=(const WireBuffer&) = delete;

  // Starts the message to send; the one before is gone.
  capnp::MessageBuilder& NewMessage();
  // Sends the message that NewMessage started, with `fds` (kMaxDescriptors at most). EMSGSIZE (nothing was sent) or what
  // sendmsg says. Never raises SIGPIPE.
  ErrnoOr<void> Send(int socket, std::span<const UniqueFd> fds = {});

  // Waits for one packet and returns its message. EPIPE: the peer closed. EBADMSG: a packet that is too long, or no
  // message at all. Descriptors are accepted only if `fds` is given, kMaxDescriptors at most; all others that came are closed.
  // `spin`: looks for a message again and again for a little while before it sleeps.
  ErrnoOr<capnp::MessageReader*> Receive(int socket, std::vector<UniqueFd>* fds = nullptr, bool spin = false);

 private:
  capnp::word* out_;
  capnp::word* in_;
  std::optional<capnp::MallocMessageBuilder> builder_;
  std::optional<capnp::FlatArrayMessageReader> reader_;
};

inline std::string_view AsString(capnp::Data::Reader data) { return {reinterpret_cast<const char*>(data.begin()), data.size()}; }
inline capnp::Data::Reader AsData(std::string_view text) { return {reinterpret_cast<const kj::byte*>(text.data()), text.size()}; }

}  // namespace amber::gofer
