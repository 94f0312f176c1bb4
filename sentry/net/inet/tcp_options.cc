// Options of SOL_TCP (tcp(7), do_tcp_setsockopt).
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

#include <algorithm>
#include <string_view>

#include "sentry/kernel/task.h"
#include "sentry/net/inet/option_util.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/tcp/tcp_layer.h"

namespace amber {
namespace {

constexpr int kTcpIsMptcp = 43, kTcpRtoMax = 44;  // newer than the C library's header
constexpr int kFinTimeout = 60;                   // net.ipv4.tcp_fin_timeout
constexpr int kSmallestClamp = 1152;              // half of SOCK_MIN_RCVBUF
constexpr int kMaxKeepIdle = 32767, kMaxKeepCount = 127, kMaxSynCount = 127;

struct NamedCongestion {
  const char* name;
  net::CongestionControl value;
};
constexpr NamedCongestion kCongestion[] = {{"cubic", net::CongestionControl::kCubic}, {"reno", net::CongestionControl::kReno}};

// Of TCP_DEFER_ACCEPT Linux keeps how often the answer to a SYN is sent again, which makes other seconds of these (secs_to_retrans()).
int DeferredSeconds(int seconds) {
  constexpr int kFirst = 1, kMost = 120, kMostOften = 255;
  if (seconds <= 0) return 0;
  int period = kFirst, timeout = kFirst;
  for (int often = 1; seconds > period && often < kMostOften; ++often) {
    timeout = std::min(timeout * 2, kMost);
    period += timeout;
  }
  return period;
}

bool Between(int value, int low, int high) { return value >= low && value <= high; }

}  // namespace

std::string_view CongestionName(net::CongestionControl control) {
  return std::ranges::find_if(kCongestion, [&](const NamedCongestion& c) { return control == c.value; })->name;
}

ErrnoOr<void> TcpSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_TCP) return SetTcpOption(task, name, value);
  TRY(InetSocket::SetOption(task, level, name, value));
  if (level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_SNDBUFFORCE)) {
    connection_->SetSendLimit(static_cast<uint32_t>(send_buffer_));
  }
  if (level == SOL_SOCKET && (name == SO_RCVBUF || name == SO_RCVBUFFORCE)) {
    connection_->SetReceiveLimit(static_cast<uint32_t>(receive_buffer_));
  }
  return Ok();
}

ErrnoOr<std::string> TcpSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level == SOL_TCP) return GetTcpOption(name);
  if (level == SOL_SOCKET && name == SO_SNDBUF) return OptionBytes(static_cast<int>(connection_->send_limit()));
  if (level == SOL_SOCKET && name == SO_RCVBUF) return OptionBytes(static_cast<int>(connection_->receive_limit()));
  return InetSocket::GetOption(task, level, name, capacity);
}

ErrnoOr<void> TcpSocket::SetTcpOption(Task&, int name, std::span<const uint8_t> value) {
  net::TcpOptions& o = connection_->options();
  if (name == TCP_CONGESTION) {
    if (value.empty()) return Errno(EINVAL);
    std::string wanted(reinterpret_cast<const char*>(value.data()), value.size());
    wanted = wanted.substr(0, wanted.find('\0'));
    auto found = std::ranges::find_if(kCongestion, [&](const NamedCongestion& c) { return wanted == c.name; });
    if (found == std::end(kCongestion)) return Errno(ENOENT);
    o.congestion = found->value;
    connection_->OptionsChanged();
    return Ok();
  }
  if (name == TCP_ULP) return Errno(value.empty() ? EINVAL : ENOENT);
  if (name == TCP_FASTOPEN_KEY) return Errno(EINVAL);
  int n = TRY(ParseOption<int>(value));
  bool closed = connection_->state() == net::TcpState::kClosed;
  switch (name) {
    case TCP_REPAIR:
    case TCP_REPAIR_QUEUE:
    case TCP_REPAIR_WINDOW:
    case TCP_TIMESTAMP: return Errno(EPERM);  // nobody may repair connections
    case TCP_QUEUE_SEQ: return Errno(closed ? EINVAL : EPERM);
    case TCP_REPAIR_OPTIONS:
    case TCP_MD5SIG:
    case TCP_MD5SIG_EXT: return Errno(EINVAL);
    case TCP_MAXSEG:
      if (n != 0 && !Between(n, 88, 32767)) return Errno(EINVAL);
      o.max_segment = static_cast<uint32_t>(n);
      return Ok();
    case TCP_NODELAY: o.nodelay = n != 0; break;
    case TCP_CORK: o.cork = n != 0; break;
    case TCP_KEEPIDLE:
      if (!Between(n, 1, kMaxKeepIdle)) return Errno(EINVAL);
      o.keep_idle = static_cast<uint32_t>(n);
      break;
    case TCP_KEEPINTVL:
      if (!Between(n, 1, kMaxKeepIdle)) return Errno(EINVAL);
      o.keep_interval = static_cast<uint32_t>(n);
      break;
    case TCP_KEEPCNT:
      if (!Between(n, 1, kMaxKeepCount)) return Errno(EINVAL);
      o.keep_count = static_cast<uint32_t>(n);
      break;
    case TCP_SYNCNT:
      if (!Between(n, 1, kMaxSynCount)) return Errno(EINVAL);
      o.syn_retries = static_cast<uint32_t>(n);
      break;
    case TCP_LINGER2: o.linger2 = n < 0 ? -1 : n == 0 ? kFinTimeout : std::min(n, 120); break;
    case TCP_DEFER_ACCEPT: o.defer_accept = static_cast<uint32_t>(DeferredSeconds(n)); break;
    case TCP_WINDOW_CLAMP:
      if (n == 0 && !closed) return Errno(EINVAL);
      o.window_clamp = n == 0 ? 0 : static_cast<uint32_t>(std::max(n, kSmallestClamp));
      break;
    case TCP_QUICKACK: o.quick_ack = n != 0; break;
    case TCP_USER_TIMEOUT:
      if (n < 0) return Errno(EINVAL);
      o.user_timeout_ms = static_cast<uint32_t>(n);
      break;
    case TCP_NOTSENT_LOWAT: o.not_sent_low = n == 0 ? UINT32_MAX : static_cast<uint32_t>(n); break;
    default: return SetKeptTcpOption(name, n);
  }
  connection_->OptionsChanged();
  return Ok();
}

