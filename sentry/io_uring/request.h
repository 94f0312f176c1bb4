// One submission of an io_uring: a call that a HelperTask makes for whoever submitted it, or a poll, a time-out, a cancellation.
//
// Most operations are system calls with their arguments in other places (operations.cc), so they are made by the ordinary handlers and wait as those
// do. The file is that which the descriptor meant at the time of the submission. Guarded by the kernel lock.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/io_uring/provided_buffers.h"
#include "sentry/kernel/helper_task.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file.h"

namespace amber {

class IoUring;
class Socket;
struct MessageHeader;
struct OperationCall;
namespace proto {
class IoCredentials;
class IoRequest;
}  // namespace proto

void SaveRingCredentials(state::Saver& saver, const Credentials& creds, proto::IoCredentials* out);
// Null if they are malformed.
RefPtr<const Credentials> LoadRingCredentials(state::Loader& loader, const proto::IoCredentials& in);

class Request final : public RefCounted<Request>, public CallOwner, public OperationsOwner {
 public:
  // `sqe` is our copy.
  Request(IoUring& ring, Task& task, const io_uring_sqe& sqe);
  ~Request();

  // Looks at what can be wrong before it begins (io_init_req(), the op's prep). An errno, or 0, which is kept.
  int Check();
  int error() const { return error_; }
  void Refuse(int error) { error_ = error; }
  // Begins; Complete() of the ring follows, now or later.
  void Start() { Run(); }
  // The ring is told nothing more, and forgets it.
  void Drop();
  // Ends with -ECANCELED. False if it does not wait.
  bool Cancel(int32_t result);
  bool waits() const { return helper_ != nullptr && helper_->waits(); }

  const io_uring_sqe& sqe() const { return sqe_; }
  File* file() const { return file_.get(); }
  // What `fd` means to the task, or null.
  RefPtr<File> FileOf(int fd) const;
  uint8_t opcode() const { return sqe_.opcode; }
  Task& task() const { return *task_; }
  // Of a TIMEOUT: how many completions it waits for; 0: for none, or no longer.
  uint64_t count_target() const { return count_target_; }
  void ForgetCount() { count_target_ = 0; }
  // TIMEOUT_REMOVE with IORING_TIMEOUT_UPDATE.
  void MoveDeadline(int64_t deadline);
  // POLL_REMOVE with IORING_POLL_UPDATE_*.
  void ChangePoll(const io_uring_sqe& by);
  // It is who its submitter is now, whatever that becomes.
  void KeepCredentials();
  // It has a file or buffer with that tag.
  // It is complete: what it used with a tag it does not use any more.
  void DropTags();
  // Flags of its next completion.
  uint32_t TakeFlags() { return std::exchange(cqe_flags_, 0); }
  // What a read or write has to move to count as whole.
  uint32_t expected() const { return expected_ != 0 ? expected_ : sqe_.len; }
  bool linked() const { return (sqe_.flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)) != 0; }

  // Where the ring has it while it is under way.
  std::list<RefPtr<Request>>::iterator place;
  bool placed = false;
  // What is linked behind it.
  RefPtr<Request> next;
  // What failed before it in its chain was to be told of alone (REQ_F_SKIP_LINK_CQES).
  bool silent = false;
  // A LINK_TIMEOUT that watches it, or, for one, what it watches.
  Request* partner = nullptr;

  void OnReady() override { Run(); }
  void OnDone(int64_t result) override;
  void OnOperations(RefPtr<Task> helper, std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done) override;
  // It waits for a thread of its program, as `task` is one.
  bool WantsThreadOf(const Task& task) const { return wants_thread_ && waits() && task.has_mm() && space_.Is(task.mm()); }

  void Save(state::Saver& saver, proto::IoRequest* out) const;
  Request() = default;  // for Load
  static RefPtr<Request> Load(state::Loader& loader, IoUring& ring, const proto::IoRequest& in);
  // All is loaded. A request that waited goes on waiting by Resume().
  void AfterLoad();
  void Resume();

