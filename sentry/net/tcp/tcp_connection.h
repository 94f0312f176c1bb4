// One end of a TCP connection, or a listener: the state machine of RFC 9293 with time stamps and window scaling (RFC 7323),
// selective acknowledgements (RFC 2018, 6675), CUBIC (RFC 9438), Reno (RFC 5681) by option, and the timers of RFC 6298.
//
// Plain data but for the references to its stack and observer, so that it can be saved in any state. Counted: the socket holds it, the layer's table
// holds it while packets may reach it, a listener holds those that wait for accept(). A connection whose socket was closed (no
// observer, orphan()) goes on by itself until it is done. Guarded by the kernel lock. Public methods open a Stack::Batch.
//
//   tcp_connection.cc  life: connect, listen, accept, close; read and write
//   tcp_input.cc       segments that arrive     tcp_ack.cc     acknowledgements, loss
//   tcp_output.cc      segments that leave      tcp_timer.cc   timers
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/net/ip/ports.h"
#include "sentry/net/ip/stack.h"
#include "sentry/net/tcp/tcp_types.h"
#include "sentry/vfs/io.h"

namespace amber::proto {
class TcpConnection;
}

namespace amber::net {

class TcpLayer;

class TcpObserver {
 public:
  // `events` are poll(2) bits that may hold now.
  virtual void OnTcpEvent(uint32_t events) = 0;
  // Urgent data: SIGURG.
  virtual void OnTcpUrgent() {}

 protected:
  ~TcpObserver() = default;
};

class TcpConnection final : public RefCounted<TcpConnection>, public state::Saveable {
 public:
  TcpConnection();  // for Load()
  explicit TcpConnection(TcpLayer& layer);
  ~TcpConnection() override;

  // --- life ---
  ErrnoOr<void> Bind(const Endpoint& local, bool v6only, uint32_t uid);
  // Sends a SYN. ENETUNREACH, EADDRNOTAVAIL ...; how it ends, the observer learns.
  ErrnoOr<void> Connect(const Endpoint& remote, bool v6only, uint32_t uid);
  ErrnoOr<void> Listen(uint32_t backlog);
  // A connection that is established, or null.
  RefPtr<TcpConnection> Accept();
  // SHUT_RD is 1, SHUT_WR is 2, both are 3.
  void Shutdown(int bits);
  // The socket has gone: says goodbye (or resets) and lives on without it. `reset`: SO_LINGER with no time.
  void Close(bool reset);
  // connect(2) with AF_UNSPEC: back to a new socket, which keeps what it was bound to by bind(2).
  void Disconnect();

  // --- data ---
  // Queues what there is room for. EAGAIN, EPIPE, the pending error. `more`: MSG_MORE; `urgent`: the last byte is.
  ErrnoOr<size_t> Write(Source& source, bool more, bool urgent);
  struct ReadOptions {
    bool peek = false;
    bool discard = false;  // MSG_TRUNC: count, but do not copy
    size_t peek_offset = 0;
  };
  // 0 at the end of the stream.
  ErrnoOr<size_t> Read(Sink& sink, const ReadOptions& options);
  // The urgent byte: EINVAL if there is none, EAGAIN if it is announced but not here.
  ErrnoOr<uint8_t> ReadUrgent(bool peek);
  bool at_mark() const { return urgent_state_ != Urgent::kNone && urgent_seq_ == read_seq_; }
  uint32_t Poll() const;
  // Takes the pending error.
  int TakeError();
  int error() const { return error_; }

  // --- knobs ---
  TcpOptions& options() { return options_; }
  // After options that hold data back were cleared, or keep-alive was set.
  void OptionsChanged();
  PortBinding& binding() { return binding_; }
  void set_observer(TcpObserver* observer) { observer_ = observer; }
  TcpObserver* observer() const { return observer_; }
  bool orphan() const { return orphan_; }
  void SetSendLimit(uint32_t bytes);
  void SetReceiveLimit(uint32_t bytes);
  uint32_t send_limit() const { return send_limit_; }
  uint32_t receive_limit() const { return receive_limit_; }
  void set_low_watermark(uint32_t bytes) { low_watermark_ = bytes; }

