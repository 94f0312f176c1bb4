#include "sentry/net/tcp/tcp_types.h"

#include <algorithm>
#include <cmath>

namespace amber::net {
namespace {
constexpr double kC = 0.4, kBeta = 0.7;
constexpr double kRenoBeta = 0.5;
constexpr uint32_t kMaxWindow = 1u << 30;
uint32_t Capped(double bytes) { return static_cast<uint32_t>(std::clamp(bytes, 0.0, double{kMaxWindow})); }
}  // namespace

void Congestion::Init(uint32_t mss) {
  cwnd = std::min(10 * mss, kMaxWindow);  // RFC 6928
  ssthresh = UINT32_MAX;
  epoch = 0;
  w_max = 0;
  credit = 0;
}

void Congestion::Use(CongestionControl other) {
  if (algorithm == other) return;
  algorithm = other;
  epoch = 0;
  w_max = 0;
  credit = 0;
}

void Congestion::OnAck(uint32_t acked, uint32_t mss, int64_t now, int64_t rtt, bool limited) {
  if (!limited || mss == 0) return;
  if (cwnd < ssthresh) {
    cwnd = Capped(double{static_cast<double>(cwnd)} + acked);
    return;
  }
  if (algorithm == CongestionControl::kReno) {
    // One segment for each window.
    credit += std::min(acked, kMaxWindow);
    if (credit < cwnd) return;
    credit -= cwnd;
    cwnd = std::min(cwnd + mss, kMaxWindow);
    return;
  }
  double segments = static_cast<double>(cwnd) / mss;
  if (epoch == 0) {
    epoch = now;
    if (w_max < segments) w_max = segments;
    k = std::cbrt((w_max - segments) / kC);
    w_est = segments;
  }
  double t = static_cast<double>(now - epoch + std::max<int64_t>(rtt, 0)) / static_cast<double>(kSecond);
  double target = w_max + kC * (t - k) * (t - k) * (t - k);
  target = std::clamp(target, segments, 1.5 * segments);
  // The window that Reno would have (RFC 9438, 4.3).
  double alpha = w_est >= w_max ? 1.0 : 3 * (1 - kBeta) / (1 + kBeta);
  w_est += alpha * (static_cast<double>(acked) / mss) / segments;
  double step = (target - segments) / segments * (static_cast<double>(acked) / mss);
  cwnd = Capped(std::max(segments + step, w_est) * mss);
}

void Congestion::OnLoss(uint32_t mss) {
  credit = 0;
  if (algorithm == CongestionControl::kReno) {
    cwnd = ssthresh = std::max(Capped(cwnd * kRenoBeta), 2 * mss);
    return;
  }
  double segments = static_cast<double>(cwnd) / std::max(mss, 1u);
  // Fast convergence: give way if the window did not reach the last peak.
  w_max = segments < w_max ? segments * (1 + kBeta) / 2 : segments;
  ssthresh = std::max(Capped(cwnd * kBeta), 2 * mss);
  cwnd = ssthresh;
  epoch = 0;
}

void Congestion::OnTimeout(uint32_t mss, uint32_t flight) {
  w_max = static_cast<double>(cwnd) / std::max(mss, 1u);
  double beta = algorithm == CongestionControl::kReno ? kRenoBeta : kBeta;
  ssthresh = std::max(Capped(std::max(flight, mss) * beta), 2 * mss);
  credit = 0;
  cwnd = mss;
  epoch = 0;
}

void Congestion::OnIdle(uint32_t mss) {
  cwnd = std::min(cwnd, std::min(10 * mss, kMaxWindow));
  epoch = 0;
}

void RttEstimate::Sample(int64_t rtt) {
  rtt = std::max<int64_t>(rtt, 1);
  minimum = std::min(minimum, rtt);
  if (smoothed == 0) {
    smoothed = rtt;
    variation = rtt / 2;
  } else {
    int64_t error = smoothed > rtt ? smoothed - rtt : rtt - smoothed;
    variation += (error - variation) / 4;
    smoothed += (rtt - smoothed) / 8;
  }
  rto = std::clamp(smoothed + std::max<int64_t>(4 * variation, kMinRto), kMinRto, kMaxRto);
}

}  // namespace amber::net
