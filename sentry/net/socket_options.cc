// Options of SOL_SOCKET (socket(7), sk_setsockopt()). All families have the same, but for what the families themselves see to.
#include <string.h>
#include <sys/time.h>

#include <algorithm>
#include <iterator>

#include "sentry/kernel/task.h"
#include "sentry/net/socket.h"
#include "sentry/net/socket_numbers.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr int kCapNetAdmin = 12, kCapNetRaw = 13;

// Options that read back what was set: as it was, or as 0 and 1.
enum class Form : uint8_t { kToggle, kNumber, kNotNegative };
struct PlainOption {
  int name;
  Form form = Form::kToggle;
  bool privileged = false;  // to switch it on
  int initial = 0;
};
constexpr PlainOption kPlain[] = {
    {SO_DEBUG, Form::kToggle, true},
    {SO_REUSEADDR},
    {SO_DONTROUTE},
    {SO_BROADCAST},
    {SO_KEEPALIVE},
    {SO_OOBINLINE},
    {SO_REUSEPORT},
    {SO_NO_CHECK},
    {SO_RXQ_OVFL},
    {SO_WIFI_STATUS},
    {SO_NOFCS},
    {SO_SELECT_ERR_QUEUE},
    {SO_BUSY_POLL, Form::kNotNegative, true},
    {SO_INCOMING_CPU, Form::kNumber, false, -1},
    {SO_PREFER_BUSY_POLL, Form::kToggle, true},
    {kSoRcvMark, Form::kToggle, true},
    {kSoRcvPriority},
};

bool IsTcp(const Socket& s) { return s.is_stream() && (s.family() == AF_INET || s.family() == AF_INET6); }

const PlainOption* FindPlain(int name) {
  const PlainOption* found = std::ranges::find_if(kPlain, [name](const PlainOption& o) { return o.name == name; });
  return found == std::end(kPlain) ? nullptr : found;
}

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

// The four that say how a message tells its time exclude each other; each is a bit of the toggles, the last one the bit that no option has.
constexpr int kStampKinds[] = {SO_TIMESTAMP, SO_TIMESTAMPNS, kSoTimestampNew, kSoTimestampNsNew};
uint64_t StampBit(int name) { return uint64_t{1} << (name == kSoTimestampNsNew ? 0 : name); }

}  // namespace

int Socket::StampKind() const {
  // Nanoseconds first: an image from before they excluded each other may have both.
  for (int name : {SO_TIMESTAMPNS, kSoTimestampNsNew, SO_TIMESTAMP, kSoTimestampNew}) {
    if ((toggles_ & StampBit(name)) != 0) return name;
  }
  return 0;
}

void Socket::Keep(int level, int name, int value) {
  auto it = std::ranges::find_if(kept_, [&](const KeptOption& k) { return k.level == level && k.name == name; });
  if (it == kept_.end()) {
    kept_.push_back({level, name, value});
  } else {
    it->value = value;
  }
}

int Socket::Kept(int level, int name, int otherwise) const {
  auto it = std::ranges::find_if(kept_, [&](const KeptOption& k) { return k.level == level && k.name == name; });
  return it == kept_.end() ? otherwise : it->value;
}

// sk_attach_filter(): who has locked it keeps it.
ErrnoOr<void> Socket::AttachFilter(Task& task, std::span<const uint8_t> value) {
  if (!takes_filters()) return Errno(ENOPROTOOPT);
  auto described = TRY(Parse<sock_fprog>(value));
  if (value.size() != sizeof(described)) return Errno(EINVAL);
  if (filter_locked_) return Errno(EPERM);
  if (described.filter == nullptr || described.len == 0 || described.len > kMaxBpfProgram) return Errno(EINVAL);
  BpfProgram program(described.len);
  TRY(task.CopyInBytes(reinterpret_cast<uint64_t>(described.filter), program.data(), program.size() * sizeof(sock_filter)));
  TRY(CheckBpfProgram(program));
  filter_ = MakeRef<SocketFilter>(std::move(program));
  return Ok();
}

// sk_get_filter(): `capacity` is in instructions here; 0 asks for how many there are.
ErrnoOr<std::string> Socket::FilterProgram(size_t capacity) const {
  if (!filter_) return std::string();
  if (capacity != 0 && capacity < filter_->program().size()) return Errno(EINVAL);
  return filter_->Bytes();
}