// Without effect, but TCP_INQ: they change when things are sent, not what; nobody opens fast here.
ErrnoOr<void> TcpSocket::SetKeptTcpOption(int name, int n) {
  net::TcpState state = connection_->state();
  bool closed = state == net::TcpState::kClosed, listens = state == net::TcpState::kListen;
  int high = 1;
  switch (name) {
    case TCP_FASTOPEN:
      if (!closed && !listens) return Errno(EINVAL);
      if (n > 0) n = static_cast<int>(std::min<uint64_t>(static_cast<uint64_t>(n), net_->sysctl(kSysctlSomaxconn)));
      high = INT32_MAX;
      break;
    case TCP_FASTOPEN_CONNECT:
      if (!closed) return Errno(EINVAL);
      break;
    case TCP_FASTOPEN_NO_COOKIE:
      if (!closed && !listens) return Errno(EINVAL);
      break;
    case TCP_SAVE_SYN: high = 2; break;
    case TCP_TX_DELAY: high = INT32_MAX; break;
    case kTcpRtoMax:
      if (n < 1000) return Errno(EINVAL);
      high = 120'000;
      break;
    case TCP_THIN_LINEAR_TIMEOUTS:
    case TCP_THIN_DUPACK:
    case TCP_INQ: break;
    default: return Errno(ENOPROTOOPT);
  }
  if (!Between(n, 0, high)) return Errno(EINVAL);
  if (name != TCP_THIN_DUPACK) Keep(SOL_TCP, name, n);
  return Ok();
}

ErrnoOr<std::string> TcpSocket::GetTcpOption(int name) {
  const net::TcpOptions& o = connection_->options();
  auto number = [](int64_t n) { return OptionBytes(static_cast<int>(n)); };
  switch (name) {
    case TCP_MAXSEG: {
      bool connected = connection_->was_connected();
      return number(!connected && o.max_segment != 0 ? o.max_segment : connection_->mss());
    }
    case TCP_NODELAY: return number(o.nodelay);
    case TCP_CORK: return number(o.cork);
    case TCP_KEEPIDLE: return number(o.keep_idle);
    case TCP_KEEPINTVL: return number(o.keep_interval);
    case TCP_KEEPCNT: return number(o.keep_count);
    case TCP_SYNCNT: return number(o.syn_retries);
    case TCP_LINGER2: return number(o.linger2);
    case TCP_DEFER_ACCEPT: return number(o.defer_accept);
    case TCP_WINDOW_CLAMP: return number(o.window_clamp);
    case TCP_QUICKACK: return number(o.quick_ack);
    case TCP_USER_TIMEOUT: return number(o.user_timeout_ms);
    case TCP_NOTSENT_LOWAT: return number(o.not_sent_low == UINT32_MAX ? 0 : o.not_sent_low);
    case TCP_CONGESTION: {
      std::string text(16, '\0');  // TCP_CA_NAME_MAX
      std::string_view known = CongestionName(o.congestion);
      memcpy(text.data(), known.data(), known.size());
      return text;
    }
    case TCP_INFO: return connection_->Info();
    case TCP_FASTOPEN:
    case TCP_FASTOPEN_CONNECT:
    case TCP_FASTOPEN_NO_COOKIE:
    case TCP_THIN_LINEAR_TIMEOUTS:
    case TCP_THIN_DUPACK:
    case TCP_SAVE_SYN:
    case TCP_INQ:
    case TCP_TX_DELAY:
    case TCP_REPAIR:
    case kTcpIsMptcp: return number(Kept(SOL_TCP, name));
    case kTcpRtoMax: return number(Kept(SOL_TCP, name, 120'000));
    case TCP_TIMESTAMP: return number(static_cast<int32_t>(net_->stack().Now() / net::kMs));
    case TCP_ULP:
    case TCP_CC_INFO:
    case TCP_FASTOPEN_KEY:
    case TCP_SAVED_SYN: return std::string();  // there is none
    case TCP_REPAIR_QUEUE:
    case TCP_QUEUE_SEQ:
    case TCP_REPAIR_WINDOW:
    case TCP_ZEROCOPY_RECEIVE: return Errno(EINVAL);
    default: return Errno(ENOPROTOOPT);
  }
}

}  // namespace amber
