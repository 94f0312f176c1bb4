#include "sentry/net/link/veth_link.h"

#include "sentry/net/ip/stack.h"

namespace amber::net {

VethLink::VethLink(std::string name) : FrameLink(std::move(name), ARPHRD_ETHER, 1500, IFF_BROADCAST | IFF_MULTICAST) {
  had_carrier_ = false;
  set_carrier_changes(0, 1);
}

void VethLink::Join(VethLink& a, VethLink& b) {
  a.peer_ = &b;
  b.peer_ = &a;
}

void VethLink::OnUpDown() {
  FrameLink::OnUpDown();
  CheckCarrier();
  if (peer_ != nullptr) peer_->CheckCarrier();
}

void VethLink::OnLeave(bool for_good) {
  FrameLink::OnLeave(for_good);
  if (!for_good || peer_ == nullptr) return;
  VethLink* peer = std::exchange(peer_, nullptr);
  peer->peer_ = nullptr;
  if (peer->stack() != nullptr) peer->stack()->RemoveLink(*peer);
}

void VethLink::Transmit(Slice frame) {
  if (peer_ != nullptr) peer_->Received(std::move(frame));
}

}  // namespace amber::net