// Programs, of which there are only those that SO_ATTACH_FILTER takes.
ErrnoOr<void> Socket::SetFilter(Task& task, int name, std::span<const uint8_t> value) {
  int number = TRY(Parse<int>(value));
  switch (name) {
    case SO_ATTACH_FILTER: return AttachFilter(task, value);
    case SO_ATTACH_BPF:
    case SO_ATTACH_REUSEPORT_EBPF:
      // No bpf(2), so no descriptor is a program's.
      if (value.size() != sizeof(number)) return Errno(EINVAL);
      if (!takes_filters()) return Errno(ENOPROTOOPT);
      if (filter_locked_) return Errno(EPERM);
      return task.files().Get(number).ok() ? Errno(EINVAL) : Errno(EBADF);
    case SO_DETACH_FILTER:
      if (filter_locked_) return Errno(EPERM);
      if (!filter_) return Errno(ENOENT);
      filter_ = nullptr;
      return Ok();
    case SO_LOCK_FILTER:
      if (!takes_filters()) return Errno(ENOPROTOOPT);
      if (filter_locked_ && number == 0) return Errno(EPERM);
      filter_locked_ = number != 0;
      return Ok();
    default:
      // Groups of ports have no programs here; Linux says EINVAL where there is no group.
      return Errno(toggle(SO_REUSEPORT) ? ENOPROTOOPT : EINVAL);
  }
}

// sock_set_timestamping(). Packets that are sent have no time of their own here; those that are received do.
ErrnoOr<void> Socket::SetTimestamping(int name, std::span<const uint8_t> value) {
  constexpr int kAll = (1 << 19) - 1, kId = 1 << 7, kOnlyTime = 1 << 11, kStatistics = 1 << 12, kClock = 1 << 15, kTcpId = 1 << 16;
  int flags = TRY(Parse<int>(value));
  if ((flags & ~kAll) != 0 || ((flags & kTcpId) != 0 && (flags & kId) == 0) || ((flags & kStatistics) != 0 && (flags & kOnlyTime) == 0)) {
    return Errno(EINVAL);
  }
  if ((flags & kClock) != 0) return Errno(EOPNOTSUPP);
  // Bytes are counted from where a connection begins.
  if (IsTcp(*this) && (flags & kId) != 0 && (Kept(SOL_SOCKET, SO_TIMESTAMPING) & kId) == 0 && !PeerAddress().ok()) return Errno(EINVAL);
  Keep(SOL_SOCKET, SO_TIMESTAMPING, flags);
  Keep(SOL_SOCKET, kSoTimestampingNew, name == kSoTimestampingNew);
  return Ok();
}

// Of sk_setsockopt(), what has no value of one number.
std::optional<ErrnoOr<void>> Socket::SetStructure(Task& task, int name, std::span<const uint8_t> value) {
  auto timeout = [&](int64_t* out) -> ErrnoOr<void> {
    *out = TRY(ParseTimeout(value));
    return Ok();
  };
  switch (name) {
    case SO_RCVTIMEO:
    case kSoRcvTimeoNew: return timeout(&receive_timeout_);
    case SO_SNDTIMEO:
    case kSoSndTimeoNew: return timeout(&send_timeout_);
    case SO_LINGER: {
      auto l = Parse<linger>(value);
      if (!l.ok()) return l.error();
      linger_.l_onoff = l->l_onoff != 0 ? 1 : 0;
      if (l->l_onoff != 0) linger_.l_linger = l->l_linger;
      return Ok();
    }
    case SO_ATTACH_FILTER:
    case SO_ATTACH_BPF:
    case SO_ATTACH_REUSEPORT_CBPF:
    case SO_ATTACH_REUSEPORT_EBPF:
    case SO_DETACH_FILTER:
    case SO_LOCK_FILTER:
    case kSoDetachReuseportBpf: return SetFilter(task, name, value);
    case SO_TIMESTAMPING:
    case kSoTimestampingNew: return SetTimestamping(name, value);
    case SO_MAX_PACING_RATE: {
      uint64_t rate = 0;
      memcpy(&rate, value.data(), value.size() == sizeof(rate) ? sizeof(rate) : sizeof(uint32_t));
      if (value.size() != sizeof(rate) && rate == UINT32_MAX) rate = UINT64_MAX;
      Keep(SOL_SOCKET, name, static_cast<int>(~rate));  // nothing kept: no bound
      Keep(SOL_SOCKET, name | kUpperHalf, static_cast<int>(~rate >> 32));
      return Ok();
    }
    case SO_TXTIME: {
      uint32_t two[2];  // a clock, flags
      if (value.size() != sizeof(two)) return Errno(EINVAL);
      memcpy(two, value.data(), sizeof(two));
      if ((two[1] & ~3u) != 0) return Errno(EINVAL);
      if (two[0] != CLOCK_MONOTONIC && !task.Has(kCapNetAdmin)) return Errno(EPERM);
      Keep(SOL_SOCKET, name, static_cast<int>(two[0]));
      Keep(SOL_SOCKET, name | kUpperHalf, static_cast<int>(two[1]));
      return Ok();
    }
    default: return std::nullopt;
  }
}

