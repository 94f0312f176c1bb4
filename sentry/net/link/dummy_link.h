// dummy: an interface that swallows what is sent to it.
#pragma once

#include "sentry/net/link/frame_link.h"

namespace amber::net {

class DummyLink final : public FrameLink {
 public:
  explicit DummyLink(std::string name) : FrameLink(std::move(name), ARPHRD_ETHER, 1500, IFF_BROADCAST | IFF_NOARP) {}
  const char* kind() const override { return "dummy"; }
  uint32_t min_mtu() const override { return 0; }
  uint32_t max_mtu() const override { return 0; }

 protected:
  void Transmit(Slice) override {}
};

}  // namespace amber::net
