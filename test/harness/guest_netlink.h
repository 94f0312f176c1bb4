// rtnetlink(7) for guest tests: requests about interfaces, addresses and routes. No object here owns heap memory.
#ifndef AMBER_TEST_HARNESS_GUEST_NETLINK_H_
#define AMBER_TEST_HARNESS_GUEST_NETLINK_H_

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "test/harness/guest_util.h"

namespace guest {

// One request, written attribute by attribute.
class NlRequest {
 public:
  template <typename T>
  NlRequest(uint16_t type, uint16_t flags, const T& head) {
    header()->nlmsg_type = type;
    header()->nlmsg_flags = static_cast<uint16_t>(flags | NLM_F_REQUEST | NLM_F_ACK);
    size_ = sizeof(nlmsghdr);
    memcpy(bytes_ + size_, &head, sizeof(head));
    size_ += (sizeof(head) + 3) & ~size_t{3};
  }
  NlRequest& Put(uint16_t type, const void* data, size_t size) {
    nlattr a = {static_cast<uint16_t>(sizeof(a) + size), type};
    memcpy(bytes_ + size_, &a, sizeof(a));
    if (size > 0) memcpy(bytes_ + size_ + sizeof(a), data, size);
    size_ += (sizeof(a) + size + 3) & ~size_t{3};
    return *this;
  }
  NlRequest& Text(uint16_t type, const char* text) { return Put(type, text, strlen(text) + 1); }
  template <typename T>
  NlRequest& Number(uint16_t type, T value) {
    return Put(type, &value, sizeof(value));
  }
  size_t Open(uint16_t type) {
    size_t at = size_;
    Put(type, nullptr, 0);
    return at;
  }
  void Close(size_t at) {
    auto size = static_cast<uint16_t>(size_ - at);
    memcpy(bytes_ + at, &size, sizeof(size));
  }
  // Bytes that are no attribute (the head of a veth's other end).
  void Raw(const void* data, size_t size) {
    memcpy(bytes_ + size_, data, size);
    size_ += (size + 3) & ~size_t{3};
  }
  nlmsghdr* header() { return reinterpret_cast<nlmsghdr*>(bytes_); }
  // Sends it by `fd`, or by a socket of this moment's namespace; 0 or -errno.
  int Ask(int fd = -1) {
    header()->nlmsg_len = static_cast<uint32_t>(size_);
    const int own = fd < 0 ? MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)) : -1;
    const int to = fd < 0 ? own : fd;
    MUST(send(to, bytes_, size_, 0));
    alignas(4) char answer[4096];
    int result = -ENOMSG;
    for (int i = 0; i < 16; ++i) {
      const ssize_t got = recv(to, answer, sizeof(answer), 0);
      const auto* h = reinterpret_cast<const nlmsghdr*>(answer);
      if (got < static_cast<ssize_t>(sizeof(nlmsghdr) + sizeof(int))) break;
      if (h->nlmsg_type != NLMSG_ERROR) continue;
      memcpy(&result, answer + sizeof(nlmsghdr), sizeof(result));
      break;
    }
    if (own >= 0) close(own);
    return result;
  }

 private:
  alignas(4) char bytes_[1024] = {};
  size_t size_ = 0;
};

