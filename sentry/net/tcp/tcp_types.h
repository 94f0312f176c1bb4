// Small things that the parts of TCP share: states, sequence numbers, options of a connection, the congestion window.
#pragma once

#include <cstdint>

#include "sentry/net/filter/socket_filter.h"
#include "sentry/net/ip/packet.h"
#include "sentry/net/ip/timers.h"

namespace amber::net {

// The numbers that TCP_INFO and /proc/net/tcp show (net/tcp_states.h); part of the image format.
enum class TcpState : uint8_t {
  kEstablished = 1,
  kSynSent = 2,
  kSynReceived = 3,
  kFinWait1 = 4,
  kFinWait2 = 5,
  kTimeWait = 6,
  kClosed = 7,
  kCloseWait = 8,
  kLastAck = 9,
  kListen = 10,
  kClosing = 11,
};

// Sequence numbers wrap around (RFC 9293, 3.4).
inline bool SeqLess(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) < 0; }
inline bool SeqLessEq(uint32_t a, uint32_t b) { return static_cast<int32_t>(a - b) <= 0; }
inline uint32_t SeqMax(uint32_t a, uint32_t b) { return SeqLess(a, b) ? b : a; }

inline constexpr uint32_t kDefaultMss = 536;
inline constexpr int64_t kMinRto = 200 * kMs, kMaxRto = 120 * kSecond, kInitialRto = kSecond;
inline constexpr int64_t kTimeWaitTime = 60 * kSecond;
inline constexpr int64_t kMaxDelayedAck = 40 * kMs;

enum class CongestionControl : uint8_t { kCubic, kReno };

// What setsockopt() sets. Times in seconds unless a name says more; 0 is the system's default.
struct TcpOptions {
  bool nodelay = false;
  bool cork = false;
  bool keepalive = false;
  bool quick_ack = true;
  bool oob_inline = false;
  uint32_t keep_idle = 7200, keep_interval = 75, keep_count = 9;
  uint32_t syn_retries = 6, synack_retries = 5, retries = 15;
  uint32_t user_timeout_ms = 0;
  uint32_t defer_accept = 0;
  int32_t linger2 = 60;
  uint32_t max_segment = 0;
  uint32_t window_clamp = 0;
  uint32_t not_sent_low = UINT32_MAX;
  uint8_t tos = 0, ttl = 64, hop_limit = 64;
  CongestionControl congestion = CongestionControl::kCubic;
  RefPtr<const SocketFilter> filter;
};

// Grows and shrinks the congestion window, in bytes: CUBIC (RFC 9438) or Reno (RFC 5681, with bytes counted as in RFC 3465).
struct Congestion {
  CongestionControl algorithm = CongestionControl::kCubic;
  uint32_t cwnd = 0, ssthresh = UINT32_MAX;
  // Of CUBIC.
  double w_max = 0, k = 0, w_est = 0;
  int64_t epoch = 0;  // when the present growth began, 0: not yet
  // Of Reno: bytes acknowledged since the window grew last.
  uint32_t credit = 0;

  // Another algorithm goes on with the window as it is.
  void Use(CongestionControl other);
  void Init(uint32_t mss);
  // `acked` bytes were acknowledged at `now`; `limited`: the window was what held the sender back.
  void OnAck(uint32_t acked, uint32_t mss, int64_t now, int64_t rtt, bool limited);
  // Segments were lost: a new threshold; the window follows it.
  void OnLoss(uint32_t mss);
  // The retransmission timer fired with `flight` bytes out.
  void OnTimeout(uint32_t mss, uint32_t flight);
  // Nothing was sent for a while.
  void OnIdle(uint32_t mss);
};

// Round trip time and retransmission time-out (RFC 6298), ns.
struct RttEstimate {
  int64_t smoothed = 0, variation = 0, rto = kInitialRto, minimum = INT64_MAX;
  void Sample(int64_t rtt);
};

}  // namespace amber::net
