#include "sentry/net/netlink/netlink_socket.h"

#include <linux/capability.h>
#include <linux/rtnetlink.h>
#include <poll.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "sentry/kernel/credentials.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/net/inet/inet_socket.h"
#include "sentry/net/netlink/netlink.pb.h"
#include "sentry/net/netlink/route_messages.h"

#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif

namespace amber {
namespace {

constexpr size_t kMaxRequest = 65536;

constexpr int kMaxGroup = 40;  // of the groups that there are messages for

// What a message costs beyond its bytes, for those that a guest may have posted in any number.
constexpr size_t kPostedCost = 768;

// One receive takes whole messages up to this, so that a dump fits the buffers that programs have.
constexpr size_t kChunk = 8192;

// Where a part of a dump ends, so that the next message fits in still.
constexpr size_t kPart = kChunk - 2048;

// Each one goes through all objects, even if there is nothing to tell.
constexpr int kDumpsOfOneSend = 16;

// Who has which port (nl_pid): no two sockets of a protocol in a namespace have the same. Kernel lock.
std::map<std::tuple<const NetNamespace*, int, uint32_t>, const NetlinkSocket*>& Ports() {
  static std::map<std::tuple<const NetNamespace*, int, uint32_t>, const NetlinkSocket*> ports;
  return ports;
}

std::string Sockaddr(uint32_t port, uint32_t groups) {
  sockaddr_nl a{};
  a.nl_family = AF_NETLINK;
  a.nl_pid = port;
  a.nl_groups = groups;
  return std::string(reinterpret_cast<const char*>(&a), sizeof(a));
}

}  // namespace

NetlinkSocket::NetlinkSocket() { Init(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); }

NetlinkSocket::~NetlinkSocket() {
  if (!net_) return;
  net_->watchers().erase(this);
  auto own = Ports().find({net_.get(), protocol_, port_});
  if (own != Ports().end() && own->second == this) Ports().erase(own);
}

ErrnoOr<RefPtr<Socket>> NetlinkSocket::Make(Task& task, int type, int protocol) {
  if (type != SOCK_RAW && type != SOCK_DGRAM) return Errno(ESOCKTNOSUPPORT);
  if (protocol != NETLINK_ROUTE && protocol != NETLINK_SOCK_DIAG && protocol != NETLINK_KOBJECT_UEVENT) return Errno(EPROTONOSUPPORT);
  auto socket = MakeRef<NetlinkSocket>();
  socket->Init(AF_NETLINK, type, protocol);
  socket->net_ = RefPtr<NetNamespace>(&NetNamespace::Of(task));
  socket->net_->watchers().insert(socket.get());
  socket->opener_ = task.creds_ref();
  return RefPtr<Socket>(std::move(socket));
}

// False if another one has it.
bool NetlinkSocket::TakePort(uint32_t port) {
  if (!Ports().emplace(std::tuple(net_.get(), protocol_, port), this).second) return false;
  port_ = port;
  bound_ = true;
  return true;
}

// netlink_autobind(): the first socket of a process is numbered by it, others somewhere below zero.
void NetlinkSocket::AutoBind(Task& task) {
  if (bound_ || TakePort(static_cast<uint32_t>(task.pid()))) return;
  constexpr uint32_t kLowest = 1u << 31, kHighest = static_cast<uint32_t>(-4097);
  while (!TakePort(kLowest + static_cast<uint32_t>(net_->Random() % (kHighest - kLowest + 1)))) {
  }
}

ErrnoOr<void> NetlinkSocket::Bind(Task& task, std::string_view address) {
  sockaddr_nl a;
  if (address.size() < sizeof(a)) return Errno(EINVAL);
  memcpy(&a, address.data(), sizeof(a));
  if (a.nl_family != AF_NETLINK) return Errno(EINVAL);
  if (bound_ && a.nl_pid != port_) return Errno(EINVAL);
  if (!bound_ && a.nl_pid != 0 && !TakePort(a.nl_pid)) return Errno(EADDRINUSE);
  AutoBind(task);
  groups_ = a.nl_groups;
  return Ok();
}

ErrnoOr<void> NetlinkSocket::Connect(Task& task, std::string_view address) {
  sockaddr_nl a;
  if (address.size() < sizeof(sa_family_t)) return Errno(EINVAL);
  memcpy(&a, address.data(), std::min(address.size(), sizeof(a)));
  if (a.nl_family == AF_UNSPEC) return Ok();
  if (a.nl_family != AF_NETLINK || address.size() < sizeof(a)) return Errno(EINVAL);
  // There is nobody here but the kernel.
  if (a.nl_pid != 0) return Errno(ECONNREFUSED);
  AutoBind(task);
  return Ok();
}

ErrnoOr<std::string> NetlinkSocket::LocalAddress() { return Sockaddr(port_, groups_); }
ErrnoOr<std::string> NetlinkSocket::PeerAddress() { return Sockaddr(0, 0); }

// Splits between messages.
void NetlinkSocket::Queue(std::string bytes) {
  made_ += bytes.size();
  std::string_view rest = bytes;
  while (!rest.empty()) {
    size_t size = 0;
    while (size < rest.size()) {
      nlmsghdr h;
      memcpy(&h, rest.data() + size, sizeof(h));
      size_t next = (h.nlmsg_len + 3u) & ~size_t{3};
      if (size > 0 && size + next > kChunk) break;
      size += next;
    }
    size = std::min(size, rest.size());
    size_t kept = filter_ ? std::min<size_t>(filter_->Run(rest.substr(0, size)), size) : size;
    if (kept > 0) {
      queued_ += kept;
      answers_.emplace_back(rest.substr(0, kept));
    }
    rest.remove_prefix(size);
  }
  queue_.Notify(POLLIN | POLLRDNORM);
}

// What nobody asked for: lost, and told to be, if the socket is full (netlink_overrun()).
void NetlinkSocket::Announce(NetlinkWriter& out) {
  std::string& bytes = out.Take();
  if (queued_ + bytes.size() + answers_.size() * kPostedCost > static_cast<size_t>(receive_buffer_)) {
    overrun_ = overrun_ || Kept(SOL_NETLINK, NETLINK_NO_ENOBUFS) == 0;
    queue_.Notify(POLLIN | POLLRDNORM | POLLERR);
    return;
  }
  Queue(std::move(bytes));
}

void NetlinkSocket::OnLinkEvent(net::Link& link, bool gone) {
  if (!Joined(RTNLGRP_LINK)) return;
  NetlinkWriter out(0, 0);
  PutLink(*net_, link, gone ? RTM_DELLINK : RTM_NEWLINK, 0, out);
  Announce(out);
}

void NetlinkSocket::OnAddressEvent(net::Link& link, const net::InterfaceAddress& address, bool gone) {
  if (!Joined(address.address.v4() ? RTNLGRP_IPV4_IFADDR : RTNLGRP_IPV6_IFADDR)) return;
  NetlinkWriter out(0, 0);
  PutAddress(link, address, gone ? RTM_DELADDR : RTM_NEWADDR, 0, out);
  Announce(out);
}

void NetlinkSocket::OnRouteEvent(const net::Route& route, bool gone) {
  if (!Joined(route.destination.v4() ? RTNLGRP_IPV4_ROUTE : RTNLGRP_IPV6_ROUTE)) return;
  NetlinkWriter out(0, 0);
  PutRoute(route, gone ? RTM_DELROUTE : RTM_NEWROUTE, 0, out);
  Announce(out);
}

bool NetlinkSocket::Reserve(bool loading) {
  if (!loading && (answers_.size() + reserved_) * kPostedCost + queued_ >= static_cast<size_t>(receive_buffer_)) return false;
  ++reserved_;
  return true;
}

void NetlinkSocket::PostReserved(std::string message) {
  --reserved_;
  queued_ += message.size();
  answers_.push_back(std::move(message));
  queue_.Notify(POLLIN | POLLRDNORM);
}

// netlink_ack(): what failed is sent back whole, unless that is not wanted.
void NetlinkSocket::Acknowledge(const nlmsghdr& header, std::string_view body, int error, NetlinkWriter& out) const {
  bool whole = error != 0 && Kept(SOL_NETLINK, NETLINK_CAP_ACK) == 0;
  out.Begin(NLMSG_ERROR, whole ? 0 : NLM_F_CAPPED, nlmsgerr{-error, header});
  if (whole) out.Body(body);
}

int NetlinkSocket::Answer(Task& task, const nlmsghdr& header, std::string_view body, const Credentials* opener, bool dump, NetlinkWriter& out) {
  if (protocol_ == NETLINK_SOCK_DIAG) return HandleDiag(task, *net_, header.nlmsg_type, dump, body, out);
  if (protocol_ != NETLINK_ROUTE) return EOPNOTSUPP;
  RouteRequest request{task, *net_, header.nlmsg_type, header.nlmsg_flags, dump, body, out, opener};
  return HandleRoute(request);
}

// netlink_dump(): the end comes with the last part; a request that is refused at once is answered by an error.
void NetlinkSocket::GoOnDumping(Task& task) {
  NetlinkWriter out(dump_->header.nlmsg_seq, port_);
  out.BeginPart(dump_->told, kPart);
  int error = Answer(task, dump_->header, dump_->body, nullptr, true, out);
  if (error != 0 && dump_->told == 0) {
    Acknowledge(dump_->header, dump_->body, error, out);
  } else if (error != 0 || !out.full()) {
    out.Begin<int32_t>(NLMSG_DONE, NLM_F_MULTI, -error);
  }
  dump_->told = out.seen();
  if (error != 0 || !out.full()) dump_.reset();
  Queue(std::move(out.Take()));
}

void NetlinkSocket::Handle(Task& task, const nlmsghdr& header, std::string_view body, const Credentials* opener) {
  NetlinkWriter out(header.nlmsg_seq, port_);
  // Control messages, and what asks for nothing, are acknowledged all the same (netlink_rcv_skb()).
  if ((header.nlmsg_flags & NLM_F_REQUEST) == 0 || header.nlmsg_type < NLMSG_MIN_TYPE) {
    if ((header.nlmsg_flags & NLM_F_ACK) == 0 || protocol_ == NETLINK_KOBJECT_UEVENT) return;
    Acknowledge(header, body, 0, out);
    return Queue(std::move(out.Take()));
  }
  // Where something is changed these are other flags (NLM_F_REPLACE, NLM_F_EXCL).
  bool asks = protocol_ != NETLINK_ROUTE || IsRouteQuestion(header.nlmsg_type);
  bool dump = asks && (header.nlmsg_flags & NLM_F_DUMP) != 0;
  bool busy = dump && (dump_ || ++dumps_ > kDumpsOfOneSend);
  if (dump && !busy) {
    dump_ = Dump{header, std::string(body)};
    return GoOnDumping(task);
  }
  int error = busy ? EBUSY : Answer(task, header, body, opener, false, out);
  if (error != 0 || (header.nlmsg_flags & NLM_F_ACK) != 0) Acknowledge(header, body, error, out);
  if (std::string& bytes = out.Take(); !bytes.empty()) Queue(std::move(bytes));
}

ErrnoOr<size_t> NetlinkSocket::Send(Task& task, SendRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  if (!request.address.empty()) {
    sockaddr_nl a{};
    memcpy(&a, request.address.data(), std::min(request.address.size(), sizeof(a)));
    if (request.address.size() < sizeof(a) || a.nl_family != AF_NETLINK) return Errno(EINVAL);
    if (a.nl_pid != 0) return Errno(ECONNREFUSED);
  }
  size_t size = request.source.remaining();
  if (size == 0) return Errno(ENODATA);
  if (size > kMaxRequest) return Errno(EMSGSIZE);
  // Answers that nobody reads are not piled up without end, nor are those to one packet full of requests.
  size_t limit = static_cast<size_t>(receive_buffer_) * 4;
  if (queued_ > limit) return Errno(ENOBUFS);
  // Who names the kernel as the receiver is asked alone (NETLINK_SKB_DST).
  const Credentials* opener = request.address.empty() ? opener_.get() : nullptr;
  std::string bytes(size, '\0');
  if (size > 0 && TRY(request.source.Take(bytes.data(), size)) < size) return Errno(EFAULT);
  AutoBind(task);
  made_ = 0, dumps_ = 0;
  std::string_view rest = bytes;
  while (rest.size() >= sizeof(nlmsghdr) && queued_ <= limit && made_ <= limit) {
    nlmsghdr h;
    memcpy(&h, rest.data(), sizeof(h));
    if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > rest.size()) break;
    Handle(task, h, rest.substr(sizeof(h), h.nlmsg_len - sizeof(h)), opener);
    rest.remove_prefix(std::min<size_t>(rest.size(), (h.nlmsg_len + 3u) & ~size_t{3}));
  }
  return size;
}

