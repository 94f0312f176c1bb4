#include "sentry/fs/userfaultfd/userfaultfd.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

#include "sentry/fs/anon/anon.h"
#include "sentry/kernel/away.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/task.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/moved.h"

namespace amber {
namespace {

// linux/userfaultfd.h of 6.4, which Debian 12's headers do not have yet.
constexpr uint64_t kWpUnpopulated = 1 << 13;
// Not among them: events of fork, mremap, munmap and madvise, which keep the caller waiting in the host until they are read; huge pages of
// hugetlbfs, which there are none of; poisoned pages, which a restore would not know; moved pages and asynchronous write protection.
constexpr uint64_t kFeatures = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_SIGBUS | UFFD_FEATURE_THREAD_ID |
                               UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM | kWpUnpopulated;
constexpr uint64_t kRangeIoctls = uint64_t{1} << _UFFDIO_WAKE | uint64_t{1} << _UFFDIO_COPY | uint64_t{1} << _UFFDIO_ZEROPAGE |
                                  uint64_t{1} << _UFFDIO_WRITEPROTECT | uint64_t{1} << _UFFDIO_CONTINUE;
constexpr uint64_t kRegisterModes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP | UFFDIO_REGISTER_MODE_MINOR;

// How much one host call copies, and fills, of what the guest asks for.
constexpr uint64_t kCopyPiece = 256 << 10, kFillPiece = 64 << 20;
// Most of one call.
constexpr uint64_t kMostCopied = 32 << 20, kMostFilled = uint64_t{4} << 30;
// From this size on others may run meanwhile.
constexpr uint64_t kLong = 1 << 20;

uint32_t MarksOf(uint64_t modes) {
  return ((modes & UFFDIO_REGISTER_MODE_MISSING) != 0 ? kUffdMissing : 0) | ((modes & UFFDIO_REGISTER_MODE_WP) != 0 ? kUffdWriteProtect : 0) |
         ((modes & UFFDIO_REGISTER_MODE_MINOR) != 0 ? kUffdMinor : 0);
}

Task* TaskOfHostThread(Kernel& kernel, uint32_t host_tid) {
  for (const RefPtr<Task>& t : kernel.LiveTasks()) {
    if (t->thread() != nullptr && t->thread()->host_tid() == static_cast<int>(host_tid)) return t.get();
  }
  return nullptr;
}

}  // namespace

platform::StubOp UserfaultFd::MakeOp() { return MemoryManager::Op(SYS_userfaultfd, UFFD_USER_MODE_ONLY | O_CLOEXEC | O_NONBLOCK); }

ErrnoOr<UniqueFd> UserfaultFd::Fetch(Task& task, int number) {
  UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, task.thread()->host_pid(), 0)));
  if (!process.valid()) return Errno(errno);
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
  if (!fd.valid()) return Errno(errno);
  // The number is what the stub says. A new userfaultfd refuses everything but UFFDIO_API with EINVAL; others do not know the command.
  uffdio_range nothing{};
  if (ioctl(fd.get(), UFFDIO_UNREGISTER, &nothing) == 0 || errno != EINVAL) return Errno(EBADF);
  return fd;
}

ErrnoOr<RefPtr<UserfaultFd>> UserfaultFd::Make(Task& task, UniqueFd fd, int flags) {
  auto file = MakeRef<UserfaultFd>();
  file->number_ = Userfaults::Add(task.mm(), *file);
  if (file->number_ == 0) return Errno(EMFILE);
  file->mm_ = &task.mm();
  file->kernel_ = &task.kernel();
  file->set_flags(O_RDONLY | flags);
  file->fd_ = std::move(fd);
  file->poll_source_.Register(task.kernel().host_poll(), file->fd_.get());
  return file;
}

UserfaultFd::~UserfaultFd() {
  poll_source_.Unregister();
  if (mm_ == nullptr) return;
  // userfaultfd_release(): what was registered is ordinary memory again, and who waits makes the access again.
  Unmark(0, platform::kGuestTop);
  Userfaults::Remove(*mm_, *this);
}

void UserfaultFd::OnMemoryGone() { mm_ = nullptr; }

