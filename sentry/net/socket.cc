#include "sentry/net/socket.h"

#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>

#include <algorithm>

#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/net/socket_numbers.h"

namespace amber {
namespace {

constexpr int kCapNetAdmin = 12;

// Boolean options without an effect on sockets that never leave the machine.
constexpr uint64_t kToggles = uint64_t{1} << SO_DEBUG | uint64_t{1} << SO_REUSEADDR | uint64_t{1} << SO_DONTROUTE | uint64_t{1} << SO_BROADCAST |
                              uint64_t{1} << SO_KEEPALIVE | uint64_t{1} << SO_OOBINLINE | uint64_t{1} << SO_REUSEPORT | uint64_t{1} << SO_TIMESTAMP |
                              uint64_t{1} << SO_NO_CHECK | uint64_t{1} << SO_TIMESTAMPNS;

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
ErrnoOr<T> Parse(std::span<const uint8_t> value) {
  if (value.size() < sizeof(T)) return Errno(EINVAL);
  T out;
  memcpy(&out, value.data(), sizeof(T));
  return out;
}

// sock_set_timeout() of Linux: 0 is for ever, negative is now.
ErrnoOr<int64_t> ParseTimeout(std::span<const uint8_t> value) {
  auto t = TRY(Parse<timeval>(value));
  if (t.tv_usec < 0 || t.tv_usec >= 1'000'000) return Errno(EDOM);
  if (t.tv_sec < 0) return int64_t{0};
  if ((t.tv_sec == 0 && t.tv_usec == 0) || t.tv_sec >= INT64_MAX / kNsPerSecond - 1) return kNever;
  return t.tv_sec * kNsPerSecond + t.tv_usec * 1000;
}

timeval TimeoutValue(int64_t ns) {
  if (ns == kNever) return {0, 0};
  return {ns / kNsPerSecond, ns % kNsPerSecond / 1000};
}

}  // namespace

Socket::Socket() : ino_(NextAnonIno()) { set_flags(O_RDWR); }
Socket::~Socket() = default;

void Socket::SetIno(uint64_t ino) {
  ino_ = ino;
  NoteAnonIno(ino);
}

ErrnoOr<void> Socket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);  // do_sock_setsockopt(), of a family without options.
  switch (name) {
    case SO_RCVTIMEO: receive_timeout_ = TRY(ParseTimeout(value)); return Ok();
    case SO_SNDTIMEO: send_timeout_ = TRY(ParseTimeout(value)); return Ok();
    case SO_LINGER: {
      auto l = TRY(Parse<linger>(value));
      linger_.l_onoff = l.l_onoff != 0 ? 1 : 0;
      if (l.l_onoff != 0) linger_.l_linger = l.l_linger;
      return Ok();
    }
    default: break;
  }
  int number = TRY(Parse<int>(value));
  switch (name) {
    case SO_SNDBUFFORCE:
    case SO_RCVBUFFORCE:
      if (!task.Has(kCapNetAdmin)) return Errno(EPERM);
      break;
    case SO_SNDBUF:
    case SO_RCVBUF:
      // Compared as unsigned, so that negative values mean the maximum (sk_setsockopt).
      number = static_cast<int>(std::min<uint32_t>(static_cast<uint32_t>(number), kMaxBuffer));
      break;
    case SO_PASSCRED:
      if (family_ != AF_UNIX && family_ != AF_NETLINK) return Errno(EOPNOTSUPP);  // sk_may_scm_recv()
      pass_credentials_ = number != 0;
      return Ok();
    case SO_PASSSEC: return family_ == AF_UNIX || family_ == AF_NETLINK ? ErrnoOr<void>() : Errno(EOPNOTSUPP);  // no security module has labels
    case SO_PEEK_OFF:
      if (!has_peek_offset()) return Errno(EOPNOTSUPP);
      peek_offset_ = number;
      return Ok();
    case SO_PRIORITY:
      if ((number < 0 || number > 6) && !task.Has(kCapNetAdmin)) return Errno(EPERM);
      priority_ = number;
      return Ok();
    case SO_RCVLOWAT: low_watermark_ = number < 0 ? INT32_MAX : std::max(number, 1); return Ok();
    case kSoPassPidfd:
    case kSoPassRights: return Errno(EOPNOTSUPP);  // for Unix sockets, which see to them
    case SO_TYPE:
    case SO_PROTOCOL:
    case SO_DOMAIN:
    case SO_ERROR:
    case SO_ACCEPTCONN: return Errno(ENOPROTOOPT);
    default:
      if (name == SO_REUSEPORT && number != 0 && family_ != AF_INET && family_ != AF_INET6) return Errno(EOPNOTSUPP);
      if (name == SO_DEBUG && number != 0 && !task.Has(kCapNetAdmin)) return Errno(EACCES);
      if (name < 0 || name >= 64 || (kToggles >> name & 1) == 0) return Errno(ENOPROTOOPT);
      if (number != 0) {
        toggles_ |= uint64_t{1} << name;
      } else {
        toggles_ &= ~(uint64_t{1} << name);
      }
      return Ok();
  }
  int64_t doubled = std::min<int64_t>(int64_t{std::max(number, 0)} * 2, INT32_MAX);
  if (name == SO_SNDBUF || name == SO_SNDBUFFORCE) {
    send_buffer_ = static_cast<int>(std::max<int64_t>(doubled, 4608));  // SOCK_MIN_SNDBUF
    if (WaitQueue* queue = wait_queue(); queue != nullptr) queue->Notify(0x4 /* POLLOUT */);
  } else {
    receive_buffer_ = static_cast<int>(std::max<int64_t>(doubled, 2304));  // SOCK_MIN_RCVBUF
  }
  return Ok();
}

