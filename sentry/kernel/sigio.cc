#include "sentry/kernel/sigio.h"

#include <poll.h>
#include <signal.h>

#include "sentry/kernel/kernel.pb.h"
#include "sentry/kernel/task.h"

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

}  // namespace

SigioOwner* SigioOwner::Of(File& file, bool make) {
  if (file.owner() == nullptr && make) file.set_owner(std::make_unique<SigioOwner>());
  return static_cast<SigioOwner*>(file.owner());
}

SigioOwner::~SigioOwner() = default;

void SigioOwner::SetOwner(Task& by, Kind kind, int id) {
  pids_ = RefPtr<PidNamespace>(&by.group().pids());
  kind_ = kind;
  id_ = id;
  uid_ = by.creds().uid;
  euid_ = by.creds().euid;
}

void SigioOwner::Arm(File& file, int fd) {
  fd_ = fd;
  Remove();
  WaitQueue* queue = file.wait_queue();
  if (queue != nullptr) queue->Add(this, POLLIN | POLLOUT | POLLPRI | POLLRDNORM | POLLWRNORM);
}

void SigioOwner::Deliver(Task& to, const SigInfo& info) const {
  // sigio_perm().
  const Credentials& c = to.creds();
  if (euid_ != 0 && euid_ != c.suid && euid_ != c.uid && uid_ != c.suid && uid_ != c.uid) return;
  if (kind_ == Kind::kThread) {
    to.SendSignal(info);
  } else {
    to.group().SendSignal(info);
  }
}

void SigioOwner::OnEvent(uint32_t events) {
  if (id_ == 0 || !pids_) return;
  SigInfo info = SigInfo::Kernel(signo_ != 0 ? signo_ : SIGIO);
  if (signo_ != 0) {
    FillBand(events, &info.raw);
    info.raw.si_fd = fd_;
  }
  if (kind_ == Kind::kGroup) {
    ProcessGroup* group = pids_->FindProcessGroup(id_);
    if (group == nullptr) return;
    std::set<ThreadGroup*> members = group->members();
    for (ThreadGroup* member : members) {
      if (member->leader() != nullptr && !member->zombie()) Deliver(*member->leader(), info);
    }
    return;
  }
  Task* task = pids_->FindTask(id_);
  if (task != nullptr && !task->group().zombie()) Deliver(*task, info);
}

std::string SigioOwner::Save(state::Saver& saver) const {
  proto::SigioOwner m;
  m.set_pids(saver.Ref(pids_));
  m.set_kind(static_cast<int>(kind_));
  m.set_id(id_);
  m.set_uid(uid_);
  m.set_euid(euid_);
  m.set_signo(signo_);
  m.set_fd(fd_);
  return m.SerializeAsString();
}

bool SigioOwner::Load(state::Loader& loader, File& file, const std::string& bytes) {
  proto::SigioOwner m;
  if (!m.ParseFromString(bytes) || m.kind() < 0 || m.kind() > 2 || m.signo() < 0 || m.signo() > kNumSignals) {
    return loader.Fail("the owner of a file is malformed");
  }
  SigioOwner& owner = *Of(file, true);
  owner.pids_ = loader.GetRef<PidNamespace>(m.pids());
  owner.kind_ = static_cast<Kind>(m.kind());
  owner.id_ = m.id();
  owner.uid_ = m.uid();
  owner.euid_ = m.euid();
  owner.signo_ = m.signo();
  if ((file.flags() & O_ASYNC) != 0) owner.Arm(file, m.fd());
  return true;
}

}  // namespace amber
