// io_uring_setup(2), rings that threads have registered with themselves, and what rings that are polled for submissions do.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <map>
#include <utility>

#include "sentry/io_uring/abi.h"
#include "sentry/io_uring/io_uring.h"
#include "sentry/kernel/extras.h"
#include "sentry/kernel/kernel.h"
#include "sentry/kernel/others_turn.h"
#include "sentry/kernel/task.h"
#include "sentry/kernel/thread_group.h"
#include "sentry/mm/memory_manager.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/vfs/fd_table.h"

namespace amber {
namespace {

constexpr uint32_t kSupportedSetup = IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ |
                                     IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                                     IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                                     kSetupNoSqArray;
constexpr uint32_t kFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_RW_CUR_POS |
                               IORING_FEAT_CUR_PERSONALITY | IORING_FEAT_FAST_POLL | IORING_FEAT_POLL_32BITS | IORING_FEAT_SQPOLL_NONFIXED |
                               IORING_FEAT_EXT_ARG | IORING_FEAT_NATIVE_WORKERS | IORING_FEAT_RSRC_TAGS | IORING_FEAT_CQE_SKIP |
                               IORING_FEAT_LINKED_FILE | kFeatureRegisteredRing | kFeatureBundle | kFeatureNoIoWait;

// io_uring_sanitise_params().
ErrnoOr<void> CheckFlags(uint32_t flags) {
  constexpr uint32_t kTaskWork = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_DEFER_TASKRUN;
  auto has = [&](uint32_t some) { return (flags & some) != 0; };
  if (has(~kSupportedSetup)) return Errno(EINVAL);
  if (has(IORING_SETUP_SQ_AFF) && !has(IORING_SETUP_SQPOLL)) return Errno(EINVAL);
  if (has(IORING_SETUP_SQPOLL) && has(kTaskWork)) return Errno(EINVAL);
  if (has(IORING_SETUP_DEFER_TASKRUN) && !has(IORING_SETUP_SINGLE_ISSUER)) return Errno(EINVAL);
  if (has(IORING_SETUP_TASKRUN_FLAG) && !has(IORING_SETUP_COOP_TASKRUN | IORING_SETUP_DEFER_TASKRUN)) return Errno(EINVAL);
  return Ok();
}

// The rings that a thread has registered with itself, which the thread's end or another program takes with it. The table keeps no ring alive: its descriptor
// does, or the mappings, without which a ring is of no use.
struct OwnRings {
  RefPtr<Task> task;
  MemoryWatch space;
  std::array<IoUring*, IoUring::kMaxOwnRings> rings{};
  bool stale() const { return task->exiting() || !task->has_mm() || !space.Is(task->mm()); }
};

std::map<const Task*, OwnRings>& AllOwnRings() {
  static auto* all = new std::map<const Task*, OwnRings>;
  return *all;
}

OwnRings* OwnRingsOf(const Task& task) {
  auto it = AllOwnRings().find(&task);
  return it != AllOwnRings().end() && !it->second.stale() ? &it->second : nullptr;
}

}  // namespace

ErrnoOr<RefPtr<IoUring>> IoUring::Create(Task& task, uint32_t entries, io_uring_params* p) {
  if (std::ranges::any_of(p->resv, [](uint32_t r) { return r != 0; })) return Errno(EINVAL);
  TRY(CheckFlags(p->flags));
  bool clamp = (p->flags & IORING_SETUP_CLAMP) != 0, polls = (p->flags & IORING_SETUP_SQPOLL) != 0;
  if (entries == 0 || (entries > kMaxEntries && !clamp)) return Errno(EINVAL);
  uint32_t submissions = std::bit_ceil(std::min(entries, kMaxEntries)), completions = 2 * submissions;
  if ((p->flags & IORING_SETUP_CQSIZE) != 0) {
    if (p->cq_entries == 0 || (p->cq_entries > 2 * kMaxEntries && !clamp)) return Errno(EINVAL);
    completions = std::bit_ceil(std::min(p->cq_entries, 2 * kMaxEntries));
    if (completions < submissions) return Errno(EINVAL);
  }
  if ((p->flags & IORING_SETUP_ATTACH_WQ) != 0) {
    auto other = task.files().Get(static_cast<int>(p->wq_fd));
    if (!other.ok()) return Errno(polls ? EBADF : ENXIO);
    if (From(**other) == nullptr) return Errno(EINVAL);
  }
  if ((p->flags & IORING_SETUP_SQ_AFF) != 0 && p->sq_thread_cpu >= static_cast<uint32_t>(sysconf(_SC_NPROCESSORS_CONF))) return Errno(EINVAL);
  auto ring = MakeRef<IoUring>();
  TRY(ring->memory_.Create(submissions, completions, ShapeOf(p->flags)));
  ring->setup_flags_ = p->flags;
  ring->set_flags(O_RDWR);
  ring->memory_.Describe(p);
  p->features = kFeatures;
  if (polls) {
    // It is as if the thread that polls slept all the time: programs must be ready for that (io_uring_setup(2), IORING_SETUP_SQPOLL).
    ring->poller_ = RefPtr<Task>(&task);
    ring->poller_space_.Watch(&task.mm());
    ring->poller_creds_ = task.creds_ref();
    ring->memory_.SetFlag(IORING_SQ_NEED_WAKEUP, true);
  }
  return ring;
}

RingMemory::Shape IoUring::ShapeOf(uint32_t setup_flags) {
  return {.large_submissions = (setup_flags & IORING_SETUP_SQE128) != 0,
          .large_completions = (setup_flags & IORING_SETUP_CQE32) != 0,
          .array = (setup_flags & kSetupNoSqArray) == 0};
}

IoUring::~IoUring() {
  all_requests_ -= requests_;
  for (auto& [task, own] : AllOwnRings()) std::ranges::replace(own.rings, this, nullptr);
  for (const RefPtr<Request>& r : pending_) r->Drop();
  for (const RefPtr<Request>& r : deferred_) r->Drop();
  for (const Due& due : due_) due.request->Drop();
}

// --- submissions that nobody makes a call for ---

Task* IoUring::Poller() const {
  if (!poller_) return nullptr;
  auto polls = [&](const Task& t) { return !t.exiting() && t.has_mm() && poller_space_.Is(t.mm()); };
  if (polls(*poller_)) return poller_.get();
  for (const RefPtr<Task>& t : poller_->group().tasks()) {
    if (polls(*t)) return t.get();
  }
  return nullptr;
}

ErrnoOr<void> IoUring::WakePoller() {
  RefPtr<IoUring> self(this);
  Task* poller = Poller();
  if (poller == nullptr) return Errno(EOWNERDEAD);
  RefPtr<Task> keep(poller);
  const Clocks& clocks = poller->kernel().clocks();
  const int64_t begun = clocks.Monotonic();
  auto taken = Submit(*poller, memory_.submissions(), kLongestPoll);
  // What a submission that was malformed, or the time that it took, has left. Others have the kernel for as long as this had it; where nothing is to be
  // had for the time being (the tail is the program's to write), this looks less and less often.
  const int64_t spent = clocks.Monotonic() - begun;
  const bool some = taken.ok() && *taken > 0;
  poll_delay_ = some ? std::max(kOthersTurn, spent) : std::clamp(2 * poll_delay_, kOthersTurn, kLongestPollDelay);
  if (memory_.SubmissionTail() != sq_head_ && Poller() != nullptr) PollLater(poller->kernel());
  return Ok();
}

void IoUring::PollLater(Kernel& kernel) {
  if (poll_timer_ == nullptr) {
    poll_timer_ = std::make_unique<Timer>([this, &kernel] {
      Task* poller = Poller();
      if (poller == nullptr) return;
      bool stands = kernel.frozen() || poller->group().stopped() || poller->extras().cgroup_held;
      if (!stands) return void(WakePoller());
      poll_delay_ = kLongestPollDelay;
      PollLater(kernel);
    });
  }
  poll_timer_->Arm(kernel.timers(), kernel.clocks().Monotonic() + std::max(poll_delay_, kOthersTurn));
}

// --- what needs a thread of the program ---

void IoUring::AskForThread() {
  if ((setup_flags_ & IORING_SETUP_TASKRUN_FLAG) != 0) memory_.SetFlag(IORING_SQ_TASKRUN, true);
  queue_.Notify(POLLIN | POLLRDNORM);
}

bool IoUring::serves(const Task& helper) const {
  return serving_ != nullptr && !errand_ && serving_->has_mm() && helper.has_mm() && &serving_->mm() == &helper.mm();
}

ErrnoOr<void> IoUring::Serve(Task& task) {
  if ((setup_flags_ & IORING_SETUP_TASKRUN_FLAG) != 0) memory_.SetFlag(IORING_SQ_TASKRUN, false);
  while (true) {
    auto next = std::ranges::find_if(pending_, [&](const RefPtr<Request>& r) { return r->WantsThreadOf(task); });
    if (next == pending_.end()) return Ok();
    RefPtr<Request> request = *next;
    serving_ = &task;
    request->OnReady();
    serving_ = nullptr;
    if (!errand_) continue;
    auto errand = std::exchange(errand_, nullptr);
    // What was begun besides may have been the end of this thread.
    if (task.exiting()) return Errno(EINTR);
    errand(task);
    return kNoAnswer;
  }
}

// --- registered rings ---

ErrnoOr<RefPtr<IoUring>> IoUring::Find(Task& task, int fd, bool registered) {
  if (registered) {
    OwnRings* own = OwnRingsOf(task);
    if (fd < 0 || static_cast<uint32_t>(fd) >= kMaxOwnRings) return Errno(EINVAL);
    IoUring* ring = own != nullptr ? own->rings[static_cast<size_t>(fd)] : nullptr;
    if (ring == nullptr) return Errno(EBADF);
    return RefPtr<IoUring>(ring);
  }
  RefPtr<File> file = TRY(task.files().Get(fd));
  IoUring* ring = From(*file);
  if (ring == nullptr) return Errno(EOPNOTSUPP);
  return RefPtr<IoUring>(ring);
}

namespace {

struct OwnRingUpdate {  // struct io_uring_rsrc_update
  uint32_t offset, reserved;
  uint64_t data;
};

}  // namespace

ErrnoOr<uint64_t> IoUring::RegisterOwnRings(Task& task, uint64_t argument, uint32_t count) {
  if (count == 0 || count > kMaxOwnRings) return Errno(EINVAL);
  std::erase_if(AllOwnRings(), [](const auto& entry) { return entry.second.stale(); });
  OwnRings& own = AllOwnRings()[&task];
  if (!own.task) {
    own.task = RefPtr<Task>(&task);
    own.space.Watch(&task.mm());
  }
  for (uint32_t i = 0; i < count; ++i) {
    UserPtr<OwnRingUpdate> at(argument + i * sizeof(OwnRingUpdate));
    auto one = [&]() -> ErrnoOr<void> {
      auto u = TRY(task.CopyIn(UserPtr<const OwnRingUpdate>(at.address())));
      bool anywhere = u.offset == UINT32_MAX;
      if (u.reserved != 0 || (!anywhere && u.offset >= kMaxOwnRings)) return Errno(EINVAL);
      RefPtr<IoUring> ring = TRY(Find(task, static_cast<int>(u.data), false));
      auto from = own.rings.begin() + (anywhere ? 0 : u.offset), to = anywhere ? own.rings.end() : from + 1;
      auto free = std::find(from, to, nullptr);
      if (free == to) return Errno(EBUSY);
      u.offset = static_cast<uint32_t>(free - own.rings.begin());
      TRY(task.CopyOut(at, u));
      *free = ring.get();
      return Ok();
    };
    if (auto done = one(); !done.ok()) return i > 0 ? ErrnoOr<uint64_t>(uint64_t{i}) : done.error();
  }
  return count;
}

ErrnoOr<uint64_t> IoUring::UnregisterOwnRings(Task& task, uint64_t argument, uint32_t count) {
  if (count == 0 || count > kMaxOwnRings) return Errno(EINVAL);
  OwnRings* own = OwnRingsOf(task);
  if (own == nullptr) return 0;
  for (uint32_t i = 0; i < count; ++i) {
    auto u = task.CopyIn(UserPtr<const OwnRingUpdate>(argument + i * sizeof(OwnRingUpdate)));
    bool good = u.ok() && u->reserved == 0 && u->data == 0 && u->offset < kMaxOwnRings;
    if (!good && i > 0) return i;
    if (!good) return u.ok() ? Errno(EINVAL) : u.error();
    own->rings[u->offset] = nullptr;
  }
  return count;
}

void IoUring::ForEachOwner(const std::function<void(const RefPtr<Task>&, uint32_t)>& visit) const {
  for (const auto& [task, own] : AllOwnRings()) {
    if (own.stale()) continue;
    for (uint32_t i = 0; i < kMaxOwnRings; ++i) {
      if (own.rings[i] == this) visit(own.task, i);
    }
  }
}

void IoUring::AddOwner(RefPtr<Task> task, uint32_t index) {
  if (!task->has_mm()) return;
  OwnRings& own = AllOwnRings()[task.get()];
  if (!own.task) own.space.Watch(&task->mm());
  own.task = std::move(task);
  own.rings[index] = this;
}

// --- messages between rings (io_uring/msg_ring.c) ---

ErrnoOr<uint64_t> IoUring::TakeMessage(Task& task, const io_uring_sqe& sqe, IoUring* from) {
  uint32_t flags = static_cast<uint32_t>(sqe.rw_flags);
  if (sqe.buf_index != 0 || sqe.personality != 0 || (flags & ~(kMessageSkip | kMessagePassFlags)) != 0) return Errno(EINVAL);
  switch (sqe.addr) {
    case kMessageData:
      if (sqe.addr3 != 0 || (flags & ~kMessagePassFlags) != 0 || ((flags & kMessagePassFlags) == 0 && sqe.file_index != 0)) return Errno(EINVAL);
      if (disabled()) return Errno(EBADFD);
      PostAside(sqe.off, static_cast<int32_t>(sqe.len), (flags & kMessagePassFlags) != 0 ? sqe.file_index : 0);
      return uint64_t{0};
    case kMessageFile: {
      if (sqe.len != 0 || from == nullptr || from == this) return Errno(EINVAL);
      if (disabled()) return Errno(EBADFD);
      RefPtr<File> file = sqe.addr3 <= UINT32_MAX ? from->FixedFile(static_cast<uint32_t>(sqe.addr3)) : nullptr;
      if (!file) return Errno(EBADF);
      if (sqe.file_index == 0) return Errno(EINVAL);
      uint64_t slot = TRY(Install(std::move(file), sqe.file_index));
      if ((flags & kMessageSkip) == 0) PostAside(sqe.off, static_cast<int32_t>(slot), 0);
      return slot;
    }
    default: (void)task; return Errno(EINVAL);
  }
}

// io_uring_register(2) without a ring of one's own.
ErrnoOr<uint64_t> IoUring::RegisterBlind(Task& task, uint32_t what, uint64_t argument, uint32_t count) {
  if (what != kRegisterSendMessage) return Errno(EINVAL);
  if (argument == 0 || count != 1) return Errno(EINVAL);
  auto sqe = TRY(task.CopyIn(UserPtr<const io_uring_sqe>(argument)));
  if (sqe.flags != 0 || sqe.opcode != IORING_OP_MSG_RING) return Errno(EINVAL);
  if (sqe.addr != kMessageData) return Errno(EINVAL);
  RefPtr<File> file = TRY(task.files().Get(sqe.fd));
  IoUring* ring = From(*file);
  if (ring == nullptr) return Errno(EBADFD);
  return ring->TakeMessage(task, sqe, nullptr);
}

}  // namespace amber
