#include <linux/capability.h>
#include <poll.h>
#include <sys/ioctl.h>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/pipe/pipe.h"
#include "sentry/fs/pipe/pipe.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/inode.h"
#include "sentry/vfs/mount.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

PipeEnd::PipeEnd() = default;

PipeEnd::PipeEnd(RefPtr<Pipe> pipe, int flags, uint64_t writer_opens_seen)
    : writer_opens_seen_(writer_opens_seen), pipe_(std::move(pipe)) {
  set_flags(flags);
  if (readable()) ++pipe_->readers_;
  if (writable()) ++pipe_->writers_;
}

PipeEnd::~PipeEnd() {
  if (!pipe_) return;  // an image that did not load
  bool last_reader = readable() && --pipe_->readers_ == 0;
  bool last_writer = writable() && --pipe_->writers_ == 0;
  if (last_reader) pipe_->queue_.Notify(POLLOUT | POLLWRNORM | POLLERR);
  if (last_writer) pipe_->queue_.Notify(POLLIN | POLLRDNORM | POLLHUP);
}

ErrnoOr<size_t> PipeEnd::Read(Task&, Sink& sink) { return pipe_->Read(sink); }

ErrnoOr<size_t> PipeEnd::Write(Task& task, Source& source) {
  auto r = pipe_->Write(source, (flags() & O_DIRECT) != 0);
  if (r.Is(EPIPE)) task.SendSignal(SigInfo::Kernel(SIGPIPE));
  return r;
}

ErrnoOr<uint64_t> PipeEnd::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD) return Errno(ENOTTY);
  TRY(task.CopyOut(UserPtr<int>(argument), static_cast<int>(pipe_->size())));
  return uint64_t{0};
}

ErrnoOr<void> PipeEnd::Stat(Task&, struct stat* out) {
  if (path_) return StatInode(*path_->inode(), out);
  FillAnonStat(out, kPipefsMinor, pipe_->ino(), S_IFIFO | 0600, pipe_->uid(), pipe_->gid());
  return Ok();
}

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
  if (path_) {
    m.set_mount(saver.Ref(path_->mount));
    m.set_dentry(saver.Ref(path_->dentry));
  }
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
  if (m.dentry() != 0) {
    path_ = std::make_unique<VfsPath>();
    path_->mount = loader.GetRef<Mount>(m.mount());
    path_->dentry = loader.GetRef<Dentry>(m.dentry());
    if (!path_->mount || !path_->dentry) return false;
  }
  if (readable()) ++pipe_->readers_;
  if (writable()) ++pipe_->writers_;
  return true;
}

PipePair NewPipe(Task& task, int flags) {
  auto pipe = MakeRef<Pipe>();
  pipe->set_owner(task.creds().fsuid, task.creds().fsgid);
  // No writer has gone yet, but there is one: a reader sees POLLHUP as soon as none is left.
  return {MakeRef<PipeEnd>(pipe, O_RDONLY | flags, UINT64_MAX), MakeRef<PipeEnd>(pipe, O_WRONLY | flags, 0)};
}

ErrnoOr<uint64_t> PipeEnd::Fcntl(Task& task, int command, uint64_t argument) {
  switch (command) {
    case F_GETPIPE_SZ:
      return uint64_t{pipe_->capacity()};
    case F_SETPIPE_SZ:
      return uint64_t{TRY(pipe_->SetCapacity(static_cast<uint32_t>(argument), task.Has(CAP_SYS_RESOURCE)))};
    default:
      return Errno(EINVAL);
  }
}

namespace {

// The pipe of a FIFO, in its inode.
class FifoState final : public SpecialState {
 public:
  explicit FifoState(RefPtr<Pipe> pipe) : pipe_(std::move(pipe)) {}
  Pipe& pipe() const { return *pipe_; }

 private:
  RefPtr<Pipe> pipe_;
};

}  // namespace

void PipeEnd::AttachTo(const VfsPath& path) { path_ = std::make_unique<VfsPath>(path); }

Dentry* PipeEnd::dentry() const { return path_ ? path_->dentry.get() : nullptr; }

ErrnoOr<RefPtr<File>> OpenFifo(const VfsContext& ctx, const VfsPath& path, int flags) {
  Inode& inode = *path.inode();
  auto* state = dynamic_cast<FifoState*>(inode.special());
  if (state == nullptr) {
    auto fresh = MakeRef<FifoState>(MakeRef<Pipe>());
    state = fresh.get();
    inode.set_special(std::move(fresh));
  }
  RefPtr<File> end = TRY(state->pipe().Open(*ctx.task, flags));
  static_cast<PipeEnd*>(end.get())->AttachTo(path);
  return end;
}

bool PipeEnd::AfterLoad(state::Loader& loader) {
  if (!path_) return true;
  if (path_->dentry->negative()) return loader.Fail("an open FIFO has no inode");
  // The ends that are open keep a FIFO's pipe; whoever comes first puts it back into the inode.
  if (path_->inode()->special() == nullptr) path_->inode()->set_special(MakeRef<FifoState>(pipe_));
  return true;
}

}  // namespace amber
