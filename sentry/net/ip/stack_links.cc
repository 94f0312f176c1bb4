// Interfaces and their addresses.
#include <linux/rtnetlink.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "sentry/base/check.h"
#include "sentry/net/ip/stack.h"

namespace amber::net {
namespace {

IpAddress Masked(const IpAddress& a, int prefix) {
  IpAddress out = a;
  int keep = prefix + (a.v4() ? 96 : 0);
  for (int bit = keep; bit < 128; ++bit) out.bytes[static_cast<size_t>(bit / 8)] &= static_cast<uint8_t>(~(0x80 >> bit % 8));
  return out;
}

// RFC 4291, appendix A.
IpAddress LinkLocalOf(const HardwareAddress& h) {
  uint8_t raw[16] = {0xfe, 0x80, 0, 0, 0, 0, 0, 0, static_cast<uint8_t>(h[0] ^ 2), h[1], h[2], 0xff, 0xfe, h[3], h[4], h[5]};
  return IpAddress::V6Bytes(raw);
}

}  // namespace

// linkwatch: an interface whose carrier has never changed cannot tell (rfc2863_policy()).
uint8_t Link::operational_state() const {
  constexpr uint8_t kUnknown = 0, kDown = 2, kLowerDown = 3, kUp = 6;
  if (!up()) return kDown;
  if (!carrier()) return lower_index() != index_ || lower_stack() != stack_ ? kLowerDown : kDown;
  return carrier_ups_ + carrier_downs_ > 0 ? kUp : kUnknown;
}

void Link::CheckCarrier() {
  bool now = carrier();
  if (now == had_carrier_) return;
  had_carrier_ = now;
  ++(now ? carrier_ups_ : carrier_downs_);
  if (stack_ != nullptr && up()) stack_->LinkChanged(*this);
}

Link& Stack::AddLink(RefPtr<Link> link, int index) {
  link->index_ = index > 0 && FindLink(index) == nullptr ? index : FreeIndex();
  link->stack_ = this;
  links_.push_back(std::move(link));
  Changed();
  return *links_.back();
}

// dev_index_reserve(): cyclic; a number that a program has chosen is stepped over when it is its turn.
int Stack::FreeIndex() {
  while (FindLink(next_index_) != nullptr) next_index_ = next_index_ % kMaxIndex + 1;
  return std::exchange(next_index_, next_index_ % kMaxIndex + 1);
}

void Stack::Detach(Link& link, bool for_good) {
  link.OnLeave(for_good);
  if (link.up()) SetUp(link, false);
  int index = link.index();
  DropRoutes([index](const Route& r) { return r.link == index; });
  link.addresses().clear();
  // What it has received and nobody has seen yet: its number may soon be another one's (flush_all_backlogs()).
  std::erase_if(queue_, [&](const Packet& p) {
    if (p.link == index) backlog_ -= p.frame.size;
    return p.link == index;
  });
  host_.OnLinkEvent(link, true);
  if (frame_tap_ != nullptr) frame_tap_->OnLinkChange(link);
  link.stack_ = nullptr;
  std::erase_if(links_, [&](const RefPtr<Link>& l) { return l.get() == &link; });
  Changed();
}

void Stack::RemoveLink(Link& link) {
  AMBER_CHECK(link.stack() == this);
  Detach(link, true);
}

void Stack::MoveLink(Link& link, Stack& to, std::string name, int index) {
  AMBER_CHECK(link.stack() == this);
  RefPtr<Link> keep(&link);
  int before = link.index();
  Detach(link, false);
  link.name_ = std::move(name);
  to.AddLink(keep, index != 0 ? index : before);
  to.host_.OnLinkEvent(link, false);
}

void Stack::RenameLink(Link& link, std::string name) {
  link.name_ = std::move(name);
  LinkChanged(link);
}

std::string Stack::FreeName(std::string_view pattern) const {
  size_t at = pattern.find("%d");
  if (at == std::string_view::npos) return std::string(pattern);
  for (size_t n = 0; n <= kMaxLinks; ++n) {
    std::string name = std::string(pattern.substr(0, at)) + std::to_string(n) + std::string(pattern.substr(at + 2));
    if (name.size() < IFNAMSIZ && FindLink(name) == nullptr) return name;
  }
  return "";
}

Link* Stack::FindLink(int index) const {
  for (const auto& l : links_) {
    if (l->index() == index) return l.get();
  }
  return nullptr;
}

Link* Stack::FindLink(std::string_view name) const {
  for (const auto& l : links_) {
    if (l->name() == name) return l.get();
  }
  return nullptr;
}

void Stack::SetUp(Link& link, bool up) {
  if (link.up() == up) return;
  link.set_flags((link.flags() & ~static_cast<uint32_t>(IFF_UP | IFF_RUNNING)) | (up ? IFF_UP : 0));
  Batch batch(*this);
  link.OnUpDown();
  if (up) {
    LinkUp(link);
  } else {
    LinkDown(link);
  }
  LinkChanged(link);
}

void Stack::LinkChanged(Link& link) {
  if (link.running() && !link.loopback()) AddLinkLocal(link);
  Changed();
  host_.OnLinkEvent(link, false);
  if (frame_tap_ != nullptr) frame_tap_->OnLinkChange(link);
  if (link.master() != nullptr) link.TellMaster();
}

void Stack::LinkUp(Link& link) {
  if (link.loopback()) {
    if (link.addresses().empty())
      link.addresses() = {{IpAddress::Loopback(true), 8, RT_SCOPE_HOST}, {IpAddress::Loopback(false), 128, RT_SCOPE_HOST}};
    return;
  }
  for (const InterfaceAddress& a : link.addresses()) AddConnectedRoute(link, a);
}

// fib_disable_ip() keeps addresses and forgets routes; addrconf_ifdown() forgets both.
void Stack::LinkDown(Link& link) {
  int index = link.index();
  DropRoutes([index](const Route& r) { return r.link == index; });
  if (link.loopback()) return;
  DropAddresses(link, [](const InterfaceAddress& a) { return !a.address.v4(); });
  link.ready_ = false;
}

void Stack::AddConnectedRoute(const Link& link, const InterfaceAddress& a) {
  bool v4 = a.address.v4();
  if (link.loopback() || a.secondary || (v4 && a.prefix == 32 && a.peer.any())) return;
  Route r;
  r.destination = Masked(a.network(), a.prefix);
  r.prefix = a.prefix;
  if (v4) r.source = a.address;
  r.link = link.index();
  r.metric = v4 ? 0 : 256;
  r.scope = v4 ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE;
  (void)AddRoute(r, NLM_F_CREATE);
}

// addrconf_dev_config(), once when the interface works after it went up (IF_READY): who takes the address away does not want it. Without duplicate
// address detection: nobody else makes up addresses of this sandbox's interfaces.
void Stack::AddLinkLocal(Link& link) {
  if (std::exchange(link.ready_, true)) return;
  if (link.type() != ARPHRD_ETHER && link.type() != ARPHRD_NONE) return;
  for (const InterfaceAddress& a : link.addresses()) {
    if (!a.address.v4() && a.address.link_local()) return;
  }
  HardwareAddress hardware = link.hardware();
  if (link.type() == ARPHRD_NONE) {
    for (uint8_t& b : hardware) b = static_cast<uint8_t>(Random());
  }
  (void)AddAddress(link, {LinkLocalOf(hardware), 64, RT_SCOPE_LINK});
}

ErrnoOr<void> Stack::AddAddress(Link& link, InterfaceAddress address) {
  size_t all = 0;
  for (const auto& l : links_) all += l->addresses().size();
  if (all >= kMaxAddresses) return Errno(ENOBUFS);
  for (const InterfaceAddress& a : link.addresses()) {
    if (a.address == address.address && (a.prefix == address.prefix || !a.address.v4())) return Errno(EEXIST);
    bool same = a.address.v4() == address.address.v4() && a.prefix == address.prefix && address.network().In(a.network(), a.prefix);
    if (same && a.address.v4()) address.secondary = true;
  }
  link.addresses().push_back(address);
  if (link.up()) AddConnectedRoute(link, address);
  Changed();
  host_.OnAddressEvent(link, address, false);
  return Ok();
}

// One look at the routes for all of them: there may be thousands of both.
void Stack::DropAddresses(Link& link, const std::function<bool(const InterfaceAddress&)>& gone) {
  std::vector<InterfaceAddress> dropped;
  std::set<IpAddress> sources;
  std::set<std::pair<IpAddress, int>> networks;
  for (const InterfaceAddress& a : link.addresses()) {
    if (!gone(a)) continue;
    dropped.push_back(a);
    if (!a.address.any()) sources.insert(a.address);
    // IPv6's connected routes name no source.
    if (!a.address.v4()) networks.emplace(Masked(a.network(), a.prefix), a.prefix);
  }
  if (dropped.empty()) return;
  std::erase_if(link.addresses(), gone);
  int index = link.index();
  DropRoutes([&](const Route& r) {
    if (sources.contains(r.source)) return true;
    return r.link == index && r.protocol == RTPROT_KERNEL && networks.contains({r.destination, r.prefix});
  });
  Changed();
  for (const InterfaceAddress& a : dropped) host_.OnAddressEvent(link, a, true);
}

ErrnoOr<void> Stack::RemoveAddress(Link& link, const IpAddress& address, int prefix) {
  std::vector<InterfaceAddress>& all = link.addresses();
  auto found = std::ranges::find_if(all, [&](const InterfaceAddress& a) { return a.address == address && (prefix < 0 || a.prefix == prefix); });
  if (found == all.end()) return Errno(EADDRNOTAVAIL);
  InterfaceAddress gone = *found;
  bool first = gone.address.v4() && !gone.secondary;
  DropAddresses(link, [&](const InterfaceAddress& a) {
    if (a.address == gone.address && a.prefix == gone.prefix) return true;
    // Its secondaries go with it (promote_secondaries is 0).
    return first && a.secondary && a.prefix == gone.prefix && a.network().In(gone.network(), gone.prefix);
  });
  return Ok();
}

bool Stack::IsLocal(const IpAddress& address) const {
  for (const auto& link : links_) {
    if (!link->up()) continue;
    for (const InterfaceAddress& a : link->addresses()) {
      if (a.address == address) return true;
      // Every address of a loopback network is this machine (RFC 1122, 3.2.1.3; fib_add_ifaddr).
      if (link->loopback() && a.address.v4() && address.In(a.address, a.prefix)) return true;
    }
  }
  return false;
}

Link* Stack::BroadcastLink(const IpAddress& address) const {
  if (!address.v4()) return nullptr;
  for (const auto& link : links_) {
    if (!link->up() || (link->flags() & IFF_BROADCAST) == 0) continue;
    for (const InterfaceAddress& a : link->addresses()) {
      if (!a.address.v4() || a.prefix >= 31) continue;
      if (a.broadcast == address && !a.broadcast.any()) return link.get();
      if (IpAddress::V4(a.address.v4_value() | 0xffffffffu >> a.prefix) == address) return link.get();
    }
  }
  return nullptr;
}

}  // namespace amber::net
