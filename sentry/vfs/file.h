// An open file description: what a descriptor refers to (Linux: struct file).
//
// Guarded by the kernel lock. Reference counted: descriptor tables, mappings, epoll items and messages in flight hold references; the last one
// releases it (the destructor is Linux's ->release). Subclasses implement what their kind of file can do; the defaults give
// Linux's errno for files that cannot.
//
// No method blocks. What would block returns EAGAIN, whatever O_NONBLOCK says; the system call layer then decides
// between EAGAIN and Task::Block() on wait_queue().
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/state.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/io.h"

namespace amber {

class FileOwner;  // sentry/vfs/file_owner.h
class Task;
class Dentry;    // sentry/vfs/dentry.h
struct VfsPath;  // sentry/vfs/mount.h

// What a mapping of a file maps on the host.
struct MapSource {
  int fd = -1;          // host descriptor, kept open by the file (or inode) for as long as it is mapped
  uint64_t offset = 0;  // added to the guest's file offset
  // True if `fd` is a file of the sentry's own (tmpfs, memfd): the image must hold its contents.
  bool sentry_owned = false;
  // Where the file's pages from `rest_from` (an offset in the file, page aligned) on are those of another descriptor, from its start: the end of a
  // file whose last page is not a page of `fd`.
  int rest_fd = -1;
  uint64_t rest_from = UINT64_MAX;
};

class File : public RefCounted<File>, public state::Saveable {
 public:
  ~File() override;

  // Told when a description goes: epoll drops its items, which hold no reference, by it. The subclass's part of `file` is gone
  // already; it is good for its address alone.
  class ReleaseObserver {
   public:
    virtual void OnRelease(File& file) = 0;

   protected:
    ~ReleaseObserver() = default;
  };
  void AddReleaseObserver(ReleaseObserver* observer) { observers_.push_back(observer); }
  void RemoveReleaseObserver(ReleaseObserver* observer) { std::erase(observers_, observer); }

  // O_ACCMODE and status flags (O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, O_PATH ...).
  int flags() const { return flags_; }
  void set_flags(int flags) { flags_ = flags; }
  bool readable() const { return (flags_ & O_ACCMODE) != O_WRONLY && (flags_ & O_PATH) == 0; }
  bool writable() const { return (flags_ & O_ACCMODE) != O_RDONLY && (flags_ & O_PATH) == 0; }
  bool nonblocking() const { return (flags_ & O_NONBLOCK) != 0; }

