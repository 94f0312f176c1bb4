#include "sentry/fs/devpts/tty_file.h"

#include <poll.h>
#include <termios.h>

#include <algorithm>

#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/devpts/devpts.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {
constexpr size_t kChunk = 4096;
}

TtyFile::~TtyFile() {
  if (!tty_) return;
  if (master_) {
    tty_->MasterClosed();
  } else {
    tty_->SlaveClosed();
  }
}

Tty* TtyFile::Of(File& file) {
  auto* tty = dynamic_cast<TtyFile*>(&file);
  return tty != nullptr ? &tty->tty() : nullptr;
}

uint32_t TtyFile::PollNow(Task&) {
  if (master_) return tty_->PollMaster();
  return Dead() ? POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLERR : tty_->PollSlave();
}

ErrnoOr<size_t> TtyFile::Read(Task& task, Sink& sink) {
  size_t size = std::min(sink.remaining(), kChunk);
  if (size == 0 || Dead()) return size_t{0};
  if (!master_) {
    std::string bytes = TRY(tty_->SlaveRead(task, size, nonblocking()));
    if (bytes.empty()) return size_t{0};
    auto put = sink.Put(bytes.data(), bytes.size());
    size_t done = put.ok() ? *put : 0;
    if (done < bytes.size()) tty_->discipline().UnreadInput(bytes.substr(done));
    return put;
  }
  if (tty_->packet && tty_->packet_status != 0) {
    uint8_t status = std::exchange(tty_->packet_status, 0);
    return sink.Put(&status, 1);
  }
  std::string& output = tty_->discipline().output();
  if (output.empty()) return Errno((tty_->PollMaster() & POLLHUP) != 0 ? EIO : EAGAIN);
  size_t header = 0;
  if (tty_->packet) {
    uint8_t data = TIOCPKT_DATA;
    TRY(sink.Put(&data, 1));
    header = 1;
    size = std::min(sink.remaining(), kChunk);
  }
  size_t moved = 0;
  if (size > 0) {
    auto put = sink.Put(output.data(), std::min(size, output.size()));
    if (!put.ok() && header == 0) return put.error();
    moved = put.ok() ? *put : 0;
  }
  tty_->MasterRead(moved);
  return header + moved;
}

ErrnoOr<size_t> TtyFile::Write(Task& task, Source& source) {
  char buffer[kChunk];
  if (Dead()) return Errno(EIO);
  size_t room = master_ ? tty_->MasterWriteRoom() : LineDiscipline::kOutputLimit;
  if (master_ && room == 0) return Errno(EAGAIN);
  if (!master_) {
    // Asked before bytes are taken: what was taken must not be lost.
    if ((tty_->PollSlave() & POLLOUT) == 0) return Errno(EAGAIN);
    if ((tty_->discipline().termios().lflag & TOSTOP) != 0) TRY(tty_->CheckBackground(task, SIGTTOU));
    room -= std::min(room, tty_->discipline().output().size());
  }
  size_t size = std::min({source.remaining(), sizeof(buffer), std::max<size_t>(room, 1)});
  if (size == 0) return size_t{0};
  size = TRY(source.Take(buffer, size));
  if (master_) return tty_->MasterWrite({buffer, size});
  return tty_->SlaveWrite(task, {buffer, size});
}

std::string TtyFile::Save(state::Saver& saver) const {
  proto::TtyFile m;
  m.set_tty(saver.Ref(tty_));
  m.set_master(master_);
  m.set_hung_up(hang_ups_seen_ != tty_->hang_ups());
  return SaveOpenFile(saver, 0, 0, m.SerializeAsString());
}

bool TtyFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile file;
  proto::TtyFile m;
  if (!LoadOpenFile(loader, bytes, &file) || !m.ParseFromString(file.extra())) return false;
  RefPtr<Tty> tty = loader.GetRef<Tty>(m.tty());
  if (!tty) return false;
  tty_ = std::move(tty);
  master_ = m.master();
  if (m.hung_up()) hang_ups_seen_ = ~uint64_t{0};
  if (!master_) ++tty_->slaves_;
  return true;
}

bool TtyFile::AfterLoad(state::Loader& loader) {
  if (!VfsFile::AfterLoad(loader)) return false;
  // The console is the master: closing another one would take it away while it is at work.
  return !master_ || tty_->console_index_ == 0 || loader.Fail("a terminal has two masters");
}

}  // namespace amber
