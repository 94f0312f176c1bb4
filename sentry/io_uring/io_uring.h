// io_uring(7): an open ring (io_uring/io_uring.c of Linux).
//
// A submission becomes a Request (request.h), which is tried at once and waits for what it needs if it must. Requests belong to the ring; each
// keeps the task that submitted it, and is cancelled when that is gone. A ring's end cancels all. Guarded by the kernel lock.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <bitset>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sentry/io_uring/abi.h"
#include "sentry/io_uring/provided_buffers.h"
#include "sentry/io_uring/request.h"
#include "sentry/io_uring/ring_memory.h"
#include "sentry/kernel/clock.h"
#include "sentry/kernel/credentials.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/mm/memory_owner.h"
#include "sentry/vfs/file.h"

namespace amber {

class EventFd;
namespace proto {
class IoChain;
class IoUring;
}  // namespace proto

class IoUring final : public File {
 public:
  static constexpr uint32_t kMaxEntries = 32768, kMaxRequests = 65536, kMaxBuffers = 1 << 14, kMaxFiles = 1 << 15, kMaxOwnRings = 16;

  IoUring() = default;  // for Loader
  ~IoUring() override;
  // io_uring_setup(2): fills in what the program is to know.
  static ErrnoOr<RefPtr<IoUring>> Create(Task& task, uint32_t entries, io_uring_params* params);
  static IoUring* From(File& file) { return dynamic_cast<IoUring*>(&file); }
  // The ring behind a descriptor, or the one that the thread has registered with itself by that number. EBADF, EOPNOTSUPP, EINVAL.
  static ErrnoOr<RefPtr<IoUring>> Find(Task& task, int fd, bool registered);

  // Takes up to `count` submissions; how many were taken. EAGAIN if too many are under way.
  // `longest`: it takes no new chain after that time, ns.
  ErrnoOr<uint32_t> Submit(Task& task, uint32_t count, int64_t longest = kLongestSubmit);
  // Somebody is to look for submissions without being told (IORING_SETUP_SQPOLL).
  bool polls() const { return (setup_flags_ & IORING_SETUP_SQPOLL) != 0; }
  // Has that one take what there is. EOWNERDEAD if its process is gone.
  ErrnoOr<void> WakePoller();
  // Of absolute time-outs: CLOCK_*.
  int clock() const { return clock_; }
  // Has `task`, which is in a call, do what requests need a thread of the program for; the call is executed again after that. Ok: there is nothing.
  ErrnoOr<void> Serve(Task& task);
  // Completions that the program has not taken.
  uint32_t Ready() const;
  // Puts completions into the ring that found it full.
  void FlushOverflow();
  bool overflown() const { return !overflow_.empty(); }
  bool disabled() const { return (setup_flags_ & IORING_SETUP_R_DISABLED) != 0; }
  uint32_t completions() const { return memory_.completions(); }
  // io_uring_register(2).
  ErrnoOr<uint64_t> Register(Task& task, uint32_t what, uint64_t argument, uint32_t count);
  // The same without a ring.
  static ErrnoOr<uint64_t> RegisterBlind(Task& task, uint32_t what, uint64_t argument, uint32_t count);

