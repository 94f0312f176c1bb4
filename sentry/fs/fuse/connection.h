// The connection between a mount and its server (Linux: struct fuse_conn), and what goes over it.
//
// A connection is held by its file system, its inodes, and the open files of /dev/fuse that were mounted with. It is over when the last of those
// is closed, when it is unmounted, or when it is aborted; what was asked then gets an error. Guarded by the kernel lock.
//
// Whatever comes from the server is hostile: it is copied once and checked in answer.cc, before anything else sees it.
#pragma once

#include <linux/fuse.h>

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>

#include "sentry/kernel/served_call.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/kernel/user_namespace.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file_system.h"
#include "sentry/vfs/inode.h"

namespace amber {

class FuseConnection;
class FuseFileSystem;
class FuseInode;

inline constexpr state::Kind kFuseConnectionKind{190}, kFuseRequestKind{191}, kFuseHandleKind{192}, kFuseFileSystemKind{51}, kFuseInodeKind{194},
    kFuseFileKind{195}, kFuseDeviceKind{196};

// What the server calls an open file. The last reference sends RELEASE; requests that use it hold one.
class FuseHandle final : public RefCounted<FuseHandle>, public state::Saveable {
 public:
  FuseHandle() = default;  // for Loader
  FuseHandle(RefPtr<FuseConnection> connection, uint64_t node, bool directory)
      : connection_(std::move(connection)), node_(node), directory_(directory) {}
  ~FuseHandle() override;

  uint64_t fh = 0;
  uint32_t open_flags = 0;  // FOPEN_*
  uint32_t flags = 0;       // O_*
  bool opened = false;      // the server knows of it: not where it has no use for OPEN

  state::Kind kind() const override { return kFuseHandleKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  RefPtr<FuseConnection> connection_;
  uint64_t node_ = 0;
  bool directory_ = false;
};

// A question to the server.
struct FuseQuestion {
  uint32_t opcode = 0;
  uint64_t node = 0;
  std::string in;      // the arguments
  std::string data;    // further bytes that are not part of what makes it the same question (of a write)
  size_t min_out = 0;  // how long an answer may be
  size_t max_out = 0;
  RefPtr<FuseHandle> handle;
  uint32_t flags = 0;  // O_*, of what is opened
};

class FuseRequest final : public ServedRequest {
 public:
  enum class State : uint8_t { kPending, kSent, kDone };

  FuseRequest() = default;  // for Loader
  FuseRequest(RefPtr<FuseConnection> connection, FuseQuestion question, fuse_in_header header);
  ~FuseRequest() override;

  uint32_t opcode() const { return question_.opcode; }
  // After it was answered: the error (0: none), the bytes, and what they mean.
  int error() const { return error_; }
  const std::string& answer() const { return answer_; }
  const RefPtr<FuseInode>& inode() const { return inode_; }
  const RefPtr<FuseHandle>& opened() const { return opened_; }

  void OnSignal() override;
  void OnCallerGone() override;
  int end_error() const override { return error_ == ENOSYS ? 0 : error_; }

  state::Kind kind() const override { return kFuseRequestKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

  static std::string KeyOf(const FuseConnection* connection, const FuseQuestion& q);

 private:
  friend class FuseConnection;
  RefPtr<FuseConnection> connection_;
  FuseQuestion question_;
  fuse_in_header header_{};
  State state_ = State::kPending;
  bool abandoned_ = false;    // nobody waits any more
  bool background_ = false;   // nobody ever did
  bool interrupted_ = false;  // the server was told of a signal, or will be
  uint64_t attr_version_ = 0;
  int error_ = 0;
  std::string answer_;
  // Whoever waits is in the file system, and so is what it gets.
  RefPtr<FileSystem> fs_;
  RefPtr<FuseInode> inode_;
  RefPtr<FuseHandle> opened_;
};

class FuseConnection final : public RefCounted<FuseConnection>, public state::Saveable {
 public:
  struct Options {
    uint32_t root_mode = 0;
    uint32_t uid = 0, gid = 0;  // whose server it is, ids of the initial user namespace
    bool allow_other = false;
    bool default_permissions = false;
    uint32_t max_read = UINT32_MAX;
    uint32_t block_size = 512;  // of fuseblk
    bool block_device = false;
  };

  FuseConnection() = default;  // for Loader
  FuseConnection(Options options, RefPtr<UserNamespace> user_ns, RefPtr<PidNamespace> pid_ns);
  ~FuseConnection() override;

  const Options& options() const { return options_; }
  const UserNamespace* user_ns() const { return user_ns_.get(); }
  bool connected() const { return connected_; }
  uint32_t max_write() const { return max_write_; }
  uint32_t max_read() const { return std::min(options_.max_read, max_pages_ * 4096); }
  bool async_reads() const { return (flags_ & FUSE_ASYNC_READ) != 0; }
  // The server has no use for this kind of request (it said ENOSYS).
  bool lacks(uint32_t opcode) const { return (lacks_ & (uint64_t{1} << opcode)) != 0; }
  void set_lacks(uint32_t opcode) { lacks_ |= uint64_t{1} << opcode; }

