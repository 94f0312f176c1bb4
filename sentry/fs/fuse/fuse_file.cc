// Open files: bytes go to the server and come from it; nothing of them is cached but for mappings (pages.cc).
#include "sentry/fs/fuse/fuse_file.h"

#include <linux/falloc.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>

#include "sentry/kernel/signal.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/ops.h"

namespace amber {
namespace {

// A call moves at most this much; a short count is what callers must expect. It is what the record of a call may hold.
constexpr uint64_t kMost = 16 << 20;

// Of a fuse_dirent of `size` bytes in all.
constexpr size_t Padded(size_t size) { return (size + 7) & ~size_t{7}; }

}  // namespace

ErrnoOr<size_t> FuseFile::Read(Task& task, Sink& sink) {
  size_t n = TRY(ReadAt(task, sink, position_));
  position_ += n;
  return n;
}

ErrnoOr<size_t> FuseFile::PRead(Task& task, Sink& sink, uint64_t offset) {
  if (!seekable()) return Errno(ESPIPE);
  if (offset > INT64_MAX) return Errno(EINVAL);
  return ReadAt(task, sink, offset);
}

ErrnoOr<size_t> FuseFile::ReadAt(Task& task, Sink& sink, uint64_t offset) {
  if (inode().IsDir()) return Errno(EISDIR);
  uint64_t want = std::min<uint64_t>({sink.remaining(), kMost, INT64_MAX - offset});
  if (want == 0) return size_t{0};
  bool direct = (handle_->open_flags & FOPEN_DIRECT_IO) != 0;
  if (!direct) {
    if (offset + want > inode().attr().size) TRY(fuse().Refresh(handle_));
    uint64_t size = ServedCall::Of(task).Remember("size" + BytesOf(fuse().node()) + BytesOf(offset), inode().attr().size);
    if (offset >= size) return size_t{0};
    want = std::min(want, size - offset);
  }
  // As far as the end is known all of it is asked for at once; else one after the other.
  std::vector<std::pair<RefPtr<FuseRequest>, uint64_t>> requests;
  uint64_t chunk = std::max<uint64_t>(connection().max_read(), 4096);
  for (uint64_t at = 0; at < want; at += chunk) {
    fuse_read_in in{};
    in.fh = handle_->fh;
    in.offset = offset + at;
    in.size = static_cast<uint32_t>(std::min(chunk, want - at));
    in.flags = static_cast<uint32_t>(flags());
    FuseQuestion q{.opcode = FUSE_READ, .node = fuse().node(), .in = BytesOf(in), .max_out = in.size, .handle = handle_};
    RefPtr<FuseRequest> r = TRY(connection().Start(std::move(q)));
    requests.emplace_back(r, in.size);
    if ((direct || !connection().async_reads()) && (!r->answered() || r->error() != 0 || r->answer().size() < in.size)) break;
  }
  for (auto& [r, size] : requests) {
    if (!r->answered()) return ServedCall::WaitFor(task, *r);
  }
  size_t done = 0;
  for (auto& [r, size] : requests) {
    if (r->error() != 0) {
      if (done == 0) return Errno(r->error());
      break;
    }
    if (r->answer().empty()) break;
    auto put = sink.Put(r->answer().data(), r->answer().size());
    if (!put.ok()) {
      if (done == 0) return put;
      break;
    }
    done += *put;
    if (*put < r->answer().size() || r->answer().size() < size) break;
  }
  return done;
}

ErrnoOr<size_t> FuseFile::Write(Task& task, Source& source) {
  uint64_t end = position_;
  size_t n = TRY(WriteAt(task, source, position_, &end));
  position_ = end;
  return n;
}

ErrnoOr<size_t> FuseFile::PWrite(Task& task, Source& source, uint64_t offset) {
  if (!seekable()) return Errno(ESPIPE);
  if (offset > INT64_MAX) return Errno(EINVAL);
  uint64_t end;
  return WriteAt(task, source, offset, &end);
}

ErrnoOr<size_t> FuseFile::WriteAt(Task& task, Source& source, uint64_t offset, uint64_t* end) {
  if (source.remaining() == 0) return size_t{0};
  if ((flags() & O_APPEND) != 0) {
    TRY(fuse().Refresh(handle_));
    // The file grows by what the call writes: where it ended at first counts.
    offset = ServedCall::Of(task).Remember("end" + BytesOf(fuse().node()), inode().attr().size);
  }
  uint64_t limit = TRY(WriteLimit(task, offset));
  TRY(StripSetIds(*task.creds_ref(), inode()));
  size_t n = TRY(WriteChunks(source, offset, limit - offset));
  *end = offset + n;
  if ((flags() & (O_DSYNC | O_SYNC)) != 0 && n > 0) TRY(Fsync(task, (flags() & O_SYNC) != O_SYNC));
  return n;
}

ErrnoOr<size_t> FuseFile::WriteChunks(Source& source, uint64_t offset, uint64_t limit) {
  size_t done = 0;
  limit = std::min(limit, kMost);
  std::string bytes;
  while (source.remaining() > 0 && done < limit) {
    fuse_write_in in{};
    in.fh = handle_->fh;
    in.offset = offset + done;
    in.size = static_cast<uint32_t>(std::min<uint64_t>({source.remaining(), connection().max_write(), limit - done}));
    in.flags = static_cast<uint32_t>(flags());
    FuseQuestion q{.opcode = FUSE_WRITE, .node = fuse().node(), .in = BytesOf(in), .handle = handle_};
    // What was sent is not looked at again, unless somebody has it mapped.
    bool known = connection().WasAsked(q);
    if (known && !fuse().has_pages()) {
      TRY(source.Skip(in.size));
    } else {
      bytes.resize(in.size);
      auto got = source.Take(bytes.data(), bytes.size());
      if (!got.ok() || *got == 0) return done > 0 ? ErrnoOr<size_t>(done) : Errno(EFAULT);
      bytes.resize(*got);
      in.size = static_cast<uint32_t>(*got);
      q.in = BytesOf(in);
      if (!connection().WasAsked(q)) q.data = bytes;
    }
    q.min_out = q.max_out = sizeof(fuse_write_out);
    auto request = connection().Ask(std::move(q));
    if (request.Is(kBlocked.number())) return kBlocked;
    if (!request.ok()) return done > 0 ? ErrnoOr<size_t>(done) : request.error();
    uint32_t wrote = FromBytes<fuse_write_out>((*request)->answer()).size;
    if ((wrote == 0 && done == 0) || wrote > in.size) return Errno(EIO);
    if (fuse().has_pages()) fuse().WritePages(bytes.data(), std::min<size_t>(wrote, bytes.size()), in.offset);
    done += wrote;
    if (wrote < in.size) break;
  }
  return done;
}

ErrnoOr<uint64_t> FuseFile::SeekData(int64_t offset, int whence) {
  if (!connection().lacks(FUSE_LSEEK)) {
    fuse_lseek_in in{};
    in.fh = handle_->fh;
    in.offset = static_cast<uint64_t>(offset);
    in.whence = static_cast<uint32_t>(whence);
    FuseQuestion q{.opcode = FUSE_LSEEK, .node = fuse().node(), .in = BytesOf(in), .handle = handle_};
    q.min_out = q.max_out = sizeof(fuse_lseek_out);
    auto r = connection().Ask(std::move(q));
    if (r.ok()) return FromBytes<fuse_lseek_out>((*r)->answer()).offset;
    if (!r.Is(ENOSYS)) return r.error();
    connection().set_lacks(FUSE_LSEEK);
  }
  // A file without holes, but for the one at its end.
  TRY(fuse().Refresh(handle_));
  uint64_t size = inode().attr().size;
  if (offset < 0 || static_cast<uint64_t>(offset) >= size) return Errno(ENXIO);
  return whence == SEEK_DATA ? static_cast<uint64_t>(offset) : size;
}

ErrnoOr<uint64_t> FuseFile::Seek(Task&, int64_t offset, int whence) {
  if (!seekable()) return Errno(ESPIPE);
  uint64_t base = 0;
  switch (whence) {
    case SEEK_SET: break;
    case SEEK_CUR:
      if (offset == 0) return position_;
      base = position_;
      break;
    case SEEK_END:
      if (inode().IsDir()) return Errno(EINVAL);
      TRY(fuse().Refresh(handle_));
      base = inode().attr().size;
      break;
    case SEEK_DATA:
    case SEEK_HOLE: {
      if (inode().IsDir()) return Errno(EINVAL);
      uint64_t found = TRY(SeekData(offset, whence));
      if (found > INT64_MAX) return Errno(EINVAL);
      position_ = found;
      return position_;
    }
    default: return Errno(EINVAL);
  }
  position_ = TRY(SeekTarget(base, offset));
  entries_.clear();
  next_entry_ = 0;
  return position_;
}

ErrnoOr<std::vector<FuseDirent>> FuseReadDir(FuseInode& dir, const RefPtr<FuseHandle>& handle, uint64_t offset) {
  constexpr uint32_t kRoom = 32768;
  fuse_read_in in{};
  in.fh = handle->fh;
  in.offset = offset;
  in.size = kRoom;
  FuseQuestion q{.opcode = FUSE_READDIR, .node = dir.node(), .in = BytesOf(in), .max_out = kRoom, .handle = handle};
  const std::string bytes = TRY(dir.connection().Ask(std::move(q)))->answer();
  std::vector<FuseDirent> entries;
  for (size_t at = 0; at + FUSE_NAME_OFFSET <= bytes.size();) {
    auto d = FromBytes<fuse_dirent>(bytes, at);
    // What makes no sense is told once the entries before it were.
    if (d.namelen == 0 || d.namelen > kMaxName) return entries.empty() ? ErrnoOr<std::vector<FuseDirent>>(Errno(EIO)) : std::move(entries);
    // One that is cut off is for the next request.
    if (bytes.size() - at < FUSE_NAME_OFFSET + d.namelen) break;
    std::string name = bytes.substr(at + FUSE_NAME_OFFSET, d.namelen);
    if (name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
      if (entries.empty()) return Errno(EIO);
      break;
    }
    entries.push_back({std::move(name), d.ino, static_cast<uint8_t>(d.type & 15), d.off});
    at += Padded(FUSE_NAME_OFFSET + d.namelen);
  }
  return entries;
}

ErrnoOr<void> FuseFile::ReadDir(Task&, const EmitDirent& emit) {
  if (!inode().IsDir()) return Errno(ENOTDIR);
  if (next_entry_ >= entries_.size()) {
    entries_ = TRY(FuseReadDir(fuse(), handle_, position_));
    next_entry_ = 0;
  }
  for (; next_entry_ < entries_.size(); ++next_entry_) {
    const FuseDirent& e = entries_[next_entry_];
    if (!emit(e.name, e.ino, e.type, static_cast<int64_t>(e.next))) break;
    position_ = e.next;
  }
  return Ok();
}

ErrnoOr<uint64_t> FuseFile::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != FIONREAD || !inode().IsRegular()) return Errno(ENOTTY);
  TRY(fuse().Refresh(handle_));
  int left = static_cast<int>(inode().attr().size - position_);
  TRY(task.CopyOut(UserPtr<int>(argument), left));
  return uint64_t{0};
}

