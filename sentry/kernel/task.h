// A guest thread (Linux: struct task_struct) and how system call handlers see the world.
//
// A task is owned by its ThreadGroup, from clone to reaping. It runs on a platform::Thread, which exec replaces. Everything is
// guarded by the kernel lock.
//
// Blocking. A handler never waits. It calls Block() with the queues it waits on and returns what Block() returns; the worker goes
// on. When a queue fires or the deadline passes, the handler is executed again from the start with the same arguments and
// syscall().restarted set; progress lives in syscall().done and .scratch. A signal interrupts it: the guest sees syscall().done if that
// is not 0, else what `on_signal` says (kErestartsys restarts the call if the handler has SA_RESTART). A checkpoint saves SyscallState, and
// the restored task executes its call again in the same way.
#pragma once

#include <poll.h>
#include <sys/resource.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/user_ptr.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/signal.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/platform/platform.h"
#include "sentry/vfs/io.h"

namespace amber {

class Container;
class FdTable;
class File;
class FsContext;
class Kernel;
class MemoryManager;
class ThreadGroup;
class MountNamespace;
class TaskExtras;  // sentry/kernel/extras.h
class UtsNamespace;

// The system call that a task is in.
struct SyscallState {
  uint64_t number = 0;
  uint64_t args[6] = {};
  uint64_t ip = 0;            // after the `syscall` instruction
  bool framed = false;        // came with the frame (trap set): the answer goes into rax of the frame
  bool restarted = false;     // executed again after Block()
  bool timed_out = false;     // ... because the deadline passed
  int64_t deadline = kNever;  // guest monotonic; set by the first Block() that names one, and kept
  uint64_t done = 0;          // progress so far (bytes); what an interruption returns if not 0
  uint64_t scratch[4] = {};   // for the handler
  int on_signal = 512;        // restart code or errno that an interruption means
};

// For Block(): only what kills the process ends the wait (TASK_KILLABLE); other signals, stops and tracers come when it is over.
inline constexpr Errno kKillable{599};

// Who has a call made by a HelperTask (helper_task.h).
class CallOwner {
 public:
  // What the call waited for may have happened: it is to be run again.
  virtual void OnReady() = 0;
  // It is over.
  virtual void OnDone(int64_t result) = 0;

 protected:
  ~CallOwner() = default;
};

struct WaitOn {
  WaitQueue* queue;
  uint32_t events;
  bool exclusive = false;
};

class Task final : public RefCounted<Task>, public state::Saveable {
 public:
  Task();
  ~Task() override;

  // --- identity and resources ---
  Kernel& kernel() const { return *kernel_; }
  ThreadGroup& group() const { return *group_; }
  bool is_leader() const;
  // Ids in the root pid namespace of the sandbox; those that the task itself sees are in PidNamespace.
  int tid() const { return tid_; }
  int pid() const;  // thread group id
  MemoryManager& mm() const { return *mm_; }
  // False before the first exec and once it has exited.
  bool has_mm() const { return static_cast<bool>(mm_); }
  FdTable& files() const { return *files_; }
  // unshare(CLONE_FILES), close_range(CLOSE_RANGE_UNSHARE).
  void UnshareFiles();
  // unshare(CLONE_FS, CLONE_NEWNS).
  void set_fs(RefPtr<FsContext> fs);
  void set_mounts(RefPtr<MountNamespace> mounts);
  FsContext& fs() const { return *fs_; }
  const Credentials& creds() const { return *creds_; }
  RefPtr<const Credentials> creds_ref() const { return creds_; }
  void set_creds(RefPtr<const Credentials> creds) { creds_ = std::move(creds); }
  Container* container() const { return container_; }
  MountNamespace& mounts() const { return *mounts_; }
  UtsNamespace& uts() const { return *uts_; }
  void set_uts(RefPtr<UtsNamespace> uts);
  // State of features that few tasks use (extras.h).
  TaskExtras& extras() const { return *extras_; }
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }
  // The soft limit RLIMIT_`resource`.
  uint64_t limit(int resource) const;
  // CAP_`capability` is effective.
  bool Has(int capability) const { return creds_->Has(capability); }

