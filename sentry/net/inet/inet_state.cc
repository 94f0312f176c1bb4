// Saving and loading inet sockets.
#include <algorithm>
#include <array>

#include "sentry/kernel/kernel.h"
#include "sentry/net/inet/host_socket.h"
#include "sentry/net/inet/inet.pb.h"
#include "sentry/net/inet/net_namespace.h"
#include "sentry/net/inet/raw_layer.h"
#include "sentry/net/inet/raw_socket.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/net/inet/udp_layer.h"
#include "sentry/net/inet/udp_socket.h"
#include "sentry/net/tcp/tcp_layer.h"
#include "sentry/net/tcp/tcp_state_util.h"

namespace amber {
namespace {

std::string AddressBytes(const net::IpAddress& a) { return std::string(reinterpret_cast<const char*>(a.bytes.data()), 16); }

void SaveDatagram(const Datagram& d, proto::InetDatagram* out) {
  out->set_data(std::string(d.data.view()));
  net::SaveEndpoint(d.from, out->mutable_from());
  out->set_to(AddressBytes(d.to));
  out->set_link(d.link);
  out->set_ttl(d.ttl);
  out->set_tos(d.tos);
  out->set_received_at(d.received_at);
  out->set_to_port(d.to_port);
}

bool LoadDatagram(const proto::InetDatagram& in, Datagram* d) {
  if (in.data().size() > 1 << 20) return false;
  d->data = net::Slice::Copy(in.data());
  d->link = in.link();
  d->to_port = static_cast<uint16_t>(in.to_port());
  d->ttl = static_cast<uint8_t>(in.ttl());
  d->tos = static_cast<uint8_t>(in.tos());
  d->received_at = in.received_at();
  return net::LoadEndpoint(in.from(), &d->from) && net::LoadAddress(in.to(), &d->to);
}

// The order is part of the image format.
template <typename Visit>
void VisitIpOptions(IpOptions& o, Visit visit) {
  for (int* n : {&o.tos, &o.ttl, &o.hop_limit, &o.traffic_class, &o.multicast_ttl, &o.multicast_hops, &o.multicast_if, &o.mtu_discover, &o.mark}) {
    visit(*n);
  }
  for (bool* b : {&o.multicast_loop, &o.v6only, &o.packet_info, &o.receive_ttl, &o.receive_tos, &o.receive_error, &o.packet_info6,
                  &o.receive_hop_limit, &o.receive_class, &o.receive_error6, &o.freebind, &o.transparent, &o.header_included}) {
    int n = *b ? 1 : 0;
    visit(n);
    *b = n != 0;
  }
}

}  // namespace

void InetSocket::SaveInet(state::Saver& saver, proto::InetSocket* out) const {
  out->set_family(family_);
  out->set_type(type_);
  out->set_protocol(protocol_);
  out->set_flags(static_cast<uint32_t>(flags()));
  out->set_ino(ino());
  out->set_net(saver.Ref(net_));
  out->set_send_buffer(send_buffer_);
  out->set_receive_buffer(receive_buffer_);
  out->set_receive_timeout(receive_timeout_);
  out->set_send_timeout(send_timeout_);
  out->set_toggles(toggles_);
  out->set_linger_on(linger_.l_onoff);
  out->set_linger_time(linger_.l_linger);
  out->set_priority(priority_);
  out->set_low_watermark(low_watermark_);
  out->set_device(device_);
  out->set_peek_offset(peek_offset_ + 1);
  SaveShared(out);
  IpOptions copy = ip_;
  VisitIpOptions(copy, [&](int& n) { out->add_ip(n); });
}

bool InetSocket::LoadInet(state::Loader& loader, const proto::InetSocket& in) {
  if (in.family() != AF_INET && in.family() != AF_INET6) return false;
  if (in.send_buffer() < 0 || in.receive_buffer() < 0) return false;
  Init(in.family(), in.type(), in.protocol());
  set_flags(static_cast<int>(in.flags()));
  SetIno(in.ino());
  net_ = loader.GetRef<NetNamespace>(in.net());
  send_buffer_ = in.send_buffer();
  receive_buffer_ = in.receive_buffer();
  receive_timeout_ = in.receive_timeout();
  send_timeout_ = in.send_timeout();
  toggles_ = in.toggles();
  linger_.l_onoff = in.linger_on();
  linger_.l_linger = in.linger_time();
  priority_ = in.priority();
  low_watermark_ = std::max(in.low_watermark(), 1);
  device_ = in.device();
  peek_offset_ = static_cast<int>(std::min<uint32_t>(in.peek_offset(), INT32_MAX)) - 1;
  if (!LoadShared(in)) return loader.Fail("a socket's filter is no program");
  int at = 0;
  VisitIpOptions(ip_, [&](int& n) {
    if (at < in.ip_size()) n = in.ip(at++);
  });
  return static_cast<bool>(net_);
}

std::string TcpSocket::Save(state::Saver& saver) const {
  proto::TcpSocket m;
  SaveInet(saver, m.mutable_inet());
  m.set_connection(saver.Ref(connection_));
  m.set_phase(static_cast<uint32_t>(phase_));
  return m.SerializeAsString();
}

bool TcpSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::TcpSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.phase() > static_cast<uint32_t>(Phase::kConnected) || !LoadInet(loader, m.inet())) return false;
  phase_ = static_cast<Phase>(m.phase());
  connection_ = loader.GetRef<net::TcpConnection>(m.connection());
  if (!connection_) return loader.Fail("a TCP socket lacks its connection");
  connection_->set_observer(this);
  return true;
}