std::vector<UserfaultFd::Range> UserfaultFd::Marked() const {
  std::vector<Range> out;
  for (const auto& [start, vma] : mm_->vmas()) {
    if ((vma.flags & kUffdBits) >> kUffdShift == number_) out.emplace_back(vma.start, vma.end);
  }
  return out;
}

void UserfaultFd::Unmark(uint64_t start, uint64_t end) {
  for (auto [from, to] : Marked()) {
    if (to <= start || end <= from) continue;
    mm_->vmas().Update(std::max(from, start), std::min(to, end), [](Vma& v) { v.flags &= ~kUffdBits; });
  }
}

ErrnoOr<size_t> UserfaultFd::Read(Task& task, Sink& sink) {
  if (!initialized_) return Errno(EINVAL);
  std::array<uffd_msg, 16> messages;
  size_t room = std::min(sink.remaining() / sizeof(uffd_msg), messages.size());
  if (room == 0) return Errno(EINVAL);
  if (!fd_.valid()) return Errno(EAGAIN);
  ssize_t n = read(fd_.get(), messages.data(), room * sizeof(uffd_msg));
  if (n < 0) return Errno(errno);
  if ((features_ & UFFD_FEATURE_THREAD_ID) != 0) {
    for (size_t i = 0; i < static_cast<size_t>(n) / sizeof(uffd_msg); ++i) {
      auto& fault = messages[i].arg.pagefault;
      if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
      // As the faulting thread itself sees it (task_pid_vnr(current) in userfault_msg()); it may be dead by now.
      Task* who = TaskOfHostThread(task.kernel(), fault.feat.ptid);
      fault.feat.ptid = who != nullptr ? static_cast<uint32_t>(who->tid()) : 0;
    }
  }
  return sink.Put(messages.data(), static_cast<size_t>(n));
}

uint32_t UserfaultFd::Poll(Task&) {
  // userfaultfd_poll(): one that blocks cannot be polled, since another reader may take the event.
  if (!initialized_ || !nonblocking()) return POLLERR;
  return fd_.valid() ? HostPoll::Ready(fd_.get(), POLLIN) : 0;
}

ErrnoOr<void> UserfaultFd::Stat(Task&, struct stat* out) {
  FillAnonStat(out, kAnonMinor, 1, 0600);
  return Ok();
}

ErrnoOr<uint64_t> UserfaultFd::Ioctl(Task& task, uint32_t command, uint64_t argument) {
  if (command != UFFDIO_API && !initialized_) return Errno(EINVAL);
  switch (command) {
    case UFFDIO_API: return Api(task, argument);
    case UFFDIO_REGISTER: return Register(task, argument);
    case UFFDIO_UNREGISTER: return Unregister(task, argument);
    case UFFDIO_WAKE: return Wake(task, argument);
    case UFFDIO_COPY: return Copy(task, argument);
    case UFFDIO_ZEROPAGE:
    case UFFDIO_CONTINUE: return Fill(task, command, argument);
    case UFFDIO_WRITEPROTECT: return WriteProtect(task, argument);
    default: return Errno(EINVAL);
  }
}

bool UserfaultFd::KnowsFeatures(uint64_t features) { return (features & ~kFeatures) == 0; }

ErrnoOr<uint64_t> UserfaultFd::Api(Task& task, uint64_t argument) {
  uffdio_api api = TRY(task.CopyIn(UserPtr<uffdio_api>(argument)));
  bool good = api.api == UFFD_API && KnowsFeatures(api.features) && !initialized_ && fd_.valid();
  uint64_t features = api.features;
  // What the host lacks (it may be older) it refuses by itself.
  if (!good || ioctl(fd_.get(), UFFDIO_API, &api) != 0) {
    api = {};
    TRY(task.CopyOut(UserPtr<uffdio_api>(argument), api));
    return Errno(EINVAL);
  }
  initialized_ = true;
  features_ = features;
  api.features &= kFeatures;
  TRY(task.CopyOut(UserPtr<uffdio_api>(argument), api));
  return 0;
}

// validate_range() of fs/userfaultfd.c.
ErrnoOr<void> UserfaultFd::CheckRange(uint64_t start, uint64_t size) const {
  if (start % kPageSize != 0 || size % kPageSize != 0 || size == 0 || start + size < start || !mm_->IsGuestRange(start, start + size)) {
    return Errno(EINVAL);
  }
  return Ok();
}

