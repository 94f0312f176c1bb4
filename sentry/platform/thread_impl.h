// One stub thread: the state machine between its notifications and the client's calls.
//
// Owned by its Process until it is gone, by the client until Release(), and by whoever is handling
// a notification of it (intrusive references). Lock: mu_; a leaf but for the Process's and the
// Listener's. No callback runs under it.
//
// An order (operations, fork, clone, timed wait, exit) is written to the mailbox, which guest
// threads can overwrite; so every host call that the stub makes on the order is notified and
// compared with `expected_`, the sentry's own copy. Anything else than what was ordered kills the
// guest process.
#pragma once

#include <linux/seccomp.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/platform/platform.h"
#include "sentry/platform/process.h"
#include "sentry/platform/stub_abi.h"
#include "sentry/platform/watcher.h"

namespace amber::platform {

class PlatformImpl;
class ThreadImpl;

bool Same(const MailboxOp& op, const seccomp_data& data);

// A child process that was ordered and has not made itself known. Found by its nonce, which only
// the parent's process has seen: what the parent says about its child is not believed, the number
// in the child's notification is.
struct Birth {
  RefPtr<ThreadImpl> parent;
  uint64_t nonce = 0;
  std::shared_ptr<SpaceCore> core;
  uint32_t slot = 0;
  bool shares_memory = false;  // vfork: the parent's mailbox window is the child's too
  int fd = -1;                 // of a fork: the number of the windows' descriptor in the child
  Frame frame = {};
  bool load_bases = false;
  uint64_t context = 0;  // of the child's first frame
};

class ThreadImpl final : public Thread, public RefCounted<ThreadImpl> {
 public:
  // Starts stopped and waiting on its mailbox.
  ThreadImpl(PlatformImpl& platform, std::shared_ptr<Process> process, RefPtr<SpaceImpl> space, pid_t tid, uint32_t slot);
  ~ThreadImpl() override;

  // --- Thread ---
  AddressSpace& space() override { return *space_; }
  int host_tid() const override { return tid_; }
  int host_pid() const override { return process_->pid(); }
  void Answer(int64_t value) override;
  void AnswerContinue(std::function<void()> done) override;
  void AnswerStop() override;
  void AnswerAndStop(int64_t value) override;
  void Kick() override;
  Frame& frame() override { return frame_; }
  ErrnoOr<std::span<const uint8_t>> xstate() override;
  ErrnoOr<void> set_xstate(std::span<const uint8_t> bytes) override;
  void Resume() override;
  void RunOps(std::vector<StubOp> ops, std::function<void(std::span<const int64_t>)> done) override;
  void FutexWait(uint64_t address, uint32_t value, uint32_t bitset, bool shared, bool realtime, int64_t deadline_ns,
                 std::function<void(int64_t)> done) override;
  void Fork(std::function<void(ErrnoOr<Thread*>)> done) override;
  void Clone(const CloneOptions& options, std::function<void(ErrnoOr<Thread*>)> done) override;
  void Exit() override;
  void Release() override;

  // --- platform ---
  Process& process() { return *process_; }
  // Gives the slot back; once.
  void FreeSlot();

  // A notification of this thread arrived.
  void OnNotification(const seccomp_notif& notification);
  // The thread's process is dead. Returns false if a callback of this thread is still running.
  bool SetGone();
  void AwaitCallbacks();
  // Drops what a gone thread was still to do: AnswerContinue's `done` runs, a pending birth is
  // forgotten.
  void DropOrders();
  bool released();
  bool gone();

  // First stop after exec, fork or clone.
  void SetFirstFrame(const Frame& frame, uint64_t context, bool load_bases);
  // Descriptor 0 of the stub is still the listener: to be closed before anything else.
  void SetListenerOpen();
  // A child process, at its first call.
  void ExpectBirth(std::unique_ptr<Birth> birth);
  // The child is complete: stopped, and looks at its mailbox as soon as that call is answered.
  void CompleteBirth();
  // The child of the order `nonce` is there, stopped, or failed: this thread is stopped again and
  // its callback runs. A child that nobody waits for any more is killed.
  void FinishBirth(uint64_t nonce, ErrnoOr<ThreadImpl*> result);

  // Looks at its orders again, if it sleeps.
  void WakeStub();

  // The monitor's view of a kick: its number (0: none is due) while the thread runs guest code.
  uint64_t KickDue();
  void ResendKick();
  // The number of the order in flight, 0 if none, to notice one that never ends.
  uint64_t OrderInFlight();

