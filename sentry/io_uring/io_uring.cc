#include "sentry/io_uring/io_uring.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/io_uring/operations.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/others_turn.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

// How long requests may be begun one after the other, ns.
constexpr int64_t kLongestWork = 10'000'000;

}  // namespace

bool IoUring::Supports(uint8_t opcode) { return IsKnown(opcode); }

// --- submissions ---

ErrnoOr<uint32_t> IoUring::Submit(Task& task, uint32_t count, int64_t longest) {
  RefPtr<IoUring> self(this);
  uint32_t entries = memory_.submissions(), taken = 0;
  count = std::min({count, entries, memory_.SubmissionTail() - sq_head_});
  if (count > 0 && (requests_ + count > kMaxRequests || all_requests_ + count > kMaxAllRequests)) return Errno(EAGAIN);
  submitting_ = true;
  // Others want the kernel, too: a program submits what is left by its next call (but a chain must not be cut).
  const Clocks& clocks = task.kernel().clocks();
  int64_t end = clocks.Monotonic() + longest;
  // What was begun may have been the end of the thread.
  while (taken < count && !task.exiting() && (!chain_.empty() || clocks.Monotonic() < end)) {
    uint32_t index = memory_.SubmissionIndex(sq_head_++);
    if (index >= entries) {
      memory_.CountDropped();
      break;
    }
    ++taken;
    if (!SubmitOne(task, memory_.Submission(index)) && (setup_flags_ & IORING_SETUP_SUBMIT_ALL) == 0) break;
  }
  memory_.SetSubmissionHead(sq_head_);
  SubmitChain();
  submitting_ = false;
  return taken;
}

bool IoUring::SubmitOne(Task& task, const io_uring_sqe& sqe) {
  auto request = MakeRef<Request>(*this, task, sqe);
  ++requests_;
  ++all_requests_;
  bool good = request->Check() == 0;
  bool linked = request->linked();
  // Nor does a time-out limit another (io_link_timeout_prep()).
  if (good && sqe.opcode == IORING_OP_LINK_TIMEOUT && !chain_.empty() && chain_.back()->opcode() == IORING_OP_LINK_TIMEOUT) {
    request->Refuse(EINVAL);
    good = false;
  }
  // A time-out of nothing.
  if (good && chain_.empty() && sqe.opcode == IORING_OP_LINK_TIMEOUT) {
    Complete(*request, -EINVAL);
    return false;
  }
  if (chain_.empty() && !linked) {
    if (good) {
      Take(std::move(request));
    } else {
      Complete(*request, -request->error());
    }
    return good;
  }
  chain_.push_back(std::move(request));
  if (!good) chain_failed_ = true;
  if (!linked) SubmitChain();
  // Links are not broken in the middle (io_submit_fail_init()).
  return good || linked;
}

void IoUring::SubmitChain() {
  std::vector<RefPtr<Request>> chain = std::exchange(chain_, {});
  bool failed = std::exchange(chain_failed_, false);
  if (chain.empty()) return;
  if (failed) {
    for (const RefPtr<Request>& r : chain) Complete(*r, r->error() != 0 ? -r->error() : -ECANCELED);
    return;
  }
  for (size_t i = 0; i + 1 < chain.size(); ++i) chain[i]->next = chain[i + 1];
  Take(chain.front());
}

void IoUring::Take(RefPtr<Request> head) {
  bool drain = (head->sqe().flags & IOSQE_IO_DRAIN) != 0;
  if (barrier_ != nullptr || !deferred_.empty() || (drain && !(pending_.empty() && due_.empty()))) {
    // io_drain_req(): what waits so is who it is now.
    for (Request* r = head.get(); r != nullptr; r = r->next.get()) r->KeepCredentials();
    deferred_.push_back(std::move(head));
    return;
  }
  if (drain) barrier_ = head.get();
  due_.push_back({std::move(head), 0, false});
  Work();
}

void IoUring::Work() {
  if (working_) return;
  RefPtr<IoUring> self(this);
  working_ = true;
  CheckCounts();
  std::deque<Due> later;
  int64_t end = 0;
  while (true) {
    if (due_.empty() && later.empty()) BeginDeferred();
    if (due_.empty()) break;
    Due due = std::move(due_.front());
    due_.pop_front();
    if (due.reached) {
      due.request->Cancel(0);
    } else if (due.failure != 0) {
      Complete(*due.request, due.failure);
    } else {
      int64_t now = due.request->task().kernel().clocks().Monotonic();
      if (end == 0) end = now + kLongestWork;
      if (now < end && later.empty()) {
        Begin(std::move(due.request));
      } else {
        later.push_back(std::move(due));
      }
    }
  }
  working_ = false;
  due_ = std::move(later);
  if (!due_.empty()) WorkLater(due_.front().request->task().kernel(), kOthersTurn);
}

