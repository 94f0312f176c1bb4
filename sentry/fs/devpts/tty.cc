#include "sentry/fs/devpts/tty.h"

#include <poll.h>
#include <termios.h>

#include <algorithm>

#include "sentry/fs/devpts/console.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

Tty::Tty() = default;
Tty::Tty(RefPtr<DevptsFileSystem> fs, int index) : index_(index), fs_(std::move(fs)) {}
Tty::~Tty() {
  if (session_ && session_->tty() == this) session_->set_tty(nullptr, nullptr);
}

void Tty::NotifyOutput() {
  if (!discipline_.output().empty()) master_queue_.Notify(POLLIN | POLLRDNORM);
}

void Tty::NotePacket(uint8_t bits) {
  if (!packet) return;
  packet_status |= bits;
  master_queue_.Notify(POLLIN | POLLRDNORM | POLLPRI);
}

size_t Tty::MasterWrite(std::string_view bytes) {
  size_t done = 0;
  bool was_stopped = discipline_.stopped();
  while (done < bytes.size()) {
    int signo = 0;
    size_t taken = discipline_.Receive(bytes.substr(done), &signo);
    done += taken;
    if (signo != 0) SignalForeground(signo);
    if (taken == 0) break;
  }
  if (was_stopped != discipline_.stopped()) NotePacket(discipline_.stopped() ? TIOCPKT_STOP : TIOCPKT_START);
  if (was_stopped && !discipline_.stopped()) slave_queue_.Notify(POLLOUT | POLLWRNORM);
  if (discipline_.InputReady()) slave_queue_.Notify(POLLIN | POLLRDNORM);
  NotifyOutput();
  return done;
}

std::string Tty::MasterRead(size_t size) {
  std::string& output = discipline_.output();
  bool had_room = discipline_.OutputRoom();
  std::string out = output.substr(0, size);
  output.erase(0, out.size());
  if (!had_room && discipline_.OutputRoom()) slave_queue_.Notify(POLLOUT | POLLWRNORM);
  return out;
}

uint32_t Tty::PollMaster() const {
  uint32_t events = 0;
  if (!discipline_.output().empty() || (packet && packet_status != 0)) events |= POLLIN | POLLRDNORM;
  if (packet && packet_status != 0) events |= POLLPRI;
  if (slave_opened_ && slaves_ == 0) events |= POLLHUP;
  if (discipline_.InputRoom() > 0) events |= POLLOUT | POLLWRNORM;
  return events;
}

void Tty::MasterClosed() {
  if (hung_up_) return;
  hung_up_ = true;
  RefPtr<Tty> self(this);
  console_.reset();
  fs_->Remove(index_);
  if (session_) {
    if (RefPtr<ThreadGroup> leader(pids_ ? pids_->FindGroup(session_->id()) : nullptr); leader) {
      leader->SendSignal(SigInfo::Kernel(SIGHUP));
      leader->SendSignal(SigInfo::Kernel(SIGCONT));
    }
  }
  // Unless the leader is gone already, and has given it up.
  if (session_) {
    session_->set_tty(nullptr, nullptr);
    session_.reset();
    foreground_.reset();
  }
  slave_queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLERR);
}

void Tty::AttachConsole(Kernel& kernel, UniqueFd fd, int index) {
  console_index_ = index + 1;
  locked = false;
  console_ = std::make_unique<TtyConsole>(kernel, *this, std::move(fd));
}