bool TcpSocket::AfterLoad(state::Loader&) { return connection_->Attach(net_->tcp()); }

std::string UdpSocket::Save(state::Saver& saver) const {
  proto::UdpSocket m;
  SaveInet(saver, m.mutable_inet());
  net::SaveBinding(binding_, m.mutable_binding());
  net::SaveEndpoint(local_, m.mutable_local());
  net::SaveEndpoint(remote_, m.mutable_remote());
  m.set_connected(connected_);
  m.set_bound_address(bound_address_);
  m.set_bound_port(bound_port_);
  m.set_uid(uid_);
  m.set_shutdown(shutdown_);
  m.set_error(error_);
  for (const Datagram& d : datagrams_) SaveDatagram(d, m.add_datagram());
  for (const DatagramError& e : errors_) {
    auto* out = m.add_errors();
    out->set_data(std::string(e.data.view()));
    net::SaveEndpoint(e.to, out->mutable_to());
    out->set_offender(AddressBytes(e.offender));
    out->set_error(e.error);
    out->set_origin(e.origin);
    out->set_type(e.type);
    out->set_code(e.code);
    out->set_info(e.info);
  }
  m.set_drops(drops_);
  m.set_cork(cork_);
  m.set_send_coverage(static_cast<uint32_t>(send_coverage_ + 1));
  m.set_receive_coverage(static_cast<uint32_t>(receive_coverage_ + 1));
  m.set_has_corked(static_cast<bool>(corked_));
  if (corked_) m.set_corked(std::string(reinterpret_cast<const char*>(corked_->data()), corked_->used()));
  return m.SerializeAsString();
}

bool UdpSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::UdpSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadInet(loader, m.inet())) return false;
  if (!net::LoadBinding(m.binding(), &binding_, &load_bound_)) return false;
  if (!net::LoadEndpoint(m.local(), &local_) || !net::LoadEndpoint(m.remote(), &remote_)) return false;
  connected_ = m.connected();
  bound_address_ = m.bound_address();
  bound_port_ = m.bound_port();
  uid_ = m.uid();
  shutdown_ = m.shutdown() & 3;
  error_ = m.error();
  for (const auto& in : m.datagram()) {
    Datagram d;
    if (!LoadDatagram(in, &d)) return false;
    charge_ += d.data.size + kOverhead;
    queued_ += d.data.size;
    datagrams_.push_back(std::move(d));
  }
  for (const auto& in : m.errors()) {
    DatagramError e;
    e.data = net::Slice::Copy(in.data());
    if (!net::LoadEndpoint(in.to(), &e.to) || !net::LoadAddress(in.offender(), &e.offender)) return false;
    e.error = in.error();
    e.origin = static_cast<uint8_t>(in.origin());
    e.type = static_cast<uint8_t>(in.type());
    e.code = static_cast<uint8_t>(in.code());
    e.info = in.info();
    errors_.push_back(std::move(e));
  }
  drops_ = m.drops();
  cork_ = m.cork();
  if (m.send_coverage() > UINT16_MAX + 1u || m.receive_coverage() > UINT16_MAX + 1u) return false;
  send_coverage_ = static_cast<int>(m.send_coverage()) - 1;
  receive_coverage_ = static_cast<int>(m.receive_coverage()) - 1;
  if (m.has_corked() && m.corked().size() <= 65535) {
    corked_ = MakeRef<net::Buffer>(size_t{65535});
    memcpy(corked_->data(), m.corked().data(), m.corked().size());
    corked_->Fill(m.corked().size());
  }
  return true;
}

bool UdpSocket::AfterLoad(state::Loader&) {
  layer().all().insert(this);
  if (load_bound_) layer().ports().Share(binding_);
  return true;
}

std::string RawSocket::Save(state::Saver& saver) const {
  proto::RawSocket m;
  SaveInet(saver, m.mutable_inet());
  net::SaveEndpoint(local_, m.mutable_local());
  net::SaveEndpoint(remote_, m.mutable_remote());
  m.set_bound(bound_);
  m.set_connected(connected_);
  m.set_shutdown(shutdown_);
  m.set_error(error_);
  m.set_filter(std::string(reinterpret_cast<const char*>(icmp_filter_), sizeof(icmp_filter_)));
  for (const Datagram& d : packets_) SaveDatagram(d, m.add_packet());
  return m.SerializeAsString();
}

bool RawSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::RawSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadInet(loader, m.inet())) return false;
  if (!net::LoadEndpoint(m.local(), &local_) || !net::LoadEndpoint(m.remote(), &remote_)) return false;
  bound_ = m.bound();
  connected_ = m.connected();
  shutdown_ = m.shutdown() & 3;
  error_ = m.error();
  if (m.filter().size() == sizeof(icmp_filter_)) memcpy(icmp_filter_, m.filter().data(), sizeof(icmp_filter_));
  for (const auto& in : m.packet()) {
    Datagram d;
    if (!LoadDatagram(in, &d)) return false;
    charge_ += d.data.size + kOverhead;
    packets_.push_back(std::move(d));
  }
  return true;
}

bool RawSocket::AfterLoad(state::Loader&) {
  net_->raw().all().insert(this);
  return true;
}

}  // namespace amber