  // read(2) and write(2) at the file position, which they move. The caller has checked readable() and writable().
  virtual ErrnoOr<size_t> Read(Task& /*task*/, Sink& /*sink*/) { return Errno(EINVAL); }
  virtual ErrnoOr<size_t> Write(Task& /*task*/, Source& /*source*/) { return Errno(EINVAL); }
  // True for byte streams (pipes, stream sockets, terminals): a short Write() of a blocking file is gone on with.
  virtual bool writes_whole() const { return false; }
  // pread(2) and pwrite(2). ESPIPE where there is no position.
  virtual ErrnoOr<size_t> PRead(Task& /*task*/, Sink& /*sink*/, uint64_t /*offset*/) { return Errno(ESPIPE); }
  virtual ErrnoOr<size_t> PWrite(Task& /*task*/, Source& /*source*/, uint64_t /*offset*/) { return Errno(ESPIPE); }
  virtual ErrnoOr<uint64_t> Seek(Task& /*task*/, int64_t /*offset*/, int /*whence*/) { return Errno(ESPIPE); }
  // getdents64(2): calls `emit(name, ino, type, next_offset)` for each entry from the position on until it returns false.
  using EmitDirent = std::function<bool(const std::string& name, uint64_t ino, uint8_t type, int64_t next)>;
  virtual ErrnoOr<void> ReadDir(Task& /*task*/, const EmitDirent& /*emit*/) { return Errno(ENOTDIR); }
  virtual ErrnoOr<uint64_t> Ioctl(Task& /*task*/, uint32_t /*command*/, uint64_t /*argument*/) { return Errno(ENOTTY); }
  virtual ErrnoOr<void> Fsync(Task& /*task*/, bool /*data_only*/) { return Errno(EINVAL); }
  virtual ErrnoOr<void> Truncate(Task& /*task*/, uint64_t /*size*/) { return Errno(EINVAL); }
  virtual ErrnoOr<void> Fallocate(Task& /*task*/, int /*mode*/, uint64_t /*offset*/, uint64_t /*size*/) { return Errno(EOPNOTSUPP); }
  // For mmap: what to map for [offset, offset + size) with `shared`; ENODEV if it cannot be mapped.
  virtual ErrnoOr<MapSource> Map(Task& /*task*/, uint64_t /*offset*/, uint64_t /*size*/, int /*prot*/, bool /*shared*/) { return Errno(ENODEV); }
  // Where in the file one mapping of the host's ends and another begins (MapSource::rest_from); known once something is mapped.
  virtual uint64_t map_seam() const { return UINT64_MAX; }
  // fstat(2). `struct stat` with guest-visible device and inode numbers.
  virtual ErrnoOr<void> Stat(Task& task, struct stat* out) = 0;
  // fcntl F_SETFL may refuse or react (O_ASYNC, O_DIRECT); called before set_flags.
  virtual ErrnoOr<void> OnSetFlags(Task& /*task*/, int /*flags*/) { return Ok(); }
  // A descriptor that referred to this was closed by `task` (Linux: ->flush; drops POSIX locks, for one).
  virtual void OnClose(Task& /*task*/) {}

  // poll(2) bits that hold now. Regular files are always ready.
  virtual uint32_t Poll(Task& task);
  // Where readiness changes are announced; null for files that are always ready.
  virtual WaitQueue* wait_queue() { return nullptr; }
  // False for what epoll refuses with EPERM (regular files, directories).
  virtual bool pollable() const { return false; }

  // The directory entry that was opened, and the place it is at; null for pipes, sockets and the like.
  virtual Dentry* dentry() const { return nullptr; }
  virtual const VfsPath* path() const { return nullptr; }
  // fcntl(2) commands that the descriptor layer does not know (F_SETPIPE_SZ, F_ADD_SEALS).
  virtual ErrnoOr<uint64_t> Fcntl(Task& /*task*/, int /*command*/, uint64_t /*argument*/) { return Errno(EINVAL); }
  // A new open file of the same object, for opening /proc/PID/fd/N of a file without a place. ENXIO if that makes no sense.
  virtual ErrnoOr<RefPtr<File>> Reopen(Task& /*task*/, int /*flags*/) { return Errno(ENXIO); }
  // For /proc/PID/fd: "pipe:[123]", "anon_inode:[eventfd]"; used if there is no dentry.
  virtual std::string LinkName() const { return "anon_inode:[unknown]"; }
  // A host descriptor whose bytes, up to `size`, are what Read() and PRead() give now, for a guest's own thread to read from (syscalls/direct_read.h);
  // -1: there is none. It is good for as long as the file is. After reading DidReadDirectly() is due.
  struct DirectSource {
    int fd = -1;
    uint64_t size = 0;
  };
  virtual DirectSource SourceOfDirectReads() { return {}; }
  virtual void DidReadDirectly() {}

  // The file position, and further lines ("name:\tvalue\n") for /proc/PID/fdinfo.
  virtual uint64_t position() const { return 0; }
  virtual std::string FdInfo() const { return ""; }

  // Who gets SIGIO (F_SETOWN, F_SETSIG, O_ASYNC); null until somebody asked.
  FileOwner* owner() const { return owner_.get(); }
  void set_owner(std::unique_ptr<FileOwner> owner);

 protected:
  File();

 private:
  int flags_ = 0;
  std::unique_ptr<FileOwner> owner_;
  std::vector<ReleaseObserver*> observers_;
};

}  // namespace amber