ErrnoOr<std::string> Tty::SlaveRead(Task& task, size_t size, bool nonblocking) {
  if (hung_up_) return std::string();
  TRY(CheckBackground(task, SIGTTIN));
  const Termios& t = discipline_.termios();
  bool canonical = (t.lflag & ICANON) != 0;
  size_t wanted = 0;
  if (!canonical) {
    size_t least = t.cc[VMIN], available = discipline_.InputAvailable();
    int64_t interval = t.cc[VTIME] * (kNsPerSecond / 10);
    wanted = std::min(std::max<size_t>(least, 1), size);
    SyscallState& call = task.syscall();
    if (available < wanted && !(nonblocking && available > 0)) {
      bool over = call.timed_out || (least == 0 && interval == 0);
      if (over && (available > 0 || least == 0)) {
        // What there is, perhaps nothing.
      } else if (nonblocking) {
        return Errno(EAGAIN);
      } else if (interval > 0 && (least == 0 || available > 0)) {
        // With VMIN the clock starts at the first byte; it is not set back by later ones.
        return task.Block(slave_queue_, POLLIN, task.kernel().clocks().Monotonic() + interval);
      } else {
        return Errno(EAGAIN);
      }
    }
  } else if (!discipline_.InputReady()) {
    return Errno(EAGAIN);
  }
  std::string out = discipline_.ReadInput(size);
  if (!out.empty()) master_queue_.Notify(POLLOUT | POLLWRNORM);
  return out;
}

ErrnoOr<size_t> Tty::SlaveWrite(Task& task, std::string_view bytes) {
  if (hung_up_) return Errno(EIO);
  if ((discipline_.termios().lflag & TOSTOP) != 0) TRY(CheckBackground(task, SIGTTOU));
  if (bytes.empty()) return size_t{0};
  size_t done = discipline_.WriteOutput(bytes);
  if (done == 0) return Errno(EAGAIN);
  NotifyOutput();
  return done;
}

uint32_t Tty::PollSlave() const {
  if (hung_up_) return POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLERR;
  uint32_t events = 0;
  const Termios& t = discipline_.termios();
  if ((t.lflag & ICANON) != 0) {
    if (discipline_.InputReady()) events |= POLLIN | POLLRDNORM;
  } else {
    size_t least = t.cc[VTIME] == 0 && t.cc[VMIN] != 0 ? t.cc[VMIN] : 1;
    if (discipline_.InputAvailable() >= least) events |= POLLIN | POLLRDNORM;
  }
  if (discipline_.OutputRoom()) events |= POLLOUT | POLLWRNORM;
  return events;
}

ErrnoOr<void> Tty::SlaveOpened(Task* task) {
  if (hung_up_ || locked) return Errno(EIO);
  constexpr int kCapSysAdmin = 21;
  if (exclusive && task != nullptr && !task->Has(kCapSysAdmin)) return Errno(EBUSY);
  ++slaves_;
  slave_opened_ = true;
  return Ok();
}

void Tty::SlaveClosed() {
  if (--slaves_ > 0) return;
  exclusive = false;
  if (EndOfConsole()) return;
  master_queue_.Notify(POLLIN | POLLRDNORM | POLLHUP);
}

bool Tty::EndOfConsole() {
  // The session that the terminal was made for is gone. (Not from inside the pump, as when a typed signal killed it.)
  if (!console_ || console_->running() || slaves_ > 0 || session_ || !discipline_.output().empty()) return false;
  MasterClosed();
  return true;
}

void Tty::SignalForeground(int signo) {
  if (foreground_) {
    RefPtr<ProcessGroup> group = foreground_;
    group->SendSignal(SigInfo::Kernel(signo));
  }
}

void Tty::SetControlling(Task& task) {
  Session& session = task.group().session();
  if (session_ && session_ != &session) session_->set_tty(nullptr, nullptr);
  session_ = RefPtr<Session>(&session);
  pids_ = RefPtr<PidNamespace>(&task.group().pids());
  foreground_ = RefPtr<ProcessGroup>(&task.group().process_group());
  session.set_tty(this, [this] { Disassociate(true); });
}

void Tty::SetForeground(RefPtr<ProcessGroup> group) { foreground_ = std::move(group); }

void Tty::Disassociate(bool on_exit) {
  if (!session_) return;
  RefPtr<Tty> self(this);
  RefPtr<ProcessGroup> group = std::exchange(foreground_, nullptr);
  RefPtr<Session> session = std::exchange(session_, nullptr);
  session->set_tty(nullptr, nullptr);
  if (group) {
    group->SendSignal(SigInfo::Kernel(SIGHUP));
    if (!on_exit) group->SendSignal(SigInfo::Kernel(SIGCONT));
  }
  if (on_exit) EndOfConsole();
}