void Socket::SetBuffer(int name, int number) {
  int64_t doubled = std::min<int64_t>(int64_t{std::max(number, 0)} * 2, INT32_MAX);
  if (name == SO_SNDBUF || name == SO_SNDBUFFORCE) {
    send_buffer_ = static_cast<int>(std::max<int64_t>(doubled, 4608));  // SOCK_MIN_SNDBUF
    if (WaitQueue* queue = wait_queue(); queue != nullptr) queue->Notify(0x4 /* POLLOUT */);
  } else {
    receive_buffer_ = static_cast<int>(std::max<int64_t>(doubled, 2304));  // SOCK_MIN_RCVBUF
  }
}

ErrnoOr<void> Socket::SetPlain(Task& task, int name, int number) {
  const PlainOption* option = FindPlain(name);
  if (option == nullptr) return Errno(ENOPROTOOPT);
  if (name == SO_REUSEPORT && number != 0 && family_ != AF_INET && family_ != AF_INET6) return Errno(EOPNOTSUPP);
  if (option->form == Form::kNotNegative && number < 0) return Errno(EINVAL);
  if (option->privileged && number != 0 && !task.Has(kCapNetAdmin)) return Errno(name == SO_DEBUG ? EACCES : EPERM);
  if (option->form != Form::kToggle) {
    Keep(SOL_SOCKET, name, number);
  } else if (name >= 64) {
    Keep(SOL_SOCKET, name, number != 0);
  } else if (number != 0) {
    toggles_ |= uint64_t{1} << name;
  } else {
    toggles_ &= ~(uint64_t{1} << name);
  }
  return Ok();
}

ErrnoOr<void> Socket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);  // do_sock_setsockopt(), of a family without options.
  int number = TRY(Parse<int>(value));
  if (auto done = SetStructure(task, name, value); done) return *done;
  bool scm = family_ == AF_UNIX || family_ == AF_NETLINK;  // sk_may_scm_recv()
  switch (name) {
    case SO_SNDBUFFORCE:
    case SO_RCVBUFFORCE:
      if (!task.Has(kCapNetAdmin)) return Errno(EPERM);
      SetBuffer(name, number);
      return Ok();
    case SO_SNDBUF:
    case SO_RCVBUF:
      // Compared as unsigned, so that negative values mean the maximum.
      SetBuffer(name, static_cast<int>(std::min<uint32_t>(static_cast<uint32_t>(number), kMaxBuffer)));
      return Ok();
    case SO_PASSCRED:
      if (!scm) return Errno(EOPNOTSUPP);
      pass_credentials_ = number != 0;
      return Ok();
    case SO_PASSSEC:
      if (!scm) return Errno(EOPNOTSUPP);
      Keep(SOL_SOCKET, name, number != 0);  // no security module has labels
      return Ok();
    case SO_PEEK_OFF:
      if (!has_peek_offset()) return Errno(EOPNOTSUPP);
      peek_offset_ = number;
      return Ok();
    case SO_PRIORITY:
      if ((number < 0 || number > 6) && !task.Has(kCapNetAdmin) && !task.Has(kCapNetRaw)) return Errno(EPERM);
      priority_ = number;
      return Ok();
    case SO_RCVLOWAT: low_watermark_ = number < 0 ? INT32_MAX : std::max(number, 1); return Ok();
    case SO_TIMESTAMP:
    case SO_TIMESTAMPNS:
    case kSoTimestampNew:
    case kSoTimestampNsNew:
      for (int other : kStampKinds) toggles_ &= ~StampBit(other);
      if (number != 0) toggles_ |= StampBit(name);
      return Ok();
    case SO_MARK:
      if (!task.Has(kCapNetAdmin) && !task.Has(kCapNetRaw)) return Errno(EPERM);
      Keep(SOL_SOCKET, name, number);
      return Ok();
    case kSoBusyPollBudget: return number < 0 || number > UINT16_MAX ? Errno(EINVAL) : ErrnoOr<void>();
    case SO_BSDCOMPAT:
    case SO_CNX_ADVICE: return Ok();
    case kSoBufLock:
      if ((number & ~3) != 0) return Errno(EINVAL);
      Keep(SOL_SOCKET, name, number);
      return Ok();
    case kSoTxRehash:
      if (!IsTcp(*this)) return Errno(EOPNOTSUPP);
      if (number < -1 || number > 1) return Errno(EINVAL);
      Keep(SOL_SOCKET, name, number == -1 ? 1 : number);
      return Ok();
    case kSoReserveMem: return Errno(number < 0 ? EINVAL : EOPNOTSUPP);
    case SO_ZEROCOPY:
      // What is sent is copied all the same, and no completion is told: programs ask for one by MSG_ZEROCOPY only where this says yes.
      return Errno(EOPNOTSUPP);
    case kSoPassPidfd:
    case kSoPassRights: return Errno(EOPNOTSUPP);  // for Unix sockets, which see to them
    default: return SetPlain(task, name, number);
  }
}

