// A pseudo terminal (pty(7)): a line discipline between a master and a slave, with job control.
//
// Owned by its open files (TtyFile) and, while the master is open, by the inode in devpts. The master is held by a program
// (through /dev/ptmx) or by the sentry itself, which then carries bytes to and from a descriptor of the host (TtyConsole). Guarded by the kernel
// lock.
#pragma once

#include <sys/ioctl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/base/unique_fd.h"
#include "sentry/fs/devpts/line_discipline.h"
#include "sentry/kernel/wait_queue.h"

namespace amber {

class DevptsFileSystem;
class Kernel;
class PidNamespace;
class ProcessGroup;
class Session;
class Task;
class TtyConsole;

class Tty final : public RefCounted<Tty>, public state::Saveable {
 public:
  Tty();  // for Load()
  Tty(RefPtr<DevptsFileSystem> fs, int index);
  ~Tty() override;

  int index() const { return index_; }
  // st_rdev of the slave, and tty_nr of stat(5).
  uint32_t device() const { return 136u << 8 | static_cast<uint32_t>(index_ & 0xff) | static_cast<uint32_t>(index_ & ~0xff) << 12; }
  DevptsFileSystem& fs() const { return *fs_; }
  WaitQueue& slave_queue() { return slave_queue_; }
  WaitQueue& master_queue() { return master_queue_; }
  LineDiscipline& discipline() { return discipline_; }

  // --- master side ---
  // Takes what there is room for: input of the slave.
  size_t MasterWrite(std::string_view bytes);
  size_t MasterWriteRoom() const { return discipline_.InputRoom(); }
  // Takes at most `size` bytes of output.
  std::string MasterRead(size_t size);
  uint32_t PollMaster() const;
  // The last master went: hangs up.
  void MasterClosed();
  // Binds the master to a host descriptor. `index`: which one of those that the caller passed, for a restore.
  void AttachConsole(Kernel& kernel, UniqueFd fd, int index);
  bool has_console() const { return static_cast<bool>(console_); }

  // --- slave side ---
  // Reads as read(2) on a terminal: EAGAIN, ERESTARTSYS for background readers, or kBlocked where VTIME asks for a time-out.
  ErrnoOr<std::string> SlaveRead(Task& task, size_t size, bool nonblocking);
  ErrnoOr<size_t> SlaveWrite(Task& task, std::string_view bytes);
  uint32_t PollSlave() const;
  // EBUSY if exclusive; EIO if the master is gone or locked.
  ErrnoOr<void> SlaveOpened(Task* task);
  void SlaveClosed();

  // --- job control ---
  Session* session() const { return session_.get(); }
  ProcessGroup* foreground() const { return foreground_.get(); }
  // Makes this the controlling terminal of `task`'s session, whose leader it is.
  void SetControlling(Task& task);
  void SetForeground(RefPtr<ProcessGroup> group);
  // The session lets go: TIOCNOTTY, or its leader's exit.
  void Disassociate(bool on_exit);
  // tty_check_change(): `signo` (SIGTTIN, SIGTTOU) for callers in the background.
  ErrnoOr<void> CheckBackground(Task& task, int signo);

  const winsize& window() const { return window_; }
  void SetWindow(const winsize& window);
  // But for what is locked.
  void SetTermios(Termios termios);
  // TCFLSH of a slave; TCXONC's TCOOFF and TCOON.
  void Flush(bool input, bool output);
  void StopOutput(bool stopped);
  // TCXONC's TCIOFF and TCION: sends the other side what stops it, or lets it go on.
  void AskToStop(bool from_master, bool stop);
  // TCFLSH of the master: what it has not read.
  void FlushForMaster();
  // vhangup(2): the session loses the terminal, and files that are open now are good for nothing.
  void HangUp();
  uint64_t hang_ups() const { return hang_ups_; }

  bool locked = true;      // TIOCSPTLCK
  bool exclusive = false;  // TIOCEXCL
  bool packet = false;     // TIOCPKT
  uint8_t packet_status = 0;
  Termios locked_termios{};  // TIOCSLCKTRMIOS: bits and characters that nobody may change

  state::Kind kind() const override { return state::Kind::kTty; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class TtyFile;
  // Hangs up a terminal with a console once nobody is left who would use it; false if somebody is.
  bool EndOfConsole();
  void NotifyOutput();
  void SignalForeground(int signo);
  void NotePacket(uint8_t bits);

  int index_ = 0;
  RefPtr<DevptsFileSystem> fs_;
  LineDiscipline discipline_;
  winsize window_{};
  RefPtr<Session> session_;
  RefPtr<ProcessGroup> foreground_;
  RefPtr<PidNamespace> pids_;
  int slaves_ = 0;
  bool slave_opened_ = false;
  bool hung_up_ = false;
  uint64_t hang_ups_ = 0;  // not saved: files that are loaded know whether they were
  int console_index_ = 0;
  std::unique_ptr<TtyConsole> console_;
  WaitQueue slave_queue_;
  WaitQueue master_queue_;
};

}  // namespace amber
