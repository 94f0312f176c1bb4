#include "sentry/fs/memfd/memfd.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "sentry/base/guest_fd.h"
#include "sentry/fs/anon/anon.h"
#include "sentry/fs/memfd/memfd.pb.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/data_io.h"
#include "sentry/vfs/vfs_file.h"

namespace amber {

namespace {

constexpr uint32_t kShmemMinor = 1;  // the kernel's internal shmem mount
constexpr size_t kChunk = BounceBuffer::kSize;
constexpr int kAllSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;

// Debian 12's headers are older than these.
constexpr unsigned kNoExecSeal = 8;  // MFD_NOEXEC_SEAL
constexpr int kExecSeal = 0x20;      // F_SEAL_EXEC
constexpr uint32_t kExecutable = 0111;
constexpr int kLargeFile = 0100000;  // O_LARGEFILE is 0 for 64-bit programs

}  // namespace

ErrnoOr<RefPtr<File>> MemFd::Create(Task& task, const std::string& name, unsigned flags) {
  auto file = MakeRef<MemFd>();
  bool sealing = (flags & (MFD_ALLOW_SEALING | kNoExecSeal)) != 0;
  file->fd_ = GuestFd(memfd_create("guest", MFD_CLOEXEC | (sealing ? MFD_ALLOW_SEALING : 0u)));
  if (!file->fd_.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  file->name_ = "/memfd:" + name;
  file->ino_ = NextAnonIno();
  file->exec_sealed_ = (flags & kNoExecSeal) != 0;
  file->owner_ = {.mode = file->exec_sealed_ ? 0666u : 0777u, .uid = task.creds().fsuid, .gid = task.creds().fsgid};
  file->set_flags(O_RDWR | kLargeFile);
  return RefPtr<File>(std::move(file));
}

ErrnoOr<RefPtr<File>> MemFd::CreateShared(Task& task, uint64_t size) {
  RefPtr<File> file = TRY(Create(task, "", 0));
  MemFd& memory = static_cast<MemFd&>(*file);
  memory.name_ = "/dev/zero";
  if (ftruncate(memory.fd_.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  return file;
}

ErrnoOr<uint64_t> MemFd::Size() const {
  struct stat st;
  if (fstat(fd_.get(), &st) != 0) return Errno(errno);
  return static_cast<uint64_t>(st.st_size);
}

ErrnoOr<size_t> MemFd::PRead(Task&, Sink& sink, uint64_t offset) {
  if (offset > INT64_MAX) return Errno(EINVAL);
  uint8_t* buffer = BounceBuffer::Get();
  size_t done = 0;
  while (sink.remaining() > 0) {
    ssize_t n = pread(fd_.get(), buffer, std::min(sink.remaining(), kChunk), static_cast<off_t>(offset + done));
    if (n < 0) return done > 0 ? ErrnoOr<size_t>(done) : Errno(errno);
    if (n == 0) break;
    auto put = sink.Put(buffer, static_cast<size_t>(n));
    if (!put.ok()) return done > 0 ? ErrnoOr<size_t>(done) : put;
    done += *put;
    if (*put < static_cast<size_t>(n)) break;
  }
  return done;
}

ErrnoOr<size_t> MemFd::PWrite(Task& task, Source& source, uint64_t offset) {
  if (offset > INT64_MAX) return Errno(EINVAL);
  if (source.remaining() == 0) return size_t{0};
  uint64_t limit = std::min<uint64_t>(TRY(WriteLimit(task, offset)), INT64_MAX);
  if (offset >= limit) return Errno(EFBIG);
  uint8_t* buffer = BounceBuffer::Get();
  size_t done = 0;
  while (source.remaining() > 0 && offset + done < limit) {
    size_t want = std::min({source.remaining(), kChunk, static_cast<size_t>(limit - offset - done)});
    auto taken = source.Take(buffer, want);
    if (!taken.ok()) return done > 0 ? ErrnoOr<size_t>(done) : taken;
    ssize_t n = pwrite(fd_.get(), buffer, *taken, static_cast<off_t>(offset + done));
    if (n < 0) return done > 0 ? ErrnoOr<size_t>(done) : Errno(errno);
    done += static_cast<size_t>(n);
    if (static_cast<size_t>(n) < want) break;
  }
  return done;
}

ErrnoOr<size_t> MemFd::Read(Task& task, Sink& sink) {
  size_t n = TRY(PRead(task, sink, position_));
  position_ += n;
  return n;
}

ErrnoOr<size_t> MemFd::Write(Task& task, Source& source) {
  if ((flags() & O_APPEND) != 0) position_ = TRY(Size());
  size_t n = TRY(PWrite(task, source, position_));
  position_ += n;
  return n;
}

ErrnoOr<uint64_t> MemFd::Seek(Task&, int64_t offset, int whence) {
  int64_t base = 0;
  if (whence == SEEK_CUR) {
    base = static_cast<int64_t>(position_);
  } else if (whence == SEEK_END) {
    base = static_cast<int64_t>(TRY(Size()));
  } else if (whence == SEEK_DATA || whence == SEEK_HOLE) {
    off_t at = lseek(fd_.get(), offset, whence);
    if (at < 0) return Errno(errno);
    position_ = static_cast<uint64_t>(at);
    return position_;
  } else if (whence != SEEK_SET) {
    return Errno(EINVAL);
  }
  int64_t target;
  if (__builtin_add_overflow(base, offset, &target) || target < 0) return Errno(EINVAL);
  position_ = static_cast<uint64_t>(target);
  return position_;
}

ErrnoOr<void> MemFd::Truncate(Task& task, uint64_t size) {
  if (size > INT64_MAX) return Errno(EINVAL);
  TRY(CheckFileSize(task, size));
  if (ftruncate(fd_.get(), static_cast<off_t>(size)) != 0) return Errno(errno);
  return Ok();
}

ErrnoOr<void> MemFd::Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) {
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) != 0) return Errno(EOPNOTSUPP);
  if (offset > INT64_MAX || size == 0 || size > INT64_MAX - offset) return Errno(EINVAL);
  if ((mode & FALLOC_FL_KEEP_SIZE) == 0 && offset + size > TRY(Size())) TRY(CheckFileSize(task, offset + size));
  if (fallocate(fd_.get(), mode, static_cast<off_t>(offset), static_cast<off_t>(size)) != 0) return Errno(errno);
  return Ok();
}

ErrnoOr<MapSource> MemFd::Map(Task&, uint64_t, uint64_t, int, bool) {
  MapSource source;
  source.fd = fd_.get();
  source.sentry_owned = true;
  return source;
}

ErrnoOr<void> MemFd::Stat(Task&, struct stat* out) {
  struct stat host;
  if (fstat(fd_.get(), &host) != 0) return Errno(errno);
  FillAnonStat(out, kShmemMinor, ino_, S_IFREG | owner_.mode, owner_.uid, owner_.gid);
  out->st_nlink = 0;
  out->st_size = host.st_size;
  out->st_blocks = host.st_blocks;
  out->st_blksize = 4096;
  out->st_atim = host.st_atim;
  out->st_mtim = host.st_mtim;
  out->st_ctim = host.st_ctim;
  return Ok();
}

// memfd_add_seals(). What may be executed and is sealed against changing that cannot be written to either.
ErrnoOr<void> MemFd::AddSeals(int seals) {
  bool exec = (seals & kExecSeal) != 0;
  int rest = seals & ~kExecSeal;
  if (exec && (owner_.mode & kExecutable) != 0) rest |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
  if (fcntl(fd_.get(), F_ADD_SEALS, rest) < 0) return Errno(errno);
  exec_sealed_ |= exec;
  return Ok();
}

ErrnoOr<void> MemFd::CheckMode(uint32_t mode) const {
  return exec_sealed_ && ((mode ^ owner_.mode) & kExecutable) != 0 ? Errno(EPERM) : ErrnoOr<void>();
}

ErrnoOr<uint64_t> MemFd::Fcntl(Task&, int command, uint64_t argument) {
  if (command == F_GET_SEALS) {
    int seals = fcntl(fd_.get(), F_GET_SEALS);
    if (seals < 0) return Errno(errno);
    return static_cast<uint64_t>(seals | (exec_sealed_ ? kExecSeal : 0));
  }
  if (command != F_ADD_SEALS || (argument & ~uint64_t{kAllSeals | kExecSeal}) != 0) return Errno(EINVAL);
  if (!writable()) return Errno(EPERM);
  TRY(AddSeals(static_cast<int>(argument)));
  return uint64_t{0};
}

ErrnoOr<RefPtr<File>> MemFd::Reopen(Task& task, int open_flags) {
  (void)task;
  auto file = MakeRef<MemFd>();
  file->fd_ = GuestFd(fcntl(fd_.get(), F_DUPFD_CLOEXEC, 0));
  if (!file->fd_.valid()) return Errno(errno == EMFILE ? ENFILE : errno);
  file->name_ = name_;
  file->ino_ = ino_;
  file->owner_ = owner_;
  file->exec_sealed_ = exec_sealed_;
  file->set_flags((open_flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_CLOEXEC)) | kLargeFile);
  if ((open_flags & O_TRUNC) != 0 && file->writable() && ftruncate(fd_.get(), 0) != 0) return Errno(errno);
  return RefPtr<File>(std::move(file));
}

