#include "sentry/net/socket.h"

#include <string.h>
#include <sys/time.h>

#include <algorithm>

#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/sigio.h"
#include "sentry/kernel/task.h"
#include "sentry/net/socket_numbers.h"

namespace amber {
namespace {

template <typename T>
std::string Bytes(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

Socket::Socket() : ino_(NextAnonIno()) { set_flags(O_RDWR); }
Socket::~Socket() = default;

void Socket::SetIno(uint64_t ino) {
  ino_ = ino;
  NoteAnonIno(ino);
}

// __sock_recv_timestamp(): one of the four kinds, and what SO_TIMESTAMPING asks for. Whoever gets none is told by SIOCGSTAMP.
void Socket::AddTimestamp(ReceiveRequest& request, int64_t at) {
  timespec time{at / 1'000'000'000, at % 1'000'000'000};
  int kind = StampKind();
  if (kind == SO_TIMESTAMPNS || kind == kSoTimestampNsNew) {
    request.control.push_back({SOL_SOCKET, kind, Bytes(time)});
  } else if (kind != 0) {
    request.control.push_back({SOL_SOCKET, kind, Bytes(timeval{time.tv_sec, time.tv_nsec / 1000})});
  } else {
    received_at_ = at;
  }
  constexpr int kReceiveSoftware = 1 << 3, kSoftware = 1 << 4;  // SOF_TIMESTAMPING_*
  constexpr int kBoth = kReceiveSoftware | kSoftware;
  if ((Kept(SOL_SOCKET, SO_TIMESTAMPING) & kBoth) != kBoth) return;
  timespec three[3] = {time};  // the card's own time stays zero
  request.control.push_back({SOL_SOCKET, Kept(SOL_SOCKET, kSoTimestampingNew) != 0 ? kSoTimestampingNew : SO_TIMESTAMPING, Bytes(three)});
}

// sock_gettstamp(): of the last packet that was read without being told.
ErrnoOr<uint64_t> Socket::StampIoctl(Task& task, uint32_t command, uint64_t argument) {
  bool fine = command == kSiocGStampNs || command == kSiocGStampNsNew;
  if (!fine && command != kSiocGStamp && command != kSiocGStampNew) return Errno(ENOTTY);
  if (received_at_ == 0) return Errno(ENOENT);
  timespec time{received_at_ / 1'000'000'000, received_at_ % 1'000'000'000};
  if (!fine) time.tv_nsec /= 1000;
  TRY(task.CopyOut(UserPtr<timespec>(argument), time));
  return uint64_t{0};
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
