// ioctl_tty(2).
#include <asm/ioctls.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>

#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/devpts/tty_file.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/open.h"
#include "sentry/vfs/ops.h"
#include "sentry/vfs/path.h"

namespace amber {
namespace {

// Commands with a structure in their number, which the headers spell with types that clash with glibc's.
constexpr uint32_t kTcGetS2 = 0x802c542a, kTcSetS2 = 0x402c542b, kTcSetSW2 = 0x402c542c, kTcSetSF2 = 0x402c542d;
// The interface of System V, which some programs still try first: struct termio of <asm/termios.h>, whose header clashes likewise.
constexpr uint32_t kTcGetA = 0x5405, kTcSetA = 0x5406, kTcSetAW = 0x5407, kTcSetAF = 0x5408;
struct Termio {
  uint16_t iflag, oflag, cflag, lflag;
  uint8_t line;
  uint8_t cc[8];
  uint8_t padding;
};
static_assert(sizeof(Termio) == 18);

Termio ToTermio(const Termios& t) {
  Termio out{};
  out.iflag = static_cast<uint16_t>(t.iflag);
  out.oflag = static_cast<uint16_t>(t.oflag);
  out.cflag = static_cast<uint16_t>(t.cflag);
  out.lflag = static_cast<uint16_t>(t.lflag);
  out.line = t.line;
  memcpy(out.cc, t.cc, sizeof(out.cc));
  return out;
}

// The upper halves of flags and the characters from the ninth on stay (user_termio_to_kernel_termios).
void PutTermio(const Termio& in, Termios* t) {
  t->iflag = (t->iflag & 0xffff0000) | in.iflag;
  t->oflag = (t->oflag & 0xffff0000) | in.oflag;
  t->cflag = (t->cflag & 0xffff0000) | in.cflag;
  t->lflag = (t->lflag & 0xffff0000) | in.lflag;
  t->line = in.line;
  memcpy(t->cc, in.cc, sizeof(in.cc));
}

constexpr size_t kOldTermiosSize = 36;  // struct termios without speeds

// What termios2 adds, from c_cflag's coded speed (BOTHER keeps what was given).
uint32_t SpeedOf(uint32_t code, uint32_t given) {
  static constexpr uint32_t kSpeeds[] = {0, 50, 75, 110, 134, 150, 200, 300, 600, 1200, 1800, 2400, 4800, 9600, 19200, 38400};
  static constexpr uint32_t kHigh[] = {57600,   115200,  230400,  460800,  500000,  576000,  921600, 1000000,
                                       1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000};
  if (code == 0010000) return given;  // BOTHER
  if ((code & 0010000) == 0) return kSpeeds[code & 017];
  size_t index = (code & 017) - 1;
  return index < std::size(kHigh) ? kHigh[index] : given;
}

ErrnoOr<uint64_t> Answer(Task& task, uint64_t argument, int value) {
  TRY(task.CopyOut(UserPtr<int>(argument), value));
  return uint64_t{0};
}

}  // namespace

ErrnoOr<uint64_t> TtyFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  // A slave whose master went has only this to say (hung_up_tty_ioctl).
  if (Dead()) return Errno(command == TIOCSPGRP ? ENOTTY : EIO);
  switch (command) {
    case TCGETS:
    case TCSETS:
    case TCSETSW:
    case TCSETSF:
    case kTcGetS2:
    case kTcSetS2:
    case kTcSetSW2:
    case kTcSetSF2:
    case kTcGetA:
    case kTcSetA:
    case kTcSetAW:
    case kTcSetAF:
    case TIOCGLCKTRMIOS:
    case TIOCSLCKTRMIOS:
    case TIOCGWINSZ:
    case TIOCSWINSZ: return TermiosIoctl(task, command, argument);
    case TIOCSCTTY:
    case TIOCNOTTY:
    case TIOCGPGRP:
    case TIOCSPGRP:
    case TIOCGSID: return JobIoctl(task, command, argument);
    case TIOCGPTN:
    case TIOCSPTLCK:
    case TIOCGPTLCK:
    case TIOCPKT:
    case TIOCGPKT:
    case TIOCGPTPEER:
    case TIOCSIG: return master_ ? MasterIoctl(task, command, argument) : Errno(command == TIOCGPTPEER ? EIO : ENOTTY);
    default: return FlowIoctl(task, command, argument);
  }
}

