// Saving and loading Unix sockets, with the messages that are on their way.
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/landlock/landlock.h"
#include "sentry/net/unix/unix.pb.h"
#include "sentry/net/unix/unix_host.h"
#include "sentry/net/unix/unix_names.h"
#include "sentry/net/unix/unix_socket.h"
#include "sentry/vfs/mount.h"

namespace amber {
namespace {

void SaveCredentials(const ucred& c, proto::UnixCredentials* out) {
  out->set_pid(c.pid);
  out->set_uid(c.uid);
  out->set_gid(c.gid);
}

ucred LoadCredentials(const proto::UnixCredentials& m) { return {m.pid(), m.uid(), m.gid()}; }

void SaveIdentity(state::Saver& saver, const UnixIdentity& identity, proto::UnixSocket* out) {
  out->set_peer_credentials_known(identity.known);
  if (!identity.known) return;
  SaveCredentials(identity.credentials, out->mutable_peer_credentials());
  for (gid_t g : identity.groups->groups) out->add_peer_groups(g);
  out->set_peer_process(saver.Ref(identity.process));
}

UnixIdentity LoadIdentity(state::Loader& loader, const proto::UnixSocket& m) {
  UnixIdentity out;
  out.known = m.peer_credentials_known();
  if (!out.known) return out;
  out.credentials = LoadCredentials(m.peer_credentials());
  auto groups = MakeRef<Credentials>();
  groups->groups.assign(m.peer_groups().begin(), m.peer_groups().end());
  out.groups = std::move(groups);
  out.process = loader.GetRef<ThreadGroup>(m.peer_process());
  return out;
}

}  // namespace

std::string UnixSocket::Save(state::Saver& saver) const {
  proto::UnixSocket m;
  m.set_type(type_);
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_ino(ino_);
  m.set_state(static_cast<uint32_t>(state_));
  m.set_address(address_);
  m.set_owns_name(owns_name_);
  // An accepted socket only shows its listener's place (SIOCUNIXFILE), which may have been removed.
  if (bound_path_ && (owns_name_ || !bound_path_->dentry->unlinked())) {
    m.set_bound_mount(saver.Ref(bound_path_->mount));
    m.set_bound_dentry(saver.Ref(bound_path_->dentry));
  }
  m.set_net(saver.Ref(net_));
  m.set_domain(saver.Ref(domain_));
  m.set_peer(saver.Ref(peer_));
  m.set_peer_address(peer_address_);
  for (const UnixMessage& message : messages_) {
    auto* out = m.add_message();
    out->set_data(message.data.substr(message.offset));
    for (const RefPtr<File>& f : message.rights) out->add_rights(saver.Ref(f));
    out->set_rights_owner(message.rights_owner);
    SaveCredentials(message.credentials, out->mutable_credentials());
    out->set_credentials_wanted(message.credentials_wanted);
    out->set_process(saver.Ref(message.process));
    out->set_urgent(message.urgent);
    out->set_one_byte(message.one_byte);
    out->set_address(message.address);
    out->set_sender(saver.Ref(message.budget->owner));
  }
  for (const RefPtr<UnixSocket>& p : pending_) m.add_pending(saver.Ref(p));
  m.set_backlog(static_cast<uint32_t>(backlog_));
  SaveIdentity(saver, identity_, &m);
  // The host's side of a connection is out of an image's reach: a program finds it reset, a datagram's sender that nobody is there.
  bool lost = host_peer_ != nullptr;
  m.set_shutdown(lost && connection_oriented() ? 3 : static_cast<uint32_t>(shutdown_));
  m.set_hung_up(hung_up_ || lost);
  m.set_error(lost && connection_oriented() ? ECONNRESET : error_);
  m.set_host_bound(host_bound_ != nullptr);
  m.set_send_buffer(send_buffer_);
  m.set_receive_buffer(receive_buffer_);
  m.set_receive_timeout(receive_timeout_);
  m.set_send_timeout(send_timeout_);
  m.set_pass_credentials(pass_credentials_);
  m.set_toggles(toggles_);
  m.set_pass_pidfd(pass_pidfd_);
  m.set_refuse_rights(!pass_rights_);
  m.set_peek_offset(static_cast<uint32_t>(peek_offset_ + 1));
  m.set_linger_on(linger_.l_onoff);
  m.set_linger_time(linger_.l_linger);
  m.set_priority(priority_);
  m.set_low_watermark(low_watermark_);
  SaveShared(&m);
  return m.SerializeAsString();
}

bool UnixSocket::Load(state::Loader& loader, std::string_view bytes) {
  proto::UnixSocket m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.type() != SOCK_STREAM && m.type() != SOCK_DGRAM && m.type() != SOCK_SEQPACKET) return false;
  if (m.state() > static_cast<uint32_t>(State::kConnected) || m.send_buffer() < 0 || m.receive_buffer() < 0) return false;
  Init(AF_UNIX, m.type(), 0);
  set_flags(static_cast<int>(m.flags()));
  SetIno(m.ino());
  state_ = static_cast<State>(m.state());
  address_ = m.address();
  owns_name_ = m.owns_name();
  if (owns_name_ && !UnixName::Parse(address_).ok()) return false;
  if (m.bound_dentry() != 0) {
    bound_path_ = std::make_unique<VfsPath>();
    bound_path_->mount = loader.GetRef<Mount>(m.bound_mount());
    bound_path_->dentry = loader.GetRef<Dentry>(m.bound_dentry());
    if (!bound_path_->mount || !bound_path_->dentry) return false;
  }
  net_ = loader.GetRef<NetNamespace>(m.net());
  domain_ = loader.GetRef<LandlockRuleset>(m.domain());
  SetPeer(loader.Get<UnixSocket>(m.peer()));
  peer_address_ = m.peer_address();
  for (const auto& in : m.message()) {
    UnixMessage message;
    message.data = in.data();
    for (uint64_t id : in.rights()) {
      RefPtr<File> file = loader.GetRef<File>(id);
      if (!file) return false;
      message.rights.push_back(std::move(file));
    }
    message.rights_owner = in.rights_owner();
    message.credentials = LoadCredentials(in.credentials());
    message.credentials_wanted = in.credentials_wanted();
    message.process = loader.GetRef<ThreadGroup>(in.process());
    message.urgent = in.urgent();
    message.one_byte = in.one_byte();
    if (message.urgent && (has_urgent_ || message.data.empty() || type_ != SOCK_STREAM)) return false;
    has_urgent_ |= message.urgent;
    message.address = in.address();
    auto* sender = loader.Get<UnixSocket>(in.sender());
    message.budget = sender != nullptr ? sender->budget_ : MakeRef<UnixSendBudget>();
    Deliver(std::move(message));
  }
  for (uint64_t id : m.pending()) {
    RefPtr<UnixSocket> p = loader.GetRef<UnixSocket>(id);
    if (!p || p == this) return false;
    p->pending_accept_ = true;
    pending_.push_back(std::move(p));
  }
  backlog_ = m.backlog();
  identity_ = LoadIdentity(loader, m);
  pass_pidfd_ = m.pass_pidfd();
  pass_rights_ = !m.refuse_rights();
  peek_offset_ = static_cast<int>(std::min<uint32_t>(m.peek_offset(), INT32_MAX)) - 1;
  linger_ = {m.linger_on(), m.linger_time()};
  priority_ = m.priority();
  low_watermark_ = std::max(m.low_watermark(), 1);
  shutdown_ = static_cast<int>(m.shutdown() & 3);
  host_bound_wanted_ = m.host_bound();
  hung_up_ = m.hung_up();
  error_ = m.error();
  send_buffer_ = m.send_buffer();
  receive_buffer_ = m.receive_buffer();
  receive_timeout_ = m.receive_timeout();
  send_timeout_ = m.send_timeout();
  pass_credentials_ = m.pass_credentials();
  toggles_ = m.toggles();
  return LoadShared(m) || loader.Fail("a socket's filter is no program");
}

bool UnixSocket::AfterLoad(state::Loader& loader) {
  if (!owns_name_) return true;
  if (bound_path_) {
    if (bound_path_->dentry->negative()) return false;
    SetBoundSocket(*bound_path_, this);
    return !host_bound_wanted_ || BindHostAgain(loader);
  }
  return UnixNames::Abstract().try_emplace({net_.get(), address_}, this).second;
}

}  // namespace amber