  // --- guest memory ---
  // Copies whole values; EFAULT if any byte cannot be.
  ErrnoOr<void> CopyInBytes(uint64_t address, void* data, size_t size);
  ErrnoOr<void> CopyOutBytes(uint64_t address, const void* data, size_t size);
  template <typename T>
  ErrnoOr<T> CopyIn(UserPtr<T> p) {
    std::remove_const_t<T> value;
    auto r = CopyInBytes(p.address(), &value, sizeof(value));
    if (!r.ok()) return r.error();
    return value;
  }
  template <typename T>
  ErrnoOr<void> CopyOut(UserPtr<T> p, const T& value) {
    return CopyOutBytes(p.address(), &value, sizeof(value));
  }
  template <typename T>
  ErrnoOr<std::vector<std::remove_const_t<T>>> CopyInArray(UserPtr<T> p, size_t count) {
    std::vector<std::remove_const_t<T>> values(count);
    auto r = CopyInBytes(p.address(), values.data(), count * sizeof(T));
    if (!r.ok()) return r.error();
    return values;
  }
  template <typename T>
  ErrnoOr<void> CopyOutArray(UserPtr<T> p, std::span<const T> values) {
    return CopyOutBytes(p.address(), values.data(), values.size_bytes());
  }
  // A NUL-terminated string of at most `max` bytes with its NUL; ENAMETOOLONG beyond (pass PATH_MAX for paths).
  ErrnoOr<std::string> CopyInString(UserPtr<const char> p, size_t max);
  // An iovec array, checked as import_iovec() does: EINVAL for more than 1024 entries or a negative length; the total is cut at
  // MAX_RW_COUNT.
  ErrnoOr<std::vector<iovec>> CopyInIovecs(UserPtr<const iovec> p, uint64_t count);

  // --- blocking (see above) ---
  SyscallState& syscall() { return syscall_; }
  // `deadline`: guest monotonic; the first one given in a call is kept. Returns kBlocked.
  Errno Block(std::span<const WaitOn> on, int64_t deadline = kNever, Errno on_signal = kErestartsys);
  Errno Block(WaitQueue& queue, uint32_t events, int64_t deadline = kNever, Errno on_signal = kErestartsys) {
    WaitOn on[] = {{&queue, events, false}};
    return Block(on, deadline, on_signal);
  }
  // For poll-like calls: `file` became EAGAIN, wait until it has `events`. EAGAIN if it has no queue.
  Errno BlockOn(File& file, uint32_t events, int64_t deadline = kNever, Errno on_signal = kErestartsys);
  // For handlers that return kNoAnswer: ends the call with `result` (a value, or -errno, or minus a restart code). Kernel lock held.
  void FinishSyscall(int64_t result);
  // Lets the guest's own call, whose arguments are scalars and checked, run in the host kernel; the handler returns
  // kNoAnswer. `done` runs with the kernel lock held once the call is known to be over. Base path only.
  void ContinueSyscall(std::function<void()> done);
  // Stops the thread if it is not stopped yet and has it run `ops`; the handler returns kNoAnswer. `done` gets the results (see
  // Thread::RunOps) with the kernel lock held and ends the call by FinishSyscall(). If the task dies first, `done` is not called.
  void StopForOps(std::vector<platform::StubOp> ops, std::function<void(std::span<const int64_t>)> done);
  // True if this call came with its frame; then frame() is the guest's registers (rip behind the call).
  bool framed() const { return syscall_.framed; }

  // For a timed futex wait (framed): the host waits on the word; the call is executed again, with syscall().scratch[3] = the
  // host's errno or 0, plus kNativeWaitDone, when that ends without a signal to deliver.
  static constexpr uint64_t kNativeWaitDone = uint64_t{1} << 32;
  Errno BlockNatively(uint64_t address, uint32_t value, uint32_t bitset, bool shared, int64_t deadline);
  // The task with this id in this task's pid namespace, or null.
  Task* FindTask(int tid) const;
  // The process with this id there, or null.
  ThreadGroup* FindGroup(int pid) const;

  // --- signals ---
  // Sends to this thread (tkill) or to its group (kill); no permission check. See signal.h and signal_send.cc.
  void SendSignal(const SigInfo& info);
  SignalSet blocked() const { return blocked_; }
  // Sets the mask and lets newly unblocked signals in.
  void SetBlocked(SignalSet mask);
  // As sigsuspend and ppoll do: `mask` holds until the call ends without a signal, or a handler returns. Calling it again when the
  // handler is executed again changes nothing.
  void SetSavedMask(SignalSet mask);
  // For faults that a call itself causes: the signal cannot be blocked or ignored; it is delivered when the call returns.
  void SendForced(const SigInfo& info) { ForceSignal(info); }
  // rt_sigreturn: the frame on the guest's stack becomes the registers, mask and alternate stack.
  ErrnoOr<void> SignalReturn();
  const AltStack& altstack() const { return altstack_; }
  void set_altstack(const AltStack& stack) { altstack_ = stack; }
  // Where an interrupted nanosleep writes what is left.
  void set_sleep_remaining(uint64_t address) { syscall_.scratch[2] = address; }
  // User and system time of this thread, ns.
  int64_t CpuTime() const;
  // A signal is pending that would interrupt a blocked call.
  bool HasDeliverableSignal() const;
  // It waits with kKillable.
  bool waits_killably() const { return call_ == Call::kBlocked && syscall_.on_signal == kKillable.number(); }
  SignalSet pending() const;
  SignalSet own_pending() const { return pending_.set(); }
  // Takes one of the pending signals in `wanted` (signalfd, sigtimedwait), this thread's own first; false if there is none.
  bool TakeSignal(SignalSet wanted, SigInfo* out);

