// Orders: what a stopped thread's stub does for the sentry. See thread_impl.h.
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "sentry/platform/filter.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/ranges.h"
#include "sentry/platform/stub_sys.h"
#include "sentry/platform/stub_text.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

bool Failed(int64_t result) { return result < 0 && result >= -4095; }

}  // namespace

// What an operation returns that fails only for want of the host's memory; -1 if it may fail for other reasons, or be long.
int64_t ThreadImpl::Foreseen(const MailboxOp& op, bool file) {
  constexpr uint64_t kLarge = 64 << 20;  // the host may refuse a large mapping
  constexpr uint64_t kPlain = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  if (file) return platform_.mapped_files().IsKnown(ops_[0]) ? static_cast<int64_t>(op.args[0]) : -1;
  if (op.number == SYS_munmap) return 0;
  if (op.number == SYS_set_tid_address) return tid_;  // as libraries do when they start
  bool plain = op.number == SYS_mmap && (op.args[3] & ~uint64_t{MAP_NORESERVE | MAP_STACK}) == kPlain && op.args[1] <= kLarge;
  return plain ? static_cast<int64_t>(op.args[0]) : -1;
}

bool Same(const MailboxOp& op, const seccomp_data& data) {
  if (op.number != static_cast<uint32_t>(data.nr)) return false;
  for (int i = 0; i < 6; i++) {
    if (op.args[i] != data.args[i]) return false;
  }
  return true;
}

// Before anything else a thread fresh from exec closes the listener, which no guest may hold.
void ThreadImpl::StartAfterClose(std::function<void()> work) {
  {
    absl::MutexLock lock(&mu_);
    close_listener_ = false;
  }
  std::vector<StubOp> ops = {{.number = SYS_close, .args = {0}}};
  RunOps(std::move(ops), [work = std::move(work)](std::span<const int64_t>) { work(); });
}

void ThreadImpl::RunOps(std::vector<StubOp> ops, std::function<void(std::span<const int64_t>)> done) {
  RefPtr<ThreadImpl> self(this);
  mu_.Lock();
  if (state_ != State::kStopped) return mu_.Unlock();
  if (close_listener_) {
    mu_.Unlock();
    return StartAfterClose([this, ops = std::move(ops), done = std::move(done)]() mutable { RunOps(std::move(ops), std::move(done)); });
  }
  SetState(State::kOrdered);
  order_ = Order::kOps;
  ops_ = std::move(ops);
  ops_callback_ = std::move(done);
  ops_done_ = 0;
  results_.clear();
  round_error_ = 0;
  wants_contact_ = false;
  uses_descriptors_ = std::any_of(ops_.begin(), ops_.end(), [](const StubOp& op) { return op.fd >= 0; });
  platform_.counters().stub_ops.fetch_add(ops_.size(), std::memory_order_relaxed);
  if (!uses_descriptors_) return StartRound();
  mu_.Unlock();
  process_->WhenNoFork([self] {
    self->mu_.Lock();
    if (self->state_ != State::kOrdered) return self->mu_.Unlock();
    self->StartRound();
  });
}