ErrnoOr<uint64_t> UserfaultFd::Register(Task& task, uint64_t argument) {
  uffdio_register r = TRY(task.CopyIn(UserPtr<uffdio_register>(argument)));
  if (r.mode == 0 || (r.mode & ~kRegisterModes) != 0) return Errno(EINVAL);
  if (mm_ == nullptr) return Errno(ENOMEM);
  TRY(CheckRange(r.range.start, r.range.len));
  uint64_t start = r.range.start, end = start + r.range.len;
  if (!mm_->TryLock(task, start, end)) return task.Block(mm_->lock_queue(), POLLIN, kNever, kErestartnointr);
  auto refused = [&](const Vma& part) {
    bool special = part.name == VmaName::kVdso || part.name == VmaName::kVvar || part.name == VmaName::kFast || IsMoved(part);
    // TODO(compat): restored pages would have to be copied out of the image first.
    return special || part.image;
  };
  int error = 0;
  if (std::ranges::any_of(mm_->vmas().Slice(start, end), refused)) {
    error = EINVAL;
  } else if (ioctl(fd_.get(), UFFDIO_REGISTER, &r) != 0) {
    error = errno;
  } else {
    uint32_t marks = MarksOf(r.mode);
    mm_->vmas().Update(start, end, [&](Vma& v) {
      // userfaultfd_register(): a mapping that has what is asked for stays as it is.
      if ((v.flags & kUffdBits) >> kUffdShift == number_ && (v.flags & marks) == marks) return;
      v.flags = (v.flags & ~kUffdBits) | marks | mark();
    });
  }
  mm_->Unlock(task);
  if (error != 0) return Errno(error);
  TRY(task.CopyOut(UserPtr<__u64>(argument + offsetof(uffdio_register, ioctls)), __u64{r.ioctls & kRangeIoctls}));
  return 0;
}

ErrnoOr<uint64_t> UserfaultFd::Unregister(Task& task, uint64_t argument) {
  uffdio_range r = TRY(task.CopyIn(UserPtr<uffdio_range>(argument)));
  if (mm_ == nullptr) return Errno(ENOMEM);
  TRY(CheckRange(r.start, r.len));
  if (!mm_->TryLock(task, r.start, r.start + r.len)) return task.Block(mm_->lock_queue(), POLLIN, kNever, kErestartnointr);
  int error = ioctl(fd_.get(), UFFDIO_UNREGISTER, &r) != 0 ? errno : 0;
  // Older kernels let a context end the registration of another (fs/userfaultfd.c before 6.16).
  if (error == 0) mm_->vmas().Update(r.start, r.start + r.len, [](Vma& v) { v.flags &= ~kUffdBits; });
  mm_->Unlock(task);
  if (error != 0) return Errno(error);
  return 0;
}

ErrnoOr<uint64_t> UserfaultFd::Wake(Task& task, uint64_t argument) {
  uffdio_range r = TRY(task.CopyIn(UserPtr<uffdio_range>(argument)));
  if (mm_ == nullptr) return 0;
  TRY(CheckRange(r.start, r.len));
  if (ioctl(fd_.get(), UFFDIO_WAKE, &r) != 0) return Errno(errno);
  return 0;
}

ErrnoOr<uint64_t> UserfaultFd::InPieces(Task& task, uint64_t size, uint64_t result, bool unlocked,
                                        const std::function<int64_t(uint64_t at, uint64_t size)>& work) {
  RefPtr<UserfaultFd> self(this);
  uint64_t done = 0;
  int64_t last = 0;
  // The rest is for another call (EAGAIN): one does not keep the lock, or a thread that is to die, for long.
  const uint64_t most = std::min(size, unlocked ? kMostFilled : kMostCopied);
  while (done < most && mm_ != nullptr) {
    uint64_t piece = std::min(most - done, unlocked ? kFillPiece : kCopyPiece);
    if (unlocked && piece >= kLong) {
      Away away(task.kernel());
      last = work(done, piece);
    } else {
      last = work(done, piece);
    }
    if (last > 0) done += static_cast<uint64_t>(last);
    if (last < 0 || static_cast<uint64_t>(last) < piece) break;
  }
  // userfaultfd_copy(): what was done comes before the error, and less than all of it is EAGAIN.
  if (done == 0 && last == 0) last = -ESRCH;
  int64_t told = done > 0 ? static_cast<int64_t>(done) : last;
  TRY(task.CopyOut(UserPtr<int64_t>(result), told));
  if (done == 0) return Errno(static_cast<int>(-last));
  if (done < size) return Errno(EAGAIN);
  return 0;
}