 private:
  void Run();
  RefPtr<FdTable> FilesFor();
  ErrnoOr<uint64_t> Execute(Task& helper);
  // Its call, with its arguments as they are in `sqe`.
  ErrnoOr<uint64_t> Attempt(Task& helper, const io_uring_sqe& sqe);
  // EFAULT if it does not lie in the registered buffer that it names.
  ErrnoOr<void> CheckFixed(uint64_t address, uint64_t size);
  ErrnoOr<uint64_t> Poll(Task& helper);
  ErrnoOr<uint64_t> Timeout(Task& helper);
  ErrnoOr<uint64_t> RemoveTimeout(Task& helper);
  ErrnoOr<uint64_t> CancelOthers();
  ErrnoOr<uint64_t> Message(Task& helper);
  // --- request_calls.cc ---
  ErrnoOr<uint64_t> NopResult() const;
  ErrnoOr<uint64_t> ReadWrite(Task& helper, const io_uring_sqe& sqe);
  ErrnoOr<uint64_t> Accept(Task& helper);
  ErrnoOr<uint64_t> Call(Task& helper, const io_uring_sqe& sqe);
  ErrnoOr<uint64_t> Splice(Task& helper);
  ErrnoOr<uint64_t> PipeIntoSlots(Task& helper);
  ErrnoOr<uint64_t> SocketCommand(Task& helper);
  // A call that has the host do something to the program's memory.
  ErrnoOr<uint64_t> OnThread(Task& helper, const OperationCall& call);
  // --- request_shots.cc ---
  // One that goes on after a completion (IORING_CQE_F_MORE).
  bool several() const;
  ErrnoOr<uint64_t> Shots(Task& helper);
  ErrnoOr<uint64_t> Once(Task& helper);
  ErrnoOr<uint64_t> WithBuffer(Task& helper);
  // The buffers that it gets, at least one, and what of them it may fill.
  ErrnoOr<std::vector<ProvidedBuffers::Buffer>> Choose(Task& helper, uint64_t limit);
  void GiveBack();
  // --- request_messages.cc ---
  ErrnoOr<uint64_t> Messages(Task& helper, std::vector<iovec> chosen);
  ErrnoOr<uint64_t> Send(Task& helper, Socket& socket, std::vector<iovec> chosen);
  ErrnoOr<uint64_t> Receive(Task& helper, Socket& socket, std::vector<iovec> chosen);
  ErrnoOr<uint64_t> ReceiveWithHeader(Task& helper, Socket& socket, const MessageHeader& header, iovec buffer);
  ErrnoOr<uint64_t> LimitOf(Task& helper) const;
  ErrnoOr<uint64_t> RemovePoll();
  ErrnoOr<uint64_t> IntoSlot(Task& helper, uint64_t number);
  ErrnoOr<uint64_t> OutOfSlot();
  ErrnoOr<uint64_t> Provide();
  ErrnoOr<int64_t> DeadlineOf(Task& helper, uint64_t address, uint32_t flags);
  int fd() const { return private_files_ ? 0 : sqe_.fd; }

  IoUring* ring_ = nullptr;
  RefPtr<Task> task_;
  MemoryWatch space_;  // the address space that its addresses mean
  io_uring_sqe sqe_{};
  RefPtr<File> file_;
  RefPtr<File> other_;  // that a splice takes from
  uint64_t file_tag_ = 0, buffer_tag_ = 0;
  std::optional<iovec> fixed_;       // its registered buffer, as it was when it began
  RefPtr<const Credentials> creds_;  // null: those that its task has when it runs
  bool private_files_ = false;
  bool lost_space_ = false;  // out of an image: its address space was gone then
  int error_ = 0;
  SyscallState saved_;  // out of an image, until Resume()
  uint64_t count_target_ = 0;
  uint32_t cqe_flags_ = 0;
  uint32_t expected_ = 0;
  std::vector<ProvidedBuffers::Buffer> held_;  // that a call which waits has put something into
  bool wants_thread_ = false;
  bool finished_ = false;  // several shots of RECVMSG: nothing more will come
  std::unique_ptr<HelperTask> helper_;
};

}  // namespace amber