ErrnoOr<size_t> NetlinkSocket::Receive(Task& task, ReceiveRequest& request) {
  if ((request.flags & MSG_OOB) != 0) return Errno(EOPNOTSUPP);
  if (overrun_) {
    overrun_ = false;
    return Errno(ENOBUFS);
  }
  if (answers_.empty()) return Errno(EAGAIN);
  const std::string& front = answers_.front();
  size_t copied = std::min(front.size(), request.sink.remaining());
  if (copied > 0) {
    auto put = request.sink.Put(front.data(), copied);
    if (!put.ok() || *put < copied) return Errno(EFAULT);
  }
  request.full_size = front.size();
  if (copied < front.size()) request.out_flags |= MSG_TRUNC;
  request.address = Sockaddr(0, 0);
  if ((request.flags & MSG_PEEK) == 0) {
    queued_ -= front.size();
    answers_.pop_front();
    if (dump_ && queued_ <= static_cast<size_t>(receive_buffer_) / 2) GoOnDumping(task);
    queue_.Notify(POLLOUT | POLLWRNORM);
  }
  return copied;
}

ErrnoOr<void> NetlinkSocket::SetOption(Task& task, int level, int name, std::span<const uint8_t> value) {
  if (level == SOL_SOCKET) return Socket::SetOption(task, level, name, value);
  if (level != SOL_NETLINK) return Errno(ENOPROTOOPT);
  // Too short a value is 0 (netlink_setsockopt()).
  int n = 0;
  if (value.size() >= sizeof(n)) memcpy(&n, value.data(), sizeof(n));
  switch (name) {
    case NETLINK_ADD_MEMBERSHIP:
      if (n < 1 || n > kMaxGroup) return Errno(EINVAL);
      if (n <= 32) groups_ |= 1u << (n - 1);
      return Ok();
    case NETLINK_DROP_MEMBERSHIP:
      if (n < 1 || n > kMaxGroup) return Errno(EINVAL);
      if (n <= 32) groups_ &= ~(1u << (n - 1));
      return Ok();
    case NETLINK_LISTEN_ALL_NSID:
      if (!task.creds().HasIn(net_->owner(), CAP_NET_ADMIN)) return Errno(EPERM);
      [[fallthrough]];
    case NETLINK_EXT_ACK:
    case NETLINK_CAP_ACK:
    case NETLINK_GET_STRICT_CHK:
    case NETLINK_NO_ENOBUFS:
    case NETLINK_PKTINFO:
    case NETLINK_BROADCAST_ERROR: Keep(SOL_NETLINK, name, n != 0); return Ok();
    default: return Errno(ENOPROTOOPT);
  }
}