ErrnoOr<std::string> Socket::GetPlain(int name) const {
  const PlainOption* option = FindPlain(name);
  if (option == nullptr) return Errno(ENOPROTOOPT);
  if (option->form != Form::kToggle || name >= 64) return Bytes(Kept(SOL_SOCKET, name, option->initial));
  return Bytes<int>(toggle(name) ? 1 : 0);
}

// What was set, of options that are no plain ones.
ErrnoOr<std::string> Socket::GetKept(int name, size_t capacity) const {
  switch (name) {
    case SO_TIMESTAMP:
    case SO_TIMESTAMPNS:
    case kSoTimestampNew:
    case kSoTimestampNsNew: {
      int kind = StampKind();
      return Bytes<int>(kind == name || (kind == kSoTimestampNsNew && name == kSoTimestampNew) ? 1 : 0);
    }
    case SO_TIMESTAMPING:
    case kSoTimestampingNew: {
      bool told = name == SO_TIMESTAMPING || Kept(SOL_SOCKET, kSoTimestampingNew) != 0;
      int two[2] = {told ? Kept(SOL_SOCKET, SO_TIMESTAMPING) : 0, 0};
      return Bytes(two);
    }
    case SO_MARK:
    case SO_BSDCOMPAT:
    case kSoBufLock:
    case kSoReserveMem:
    case SO_ZEROCOPY:
    case SO_INCOMING_NAPI_ID: return Bytes(Kept(SOL_SOCKET, name));
    case kSoTxRehash: return IsTcp(*this) ? ErrnoOr<std::string>(Bytes(Kept(SOL_SOCKET, name, 1))) : Errno(EOPNOTSUPP);
    case SO_MAX_PACING_RATE: {
      uint64_t rate =
          ~(static_cast<uint64_t>(static_cast<uint32_t>(Kept(SOL_SOCKET, name | kUpperHalf))) << 32 | static_cast<uint32_t>(Kept(SOL_SOCKET, name)));
      return capacity >= sizeof(rate) ? Bytes(rate) : Bytes(static_cast<uint32_t>(std::min<uint64_t>(rate, UINT32_MAX)));
    }
    case SO_TXTIME: {
      int two[2] = {Kept(SOL_SOCKET, name), Kept(SOL_SOCKET, name | kUpperHalf)};
      return Bytes(two);
    }
    case SO_MEMINFO: {
      uint32_t memory[9] = {};  // SK_MEMINFO_*
      memory[1] = static_cast<uint32_t>(receive_buffer_);
      memory[3] = static_cast<uint32_t>(send_buffer_);
      return Bytes(memory);
    }
    default: return GetPlain(name);
  }
}

ErrnoOr<std::string> Socket::GetOption(Task&, int level, int name, size_t capacity) {
  if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
  bool scm = family_ == AF_UNIX || family_ == AF_NETLINK;
  switch (name) {
    case SO_TYPE: return Bytes(type_);
    case SO_DOMAIN: return Bytes(family_);
    case SO_PROTOCOL: return Bytes(protocol_);
    case SO_ERROR: return Bytes(TakeError());
    case SO_ACCEPTCONN: return Bytes<int>(listening() ? 1 : 0);
    case SO_GET_FILTER: return FilterProgram(capacity);
    case SO_LOCK_FILTER: return Bytes<int>(filter_locked_ ? 1 : 0);
    case SO_BPF_EXTENSIONS: return Bytes<int>(SKF_AD_MAX);
    case SO_SNDBUF: return Bytes(send_buffer_);
    case SO_RCVBUF: return Bytes(receive_buffer_);
    case SO_RCVTIMEO:
    case kSoRcvTimeoNew: return Bytes(TimeoutValue(receive_timeout_));
    case SO_SNDTIMEO:
    case kSoSndTimeoNew: return Bytes(TimeoutValue(send_timeout_));
    case SO_LINGER: return Bytes(linger_);
    case SO_PASSCRED:
    case SO_PASSSEC:
      if (!scm) return Errno(EOPNOTSUPP);
      return Bytes<int>(name == SO_PASSCRED ? pass_credentials_ : Kept(SOL_SOCKET, name));
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
    default: return GetKept(name, capacity);
  }
}

}  // namespace amber