// Once others have had the kernel.
void IoUring::WorkLater(Kernel& kernel, int64_t delay) {
  constexpr int64_t kWhileFrozen = 10'000'000;
  if (timer_ == nullptr) {
    timer_ = std::make_unique<Timer>([this, &kernel] {
      if (kernel.frozen()) return WorkLater(kernel, kWhileFrozen);
      Work();
    });
  }
  timer_->Arm(kernel.timers(), kernel.clocks().Monotonic() + delay);
}

void IoUring::BeginDeferred() {
  if (deferred_.empty() || barrier_ != nullptr) return;
  bool drain = (deferred_.front()->sqe().flags & IOSQE_IO_DRAIN) != 0;
  if (drain && !pending_.empty()) return;
  if (drain) barrier_ = deferred_.front().get();
  due_.push_back({std::move(deferred_.front()), 0, false});
  deferred_.pop_front();
}

void IoUring::Begin(RefPtr<Request> request) {
  RefPtr<Request> watch;
  if (request->next && request->next->opcode() == IORING_OP_LINK_TIMEOUT) {
    watch = std::move(request->next);
    request->next = std::move(watch->next);
    request->partner = watch.get();
    watch->partner = request.get();
  }
  AddPending(request);
  if (watch) AddPending(watch);
  request->Start();
  // Unless what it watches is over by now.
  if (watch && watch->partner != nullptr) watch->Start();
}

void IoUring::AddPending(RefPtr<Request> request) {
  Request& r = *request;
  r.place = pending_.insert(pending_.end(), std::move(request));
  r.placed = true;
}

// --- completions ---

void IoUring::Complete(Request& request, int32_t result) {
  RefPtr<IoUring> self(this);
  RefPtr<Request> keep(&request);
  if (request.placed) pending_.erase(request.place);
  request.placed = false;
  ForgetCount(request);
  if (requests_ > 0) --requests_, --all_requests_;
  const io_uring_sqe& sqe = request.sqe();
  bool failed = result < 0 || (MustBeWhole(sqe.opcode) && static_cast<uint32_t>(result) != request.expected());
  if (result == -ETIME && (sqe.timeout_flags & IORING_TIMEOUT_ETIME_SUCCESS) != 0 && sqe.opcode == IORING_OP_TIMEOUT) failed = false;
  // What limits another is no failure, reached or not (io_req_task_link_timeout()).
  bool bad = failed && (sqe.opcode != IORING_OP_LINK_TIMEOUT || request.error() != 0);
  if (!request.silent && (bad || (sqe.flags & IOSQE_CQE_SKIP_SUCCESS) == 0)) {
    io_uring_cqe cqe{};
    cqe.user_data = sqe.user_data;
    cqe.res = result;
    cqe.flags = request.TakeFlags() | (IsZeroCopy(sqe.opcode) ? IORING_CQE_F_MORE : 0);
    if (sqe.opcode != IORING_OP_TIMEOUT) ++posted_;
    Post(cqe);
    if (IsZeroCopy(sqe.opcode)) {
      cqe.flags = IORING_CQE_F_NOTIF;
      cqe.res = (sqe.ioprio & kReportUsage) != 0 ? static_cast<int32_t>(IORING_NOTIF_USAGE_ZC_COPIED) : 0;
      ++posted_;
      Post(cqe);
    }
  }
  if (Request* watch = std::exchange(request.partner, nullptr)) {
    RefPtr<Request> other(watch);
    watch->partner = nullptr;
    bool limits = request.opcode() == IORING_OP_LINK_TIMEOUT;  // what it limits goes on without it
    if (!limits && !watch->Cancel(-ECANCELED)) Complete(*watch, -ECANCELED);
  }
  if (barrier_ == &request) barrier_ = nullptr;
  // The rest of its chain begins, or fails with it (but for a hard link).
  RefPtr<Request> rest = std::move(request.next);
  if (rest && failed && (sqe.flags & IOSQE_IO_HARDLINK) == 0) {
    while (rest) {
      RefPtr<Request> after = std::move(rest->next);
      rest->silent = request.silent || (sqe.flags & IOSQE_CQE_SKIP_SUCCESS) != 0;
      due_.push_back({std::move(rest), -ECANCELED, false});
      rest = std::move(after);
    }
  } else if (rest) {
    due_.push_back({std::move(rest), 0, false});
  }
  request.DropTags();
  CheckCounts();
  Work();
}

