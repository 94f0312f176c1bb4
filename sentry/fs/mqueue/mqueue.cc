#include "sentry/fs/mqueue/mqueue.h"

#include <dirent.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>

#include "sentry/fs/mqueue/mqueue.pb.h"
#include "sentry/ipc/ipc_namespace.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/directory_file.h"
#include "sentry/vfs/state_util.h"
#include "sentry/vfs/vfs.pb.h"

namespace amber {
namespace {

constexpr uint64_t kDirentSize = 20;   // DIRENT_SIZE of ipc/mqueue.c
constexpr size_t kInfoSize = 80;       // FILENT_SIZE
constexpr uint64_t kMessageCost = 48;  // struct msg_msg and struct posix_msg_tree_node on x86-64

}  // namespace

MqueueInode::MqueueInode(MqueueFileSystem* fs, uint32_t mode, uint32_t uid, uint32_t gid) : Inode(fs) {
  attr_.ino = fs->next_ino_++;
  attr_.mode = mode;
  attr_.uid = uid;
  attr_.gid = gid;
  attr_.nlink = S_ISDIR(mode) ? 2 : 1;
  attr_.size = S_ISDIR(mode) ? 0 : kInfoSize;
  attr_.atime = attr_.mtime = attr_.ctime = attr_.btime = FileTimeNow();
}

MqueueInode::~MqueueInode() {
  if (!IsRegular()) return;
  if (notify_socket_) notify_socket_->Release();
  --mqueue().queues_;
  mqueue().charged_[charged_uid_] -= Charge();
}

MqueueFileSystem& MqueueInode::mqueue() const { return static_cast<MqueueFileSystem&>(fs()); }

// mqueue_get_inode(): what RLIMIT_MSGQUEUE counts.
uint64_t MqueueInode::Charge() const {
  uint64_t messages = static_cast<uint64_t>(max_messages_);
  return messages * static_cast<uint64_t>(max_size_) + messages * kMessageCost + std::min<uint64_t>(messages, kMqPriorities) * kMessageCost;
}

ErrnoOr<void> MqueueInode::Send(Task& task, Message message, bool receiver_waits) {
  if (count_ >= max_messages_) return Errno(EAGAIN);
  bool was_empty = count_ == 0;
  bytes_ += message.text.size();
  messages_[message.priority].push_back(std::move(message.text));
  ++count_;
  attr_.atime = attr_.mtime = attr_.ctime = FileTimeNow();
  queue_.Notify(POLLIN | POLLRDNORM);
  if (!was_empty || receiver_waits || !notified_) return Ok();
  // Once: whoever wants to hear of the next message registers again.
  RefPtr<ThreadGroup> group = std::move(notified_);
  TellThread(Told::kWokenUp);
  if (notify_ != SIGEV_SIGNAL || group->zombie()) return Ok();
  SigInfo info = SigInfo::User(notify_signo_, SI_MESGQ, task.pid(), task.creds().uid);
  info.raw.si_value.sival_ptr = reinterpret_cast<void*>(notify_value_);
  group->SendSignal(info);
  return Ok();
}

ErrnoOr<MqueueInode::Message> MqueueInode::Receive() {
  if (messages_.empty()) return Errno(EAGAIN);
  auto first = messages_.begin();
  Message message{first->first, std::move(first->second.front())};
  first->second.pop_front();
  if (first->second.empty()) messages_.erase(first);
  bytes_ -= message.text.size();
  --count_;
  attr_.atime = attr_.mtime = attr_.ctime = FileTimeNow();
  queue_.Notify(POLLOUT | POLLWRNORM);
  return message;
}

ErrnoOr<void> MqueueInode::Register(ThreadGroup& group, int notify, int signo, uint64_t value) {
  if (notified_ && !notified_->zombie()) return Errno(EBUSY);
  TellThread(Told::kRemoved);  // of a process that is gone
  notified_ = RefPtr<ThreadGroup>(&group);
  notify_ = notify;
  notify_signo_ = signo;
  notify_value_ = value;
  return Ok();
}

ErrnoOr<void> MqueueInode::RegisterThread(ThreadGroup& group, RefPtr<NetlinkSocket> socket, std::string cookie) {
  if (notified_ && !notified_->zombie()) return Errno(EBUSY);
  if (!socket->Reserve()) return Errno(EAGAIN);
  TRY(Register(group, SIGEV_THREAD, 0, 0));
  notify_socket_ = std::move(socket);
  notify_cookie_ = std::move(cookie);
  return Ok();
}

void MqueueInode::TellThread(Told what) {
  RefPtr<NetlinkSocket> socket = std::exchange(notify_socket_, nullptr);
  if (!socket) return;
  notify_cookie_.back() = static_cast<char>(what);
  socket->PostReserved(std::exchange(notify_cookie_, {}));
}

void MqueueInode::Unregister(const ThreadGroup& group) {
  if (notified_ != &group) return;
  notified_.reset();
  TellThread(Told::kRemoved);
}

ErrnoOr<void> MqueueInode::Refresh() {
  if (IsDir()) attr_.size = children_.size() * kDirentSize;
  return Ok();
}

ErrnoOr<void> MqueueInode::SetAttr(const VfsContext&, const AttrChange& change) {
  if (change.mode) attr_.mode = (attr_.mode & S_IFMT) | (*change.mode & 07777);
  if (change.uid) attr_.uid = *change.uid;
  if (change.gid) attr_.gid = *change.gid;
  if (change.atime) attr_.atime = change.atime->now ? FileTimeNow() : change.atime->time;
  if (change.mtime) attr_.mtime = change.mtime->now ? FileTimeNow() : change.mtime->time;
  attr_.ctime = FileTimeNow();
  return Ok();
}

ErrnoOr<RefPtr<Inode>> MqueueInode::Lookup(const VfsContext&, std::string_view name) {
  if (!IsDir()) return Errno(ENOTDIR);
  auto it = children_.find(name);
  if (it == children_.end()) return Errno(ENOENT);
  return RefPtr<Inode>(it->second);
}

ErrnoOr<RefPtr<Inode>> MqueueInode::Make(const VfsContext&, std::string_view name, const NewNode& node) {
  MqueueFileSystem& fs = mqueue();
  MqueueFileSystem::Next limits = std::exchange(fs.next_, {});
  if (!IsDir()) return Errno(ENOTDIR);
  if (!S_ISREG(node.mode)) return Errno(EPERM);
  if (children_.contains(name)) return Errno(EEXIST);
  if (fs.queues_ >= limits.most_queues && !limits.privileged) return Errno(ENOSPC);
  auto queue = MakeRef<MqueueInode>(&fs, node.mode, node.uid, node.gid);
  queue->max_messages_ = limits.max_messages;
  queue->max_size_ = limits.max_size;
  queue->charged_uid_ = node.uid;
  uint64_t& charged = fs.charged_[node.uid];
  ++fs.queues_;
  charged += queue->Charge();  // its destructor takes it back
  if (charged > limits.limit) return Errno(EMFILE);
  children_[std::string(name)] = queue;
  attr_.mtime = attr_.ctime = FileTimeNow();
  return RefPtr<Inode>(std::move(queue));
}

ErrnoOr<void> MqueueInode::Unlink(const VfsContext&, std::string_view name, Inode& victim) {
  auto it = children_.find(name);
  if (it == children_.end()) return Errno(ENOENT);
  auto& queue = static_cast<MqueueInode&>(victim);
  queue.attr_.nlink = 0;
  queue.attr_.ctime = attr_.mtime = attr_.ctime = FileTimeNow();
  children_.erase(it);
  return Ok();
}

ErrnoOr<std::vector<DirEnt>> MqueueInode::List(const VfsContext&) {
  std::vector<DirEnt> out;
  for (const auto& [name, child] : children_) out.push_back({name, child->ino(), DT_REG});
  return out;
}

ErrnoOr<RefPtr<File>> MqueueInode::Open(const VfsContext&, const VfsPath& path, int flags) {
  if (IsDir()) return RefPtr<File>(MakeRef<DirectoryFile>(path, flags));
  return RefPtr<File>(MakeRef<MqueueFile>(path, flags));
}

std::string MqueueInode::Save(state::Saver& saver) const {
  mqueue_state::Inode m;
  m.set_base(SaveBase(saver));
  for (const auto& [name, child] : children_) {
    auto* c = m.add_child();
    c->set_name(name);
    c->set_inode(saver.Ref(child));
  }
  m.set_max_messages(max_messages_);
  m.set_max_size(max_size_);
  m.set_charged_uid(charged_uid_);
  for (const auto& [priority, texts] : messages_) {
    for (const std::string& text : texts) {
      auto* one = m.add_message();
      one->set_priority(priority);
      one->set_text(text);
    }
  }
  if (notified_ && !notified_->zombie()) {
    m.set_notified(saver.Ref(notified_));
    m.set_notify_socket(saver.Ref(notify_socket_));
    m.set_notify_cookie(notify_cookie_);
  }
  m.set_notify(notify_);
  m.set_notify_signo(notify_signo_);
  m.set_notify_value(notify_value_);
  return m.SerializeAsString();
}

bool MqueueInode::Load(state::Loader& loader, std::string_view bytes) {
  mqueue_state::Inode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  if (dynamic_cast<MqueueFileSystem*>(&fs()) == nullptr) return loader.Fail("an inode is in the wrong file system");
  for (const auto& c : m.child()) {
    RefPtr<MqueueInode> child = loader.GetRef<MqueueInode>(c.inode());
    if (!child) return false;
    children_[c.name()] = std::move(child);
  }
  max_messages_ = m.max_messages();
  max_size_ = m.max_size();
  charged_uid_ = m.charged_uid();
  if (max_messages_ < 0 || max_messages_ > kMqHardMessages || max_size_ < 0 || max_size_ > kMqHardSize) return false;
  for (const auto& one : m.message()) {
    messages_[one.priority()].push_back(one.text());
    bytes_ += one.text().size();
    ++count_;
  }
  if (IsRegular()) {
    ++mqueue().queues_;
    mqueue().charged_[charged_uid_] += Charge();
  }
  notified_ = loader.GetRef<ThreadGroup>(m.notified());
  notify_ = m.notify();
  notify_signo_ = m.notify_signo();
  notify_value_ = m.notify_value();
  notify_socket_ = loader.GetRef<NetlinkSocket>(m.notify_socket());
  notify_cookie_ = m.notify_cookie();
  if (notify_socket_ && notify_cookie_.size() != kCookie) return false;
  if (notify_socket_) notify_socket_->Reserve(true);
  return notify_signo_ >= 0 && notify_signo_ <= kNumSignals;
}

bool MqueueInode::AfterLoad(state::Loader& loader) {
  bool own = std::ranges::all_of(children_, [this](const auto& c) { return &c.second->fs() == &fs(); });
  return own || loader.Fail("a directory holds an inode of another file system");
}

RefPtr<MqueueFileSystem> MqueueFileSystem::New() {
  auto fs = MakeRef<MqueueFileSystem>();
  fs->SetRoot(MakeRef<MqueueInode>(fs.get(), S_IFDIR | 01777, 0, 0));
  return fs;
}

ErrnoOr<RefPtr<FileSystem>> MqueueFileSystem::Make(const MountArguments& arguments) {
  if (arguments.task == nullptr) return RefPtr<FileSystem>(New());
  IpcNamespace& ipc = *arguments.task->extras().ipc;
  // Everybody's in the namespace: who mounts it must rule over that (mqueue_get_tree).
  if (!arguments.task->creds().HasIn(ipc.owner(), CAP_SYS_ADMIN)) return Errno(EPERM);
  return MqueueRoot(ipc).mount->fs_ref();
}

VfsPath MqueueRoot(IpcNamespace& ns) {
  if (!ns.mqueue()) {
    RefPtr<MqueueFileSystem> fs = MqueueFileSystem::New();
    RefPtr<Dentry> root = fs->root();
    ns.set_mqueue(MakeRef<Mount>(std::move(fs), std::move(root), 0, "mqueue"));
  }
  return {ns.mqueue(), ns.mqueue()->root()};
}

ErrnoOr<void> MqueueFileSystem::StatFs(struct statfs* out) {
  *out = {};
  out->f_type = 0x19800202;  // MQUEUE_MAGIC
  out->f_bsize = out->f_frsize = 4096;
  out->f_namelen = 255;
  return Ok();
}

std::string MqueueFileSystem::Save(state::Saver& saver) const {
  mqueue_state::FileSystem m;
  m.set_next_ino(next_ino_);
  return SaveBase(saver, m.SerializeAsString());
}

bool MqueueFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  mqueue_state::FileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific)) return false;
  next_ino_ = m.next_ino();
  return true;
}

