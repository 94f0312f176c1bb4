// Saving and loading terminals.
#include <string.h>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/devpts/console.h"
#include "sentry/fs/devpts/devpts.h"
#include "sentry/fs/devpts/devpts.pb.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/thread_group.h"

namespace amber {

std::string DevptsInode::Save(state::Saver& saver) const {
  proto::DevptsInode m;
  m.set_base(SaveBase(saver));
  m.set_tty(saver.Ref(tty_));
  return m.SerializeAsString();
}

bool DevptsInode::Load(state::Loader& loader, std::string_view bytes) {
  proto::DevptsInode m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !LoadBase(loader, m.base())) return false;
  tty_ = loader.GetRef<Tty>(m.tty());
  NoteAnonIno(attr_.ino >> 13);
  return dynamic_cast<DevptsFileSystem*>(&fs()) != nullptr;
}

std::string DevptsFileSystem::Save(state::Saver& saver) const {
  proto::DevptsFileSystem m;
  for (const auto& [index, inode] : terminals_) m.add_inode(saver.Ref(inode));
  m.add_inode(saver.Ref(ptmx_));
  m.set_has_uid(uid_.has_value());
  m.set_has_gid(gid_.has_value());
  m.set_uid(uid_.value_or(0));
  m.set_gid(gid_.value_or(0));
  m.set_mode(mode_);
  m.set_ptmx_mode(ptmx_mode_);
  return SaveBase(saver, m.SerializeAsString());
}

bool DevptsFileSystem::Load(state::Loader& loader, std::string_view bytes) {
  std::string specific;
  proto::DevptsFileSystem m;
  if (!LoadBase(loader, bytes, &specific) || !m.ParseFromString(specific) || m.inode_size() == 0) return false;
  if (m.has_uid()) uid_ = m.uid();
  if (m.has_gid()) gid_ = m.gid();
  mode_ = m.mode();
  ptmx_mode_ = m.ptmx_mode();
  loading_.assign(m.inode().begin(), m.inode().end());
  ptmx_ = loader.GetRef<DevptsInode>(loading_.back());
  loading_.pop_back();
  return static_cast<bool>(ptmx_);
}

bool DevptsFileSystem::AfterLoad(state::Loader& loader) {
  for (uint64_t id : std::exchange(loading_, {})) {
    RefPtr<DevptsInode> inode = loader.GetRef<DevptsInode>(id);
    if (!inode || inode->tty() == nullptr) return false;
    int index = inode->tty()->index();
    terminals_[index] = std::move(inode);
  }
  return true;
}

std::string Tty::Save(state::Saver& saver) const {
  proto::Tty m;
  m.set_index(index_);
  m.set_fs(saver.Ref(fs_.get()));
  m.set_termios(std::string(reinterpret_cast<const char*>(&discipline_.termios()), sizeof(Termios)));
  m.set_locked_termios(std::string(reinterpret_cast<const char*>(&locked_termios), sizeof(Termios)));
  LineDiscipline::State s = discipline_.GetState();
  for (const auto& [data, eof] : s.lines) {
    auto* line = m.add_line();
    line->set_data(data);
    line->set_eof(eof);
  }
  m.set_editing(s.line);
  m.set_raw(s.raw);
  m.set_output(s.output);
  m.set_stopped(s.stopped);
  m.set_literal_next(s.literal_next);
  m.set_erasing(s.erasing);
  m.set_column(s.column);
  m.set_rows(window_.ws_row);
  m.set_columns(window_.ws_col);
  m.set_x_pixels(window_.ws_xpixel);
  m.set_y_pixels(window_.ws_ypixel);
  m.set_locked(locked);
  m.set_exclusive(exclusive);
  m.set_packet(packet);
  m.set_packet_status(packet_status);
  m.set_session(saver.Ref(session_));
  m.set_foreground(saver.Ref(foreground_));
  m.set_pids(saver.Ref(pids_));
  m.set_slave_opened(slave_opened_);
  m.set_hung_up(hung_up_);
  m.set_console(console_ ? console_index_ : 0);
  return m.SerializeAsString();
}

bool Tty::Load(state::Loader& loader, std::string_view bytes) {
  proto::Tty m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || m.termios().size() != sizeof(Termios)) return false;
  index_ = m.index();
  fs_ = loader.GetRef<DevptsFileSystem>(m.fs());
  if (!fs_ || index_ < 0) return false;
  Termios termios;
  memcpy(&termios, m.termios().data(), sizeof(termios));
  if (!m.locked_termios().empty()) {
    if (m.locked_termios().size() != sizeof(Termios)) return false;
    memcpy(&locked_termios, m.locked_termios().data(), sizeof(Termios));
  }
  LineDiscipline::State s;
  for (const auto& line : m.line()) s.lines.emplace_back(line.data(), line.eof());
  s.line = m.editing();
  s.raw = m.raw();
  s.output = m.output();
  s.stopped = m.stopped();
  s.literal_next = m.literal_next();
  s.erasing = m.erasing();
  s.column = m.column();
  discipline_.SetState(std::move(s), termios);
  window_ = {static_cast<uint16_t>(m.rows()), static_cast<uint16_t>(m.columns()), static_cast<uint16_t>(m.x_pixels()),
             static_cast<uint16_t>(m.y_pixels())};
  locked = m.locked();
  exclusive = m.exclusive();
  packet = m.packet();
  packet_status = static_cast<uint8_t>(m.packet_status());
  session_ = loader.GetRef<Session>(m.session());
  foreground_ = loader.GetRef<ProcessGroup>(m.foreground());
  pids_ = loader.GetRef<PidNamespace>(m.pids());
  slave_opened_ = m.slave_opened();
  hung_up_ = m.hung_up();
  console_index_ = m.console();
  return true;
}

bool Tty::AfterLoad(state::Loader& loader) {
  if (session_) session_->set_tty(this, [this] { Disassociate(true); });
  if (console_index_ == 0 || hung_up_) return true;
  auto* kernel = loader.Get<Kernel>(1);
  if (kernel == nullptr) return false;
  // Restored without a terminal: the program keeps its own, and what it says goes nowhere.
  UniqueFd fd = kernel->HostFdForRestore(console_index_ - 1);
  AttachConsole(*kernel, std::move(fd), console_index_ - 1);
  return true;
}

}  // namespace amber
