#include "sentry/fs/fuse/connection.h"

#include <poll.h>

#include <algorithm>

#include "sentry/fs/fuse/fuse_inode.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr uint32_t kMaxWrite = 1 << 20;
// FUSE_MIN_READ_BUFFER: a server that reads less at a time could miss requests.
constexpr size_t kMinRead = 8192;
// Requests that nobody waits for are bounded by the files that were open; those that wait, by their tasks. What could grow is this.
constexpr size_t kMaxInterrupts = 65536;
constexpr size_t kMaxPending = 65536;

ErrnoOr<size_t> PutMessage(Sink& sink, std::string_view message) {
  size_t done = TRY(sink.Put(message.data(), message.size()));
  if (done < message.size()) return Errno(EFAULT);
  return done;
}

}  // namespace

// --- requests ---

// The connection's address is part of it: a call may ask several servers. It is made anew when a request is loaded.
std::string FuseRequest::KeyOf(const FuseConnection* connection, const FuseQuestion& q) {
  return BytesOf(reinterpret_cast<uint64_t>(connection)) + BytesOf(q.opcode) + BytesOf(q.node) + q.in;
}

FuseRequest::FuseRequest(RefPtr<FuseConnection> connection, FuseQuestion question, fuse_in_header header)
    : connection_(std::move(connection)), question_(std::move(question)), header_(header) {
  set_key(KeyOf(connection_.get(), question_));
}

FuseRequest::~FuseRequest() = default;

void FuseRequest::OnSignal() { connection_->Interrupt(*this); }

void FuseRequest::OnCallerGone() {
  RefPtr<FuseConnection> connection = connection_;
  if (state_ == State::kDone) {
    connection->ForgetNames(*this);
    inode_.reset();
    opened_.reset();
    fs_.reset();
    return;
  }
  if (background_) return;
  abandoned_ = true;
  fs_.reset();
  if (state_ == State::kPending) return connection->Withdraw(*this);
  connection->Interrupt(*this);
}

FuseHandle::~FuseHandle() {
  if (!opened || !connection_ || !connection_->connected()) return;
  fuse_release_in in{};
  in.fh = fh;
  in.flags = flags;
  connection_->Post({.opcode = uint32_t(directory_ ? FUSE_RELEASEDIR : FUSE_RELEASE), .node = node_, .in = BytesOf(in)});
}

// --- asking ---

FuseConnection::FuseConnection(Options options, RefPtr<UserNamespace> user_ns, RefPtr<PidNamespace> pid_ns)
    : options_(options), user_ns_(std::move(user_ns)), pid_ns_(std::move(pid_ns)) {}

FuseConnection::~FuseConnection() = default;

ErrnoOr<void> FuseConnection::MayLook(const Credentials& creds) const {
  if (options_.allow_other) return IsWithin(creds.user_ns.get(), user_ns_.get()) ? Ok() : ErrnoOr<void>(Errno(EACCES));
  bool same_user = creds.uid == options_.uid && creds.euid == options_.uid && creds.suid == options_.uid;
  bool same_group = creds.gid == options_.gid && creds.egid == options_.gid && creds.sgid == options_.gid;
  if (same_user && same_group) return Ok();
  return Errno(EACCES);
}

fuse_in_header FuseConnection::HeaderOf(const FuseQuestion& q, const Task* task) const {
  fuse_in_header h{};
  h.opcode = q.opcode;
  h.nodeid = q.node;
  if (task != nullptr) {
    h.uid = ShownUid(user_ns_.get(), task->creds().fsuid);
    h.gid = ShownGid(user_ns_.get(), task->creds().fsgid);
    h.pid = pid_ns_ ? static_cast<uint32_t>(pid_ns_->IdOf(*task)) : 0;
  }
  h.len = static_cast<uint32_t>(sizeof(h) + q.in.size() + q.data.size());
  return h;
}

RefPtr<FuseRequest> FuseConnection::Send(FuseQuestion question, const Task* task, bool background) {
  fuse_in_header header = HeaderOf(question, task);
  header.unique = next_unique_;
  next_unique_ += 2;  // odd numbers are for interrupts
  auto request = MakeRef<FuseRequest>(RefPtr<FuseConnection>(this), std::move(question), header);
  request->background_ = background;
  request->attr_version_ = attr_version_;
  if (!background) request->fs_ = RefPtr<FileSystem>(fs_);
  pending_.push_back(request);
  if (initialized_ || request->opcode() == FUSE_INIT) device_queue_.Notify(POLLIN | POLLRDNORM);
  return request;
}

ErrnoOr<RefPtr<FuseRequest>> FuseConnection::Start(FuseQuestion question) {
  Task* task = ServedCall::Current();
  // The kernel itself has nobody who could wait.
  if (task == nullptr) return Errno(EIO);
  ServedCall& call = ServedCall::Of(*task);
  if (RefPtr<ServedRequest> known = call.Find(FuseRequest::KeyOf(this, question))) {
    auto* mine = dynamic_cast<FuseRequest*>(known.get());
    if (mine != nullptr && mine->connection_.get() == this && !mine->abandoned_ && !mine->background_) return RefPtr<FuseRequest>(mine);
  }
  if (call.requests() >= ServedCall::kMostRequests) return Errno(EIO);
  if (!connected_) return Errno(ENOTCONN);
  RefPtr<FuseRequest> request = Send(std::move(question), task, false);
  call.Add(request);
  return request;
}