  // --- what it is like ---
  TcpState state() const { return state_; }
  const Endpoint& local() const { return local_; }
  const Endpoint& remote() const { return remote_; }
  bool connecting() const { return state_ == TcpState::kSynSent || state_ == TcpState::kSynReceived; }
  // Waits for its FIN, and what is before it, to be acknowledged (sk_stream_closing()).
  bool closing() const { return state_ == TcpState::kFinWait1 || state_ == TcpState::kClosing || state_ == TcpState::kLastAck; }
  // Was connected once (ENOTCONN or not).
  bool was_connected() const { return was_connected_; }
  int shutdown() const { return shutdown_; }
  uint32_t mss() const { return mss_; }
  size_t unread() const { return received_bytes_; }
  size_t unacknowledged() const { return write_seq_ - snd_una_; }
  size_t unsent() const { return write_seq_ - snd_nxt_; }
  uint32_t accept_queue_length() const { return static_cast<uint32_t>(accept_queue_.size()); }
  uint32_t backlog() const { return backlog_; }
  // The bytes of a struct tcp_info.
  std::string Info() const;
  const RttEstimate& rtt() const { return rtt_; }
  const Congestion& congestion() const { return congestion_; }
  // Which timer runs, retransmissions and its end, as /proc/net/tcp shows them.
  struct TimerInfo {
    int which = 0;
    int64_t left = 0;
    uint32_t retries = 0;
  };
  TimerInfo timer_info() const;
  uint64_t ino = 0;  // of the socket, for /proc/net/tcp and ss
  uint32_t uid = 0;
  int family = 0;  // AF_INET or AF_INET6: of the socket
  bool v6only = false;

  // --- from the layer ---
  void Input(Packet& packet);
  // SO_ATTACH_FILTER: false drops the packet, of which the filter may have cut off the end.
  bool PassesFilter(Packet& packet) const;
  // A SYN for this listener.
  void InputSyn(const Packet& packet);
  void OnIcmp(int error, bool fatal, uint32_t seq);
  TcpLayer& layer() const { return *layer_; }