ErrnoOr<uint64_t> UserfaultFd::Copy(Task& task, uint64_t argument) {
  uffdio_copy in = TRY(task.CopyIn(UserPtr<uffdio_copy>(argument)));
  if (mm_ != nullptr) TRY(CheckRange(in.dst, in.len));
  if (in.src + in.len <= in.src || in.src + in.len > platform::kGuestTop) return Errno(EINVAL);
  if ((in.mode & ~uint64_t{UFFDIO_COPY_MODE_DONTWAKE | UFFDIO_COPY_MODE_WP}) != 0) return Errno(EINVAL);
  if (mm_ == nullptr) return Errno(ESRCH);
  std::vector<char> bytes(std::min<uint64_t>(in.len, kCopyPiece));
  return InPieces(task, in.len, argument + offsetof(uffdio_copy, copy), false, [&](uint64_t at, uint64_t size) -> int64_t {
    // Whole pages that are there are copied, as the kernel does it page by page.
    ErrnoOr<size_t> got = task.mm().space().Read(in.src + at, bytes.data(), size);
    uint64_t whole = got.ok() ? *got / kPageSize * kPageSize : 0;
    if (whole == 0) return -EFAULT;
    uffdio_copy piece{in.dst + at, reinterpret_cast<uint64_t>(bytes.data()), whole, in.mode, 0};
    if (ioctl(fd_.get(), UFFDIO_COPY, &piece) == 0) return static_cast<int64_t>(whole);
    return piece.copy != 0 ? piece.copy : -errno;
  });
}

ErrnoOr<uint64_t> UserfaultFd::Fill(Task& task, uint32_t command, uint64_t argument) {
  static_assert(UFFDIO_ZEROPAGE_MODE_DONTWAKE == UFFDIO_CONTINUE_MODE_DONTWAKE);
  static_assert(sizeof(uffdio_zeropage) == sizeof(uffdio_continue) && offsetof(uffdio_zeropage, zeropage) == offsetof(uffdio_continue, mapped));
  uffdio_zeropage in = TRY(task.CopyIn(UserPtr<uffdio_zeropage>(argument)));
  if (mm_ != nullptr) TRY(CheckRange(in.range.start, in.range.len));
  if ((in.mode & ~uint64_t{UFFDIO_ZEROPAGE_MODE_DONTWAKE}) != 0) return Errno(EINVAL);
  if (mm_ == nullptr) return Errno(ESRCH);
  return InPieces(task, in.range.len, argument + offsetof(uffdio_zeropage, zeropage), true, [&](uint64_t at, uint64_t size) -> int64_t {
    uffdio_zeropage piece{{in.range.start + at, size}, in.mode, 0};
    if (ioctl(fd_.get(), command, &piece) == 0) return static_cast<int64_t>(size);
    return piece.zeropage != 0 ? piece.zeropage : -errno;
  });
}

ErrnoOr<uint64_t> UserfaultFd::WriteProtect(Task& task, uint64_t argument) {
  uffdio_writeprotect in = TRY(task.CopyIn(UserPtr<uffdio_writeprotect>(argument)));
  if (mm_ == nullptr) return Errno(ESRCH);
  TRY(CheckRange(in.range.start, in.range.len));
  RefPtr<UserfaultFd> self(this);
  // In pieces, between which others run: the host marks each page, also those that are not there.
  for (uint64_t at = 0; at < in.range.len;) {
    if (mm_ == nullptr) return Errno(ESRCH);
    uffdio_writeprotect piece{{in.range.start + at, std::min<uint64_t>(in.range.len - at, kFillPiece)}, in.mode};
    int error;
    {
      Away away(task.kernel());
      error = ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &piece) != 0 ? errno : 0;
    }
    if (error != 0) return Errno(error);
    at += piece.range.len;
  }
  return 0;
}

}  // namespace amber
