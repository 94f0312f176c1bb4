#include "sentry/fs/signalfd/signalfd.h"

#include <poll.h>
#include <sys/signalfd.h>

#include <cstdio>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/signalfd/signalfd.pb.h"
#include "sentry/kernel/thread_group.h"

namespace amber {
namespace {

// siginfo of the kernel to what signalfd readers get (signalfd_copyinfo).
signalfd_siginfo Convert(const SigInfo& info) {
  const siginfo_t& s = info.raw;
  signalfd_siginfo out{};
  out.ssi_signo = static_cast<uint32_t>(s.si_signo);
  out.ssi_errno = s.si_errno;
  out.ssi_code = s.si_code;
  out.ssi_pid = static_cast<uint32_t>(s.si_pid);
  out.ssi_uid = s.si_uid;
  if (s.si_code == SI_TIMER) {
    out.ssi_pid = out.ssi_uid = 0;
    out.ssi_tid = static_cast<uint32_t>(s.si_timerid);
    out.ssi_overrun = static_cast<uint32_t>(s.si_overrun);
    out.ssi_int = s.si_int;
    out.ssi_ptr = reinterpret_cast<uint64_t>(s.si_ptr);
  } else if (s.si_code < 0) {
    if (s.si_code != SI_TKILL) {
      out.ssi_int = s.si_int;
      out.ssi_ptr = reinterpret_cast<uint64_t>(s.si_ptr);
    }
  } else if (s.si_signo == SIGCHLD && s.si_code > 0) {
    out.ssi_status = s.si_status;
    out.ssi_utime = static_cast<uint64_t>(s.si_utime);
    out.ssi_stime = static_cast<uint64_t>(s.si_stime);
  } else if ((SignalBit(s.si_signo) & kSynchronousSignals) != 0 && s.si_code > 0 && s.si_code < SI_KERNEL) {
    out.ssi_pid = out.ssi_uid = 0;
    out.ssi_addr = reinterpret_cast<uint64_t>(s.si_addr);
  }
  return out;
}

}  // namespace

class SignalFd::Watch final : public Waiter {
 public:
  Watch(SignalFd& owner, ThreadGroup& group) : owner_(owner), group_(&group) {}
  void OnEvent(uint32_t events) override { owner_.queue_.Notify(events | POLLRDNORM); }
  ThreadGroup* group() const { return group_; }

 private:
  SignalFd& owner_;
  ThreadGroup* group_;  // not touched unless queued(): it is gone otherwise
};

SignalFd::SignalFd() = default;
SignalFd::SignalFd(Task& task, SignalSet mask, int flags) : mask_(mask & ~kUnblockable) {
  set_flags(O_RDWR | flags);
  WatchGroup(task.group());
}
SignalFd::~SignalFd() = default;

void SignalFd::set_mask(SignalSet mask) {
  mask_ = mask & ~kUnblockable;
  queue_.Notify(POLLIN | POLLRDNORM);
}

void SignalFd::WatchGroup(ThreadGroup& group) {
  watches_.remove_if([](const Watch& w) { return !w.queued(); });
  for (const Watch& w : watches_) {
    if (w.group() == &group) return;
  }
  watches_.emplace_back(*this, group);
  group.signal_queue().Add(&watches_.back(), POLLIN);
}

ErrnoOr<size_t> SignalFd::Read(Task& task, Sink& sink) {
  WatchGroup(task.group());
  if (sink.remaining() < sizeof(signalfd_siginfo)) return Errno(EINVAL);
  size_t done = 0;
  while (sink.remaining() >= sizeof(signalfd_siginfo)) {
    SigInfo info;
    if (!task.TakeSignal(mask_, &info)) break;
    signalfd_siginfo out = Convert(info);
    auto put = sink.Put(&out, sizeof(out));
    if (!put.ok() || *put != sizeof(out)) {
      if (done == 0) return Errno(EFAULT);
      break;
    }
    done += sizeof(out);
  }
  if (done == 0) return Errno(EAGAIN);
  return done;
}

ErrnoOr<void> SignalFd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

uint32_t SignalFd::Poll(Task& task) {
  WatchGroup(task.group());
  return (task.pending() & mask_) != 0 ? POLLIN | POLLRDNORM : 0;
}

std::string SignalFd::FdInfo() const {
  char line[40];
  snprintf(line, sizeof(line), "sigmask:\t%016llx\n", static_cast<unsigned long long>(mask_));
  return line;
}

std::string SignalFd::Save(state::Saver& saver) const {
  proto::SignalFd m;
  m.set_mask(mask_);
  m.set_flags(static_cast<uint32_t>(flags()));
  for (const Watch& w : watches_) {
    if (w.queued()) m.add_group(saver.Ref(w.group()));
  }
  return m.SerializeAsString();
}

bool SignalFd::Load(state::Loader&, std::string_view bytes) {
  proto::SignalFd m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  mask_ = m.mask() & ~kUnblockable;
  set_flags(static_cast<int>(m.flags()));
  loading_.assign(m.group().begin(), m.group().end());
  return true;
}

bool SignalFd::AfterLoad(state::Loader& loader) {
  for (uint64_t id : std::exchange(loading_, {})) {
    auto* group = loader.Get<ThreadGroup>(id);
    if (group == nullptr) return false;
    WatchGroup(*group);
  }
  return true;
}

}  // namespace amber