// A new network namespace for this process, by a descriptor of it.
inline int NewNet() {
  if (unshare(CLONE_NEWNET) < 0) {
    if (errno == EPERM) Skip("needs CAP_SYS_ADMIN");
    MUST(-1);
  }
  return MUST(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
}
inline void EnterNet(int fd) { MUST(setns(fd, CLONE_NEWNET)); }

inline ifinfomsg LinkHead(const char* name = nullptr, unsigned flags = 0, unsigned change = 0) {
  ifinfomsg m = {};
  m.ifi_index = name != nullptr ? static_cast<int>(if_nametoindex(name)) : 0;
  m.ifi_flags = flags;
  m.ifi_change = change;
  return m;
}

constexpr uint16_t kMake = NLM_F_CREATE | NLM_F_EXCL;

inline int MakeVeth(const char* a, const char* b, int peer_net = -1) {
  NlRequest r(RTM_NEWLINK, kMake, LinkHead());
  r.Text(IFLA_IFNAME, a);
  const size_t info = r.Open(IFLA_LINKINFO);
  r.Text(IFLA_INFO_KIND, "veth");
  const size_t data = r.Open(IFLA_INFO_DATA), peer = r.Open(VETH_INFO_PEER);
  const ifinfomsg head = {};
  r.Raw(&head, sizeof(head));
  r.Text(IFLA_IFNAME, b);
  if (peer_net >= 0) r.Number<int32_t>(IFLA_NET_NS_FD, peer_net);
  r.Close(peer);
  r.Close(data);
  r.Close(info);
  return r.Ask();
}

inline int MakeLink(const char* name, const char* kind) {
  NlRequest r(RTM_NEWLINK, kMake, LinkHead());
  r.Text(IFLA_IFNAME, name);
  const size_t info = r.Open(IFLA_LINKINFO);
  r.Text(IFLA_INFO_KIND, kind);
  r.Close(info);
  return r.Ask();
}

inline int SetUp(const char* name, bool up = true) { return NlRequest(RTM_NEWLINK, 0, LinkHead(name, up ? IFF_UP : 0, IFF_UP)).Ask(); }
inline int DeleteLink(const char* name) { return NlRequest(RTM_DELLINK, 0, LinkHead(name)).Ask(); }
inline int MoveLink(const char* name, int net) { return NlRequest(RTM_NEWLINK, 0, LinkHead(name)).Number<int32_t>(IFLA_NET_NS_FD, net).Ask(); }

// "10.0.0.1" or "fd00::1".
struct RawAddress {
  explicit RawAddress(const char* text) : family(strchr(text, ':') != nullptr ? AF_INET6 : AF_INET) {
    MUST(inet_pton(family, text, bytes) == 1 ? 0 : -1);
  }
  size_t size() const { return family == AF_INET ? 4 : 16; }
  int family;
  uint8_t bytes[16] = {};
};

// Without duplicate address detection, so that it may be used at once.
inline int ChangeAddress(uint16_t type, const char* name, const char* address, int prefix, uint16_t flags = kMake) {
  const RawAddress raw(address);
  ifaddrmsg m = {};
  m.ifa_family = static_cast<uint8_t>(raw.family);
  m.ifa_prefixlen = static_cast<uint8_t>(prefix);
  m.ifa_flags = raw.family == AF_INET6 ? IFA_F_NODAD : 0;
  m.ifa_index = if_nametoindex(name);
  NlRequest r(type, type == RTM_NEWADDR ? flags : uint16_t{0}, m);
  r.Put(IFA_LOCAL, raw.bytes, raw.size()).Put(IFA_ADDRESS, raw.bytes, raw.size());
  return r.Ask();
}
inline int AddAddress(const char* name, const char* address, int prefix) { return ChangeAddress(RTM_NEWADDR, name, address, prefix); }

// `gateway`, `device`: null for none.
inline int ChangeRoute(uint16_t type, const char* to, int prefix, const char* gateway, const char* device, uint16_t flags = kMake,
                       uint8_t kind = RTN_UNICAST) {
  const RawAddress raw(to);
  rtmsg m = {};
  m.rtm_family = static_cast<uint8_t>(raw.family);
  m.rtm_dst_len = static_cast<uint8_t>(prefix);
  m.rtm_table = RT_TABLE_MAIN;
  m.rtm_protocol = RTPROT_BOOT;
  m.rtm_scope = type == RTM_DELROUTE ? RT_SCOPE_NOWHERE : gateway != nullptr || kind != RTN_UNICAST ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
  m.rtm_type = kind;
  if (type == RTM_DELROUTE) m.rtm_protocol = 0;
  NlRequest r(type, type == RTM_NEWROUTE ? flags : uint16_t{0}, m);
  if (prefix > 0) r.Put(RTA_DST, raw.bytes, raw.size());
  if (gateway != nullptr) {
    const RawAddress way(gateway);
    r.Put(RTA_GATEWAY, way.bytes, way.size());
  }
  if (device != nullptr) r.Number<int32_t>(RTA_OIF, static_cast<int32_t>(if_nametoindex(device)));
  return r.Ask();
}

// What a dump or a question brings: `visit(header, body, size)` for each message.
template <typename Head, typename F>
int Dump(uint16_t type, const Head& head, F&& visit) {
  struct {
    nlmsghdr h;
    Head body;
  } request = {};
  request.h.nlmsg_len = sizeof(request);
  request.h.nlmsg_type = type;
  request.h.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
  request.body = head;
  const int fd = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE));
  MUST(send(fd, &request, sizeof(request), 0));
  alignas(4) static char answer[65536];
  int messages = 0;
  for (bool done = false; !done;) {
    ssize_t left = MUST(recv(fd, answer, sizeof(answer), 0));
    for (auto* h = reinterpret_cast<nlmsghdr*>(answer); NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR) {
        done = true;
        break;
      }
      ++messages;
      visit(*h, reinterpret_cast<char*>(NLMSG_DATA(h)), h->nlmsg_len - sizeof(nlmsghdr));
    }
  }
  close(fd);
  return messages;
}

