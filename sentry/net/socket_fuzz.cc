// What a guest says to sockets: netlink requests, addresses, options, control messages, raw packets. The calls go to the socket objects; what the
// system calls before them do with guest memory is not part of this.
#include <arpa/inet.h>
#include <fuzzer/FuzzedDataProvider.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <string>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/test_task.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/net/packet/packet_socket.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/test_tree.h"

namespace amber {
namespace {

// One kernel for all inputs; sockets and their network namespace are made anew for each.
TestTask& World() {
  static TestTask* world = new TestTask;
  return *world;
}

std::string SomeBytes(FuzzedDataProvider& data, size_t most) { return data.ConsumeRandomLengthString(most); }

// A sockaddr that means something, or any bytes.
std::string Address(FuzzedDataProvider& data) {
  sockaddr_storage a{};
  size_t size = 0;
  switch (data.ConsumeIntegralInRange(0, 5)) {
    case 5: {
      auto& ll = reinterpret_cast<sockaddr_ll&>(a);
      ll.sll_family = AF_PACKET;
      ll.sll_protocol = data.ConsumeBool() ? 0x300 : data.ConsumeIntegral<uint16_t>();
      ll.sll_ifindex = data.ConsumeIntegralInRange(0, 2);
      ll.sll_halen = data.ConsumeIntegralInRange<uint8_t>(0, 8);
      size = sizeof(ll);
      break;
    }
    case 0: {
      auto& in = reinterpret_cast<sockaddr_in&>(a);
      in.sin_family = AF_INET;
      in.sin_port = htons(data.ConsumeIntegralInRange<uint16_t>(0, 5));
      in.sin_addr.s_addr = htonl(data.ConsumeBool() ? INADDR_LOOPBACK : data.ConsumeIntegral<uint32_t>());
      size = sizeof(in);
      break;
    }
    case 1: {
      auto& in6 = reinterpret_cast<sockaddr_in6&>(a);
      in6.sin6_family = AF_INET6;
      in6.sin6_port = htons(data.ConsumeIntegralInRange<uint16_t>(0, 5));
      in6.sin6_addr = in6addr_loopback;
      if (data.ConsumeBool()) data.ConsumeData(&in6.sin6_addr, sizeof(in6.sin6_addr));
      in6.sin6_scope_id = data.ConsumeIntegralInRange<uint32_t>(0, 2);
      size = sizeof(in6);
      break;
    }
    case 2: {
      auto& nl = reinterpret_cast<sockaddr_nl&>(a);
      nl.nl_family = AF_NETLINK;
      nl.nl_pid = data.ConsumeIntegralInRange<uint32_t>(0, 2);
      nl.nl_groups = data.ConsumeIntegral<uint32_t>();
      size = sizeof(nl);
      break;
    }
    case 3: {
      auto& un = reinterpret_cast<sockaddr_un&>(a);
      un.sun_family = AF_UNIX;
      size = sizeof(un.sun_family) + data.ConsumeData(un.sun_path, data.ConsumeIntegralInRange<size_t>(0, 4));
      break;
    }
    default: return SomeBytes(data, sizeof(sockaddr_storage));
  }
  if (data.ConsumeIntegralInRange(0, 7) == 0) size = data.ConsumeIntegralInRange<size_t>(0, size);
  return std::string(reinterpret_cast<const char*>(&a), size);
}

void Put(std::string* out, const void* bytes, size_t size) {
  out->append(static_cast<const char*>(bytes), size);
  out->resize((out->size() + 3) & ~size_t{3});
}

// Requests with headers that fit, for the most part.
std::string NetlinkRequest(FuzzedDataProvider& data) {
  std::string out;
  for (int i = data.ConsumeIntegralInRange(1, 3); i > 0; --i) {
    std::string body = SomeBytes(data, 32);  // the structure
    body.resize((body.size() + 3) & ~size_t{3});
    for (int n = data.ConsumeIntegralInRange(0, 3); n > 0; --n) {
      std::string value = data.ConsumeBool() ? std::string("lo", 3) : SomeBytes(data, 20);
      nlattr a{static_cast<uint16_t>(sizeof(nlattr) + value.size()), data.ConsumeIntegralInRange<uint16_t>(0, 60)};
      if (data.ConsumeIntegralInRange(0, 7) == 0) a.nla_len = data.ConsumeIntegral<uint16_t>();
      Put(&body, &a, sizeof(a));
      Put(&body, value.data(), value.size());
    }
    nlmsghdr h{};
    h.nlmsg_len = static_cast<uint32_t>(sizeof(h) + body.size());
    if (data.ConsumeIntegralInRange(0, 7) == 0) h.nlmsg_len = data.ConsumeIntegral<uint32_t>();
    h.nlmsg_type = data.ConsumeBool() ? SOCK_DIAG_BY_FAMILY : data.ConsumeIntegralInRange<uint16_t>(RTM_BASE, RTM_BASE + 110);
    h.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | (data.ConsumeBool() ? NLM_F_DUMP : 0) | (data.ConsumeBool() ? NLM_F_ACK : 0));
    Put(&out, &h, sizeof(h));
    out += body;
  }
  return out;
}

class Program {
 public:
  explicit Program(FuzzedDataProvider& data) : data_(data), task_(World().task()) {
    task_.extras().net = MakeRef<NetNamespace>(World().kernel(), true);
    task_.fs().set_root(tree_.ns->root());
    task_.fs().set_cwd(tree_.ns->root());
  }
  ~Program() {
    for (auto& s : sockets_) s->OnClose(task_);
    sockets_.clear();
    task_.extras().net = {};
    task_.fs().set_root({});
    task_.fs().set_cwd({});
  }

