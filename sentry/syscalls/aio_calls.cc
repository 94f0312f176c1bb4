// Linux's own asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2).
//
// Operations are done by io_submit(2) itself, as Linux does for files that it cannot read or write without waiting.
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <algorithm>

#include "sentry/fs/eventfd/eventfd.h"
#include "sentry/kernel/aio_context.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/syscalls/families.h"
#include "sentry/syscalls/memory_ops.h"
#include "sentry/syscalls/poll_time.h"
#include "sentry/syscalls/rw_util.h"
#include "sentry/syscalls/table.h"
#include "sentry/syscalls/time_util.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint64_t kMaxEvents = 65536;  // fs.aio-max-nr
constexpr int kIoPgetevents = 333;
constexpr int64_t kLongestSubmit = 100'000'000;  // ns

ErrnoOr<AioContext*> Find(Task& task, uint64_t id) {
  auto& all = task.group().extras().aio;
  auto it = all.find(id);
  if (it == all.end()) return Errno(EINVAL);
  return it->second.get();
}

ErrnoOr<uint64_t> IoSetup(Task& task, unsigned count, UserPtr<uint64_t> out) {
  if (TRY(task.CopyIn(out)) != 0 || count == 0) return Errno(EINVAL);
  uint64_t used = 0;
  for (const auto& [id, context] : task.group().extras().aio) used += context->max_events;
  if (count > kMaxEvents || used + count > kMaxEvents) return Errno(EAGAIN);
  MmLock lock(task, 0, 0);
  if (!lock.held()) return WaitForMm(task);
  Vma vma;
  uint64_t size = PageUp(sizeof(AioContext::Event) * (uint64_t{count} + 1));
  vma.start = TRY(task.mm().Place(0, size));
  vma.end = vma.start + size;
  vma.prot = PROT_READ | PROT_WRITE;
  TRY(task.mm().CheckLimits(MemoryLimitsOf(task), size, size, 0, 1));
  RefPtr<Task> self(&task);
  return RunMemoryOps(task, lock, {MemoryManager::MapOp(vma, {})}, [self, vma, count, out](std::span<const int64_t>) -> int64_t {
    self->mm().Record(vma);
    if (!self->CopyOut(out, vma.start).ok()) return -EFAULT;
    auto context = std::make_unique<AioContext>();
    context->max_events = count;
    context->ring_size = vma.size();
    self->group().extras().aio[vma.start] = std::move(context);
    return 0;
  });
}

ErrnoOr<uint64_t> IoDestroy(Task& task, uint64_t id) {
  AioContext* context = TRY(Find(task, id));
  uint64_t end = id + context->ring_size;
  MmLock lock(task, id, end);
  if (!lock.held()) return WaitForMm(task);
  context->queue.Notify(POLLIN);
  task.group().extras().aio.erase(id);
  // The program may have unmapped or replaced it.
  const Vma* ring = task.mm().vmas().Find(id);
  if (ring == nullptr || !ring->anonymous() || ring->end < end) return 0;
  RefPtr<MemoryManager> mm(&task.mm());
  return RunMemoryOps(task, lock, {MemoryManager::Op(SYS_munmap, id, end - id)}, [mm, id, end](std::span<const int64_t>) -> int64_t {
    mm->vmas().Remove(id, end);
    return 0;
  });
}

// Bytes moved. Files without a position are read and written where they are.
ErrnoOr<size_t> Transfer(Task& task, File& file, const iocb& cb) {
  bool vector = cb.aio_lio_opcode == IOCB_CMD_PREADV || cb.aio_lio_opcode == IOCB_CMD_PWRITEV;
  bool write = cb.aio_lio_opcode == IOCB_CMD_PWRITE || cb.aio_lio_opcode == IOCB_CMD_PWRITEV;
  if (write ? !file.writable() : !file.readable()) return Errno(EBADF);
  if (cb.aio_offset < 0) return Errno(EINVAL);
  uint64_t offset = static_cast<uint64_t>(cb.aio_offset);
  std::vector<iovec> ranges;
  if (vector) {
    ranges = TRY(task.CopyInIovecs(UserPtr<const iovec>(cb.aio_buf), cb.aio_nbytes));
  } else {
    ranges.push_back({reinterpret_cast<void*>(cb.aio_buf), std::min<size_t>(cb.aio_nbytes, 0x7ffff000)});
  }
  // What is longer ends short: a call of many must not stop in the middle of one.
  uint64_t most = std::max(PieceOf(file), kPiece);
  if (write) {
    UserSource whole(task, std::move(ranges));
    PieceSource source(whole, most);
    auto n = file.PWrite(task, source, offset);
    return n.Is(ESPIPE) ? file.Write(task, source) : n;
  }
  UserSink whole(task, std::move(ranges));
  PieceSink sink(whole, most);
  auto n = file.PRead(task, sink, offset);
  return n.Is(ESPIPE) ? file.Read(task, sink) : n;
}

// Carries `cb` out. EAGAIN if a file that may block is not ready; other errors are those of submitting.
ErrnoOr<int64_t> Execute(Task& task, File& file, const iocb& cb) {
  switch (cb.aio_lio_opcode) {
    case IOCB_CMD_PREAD:
    case IOCB_CMD_PWRITE:
    case IOCB_CMD_PREADV:
    case IOCB_CMD_PWRITEV: {
      auto n = Transfer(task, file, cb);
      if (n.ok()) return static_cast<int64_t>(*n);
      if (n.Is(EAGAIN) && !file.nonblocking()) return Errno(EAGAIN);
      if (n.Is(EBADF)) return Errno(EBADF);
      return -static_cast<int64_t>(n.error().number());
    }
    case IOCB_CMD_FSYNC:
    case IOCB_CMD_FDSYNC: {
      auto done = file.Fsync(task, cb.aio_lio_opcode == IOCB_CMD_FDSYNC);
      return done.ok() ? int64_t{0} : -static_cast<int64_t>(done.error().number());
    }
    default: return Errno(EINVAL);
  }
}

