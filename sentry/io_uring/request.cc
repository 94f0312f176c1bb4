#include "sentry/io_uring/request.h"

#include <fcntl.h>
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
#include "sentry/kernel/others_turn.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/net/socket.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"

namespace amber {

Request::Request(IoUring& ring, Task& task, const io_uring_sqe& sqe) : ring_(&ring), task_(&task), sqe_(sqe) { space_.Watch(&task.mm()); }

Request::~Request() {
  // Not by recursion.
  RefPtr<Request> n = std::move(next);
  while (n && n->ref_count() == 1) {
    RefPtr<Request> after = std::move(n->next);
    n = std::move(after);
  }
}

// The descriptors that its call sees: the task's, unless what the number means has changed, or is another number's.
RefPtr<FdTable> Request::FilesFor() {
  RefPtr<FdTable> all(&task_->files());
  private_files_ = false;
  // Messages go by the file itself, and descriptors in them are the task's.
  if (!file_ || IsMessage(sqe_.opcode)) return all;
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
  if (task_->exiting() || !task_->has_mm() || !space_.Is(task_->mm())) {
    helper_.reset();
    return ring_->Complete(*this, -ECANCELED);
  }
  if (TakesFile(sqe_.opcode) && !file_) {
    if ((sqe_.flags & IOSQE_FIXED_FILE) != 0) {
      file_ = ring_->FixedFile(static_cast<uint32_t>(sqe_.fd));
      if (file_) ring_->UseTag(file_tag_ = ring_->FileTag(static_cast<uint32_t>(sqe_.fd)));
    } else if (auto file = task_->files().Get(sqe_.fd); file.ok()) {
      file_ = *file;
    }
    if (!file_) return ring_->Complete(*this, -EBADF);
    // It would keep itself alive, alone or by way of another.
    if (IoUring::From(*file_) != nullptr) return ring_->Complete(*this, -EOPNOTSUPP);
  }
  if (helper_ == nullptr) helper_ = std::make_unique<HelperTask>(task_->kernel(), *this);
  // What Linux hands to a worker has the credentials of that moment; what waits for its file those of when it goes on.
  if ((sqe_.flags & IOSQE_ASYNC) != 0 || !TakesFile(sqe_.opcode)) KeepCredentials();
  helper_->Run(*task_, FilesFor(), [this](Task& helper) { return Execute(helper); }, creds_);
}

void Request::KeepCredentials() {
  if (!creds_) creds_ = task_->creds_ref();
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
  GiveBack();
  OnDone(result);
  return true;
}

ErrnoOr<uint64_t> Request::Execute(Task& helper) {
  switch (sqe_.opcode) {
    case IORING_OP_NOP: return NopResult();
    case IORING_OP_POLL_ADD: return Poll(helper);
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT: return Timeout(helper);
    case IORING_OP_TIMEOUT_REMOVE: return RemoveTimeout(helper);
    case IORING_OP_POLL_REMOVE: return RemovePoll();
    case IORING_OP_ASYNC_CANCEL: return CancelOthers();
    case IORING_OP_MSG_RING: return Message(helper);
    case IORING_OP_PROVIDE_BUFFERS: return Provide();
    case IORING_OP_REMOVE_BUFFERS:
      if (sqe_.fd <= 0 || static_cast<uint32_t>(sqe_.fd) > ProvidedBuffers::kMaxIds) return Errno(EINVAL);
      return uint64_t{TRY(ring_->buffers().Remove(sqe_.buf_group, static_cast<uint32_t>(sqe_.fd)))};
    case IORING_OP_FILES_UPDATE: return ring_->UpdateFiles(helper, sqe_.addr, sqe_.len, static_cast<uint32_t>(sqe_.off));
    case kOpFixedFdInstall: return static_cast<uint64_t>(TRY(task_->files().Allocate(file_, (sqe_.rw_flags & 1) == 0, task_->limit(RLIMIT_NOFILE))));
    default: return several() ? Shots(helper) : Once(helper);
  }
}

ErrnoOr<uint64_t> Request::CancelOthers() {
  RefPtr<File> file;
  if ((sqe_.cancel_flags & IORING_ASYNC_CANCEL_FD) != 0) {
    bool fixed = (sqe_.cancel_flags & kCancelFdFixed) != 0 || (sqe_.flags & IOSQE_FIXED_FILE) != 0;
    file = fixed ? ring_->FixedFile(static_cast<uint32_t>(sqe_.fd)) : FileOf(sqe_.fd);
    if (!file) return Errno(EBADF);
  }
  int opcode = (sqe_.cancel_flags & kCancelOp) != 0 ? static_cast<int>(sqe_.len) : -1;
  int32_t result = ring_->Cancel(this, sqe_.addr, file, sqe_.cancel_flags, opcode);
  return result < 0 ? ErrnoOr<uint64_t>(Errno(-result)) : ErrnoOr<uint64_t>(static_cast<uint64_t>(result));
}

// The other ring is not kept: two could keep each other.
ErrnoOr<uint64_t> Request::Message(Task& helper) {
  if ((sqe_.flags & IOSQE_FIXED_FILE) != 0) return ring_->FixedFile(static_cast<uint32_t>(sqe_.fd)) ? Errno(EBADFD) : Errno(EBADF);
  RefPtr<File> file = FileOf(sqe_.fd);
  if (!file) return Errno(EBADF);
  IoUring* to = IoUring::From(*file);
  return to == nullptr ? Errno(EBADFD) : to->TakeMessage(helper, sqe_, ring_);
}

namespace {

// For its time the file waits: O_NONBLOCK means nothing to requests of files that can be polled, only MSG_DONTWAIT and their like do (REQ_F_NOWAIT).
class Waiting {
 public:
  explicit Waiting(RefPtr<File> file) : file_(std::move(file)) {
    if (file_ && !(file_->nonblocking() && file_->pollable())) file_.reset();
    if (file_) file_->set_flags(file_->flags() & ~O_NONBLOCK);
  }
  ~Waiting() {
    if (file_) file_->set_flags(file_->flags() | O_NONBLOCK);
  }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;

