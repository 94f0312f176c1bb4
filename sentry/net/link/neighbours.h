// Who has which hardware address on a link: ARP (RFC 826) and neighbour discovery (RFC 4861), with the states and times of
// net/core/neighbour.c. Owned by its link, guarded by the kernel lock.
//
// Messages come from outside and may be hostile: each is read within its bounds, and there are never more than kMax entries that nobody
// wrote there; the one that was used longest ago goes first.
#pragma once

#include <cstdint>
#include <deque>
#include <map>

#include "sentry/net/ip/link.h"
#include "sentry/net/ip/timers.h"

namespace amber::net {

class FrameLink;

struct Neighbour {
  uint16_t state = 0;  // NUD_*
  HardwareAddress hardware{};
  bool router = false;
  int probes = 0;
  int64_t due = kNoDeadline;  // when its state ends
  int64_t used = 0, confirmed = 0, updated = 0;
  std::deque<Packet> waiting;
  size_t waiting_bytes = 0;
};

class Neighbours {
 public:
  explicit Neighbours(FrameLink& link);
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

  static constexpr size_t kMax = 1024, kFew = 128;  // gc_thresh3, gc_thresh1
  // What packets that wait may occupy: for one neighbour (unres_qlen_bytes), and for all of the link.
  static constexpr size_t kMaxBytes = 212992, kMaxBytesOfLink = 4 << 20;

  // The address to send to, if there is one that may be used.
  const HardwareAddress* Find(const IpAddress& address);
  // Asks who `address` is; `packet` is sent when somebody answers.
  void Wait(const IpAddress& address, Packet packet);
  // ARP, or a message of neighbour discovery, came in.
  void Receive(const Packet& packet);
  // Forgets all but what programs wrote; `all`: that, too.
  void Flush(bool all = false);

  const std::map<IpAddress, Neighbour>& all() const { return all_; }
  // What programs write (RTM_NEWNEIGH). ENOBUFS.
  ErrnoOr<void> Set(const IpAddress& address, const HardwareAddress& hardware, uint16_t state);
  bool Remove(const IpAddress& address);
  size_t waiting_bytes() const { return waiting_bytes_; }

 private:
  void ReceiveArp(std::string_view arp);
  void ReceiveDiscovery(const Packet& packet);
  void Learn(const IpAddress& address, const HardwareAddress& hardware, bool solicited, bool override, bool make);
  void Ask(const IpAddress& address, const Neighbour& n);
  void AnswerDiscovery(const Packet& packet, const IpAddress& target);
  void Fail(Neighbour& n);
  void Keep(Neighbour& n, Packet packet);
  void DropOldest(Neighbour& n);
  std::deque<Packet> TakeWaiting(Neighbour& n);
  void SendWaiting(Neighbour& n);
  void Schedule(Neighbour& n, int64_t due);
  void OnTimer();
  void Collect();
  bool MakeRoom();

  FrameLink& link_;
  NetTimer timer_;
  std::map<IpAddress, Neighbour> all_;
  size_t waiting_bytes_ = 0;
  int64_t collected_ = 0;  // when that was done last
};

}  // namespace amber::net