ErrnoOr<void> SubmitOne(Task& task, uint64_t id, uint64_t cb_address) {
  iocb cb = TRY(task.CopyIn(UserPtr<iocb>(cb_address)));
  if (cb.aio_reserved2 != 0) return Errno(EINVAL);
  AioContext* context = TRY(Find(task, id));
  if (context->events.size() >= context->max_events) return Errno(EAGAIN);
  RefPtr<File> file = TRY(task.files().Get(static_cast<int>(cb.aio_fildes)));
  RefPtr<File> event_file;
  if ((cb.aio_flags & IOCB_FLAG_RESFD) != 0) {
    event_file = TRY(task.files().Get(static_cast<int>(cb.aio_resfd)));
    if (dynamic_cast<EventFd*>(event_file.get()) == nullptr) return Errno(EINVAL);
  }
  auto result = Execute(task, *file, cb);
  if (result.Is(EAGAIN)) {
    bool writes = cb.aio_lio_opcode == IOCB_CMD_PWRITE || cb.aio_lio_opcode == IOCB_CMD_PWRITEV;
    return task.BlockOn(*file, writes ? POLLOUT : POLLIN);
  }
  int64_t value = TRY(std::move(result));
  context->events.push_back({cb.aio_data, cb_address, value, 0});
  context->queue.Notify(POLLIN);
  if (event_file) static_cast<EventFd&>(*event_file).Signal(1);
  return Ok();
}

ErrnoOr<uint64_t> IoSubmit(Task& task, uint64_t id, int64_t count, UserPtr<uint64_t> list) {
  if (count < 0) return Errno(EINVAL);
  TRY(Find(task, id));
  count = std::min<int64_t>(count, INT32_MAX / 8);
  // What was submitted before this call had to wait counts.
  uint64_t& done = task.syscall().done;
  // Others want the kernel, too: what is left is for the next call.
  const Clocks& clocks = task.kernel().clocks();
  int64_t end = clocks.Monotonic() + kLongestSubmit;
  while (static_cast<int64_t>(done) < count && (done == 0 || clocks.Monotonic() < end)) {
    auto address = task.CopyIn(list + done);
    if (!address.ok()) return done > 0 ? ErrnoOr<uint64_t>(done) : address.error();
    auto one = SubmitOne(task, id, *address);
    if (!one.ok() && one.Is(kBlocked.number())) return kBlocked;
    if (!one.ok()) return done > 0 ? ErrnoOr<uint64_t>(done) : one.error();
    ++done;
  }
  return done;
}

ErrnoOr<uint64_t> Collect(Task& task, uint64_t id, int64_t min, int64_t max, UserPtr<AioContext::Event> out, int64_t deadline, bool zero_wait) {
  if (min > max || min < 0 || max < 0) return Errno(EINVAL);
  AioContext* context = TRY(Find(task, id));
  bool over = zero_wait || task.syscall().timed_out;
  if (static_cast<int64_t>(context->events.size()) < min && !over) return task.Block(context->queue, POLLIN, deadline, Errno(EINTR));
  uint64_t n = std::min<uint64_t>(context->events.size(), static_cast<uint64_t>(max));
  for (uint64_t i = 0; i < n; ++i) {
    auto put = task.CopyOut(out + i, context->events.front());
    if (!put.ok()) return i > 0 ? ErrnoOr<uint64_t>(i) : put.error();
    context->events.pop_front();
  }
  return n;
}

ErrnoOr<uint64_t> IoGetevents(Task& task, uint64_t id, int64_t min, int64_t max, UserPtr<AioContext::Event> out, UserPtr<const timespec> timeout) {
  int64_t duration = kNever;
  if (timeout) duration = TRY(CopyInDuration(task, timeout));
  return Collect(task, id, min, max, out, DeadlineAfter(task, duration), duration == 0);
}

struct SigsetArgument {
  uint64_t mask;
  uint64_t size;
};

ErrnoOr<uint64_t> IoPgetevents(Task& task, uint64_t id, int64_t min, int64_t max, UserPtr<AioContext::Event> out, UserPtr<const timespec> timeout,
                               UserPtr<const SigsetArgument> set) {
  if (set) {
    SigsetArgument s = TRY(task.CopyIn(set));
    TRY(SwapMask(task, UserPtr<const SignalSet>(s.mask), s.size));
  }
  return IoGetevents(task, id, min, max, out, timeout);
}

// Nothing is ever under way that could be cancelled.
ErrnoOr<uint64_t> IoCancel(Task& task, uint64_t id, UserPtr<iocb> cb, UserPtr<void>) {
  (void)TRY(task.CopyIn(UserPtr<uint32_t>(cb.address() + 8)));
  TRY(Find(task, id));
  return Errno(EINVAL);
}

}  // namespace

void RegisterAioCalls(SyscallTable& table) {
  table.Set(SYS_io_setup, Full<&IoSetup>());
  table.Set(SYS_io_destroy, Full<&IoDestroy>());
  table.Set(SYS_io_submit, Partial<&IoSubmit>("carried out at once; no IOCB_CMD_POLL"));
  table.Set(SYS_io_getevents, Full<&IoGetevents>());
  table.Set(kIoPgetevents, Full<&IoPgetevents>());
  table.Set(SYS_io_cancel, Full<&IoCancel>());
}

}  // namespace amber