ErrnoOr<void> FuseFile::Fsync(Task&, bool data_only) {
  uint32_t opcode = inode().IsDir() ? FUSE_FSYNCDIR : FUSE_FSYNC;
  if (connection().lacks(opcode)) return Ok();
  fuse_fsync_in in{};
  in.fh = handle_->fh;
  in.fsync_flags = data_only ? 1 : 0;
  auto r = connection().Ask({.opcode = opcode, .node = fuse().node(), .in = BytesOf(in), .handle = handle_});
  if (r.ok()) return Ok();
  if (!r.Is(ENOSYS)) return r.error();
  connection().set_lacks(opcode);
  return Ok();
}

ErrnoOr<void> FuseFile::Truncate(Task& task, uint64_t size) {
  TRY(StripSetIds(*task.creds_ref(), inode()));
  return fuse().SetAttr({.size = size}, handle_);
}

ErrnoOr<void> FuseFile::Fallocate(Task& task, int mode, uint64_t offset, uint64_t size) {
  if (!inode().IsRegular() || connection().lacks(FUSE_FALLOCATE)) return Errno(EOPNOTSUPP);
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0) return Errno(EOPNOTSUPP);
  TRY(CheckFileSize(task, offset + size));
  TRY(StripSetIds(*task.creds_ref(), inode()));
  fuse_fallocate_in in{};
  in.fh = handle_->fh;
  in.offset = offset;
  in.length = size;
  in.mode = static_cast<uint32_t>(mode);
  auto r = connection().Ask({.opcode = FUSE_FALLOCATE, .node = fuse().node(), .in = BytesOf(in), .handle = handle_});
  if (r.Is(ENOSYS)) {
    connection().set_lacks(FUSE_FALLOCATE);
    return Errno(EOPNOTSUPP);
  }
  if (!r.ok()) return r.error();
  fuse().Invalidate(true);
  return Ok();
}

ErrnoOr<MapSource> FuseFile::Map(Task&, uint64_t offset, uint64_t size, int prot, bool shared) {
  if (!inode().IsRegular()) return Errno(ENODEV);
  if ((prot & PROT_EXEC) != 0 && (path()->mount->flags() & MS_NOEXEC) != 0) return Errno(EPERM);
  // Nobody would tell the server of what is written so.
  if (shared && (prot & PROT_WRITE) != 0) return Errno(ENODEV);
  return MapSource{TRY(fuse().Pages(handle_, offset, size)), 0, true};
}

ErrnoOr<void> FuseFile::Stat(Task&, struct stat* out) { return fuse().StatThrough(handle_, out); }

void FuseFile::OnClose(Task& task) {
  VfsFile::OnClose(task);
  if (!inode().IsRegular() || connection().lacks(FUSE_FLUSH)) return;
  fuse_flush_in in{};
  in.fh = handle_->fh;
  RefPtr<FuseRequest> request = connection().Post({.opcode = FUSE_FLUSH, .node = fuse().node(), .in = BytesOf(in), .handle = handle_});
  if (request && ServedCall::Current() == &task) ServedCall::Of(task).AwaitAtEnd(std::move(request));
}

}  // namespace amber
