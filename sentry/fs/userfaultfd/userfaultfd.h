// Page faults told to the guest (userfaultfd(2), fs/userfaultfd.c of Linux).
//
// The host does it: behind each of these is a userfaultfd of the host's, made by the stub itself and fetched from there. A guest thread that faults
// waits in the host's kernel, and goes on when a page has come; no kick and no answer of ours is involved. What is checked here is what
// the guest may name, what is translated are its messages' thread ids. The host's descriptor is UFFD_USER_MODE_ONLY whatever the guest has: the
// sentry's own copies to and from missing pages fail with EFAULT, and never wait.
//
// Guarded by the kernel lock.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "sentry/base/unique_fd.h"
#include "sentry/fs/host/host_poll.h"
#include "sentry/mm/userfault.h"
#include "sentry/vfs/file.h"

namespace amber {

class Kernel;
class MemoryManager;

inline constexpr state::Kind kUserfaultFdKind = static_cast<state::Kind>(185);

class UserfaultFd final : public File, public UserfaultContext {
 public:
  UserfaultFd() = default;  // for Load()
  // `fd`: the host's, from Fetch(). `flags`: O_NONBLOCK or 0.
  static ErrnoOr<RefPtr<UserfaultFd>> Make(Task& task, UniqueFd fd, int flags);
  ~UserfaultFd() override;

  // The host call that makes one in a stub, and the descriptor that it has made there.
  static platform::StubOp MakeOp();
  static ErrnoOr<UniqueFd> Fetch(Task& task, int number);

  ErrnoOr<size_t> Read(Task& task, Sink& sink) override;
  ErrnoOr<uint64_t> Ioctl(Task& task, uint32_t command, uint64_t argument) override;
  ErrnoOr<void> Stat(Task& task, struct stat* out) override;
  uint32_t Poll(Task& task) override;
  WaitQueue* wait_queue() override { return &queue_; }
  bool pollable() const override { return true; }
  std::string LinkName() const override { return "anon_inode:[userfaultfd]"; }

  // UserfaultContext
  void OnMemoryGone() override;
  ErrnoOr<void> MakeAgain(Task& task, const RunOp& run) override;

  state::Kind kind() const override { return kUserfaultFdKind; }
  std::string Save(state::Saver& saver) const override;
  bool Load(state::Loader& loader, std::string_view bytes) override;
  bool AfterLoad(state::Loader& loader) override;

 private:
  static bool KnowsFeatures(uint64_t features);
  using Range = std::pair<uint64_t, uint64_t>;

  ErrnoOr<uint64_t> Api(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> Register(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> Unregister(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> Wake(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> Copy(Task& task, uint64_t argument);
  ErrnoOr<uint64_t> WriteProtect(Task& task, uint64_t argument);
  // UFFDIO_ZEROPAGE and UFFDIO_CONTINUE, whose arguments are alike.
  ErrnoOr<uint64_t> Fill(Task& task, uint32_t command, uint64_t argument);
  // EINVAL unless [start, start + size) is whole pages of the guest's part of the address space.
  ErrnoOr<void> CheckRange(uint64_t start, uint64_t size) const;
  // Has the host do `work` piece by piece (it returns the bytes done, or -errno); the result as the guest sees it is written to `result`.
  ErrnoOr<uint64_t> InPieces(Task& task, uint64_t size, uint64_t result, bool unlocked,
                             const std::function<int64_t(uint64_t at, uint64_t size)>& work);
  // The mappings that are registered here.
  std::vector<Range> Marked() const;
  void Unmark(uint64_t start, uint64_t end);
  uint32_t mark() const { return number_ << kUffdShift; }

  UniqueFd fd_;  // none after a restore if the memory was gone before
  MemoryManager* mm_ = nullptr;
  uint32_t number_ = 0;
  bool initialized_ = false;
  uint64_t features_ = 0;
  std::vector<Range> protected_;  // from an image: what was write-protected
  Kernel* kernel_ = nullptr;
  WaitQueue queue_;
  HostPoll::Source poll_source_{queue_};
};

}  // namespace amber