  // --- fast path (thread_fast.cc) ---
  enum class Fast {
    kNo,
    kTaken,     // a posted call is being handled
    kRedo,      // the guest is about to make the call itself
    kStopping,  // the guest is about to hand its frame over
  };
  // Handles what this thread has posted, a call or a contact, if anything (kNo: nothing). Calls the client. Only for whoever watches.
  Fast TakePosted();
  // Tells the guest whether to post its calls.
  void SetWatched(bool on);
  // Says to the guest that its taken call waits for another process (`on`), or no longer.
  void SetWaits(bool on);
  // A child that shares its parent's memory, before it first runs.
  void WatchFromBirth(const ThreadImpl& parent);
  bool IsWatched() const;
  // From BeginWatch(), which fails for a thread that has gone, until EndWatch() the mailbox is not another thread's.
  bool BeginWatch();
  void EndWatch();
  // The client is handling what this thread wants.
  bool IsServed();
  WatchCredit& watch_credit() { return watch_credit_; }
  // fast_actions.cc
  bool OfferActions(std::span<const uint64_t, 64 * 4> actions);
  void SetAction(int signo, std::span<const uint64_t, 4> action);
  void WithdrawActions();
  uint64_t TakeActions(std::span<uint64_t, 64 * 4> out);
  // fast_memory.cc: ends the current call's use of its FastMemory; with `write` what was left for the guest to write is written first.
  void DropFastMemory(bool write);

 private:
  enum class State { kRunning, kNotified, kStopped, kOrdered, kGone };
  enum class Order { kNone, kOps, kFork, kClone, kFutex, kExit, kBirth };

  // While one that is ok() exists, a callback of the client runs, and the thread's death is not
  // reported.
  class Callback {
   public:
    explicit Callback(ThreadImpl& thread);
    ~Callback();
    bool ok() const { return ok_; }

   private:
    ThreadImpl& thread_;
    bool ok_;
  };

