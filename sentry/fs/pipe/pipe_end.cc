#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/pipe/pipe.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/fd_table.h"

namespace amber {

PipeEnd::PipeEnd(RefPtr<Pipe> pipe, int flags, uint64_t writer_opens_seen) : writer_opens_seen_(writer_opens_seen), pipe_(std::move(pipe)) {
  set_flags(flags);
  if (readable()) ++pipe_->readers_;
  if (writable()) ++pipe_->writers_;
}

PipeEnd::~PipeEnd() {
  if (!pipe_) return;  // an image that did not load
  pipe_->locks_.ReleaseAll(this);
  bool last_reader = readable() && --pipe_->readers_ == 0;
  bool last_writer = writable() && --pipe_->writers_ == 0;
  if (last_reader) pipe_->queue_.Notify(POLLOUT | POLLWRNORM | POLLERR);
  if (last_writer) pipe_->queue_.Notify(POLLIN | POLLRDNORM | POLLHUP);
  // What is in a FIFO goes when nobody has it open (free_pipe_info); an open(2) that waits counts.
  bool unused = pipe_->readers_ == 0 && pipe_->writers_ == 0 && pipe_->opening_readers_.empty() && pipe_->opening_writers_.empty();
  if (!unused) return;
  pipe_->Discard(pipe_->size_);
  pipe_->segments_.clear();
}

ErrnoOr<size_t> PipeEnd::Read(Task&, Sink& sink) { return pipe_->Read(sink); }

ErrnoOr<size_t> PipeEnd::Write(Task& task, Source& source) {
  auto r = pipe_->Write(source, (flags() & O_DIRECT) != 0);
  if (r.Is(EPIPE)) task.SendSignal(SigInfo::User(SIGPIPE, SI_USER, task.pid(), task.creds().uid));
  return r;
}

ErrnoOr<uint64_t> PipeEnd::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return Errno(ENOTTY);
  TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(pipe_->size())));
  return uint64_t{0};
}

ErrnoOr<void> PipeEnd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kPipefsMinor, pipe_->ino(), S_IFIFO | pipe_->owner_.mode, pipe_->owner_.uid, pipe_->owner_.gid);
  return Ok();
}

bool PipeEnd::AfterLoad(state::Loader&) {
  pipe_->locks_.Confirm(*this);
  return true;
}

void PipeEnd::OnClose(Task& task) { pipe_->locks_.ReleaseAll(&task.files()); }

uint32_t PipeEnd::Poll(Task&) {
  uint32_t events = 0;
  if (readable()) events |= pipe_->PollReader(writer_opens_seen_);
  if (writable()) events |= pipe_->PollWriter();
  return events;
}

std::string PipeEnd::LinkName() const { return "pipe:[" + std::to_string(pipe_->ino()) + "]"; }

std::string PipeEnd::Save(state::Saver& saver) const {
  proto::PipeEnd m;
  m.set_pipe(saver.Ref(pipe_));
  m.set_flags(static_cast<uint32_t>(flags()));
  m.set_writer_opens_seen(writer_opens_seen_);
  return m.SerializeAsString();
}

bool PipeEnd::Load(state::Loader& loader, std::string_view bytes) {
  proto::PipeEnd m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  RefPtr<Pipe> pipe = loader.GetRef<Pipe>(m.pipe());
  if (!pipe) return false;
  set_flags(static_cast<int>(m.flags()));
  pipe_ = std::move(pipe);
  writer_opens_seen_ = m.writer_opens_seen();
  if (readable()) ++pipe_->readers_;
  if (writable()) ++pipe_->writers_;
  return true;
}

PipePair NewPipe(Task& task, int flags) {
  auto pipe = MakeRef<Pipe>();
  pipe->owner() = {.mode = 0600, .uid = task.creds().fsuid, .gid = task.creds().fsgid};
  pipe->Charge(task);
  // No writer has gone yet, but there is one: a reader sees POLLHUP as soon as none is left.
  // Packets are the writer's choice (create_pipe_files()).
  return {MakeRef<PipeEnd>(pipe, O_RDONLY | (flags & ~O_DIRECT), UINT64_MAX), MakeRef<PipeEnd>(pipe, O_WRONLY | flags, 0)};
}

ErrnoOr<uint64_t> PipeEnd::Fcntl(Task& task, int command, uint64_t argument) {
  switch (command) {
    case F_GETPIPE_SZ: return uint64_t{pipe_->capacity()};
    case F_SETPIPE_SZ: return uint64_t{TRY(pipe_->SetCapacity(task, static_cast<uint32_t>(argument)))};
    default: return Errno(EINVAL);
  }
}

}  // namespace amber