  // Its frame stands before a futex wait that the host does, or its call is one.
  bool StandsBeforeFutexWait();
  // It waits in the host again, or does something else.
  bool HasSettled() const;

  void set_clear_child_tid(uint64_t address, bool native) {
    clear_child_tid_ = address;
    clear_child_tid_native_ = native;
  }
  // What the parent gets at the end: SIGCHLD for a fork.
  int exit_signal() const { return exit_signal_; }
  // It waits in a call for queues or a deadline.
  bool blocked_in_call() const { return call_ == Call::kBlocked; }
  // The task has exited or its group is going down.
  bool exiting() const { return exiting_; }
  // 'R', 'S', 'T', 'Z' as /proc/PID/stat shows it.
  char state_letter() const;
  // Where it is, for people: "guest", "in call", "blocked in", "stopped".
  const char* Describe() const;
  bool no_new_privs() const { return no_new_privs_; }
  void set_no_new_privs() { no_new_privs_ = true; }
  bool keep_caps() const { return keep_caps_; }
  void set_keep_caps(bool on) { keep_caps_ = on; }
  int parent_death_signal() const { return parent_death_signal_; }
  void set_parent_death_signal(int signo) { parent_death_signal_ = signo; }
  void clear_parent_death_signal() { parent_death_signal_ = 0; }
  uint64_t timer_slack() const { return timer_slack_; }
  void set_timer_slack(uint64_t ns) { timer_slack_ = ns; }
  uint32_t personality() const { return personality_; }
  void set_personality(uint32_t value) { personality_ = value; }
  uint64_t robust_list() const { return robust_list_; }
  void set_robust_list(uint64_t head) { robust_list_ = head; }
  // For rt_sigreturn, ptrace-like users and core dumps: the stopped thread's registers. Only while framed().
  platform::Frame& frame() { return thread_->frame(); }

  // The platform thread; null before the first exec and after exit.
  platform::Thread* thread() const { return thread_; }