  state::Kind kind() const override { return state::Kind::kTcpConnection; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  // After loading: becomes part of `layer`, with its port, its place in the table and its timers. Harmless if it is already.
  bool Attach(TcpLayer& layer);

 private:
  friend class TcpLayer;

  struct SendItem {
    uint32_t seq = 0;
    Slice data;
    bool syn = false, fin = false, urgent = false;
    bool sent = false, sacked = false, lost = false, retransmitted = false;
    int64_t sent_at = 0;
    uint32_t length() const { return data.size + (syn ? 1 : 0) + (fin ? 1 : 0); }
    uint32_t end() const { return seq + length(); }
  };
  struct OutOfOrder {
    Slice data;
    bool fin = false;
  };
  enum class Urgent : uint8_t { kNone, kAnnounced, kHere, kRead };
  static constexpr uint32_t kItemOverhead = 256;
  static constexpr uint32_t kMaxSegment = 65536;

  // tcp_connection.cc
  void SetState(TcpState state) { state_ = state; }
  void Notify(uint32_t events);
  void Start(uint32_t iss);
  // The connection is over; `error` is for the socket.
  void Done(int error);
  void Abort();
  void DropListener();
  void EnterTimeWait();
  void CloseSending();
  void PromoteToEstablished();
  void ConnectPath();
  ErrnoOr<void> UpdatePath();
  uint32_t MaxMss() const;
  bool writable() const;
  size_t SendRoom() const;
  void ConsumeReceived(size_t bytes);

  // tcp_state.cc
  bool LoadSendQueue(const proto::TcpConnection& m);

  // tcp_input.cc
  void InputSynSent(Packet& packet);
  bool Acceptable(const Packet& packet, uint32_t length) const;
  bool CheckTimestamp(const Packet& packet);
  void TakeSynOptions(const TcpHeader& header);
  void InputData(Packet& packet);
  void QueueInOrder(Slice data);
  void QueueOutOfOrder(uint32_t seq, Slice data, bool fin);
  void MergeOutOfOrder();
  void OnFin();
  void OnReset();
  void InputUrgent(const TcpHeader& header);
  void AfterOurFinIsAcked();
  uint32_t TimestampNow() const;

  // tcp_ack.cc
  // False if the segment is to be dropped.
  bool InputAck(const Packet& packet);
  uint32_t AcknowledgeItems(uint32_t ack, int64_t now, int64_t* rtt);
  bool MarkSacked(const TcpHeader& header);
  bool MarkLost();
  void SetLost(SendItem& item);
  void ForgetScoreboard();
  uint32_t InFlight() const { return snd_nxt_ - snd_una_ - sacked_bytes_ - lost_bytes_; }
  void UpdateWindow(const TcpHeader& header);

  // tcp_output.cc
  void Output(bool force = false);
  bool MayHoldBack(const SendItem& item, uint32_t size) const;
  void RetransmitLost();
  void Transmit(SendItem& item);
  void SplitItem(size_t index, uint32_t size);
  void FillHeader(Packet* packet, uint32_t seq, uint8_t flags);
  void SendPacket(Packet packet);
  void SendAck();
  void SendProbe();
  void SendResetNow();
  void AddSacks(TcpHeader* header) const;
  uint32_t SelectWindow();
  // An address of IPv6 that is good on one link says which.
  int RouteDevice(const Endpoint& to) const {
    return binding_.device == 0 && !to.address.v4() && to.address.link_local() ? static_cast<int>(to.scope) : binding_.device;
  }
  uint32_t SegmentLimit() const { return path_.link != nullptr && path_.link->loopback() ? kMaxSegment : mss_; }
  void AppendFin();

  // tcp_timer.cc
  void OnTimer();
  void OnRetransmitTimeout();
  void OnProbeTimeout();
  void OnKeepAlive();
  void ArmRetransmit();
  void ArmKeepAlive();
  void ArmTimer();
  bool TooManyRetries(uint32_t retries, int64_t since) const;

  TcpLayer* layer_ = nullptr;
  TcpObserver* observer_ = nullptr;
  TcpState state_ = TcpState::kClosed;
  Endpoint local_, remote_;
  PortBinding binding_;
  bool bound_explicitly_ = false;  // by bind(2)
  bool in_table_ = false;
  bool load_bound_ = false, load_in_table_ = false;  // from an image, until Attach()
  bool orphan_ = false;
  bool was_connected_ = false;
  TcpOptions options_;
  Path path_;
  int error_ = 0;
  int soft_error_ = 0;  // an ICMP error that is told only if the connection fails
  int shutdown_ = 0;

  // Sending.
  std::deque<SendItem> send_queue_;  // from snd_una_ on
  size_t next_unsent_ = 0;           // index of the first item never sent
  RefPtr<Buffer> tail_;              // whose free end takes the next bytes
  uint32_t snd_una_ = 0, snd_nxt_ = 0, write_seq_ = 0;
  uint32_t snd_wnd_ = 0, snd_wl1_ = 0, snd_wl2_ = 0, max_window_ = 0;
  uint32_t snd_small_ = 0;  // end of the last short segment (Minshall's variant of Nagle)
  uint32_t snd_urgent_ = 0;
  bool has_urgent_out_ = false;
  bool more_ = false;  // MSG_MORE
  uint32_t send_limit_ = 16384;
  bool send_limit_locked_ = false;
  uint32_t send_charge_ = 0;
  uint32_t mss_ = kDefaultMss;
  uint8_t snd_scale_ = 0, rcv_scale_ = 0;
  bool sack_ok_ = false, timestamps_ = false;
  Congestion congestion_;
  RttEstimate rtt_;
  uint32_t sacked_bytes_ = 0, lost_bytes_ = 0;
  uint32_t dup_acks_ = 0;
  bool in_recovery_ = false;
  uint32_t recovery_point_ = 0;
  bool window_limited_ = false;  // the congestion window held data back
  uint32_t total_retransmits_ = 0;
  uint64_t bytes_sent_ = 0, bytes_acked_ = 0, bytes_received_ = 0, segments_in_ = 0, segments_out_ = 0;

  // Receiving.
  std::deque<Slice> receive_queue_;  // from read_seq_ on
  size_t received_bytes_ = 0;
  uint32_t receive_charge_ = 0;
  uint32_t read_seq_ = 0, rcv_nxt_ = 0;
  uint32_t rcv_adv_ = 0;                         // right edge of the window that the peer knows
  std::map<uint64_t, OutOfOrder> out_of_order_;  // by position in the stream (bytes_received_ is where rcv_nxt_ is)
  uint32_t irs_ = 0;
  uint32_t last_sacked_ = 0;  // sequence number in the newest block
  uint32_t out_of_order_charge_ = 0;
  bool fin_received_ = false;
  uint32_t receive_limit_ = 131072;
  bool receive_limit_locked_ = false;
  uint32_t low_watermark_ = 1;
  uint32_t ts_recent_ = 0;
  int64_t ts_recent_at_ = 0;
  uint32_t ts_offset_ = 0;
  bool ack_pending_ = false;
  uint32_t unacked_segments_ = 0;
  Urgent urgent_state_ = Urgent::kNone;
  uint32_t urgent_seq_ = 0;
  uint8_t urgent_byte_ = 0;

  // Timers, as deadlines; one NetTimer serves them.
  NetTimer timer_;
  int64_t retransmit_at_ = kNoDeadline;  // or window probe, if nothing is in flight
  int64_t ack_at_ = kNoDeadline;
  int64_t keepalive_at_ = kNoDeadline;
  int64_t linger_at_ = kNoDeadline;  // end of FIN_WAIT_2 of an orphan, of SYN_RECEIVED
  uint32_t retries_ = 0;
  int64_t retry_since_ = 0;
  uint32_t keepalive_probes_ = 0;
  int64_t last_heard_ = 0, last_sent_ = 0;

  // Listening, and waiting to be accepted.
  uint32_t backlog_ = 0;
  std::deque<RefPtr<TcpConnection>> accept_queue_;
  std::set<TcpConnection*> embryos_;  // in SYN_RECEIVED, not accepted yet; the table holds them
  TcpConnection* listener_ = nullptr;
};

}  // namespace amber::net
