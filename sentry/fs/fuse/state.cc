// What an image has of FUSE: the server is in the sandbox, so everything of a connection is, too.
#include <sys/stat.h>

#include "sentry/fs/fuse/fuse.pb.h"
#include "sentry/fs/fuse/fuse_file.h"
#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/vfs/state_util.h"

namespace amber {

std::string FuseHandle::Save(state::Saver& saver) const {
  fuse_state::Handle m;
  m.set_connection(saver.Ref(connection_));
  m.set_node(node_);
  m.set_directory(directory_);
  m.set_fh(fh);
  m.set_open_flags(open_flags);
  m.set_flags(flags);
  m.set_opened(opened);
  return m.SerializeAsString();
}

bool FuseHandle::Load(state::Loader& loader, std::string_view bytes) {
  fuse_state::Handle m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  connection_ = loader.GetRef<FuseConnection>(m.connection());
  node_ = m.node();
  directory_ = m.directory();
  fh = m.fh();
  open_flags = m.open_flags();
  flags = m.flags();
  opened = m.opened();
  return static_cast<bool>(connection_);
}

std::string FuseRequest::Save(state::Saver& saver) const {
  fuse_state::Request m;
  m.set_connection(saver.Ref(connection_));
  m.set_opcode(question_.opcode);
  m.set_node(question_.node);
  m.set_in(question_.in);
  m.set_data(question_.data);
  m.set_min_out(question_.min_out);
  m.set_max_out(question_.max_out);
  m.set_handle(saver.Ref(question_.handle));
  m.set_flags(question_.flags);
  m.set_header(&header_, sizeof(header_));
  m.set_state(static_cast<uint32_t>(state_));
  m.set_abandoned(abandoned_);
  m.set_background(background_);
  m.set_interrupted(interrupted_);
  m.set_attr_version(attr_version_);
  m.set_error(error_);
  m.set_answer(answer_);
  m.set_inode(saver.Ref(inode_));
  m.set_opened(saver.Ref(opened_));
  m.set_fs(saver.Ref(fs_));
  return m.SerializeAsString();
}

bool FuseRequest::Load(state::Loader& loader, std::string_view bytes) {
  fuse_state::Request m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  connection_ = loader.GetRef<FuseConnection>(m.connection());
  bool done = m.state() == static_cast<uint32_t>(State::kDone);
  if (!connection_ || m.header().size() != sizeof(header_) || m.state() > static_cast<uint32_t>(State::kDone)) return false;
  if (m.opcode() >= 64 || m.error() < 0 || m.error() >= 512) return loader.Fail("a request to a server makes no sense");
  question_ = {.opcode = m.opcode(), .node = m.node(), .in = m.in(), .data = m.data(), .min_out = m.min_out(), .max_out = m.max_out()};
  question_.handle = loader.GetRef<FuseHandle>(m.handle());
  question_.flags = m.flags();
  memcpy(&header_, m.header().data(), sizeof(header_));
  header_.len = static_cast<uint32_t>(sizeof(header_) + question_.in.size() + question_.data.size());
  state_ = static_cast<State>(m.state());
  abandoned_ = m.abandoned();
  background_ = m.background();
  interrupted_ = m.interrupted();
  attr_version_ = m.attr_version();
  error_ = m.error();
  answer_ = m.answer();
  inode_ = loader.GetRef<FuseInode>(m.inode());
  opened_ = loader.GetRef<FuseHandle>(m.opened());
  fs_ = loader.GetRef<FileSystem>(m.fs());
  set_key(KeyOf(connection_.get(), question_));
  if (!done) return true;
  // What operations rely on once there is an answer without an error.
  bool fits = answer_.size() >= question_.min_out && answer_.size() <= question_.max_out;
  bool entry =
      question_.opcode == FUSE_MKNOD || question_.opcode == FUSE_MKDIR || question_.opcode == FUSE_SYMLINK || question_.opcode == FUSE_CREATE;
  bool opens = question_.opcode == FUSE_OPEN || question_.opcode == FUSE_OPENDIR || question_.opcode == FUSE_CREATE;
  if (error_ == 0 && !abandoned_ && (!fits || (entry && !inode_) || (opens && !opened_))) return loader.Fail("an answer of a server makes no sense");
  set_answered_before();
  return true;
}

std::string FuseConnection::Save(state::Saver& saver) const {
  fuse_state::Connection m;
  m.set_root_mode(options_.root_mode);
  m.set_uid(options_.uid);
  m.set_gid(options_.gid);
  m.set_allow_other(options_.allow_other);
  m.set_default_permissions(options_.default_permissions);
  m.set_max_read(options_.max_read);
  m.set_block_size(options_.block_size);
  m.set_block_device(options_.block_device);
  m.set_user_ns(saver.Ref(user_ns_));
  m.set_pid_ns(saver.Ref(pid_ns_));
  m.set_connected(connected_);
  m.set_initialized(initialized_);
  m.set_minor(minor_);
  m.set_flags(flags_);
  m.set_max_write(max_write_);
  m.set_max_pages(max_pages_);
  m.set_lacks(lacks_);
  m.set_no_interrupt(no_interrupt_);
  m.set_next_unique(next_unique_);
  m.set_attr_version(attr_version_);
  for (const auto& r : pending_) m.add_pending(saver.Ref(r));
  for (const auto& [unique, r] : sent_) m.add_sent(saver.Ref(r));
  for (uint64_t unique : interrupts_) m.add_interrupt(unique);
  for (auto [node, lookups] : forgets_) {
    m.add_forget_node(node);
    m.add_forget_lookups(lookups);
  }
  auto known = [&](uint64_t node, uint64_t lookups) {
    m.add_known_node(node);
    m.add_known_lookups(lookups);
  };
  for (const auto& [node, inode] : inodes_) {
    if (node != FUSE_ROOT_ID) known(node, inode->lookups_);
  }
  for (auto [node, lookups] : left_behind_) known(node, lookups);
  return m.SerializeAsString();
}

bool FuseConnection::Load(state::Loader& loader, std::string_view bytes) {
  fuse_state::Connection m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  options_ = {m.root_mode(), m.uid(), m.gid(), m.allow_other(), m.default_permissions(), m.max_read(), m.block_size(), m.block_device()};
  user_ns_ = loader.GetRef<UserNamespace>(m.user_ns());
  pid_ns_ = loader.GetRef<PidNamespace>(m.pid_ns());
  connected_ = m.connected();
  initialized_ = m.initialized();
  minor_ = m.minor();
  flags_ = m.flags();
  max_write_ = std::clamp<uint32_t>(m.max_write(), 4096, 1 << 20);
  max_pages_ = std::clamp<uint32_t>(m.max_pages(), 1, 256);
  lacks_ = m.lacks();
  no_interrupt_ = m.no_interrupt();
  next_unique_ = (m.next_unique() + 1) & ~uint64_t{1};
  attr_version_ = m.attr_version();
  for (uint64_t id : m.pending()) {
    auto r = loader.GetRef<FuseRequest>(id);
    if (!r) return false;
    pending_.push_back(std::move(r));
  }
  for (uint64_t id : m.sent()) {
    auto r = loader.GetRef<FuseRequest>(id);
    if (!r) return false;
    loaded_sent_.push_back(std::move(r));
  }
  interrupts_.assign(m.interrupt().begin(), m.interrupt().end());
  if (m.forget_node_size() != m.forget_lookups_size() || m.known_node_size() != m.known_lookups_size()) return false;
  for (int i = 0; i < m.forget_node_size(); ++i) forgets_.emplace_back(m.forget_node(i), m.forget_lookups(i));
  for (int i = 0; i < m.known_node_size(); ++i) left_behind_[m.known_node(i)] = m.known_lookups(i);
  return true;
}

bool FuseConnection::AfterLoad(state::Loader& loader) {
  for (auto& r : loaded_sent_) {
    if (r->state_ != FuseRequest::State::kSent || r->connection_.get() != this) return loader.Fail("a server's requests make no sense");
    sent_[r->header_.unique] = r;
  }
  loaded_sent_.clear();
  for (auto& r : pending_) {
    if (r->state_ != FuseRequest::State::kPending || r->connection_.get() != this) return loader.Fail("a server's requests make no sense");
  }
  return true;
}

std::string FuseInode::Save(state::Saver& saver) const {
  fuse_state::Inode m;
  m.set_base(SaveBase(saver));
  m.set_connection(saver.Ref(connection_));
  m.set_node(node_);
  m.set_generation(generation_);
  m.set_lookups(lookups_);
  m.set_stale(connection_->Find(node_) != this);
  m.set_attr_version(attr_version_);
  struct stat st;
  if (pages_.valid() && fstat(pages_.get(), &st) == 0) {
    m.set_pages_size(static_cast<uint64_t>(st.st_size));
    m.set_pages(saver.File(pages_.get(), static_cast<uint64_t>(st.st_size)));
  }
  return m.SerializeAsString();
}

bool FuseInode::Load(state::Loader& loader, std::string_view bytes) {
  fuse_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  connection_ = loader.GetRef<FuseConnection>(m.connection());
  node_ = m.node();
  generation_ = m.generation();
  lookups_ = m.lookups();
  stale_ = m.stale();
  attr_version_ = m.attr_version();
  if (m.pages() != 0) {
    pages_.reset(loader.OpenFile(m.pages()));
    if (!pages_.valid()) return loader.Fail("a mapped file's contents are missing");
  }
  return static_cast<bool>(connection_);
}

bool FuseInode::AfterLoad(state::Loader& loader) {
  if (std::exchange(stale_, false)) return true;
  if (!connection_->inodes_.emplace(node_, this).second) return loader.Fail("two inodes of a server have one number");
  connection_->left_behind_.erase(node_);
  return true;
}

std::string FuseFileSystem::Save(state::Saver& saver) const {
  fuse_state::FileSystem m;
  m.set_type(type_);
  m.set_connection(saver.Ref(connection_));
  return SaveBase(saver, m.SerializeAsString());
}

bool FuseFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  fuse_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  type_ = m.type();
  connection_ = loader.GetRef<FuseConnection>(m.connection());
  return static_cast<bool>(connection_);
}

