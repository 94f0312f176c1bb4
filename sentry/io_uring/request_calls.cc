// Requests that are system calls, some with more to do than their handlers.
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sentry/fs/pipe/pipe.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/net/inet/tcp_socket.h"
#include "sentry/syscalls/splice.h"
#include "sentry/syscalls/table.h"

namespace amber {

ErrnoOr<uint64_t> Request::NopResult() const {
  if ((static_cast<uint32_t>(sqe_.rw_flags) & kNopInjectResult) == 0) return uint64_t{0};
  int32_t result = static_cast<int32_t>(sqe_.len);
  return result < 0 ? ErrnoOr<uint64_t>(Errno(-result)) : ErrnoOr<uint64_t>(static_cast<uint64_t>(result));
}

ErrnoOr<uint64_t> Request::Call(Task& helper, const io_uring_sqe& sqe) {
  OperationCall call;
  if (sqe.opcode == IORING_OP_CLOSE && sqe.file_index != 0) return OutOfSlot();
  if (!CallOf(sqe, fd(), &call)) return Errno(EINVAL);
  if (sqe_.opcode == IORING_OP_CLOSE) {
    // A ring is not closed from within (io_close()).
    RefPtr<File> file = TRY(helper.files().GetAny(sqe_.fd));
    if (IoUring::From(*file) != nullptr) return Errno(EBADF);
  }
  if (sqe.opcode == IORING_OP_MADVISE) return OnThread(helper, call);
  const SyscallEntry* entry = SyscallTable::Get().Find(call.number);
  if (entry == nullptr || entry->handler == nullptr) return Errno(EINVAL);
  auto result = entry->handler(helper, call.args);
  bool makes_file = sqe.opcode == IORING_OP_OPENAT || sqe.opcode == IORING_OP_OPENAT2 || sqe.opcode == IORING_OP_SOCKET;
  return result.ok() && makes_file && sqe.file_index != 0 ? IntoSlot(helper, *result) : result;
}

ErrnoOr<uint64_t> Request::Accept(Task& helper) {
  auto accepted = Call(helper, sqe_);
  if (accepted.Is(kBlocked.number()) && (sqe_.ioprio & kAcceptDontWait) != 0) return Errno(EAGAIN);
  uint64_t number = TRY(std::move(accepted));
  if (sqe_.file_index != 0) return IntoSlot(helper, number);
  if (!private_files_) return number;
  RefPtr<File> connection = TRY(helper.files().Get(static_cast<int>(number)));
  if (task_->exiting()) return Errno(ECANCELED);
  bool close_on_exec = (sqe_.accept_flags & SOCK_CLOEXEC) != 0;
  return static_cast<uint64_t>(TRY(task_->files().Allocate(std::move(connection), close_on_exec, task_->limit(RLIMIT_NOFILE))));
}

// What it names lies in its registered buffer.
ErrnoOr<void> Request::CheckFixed(uint64_t address, uint64_t size) {
  if (!fixed_) {
    const iovec* now = ring_->FixedBuffer(sqe_.buf_index);
    if (now == nullptr) return Errno(EFAULT);
    fixed_ = *now;
    ring_->UseTag(buffer_tag_ = ring_->BufferTag(sqe_.buf_index));
  }
  const iovec* buffer = &*fixed_;
  uint64_t start = reinterpret_cast<uint64_t>(buffer->iov_base);
  if (address < start || address - start > buffer->iov_len || size > buffer->iov_len - (address - start)) return Errno(EFAULT);
  return Ok();
}

ErrnoOr<uint64_t> Request::ReadWrite(Task& helper, const io_uring_sqe& sqe) {
  const uint8_t op = sqe.opcode;
  bool write = op == IORING_OP_WRITEV || op == IORING_OP_WRITE || op == IORING_OP_WRITE_FIXED || op == kOpWritevFixed;
  bool fixed_vector = op == kOpReadvFixed || op == kOpWritevFixed;
  bool vector = op == IORING_OP_WRITEV || op == IORING_OP_READV || fixed_vector;
  if (op == IORING_OP_READ_FIXED || op == IORING_OP_WRITE_FIXED) TRY(CheckFixed(sqe.addr, sqe.len));
  if (fixed_vector) {
    for (const iovec& part : TRY(helper.CopyInIovecs(UserPtr<const iovec>(sqe.addr), sqe.len))) {
      TRY(CheckFixed(reinterpret_cast<uint64_t>(part.iov_base), part.iov_len));
    }
  }
  if (!vector && sqe.rw_flags != 0) return Errno(EOPNOTSUPP);
  const uint64_t file = static_cast<uint64_t>(fd());
  auto run = [&](uint64_t offset) -> ErrnoOr<uint64_t> {
    bool here = offset == ~uint64_t{0};
    uint64_t number = vector ? (write ? 328 : 327) /* pwritev2, preadv2 */
                      : here ? (write ? SYS_write : SYS_read)
                             : (write ? SYS_pwrite64 : SYS_pread64);
    uint64_t args[6] = {file, sqe.addr, sqe.len, offset, 0, vector ? sqe.rw_flags : 0u};
    return SyscallTable::Get().Find(number)->handler(helper, args);
  };
  auto done = run(sqe.off);
  // A file without a position has none to heed.
  return done.Is(ESPIPE) ? run(~uint64_t{0}) : done;
}

ErrnoOr<uint64_t> Request::OnThread(Task& helper, const OperationCall& call) {
  if (!ring_->serves(helper)) {
    wants_thread_ = true;
    ring_->AskForThread();
    return helper.Block({});
  }
  wants_thread_ = false;
  SyscallState& state = helper.syscall();
  state.number = call.number;
  std::copy(std::begin(call.args), std::end(call.args), state.args);
  // Nobody's answer can let it run in the host: it is done by operations.
  state.framed = true;
  return SyscallTable::Get().Find(call.number)->handler(helper, state.args);
}

void Request::OnOperations(RefPtr<Task> helper, std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done) {
  if (ring_ == nullptr) return done({});
  // If the thread ends before it has made them: the address space is free for others, and the request is over.
  class Unless {
   public:
    explicit Unless(RefPtr<Task> helper) : helper_(std::move(helper)), mm_(&helper_->mm()) {}
    ~Unless() {
      if (happened_) return;
      mm_->TaskGone(*helper_);
      helper_->FinishSyscall(-ECANCELED);
    }
    Unless(const Unless&) = delete;
    Unless& operator=(const Unless&) = delete;
    void Happened() { happened_ = true; }

   private:
    RefPtr<Task> helper_;
    RefPtr<MemoryManager> mm_;
    bool happened_ = false;
  };
  auto unless = std::make_shared<Unless>(helper);
  // The thread's own call is executed again, as if it had been interrupted by nothing.
  ring_->SetErrand([unless, ops = std::move(ops), done = std::move(done), ring = RefPtr<IoUring>(ring_)](Task& thread) mutable {
    thread.StopForOps(std::move(ops), [unless, done = std::move(done), ring, &thread](std::span<const int64_t> results) {
      unless->Happened();
      done(results);
      thread.FinishSyscall(-static_cast<int64_t>(kErestartnointr.number()));
    });
  });
}

// Offsets are numbers here, and stay as they are (io_splice()).
ErrnoOr<uint64_t> Request::Splice(Task& helper) {
  if (!other_) {
    bool fixed = (sqe_.splice_flags & kSpliceFdInFixed) != 0;
    other_ = fixed ? ring_->FixedFile(static_cast<uint32_t>(sqe_.splice_fd_in)) : FileOf(sqe_.splice_fd_in);
    if (!other_) return Errno(EBADF);
    if (IoUring::From(*other_) != nullptr) return Errno(EINVAL);
  }
  uint32_t flags = sqe_.splice_flags & ~kSpliceFdInFixed;
  if (sqe_.opcode == IORING_OP_TEE) return TeeFiles(helper, other_, file_, sqe_.len, flags);
  auto offset = [](uint64_t at) { return at == ~uint64_t{0} ? std::optional<uint64_t>() : at; };
  return SpliceFiles(helper, other_, offset(sqe_.splice_off_in), file_, offset(sqe_.off), sqe_.len, flags);
}

// io_pipe_fixed().
ErrnoOr<uint64_t> Request::PipeIntoSlots(Task& helper) {
  uint32_t flags = static_cast<uint32_t>(sqe_.rw_flags);
  if ((flags & O_CLOEXEC) != 0) return Errno(EINVAL);
  PipePair ends = NewPipe(helper, static_cast<int>(flags));
  bool anywhere = sqe_.file_index == IORING_FILE_INDEX_ALLOC;
  uint32_t slots[2] = {sqe_.file_index - 1, sqe_.file_index};
  uint64_t first = TRY(ring_->Install(ends.reader, sqe_.file_index));
  if (anywhere) slots[0] = static_cast<uint32_t>(first);
  auto second = ring_->Install(ends.writer, anywhere ? IORING_FILE_INDEX_ALLOC : sqe_.file_index + 1);
  if (second.ok() && anywhere) slots[1] = static_cast<uint32_t>(*second);
  auto told = second.ok() ? helper.CopyOutBytes(sqe_.addr, slots, sizeof(slots)) : ErrnoOr<void>(second.error());
  if (told.ok()) return uint64_t{0};
  (void)ring_->Uninstall(slots[0] + 1);
  if (second.ok()) (void)ring_->Uninstall(slots[1] + 1);
  return told.error();
}

namespace {

// SIOCINQ and SIOCOUTQ.
ErrnoOr<uint64_t> QueuedBytes(Task& helper, InetSocket& socket, bool input) {
  if (auto* tcp = dynamic_cast<TcpSocket*>(&socket)) {
    net::TcpConnection& connection = tcp->connection();
    if (connection.state() == net::TcpState::kListen) return Errno(EINVAL);
    return uint64_t{input ? connection.unread() : connection.unacknowledged()};
  }
  // What is sent is gone at once. What came is as long as the first message, whose error, if it is one, is for others to take.
  if (!input || (socket.Poll(helper) & (POLLIN | POLLERR)) != POLLIN) return uint64_t{0};
  BufferSink none(nullptr, 0);
  ReceiveRequest peek{none};
  peek.flags = MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT;
  TRY(socket.Receive(helper, peek));
  return uint64_t{peek.full_size};
}

}  // namespace

// io_uring_cmd_sock().
ErrnoOr<uint64_t> Request::SocketCommand(Task& helper) {
  auto* socket = dynamic_cast<InetSocket*>(file_.get());
  if (socket == nullptr) return Errno(EOPNOTSUPP);
  int level = static_cast<int>(sqe_.addr & UINT32_MAX), name = static_cast<int>(sqe_.addr >> 32), size = sqe_.splice_fd_in;
  switch (static_cast<uint32_t>(sqe_.off)) {
    case kSocketInputQueue: return QueuedBytes(helper, *socket, true);
    case kSocketOutputQueue: return QueuedBytes(helper, *socket, false);
    case kSocketGetOption: {
      if (level != SOL_SOCKET) return Errno(EOPNOTSUPP);
      if (size < 0) return Errno(EINVAL);
      std::string bytes = TRY(socket->GetOption(helper, level, name, static_cast<size_t>(size)));
      size_t copied = std::min(bytes.size(), static_cast<size_t>(size));
      TRY(helper.CopyOutBytes(sqe_.addr3, bytes.data(), copied));
      return uint64_t{copied};
    }
    case kSocketSetOption: {
      uint64_t args[6] = {static_cast<uint64_t>(fd()), sqe_.addr & UINT32_MAX, sqe_.addr >> 32, sqe_.addr3, static_cast<uint32_t>(size), 0};
      return SyscallTable::Get().Find(SYS_setsockopt)->handler(helper, args);
    }
    default: return Errno(EOPNOTSUPP);
  }
}

}  // namespace amber
