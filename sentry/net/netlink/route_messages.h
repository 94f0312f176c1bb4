// What NETLINK_ROUTE does, message by message (rtnetlink(7)). All of it under the kernel lock; bodies are hostile bytes.
#pragma once

#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/netlink/message.h"

namespace amber {

class Task;
struct Credentials;

// One request: who asks, in which namespace, and where answers go. Functions return 0 or an errno.
struct RouteRequest {
  Task& task;
  NetNamespace& net;
  uint16_t type;
  uint16_t flags;
  bool dump;
  std::string_view body;
  NetlinkWriter& out;
  // Who made the socket; null if that does not matter.
  const Credentials* opener = nullptr;

  // netlink_ns_capable(): CAP_NET_ADMIN in `ns` of the sender, and of who made the socket.
  bool MayChange(const UserNamespace* ns) const;
};

// link_messages.cc
int GetLink(RouteRequest& r);
int NewLink(RouteRequest& r);  // RTM_NEWLINK, RTM_SETLINK
int DeleteLink(RouteRequest& r);
// put_link.cc
void PutLink(NetNamespace& net, const net::Link& link, uint16_t type, uint16_t flags, NetlinkWriter& out);
// namespace_messages.cc
int ChangeNamespaceId(RouteRequest& r);
int GetNamespaceId(RouteRequest& r);
// The network namespace of a descriptor or a process: EBADF or EINVAL, ESRCH; null with an errno.
RefPtr<NetNamespace> NamespaceOfFd(Task& task, int fd, int* error);
RefPtr<NetNamespace> NamespaceOfPid(Task& task, int pid, int* error);

// address_messages.cc
int GetAddresses(RouteRequest& r);
int ChangeAddress(RouteRequest& r);
void PutAddress(const net::Link& link, const net::InterfaceAddress& a, uint16_t type, uint16_t flags, NetlinkWriter& out);
int GetNeighbours(RouteRequest& r);
int ChangeNeighbour(RouteRequest& r);

// route.cc
// Of each four types the third asks; the others change something (RTM_GET*).
constexpr bool IsRouteQuestion(uint16_t type) { return type % 4 == 2; }
int HandleRoute(RouteRequest& r);
void PutRoute(const net::Route& route, uint16_t type, uint16_t flags, NetlinkWriter& out);

bool ReadAddress(std::string_view raw, uint8_t family, net::IpAddress* out);

}  // namespace amber