  // A notified call on a crowded listener is shelved: undone by a kick, its frame handed over, the
  // thread parked. The client does not notice; what it answers is done to the frame
  // (thread_shelf.cc).
  enum class Shelf { kNo, kGoing, kThere };
  enum class Deed { kNone, kAnswer, kStop, kAnswerAndStop, kContinue, kExit };
  void ShelveIfCrowded();
  bool ShelvedDeed(Deed deed, int64_t value, std::function<void()> done);
  void DoDeed();
  bool OnShelfContact(uint64_t id, uint64_t context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  uint64_t MailboxAddress() const;
  uint64_t FastMemoryAddress() const;
  Fast TakeFast();
  bool TakeContact();
  bool NoteSite(const seccomp_data& data);
  void NoteContact();
  bool NoteClose();
  void Redo() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool FastAnswer(int64_t value);
  bool FastStop(int64_t value);
  void LeaveStopping() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool BindFast(uint64_t id, const seccomp_data& data);
  bool OnFastContact(uint64_t id, uint64_t context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // True if the thread was copying memory of its call: a fault there is not the guest's.
  bool LeaveFastCode() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool LeaveActions(uint64_t behind) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BeginFastMemory();
  void GiveFastMemory();
  bool FinishFastMemory();
  bool LeavePatching();

  State BeginContact();
  void FreeForkFds();
  bool OperationAgain(const seccomp_notif& notification);
  // `id` is 0 for a contact that was posted.
  void OnContact(uint64_t id, uint64_t kind, uint64_t context);
  void OnFrameContact(uint64_t id, uint64_t context);
  void OnReport(uint64_t id);
  void OnOrderedCall(uint64_t id, const seccomp_data& data);
  void OnGuestCall(uint64_t id, const seccomp_data& data);
  void OnFutexStop(uint64_t id);
  void OnExitCall(uint64_t id);
  void OnOpsReport();
  void OnCloneReport();
  void OnFutexCall(uint64_t id, const seccomp_data& data);
  void Deliver(Stop stop, const Fault* fault);
  void FinishOps() ABSL_UNLOCK_FUNCTION(mu_);
  void Hostile(std::source_location where = std::source_location::current());

  void SetState(State state) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool ContextOk(uint64_t context) const;
  void LoadFrame() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StoreFrame(const Frame& frame, bool bases) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Posts `command` and lets the thread see it. Takes the lock over from the caller.
  void Post(Command command) ABSL_UNLOCK_FUNCTION(mu_);
  void ParkIfStopped();
  void SendKick();
  void StartAfterClose(std::function<void()> work);

  // thread_ops.cc
  int64_t Foreseen(const MailboxOp& op, bool file);
  void StartRound() ABSL_UNLOCK_FUNCTION(mu_);
  bool Expected(const seccomp_data& data) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AnswerHeld(uint64_t id, bool going);
  void GoAhead(uint64_t id) ABSL_UNLOCK_FUNCTION(mu_);
  void StartFork();
  void StartClone();
  void PostClone(Command command, const MailboxOp& op, std::unique_ptr<Birth> birth);
  void AdoptThread(int64_t number);
  void FinishClone(ErrnoOr<Thread*> result);
  void FreeCloneSlot();
  bool DropBirth(uint64_t nonce);
  bool FailClone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Address of the extended state in the stub; 0 if it is not where it belongs.
  uint64_t XstateAddress();

  PlatformImpl& platform_;
  const std::shared_ptr<Process> process_;
  const pid_t tid_;
  const uint32_t slot_;
  Mailbox* const box_;
  RefPtr<SpaceImpl> space_;  // until Release()

  absl::Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kStopped;
  Order order_ ABSL_GUARDED_BY(mu_) = Order::kNone;
  bool released_ ABSL_GUARDED_BY(mu_) = false;
  bool slot_freed_ ABSL_GUARDED_BY(mu_) = false;
  bool in_watch_ ABSL_GUARDED_BY(mu_) = false;   // somebody looks at the mailbox: the slot stays
  bool slot_owed_ ABSL_GUARDED_BY(mu_) = false;  // and is given back when the watch ends
  int callbacks_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t notification_ ABSL_GUARDED_BY(mu_) = 0;  // of a notified call, or of a hand-over while held_
  bool held_ ABSL_GUARDED_BY(mu_) = false;          // a stopped thread's hand-over is not answered yet
  bool going_ ABSL_GUARDED_BY(mu_) = false;         // what is held is an operation that was taken for done: it is let through
  bool by_call_ ABSL_GUARDED_BY(mu_) = false;       // it stopped by a trapped call
  bool gone_ahead_ ABSL_GUARDED_BY(mu_) = false;    // it was, and nothing has been heard of the thread since
  bool outstanding_ ABSL_GUARDED_BY(mu_) = false;   // in the listener's count of unanswered calls
  bool counted_ ABSL_GUARDED_BY(mu_) = false;       // in the listener's count of running threads
  uint64_t kick_ ABSL_GUARDED_BY(mu_) = 0;          // number of the kick that is to be delivered
  uint32_t sequence_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t order_count_ ABSL_GUARDED_BY(mu_) = 0;
  bool close_listener_ ABSL_GUARDED_BY(mu_) = false;  // descriptor 0 is the listener still: exec
  seccomp_data call_ ABSL_GUARDED_BY(mu_) = {};
  std::function<void()> continued_ ABSL_GUARDED_BY(mu_);
  bool continue_pending_ ABSL_GUARDED_BY(mu_) = false;
  bool dropped_ ABSL_GUARDED_BY(mu_) = false;  // DropOrders() has run

  Fast fast_ ABSL_GUARDED_BY(mu_) = Fast::kNo;
  int64_t fast_value_ ABSL_GUARDED_BY(mu_) = 0;  // kStopping: what the call is answered
  Shelf shelf_ ABSL_GUARDED_BY(mu_) = Shelf::kNo;
  uint64_t shelf_kick_ ABSL_GUARDED_BY(mu_) = 0;
  Deed deed_ ABSL_GUARDED_BY(mu_) = Deed::kNone;  // what the client answered
  int64_t deed_value_ ABSL_GUARDED_BY(mu_) = 0;
  std::function<void()> deed_done_ ABSL_GUARDED_BY(mu_);

  // Belongs to the client while the thread is stopped, to the platform else.
  Frame frame_ = {};
  Frame handed_over_ = {};
  bool load_bases_ = false;
  uint64_t host_gs_base_ = 0;  // what gs really is in the stub: the mailbox's address, unless the guest set it
  uint64_t context_ = 0;       // address of the ucontext in the stub, inside this thread's alternate stack
  uint64_t fpstate_ = 0;       // where the stub says that the extended state of `context_` is; 0: to be read there
  std::vector<uint8_t> xstate_;
  bool xstate_valid_ = false;

  // The order in flight.
  std::vector<StubOp> ops_;
  size_t ops_done_ = 0;
  size_t round_ops_ = 0;
  std::vector<int64_t> results_;
  std::function<void(std::span<const int64_t>)> ops_callback_;
  bool uses_descriptors_ = false;
  bool wants_contact_ = false;  // a round waits for a notification to attach descriptors to
  int64_t foreseen_ = -1;       // the result of the round's only operation, if it is known
  bool ahead_ = false;          // the round's last operation is taken for done when it is notified
  int last_fd_ = -1;            // to be added with the answer that starts the round
  int last_number_ = -1;
  uint64_t round_fds_ = 0;
  std::atomic<uint64_t> fork_fds_{0};  // closed by this thread on its way to its next contact (a forger is in two contacts at once)
  MailboxOp ahead_op_ = {};
  std::array<MailboxOp, kMailboxOps> expected_ ABSL_GUARDED_BY(mu_) = {};
  uint32_t expected_count_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t always_from_ ABSL_GUARDED_BY(mu_) = 0;
  uint32_t made_ ABSL_GUARDED_BY(mu_) = 0;    // bit i: expected_[i] was let through
  uint32_t native_ ABSL_GUARDED_BY(mu_) = 0;  // bit i: expected_[i] runs without a notification (a futex wake)
  uint64_t nonce_ ABSL_GUARDED_BY(mu_) = 0;
  std::function<void(ErrnoOr<Thread*>)> clone_callback_;
  std::atomic<int> clone_slot_{-1};  // of the new thread, until it is there
  CloneOptions clone_options_;
  Command clone_command_ = kCommandFork;
  int clone_restarts_ ABSL_GUARDED_BY(mu_) = 0;
  std::unique_ptr<Birth> birth_;  // of this thread, until it is complete
  int64_t round_error_ = 0;       // a round could not be started
  Frame saved_frame_ = {};
  std::function<void(int64_t)> futex_callback_;
  WatchCredit watch_credit_;
};

}  // namespace amber::platform
