// Netlink sockets (netlink(7)): NETLINK_ROUTE answers about interfaces, addresses and routes, NETLINK_SOCK_DIAG about sockets.
// Other protocols are refused, but NETLINK_KOBJECT_UEVENT, which is silent. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/netlink/message.h"
#include "sentry/net/socket.h"

namespace amber {

class NetlinkSocket final : public Socket, public NetWatcher {
 public:
  NetlinkSocket();  // for Load()
  // EPROTONOSUPPORT, ESOCKTNOSUPPORT.
  static ErrnoOr<RefPtr<Socket>> Make(Task& task, int type, int protocol);
  ~NetlinkSocket() override;

  ErrnoOr<void> Bind(Task& task, std::string_view address) override;
  ErrnoOr<void> Connect(Task& task, std::string_view address) override;
  ErrnoOr<std::string> LocalAddress() override;
  ErrnoOr<std::string> PeerAddress() override;
  ErrnoOr<size_t> Send(Task& task, SendRequest& request) override;
  ErrnoOr<size_t> Receive(Task& task, ReceiveRequest& request) override;
  ErrnoOr<void> SetOption(Task& task, int level, int name, std::span<const uint8_t> value) override;
  ErrnoOr<std::string> GetOption(Task& task, int level, int name, size_t capacity) override;
  // What the kernel sends by itself. mq_notify(2) reserves the room for its message first; false if there is none now (netlink_attachskb()): POLLOUT
  // tells of it.
  // `loading`: from an image, whether or not there is room.
  bool Reserve(bool loading = false);
  void Release() { --reserved_; }
  void PostReserved(std::string message);
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }

  // For /proc/net/netlink.
  uint32_t port() const { return port_; }
  uint32_t groups() const { return groups_; }
  size_t queued() const { return queued_; }

  // Groups of NETLINK_ROUTE that it has joined hear of changes.
  void OnLinkEvent(net::Link& link, bool gone) override;
  void OnAddressEvent(net::Link& link, const net::InterfaceAddress& address, bool gone) override;
  void OnRouteEvent(const net::Route& route, bool gone) override;

  state::Kind kind() const override { return state::Kind::kNetlinkSocket; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  bool TakePort(uint32_t port);
  void AutoBind(Task& task);
  void Acknowledge(const nlmsghdr& header, std::string_view body, int error, NetlinkWriter& out) const;
  // `opener`: as in RouteRequest.
  void Handle(Task& task, const nlmsghdr& header, std::string_view body, const Credentials* opener);
  // Writes what one request brings; 0, or an errno.
  int Answer(Task& task, const nlmsghdr& header, std::string_view body, const Credentials* opener, bool dump, NetlinkWriter& out);
  // Queues the next part of `dump_`.
  void GoOnDumping(Task& task);
  void Queue(std::string bytes);
  bool Joined(uint32_t group) const { return protocol_ == NETLINK_ROUTE && group >= 1 && group <= 32 && (groups_ >> (group - 1) & 1) != 0; }
  void Announce(NetlinkWriter& out);

  RefPtr<NetNamespace> net_;
  RefPtr<const Credentials> opener_;  // who made it; null in an image from before that was kept
  bool bound_ = false;
  uint32_t port_ = 0, groups_ = 0;
  std::deque<std::string> answers_;
  // A dump that is under way (netlink_dump()): the request, and how many objects were told.
  struct Dump {
    nlmsghdr header;
    std::string body;
    uint64_t told = 0;
  };
  std::optional<Dump> dump_;
  // Of the present Send(): bytes of answers, whether or not a filter has kept them, and dumps.
  size_t made_ = 0;
  int dumps_ = 0;
  size_t queued_ = 0;
  bool overrun_ = false;  // something was not told: the next receive says ENOBUFS
  size_t reserved_ = 0;   // messages
  WaitQueue queue_;
};

// What a protocol does with one request: writes answers; 0, or an errno. `dump`: all objects (NLM_F_DUMP).
int HandleDiag(Task& task, NetNamespace& net, uint16_t type, bool dump, std::string_view body, NetlinkWriter& out);

}  // namespace amber
