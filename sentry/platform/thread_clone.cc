// Fork, vfork and new threads. See thread_impl.h.
#include <errno.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "sentry/platform/fast_sites.h"
#include "sentry/platform/listener.h"
#include "sentry/platform/platform_impl.h"
#include "sentry/platform/thread_impl.h"

namespace amber::platform {
namespace {

constexpr int kMaxRestarts = 4;
// A failed thread clone is checked against the host's count of threads; so many more than ours may
// be threads that are just ending. Beyond that the guest forged failures to hide threads.
constexpr int kEndingThreads = 64;

bool Failed(int64_t result) { return result < 0 && result >= -4095; }

}  // namespace

void ThreadImpl::Fork(std::function<void(ErrnoOr<Thread*>)> done) {
  RefPtr<ThreadImpl> self(this);
  mu_.Lock();
  if (state_ != State::kStopped) return mu_.Unlock();
  if (close_listener_) {
    mu_.Unlock();
    return StartAfterClose([this, done = std::move(done)]() mutable { Fork(std::move(done)); });
  }
  SetState(State::kOrdered);
  order_ = Order::kFork;
  clone_restarts_ = 0;
  clone_callback_ = std::move(done);
  mu_.Unlock();
  platform_.counters().forks.fetch_add(1, std::memory_order_relaxed);
  process_->WhenNoDescriptor([self] { self->StartFork(); });
}

// The child finds a descriptor of the windows in its copy of the table, with which it maps its own. It comes with the answer to the
// notification that this thread holds.
void ThreadImpl::StartFork() {
  {
    mu_.Lock();
    if (state_ != State::kOrdered) return mu_.Unlock();
    wants_contact_ = !held_ || going_;
    if (wants_contact_) return Post(kCommandContact);
    mu_.Unlock();
  }
  auto birth = std::make_unique<Birth>();
  Windows::Lease lease = platform_.windows().Allocate();
  if (lease.window != nullptr) {
    birth->core = std::make_shared<SpaceCore>(platform_, lease);
    birth->core->TakeSlot(slot_);
    if (FastSites* sites = process_->space().fast_sites()) birth->core->set_fast_sites(sites->Copy());
    birth->slot = slot_;
  }
  birth->frame = frame_;
  birth->load_bases = load_bases_ || frame_.fs_base != handed_over_.fs_base || frame_.gs_base != handed_over_.gs_base;
  birth->context = context_;
  box_->child_slot = lease.index;
  MailboxOp op = {SYS_clone, {CLONE_PARENT | SIGCHLD, 0, 0, 0, 0, 0}};
  PostClone(kCommandFork, op, std::move(birth));
}

void ThreadImpl::Clone(const CloneOptions& options, std::function<void(ErrnoOr<Thread*>)> done) {
  RefPtr<ThreadImpl> self(this);
  mu_.Lock();
  if (state_ != State::kStopped) return mu_.Unlock();
  if (close_listener_) {
    mu_.Unlock();
    return StartAfterClose([this, options, done = std::move(done)]() mutable { Clone(options, std::move(done)); });
  }
  SetState(State::kOrdered);
  order_ = Order::kClone;
  clone_restarts_ = 0;
  clone_callback_ = std::move(done);
  clone_options_ = options;
  mu_.Unlock();
  platform_.counters().clones.fetch_add(1, std::memory_order_relaxed);
  if (!options.new_process) return StartClone();
  process_->WhenNoDescriptor([self] { self->StartClone(); });
}

void ThreadImpl::StartClone() {
  const CloneOptions& options = clone_options_;
  int slot = process_->space().AllocateSlot();
  uint64_t flags = CLONE_VM;
  std::unique_ptr<Birth> birth;
  if (options.new_process) {
    // Never CLONE_VFORK: a parent that the host keeps waiting could not be kicked.
    flags |= CLONE_PARENT | SIGCHLD;
    birth = std::make_unique<Birth>();
    birth->shares_memory = true;
    if (slot >= 0) {
      birth->core = process_->shared_space();
      birth->slot = static_cast<uint32_t>(slot);
      birth->frame = options.frame;
      birth->load_bases = true;
      birth->context = context_ + (static_cast<uint64_t>(slot) - slot_) * kStackSize;
    }
  } else {
    clone_slot_ = slot;
    flags |= CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  }
  if (options.clear_child_tid != 0) flags |= CLONE_CHILD_CLEARTID;
  if (slot >= 0) {
    memset(static_cast<void*>(process_->space().mailbox(static_cast<uint32_t>(slot))), 0, sizeof(Mailbox));
    box_->child_slot = static_cast<uint32_t>(slot);
    uint64_t child = context_ + (static_cast<uint64_t>(slot) - slot_) * kStackSize;
    // The sixth argument means nothing to the host; the stub keeps the child's frame there.
    MailboxOp op = {SYS_clone, {flags, (child - 256) & ~15ull, 0, options.clear_child_tid, 0, child}};
    return PostClone(kCommandClone, op, std::move(birth));
  }
  PostClone(kCommandClone, {}, std::move(birth));
}

// `birth` is null for a thread. Without memory or a slot for the child the order fails; still by
// way of a contact, so that no callback runs inside the client's call.
void ThreadImpl::PostClone(Command command, const MailboxOp& op, std::unique_ptr<Birth> birth) {
  uint64_t nonce = 0;
  bool possible = birth != nullptr ? birth->core != nullptr : clone_slot_ >= 0;
  if (possible && command == kCommandFork) {
    last_number_ = process_->AllocateFd();
    possible = last_number_ >= 0;
    if (possible) {
      last_fd_ = platform_.windows().fd();
      fork_fds_ |= 1ull << last_number_;
      birth->fd = last_number_;
    }
  }
  if (possible && birth != nullptr) {
    birth->parent = RefPtr<ThreadImpl>(this);
    nonce = platform_.AddBirth(std::move(birth));
  }
  mu_.Lock();
  if (state_ != State::kOrdered) {
    mu_.Unlock();
    if (nonce != 0) DropBirth(nonce);
    return FreeCloneSlot();
  }
  nonce_ = nonce;
  made_ = 0;
  native_ = 0;
  round_error_ = 0;
  expected_[0] = op;
  expected_count_ = possible ? 1 : 0;
  always_from_ = 1;
  clone_command_ = command;
  if (!possible) {
    round_error_ = -EAGAIN;
    return Post(kCommandContact);
  }
  box_->ops[0] = op;
  box_->ops[1] = {SYS_close, {static_cast<uint64_t>(last_number_)}};
  box_->op_count = 1;
  box_->nonce = nonce;
  Post(command);
}

// The slot that a thread which never came would have had. Other processes may share the memory: at this one's end it is not lost.
void ThreadImpl::FreeCloneSlot() {
  if (int slot = clone_slot_.exchange(-1); slot >= 0) process_->space().FreeSlot(static_cast<uint32_t>(slot));
}

// False if it was not there any more.
bool ThreadImpl::DropBirth(uint64_t nonce) {
  std::unique_ptr<Birth> birth = platform_.TakeBirth(nonce);
  if (birth != nullptr && birth->shares_memory) birth->core->FreeSlot(birth->slot);
  return birth != nullptr;
}

// The clone failed, or the guest says so. True if it is to be ordered again.
bool ThreadImpl::FailClone() {
  if (clone_restarts_ == 0 || clone_restarts_ > kMaxRestarts) return false;
  made_ = 0;
  return true;
}

void ThreadImpl::OnCloneReport() {
  mu_.Lock();
  if (std::exchange(wants_contact_, false)) {
    mu_.Unlock();
    return StartFork();
  }
  int64_t result = round_error_ != 0 ? round_error_ : __atomic_load_n(&box_->results[0], __ATOMIC_RELAXED);
  bool process = order_ == Order::kFork || clone_options_.new_process;
  if (round_error_ == 0 && (made_ == 0 || (process && !Failed(result)))) {
    mu_.Unlock();
    return Hostile();
  }
  bool again = Failed(result) && round_error_ == 0 && FailClone();
  if (again && order_ != Order::kFork) return Post(clone_command_);
  uint64_t nonce = std::exchange(nonce_, 0);
  mu_.Unlock();
  if (again) {
    if (platform_.TakeBirth(nonce) == nullptr) return Hostile();  // it has been born
    return StartFork();
  }
  if (process) {
    if (nonce != 0 && !DropBirth(nonce)) return Hostile();  // it has been born
    return FinishClone(Errno(result == -ENOMEM ? ENOMEM : EAGAIN));
  }
  if (Failed(result)) {
    int host = platform_.HostThreads(process_->pid());
    if (host > static_cast<int>(process_->thread_count()) + kEndingThreads) return Hostile();
    FreeCloneSlot();
    return FinishClone(Errno(result == -ENOMEM ? ENOMEM : EAGAIN));
  }
  AdoptThread(result);
}

// The guest names its new thread; it must be one of its process that we do not know yet.
void ThreadImpl::AdoptThread(int64_t number) {
  pid_t tid = static_cast<pid_t>(number);
  Listener& listener = process_->listener();
  if (number <= 0 || number != tid || listener.Find(tid) || syscall(SYS_tgkill, process_->pid(), tid, 0) != 0) {
    return Hostile();
  }
  RefPtr<SpaceImpl> space = process_->space().handle();
  if (!space) return Hostile();
  int slot = clone_slot_.exchange(-1);
  if (slot < 0) return;  // died meanwhile
  auto child = MakeRef<ThreadImpl>(platform_, process_, std::move(space), tid, static_cast<uint32_t>(slot));
  uint64_t context = context_ + (static_cast<uint64_t>(slot) - slot_) * kStackSize;
  child->SetFirstFrame(clone_options_.frame, context, true);
  child->Ref();  // the client's, until Release()
  if (!process_->AddThread(child)) {
    // Died meanwhile.
    child->FreeSlot();
    return child->Release();
  }
  FinishClone(child.get());
}

void ThreadImpl::FinishClone(ErrnoOr<Thread*> result) {
  mu_.Lock();
  bool process = order_ == Order::kFork || clone_options_.new_process;
  if (state_ == State::kGone) {
    mu_.Unlock();
    if (result.ok()) {
      ThreadImpl* child = static_cast<ThreadImpl*>(*result);
      child->process_->Kill();
      child->Release();
    }
    return;
  }
  SetState(State::kStopped);
  order_ = Order::kNone;
  expected_count_ = 0;
  auto callback = std::exchange(clone_callback_, nullptr);
  mu_.Unlock();
  if (process) process_->ForkDone();
  if (result.ok() && clone_command_ == kCommandClone) static_cast<ThreadImpl*>(*result)->WatchFromBirth(*this);
  {
    Callback guard(*this);
    if (guard.ok() && callback) {
      callback(result);
    } else if (result.ok()) {
      static_cast<ThreadImpl*>(*result)->process_->Kill();
      static_cast<ThreadImpl*>(*result)->Release();
    }
    callback = nullptr;
  }
  ParkIfStopped();
}

void ThreadImpl::ExpectBirth(std::unique_ptr<Birth> birth) {
  absl::MutexLock lock(&mu_);
  birth_ = std::move(birth);
  SetState(State::kOrdered);
  order_ = Order::kBirth;
  order_count_++;
  expected_count_ = 0;
  always_from_ = 0;
  made_ = 0;
  native_ = 0;
}

void ThreadImpl::CompleteBirth() {
  std::unique_ptr<Birth> birth;
  {
    absl::MutexLock lock(&mu_);
    if (birth_ == nullptr || state_ == State::kGone) return;  // DropOrders() tells the parent
    birth = std::move(birth_);
    SetState(State::kStopped);
    order_ = Order::kNone;
    expected_count_ = 0;
  }
  // Its death is reported when the client knows it; one that is dead already is none.
  Callback guard(*this);
  if (guard.ok()) return birth->parent->FinishBirth(birth->nonce, this);
  birth->parent->FinishBirth(birth->nonce, Errno(EAGAIN));
  Release();
}

void ThreadImpl::FinishBirth(uint64_t nonce, ErrnoOr<ThreadImpl*> result) {
  RefPtr<ThreadImpl> self(this);
  bool wanted;
  {
    absl::MutexLock lock(&mu_);
    wanted = state_ == State::kOrdered && nonce_ == nonce;
    if (wanted) nonce_ = 0;
  }
  if (wanted) {
    if (result.ok()) return FinishClone(static_cast<Thread*>(*result));
    return FinishClone(result.error());
  }
  if (!result.ok()) return;
  (*result)->process_->Kill();
  (*result)->Release();
}

}  // namespace amber::platform