ErrnoOr<std::string> NetlinkSocket::GetOption(Task& task, int level, int name, size_t capacity) {
  if (level != SOL_SOCKET && level != SOL_NETLINK) return Errno(ENOPROTOOPT);
  if (level == SOL_NETLINK) {
    auto bytes = [](const auto& number) { return std::string(reinterpret_cast<const char*>(&number), sizeof(number)); };
    switch (name) {
      case NETLINK_LIST_MEMBERSHIPS: return groups_ == 0 ? std::string() : bytes(uint64_t{groups_});
      case NETLINK_LISTEN_ALL_NSID:
      case NETLINK_EXT_ACK:
      case NETLINK_CAP_ACK:
      case NETLINK_GET_STRICT_CHK:
      case NETLINK_NO_ENOBUFS:
      case NETLINK_PKTINFO:
      case NETLINK_BROADCAST_ERROR: return capacity < sizeof(int) ? ErrnoOr<std::string>(Errno(EINVAL)) : bytes(Kept(SOL_NETLINK, name));
      default: return Errno(ENOPROTOOPT);
    }
  }
  return Socket::GetOption(task, level, name, capacity);
}

ErrnoOr<uint64_t> NetlinkSocket::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  auto done = DeviceIoctl(task, *net_, command, argument);
  return done.Is(ENOTTY) ? Socket::Ioctl(task, command, argument) : done;
}