ErrnoOr<void> Tty::CheckBackground(Task& task, int signo) {
  ThreadGroup& group = task.group();
  if (group.session().tty() != this || !foreground_ || foreground_ == &group.process_group()) return Ok();
  bool ignored = (task.blocked() & SignalBit(signo)) != 0 || group.handlers()[signo].handler == 1 /* SIG_IGN */;
  if (ignored) return signo == SIGTTIN ? Errno(EIO) : ErrnoOr<void>();
  if (group.process_group().IsOrphaned()) return Errno(EIO);
  RefPtr<ProcessGroup> caller(&group.process_group());
  caller->SendSignal(SigInfo::Kernel(signo));
  return kErestartsys;
}

void Tty::SetWindow(const winsize& window) {
  if (window.ws_row == window_.ws_row && window.ws_col == window_.ws_col && window.ws_xpixel == window_.ws_xpixel &&
      window.ws_ypixel == window_.ws_ypixel) {
    return;
  }
  window_ = window;
  SignalForeground(SIGWINCH);
}

void Tty::SetTermios(Termios termios) {
  const Termios old = discipline_.termios();
  termios.KeepLocked(old, locked_termios);
  bool was_stopped = discipline_.stopped();
  discipline_.SetTermios(termios);
  // pty_set_termios(): the master is told who handles ^S and ^Q, and that it had better look at the rest.
  auto flows = [](const Termios& t) { return (t.iflag & IXON) != 0 && t.cc[VSTOP] == 023 && t.cc[VSTART] == 021; };
  uint8_t bits = ((old.lflag | termios.lflag) & EXTPROC) != 0 ? TIOCPKT_IOCTL : 0;
  if (flows(old) != flows(termios)) {
    packet_status &= static_cast<uint8_t>(~(TIOCPKT_DOSTOP | TIOCPKT_NOSTOP));
    bits |= flows(termios) ? TIOCPKT_DOSTOP : TIOCPKT_NOSTOP;
  }
  if (bits != 0) NotePacket(bits);
  if (was_stopped && !discipline_.stopped()) slave_queue_.Notify(POLLOUT | POLLWRNORM);
  if (discipline_.InputReady()) slave_queue_.Notify(POLLIN | POLLRDNORM);
}

void Tty::Flush(bool input, bool output) {
  if (input) {
    discipline_.FlushInput();
    NotePacket(TIOCPKT_FLUSHREAD);
    master_queue_.Notify(POLLOUT | POLLWRNORM);
  }
  if (output) {
    discipline_.FlushOutput();
    NotePacket(TIOCPKT_FLUSHWRITE);
    slave_queue_.Notify(POLLOUT | POLLWRNORM);
  }
}

void Tty::FlushForMaster() {
  discipline_.FlushOutput();
  slave_queue_.Notify(POLLOUT | POLLWRNORM);
}

void Tty::AskToStop(bool from_master, bool stop) {
  const Termios fresh = Termios::Default();
  const Termios& t = from_master ? fresh : discipline_.termios();
  char c = static_cast<char>(t.cc[stop ? VSTOP : VSTART]);
  if (c == 0) return;
  if (from_master) {
    (void)MasterWrite({&c, 1});
  } else {
    if (discipline_.output().size() < LineDiscipline::kOutputLimit) discipline_.output() += c;
    NotifyOutput();
  }
}

void Tty::HangUp() {
  if (hung_up_) return;
  RefPtr<Tty> self(this);
  ++hang_ups_;
  RefPtr<ThreadGroup> leader(session_ && pids_ ? pids_->FindGroup(session_->id()) : nullptr);
  discipline_.FlushInput();
  Disassociate(false);
  if (leader) {
    leader->SendSignal(SigInfo::Kernel(SIGHUP));
    leader->SendSignal(SigInfo::Kernel(SIGCONT));
  }
  slave_queue_.Notify(POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLERR);
}

void Tty::StopOutput(bool stopped) {
  discipline_.set_stopped(stopped);
  NotePacket(stopped ? TIOCPKT_STOP : TIOCPKT_START);
  if (!stopped) slave_queue_.Notify(POLLOUT | POLLWRNORM);
}

}  // namespace amber
