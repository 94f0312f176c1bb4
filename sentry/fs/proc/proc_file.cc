#include <poll.h>

#include <algorithm>
#include <utility>

#include "sentry/fs/proc/locks_text.h"
#include "sentry/fs/proc/proc.h"
#include "sentry/fs/proc/proc.pb.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/propagation.h"
#include "sentry/vfs/state_util.h"

namespace amber {
namespace {

// In an image: the text comes with who opened the file.
constexpr uint64_t kHasOpener = 2;

}  // namespace

ErrnoOr<std::string> FdInfoText(Task& target, int fd) {
  if (target.exiting()) return Errno(ENOENT);
  auto file = target.files().GetAny(fd);
  if (!file.ok()) return Errno(ENOENT);
  auto cloexec = target.files().close_on_exec(fd);
  int flags = (*file)->flags() | (cloexec.ok() && *cloexec ? O_CLOEXEC : 0);
  struct stat st{};
  (void)(*file)->Stat(target, &st);
  std::string out;
  AppendFormat(&out, "pos:\t%llu\nflags:\t0%o\nmnt_id:\t%d\nino:\t%llu\n", static_cast<unsigned long long>((*file)->position()),
               static_cast<unsigned>(flags), (*file)->path() != nullptr ? (*file)->path()->mount->id() : 15,
               static_cast<unsigned long long>(st.st_ino));
  out += FdLocksText(target, **file);
  return out + (*file)->FdInfo();
}

ErrnoOr<std::string> ProcInode::Text(Task& reader) const {
  if (!Alive()) return Errno(ESRCH);
  if (scope_ == Scope::kSysfs) {
    const std::string* text = SysfsText(path_);
    if (text != nullptr) return *text;
    // An interface that went while its file was open.
    auto node = FindSysNet(reader, path_);
    return node ? node->text : ErrnoOr<std::string>(Errno(EINVAL));
  }
  VfsContext ctx{.task = &reader};
  ProcTerms terms(Pids(ctx));
  if (entry_ != nullptr) {
    // Checked at each reading, since the target may have changed its ids since open.
    if (entry_->ptrace && !MayInspect(reader, *target_)) return Errno(EACCES);
    if (entry_->text == nullptr) {
      const std::string* added = path_.starts_with("sys/") ? SysctlText(path_) : AddedProcText(path_);
      return added != nullptr ? *added : std::string();
    }
    return entry_->text(reader, target_.get());
  }
  int fd = Descriptor();
  if (fd < 0) return Errno(EINVAL);
  return FdInfoText(*target_, fd);
}

ProcTextFile::ProcTextFile(VfsPath path, int flags, const Credentials* opener) : TextFile(std::move(path), flags) {
  auto& shown = static_cast<ProcInode&>(inode());
  std::string_view name = shown.entry() != nullptr && shown.target() != nullptr ? shown.entry()->path : "";
  if ((name == "mounts" || name == "mountinfo") && !shown.target()->exiting()) {
    watched_ = RefPtr<MountNamespace>(&shown.target()->mounts());
    seen_ = ChangesOf(*watched_).count;
  }
  if (opener == nullptr) return;
  opener_ = opener->euid;
  opener_ns_ = opener->user_ns;
}

// Most files of /proc are seq_files, which have no end to seek from (seq_lseek()); those that are not have a size of 0.
ErrnoOr<uint64_t> ProcTextFile::Seek(Task& task, int64_t offset, int whence) {
  const ProcEntry* entry = static_cast<ProcInode&>(inode()).entry();
  std::string_view path = entry != nullptr ? entry->path : "";
  constexpr std::string_view kPlain[] = {"auxv", "cmdline", "coredump_filter", "environ", "loginuid", "oom_adj", "oom_score_adj", "sessionid"};
  bool plain = path.starts_with("sys/") || path.starts_with("attr/") || std::ranges::find(kPlain, path) != std::end(kPlain);
  if (!plain && whence == SEEK_END) return Errno(EINVAL);
  if (plain && (whence == SEEK_DATA || whence == SEEK_HOLE)) return Errno(ENXIO);
  return TextFile::Seek(task, offset, whence);
}

// mounts_poll()
uint32_t ProcTextFile::Poll(Task& task) {
  if (!watched_) return TextFile::Poll(task);
  uint64_t now = ChangesOf(*watched_).count;
  return POLLIN | POLLRDNORM | (std::exchange(seen_, now) != now ? POLLERR | POLLPRI : 0);
}

WaitQueue* ProcTextFile::wait_queue() { return watched_ ? &ChangesOf(*watched_).queue : TextFile::wait_queue(); }

ErrnoOr<std::string> ProcTextFile::MakeText(Task& task) { return static_cast<ProcInode&>(inode()).Text(task); }

ErrnoOr<void> ProcTextFile::MayWrite(Task& task, size_t size) {
  auto& inode = static_cast<ProcInode&>(this->inode());
  // proc_reg_write(); those of processes and /proc/sys are files like others, which then have no such operation.
  if (inode.entry() == nullptr || inode.entry()->write == nullptr) return Errno(inode.target() != nullptr ? EINVAL : EIO);
  if (!inode.Alive()) return Errno(ESRCH);
  const Credentials& writer = task.creds();
  if (inode.entry()->opener_writes && (writer.euid != opener_ || writer.user_ns != opener_ns_)) return Errno(EPERM);
  return size > kMaxWrite ? ErrnoOr<void>(Errno(EINVAL)) : Ok();
}

ErrnoOr<void> ProcTextFile::TakeText(Task& task, std::string_view line) {
  auto& inode = static_cast<ProcInode&>(this->inode());
  return inode.entry()->write(task, inode.target(), line.substr(0, line.find('\0')));
}

std::string ProcTextFile::Save(state::Saver& saver) const {
  proto::ProcTextFile m;
  m.set_text(text_);
  m.set_opener(opener_);
  m.set_opener_ns(saver.Ref(opener_ns_));
  m.set_watched(saver.Ref(watched_));
  m.set_changed(watched_ && seen_ != ChangesOf(*watched_).count);
  return SaveOpenFile(saver, position_, (made_ ? 1 : 0) | kHasOpener, m.SerializeAsString());
}

bool ProcTextFile::Load(state::Loader& loader, std::string_view bytes) {
  vfs_state::OpenFile m;
  if (!LoadOpenFile(loader, bytes, &m)) return false;
  position_ = m.position();
  made_ = (m.data_inode() & 1) != 0;
  text_ = m.extra();
  if ((m.data_inode() & kHasOpener) == 0) return true;
  proto::ProcTextFile own;
  if (!own.ParseFromString(m.extra())) return false;
  text_ = own.text();
  opener_ = own.opener();
  opener_ns_ = loader.GetRef<UserNamespace>(own.opener_ns());
  watched_ = loader.GetRef<MountNamespace>(own.watched());
  // Counted anew from 0.
  if (own.changed()) seen_ = UINT64_MAX;
  return true;
}

}  // namespace amber
