#include "sentry/fs/pipe/pipe.h"

#include <linux/capability.h>
#include <poll.h>

#include <algorithm>
#include <bit>
#include <map>
#include <mutex>

#include "sentry/fs/anon/anon.h"
#include "sentry/fs/pipe/pipe.pb.h"
#include "sentry/kernel/task.h"

namespace amber {

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kLeastPages = 2;  // PIPE_MIN_DEF_BUFFERS

// Pages of all pipes of each user, by the initial user namespace's id. With a lock of its own: pipes of several kernels (tests) have it in common.
class UserPages {
 public:
  static size_t Of(uid_t user) {
    UserPages& all = All();
    std::lock_guard lock(all.lock_);
    auto it = all.pages_.find(user);
    return it == all.pages_.end() ? 0 : it->second;
  }
  static void Change(uid_t user, size_t before, size_t now) {
    UserPages& all = All();
    std::lock_guard lock(all.lock_);
    size_t& pages = all.pages_[user];
    pages = pages - before + now;
    if (pages == 0) all.pages_.erase(user);
  }

 private:
  static UserPages& All() {
    static auto* all = new UserPages();
    return *all;
  }

  std::mutex lock_;
  std::map<uid_t, size_t> pages_;  // under the lock
};

bool IsOrdinary(const Task& task) { return !task.Has(CAP_SYS_RESOURCE) && !task.Has(CAP_SYS_ADMIN); }

}  // namespace

Pipe::Pipe() : ino_(NextAnonIno()) {}
Pipe::~Pipe() {
  capacity_ = 0;
  if (paid_ > 0) Pay();
}

void Pipe::Pay() {
  size_t pages = capacity_ / kPage;
  UserPages::Change(payer_, paid_, pages);
  paid_ = pages;
}

// alloc_pipe_info().
void Pipe::Charge(const Task& task) {
  if (paid_ > 0) return;
  payer_ = task.creds().uid;
  Pay();
  if (UserPages::Of(payer_) <= kUserPages || !IsOrdinary(task) || size_ > kLeastPages * kPage) return;
  capacity_ = kLeastPages * kPage;
  Pay();
}

ErrnoOr<size_t> Pipe::SetCapacity(const Task& task, uint64_t bytes) {
  // round_pipe_size(): nothing is a page, too.
  constexpr uint64_t kFarTooMuch = uint64_t{1} << 31;
  if (bytes > kFarTooMuch) return Errno(EINVAL);
  size_t wanted = std::bit_ceil(std::max<size_t>(bytes, kAtomic));
  if (wanted > kMaxCapacity && wanted > capacity_ && !task.Has(CAP_SYS_RESOURCE)) return Errno(EPERM);
  if (wanted > (size_t{1} << 30)) return Errno(EINVAL);
  if (wanted > capacity_ && UserPages::Of(payer_) - paid_ + wanted / kPage > kUserPages && IsOrdinary(task)) return Errno(EPERM);
  if (wanted < size_) return Errno(EBUSY);
  bool was_full = room() < kAtomic;
  capacity_ = wanted;
  if (paid_ > 0) Pay();
  if (was_full && room() >= kAtomic) queue_.Notify(POLLOUT | POLLWRNORM);
  return wanted;
}

// The ring grows with what is in it, so that a thousand idle pipes cost nothing.
void Pipe::Reserve(size_t bytes) {
  if (bytes <= ring_size_) return;
  size_t grown = std::bit_ceil(std::max<size_t>(bytes, kAtomic));
  CopyBuffer ring = NewCopyBuffer(grown);
  size_t first = std::min(size_, ring_size_ - start_);
  if (size_ > 0) {
    memcpy(ring.get(), ring_.get() + start_, first);
    memcpy(ring.get() + first, ring_.get(), size_ - first);
  }
  ring_ = std::move(ring);
  ring_size_ = grown;
  start_ = 0;
}

ErrnoOr<size_t> Pipe::Drain(Sink& sink, size_t size) {
  size_t done = 0;
  while (done < size && sink.remaining() > 0) {
    size_t chunk = std::min({size - done, ring_size_ - start_, sink.remaining()});
    auto put = sink.Put(ring_.get() + start_, chunk);
    if (!put.ok()) {
      if (done == 0) return put.error();
      break;
    }
    Discard(*put);
    done += *put;
    if (*put < chunk) break;
  }
  return done;
}

