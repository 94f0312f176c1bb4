// Unix domain sockets (unix(7), net/unix/af_unix.c): stream, datagram and sequenced packets, abstract and file system names,
// passing of descriptors and credentials.
//
// A socket holds the messages that were sent to it. Peers know each other by plain pointers that the one that goes first
// clears: a connection does not keep a socket open. Messages hold references to the descriptions that they carry; what is reachable from such messages
// alone is found and freed by unix_gc.cc. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>

#include "sentry/base/unique_fd.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/socket.h"

namespace amber {

class LandlockRuleset;
class UnixHostEnd;
class UnixSocket;
struct UnixName;
struct VfsPath;

// How much of a socket's send buffer is in other sockets' queues. Messages hold references, since they may outlive the sender.
struct UnixSendBudget : public RefCounted<UnixSendBudget> {
  size_t used = 0;
  UnixSocket* owner = nullptr;  // null once the socket is gone
};

// Who somebody was when a connection was made (init_peercred() of af_unix.c): SO_PEERCRED, SO_PEERGROUPS, SO_PEERPIDFD.
struct UnixIdentity {
  static UnixIdentity Of(Task& task);

  bool known = false;
  ucred credentials{0, static_cast<uid_t>(-1), static_cast<gid_t>(-1)};
  RefPtr<const Credentials> groups;
  RefPtr<ThreadGroup> process;
};

struct UnixMessage {
  size_t left() const { return data.size() - offset; }

  std::string data;
  size_t offset = 0;      // consumed part of a stream message
  bool urgent = false;    // the byte that MSG_OOB gets: at most one message of a queue
  bool one_byte = false;  // was sent with MSG_OOB: nothing is put behind it
  std::vector<RefPtr<File>> rights;
  uid_t rights_owner = 0;
  ucred credentials{};
  RefPtr<ThreadGroup> process;      // the sender, if somebody may ask for SCM_PIDFD
  bool credentials_wanted = false;  // passed on as SCM_CREDENTIALS although the receiver did not ask when it was sent
  std::string address;
  RefPtr<UnixSendBudget> budget;
  size_t charged = 0;
};

class UnixSocket final : public Socket {
 public:
  UnixSocket();  // for Load()
  explicit UnixSocket(int type);
  ~UnixSocket() override;
  // Who made it: its network namespace is where its abstract names are, its landlock domain says who may reach them.
  void SetMaker(Task& task);
  const NetNamespace* net() const { return net_.get(); }

  // socketpair(2).
  static std::pair<RefPtr<UnixSocket>, RefPtr<UnixSocket>> Pair(Task& task, int type);

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<void> Listen(Task& task, int backlog) override;
  ErrnoOr<void> Connect(Task& task, std::string_view address) override;
  ErrnoOr<RefPtr<Socket>> Accept(Task& task) override;
  ErrnoOr<void> Shutdown(Task& task, int how) override;
  ErrnoOr<std::string> LocalAddress() override;
  ErrnoOr<std::string> PeerAddress() override;
  ErrnoOr<size_t> Send(Task& task, SendRequest& request) override;
  ErrnoOr<size_t> Receive(Task& task, ReceiveRequest& request) override;
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;

  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  void OnClose(Task& task) override;

  // A line of /proc/net/unix.
  std::string Describe() const;
  static void ForEach(const std::function<void(const UnixSocket&)>& visit);