  // The answer to `question`, asked on behalf of the call that runs: kBlocked until it is there. An errno that the server gave is this operation's.
  ErrnoOr<RefPtr<FuseRequest>> Ask(FuseQuestion question);
  // As above without waiting: the request may be answered or not.
  ErrnoOr<RefPtr<FuseRequest>> Start(FuseQuestion question);
  // The call that runs has asked this before: what it was told then counts, whatever others have made known since.
  bool WasAsked(const FuseQuestion& question) const;
  // Nobody waits for the answer.
  RefPtr<FuseRequest> Post(FuseQuestion question);
  void Forget(uint64_t node, uint64_t lookups);
  // EACCES unless the credentials are of those that may look (fuse_allow_current_process()).
  ErrnoOr<void> MayLook(const Credentials& creds) const;

  // --- the server's side: /dev/fuse ---
  void AddDevice() { ++devices_; }
  void DropDevice();
  WaitQueue& device_queue() { return device_queue_; }
  bool has_pending() const;
  // The next request: ENODEV when it is over, EAGAIN if there is none.
  ErrnoOr<size_t> Read(Sink& sink);
  ErrnoOr<size_t> Write(Source& source);

  // --- the file system's side ---
  void Attach(FuseFileSystem* fs) { fs_ = fs; }
  // A call waits for an answer.
  bool has_callers() const;
  // Asks for INIT.
  void Begin();
  // Everything that waits gets an error, and so does everything that is asked from now on.
  void Abort();
  // The inode that the server calls `node`, or null.
  FuseInode* Find(uint64_t node) const;
  void OnInodeGone(FuseInode& inode);

  state::Kind kind() const override { return kFuseConnectionKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class FuseRequest;
  friend class FuseInode;
  fuse_in_header HeaderOf(const FuseQuestion& question, const Task* task) const;
  RefPtr<FuseRequest> Send(FuseQuestion question, const Task* task, bool background);
  void Interrupt(FuseRequest& request);
  void Withdraw(FuseRequest& request);
  void ForgetNames(const FuseRequest& request);
  ErrnoOr<size_t> ReadOne(Sink& sink);
  ErrnoOr<size_t> ReadForget(Sink& sink);
  ErrnoOr<size_t> ReadInterrupt(Sink& sink);
  // --- answer.cc ---
  ErrnoOr<void> OnAnswer(const fuse_out_header& header, std::string bytes);
  ErrnoOr<void> OnNotification(int code, std::string_view bytes);
  template <typename Out>
  ErrnoOr<void> ForgetNamed(std::string_view bytes);
  void Finish(FuseRequest& request, int error, std::string bytes);
  // The answer's bytes as an inode, an open file, attributes. False: they make no sense.
  bool Understand(FuseRequest& request);
  bool UnderstandInit(const std::string& bytes);
  bool UnderstandEntry(FuseRequest& request, const fuse_entry_out& entry);
  bool UnderstandAttr(FuseRequest& request);
  void UnderstandOpen(FuseRequest& request, uint64_t node, const fuse_open_out& out);

  Options options_;
  RefPtr<UserNamespace> user_ns_;
  RefPtr<PidNamespace> pid_ns_;
  FuseFileSystem* fs_ = nullptr;
  bool connected_ = true;
  bool initialized_ = false;
  int devices_ = 0;
  uint32_t minor_ = 0, flags_ = 0, max_write_ = 4096, max_pages_ = 32;
  uint64_t lacks_ = 0;
  bool no_interrupt_ = false;
  uint64_t next_unique_ = 2;
  uint64_t attr_version_ = 1;
  RefPtr<FuseRequest> init_;
  std::deque<RefPtr<FuseRequest>> pending_;
  std::map<uint64_t, RefPtr<FuseRequest>> sent_;  // by number
  std::vector<RefPtr<FuseRequest>> loaded_sent_;  // between Load() and AfterLoad()
  std::deque<uint64_t> interrupts_;
  std::deque<std::pair<uint64_t, uint64_t>> forgets_;  // node, lookups
  int forget_turns_ = 0;                               // as many may go first; below 0: requests since they did
  std::unordered_map<uint64_t, FuseInode*> inodes_;
  std::map<uint64_t, uint64_t> left_behind_;  // lookups of inodes that are not in the image: forgotten when the server reads again
  WaitQueue device_queue_;
};

// FUSE_NAME_MAX.
inline constexpr uint32_t kMaxName = 1024;

// Bytes of a structure, for arguments.
template <typename T>
std::string BytesOf(const T& value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
// The structure that `bytes` begins with, which are long enough.
template <typename T>
T FromBytes(std::string_view bytes, size_t at = 0) {
  T value{};
  if (at < bytes.size()) memcpy(&value, bytes.data() + at, std::min(sizeof(value), bytes.size() - at));
  return value;
}

}  // namespace amber
