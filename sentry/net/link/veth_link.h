// veth(4): two interfaces, each of which receives what the other one sends, in one stack or in two. Each lives as long as the other does.
#pragma once

#include <utility>

#include "sentry/net/link/frame_link.h"

namespace amber::net {

class VethLink final : public FrameLink {
 public:
  explicit VethLink(std::string name);
  // Makes them each other's end.
  static void Join(VethLink& a, VethLink& b);

  const char* kind() const override { return "veth"; }
  bool carrier() const override { return up() && peer_ != nullptr && peer_->up(); }
  void OnUpDown() override;
  void OnLeave(bool for_good) override;
  int lower_index() const override { return peer_ != nullptr ? peer_->index() : index(); }
  Stack* lower_stack() const override { return peer_ != nullptr ? peer_->stack() : stack(); }
  VethLink* peer() const { return peer_; }

 protected:
  void Transmit(Slice frame) override;

 private:
  VethLink* peer_ = nullptr;
};

}  // namespace amber::net