  state::Kind kind() const override { return state::Kind::kTask; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class Kernel;
  friend class ThreadGroup;
  friend class TaskLifecycle;
  friend class Strace;
  friend class TaskRestore;
  friend class TestTask;
  friend class HelperTask;

  // Where the platform thread is, as this kernel knows it.
  enum class Where : uint8_t {
    kNone,      // no thread (new, dead)
    kGuest,     // runs guest code
    kNotified,  // in a call; we owe an answer
    kStopping,  // answered so that it stops; its frame is on the way
    kStopped,   // its frame is ours
  };
  // What the task does in its call, if it is in one.
  enum class Call : uint8_t {
    kNone,
    kRunning,       // the handler is on a worker's stack
    kBlocked,       // waits for queues or the deadline
    kContinuation,  // ends by FinishSyscall()
  };
  // Makes the task runnable when a queue it is blocked on fires.
  class QueueWaiter final : public Waiter {
   public:
    explicit QueueWaiter(Task& task) : task_(task) {}
    void OnEvent(uint32_t events) override;

   private:
    Task& task_;
  };

  // --- task_call.cc: the life of a call ---
  void EnterCall(const platform::Syscall& call, bool framed);
  // Executes the handler and acts on what it returns.
  void RunHandler();
  void ActOn(ErrnoOr<uint64_t> result);
  void EndBlock();
  // The call is over: `result` goes to the guest.
  void CompleteCall(int64_t result);
  // A signal, stop or checkpoint wants the task out of a blocked call or out of guest code.
  void Interrupt();
  // The frame is ours: deliver signals, honour stops, then execute an interrupted call again or let the guest run.
  void ReturnToGuest();
  // The task may not run guest code now (job control stop, pause, checkpoint).
  bool MustHold() const;
  // From the platform: the thread has stopped.
  void OnStopped(platform::Stop stop, const platform::Fault* fault);
  // Has the host thread do what is due before it runs guest code (TaskExtras::before_guest).
  void PrepareForGuest();
  // Turns a call that was undone (registers as before `syscall`) or blocked into one that completes through the frame.
  void AdoptCallIntoFrame();

  // --- signal_delivery.cc ---
  // Acts on deliverable signals. False if the task died.
  bool DeliverSignals();
  // Those that it would take now if they were pending.
  SignalSet Takeable() const;
  // The frame stands before a futex wait that runs in the host.
  bool BeforeNativeFutexWait();
  // Builds the handler's frame; false if the guest's stack cannot take it.
  bool PushSignalFrame(const SigInfo& info, const SigAction& action);
  void ApplyRestart(const SigAction& action);
  void ForceSignal(const SigInfo& info);
  // SIGKILL is pending or the group is going down.
  bool HasFatalSignal() const;

  // Registers from an image, until the thread that gets them exists.
  struct SavedFrame {
    platform::Frame frame;
    std::vector<uint8_t> xstate;
  };
  std::unique_ptr<SavedFrame> saved_frame_;

  Kernel* kernel_ = nullptr;
  CallOwner* call_owner_ = nullptr;  // of a helper
  bool helper_ = false;
  Task* helps_ = nullptr;  // while a helper's call runs
  RefPtr<ThreadGroup> group_;
  int tid_ = 0;
  std::string name_;
  platform::Thread* thread_ = nullptr;
  Where where_ = Where::kNone;
  Call call_ = Call::kNone;
  bool undone_ = false;       // the notified call was given back to stop the thread: it is executed again from the frame
  bool on_stack_ = false;     // a handler of this task is on some worker's stack
  bool native_wait_ = false;  // kBlocked in a futex wait that the host does
  bool runnable_ = false;     // is in the kernel's run queue
  bool held_ = false;         // stopped and stays so: job control stop, pause, checkpoint
  bool exiting_ = false;
  bool released_ = false;
  // StopForOps: what to do once the thread is stopped.
  std::function<void()> when_stopped_;
  platform::Fault last_fault_{};
  std::string strace_arguments_;  // as they were when the call began
  SyscallState syscall_;
  std::vector<std::unique_ptr<QueueWaiter>> waiters_;
  std::unique_ptr<Timer> block_timer_;

  RefPtr<MemoryManager> mm_;
  RefPtr<FdTable> files_;
  RefPtr<FsContext> fs_;
  RefPtr<const Credentials> creds_;
  RefPtr<MountNamespace> mounts_;
  RefPtr<UtsNamespace> uts_;
  Container* container_ = nullptr;
  std::unique_ptr<TaskExtras> extras_;

  SignalSet blocked_ = 0;
  SignalSet saved_mask_ = 0;  // sigsuspend, ppoll, pselect, epoll_pwait: the mask to go back to
  bool has_saved_mask_ = false;
  SignalQueue pending_;
  AltStack altstack_;

  WaitQueue vfork_queue_;       // notified when this vfork child gives the address space back
  bool vfork_pending_ = false;  // this child still uses its parent's
  uint64_t clear_child_tid_ = 0;
  bool clear_child_tid_native_ = false;  // the host clears and wakes it
  uint32_t personality_ = 0;
  uint64_t robust_list_ = 0;
  bool no_new_privs_ = false;
  bool keep_caps_ = false;
  int parent_death_signal_ = 0;
  uint64_t timer_slack_ = 50'000;
  int exit_signal_ = SIGCHLD;
  int exit_status_ = 0;  // wait status
};

// Guest memory as a Sink or Source: one or several ranges.
class UserSink final : public Sink {
 public:
  UserSink(Task& task, UserPtr<void> p, size_t size);
  UserSink(Task& task, std::vector<iovec> ranges);
  size_t remaining() const override { return left_; }
  ErrnoOr<size_t> Put(const void* data, size_t size) override;

 private:
  Task& task_;
  std::vector<iovec> ranges_;
  size_t index_ = 0;
  size_t left_ = 0;
};

class UserSource final : public Source {
 public:
  UserSource(Task& task, UserPtr<const void> p, size_t size);
  UserSource(Task& task, std::vector<iovec> ranges);
  size_t remaining() const override { return left_ + back_.size(); }
  ErrnoOr<size_t> Take(void* data, size_t size) override;
  void PutBack(const void* data, size_t size) override;
  ErrnoOr<void> Skip(size_t size) override;

 private:
  Task& task_;
  std::vector<iovec> ranges_;
  size_t index_ = 0;
  size_t left_ = 0;   // in ranges_
  std::string back_;  // comes before them
};

}  // namespace amber
