// Raw and ping sockets of one stack. Owned by the network namespace, guarded by the kernel lock.
#pragma once

#include <set>

#include "sentry/net/ip/stack.h"

namespace amber {
class RawSocket;
}

namespace amber::net {

// A packet as bytes, made at most once however many sockets see it.
struct RawBytes {
  Slice packet, transport;
};

class RawLayer {
 public:
  explicit RawLayer(Stack& stack);
  ~RawLayer();

  std::set<RawSocket*>& all() { return all_; }
  // An identifier that no other ping socket has; 0 if all are taken.
  uint16_t FreeIdentifier(uint16_t start) const;
  bool IdentifierTaken(uint16_t id) const;

 private:
  bool Tap(const Packet& packet);

  Stack& stack_;
  std::set<RawSocket*> all_;
};

}  // namespace amber::net