// Posts as many operations as fit in a mailbox, and behind them the closing of the descriptors that
// they use.
void ThreadImpl::StartRound() {
  made_ = 0;
  native_ = 0;
  ahead_ = false;
  expected_count_ = 0;
  std::array<std::pair<int, int>, kMailboxOps> fds;  // ours, the stub's
  size_t fd_count = 0;
  size_t n = 0;
  round_error_ = 0;
  while (ops_done_ + n < ops_.size()) {
    StubOp& op = ops_[ops_done_ + n];
    unsigned long args[6];
    std::copy(std::begin(op.args), std::end(op.args), args);
    if (TouchesStubRegion(op.number, args)) round_error_ = -EINVAL;
    MailboxOp& out = expected_[n];
    auto known = std::find_if(fds.begin(), fds.begin() + fd_count, [&](auto& fd) { return fd.first == op.fd; });
    bool new_fd = op.fd >= 0 && known == fds.begin() + fd_count;
    if (n + 1 + fd_count + (new_fd ? 1 : 0) > kMailboxOps) break;
    if (round_error_ == 0 && new_fd) {
      if (!held_ || going_) break;
      int number = process_->AllocateFd();
      if (number < 0) {
        round_error_ = -EMFILE;
      } else {
        fds[fd_count++] = {op.fd, number};
      }
    }
    if (round_error_ != 0) break;
    out.number = op.number;
    std::copy(std::begin(op.args), std::end(op.args), out.args);
    if (op.fd >= 0 && op.fd_arg >= 0 && op.fd_arg < 6) {
      auto entry = new_fd ? fds.begin() + fd_count - 1 : known;
      out.args[op.fd_arg] = static_cast<uint64_t>(entry->second);
    }
    if (IsNative(out.number, out.args)) native_ |= 1u << n;
    n++;
  }
  round_ops_ = n;
  if (n > 0) round_error_ = 0;  // found again when it is its turn
  if (n == 0) {
    // Nothing to run: a descriptor needs a notification to attach to, or the result is known.
    wants_contact_ = round_error_ == 0 && ops_done_ < ops_.size();
    return Post(kCommandContact);
  }
  bool all_told = native_ == 0;
  for (size_t i = 0; i < fd_count; i++) {
    expected_[n + i] = {SYS_close, {static_cast<uint64_t>(fds[i].second)}};
    native_ |= 1u << (n + i);
  }
  expected_count_ = static_cast<uint32_t>(n + fd_count);
  always_from_ = static_cast<uint32_t>(n);
  round_fds_ = 0;
  for (size_t i = 0; i < fd_count; i++) {
    round_fds_ |= 1ull << fds[i].second;
    if (i + 1 < fd_count) {
      // As in Post(): not with whatever else has this number.
      if (process_->listener().AddFd(notification_, fds[i].first, fds[i].second, false) != 0) process_->Kill();
    } else {
      last_fd_ = fds[i].first;  // goes with the answer
      last_number_ = fds[i].second;
    }
  }
  // A single operation whose result is known: when it is notified, and so about to be done, the client is told that it is. (The closing of its
  // descriptor comes behind it, before anything else that this thread does.) Not where other
  // threads could be let change the same range before; not after a fault, since a signal's frame may be written to what the operation maps; and not for a
  // thread that is watched, whose report costs less than what is done while it sleeps.
  bool alone = held_ && by_call_ && ops_.size() == 1 && all_told && process_->IsAlone();
  foreseen_ = alone ? Foreseen(expected_[0], fd_count > 0) : -1;
  ahead_ = foreseen_ >= 0;
  box_->flags = ahead_ ? kRunAhead : 0;
  for (uint32_t i = 0; i < expected_count_; i++) box_->ops[i] = expected_[i];
  box_->op_count = expected_count_;
  box_->always_from = always_from_;
  Post(kCommandRun);
}

// Operations come in order. One may come twice (a pending signal restarts it); after a failure the
// rest up to always_from_ is left out.
bool ThreadImpl::Expected(const seccomp_data& data) {
  uint32_t next = 0;
  for (uint32_t i = 0; i < expected_count_; i++) {
    if (made_ & (1u << i)) next = i + 1;
  }
  uint32_t last = next - 1;
  while (next < expected_count_ && (native_ & (1u << next)) != 0) next++;
  for (uint32_t i : {last, next, std::max(next, always_from_)}) {
    if (i >= expected_count_ || !Same(expected_[i], data)) continue;
    made_ |= 1u << i;
    return true;
  }
  return false;
}

void ThreadImpl::OnOrderedCall(uint64_t id, const seccomp_data& data) {
  if (!InStubText(data.instruction_pointer)) return Hostile();
  mu_.Lock();
  Order order = order_;
  if (state_ != State::kOrdered) {
    mu_.Unlock();
    return;
  }
  if (order == Order::kFutex) {
    mu_.Unlock();
    return OnFutexCall(id, data);
  }
  bool clone = order == Order::kFork || order == Order::kClone;
  bool again = clone && made_ != 0;
  bool ok = Expected(data);
  if (ok && order == Order::kOps && ahead_) return GoAhead(id);
  mu_.Unlock();
  if (!ok) return Hostile();
  if (order == Order::kExit) return OnExitCall(id);
  if (again) {
    // Interrupted (a freezer, say) before it did anything, or a guest that wants a second child for
    // one order. It fails, and is ordered anew.
    absl::MutexLock lock(&mu_);
    clone_restarts_++;
    return process_->listener().Answer(id, -EAGAIN);
  }
  process_->listener().Continue(id);
}