std::string MemFd::Save(state::Saver& saver) const {
  memfd_state::MemFd out;
  out.set_flags(flags());
  auto size = Size();
  out.set_file(saver.File(fd_.get(), size.ok() ? *size : 0));
  out.set_name(name_);
  out.set_position(position_);
  out.set_ino(ino_);
  out.set_mode(owner_.mode);
  out.set_uid(owner_.uid);
  out.set_gid(owner_.gid);
  int seals = fcntl(fd_.get(), F_GET_SEALS);
  out.set_seals((seals > 0 ? static_cast<uint32_t>(seals) : 0) | (exec_sealed_ ? kExecSeal : 0));
  return out.SerializeAsString();
}

bool MemFd::Load(state::Loader& loader, std::string_view bytes) {
  memfd_state::MemFd in;
  if (!in.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return loader.Fail("a memfd is malformed");
  set_flags(in.flags());
  fd_.reset(loader.OpenFile(in.file()));
  if (!fd_.valid()) return loader.Fail("the contents of a memfd are missing");
  if ((in.seals() & kAllSeals) != 0) fcntl(fd_.get(), F_ADD_SEALS, static_cast<int>(in.seals() & kAllSeals));
  name_ = in.name();
  position_ = in.position();
  ino_ = in.ino();
  exec_sealed_ = (in.seals() & kExecSeal) != 0;
  owner_ = {.mode = in.mode() & 07777, .uid = in.uid(), .gid = in.gid()};
  NoteAnonIno(ino_);
  return true;
}

}  // namespace amber
