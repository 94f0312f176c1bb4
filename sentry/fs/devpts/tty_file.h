// An open end of a pseudo terminal: /dev/ptmx (master), /dev/pts/N or /dev/tty (slave). Kernel lock.
#pragma once

#include <poll.h>

#include "sentry/fs/devpts/tty.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

class TtyFile final : public VfsFile {
 public:
  TtyFile() = default;  // for Loader
  // The caller has called SlaveOpened() for a slave.
  TtyFile(VfsPath path, int flags, RefPtr<Tty> tty, bool master) : VfsFile(std::move(path), flags), tty_(std::move(tty)), master_(master) {
    hang_ups_seen_ = tty_->hang_ups();
  }
  ~TtyFile() override;

  Tty& tty() const { return *tty_; }
  bool master() const { return master_; }
  // The terminal behind `file`, or null.
  static Tty* Of(File& file);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  bool writes_whole() const override { return true; }
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  uint32_t Poll(Task& task) override { return PollNow(task); }
  WaitQueue* wait_queue() override { return master_ ? &tty_->master_queue() : &tty_->slave_queue(); }
  bool pollable() const override { return true; }

  state::Kind kind() const override { return state::Kind::kTtyFile; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  uint32_t PollNow(Task&);
  // The slave's end is over for this file: its master went, or it was hung up.
  bool Dead() const { return !master_ && (hang_ups_seen_ != tty_->hang_ups() || (tty_->PollSlave() & POLLHUP) != 0); }
  // tty_ioctl.cc
  ErrnoOr<uint64_t> MasterIoctl(Task& task, uint32_t command, uint64_t argument);
  ErrnoOr<uint64_t> TermiosIoctl(Task& task, uint32_t command, uint64_t argument);
  ErrnoOr<uint64_t> JobIoctl(Task& task, uint32_t command, uint64_t argument);
  ErrnoOr<uint64_t> FlowIoctl(Task& task, uint32_t command, uint64_t argument);
  ErrnoOr<uint64_t> OpenPeer(Task& task, int flags);

  RefPtr<Tty> tty_;
  bool master_ = false;
  uint64_t hang_ups_seen_ = 0;
};

}  // namespace amber