ErrnoOr<RefPtr<FuseRequest>> FuseConnection::Ask(FuseQuestion question) {
  RefPtr<FuseRequest> request = TRY(Start(std::move(question)));
  if (!request->answered()) return ServedCall::WaitFor(*ServedCall::Current(), *request);
  if (request->error_ != 0) return Errno(request->error_);
  return request;
}

bool FuseConnection::WasAsked(const FuseQuestion& question) const {
  Task* task = ServedCall::Current();
  return task != nullptr && task->extras().served != nullptr && task->extras().served->Knows(FuseRequest::KeyOf(this, question));
}

RefPtr<FuseRequest> FuseConnection::Post(FuseQuestion question) {
  if (!connected_) return nullptr;
  // Processes that end wait for nobody: a server that reads nothing is not told of all that they close.
  if (question.opcode == FUSE_FLUSH && pending_.size() >= kMaxPending) return nullptr;
  // A file that is released is nobody's any more; FLUSH says whose descriptor was closed.
  Task* task = question.opcode == FUSE_FLUSH ? ServedCall::Current() : nullptr;
  return Send(std::move(question), task, true);
}

void FuseConnection::Forget(uint64_t node, uint64_t lookups) {
  if (!connected_ || lookups == 0) return;
  forgets_.emplace_back(node, lookups);
  device_queue_.Notify(POLLIN | POLLRDNORM);
}

void FuseConnection::Interrupt(FuseRequest& request) {
  if (request.interrupted_ || request.state_ == FuseRequest::State::kDone || no_interrupt_) return;
  request.interrupted_ = true;
  // One that was not read yet is told of when it was.
  if (request.state_ != FuseRequest::State::kSent || interrupts_.size() >= kMaxInterrupts) return;
  interrupts_.push_back(request.header_.unique);
  device_queue_.Notify(POLLIN | POLLRDNORM);
}

// Names that were removed or moved: whether the call came so far that it noted that or not.
void FuseConnection::ForgetNames(const FuseRequest& request) {
  const FuseQuestion& q = request.question_;
  size_t skip = q.opcode == FUSE_RENAME ? sizeof(fuse_rename_in) : q.opcode == FUSE_RENAME2 ? sizeof(fuse_rename2_in) : 0;
  if (request.error_ != 0 || (skip == 0 && q.opcode != FUSE_UNLINK && q.opcode != FUSE_RMDIR)) return;
  std::string_view names = std::string_view(q.in).substr(std::min(skip, q.in.size()));
  size_t end = std::min(names.find('\0'), names.size());
  if (FuseInode* dir = Find(q.node)) dir->ForgetName(names.substr(0, end));
  if (skip == 0 || end + 1 >= names.size()) return;
  std::string_view target = names.substr(end + 1);
  if (FuseInode* dir = Find(FromBytes<fuse_rename_in>(q.in).newdir)) dir->ForgetName(target.substr(0, target.find('\0')));
}

void FuseConnection::Withdraw(FuseRequest& request) {
  std::erase_if(pending_, [&](const RefPtr<FuseRequest>& r) { return r.get() == &request; });
}

// --- beginning and end ---

void FuseConnection::Begin() {
  fuse_init_in in{};
  in.major = FUSE_KERNEL_VERSION;
  in.minor = 31;
  in.max_readahead = 128 * 1024;
  // DONT_MASK: modes come with the umask taken off already, which it can be once more; there are no default ACLs that it would be wrong for.
  in.flags = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_DONT_MASK | FUSE_AUTO_INVAL_DATA | FUSE_ASYNC_DIO | FUSE_NO_OPEN_SUPPORT |
             FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_NO_OPENDIR_SUPPORT | FUSE_EXPLICIT_INVAL_DATA;
  // The old structure, which servers of any version take at a minor number below 36.
  init_ = Send({.opcode = FUSE_INIT, .in = BytesOf(in).substr(0, 16), .min_out = 8, .max_out = sizeof(fuse_init_out)}, nullptr, true);
}

void FuseConnection::Abort() {
  if (!connected_) return;
  RefPtr<FuseConnection> self(this);
  connected_ = false;
  initialized_ = true;
  std::deque<RefPtr<FuseRequest>> pending = std::move(pending_);
  std::map<uint64_t, RefPtr<FuseRequest>> sent = std::move(sent_);
  pending_.clear();
  sent_.clear();
  interrupts_.clear();
  forgets_.clear();
  init_.reset();
  for (auto& r : pending) Finish(*r, ECONNABORTED, "");
  for (auto& [unique, r] : sent) Finish(*r, ECONNABORTED, "");
  device_queue_.Notify(POLLIN | POLLERR | POLLHUP);
}