  // --- for requests ---
  void Complete(Request& request, int32_t result);
  // A completion after which the request goes on. False if there is no room for it: then it is the last.
  bool PostMore(Request& request, int32_t result);
  // A request uses what has that tag, until it is complete. 0: none.
  void UseTag(uint64_t tag);
  void DropTag(uint64_t tag);
  // A thread of its address space is there that can do it: the next operations are its.
  bool serves(const Task& helper) const;
  // Whoever waits in a call is to serve.
  void AskForThread();
  void SetErrand(std::function<void(Task& thread)> errand) { errand_ = std::move(errand); }
  // A completion of no request of this ring's.
  void PostAside(uint64_t user_data, int32_t result, uint32_t flags);
  // ASYNC_CANCEL, POLL_REMOVE: 0, ENOENT; with IORING_ASYNC_CANCEL_ALL how many. `file`: for IORING_ASYNC_CANCEL_FD; `opcode`: -1 for any.
  int32_t Cancel(const Request* by, uint64_t user_data, const RefPtr<File>& file, uint32_t flags, int opcode);
  // A submission that a restriction forbids.
  bool Allows(const io_uring_sqe& sqe) const;
  RefPtr<const Credentials> Personality(uint16_t id) const;
  RefPtr<const Credentials> poller_creds() const { return poller_creds_; }
  // MSG_RING to this ring; `from` has the file that it may send.
  ErrnoOr<uint64_t> TakeMessage(Task& task, const io_uring_sqe& sqe, IoUring* from);
  Request* FindPending(uint64_t user_data, int opcode);
  // The registered file or buffer with that index, or null.
  RefPtr<File> FixedFile(uint32_t index) const;
  const iovec* FixedBuffer(uint32_t index) const;
  // What is told when the file or buffer is free again; 0: nothing.
  uint64_t FileTag(uint32_t index) const { return file_tags_[index]; }
  uint64_t BufferTag(uint32_t index) const { return buffers_[index].tag; }
  // Puts `file` into slot `number` - 1, or a free one for IORING_FILE_INDEX_ALLOC, whose index is the result. ENXIO, EINVAL, ENFILE.
  ErrnoOr<uint64_t> Install(RefPtr<File> file, uint32_t number);
  // Empties slot `number` - 1. ENXIO, EINVAL, EBADF.
  ErrnoOr<void> Uninstall(uint32_t number);
  // FILES_UPDATE: the descriptors at `fds` for the slots from `offset` on, or, for IORING_FILE_INDEX_ALLOC, free ones, which are told there.
  ErrnoOr<uint64_t> UpdateFiles(Task& task, uint64_t fds, uint32_t count, uint32_t offset, uint64_t tags = 0);
  ProvidedBuffers& buffers() { return provided_; }
  // A TIMEOUT waits for completions: its count_target().
  void CountFor(Request& request) { counting_.emplace(request.count_target(), &request); }
  // Completions posted so far but for those of time-outs, which count them.
  uint64_t posted() const { return posted_; }
  static bool Supports(uint8_t opcode);

  ErrnoOr<MapSource> Map(Task& task, uint64_t offset, uint64_t size, int prot, bool shared) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[io_uring]"; }