ErrnoOr<size_t> MqueueFile::Read(Task&, Sink& sink) {
  const MqueueInode& q = queue();
  bool signals = q.notified_ && q.notify_ == SIGEV_SIGNAL;
  char text[128];
  int n = snprintf(text, sizeof(text), "QSIZE:%-10llu NOTIFY:%-5d SIGNO:%-5d NOTIFY_PID:%-6d\n", static_cast<unsigned long long>(q.bytes_),
                   q.notified_ ? q.notify_ : 0, signals ? q.notify_signo_ : 0, q.notified_ ? q.notified_->pid() : 0);
  size_t size = static_cast<size_t>(n);
  if (position_ >= size) return size_t{0};
  size_t put = TRY(sink.Put(text + position_, std::min(size - position_, sink.remaining())));
  position_ += put;
  return put;
}

void MqueueFile::OnClose(Task& task) {
  VfsFile::OnClose(task);
  // mqueue_flush_file(): closing any descriptor takes the process's registration back.
  queue().Unregister(task.group());
}

uint32_t MqueueFile::Poll(Task&) {
  uint32_t events = 0;
  if (queue().count() > 0) events |= POLLIN | POLLRDNORM;
  if (queue().count() < queue().max_messages()) events |= POLLOUT | POLLWRNORM;
  return events;
}

std::string MqueueFile::Save(state::Saver& saver) const { return SaveOpenFile(saver, position_, 0, ""); }

bool MqueueFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  return true;
}

}  // namespace amber