 private:
  RefPtr<File> file_;
};

}  // namespace

ErrnoOr<uint64_t> Request::Attempt(Task& helper, const io_uring_sqe& sqe) {
  bool waits = IsMessage(sqe.opcode) || IsReadWrite(sqe.opcode) || sqe.opcode == IORING_OP_ACCEPT || sqe.opcode == IORING_OP_CONNECT;
  Waiting scope(waits ? file_ : nullptr);
  switch (sqe.opcode) {
    case IORING_OP_ACCEPT: return Accept(helper);
    case IORING_OP_SPLICE:
    case IORING_OP_TEE: return Splice(helper);
    case IORING_OP_URING_CMD: return SocketCommand(helper);
    case IORING_OP_SEND:
    case IORING_OP_SENDMSG:
    case IORING_OP_SEND_ZC:
    case IORING_OP_SENDMSG_ZC:
    case IORING_OP_RECV:
    case IORING_OP_RECVMSG: return Messages(helper, {});
    case kOpPipe: return sqe.file_index != 0 ? PipeIntoSlots(helper) : Call(helper, sqe);
    default: return IsReadWrite(sqe.opcode) ? ReadWrite(helper, sqe) : Call(helper, sqe);
  }
}

ErrnoOr<uint64_t> Request::Poll(Task& helper) {
  uint32_t wanted = sqe_.poll32_events | POLLERR | POLLHUP;
  uint32_t now = file_->Poll(helper) & wanted;
  if (now != 0 && (!several() || !ring_->PostMore(*this, static_cast<int32_t>(now)))) return now;
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
    clockid_t clock = (flags & IORING_TIMEOUT_REALTIME) != 0   ? CLOCK_REALTIME
                      : (flags & IORING_TIMEOUT_BOOTTIME) != 0 ? CLOCK_BOOTTIME
                                                               : CLOCK_MONOTONIC;
    return DeadlineAt(helper, clock, ns);
  }
  return now + std::min(std::max<int64_t>(ns, 0), kNever - 1 - now);
}