ErrnoOr<uint64_t> TtyFile::TermiosIoctl(Task& task, uint32_t command, uint64_t argument) {
  Termios t = tty_->discipline().termios();
  switch (command) {
    case TCGETS: TRY(task.CopyOutBytes(argument, &t, kOldTermiosSize)); return uint64_t{0};
    case kTcGetS2: TRY(task.CopyOutBytes(argument, &t, sizeof(t))); return uint64_t{0};
    case kTcGetA: TRY(task.CopyOut(UserPtr<Termio>(argument), ToTermio(t))); return uint64_t{0};
    case TIOCGLCKTRMIOS: TRY(task.CopyOutBytes(argument, &tty_->locked_termios, kOldTermiosSize)); return uint64_t{0};
    case TIOCSLCKTRMIOS:
      if (!task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
      TRY(task.CopyInBytes(argument, &tty_->locked_termios, kOldTermiosSize));
      return uint64_t{0};
    case TIOCGWINSZ: TRY(task.CopyOut(UserPtr<winsize>(argument), tty_->window())); return uint64_t{0};
    case TIOCSWINSZ: tty_->SetWindow(TRY(task.CopyIn(UserPtr<winsize>(argument)))); return uint64_t{0};
    default: break;
  }
  if (!master_) TRY(tty_->CheckBackground(task, SIGTTOU));
  bool modern = command == kTcSetS2 || command == kTcSetSW2 || command == kTcSetSF2;
  if (command == kTcSetA || command == kTcSetAW || command == kTcSetAF) {
    PutTermio(TRY(task.CopyIn(UserPtr<Termio>(argument))), &t);
  } else {
    TRY(task.CopyInBytes(argument, &t, modern ? sizeof(t) : kOldTermiosSize));
  }
  t.ospeed = SpeedOf(t.cflag & 0010017, t.ospeed);
  uint32_t input = t.cflag >> 16 & 0010017;
  t.ispeed = input == 0 ? t.ospeed : SpeedOf(input, t.ispeed);
  // Output of a pty is drained when it is in the buffer, so waiting for it takes no time.
  if (command == TCSETSF || command == kTcSetSF2 || command == kTcSetAF) tty_->Flush(true, false);
  tty_->SetTermios(t);
  return uint64_t{0};
}

ErrnoOr<uint64_t> TtyFile::JobIoctl(Task& task, uint32_t command, uint64_t argument) {
  ThreadGroup& group = task.group();
  Session& session = group.session();
  bool own = session.tty() == tty_.get();
  switch (command) {
    case TIOCSCTTY:
      if (own && group.IsSessionLeader()) return uint64_t{0};
      if (!group.IsSessionLeader() || session.tty() != nullptr) return Errno(EPERM);
      if (tty_->session() != nullptr && (argument != 1 || !task.Has(CAP_SYS_ADMIN))) return Errno(EPERM);
      tty_->SetControlling(task);
      return uint64_t{0};
    case TIOCNOTTY:
      if (!own || master_) return Errno(ENOTTY);
      // Of others than the leader only the calling process loses it; they cannot, since the session has one for all.
      if (group.IsSessionLeader()) tty_->Disassociate(false);
      return uint64_t{0};
    case TIOCGPGRP:
      if (!own && !master_) return Errno(ENOTTY);
      return Answer(task, argument, tty_->foreground() != nullptr ? group.pids().IdOf(*tty_->foreground()) : 0);
    case TIOCSPGRP: {
      TRY(tty_->CheckBackground(task, SIGTTOU));
      int id = TRY(task.CopyIn(UserPtr<int>(argument)));
      if (id < 0) return Errno(EINVAL);
      if (!own || tty_->session() != &session) return Errno(ENOTTY);
      ProcessGroup* target = group.pids().FindProcessGroup(id);
      if (target == nullptr) return Errno(ESRCH);
      if (&target->session() != &session) return Errno(EPERM);
      tty_->SetForeground(RefPtr<ProcessGroup>(target));
      return uint64_t{0};
    }
    default:  // TIOCGSID
      if ((!own && !master_) || tty_->session() == nullptr) return Errno(ENOTTY);
      return Answer(task, argument, group.pids().IdOf(*tty_->session()));
  }
}

ErrnoOr<uint64_t> TtyFile::MasterIoctl(Task& task, uint32_t command, uint64_t argument) {
  switch (command) {
    case TIOCGPTN: return Answer(task, argument, tty_->index());
    case TIOCSPTLCK: tty_->locked = TRY(task.CopyIn(UserPtr<int>(argument))) != 0; return uint64_t{0};
    case TIOCGPTLCK: return Answer(task, argument, tty_->locked ? 1 : 0);
    case TIOCPKT:
      tty_->packet = TRY(task.CopyIn(UserPtr<int>(argument))) != 0;
      tty_->packet_status = 0;
      return uint64_t{0};
    case TIOCGPKT: return Answer(task, argument, tty_->packet ? 1 : 0);
    case TIOCSIG: {
      int signo = static_cast<int>(argument);
      if (signo != SIGINT && signo != SIGQUIT && signo != SIGTSTP) return Errno(EINVAL);
      if (ProcessGroup* group = tty_->foreground(); group != nullptr) group->SendSignal(SigInfo::Kernel(signo));
      return uint64_t{0};
    }
    default: return OpenPeer(task, static_cast<int>(argument));
  }
}

ErrnoOr<uint64_t> TtyFile::OpenPeer(Task& task, int flags) {
  if ((flags & ~(O_ACCMODE | O_NOCTTY | O_CLOEXEC | O_NONBLOCK)) != 0) return Errno(EINVAL);
  if (&path()->mount->fs() != static_cast<FileSystem*>(&tty_->fs())) return Errno(EIO);
  VfsContext ctx = ContextOf(task);
  VfsPath root{path()->mount, tty_->fs().root()};
  RefPtr<Dentry> name = TRY(LookupChild(ctx, root, std::to_string(tty_->index())));
  if (name->negative()) return Errno(EIO);
  RefPtr<File> slave = TRY(name->inode()->Open(ctx, {root.mount, name}, flags & ~O_CLOEXEC));
  int fd = TRY(task.files().Allocate(std::move(slave), (flags & O_CLOEXEC) != 0, task.limit(RLIMIT_NOFILE)));
  return static_cast<uint64_t>(fd);
}

ErrnoOr<uint64_t> TtyFile::FlowIoctl(Task& task, uint32_t command, uint64_t argument) {
  LineDiscipline& d = tty_->discipline();
  switch (command) {
    case FIONREAD: {
      size_t bytes = master_ ? d.output().size() : d.InputAvailable();
      return Answer(task, argument, static_cast<int>(std::min<size_t>(bytes, INT32_MAX)));
    }
    case TIOCOUTQ: return Answer(task, argument, 0);  // what is written is with the other side
    case TCFLSH:
      if (argument > 2) return Errno(EINVAL);
      if (master_) {
        // What it has written is input of the slave by now.
        if (argument != 1) tty_->FlushForMaster();
        return uint64_t{0};
      }
      TRY(tty_->CheckBackground(task, SIGTTOU));
      tty_->Flush(argument != 1, argument != 0);
      return uint64_t{0};
    case TCXONC:
      if (!master_) TRY(tty_->CheckBackground(task, SIGTTOU));
      if (argument > 3) return Errno(EINVAL);
      if (argument < 2) tty_->StopOutput(argument == 0);
      if (argument >= 2) tty_->AskToStop(master_, argument == 2);
      return uint64_t{0};
    case TCSBRK:
    case TCSBRKP:
    case TIOCSBRK:
    case TIOCCBRK:
      if (!master_) TRY(tty_->CheckBackground(task, SIGTTOU));
      return uint64_t{0};
    case TIOCGSOFTCAR: return Answer(task, argument, (d.termios().cflag & CLOCAL) != 0 ? 1 : 0);
    case TIOCSSOFTCAR: {
      Termios t = d.termios();
      t.cflag = (t.cflag & ~uint32_t{CLOCAL}) | (TRY(task.CopyIn(UserPtr<int>(argument))) != 0 ? CLOCAL : 0);
      tty_->SetTermios(t);
      return uint64_t{0};
    }
    case TIOCVHANGUP:
      if (!task.Has(CAP_SYS_ADMIN)) return Errno(EPERM);
      // (Of the master: its own side goes when it is closed, and not before.)
      if (!master_) tty_->HangUp();
      return uint64_t{0};
    case TIOCEXCL: tty_->exclusive = true; return uint64_t{0};
    case TIOCNXCL: tty_->exclusive = false; return uint64_t{0};
    case TIOCGEXCL: return Answer(task, argument, tty_->exclusive ? 1 : 0);
    case TIOCGETD: return Answer(task, argument, 0);  // N_TTY
    case TIOCSETD: return TRY(task.CopyIn(UserPtr<int>(argument))) == 0 ? ErrnoOr<uint64_t>(uint64_t{0}) : Errno(EINVAL);
    case TIOCGDEV: return Answer(task, argument, static_cast<int>(tty_->device()));
    case TIOCSTI:
      // Faking input is how programs break out of su and the like; Linux refuses it too (dev.tty.legacy_tiocsti = 0).
      return Errno(EIO);
    default: return Errno(ENOTTY);
  }
}

}  // namespace amber
