// Saving and loading network namespaces, with their interfaces.
#include <linux/neighbour.h>

#include <algorithm>

#include "sentry/kernel/kernel.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/inet.pb.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/link/bridge_link.h"
#include "sentry/net/link/dummy_link.h"
#include "sentry/net/link/tun_link.h"
#include "sentry/net/link/veth_link.h"
#include "sentry/net/tcp/tcp_layer.h"
#include "sentry/net/tcp/tcp_state_util.h"

namespace amber {
namespace {

std::string AddressBytes(const net::IpAddress& a) { return std::string(reinterpret_cast<const char*>(a.bytes.data()), 16); }
std::string HardwareBytes(const net::HardwareAddress& h) { return std::string(reinterpret_cast<const char*>(h.data()), h.size()); }

bool LoadHardware(std::string_view bytes, net::HardwareAddress* out) {
  if (bytes.size() != out->size()) return false;
  memcpy(out->data(), bytes.data(), out->size());
  return true;
}

// The order is part of the image format.
template <typename Counters, typename Visit>
void VisitCounters(Counters& c, Visit visit) {
  for (auto* n : {&c.rx_packets, &c.rx_bytes, &c.tx_packets, &c.tx_bytes, &c.rx_dropped, &c.tx_dropped, &c.multicast}) visit(*n);
}

// What is asked for just now is asked for again after the restore.
void SaveNeighbours(const net::Neighbours& all, proto::NetLink* out) {
  for (const auto& [address, n] : all.all()) {
    if ((n.state & (NUD_PERMANENT | NUD_NOARP | NUD_REACHABLE | NUD_STALE | NUD_DELAY | NUD_PROBE)) == 0) continue;
    auto* one = out->add_neighbour();
    one->set_address(AddressBytes(address));
    one->set_hardware(HardwareBytes(n.hardware));
    one->set_state((n.state & (NUD_PERMANENT | NUD_NOARP)) != 0 ? n.state : NUD_STALE);
  }
}

bool LoadNeighbours(const proto::NetLink& in, net::Neighbours& all) {
  for (const auto& one : in.neighbour()) {
    net::IpAddress address;
    net::HardwareAddress hardware;
    bool state_good = one.state() == NUD_PERMANENT || one.state() == NUD_NOARP || one.state() == NUD_STALE;
    if (!state_good || !net::LoadAddress(one.address(), &address) || !LoadHardware(one.hardware(), &hardware)) return false;
    if (!all.Set(address, hardware, static_cast<uint16_t>(one.state())).ok()) return false;
  }
  return true;
}

void SaveTun(const net::TunLink& tun, proto::NetTun* out) {
  out->set_tap(tun.tap());
  out->set_persistent(tun.persistent);
  out->set_no_carrier(tun.no_carrier);
  out->set_packet_info(tun.packet_info);
  out->set_vnet_header(tun.vnet_header);
  out->set_owner(tun.owner);
  out->set_group(tun.group);
  for (const net::Slice& packet : tun.queue()) out->add_packet(std::string(packet.view()));
}

void SaveBridge(const net::BridgeLink& bridge, proto::NetBridge* out) {
  out->set_ageing(bridge.ageing);
  out->set_own_hardware(bridge.own_hardware);
  out->set_had_port(bridge.had_port);
  for (const net::BridgeLink::Port& p : bridge.ports()) {
    auto* port = out->add_port();
    port->set_index(p.link->index());
    port->set_number(p.number);
  }
}

// Its ports, once all interfaces are there.
bool LoadPorts(const proto::NetBridge& in, net::Stack& stack, net::BridgeLink& bridge) {
  if (in.port_size() > static_cast<int>(net::BridgeLink::kMaxPorts) || in.ageing() < 0) return false;
  bridge.ageing = in.ageing();
  bridge.own_hardware = in.own_hardware();
  bridge.had_port = in.had_port();
  for (const auto& p : in.port()) {
    auto* port = dynamic_cast<net::FrameLink*>(stack.FindLink(p.index()));
    bool good = port != nullptr && port->master() == nullptr && port->type() == ARPHRD_ETHER && dynamic_cast<net::BridgeLink*>(port) == nullptr;
    if (!good || p.number() == 0 || p.number() > net::BridgeLink::kMaxPorts) return false;
    bridge.RestorePort(*port, static_cast<uint16_t>(p.number()));
  }
  return true;
}

RefPtr<net::Link> LoadTun(const proto::NetLink& in) {
  constexpr size_t kLongest = 1 << 17;
  auto link = MakeRef<net::TunLink>(in.name(), in.tun().tap());
  link->persistent = in.tun().persistent();
  link->no_carrier = in.tun().no_carrier();
  link->packet_info = in.tun().packet_info();
  link->vnet_header = in.tun().vnet_header();
  link->owner = in.tun().owner();
  link->group = in.tun().group();
  if (in.tun().packet_size() > static_cast<int>(net::TunLink::kMostWaiting)) return nullptr;
  for (const std::string& packet : in.tun().packet()) {
    if (packet.size() < link->header_size() || packet.empty() || packet.size() > kLongest) return nullptr;
    link->Restore(net::Slice::Copy(packet));
  }
  return link;
}

bool LoadInterfaceAddress(const proto::NetAddress& in, net::InterfaceAddress* out) {
  if (!net::LoadAddress(in.address(), &out->address)) return false;
  if (!in.peer().empty() && !net::LoadAddress(in.peer(), &out->peer)) return false;
  if (!in.broadcast().empty() && !net::LoadAddress(in.broadcast(), &out->broadcast)) return false;
  if (!out->peer.any() && out->peer.v4() != out->address.v4()) return false;
  out->prefix = in.prefix();
  out->scope = static_cast<uint8_t>(in.scope());
  out->secondary = in.secondary();
  return in.prefix() >= 0 && in.prefix() <= (out->address.v4() ? 32 : 128);
}

bool LoadLink(const proto::NetLink& in, net::Link* link) {
  link->set_mtu(std::clamp<uint32_t>(in.mtu(), link->loopback() ? 68 : link->min_mtu(), link->max_mtu() != 0 ? link->max_mtu() : 0x3fffffff));
  link->set_flags(in.flags() & ~static_cast<uint32_t>(IFF_RUNNING));
  link->set_ready(in.ready());
  if (!in.hardware().empty()) {
    net::HardwareAddress hardware;
    if (!LoadHardware(in.hardware(), &hardware)) return false;
    link->set_hardware(hardware);
  }
  if (in.queue_length() != 0) link->settings().queue_length = in.queue_length() - 1;
  link->settings().group = in.group();
  link->settings().alias = in.alias().substr(0, 255);
  link->set_carrier_changes(in.carrier_ups(), in.carrier_downs());
  int at = 0;
  VisitCounters(link->counters(), [&](uint64_t& n) {
    if (at < in.counter_size()) n = in.counter(at++);
  });
  if (in.address_size() > static_cast<int>(net::Stack::kMaxAddresses)) return false;
  link->addresses().clear();
  for (const auto& a : in.address()) {
    net::InterfaceAddress address;
    if (!LoadInterfaceAddress(a, &address)) return false;
    link->addresses().push_back(address);
  }
  return link->neighbours() == nullptr ? in.neighbour_size() == 0 : LoadNeighbours(in, *link->neighbours());
}

}  // namespace

void NetNamespace::SaveLink(state::Saver& saver, const net::Link& link, proto::NetLink* out) const {
  out->set_index(link.index());
  out->set_name(link.name());
  out->set_mtu(link.mtu());
  out->set_flags(link.flags());
  out->set_ready(link.ready());
  for (const net::InterfaceAddress& a : link.addresses()) {
    auto* address = out->add_address();
    address->set_address(AddressBytes(a.address));
    address->set_prefix(a.prefix);
    address->set_scope(a.scope);
    address->set_secondary(a.secondary);
    if (!a.peer.any()) address->set_peer(AddressBytes(a.peer));
    if (!a.broadcast.any()) address->set_broadcast(AddressBytes(a.broadcast));
  }
  if (link.kind() != nullptr) out->set_kind(link.kind());
  out->set_hardware(HardwareBytes(link.hardware()));
  out->set_queue_length(link.settings().queue_length + 1);
  out->set_group(link.settings().group);
  out->set_alias(link.settings().alias);
  out->set_carrier_ups(link.carrier_ups());
  out->set_carrier_downs(link.carrier_downs());
  VisitCounters(link.counters(), [&](const uint64_t& n) { out->add_counter(n); });
  if (const net::Neighbours* all = const_cast<net::Link&>(link).neighbours(); all != nullptr) SaveNeighbours(*all, out);
  if (const auto* tun = dynamic_cast<const net::TunLink*>(&link); tun != nullptr) SaveTun(*tun, out->mutable_tun());
  if (const auto* bridge = dynamic_cast<const net::BridgeLink*>(&link); bridge != nullptr) SaveBridge(*bridge, out->mutable_bridge());
  const auto* veth = dynamic_cast<const net::VethLink*>(&link);
  if (veth == nullptr || veth->peer() == nullptr || veth->peer()->stack() == nullptr) return;
  out->set_peer_net(saver.Ref(static_cast<const NetNamespace*>(&veth->peer()->stack()->host())));
  out->set_peer_index(veth->peer()->index());
}

std::string NetNamespace::Save(state::Saver& saver) const {
  proto::NetNamespace m;
  m.set_cookie(cookie_);
  m.set_ino(ino());
  m.set_owner(SaveOwner(saver));
  m.set_host(host_);
  m.set_next_index(stack_->next_index());
  for (uint64_t value : sysctls_.values()) m.add_sysctl(value);
  for (const auto& link : stack_->links()) {
    if (host_ && !link->loopback() && link->kind() == nullptr) continue;  // the next host has others
    SaveLink(saver, *link, m.add_link());
  }
  for (const auto& [other, id] : ids_) {
    auto* out = m.add_known();
    out->set_net(saver.Ref(other));
    out->set_id(id);
  }
  for (const net::Route& r : stack_->routes()) {
    auto* out = m.add_route();
    out->set_destination(AddressBytes(r.destination));
    out->set_prefix(r.prefix);
    out->set_gateway(AddressBytes(r.gateway));
    out->set_source(AddressBytes(r.source));
    out->set_link(r.link);
    out->set_metric(r.metric);
    out->set_protocol(r.protocol);
    out->set_scope(r.scope);
    out->set_type(r.type);
    out->set_table(r.table);
    out->set_on_link(r.on_link);
    out->set_tos(r.tos);
  }
  for (net::TcpConnection* c : tcp_->Connected()) m.add_connection(saver.Ref(c));
  for (const auto& tw : tcp_->time_waits()) {
    auto* out = m.add_time_wait();
    net::SaveEndpoint(tw->key.local, out->mutable_local());
    net::SaveEndpoint(tw->key.remote, out->mutable_remote());
    out->set_family(tw->family);
    out->set_snd_nxt(tw->snd_nxt);
    out->set_rcv_nxt(tw->rcv_nxt);
    out->set_rcv_window(tw->rcv_window);
    out->set_timestamps(tw->timestamps);
    out->set_ts_recent(tw->ts_recent);
    out->set_ts_offset(tw->ts_offset);
    out->set_since(tw->since);
    out->set_expires(tw->expires);
    net::SaveBinding(tw->binding, out->mutable_binding());
  }
  return m.SerializeAsString();
}

net::Link* NetNamespace::MakeSavedLink(state::Loader& loader, const proto::NetLink& in) {
  if (in.kind().empty()) return stack_->FindLink(std::string_view(in.name()));
  if (in.name().empty() || in.name().size() >= IFNAMSIZ || stack_->FindLink(std::string_view(in.name())) != nullptr) return nullptr;
  if (in.index() <= 0 || stack_->FindLink(in.index()) != nullptr || stack_->links().size() >= net::Stack::kMaxLinks) return nullptr;
  RefPtr<net::Link> link;
  if (in.kind() == "dummy") link = MakeRef<net::DummyLink>(in.name());
  if (in.kind() == "bridge") link = MakeRef<net::BridgeLink>(in.name());
  if (in.kind() == "tun") link = LoadTun(in);
  if (in.kind() == "veth") {
    link = MakeRef<net::VethLink>(in.name());
    RefPtr<NetNamespace> peer = loader.GetRef<NetNamespace>(in.peer_net());
    if (peer) loading_peers_.push_back({in.index(), std::move(peer), in.peer_index()});
  }
  if (!link) return nullptr;
  return &stack_->AddLink(std::move(link), in.index());
}

bool NetNamespace::LoadLinks(state::Loader& loader, const proto::NetNamespace& m) {
  for (const auto& in : m.link()) {
    net::Link* link = MakeSavedLink(loader, in);
    if (link == nullptr || !LoadLink(in, link)) return false;
  }
  for (const auto& in : m.link()) {
    auto* bridge = dynamic_cast<net::BridgeLink*>(stack_->FindLink(in.index()));
    if (bridge != nullptr && !LoadPorts(in.bridge(), *stack_, *bridge)) return false;
  }
  stack_->set_next_index(m.next_index());
  if (m.route_size() > static_cast<int>(net::Stack::kMaxRoutes)) return false;
  for (const auto& in : m.route()) {
    net::Route r;
    if (!net::LoadAddress(in.destination(), &r.destination) || !net::LoadAddress(in.gateway(), &r.gateway) ||
        !net::LoadAddress(in.source(), &r.source) || in.prefix() < 0 || in.prefix() > (r.destination.v4() ? 32 : 128)) {
      return false;
    }
    r.prefix = in.prefix();
    r.link = in.link();
    r.metric = in.metric();
    r.protocol = static_cast<uint8_t>(in.protocol());
    r.scope = static_cast<uint8_t>(in.scope());
    r.type = static_cast<uint8_t>(in.type());
    r.table = in.table() != 0 ? in.table() : net::Route::kMainTable;
    r.on_link = in.on_link();
    r.tos = static_cast<uint8_t>(in.tos());
    stack_->routes().push_back(r);
  }
  stack_->Changed();
  return true;
}

// Both ends must name each other.
bool NetNamespace::JoinPeers() {
  for (const LoadingPeer& p : loading_peers_) {
    auto* own = dynamic_cast<net::VethLink*>(stack_->FindLink(p.index));
    auto* peer = dynamic_cast<net::VethLink*>(p.net->stack().FindLink(p.peer_index));
    if (own == nullptr || peer == nullptr || own == peer) return false;
    if (own->peer() == peer && peer->peer() == own) continue;
    if (own->peer() != nullptr || peer->peer() != nullptr) return false;
    net::VethLink::Join(*own, *peer);
  }
  loading_peers_.clear();
  for (const auto& link : stack_->links()) {
    if (auto* frames = dynamic_cast<net::FrameLink*>(link.get()); frames != nullptr) frames->SettleCarrier();
  }
  return true;
}

bool NetNamespace::Load(state::Loader& loader, std::string_view bytes) {
  proto::NetNamespace m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  kernel_ = loader.Get<Kernel>(1);
  if (kernel_ == nullptr) return false;
  SetUp();
  if (!sysctls_.Load({m.sysctl().data(), static_cast<size_t>(m.sysctl().size())}))
    return loader.Fail("a setting of a network namespace is out of range");
  ApplyPortRange();
  cookie_ = m.cookie();
  if (!LoadCommon(loader, m.ino(), m.owner())) return false;
  if (!LoadLinks(loader, m)) return loader.Fail("a network interface is malformed");
  for (const auto& in : m.known()) {
    RefPtr<NetNamespace> other = loader.GetRef<NetNamespace>(in.net());
    if (!other) return false;
    loading_ids_.emplace_back(std::move(other), in.id());
  }
  if (m.host() && !HostNetwork::enabled()) return loader.Fail("its sockets are the host's: restore it with --network=host");
  if (m.host()) BecomeHost();
  for (uint64_t id : m.connection()) {
    RefPtr<net::TcpConnection> c = loader.GetRef<net::TcpConnection>(id);
    if (!c) return false;
    loading_.push_back(std::move(c));
  }
  for (const auto& in : m.time_wait()) {
    auto tw = std::make_unique<net::TimeWait>();
    bool bound = false;
    if (!net::LoadEndpoint(in.local(), &tw->key.local) || !net::LoadEndpoint(in.remote(), &tw->key.remote) ||
        !net::LoadBinding(in.binding(), &tw->binding, &bound)) {
      return false;
    }
    tw->family = in.family();
    tw->snd_nxt = in.snd_nxt();
    tw->rcv_nxt = in.rcv_nxt();
    tw->rcv_window = in.rcv_window();
    tw->timestamps = in.timestamps();
    tw->ts_recent = in.ts_recent();
    tw->ts_offset = in.ts_offset();
    if (bound) tcp_->ports().Share(tw->binding);
    loading_time_waits_.push_back(std::move(tw));
  }
  return true;
}

bool NetNamespace::AfterLoad(state::Loader& loader) {
  if (!JoinPeers()) return loader.Fail("the ends of a veth do not belong together");
  for (const auto& [other, id] : loading_ids_) {
    if (id < 0 || !SetId(*other, id)) return loader.Fail("a network namespace has two numbers");
  }
  loading_ids_.clear();
  // The wait begins again: the clock may have been moved.
  for (std::unique_ptr<net::TimeWait>& tw : loading_time_waits_) tcp_->AddTimeWait(std::move(tw));
  loading_time_waits_.clear();
  bool good = true;
  for (const RefPtr<net::TcpConnection>& c : loading_) good = good && c->Attach(*tcp_);
  loading_.clear();
  return good;
}

}  // namespace amber
