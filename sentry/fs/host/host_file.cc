#include "sentry/fs/host/host_file.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "sentry/fs/host/host.pb.h"
#include "sentry/kernel/away.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"

namespace amber {
namespace {

constexpr size_t kChunk = 64 << 10;
// What a terminal or pipe that polls writable surely takes without blocking for long.
constexpr size_t kSafeWrite = 4096;

}  // namespace

HostFile::HostFile(HostPoll& poll, UniqueFd fd, int index) : index_(index) { Bind(poll, std::move(fd)); }

HostFile::~HostFile() { poll_source_.Unregister(); }

void HostFile::Bind(HostPoll& poll, UniqueFd fd) {
  fd_ = std::move(fd);
  struct stat st{};
  if (fstat(fd_.get(), &st) == 0) type_ = st.st_mode & S_IFMT;
  int flags = fcntl(fd_.get(), F_GETFL);
  // The guest sees how it was opened, but O_NONBLOCK is its own affair.
  if (flags >= 0) set_flags(flags & (O_ACCMODE | O_APPEND));
  poll_source_.Register(poll, fd_.get());
}

uint32_t HostFile::HostReady(uint32_t events) const { return HostPoll::Ready(fd_.get(), events); }

// /dev/stdout and its kin: the descriptor is all that there is of the object, so the same description serves again.
ErrnoOr<RefPtr<File>> HostFile::Reopen(Task&, int open_flags) {
  int mode = open_flags & O_ACCMODE;
  if ((mode != O_WRONLY && !readable()) || (mode != O_RDONLY && !writable())) return Errno(EACCES);
  return RefPtr<File>(this);
}

ErrnoOr<size_t> HostFile::Read(Task&, Sink& sink) {
  size_t size = std::min(sink.remaining(), kChunk);
  if (size == 0) return size_t{0};
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  iovec v{buffer.get(), size};
  ssize_t n = preadv2(fd_.get(), &v, 1, -1, poll_source_.registered() ? RWF_NOWAIT : 0);
  if (n < 0 && (errno == EOPNOTSUPP || errno == ENOTSUP)) {
    // Terminals and the like: what polls readable does not block, unless another reader takes it first.
    if (poll_source_.registered() && HostReady(POLLIN) == 0) return Errno(EAGAIN);
    n = readv(fd_.get(), &v, 1);
  }
  if (n < 0) return Errno(errno);
  // A fifo that had a writer is hung up when that goes; before, it is not.
  if (n == 0 && awaits_writer_ && (HostReady(POLLHUP) & POLLHUP) == 0) return Errno(EAGAIN);
  awaits_writer_ = false;
  return sink.Put(buffer.get(), static_cast<size_t>(n));
}

ErrnoOr<size_t> HostFile::Write(Task& task, Source& source) {
  // Bytes that were taken from the guest must be written: ask first.
  if (poll_source_.registered() && (HostReady(POLLOUT) & (POLLOUT | POLLERR | POLLHUP)) == 0) return Errno(EAGAIN);
  size_t size = std::min(source.remaining(), poll_source_.registered() ? kSafeWrite : kChunk);
  if (size == 0) return size_t{0};
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  size = TRY(source.Take(buffer.get(), size));
  iovec v{buffer.get(), size};
  ssize_t n;
  int error;
  {
    RefPtr<HostFile> self(this);
    Away away(task.kernel());
    n = writev(fd_.get(), &v, 1);
    error = errno;
  }
  if (n >= 0) return static_cast<size_t>(n);
  if (error == EAGAIN) {
    // Somebody else took the room; another round of the call begins with these bytes.
    source.PutBack(buffer.get(), size);
    return Errno(EAGAIN);
  }
  if (error == EPIPE) task.SendSignal(SigInfo::User(SIGPIPE, SI_USER, task.pid(), task.creds().uid));
  return Errno(error);
}

ErrnoOr<size_t> HostFile::PRead(Task&, Sink& sink, uint64_t offset) {
  size_t size = std::min(sink.remaining(), kChunk);
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  ssize_t n = pread(fd_.get(), buffer.get(), size, static_cast<off_t>(offset));
  if (n < 0) return Errno(errno);
  return sink.Put(buffer.get(), static_cast<size_t>(n));
}

ErrnoOr<size_t> HostFile::PWrite(Task&, Source& source, uint64_t offset) {
  size_t size = std::min(source.remaining(), kChunk);
  auto buffer = std::make_unique_for_overwrite<char[]>(size);
  size = TRY(source.Take(buffer.get(), size));
  ssize_t n = pwrite(fd_.get(), buffer.get(), size, static_cast<off_t>(offset));
  if (n < 0) return Errno(errno);
  return static_cast<size_t>(n);
}

ErrnoOr<uint64_t> HostFile::Seek(Task&, int64_t offset, int whence) {
  off_t position = lseek(fd_.get(), offset, whence);
  if (position < 0) return Errno(errno);
  return static_cast<uint64_t>(position);
}

ErrnoOr<uint64_t> HostFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  // Only queries without effect on the host; a guest's terminal is one of the sandbox's own ptys.
  switch (command) {
    case FIONREAD: {
      int available = 0;
      if (ioctl(fd_.get(), FIONREAD, &available) != 0) return Errno(errno);
      TRY(task.CopyOut(UserPtr<int>(argument), available));
      return 0;
    }
    default: return Errno(ENOTTY);
  }
}

ErrnoOr<void> HostFile::Fsync(Task&, bool data_only) {
  if ((data_only ? fdatasync(fd_.get()) : fsync(fd_.get())) != 0) return Errno(errno);
  return Ok();
}

ErrnoOr<void> HostFile::Truncate(Task&, uint64_t size) {
  if (ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  return Ok();
}

ErrnoOr<void> HostFile::Stat(Task&, struct stat* out) {
  if (fstat(fd_.get(), out) != 0) return Errno(errno);
  return Ok();
}

uint32_t HostFile::Poll(Task& task) {
  if (!poll_source_.registered()) return File::Poll(task);
  return HostReady(POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM);
}

std::string HostFile::LinkName() const {
  struct stat st{};
  if (fstat(fd_.get(), &st) != 0) return "host:[unknown]";
  const char* what = S_ISFIFO(st.st_mode) ? "pipe" : S_ISSOCK(st.st_mode) ? "socket" : "host";
  return std::string(what) + ":[" + std::to_string(st.st_ino) + "]";
}

std::string HostFile::CannotSave() const { return index_ == kFifo ? "a fifo of the host's is open" : ""; }

std::string HostFile::Save(state::Saver&) const {
  proto::HostFile out;
  out.set_index(index_);
  out.set_flags(flags());
  out.set_type(type_);
  return out.SerializeAsString();
}

bool HostFile::Load(state::Loader& loader, std::string_view bytes) {
  proto::HostFile in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a host file is malformed");
  index_ = in.index();
  set_flags(in.flags());
  return true;
}

bool HostFile::AfterLoad(state::Loader& loader) {
  auto* kernel = loader.Get<Kernel>(1);
  if (kernel == nullptr) return false;
  int flags_before = flags();
  UniqueFd fd = kernel->HostFdForRestore(index_);
  if (!fd.valid()) return loader.Fail("no descriptor was passed in the place of the sandbox's descriptor " + std::to_string(index_));
  Bind(kernel->host_poll(), std::move(fd));
  set_flags(flags_before);
  return true;
}

}  // namespace amber
