// Pipes and FIFOs (pipe(7), fs/pipe.c).
//
// A Pipe is the buffer; a PipeEnd is an open description of it. pipe(2) makes two ends; the inode of a FIFO owns a Pipe and
// opens ends by Open(). Ends hold references to the pipe. Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "sentry/base/copy_buffer.h"
#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/lock_keeper.h"

namespace amber {

class PipeEnd;

class Pipe final : public RefCounted<Pipe>, public state::Saveable {
 public:
  static constexpr size_t kDefaultCapacity = 65536;
  static constexpr size_t kMaxCapacity = 1 << 20;  // fs.pipe-max-size
  static constexpr size_t kAtomic = 4096;          // PIPE_BUF
  static constexpr size_t kUserPages = 16384;      // fs.pipe-user-pages-soft; that of the hard limit is 0, none

  Pipe();
  ~Pipe() override;

  // Its user pays for the room that it has (pipe-user-pages-soft in proc(5)): one who has very much gets little. Once, at the first open.
  void Charge(const Task& task);
  size_t size() const { return size_; }
  size_t capacity() const { return capacity_; }
  // fcntl(F_SETPIPE_SZ): rounds up to a power of two of pages. EBUSY if more than that is buffered, EPERM above the maximum
  // without CAP_SYS_RESOURCE or if its user has too much already, EINVAL for far too much.
  ErrnoOr<size_t> SetCapacity(const Task& task, uint64_t bytes);

  // Moves buffered bytes to `sink`. 0 at end of file, EAGAIN if there is nothing yet.
  ErrnoOr<size_t> Read(Sink& sink);
  // Takes bytes from `source`: all or none for up to kAtomic, else what fits. EAGAIN if nothing fits; EPIPE without readers.
  // `packet` keeps each kAtomic bytes apart from what follows (O_DIRECT).
  ErrnoOr<size_t> Write(Source& source, bool packet);

  // Copies the first bytes, of one packet at most, without taking them (tee, splice). How many.
  size_t Peek(void* data, size_t size) const;
  size_t room() const { return capacity_ - size_; }
  bool has_readers() const { return readers_ > 0; }
  bool has_writers() const { return writers_ > 0; }

  // open(2) of a FIFO: `flags` has the access mode and O_NONBLOCK. May Block() and is then executed again by the
  // handler; ENXIO for a nonblocking writer without readers. Uses syscall().scratch[3].
  ErrnoOr<RefPtr<File>> Open(Task& task, int flags);

  // open(2) of a pipe(2)'s end by /proc/PID/fd: never waits for the other side.
  RefPtr<File> OpenAnonymous(int flags);

  uint32_t PollReader(uint64_t writer_opens_seen) const;
  uint32_t PollWriter() const;
  // Readers and writers wait here: POLLIN and POLLOUT.
  WaitQueue& queue() { return queue_; }
  uint64_t ino() const { return ino_; }
  AnonOwner& owner() { return owner_; }
  FileLocks& locks() { return locks_; }

  state::Kind kind() const override { return state::Kind::kPipe; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;

 private:
  friend class PipeEnd;

  // Bytes that belong together: a packet, or a run of ordinary bytes.
  struct Segment {
    size_t size;
    bool packet;
  };

  // Pays for `capacity_` as it is now.
  void Pay();
  void Reserve(size_t bytes);
  // Copies up to `size` bytes between the ring and the sink or source.
  ErrnoOr<size_t> Drain(Sink& sink, size_t size);
  ErrnoOr<size_t> Fill(Source& source, size_t size);
  void Discard(size_t size);
  void Append(size_t size, bool packet);
  RefPtr<File> NewEnd(int flags);

  CopyBuffer ring_;
  size_t ring_size_ = 0;  // allocated: a power of two, 0 before the first write
  size_t start_ = 0;
  size_t size_ = 0;
  size_t capacity_ = kDefaultCapacity;
  std::deque<Segment> segments_;
  int readers_ = 0;
  int writers_ = 0;
  // How often each side was opened: who waits for the other side goes on even if that has closed again.
  uint64_t reader_opens_ = 0;
  uint64_t writer_opens_ = 0;
  WaitQueue queue_;
  // Blocked open(2) calls. One that waits counts as being there for the other side.
  WaitQueue opening_readers_;
  WaitQueue opening_writers_;
  uint64_t ino_;
  AnonOwner owner_{.mode = 0600};  // of pipe(2); a fifo has its inode's
  FileLocks locks_;                // likewise
  // Who pays, and for how many pages; 0: nobody yet.
  uid_t payer_ = 0;
  size_t paid_ = 0;
};

class PipeEnd final : public File, public LockKeeper, public OwnerKeeper {
 public:
  PipeEnd() = default;  // for Load()
  PipeEnd(RefPtr<Pipe> pipe, int flags, uint64_t writer_opens_seen);
  ~PipeEnd() override;

  Pipe& pipe() const { return *pipe_; }

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<size_t> Write(Task& task, Source& source) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  // F_GETPIPE_SZ and F_SETPIPE_SZ.
  ErrnoOr<uint64_t> Fcntl(Task& task, int command, uint64_t argument) override;
  ErrnoOr<RefPtr<File>> Reopen(Task&, int flags) override { return pipe_->OpenAnonymous(flags); }
  uint32_t Poll(Task& task) override;
  void OnClose(Task& task) override;
  FileLocks& locks() override { return pipe_->locks(); }
  AnonOwner& owner_and_mode() override { return pipe_->owner(); }
  bool writes_whole() const override { return true; }
  WaitQueue* wait_queue() override { return &pipe_->queue(); }
  bool pollable() const override { return true; }
  std::string LinkName() const override;

  state::Kind kind() const override { return state::Kind::kPipeEnd; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  friend class Pipe;
  // For a FIFO reader that came before any writer: no POLLHUP until one has been and gone.
  uint64_t writer_opens_seen_ = 0;
  RefPtr<Pipe> pipe_;
};

struct PipePair {
  RefPtr<File> reader, writer;
};
// pipe2(2) without the descriptors; `flags` may have O_NONBLOCK and O_DIRECT.
PipePair NewPipe(Task& task, int flags);

}  // namespace amber