ErrnoOr<uint64_t> Request::Timeout(Task& helper) {
  SyscallState& call = helper.syscall();
  bool again = (sqe_.timeout_flags & kTimeoutMultishot) != 0;
  uint64_t &period = call.scratch[0], &left = call.scratch[1];
  if (call.timed_out && again && left != 1 && ring_->PostMore(*this, -ETIME)) {
    if (left > 0) --left;
    call.timed_out = false;
    int64_t now = helper.kernel().clocks().Monotonic();
    // Not faster than others can have the kernel in between.
    call.deadline = now + std::clamp<int64_t>(static_cast<int64_t>(period), kOthersTurn, kNever - 1 - now);
    return helper.Block({}, call.deadline);
  }
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
    if (again) {
      period = static_cast<uint64_t>(std::max<int64_t>(deadline - helper.kernel().clocks().Monotonic(), 0));
      left = sqe_.off;
    } else if (sqe_.opcode == IORING_OP_TIMEOUT && sqe_.off != 0) {
      count_target_ = ring_->posted() + sqe_.off;
      ring_->CountFor(*this);
    }
  }
  return helper.Block({}, deadline);
}

void Request::MoveDeadline(int64_t deadline) {
  SyscallState& call = helper_->call();
  call.deadline = deadline;
  call.timed_out = false;
  call.restarted = true;
  Run();
}

ErrnoOr<uint64_t> Request::RemoveTimeout(Task& helper) {
  bool linked = (sqe_.timeout_flags & IORING_TIMEOUT_UPDATE_MASK) == IORING_TIMEOUT_UPDATE_MASK;
  Request* found = ring_->FindPending(sqe_.addr, linked ? IORING_OP_LINK_TIMEOUT : IORING_OP_TIMEOUT);
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
  out->set_other_file(saver.Ref(other_));
  out->set_count_target(count_target_);
  out->set_error(error_);
  for (const ProvidedBuffers::Buffer& held : held_) {
    auto* b = out->add_held_buffer();
    b->set_address(held.address);
    b->set_size(held.size);
    b->set_id(held.id);
    out->add_held_positions(held.position);
  }
  out->set_file_tag(file_tag_);
  out->set_buffer_tag(buffer_tag_);
  if (fixed_) {
    out->add_fixed(reinterpret_cast<uint64_t>(fixed_->iov_base));
    out->add_fixed(fixed_->iov_len);
  }
  if (creds_) SaveRingCredentials(saver, *creds_, out->mutable_creds());
  out->set_other_memory(!task_->has_mm() || !space_.Is(task_->mm()));
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
  r->other_ = loader.GetRef<File>(in.other_file());
  r->count_target_ = in.count_target();
  r->error_ = in.error();
  auto hold = [&](const proto::IoBuffer& b, uint32_t position) {
    r->held_.push_back({b.address(), b.size(), static_cast<uint16_t>(b.id()), static_cast<uint16_t>(position)});
  };
  if (in.has_held()) hold(in.held(), in.held_position());
  for (int i = 0; i < in.held_buffer_size() && i < in.held_positions_size(); ++i) hold(in.held_buffer(i), in.held_positions(i));
  r->file_tag_ = in.file_tag();
  r->buffer_tag_ = in.buffer_tag();
  if (in.fixed_size() == 2) r->fixed_ = iovec{reinterpret_cast<void*>(in.fixed(0)), in.fixed(1)};
  if (in.has_creds()) r->creds_ = LoadRingCredentials(loader, in.creds());
  r->lost_space_ = in.other_memory();
  if (!IsKnown(r->opcode()) || (in.waits() && TakesFile(r->opcode()) && !r->file_)) return nullptr;
  r->saved_.timed_out = in.timed_out();
  r->saved_.deadline = in.waits() ? in.deadline() : kNever;
  r->saved_.done = in.done();
  for (int i = 0; i < in.scratch_size() && i < 4; ++i) r->saved_.scratch[i] = in.scratch(i);
  return r;
}

void Request::AfterLoad() {
  if (!lost_space_ && task_->has_mm()) space_.Watch(&task_->mm());
  ring_->UseTag(file_tag_);
  ring_->UseTag(buffer_tag_);
}

void Request::Resume() {
  helper_ = std::make_unique<HelperTask>(task_->kernel(), *this);
  helper_->call() = saved_;
  helper_->RunAfterThaw();
}

void Request::DropTags() {
  if (file_tag_ != 0) ring_->DropTag(std::exchange(file_tag_, 0));
  if (buffer_tag_ != 0) ring_->DropTag(std::exchange(buffer_tag_, 0));
}

}  // namespace amber