void Pipe::Discard(size_t size) {
  start_ = (start_ + size) & (ring_size_ - 1);
  size_ -= size;
  if (size_ == 0) start_ = 0;
}

ErrnoOr<size_t> Pipe::Fill(Source& source, size_t size) {
  Reserve(size_ + size);
  size_t done = 0;
  while (done < size) {
    size_t end = (start_ + size_) & (ring_size_ - 1);
    size_t chunk = std::min(size - done, ring_size_ - end);
    auto taken = source.Take(ring_.get() + end, chunk);
    if (!taken.ok()) {
      if (done == 0) return taken.error();
      break;
    }
    size_ += *taken;
    done += *taken;
    if (*taken < chunk) break;
  }
  return done;
}

void Pipe::Append(size_t size, bool packet) {
  if (!packet && !segments_.empty() && !segments_.back().packet) {
    segments_.back().size += size;
  } else {
    segments_.push_back({size, packet});
  }
}

ErrnoOr<size_t> Pipe::Read(Sink& sink) {
  if (sink.remaining() == 0) return size_t{0};
  if (size_ == 0) {
    if (writers_ == 0) return size_t{0};
    return Errno(EAGAIN);
  }
  bool was_full = room() < kAtomic;
  size_t done = 0;
  Errno error{EAGAIN};
  while (!segments_.empty() && sink.remaining() > 0) {
    Segment& segment = segments_.front();
    size_t wanted = std::min(segment.size, sink.remaining());
    auto moved = Drain(sink, wanted);
    if (!moved.ok()) {
      error = moved.error();
      break;
    }
    done += *moved;
    segment.size -= *moved;
    bool packet = segment.packet;
    if (packet && *moved == wanted) {
      // The rest of a packet that did not fit is lost, and a read gets at most one packet (pipe(2)).
      Discard(segment.size);
      segment.size = 0;
    }
    if (segment.size == 0) segments_.pop_front();
    if (packet || *moved < wanted) break;
  }
  if (was_full && room() >= kAtomic) queue_.Notify(POLLOUT | POLLWRNORM);
  if (done == 0) return error;
  return done;
}

ErrnoOr<size_t> Pipe::Write(Source& source, bool packet) {
  size_t total = source.remaining();
  if (total == 0) return size_t{0};  // even without readers
  if (readers_ == 0) return Errno(EPIPE);
  size_t done = 0;
  Errno error{EAGAIN};
  while (done < total) {
    size_t left = total - done;
    size_t wanted = packet ? std::min(left, kAtomic) : std::min(left, room());
    if (wanted == 0 || wanted > room() || (total <= kAtomic && room() < total)) break;
    auto moved = Fill(source, wanted);
    if (!moved.ok()) {
      error = moved.error();
      break;
    }
    if (*moved == 0) break;
    Append(*moved, packet);
    done += *moved;
    if (*moved < wanted) break;
  }
  if (done == 0) return error;
  // Told at every write, not only at the first into an empty pipe: edge-triggered pollers of real programs count on it.
  queue_.Notify(POLLIN | POLLRDNORM);
  return done;
}

size_t Pipe::Peek(void* data, size_t size) const {
  if (segments_.empty()) return 0;
  size = std::min(size, segments_.front().size);
  size_t first = std::min(size, ring_size_ - start_);
  memcpy(data, ring_.get() + start_, first);
  memcpy(static_cast<uint8_t*>(data) + first, ring_.get(), size - first);
  return size;
}

uint32_t Pipe::PollReader(uint64_t writer_opens_seen) const {
  uint32_t events = size_ > 0 ? POLLIN | POLLRDNORM : 0;
  if (writers_ == 0 && writer_opens_ != writer_opens_seen) events |= POLLHUP;
  return events;
}

uint32_t Pipe::PollWriter() const {
  uint32_t events = room() >= kAtomic ? POLLOUT | POLLWRNORM : 0;
  if (readers_ == 0) events |= POLLERR;
  return events;
}

RefPtr<File> Pipe::NewEnd(int flags) {
  // A writer was there before or comes along: only then is "no writer" a hang-up.
  uint64_t seen = writers_ > 0 ? writer_opens_ - 1 : writer_opens_;
  auto end = MakeRef<PipeEnd>(RefPtr<Pipe>(this), flags, seen);
  if (end->readable()) {
    ++reader_opens_;
    opening_writers_.Notify(POLLIN);
  }
  if (end->writable()) {
    ++writer_opens_;
    opening_readers_.Notify(POLLIN);
  }
  return end;
}

