// Signals: sets, queues and dispositions (signal(7), kernel/signal.c).
#pragma once

#include <signal.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"

namespace amber {

inline constexpr int kNumSignals = 64;
inline constexpr int kFirstRealtime = 32;

// Bit (signo - 1), as the kernel's sigset_t of 8 bytes.
using SignalSet = uint64_t;
constexpr SignalSet SignalBit(int signo) { return uint64_t{1} << (signo - 1); }
inline constexpr SignalSet kUnblockable = SignalBit(SIGKILL) | SignalBit(SIGSTOP);
inline constexpr SignalSet kStopSignals = SignalBit(SIGSTOP) | SignalBit(SIGTSTP) | SignalBit(SIGTTIN) | SignalBit(SIGTTOU);
inline constexpr SignalSet kSynchronousSignals =
    SignalBit(SIGSEGV) | SignalBit(SIGBUS) | SignalBit(SIGILL) | SignalBit(SIGTRAP) | SignalBit(SIGFPE) | SignalBit(SIGSYS);

// The kernel's siginfo_t: 128 bytes, the host's layout.
struct SigInfo {
  siginfo_t raw;
  SigInfo() { memset(&raw, 0, sizeof(raw)); }
  int signo() const { return raw.si_signo; }

  // si_code SI_USER/SI_TKILL from `pid` and `uid`.
  static SigInfo User(int signo, int code, int pid, uint32_t uid);
  // From the kernel, without a sender.
  static SigInfo Kernel(int signo);
  // A fault at `address`.
  static SigInfo Fault(int signo, int code, uint64_t address);
};
static_assert(sizeof(siginfo_t) == 128);

// struct kernel_sigaction of x86-64.
struct SigAction {
  uint64_t handler = 0;  // SIG_DFL 0, SIG_IGN 1
  uint64_t flags = 0;
  uint64_t restorer = 0;
  SignalSet mask = 0;
};
static_assert(sizeof(SigAction) == 32);

// Dispositions, shared by threads (and by CLONE_SIGHAND).
class SignalHandlers final : public RefCounted<SignalHandlers>, public state::Saveable {
 public:
  SignalHandlers() = default;
  ~SignalHandlers() override = default;
  SigAction& operator[](int signo) { return actions_[signo - 1]; }
  const SigAction& operator[](int signo) const { return actions_[signo - 1]; }
  RefPtr<SignalHandlers> Clone() const;
  // As execve does: handlers become SIG_DFL, SIG_IGN stays.
  void ResetForExec();
  // True if `signo` would be discarded: ignored explicitly or by default.
  bool Ignores(int signo) const;

  state::Kind kind() const override { return state::Kind::kSignalHandlers; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  std::array<SigAction, kNumSignals> actions_{};
};

// Pending signals of a task or of a thread group. Standard signals are pending once; real-time ones queue in order.
class SignalQueue {
 public:
  SignalSet set() const { return set_; }
  // Queues; false if a standard signal was pending already. A `info.si_code` of a POSIX timer replaces its own earlier entry.
  bool Add(const SigInfo& info);
  // Pending without details: there is no room for them.
  void Mark(int signo) { set_ |= SignalBit(signo); }
  // Takes the lowest signal in `wanted`, synchronous ones first; false if there is none.
  bool Take(SignalSet wanted, SigInfo* out);
  void Discard(SignalSet signals);
  size_t size() const { return queue_.size(); }
  const std::deque<SigInfo>& entries() const { return queue_; }

 private:
  SignalSet set_ = 0;
  std::deque<SigInfo> queue_;
};

// sigaltstack(2).
struct AltStack {
  uint64_t sp = 0;
  uint32_t flags = SS_DISABLE;
  uint64_t size = 0;
  bool Contains(uint64_t address) const { return (flags & SS_DISABLE) == 0 && address > sp && address - sp <= size; }
};

}  // namespace amber
