// What an image keeps of the host's sockets, and the host's interfaces.
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bit>
#include <map>

#include "sentry/kernel/kernel.h"
#include "sentry/net/inet/host_options.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/inet.pb.h"
#include "sentry/net/ip/stack.h"

namespace amber {
namespace {

constexpr int kMaxOptions = 256;

struct Interface {
  int index = 0;
  uint32_t flags = 0, mtu = 1500;
  std::vector<net::InterfaceAddress> addresses;
};

// By name; null while the host's network is not to be used.
std::map<std::string, Interface>* interfaces = nullptr;

int PrefixOf(const uint8_t* mask, size_t size) {
  int bits = 0;
  for (size_t i = 0; i < size; ++i) bits += std::popcount(mask[i]);
  return bits;
}

void NoteAddress(const ifaddrs& a, Interface* out) {
  if (a.ifa_addr == nullptr || a.ifa_netmask == nullptr) return;
  net::InterfaceAddress address;
  if (a.ifa_addr->sa_family == AF_INET) {
    const auto& from = *reinterpret_cast<const sockaddr_in*>(a.ifa_addr);
    const auto& mask = *reinterpret_cast<const sockaddr_in*>(a.ifa_netmask);
    address.address = net::IpAddress::V4(ntohl(from.sin_addr.s_addr));
    address.prefix = PrefixOf(reinterpret_cast<const uint8_t*>(&mask.sin_addr), 4);
  } else if (a.ifa_addr->sa_family == AF_INET6) {
    const auto& from = *reinterpret_cast<const sockaddr_in6*>(a.ifa_addr);
    const auto& mask = *reinterpret_cast<const sockaddr_in6*>(a.ifa_netmask);
    address.address = net::IpAddress::V6Bytes(from.sin6_addr.s6_addr);
    address.prefix = PrefixOf(mask.sin6_addr.s6_addr, 16);
    if (IN6_IS_ADDR_LINKLOCAL(&from.sin6_addr)) address.scope = 253;  // RT_SCOPE_LINK
  } else {
    return;
  }
  out->addresses.push_back(address);
}

// Shows an interface of the host's. Only the host's own sockets send on it.
class HostLink final : public net::Link {
 public:
  HostLink(std::string name, uint32_t mtu) : Link(std::move(name), 1 /* ARPHRD_ETHER */, mtu) {}
  void Send(net::Packet, const net::IpAddress&) override {}
};

}  // namespace

void HostNetwork::Enable() {
  if (interfaces != nullptr) return;
  interfaces = new std::map<std::string, Interface>;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return;
  UniqueFd any(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  for (const ifaddrs* a = list; a != nullptr; a = a->ifa_next) {
    if ((a->ifa_flags & IFF_LOOPBACK) != 0) continue;
    Interface& i = (*interfaces)[a->ifa_name];
    i.index = static_cast<int>(if_nametoindex(a->ifa_name));
    i.flags = a->ifa_flags & ~static_cast<uint32_t>(IFF_RUNNING);
    ifreq request{};
    strncpy(request.ifr_name, a->ifa_name, sizeof(request.ifr_name) - 1);
    if (any.valid() && ioctl(any.get(), SIOCGIFMTU, &request) == 0) i.mtu = static_cast<uint32_t>(request.ifr_mtu);
    NoteAddress(*a, &i);
  }
  freeifaddrs(list);
}

bool HostNetwork::enabled() { return interfaces != nullptr; }

void HostNetwork::ShowIn(net::Stack& stack) {
  for (const auto& [name, i] : *interfaces) {
    net::Link& link = stack.AddLink(MakeRef<HostLink>(name, i.mtu), i.index);
    link.set_flags(i.flags);
    link.addresses() = i.addresses;
  }
  stack.Changed();
}

std::string HostSocket::Save(state::Saver& saver) const {
  proto::HostSocket m;
  SaveInet(saver, m.mutable_inet());
  auto name = [this](int (*call)(int, sockaddr*, socklen_t*)) {
    auto known = NameBy(call);
    return known.ok() ? *known : std::string();
  };
  if (bound_) m.set_local(name(getsockname));
  if (connected_ && !is_stream()) m.set_peer(name(getpeername));
  m.set_lost(lost_ || (is_stream() && (connected_ || connecting_)));
  m.set_lost_error(lost_ ? lost_error_ : ECONNRESET);
  m.set_listening(listening_);
  m.set_backlog(backlog_);
  for (const auto& [key, value] : options_) {
    auto* out = m.add_option();
    out->set_level(key.first);
    out->set_name(key.second);
    out->set_value(value);
  }
  return m.SerializeAsString();
}

bool HostSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::HostSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadInet(loader, m.inet())) return false;
  if ((type_ != SOCK_STREAM && type_ != SOCK_DGRAM) || m.option_size() > kMaxOptions) return false;
  if (m.local().size() > sizeof(sockaddr_storage) || m.peer().size() > sizeof(sockaddr_storage)) return false;
  load_local_ = m.local();
  load_peer_ = m.peer();
  lost_ = m.lost();
  lost_error_ = lost_ && m.lost_error() != 0 ? ECONNRESET : 0;
  listening_ = m.listening();
  backlog_ = m.backlog();
  for (const auto& o : m.option()) {
    const HostOption* known = FindHostOption(o.level(), o.name());
    if (known == nullptr || !known->set || o.value().size() > known->size) return loader.Fail("a socket's options are malformed");
    options_[{o.level(), o.name()}] = o.value();
  }
  return true;
}

ErrnoOr<void> HostSocket::SetUpAgain() {
  for (const auto& [key, value] : options_) {
    // An option may have been good for the moment only (memberships of an interface that is not here).
    (void)setsockopt(fd_.get(), key.first, key.second, value.data(), static_cast<socklen_t>(value.size()));
  }
  // A connection's own port is not taken again: another socket of the image may listen there.
  if (!load_local_.empty() && !lost_) {
    if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(load_local_.data()), static_cast<socklen_t>(load_local_.size())) != 0) return Errno(errno);
    bound_ = true;
  }
  if (!load_peer_.empty()) {
    connected_ = connect(fd_.get(), reinterpret_cast<const sockaddr*>(load_peer_.data()), static_cast<socklen_t>(load_peer_.size())) == 0;
  }
  if (listening_ && listen(fd_.get(), backlog_) != 0) return Errno(errno);
  return Ok();
}

bool HostSocket::AfterLoad(state::Loader& loader) {
  auto* kernel = loader.Get<Kernel>(1);
  if (kernel == nullptr) return false;
  if (!HostNetwork::enabled()) return loader.Fail("its sockets are the host's: restore it with --network=host");
  UniqueFd fd(socket(family_, type_ | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol_));
  if (!fd.valid()) return loader.Fail(std::string("a socket of the host's: ") + strerrordesc_np(errno));
  Adopt(*kernel, std::move(fd));
  auto again = SetUpAgain();
  if (!again.ok()) return loader.Fail(std::string("a socket cannot be bound to its address again: ") + strerrordesc_np(again.error().number()));
  load_local_.clear();
  load_peer_.clear();
  return true;
}

}  // namespace amber
