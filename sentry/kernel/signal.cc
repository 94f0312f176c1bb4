#include "sentry/kernel/signal.h"

#include "sentry/kernel/kernel.pb.h"

namespace amber {
namespace {

// Signals whose default action is to be ignored (signal(7)).
constexpr SignalSet kDefaultIgnored = SignalBit(SIGCHLD) | SignalBit(SIGURG) | SignalBit(SIGWINCH) | SignalBit(SIGCONT);

}  // namespace

SigInfo SigInfo::User(int signo, int code, int pid, uint32_t uid) {
  SigInfo info;
  info.raw.si_signo = signo;
  info.raw.si_code = code;
  info.raw.si_pid = pid;
  info.raw.si_uid = uid;
  return info;
}

SigInfo SigInfo::Kernel(int signo) {
  SigInfo info;
  info.raw.si_signo = signo;
  info.raw.si_code = SI_KERNEL;
  return info;
}

SigInfo SigInfo::Fault(int signo, int code, uint64_t address) {
  SigInfo info;
  info.raw.si_signo = signo;
  info.raw.si_code = code;
  info.raw.si_addr = reinterpret_cast<void*>(address);
  return info;
}

RefPtr<SignalHandlers> SignalHandlers::Clone() const {
  auto copy = MakeRef<SignalHandlers>();
  copy->actions_ = actions_;
  return copy;
}

void SignalHandlers::ResetForExec() {
  for (SigAction& a : actions_) {
    bool ignored = a.handler == reinterpret_cast<uint64_t>(SIG_IGN);
    a = SigAction{};
    if (ignored) a.handler = reinterpret_cast<uint64_t>(SIG_IGN);
  }
}

bool SignalHandlers::Ignores(int signo) const {
  uint64_t handler = (*this)[signo].handler;
  if (handler == reinterpret_cast<uint64_t>(SIG_IGN)) return (SignalBit(signo) & kUnblockable) == 0;
  return handler == reinterpret_cast<uint64_t>(SIG_DFL) && (kDefaultIgnored & SignalBit(signo)) != 0;
}

std::string SignalHandlers::Save(state::Saver&) const {
  proto::SignalHandlers out;
  for (const SigAction& a : actions_) {
    proto::SignalAction* m = out.add_action();
    m->set_handler(a.handler);
    m->set_flags(a.flags);
    m->set_restorer(a.restorer);
    m->set_mask(a.mask);
  }
  return out.SerializeAsString();
}

bool SignalHandlers::Load(state::Loader& loader, std::string_view bytes) {
  proto::SignalHandlers in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || in.action_size() != kNumSignals) {
    return loader.Fail("signal handlers are malformed");
  }
  for (int i = 0; i < kNumSignals; ++i) {
    const proto::SignalAction& m = in.action(i);
    actions_[i] = SigAction{m.handler(), m.flags(), m.restorer(), m.mask()};
  }
  return true;
}

bool SignalQueue::Add(const SigInfo& info) {
  SignalSet bit = SignalBit(info.signo());
  if (info.signo() < kFirstRealtime) {
    if ((set_ & bit) != 0) return false;
  } else if (info.raw.si_code == SI_TIMER) {
    // A POSIX timer has one entry at most; further expirations are its overrun count.
    for (SigInfo& queued : queue_) {
      if (queued.signo() == info.signo() && queued.raw.si_code == SI_TIMER && queued.raw.si_timerid == info.raw.si_timerid) {
        queued = info;
        return false;
      }
    }
  }
  set_ |= bit;
  queue_.push_back(info);
  return true;
}

bool SignalQueue::Take(SignalSet wanted, SigInfo* out) {
  SignalSet candidates = set_ & wanted;
  if (candidates == 0) return false;
  if ((candidates & kSynchronousSignals) != 0) candidates &= kSynchronousSignals;
  int signo = __builtin_ctzll(candidates) + 1;
  bool more = false, taken = false;
  for (auto it = queue_.begin(); it != queue_.end();) {
    if (it->signo() != signo) {
      ++it;
    } else if (!taken) {
      *out = *it;
      taken = true;
      it = queue_.erase(it);
    } else {
      more = true;
      break;
    }
  }
  if (!more) set_ &= ~SignalBit(signo);
  if (!taken) *out = SigInfo::User(signo, SI_USER, 0, 0);  // marked (collect_signal())
  return true;
}

void SignalQueue::Discard(SignalSet signals) {
  set_ &= ~signals;
  std::erase_if(queue_, [&](const SigInfo& i) { return (SignalBit(i.signo()) & signals) != 0; });
}

}  // namespace amber