uint32_t NetlinkSocket::Poll(Task&) { return POLLOUT | POLLWRNORM | (answers_.empty() ? 0 : POLLIN | POLLRDNORM) | (overrun_ ? POLLERR : 0); }

namespace {

// What HasIn() looks at.
RefPtr<const Credentials> LoadOpener(state::Loader& loader, const proto::NetlinkOpener& in) {
  auto creds = MakeRef<Credentials>();
  creds->euid = in.uid();
  creds->effective = in.effective() & kAllCapabilities;
  creds->user_ns = loader.GetRef<UserNamespace>(in.user_ns());
  return creds;
}

}  // namespace

std::string NetlinkSocket::Save(state::Saver& saver) const {
  proto::NetlinkSocket m;
  m.set_type(type_);
  m.set_protocol(protocol_);
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_ino(ino());
  m.set_net(saver.Ref(net_));
  m.set_port(port_);
  m.set_groups(groups_);
  m.set_receive_timeout(receive_timeout_);
  m.set_toggles(toggles_);
  m.set_send_buffer(send_buffer_);
  m.set_receive_buffer(receive_buffer_);
  m.set_overrun(overrun_);
  if (opener_) {
    m.mutable_opener()->set_uid(opener_->euid);
    m.mutable_opener()->set_effective(opener_->effective);
    m.mutable_opener()->set_user_ns(saver.Ref(opener_->user_ns));
  }
  SaveShared(&m);
  for (const std::string& a : answers_) m.add_answer(a);
  if (dump_) {
    m.mutable_dump()->set_header(std::string(reinterpret_cast<const char*>(&dump_->header), sizeof(nlmsghdr)));
    m.mutable_dump()->set_body(dump_->body);
    m.mutable_dump()->set_told(dump_->told);
  }
  return m.SerializeAsString();
}