ErrnoOr<std::string> Socket::GetOption(Task&, int level, int name, size_t capacity) {
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
  switch (name) {
    case SO_TYPE: return Bytes(type_);
    case SO_DOMAIN: return Bytes(family_);
    case SO_PROTOCOL: return Bytes(protocol_);
    case SO_ERROR: return Bytes(TakeError());
    case SO_ACCEPTCONN: return Bytes<int>(listening() ? 1 : 0);
    case SO_SNDBUF: return Bytes(send_buffer_);
    case SO_RCVBUF: return Bytes(receive_buffer_);
    case SO_RCVTIMEO: return Bytes(TimeoutValue(receive_timeout_));
    case SO_SNDTIMEO: return Bytes(TimeoutValue(send_timeout_));
    case SO_LINGER: return Bytes(linger_);
    case SO_PASSCRED:
    case SO_PASSSEC:
      if (family_ != AF_UNIX && family_ != AF_NETLINK) return Errno(EOPNOTSUPP);
      return Bytes<int>(name == SO_PASSCRED && pass_credentials_ ? 1 : 0);
    case SO_PEEK_OFF: return has_peek_offset() ? ErrnoOr<std::string>(Bytes(peek_offset_)) : Errno(EOPNOTSUPP);
    case SO_PEERCRED: return Bytes(ucred{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)});
    case kSoPeerGroups:
    case kSoPeerPidfd: return Errno(ENODATA);
    case kSoPassPidfd:
    case kSoPassRights: return Errno(EOPNOTSUPP);
    case SO_PEERNAME: {
      auto peer = PeerAddress();
      if (!peer.ok()) return Errno(ENOTCONN);
      if (peer->size() < capacity) return Errno(EINVAL);
      return peer;
    }
    case SO_COOKIE: return capacity < sizeof(uint64_t) ? Errno(EINVAL) : ErrnoOr<std::string>(Bytes(ino_));
    case SO_PRIORITY: return Bytes(priority_);
    case SO_RCVLOWAT: return Bytes(low_watermark_);
    case SO_SNDLOWAT: return Bytes<int>(1);
    default:
      if (name < 0 || name >= 64 || (kToggles >> name & 1) == 0) return Errno(ENOPROTOOPT);
      return Bytes<int>((toggles_ >> name & 1) != 0 ? 1 : 0);
  }
}

ErrnoOr<size_t> Socket::Read(Task& task, Sink& sink) {
  ReceiveRequest request{sink};
  return Receive(task, request);
}

ErrnoOr<size_t> Socket::Write(Task& task, Source& source) {
  SendRequest request{source};
  return Send(task, request);
}

ErrnoOr<void> Socket::Stat(Task& task, struct stat* out) {
  FillAnonStat(out, kSockfsMinor, ino_, S_IFSOCK | 0777, task.creds().fsuid, task.creds().fsgid);
  return Ok();
}

void Socket::MovePeekOffset(int flags, size_t bytes) {
  if (peek_offset_ < 0) return;
  int64_t by = static_cast<int64_t>((flags & MSG_PEEK) != 0 ? bytes : -bytes);
  peek_offset_ = static_cast<int>(std::clamp<int64_t>(peek_offset_ + by, 0, INT32_MAX));
}

void Socket::SendUrgentSignal() {
  if (SigioOwner* owner = SigioOwner::Of(*this, false); owner != nullptr) owner->TellUrgent();
}

ErrnoOr<uint64_t> Socket::Ioctl(Task&, uint32_t, uint64_t) { return Errno(ENOTTY); }

std::string Socket::LinkName() const { return "socket:[" + std::to_string(ino_) + "]"; }

}  // namespace amber
