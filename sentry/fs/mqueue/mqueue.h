// POSIX message queues as files (ipc/mqueue.c of Linux). Kernel lock.
#pragma once

#include <mqueue.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/net/netlink/netlink_socket.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

class MqueueFileSystem;

inline constexpr int64_t kMqMaxMessages = 10, kMqMaxSize = 8192;           // of queues that are made without limits
inline constexpr int64_t kMqHardMessages = 65536, kMqHardSize = 16 << 20;  // with CAP_SYS_RESOURCE
inline constexpr unsigned kMqPriorities = 32768;                           // MQ_PRIO_MAX

class MqueueInode final : public Inode {
 public:
  MqueueInode() = default;  // for Loader
  MqueueInode(MqueueFileSystem* fs, uint32_t mode, uint32_t uid, uint32_t gid);
  ~MqueueInode() override;

  struct Message {
    unsigned priority = 0;
    std::string text;
  };
  int64_t max_messages() const { return max_messages_; }
  int64_t max_size() const { return max_size_; }
  int64_t count() const { return count_; }
  WaitQueue& queue() { return queue_; }  // POLLIN: a message came; POLLOUT: one went

  // EAGAIN if it is full. `receiver_waits`: somebody is blocked in mq_receive, so nobody is notified.
  ErrnoOr<void> Send(Task& task, Message message, bool receiver_waits);
  // The oldest of the highest priority; EAGAIN if there is none.
  ErrnoOr<Message> Receive();
  // mq_notify(2): EBUSY if somebody is registered already. `notify`: SIGEV_NONE or SIGEV_SIGNAL.
  ErrnoOr<void> Register(ThreadGroup& group, int notify, int signo, uint64_t value);
  // SIGEV_THREAD: what is to be told goes as the last byte of `cookie` to `socket`, where the C library's thread listens. EAGAIN: it has no room.
  ErrnoOr<void> RegisterThread(ThreadGroup& group, RefPtr<NetlinkSocket> socket, std::string cookie);
  static constexpr size_t kCookie = 32;  // NOTIFY_COOKIE_LEN
  // Takes the registration of `group` back, if it has one.
  void Unregister(const ThreadGroup& group);

  ErrnoOr<void> Refresh() override;
  ErrnoOr<void> SetAttr(const VfsContext& ctx, const AttrChange& change) override;
  ErrnoOr<RefPtr<Inode>> Lookup(const VfsContext& ctx, std::string_view name) override;
  ErrnoOr<RefPtr<Inode>> Make(const VfsContext& ctx, std::string_view name, const NewNode& node) override;
  ErrnoOr<void> Unlink(const VfsContext& ctx, std::string_view name, Inode& victim) override;
  ErrnoOr<std::vector<DirEnt>> List(const VfsContext& ctx) override;
  ErrnoOr<RefPtr<File>> Open(const VfsContext& ctx, const VfsPath& path, int flags) override;

  state::Kind kind() const override { return state::Kind::kMqueueInode; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class MqueueFile;
  friend class MqueueFileSystem;
  enum class Told : char { kWokenUp = 1, kRemoved = 2 };  // NOTIFY_WOKENUP, NOTIFY_REMOVED
  // Ends a registration by SIGEV_THREAD, if there is one.
  void TellThread(Told what);
  MqueueFileSystem& mqueue() const;
  uint64_t Charge() const;

  std::map<std::string, RefPtr<MqueueInode>, std::less<>> children_;  // of the root
  int64_t max_messages_ = 0, max_size_ = 0, count_ = 0;
  uint32_t charged_uid_ = 0;
  std::map<unsigned, std::deque<std::string>, std::greater<>> messages_;  // by priority
  uint64_t bytes_ = 0;
  WaitQueue queue_;
  RefPtr<ThreadGroup> notified_;
  int notify_ = 0, notify_signo_ = 0;
  uint64_t notify_value_ = 0;
  RefPtr<NetlinkSocket> notify_socket_;
  std::string notify_cookie_;
};

class MqueueFileSystem final : public FileSystem {
 public:
  MqueueFileSystem() = default;  // for Loader
  ~MqueueFileSystem() override { DropDentries(); }
  // A new one, without queues.
  static RefPtr<MqueueFileSystem> New();
  // For RegisterFileSystemType: that of the caller's ipc namespace.
  static ErrnoOr<RefPtr<FileSystem>> Make(const MountArguments& arguments);

  // The next queue that is made gets these limits, charged to the user against `limit` bytes (RLIMIT_MSGQUEUE).
  // `most_queues`: how many there may be (fs.mqueue.queues_max), unless `privileged`.
  void SetNext(int64_t max_messages, int64_t max_size, uint64_t limit, bool privileged, size_t most_queues) {
    next_ = {max_messages, max_size, limit, privileged, most_queues};
  }

  const char* type_name() const override { return "mqueue"; }
  ErrnoOr<void> StatFs(struct statfs* out) override;
  state::Kind kind() const override { return state::Kind::kMqueueFileSystem; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class MqueueInode;
  struct Next {
    int64_t max_messages = kMqMaxMessages, max_size = kMqMaxSize;
    uint64_t limit = ~uint64_t{0};
    bool privileged = false;
    size_t most_queues = 256;
  };
  Next next_;
  uint64_t next_ino_ = 1;
  size_t queues_ = 0;
  std::map<uint32_t, uint64_t> charged_;  // bytes by user
};

// Where the queues of an ipc namespace are; made at first use.
class IpcNamespace;
VfsPath MqueueRoot(IpcNamespace& ns);

class MqueueFile final : public VfsFile {
 public:
  MqueueFile() = default;  // for Loader
  MqueueFile(VfsPath path, int flags) : VfsFile(std::move(path), flags) {}

  MqueueInode& queue() const { return static_cast<MqueueInode&>(inode()); }
  // The state of the queue as a line of text.
  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  void OnClose(Task& task) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue().queue_; }
  bool pollable() const override { return true; }
  uint64_t position() const override { return position_; }

  state::Kind kind() const override { return state::Kind::kMqueueFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  uint64_t position_ = 0;
};

}  // namespace amber