  state::Kind kind() const override { return state::Kind::kIoUring; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  static constexpr int64_t kLongestSubmit = 100'000'000, kLongestPoll = 2'000'000, kLongestPollDelay = 10'000'000;  // ns
  // Of all rings: each has a task's state (Linux charges them to the memory control group).
  static constexpr size_t kMaxAllRequests = 1 << 18;
  static inline size_t all_requests_ = 0;  // kernel lock
  // One submission: false if it was malformed, which ends a batch (but for IORING_SETUP_SUBMIT_ALL).
  bool SubmitOne(Task& task, const io_uring_sqe& sqe);
  void SubmitChain();
  // A request, or the first of a chain: begins, unless it has to wait for those before it.
  void Take(RefPtr<Request> head);
  // Begins what is due: not by recursion, for chains are as long as programs make them, and for a while only: what is left goes on later.
  void Work();
  void WorkLater(Kernel& kernel, int64_t delay);
  void AddPending(RefPtr<Request> request);
  void ForgetCount(Request& request);
  bool CountReached() const { return !counting_.empty() && counting_.begin()->first <= posted_; }
  void Begin(RefPtr<Request> request);
  void BeginDeferred();
  void Post(const io_uring_cqe& cqe);
  void CheckCounts();
  void SetSlot(uint32_t index, RefPtr<File> file, uint64_t tag = 0);
  // A file or buffer with that tag is registered no more: told once no request uses it.
  void Release(uint64_t tag);
  ErrnoOr<void> CheckNewTable(Task& task, uint32_t count) const;
  ErrnoOr<uint64_t> RegisterFiles(Task& task, uint64_t argument, uint32_t count, uint64_t tags = 0, bool sparse = false);
  ErrnoOr<uint64_t> UnregisterFiles();
  ErrnoOr<uint64_t> UpdateFiles(Task& task, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> RegisterBuffers(Task& task, uint64_t argument, uint32_t count, uint64_t tags = 0);
  ErrnoOr<uint64_t> UnregisterBuffers();
  ErrnoOr<uint64_t> UpdateBuffers(Task& task, uint64_t data, uint32_t count, uint32_t offset, uint64_t tags);
  ErrnoOr<uint64_t> CloneBuffers(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> RegisterWithTags(Task& task, bool files, uint64_t argument, uint32_t size);
  ErrnoOr<uint64_t> UpdateWithTags(Task& task, bool files, uint64_t argument, uint32_t size);
  ErrnoOr<uint64_t> RegisterPersonality(Task& task);
  ErrnoOr<uint64_t> UnregisterPersonality(uint32_t id);
  ErrnoOr<uint64_t> RegisterRestrictions(Task& task, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> RegisterMore(Task& task, uint32_t what, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> SetWorkers(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> CancelNow(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> SetAllocRange(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> SetClock(Task& task, uint64_t argument);
  static ErrnoOr<uint64_t> RegisterOwnRings(Task& task, uint64_t argument, uint32_t count);
  static ErrnoOr<uint64_t> UnregisterOwnRings(Task& task, uint64_t argument, uint32_t count);
  // The threads that have registered this ring with themselves, and by which numbers.
  void ForEachOwner(const std::function<void(const RefPtr<Task>&, uint32_t)>& visit) const;
  void AddOwner(RefPtr<Task> task, uint32_t index);
  static RingMemory::Shape ShapeOf(uint32_t setup_flags);
  // Who submits what is polled for: the maker of the ring, or another thread of its process; null if that is gone.
  Task* Poller() const;
  void PollLater(Kernel& kernel);
  ErrnoOr<uint64_t> RegisterEventFd(Task& task, uint64_t argument, bool async);
  void SaveRegistered(state::Saver& saver, proto::IoUring* out) const;
  bool LoadRegistered(state::Loader& loader, const proto::IoUring& in);
  bool LoadRestrictions(const std::string& text);
  RefPtr<Request> LoadChain(state::Loader& loader, const proto::IoChain& in, bool waits);
  ErrnoOr<uint64_t> Probe(Task& task, uint64_t argument, uint32_t count);

  RingMemory memory_;
  uint32_t setup_flags_ = 0;
  uint32_t sq_head_ = 0, cq_tail_ = 0;  // ours; the program sees copies
  uint64_t posted_ = 0;
  struct Due {
    RefPtr<Request> request;
    int32_t failure;  // 0: it is to begin
    bool reached;     // a time-out whose count is reached
  };
  std::deque<Due> due_;  // of those that are to begin alone, while nobody works
  bool working_ = false, submitting_ = false;
  Task* serving_ = nullptr;  // a thread that does now what needs one
  std::function<void(Task& thread)> errand_;
  std::unique_ptr<Timer> timer_;                // goes on with them
  size_t requests_ = 0;                         // that are not complete
  std::list<RefPtr<Request>> pending_;          // begun, and waiting
  std::multimap<uint64_t, Request*> counting_;  // those of them that wait for a number of completions, by that
  std::deque<RefPtr<Request>> deferred_;        // behind one with IOSQE_IO_DRAIN
  Request* barrier_ = nullptr;                  // such a one, under way
  std::vector<RefPtr<Request>> chain_;          // links that are being submitted
  bool chain_failed_ = false;
  std::deque<io_uring_cqe> overflow_;
  std::vector<RefPtr<File>> files_;
  std::vector<uint64_t> file_tags_;         // as many
  uint32_t slot_hint_ = 0;                  // where the search for a free one begins
  uint32_t alloc_from_ = 0, alloc_to_ = 0;  // and where it goes on
  struct FixedBufferSlot {
    iovec range;
    uint64_t tag;
  };
  std::vector<FixedBufferSlot> buffers_;
  // Requests that use what has a tag, and how often that is to be told when the last is complete.
  struct TagUse {
    uint32_t users = 0, waiting = 0;
  };
  std::unordered_map<uint64_t, TagUse> tag_uses_;
  std::vector<uint64_t> loaded_releasing_;  // until all is loaded
  std::map<uint16_t, RefPtr<const Credentials>> personalities_;
  uint32_t last_personality_ = 0;
  struct Restrictions {
    bool registered = false;
    std::bitset<kRegisterLast> registers;
    std::bitset<kOpLast> operations;
    uint8_t allowed = 0, required = 0;
  };
  Restrictions restrictions_;  // in force once the ring is enabled
  uint32_t workers_[2] = {};   // 0: as Linux would begin
  int clock_ = 1;              // CLOCK_MONOTONIC
  RefPtr<Task> poller_;
  MemoryWatch poller_space_;  // what the poller does is done there; after an exec nobody polls
  int64_t poll_delay_ = 0;
  RefPtr<const Credentials> poller_creds_;
  std::unique_ptr<Timer> poll_timer_;
  std::vector<std::pair<RefPtr<Task>, uint32_t>> loaded_owners_;  // until all is loaded
  ProvidedBuffers provided_;
  RefPtr<File> event_fd_;
  bool event_async_ = false;
  bool files_registered_ = false, buffers_registered_ = false;
  WaitQueue queue_;
};

}  // namespace amber