  void Step() {
    if (sockets_.empty() || (sockets_.size() < 6 && data_.ConsumeIntegralInRange(0, 5) == 0)) return Make();
    Socket& s = *sockets_[data_.ConsumeIntegral<uint8_t>() % sockets_.size()];
    switch (data_.ConsumeIntegralInRange(0, 9)) {
      case 0: (void)s.Bind(task_, Address(data_)); return;
      case 1: (void)s.Listen(task_, data_.ConsumeIntegralInRange(-1, 10)); return;
      case 2: (void)s.Connect(task_, Address(data_)); return;
      case 3: Accept(s); return;
      case 4: (void)s.Shutdown(task_, data_.ConsumeIntegralInRange(0, 3)); return;
      case 5:
      case 6: Send(s); return;
      case 7: Receive(s); return;
      case 8: Options(s); return;
      default: Names(s); return;
    }
  }

 private:
  void Add(RefPtr<Socket> socket) {
    socket->set_flags(O_RDWR | O_NONBLOCK);
    sockets_.push_back(std::move(socket));
  }
  void Make() {
    int type = data_.ConsumeIntegralInRange(1, 5);
    switch (data_.ConsumeIntegralInRange(0, 3)) {
      case 0: {
        const int protocols[] = {NETLINK_ROUTE, NETLINK_SOCK_DIAG, NETLINK_KOBJECT_UEVENT};
        auto made = NetlinkSocket::Make(task_, SOCK_RAW, protocols[data_.ConsumeIntegralInRange(0, 2)]);
        if (made.ok()) Add(*made);
        return;
      }
      case 1: {
        if (data_.ConsumeIntegralInRange(0, 3) == 0) {
          auto packet = PacketSocket::Make(task_, data_.ConsumeBool() ? SOCK_RAW : SOCK_DGRAM, data_.ConsumeBool() ? 0x300 : 8);
          if (packet.ok()) Add(*packet);
          return;
        }
        auto made = NewInetSocket(task_, data_.ConsumeBool() ? AF_INET : AF_INET6, type, data_.ConsumeIntegralInRange(0, 60));
        if (made.ok()) Add(*made);
        return;
      }
      default: {
        const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};
        auto [a, b] = UnixSocket::Pair(task_, types[type % 3]);
        Add(std::move(a));
        Add(data_.ConsumeBool() ? std::move(b) : MakeRef<UnixSocket>(types[type % 3]));
      }
    }
  }
  void Accept(Socket& s) {
    auto made = s.Accept(task_);
    if (made.ok() && sockets_.size() < 10) Add(*made);
  }
  void Send(Socket& s) {
    std::string bytes = s.family() == AF_NETLINK && data_.ConsumeIntegralInRange(0, 7) != 0 ? NetlinkRequest(data_) : SomeBytes(data_, 300);
    BufferSource source(bytes.data(), bytes.size());
    SendRequest request{source};
    request.flags = MSG_NOSIGNAL | data_.ConsumeIntegral<uint16_t>();
    if (data_.ConsumeBool()) request.address = Address(data_);
    if (data_.ConsumeIntegralInRange(0, 3) == 0) {
      request.control.push_back({data_.ConsumeBool() ? IPPROTO_IP : IPPROTO_IPV6, data_.ConsumeIntegralInRange(0, 70), SomeBytes(data_, 40)});
    }
    if (s.family() == AF_UNIX && data_.ConsumeIntegralInRange(0, 3) == 0) request.rights.push_back(sockets_[0]);
    (void)s.Send(task_, request);
  }
  void Receive(Socket& s) {
    std::string room(data_.ConsumeIntegralInRange<size_t>(0, 9000), '\0');
    BufferSink sink(room.data(), room.size());
    ReceiveRequest request{sink};
    request.flags = data_.ConsumeIntegral<uint16_t>();
    auto got = s.Receive(task_, request);
    AMBER_CHECK(!got.ok() || (request.flags & MSG_TRUNC) != 0 || *got <= room.size());
  }
  void Options(Socket& s) {
    const int levels[] = {SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_RAW, IPPROTO_ICMPV6, 270, SOL_PACKET};
    int level = levels[data_.ConsumeIntegralInRange(0, 8)], name = data_.ConsumeIntegralInRange(0, 80);
    if (data_.ConsumeBool()) {
      size_t capacity = data_.ConsumeIntegralInRange<size_t>(0, 300);
      (void)s.GetOption(task_, level, name, capacity);
      return;
    }
    std::string value = SomeBytes(data_, 48);
    (void)s.SetOption(task_, level, name, {reinterpret_cast<const uint8_t*>(value.data()), value.size()});
  }
  void Names(Socket& s) {
    (void)s.LocalAddress();
    (void)s.PeerAddress();
    (void)s.Poll(task_);
    (void)s.LinkName();
    task_.extras().net->stack().RunTimers();
  }

  FuzzedDataProvider& data_;
  TestTree tree_;  // where sockets have names
  Task& task_;
  std::vector<RefPtr<Socket>> sockets_;
};

}  // namespace
}  // namespace amber

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  amber::Program program(data);
  for (int i = 0; i < 100 && data.remaining_bytes() > 0; ++i) program.Step();
  return 0;
}