bool IoUring::PostMore(Request& request, int32_t result) {
  if (!overflow_.empty() || Ready() >= memory_.completions()) return false;
  // Two that poll what their completions signal would go on for ever (Linux looks for EPOLL_URING_WAKE).
  if (HelperTask::runs_in_a_row() > HelperTask::kManyRuns) return false;
  io_uring_cqe cqe{};
  cqe.user_data = request.sqe().user_data;
  cqe.res = result;
  cqe.flags = request.TakeFlags() | IORING_CQE_F_MORE;
  if (request.opcode() != IORING_OP_TIMEOUT) ++posted_;
  Post(cqe);
  // Its call still runs.
  if (CountReached()) WorkLater(request.task().kernel(), 0);
  return true;
}

void IoUring::PostAside(uint64_t user_data, int32_t result, uint32_t flags) {
  io_uring_cqe cqe{};
  cqe.user_data = user_data;
  cqe.res = result;
  cqe.flags = flags;
  ++posted_;
  Post(cqe);
  if (CountReached() && !counting_.empty()) WorkLater(counting_.begin()->second->task().kernel(), 0);
}

void IoUring::ForgetCount(Request& request) {
  if (request.count_target() == 0) return;
  auto [from, to] = counting_.equal_range(request.count_target());
  for (auto it = from; it != to; ++it) {
    if (it->second != &request) continue;
    counting_.erase(it);
    break;
  }
  request.ForgetCount();
}

void IoUring::CheckCounts() {
  while (CountReached()) {
    RefPtr<Request> r(counting_.begin()->second);
    counting_.erase(counting_.begin());
    r->ForgetCount();
    due_.push_back({std::move(r), 0, true});
  }
}

uint32_t IoUring::Ready() const { return std::min(cq_tail_ - memory_.CompletionHead(), memory_.completions()); }

void IoUring::Post(const io_uring_cqe& cqe) {
  if (!overflow_.empty() || Ready() >= memory_.completions()) {
    if (overflow_.size() >= kMaxRequests) {
      memory_.CountOverflow();
    } else {
      overflow_.push_back(cqe);
      memory_.SetFlag(IORING_SQ_CQ_OVERFLOW, true);
    }
  } else {
    memory_.PutCompletion(cq_tail_++, cqe);
  }
  queue_.Notify(POLLIN | POLLRDNORM);
  if (event_fd_ && !memory_.EventsDisabled() && !(event_async_ && submitting_)) static_cast<EventFd&>(*event_fd_).Signal(1);
}

void IoUring::FlushOverflow() {
  while (!overflow_.empty() && Ready() < memory_.completions()) {
    memory_.PutCompletion(cq_tail_++, overflow_.front());
    overflow_.pop_front();
  }
  if (overflow_.empty()) memory_.SetFlag(IORING_SQ_CQ_OVERFLOW, false);
}

Request* IoUring::FindPending(uint64_t user_data, int opcode) {
  for (const RefPtr<Request>& r : pending_) {
    if (r->waits() && r->sqe().user_data == user_data && (opcode < 0 || r->opcode() == opcode)) return r.get();
  }
  return nullptr;
}

// io_cancel_req_match().
int32_t IoUring::Cancel(const Request* by, uint64_t user_data, const RefPtr<File>& file, uint32_t flags, int opcode) {
  std::vector<RefPtr<Request>> found;
  bool any = (flags & IORING_ASYNC_CANCEL_ANY) != 0, all = any || (flags & IORING_ASYNC_CANCEL_ALL) != 0;
  bool by_data = (flags & (IORING_ASYNC_CANCEL_FD | kCancelOp)) == 0 || (flags & IORING_ASYNC_CANCEL_USERDATA) != 0;
  for (const RefPtr<Request>& r : pending_) {
    if (r.get() == by || !r->waits()) continue;
    if (!any && ((opcode >= 0 && r->opcode() != opcode) || (file && r->file() != file.get()) || (by_data && r->sqe().user_data != user_data)))
      continue;
    found.push_back(r);
    if (!all) break;
  }
  int32_t count = 0;
  for (const RefPtr<Request>& r : found) count += r->Cancel(-ECANCELED) ? 1 : 0;
  if (all) return count;
  return count > 0 ? 0 : -ENOENT;
}

// --- as a file ---

ErrnoOr<MapSource> IoUring::Map(Task&, uint64_t offset, uint64_t size, int, bool) {
  if ((offset & 0xf8000000) == kOffsetBuffers) {
    int fd = provided_.Map(offset, size);
    if (fd < 0) return Errno(EINVAL);
    return MapSource{fd, (offset & 0xffff) - offset, true};
  }
  uint64_t at = TRY(memory_.Locate(offset, size));
  return MapSource{memory_.fd(), at - offset, true};
}

ErrnoOr<void> IoUring::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t IoUring::Poll(Task&) {
  uint32_t events = 0;
  if (Ready() > 0 || overflown()) events |= POLLIN | POLLRDNORM;
  if (memory_.SubmissionTail() - sq_head_ < memory_.submissions()) events |= POLLOUT | POLLWRNORM;
  return events;
}

}  // namespace amber
