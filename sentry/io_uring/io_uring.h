// io_uring(7): an open ring (io_uring/io_uring.c of Linux).
//
// A submission becomes a Request (request.h), which is tried at once and waits for what it needs if it must. Requests belong to the ring; each
// keeps the task that submitted it, and is cancelled when that is gone. A ring's end cancels all. Guarded by the kernel lock.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <vector>

#include "sentry/io_uring/provided_buffers.h"
#include "sentry/io_uring/request.h"
#include "sentry/io_uring/ring_memory.h"
#include "sentry/kernel/wait_queue.h"
#include "sentry/vfs/file.h"

namespace amber {

class EventFd;
namespace proto {
class IoChain;
}

class IoUring final : public File {
 public:
  static constexpr uint32_t kMaxEntries = 32768, kMaxRequests = 65536, kMaxBuffers = 1 << 14, kMaxFiles = 1 << 15;

  IoUring() = default;  // for Loader
  ~IoUring() override;
  // io_uring_setup(2): fills in what the program is to know.
  static ErrnoOr<RefPtr<IoUring>> Create(Task& task, uint32_t entries, io_uring_params* params);
  static IoUring* From(File& file) { return dynamic_cast<IoUring*>(&file); }

  // Takes up to `count` submissions; how many were taken. EAGAIN if too many are under way.
  ErrnoOr<uint32_t> Submit(Task& task, uint32_t count);
  // Completions that the program has not taken.
  uint32_t Ready() const;
  // Puts completions into the ring that found it full.
  void FlushOverflow();
  bool overflown() const { return !overflow_.empty(); }
  bool disabled() const { return (setup_flags_ & IORING_SETUP_R_DISABLED) != 0; }
  uint32_t completions() const { return memory_.completions(); }
  // io_uring_register(2).
  ErrnoOr<uint64_t> Register(Task& task, uint32_t what, uint64_t argument, uint32_t count);

  // --- for requests ---
  void Complete(Request& request, int32_t result);
  // A completion after which the request goes on. False if there is no room for it: then it is the last.
  bool PostMore(Request& request, int32_t result);
  // ASYNC_CANCEL, POLL_REMOVE: 0, ENOENT, EALREADY; with IORING_ASYNC_CANCEL_ALL how many.
  int32_t Cancel(const Request& by, uint64_t user_data, int fd, uint32_t flags, int opcode);
  Request* FindPending(uint64_t user_data, int opcode);
  // The registered file or buffer with that index, or null.
  RefPtr<File> FixedFile(uint32_t index) const;
  const iovec* FixedBuffer(uint32_t index) const;
  // Puts `file` into slot `number` - 1, or a free one for IORING_FILE_INDEX_ALLOC, whose index is the result. ENXIO, EINVAL, ENFILE.
  ErrnoOr<uint64_t> Install(RefPtr<File> file, uint32_t number);
  // Empties slot `number` - 1. ENXIO, EINVAL, EBADF.
  ErrnoOr<void> Uninstall(uint32_t number);
  // FILES_UPDATE: the descriptors at `fds` for the slots from `offset` on, or, for IORING_FILE_INDEX_ALLOC, free ones, which are told there.
  ErrnoOr<uint64_t> UpdateFiles(Task& task, uint64_t fds, uint32_t count, uint32_t offset);
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
  void SetSlot(uint32_t index, RefPtr<File> file);
  ErrnoOr<void> CheckNewTable(Task& task, uint32_t count) const;
  void SetTable(std::vector<RefPtr<File>> files);
  ErrnoOr<uint64_t> RegisterFiles(Task& task, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> RegisterFilesWithTags(Task& task, uint64_t argument, uint32_t size);
  ErrnoOr<uint64_t> UpdateFiles(Task& task, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> RegisterBuffers(Task& task, uint64_t argument, uint32_t count);
  ErrnoOr<uint64_t> RegisterEventFd(Task& task, uint64_t argument, bool async);
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
  uint32_t slot_hint_ = 0;  // where the search for a free one begins
  std::vector<iovec> buffers_;
  ProvidedBuffers provided_;
  RefPtr<File> event_fd_;
  bool event_async_ = false;
  bool files_registered_ = false, buffers_registered_ = false;
  WaitQueue queue_;
};

}  // namespace amber
