#include "sentry/kernel/sigio.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include <utility>
#include <vector>

#include "sentry/kernel/dir_notify.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/landlock/landlock.h"
#include "sentry/vfs/dentry.h"
#include "sentry/vfs/fd_table.h"
#include "sentry/vfs/file_lock.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/lock_keeper.h"

namespace amber {
namespace {

// What si_code and si_band tell of `events`, the most urgent first (band_table of fs/fcntl.c).
void FillBand(uint32_t events, siginfo_t* out) {
  struct Band {
    uint32_t event;
    int code;
    long band;
  };
  constexpr Band kBands[] = {
      {POLLHUP, POLL_HUP, POLLHUP | POLLERR},
      {POLLERR, POLL_ERR, POLLERR},
      {POLLMSG, POLL_MSG, POLLIN | POLLRDNORM | POLLMSG},
      {POLLPRI, POLL_PRI, POLLPRI | POLLRDBAND},
      {POLLIN | POLLRDNORM, POLL_IN, POLLIN | POLLRDNORM},
      {POLLOUT | POLLWRNORM, POLL_OUT, POLLOUT | POLLWRNORM | POLLWRBAND},
  };
  for (const Band& b : kBands) {
    if ((events & b.event) == 0) continue;
    out->si_code = b.code;
    out->si_band = b.band;
    return;
  }
  out->si_code = POLL_IN;
  out->si_band = POLLIN | POLLRDNORM;
}

// What has ->fasync() in Linux. Others take O_ASYNC and do nothing with it.
bool TellsBySignals(state::Kind kind) {
  using enum state::Kind;
  switch (kind) {
    case kPipeEnd:
    case kFifoFile:
    case kUnixSocket:
    case kTcpSocket:
    case kUdpSocket:
    case kRawSocket:
    case kNetlinkSocket:
    case kHostSocket:
    case kTtyFile:
    case kHostFile:
    case kInotify: return true;
    default: return false;
  }
}

}  // namespace

SigioOwner* SigioOwner::Of(File& file, bool make) {
  if (file.owner() == nullptr && make) file.set_owner(std::make_unique<SigioOwner>());
  return static_cast<SigioOwner*>(file.owner());
}

bool SigioOwner::Tells(const File& file) { return TellsBySignals(file.kind()) || file.LinkName().starts_with("socket:"); }

SigioOwner::SigioOwner() = default;

SigioOwner::~SigioOwner() {
  if (due_codes_ == 0) return;
  for (Due& due : AllDue()) {
    if (due.owner == this) due.owner = nullptr;
  }
}

// control_current_fowner() of security/landlock/fs.c.
bool SigioOwner::IsOwn(Task& by, Kind kind, int id) {
  PidNamespace& pids = by.group().pids();
  if (kind == Kind::kGroup) {
    ProcessGroup* group = pids.FindProcessGroup(id);
    return group != nullptr && group->members() == std::set<ThreadGroup*>{&by.group()};
  }
  Task* task = pids.FindTask(id);
  return task != nullptr && &task->group() == &by.group();
}

void SigioOwner::SetOwner(Task& by, Kind kind, int id) {
  target_ = {RefPtr<PidNamespace>(&by.group().pids()), kind, id, by.creds().uid, by.creds().euid, nullptr};
  if (!IsOwn(by, kind, id)) target_.domain = by.extras().landlock;
}

void SigioOwner::Arm(File& file, int fd) {
  fd_ = fd;
  Remove();
  WaitQueue* queue = Tells(file) ? file.wait_queue() : nullptr;
  if (queue != nullptr) queue->Add(this, POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM);
}

ErrnoOr<void> SigioOwner::WatchDirectory(const VfsPath& dir, int fd, uint32_t argument) {
  if ((argument & ~uint32_t{DN_MULTISHOT}) == 0) {
    dir_notify_.reset();
    return Ok();
  }
  if (dir_notify_ == nullptr) {
    if (!DirNotify::MayWatch(*dir.inode())) return Errno(ENOMEM);
    dir_notify_ = std::make_unique<DirNotify>(*this, dir);
  }
  fd_ = fd;
  dir_notify_->Add(DirNotify::EventsOf(argument));
  return Ok();
}

void SigioOwner::OnEvent(uint32_t events) {
  if (target_.id == 0 || !target_.pids) return;
  SigInfo info = SigInfo::Kernel(signo_ != 0 ? signo_ : SIGIO);
  uint32_t code = 1;
  if (signo_ != 0) {
    FillBand(events, &info.raw);
    info.raw.si_fd = fd_;
    code = 1u << info.raw.si_code;
  }
  // What happens twice before anybody is told is told once.
  if ((due_codes_ & code) != 0) return;
  due_codes_ |= code;
  AllDue().push_back({this, target_, info, code});
}

void SigioOwner::TellUrgent() {
  constexpr uint32_t kUrgent = 1u << 31;  // no si_code
  if (target_.id == 0 || !target_.pids || (due_codes_ & kUrgent) != 0) return;
  due_codes_ |= kUrgent;
  AllDue().push_back({this, target_, SigInfo::Kernel(SIGURG), kUrgent});
}

std::deque<SigioOwner::Due>& SigioOwner::AllDue() {
  static auto* due = new std::deque<Due>;
  return *due;
}

void SigioOwner::DeliverDue() {
  static bool delivering = false;
  if (delivering) return;  // by whom a signal has gone on with its call: the others follow
  delivering = true;
  while (!AllDue().empty()) {
    Due due = std::move(AllDue().front());
    AllDue().pop_front();
    if (due.owner != nullptr) due.owner->due_codes_ &= ~due.code;
    Send(due.target, due.info);
  }
  delivering = false;
}

void SigioOwner::Send(const Target& target, const SigInfo& info) {
  if (target.kind == Kind::kGroup) {
    ProcessGroup* group = target.pids->FindProcessGroup(target.id);
    if (group == nullptr) return;
    std::vector<RefPtr<ThreadGroup>> members;
    for (ThreadGroup* member : group->members()) members.emplace_back(member);
    for (const RefPtr<ThreadGroup>& member : members) {
      if (!member->zombie()) Deliver(target, *member->leader(), info);
    }
    return;
  }
  Task* task = target.pids->FindTask(target.id);
  if (task != nullptr && !task->group().zombie()) Deliver(target, *RefPtr<Task>(task), info);
}

void SigioOwner::Deliver(const Target& target, Task& to, const SigInfo& info) {
  // sigio_perm().
  const Credentials& c = to.creds();
  if (target.euid != 0 && target.euid != c.suid && target.euid != c.uid && target.uid != c.suid && target.uid != c.uid) return;
  if (LandlockRuleset::KeepsFrom(target.domain.get(), to.extras().landlock.get(), LandlockRuleset::kScopeSignal)) return;
  if (target.kind == Kind::kThread) {
    to.SendSignal(info);
  } else {
    to.group().SendSignal(info);
  }
}

FileLocks* SigioOwner::locks(bool make) {
  if (locks_ == nullptr && make) locks_ = std::make_unique<FileLocks>();
  return locks_.get();
}

void SigioOwner::OnClose(Task& task) {
  if (locks_ != nullptr) locks_->ReleaseAll(&task.files());
}

void SigioOwner::ConfirmLocks(const FdTable& table) {
  if (locks_ != nullptr) locks_->Confirm(table);
}

FileLocks* LocksOf(File& file, bool make) {
  if (file.path() != nullptr) return make ? &file.path()->inode()->locks() : file.path()->inode()->locks_if_any();
  if (auto* keeper = dynamic_cast<LockKeeper*>(&file)) return &keeper->locks();
  SigioOwner* owner = SigioOwner::Of(file, make);
  return owner != nullptr ? owner->locks(make) : nullptr;
}

std::string SigioOwner::Save(state::Saver& saver) const {
  proto::SigioOwner m;
  m.set_pids(saver.Ref(target_.pids));
  m.set_kind(static_cast<int>(target_.kind));
  m.set_id(target_.id);
  m.set_uid(target_.uid);
  m.set_euid(target_.euid);
  m.set_domain(saver.Ref(target_.domain));
  m.set_signo(signo_);
  m.set_fd(fd_);
  if (dir_notify_ != nullptr) m.set_directory_events(dir_notify_->events());
  if (locks_ != nullptr) m.set_locks(SaveLocks(*locks_, saver));
  return m.SerializeAsString();
}

bool SigioOwner::Load(state::Loader& loader, File& file, const std::string& bytes) {
  proto::SigioOwner m;
  if (!m.ParseFromString(bytes) || m.kind() < 0 || m.kind() > 2 || m.signo() < 0 || m.signo() > kNumSignals) {
    return loader.Fail("the owner of a file is malformed");
  }
  SigioOwner& owner = *Of(file, true);
  owner.target_ = {loader.GetRef<PidNamespace>(m.pids()),     static_cast<Kind>(m.kind()), m.id(), m.uid(), m.euid(),
                   loader.GetRef<LandlockRuleset>(m.domain())};
  owner.signo_ = m.signo();
  owner.fd_ = m.fd();
  if (m.directory_events() != 0) {
    if (file.path() == nullptr || file.dentry()->negative() || !file.path()->inode()->IsDir() || !DirNotify::Valid(m.directory_events())) {
      return loader.Fail("a directory's notification is malformed");
    }
    owner.dir_notify_ = std::make_unique<DirNotify>(owner, *file.path());
    owner.dir_notify_->Add(m.directory_events());
  }
  if (!m.locks().empty()) {
    if (!LoadLocks(loader, m.locks(), owner.locks(true))) return false;
    owner.locks(true)->Confirm(file);
  }
  if ((file.flags() & O_ASYNC) != 0) owner.Arm(file, m.fd());
  return true;
}

}  // namespace amber