bool FuseFileSystem::AfterLoad(state::Loader&) {
  connection_->Attach(this);
  return true;
}

std::string FuseFile::Save(state::Saver& saver) const {
  fuse_state::File m;
  m.set_handle(saver.Ref(handle_));
  return SaveOpenFile(saver, position_, 0, m.SerializeAsString());
}

bool FuseFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile open;
  fuse_state::File m;
  if (!LoadOpenFile(loader, bytes, &open) || !m.ParseFromString(open.extra())) return false;
  position_ = open.position();
  handle_ = loader.GetRef<FuseHandle>(m.handle());
  return static_cast<bool>(handle_);
}

bool FuseFile::AfterLoad(state::Loader& loader) {
  if (!VfsFile::AfterLoad(loader)) return false;
  return dynamic_cast<FuseInode*>(&inode()) != nullptr || loader.Fail("an open file of a server has no inode of one");
}

std::string FuseDevice::Save(state::Saver& saver) const {
  fuse_state::File m;
  m.set_handle(saver.Ref(connection_));
  m.set_opener(saver.Ref(opener_));
  return SaveOpenFile(saver, 0, 0, m.SerializeAsString());
}

bool FuseDevice::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile open;
  fuse_state::File m;
  if (!LoadOpenFile(loader, bytes, &open) || !m.ParseFromString(open.extra())) return false;
  connection_ = loader.GetRef<FuseConnection>(m.handle());
  opener_ = loader.GetRef<UserNamespace>(m.opener());
  return m.handle() == 0 || connection_;
}

bool FuseDevice::AfterLoad(state::Loader& loader) {
  if (connection_) connection_->AddDevice();
  return VfsFile::AfterLoad(loader);
}

}  // namespace amber
