// A socket: a file with the operations of socket(2) on top. Families derive from it (unix/, inet/, netlink/).
//
// Guarded by the kernel lock. As with all files nothing blocks: EAGAIN means that wait_queue() will announce a change, whatever
// O_NONBLOCK says; the system call layer waits (sentry/syscalls/socket_calls.cc). Only Connect() may call Task::Block() itself, since what it waits
// for is the other side's.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "sentry/kernel/clock.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/filter/socket_filter.h"
#include "sentry/vfs/file.h"

namespace amber {

// A control message beside a message, but for descriptors and credentials.
struct ControlMessage {
  int level = 0, type = 0;
  std::string data;
};

// What sendmsg hands over besides flags. Addresses are the raw bytes of a sockaddr.
struct SendRequest {
  Source& source;
  int flags = 0;  // MSG_*
  std::string address;
  std::vector<RefPtr<File>> rights;     // SCM_RIGHTS
  std::optional<ucred> credentials;     // SCM_CREDENTIALS, checked already
  std::vector<ControlMessage> control;  // unused by Unix sockets
};

struct ReceiveRequest {
  Sink& sink;
  int flags = 0;
  // Results.
  std::string address;
  int out_flags = 0;     // MSG_TRUNC, MSG_EOR
  size_t full_size = 0;  // of a message that was cut off
  std::vector<RefPtr<File>> rights;
  std::optional<ucred> credentials;
  bool wants_pidfd = false;
  RefPtr<ThreadGroup> process;  // for SCM_PIDFD, if it is wanted and known
  std::vector<ControlMessage> control;
};

class Socket : public File {
 public:
  int family() const { return family_; }
  int type() const { return type_; }
  int protocol() const { return protocol_; }
  bool is_stream() const { return type_ == SOCK_STREAM; }

  virtual ErrnoOr<void> Bind(Task&, std::string_view /*address*/) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<void> Listen(Task&, int /*backlog*/) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<void> Connect(Task&, std::string_view /*address*/) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<RefPtr<Socket>> Accept(Task&) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<void> Shutdown(Task&, int /*how*/) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<std::string> LocalAddress() { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<std::string> PeerAddress() { return Errno(EOPNOTSUPP); }
  // Bytes sent or received: 0 at the end of a stream.
  virtual ErrnoOr<size_t> Send(Task&, SendRequest&) { return Errno(EOPNOTSUPP); }
  virtual ErrnoOr<size_t> Receive(Task&, ReceiveRequest&) { return Errno(EOPNOTSUPP); }
  // The options of SOL_SOCKET that all families share are here; subclasses override and fall back to these.
  virtual ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value);
  // `capacity`: how many bytes the guest has room for.
  virtual ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity);
  // The same of an option whose value depends on what lies where the answer goes (PACKET_HDRLEN).
  virtual ErrnoOr<std::string> AnswerOption(Task& task, int level, int name, int /*question*/, size_t capacity) {
    return GetOption(task, level, name, capacity);
  }

  // SO_RCVTIMEO and SO_SNDTIMEO in ns, kNever if not set.
  int64_t receive_timeout() const { return receive_timeout_; }
  int64_t send_timeout() const { return send_timeout_; }
  bool passes_credentials() const { return pass_credentials_; }
  int send_buffer() const { return send_buffer_; }
  int receive_buffer() const { return receive_buffer_; }

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  bool pollable() const override { return true; }
  bool writes_whole() const override { return is_stream(); }
  std::string LinkName() const override;
  uint64_t ino() const { return ino_; }

 protected:
  static constexpr int kDefaultBuffer = 212992;  // net.core.wmem_default
  static constexpr int kMaxBuffer = 212992;      // net.core.wmem_max