// The operation is let through with the next order, or when the client leaves the thread stopped.
void ThreadImpl::GoAhead(uint64_t id) {
  notification_ = id;
  held_ = going_ = gone_ahead_ = true;
  ahead_op_ = expected_[0];
  results_.push_back(foreseen_);
  fork_fds_ |= std::exchange(round_fds_, 0);
  FinishOps();
}

void ThreadImpl::OnReport(uint64_t id) {
  Order order;
  {
    absl::MutexLock lock(&mu_);
    if (state_ != State::kOrdered || held_) return Hostile();
    notification_ = id;
    held_ = id != 0;
    order = order_;
  }
  if (id != 0) NoteContact();
  if (order == Order::kOps) return OnOpsReport();
  if (order == Order::kFork || order == Order::kClone) return OnCloneReport();
  Hostile();
}

void ThreadImpl::OnOpsReport() {
  mu_.Lock();
  if (state_ != State::kOrdered) return mu_.Unlock();
  process_->FreeFds(std::exchange(round_fds_, 0));
  if (wants_contact_) {
    wants_contact_ = false;
    return StartRound();
  }
  if (round_error_ != 0) results_.push_back(round_error_);
  if (round_error_ != 0 || round_ops_ == 0) return FinishOps();
  uint32_t done = __atomic_load_n(&box_->done_count, __ATOMIC_RELAXED);
  uint32_t needed = ((1u << expected_count_) - 1) & ~((1u << always_from_) - 1);
  if (done > 0 && done <= round_ops_) needed |= (1u << done) - 1;
  needed &= ~native_;
  if (done == 0 || done > round_ops_ || (made_ & needed) != needed) {
    mu_.Unlock();
    return Hostile();  // says that it did what it did not do
  }
  for (uint32_t i = 0; i < done; i++) results_.push_back(__atomic_load_n(&box_->results[i], __ATOMIC_RELAXED));
  ops_done_ += done;
  bool failed = Failed(results_.back());
  if (!failed && ops_.size() == 1 && uses_descriptors_) platform_.mapped_files().NoteSuccess(ops_[0]);
  if (!failed && done < round_ops_) {
    mu_.Unlock();
    return Hostile();
  }
  if (failed || ops_done_ >= ops_.size()) return FinishOps();
  StartRound();
}

void ThreadImpl::FinishOps() {
  SetState(State::kStopped);
  order_ = Order::kNone;
  expected_count_ = 0;
  auto callback = std::exchange(ops_callback_, nullptr);
  std::vector<int64_t> results = std::move(results_);
  results_.clear();
  mu_.Unlock();
  if (uses_descriptors_) process_->DescriptorDone();
  {
    Callback guard(*this);
    if (guard.ok() && callback) callback(results);
    callback = nullptr;  // what it holds goes before a death is reported
  }
  ParkIfStopped();
}

// --- timed waits ---

void ThreadImpl::FutexWait(uint64_t address, uint32_t value, uint32_t bitset, bool shared, bool realtime, int64_t deadline_ns,
                           std::function<void(int64_t)> done) {
  RefPtr<ThreadImpl> self(this);
  mu_.Lock();
  if (state_ != State::kStopped) return mu_.Unlock();
  if (close_listener_) {
    mu_.Unlock();
    return StartAfterClose([=, this] { FutexWait(address, value, bitset, shared, realtime, deadline_ns, done); });
  }
  SetState(State::kOrdered);
  order_ = Order::kFutex;
  futex_callback_ = std::move(done);
  saved_frame_ = frame_;
  uint64_t operation = FUTEX_WAIT_BITSET | (shared ? 0 : FUTEX_PRIVATE_FLAG) | (realtime ? FUTEX_CLOCK_REALTIME : 0);
  uint64_t deadline_address = kWindowAddress + offsetof(Window, mailboxes) + slot_ * sizeof(Mailbox) + offsetof(Mailbox, deadline);
  deadline_ns = std::max<int64_t>(deadline_ns, 0);
  box_->deadline[0] = deadline_ns / 1000000000;
  box_->deadline[1] = deadline_ns % 1000000000;
  Frame frame = frame_;
  frame.regs.rip = StubAddress(stub_futex_start);
  frame.regs.rdi = address;
  frame.regs.rsi = operation;
  frame.regs.rdx = value;
  frame.regs.r10 = deadline_address;
  frame.regs.r8 = 0;
  frame.regs.r9 = bitset;
  expected_[0] = {SYS_futex, {address, operation, value, deadline_address, 0, bitset}};
  expected_count_ = 1;
  StoreFrame(frame, load_bases_);
  handed_over_.fs_base = frame_.fs_base;
  handed_over_.gs_base = frame_.gs_base;
  load_bases_ = false;
  uint64_t kick = kick_;
  mu_.Unlock();
  if (kick != 0) {
    SendKick();
    platform_.monitor().WatchKick(*this, kick);
  }
  mu_.Lock();
  if (state_ != State::kOrdered) return mu_.Unlock();
  Post(kCommandResume);
}