// The data of attribute `type` behind a head of `head` bytes; null if there is none.
inline const char* FindAttribute(const char* body, size_t size, size_t head, uint16_t type, size_t* length = nullptr) {
  for (size_t at = (head + 3) & ~size_t{3}; at + sizeof(nlattr) <= size;) {
    nlattr a;
    memcpy(&a, body + at, sizeof(a));
    if (a.nla_len < sizeof(a)) return nullptr;
    if ((a.nla_type & NLA_TYPE_MASK) == type) {
      if (length != nullptr) *length = a.nla_len - sizeof(a);
      return body + at + sizeof(a);
    }
    at += (a.nla_len + 3u) & ~3u;
  }
  return nullptr;
}

// A number about an interface, as RTM_GETLINK tells it; -1 if it says none.
inline int64_t LinkNumber(const char* name, uint16_t attribute) {
  int64_t found = -1;
  Dump(RTM_GETLINK, LinkHead(), [&](const nlmsghdr&, const char* body, size_t size) {
    const char* text = FindAttribute(body, size, sizeof(ifinfomsg), IFLA_IFNAME);
    if (text == nullptr || strcmp(text, name) != 0) return;
    size_t length = 0;
    const char* data = FindAttribute(body, size, sizeof(ifinfomsg), attribute, &length);
    if (data == nullptr) return;
    found = 0;
    memcpy(&found, data, length < 8 ? length : 8);
  });
  return found;
}
inline unsigned LinkFlags(const char* name) {
  unsigned found = 0;
  Dump(RTM_GETLINK, LinkHead(), [&](const nlmsghdr&, const char* body, size_t size) {
    const char* text = FindAttribute(body, size, sizeof(ifinfomsg), IFLA_IFNAME);
    if (text != nullptr && strcmp(text, name) == 0) found = reinterpret_cast<const ifinfomsg*>(body)->ifi_flags;
  });
  return found;
}

struct SocketAddress {
  SocketAddress(const char* address, uint16_t port, const char* device = nullptr) {
    const RawAddress raw(address);
    storage.ss_family = static_cast<sa_family_t>(raw.family);
    if (raw.family == AF_INET) {
      auto& in = reinterpret_cast<sockaddr_in&>(storage);
      in.sin_port = htons(port);
      memcpy(&in.sin_addr, raw.bytes, 4);
      size = sizeof(in);
    } else {
      auto& in6 = reinterpret_cast<sockaddr_in6&>(storage);
      in6.sin6_port = htons(port);
      memcpy(&in6.sin6_addr, raw.bytes, 16);
      if (device != nullptr) in6.sin6_scope_id = if_nametoindex(device);
      size = sizeof(in6);
    }
  }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr_storage storage = {};
  socklen_t size;
};

inline int BoundSocket(int type, const SocketAddress& at) {
  const int fd = MUST(socket(at.storage.ss_family, type | SOCK_CLOEXEC, 0));
  MUST(bind(fd, at.get(), at.size));
  return fd;
}

}  // namespace guest

#endif  // AMBER_TEST_HARNESS_GUEST_NETLINK_H_