  Socket();
  ~Socket() override;
  void Init(int family, int type, int protocol) { family_ = family, type_ = type, protocol_ = protocol; }
  // The pending error of SO_ERROR; reading it clears it.
  virtual int TakeError() { return 0; }
  virtual bool listening() const { return false; }
  void SetIno(uint64_t ino);
  // SO_ATTACH_FILTER means something here.
  virtual bool takes_filters() const { return true; }
  // Options that only read back. There is a bounded number of names.
  void Keep(int level, int name, int value);
  int Kept(int level, int name, int otherwise = 0) const;
  bool toggle(int option) const { return (toggles_ >> option & 1) != 0; }
  // SO_TIMESTAMP and SO_TIMESTAMPNS of what was received at `at` (ns of the real time), and what SIOCGSTAMP tells then.
  void AddTimestamp(ReceiveRequest& request, int64_t at);
  // SIOCGSTAMP and its kin; ENOTTY for others.
  ErrnoOr<uint64_t> StampIoctl(Task& task, uint32_t command, uint64_t argument);
  // The filter and what is kept, in an image.
  template <typename Message>
  void SaveShared(Message* out) const {
    if (filter_) out->set_filter(filter_->Bytes());
    out->set_filter_locked(filter_locked_);
    out->set_stamp(received_at_);
    for (const KeptOption& k : kept_) out->add_kept(k.level), out->add_kept(k.name), out->add_kept(k.value);
  }
  template <typename Message>
  bool LoadShared(const Message& in) {
    filter_locked_ = in.filter_locked();
    received_at_ = in.stamp();
    for (int i = 0; i + 2 < in.kept_size(); i += 3) kept_.push_back({in.kept(i), in.kept(i + 1), in.kept(i + 2)});
    if (in.filter().empty()) return true;
    filter_ = SocketFilter::FromBytes(in.filter());
    return static_cast<bool>(filter_);
  }
  // SO_PEEK_OFF: Linux has it for Unix sockets, UDP and TCP.
  virtual bool has_peek_offset() const { return false; }
  // Where a receive with `flags` begins (sk_peek_offset).
  size_t PeekOffset(int flags) const { return (flags & MSG_PEEK) != 0 && peek_offset_ > 0 ? static_cast<size_t>(peek_offset_) : 0; }
  // `bytes` were looked at, or taken: the offset goes with them (sk_peek_offset_fwd, sk_peek_offset_bwd).
  void MovePeekOffset(int flags, size_t bytes);
  // Sends SIGURG to whom F_SETOWN names (sk_send_sigurg).
  void SendUrgentSignal();

  int family_ = AF_UNSPEC;
  int type_ = 0;
  int protocol_ = 0;
  uint64_t ino_;
  int64_t receive_timeout_ = kNever;
  int64_t send_timeout_ = kNever;
  int send_buffer_ = kDefaultBuffer;
  int receive_buffer_ = kDefaultBuffer;
  bool pass_credentials_ = false;
  int peek_offset_ = -1;  // below 0: MSG_PEEK begins at the front and moves nothing
  // Options that are only remembered: bit n is option n (SO_REUSEADDR and the like), and the ones with values.
  uint64_t toggles_ = 0;
  linger linger_{};
  int priority_ = 0;
  int low_watermark_ = 1;
  RefPtr<const SocketFilter> filter_;
  bool filter_locked_ = false;  // SO_LOCK_FILTER
  int64_t received_at_ = 0;     // for SIOCGSTAMP; 0: nothing came yet

 private:
  struct KeptOption {
    int level, name, value;
  };
  std::vector<KeptOption> kept_;

  // Which of SO_TIMESTAMP and its kin is on; 0: none.
  int StampKind() const;
  ErrnoOr<void> SetTimestamping(int name, std::span<const uint8_t> value);
  std::optional<ErrnoOr<void>> SetStructure(Task& task, int name, std::span<const uint8_t> value);
  void SetBuffer(int name, int number);
  ErrnoOr<void> SetPlain(Task& task, int name, int number);
  ErrnoOr<std::string> GetPlain(int name) const;
  ErrnoOr<std::string> GetKept(int name, size_t capacity) const;
  ErrnoOr<void> SetFilter(Task& task, int name, std::span<const uint8_t> value);
  ErrnoOr<void> AttachFilter(Task& task, std::span<const uint8_t> value);
  ErrnoOr<std::string> FilterProgram(size_t capacity) const;
};

}  // namespace amber