bool NetlinkSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::NetlinkSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  Init(AF_NETLINK, m.type(), m.protocol());
  set_flags(static_cast<int>(m.flags()));
  SetIno(m.ino());
  net_ = loader.GetRef<NetNamespace>(m.net());
  port_ = m.port();
  groups_ = m.groups();
  receive_timeout_ = m.receive_timeout();
  toggles_ = m.toggles();
  if (m.send_buffer() < 0 || m.receive_buffer() < 0) return false;
  if (m.send_buffer() > 0) send_buffer_ = m.send_buffer();
  if (m.receive_buffer() > 0) receive_buffer_ = m.receive_buffer();
  overrun_ = m.overrun();
  if (m.has_opener()) opener_ = LoadOpener(loader, m.opener());
  if (!LoadShared(m)) return loader.Fail("a socket's filter is no program");
  for (const std::string& a : m.answer()) {
    queued_ += a.size();
    answers_.push_back(a);
  }
  if (m.has_dump()) {
    if (m.dump().header().size() != sizeof(nlmsghdr) || m.dump().body().size() > kMaxRequest) return loader.Fail("a netlink request is malformed");
    dump_ = Dump{{}, m.dump().body(), m.dump().told()};
    memcpy(&dump_->header, m.dump().header().data(), sizeof(nlmsghdr));
  }
  if (net_) net_->watchers().insert(this);
  bound_ = port_ != 0;
  if (net_ && bound_) (void)TakePort(port_);  // two may have the same in an image from before that was looked at
  return static_cast<bool>(net_);
}

}  // namespace amber