void FuseConnection::DropDevice() {
  if (--devices_ == 0) Abort();
}

FuseInode* FuseConnection::Find(uint64_t node) const {
  auto it = inodes_.find(node);
  return it != inodes_.end() ? it->second : nullptr;
}

void FuseConnection::OnInodeGone(FuseInode& inode) {
  auto it = inodes_.find(inode.node());
  if (it != inodes_.end() && it->second == &inode) inodes_.erase(it);
}

bool FuseConnection::has_callers() const {
  auto waits = [](const RefPtr<FuseRequest>& r) { return !r->background_ && !r->abandoned_; };
  return std::ranges::any_of(pending_, waits) || std::ranges::any_of(sent_, [&](const auto& s) { return waits(s.second); });
}

// --- the server reads ---

bool FuseConnection::has_pending() const {
  if (!connected_) return false;
  if (!initialized_) return !pending_.empty() && pending_.front()->opcode() == FUSE_INIT;
  return !pending_.empty() || !interrupts_.empty() || !forgets_.empty();
}

ErrnoOr<size_t> FuseConnection::ReadInterrupt(Sink& sink) {
  uint64_t unique = interrupts_.front();
  interrupts_.pop_front();
  fuse_in_header h{};
  fuse_interrupt_in in{};
  h.len = sizeof(h) + sizeof(in);
  h.opcode = FUSE_INTERRUPT;
  h.unique = unique | 1;
  in.unique = unique;
  return PutMessage(sink, BytesOf(h) + BytesOf(in));
}

ErrnoOr<size_t> FuseConnection::ReadForget(Sink& sink) {
  auto [node, lookups] = forgets_.front();
  forgets_.pop_front();
  fuse_in_header h{};
  fuse_forget_in in{};
  h.len = sizeof(h) + sizeof(in);
  h.opcode = FUSE_FORGET;
  h.nodeid = node;
  h.unique = next_unique_;
  next_unique_ += 2;
  in.nlookup = lookups;
  return PutMessage(sink, BytesOf(h) + BytesOf(in));
}

ErrnoOr<size_t> FuseConnection::Read(Sink& sink) {
  if (!connected_) return Errno(ENODEV);
  for (auto [node, lookups] : std::exchange(left_behind_, {})) Forget(node, lookups);
  size_t least = std::max<size_t>(kMinRead, initialized_ ? sizeof(fuse_in_header) + sizeof(fuse_write_in) + max_write_ : 0);
  if (sink.remaining() < least) return Errno(EINVAL);
  // A server that answers nothing keeps what its callers, which may be killed, have asked.
  if (sent_.size() >= kMaxPending) {
    Abort();
    return Errno(ENODEV);
  }
  while (true) {
    if (!has_pending()) return Errno(EAGAIN);
    auto one = ReadOne(sink);
    if (one.ok() || !one.Is(EAGAIN)) return one;
  }
}

// EAGAIN: it was too long for the server, and its caller has heard of that.
ErrnoOr<size_t> FuseConnection::ReadOne(Sink& sink) {
  if (initialized_ && !interrupts_.empty()) return ReadInterrupt(sink);
  // Some of both, so that neither waits for the other for ever (fuse_dev_do_read()).
  if (initialized_ && !forgets_.empty()) {
    if (pending_.empty() || forget_turns_-- > 0) return ReadForget(sink);
    if (forget_turns_ <= -8) forget_turns_ = 16;
  }
  RefPtr<FuseRequest> request = pending_.front();
  pending_.pop_front();
  std::string message = BytesOf(request->header_) + request->question_.in + request->question_.data;
  if (message.size() > sink.remaining()) {
    Finish(*request, request->opcode() == FUSE_SETXATTR ? E2BIG : EIO, "");
    return Errno(EAGAIN);
  }
  auto put = PutMessage(sink, message);
  if (!put.ok()) {
    Finish(*request, EIO, "");
    return put;
  }
  request->state_ = FuseRequest::State::kSent;
  request->question_.data.clear();
  sent_[request->header_.unique] = request;
  if (request->interrupted_) interrupts_.push_back(request->header_.unique);
  return put;
}

ErrnoOr<size_t> FuseConnection::Write(Source& source) {
  if (!connected_) return Errno(ENODEV);
  size_t size = source.remaining();
  if (size < sizeof(fuse_out_header)) return Errno(EINVAL);
  if (size > sizeof(fuse_out_header) + kMaxWrite + 4096) return Errno(EINVAL);
  std::string bytes(size, '\0');
  for (size_t at = 0; at < size;) {
    size_t n = TRY(source.Take(bytes.data() + at, size - at));
    if (n == 0) return Errno(EFAULT);
    at += n;
  }
  auto header = FromBytes<fuse_out_header>(bytes);
  if (header.len != size) return Errno(EINVAL);
  RefPtr<FuseConnection> self(this);
  if (header.unique == 0) {
    TRY(OnNotification(header.error, std::string_view(bytes).substr(sizeof(header))));
  } else {
    TRY(OnAnswer(header, bytes.substr(sizeof(header))));
  }
  return size;
}

}  // namespace amber