void ThreadImpl::OnFutexCall(uint64_t id, const seccomp_data& data) {
  bool ok;
  {
    absl::MutexLock lock(&mu_);
    ok = data.instruction_pointer == StubAddress(stub_futex_end) && Same(expected_[0], data);
  }
  if (!ok) return Hostile();
  process_->listener().Continue(id);
}

// The wait ended: by the trap behind it (result in rdi), or by a kick before, in or right after it.
void ThreadImpl::OnFutexStop(uint64_t) {
  std::function<void(int64_t)> callback;
  int64_t result = -EINTR;
  {
    absl::MutexLock lock(&mu_);
    bool kicked = box_->signo == SIGURG;
    uint64_t rip = frame_.regs.rip;
    if (!InStubText(rip) || rip < StubAddress(stub_futex_start)) return Hostile();
    if (!kicked) {
      result = static_cast<int64_t>(frame_.regs.rdi);
    } else if (rip == StubAddress(stub_futex_end)) {
      result = static_cast<int64_t>(frame_.regs.rax);
    } else if (rip > StubAddress(stub_futex_end)) {
      result = static_cast<int64_t>(frame_.regs.rdi);
    }
    if (result > 0 || !(result == 0 || Failed(result))) result = -EINVAL;
    // Told by the result; else it is due still and sent again at the next resume.
    if (result == -EINTR) kick_ = 0;
    uint64_t fs = frame_.fs_base, gs = frame_.gs_base;
    frame_ = saved_frame_;
    handed_over_.fs_base = fs;
    handed_over_.gs_base = gs;
    callback = std::exchange(futex_callback_, nullptr);
    expected_count_ = 0;
    order_ = Order::kNone;
    SetState(State::kStopped);
  }
  {
    Callback guard(*this);
    if (guard.ok() && callback) callback(result);
    callback = nullptr;
  }
  ParkIfStopped();
}

// --- exit ---

void ThreadImpl::Exit() {
  RefPtr<ThreadImpl> self(this);
  if (ShelvedDeed(Deed::kExit, 0, nullptr)) return;
  mu_.Lock();
  if (state_ == State::kNotified && call_.nr == SYS_exit) {
    uint64_t id = notification_;
    mu_.Unlock();
    return OnExitCall(id);
  }
  if (state_ != State::kStopped) return mu_.Unlock();
  SetState(State::kOrdered);
  order_ = Order::kExit;
  expected_[0] = {SYS_exit, {0}};
  expected_count_ = 1;
  always_from_ = 1;
  made_ = 0;
  native_ = 0;
  box_->ops[0] = expected_[0];
  box_->op_count = 1;
  box_->always_from = 1;
  Post(kCommandRun);
}

void ThreadImpl::OnExitCall(uint64_t id) {
  {
    absl::MutexLock lock(&mu_);
    SetState(State::kGone);
  }
  Listener& listener = process_->listener();
  // Its number may be another's as soon as the call is let through.
  process_->space().RemoveTid(tid_);
  listener.Remove(tid_);
  listener.Continue(id);
  // The host thread never runs user code again: its slot is free.
  FreeSlot();
  process_->RemoveThread(this);
}

}  // namespace amber::platform
