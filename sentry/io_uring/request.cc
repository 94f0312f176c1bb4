#include "sentry/io_uring/request.h"

#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "sentry/io_uring/io_uring.h"
#include "sentry/io_uring/io_uring.pb.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/kernel.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/table.h"

namespace amber {
namespace {

constexpr uint8_t kKnownFlags = 0x7f;

// Fields that an operation does not look at must be zero, or a later kernel could not give them a meaning.
bool HasStrayFields(const io_uring_sqe& s) {
  switch (s.opcode) {
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT: return s.buf_index != 0 || s.len != 1 || s.splice_fd_in != 0 || (s.opcode == IORING_OP_LINK_TIMEOUT && s.off != 0);
    case IORING_OP_TIMEOUT_REMOVE: return s.buf_index != 0 || s.len != 0 || s.splice_fd_in != 0;
    case IORING_OP_POLL_ADD: return s.buf_index != 0 || s.off != 0 || s.addr != 0 || s.len != 0;
    case IORING_OP_POLL_REMOVE: return s.buf_index != 0 || s.splice_fd_in != 0 || s.len != 0;
    case IORING_OP_ASYNC_CANCEL: return s.off != 0 || s.splice_fd_in != 0;
    case IORING_OP_ACCEPT: return s.len != 0 || s.buf_index != 0 || s.ioprio != 0 || s.file_index != 0;
    case IORING_OP_FSYNC: return s.addr != 0 || s.buf_index != 0 || s.splice_fd_in != 0 || (s.fsync_flags & ~uint32_t{IORING_FSYNC_DATASYNC}) != 0;
    case IORING_OP_CONNECT: return s.len != 0 || s.buf_index != 0 || s.rw_flags != 0 || s.splice_fd_in != 0;
    case IORING_OP_OPENAT:
    case IORING_OP_OPENAT2:
    case IORING_OP_SOCKET: return s.buf_index != 0 || s.file_index != 0;  // no registered descriptors as results
    case IORING_OP_CLOSE: return s.off != 0 || s.addr != 0 || s.len != 0 || s.rw_flags != 0 || s.buf_index != 0 || s.file_index != 0;
    case IORING_OP_SEND:
    case IORING_OP_RECV:
    case IORING_OP_SENDMSG:
    case IORING_OP_RECVMSG: return s.ioprio != 0;  // several shots, polling first
    case IORING_OP_SHUTDOWN: return s.off != 0 || s.addr != 0 || s.rw_flags != 0 || s.buf_index != 0 || s.splice_fd_in != 0;
    default: return false;
  }
}

bool HasUnknownFlags(const io_uring_sqe& s) {
  constexpr uint32_t kTimes = IORING_TIMEOUT_ABS | IORING_TIMEOUT_CLOCK_MASK | IORING_TIMEOUT_ETIME_SUCCESS;
  constexpr uint32_t kCancels = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD | IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_USERDATA;
  switch (s.opcode) {
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
      // One clock of the two.
      return (s.timeout_flags & ~kTimes) != 0 || (s.timeout_flags & IORING_TIMEOUT_CLOCK_MASK) == IORING_TIMEOUT_CLOCK_MASK;
    case IORING_OP_TIMEOUT_REMOVE:
      return (s.timeout_flags & ~(IORING_TIMEOUT_UPDATE | IORING_TIMEOUT_ABS)) != 0 || s.timeout_flags == IORING_TIMEOUT_ABS;
    case IORING_OP_ASYNC_CANCEL: return (s.cancel_flags & ~kCancels) != 0;
    default: return false;
  }
}

}  // namespace

Request::Request(IoUring& ring, Task& task, const io_uring_sqe& sqe) : ring_(&ring), task_(&task), space_(&task.mm()), sqe_(sqe) {}

Request::~Request() {
  // Not by recursion.
  RefPtr<Request> n = std::move(next);
  while (n && n->ref_count() == 1) {
    RefPtr<Request> after = std::move(n->next);
    n = std::move(after);
  }
}

int Request::Check() {
  if (!IsKnown(sqe_.opcode) || (sqe_.flags & ~kKnownFlags) != 0 || sqe_.personality != 0) return error_ = EINVAL;
  if ((sqe_.flags & IOSQE_BUFFER_SELECT) != 0) return error_ = EOPNOTSUPP;
  if (HasStrayFields(sqe_) || HasUnknownFlags(sqe_)) return error_ = EINVAL;
  if ((sqe_.flags & IOSQE_FIXED_FILE) != 0 && !TakesFile(sqe_.opcode)) {
    bool by_path = sqe_.opcode != IORING_OP_NOP;
    return error_ = by_path ? EBADF : 0;
  }
  return 0;
}

// The descriptors that its call sees: the task's, unless what the number means has changed, or is another number's.
RefPtr<FdTable> Request::FilesFor() {
  RefPtr<FdTable> all(&task_->files());
  private_files_ = false;
  if (!file_) return all;
  auto now = all->Get(sqe_.fd);
  if ((sqe_.flags & IOSQE_FIXED_FILE) == 0 && now.ok() && now->get() == file_.get()) return all;
  auto own = MakeRef<FdTable>();
  (void)own->Replace(0, file_, false, 1);
  private_files_ = true;
  return own;
}

void Request::Run() {
  RefPtr<Request> self(this);
  if (ring_ == nullptr) return;
  // What its addresses meant is gone, by exit or exec.
  if (task_->exiting() || !task_->has_mm() || &task_->mm() != space_) {
    helper_.reset();
    return ring_->Complete(*this, -ECANCELED);
  }
  if (TakesFile(sqe_.opcode) && !file_) {
    if ((sqe_.flags & IOSQE_FIXED_FILE) != 0) {
      file_ = ring_->FixedFile(static_cast<uint32_t>(sqe_.fd));
    } else if (auto file = task_->files().Get(sqe_.fd); file.ok()) {
      file_ = *file;
    }
    if (!file_) return ring_->Complete(*this, -EBADF);
    // It would keep itself alive, alone or by way of another.
    if (IoUring::From(*file_) != nullptr) return ring_->Complete(*this, -EOPNOTSUPP);
  }
  if (helper_ == nullptr) helper_ = std::make_unique<HelperTask>(task_->kernel(), *this);
  helper_->Run(*task_, FilesFor(), [this](Task& helper) { return Execute(helper); });
}

RefPtr<File> Request::FileOf(int fd) const {
  auto file = task_->files().Get(fd);
  return file.ok() ? *file : RefPtr<File>();
}

void Request::OnDone(int64_t result) {
  RefPtr<Request> self(this);
  helper_.reset();
  if (ring_ != nullptr) ring_->Complete(*this, static_cast<int32_t>(result));
}

void Request::Drop() {
  ring_ = nullptr;
  partner = nullptr;
  helper_.reset();
}

bool Request::Cancel(int32_t result) {
  if (!waits()) return false;
  OnDone(result);
  return true;
}

ErrnoOr<uint64_t> Request::Execute(Task& helper) {
  switch (sqe_.opcode) {
    case IORING_OP_NOP: return 0;
    case IORING_OP_POLL_ADD: return Poll(helper);
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT: return Timeout(helper);
    case IORING_OP_TIMEOUT_REMOVE: return RemoveTimeout(helper);
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_ASYNC_CANCEL: {
      bool poll = sqe_.opcode == IORING_OP_POLL_REMOVE;
      int32_t result = ring_->Cancel(*this, sqe_.addr, sqe_.fd, poll ? 0 : sqe_.cancel_flags, poll ? IORING_OP_POLL_ADD : -1);
      return result < 0 ? ErrnoOr<uint64_t>(Errno(-result)) : ErrnoOr<uint64_t>(static_cast<uint64_t>(result));
    }
    case IORING_OP_ACCEPT: return Accept(helper);
    default: return IsReadWrite(sqe_.opcode) ? ReadWrite(helper) : Call(helper);
  }
}

ErrnoOr<uint64_t> Request::Call(Task& helper) {
  OperationCall call;
  if (!CallOf(sqe_, fd(), &call)) return Errno(EINVAL);
  if (sqe_.opcode == IORING_OP_CLOSE) {
    // A ring is not closed from within (io_close()).
    RefPtr<File> file = TRY(helper.files().GetAny(sqe_.fd));
    if (IoUring::From(*file) != nullptr) return Errno(EBADF);
  }
  if (sqe_.opcode == IORING_OP_RECVMSG && private_files_) {
    // Descriptors that come with the message could not be put where the program looks for them.
    uint64_t room = TRY(helper.CopyIn(UserPtr<const uint64_t>(sqe_.addr + offsetof(msghdr, msg_controllen))));
    if (room != 0) return Errno(EOPNOTSUPP);
  }
  const SyscallEntry* entry = SyscallTable::Get().Find(call.number);
  if (entry == nullptr || entry->handler == nullptr) return Errno(EINVAL);
  return entry->handler(helper, call.args);
}

ErrnoOr<uint64_t> Request::Accept(Task& helper) {
  uint64_t number = TRY(Call(helper));
  if (!private_files_) return number;
  RefPtr<File> connection = TRY(helper.files().Get(static_cast<int>(number)));
  if (task_->exiting()) return Errno(ECANCELED);
  bool close_on_exec = (sqe_.accept_flags & SOCK_CLOEXEC) != 0;
  return static_cast<uint64_t>(TRY(task_->files().Allocate(std::move(connection), close_on_exec, task_->limit(RLIMIT_NOFILE))));
}

ErrnoOr<uint64_t> Request::ReadWrite(Task& helper) {
  bool write = sqe_.opcode == IORING_OP_WRITEV || sqe_.opcode == IORING_OP_WRITE || sqe_.opcode == IORING_OP_WRITE_FIXED;
  bool vector = sqe_.opcode == IORING_OP_WRITEV || sqe_.opcode == IORING_OP_READV;
  if (sqe_.opcode == IORING_OP_READ_FIXED || sqe_.opcode == IORING_OP_WRITE_FIXED) {
    const iovec* buffer = ring_->FixedBuffer(sqe_.buf_index);
    uint64_t start = buffer != nullptr ? reinterpret_cast<uint64_t>(buffer->iov_base) : 0;
    if (buffer == nullptr || sqe_.addr < start || sqe_.addr - start > buffer->iov_len || sqe_.len > buffer->iov_len - (sqe_.addr - start)) {
      return Errno(EFAULT);
    }
  }
  if (!vector && sqe_.rw_flags != 0) return Errno(EOPNOTSUPP);
  const uint64_t file = static_cast<uint64_t>(fd());
  auto run = [&](uint64_t offset) -> ErrnoOr<uint64_t> {
    bool here = offset == ~uint64_t{0};
    uint64_t number = vector ? (write ? 328 : 327) /* pwritev2, preadv2 */
                      : here ? (write ? SYS_write : SYS_read)
                             : (write ? SYS_pwrite64 : SYS_pread64);
    uint64_t args[6] = {file, sqe_.addr, sqe_.len, offset, 0, vector ? sqe_.rw_flags : 0u};
    return SyscallTable::Get().Find(number)->handler(helper, args);
  };
  auto done = run(sqe_.off);
  // A file without a position has none to heed.
  return done.Is(ESPIPE) ? run(~uint64_t{0}) : done;
}

ErrnoOr<uint64_t> Request::Poll(Task& helper) {
  uint32_t wanted = sqe_.poll32_events | POLLERR | POLLHUP;
  uint32_t now = file_->Poll(helper) & wanted;
  if (now != 0) return now;
  WaitQueue* queue = file_->wait_queue();
  if (queue == nullptr) return Errno(EINVAL);
  return helper.Block(*queue, wanted);
}

ErrnoOr<int64_t> Request::DeadlineOf(Task& helper, uint64_t address, uint32_t flags) {
  auto time = TRY(helper.CopyIn(UserPtr<const timespec>(address)));
  if (time.tv_sec < 0 || time.tv_nsec < 0 || time.tv_nsec >= kNsPerSecond) return Errno(EINVAL);
  const Clocks& clocks = helper.kernel().clocks();
  int64_t ns = time.tv_sec > INT64_MAX / kNsPerSecond / 2 ? INT64_MAX / 2 : time.tv_sec * kNsPerSecond + time.tv_nsec;
  int64_t now = clocks.Monotonic();
  if ((flags & IORING_TIMEOUT_ABS) != 0) {
    if ((flags & IORING_TIMEOUT_REALTIME) != 0) ns -= clocks.Realtime();
    if ((flags & IORING_TIMEOUT_BOOTTIME) != 0) ns -= clocks.Boottime();
    if ((flags & IORING_TIMEOUT_CLOCK_MASK) == 0) ns -= now;
  }
  return now + std::min(std::max<int64_t>(ns, 0), kNever - 1 - now);
}

ErrnoOr<uint64_t> Request::Timeout(Task& helper) {
  SyscallState& call = helper.syscall();
  if (call.timed_out) {
    // The one that it limits goes first; if that is over already, so is this one.
    if (partner != nullptr) {
      RefPtr<Request> other(std::exchange(partner, nullptr));
      other->partner = nullptr;
      other->Cancel(-ECANCELED);
    }
    return Errno(ETIME);
  }
  int64_t deadline = call.deadline;
  if (!call.restarted) {
    deadline = TRY(DeadlineOf(helper, sqe_.addr, sqe_.timeout_flags));
    if (sqe_.opcode == IORING_OP_TIMEOUT && sqe_.off != 0) count_target_ = ring_->posted() + sqe_.off;
  }
  return helper.Block({}, deadline);
}

bool Request::TakeCountReached() {
  if (count_target_ == 0 || ring_->posted() < count_target_ || !waits()) return false;
  count_target_ = 0;
  return true;
}

void Request::MoveDeadline(int64_t deadline) {
  SyscallState& call = helper_->call();
  call.deadline = deadline;
  call.timed_out = false;
  call.restarted = true;
  Run();
}

ErrnoOr<uint64_t> Request::RemoveTimeout(Task& helper) {
  Request* found = ring_->FindPending(sqe_.addr, IORING_OP_TIMEOUT);
  if ((sqe_.timeout_flags & IORING_TIMEOUT_UPDATE) == 0) {
    if (found == nullptr) return Errno(ENOENT);
    found->Cancel(-ECANCELED);
    return 0;
  }
  int64_t deadline = TRY(DeadlineOf(helper, sqe_.addr2, sqe_.timeout_flags & IORING_TIMEOUT_ABS));
  if (found == nullptr) return Errno(ENOENT);
  found->MoveDeadline(deadline);
  return 0;
}

void Request::Save(state::Saver& saver, proto::IoRequest* out) const {
  out->set_sqe(&sqe_, sizeof(sqe_));
  out->set_task(saver.Ref(task_));
  out->set_file(saver.Ref(file_));
  out->set_count_target(count_target_);
  out->set_error(error_);
  if (waits()) {
    const SyscallState& call = helper_->call();
    out->set_waits(true);
    out->set_timed_out(call.timed_out);
    out->set_deadline(call.deadline);
    out->set_done(call.done);
    for (uint64_t s : call.scratch) out->add_scratch(s);
  }
}

RefPtr<Request> Request::Load(state::Loader& loader, IoUring& ring, const proto::IoRequest& in) {
  auto r = MakeRef<Request>();
  r->ring_ = &ring;
  r->task_ = loader.GetRef<Task>(in.task());
  if (!r->task_ || in.sqe().size() != sizeof(r->sqe_) || (in.waits() && in.scratch_size() != 4)) return nullptr;
  memcpy(&r->sqe_, in.sqe().data(), sizeof(r->sqe_));
  r->file_ = loader.GetRef<File>(in.file());
  r->count_target_ = in.count_target();
  r->error_ = in.error();
  if (!IsKnown(r->opcode()) || (in.waits() && TakesFile(r->opcode()) && !r->file_)) return nullptr;
  r->saved_.timed_out = in.timed_out();
  r->saved_.deadline = in.waits() ? in.deadline() : kNever;
  r->saved_.done = in.done();
  for (int i = 0; i < in.scratch_size() && i < 4; ++i) r->saved_.scratch[i] = in.scratch(i);
  return r;
}

void Request::AfterLoad() { space_ = task_->has_mm() ? &task_->mm() : nullptr; }

void Request::Resume() {
  helper_ = std::make_unique<HelperTask>(task_->kernel(), *this);
  helper_->call() = saved_;
  helper_->RunAfterThaw();
}

}  // namespace amber