// fifo_open() of Linux. A handler that blocks leaves nothing behind but its waiter; so a waiting call is found in the queue of its side
// and counts as present, and the other side's number of opens tells it whether somebody came.
ErrnoOr<RefPtr<File>> Pipe::Open(Task& task, int flags) {
  Charge(task);
  int mode = flags & O_ACCMODE;
  bool nonblock = (flags & O_NONBLOCK) != 0;
  int kept = flags & (O_ACCMODE | O_NONBLOCK | O_DIRECT | O_APPEND);
  if (mode == O_RDWR) return NewEnd(kept);
  SyscallState& call = task.syscall();
  if (mode == O_RDONLY) {
    if (writers_ > 0 || nonblock || (call.restarted && call.scratch[3] != writer_opens_) || !opening_writers_.empty()) {
      RefPtr<File> end = NewEnd(kept);
      if (!nonblock) static_cast<PipeEnd*>(end.get())->writer_opens_seen_ = writer_opens_ - 1;
      return end;
    }
    call.scratch[3] = writer_opens_;
    return task.Block(opening_readers_, POLLIN);
  }
  if (readers_ > 0 || (call.restarted && call.scratch[3] != reader_opens_) || !opening_readers_.empty()) {
    return NewEnd(kept);
  }
  if (nonblock) return Errno(ENXIO);
  call.scratch[3] = reader_opens_;
  return task.Block(opening_writers_, POLLIN);
}

// fifo_open() with is_pipe. Poll tells of a hang-up at once if no writer is left.
RefPtr<File> Pipe::OpenAnonymous(int flags) {
  constexpr int kLargeFile = 0100000;  // as all that open(2) opens
  RefPtr<File> end = NewEnd((flags & (O_ACCMODE | O_NONBLOCK | O_DIRECT | O_APPEND)) | kLargeFile);
  static_cast<PipeEnd*>(end.get())->writer_opens_seen_ = writer_opens_ - 1;
  return end;
}

std::string Pipe::Save(state::Saver& saver) const {
  proto::Pipe m;
  m.set_ino(ino_);
  m.set_capacity(capacity_);
  std::string* data = m.mutable_data();
  size_t first = std::min(size_, ring_size_ - start_);
  if (size_ > 0) {
    data->append(reinterpret_cast<const char*>(ring_.get() + start_), first);
    data->append(reinterpret_cast<const char*>(ring_.get()), size_ - first);
  }
  for (const Segment& s : segments_) {
    auto* out = m.add_segment();
    out->set_size(static_cast<uint32_t>(s.size));
    out->set_packet(s.packet);
  }
  m.set_reader_opens(reader_opens_);
  m.set_writer_opens(writer_opens_);
  m.set_uid(owner_.uid);
  m.set_gid(owner_.gid);
  m.set_mode(owner_.mode + 1);
  m.set_locks(SaveLocks(locks_, saver));
  m.set_payer(payer_);
  m.set_paid(paid_ > 0);
  return m.SerializeAsString();
}

bool Pipe::Load(state::Loader& loader, std::string_view bytes) {
  proto::Pipe m;
  if (!m.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()))) return false;
  if (m.capacity() < kAtomic || m.capacity() > (1u << 30) || !std::has_single_bit(m.capacity())) return false;
  if (m.data().size() > m.capacity()) return false;
  size_t total = 0;
  for (const auto& s : m.segment()) {
    if (s.size() == 0) return false;
    segments_.push_back({s.size(), s.packet()});
    total += s.size();
  }
  if (total != m.data().size()) return false;
  ino_ = m.ino();
  NoteAnonIno(ino_);
  capacity_ = m.capacity();
  BufferSource source(m.data().data(), m.data().size());
  if (total > 0 && !Fill(source, total).ok()) return false;
  reader_opens_ = m.reader_opens();
  writer_opens_ = m.writer_opens();
  owner_ = {.mode = m.mode() == 0 ? 0600 : (m.mode() - 1) & 07777, .uid = m.uid(), .gid = m.gid()};
  if (!LoadLocks(loader, m.locks(), &locks_)) return false;
  payer_ = m.payer();
  if (m.paid()) Pay();
  return true;
}

}  // namespace amber
