// What read-like and write-like calls share: blocking, partial progress, checks. Kernel lock held.
#pragma once

#include <algorithm>
#include <cstdint>

#include "sentry/base/errno_or.h"
#include "sentry/base/ref_ptr.h"
#include "sentry/kernel/others_turn.h"
#include "sentry/kernel/task.h"
#include "sentry/vfs/file.h"
#include "sentry/vfs/io.h"

namespace amber {

inline constexpr uint64_t kMaxRwCount = 0x7ffff000;

// The file at `fd`, open for reading or writing; EBADF.
ErrnoOr<RefPtr<File>> ReadableFile(Task& task, int fd);
ErrnoOr<RefPtr<File>> WritableFile(Task& task, int fd);
// read(2): blocks if the file is blocking and `nowait` is false. `sink` is what is left of the call's: a long read comes in pieces (below).
ErrnoOr<uint64_t> ReadFile(Task& task, File& file, Sink& sink, bool nowait = false);
// write(2): a blocking stream takes everything, over as many rounds as it needs. `source` starts at the call's first byte in each round.
ErrnoOr<uint64_t> WriteFile(Task& task, File& file, Source& source, bool nowait = false);

// Task::BlockOn() for reading or writing calls. On a socket with SO_RCVTIMEO or SO_SNDTIMEO it ends when that time is over (the
// handler then sees syscall().timed_out), and a signal's handler ends it whether it has SA_RESTART or not (sock_intr_errno()).
Errno BlockForIo(Task& task, File& file, uint32_t events);

// --- calls that move as much as a program likes: after a piece of it they let others have the kernel ---
//
// Such a call ends its round by GoOn() and is executed again, as after Block(), once whoever waited for the kernel lock has had it. How far it is lies in
// syscall().done or scratch. Nothing but what kills the process ends it before it is done, as in Linux; but for devices without an end. Kernel lock held.

// Bytes that a round moves: some milliseconds.
inline constexpr uint64_t kPiece = 16 << 20;

// For a call without a deadline of its own, which begins with BeginRound(). Returns kBlocked. `on_signal`: what a signal makes of it, if nothing is done.
Errno GoOn(Task& task, Errno on_signal = kKillable);
// The same for a read or write of a file.
Errno GoOnWith(Task& task, const File& file);
void BeginRound(Task& task);

// How much of a read or write of `file` one round may move; all of it where what there is bounds it (pipes, sockets, terminals).
uint64_t PieceOf(const File& file);

// A part of a sink or a source.
class PieceSink final : public Sink {
 public:
  PieceSink(Sink& whole, uint64_t size) : whole_(whole), left_(size) {}
  size_t remaining() const override { return std::min<uint64_t>(whole_.remaining(), left_); }
  ErrnoOr<size_t> Put(const void* data, size_t size) override {
    size_t put = TRY(whole_.Put(data, std::min<uint64_t>(size, left_)));
    left_ -= put;
    return put;
  }

 private:
  Sink& whole_;
  uint64_t left_;
};

class PieceSource final : public Source {
 public:
  PieceSource(Source& whole, uint64_t size) : whole_(whole), left_(size) {}
  size_t remaining() const override { return std::min<uint64_t>(whole_.remaining(), left_); }
  ErrnoOr<size_t> Take(void* data, size_t size) override {
    size_t taken = TRY(whole_.Take(data, std::min<uint64_t>(size, left_)));
    left_ -= taken;
    return taken;
  }
  void PutBack(const void* data, size_t size) override {
    whole_.PutBack(data, size);
    left_ += size;
  }
  ErrnoOr<void> Skip(size_t size) override {
    left_ -= std::min<uint64_t>(size, left_);
    return whole_.Skip(size);
  }

 private:
  Source& whole_;
  uint64_t left_;
};

}  // namespace amber