  state::Kind kind() const override { return state::Kind::kUnixSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class UnixGarbage;

  enum class State : uint8_t { kUnconnected, kListening, kConnected };
  static constexpr int kDatagramBacklog = 10;  // net.unix.max_dgram_qlen
  // What a message costs beyond its bytes, so that empty ones are not free.
  static constexpr size_t kOverhead = 256;

  bool connection_oriented() const { return type_ != SOCK_DGRAM; }
  bool has_peek_offset() const override { return !host_peer_; }
  bool may_pass_credentials() const { return pass_credentials_ || pass_pidfd_; }
  // Gives a socket that wants to hear of senders a name, which they answer to (unix_autobind()).
  void AutoBind();
  // The socket that `address` names; ECONNREFUSED, ENOENT, EPROTOTYPE ...
  ErrnoOr<RefPtr<UnixSocket>> FindTarget(Task& task, std::string_view address) const;
  // EPERM if landlock keeps `task` from `target`, which has an abstract name (sock_is_scoped() of security/landlock/task.c).
  static ErrnoOr<void> CheckScope(Task& task, const UnixSocket& target);
  void SetPeer(UnixSocket* peer);
  void ConnectTo(UnixSocket& peer);
  // The peer went away or closed its side.
  void OnPeerGone(bool with_unread_data);
  bool writable() const { return budget_->used * 4 <= static_cast<size_t>(send_buffer_); }
  void Deliver(UnixMessage message);
  // Fills in who sends it, as far as one of both sides asked for it (maybe_add_creds()).
  void SignFor(const UnixSocket& to, Task& task, bool forced, UnixMessage* message) const;
  ErrnoOr<size_t> SendStream(Task& task, SendRequest& request, UnixMessage message);
  ErrnoOr<void> SendUrgent(SendRequest& request, UnixMessage message);
  ErrnoOr<size_t> SendPacket(Task& task, SendRequest& request, UnixMessage message);
  ErrnoOr<size_t> ReceiveStream(ReceiveRequest& request);
  ErrnoOr<size_t> ReceiveUrgent(ReceiveRequest& request);
  bool StepOverUrgent(size_t* index, bool peek, bool copied);
  bool at_mark() const;
  size_t UrgentIndex() const;
  void Drop(size_t index);
  // A datagram socket turns away from its peer (unix_dgram_disconnected()).
  void LeavePeer();
  ErrnoOr<uint64_t> OpenBoundFile(Task& task);
  ErrnoOr<size_t> ReceivePacket(ReceiveRequest& request);
  void TakeAncillary(ReceiveRequest& request, UnixMessage& message, bool peek);
  // `bytes` of `message` were consumed; all of it if `whole`.
  void Release(UnixMessage& message, size_t bytes, bool whole);
  void PopFront();
  void DropMessages();
  // This socket's sends wait until `target`, which is not its partner, has room.
  void AwaitRoom(UnixSocket* target);
  void WakeSenders();
  void Unbind();
  // connect(2) to a listener whose queue is full: waits for `pause` at most before it is executed again. EAGAIN if it shall not wait (any longer).
  Errno AwaitBacklog(Task& task, WaitQueue& queue, int64_t pause);
  // --- unix_host.cc ---
  // ENOBUFS if the host cannot watch it.
  ErrnoOr<std::unique_ptr<UnixHostEnd>> EndOf(Kernel& kernel, UniqueFd fd);
  // ECONNREFUSED if the name is none of the host's.
  ErrnoOr<void> ConnectToHost(Task& task, const UnixName& name);
  ErrnoOr<RefPtr<Socket>> AcceptFromHost(Task& task);
  ErrnoOr<size_t> SendTo(UnixHostEnd& end, SendRequest& request);
  ErrnoOr<size_t> SendToHostPeer(SendRequest& request);
  ErrnoOr<size_t> SendToHostAt(Task& task, SendRequest& request);
  ErrnoOr<size_t> ReceiveFrom(UnixHostEnd& end, ReceiveRequest& request);
  ErrnoOr<void> ShutDownHost(int how);
  uint32_t HostEvents() const;
  int TakeHostError();
  int HostQueued(uint32_t command) const;
  bool BindHostAgain(state::Loader& loader);
  int TakeError() override;
  bool listening() const override { return state_ == State::kListening; }

  RefPtr<NetNamespace> net_;
  RefPtr<LandlockRuleset> domain_;
  State state_ = State::kUnconnected;
  std::string address_;                  // sockaddr_un bytes; empty if not bound
  bool owns_name_ = false;               // false for accepted sockets, which show their listener's
  std::unique_ptr<VfsPath> bound_path_;  // of a name in the file system; an accepted socket has its listener's
  UnixSocket* peer_ = nullptr;
  std::string peer_address_;          // as it was when the connection was made
  std::set<UnixSocket*> watched_by_;  // sockets whose peer_ is this one
  UnixSocket* waiting_for_ = nullptr;
  std::set<UnixSocket*> waiting_senders_;  // sockets whose waiting_for_ is this one
  std::deque<UnixMessage> messages_;
  size_t queued_bytes_ = 0;
  std::deque<RefPtr<UnixSocket>> pending_;
  size_t backlog_ = 0;
  UnixIdentity identity_;  // of the peer; of a listener: its own, at listen(2)
  bool has_urgent_ = false;
  bool pass_pidfd_ = false;
  bool pass_rights_ = true;
  int shutdown_ = 0;      // bit 0: receiving, bit 1: sending
  bool hung_up_ = false;  // was connected, and the peer is gone
  int error_ = 0;
  RefPtr<UnixSendBudget> budget_;
  WaitQueue queue_;
  WaitQueue backlog_queue_;      // connects that wait for room
  int in_flight_ = 0;            // references held by messages
  bool pending_accept_ = false;  // is in a listener's pending_
  // Ends in the host: who is connected to; what is bound to the same name as this (and listens as this); whom a datagram waits for.
  std::unique_ptr<UnixHostEnd> host_peer_, host_bound_, host_target_;
  std::string host_target_name_;
  bool host_bound_wanted_ = false;  // from an image, until AfterLoad()
};

// Frees sockets that only messages in flight keep open.
class UnixGarbage {
 public:
  // A message now holds, or no longer holds, `files`.
  static void Add(const std::vector<RefPtr<File>>& files, uid_t owner);
  static void Remove(const std::vector<RefPtr<File>>& files, uid_t owner);
  // Descriptions in flight that `uid` sent.
  static size_t InFlight(uid_t uid);
  // Sockets in flight.
  static size_t sockets();
  static void Collect();
};

// Names in the file system; unix_path.cc.
// Makes a socket inode at `path`: EADDRINUSE if it exists. `host`: if it became one of the host's, the socket there, of `type`, that is bound to it.
ErrnoOr<std::unique_ptr<VfsPath>> MakeSocketInode(Task& task, const std::string& path, int type, UniqueFd* host);
// Resolves `path` and checks write permission: ECONNREFUSED if it is no socket.
ErrnoOr<VfsPath> FindSocketPlace(Task& task, const std::string& path);
// The socket of the sandbox's there: ECONNREFUSED if there is none.
ErrnoOr<UnixSocket*> FindSocketAt(Task& task, const std::string& path);
// Says who is bound at `place`; null for nobody any more.
void SetBoundSocket(const VfsPath& place, UnixSocket* socket);

}  // namespace amber
